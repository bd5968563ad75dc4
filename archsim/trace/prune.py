"""Pruning as an overlay on a trace: weights of linear layers of which at most N of every M differ from zero."""

from __future__ import annotations

from dataclasses import replace

from archsim.errors import InputError
from archsim.sparsity import Sparsity
from archsim.trace.quantise import is_linear
from archsim.trace.trace import Trace

__all__ = ["pruned"]


def pruned(trace: Trace, sparsity: Sparsity) -> Trace:
    """`trace` with the weights of its linear layers stored, and multiplied, without the zeros of ``sparsity``.

    The layers are those that `quantised` makes narrower; what stays dense there stays dense here: embedding, lm_head,
    router, the per-head matmuls of absorbed MLA, and attention, which has no weights. It may follow `quantised`:
    scales of blocks are stored for all weights.
    """
    tensors = list(trace.tensors)
    blocks = []
    for block in trace.blocks:
        ops = list(block.ops)
        for i, op in enumerate(ops):
            if is_linear(trace, block, op):
                weight = op.inputs[1]
                tensors[weight] = replace(tensors[weight], sparsity=sparsity)
                ops[i] = replace(op, attrs={**op.attrs, "sparsity": str(sparsity)})
        blocks.append(replace(block, ops=tuple(ops)))
    if tensors == list(trace.tensors):
        raise InputError(f"{trace.name} has no linear layers whose weights could be {sparsity} sparse")
    return replace(trace, tensors=tuple(tensors), blocks=tuple(blocks))
