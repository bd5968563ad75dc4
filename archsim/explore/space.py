"""A design space: axes and expressions, its points by number, and the samplers that choose among them.

Point n of a space of axes with lengths ``L0, L1, ...`` is the mixed-radix number n: the last axis moves fastest.
So a point costs the same to make wherever it lies, and a shard needs no list of the others.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from archsim.errors import InputError
from archsim.explore.axis import Axis, Value, number_of
from archsim.explore.expression import Expression

__all__ = ["SAMPLERS", "Point", "Sampler", "Space", "saltelli", "sample"]

Point = dict[str, Value]
Sampler = Literal["grid", "random", "latin_hypercube", "sobol", "saltelli"]
SAMPLERS: tuple[Sampler, ...] = ("grid", "random", "latin_hypercube", "sobol", "saltelli")


@dataclass(frozen=True)
class Space:
    """Axes that vary freely, and parameters computed from them in the order of their dependence."""

    axes: tuple[Axis, ...]
    expressions: tuple[tuple[str, Expression], ...] = ()

    def __post_init__(self) -> None:
        paths = [*(path for axis in self.axes for path in axis.paths), *(path for path, _ in self.expressions)]
        for path in paths:
            if paths.count(path) > 1:
                raise InputError(f"axes: '{path}' is set twice")
        object.__setattr__(self, "expressions", _ordered(self.expressions, {p for a in self.axes for p in a.paths}))

    @cached_property
    def size(self) -> int:
        """The number of points."""
        return math.prod(len(axis) for axis in self.axes)

    @property
    def paths(self) -> tuple[str, ...]:
        """Every parameter that a point sets."""
        return (*(path for axis in self.axes for path in axis.paths), *(path for path, _ in self.expressions))

    def point(self, number: int) -> Point:
        """The parameters of point `number`."""
        digits = []
        for axis in reversed(self.axes):
            number, digit = divmod(number, len(axis))
            digits.append(digit)
        return self.at(digits[::-1])

    def at(self, choices: Sequence[int]) -> Point:
        """The parameters where axis i takes its value ``choices[i]``."""
        point: Point = {}
        for axis, choice in zip(self.axes, choices, strict=True):
            point |= axis.at(choice)
        numbers = {path: number for path, value in point.items() if (number := number_of(value)) is not None}
        for path, expression in self.expressions:
            point[path] = expression.evaluate(numbers)
            number = number_of(point[path])
            if number is not None:
                numbers[path] = number
        return point

    def number(self, choices: Sequence[int]) -> int:
        """The number of the point where axis i takes its value ``choices[i]``."""
        result = 0
        for axis, choice in zip(self.axes, choices, strict=True):
            result = result * len(axis) + choice
        return result


def _ordered(
    expressions: Sequence[tuple[str, Expression]], known: set[str]
) -> tuple[tuple[str, Expression], ...]:
    left, ordered, known = dict(expressions), list[tuple[str, Expression]](), set(known)
    while left:
        ready = [path for path, expression in left.items() if expression.names <= known]
        if not ready:
            path, expression = next(iter(left.items()))
            missing = sorted(expression.names - known)
            circular = set(missing) <= set(left)
            why = "depends on itself through" if circular else "needs the axes"
            raise InputError(f"axes.{path}: the expression '{expression.text}' {why} {', '.join(missing)}")
        for path in ready:
            ordered.append((path, left.pop(path)))
            known.add(path)
    return tuple(ordered)


def sample(space: Space, sampler: Sampler, points: int | None, seed: int) -> Iterator[int]:
    """Numbers of the points to try, without repetition, the same for the same seed.

    points: how many at most (needed by all samplers but grid). ``latin_hypercube`` and ``sobol`` spread evenly along
    every axis; cells that fall on the same point are tried once, so they may give fewer. ``saltelli``: the base sample,
    of which each axis that has a choice makes another, for Sobol' indices.
    """
    if sampler == "grid":
        yield from range(space.size if points is None else min(points, space.size))
        return
    if points is None:
        raise InputError(f"sampler.points: the sampler '{sampler}' needs the number of points to draw")
    if sampler == "random":
        yield from _random(space.size, points, seed)
        return
    if sampler == "saltelli":
        yield from dict.fromkeys(saltelli(space, points, seed))
        return
    cells = _latin_hypercube(points, len(space.axes), seed) if sampler == "latin_hypercube" else _sobol(
        points, len(space.axes), seed
    )
    lengths = np.array([len(axis) for axis in space.axes], dtype=np.int64)
    seen: set[int] = set()
    for cell in cells:
        number = space.number([int(choice) for choice in np.minimum(cell * lengths, lengths - 1)])
        if number not in seen:
            seen.add(number)
            yield number


def saltelli(space: Space, points: int, seed: int) -> list[int]:
    """The numbers of all (axes + 2) x points rows of a Saltelli sample, in SALib's order, with repetitions."""
    try:
        from SALib.sample import sobol
    except ImportError:
        raise InputError("sampler.kind: 'saltelli' needs SALib: pip install 'archsim[explore]'") from None
    if points & (points - 1):
        raise InputError(f"sampler.points: {points} is no power of two, which the sampler 'saltelli' needs")
    free = [axis for axis in space.axes if len(axis) > 1]
    problem = {"num_vars": len(free), "names": [axis.paths[0] for axis in free], "bounds": [[0.0, 1.0]] * len(free)}
    lengths = np.array([len(axis) for axis in free], dtype=np.int64)
    rows = np.minimum(sobol.sample(problem, points, calc_second_order=False, seed=seed) * lengths, lengths - 1)
    numbers = []
    for row in rows.astype(np.int64).tolist():
        chosen = iter(row)
        numbers.append(space.number([next(chosen) if len(axis) > 1 else 0 for axis in space.axes]))
    return numbers


def _random(size: int, points: int, seed: int) -> Iterator[int]:
    rng = np.random.default_rng(seed)
    if points >= size:
        yield from rng.permutation(size).tolist()
    elif size <= 4 * points:
        yield from rng.choice(size, points, replace=False).tolist()
    else:  # a sparse draw from a large space: repetitions are rare
        draw = random.Random(seed)  # whole numbers of any length, where NumPy's end at 2**63
        seen: set[int] = set()
        while len(seen) < points:
            number = draw.randrange(size)
            if number not in seen:
                seen.add(number)
                yield number


def _latin_hypercube(points: int, axes: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Each axis is cut into `points` slices and each slice is used once (McKay et al. 1979)."""
    rng = np.random.default_rng(seed)
    slices = np.stack([rng.permutation(points) for _ in range(axes)], axis=1)
    cells: np.ndarray[tuple[int, int], np.dtype[np.float64]] = (slices + rng.random((points, axes))) / points
    return cells


def _sobol(points: int, axes: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    try:
        from scipy.stats import qmc
    except ImportError:
        raise InputError("sampler.kind: 'sobol' needs SciPy: pip install 'archsim[explore]'") from None
    power = max(math.ceil(math.log2(max(points, 1))), 0)  # Sobol' sequences balance at powers of two
    cells: np.ndarray[tuple[int, int], np.dtype[np.float64]] = qmc.Sobol(axes, seed=seed).random_base2(power)[:points]
    return cells
