"""The symbolic trace: what a model does in one phase, for every batch, sequence length and context at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from archsim.errors import InputError, did_you_mean
from archsim.sparsity import Sparsity
from archsim.trace import costs
from archsim.trace.expr import Expr
from archsim.trace.graph import DTYPE_BITS, ROLES, Attr, Block, Graph, Op, Tensor, layers_of

__all__ = ["PHASES", "BlockSpec", "OpSpec", "TensorSpec", "Trace"]

# The symbols of each phase. An inference step reads `seq` new tokens a sequence, with `ctx` tokens in the cache before
# it; a training step reads `seq` tokens a sequence and has no cache.
PHASES = {"prefill": ("batch", "seq", "ctx"), "decode": ("batch", "seq", "ctx"), "train": ("batch", "seq")}
_USUAL = {("prefill", "ctx"): 0, ("decode", "seq"): 1}  # what a symbol is where nothing is said
_LEAST = {"batch": 1, "seq": 1, "ctx": 0}
_MOST = 1_000_000_000


@dataclass(frozen=True)
class TensorSpec:
    """A tensor whose shape is in symbols; a quantised one has a scale of `scale_dtype` for each `scale_block`.

    sparsity: of pruned weights.
    """

    name: str
    shape: tuple[Expr, ...]
    dtype: str
    role: str
    scale_block: tuple[int, int] | None = None
    scale_dtype: str = "fp32"
    sparsity: Sparsity | None = None

    @property
    def stored(self) -> str:
        """The type, and behind it the sparsity of pruned weights, as files and digests hold it."""
        return f"{self.dtype} {self.sparsity}" if self.sparsity else self.dtype

    @property
    def scales(self) -> tuple[int | str, ...] | None:
        """The scale block with its type where that is not fp32, as files and digests hold it."""
        typed = () if self.scale_dtype == "fp32" else (self.scale_dtype,)
        return None if self.scale_block is None else (*self.scale_block, *typed)


@dataclass(frozen=True)
class OpSpec:
    """An operator whose dims are in symbols; operands are indices into the trace's tensors."""

    name: str
    kind: str
    dims: dict[str, Expr]
    attrs: dict[str, Attr]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class BlockSpec:
    """Operators in execution order, performed `repeat` times."""

    name: str
    repeat: int
    ops: tuple[OpSpec, ...]

    @property
    def layers(self) -> int:
        """Layers of the model in one repeat: several where kinds of them alternate."""
        return layers_of(op.name for op in self.ops)


