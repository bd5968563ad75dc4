"""A sweep over message sizes, in the terms of nccl-tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from archsim.errors import InputError
from archsim.hardware.link import TransportName
from archsim.network.fabric import Fabric
from archsim.network.request import Algorithm, Collective, Group, Kind
from archsim.network.run import CollectiveRun, run_collective
from archsim.units import UnitError, parse

__all__ = ["sizes", "sweep"]

MOST_SIZES = 64


def sizes(text: str) -> list[int]:
    """Powers of two from one size to another, or the one size.

    >>> sizes("1KiB:8KiB"), sizes("3 MB"), sizes("512")
    ([1024, 2048, 4096, 8192], [3000000], [512])
    """
    ends = text.split(":")
    try:
        low, high = (int(parse(_spaced(end), "size")) for end in (ends[0], ends[-1]))
    except UnitError as error:
        raise InputError(f"--bytes {text}: {error}") from None
    if len(ends) > 2 or not 1 <= low <= high:
        raise InputError(f"--bytes {text}: expected a size such as 4KiB, or two from the smaller to the larger")
    found = [low]
    while found[-1] * 2 <= high:
        found.append(found[-1] * 2)
    if len(found) > MOST_SIZES:
        raise InputError(f"--bytes {text}: more than {MOST_SIZES} sizes")
    return found


def _spaced(text: str) -> str:
    """Put the space between number and unit that :func:`archsim.units.parse` wants; a plain number means bytes."""
    text = text.strip()
    if text.isdecimal():
        return f"{text} B"
    at = next((i for i, letter in enumerate(text) if letter.isalpha()), len(text))
    return f"{text[:at].strip()} {text[at:]}"


def sweep(
    fabric: Fabric, kind: Kind, group: Group, nbytes: Sequence[int], algorithm: Algorithm = "auto",
    transport: TransportName | None = None,
) -> Iterator[CollectiveRun]:  # fmt: skip
    """Run a collective at every size."""
    for size in nbytes:
        yield run_collective(fabric, Collective(kind, size, group, algorithm, transport=transport))
