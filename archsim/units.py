"""Quantities with units: ``"3.35 TB/s"`` in a file, ``3.35e12`` (SI) inside.

Prefixes are strict: k, M, G, T, P are powers of 1000; Ki, Mi, Gi, Ti are powers of 1024 and only for bytes and bits;
``b`` is a bit and ``B`` a byte. Areas stay in mm2, the unit in which dies are quoted.

>>> parse("3.35 TB/s", "bandwidth")
3350000000000.0
>>> parse("256 KiB", "size")
262144.0
>>> format_quantity(262144, "size"), format_quantity(1.83e9, "frequency")
('256 KiB', '1.83 GHz')
>>> parse("3 TB/s", "frequency")
Traceback (most recent call last):
...
archsim.units.UnitError: '3 TB/s' is a bandwidth, expected a frequency such as '1.83 GHz'
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from archsim.errors import InputError

__all__ = [
    "Area",
    "Bandwidth",
    "ComputeRate",
    "Frequency",
    "Power",
    "Quantity",
    "Size",
    "Time",
    "TransferRate",
    "UnitError",
    "format_quantity",
    "parse",
    "parse_any",
]

FROM_FILE = {"units": "required"}
"""Validation context: the values come from a file, where a number without its unit is refused."""

AS_TEXT = {"units": "text"}
"""Serialisation context: write quantities as ``"3.35 TB/s"`` instead of SI numbers."""


class UnitError(InputError, ValueError):
    """A quantity cannot be read; also a ValueError, so that pydantic reports where it stood."""


@dataclass(frozen=True)
class _Dimension:
    article: str
    example: str
    units: dict[str, Fraction]  # every legal spelling and its factor to SI
    preferred: tuple[str, ...]  # the spellings used for writing, smallest first


def _scaled(unit: str, prefixes: str, factor: Fraction = Fraction(1)) -> dict[str, Fraction]:
    exponent = {"p": -12, "n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
    return {p + unit: factor * Fraction(10) ** exponent[p] for p in ("", *prefixes)}


def _binary(unit: str, factor: Fraction = Fraction(1)) -> dict[str, Fraction]:
    return {f"{p}i{unit}": factor * 1024**n for n, p in enumerate("KMGT", start=1)}


def _data(suffix: str) -> dict[str, Fraction]:
    bit = Fraction(1, 8)
    return {
        **_scaled("B" + suffix, "kMGTPE"),
        **_binary("B" + suffix),
        **_scaled("b" + suffix, "kMGTP", bit),
        **_binary("b" + suffix, bit),
    }


def _dimension(article: str, example: str, units: dict[str, Fraction], preferred: dict[str, Fraction]) -> _Dimension:
    return _Dimension(article, example, units, tuple(sorted(preferred, key=lambda u: preferred[u])))


_FLOPS = _scaled("FLOP/s", "kMGTPE")
_DIMENSIONS: dict[str, _Dimension] = {
    "time": _dimension("a time", "40 ns", _scaled("s", "munp"), _scaled("s", "munp")),
    "frequency": _dimension("a frequency", "1.83 GHz", _scaled("Hz", "kMGT"), _scaled("Hz", "kMG")),
    "size": _dimension("a size", "256 KiB", _data(""), {**_scaled("B", "kMGTPE"), **_binary("B")}),
    "bandwidth": _dimension("a bandwidth", "3.35 TB/s", _data("/s"), _scaled("B/s", "kMGTPE")),
    "transfer rate": _dimension("a transfer rate", "6.4 GT/s", _scaled("T/s", "kMGT"), _scaled("T/s", "kMG")),
    "compute rate": _dimension(
        "a compute rate",
        "989 TFLOP/s",
        {**_FLOPS, **_scaled("FLOPS", "kMGTPE"), **_scaled("OP/s", "kMGTPE")},
        _FLOPS,
    ),
    "power": _dimension("a power", "700 W", _scaled("W", "mkM"), _scaled("W", "mkM")),
    "area": _dimension("an area", "814 mm2", dict.fromkeys(("mm2", "mm^2"), Fraction(1)), {"mm2": Fraction(1)}),
}
_DIMENSION_OF = {unit: name for name, dimension in _DIMENSIONS.items() for unit in dimension.units}
_TEXT = re.compile(r"([+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,3})?)\s*(\S{0,16})")


def _unknown_unit(text: str, unit: str, dimension: _Dimension) -> str:
    rest = unit[1:]
    if unit.startswith("K") and "k" + rest in dimension.units:
        kibi = f" or 'Ki{rest}' (1024)" if f"Ki{rest}" in dimension.units else ""
        return f"'{text}' has the unknown unit '{unit}', write 'k{rest}' (1000){kibi}"
    close = [u for u in dimension.units if u.lower() == unit.replace("µ", "u").replace("μ", "u").lower()]
    close = close or difflib.get_close_matches(unit, dimension.units, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    return f"'{text}' has the unknown unit '{unit}'{hint}, expected {dimension.article} such as '{dimension.example}'"


@lru_cache(maxsize=4096)  # a sweep reads the same description thousands of times
def parse_exact(text: str, dimension: str) -> Fraction:
    """Read `text` as an exact number of SI units (mm2 for an area)."""
    wanted = _DIMENSIONS[dimension]
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise UnitError(f"'{text[:60]}' is not a quantity, expected {wanted.article} such as '{wanted.example}'")
    number, unit = match.groups()
    if unit == "":
        raise UnitError(f"'{text}' needs a unit, expected {wanted.article} such as '{wanted.example}'")
    if unit in wanted.units:
        return Fraction(number) * wanted.units[unit]
    if unit in _DIMENSION_OF:
        found = _DIMENSIONS[_DIMENSION_OF[unit]].article
        raise UnitError(f"'{text}' is {found}, expected {wanted.article} such as '{wanted.example}'")
    raise UnitError(_unknown_unit(text, unit, wanted))


def parse(text: str, dimension: str) -> float:
    """Read `text` as a quantity of `dimension` and return it in SI units (the nearest float)."""
    try:
        return float(parse_exact(text, dimension))
    except OverflowError:
        raise UnitError(f"'{text}' is too large") from None


def parse_any(text: str) -> tuple[float, str]:
    """Read a quantity whose dimension its unit tells: the value in SI units, and the dimension.

    >>> parse_any("50 ms")
    (0.05, 'time')
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None or match[2] not in _DIMENSION_OF:
        raise UnitError(f"'{text[:60]}' is not a quantity such as '3.35 TB/s' or '50 ms'")
    dimension = _DIMENSION_OF[match[2]]
    return parse(text, dimension), dimension


