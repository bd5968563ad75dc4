"""A torch module of one's own as a trace: run once on tensors without storage, its layers found afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from archsim._version import __version__
from archsim.errors import InputError, did_you_mean
from archsim.trace.exporter.library import LIBRARY
from archsim.trace.exporter.model import HINTS, new_symbol
from archsim.trace.exporter.modules import instrument
from archsim.trace.exporter.recorder import Recorder
from archsim.trace.importers.fold import fold
from archsim.trace.trace import PHASES, Trace
from archsim.trace.training import training_step

__all__ = ["capture_module"]

_AXES = ("batch", "seq")


def capture_module(
    name: str, module: Any, examples: tuple[Any, ...], phase: str, axes: Sequence[Mapping[int, str]]
) -> Trace:
    """See `archsim.trace.capture`."""
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"{name}: a torch module or a Hugging Face configuration is needed, not {type(module)}")
    if phase not in ("prefill", "train"):
        raise InputError(f"{name}: the phase of a module of one's own is prefill (its forward pass) or train")
    _check_axes(name, examples, axes)
    shapes = ShapeEnv()
    fake = FakeTensorMode(shape_env=shapes)
    sizes = {symbol: new_symbol(fake, HINTS[symbol]) for symbol in _AXES if any(symbol in a.values() for a in axes)}
    with fake, torch.no_grad(), _untouched(module):
        batch, seq = sizes.get("batch", 1), sizes.get("seq", 1)
        recorder = Recorder(LIBRARY, batch, seq, seq)
        inputs = [_like(example, dict(axis), sizes) for example, axis in _paired(examples, axes)]
        weights = _weightless(module, recorder)
        for i, tensor in enumerate(inputs):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                recorder.add_tensor(tensor, f"input.{i}", "constant")
        instrument(module, recorder, own=True)
        with recorder:
            torch.func.functional_call(module, weights, tuple(inputs), tie_weights=True)
    if shapes.guards:
        raise InputError(f"{name}: its shapes hold only where {shapes.guards[0].expr} ({sizes})")
    tensors, ops = recorder.specs(sizes)
    if not ops:
        raise InputError(f"{name}: it computes nothing that the exporter records")
    read = {i for op in ops for i in op.inputs}
    unread = [tensor.name for i, tensor in enumerate(tensors) if tensor.role == "weight" and i not in read]
    if unread:
        raise InputError(f"{name}: no recorded operator reads the weights {unread}")
    kept, blocks = fold(tensors, ops)
    fixed = {symbol: 0 if symbol == "ctx" else 1 for symbol in PHASES["prefill"] if symbol not in sizes}
    producer = {"archsim": __version__, "torch": torch.__version__}
    forward = Trace(name, "prefill", {"model_type": type(module).__name__}, kept, blocks, producer, fixed)
    return training_step(forward) if phase == "train" else forward


def _check_axes(name: str, examples: tuple[Any, ...], axes: Sequence[Mapping[int, str]]) -> None:
    if not any(isinstance(example, torch.Tensor) for example in examples):
        raise InputError(f"{name}: example_inputs holds no tensor; a module runs on what its forward takes")
    if len(axes) > len(examples):
        raise InputError(f"{name}: axes describes {len(axes)} inputs, but there are {len(examples)}")
    for i, (example, named) in enumerate(_paired(examples, axes)):
        for axis, symbol in named.items():
            if symbol not in _AXES:
                hint = did_you_mean(str(symbol), _AXES)
                raise InputError(f"{name}: axes of input {i}: '{symbol}' is not batch or seq{hint}")
            if not isinstance(example, torch.Tensor) or not 0 <= axis < example.ndim:
                raise InputError(f"{name}: axes of input {i}: it has no axis {axis}")


def _paired(examples: tuple[Any, ...], axes: Sequence[Mapping[int, str]]) -> list[tuple[Any, Mapping[int, str]]]:
    return list(zip(examples, [*axes, *[{}] * (len(examples) - len(axes))], strict=True))


def _like(example: Any, named: dict[int, str], sizes: dict[str, Any]) -> Any:
    """A tensor without storage like the example, with symbols for its named axes."""
    if not isinstance(example, torch.Tensor):
        return example
    shape = [sizes[named[i]] if i in named else int(n) for i, n in enumerate(example.shape)]
    return torch.empty(shape, dtype=example.dtype)


def _weightless(module: torch.nn.Module, recorder: Recorder) -> dict[str, Any]:
    """Parameters and buffers without storage, by name; what the module shares stays shared."""
    weights: dict[str, Any] = {}
    for path, parameter in module.named_parameters():
        weights[path] = torch.nn.Parameter(torch.empty(tuple(parameter.shape), dtype=parameter.dtype))
        recorder.add_tensor(weights[path], path, "weight")
    for path, buffer in module.named_buffers():
        weights[path] = torch.empty(tuple(buffer.shape), dtype=buffer.dtype)
    return weights


@contextmanager
def _untouched(module: torch.nn.Module) -> Iterator[None]:
    """While open the module may be instrumented and is in evaluation mode; afterwards it is as it was."""
    before = [(part, part.training, part.__dict__.get("forward")) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training, forward in before:
            part.training = training
            part.__dict__.pop("forward", None)
            if forward is not None:
                part.__dict__["forward"] = forward
