"""A finished or running sweep, to look at: records, the Pareto front, a DataFrame, CSV and Parquet."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError, write_atomically
from archsim.explore.pareto import front
from archsim.explore.store import DONE, Record, Store
from archsim.explore.sweep import Sweep

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SweepView", "open_sweep"]


@dataclass(frozen=True, eq=False, repr=False)
class SweepView:
    """The records of a sweep's folder, in the order of the points."""

    sweep: Sweep
    records: tuple[Record, ...]

    @property
    def done(self) -> tuple[Record, ...]:
        """Points that were simulated and keep every constraint."""
        return tuple(record for record in self.records if record.status == DONE)

    @cached_property
    def front(self) -> tuple[Record, ...]:
        """The points that no other beats in every objective, the best of the first objective first."""
        done = [record for record in self.done if self._has_objectives(record)]
        if not done:
            return ()
        values = self.objective_values(done)
        best = [record for record, keep in zip(done, front(values), strict=True) if keep]
        first = self.sweep.objectives[0]
        return tuple(sorted(best, key=lambda record: -first.sign * record.metrics[first.key]))

    def objective_values(self, records: list[Record]) -> NDArray[np.float64]:
        """Points x objectives, all to be made large."""
        return np.array([[o.sign * record.metrics[o.key] for o in self.sweep.objectives] for record in records])

    def _has_objectives(self, record: Record) -> bool:
        return all(objective.key in record.metrics for objective in self.sweep.objectives)

    def rows(self) -> list[dict[str, Any]]:
        """One flat row a point: parameters as `params.PATH`, metrics under their names."""
        best = {record.key for record in self.front}
        return [
            {
                "number": record.number,
                "status": record.status,
                "pareto": record.key in best,
                **{f"params.{path}": value for path, value in record.params.items()},
                **record.metrics,
                "why": record.why,
                "wall_s": record.wall_s,
            }
            for record in self.records
        ]

    def __repr__(self) -> str:
        counts = Counter(record.status for record in self.records)
        words = ", ".join(f"{count:,} {status}" for status, count in sorted(counts.items()))
        return f"SweepView({self.sweep.spec.title or self.sweep.spec.chip}: {len(self.records):,} points: {words})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the front, the parameters that vary and the objectives."""
        columns = ["number", *(f"params.{path}" for path in self.sweep.free), *(o.key for o in self.sweep.objectives)]
        frame = self.to_frame() if self.front else None
        table = "" if frame is None else frame[frame["pareto"]][columns].to_html(index=False)
        return f"<p>{escape(repr(self))}; the Pareto front:</p>{table}"

    def to_frame(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame."""
        try:
            import pandas as pd
        except ImportError:
            raise InputError("a data frame needs pandas: pip install 'archsim[plot]'") from None
        return pd.DataFrame(self.rows())

    def to_dict(self) -> dict[str, Any]:
        """What `archsim sweep show --json` prints."""
        best = {record.key for record in self.front}
        return {
            "title": self.sweep.spec.title,
            "objectives": [
                {"metric": o.key, "goal": "maximize" if o.sign > 0 else "minimize"} for o in self.sweep.objectives
            ],
            "constraints": [limit.text for limit in self.sweep.constraints],
            "points": [_point(record, record.key in best) for record in self.records],
        }

    def export(self, path: Path) -> None:
        """Write the rows as CSV or Parquet, by the ending of `path`."""
        if path.suffix == ".parquet":
            frame = self.to_frame()
            try:
                write_atomically(path, lambda target: frame.to_parquet(target))
            except ImportError:
                raise InputError("Parquet needs pyarrow: pip install 'archsim[explore]'") from None
        elif path.suffix == ".csv":
            write_atomically(path, self._write_csv)
        else:
            raise InputError(f"{path}: the name must end in .csv or .parquet")

    def _write_csv(self, path: Path) -> None:
        rows = self.rows()
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, columns)
            writer.writeheader()
            writer.writerows(rows)


def _point(record: Record, best: bool) -> dict[str, Any]:
    common: dict[str, Any] = {name: getattr(record, name) for name in ("key", "number", "status", "params")}
    if record.metrics:
        common |= {"metrics": dict(record.metrics), "pareto": best}
    if record.why:
        common["why" if record.metrics else "error"] = record.why
    return common


def open_sweep(folder: str | Path) -> SweepView:
    """Read the folder of a sweep, finished or not."""
    store = Store(folder)
    manifest: Mapping[str, Any] = store.read_manifest()
    try:
        sweep = Sweep.of(manifest["sweep"], str(manifest.get("folder", ".")))
    except InputError as error:
        raise InputError(f"{store.manifest}: {error}") from None
    return SweepView(sweep, tuple(sorted(store.records().values(), key=lambda record: record.number)))
