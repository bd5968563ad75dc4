"""Where this chip's tensors lie in its memory.

Weights and KV cache come first: block after block, and within a block one repeat after the other, each with all of its
tensors. Activations follow and reuse the same addresses in every repeat, as an allocator that frees after each layer
does, so they stay warm in a cache. The weights of a merged product lie side by side without a gap, as do its outputs:
its kernel walks over them as over one wide matrix. Everything else is aligned to a cache block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from archsim.mapping.fuse import Kernel, KernelBlock
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

    def base_of(self, tensor: int, repeat: int) -> int:
        """Address of a tensor in the given repetition of its block."""
        return self.base[tensor] + repeat * self.stride[tensor]

    def bases(self, kernel: Lowered, repeat: int) -> list[int]:
        """Base address of each region of a kernel in the given repetition of its block."""
        return [self.workspace if t == WORKSPACE else self.base_of(t, repeat) for t in kernel.tensors]


def lay_out(graph: Graph, tasks: Sequence[TaskBlock], kernels: Sequence[KernelBlock], align: int) -> Layout:
    """Addresses for every tensor that the kernels of one chip touch, in the order in which they meet them."""
    size: dict[int, int] = {}
    home: dict[int, KernelBlock] = {}  # the block with most repeats that touches a tensor: it holds that many copies
    for block, fused in zip(tasks, kernels, strict=True):
        for operand in (o for k in fused.kernels for o in (*k.inputs, *k.outputs)):
            tensor = operand.tensor
            share = -(-graph.tensors[tensor].nbytes // block.shares.get(tensor, 1))
            # routed rows can exceed a tensor's own size
            size[tensor] = max(size.get(tensor, 1), share, operand.nbytes)
            if tensor not in home or home[tensor].repeat < fused.repeat:
                home[tensor] = fused
    base: dict[int, int] = {}
    stride: dict[int, int] = {}
    address = 0
    for resident in (True, False):
        for fused in kernels:
            start, placed = address, []
            for group in _neighbours(fused.kernels):
                for tensor in dict.fromkeys(group):
                    kept = graph.tensors[tensor].role != "activation"
                    if tensor not in base and kept == resident and home[tensor] is fused:
                        base[tensor] = address
                        address += size[tensor]
                        placed.append(tensor)
                address = -(-address // align) * align
            copies = fused.repeat if resident else 1
            stride.update(dict.fromkeys(placed, address - start if resident else 0))
            address = start + copies * (address - start)
    return Layout(base, stride, address)


def _neighbours(kernels: Iterable[Kernel]) -> Iterable[list[int]]:
    """Groups of tensors that have to lie side by side."""
    for kernel in kernels:
        inputs, outputs = ([o.tensor for o in side] for side in (kernel.inputs, kernel.outputs))
        if kernel.kind == "product":
            yield from (inputs[:1], inputs[1:], outputs)
        else:
            yield from ([tensor] for tensor in inputs + outputs)