@dataclass(frozen=True)
class Trace:
    """Blocks of operators over a table of tensors, checked on construction.

    `config` is the model's configuration as Hugging Face writes it, `producer` says what made the trace. `fixed` holds
    the value of each symbol of the phase that the trace does not leave open (an import may have fixed shapes).
    """

    name: str
    phase: str
    config: dict[str, Any]
    tensors: tuple[TensorSpec, ...]
    blocks: tuple[BlockSpec, ...]
    producer: dict[str, str]
    fixed: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The sizes that `at` leaves open, in the order of `PHASES`."""
        return tuple(name for name in PHASES[self.phase] if name not in self.fixed)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over everything but the producer: two traces with the same hash cost the same everywhere."""
        content = {
            "name": self.name,
            "phase": self.phase,
            "config": self.config,
            "tensors": [[t.name, [str(e) for e in t.shape], t.stored, t.role, t.scales] for t in self.tensors],
            "blocks": [[b.name, b.repeat, [_op_content(op) for op in b.ops]] for b in self.blocks],
        }
        if unusual := {name: n for name, n in sorted(self.fixed.items()) if n != _LEAST[name]}:
            content["fixed"] = unusual
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the trace as HDF5 (docs/trace-format.md); an existing file is replaced whole or not at all."""
        from archsim.trace.hdf5 import write_trace

        write_trace(self, Path(path))

    def at(self, *, batch: int = 1, seq: int | None = None, ctx: int | None = None) -> Graph:
        """The graph at one point: sequences, new tokens of each, and tokens of each in the cache before the step.

        `seq` is 1 in decode and `ctx` 0 in prefill unless they are given.
        """
        values = self._values({"batch": batch, "seq": seq, "ctx": ctx})
        tensors = _tensors_at(self, values)
        blocks = tuple(Block(b.name, b.repeat, tuple(_op_at(op, values, tensors) for op in b.ops)) for b in self.blocks)
        return Graph(self.name, self.phase, values["batch"], values["seq"], values.get("ctx", 0), blocks, tensors)

    def _values(self, given: Mapping[str, int | None]) -> dict[str, int]:
        values = dict(self.fixed)
        for name in _LEAST:
            if name in self.symbols:
                continue
            # The size is what it is: saying so is no mistake, nor is one sequence, which is nobody's choice.
            fixed, value = values.get(name, 0), given[name]
            if value is not None and value != fixed and (name, value) != ("batch", 1):
                raise InputError(f"{self.name} {self.phase}: {name}={value} has no meaning here (it is {fixed})")
        for name in self.symbols:
            value = given[name] if given[name] is not None else _USUAL.get((self.phase, name))
            if value is None:
                raise InputError(f"{self.name} {self.phase}: a value for {name} is missing")
            if isinstance(value, bool) or not isinstance(value, int) or not _LEAST[name] <= value <= _MOST:
                bounds = f"from {_LEAST[name]} to {_MOST:,}"
                raise InputError(f"{self.name} {self.phase}: {name}={value} must be an integer {bounds}")
            values[name] = value
        return values


def _op_content(op: OpSpec) -> list[Any]:
    dims = {name: str(expr) for name, expr in op.dims.items()}
    return [op.name, op.kind, dims, op.attrs, op.inputs, op.outputs, op.dtype]


def _tensors_at(trace: Trace, values: Mapping[str, int]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            t.name, tuple(e.evaluate(values) for e in t.shape), t.dtype, t.role, t.scale_block, t.scale_dtype,
            t.sparsity,
        )
        for t in trace.tensors
    )  # fmt: skip


def _op_at(op: OpSpec, values: Mapping[str, int], tensors: tuple[Tensor, ...]) -> Op:
    dims = {name: expr.evaluate(values) for name, expr in op.dims.items()}
    read, written = costs.operand_bytes(
        op.kind, dims, op.attrs, [tensors[i] for i in op.inputs], [tensors[i] for i in op.outputs]
    )
    work = costs.flops(op.kind, dims, op.attrs)
    return Op(op.name, op.kind, dims, op.attrs, op.inputs, op.outputs, op.dtype, work, read, written)


def _check(trace: Trace) -> None:
    """Raise InputError, naming the part, unless everything that readers rely on holds."""
    _need(trace.phase in PHASES, trace, f"phase '{trace.phase}' is not one of {', '.join(PHASES)}")
    known = set(PHASES[trace.phase])
    _need(trace.fixed.keys() <= known, trace, f"fixed sizes {sorted(trace.fixed)} are not among {sorted(known)}")
    sizes = all(_LEAST[name] <= n <= _MOST for name, n in trace.fixed.items())
    _need(sizes, trace, f"fixed sizes {trace.fixed} are out of range")
    _need(len(trace.blocks) > 0, trace, "it has no blocks")
    _need(_distinct(block.name for block in trace.blocks), trace, "two blocks have the same name")
    # a small point at which everything is evaluated once
    values = {name: trace.fixed.get(name, _LEAST[name] + 1) for name in PHASES[trace.phase]}
    for tensor in trace.tensors:
        _check_tensor(trace, tensor, values)
    tensors = _tensors_at(trace, values)
    written = {i for i, tensor in enumerate(trace.tensors) if tensor.role != "activation"}
    for block in trace.blocks:
        _need(block.repeat >= 1, trace, f"block '{block.name}': repeat {block.repeat} is below 1")
        _need(_distinct(op.name for op in block.ops), trace, f"block '{block.name}': two operators have the same name")
        for op in block.ops:
            where = f"operator '{block.name}/{op.name}'"
            _check_op(trace, where, op, values, tensors)
            unwritten = [trace.tensors[i].name for i in op.inputs if i not in written]
            _need(not unwritten, trace, f"{where}: nothing before it writes its inputs {unwritten}")
            written.update(op.outputs)


def _check_tensor(trace: Trace, tensor: TensorSpec, values: Mapping[str, int]) -> None:
    where = f"tensor '{tensor.name}'"
    _need(tensor.dtype in DTYPE_BITS, trace, f"{where}: unknown dtype '{tensor.dtype}'")
    _need(tensor.role in ROLES, trace, f"{where}: unknown role '{tensor.role}'")
    unknown = frozenset[str]().union(*(axis.symbols for axis in tensor.shape)) - set(PHASES[trace.phase])
    _need(not unknown, trace, f"{where}: unknown symbols {sorted(unknown)} in its shape")
    fixed = tensor.role != "weight" or not any(axis.symbols for axis in tensor.shape)
    _need(fixed, trace, f"{where}: the shape of a weight must be of integers")
    scales = tensor.scale_block is None or (len(tensor.shape) >= 2 and min(tensor.scale_block) > 0)
    _need(scales and tensor.scale_dtype in DTYPE_BITS, trace, f"{where}: bad scale block {tensor.scales}")
    _need(not tensor.sparsity or tensor.role == "weight", trace, f"{where}: is not pruned")
    shape = [axis.evaluate(values) for axis in tensor.shape]
    _need(min(shape, default=1) > 0, trace, f"{where}: its shape is {shape} at {values}")


def _check_op(trace: Trace, where: str, op: OpSpec, values: Mapping[str, int], tensors: tuple[Tensor, ...]) -> None:
    known = costs.KIND_DIMS.get(op.kind, ())
    if op.kind not in costs.KIND_DIMS:  # only then: to look for a close one takes longer than all the rest
        _need(False, trace, f"{where}: unknown kind '{op.kind}'{did_you_mean(op.kind, costs.KIND_DIMS)}")
    missing = [name for name in known if name not in op.dims]
    _need(not missing, trace, f"{where}: dims {missing} are missing")
    _need(op.dtype in DTYPE_BITS, trace, f"{where}: unknown dtype '{op.dtype}'")
    unknown = frozenset[str]().union(*(size.symbols for size in op.dims.values())) - set(PHASES[trace.phase])
    _need(not unknown, trace, f"{where}: unknown symbols {sorted(unknown)} in its dims")
    inside = all(0 <= i < len(trace.tensors) for i in op.inputs + op.outputs)
    _need(inside, trace, f"{where}: an operand is not in the tensor table")
    try:  # so that a missing attribute or operand shows here and not in a simulation
        sizes = _op_at(op, values, tensors).dims
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"trace {trace.name}: {where}: its attributes or operands do not fit ({error})") from None
    _need(min(sizes.values()) > 0, trace, f"{where}: its dims are {sizes} at {values}")


def _need(holds: bool, trace: Trace, what: str) -> None:
    if not holds:
        raise InputError(f"trace {trace.name}: {what}")


def _distinct(names: Iterable[str]) -> bool:
    listed = list(names)
    return len(set(listed)) == len(listed)
