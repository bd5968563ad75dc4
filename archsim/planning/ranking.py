"""Rankings of plans: of an inference step by its roofline, of a training step by the closed form of its schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from archsim.errors import InputError
from archsim.hardware import SystemSpec, load_chip, load_system
from archsim.mapping.plan import Plan, tensor_degrees
from archsim.simulation import StagedJob, run_job, run_staged, staged_candidates
from archsim.simulation.job import Job
from archsim.simulation.options import Options
from archsim.simulation.setting import candidates
from archsim.trace import Trace, load_workload
from archsim.training.plan import TrainPlan
from archsim.training.search import search_training
from archsim.training.step import run_training

__all__ = ["Ranked", "Ranking", "rank_inference", "rank_training"]


@dataclass(frozen=True)
class Ranked:
    """A plan that fits. bound_s: the closed form. memory_bytes: of the fullest chip. time_s: simulated, or None.

    degrees: of the plan; of an inference step also redundant experts, and whether halves of the batch take turns.
    """

    plan: str
    degrees: dict[str, Any]
    bound_s: float
    memory_bytes: int
    tokens: int
    chips: int
    time_s: float | None = None

    @property
    def seconds(self) -> float:
        """What is known best."""
        return self.bound_s if self.time_s is None else self.time_s

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"tokens_per_s": self.tokens_per_s}


@dataclass(frozen=True)
class Ranking:
    """Plans that fit, the best first (simulated ones by their time, before the others), and why others do not."""

    system: str
    chip: str
    workload: str
    phase: str
    capacity_bytes: int
    fitting: tuple[Ranked, ...]
    refused: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; keys carry their units."""
        kept = ("system", "chip", "workload", "phase", "capacity_bytes")
        return {key: getattr(self, key) for key in kept} | {
            "plans": [ranked.to_dict() for ranked in self.fitting],
            "refused": [{"plan": plan, "why": why} for plan, why in self.refused],
            "notes": list(self.notes),
        }


def rank_inference(
    system: str | SystemSpec, workload: str | Trace, options: Options, *, cp: int | None = None, pp: int | None = None,
    simulated: int = 3, progress: Callable[[int, int], None] = lambda done, total: None,
) -> Ranking:  # fmt: skip
    """Every way to spread a prefill or decode step; InputError where none fits.

    Tensor and expert parallelism as `options` say, or all, with as many redundant experts as fill all chips alike;
    context (`cp`) and pipeline parallelism (`pp`) as given, or 1, 2, 4 and 8. progress: of looking at plans, then of
    simulating them.
    """
    where = load_system(system) if isinstance(system, str) else system
    chip = load_chip(where.chip)
    trace = load_workload(workload, options.phase) if isinstance(workload, str) else workload
    refused: list[tuple[str, str]] = []
    jobs: list[tuple[float, Job | StagedJob]] = []
    ways = list(_ways(where, trace, options, cp, pp))
    for done, way in enumerate(ways):
        try:
            those = (candidates if way.pp == 1 else staged_candidates)(chip, trace, way, where)
            jobs += [(job.bound_s(), job) for job in those]
        except InputError as error:
            assert way.tp is not None
            dp = where.chips // (way.tp * way.cp * way.pp)
            refused.append((str(Plan(way.tp, dp, way.ep or 1, way.cp, pp=way.pp)), str(error)))
        progress(done + 1, len(ways) + simulated)
    if not jobs:  # all were refused; of those without stages the last is cut the most
        plain = [why for way, (_, why) in zip(ways, refused, strict=True) if way.cp * way.pp == ways[0].cp * ways[0].pp]
        raise InputError(plain[-1])
    jobs.sort(key=lambda each: each[0])
    found = []
    for number, (bound_s, job) in enumerate(jobs):
        time = None
        if number < simulated:
            time = (run_job(job) if isinstance(job, Job) else run_staged(job)).time_s
            progress(len(ways) + number + 1, len(ways) + simulated)
        first = job if isinstance(job, Job) else job.stages[0]
        degrees = {"tp": job.plan.tp, "dp": job.plan.dp, "ep": job.plan.ep, "cp": job.plan.cp, "pp": job.plan.pp,
                   "redundant": job.plan.redundant, "halves": first.micro_batches == 2}  # fmt: skip
        found.append(Ranked(str(job.plan), degrees, bound_s, job.need.total, job.tokens, where.chips, time))
    return Ranking(
        where.name, chip.name, trace.name, options.phase, int(chip.memory.usable_capacity), _sorted(found),
        tuple(refused), tuple(jobs[0][1].notes()),
    )  # fmt: skip


