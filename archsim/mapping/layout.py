"""Where this chip's tensors lie in its memory.

Weights and KV cache come first, block after block, one copy for each repeat of a block; activations follow and
reuse the same addresses in every repeat, as an allocator that frees after each layer does, so they stay warm in
a cache. Everything is aligned to a cache block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from archsim.mapping.fuse import KernelBlock
from archsim.mapping.lowering.table import WORKSPACE, Lowered
from archsim.mapping.task import TaskBlock
from archsim.trace import Graph

__all__ = ["Layout", "lay_out"]


@dataclass(frozen=True)
class Layout:
    """``base[t] + repeat * stride[t]`` is the address of tensor ``t``; ``workspace`` that of kernels' own memory."""

    base: Mapping[int, int]
    stride: Mapping[int, int]
    workspace: int

    def bases(self, kernel: Lowered, repeat: int) -> list[int]:
        """Base address of each region of a kernel in the given repetition of its block."""
        return [self.workspace if t == WORKSPACE else self.base[t] + repeat * self.stride[t] for t in kernel.tensors]


def lay_out(graph: Graph, tasks: Sequence[TaskBlock], kernels: Sequence[KernelBlock], align: int) -> Layout:
    """Addresses for every tensor that the kernels of one chip touch, in the order in which they meet them.

    The weights and the outputs of merged products therefore lie side by side, as one wide matrix.
    """
    needed: dict[int, int] = {}  # the most bytes that any kernel touches: routed rows can exceed a tensor's own size
    share: dict[int, int] = {}
    repeat: dict[int, int] = {}
    for block, fused in zip(tasks, kernels, strict=True):
        for operand in (o for k in fused.kernels for o in (*k.inputs, *k.outputs)):
            tensor = operand.tensor
            needed[tensor] = max(needed.get(tensor, 0), operand.nbytes)
            share[tensor] = max(share.get(tensor, 1), block.shares.get(tensor, 1))
            repeat[tensor] = max(repeat.get(tensor, 1), block.repeat)
    base: dict[int, int] = {}
    stride: dict[int, int] = {}
    address = 0
    for resident in (True, False):
        for tensor in needed:
            spec = graph.tensors[tensor]
            if (spec.role != "activation") != resident:
                continue
            size = -(-max(spec.nbytes // share[tensor], needed[tensor], 1) // align) * align + align
            base[tensor], stride[tensor] = address, size if resident else 0
            address += size * (repeat[tensor] if resident else 1)
    return Layout(base, stride, address)
