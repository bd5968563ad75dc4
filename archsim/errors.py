"""The errors a user may meet, and the helpers that keep them short and files whole."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["ArchsimError", "InputError", "KernelError", "did_you_mean", "whole_number", "write_atomically"]


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


def whole_number(text: str) -> int | None:
    """The number that `text` writes in plain digits, as far as any count here goes; None where it writes none.

    >>> whole_number(" 4096 "), whole_number("-1"), whole_number("9" * 5000)
    (4096, None, None)
    """
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 12 else None


def write_atomically(path: Path, writer: Callable[[Path], object]) -> None:
    """Let `writer` fill a file beside `path`, then move it into place: readers see the old or the whole new file."""
    path = Path(os.path.realpath(path))  # what a link points at, not the link
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: cannot be written, it is not a file")  # a device or a pipe would be replaced by one
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
