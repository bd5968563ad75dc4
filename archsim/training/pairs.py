"""A forward and a backward pass of two micro-batches side by side, as DualPipe runs them.

Kernels of both take turns on the chip while the rows of the other travel: what stands before, between and after the two
exchanges of a pass are its three parts, and the order is

    kernels:    B1  F1  B2  F2  B3  F3      exchanges:  B (after B1)  F (after F1)  B (after B2)  F (after F2)

so that every exchange has kernels of the other micro-batch beside it (DeepSeek-V3 technical report, figure 4). Run on
the machine of one chip, what does not hide, and what exchanges take of cores and memory, comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from archsim.mapping import Kernel, KernelBlock, Layout
from archsim.mapping.task import Operand

__all__ = ["pair_of"]


def pair_of(forward: KernelBlock, backward: KernelBlock, layout: Layout) -> tuple[KernelBlock, Layout] | None:
    """Both passes as one block, with the addresses of its tensors; None where either has no two exchanges.

    The forward pass is that of another micro-batch: its tensors get names of their own at the same addresses.
    """
    offset = max(layout.base) + 1
    ahead, back = _parts([_renamed(kernel, offset) for kernel in forward.kernels]), _parts(backward.kernels)
    if ahead is None or back is None:
        return None
    kernels = [kernel for parts in zip(back, ahead, strict=True) for part in parts for kernel in part]
    both = replace(
        layout, base={**layout.base, **{tensor + offset: n for tensor, n in layout.base.items()}},
        stride={**layout.stride, **{tensor + offset: n for tensor, n in layout.stride.items()}},
    )  # fmt: skip
    return KernelBlock(f"{forward.name}.pair", forward.repeat, tuple(kernels)), both


def _parts(kernels: Sequence[Kernel]) -> list[list[Kernel]] | None:
    """Up to the first exchange, that with it, up to the second, and what is left."""
    exchanges = [i for i, kernel in enumerate(kernels) if kernel.op_kind == "all_to_all"]
    if len(exchanges) != 2:
        return None
    first, second = exchanges
    return [list(kernels[: first + 1]), list(kernels[first + 1 : second + 1]), list(kernels[second + 1 :])]


def _renamed(kernel: Kernel, offset: int) -> Kernel:
    def moved(operands: tuple[Operand, ...]) -> tuple[Operand, ...]:
        return tuple(replace(operand, tensor=operand.tensor + offset) for operand in operands)

    tasks = tuple(replace(task, inputs=moved(task.inputs), outputs=moved(task.outputs)) for task in kernel.tasks)
    return replace(kernel, tasks=tasks, inputs=moved(kernel.inputs), outputs=moved(kernel.outputs))
