"""What a token costs: the price of the system over its life, and its power.

Equation::

    USD/hour = price capital / (years 8760 h utilisation)  +  (W / 1000) site USD/kWh
    USD per million tokens = chips USD/hour / (3600 tokens/s) 10^6

======== ======================================================================= =========
symbol   meaning                                                                 unit
======== ======================================================================= =========
price    of one chip; where none is given, its parts over (1 - gross margin)     USD
capital  price of a system over that of its chips                                1
site     power of a site over that of its chips                                  1
W        mean power of a chip while it works                                     W
======== ======================================================================= =========

Assumptions: straight depreciation to nothing; hours without work cost no power. Not modelled: interest, staff, the
price of land, discounts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from archsim.errors import InputError
from archsim.hardware.parts import Ownership

__all__ = ["HourCost", "hour_cost", "usd_per_million_tokens"]

HOURS_PER_YEAR = 8760


@dataclass(frozen=True)
class HourCost:
    """USD of one chip for one hour of work."""

    chip_usd: float
    capital: float
    power: float

    @property
    def total(self) -> float:
        """Capital and power."""
        return self.capital + self.power


def hour_cost(parts_usd: float, watts: float, terms: Ownership, price_usd: float | None = None) -> HourCost:
    """Cost of an hour of a chip that is made for `parts_usd` and draws `watts`; `price_usd` overrides its price.

    >>> from archsim.hardware import load_parts
    >>> round(hour_cost(3000, 700, load_parts().ownership, price_usd=28000).total, 2)
    1.71
    """
    if price_usd is not None and not 0 <= price_usd < inf:
        raise InputError(f"--price {price_usd:g}: must be USD, 0 or more")
    price = price_usd if price_usd is not None else parts_usd / (1 - terms.gross_margin)
    capital = price * terms.capital_factor / (terms.years * HOURS_PER_YEAR * terms.utilisation)
    return HourCost(price, capital, watts / 1000 * terms.power_factor * terms.usd_per_kwh)


def usd_per_million_tokens(cost: HourCost, chips: int, tokens_per_s: float) -> float:
    """USD of a million tokens that `chips` chips make at `tokens_per_s` together.

    >>> usd_per_million_tokens(HourCost(0, 1.5, 0.3), 2, 1000)
    1.0
    """
    return chips * cost.total / (3600 * tokens_per_s) * 1e6
