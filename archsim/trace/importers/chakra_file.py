"""Chakra execution traces as files: one ``GlobalMetadata``, then ``Node`` after ``Node``, each behind its length.

Field numbers are those of ``schema/protobuf/et_def.proto`` (github.com/mlcommons/chakra, Apache-2.0; schema 1.x).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from archsim.trace.importers import wire

__all__ = ["AttrValue", "Collective", "Node", "NodeType", "Operands", "read_messages", "write_messages"]

AttrValue = bool | int | float | str

_MAX_NODES = 2_000_000


class NodeType(IntEnum):
    """``NodeType`` of the schema."""

    INVALID = 0
    METADATA = 1
    MEM_LOAD = 2
    MEM_STORE = 3
    COMP = 4
    COMM_SEND = 5
    COMM_RECV = 6
    COMM_COLL = 7


class Collective(IntEnum):
    """``CollectiveCommType`` of the schema."""

    ALL_REDUCE = 0
    REDUCE = 1
    ALL_GATHER = 2
    GATHER = 3
    SCATTER = 4
    BROADCAST = 5
    ALL_TO_ALL = 6
    REDUCE_SCATTER = 7
    REDUCE_SCATTER_BLOCK = 8
    BARRIER = 9


@dataclass(frozen=True)
class Operands:
    """``IOInfo``: three texts that each hold a list with one item an operand."""

    values: str = ""
    shapes: str = ""
    types: str = ""


@dataclass
class Node:
    """One node; attributes by name, lists among them left out."""

    id: int = 0
    name: str = ""
    type: int = 0
    ctrl_deps: list[int] = field(default_factory=list)
    data_deps: list[int] = field(default_factory=list)
    duration_us: int = 0
    inputs: Operands = Operands()
    outputs: Operands = Operands()
    attrs: dict[str, AttrValue] = field(default_factory=dict)


def read_messages(data: bytes) -> tuple[dict[str, AttrValue], list[Node]]:
    """The attributes of the metadata and the nodes; ValueError for anything else."""
    view, at = memoryview(data), 0
    metadata: dict[str, AttrValue] = {}
    nodes: list[Node] = []
    first = True
    while at < len(view):
        size, at = wire.read_varint(view, at)
        if size > len(view) - at:
            raise ValueError(f"node {len(nodes)} is cut short")
        message = view[at : at + size]
        at += size
        if first:
            metadata, first = _metadata(message), False
            continue
        if len(nodes) == _MAX_NODES:
            raise ValueError(f"has more than {_MAX_NODES:,} nodes")
        try:
            nodes.append(_node(message))
        except ValueError as error:
            raise ValueError(f"node {len(nodes)}: {error}") from None
    if not nodes:
        raise ValueError("has no nodes")
    return metadata, nodes


def write_messages(metadata: dict[str, AttrValue], nodes: Iterable[Node]) -> bytes:
    """The bytes of a file; the schema version goes first."""
    head = wire.text_field(1, "1.1.1-chakra.0.0.4") + b"".join(_attr_bytes(2, *item) for item in metadata.items())
    return b"".join(wire.varint(len(body)) + body for body in (head, *map(_node_bytes, nodes)))


def _metadata(message: memoryview) -> dict[str, AttrValue]:
    attrs: dict[str, AttrValue] = {"version": ""}
    for number, value in wire.fields(message):
        if number == 1:
            attrs["version"] = _text(value)
        elif number == 2:
            _read_attr(value, attrs)
        else:
            raise ValueError("does not begin with Chakra's metadata")
    return attrs


def _node(message: memoryview) -> Node:
    node = Node()
    for number, value in wire.fields(message):
        if number in (1, 3, 6, 7):
            if not isinstance(value, int):
                raise ValueError(f"field {number} is not a number")
            if number != 6:
                setattr(node, {1: "id", 3: "type", 7: "duration_us"}[number], value)
        elif number == 2:
            node.name = _text(value)
        elif number in (4, 5):
            (node.ctrl_deps if number == 4 else node.data_deps).extend(wire.packed(value))
        elif number == 8:
            node.inputs = _operands(value)
        elif number == 9:
            node.outputs = _operands(value)
        elif number == 10:
            _read_attr(value, node.attrs)
    return node


def _operands(value: int | memoryview) -> Operands:
    texts = {number: _text(text) for number, text in wire.fields(_message(value)) if number <= 3}
    return Operands(texts.get(1, ""), texts.get(2, ""), texts.get(3, ""))


def _read_attr(value: int | memoryview, attrs: dict[str, AttrValue]) -> None:
    """Put an ``AttributeProto`` into `attrs`: a name, and a value whose field number tells its type."""
    name, found = "", list[AttrValue]()
    for number, item in wire.fields(_message(value)):
        if number == 1:
            name = _text(item)
        elif number == 29:
            found.append(_text(item))
        elif isinstance(item, int):
            found.append(_scalar(number, item))
    if name and found:
        attrs[name] = found[-1]


def _scalar(number: int, item: int) -> AttrValue:
    if number == 3:
        return float(struct.unpack("<d", struct.pack("<Q", item))[0])
    if number == 5:
        return float(struct.unpack("<f", struct.pack("<I", item & 0xFFFFFFFF))[0])
    if number in (7, 9):
        return wire.signed(item)
    if number in (15, 17):
        return (item >> 1) ^ -(item & 1)
    return bool(item) if number == 27 else item


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message belongs")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode()  # UnicodeDecodeError is a ValueError


def _node_bytes(node: Node) -> bytes:
    parts = [wire.number_field(1, node.id), wire.text_field(2, node.name), wire.number_field(3, node.type)]
    parts += [wire.number_field(4, node.ctrl_deps), wire.number_field(5, node.data_deps)]
    parts += [wire.delimited(8, _operand_bytes(node.inputs)), wire.delimited(9, _operand_bytes(node.outputs))]
    return b"".join([*parts, *(_attr_bytes(10, *item) for item in node.attrs.items())])


def _operand_bytes(operands: Operands) -> bytes:
    texts: Sequence[str] = (operands.values, operands.shapes, operands.types)
    return b"".join(wire.text_field(i + 1, text) for i, text in enumerate(texts))


def _attr_bytes(number: int, name: str, value: AttrValue) -> bytes:
    """An attribute in the type by which ASTRA-sim's feeder reads it."""
    if isinstance(value, bool):
        body = wire.number_field(27, value)
    elif isinstance(value, int):
        body = wire.number_field(13 if name == "tensor_size" else 9, value)
    elif isinstance(value, float):
        body = wire.varint(3 << 3 | 1) + struct.pack("<d", value)
    else:
        body = wire.text_field(29, value)
    return wire.delimited(number, wire.text_field(1, name) + body)
