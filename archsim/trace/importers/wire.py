"""The protobuf wire format, as much as Chakra's messages need (protobuf.dev/programming-guides/encoding).

A message is a run of fields: a varint ``number << 3 | type``, then a varint (type 0), 8 bytes (1), a length and as many
bytes (2), or 4 bytes (5). Groups (3, 4) are long gone and refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

__all__ = ["delimited", "fields", "number_field", "packed", "read_varint", "signed", "text_field", "varint"]


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """The unsigned number at `at` and where it ends; ValueError beyond 64 bits or past the end."""
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("a number is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                raise ValueError("a number has more than 64 bits")
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than 64 bits")


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field; fixed-width values come as unsigned integers."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError("a field has the number 0")
        if kind == 0:
            value, at = read_varint(data, at)
            yield number, value
            continue
        if kind == 2:
            size, at = read_varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field has the unknown wire type {kind}")
        if size > len(data) - at:
            raise ValueError("a field is cut short")
        piece = data[at : at + size]
        at += size
        yield number, piece if kind == 2 else struct.unpack("<Q" if kind == 1 else "<I", piece)[0]


def packed(value: int | memoryview) -> list[int]:
    """The numbers of a repeated integer field, packed or not."""
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while at < len(value):
        number, at = read_varint(value, at)
        numbers.append(number)
    return numbers


def signed(value: int) -> int:
    """A 64-bit two's complement number."""
    return value - (1 << 64) if value >= 1 << 63 else value


def varint(value: int) -> bytes:
    """`value` (64 bits, two's complement if negative) as a varint."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number_field(number: int, value: int | Iterable[int]) -> bytes:
    """A varint field, or a packed one; nothing for an empty one."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    body = b"".join(map(varint, value))
    return delimited(number, body) if body else b""


def text_field(number: int, value: str) -> bytes:
    """A text field."""
    return delimited(number, value.encode())


def delimited(number: int, body: bytes) -> bytes:
    """A field of bytes, text or a message."""
    return varint(number << 3 | 2) + varint(len(body)) + body
