"""What happens at one point: its chip and system are made, its workloads simulated, its metrics collected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from archsim._version import MODEL_VERSION
from archsim.explore.axis import Value
from archsim.explore.metrics import METRICS, geometric_mean
from archsim.explore.space import Point
from archsim.explore.sweep import Sweep, WorkloadSpec
from archsim.hardware import (
    ChipFamily,
    ChipSpec,
    ExportRules,
    PartsSpec,
    SystemFamily,
    SystemSpec,
    load_parts,
    load_rules,
    own_tables,
)
from archsim.physical import (
    Silicon,
    bill,
    chip_area,
    export_figures,
    gemm_power,
    hour_cost,
    silicon,
    usd_per_million_tokens,
)
from archsim.results import Result
from archsim.simulation import least_of_job, options_of, prepare, roofline_of_job, run_job
from archsim.trace import Trace, load_workload

__all__ = ["Evaluator", "Metrics", "split", "workload_arguments"]

#: where a chip names tables that may be files
NODES = ("physical.technology", "physical.io_dies.technology")

Metrics = dict[str, float]


def split(point: Point) -> tuple[Point, Point, Point]:
    """The parameters of the chip, of the system and of the run.

    >>> split({"cores": 8, "system.chips": 4, "run.batch": 2})
    ({'cores': 8}, {'chips': 4}, {'batch': 2})
    """
    parts: dict[str, Point] = {"": {}, "system": {}, "run": {}}
    for path, value in point.items():
        head, _, rest = path.partition(".")
        if head in ("system", "run"):
            parts[head][rest] = value
        else:
            parts[""][path] = value
    return parts[""], parts["system"], parts["run"]


@dataclass(frozen=True, eq=False)
class Evaluator:
    """A sweep with its files read; made once in each process."""

    sweep: Sweep

    @cached_property
    def chips(self) -> ChipFamily:
        return ChipFamily.of(_located(self.sweep.spec.chip, self.sweep.folder))

    @cached_property
    def systems(self) -> SystemFamily | None:
        name = self.sweep.spec.system
        return None if name is None else SystemFamily.of(_located(name, self.sweep.folder))

    @cached_property
    def traces(self) -> dict[str, Trace]:
        """By label."""
        return {
            label: load_workload(_located(workload.workload, self.sweep.folder), workload.phase)
            for label, workload in self.sweep.workloads
        }

    @cached_property
    def parts(self) -> PartsSpec:
        return load_parts()

    @cached_property
    def rules(self) -> ExportRules:
        return load_rules()

    @cached_property
    def context(self) -> str:
        """Digest of everything but the point that a result depends on."""
        chip, system = self.chips.variant({}), self.systems.variant({}) if self.systems else None
        content: list[Any] = [
            MODEL_VERSION,
            chip.content_hash,
            system.model_dump(mode="json", exclude={"title", "source", "notes"}) if system else None,
            [(label, self.traces[label].content_hash, spec.model_dump()) for label, spec in self.sweep.workloads],
            self.sweep.spec.fidelity,
            own_tables(value for axis in self.sweep.space.axes for path in NODES for value in axis.values_of(path)),
        ]
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()

    def key(self, point: Point) -> str:
        """Content hash of (chip, system, workloads, options, MODEL_VERSION) at `point`: what its record is found by."""
        text = self.context + json.dumps(sorted(point.items()), separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def chip(self, point: Point) -> ChipSpec:
        """The chip at `point`; InputError where it contradicts itself.

        The area that the base chip states holds for that chip alone, so the area of a point is that of its parts.
        """
        chip = self.chips.variant(split(point)[0])
        return chip.model_copy(update={"physical": chip.physical.model_copy(update={"die_area": None})})

    def system(self, point: Point) -> SystemSpec | None:
        """The system at `point`."""
        return None if self.systems is None else self.systems.variant(split(point)[1])

    def chip_metrics(self, chip: ChipSpec, wanted: Container[str] = METRICS) -> Metrics:
        """The metrics of `wanted` that need no simulation; those of silicon only where the chip names its node."""
        found: dict[str, Callable[[], float]] = {
            "peak_flops": lambda: max(chip.flops(dtype) for dtype in chip.dtypes),
            "memory_bandwidth": lambda: chip.memory.bandwidth,
        }
        if chip.physical.technology is not None:
            made = silicon(chip, self.parts)
            area = chip_area(made)
            found |= {
                "area": lambda: area.mm2,
                "die_area": lambda: max(die.mm2 for die in area.dies),
                "gemm_power": lambda: gemm_watts(made, chip),
                "parts_usd": lambda: bill(made, area=area).parts,
                "tpp": lambda: export_figures(chip, self.rules, made).tpp,
                "performance_density": lambda: export_figures(chip, self.rules, made).density,
            }
        return {name: compute() for name, compute in found.items() if name in wanted}

    def run(self, point: Point, *, fidelity: str | None = None) -> Metrics:
        """All metrics at `point`: of the chip, ``LABEL.METRIC`` of each workload, and METRIC over all of them."""
        *_, (metrics, _) = self.stages(point, fidelity=fidelity, bounds=False)
        return metrics

    def stages(
        self, point: Point, *, fidelity: str | None = None, bounds: bool = True
    ) -> Iterator[tuple[Metrics, tuple[str, ...]]]:
        """The metrics of `point`, and the workloads that are not simulated yet: what cannot be better than it says.

        With `bounds`, workload after workload gets the least time of its programs in place of its roofline, then it is
        simulated. Without, or where the fidelity is a bound itself, there is one stage.
        """
        chip, system, options = self.chip(point), self.system(point), split(point)[2]
        fidelity = fidelity or self.sweep.spec.fidelity
        jobs = {
            label: prepare(
                chip, self.traces[label], options_of(**workload_arguments(workload, options), fidelity=fidelity), system
            )
            for label, workload in self.sweep.workloads
        }  # fmt: skip
        of_chip = self.chip_metrics(chip)
        steps: dict[str, Metrics] = {}
        ways = (roofline_of_job, least_of_job, run_job) if bounds and fidelity != "roofline" else (run_job,)
        for way in ways:
            for place, (label, job) in enumerate(jobs.items(), 1):
                steps[label] = step_metrics(result := way(job)) | self.priced(result, of_chip)
                pending = tuple(jobs)[place if way is run_job else 0 :]
                if way is not roofline_of_job and (len(ways) > 1 or not pending):
                    found = {f"{label}.{name}": value for label, step in steps.items() for name, value in step.items()}
                    yield of_chip | found | self.combined(found), pending

    def priced(self, result: Result, chip: Metrics) -> Metrics:
        """Metrics that set a step against the silicon it takes; none where that is not known."""
        if "area" not in chip:
            return {}
        chips = result.meta["chips"]
        cost = hour_cost(chip["parts_usd"], chip["gemm_power"], self.parts.ownership)
        return {
            "tokens_per_s_per_mm2": result.tokens_per_s / (chips * chip["area"]),
            "usd_per_mtoken": usd_per_million_tokens(cost, chips, result.tokens_per_s),
        }

    def combined(self, metrics: Mapping[str, float]) -> Metrics:
        """Each step metric over the workloads that have it."""
        found: Metrics = {}
        for name, metric in METRICS.items():
            values = {label: metrics[f"{label}.{name}"] for label in self.sweep.labels if f"{label}.{name}" in metrics}
            if metric.of == "step" and values:
                found[name] = geometric_mean(values, self.sweep.weights)
        return found


def gemm_watts(made: Silicon, chip: ChipSpec) -> float:
    """Watts of a dense product in the type that export rules and peaks are quoted for."""
    dtype = next(dtype for dtype in chip.dtypes if dtype == made.dtype)
    return float(sum(gemm_power(made, dtype, chip.clock).values()))


def step_metrics(result: Result) -> Metrics:
    """The metrics of one simulated step."""
    found: Metrics = {
        "tokens_per_s": result.tokens_per_s,
        "tokens_per_s_per_chip": result.tokens_per_s / result.meta["chips"],
        "step_time": result.time_s,
        "flop_per_s": result.op_table.total("flops") / result.time_s,
        "memory_used": float(result.memory_used),
    }
    if moved := result.op_table.total("dram_bytes"):
        found["intensity"] = result.op_table.total("flops") / moved
    if result.tpot_s is not None:
        found["tpot"] = result.tpot_s
    if result.ttft_s is not None:
        found["ttft"] = result.ttft_s
    if result.power_w is not None and result.joules_per_token is not None:
        found |= {"power": result.power_w, "joules_per_token": result.joules_per_token}
    return found


def workload_arguments(workload: WorkloadSpec, options: Mapping[str, Value]) -> dict[str, Any]:
    """Keyword arguments of `simulate` for a workload, with the options that a point sets."""
    own = workload.model_dump(exclude={"workload", "label", "weight"})
    return own | dict(options)


def _located(name: str, folder: Path) -> str:
    """A preset's name as it is, a file name relative to the sweep's folder."""
    is_file = name.endswith((".yaml", ".yml", ".h5")) or "/" in name
    return str(folder / Path(name).expanduser()) if is_file else name
