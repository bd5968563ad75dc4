"""Rankings of plans: of an inference step by its roofline, of a training step by the closed form of its schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from archsim.errors import InputError
from archsim.hardware import SystemSpec, load_chip, load_system
from archsim.mapping.plan import Plan, tensor_degrees
from archsim.simulation import StagedJob, run_job, run_staged, staged_candidates
from archsim.simulation.job import Job, Options, candidates
from archsim.trace import Trace, load_workload
from archsim.training.plan import TrainPlan
from archsim.training.search import search_training
from archsim.training.step import run_training

__all__ = ["Ranked", "Ranking", "rank_inference", "rank_training"]


@dataclass(frozen=True)
class Ranked:
    """A plan that fits. bound_s: the closed form. memory_bytes: of the fullest chip. time_s: simulated, or None."""

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
    system: str | SystemSpec, workload: str | Trace, options: Options, *, simulated: int = 3,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Ranking:  # fmt: skip
    """Every tensor- and expert-parallel degree for a prefill or decode step; InputError where none fits."""
    where = load_system(system) if isinstance(system, str) else system
    chip = load_chip(where.chip)
    trace = load_workload(workload, options.phase) if isinstance(workload, str) else workload
    refused: list[tuple[str, str]] = []
    jobs: list[Job | StagedJob] = []
    for tp in _degrees(where, trace, options):
        for ep in _expert_degrees(where, trace, options):
            wanted = replace(options, tp=tp, ep=ep)
            try:
                jobs += (candidates if options.pp == 1 else staged_candidates)(chip, trace, wanted, where)
            except InputError as error:
                dp = where.chips // (tp * options.cp * options.pp)
                refused.append((str(Plan(tp, dp, ep or 1, options.cp, pp=options.pp)), str(error)))
    if not jobs:
        raise InputError(refused[-1][1])
    jobs.sort(key=lambda job: job.bound_s())
    found = []
    for number, job in enumerate(jobs):
        time = None
        if number < simulated:
            time = (run_job(job) if isinstance(job, Job) else run_staged(job)).time_s
            progress(number + 1, min(simulated, len(jobs)))
        degrees = {"tp": job.plan.tp, "dp": job.plan.dp, "ep": job.plan.ep, "cp": job.plan.cp, "pp": job.plan.pp}
        found.append(Ranked(str(job.plan), degrees, job.bound_s(), job.need.total, job.tokens, where.chips, time))
    return Ranking(
        where.name, chip.name, trace.name, options.phase, int(chip.memory.usable_capacity), _sorted(found),
        tuple(refused), tuple(jobs[0].notes()),
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


def _degrees(system: SystemSpec, trace: Trace, options: Options) -> list[int]:
    if options.tp is not None:
        return [options.tp]
    heads = next((int(str(op.dims["heads"])) for b in trace.blocks for op in b.ops if op.kind == "attention"), 1)
    chips = system.chips // (options.cp * options.pp)
    return [tp for tp in tensor_degrees(chips, heads) if tp <= system.chips_per_node]


def _expert_degrees(system: SystemSpec, trace: Trace, options: Options) -> list[int | None]:
    experts = any(op.kind == "grouped_matmul" for block in trace.blocks for op in block.ops)
    if options.ep is not None or not experts or system.chips == 1:
        return [options.ep]
    return [1, system.chips // options.pp]