def _plain(number: Decimal) -> str:
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_quantity(value: float, dimension: str, digits: int | None = None) -> str:
    """Write an SI `value` in its most readable unit; exact unless rounded to `digits` significant digits.

    Exact text reads back as the same number: ``parse(format_quantity(x, d), d) == x``.
    The shortest text with a whole part wins, and among equals the largest unit.
    """
    chosen = _DIMENSIONS[dimension]
    exact = Decimal(value) if isinstance(value, int) else Decimal(repr(float(value)))
    if exact == 0:
        base = next(unit for unit in chosen.preferred if chosen.units[unit] == 1)
        return f"0 {base}"
    texts = []
    for unit in reversed(chosen.preferred):
        factor = chosen.units[unit]
        scaled = exact * factor.denominator / factor.numerator
        if digits is not None:
            scaled = Decimal(f"{scaled:.{digits}g}")
        elif Fraction(scaled) * factor != Fraction(exact):
            continue  # the division by 1024**n did not end within decimal precision
        texts.append((abs(scaled) < 1, f"{_plain(scaled)} {unit}"))
    large_enough = [text for below_one, text in texts if not below_one] or [texts[-1][1]]
    return min(large_enough, key=len)


@dataclass(frozen=True)
class Quantity:
    """Pydantic annotation: text with a unit or an SI number in, an SI number out; it carries the dimension."""

    dimension: str

    def _read(self, value: Any, info: core_schema.ValidationInfo) -> Any:
        wanted = _DIMENSIONS[self.dimension]
        if isinstance(value, str):
            exact = parse_exact(value, self.dimension)
            return int(exact) if exact.denominator == 1 and abs(exact) < 2**63 else parse(value, self.dimension)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number:
            raise UnitError(f"expected {wanted.article} such as '{wanted.example}', found {value!r:.60}")
        if info.context is not None and info.context.get("units") == "required":
            raise UnitError(f"{value!r:.60} needs a unit, expected {wanted.article} such as '{wanted.example}'")
        return value

    def _write(self, value: float, info: core_schema.SerializationInfo) -> Any:
        if isinstance(info.context, dict) and info.context.get("units") == "text":
            return format_quantity(value, self.dimension)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        writer = core_schema.plain_serializer_function_ser_schema(self._write, info_arg=True)
        return core_schema.with_info_before_validator_function(self._read, handler(source), serialization=writer)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        wanted = _DIMENSIONS[self.dimension]
        return {
            "type": "string",
            "description": f"{wanted.article} with its unit",
            "examples": [wanted.example],
        }


def _below(most: float) -> Any:
    """More than nothing, and less than what no machine of this century has: sums of such values stay in range."""
    return Field(gt=0, lt=most, allow_inf_nan=False)


Time = Annotated[float, Field(ge=0, lt=1e3, allow_inf_nan=False), Quantity("time")]
Frequency = Annotated[float, _below(1e12), Quantity("frequency")]
Size = Annotated[int, Field(gt=0, lt=2**63), Quantity("size")]
Bandwidth = Annotated[float, _below(1e18), Quantity("bandwidth")]
TransferRate = Annotated[float, _below(1e13), Quantity("transfer rate")]
ComputeRate = Annotated[float, _below(1e21), Quantity("compute rate")]
Power = Annotated[float, _below(1e9), Quantity("power")]
Area = Annotated[float, _below(1e9), Quantity("area")]
