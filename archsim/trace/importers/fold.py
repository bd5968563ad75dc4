"""Finding the layers of a flat list of operators: runs of equal groups, stored once with a count.

Two operators are equal when kind, sizes, attributes, types and operands (shape, type and role) are. The longest stretch
that repeats with some period becomes a block; what is before and after it is searched again. The groups must also be
wired alike: each tensor of the first group stands for exactly one tensor of every other group, a weight for a different
one in each (a block holds its weights once *per repeat*).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from archsim.trace.trace import BlockSpec, OpSpec, TensorSpec

__all__ = ["fold"]

_LEAST_PERIOD = 4  # operators; shorter repetitions are chance, not layers
_SHIFTS = 8
_TRIES = 32  # wirings examined for one part of the list
_MAX_SEGMENTS = 64


@dataclass
class _Segment:
    """`repeat` groups of `period` operators from `start` on."""

    start: int
    period: int
    repeat: int


def fold(tensors: Sequence[TensorSpec], ops: Sequence[OpSpec]) -> tuple[tuple[TensorSpec, ...], tuple[BlockSpec, ...]]:
    """The tensors that are left and the blocks, in execution order."""
    numbers: dict[object, int] = {}
    codes = np.array([numbers.setdefault(_signature(op, tensors), len(numbers)) for op in ops])
    stands_for: dict[int, int] = {}
    segments = _segments(codes, ops, tensors, stands_for)
    blocks = []
    for name, segment in zip(_block_names(segments), segments, strict=True):
        group = list(ops[segment.start : segment.start + segment.period])
        if segment.repeat > 1:
            after = ops[segment.start + segment.period : segment.start + 2 * segment.period]
            group = _without_index(group, after)
        blocks.append(BlockSpec(name, segment.repeat, tuple(_rewired(op, stands_for) for op in group)))
    used = sorted({i for block in blocks for op in block.ops for i in op.inputs + op.outputs})
    index = {old: new for new, old in enumerate(used)}
    return (
        tuple(tensors[i] for i in used),
        tuple(replace(block, ops=tuple(_rewired(op, index) for op in block.ops)) for block in blocks),
    )


def _signature(op: OpSpec, tensors: Sequence[TensorSpec]) -> object:
    """What two operators must have in common to be equal."""
    attrs = tuple(sorted((key, str(value)) for key, value in op.attrs.items()))
    inputs, outputs = (tuple(_looks(tensors[i]) for i in operands) for operands in (op.inputs, op.outputs))
    return (op.kind, tuple(op.dims.items()), attrs, op.dtype, inputs, outputs)


def _looks(tensor: TensorSpec) -> TensorSpec:
    """The tensor without its name; the first group may read from outside what the others read from one another."""
    return replace(tensor, name="", role="activation" if tensor.role == "constant" else tensor.role)


def _segments(
    codes: NDArray[np.int64], ops: Sequence[OpSpec], tensors: Sequence[TensorSpec],
    stands_for: dict[int, int],
) -> list[_Segment]:  # fmt: skip
    """Cut the operators into segments, left to right; fills `stands_for` with the tensors of dropped groups."""
    done: list[_Segment] = []
    todo = [(0, len(codes))]
    while todo:
        start, stop = todo.pop()
        for candidate in _candidates(codes[start:stop], ops[start:stop]) if len(done) < _MAX_SEGMENTS else ():
            found = _Segment(start + candidate.start, candidate.period, candidate.repeat)
            wiring = _wiring(found, ops, tensors)
            if wiring is not None:
                stands_for.update(wiring)
                done.append(found)
                end = found.start + found.period * found.repeat
                todo += [part for part in ((start, found.start), (end, stop)) if part[0] < part[1]]
                break
        else:
            done.append(_Segment(start, stop - start, 1))
    return sorted(done, key=lambda segment: segment.start)


def _candidates(codes: NDArray[np.int64], ops: Sequence[OpSpec]) -> list[_Segment]:
    """Stretches that repeat: those that cover most first, then short periods, then groups that names call a layer."""
    found = []
    for period in range(_LEAST_PERIOD, len(codes) // 2 + 1):
        same = np.concatenate(([False], codes[period:] == codes[:-period], [False]))
        edges = np.flatnonzero(same[1:] != same[:-1])
        if not len(edges):
            continue
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        longest = int(lengths.argmax())
        more, slack = divmod(int(lengths[longest]), period)
        if more:  # operators before the first layer may look like its last ones: the stretch can start later, too
            first = int(starts[longest])
            found += [_Segment(start, period, more + 1) for start in range(first, first + min(slack, _SHIFTS) + 1)]
    found.sort(key=lambda s: (-s.period * s.repeat, s.period, s.start))
    likely = found[:_TRIES]
    likely.sort(key=lambda s: (-s.period * s.repeat, s.period, not _is_one_layer(ops, s)))
    return likely


def _wiring(found: _Segment, ops: Sequence[OpSpec], tensors: Sequence[TensorSpec]) -> dict[int, int] | None:
    """Tensor of a later group -> tensor of the first that stands for it, or None if the groups are wired unlike."""
    first = ops[found.start : found.start + found.period]
    held = {i for op in first for i in op.inputs + op.outputs if tensors[i].role in ("weight", "kv_cache")}
    made = {i for op in first for i in op.outputs}
    result: dict[int, int] = {}
    for repeat in range(1, found.repeat):
        begin = found.start + repeat * found.period
        partner: dict[int, int] = {}
        for op, other in zip(first, ops[begin : begin + found.period], strict=True):
            for mine, theirs in zip(op.inputs + op.outputs, other.inputs + other.outputs, strict=True):
                if partner.setdefault(mine, theirs) != theirs:
                    return None
        own = [theirs for mine, theirs in partner.items() if mine in held | made]
        if len(set(own)) != len(own) or any(theirs in result or theirs in held | made for theirs in own):
            return None
        result.update({theirs: mine for mine, theirs in partner.items() if mine in held | made})
    return result


def _rewired(op: OpSpec, stands_for: dict[int, int]) -> OpSpec:
    def swap(operands: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(stands_for.get(i, i) for i in operands)

    return replace(op, inputs=swap(op.inputs), outputs=swap(op.outputs))


def _is_one_layer(ops: Sequence[OpSpec], found: _Segment) -> bool:
    """Whether the first group is all of one layer by its names."""
    first = ops[found.start : found.start + found.period]
    second = ops[found.start + found.period : found.start + 2 * found.period]
    return len({op.name[: _stem(op.name, other.name)] for op, other in zip(first, second, strict=True)}) == 1


def _without_index(group: list[OpSpec], after: Sequence[OpSpec]) -> list[OpSpec]:
    """Names relative to the layer: ``mlp.up`` where the groups have ``h.0.mlp.up`` and ``h.1.mlp.up``."""
    stems = {_stem(op.name, other.name) for op, other in zip(group, after, strict=True)}
    short = [replace(op, name=op.name[min(stems) :]) for op in group]
    return short if len(stems) == 1 and len({op.name for op in short}) == len(short) else group


def _stem(name: str, other: str) -> int:
    """Characters up to the path below the one part in which two names differ, 0 where they differ in more."""
    ours, theirs = name.split("."), other.split(".")
    differ = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
    if len(ours) != len(theirs) or len(differ) != 1 or differ[0] == len(ours) - 1:
        return 0
    return len(".".join(ours[: differ[0] + 1])) + 1


def _block_names(segments: Sequence[_Segment]) -> list[str]:
    """``model``, or ``prologue``, ``layer``, ``epilogue``; numbers where there are several of a sort."""
    if len(segments) == 1 and segments[0].repeat == 1:
        return ["model"]
    many = sum(segment.repeat > 1 for segment in segments) > 1
    names, layers = [], 0
    for i, segment in enumerate(segments):
        if segment.repeat > 1:
            layers += 1
            names.append(f"layer_{layers}" if many else "layer")
        elif i in (0, len(segments) - 1):
            names.append("epilogue" if i else "prologue")
        else:
            names.append(f"after_{layers}")
    return names
