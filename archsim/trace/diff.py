"""What two graphs do differently: operators added, removed and changed, each matched by block and name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archsim.trace.graph import Graph, Op

__all__ = ["Change", "GraphDiff", "diff_graphs"]

Value = Any  # of a dimension, an attribute, a dtype, FLOPs or bytes; None: it has none


@dataclass(frozen=True)
class Change:
    """An operator of both graphs whose ``fields`` differ: name of each field to (value in A, value in B)."""

    block: str
    name: str
    fields: dict[str, tuple[Value, Value]]


@dataclass(frozen=True)
class GraphDiff:
    """From graph A to graph B. ``totals`` and ``repeats`` hold only what differs, (A, B)."""

    totals: dict[str, tuple[int, int]]
    repeats: dict[str, tuple[int, int]]
    added: tuple[tuple[str, Op], ...]
    removed: tuple[tuple[str, Op], ...]
    changed: tuple[Change, ...]

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.totals or self.repeats or self.added or self.removed or self.changed)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "totals": _sides(self.totals),
            "repeats": _sides(self.repeats),
            "added": [{"block": block, "name": op.name, **_fields(op)} for block, op in self.added],
            "removed": [{"block": block, "name": op.name, **_fields(op)} for block, op in self.removed],
            "changed": [{"block": c.block, "name": c.name, "fields": _sides(c.fields)} for c in self.changed],
        }


def diff_graphs(a: Graph, b: Graph) -> GraphDiff:
    """What changes from `a` to `b`.

    >>> from archsim.trace import load_workload, quantised
    >>> trace = load_workload("llama-3.1-8b", "decode")
    >>> change = diff_graphs(trace.at(batch=1, ctx=100), quantised(trace, "int8").at(batch=1, ctx=100))
    >>> [op.name for block, op in change.added][:2], len(change.removed), change.changed[0].fields["dtype"]
    (['self_attn.q_proj.quantise', 'self_attn.o_proj.quantise'], 0, ('bf16', 'int8'))
    """
    ops_a, ops_b = (_ops(graph) for graph in (a, b))
    repeats_a, repeats_b = ({block.name: block.repeat for block in graph.blocks} for graph in (a, b))
    changed = []
    for (block, name), op in ops_a.items():
        if (block, name) in ops_b and (fields := _differing(_fields(op), _fields(ops_b[block, name]))):
            changed.append(Change(block, name, fields))
    return GraphDiff(
        totals=_differing(_totals(a), _totals(b)),
        repeats=_differing(repeats_a, repeats_b, missing=0),
        added=tuple((block, op) for (block, name), op in ops_b.items() if (block, name) not in ops_a),
        removed=tuple((block, op) for (block, name), op in ops_a.items() if (block, name) not in ops_b),
        changed=tuple(changed),
    )


def _sides(table: Mapping[str, tuple[Value, Value]]) -> dict[str, dict[str, Value]]:
    return {key: {"a": a, "b": b} for key, (a, b) in table.items()}


def _ops(graph: Graph) -> dict[tuple[str, str], Op]:
    return {(block.name, op.name): op for block in graph.blocks for op in block.ops}


def _fields(op: Op) -> dict[str, Value]:
    costs = {"flops": op.flops, "bytes_read": op.bytes_read, "bytes_written": op.bytes_written}
    return {"kind": op.kind, "dtype": op.dtype, **op.attrs, **op.dims, **costs}


def _totals(graph: Graph) -> dict[str, int]:
    return {
        "parameters": graph.n_params,
        "weight_bytes": graph.weight_bytes,
        "kv_bytes": graph.kv_bytes,
        "flops": graph.flops,
        "bytes": sum(b.repeat * (op.bytes_read + op.bytes_written) for b in graph.blocks for op in b.ops),
    }


def _differing(a: dict[str, Any], b: dict[str, Any], missing: Value = None) -> dict[str, tuple[Any, Any]]:
    """The keys whose values differ, in the order of `a`, then of `b`."""
    keys = [*a, *(key for key in b if key not in a)]
    pairs = {key: (a.get(key, missing), b.get(key, missing)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
