"""Axes of a design space: the values that one parameter takes, or the expression that ties it to others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from archsim.errors import InputError, did_you_mean
from archsim.explore.expression import Expression
from archsim.units import UnitError, parse_any

__all__ = ["MAX_VALUES", "Axis", "Value", "number_of", "parse_axis"]

Value = int | float | str | bool

#: values that one axis may have: a longer list is a slip of the pen, not a design space
MAX_VALUES = 100_000
_RANGE_KEYS = ("from", "to", "step", "factor", "count", "scale")


@dataclass(frozen=True)
class Axis:
    """One free parameter, or several that move together: choice i sets every path to its i-th value."""

    paths: tuple[str, ...]
    values: tuple[tuple[Value, ...], ...]

    def __len__(self) -> int:
        return len(self.values)

    def at(self, index: int) -> dict[str, Value]:
        """What choice `index` sets."""
        return dict(zip(self.paths, self.values[index], strict=True))

    def values_of(self, path: str) -> list[Value]:
        """The values that `path` takes; none where it is not one of the axis."""
        return [value[self.paths.index(path)] for value in self.values] if path in self.paths else []

    def __str__(self) -> str:
        shown = [" / ".join(map(str, value)) for value in self.values]
        text = ", ".join(shown if len(shown) <= 8 else [*shown[:4], "...", shown[-1]])
        return f"{' + '.join(self.paths)}: {text}"


def parse_axis(path: str, given: Any, where: str) -> Axis | Expression:
    """Read an axis from a sweep file.

    given: a list of values; ``{from, to, step}``, ``{from, to, factor}`` or ``{from, to, count, scale: log|linear}``;
    one value (then the parameter is fixed); or ``=EXPRESSION`` over other axes.
    where: ``file:line:column`` for messages.

    >>> parse_axis("cores", {"from": 8, "to": 64, "factor": 2}, "s.yaml:3:1").values
    ((8,), (16,), (32,), (64,))
    """
    label = f"{where}: axes.{path}"
    if isinstance(given, str) and given.startswith("="):
        try:
            return Expression.parse(given)
        except InputError as error:
            raise InputError(f"{label}: {error}") from None
    if isinstance(given, dict):
        values = _range(given, label)
    elif isinstance(given, list):
        values = list(given)
    else:
        values = [given]
    _check_values(values, label)
    return Axis((path,), tuple((value,) for value in values))


def _check_values(values: Sequence[Any], label: str) -> None:
    if not values:
        raise InputError(f"{label}: the list of values is empty")
    if len(values) > MAX_VALUES:
        raise InputError(f"{label}: {len(values):,} values are more than the {MAX_VALUES:,} that an axis may have")
    for value in values:
        if not isinstance(value, (int, float, str)) or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"{label}: {value!r:.60} is no number or text")
    for index, value in enumerate(values):
        if value in values[:index] if len(values) < 1000 else False:
            raise InputError(f"{label}: the value {value} is given twice")


def _range(given: Mapping[str, Any], label: str) -> list[Value]:
    for key in given:
        if key not in _RANGE_KEYS:
            raise InputError(f"{label}: unknown key '{key}'{did_you_mean(str(key), _RANGE_KEYS)}")
    if "from" not in given or "to" not in given:
        raise InputError(f"{label}: a range needs 'from' and 'to'")
    low, unit = _split(given["from"], f"{label}.from")
    high, unit_to = _split(given["to"], f"{label}.to")
    if unit != unit_to:
        raise InputError(f"{label}: 'from' and 'to' must have the same unit, found '{unit}' and '{unit_to}'")
    if low > high:
        raise InputError(f"{label}: 'from' ({given['from']}) is more than 'to' ({given['to']})")
    numbers = _numbers(given, low, high, unit, label)
    whole = not unit and all(isinstance(given[key], int) for key in ("from", "to"))
    if whole:  # a range between whole numbers stays one; rounding may make neighbours equal
        return list(dict.fromkeys(round(number) for number in numbers))
    return [f"{number:.6g} {unit}" if unit else number for number in numbers]


def _numbers(given: Mapping[str, Any], low: float, high: float, unit: str, label: str) -> list[float]:
    ways = [key for key in ("step", "factor", "count") if key in given]
    if len(ways) != 1:
        raise InputError(f"{label}: a range needs exactly one of 'step', 'factor' and 'count'")
    if "scale" in given and ("count" not in given or given["scale"] not in ("log", "linear")):
        raise InputError(f"{label}.scale: must be 'log' or 'linear', beside 'count'")
    slack = 1e-6  # a whole number of steps must survive rounding
    if ways == ["count"]:
        count = given["count"]
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_VALUES:
            raise InputError(f"{label}.count: must be a whole number from 1 to {MAX_VALUES:,}, found {count!r:.60}")
        if given.get("scale") == "log":
            if low <= 0:
                raise InputError(f"{label}: a logarithmic range must start above 0, not at {given['from']}")
            return [low * (high / low) ** (i / max(count - 1, 1)) for i in range(count)]
        return [low + (high - low) * i / max(count - 1, 1) for i in range(count)]
    step, step_unit = _split(given[ways[0]], f"{label}.{ways[0]}")
    if ways == ["factor"]:
        if step_unit or step <= 1 or low <= 0:
            raise InputError(f"{label}.factor: must be a number above 1, from a start above 0")
        count = math.floor(math.log(high / low) / math.log(step) + slack) + 1
        _check_count(count, label)
        return [low * step**i for i in range(count)]
    if step_unit != unit or step <= 0:
        wanted = f"a positive number of {unit}" if unit else "a positive number"
        raise InputError(f"{label}.step: must be {wanted}, found {given['step']}")
    count = math.floor((high - low) / step + slack) + 1
    _check_count(count, label)
    return [low + step * i for i in range(count)]


def _check_count(count: int, label: str) -> None:
    if count > MAX_VALUES:
        raise InputError(f"{label}: {count:,} values are more than the {MAX_VALUES:,} that an axis may have")


def _split(value: Any, label: str) -> tuple[float, str]:
    """A number and its unit, as written."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return value, ""
    number, _, unit = str(value).strip().partition(" ")
    try:
        parse_any(str(value))
        return float(number), unit.strip()
    except (UnitError, ValueError):
        raise InputError(f"{label}: {value!r:.60} is no number, with or without a unit") from None


def number_of(value: Value) -> float | None:
    """A value as a number for arithmetic and pictures, in SI units; None for a name.

    >>> number_of("2 TB/s"), number_of(8), number_of("fp8")
    (2000000000000.0, 8.0, None)
    """
    if isinstance(value, (bool, int, float)):
        return float(value)
    return _number_in(value)


@lru_cache(maxsize=4096)  # the values of an axis come back at every point
def _number_in(text: str) -> float | None:
    try:
        return parse_any(text)[0]
    except UnitError:
        return None
