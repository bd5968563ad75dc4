"""Two results side by side: the main numbers, and the operators by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from archsim.results.frame import frame
from archsim.results.result import Result

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Change", "Comparison", "compare"]

METRICS = (
    *("time_s", "tokens_per_s", "tokens_per_s_per_chip", "flops", "flop_per_s", "bytes", "dram_bytes"),
    *("dram_bytes_per_s", "launch_s", "memory_used_bytes"),
)
LABELS = ("name", "title", "vendor", "year", "status")  # of a chip; they change no number
OPTIONS = (
    *("workload", "phase", "batch", "seq", "ctx", "quant", "sparsity", "shared_experts", "cp_by"),
    *("chip", "system", "chips", "plan", "fidelity", "engine"),
)


class Change(NamedTuple):
    """A number in two results; None where a result lacks it."""

    name: str
    a: float | None
    b: float | None

    @property
    def ratio(self) -> float | None:
        """b / a, or None where that says nothing."""
        return None if not self.a or self.b is None else self.b / self.a


@dataclass(frozen=True)
class Comparison:
    """`b` against `a`: how many times faster it is, the options and chip values that differ, numbers, units, operators.

    An operator's time is the sum over its repeats in all blocks of one step; the largest change comes first.
    """

    a: str
    b: str
    speedup: float
    options: dict[str, tuple[Any, Any]]
    metrics: tuple[Change, ...]
    units: tuple[Change, ...]
    ops: tuple[Change, ...]

    def frame(self) -> pd.DataFrame:
        """The operators as a DataFrame: name, a_s, b_s, delta_s, ratio."""
        return frame(
            {
                "name": [change.name for change in self.ops],
                "a_s": [change.a for change in self.ops],
                "b_s": [change.b for change in self.ops],
                "delta_s": [_delta(change) for change in self.ops],
                "ratio": [change.ratio for change in self.ops],
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON-able data."""
        return {
            "a": self.a,
            "b": self.b,
            "speedup": self.speedup,
            "options": {key: {"a": a, "b": b} for key, (a, b) in self.options.items()},
            **{
                part: [{**change._asdict(), "ratio": change.ratio} for change in getattr(self, part)]
                for part in ("metrics", "units", "ops")
            },
        }

    def __str__(self) -> str:
        from archsim.report.comparison import comparison_text

        return comparison_text(self)

    def _repr_html_(self) -> str:
        from archsim.report.comparison import comparison_fragment

        return comparison_fragment(self)


def compare(a: Result, b: Result) -> Comparison:
    """How `b` differs from `a`."""
    before, after = a.summary(), b.summary()
    options = {key: (before.get(key), after.get(key)) for key in OPTIONS if before.get(key) != after.get(key)}
    return Comparison(
        a=_label(a),
        b=_label(b),
        speedup=a.time_ps / b.time_ps,
        options=options | _chip_differences(a.meta["chip_yaml"], b.meta["chip_yaml"]),
        metrics=tuple(Change(name, before[name], after[name]) for name in METRICS),
        units=_joined(before["busy"], after["busy"]),
        ops=tuple(sorted(_joined(_op_seconds(a), _op_seconds(b)), key=lambda change: -abs(_delta(change)))),
    )


def _label(result: Result) -> str:
    meta = result.meta
    return meta["chip"] if meta["chips"] == 1 else f"{meta['chips']} x {meta['chip']}"


def _delta(change: Change) -> float:
    return (change.b or 0.0) - (change.a or 0.0)


def _joined(a: dict[str, float], b: dict[str, float]) -> tuple[Change, ...]:
    return tuple(Change(name, a.get(name), b.get(name)) for name in {**a, **b})


def _op_seconds(result: Result) -> dict[str, float]:
    return {name: time * 1e-12 for name, time in result.time_by("name").items()}


def _chip_differences(a: str, b: str) -> dict[str, tuple[str | None, str | None]]:
    before, after = chip_values(a), chip_values(b)
    return {
        f"chip.{path}": (before.get(path), after.get(path))
        for path in {**before, **after}
        if before.get(path) != after.get(path) and path not in LABELS
    }


def chip_values(chip_yaml: str) -> dict[str, str]:
    """The values of a resolved chip description by dotted path, sources left out.

    Such a document is plain nested maps, one key a line, so indentation tells everything.

    >>> chip_values("clock: 1 GHz\\ncore:\\n  vector:\\n    lanes: 128\\nprovenance:\\n  clock:\\n    source: x\\n")
    {'clock': '1 GHz', 'core.vector.lanes': '128'}
    """
    values: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in chip_yaml.splitlines():
        key, _, value = line.strip().partition(":")
        indent = len(line) - len(line.lstrip())
        while above and above[-1][0] >= indent:
            above.pop()
        above.append((indent, key))
        keys = [key for _, key in above]
        if value.strip() and "provenance" not in keys:
            values[".".join(keys)] = value.strip()
    return values
