"""From a Hugging Face configuration to a trace: build the model without storage, run it, cut it into blocks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from archsim._version import __version__
from archsim.errors import InputError, did_you_mean
from archsim.trace.exporter.functions import HANDLERS
from archsim.trace.exporter.mla import absorb
from archsim.trace.exporter.modules import (
    NoCache,
    RecordingCache,
    attention_function,
    experts_function,
    instrument,
    layer_index,
    relative,
    rotary_function,
)
from archsim.trace.exporter.recorder import Recorder
from archsim.trace.mtp import with_mtp
from archsim.trace.trace import PHASES, BlockSpec, OpSpec, TensorSpec, Trace
from archsim.trace.training import training_step

__all__ = ["HINTS", "capture_model", "new_symbol"]

# Sizes that torch computes with while the symbols stand for any: distinct primes, so that none is mistaken for another
# or for 0 or 1, which torch would treat as fixed.
HINTS = {"batch": 7, "seq": 131, "ctx": 1021}
_IMPLEMENTATION = "archsim"
_LAYER_LISTS = ("layers", "h")


@dataclass(frozen=True)
class _Run:
    """Layers that follow one another `repeat` times: one kind, or several that alternate."""

    block: str
    repeat: int
    modules: tuple[torch.nn.Module, ...]

    def prefix(self, position: int) -> str:
        """What tells the layers of one block apart: "0.", "1.", ...; nothing where it has only one."""
        return f"{position}." if len(self.modules) > 1 else ""


def capture_model(name: str, config: dict[str, Any], phase: str, mtp: bool, collapse: bool) -> Trace:
    """See `archsim.trace.capture`."""
    if phase not in PHASES:
        raise InputError(f"unknown phase '{phase}'{did_you_mean(phase, PHASES)}; it is one of {', '.join(PHASES)}")
    shapes = ShapeEnv()
    fake = FakeTensorMode(shape_env=shapes)
    sizes = {symbol: new_symbol(fake, HINTS[symbol]) for symbol in PHASES[phase]}
    with fake, torch.no_grad():
        batch, seq, cached = sizes["batch"], sizes["seq"], sizes.get("ctx", 0)
        recorder = Recorder(HANDLERS, batch, seq, cached + seq)
        model = _build(config, recorder)
        total = sum(parameter.numel() for parameter in model.parameters())
        runs = _runs(model, collapse)
        _replace_layers(model, [module for run in runs for module in run.modules])
        latent = [module for module in model.modules() if hasattr(module, "kv_b_proj")]
        absorbed = [module for module in latent if phase == "decode" or hasattr(module, "indexer")]
        for module in absorbed:
            absorb(module)
        kind = RecordingCache if phase != "train" else NoCache
        cache = kind(recorder, cached, latent=bool(latent))
        weights = _track_weights(model, runs, recorder)
        if sum(weights) != total:
            raise InputError(f"{name}: the blocks hold {sum(weights)} parameters, the model {total}")
        try:
            spans = _step(model, runs, recorder, cache, phase)
        except InputError:
            raise
        except Exception as error:  # a cache of another kind, control flow on values, ...
            what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise InputError(f"{name}: its code does not run without weights, layer by layer ({what})") from error
    if shapes.guards:
        raise InputError(f"{name}: its shapes hold only where {shapes.guards[0].expr} ({sizes})")
    tensors, ops = recorder.specs(sizes)
    read = {i for op in ops for i in op.inputs}
    unread = [tensor.name for i, tensor in enumerate(tensors) if tensor.role == "weight" and i not in read]
    if unread:
        raise InputError(f"{name}: the exporter lost what the weights {unread} do")
    producer = {"archsim": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    blocks = _blocks(runs, spans, ops)
    # A training step is derived from its forward pass, which costs the same everywhere as a prefill without a cache.
    made = "prefill" if phase == "train" else phase
    fixed = {"ctx": 0} if phase == "train" else {}
    forward = _compact(Trace(name, made, config, tuple(tensors), tuple(blocks), producer, fixed))
    forward = with_mtp(forward) if mtp else forward
    return training_step(forward) if phase == "train" else forward


def _build(config: dict[str, Any], recorder: Recorder) -> Any:
    """The model of `config` with archsim's attention and experts, in bf16."""
    ALL_ATTENTION_FUNCTIONS.register(_IMPLEMENTATION, attention_function(recorder))
    ALL_EXPERTS_FUNCTIONS.register(_IMPLEMENTATION, experts_function(recorder))
    # Deployed quantisation is an overlay on the trace (archsim.trace.quantised); "_source" is ours.
    plain = {key: value for key, value in config.items() if key != "quantization_config" and not key.startswith("_")}
    try:
        settings = AutoConfig.for_model(**plain)
        model = AutoModelForCausalLM.from_config(
            settings, dtype=torch.bfloat16, attn_implementation=_IMPLEMENTATION, experts_implementation=_IMPLEMENTATION
        )
    except Exception as error:  # transformers has many ways to refuse a configuration
        reason = " ".join(str(error).split())
        raise InputError(f"transformers {transformers.__version__} cannot build this config: {reason}") from error
    if not any(hasattr(model.base_model, name) for name in _LAYER_LISTS):
        raise InputError(f"{type(model).__name__} is not a decoder-only model with a list of layers")
    return model.eval()


