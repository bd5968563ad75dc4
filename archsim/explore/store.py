"""The folder of a sweep: journals that workers append to, and one table made of them.

Each process writes a journal of its own, a record a line, each line in one `write`. So no locks are needed, also on a
shared file system; a kill in the middle of a write leaves one torn line, which readers skip; and the record of a point
is found by its key wherever it was written, so nothing counts twice.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from archsim.errors import InputError, write_atomically
from archsim.explore.axis import Value
from archsim.explore.space import Point

__all__ = ["Journal", "Record", "Store"]

DONE, INFEASIBLE, PRUNED, FAILED = "done", "infeasible", "pruned", "failed"
STATUSES = (DONE, INFEASIBLE, PRUNED, FAILED)
_MAX_LINE = 1 << 20


@dataclass(frozen=True)
class Record:
    """What became of one point.

    status: "done"; "infeasible", breaking the constraint in `why` already by the chip or by a lower bound; "pruned",
    since even its bound is dominated; "failed", with the error in `why`.
    """

    key: str
    number: int
    params: Point
    status: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    why: str = ""
    wall_s: float = 0.0
    meta: Mapping[str, Value] = field(default_factory=dict)

    def line(self) -> bytes:
        """The record as one line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False).encode() + b"\n"

    @staticmethod
    def read(line: bytes) -> Record | None:
        """The record of a line, None for one that is torn or foreign."""
        try:
            data = json.loads(line)
            record = Record(**data)
        except (ValueError, TypeError, RecursionError):
            return None
        sound = (
            isinstance(record.key, str) and isinstance(record.number, int) and isinstance(record.params, dict)
            and record.status in STATUSES and isinstance(record.metrics, dict) and isinstance(record.why, str)
            and all(isinstance(value, (int, float)) for value in record.metrics.values())
        )  # fmt: skip
        return record if sound else None


class Journal:
    """The file that one process appends its records to."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}.jsonl"
        self._file: int | None = None

    def append(self, records: Iterable[Record]) -> None:
        """Write records whole or not at all; InputError where the disk refuses."""
        data = b"".join(record.line() for record in records)
        if not data:
            return
        try:
            if self._file is None:
                self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            size = os.fstat(self._file).st_size
            try:
                written = os.write(self._file, data)
                if written < len(data):
                    raise OSError(28, "no space left on the device")
            except OSError:
                os.ftruncate(self._file, size)  # the next record must not continue a torn one
                raise
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror or error})") from None

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Store:
    """A sweep's folder, to record in and to read from."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.journals = self.folder / "journals"
        self.table = self.folder / "table.h5"
        self.manifest = self.folder / "sweep.json"

    def create(self, manifest: Mapping[str, Any]) -> None:
        """Make the folder for a sweep, or check that it is this sweep's."""
        try:
            self.journals.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be made ({error.strerror or error})") from None
        if self.manifest.exists():
            known = self.read_manifest()
            if known.get("sweep") != manifest["sweep"]:
                raise InputError(f"{self.folder}: holds another sweep; choose another folder (--out)")
            if known == manifest:
                return
        text = json.dumps(manifest, indent=1)
        write_atomically(self.manifest, lambda path: path.write_bytes(text.encode()))

    def read_manifest(self) -> dict[str, Any]:
        """The sweep and the context that the folder was made for."""
        try:
            data = json.loads(self.manifest.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{self.folder}: is no folder of a sweep (it has no sweep.json)") from None
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{self.manifest}: cannot be read ({error})") from None
        if not isinstance(data, dict) or not isinstance(data.get("sweep"), dict):
            raise InputError(f"{self.manifest}: describes no sweep")
        return data

    def records(self) -> dict[str, Record]:
        """The record of every point by its key; a later success replaces a failure."""
        found: dict[str, Record] = {}
        for record in self._all():
            known = found.get(record.key)
            if known is None or known.status == FAILED:
                found[record.key] = record
        return found

    def _all(self) -> Iterator[Record]:
        if self.table.exists():
            from archsim.explore.table import read_table

            yield from read_table(self.table)
        for path in sorted(self.journals.glob("*.jsonl")):
            yield from _read_journal(path)

    def compact(self, *, complete: bool) -> int:
        """Write all records as one typed HDF5 table; return their number.

        complete: no worker can be writing any more, so the journals are removed once the table is in place.
        """
        from archsim.explore.table import write_table

        read = sorted(self.journals.glob("*.jsonl"))
        records = sorted(self.records().values(), key=lambda record: record.number)
        write_table(self.table, records)
        if complete:
            for path in read:
                path.unlink(missing_ok=True)
        return len(records)


def _read_journal(path: Path) -> Iterator[Record]:
    with path.open("rb") as handle:
        while line := handle.readline(_MAX_LINE):
            record = Record.read(line) if line.endswith(b"\n") else None
            if record is not None:
                yield record
