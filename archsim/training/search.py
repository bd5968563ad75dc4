"""Which plan? All legal ones in closed form, with the reason why some do not fit; the best are simulated.

The closed form adds up what the schedule of a plan is known to take, from lower bounds of the passes::

    T = (m + bubble) max_stage (F + B) + update + max(0, reduce - B) + max(0, gather - F)        zero <= 2
    T = (m + bubble) max_stage sum_layers (max(F, gather) + max(B, gather + reduce)) + update     zero 3

======== =============================================================== ======
symbol   meaning                                                         unit
======== =============================================================== ======
m        micro-batches of a replica                                      1
bubble   (p - 1) / v                                                      1
F, B     forward and backward pass of a stage for a micro-batch          s
p, v     pipeline stages, chunks of each                                 1
======== =============================================================== ======

Reference: Narayanan et al., "Efficient large-scale language model training", 2021, section 2.2. Gradients of all but
the last micro-batch hide; transfers between stages are left out. Good for a ranking, not for a figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from archsim.errors import InputError
from archsim.hardware import SystemSpec, load_system
from archsim.models.collective import Level, all_gather, all_reduce, over_nodes, reduce_scatter
from archsim.network import Fabric, Group
from archsim.pipeline.run import LayerTimes
from archsim.simulation.links import links_of
from archsim.trace import Trace
from archsim.training.costs import Costs, Software, layer_times, measure, memory_of, stages_of, update_ps
from archsim.training.job import TrainJob, prepare_training, with_plan
from archsim.training.memory import StageMemory
from archsim.training.plan import TrainPlan
from archsim.training.replicas import Exchanges

__all__ = ["Candidate", "legal_plans", "search_training"]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A plan with the closed form of its step, and the memory of its fullest stage. fits: whether a chip holds that."""

    job: TrainJob
    time_s: float
    memory: StageMemory
    fits: bool

    @property
    def plan(self) -> TrainPlan:
        return self.job.plan


def search_training(
    system: str | SystemSpec, workload: str | Trace, *, batch: int, seq: int = 4096,
    progress: Callable[[int, int], None] = lambda done, total: None, **options: Any,
) -> list[Candidate]:  # fmt: skip
    """Every legal plan of the closed form, those that fit first, the fastest first.

    options: as of :func:`archsim.training.simulate_training` (precision, attention, routing, chip, set).
    """
    where = load_system(system) if isinstance(system, str) else system
    chips = where.chips
    base = prepare_training(where, workload, TrainPlan(dp=chips, batch=chips), seq=seq, **options)
    plans = list(legal_plans(base, batch))
    if not plans:
        raise InputError(f"batch {batch}: no plan for {chips} chips divides it; a multiple of {chips} is safe")
    known: dict[tuple[object, ...], Costs] = {}
    found = []
    for number, job in enumerate(plans):
        plan = job.plan
        key = (plan.tp, plan.cp, plan.ep, plan.micro_batch, plan.zero >= 3)  # what the passes depend on
        if key not in known:
            known[key] = measure(job, fidelity="roofline")
        found.append(_candidate(job, known[key]))
        progress(number + 1, len(plans))
    return sorted(found, key=lambda c: (not c.fits, c.time_s if c.fits else c.memory.total))


def legal_plans(base: TrainJob, batch: int) -> Iterator[TrainJob]:
    """All plans that divide what they must: degrees, chunks (1F1B), micro-batches of 1 to 8, ZeRO 1, recomputation.

    ZeRO 3 only without stages, where weights need not be gathered anew for every micro-batch of a stage.
    """
    chips, node = base.system.chips, base.system.chips_per_node
    facts = base.facts
    for tp, cp, pp in product(_divisors(min(node, facts.heads)), (1, 2, 4, 8), _divisors(facts.layers, most=chips)):
        dp, left = divmod(chips, tp * cp * pp)
        if left or batch % dp:
            continue
        stage = tp * cp * dp
        degrees = [ep for ep in _divisors(facts.experts) if stage % ep == 0 and ep % tp == 0] if facts.experts else []
        for ep, micro, zero, again in product({1, *degrees}, (1, 2, 4, 8), (1, 3), ("none", "selective", "full")):
            for virtual in (1, 2, 4) if pp > 1 else (1,):
                plan = TrainPlan(
                    tp=tp, cp=cp, pp=pp, dp=dp, ep=ep, sp=tp > 1, virtual=virtual, zero=zero, recompute=again,
                    micro_batch=micro, batch=batch,
                )  # fmt: skip
                if not fabric_fits(base.network, plan):
                    continue
                if zero == 3 and (dp == 1 or pp > 1):
                    continue
                try:
                    yield with_plan(base, plan)
                except InputError:
                    continue


