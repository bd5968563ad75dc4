"""What a micro-batch costs on the chips of a stage, and how layers stand on stages: what a schedule needs to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from archsim.errors import InputError
from archsim.mapping import Kernel, Target, bound_kernels, usable
from archsim.mapping.task import Operand, Task, TaskBlock
from archsim.pipeline.partition import cut, is_layer, partition
from archsim.pipeline.run import LayerTimes
from archsim.simulation.links import links_of
from archsim.training.job import TrainJob
from archsim.training.memory import OPTIMIZER_BYTES, StageMemory, saved_bytes, stage_memory
from archsim.training.passes import BlockPasses, simulate_passes
from archsim.training.plan import RECOMPUTE, TrainPlan
from archsim.training.replicas import Exchanges, Parameters, parameters

__all__ = [
    "Costs", "Software", "hidden_bytes", "layer_times", "measure", "memory_of", "require_fit", "stages_of", "update_ps",
]  # fmt: skip


@dataclass(frozen=True)
class Software:
    """What software makes of the kernels; the defaults are the kernels' own speed.

    efficiency: share of the simulated speed of a pass that is reached. launch_s: what the host needs for an operator,
    in seconds; a pass takes as long as its launches at least, and more where the host waits for counts of tokens
    (`Passes.paced`). Experts count one by one, as they are launched.
    """

    efficiency: float = 1.0
    launch_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.efficiency <= 1:
            raise InputError(f"efficiency {self.efficiency}: must be more than 0 and at most 1")
        if not 0 <= self.launch_s < 1:
            raise InputError(f"host launch {self.launch_s} s: must be at least 0 and less than 1 s")


@dataclass(frozen=True, eq=False)
class Costs:
    """By block: its passes, its tasks (forward and backward), its weights on one chip."""

    passes: tuple[BlockPasses, ...]
    tasks: Mapping[str, TaskBlock]
    held: Mapping[str, Parameters]

    @cached_property
    def kept(self) -> Mapping[str, Mapping[str, tuple[int, int]]]:
        """By way of recomputing, and block: the activations of a micro-batch that are kept, and those of its passes."""
        return {
            way: {b.name: saved_bytes(self.tasks[b.name], self.tasks[f"{b.name}.backward"], way) for b in self.passes}
            for way in RECOMPUTE
        }


def measure(
    job: TrainJob, *, fidelity: str, seed: int = 0, progress: Callable[[str], None] = lambda name: None
) -> Costs:
    """Simulate (or bound) the passes of every block of one micro-batch."""
    plan = job.plan
    paired = plan.schedule == "dualpipe" and plan.ep > 1
    # with ZeRO-3 collectives are always under way; with DualPipe the chip is divided once and for all
    beside = paired or (plan.zero >= 3 and plan.dp > 1)
    passes, tasks = simulate_passes(
        job.graph, plan.layer, job.target, links_of(job.chip, job.system), job.network, fidelity=fidelity,
        beside=beside, paired=paired, gradient_bytes=plan.gradient_bytes, by_row=plan.exchange == "row", seed=seed,
        progress=progress,
    )  # fmt: skip
    blocks = {block.name: block for block in tasks}
    held = {block.name: parameters(job.graph, blocks[block.name], plan) for block in passes}
    return Costs(passes, blocks, held)


def layer_times(
    block: BlockPasses, plan: TrainPlan, exchanges: Exchanges, held: Parameters, software: Software
) -> LayerTimes:
    """The times of a block in a pipeline, with what it computes again, as the software lets it run."""
    layer = is_layer(block.name)
    forward_ps, backward_ps = block.forward.hiding(plan.hidden), block.backward.hiding(plan.hidden)
    again = _again(block, plan) if layer else 0
    launch_ps = software.launch_s * 1e12
    forward = block.forward.paced(forward_ps / software.efficiency, launch_ps)
    if plan.recompute == "full" and layer:
        backward = forward + block.backward.paced(backward_ps / software.efficiency, launch_ps)
    else:
        backward = block.backward.paced((backward_ps + again) / software.efficiency, launch_ps)
    weights = backward * min(block.backward.weights / max(backward_ps + again, 1), 1.0)
    launched = sum(block.forward.launches + block.backward.launches)
    both = max((block.both + again) / software.efficiency, launched * launch_ps)
    gather, reduce = exchanges.gather_ps(held), exchanges.reduce_ps(held, plan.gradient_bytes)
    return LayerTimes(round(forward), round(backward), round(weights), round(both), gather, reduce)


def _again(block: BlockPasses, plan: TrainPlan) -> int:
    """What a layer computes again in its backward pass."""
    forward = block.forward
    if plan.recompute == "full":
        return forward.hiding(plan.hidden)
    return {"none": 0, "selective": forward.cheap, "needed": forward.needed(plan.hidden)}[plan.recompute]


def stages_of(passes: tuple[BlockPasses, ...], stages: int) -> list[tuple[str, ...]]:
    """The blocks of each stage, in forward order."""
    layers = [block for block in passes if is_layer(block.name)]
    cost = {block.name: block.forward.time + block.backward.time for block in passes}
    usual = sum(cost[b.name] * b.repeat for b in layers) / max(sum(b.repeat for b in layers), 1)
    kinds = [block.name for block in layers for _ in range(block.repeat)]
    before = [b.name for b in passes if b.name.startswith("prologue") for _ in range(b.repeat)]
    after = [b.name for b in passes if b.name.startswith("epilogue") for _ in range(b.repeat)]
    first, last = (sum(cost[name] for name in side) / max(usual, 1) for side in (before, after))
    found = cut(kinds, partition(len(kinds), stages, first, last))
    found[0] = (*before, *found[0])
    found[-1] = (*found[-1], *after)
    return found


def hidden_bytes(job: TrainJob) -> float:
    """Bytes of the activations that a chip hands to the next stage."""
    embedding = next(op for block in job.graph.blocks for op in block.ops if op.kind == "embedding")
    return embedding.dims["rows"] * embedding.dims["cols"] * 2 / job.plan.tp


def update_ps(held: Sequence[Parameters], plan: TrainPlan, target: Target) -> int:
    """AdamW over this chip's share: a pass over gradients, fp32 weights and moments, and the weights in their type."""
    dense, experts = plan.dp * plan.cp, plan.tp * plan.cp * plan.dp // plan.ep
    count = sum(p.dense / (dense if plan.zero else 1) + p.experts / (experts if plan.zero else 1) for p in held)
    rows = max(round(count / 1024), 1)
    reads, writes = (plan.gradient_bytes + OPTIMIZER_BYTES) * rows * 1024, (OPTIMIZER_BYTES + 2) * rows * 1024
    state = Operand(0, "optimizer", reads, 4.0), Operand(1, "optimizer", writes, 4.0)
    task = Task("adamw", "elementwise", {"rows": rows, "cols": 1024}, {"fn": "adamw"}, "fp32", state[:1], state[1:], 0)
    kernel = Kernel("vector", (task,), task.inputs, task.outputs)
    bound = bound_kernels((kernel,), target)
    moved = (reads + writes) / target.dram_bytes_per_s
    return round(max(float(bound.seconds.sum()), moved) * 1e12)


