"""Where this chip's tensors lie in its memory.

Weights and KV cache come first: block after block, and within a block one repeat after the other, each with all of its
tensors. Activations follow and reuse the same addresses in every repeat, as an allocator that frees after each layer
does, so they stay warm in a cache. Micro-batches that take turns have KV cache and activations of their own. The
weights of a merged product lie side by side without a gap, as do its outputs: its kernel walks over them as over one
wide matrix. Everything else is aligned to a cache block. The inside of a tensor is the matter of
`archsim.mapping.storage`: a paged cache ends with a whole page, scattered experts begin at a cache block each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from archsim.mapping.fuse import Kernel, KernelBlock
from archsim.mapping.lowering.table import WORKSPACE, Lowered
from archsim.mapping.storage import Storage
from archsim.mapping.task import TaskBlock
from archsim.trace import Graph
from archsim.trace.graph import Tensor

__all__ = ["Layout", "lay_out"]


@dataclass(frozen=True)
class Layout:
    """``base[t] + layer * stride[t] + micro * shift[t]`` is the address of tensor ``t``.

    workspace: address of kernels' own memory. shift: of what each micro-batch has for itself.
    """

    base: Mapping[int, int]
    stride: Mapping[int, int]
    workspace: int
    shift: Mapping[int, int] = field(default_factory=dict)

    def base_of(self, tensor: int, layer: int, micro: int = 0) -> int:
        """Address of a tensor in the given layer of its block, for the given micro-batch."""
        return self.base[tensor] + layer * self.stride[tensor] + micro * self.shift.get(tensor, 0)

    def bases(self, kernel: Lowered, layer: int, micro: int = 0) -> list[int]:
        """Base address of each region of a kernel in the given layer of its block, for the given micro-batch."""
        return [self.workspace if t == WORKSPACE else self.base_of(t, layer, micro) for t in kernel.tensors]


def lay_out(
    graph: Graph, tasks: Sequence[TaskBlock], kernels: Sequence[KernelBlock], align: int, storage: Storage
) -> Layout:
    """Addresses for every tensor that the kernels of one chip touch, in the order in which they meet them."""
    size: dict[int, int] = {}
    home: dict[int, KernelBlock] = {}  # the block with most repeats that touches a tensor: it holds that many copies
    for block, fused in zip(tasks, kernels, strict=True):
        for operand in (o for k in fused.kernels for o in (*k.inputs, *k.outputs)):
            tensor = operand.tensor
            share = -(-_stored_bytes(graph.tensors[tensor], align, storage) // block.shares.get(tensor, 1))
            # routed rows can exceed a tensor's own size
            size[tensor] = max(size.get(tensor, 1), share, operand.nbytes)
            if tensor not in home or home[tensor].layers < fused.layers:
                home[tensor] = fused
    base: dict[int, int] = {}
    stride: dict[int, int] = {}
    shift: dict[int, int] = {}
    more = max((fused.micro_batches for fused in kernels), default=1) - 1
    address = 0
    for resident in (True, False):
        first = address
        for fused in kernels:
            start, placed = address, []
            for group in _neighbours(fused.kernels):
                for tensor in dict.fromkeys(group):
                    kept = graph.tensors[tensor].role != "activation"
                    if tensor not in base and kept == resident and home[tensor] is fused:
                        base[tensor] = address
                        address += size[tensor]
                        placed.append(tensor)
                        if more and graph.tensors[tensor].role == "kv_cache":
                            shift[tensor] = -(-size[tensor] // align) * align
                            address = base[tensor] + (1 + more) * shift[tensor]
                address = -(-address // align) * align
            copies = fused.layers if resident else 1
            stride.update(dict.fromkeys(placed, address - start if resident else 0))
            address = start + copies * (address - start)
        if more and not resident:
            shift.update({t: address - first for t in base if graph.tensors[t].role == "activation"})
            address += more * (address - first)
    return Layout(base, stride, address, shift)


def _stored_bytes(tensor: Tensor, align: int, storage: Storage) -> int:
    """The bytes of a tensor with what its pages, or the ends of its experts, leave empty."""
    if tensor.role == "kv_cache" and storage.kv_cache == "paged" and len(tensor.shape) > 1:
        tokens, page = tensor.shape[-2], storage.page(latent=True)
        return tensor.nbytes // max(tokens, 1) * (-(-tokens // page) * page)
    if tensor.role == "weight" and storage.experts == "scattered" and len(tensor.shape) > 2:
        return tensor.nbytes + tensor.shape[0] * align
    return tensor.nbytes


def _neighbours(kernels: Iterable[Kernel]) -> Iterable[list[int]]:
    """Groups of tensors that have to lie side by side."""
    for kernel in kernels:
        inputs, outputs = ([o.tensor for o in side] for side in (kernel.inputs, kernel.outputs))
        if kernel.kind == "product":
            yield from (inputs[:1], inputs[1:], outputs)
        else:
            yield from ([tensor] for tensor in inputs + outputs)
