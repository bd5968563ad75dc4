"""One training step of a model on a system: from names to seconds, tokens per second, MFU and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from archsim.errors import InputError
from archsim.hardware import ChipSpec, SystemSpec
from archsim.pipeline.partition import is_layer
from archsim.pipeline.run import PipelineRun, run_pipeline
from archsim.pipeline.schedule import make_schedule
from archsim.trace import Trace
from archsim.training.costs import (
    Costs,
    Software,
    hidden_bytes,
    layer_times,
    measure,
    memory_of,
    require_fit,
    stages_of,
    update_ps,
)  # fmt: skip
from archsim.training.job import TrainJob, prepare_training
from archsim.training.memory import StageMemory
from archsim.training.plan import TrainPlan
from archsim.training.replicas import Exchanges
from archsim.training.result import TrainStep

__all__ = ["run_training", "simulate_training"]

FIDELITIES = ("roofline", "tile")
#: software that gets out of the kernels what is in them
KERNELS = Software()


def simulate_training(
    system: str | SystemSpec, workload: str | Trace, plan: TrainPlan, *, seq: int = 4096, precision: str = "bf16",
    attention: str = "fused", experts: str = "fused", routing: str | None = None, chip: str | ChipSpec | None = None,
    set: Mapping[str, str] | None = None, fidelity: str = "tile", software: Software = KERNELS, timeline: bool = False,
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
        experts: clamps and biases of experts "fused" into the kernels around them, or "eager" (Megatron-LM's gpt-oss).
        routing: of tokens to experts; by default "balanced", since auxiliary losses see to it in training.
        chip, set: another chip than the system's, and overrides of it.
        fidelity: "tile", or "roofline" for a lower bound of each pass.
        software: what it makes of the kernels; by default passes run as the kernels do.
        timeline: keep what every rank did.

    Raises InputError where a degree does not divide, or memory does not suffice.
    """
    job = prepare_training(
        system, workload, plan, seq=seq, precision=precision, attention=attention, experts=experts, routing=routing,
        chip=chip, set=set,
    )  # fmt: skip
    return run_training(job, fidelity=fidelity, software=software, timeline=timeline, seed=seed, progress=progress)


def run_training(
    job: TrainJob, *, fidelity: str = "tile", software: Software = KERNELS, timeline: bool = False, seed: int = 0,
    progress: Callable[[str], None] = lambda name: None, fit: bool = True,
) -> TrainStep:  # fmt: skip
    """Simulate a prepared step; without `fit` also one whose memory does not suffice."""
    if fidelity not in FIDELITIES:
        raise InputError(f"fidelity {fidelity}: must be one of {', '.join(FIDELITIES)}")
    plan = job.plan
    costs = measure(job, fidelity=fidelity, seed=seed, progress=progress)
    exchanges = Exchanges(plan, job.network)
    times = {b.name: layer_times(b, plan, exchanges, costs.held[b.name], software) for b in costs.passes}
    schedule = make_schedule(plan.schedule, plan.pp, plan.micro_batches, plan.virtual)
    stages = stages_of(costs.passes, schedule.stages)
    chunks = [[stages[chunk.stage] for chunk in schedule.chunks_of(rank)] for rank in range(plan.pp)]
    # with dualpipe a rank holds the weights of both directions; one update serves both copies
    updated = [[stages[rank]] for rank in range(plan.pp)] if plan.schedule == "dualpipe" else chunks
    update = [update_ps([costs.held[name] for part in each for name in part], plan, job.target) for each in updated]
    layers = {
        chunk: [times[name] for name in stages[chunk.stage]]
        for rank in range(plan.pp) for chunk in schedule.chunks_of(rank)
    }  # fmt: skip
    run = run_pipeline(
        schedule, layers, send_ps=exchanges.send_ps(hidden_bytes(job)), update_ps=update, overlap=plan.overlap,
        sharded=plan.zero >= 3, timeline=timeline,
    )  # fmt: skip
    memory = tuple(memory_of(costs, each, run.alive[rank], plan) for rank, each in enumerate(chunks))
    if fit:
        require_fit(job, memory)
    return _result(job, costs, run, memory, update, software)


def _result(
    job: TrainJob, costs: Costs, run: PipelineRun, memory: tuple[StageMemory, ...],
    update: list[int], software: Software,
) -> TrainStep:  # fmt: skip
    plan, passes = job.plan, costs.passes
    ways = {b.name: plan.recompute if is_layer(b.name) else "none" for b in passes}
    computed = sum(b.flops(ways[b.name]) * b.repeat for b in passes) * plan.micro_batches / plan.pp
    flops = model_flops(job) / (plan.micro_batch * job.seq)
    busy = sum(run.busy_ps) / len(run.busy_ps)
    exposed = max(run.time_ps - run.passes_ps - max(update), 0) / run.time_ps
    return TrainStep(
        plan, job.chip, job.system, job.trace.name, job.seq, job.precision, run.time_ps * 1e-12, flops, computed,
        1 - busy / run.passes_ps, exposed, memory, passes, tuple(run.spans), tuple(_notes(job, software)),
    )  # fmt: skip


def _notes(job: TrainJob, software: Software) -> list[str]:
    notes = [f"the description of {job.chip.name} is an estimate: {job.chip.title}"] if job.chip.estimated else []
    notes.append("one chip of each stage stands for its replicas, which work alike")
    if job.facts.experts:
        notes.append(f"tokens are routed to experts: {job.routing or 'balanced, as auxiliary losses see to'}")
    if software != KERNELS:
        notes.append(
            f"passes are taken to reach {software.efficiency:.0%} of the simulated speed, and to take at least "
            f"{software.launch_s * 1e6:g} us an operator (an assumption)"
        )
    notes.append("activation memory is an estimate")
    return notes


def model_flops(job: TrainJob) -> float:
    """Thrice the products and attention of the forward pass of one micro-batch of whole sequences."""
    graph = job.graph if job.plan.cp == 1 else job.trace.at(batch=job.plan.micro_batch, seq=job.seq)
    kinds = ("matmul", "grouped_matmul", "attention")
    return 3.0 * sum(
        op.flops * block.repeat for block in graph.blocks for op in block.ops
        if op.kind in kinds and op.attrs.get("pass") == "forward"
    )  # fmt: skip
