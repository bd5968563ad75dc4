"""Traces as HDF5 files (docs/trace-format.md).

Everything inside is fixed-length text in three small tables and a few attributes; nothing is pickled, nothing refers
outside the file. `archsim._h5file` finds damage before the HDF5 library reads a byte; what is checked here is the
content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from archsim._h5file import open_h5, own_dataset, write_h5
from archsim.errors import InputError
from archsim.sparsity import Sparsity
from archsim.trace.expr import Expr
from archsim.trace.graph import Attr
from archsim.trace.trace import BlockSpec, OpSpec, TensorSpec, Trace

if TYPE_CHECKING:
    import h5py

__all__ = ["FORMAT_VERSION", "load_trace", "write_trace"]

FORMAT_VERSION = 1

_MAX_FILE_BYTES = 16 * 2**20
_MAX_TABLE_BYTES = 256 * 2**20

_TENSOR_FIELDS = ("name", "role", "dtype", "shape", "scale_block")
_OP_FIELDS = ("block", "name", "kind", "dtype", "dims", "attrs", "inputs", "outputs")
_BLOCK_FIELDS = ("name", "repeat")


def write_trace(trace: Trace, path: Path) -> None:
    """Write `trace` beside `path` and move it into place."""
    tensors = [
        (t.name, t.role, t.stored, ", ".join(map(str, t.shape)), " ".join(map(str, t.scales or ())))
        for t in trace.tensors
    ]

    def fill(file: h5py.File) -> None:
        file.attrs["content_hash"] = trace.content_hash
        file.attrs["name"] = trace.name
        file.attrs["phase"] = trace.phase
        file.attrs["symbols"] = " ".join(trace.symbols)
        file.attrs["fixed"] = json.dumps(trace.fixed, sort_keys=True)
        file.attrs["config"] = json.dumps(trace.config, sort_keys=True)
        file.attrs["producer"] = json.dumps(trace.producer, sort_keys=True)
        _write_table(file, "tensors", _TENSOR_FIELDS, tensors)
        _write_table(file, "blocks", _BLOCK_FIELDS, [(b.name, str(b.repeat)) for b in trace.blocks])
        _write_table(file, "ops", _OP_FIELDS, [_op_row(b.name, op) for b in trace.blocks for op in b.ops])

    write_h5(path, "trace", FORMAT_VERSION, fill)


def load_trace(path: str | Path) -> Trace:
    """Read and check a trace file; every fault is an InputError that names the file and what is wrong."""
    path = Path(path)
    with open_h5(path, "trace", FORMAT_VERSION, _MAX_FILE_BYTES) as file:
        try:
            return _trace(file)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def _op_row(block: str, op: OpSpec) -> tuple[str, ...]:
    dims = ", ".join(f"{name}={expr}" for name, expr in op.dims.items())
    operands = (" ".join(map(str, op.inputs)), " ".join(map(str, op.outputs)))
    return (block, op.name, op.kind, op.dtype, dims, json.dumps(op.attrs, sort_keys=True), *operands)


def _write_table(file: h5py.File, name: str, fields: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    cells = [[cell.encode() for cell in row] for row in rows]
    widths = [max([1] + [len(row[i]) for row in cells]) for i in range(len(fields))]
    dtype = np.dtype([(field, f"S{width}") for field, width in zip(fields, widths, strict=True)])
    table = np.array([tuple(row) for row in cells], dtype=dtype)
    file.create_dataset(name, data=table, chunks=table.shape, compression="gzip", shuffle=True)


def _trace(file: h5py.File) -> Trace:
    attrs = {key: _text_attr(file, key) for key in ("content_hash", "name", "phase", "config", "producer")}
    tensors = tuple(
        TensorSpec(
            row["name"], _shape(row["shape"]), row["dtype"].partition(" ")[0], row["role"],
            *_scales(row["scale_block"]), _sparsity(row["dtype"]),
        )
        for row in _read_table(file, "tensors", _TENSOR_FIELDS)
    )  # fmt: skip
    ops: dict[str, list[OpSpec]] = {}
    for row in _read_table(file, "ops", _OP_FIELDS):
        ops.setdefault(row["block"], []).append(_op(row))
    blocks = tuple(
        BlockSpec(row["name"], int(row["repeat"]), tuple(ops.pop(row["name"], ())))
        for row in _read_table(file, "blocks", _BLOCK_FIELDS)
    )
    if ops:
        raise InputError(f"operators name the block '{next(iter(ops))}', which the block table does not list")
    config, producer = (_json_object(attrs[key], key) for key in ("config", "producer"))
    made = {key: str(value) for key, value in producer.items()}
    trace = Trace(attrs["name"], attrs["phase"], config, tensors, blocks, made, _fixed(file, attrs["phase"]))
    if trace.content_hash != attrs["content_hash"]:
        raise InputError("its content does not match its content hash")
    return trace


def _fixed(file: h5py.File, phase: str) -> dict[str, int]:
    """Sizes that are no symbols. The first files did not say: decode had one new token, prefill an empty cache."""
    if "fixed" not in file.attrs:
        return {"prefill": {"ctx": 0}, "decode": {"seq": 1}}.get(phase, {})
    fixed = _json_object(_text_attr(file, "fixed"), "fixed")
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in fixed.values()):
        raise InputError("the attribute 'fixed' must hold whole numbers")
    return fixed


def _text_attr(file: h5py.File, key: str) -> str:
    value = file.attrs.get(key)
    if not isinstance(value, str):
        raise InputError(f"the text attribute '{key}' is missing")
    return value


def _read_table(file: h5py.File, name: str, fields: Sequence[str]) -> list[dict[str, str]]:
    table = own_dataset(file, name, _MAX_TABLE_BYTES) if name in file else None
    if table is None or table.ndim != 1 or table.dtype.names is None:
        raise InputError(f"the table '{name}' is missing")
    missing = [field for field in fields if field not in table.dtype.names]
    if missing or any(table.dtype[field].kind != "S" for field in fields):
        raise InputError(f"the table '{name}' must have the text columns {', '.join(fields)}")
    data: NDArray[Any] = table[()]
    return [{field: row[field].decode() for field in fields} for row in data]


def _op(row: Mapping[str, str]) -> OpSpec:
    dims = {}
    for term in row["dims"].split(", "):
        name, equals, expr = term.partition("=")
        if not equals:
            raise InputError(f"operator '{row['name']}': '{term}' is not a 'name=expression'")
        dims[name] = Expr.parse(expr)
    attrs: dict[str, Attr] = _json_object(row["attrs"], f"attributes of {row['name']}")
    return OpSpec(row["name"], row["kind"], dims, attrs, _ints(row["inputs"]), _ints(row["outputs"]), row["dtype"])


def _json_object(text: str, what: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise InputError(f"{what}: not a JSON object")
    return value


def _shape(text: str) -> tuple[Expr, ...]:
    return tuple(Expr.parse(axis) for axis in text.split(", ")) if text else ()


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split())


def _scales(text: str) -> tuple[tuple[int, int] | None, str]:
    """Block and type of the scales: "128 128" or "1 16 fp8"."""
    if not text:
        return None, "fp32"
    rows, cols, *dtype = text.split()
    return (int(rows), int(cols)), (" ".join(dtype) or "fp32")


def _sparsity(text: str) -> Sparsity | None:
    """Of a type as it is stored: "bf16" or "bf16 2:4"."""
    pattern = text.partition(" ")[2]
    return Sparsity.of(pattern) if pattern else None
