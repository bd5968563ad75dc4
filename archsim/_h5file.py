"""HDF5 files that are checked before the HDF5 library sees them.

The library may crash on damaged input, so every archsim file starts with an HDF5 user block of 512 bytes: one line of
text that says what the file is, with a digest of the rest, padded with zeros. Plain h5py or h5dump read it as usual.

    archsim-file kind=result version=1 length=18432 blake2b=9f2c...

The digest finds damage, not malice: whoever reads the content still has to validate it.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from archsim.errors import InputError, write_atomically

if TYPE_CHECKING:
    import h5py

__all__ = ["MAX_BYTES", "open_h5", "own_dataset", "write_h5"]

MAX_BYTES = 1 << 30
_BLOCK = 512
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_LINE = re.compile(
    rb"archsim-file kind=([a-z]{1,32}) version=([1-9]\d{0,5}) length=([1-9]\d{0,18}) blake2b=([0-9a-f]{64})\n\0*"
)


def write_h5(path: Path, kind: str, version: int, fill: Callable[[h5py.File], None]) -> None:
    """Let `fill` put groups and datasets into a new HDF5 file, seal it with its digest and move it to `path`.

    The same content gives the same bytes. `kind` is one lower-case word; it and `version` are also root attributes.
    """
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=_BLOCK) as file:
        file.attrs["format"] = f"archsim {kind}"
        file.attrs["version"] = version
        fill(file)
    data = buffer.getvalue()
    line = f"archsim-file kind={kind} version={version} length={len(data)} blake2b={_digest(data, kind, version)}\n"
    sealed = line.encode("ascii").ljust(_BLOCK, b"\0") + data[_BLOCK:]

    def write(beside: Path) -> None:
        beside.write_bytes(sealed)

    write_atomically(Path(path), write)


@contextmanager
def open_h5(path: Path, kind: str, version: int, max_bytes: int = MAX_BYTES) -> Iterator[h5py.File]:
    """Yield the undamaged HDF5 file at `path` if it is of this `kind` and not newer than `version`.

    Anything else raises InputError naming the file and the fault; so does a missing or misshapen item that the
    body of the ``with`` meets (KeyError, ValueError, ... on the way).
    """
    import h5py

    path = Path(path)
    data = _read(path, max_bytes)
    _check(path, data, kind, version)
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            yield file
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error.args[0]) if error.args else type(error).__name__
        raise InputError(f"{path}: is not a valid archsim {kind} ({reason})") from error


def own_dataset(file: h5py.File, name: str, max_bytes: int = MAX_BYTES) -> h5py.Dataset:
    """The dataset `name` if its content lies in the file itself and is no larger than `max_bytes`; else ValueError.

    A link or an external dataset would read another file; a packed one of a few bytes may claim to unpack to petabytes,
    as a whole or for a single chunk.
    """
    import h5py

    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.file.id != file.id or dataset.is_virtual or dataset.external:
        raise ValueError(f"'{name}' is not a dataset of this file")
    chunk = dataset.dtype.itemsize * prod(dataset.chunks or ())
    if max(dataset.nbytes, chunk) > max_bytes:
        raise ValueError(f"'{name}' claims {max(dataset.nbytes, chunk):,} bytes, more than {max_bytes:,}")
    return dataset


def _digest(data: bytes, kind: str, version: int) -> str:
    """Digest of everything but the line itself: what the file claims to be, and the HDF5 part."""
    hasher = hashlib.blake2b(f"{kind} {version} ".encode("ascii"), digest_size=32)
    hasher.update(memoryview(data)[_BLOCK:])
    return hasher.hexdigest()


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file")
        if not path.is_file():
            raise InputError(f"{path}: is not a file")
        with path.open("rb") as handle:
            data = handle.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(data) > max_bytes:
        raise InputError(f"{path}: is larger than {max_bytes} bytes")
    return data


def _check(path: Path, data: bytes, kind: str, version: int) -> None:
    match = _LINE.fullmatch(data[:_BLOCK])
    if match is None:
        what = "an HDF5 file that archsim did not write" if data[:8] == _HDF5_MAGIC else "not an archsim file"
        raise InputError(f"{path}: is {what}, expected an archsim {kind} (HDF5)")
    found, written, length = match[1].decode("ascii"), int(match[2]), int(match[3])
    if found != kind:
        raise InputError(f"{path}: holds an archsim {found}, expected a {kind}")
    if written > version:
        raise InputError(
            f"{path}: has {kind} format version {written}, newer than the version {version} that this archsim reads"
        )
    if len(data) != length:
        raise InputError(f"{path}: is {len(data)} bytes long instead of {length}, it was cut short or added to")
    if _digest(data, kind, written) != match[4].decode("ascii"):
        raise InputError(f"{path}: is damaged (its digest does not match its content)")