def _layers(model: Any) -> Any:
    return next(getattr(model.base_model, name) for name in _LAYER_LISTS if hasattr(model.base_model, name))


def _replace_layers(model: Any, modules: list[torch.nn.Module]) -> None:
    name = next(name for name in _LAYER_LISTS if hasattr(model.base_model, name))
    setattr(model.base_model, name, torch.nn.ModuleList(modules))


def _runs(model: Any, collapse: bool) -> list[_Run]:
    """Cut the layers into runs that repeat: layers are equal that have equal parameters and kinds of attention."""
    modules = list(_layers(model))
    kinds = getattr(model.config, "layer_types", None) or [""] * len(modules)
    structures = [
        (type(module).__name__, kind, tuple((key, tuple(value.shape)) for key, value in module.named_parameters()))
        for module, kind in zip(modules, kinds, strict=True)
    ]
    runs: list[_Run] = []
    names: dict[str, int] = {}
    first = 0
    while first < len(modules):
        period, repeat = _period(structures[first:]) if collapse else (1, 1)
        members = modules[first : first + period]
        routed = any(type(part).__name__.endswith("Experts") for module in members for part in module.modules())
        block = "layer" if len({s[0::2] for s in structures}) == 1 else "moe" if routed else "dense"
        names[block] = names.get(block, 0) + 1
        runs.append(_Run(block if names[block] == 1 else f"{block}_{names[block]}", repeat, tuple(members)))
        first += period * repeat
    return runs


