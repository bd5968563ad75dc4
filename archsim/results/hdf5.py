"""Results as HDF5 files: a dataset per column, text as codes into one list of strings, the meta as JSON.

/            attributes format, version, time_ps, tokens, memory_capacity
/meta        JSON: Result.meta
/strings     every text that the columns refer to
/ops         the columns of OpTable
/timeline    lane, name, start_ps, dur_ps
/units       name, busy
/memory      label, bytes
/links       name, busy
/physical    JSON: Result.physical

Version 2 added the energies of the operators and /physical, version 3 /links, version 4 activates, version 5 bursts and
the energies of the memory by command; older files are read without them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from archsim._h5file import open_h5, own_dataset, write_h5
from archsim.results.op_table import COLUMNS, DRAM_ENERGIES, ENERGIES, OpTable
from archsim.results.result import Result, Slice

if TYPE_CHECKING:
    import h5py

__all__ = ["load_result", "save_result"]

VERSION = 5
MAX_BYTES = 256 << 20  # of a file
MAX_COLUMN = 64 << 20  # bytes of a column
MAX_TEXT = 8 << 20  # characters of the meta and of all strings together
SMALL = 64  # rows up to which a chunk and a filter cost more than they save
TABLES: dict[str, dict[str, type]] = {
    "ops": COLUMNS,
    "timeline": {"lane": str, "name": str, "start_ps": int, "dur_ps": int},
    "units": {"name": str, "busy": float},
    "memory": {"label": str, "bytes": int},
    "links": {"name": str, "busy": float},
}
#: the version that added a column of an operator
SINCE = {**dict.fromkeys(ENERGIES, 2), "activates": 4, "bursts": 5, **dict.fromkeys(DRAM_ENERGIES, 5)}
DTYPES: dict[type, Any] = {str: np.uint32, int: np.int64, float: np.float64}


def save_result(result: Result, path: Path) -> None:
    """Write `result` to `path`, whole or not at all; the same result gives the same bytes."""
    import h5py

    tables: dict[str, Mapping[str, Sequence[Any]]] = {
        "ops": {name: column.tolist() for name, column in result.op_table.columns().items()},
        "timeline": _transposed(TABLES["timeline"], result.timeline),
        "units": _transposed(TABLES["units"], result.units.items()),
        "memory": _transposed(TABLES["memory"], result.memory),
        "links": _transposed(TABLES["links"], result.links.items()),
    }

    def fill(file: h5py.File) -> None:
        for name in ("time_ps", "tokens", "memory_capacity"):
            file.attrs[name] = getattr(result, name)
        file["meta"] = json.dumps(result.meta, sort_keys=True, allow_nan=False)  # an attribute ends at 64 KiB
        file["physical"] = json.dumps(result.physical, sort_keys=True, allow_nan=False)
        codes: dict[str, int] = {}
        for table, columns in TABLES.items():
            for column, kind in columns.items():
                values = tables[table][column]
                if kind is str:
                    values = [codes.setdefault(text, len(codes)) for text in values]
                packed = {"compression": "gzip", "shuffle": True} if len(values) > SMALL else {}
                file.create_dataset(f"{table}/{column}", data=np.array(values, DTYPES[kind]), **packed)
        file.create_dataset("strings", data=np.array(list(codes), dtype=object), dtype=h5py.string_dtype())

    write_h5(path, "result", VERSION, fill)


def load_result(path: str | Path) -> Result:
    """Read a result; anything but a whole, valid one raises InputError naming the file and the fault."""
    with open_h5(Path(path), "result", VERSION, MAX_BYTES) as file:
        version = int(file.attrs["version"])
        old = version < 2
        meta = _json(file, "meta")
        if not isinstance(meta, dict):
            raise ValueError("meta is not a JSON object")
        physical = None if old else _json(file, "physical")
        if not isinstance(physical, dict | None):
            raise ValueError("physical is not a JSON object")
        strings = np.array(_texts(file, "strings", ndim=1), dtype=np.str_)
        tables = {
            table: {
                column: _column(file, f"{table}/{column}", kind, strings)
                for column, kind in columns.items()
                if SINCE.get(column, 1) <= version
            }
            for table, columns in TABLES.items()
            if table != "links" or version >= 3
        }
        absent = [column for column, since in SINCE.items() if since > version]
        tables["ops"] |= {column: np.zeros(len(tables["ops"]["name"]), np.int64) for column in absent}
        return Result(
            meta=meta,
            time_ps=int(file.attrs["time_ps"]),
            tokens=int(file.attrs["tokens"]),
            op_table=OpTable(**tables["ops"]),
            units=dict(_rows(tables["units"])),
            memory=tuple(_rows(tables["memory"])),
            memory_capacity=int(file.attrs["memory_capacity"]),
            timeline=tuple(map(Slice._make, _rows(tables["timeline"]))),
            links=dict(_rows(tables["links"])) if "links" in tables else {},
            physical=physical,
        )


def _json(file: h5py.File, name: str) -> Any:
    return json.loads(_texts(file, name, ndim=0)[0], parse_constant=_no_constant)


def _transposed(columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> dict[str, list[Any]]:
    rows = list(rows)
    return {column: [row[i] for row in rows] for i, column in enumerate(columns)}


def _rows(columns: Mapping[str, NDArray[Any]]) -> Iterable[tuple[Any, ...]]:
    return zip(*(column.tolist() for column in columns.values()), strict=True)


def _dataset(file: h5py.File, name: str, ndim: int) -> h5py.Dataset:
    dataset = own_dataset(file, name, MAX_COLUMN)
    if dataset.ndim != ndim:
        raise ValueError(f"{name} has the shape {dataset.shape}")
    return dataset


def _column(file: h5py.File, name: str, kind: type, strings: NDArray[np.str_]) -> NDArray[Any]:
    dataset = _dataset(file, name, ndim=1)
    if dataset.dtype != DTYPES[kind]:
        raise ValueError(f"{name} has the type {dataset.dtype}")
    values: NDArray[Any] = dataset[:]
    if kind is not str:
        return values
    if len(values) and values.max() >= len(strings):
        raise ValueError(f"{name} refers to a missing string")
    texts: NDArray[Any] = strings[values]
    return texts


def _texts(file: h5py.File, name: str, ndim: int) -> list[str]:
    import h5py

    dataset = _dataset(file, name, ndim)
    if h5py.check_string_dtype(dataset.dtype) is None:
        raise ValueError(f"{name} is not text")
    texts: list[str] = np.atleast_1d(dataset.asstr()[()]).tolist()
    if sum(map(len, texts)) > MAX_TEXT:
        raise ValueError(f"{name} is longer than {MAX_TEXT} characters")
    return texts


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"meta holds the number {text}")
