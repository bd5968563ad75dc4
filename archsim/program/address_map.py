"""Where a byte of a memory lies: channel, pseudo-channel, stack, bank group, bank, row and column.

Chunk c = address // interleave_bytes is on channel c % channels (any number of channels), at the local address
(c // channels) * interleave_bytes + address % interleave_bytes. Within a channel the map is linear over bits:
every bit of a
field is a bit of the local burst number, or the exclusive or of some. Such a map is the XOR of one table entry for each
byte of the burst number, which is how kernels apply it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError, did_you_mean

__all__ = ["FIELDS", "AddressMap", "Organisation"]

#: the parts of an address within a channel; a flat bank number is made of the first four, the first the most
# significant
FIELDS = ("pseudo_channel", "stack_id", "bank_group", "bank", "row", "column")
#: positions in a packed word: flat bank, column, row
COLUMN_SHIFT, ROW_SHIFT = 10, 24
_SLICE = re.compile(r"([a-z_]+)(?:\[(\d+):(\d+)\])?")


@dataclass(frozen=True)
class Organisation:
    """What one channel consists of; each a power of two, as the bits of an address are.

    A burst is the least access of one pseudo-channel; `columns` counts the bursts of a row.
    """

    pseudo_channels: int
    stack_ids: int
    bank_groups: int
    banks_per_group: int
    rows: int
    columns: int
    burst_bytes: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1 or value & (value - 1):
                raise InputError(f"memory: {name} is {value}, but must be a power of two, at least 1")
        if self.banks > 1 << COLUMN_SHIFT:
            raise InputError(
                f"memory: {self.banks} banks in a channel, but at most {1 << COLUMN_SHIFT} can be modelled"
            )

    @property
    def banks(self) -> int:
        """Banks of a channel, over pseudo-channels, stacks and groups."""
        return self.pseudo_channels * self.stack_ids * self.bank_groups * self.banks_per_group

    @property
    def channel_bytes(self) -> int:
        """Capacity of a channel."""
        return self.banks * self.rows * self.columns * self.burst_bytes

    @property
    def bits(self) -> dict[str, int]:
        """Bits of each field."""
        counts = (self.pseudo_channels, self.stack_ids, self.bank_groups, self.banks_per_group, self.rows, self.columns)
        return {name: count.bit_length() - 1 for name, count in zip(FIELDS, counts, strict=True)}


@dataclass(frozen=True)
class AddressMap:
    """The order of the fields within a channel, least significant first, and what is XORed into which.

    order: ``("pseudo_channel", "bank_group", "column", "bank", "stack_id", "row")``; a field may come in pieces, as
    ``column[0:2]`` (bits 0 and 1) and ``column[2:5]``. Every bit of every field must stand exactly once.
    xor: field -> bits of another one that are XORed into it, ``{"bank": "row[0:2]"}``.
    """

    organisation: Organisation
    order: tuple[str, ...]
    channels: int = 1
    interleave_bytes: int = 256
    xor: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise InputError(f"memory: {self.channels} channels, but there must be at least 1")
        burst = self.organisation.burst_bytes
        if self.interleave_bytes < burst or self.interleave_bytes % burst:
            raise InputError(
                f"memory: channels are interleaved every {self.interleave_bytes} bytes, but that must be a multiple"
                f" of a burst ({burst} bytes)"
            )
        _ = self.vectors  # refuses an illegal order

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all channels."""
        return self.channels * self.organisation.channel_bytes

    @cached_property
    def vectors(self) -> NDArray[np.uint64]:
        """For every bit of the local burst number, the packed word that it contributes (to be XORed)."""
        source: dict[tuple[str, int], int] = {}
        position = 0
        for piece in self.order:
            name, low, high = self._slice(piece, "mapping")
            for bit in range(low, high):
                if (name, bit) in source:
                    raise InputError(f"mapping: bit {bit} of {name} stands twice in the order {', '.join(self.order)}")
                source[name, bit] = position
                position += 1
        for name, bits in self.organisation.bits.items():
            missing = [bit for bit in range(bits) if (name, bit) not in source]
            if missing:
                raise InputError(
                    f"mapping: {name} has {bits} bits, but bit {missing[0]} of it is not in the order"
                    f" {', '.join(self.order)}"
                )
        vectors = np.zeros(64, np.uint64)
        for (name, bit), at in source.items():
            vectors[at] ^= np.uint64(1 << self._place(name, bit))
        for target, piece in self.xor.items():
            room = self.organisation.bits.get(target)
            name, low, high = self._slice(piece, "mapping.xor")
            if room is None or target == name or high - low > room:
                raise InputError(
                    f"mapping: xor of {piece} into '{target}' is impossible: the target must be another field, one of"
                    f" {', '.join(FIELDS)}, with at least as many bits"
                )
            for index, bit in enumerate(range(low, high)):
                vectors[source[name, bit]] ^= np.uint64(1 << self._place(target, index))
        return vectors

    @cached_property
    def run_bytes(self) -> int:
        """Consecutive bytes of a channel that lie in one row of one bank."""
        bursts = 1
        for vector in self.vectors:
            if int(vector) >> ROW_SHIFT or int(vector) & ((1 << COLUMN_SHIFT) - 1) or not int(vector):
                break
            bursts *= 2
        return bursts * self.organisation.burst_bytes

    @cached_property
    def tables(self) -> NDArray[np.uint64]:
        """``tables[i, v]``: the packed word of byte value v at byte i of the burst number."""
        tables = np.zeros((8, 256), np.uint64)
        for byte in range(8):
            for bit in range(8):
                tables[byte, 1 << bit : 2 << bit] = tables[byte, : 1 << bit] ^ self.vectors[8 * byte + bit]
        return tables

    def locate(self, address: int) -> dict[str, int]:
        """The fields of one address, with the channel.

        >>> organisation = Organisation(2, 1, 4, 4, rows=16384, columns=32, burst_bytes=32)
        >>> order = ("pseudo_channel", "bank_group", "column", "bank", "stack_id", "row")
        >>> where = AddressMap(organisation, order, channels=16).locate(4096 + 32 * 3)
        >>> [where[name] for name in ("channel", "pseudo_channel", "bank_group", "bank", "row", "column")]
        [0, 1, 1, 0, 0, 1]
        """
        chunk, within = divmod(address, self.interleave_bytes)
        word = self._word(chunk // self.channels * self.interleave_bytes + within)
        found = {"channel": chunk % self.channels}
        for name, bits in self.organisation.bits.items():
            found[name] = (word >> self._place(name, 0)) & ((1 << bits) - 1)
        return found

    def place(self, local: int) -> tuple[int, int]:
        """Flat bank and row of a local address of a channel."""
        word = self._word(local)
        return word & ((1 << COLUMN_SHIFT) - 1), word >> ROW_SHIFT

    def _word(self, local: int) -> int:
        burst, word = local // self.organisation.burst_bytes, 0
        for byte in range(8):
            word ^= int(self.tables[byte, (burst >> 8 * byte) & 255])
        return word

    def _place(self, name: str, bit: int) -> int:
        """Where a bit of a field stands in a packed word."""
        if name in ("row", "column"):
            return (ROW_SHIFT if name == "row" else COLUMN_SHIFT) + bit
        bits = self.organisation.bits
        for lower in reversed(FIELDS[: FIELDS.index("row")]):
            if lower == name:
                break
            bit += bits[lower]
        return bit

    def _slice(self, piece: str, where: str) -> tuple[str, int, int]:
        match = _SLICE.fullmatch(piece)
        bits = self.organisation.bits
        if match is None or match[1] not in bits:
            raise InputError(
                f"{where}: '{piece[:60]}' is no field{did_you_mean(piece, FIELDS)}; there are"
                f" {', '.join(FIELDS)}, also in pieces as column[0:2]"
            )
        name = match[1]
        low, high = (0, bits[name]) if match[2] is None else (int(match[2]), int(match[3]))
        if not low <= high <= bits[name] or (match[2] is not None and low == high):
            raise InputError(f"{where}: {piece} is empty or beyond the {bits[name]} bits of {name}")
        return name, low, high