def _divisors(whole: int, most: int | None = None) -> list[int]:
    return [d for d in range(1, min(whole, most or whole) + 1) if whole % d == 0 or (most and d & (d - 1) == 0)]


def _candidate(job: TrainJob, costs: Costs) -> Candidate:
    plan = job.plan
    bounds = _Bounds(plan, job)
    times = {b.name: layer_times(b, plan, bounds, costs.held[b.name], Software()) for b in costs.passes}
    stages = stages_of(costs.passes, plan.pp * plan.virtual)
    ranks = [[stages[chunk * plan.pp + rank] for chunk in range(plan.virtual)] for rank in range(plan.pp)]
    names = [[name for part in rank for name in part] for rank in ranks]
    update = max(update_ps([costs.held[n] for n in rank], plan, job.target) for rank in names)
    seconds = (_step_ps(plan, [[times[n] for n in rank] for rank in names]) + update) * 1e-12
    memory = max(
        (memory_of(costs, rank, _alive(plan, number), plan) for number, rank in enumerate(ranks)),
        key=lambda stage: stage.total,
    )
    return Candidate(job, seconds, memory, memory.total <= job.chip.memory.usable_capacity)


def _step_ps(plan: TrainPlan, ranks: list[list[LayerTimes]]) -> float:
    """The closed form, without the update."""
    if plan.zero >= 3:
        each = max(sum(max(t.forward, t.gather) + max(t.backward, t.gather + t.reduce) for t in rank) for rank in ranks)
        return (plan.micro_batches + plan.pp - 1) * each
    longest, last = 0, 0
    for rank in ranks:
        forward, backward = sum(t.forward for t in rank), sum(t.backward for t in rank)
        longest = max(longest, forward + backward)
        exposed = max(sum(t.reduce for t in rank) - backward, 0) + max(sum(t.gather for t in rank) - forward, 0)
        last = max(last, exposed)
    return (plan.micro_batches + (plan.pp - 1) / plan.virtual) * longest + last


def _alive(plan: TrainPlan, rank: int) -> int:
    """Chunks x micro-batches whose activations a rank keeps at most (1F1B)."""
    if plan.virtual == 1:
        return min(plan.pp - rank, plan.micro_batches)
    most = 2 * (plan.pp - rank - 1) + (plan.virtual - 1) * plan.pp + 1
    return min(most, plan.micro_batches * plan.virtual)


class _Bounds(Exchanges):
    """Collectives by what no algorithm can beat, so that a plan costs microseconds."""

    def __init__(self, plan: TrainPlan, job: TrainJob) -> None:
        super().__init__(plan, job.network)
        self.links = links_of(job.chip, job.system)

    def _run(self, kind: str, nbytes: float, group: Group) -> int:
        if self.links is None or group.size == 1 or nbytes < 1:
            return 0
        bound: Mapping[str, Callable[[float, int, Level], float]] = {
            "all_reduce": all_reduce, "all_gather": all_gather, "reduce_scatter": reduce_scatter,
        }  # fmt: skip
        inside, outside = self.links.inside, self.links.outside
        near = max(self.links.chips_per_node // group.stride, 1)
        return round(over_nodes(bound[kind], nbytes, group.size, near, inside, outside) * 1e12)


def fabric_fits(network: Fabric | None, plan: TrainPlan) -> bool:
    """Whether the groups of a plan lie on the fabric."""
    groups = (Group(plan.tp), Group(plan.dp * plan.cp, plan.tp))
    return network is None or all(group.size == 1 or network.fits(group) for group in groups)