def _period(structures: Sequence[Any]) -> tuple[int, int]:
    """The shortest period at the start that repeats over the most layers, and how often it does.

    >>> _period("aaabbb"), _period("ababab"), _period("abbbb")
    ((1, 3), (2, 3), (1, 1))
    """
    best = (1, 1)
    for period in range(1, len(structures) // 2 + 1):
        repeat = 1
        while structures[repeat * period : (repeat + 1) * period] == structures[:period]:
            repeat += 1
        if repeat > 1 and period * repeat > best[0] * best[1]:
            best = (period, repeat)
    return best


def _track_weights(model: Any, runs: list[_Run], recorder: Recorder) -> list[int]:
    """Tell the recorder the weights; return the elements of each in the whole model."""
    places = [(run, position) for run in runs for position in range(len(run.modules))]
    counts = []
    for path, parameter in model.named_parameters():
        index = layer_index(path)
        run, position = (None, 0) if index is None else places[index]
        recorder.block = run.block if run else ""
        recorder.add_tensor(parameter, (run.prefix(position) if run else "") + relative(path), "weight")
        counts.append(parameter.numel() * (run.repeat if run else 1))
    return counts


def _step(model: Any, runs: list[_Run], recorder: Recorder, cache: RecordingCache, phase: str) -> list[slice]:
    """One step of the model under the recorder; returns the operators of each layer.

    A prefill needs the logits of the last token, a decode step those of every token that it verifies, training all.
    """
    spans: list[slice] = []
    instrument(model, recorder)
    for run in runs:
        for position, module in enumerate(run.modules):
            module.forward = _spanning(
                recorder, module.forward, f"{run.block}.{run.prefix(position)}".strip("."), spans
            )
    recorder.block = ""
    tokens = torch.empty((recorder.batch, recorder.seq), dtype=torch.long)
    positions = torch.empty((1, recorder.seq), dtype=torch.long)
    last = 1 if phase == "prefill" else 0  # 0 stands for all
    with _rotary(model, recorder), recorder:
        model(input_ids=tokens, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=last)
    return spans


def _spanning(recorder: Recorder, forward: Callable[..., Any], block: str, spans: list[slice]) -> Callable[..., Any]:
    """A layer's forward, noting which operators it records."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        first, recorder.block = len(recorder.ops), block
        out = forward(*args, **kwargs)
        spans.append(slice(first, len(recorder.ops)))
        recorder.block = ""
        return out

    return wrapped


@contextmanager
def _rotary(model: Any, recorder: Recorder) -> Iterator[None]:
    """While open, the rotary functions of the model's module are recorded."""
    modeling = sys.modules[type(model).__module__]
    originals = {key: value for key, value in vars(modeling).items() if key.startswith("apply_rotary")}
    frequencies = next((part for name, part in model.named_buffers() if name.endswith("inv_freq")), ())
    if "apply_rotary_emb" in originals:  # angles as complex numbers: torch would fix symbolic sizes to multiply them
        model.base_model.rotary_emb.forward = lambda x, position_ids: torch.empty(0)
    for key, value in originals.items():
        setattr(modeling, key, rotary_function(recorder, value, width=2 * len(frequencies)))
    try:
        yield
    finally:
        for key, value in originals.items():
            setattr(modeling, key, value)


def _blocks(runs: list[_Run], spans: list[slice], ops: list[OpSpec]) -> list[BlockSpec]:
    blocks = [BlockSpec("prologue", 1, tuple(ops[: spans[0].start]))]
    layers = iter(spans)
    for run in runs:
        members = [(run.prefix(i), ops[next(layers)]) for i in range(len(run.modules))]
        named = tuple(replace(op, name=prefix + op.name) for prefix, layer in members for op in layer)
        blocks.append(BlockSpec(run.block, run.repeat, named))
    return [*blocks, BlockSpec("epilogue", 1, tuple(ops[spans[-1].stop :]))]


def _compact(trace: Trace) -> Trace:
    """Drop the tensors that no operator touches (an activation that SwiGLU absorbed)."""
    used = sorted({i for block in trace.blocks for op in block.ops for i in op.inputs + op.outputs})
    number = {old: new for new, old in enumerate(used)}

    def renumber(op: OpSpec) -> OpSpec:
        return replace(op, inputs=tuple(number[i] for i in op.inputs), outputs=tuple(number[i] for i in op.outputs))

    blocks = tuple(replace(block, ops=tuple(renumber(op) for op in block.ops)) for block in trace.blocks)
    tensors: tuple[TensorSpec, ...] = tuple(trace.tensors[i] for i in used)
    return replace(trace, tensors=tensors, blocks=blocks)


def new_symbol(fake: FakeTensorMode, hint: int) -> torch.SymInt:
    """A size that stands for any, computed with as `hint` where torch needs a number."""
    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])
    size: torch.SymInt = fake.from_tensor(torch.empty(hint), symbolic_context=context).shape[0]
    return size
