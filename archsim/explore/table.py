"""The records of a sweep as one typed HDF5 table: a column a parameter, a column a metric."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from archsim._h5file import own_dataset
from archsim.errors import InputError, write_atomically

if TYPE_CHECKING:
    from archsim.explore.store import Record

__all__ = ["read_table", "write_table"]

VERSION = 1
#: values below which the chunks of a packed column take more room than it saves
WORTH_PACKING = 1024


def write_table(path: Path, records: Sequence[Record]) -> None:
    """Write `records`, whole or not at all. Numbers are float64 (NaN where absent), text is UTF-8."""
    import h5py

    def write(target: Path) -> None:
        with h5py.File(target, "w") as file:
            file.attrs["format"] = "archsim sweep"
            file.attrs["version"] = VERSION
            text = h5py.string_dtype()
            for name in ("key", "status", "why"):
                _column(file, name, np.array([getattr(r, name) for r in records], dtype=object), text)
            _column(file, "number", np.array([str(r.number) for r in records], dtype=object), text)
            _column(file, "wall_s", np.array([r.wall_s for r in records], dtype=np.float64))
            _column(file, "meta", np.array([json.dumps(dict(r.meta)) for r in records], dtype=object), text)
            for path_ in dict.fromkeys(path_ for r in records for path_ in r.params):
                values = [r.params.get(path_) for r in records]
                if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
                    whole = all(isinstance(value, int) for value in values)
                    _column(file, f"params/{path_}", np.array(values, dtype=np.int64 if whole else np.float64))
                else:
                    _column(file, f"params/{path_}", np.array([json.dumps(v) for v in values], dtype=object), text)
            for metric in dict.fromkeys(metric for r in records for metric in r.metrics):
                column = np.array([r.metrics.get(metric, np.nan) for r in records], dtype=np.float64)
                _column(file, f"metrics/{metric}", column)

    write_atomically(path, write)


def _column(file: Any, name: str, values: Any, dtype: Any = None) -> None:
    packed = {"compression": "gzip"} if len(values) >= WORTH_PACKING else {}
    file.create_dataset(name, data=values, dtype=dtype, **packed)


def read_table(path: Path) -> Iterator[Record]:
    """The records of a table; InputError where it is none."""
    import h5py

    from archsim.explore.store import Record

    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != "archsim sweep" or file.attrs.get("version") != VERSION:
                raise InputError(f"{path}: is no table of a sweep (format version {VERSION})")
            columns = {name: _read(file, name) for name in ("key", "status", "why", "number", "wall_s", "meta")}
            params = {name: _read(file, f"params/{name}") for name in file.get("params", ())}
            metrics = {name: _read(file, f"metrics/{name}") for name in file.get("metrics", ())}
        for i, key in enumerate(columns["key"]):
            values = {name: json.loads(v[i]) if isinstance(v[i], str) else v[i] for name, v in params.items()}
            yield Record(
                key, int(columns["number"][i]), {k: v for k, v in values.items() if v is not None},
                columns["status"][i], {name: v[i] for name, v in metrics.items() if v[i] == v[i]},
                columns["why"][i], columns["wall_s"][i], json.loads(columns["meta"][i]),
            )  # fmt: skip
    except (OSError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def _read(file: Any, name: str) -> list[Any]:
    import h5py

    dataset = own_dataset(file, name)
    text = h5py.check_string_dtype(dataset.dtype) is not None
    values: list[Any] = (dataset.asstr()[()] if text else dataset[()]).tolist()
    return values