def memory_of(costs: Costs, chunks: Sequence[Sequence[str]], alive: int, plan: TrainPlan) -> StageMemory:
    """The memory of a rank that holds `chunks` of blocks, of which `alive` had their activations kept at once."""
    names = [name for chunk in chunks for name in chunk]
    held, kept = [costs.held[name] for name in names], [costs.kept[plan.recompute][name] for name in names]
    each = sum(saved for saved, _ in kept) / max(len(chunks), 1)
    working = max((most for _, most in kept), default=0)
    return stage_memory(held, plan, gradient_bytes=plan.gradient_bytes, kept=each * alive, working=working)


def require_fit(job: TrainJob, memory: Sequence[StageMemory]) -> None:
    """InputError with the table of the fullest stage where a chip's memory does not suffice."""
    worst = max(range(len(memory)), key=lambda rank: memory[rank].total)
    need = memory[worst]
    if need.total <= job.chip.memory.usable_capacity:
        return
    parts = " + ".join(f"{n / 1e9:.1f} GB {label}" for label, n in need.rows())
    raise InputError(
        f"{job.trace.name} does not fit {job.system.name} ({job.plan}): a chip of stage {worst} would hold {parts} = "
        f"{need.total / 1e9:.1f} GB, but has {usable(job.chip.memory)}; use more tp, pp or ep, a higher zero, "
        "recompute full or a smaller micro-batch"
    )
