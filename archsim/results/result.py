"""What a simulation says: plain frozen data, with the few numbers derived from it.

All of it is about one step (a whole prefill, or one decode step) as seen by one chip; the chips of a system do the same
work at the same time. Views of it are in `archsim.report`, its file in `archsim.results.hdf5`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from archsim.results.op_table import DRAM_ENERGIES, ENERGIES, FULL, OpTable
from archsim.results.provenance import check_meta

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Result", "Slice"]


class Slice(NamedTuple):
    """A span of the timeline: what ran on which lane of the chip."""

    lane: str
    name: str
    start_ps: int
    dur_ps: int


@dataclass(frozen=True, repr=False)
class Result:
    """One simulated step. `ops`, `summary()`, `to_hdf5()` and `to_perfetto()` are the usual ways on from here."""

    meta: dict[str, Any]
    time_ps: int
    tokens: int
    op_table: OpTable
    units: dict[str, float]
    memory: tuple[tuple[str, int], ...]
    memory_capacity: int
    """Bytes of a chip that can be used: its memory less what error correction and the driver keep."""
    timeline: tuple[Slice, ...] = ()
    links: Mapping[str, float] = field(default_factory=dict)
    """Share of the step that each link of the on-chip network, or between dies, is busy; empty behind a crossbar."""
    physical: dict[str, Any] | None = None
    """What the chip is and costs (keys of `archsim.simulation.cost.PHYSICAL`); None where no technology is stated."""

    def __post_init__(self) -> None:
        check_meta(self.meta)
        if self.time_ps <= 0 or self.tokens <= 0:
            raise ValueError(f"{self.time_ps} ps and {self.tokens} tokens must be positive")
        for group, busy in self.units.items():
            if not 0 <= busy <= FULL:
                raise ValueError(f"unit {group} is busy for {busy} of the time")
        for link, busy in self.links.items():
            if not 0 <= busy <= FULL:
                raise ValueError(f"link {link} is busy for {busy} of the time")
        for key, value in (self.physical or {}).items():
            if isinstance(value, float) and not isfinite(value):
                raise ValueError(f"physical['{key}'] is {value}")

    @property
    def time_s(self) -> float:
        """Time of the step in seconds."""
        return self.time_ps * 1e-12

    @property
    def ttft_s(self) -> float | None:
        """Time to first token: the time of a prefill; None for a decode step."""
        return self.time_s if self.meta["phase"] == "prefill" else None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token: the time of a decode step; None for a prefill."""
        return self.time_s if self.meta["phase"] == "decode" else None

    @property
    def tokens_per_s(self) -> float:
        """Tokens taken in (prefill) or put out (decode) per second by the whole system."""
        return self.tokens / self.time_s

    @property
    def energy_by_unit(self) -> dict[str, float]:
        """Joules of one chip in the step, by unit; `idle` is leakage and clock between the operators."""
        found = {name.removesuffix("_pj"): self.op_table.total(name) * 1e-12 for name in ENERGIES}
        return found | ({"idle": float(self.physical["idle_j"])} if self.physical else {})

    @property
    def dram_energy_j(self) -> dict[str, float]:
        """Joules of the memory of one chip in its operators, by command; the sum is `energy_by_unit["memory"]`."""
        return {n.removeprefix("dram_").removesuffix("_pj"): self.op_table.total(n) * 1e-12 for n in DRAM_ENERGIES}

    @property
    def row_hit_rate(self) -> float | None:
        """Share of all bursts of the memory that found their row open; None where none was counted."""
        bursts = self.op_table.total("bursts")
        return 1 - self.op_table.total("activates") / bursts if bursts else None

    @property
    def energy_j(self) -> float | None:
        """Joules of one chip in the step; None where no technology is stated."""
        return sum(self.energy_by_unit.values()) if self.physical else None

    @property
    def power_w(self) -> float | None:
        """Mean watts of one chip over the step."""
        return None if self.energy_j is None else self.energy_j / self.time_s

    @property
    def joules_per_token(self) -> float | None:
        """Joules of all chips over the tokens of the step."""
        return None if self.energy_j is None else self.energy_j * int(self.meta["chips"]) / self.tokens

    @property
    def busiest_link(self) -> tuple[str, float] | None:
        """The busiest link of the on-chip network and how much of the step it is busy: no step can be shorter."""
        return max(self.links.items(), key=lambda item: (item[1], item[0]), default=None)

    @property
    def memory_used(self) -> int:
        """Bytes that one chip holds in its memory."""
        return sum(size for _, size in self.memory)

    def time_by(self, column: str) -> dict[str, int]:
        """Picoseconds of all operators and repeats by the value of a text column, largest first."""
        totals: dict[str, int] = {}
        table = self.op_table
        rows = zip(getattr(table, column).tolist(), table.time_ps.tolist(), table.repeat.tolist(), strict=True)
        for key, time, repeat in rows:
            totals[key] = totals.get(key, 0) + time * repeat
        return dict(sorted(totals.items(), key=lambda item: (-item[1], item[0])))

    @property
    def ops(self) -> pd.DataFrame:
        """The operator table as a pandas DataFrame."""
        from archsim.results.frame import frame

        return frame(self.op_table.columns())

    def summary(self) -> dict[str, Any]:
        """The main numbers under stable keys that carry their units; JSON-able."""
        from archsim.results.summary import summarise

        return summarise(self)

    def to_dict(self) -> dict[str, Any]:
        """The summary, the whole meta and a row per operator; JSON-able."""
        from archsim.results.summary import to_dict

        return to_dict(self)

    def to_hdf5(self, path: str | Path) -> None:
        """Write everything to an HDF5 file, whole or not at all; `archsim.load_result` reads it."""
        from archsim.results.hdf5 import save_result

        save_result(self, Path(path))

    def to_perfetto(self, path: str | Path) -> None:
        """Write the timeline as Chrome trace JSON for ui.perfetto.dev, compressed if `path` ends in .gz."""
        from archsim.report.perfetto import write_perfetto

        write_perfetto(self, Path(path))

    def __repr__(self) -> str:
        meta = self.meta
        what = f"{meta['workload']} {meta['phase']} batch {meta['batch']} seq {meta['seq']} ctx {meta['ctx']}"
        where = meta["chip"] if meta["chips"] == 1 else f"{meta['chips']} x {meta['chip']}"
        return f"<Result {what} on {where}: {self.time_s * 1e3:.4g} ms, {self.tokens_per_s:.4g} tokens/s>"

    def _repr_html_(self) -> str:
        from archsim.report.html import fragment

        return fragment(self)
