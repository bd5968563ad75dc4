"""A training step with names resolved and its plan checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from archsim.errors import InputError
from archsim.hardware import ChipSpec, SystemSpec, load_system
from archsim.mapping import Target, make_target
from archsim.network import Fabric
from archsim.physical import load_variant
from archsim.pipeline.partition import is_layer
from archsim.simulation.collectives import attach
from archsim.trace import Graph, Trace, load_workload, routed
from archsim.trace.eager_experts import eager_experts
from archsim.trace.mixed_precision import PRECISIONS, mixed_precision
from archsim.trace.unfused import ATTENTIONS, unfused_attention
from archsim.training.plan import ModelFacts, TrainPlan, check

__all__ = ["TrainJob", "facts_of", "prepare_training", "with_plan"]


@dataclass(frozen=True, eq=False)
class TrainJob:
    """A step with names resolved. trace: quantised and routed."""

    plan: TrainPlan
    chip: ChipSpec
    system: SystemSpec
    trace: Trace
    network: Fabric | None
    target: Target
    seq: int
    precision: str
    facts: ModelFacts
    routing: str | None = None

    graphs: dict[tuple[int, int], Graph] = field(default_factory=dict)
    """Evaluated so far, by micro-batch and tokens; jobs of one search share them."""

    @property
    def graph(self) -> Graph:
        """A micro-batch of one chip's tokens."""
        sizes = self.plan.micro_batch, self.seq // self.plan.cp
        if sizes not in self.graphs:
            self.graphs[sizes] = self.trace.at(batch=sizes[0], seq=sizes[1])
        return self.graphs[sizes]


def prepare_training(
    system: str | SystemSpec, workload: str | Trace, plan: TrainPlan, *, seq: int = 4096, precision: str = "bf16",
    attention: str = "fused", experts: str = "fused", routing: str | None = None, chip: str | ChipSpec | None = None,
    set: Mapping[str, str] | None = None,
) -> TrainJob:  # fmt: skip
    """Resolve names and check the plan; memory is checked when it runs, since what is kept is known then."""
    where = load_system(system) if isinstance(system, str) else system
    wanted = chip or where.chip
    if set and not isinstance(wanted, str):
        raise InputError("overrides need the chip's name or path; a ChipSpec is final")
    spec = load_variant(wanted, set) if isinstance(wanted, str) else wanted
    trace = load_workload(workload, "train") if isinstance(workload, str) else workload
    if trace.phase != "train":
        raise InputError(f"the trace {trace.name} holds the {trace.phase} phase, not train")
    if seq < 1:
        raise InputError(f"seq {seq}: must be a whole number, at least 1")
    facts = facts_of(trace, seq)
    check(plan, facts, where.chips, where.name)
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision}: must be one of {', '.join(PRECISIONS)}")
    if attention not in ATTENTIONS:
        raise InputError(f"attention {attention}: must be one of {', '.join(ATTENTIONS)}")
    if attention == "unfused":
        trace = unfused_attention(trace)
    trace = eager_experts(trace, experts)
    trace = mixed_precision(trace, precision)
    if facts.experts:
        trace = routed(trace, routing or "balanced")
    network = Fabric.of(where, spec) if where.chips > 1 else None
    target = make_target(spec)
    if network is not None:
        target = attach(target, network)
    return TrainJob(plan, spec, where, trace, network, target, seq, precision, facts, routing)


def with_plan(job: TrainJob, plan: TrainPlan) -> TrainJob:
    """The same step by another plan."""
    check(plan, job.facts, job.system.chips, job.system.name)
    return replace(job, plan=plan)


def facts_of(trace: Trace, seq: int) -> ModelFacts:
    """What degrees of parallelism have to divide."""
    graph = trace.at(batch=1, seq=seq)
    ops = [op for block in graph.blocks for op in block.ops]
    heads = next((op.dims["heads"] for op in ops if op.kind == "attention"), 1)
    experts = next((op.dims["experts"] for op in ops if op.kind == "grouped_matmul"), 0)
    layers = sum(block.repeat for block in graph.blocks if is_layer(block.name))
    return ModelFacts(heads, experts, layers, seq)
