"""What a result says when the description of the chip is not certain: every figure as an interval.

Each value of the description has a confidence. Those below "high" are moved, all together, to the end of their range
that slows a step and to the end that speeds it up::

    value x (1 - s) ... value x (1 + s)        s = 0.10 for "medium", 0.25 for "low", 0.40 for "low" and an estimate

Rates and sizes speed up as they grow, latencies slow down. The interval is thus the widest that the ranges allow: all
doubtful values wrong in the same direction. The clock moves no further than the surest quoted peak, which it makes with
the cores. Shapes (rows, ports, blocks), prices and areas are not moved; a value that a consistency check holds stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archsim.errors import InputError
from archsim.hardware import ChipSpec, load_chip
from archsim.hardware.listing import Value, values
from archsim.hardware.loading import ChipFamily
from archsim.results import Result
from archsim.units import format_quantity, parse_any

__all__ = ["SPREAD", "Interval", "Uncertain", "doubtful", "intervals"]

#: relative half-width of the range of a value, by its confidence
SPREAD = {"medium": 0.10, "low": 0.25, "estimate": 0.40}

#: what is moved, by the last part of its path: +1 where more is faster, -1 where more is slower
_MOVED = {
    "bandwidth": 1, "efficiency": 1, "copy_bandwidth": 1, "lane": 1, "clock": 1, "latency": -1, "startup": -1,
    "launch": -1, "hop_latency": -1, "message_overhead": -1, "row_overhead": -1, "round_trip": -1,
    "read_bytes_per_cycle": 1, "write_bytes_per_cycle": 1, "capacity": 1,
}  # fmt: skip
_SKIPPED = ("physical.", "memory.standard.", "memory.capacity", "peak.")


@dataclass(frozen=True)
class Uncertain:
    """A value that is moved: its text, the half-width of its range, and which way is faster."""

    path: str
    text: str
    spread: float
    faster: int


@dataclass(frozen=True)
class Interval:
    """A figure of the description as it stands, and at its slow and fast end."""

    low: float
    nominal: float
    high: float


def doubtful(chip: ChipSpec) -> tuple[Uncertain, ...]:
    """The values of a chip that are not certain and that its speed depends on."""
    found = []
    peaks = [_spread(value) for value in values(chip) if value.path.startswith("peak.")]
    for value in values(chip):
        faster = _MOVED.get(value.path.rpartition(".")[2])
        spread = min([_spread(value), *peaks]) if value.path == "clock" else _spread(value)
        if faster and value.text.split()[0] == "0":
            continue
        if faster and spread and value.is_number and not value.path.startswith(_SKIPPED):
            found.append(Uncertain(value.path, value.text, spread, faster))
    return tuple(found)


def intervals(
    chip: str, simulate: Callable[[Mapping[str, str]], Result | Mapping[str, float]],
    overrides: Mapping[str, str] | None = None,
) -> tuple[dict[str, Interval], tuple[Uncertain, ...]]:  # fmt: skip
    """Figures of a step as intervals, and the values that were moved.

    simulate: the step on the chip with overrides, or figures by name; called three times. Values that were set by hand
    stay as they were set. InputError where every value is certain.
    """
    own = dict(overrides or {})
    moved = tuple(value for value in doubtful(load_chip(chip, own)) if value.path not in own)
    family = ChipFamily.of(chip)
    if not _free(family, own, moved):
        moved = tuple(value for value in moved if _free(family, own, [value]))
    if not moved:
        raise InputError(f"--uncertainty: every value of {chip} that a step depends on is certain")
    slow, nominal, fast = (
        _figures(simulate(own | _moved_to(end, moved)))
        for end in (-1, 0, 1)
    )
    return {
        name: Interval(min(slow[name], fast[name], at), at, max(slow[name], fast[name], at))
        for name, at in nominal.items()
    }, moved


def _spread(value: Value) -> float:
    known = value.provenance
    if known is None or known.confidence == "high":
        return 0.0
    return SPREAD["estimate" if known.estimated and known.confidence == "low" else known.confidence]


def _at(value: Uncertain, side: int) -> str:
    """The value at one end of its range, in its own unit; shares stay below 1, counts whole."""
    factor = 1 + side * value.spread
    try:
        number, dimension = parse_any(value.text)
    except InputError:
        plain = float(value.text)
        if value.path.endswith("efficiency"):
            return f"{min(plain * factor, 1.0):.6g}"
        return str(max(round(plain * factor), 1)) if plain == int(plain) else f"{plain * factor:.6g}"
    return format_quantity(number * factor, dimension, 9)


def _moved_to(end: int, moved: Sequence[Uncertain]) -> dict[str, str]:
    """The values at their slow (-1) or fast (1) end; none for 0, the description as it stands."""
    return {value.path: _at(value, end * value.faster) for value in moved} if end else {}


def _free(family: ChipFamily, own: dict[str, str], moved: Sequence[Uncertain]) -> bool:
    """Whether the description allows both ends of the values together."""
    try:
        for end in (-1, 1):
            family.variant(own | _moved_to(end, moved))
    except InputError:
        return False
    return True


def _figures(result: Result | Mapping[str, float]) -> Mapping[str, float]:
    if isinstance(result, Mapping):
        return result
    known: dict[str, Any] = {
        "time_s": result.time_s, "tokens_per_s": result.tokens_per_s,
        "tokens_per_s_per_chip": result.tokens_per_s / result.meta["chips"], "energy_j": result.energy_j,
        "power_w": result.power_w, "joules_per_token": result.joules_per_token,
    }  # fmt: skip
    return {name: float(value) for name, value in known.items() if value is not None}
