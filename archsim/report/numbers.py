"""Numbers as people read them."""

from __future__ import annotations

__all__ = ["count", "percent", "si"]

_PREFIXES = {-12: "p", -9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}


def si(value: float, unit: str, digits: int = 3) -> str:
    """`value` in `unit` with a decimal prefix and `digits` significant digits; money takes no prefix.

    >>> si(0.011555, "s"), si(2.8137e12, "B/s"), si(999.9, "B"), si(0, "B"), si(0.08426, "USD")
    ('11.6 ms', '2.81 TB/s', '1.00 kB', '0 B', '0.0843 USD')
    """
    if value == 0:
        return f"0 {unit}"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of the rounded number
    power = 0 if unit == "USD" else min(max(exponent // 3 * 3, -12), 18)
    decimals = max(digits - 1 - (exponent - power), 0)
    return f"{value / 10.0**power:.{decimals}f} {_PREFIXES[power]}{unit}"


def count(value: float) -> str:
    """A plain number: at least three digits, thousands apart.

    >>> count(2769.2), count(38.51), count(1.5e9)
    ('2,769', '38.5', '1,500,000,000')
    """
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def percent(share: float) -> str:
    """A share of one as a percentage.

    >>> percent(0.9658), percent(0.0004), percent(0)
    ('96.6 %', '<0.1 %', '0 %')
    """
    if share == 0:
        return "0 %"
    return "<0.1 %" if 0 < share < 0.0005 else f"{share * 100:.1f} %"
