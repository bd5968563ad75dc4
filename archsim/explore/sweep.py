"""A sweep: what is varied, what is run at each point, what counts. Read from YAML or made in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from archsim._data import data_path
from archsim.errors import InputError, did_you_mean
from archsim.explore.axis import Axis, parse_axis
from archsim.explore.expression import Expression
from archsim.explore.rules import Constraint, Objective, parse_constraint, parse_objective
from archsim.explore.space import Sampler, Space, sample
from archsim.hardware.document import Document, read_document
from archsim.hardware.messages import input_error
from archsim.hardware.spec import Spec

__all__ = ["SamplerSpec", "Sweep", "SweepSpec", "WorkloadSpec", "list_sweeps", "load_sweep"]


Search = Literal["nsga2", "tpe"]
"""Samplers that learn from the points they have tried; see :mod:`archsim.explore.search`."""
AnySampler = Literal[Sampler, Search]


class WorkloadSpec(Spec):
    """One step to simulate at every point; the fields are the arguments of :func:`archsim.simulate`."""

    workload: str
    phase: str
    label: str = Field(default="", pattern=r"^[A-Za-z0-9_-]*$")
    """Its name in metrics such as ``decode.tpot``; by default the phase, with the workload where two have it."""
    batch: int = 1
    seq: int | None = None
    ctx: int | None = None
    tp: int | None = None
    ep: int | None = None
    quant: str = "none"
    sparsity: str = "none"
    routing: str | None = None
    seed: int = 0
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """In the geometric mean over workloads."""


class SamplerSpec(Spec):
    """Which points of the space are tried."""

    kind: AnySampler = "grid"
    points: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)


class SweepSpec(Spec):
    """A sweep file as written; :class:`Sweep` is what it means."""

    title: str = ""
    chip: str
    """The base chip: a preset or a file."""
    system: str | None = None
    axes: dict[str, Any] = Field(min_length=1)
    """Dotted path in the chip (``system.``, ``run.`` before it: in the system, or an option of every workload)."""
    linked: list[dict[str, list[Any]]] = Field(default_factory=list)
    """Axes that move together: maps of equally long lists."""
    workloads: list[WorkloadSpec] = Field(min_length=1)
    constraints: list[str] = Field(default_factory=list)
    objectives: list[str] = Field(min_length=1)
    sampler: SamplerSpec = SamplerSpec()
    margin: float = Field(default=0.0, ge=0, lt=1)
    """Points are given up that could be better than another by no more than this fraction; 0 loses none."""
    fidelity: str = Field(default="tile", pattern="^(roofline|tile)$")


RUN_OPTIONS = ("batch", "seq", "ctx", "tp", "ep", "quant", "sparsity", "routing", "seed")


@dataclass(frozen=True)
class Sweep:
    """A checked sweep. `folder` is where relative file names in it start."""

    spec: SweepSpec
    space: Space
    workloads: tuple[tuple[str, WorkloadSpec], ...]
    constraints: tuple[Constraint, ...]
    objectives: tuple[Objective, ...]
    folder: Path

    @cached_property
    def labels(self) -> tuple[str, ...]:
        return tuple(label for label, _ in self.workloads)

    @cached_property
    def weights(self) -> dict[str, float]:
        return {label: workload.weight for label, workload in self.workloads}

    @cached_property
    def free(self) -> tuple[str, ...]:
        """One parameter of each axis that has a choice; the others follow from these."""
        return tuple(axis.paths[0] for axis in self.space.axes if len(axis) > 1)

    @property
    def searches(self) -> bool:
        """Whether the sampler learns from the points it has tried."""
        return self.spec.sampler.kind in ("nsga2", "tpe")

    def numbers(self) -> list[int]:
        """The numbers of the points that the sampler draws; as many of the space for a search, which draws its own."""
        kind, sampler = self.spec.sampler.kind, self.spec.sampler
        drawn: Sampler = "random" if kind == "nsga2" or kind == "tpe" else kind
        return list(sample(self.space, drawn, sampler.points, sampler.seed))

    @staticmethod
    def of(data: Mapping[str, Any], folder: str | Path = ".") -> Sweep:
        """A sweep from plain data, as it would stand in a file in `folder`."""
        return _build(Document(dict(data), {(): "sweep"}), Path(folder))


def list_sweeps() -> list[str]:
    """Names of the sweeps that ship with archsim."""
    return sorted(path.stem for path in (data_path("configs") / "sweeps").glob("*.yaml"))


def load_sweep(name: str | Path) -> Sweep:
    """Read a sweep that ships with archsim, or a file."""
    text = str(name)
    if isinstance(name, Path) or text.endswith((".yaml", ".yml")) or "/" in text:
        path = Path(text).expanduser()
        if not path.is_file():
            raise InputError(f"{path}: there is no such sweep file")
        return _build(read_document(path, str(path)), path.parent)
    if text not in list_sweeps():
        known = did_you_mean(text, list_sweeps()) or f" (known: {', '.join(list_sweeps())})"
        raise InputError(f"unknown sweep '{text[:80]}'{known}")
    path = data_path("configs") / "sweeps" / f"{text}.yaml"
    return _build(read_document(path, f"configs/sweeps/{text}.yaml"), path.parent)


def _build(document: Document, folder: Path) -> Sweep:
    try:
        spec = SweepSpec.model_validate(document.data)
    except ValidationError as error:
        raise input_error(error, document, SweepSpec) from None
    labels = _labels(spec.workloads, document)
    constraints = [
        parse_constraint(text, labels, f"{document.mark(('constraints', i))}: constraints")
        for i, text in enumerate(spec.constraints)
    ]
    objectives = [
        parse_objective(text, labels, f"{document.mark(('objectives', i))}: objectives")
        for i, text in enumerate(spec.objectives)
    ]
    workloads = tuple(zip(labels, spec.workloads, strict=True))
    return Sweep(spec, _space(spec, document), workloads, tuple(constraints), tuple(objectives), folder)


def _labels(workloads: Sequence[WorkloadSpec], document: Document) -> list[str]:
    phases = [workload.phase for workload in workloads]
    labels = []
    for workload in workloads:
        alone = phases.count(workload.phase) == 1
        plain = workload.phase if alone else f"{Path(workload.workload).name}-{workload.phase}"
        labels.append(workload.label or plain.replace(".", "_"))
    for index, label in enumerate(labels):
        if label in labels[:index]:
            place = document.mark(("workloads", index))
            raise InputError(f"{place}: workloads: two are called '{label}': give each a 'label'")
    return labels


def _space(spec: SweepSpec, document: Document) -> Space:
    axes: list[Axis] = []
    expressions: list[tuple[str, Expression]] = []
    for path, given in spec.axes.items():
        place = document.mark(("axes", path))
        _check_path(path, place, spec)
        parsed = parse_axis(path, given, place)
        if isinstance(parsed, Expression):
            expressions.append((path, parsed))
        else:
            axes.append(parsed)
    for index, group in enumerate(spec.linked):
        place = document.mark(("linked", index))
        columns = []
        for path, values in group.items():
            _check_path(path, place, spec)
            parsed = parse_axis(path, values, place)
            assert isinstance(parsed, Axis)
            columns.append([value[0] for value in parsed.values])
        if len({len(column) for column in columns}) != 1:
            lengths = ", ".join(f"{path} {len(column)}" for path, column in zip(group, columns, strict=True))
            raise InputError(f"{place}: linked: axes that move together need lists of one length, found {lengths}")
        axes.append(Axis(tuple(group), tuple(zip(*columns, strict=True))))
    try:
        return Space(tuple(axes), tuple(expressions))
    except InputError as error:
        raise InputError(f"{document.mark(('axes',))}: {error}") from None


def _check_path(path: str, place: str, spec: SweepSpec) -> None:
    head, _, rest = path.partition(".")
    if head == "run" and rest not in RUN_OPTIONS:
        known = did_you_mean(rest, RUN_OPTIONS) or f" (known: {', '.join(RUN_OPTIONS)})"
        raise InputError(f"{place}: axes.{path}: unknown option '{rest}'{known}")
    if head == "system" and spec.system is None:
        raise InputError(f"{place}: axes.{path}: the sweep names no 'system'")
