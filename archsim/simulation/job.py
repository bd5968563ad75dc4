"""A simulation job: the model sharded by a plan, fused and fitted into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from archsim.hardware import ChipSpec, SystemSpec
from archsim.mapping import (
    COLLECTIVES,
    FUSION,
    LAYOUT,
    Bounds,
    Footprint,
    Fusion,
    KernelBlock,
    Layout,
    Plan,
    Target,
    bound_kernels,
    fuse,
    lay_out,
    pin_kernels,
    savings,
)
from archsim.mapping.task import TaskBlock
from archsim.network import Fabric as Network
from archsim.simulation.options import Options
from archsim.trace import Graph, Trace
from archsim.trace.quantise import PLANS
from archsim.trace.routing import describe_routing

__all__ = ["Job", "Share"]

#: by name of a block, how often a stage of a pipeline performs it; it performs no others
Share = Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that the two fidelities need; ``graph`` is evaluated at the batch of one micro-batch.

    That is the batch of one data-parallel group, or its half where two micro-batches take turns; ``need`` is for all of
    it. network: the fabric of the system; None where there is one chip. share: repeats of the blocks that stand on the
    stage of a pipeline (`staged.py`); None where there is one stage.
    """

    options: Options
    chip: ChipSpec
    system: SystemSpec | None
    trace: Trace
    plan: Plan
    graph: Graph
    tasks: tuple[TaskBlock, ...]
    need: Footprint
    target: Target
    network: Network | None = None
    micro_batches: int = 1
    share: Share | None = None

    @cached_property
    def blocks(self) -> tuple[KernelBlock, ...]:
        pins, times = self.options.pins, self.micro_batches
        blocks = pin_kernels(fuse(self.tasks, Fusion.of(pins.get(FUSION, {}))), pins, whole=self.share is None)
        return tuple(replace(b, repeat=times * b.repeat, micro_batches=times) for b in blocks)

    @cached_property
    def layout(self) -> Layout:
        return lay_out(self.graph, self.tasks, self.blocks, self.target.block_bytes, self.target.storage)

    @cached_property
    def bounds(self) -> tuple[Bounds, ...]:
        """Lower bounds of the kernels of each block."""
        return tuple(bound_kernels(block.kernels, self.target) for block in self.blocks)

    def bound_s(self) -> float:
        """Least time of the step, in seconds, that plans are chosen by.

        That of all kernels and collectives one after the other, or of the longer of both if micro-batches take turns.
        """
        streams = {True: 0.0, False: 0.0}
        for bound, block in zip(self.bounds, self.blocks, strict=True):
            for kernel, seconds in zip(block.kernels, bound.seconds.tolist(), strict=True):
                streams[block.communicates(kernel)] += seconds * block.repeat
        return max(streams.values()) if self.micro_batches > 1 else sum(streams.values())

    @property
    def fits(self) -> bool:
        """Whether a chip can hold its part."""
        return self.need.total <= self.chip.memory.usable_capacity

    @property
    def tokens(self) -> int:
        """Tokens of the step over the whole system: new ones in decode, prompt tokens in prefill."""
        return self.options.batch * int(self.options.seq or 1)

    def notes(self) -> list[str]:
        """What a reader must know about the figures: every estimate and simplification that took part."""
        notes = []
        if self.chip.estimated:
            notes.append(f"the description of {self.chip.name} is an estimate: {self.chip.title}")
        if self.system is not None and self.system.chip != self.chip.name:
            notes.append(
                f"{self.system.name} is built of {self.system.chip}; here each is replaced by {self.chip.name}"
            )
        kinds = {task.kind for block in self.tasks for task in block.tasks}
        if kinds & COLLECTIVES:
            notes.append("collectives are messages over the links; one chip stands for all, which arrive at once")
        if "expert_post" in kinds:
            notes.append("network cards carry tokens between nodes; what that takes of the cores is an estimate")
        if "grouped_matmul" in kinds:
            notes.append(describe_routing(_routing(self.trace), self.options.seed))
            if self.plan.ep > 1:
                notes.append("the chip whose experts got the most tokens stands for all chips")
            if self.plan.redundant:
                notes.append(f"{self.plan.redundant} redundant experts are where the loads of this step want them")
        if self.options.shared_experts == "spread":
            notes.append("shared experts are spread over the chips like those that the router chooses")
        if self.plan.cp > 1:
            how = "two chunks of each prompt a chip"
            if self.options.phase == "decode":
                how = "products over all of them"
            elif self.plan.by_heads:
                how = "and its heads in attention, which exchanges what it reads and gives"
            notes.append(f"{self.plan.cp} chips share the tokens of each sequence, {how}")
        if self.micro_batches > 1:
            notes.append("two halves of each chip's batch take turns: one computes while the other communicates")
        if self.options.mtp:
            notes.append("the step includes the layers that predict more than one token")
        if self.trace.fixed.keys() >= {"batch", "seq"}:
            notes.append(
                f"all sizes are those of the imported trace: a step counts as {self.tokens:,} tokens (batch x seq)"
            )
        if self.options.quant != "none":
            notes.append(f"quantised after the export: {PLANS[self.options.quant].title}")
        if self.options.sparsity != "none":
            notes.append(f"weights of linear layers are {self.options.sparsity} sparse; FLOPs are of what is kept")
        for wanted, used in self._widened().items():
            notes.append(f"the matrix unit of {self.chip.name} has no {wanted}: such products run in {used}")
        if self.options.pins.get(LAYOUT):
            notes.append(f"layout: {self.target.storage}")
        notes.append(f"{self._clock()}; activation memory is an estimate")
        if self.options.fidelity == "cycle":
            notes.append("every DRAM command, every chunk of a product; links and vector units as in the tile fidelity")
        if self.options.pins.get(FUSION):
            saved = savings(self.tasks, self.blocks)
            launches, nbytes = sum(each.launches for each in saved), sum(each.nbytes for each in saved)
            notes.append(f"fusion as the mapping says: it saves {launches:,} launches and {nbytes:,} B of traffic")
        return notes

    def _clock(self) -> str:
        """Which clock the matrix units run at, and why."""
        chip, clock = self.chip, self.target.matrix_clock
        limit = self.options.power_cap or chip.physical.tdp
        if self.options.power_cap is None and chip.clock_under_load:
            return f"matrix units at the {clock / 1e9:g} GHz stated for full load"
        if clock < chip.clock and limit is not None:
            cores = f", all else at {self.target.clock / 1e9:.3g} GHz" if self.target.clock < chip.clock else ""
            held = f"{clock / 1e9:.3g} GHz that {limit:g} W sustain in a dense product"
            return f"matrix units at the {held}{cores} (estimate)"
        return "every unit at the quoted clock"

    def _widened(self) -> dict[str, str]:
        """Types of products that the matrix unit lacks, with those that it computes in instead."""
        kinds = {"matmul", "grouped_matmul", "attention"}
        dtypes = sorted({task.dtype for block in self.tasks for task in block.tasks if task.kind in kinds})
        used = {dtype: self.target.compute_dtype(dtype) for dtype in dtypes}
        return {dtype: other for dtype, other in used.items() if other != dtype}


def _routing(trace: Trace) -> str:
    ops = (op for block in trace.blocks for op in block.ops)
    return next((str(op.attrs["routing"]) for op in ops if op.kind == "grouped_matmul"), "uniform")