def rank_training(
    system: str | SystemSpec, workload: str | Trace, *, batch: int, seq: int = 4096, simulated: int = 3,
    progress: Callable[[int, int], None] = lambda done, total: None, **options: Any,
) -> Ranking:  # fmt: skip
    """Every legal plan of a training step; options as of `archsim.training.simulate_training`."""
    found = search_training(system, workload, batch=batch, seq=seq, progress=progress, **options)
    job = found[0].job
    fitting: list[Ranked] = []
    refused: list[tuple[str, str]] = []
    for candidate in found:
        if not candidate.fits:
            parts = ", ".join(f"{n / 1e9:.1f} GB {label}" for label, n in candidate.memory.rows())
            refused.append((_name(candidate.plan), f"holds {candidate.memory.total / 1e9:.1f} GB a chip ({parts})"))
            continue
        time = None
        if len(fitting) < simulated:
            time = run_training(candidate.job, fit=False).time_s
        fitting.append(
            Ranked(
                _name(candidate.plan), asdict(candidate.plan), candidate.time_s, candidate.memory.total,
                batch * seq, candidate.plan.chips, time,
            )
        )  # fmt: skip
    capacity = int(job.chip.memory.usable_capacity)
    if not fitting:
        plan, why = refused[0]
        raise InputError(
            f"{job.trace.name} does not fit {job.system.name} by any of {len(refused)} plans; {plan} comes closest: it "
            f"{why}, and a chip has {capacity / 1e9:.1f} GB"
        )
    return Ranking(
        job.system.name, job.chip.name, job.trace.name, "train", capacity, _sorted(fitting), tuple(refused),
        ("activation memory is an estimate",),
    )  # fmt: skip


def _name(plan: TrainPlan) -> str:
    degrees, _, rest = str(plan).partition(", ")
    return f"{degrees}, micro-batch {plan.micro_batch}" + (f", {rest}" if rest else "")


def _sorted(found: list[Ranked]) -> tuple[Ranked, ...]:
    return tuple(sorted(found, key=lambda ranked: (ranked.time_s is None, ranked.seconds)))


def _ways(system: SystemSpec, trace: Trace, options: Options, cp: int | None, pp: int | None) -> Iterator[Options]:
    """The options of every plan whose degrees divide the chips."""
    for stages in _tried(pp):
        for share in _tried(cp):
            if system.chips % (stages * share) and (stages, share) != (pp or 1, cp or 1):
                continue
            wanted = replace(options, cp=share, pp=stages)
            for tp in _degrees(system, trace, wanted):
                for ep in _expert_degrees(system, trace, replace(wanted, tp=tp)):
                    redundant = options.redundant or (-_count(trace, "grouped_matmul", "experts") % ep if ep else 0)
                    yield replace(wanted, tp=tp, ep=ep, redundant=redundant)


def _tried(degree: int | None) -> tuple[int, ...]:
    return (1, 2, 4, 8) if degree is None else (degree,)


def _count(trace: Trace, kind: str, dim: str) -> int:
    """That size of the first operator of a kind; 1 where there is none."""
    return next((int(str(op.dims[dim])) for b in trace.blocks for op in b.ops if op.kind == kind), 1)


def _degrees(system: SystemSpec, trace: Trace, options: Options) -> list[int]:
    if options.tp is not None:
        return [options.tp]
    chips = max(1, system.chips // (options.cp * options.pp))
    return [tp for tp in tensor_degrees(chips, _count(trace, "attention", "heads")) if tp <= system.chips_per_node]


def _expert_degrees(system: SystemSpec, trace: Trace, options: Options) -> list[int | None]:
    """All chips of a stage share the experts; where they hold one replica they may also cut each expert."""
    experts = any(op.kind == "grouped_matmul" for block in trace.blocks for op in block.ops)
    chips = system.chips // options.pp
    if options.ep is not None or not experts or chips == 1:
        return [options.ep]
    return [1, chips] if options.tp == chips // options.cp else [chips]
