"""Sizes as polynomials in ``batch`` and ``seq``, found by looking at a few points.

An ONNX file does not say how its shapes depend on its symbolic dimensions (a reshape to ``[-1, 768]`` hides it). So
shapes are inferred for several pairs of numbers, and each axis is taken to be ``c + b batch + s seq + p batch seq``
with integers ``c, b, s, p``: four points determine them, a fifth must agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from archsim.errors import InputError

__all__ = ["POINTS", "Size", "fit", "product"]

#: (batch, seq): the four that determine a size, and the one that must agree
POINTS = ((2, 8), (3, 8), (2, 12), (3, 12), (5, 28))


@dataclass(frozen=True)
class Size:
    """A sum of ``coefficient * batch**i * seq**j``, kept as {(i, j): coefficient} without zeros.

    >>> print(product([Size.of(12), fit([2, 3, 2, 3, 5]), fit([9, 9, 13, 13, 29])]))
    12*batch + 12*batch*seq
    """

    terms: tuple[tuple[tuple[int, int], int], ...]

    @staticmethod
    def of(number: int) -> Size:
        """A size that is the same at every point."""
        return _size({(0, 0): number})

    def __mul__(self, other: Size) -> Size:
        terms: dict[tuple[int, int], int] = {}
        for (i, j), a in self.terms:
            for (k, m), b in other.terms:
                terms[i + k, j + m] = terms.get((i + k, j + m), 0) + a * b
        return _size(terms)

    def at(self, batch: int, seq: int) -> int:
        """Its value."""
        return sum(coefficient * batch**i * seq**j for (i, j), coefficient in self.terms)

    @property
    def number(self) -> int | None:
        """Its value if it is the same at every point."""
        powers = dict(self.terms)
        return powers.get((0, 0), 0) if powers.keys() <= {(0, 0)} else None

    def over(self, other: Size) -> Size | None:
        """The quotient where `other` has one term that divides all of these, else None."""
        if len(other.terms) != 1:
            return None
        (i, j), divisor = other.terms[0]
        if any(k < i or m < j or c % divisor for (k, m), c in self.terms):
            return None
        return _size({(k - i, m - j): c // divisor for (k, m), c in self.terms})

    def __str__(self) -> str:
        parts = []
        for (i, j), coefficient in self.terms:
            factors = ["batch"] * i + ["seq"] * j
            number = str(coefficient) if abs(coefficient) != 1 or not factors else "-"[coefficient > 0 :]
            parts.append(number + "*" * (number not in ("", "-") and bool(factors)) + "*".join(factors))
        return " + ".join(parts).replace("+ -", "- ") or "0"


def product(sizes: Iterable[Size]) -> Size:
    """Their product, 1 if there are none."""
    return math.prod(sizes, start=Size.of(1))


def fit(values: list[int]) -> Size:
    """The size that has these values at ``POINTS``; ValueError if there is none of the form above."""
    (b0, s0), (b1, _), (_, s1) = POINTS[:3]
    f00, f10, f01, f11, _ = values
    twist = (f11 - f10 - f01 + f00) / ((b1 - b0) * (s1 - s0))
    by_batch = (f10 - f00) / (b1 - b0) - twist * s0
    by_seq = (f01 - f00) / (s1 - s0) - twist * b0
    constant = f00 - by_batch * b0 - by_seq * s0 - twist * b0 * s0
    parts = {(0, 0): constant, (1, 0): by_batch, (0, 1): by_seq, (1, 1): twist}
    size = _size({power: round(value) for power, value in parts.items()})
    if [size.at(*point) for point in POINTS] != values:
        raise ValueError(f"{values} at (batch, seq) = {list(POINTS)} is not linear in batch and seq")
    return size


def _size(terms: Mapping[tuple[int, int], int]) -> Size:
    kept = sorted((power, c) for power, c in terms.items() if c)
    if any(abs(c) > 2**62 for _, c in kept):
        raise InputError("has a size beyond 2**62")
    return Size(tuple(kept))
