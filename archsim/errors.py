"""The errors a user may meet, and the two helpers that keep them short and files whole."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["ArchsimError", "InputError", "KernelError", "did_you_mean", "write_atomically"]


class ArchsimError(Exception):
    """Base of every error archsim raises on purpose; its message is one sentence fit for a user."""


class InputError(ArchsimError):
    """The input is wrong (a file, a name, an option); the command line exits with 2."""


class KernelError(ArchsimError):
    """A compiled kernel is missing or older than the Python that calls it."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the option closest to `word`, or an empty string.

    >>> did_you_mean("clok", ["clock", "cores"])
    " (did you mean 'clock'?)"
    >>> did_you_mean("zebra", ["clock", "cores"])
    ''
    """
    by_lower = {option.lower(): option for option in options}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f" (did you mean '{by_lower[close[0]]}'?)" if close else ""


def write_atomically(path: Path, writer: Callable[[Path], object]) -> None:
    """Let `writer` fill a file beside `path`, then move it into place: readers see the old or the whole new file."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        writer(beside)
        with beside.open("rb+") as handle:
            os.fsync(handle.fileno())
        beside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
