"""One training step of a model on a system: from names to seconds, tokens per second, MFU and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from archsim.errors import InputError
from archsim.hardware import ChipSpec, SystemSpec, load_chip, load_system
from archsim.mapping import Kernel, KernelBlock, Target, bound_kernels, make_target
from archsim.mapping.task import Operand, Task
from archsim.network import Fabric
from archsim.simulation.job import links_of
from archsim.trace import Graph, Trace, load_workload
from archsim.trace.mixed_precision import PRECISIONS, mixed_precision
from archsim.trace.unfused import ATTENTIONS, unfused_attention
from archsim.training.memory import OPTIMIZER_BYTES, StageMemory, saved_bytes, stage_memory
from archsim.training.partition import cut, partition
from archsim.training.passes import BlockPasses, simulate_passes
from archsim.training.pipeline import LayerTimes, PipelineRun, Span, run_pipeline
from archsim.training.plan import ModelFacts, TrainPlan, check
from archsim.training.replicas import Exchanges, Parameters, parameters
from archsim.training.schedule import make_schedule

__all__ = ["TrainJob", "TrainStep", "prepare_training", "simulate_training"]

#: bytes of a gradient as it is summed up and reduced (Megatron-LM's accumulate_allreduce_grads_in_fp32)
GRADIENT_BYTES = 4
FIDELITIES = ("roofline", "tile")


@dataclass(frozen=True, eq=False)
class TrainStep:
    """What came out of a step.

    time_s: of the step. flops_per_token: of the model, as usual thrice the products and attention of its forward pass,
    a causal mask counted as what it lets through. computed_flops: what one chip computes, recomputation included.
    bubble: share of the passes in which the mean rank waits. exposed: share of the step in which the network alone
    works (before the first and after the last pass). stages: memory of each rank. passes: of each block.
    """

    plan: TrainPlan
    chip: ChipSpec
    system: SystemSpec
    workload: str
    seq: int
    precision: str
    time_s: float
    flops_per_token: float
    computed_flops: float
    bubble: float
    exposed: float
    stages: tuple[StageMemory, ...]
    passes: tuple[BlockPasses, ...]
    spans: tuple[Span, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        return self.plan.batch * self.seq

    @property
    def tokens_per_s(self) -> float:
        """Of the whole system."""
        return self.tokens / self.time_s

    @property
    def model_flops(self) -> float:
        """Model FLOP/s of one chip."""
        return self.flops_per_token * self.tokens_per_s / self.plan.chips

    @property
    def mfu(self) -> float:
        """Model FLOP/s over the dense bf16 peak of the chip, as is usual also where products are narrower."""
        return self.model_flops / self.chip.flops("bf16")

    @property
    def hfu(self) -> float:
        """The same with what is computed again."""
        return self.computed_flops / self.time_s / self.chip.flops("bf16")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; keys carry their units."""
        from dataclasses import asdict

        return {
            "workload": self.workload, "system": self.system.name, "chip": self.chip.name, "chips": self.plan.chips,
            "precision": self.precision, "plan": asdict(self.plan), "seq": self.seq, "time_s": self.time_s,
            "tokens": self.tokens, "tokens_per_s": self.tokens_per_s,
            "tokens_per_s_per_chip": self.tokens_per_s / self.plan.chips,
            "model_flops_per_s_per_chip": self.model_flops, "mfu": self.mfu, "hfu": self.hfu, "bubble": self.bubble,
            "exposed_network": self.exposed,
            "memory_bytes": [dict(stage.rows()) for stage in self.stages],
            "memory_capacity_bytes": int(self.chip.memory.capacity),
            "passes": [
                {
                    "block": b.name, "repeat": b.repeat, "forward_s": b.forward.time * 1e-12,
                    "backward_s": b.backward.time * 1e-12, "weight_gradients_s": b.backward.weights * 1e-12,
                    "collectives_s": (b.forward.collectives + b.backward.collectives) * 1e-12,
                }
                for b in self.passes
            ],
            "notes": list(self.notes),
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class TrainJob:
    """A step with names resolved; `graph` is one micro-batch of one chip's tokens."""

    plan: TrainPlan
    chip: ChipSpec
    system: SystemSpec
    trace: Trace
    graph: Graph
    network: Fabric | None
    seq: int
    precision: str
    routing: str | None = None
    facts: ModelFacts = field(default=ModelFacts(1, 0, 1, 1))


def simulate_training(
    system: str | SystemSpec, workload: str | Trace, plan: TrainPlan, *, seq: int = 4096, precision: str = "bf16",
    attention: str = "fused", routing: str | None = None, chip: str | ChipSpec | None = None,
    set: Mapping[str, str] | None = None, fidelity: str = "tile", efficiency: float = 1.0, timeline: bool = False,
    seed: int = 0, progress: Callable[[str], None] = lambda name: None,
) -> TrainStep:  # fmt: skip
    """Simulate one training step.

    Args:
        system: preset or path of a system; `plan` must use all of its chips.
        workload: name of a shipped workload, path of a trace of the phase "train", or a trace.
        plan: degrees of parallelism, micro-batch and batch, schedule.
        seq: tokens of a sequence.
        precision: of the products of linear layers: "bf16", "fp8" (block scales, as DeepSeek-V3 trains), "fp8-tensor"
            or "mxfp8".
        attention: "fused" (flash attention) or "unfused".
        routing: of tokens to experts; by default "balanced", since auxiliary losses see to it in training.
        chip, set: another chip than the system's, and overrides of it.
        fidelity: "tile", or "roofline" for a lower bound of each pass.
        efficiency: share of the simulated speed of the passes that the software reaches; 1 is the kernels' own.
        timeline: keep what every rank did.

    Raises InputError where a degree does not divide, or memory does not suffice.
    """
    job = prepare_training(
        system, workload, plan, seq=seq, precision=precision, attention=attention, routing=routing, chip=chip, set=set
    )  # fmt: skip
    return run_training(job, fidelity=fidelity, efficiency=efficiency, timeline=timeline, seed=seed, progress=progress)


def prepare_training(
    system: str | SystemSpec, workload: str | Trace, plan: TrainPlan, *, seq: int = 4096, precision: str = "bf16",
    attention: str = "fused", routing: str | None = None, chip: str | ChipSpec | None = None,
    set: Mapping[str, str] | None = None,
) -> TrainJob:  # fmt: skip
    """Resolve names and check the plan; memory is checked by :func:`run_training`, which knows what is kept."""
    from archsim.trace import routed

    where = load_system(system) if isinstance(system, str) else system
    wanted = chip or where.chip
    if set and not isinstance(wanted, str):
        raise InputError("overrides need the chip's name or path; a ChipSpec is final")
    spec = load_chip(wanted, dict(set or {})) if isinstance(wanted, str) else wanted
    trace = load_workload(workload, "train") if isinstance(workload, str) else workload
    if trace.phase != "train":
        raise InputError(f"the trace {trace.name} holds the {trace.phase} phase, not train")
    if seq < 1:
        raise InputError(f"seq {seq}: must be a whole number, at least 1")
    facts = _facts(trace, seq)
    check(plan, facts, where.chips, where.name)
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision}: must be one of {', '.join(PRECISIONS)}")
    if attention not in ATTENTIONS:
        raise InputError(f"attention {attention}: must be one of {', '.join(ATTENTIONS)}")
    if attention == "unfused":
        trace = unfused_attention(trace)
    trace = mixed_precision(trace, precision)
    if facts.experts:
        trace = routed(trace, routing or "balanced")
    graph = trace.at(batch=plan.micro_batch, seq=seq // plan.cp)
    network = Fabric.of(where, spec) if where.chips > 1 else None
    return TrainJob(plan, spec, where, trace, graph, network, seq, precision, routing, facts)


def run_training(
    job: TrainJob, *, fidelity: str = "tile", efficiency: float = 1.0, timeline: bool = False, seed: int = 0,
    progress: Callable[[str], None] = lambda name: None, fit: bool = True,
) -> TrainStep:  # fmt: skip
    """Simulate a prepared step; without `fit` also one whose memory does not suffice."""
    if fidelity not in FIDELITIES:
        raise InputError(f"fidelity {fidelity}: must be one of {', '.join(FIDELITIES)}")
    if not 0 < efficiency <= 1:
        raise InputError(f"efficiency {efficiency}: must be more than 0 and at most 1")
    plan = job.plan
    shares = (plan.zero >= 3 and plan.dp > 1) or (plan.schedule == "dualpipe" and plan.ep > 1)
    passes, tasks = simulate_passes(
        job.graph, plan.layer, job.chip, links_of(job.chip, job.system), job.network, fidelity=fidelity,
        beside=shares, seed=seed, progress=progress,
    )  # fmt: skip
    blocks = {block.name: block for block in tasks}
    held = {block.name: parameters(job.graph, blocks[block.name], plan) for block in passes}
    kept = {block.name: saved_bytes(blocks[block.name], blocks[f"{block.name}.backward"], plan) for block in passes}
    exchanges = Exchanges(plan, job.network)
    times = {block.name: _times(block, plan, exchanges, held[block.name], efficiency) for block in passes}
    schedule = make_schedule(plan.schedule, plan.pp, plan.micro_batches, plan.virtual)
    stages = _stages(passes, schedule.stages)
    hidden = _hidden_bytes(job)
    target = make_target(job.chip)
    ranks = range(plan.pp)
    of_rank = [[name for chunk in schedule.chunks_of(rank) for name in stages[chunk.stage]] for rank in ranks]
    if plan.schedule == "dualpipe":  # each rank holds the weights of both directions; one update serves both copies
        distinct = [list(stages[rank]) for rank in ranks]
    else:
        distinct = of_rank
    update = [_update_ps([held[name] for name in names], plan, target) for names in distinct]
    run = run_pipeline(
        schedule, {chunk: [times[name] for name in stages[chunk.stage]] for rank in ranks
                   for chunk in schedule.chunks_of(rank)},
        send_ps=exchanges.send_ps(hidden), update_ps=update, overlap=plan.overlap, sharded=plan.zero >= 3,
        timeline=timeline,
    )  # fmt: skip
    memory = tuple(
        _memory(run, rank, [held[n] for n in of_rank[rank]], [kept[n] for n in of_rank[rank]],
                len(schedule.chunks_of(rank)), plan) for rank in ranks
    )  # fmt: skip
    if fit:
        _require_fit(job, memory)
    return _result(job, passes, run, memory, update, efficiency)


def _result(
    job: TrainJob, passes: tuple[BlockPasses, ...], run: PipelineRun, memory: tuple[StageMemory, ...],
    update: list[int], efficiency: float,
) -> TrainStep:  # fmt: skip
    plan = job.plan
    again = 1 if plan.recompute == "full" else 0
    computed = sum(
        ((1 + again) * b.forward.flops + b.backward.flops) * b.repeat for b in passes
    ) * plan.micro_batches / plan.pp  # fmt: skip
    flops = _model_flops(job) / (plan.micro_batch * job.seq)
    busy = sum(run.busy_ps) / len(run.busy_ps)
    exposed = max(run.time_ps - run.passes_ps - max(update), 0) / run.time_ps
    return TrainStep(
        plan, job.chip, job.system, job.trace.name, job.seq, job.precision, run.time_ps * 1e-12, flops, computed,
        1 - busy / run.passes_ps, exposed, memory, passes, tuple(run.spans), tuple(_notes(job, efficiency)),
    )  # fmt: skip


def _notes(job: TrainJob, efficiency: float) -> list[str]:
    notes = [f"the description of {job.chip.name} is an estimate: {job.chip.title}"] if job.chip.estimated else []
    notes.append("one chip of each stage stands for its replicas, which work alike")
    if job.facts.experts:
        notes.append(f"tokens are routed to experts: {job.routing or 'balanced, as auxiliary losses see to'}")
    if efficiency < 1:
        notes.append(f"passes are taken to run at {efficiency:.0%} of the simulated speed (an assumption)")
    notes.append("activation memory is an estimate")
    return notes


# pieces -------------------------------------------------------------------------------------------------------


def _facts(trace: Trace, seq: int) -> ModelFacts:
    graph = trace.at(batch=1, seq=seq)
    ops = [op for block in graph.blocks for op in block.ops]
    heads = next((op.dims["heads"] for op in ops if op.kind == "attention"), 1)
    experts = next((op.dims["experts"] for op in ops if op.kind == "grouped_matmul"), 0)
    layers = sum(block.repeat for block in graph.blocks if _is_layer(block.name))
    return ModelFacts(heads, experts, layers, seq)


def _is_layer(name: str) -> bool:
    return not name.startswith(("prologue", "epilogue")) and "." not in name


def _times(
    block: BlockPasses, plan: TrainPlan, exchanges: Exchanges, held: Parameters, efficiency: float
) -> LayerTimes:
    repeated = {"none": 0, "selective": block.forward.cheap, "full": block.forward.time}[plan.recompute]
    again = repeated if _is_layer(block.name) else 0
    whole = (block.forward.time, block.backward.time + again, block.backward.weights, block.both + again)
    forward, backward, weights, both = (round(ps / efficiency) for ps in whole)
    gather, reduce = exchanges.gather_ps(held), exchanges.reduce_ps(held, GRADIENT_BYTES)
    return LayerTimes(forward, backward, weights, both, gather, reduce)


def _stages(passes: tuple[BlockPasses, ...], stages: int) -> list[tuple[str, ...]]:
    """The blocks of each stage, in forward order."""
    layers = [block for block in passes if _is_layer(block.name)]
    cost = {block.name: block.forward.time + block.backward.time for block in passes}
    usual = sum(cost[b.name] * b.repeat for b in layers) / max(sum(b.repeat for b in layers), 1)
    kinds = [block.name for block in layers for _ in range(block.repeat)]
    before = [b.name for b in passes if b.name.startswith("prologue")]
    after = [b.name for b in passes if b.name.startswith("epilogue")]
    first, last = (sum(cost[name] for name in side) / max(usual, 1) for side in (before, after))
    found = cut(kinds, partition(len(kinds), stages, first, last))
    found[0] = (*before, *found[0])
    found[-1] = (*found[-1], *after)
    return found


def _hidden_bytes(job: TrainJob) -> float:
    """Bytes of the activations that a chip hands to the next stage."""
    embedding = next(op for block in job.graph.blocks for op in block.ops if op.kind == "embedding")
    return embedding.dims["rows"] * embedding.dims["cols"] * 2 / job.plan.tp


def _update_ps(held: list[Parameters], plan: TrainPlan, target: Target) -> int:
    """AdamW over this chip's share: a pass over gradients, fp32 weights and moments, and the weights in their type."""
    dense, experts = plan.dp * plan.cp, plan.tp * plan.cp * plan.dp // plan.ep
    count = sum(p.dense / (dense if plan.zero else 1) + p.experts / (experts if plan.zero else 1) for p in held)
    rows = max(round(count / 1024), 1)
    reads, writes = (GRADIENT_BYTES + OPTIMIZER_BYTES) * rows * 1024, (OPTIMIZER_BYTES + 2) * rows * 1024
    state = Operand(0, "optimizer", reads, 4.0), Operand(1, "optimizer", writes, 4.0)
    task = Task("adamw", "elementwise", {"rows": rows, "cols": 1024}, {"fn": "adamw"}, "fp32", state[:1], state[1:], 0)
    kernel = Kernel("vector", (task,), task.inputs, task.outputs)
    bound = bound_kernels(KernelBlock("update", 1, (kernel,)).kernels, target)
    moved = (reads + writes) / target.dram_bytes_per_s
    return round(max(float(bound.seconds.sum()), moved) * 1e12)


def _memory(
    run: PipelineRun, rank: int, held: list[Parameters], kept: list[tuple[int, int]], chunks: int, plan: TrainPlan
) -> StageMemory:
    """A rank keeps the activations of as many chunks as were alive at once."""
    each = sum(saved for saved, _ in kept) / max(chunks, 1)
    working = max((most for _, most in kept), default=0)
    return stage_memory(held, plan, gradient_bytes=GRADIENT_BYTES, kept=each * run.alive[rank], working=working)


def _require_fit(job: TrainJob, memory: tuple[StageMemory, ...]) -> None:
    capacity = job.chip.memory.usable_capacity
    worst = max(range(len(memory)), key=lambda rank: memory[rank].total)
    need = memory[worst]
    if need.total <= capacity:
        return
    parts = " + ".join(f"{n / 1e9:.1f} GB {label}" for label, n in need.rows())
    raise InputError(
        f"{job.trace.name} does not fit {job.system.name} ({job.plan}): a chip of stage {worst} would hold {parts} = "
        f"{need.total / 1e9:.1f} GB, but has {capacity / 1e9:.1f} GB; use more tp, pp or ep, a higher zero, "
        "recompute full or a smaller micro-batch"
    )


def _model_flops(job: TrainJob) -> float:
    """Thrice the products and attention of the forward pass of one micro-batch of whole sequences."""
    graph = job.graph if job.plan.cp == 1 else job.trace.at(batch=job.plan.micro_batch, seq=job.seq)
    kinds = ("matmul", "grouped_matmul", "attention")
    return 3.0 * sum(
        op.flops * block.repeat for block in graph.blocks for op in block.ops
        if op.kind in kinds and op.attrs.get("pass") == "forward"
    )  # fmt: skip


def with_plan(job: TrainJob, **changes: Any) -> TrainJob:
    """The same step by another plan."""
    plan = replace(job.plan, **changes)
    check(plan, job.facts, job.system.chips, job.system.name)
    graph = job.trace.at(batch=plan.micro_batch, seq=job.seq // plan.cp)
    return replace(job, plan=plan, graph=graph)
