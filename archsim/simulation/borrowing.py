"""Kernels of a small block that a larger one has as well are simulated there, and take as long in the small one.

DeepSeek-V3's dense layers attend as its layers of experts do, of which there are twenty times as many; so does the
layer that predicts a further token. A block that is less than ``SMALL`` of the step borrows from the largest: it runs
after it, and its place in the step is given back to it then (:func:`in_order`). Between other neighbours, and where the
one meets an exchange that the other has not, a kernel takes a few per cent more or less; of less than ``SMALL`` of the
step that is a few thousandths. In a training step the passes of dense layers borrow from those of layers of experts;
there a pass of DeepSeek-V3's comes out 1 % longer, beside the exchanges of a pair of passes, and its step 0.01 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from archsim.engine import LaunchRecord
from archsim.mapping import Kernel, KernelBlock, Target, bound_kernels
from archsim.simulation.blocks import BlockRun, KernelRun

__all__ = ["borrowers", "in_order", "lent"]

#: share of the step, and of the block that it has in common with the largest, by the closed form
SMALL, WORTH = 0.1, 0.1


def borrowers(blocks: Sequence[KernelBlock], target: Target) -> set[int]:
    """The blocks that are a small part of the step, ``WORTH`` of which are kernels of the largest."""
    bounds = [bound_kernels(block.kernels, target).seconds for block in blocks]
    seconds = [block.repeat * float(bound.sum()) for block, bound in zip(blocks, bounds, strict=True)]
    largest = max(range(len(blocks)), key=seconds.__getitem__)
    kept = {_work(kernel) for kernel in blocks[largest].kernels if not kernel.exchanges}
    found = set()
    for i, (block, bound) in enumerate(zip(blocks, bounds, strict=True)):
        shared = sum(float(s) for kernel, s in zip(block.kernels, bound, strict=True) if _work(kernel) in kept)
        if seconds[i] < SMALL * sum(seconds) and shared > WORTH * float(bound.sum()):
            found.add(i)
    return found


def lent(block: KernelBlock, target: Target, runs: Iterable[BlockRun]) -> dict[int, KernelRun]:
    """By position, kernels of ``block`` as they ran in the blocks that have run, on as many cores."""
    ran = {
        _work(run.kernel): run for each in runs for run, cores in zip(each.kernels, each.cores, strict=True)
        if not run.kernel.exchanges and cores == target.cores
    }  # fmt: skip
    found = {i: ran.get(_work(kernel)) for i, kernel in enumerate(block.kernels)}
    return {i: run for i, run in found.items() if run is not None}


def in_order(runs: Sequence[BlockRun]) -> list[BlockRun]:
    """Runs of the blocks of a step, one after the other from its beginning, in whatever order they were made."""
    begin = 0
    moved = []
    for run in runs:
        moved.append(_moved(run, begin - run.start_ps))
        begin = moved[-1].end_ps
    return moved


def _work(kernel: Kernel) -> str:
    """All that the time of a kernel depends on, but where its operands lie."""
    tasks = [(task.kind, task.dims, task.attrs, task.dtype, task.rows) for task in kernel.tasks]
    operands = [[(o.role, o.nbytes, o.element_bytes) for o in side] for side in (kernel.inputs, kernel.outputs)]
    return f"{kernel.kind} {kernel.pin} {tasks} {operands}"


def _moved(run: BlockRun, by_ps: int) -> BlockRun:
    if not by_ps:
        return run

    def at(record: LaunchRecord) -> LaunchRecord:
        steps = record.run and replace(
            record.run, begin_ps=record.run.begin_ps + by_ps, end_ps=record.run.end_ps + by_ps,
            start_ps=record.run.start_ps + by_ps, finish_ps=record.run.finish_ps + by_ps,
        )  # fmt: skip
        return replace(
            record, ready_ps=record.ready_ps + by_ps, start_ps=record.start_ps + by_ps, end_ps=record.end_ps + by_ps,
            run=steps,
        )  # fmt: skip

    records = tuple(tuple(map(at, each)) for each in run.records)
    kernels = tuple(replace(kernel, first=first) for kernel, first in zip(run.kernels, records[0], strict=True))
    return replace(
        run, start_ps=run.start_ps + by_ps, end_ps=run.end_ps + by_ps, kernels=kernels, records=records
    )  # fmt: skip
