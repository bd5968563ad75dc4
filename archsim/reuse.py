"""Results kept by exactly what they depend on: in memory, and in a folder that points, processes and runs share.

A key is the digest of the code that simulates, of ``MODEL_VERSION`` and of everything that the caller says the result
depends on. A value is plain JSON, whose floats come back to the bit. Each process appends to a journal of its own, a
result a line; a line that is torn, or a value that is damaged, is a miss. Losing entries costs time and nothing else:
a folder that cannot be written is no error, and the oldest journals go once all take more than ``FOLDER_BYTES``.

>>> cache = ResultCache()
>>> with reusing(cache):
...     [recall("square", "7", lambda: 7 * 7) for _ in range(3)]
[49, 49, 49]
>>> cache.hits, cache.lookups
(2, 3)
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import socket
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any

from archsim._version import MODEL_VERSION

__all__ = ["ResultCache", "is_active", "recall", "reusing", "user_folder"]

#: values that are held in memory, and bytes that a folder may take
HELD_VALUES, FOLDER_BYTES = 4096, 1 << 30
#: seconds after which the journals of other processes are read again, and files beyond which they are put together
LOOK_AGAIN_S, MANY_FILES = 2.0, 64
#: packages whose code decides a simulated number
_SIMULATING = ("engine", "hardware", "kernels", "mapping", "models", "network", "physical", "program", "simulation",
               "trace")  # fmt: skip

_active: ContextVar[ResultCache | None] = ContextVar("archsim_results", default=None)


def user_folder() -> Path:
    """Where results are kept between runs: ``$ARCHSIM_CACHE``, or ``archsim`` in the user's cache folder."""
    own = os.environ.get("ARCHSIM_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(home) / "archsim"


@contextlib.contextmanager
def reusing(cache: ResultCache | None) -> Iterator[None]:
    """Within this context, results are looked up in `cache` before they are computed."""
    token = _active.set(cache)
    try:
        yield
    finally:
        _active.reset(token)


def is_active() -> bool:
    """Whether results are being kept."""
    return _active.get() is not None


def recall(kind: str, content: str, make: Callable[[], Any]) -> Any:
    """The JSON value of `make`, which must be a pure function of `content`: from the cache where one is in use."""
    cache = _active.get()
    return make() if cache is None else cache.recall(kind, content, make)


class ResultCache:
    """Values by key; those of a `folder` are found by every process that opens it."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.hits = self.lookups = 0
        self._values: OrderedDict[str, Any] = OrderedDict()
        self._places: dict[str, tuple[Path, int, int]] = {}
        self._read_to: dict[Path, int] = {}
        self._looked = -LOOK_AGAIN_S
        self._journal: int | None = None
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                _tidy(self.folder)
            except OSError:
                self.folder = None

    def recall(self, kind: str, content: str, make: Callable[[], Any]) -> Any:
        """The value of `make` for `content`, computed once."""
        key = hashlib.blake2b(f"{_code()}\n{kind}\n{content}".encode(), digest_size=16).hexdigest()
        self.lookups += 1
        found, value = self._find(key)
        if found:
            self.hits += 1
        else:
            value = make()
            self._write(key, value)
        self._values.pop(key, None)  # to the end, the last to be forgotten
        self._values[key] = value
        if len(self._values) > HELD_VALUES:
            self._values.popitem(last=False)
        return value

    def _find(self, key: str) -> tuple[bool, Any]:
        if key in self._values:
            return True, self._values[key]
        if key not in self._places and self.folder is not None and time.monotonic() >= self._looked + LOOK_AGAIN_S:
            self._look()
        if key in self._places:
            path, start, size = self._places[key]
            with contextlib.suppress(OSError, ValueError, zlib.error), path.open("rb") as handle:
                handle.seek(start)
                return True, json.loads(zlib.decompress(base64.b85decode(handle.read(size))))
            del self._places[key]
        return False, None

    def _look(self) -> None:
        """Learn where the values are that were appended since the last time."""
        assert self.folder is not None
        for path in self.folder.glob("*.results"):
            with contextlib.suppress(OSError), path.open("rb") as handle:
                offset = self._read_to.get(path, 0)
                handle.seek(offset)
                for line in handle:
                    if not line.endswith(b"\n"):
                        break  # torn, or still being written
                    key, _, text = line.rstrip(b"\n").partition(b" ")
                    self._places[key.decode("ascii", "replace")] = path, offset + len(key) + 1, len(text)
                    offset += len(line)
                self._read_to[path] = offset
        self._looked = time.monotonic()

    def _write(self, key: str, value: Any) -> None:
        if self.folder is None:
            return
        text = base64.b85encode(zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 1))
        line = b"%s %s\n" % (key.encode(), text)
        try:
            if self._journal is None:
                name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}.results"
                self._journal = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            if os.write(self._journal, line) < len(line):
                raise OSError
        except OSError:  # a full disk: go on with what is in memory
            self.folder = None

    def close(self) -> None:
        """Let go of the journal."""
        if self._journal is not None:
            os.close(self._journal)
            self._journal = None


def _tidy(folder: Path) -> None:
    """Put many small journals together, and drop the oldest where all of them take too much room."""
    files = [(path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob("*.results")]
    room = FOLDER_BYTES
    for _, size, path in sorted(files, reverse=True):
        room -= size
        if room < 0:
            path.unlink(missing_ok=True)
    idle = [path for age, _, path in files if age < time.time() - 3600 and path.exists()]
    if len(idle) > MANY_FILES:
        merged = folder / f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}.merged"
        with merged.open("wb") as target:
            for path in idle:
                data = path.read_bytes()
                target.write(data[: data.rfind(b"\n") + 1])
        merged.rename(merged.with_suffix(".results"))
        for path in idle:
            path.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def _code() -> str:
    """Digest of MODEL_VERSION and of the source of what simulates, so that no result outlives an edit of a model."""
    digest = hashlib.blake2b(str(MODEL_VERSION).encode(), digest_size=16)
    package = Path(__file__).parent
    for name in _SIMULATING:
        for path in sorted((package / name).glob("**/*.py*")):
            if path.suffix in (".py", ".pyx", ".pxd", ".pxi"):
                digest.update(path.read_bytes())
    return digest.hexdigest()
