"""Request streams for memories: the patterns that the reference simulators were run on, request for request.

Random numbers come from a linear congruential generator (Knuth's MMIX constants), so that every program draws the same:

    x <- 6364136223846793005 x + 1442695040888963407 mod 2^64,   drawn value = x >> 33
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.program.dram import DramChannels

__all__ = ["PATTERNS", "Stream", "due_ticks", "make_stream"]

ADDRESS_SEED, DIRECTION_SEED = 0x12345678, 0x9E3779B97F4A7C15
MULTIPLIER, INCREMENT = 6364136223846793005, 1442695040888963407

#: legal patterns; a number stands for N
PATTERNS = (
    "sequential", "random", "row_thrash", "stride_N", "streamsN_aligned", "streamsN_skewed", "chunk_N",
)  # fmt: skip
_PATTERN = re.compile(
    r"(?P<sequential>sequential)|(?P<random>(?:uniform_)?random)|(?P<thrash>row_thrash(?:_same_bank)?)"
    r"|stride_(?P<stride>\d+)B?|streams(?P<streams>\d+)_(?P<how>aligned|skewed)|chunk_(?:random_)?(?P<chunk>\d+)B?"
)

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stream:
    """Requests of one burst each, in order."""

    address: Ints
    write: NDArray[np.bool_]


def make_stream(
    pattern: str, count: int, *, request_bytes: int, region_bytes: int, stripe_bytes: int, read_share: float = 1.0
) -> Stream:
    """`count` requests of a pattern over a region; `stripe_bytes` is one row over all banks, stacks and channels.

    >>> stream = make_stream("random", 4, request_bytes=32, region_bytes=2**30, stripe_bytes=65536, read_share=0.75)
    >>> [hex(address) for address in stream.address.tolist()], stream.write.tolist()
    (['0x30d39c40', '0x12351f20', '0x1a5a9a80', '0x337f9740'], [False, True, False, False])
    >>> make_stream("streams4_skewed", 3, request_bytes=32, region_bytes=2**30, stripe_bytes=65536).address.tolist()
    [0, 268451840, 536903680]
    """
    match = _PATTERN.fullmatch(pattern)
    if match is None:
        raise InputError(f"pattern '{pattern[:60]}' is unknown; there are {', '.join(PATTERNS)} (N a number)")
    if not 1 <= count <= 2**31:
        raise InputError(f"a stream of {count} requests; there must be 1 to {2**31}")
    if not 0.0 <= read_share <= 1.0:
        raise InputError(f"read share {read_share}: must be between 0 and 1")
    if region_bytes < request_bytes or request_bytes < 1 or stripe_bytes < 1:
        raise InputError(f"a region of {region_bytes} bytes holds no request of {request_bytes} bytes")
    k = np.arange(count, dtype=np.int64)
    if match["sequential"]:
        address = k * request_bytes % region_bytes
    elif match["random"]:
        address = _draw(ADDRESS_SEED, count) % (region_bytes // request_bytes) * request_bytes
    elif match["thrash"]:
        address = k * stripe_bytes % region_bytes
    elif match["stride"]:
        way = k * _number(match["stride"], pattern, region_bytes)
        address = (way % region_bytes + way // region_bytes * request_bytes) % region_bytes
    elif match["chunk"]:
        size = _number(match["chunk"], pattern, region_bytes)
        each = max(1, size // request_bytes)
        base = _draw(ADDRESS_SEED, -(-count // each)) % (region_bytes // size) * size
        address = base[k // each] + k % each * request_bytes
    else:
        streams = _number(match["streams"], pattern, region_bytes // request_bytes)
        which, step = k % streams, k // streams
        address = (which * (region_bytes // streams) + step * request_bytes) % region_bytes
        if match["how"] == "skewed":
            address = (address + which * (stripe_bytes // streams)) % region_bytes
    write = np.zeros(count, bool)
    if read_share < 1.0:
        write = _draw(DIRECTION_SEED, count) % 100 >= 100 * read_share
    return Stream(address, write)


def due_ticks(dram: DramChannels, count: int, load: float) -> Ints:
    """The tick at which each request is offered when the stream asks for `load` of the peak bandwidth."""
    if not 0.0 < load <= 1.0:
        raise InputError(f"load {load}: must be above 0 and at most 1")
    peak = Fraction(dram.map.channels * dram.map.organisation.pseudo_channels, dram.timing.bl)  # requests a tick
    permille = round(1000 * load)
    numerator, divisor = 1000 * peak.denominator, peak.numerator * max(1, permille)
    return np.arange(count, dtype=np.int64) * numerator // divisor


def _number(text: str, pattern: str, most: int) -> int:
    value = int(text[:12])
    if not 1 <= value <= most:
        raise InputError(f"pattern '{pattern[:60]}': the number must be 1 to {most}")
    return value


def _draw(seed: int, count: int) -> Ints:
    """The first `count` values after `seed`: x_k = A_k x_0 + C_k, with A and C built by doubling."""
    factor, offset = np.empty(count, np.uint64), np.empty(count, np.uint64)
    with np.errstate(over="ignore"):
        factor[0], offset[0] = MULTIPLIER, INCREMENT
        known = 1
        while known < count:
            more = min(known, count - known)
            # after the first `known` steps, as many again
            factor[known : known + more] = factor[:more] * factor[known - 1]
            offset[known : known + more] = factor[:more] * offset[known - 1] + offset[:more]
            known += more
        drawn = factor * np.uint64(seed) + offset
    values: Ints = (drawn >> np.uint64(33)).astype(np.int64)
    return values
