"""Request traces of other memory simulators, one request a line.

    0x1a2b40 R            Ramulator: address, R or W
    LD 0x1a2b40           Ramulator 2 (load-store): LD or ST, address
    0x1a2b40 READ 120     DRAMsim3: address, READ or WRITE, the clock at which it is offered

Addresses are decimal or 0x hexadecimal. Blank lines and lines that begin with # are skipped; anything else is an error.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.memory.streams import Stream

__all__ = ["MAX_REQUESTS", "read_requests"]

#: more than this is refused: a trace is read into memory
MAX_REQUESTS = 50_000_000
LONGEST_LINE = 200
_WRITES = {"R": False, "W": True, "READ": False, "WRITE": True, "LD": False, "ST": True}
_FORMS = "'ADDRESS R|W', 'LD|ST ADDRESS' or 'ADDRESS READ|WRITE CLOCK'"


def read_requests(
    path: Path, *, limit: int = MAX_REQUESTS, capacity_bytes: int = 2**62
) -> tuple[Stream, NDArray[np.int64] | None]:
    """The requests of a trace to a memory, and the clocks at which they are offered if every line names one."""
    address: list[int] = []
    write: list[bool] = []
    clock: list[int] = []
    try:
        with path.open("rb") as handle:
            number = 0
            while line := handle.readline(LONGEST_LINE + 1):
                number += 1
                place = f"{path}:{number}"
                if len(line) > LONGEST_LINE:
                    raise InputError(f"{place}: the line is longer than {LONGEST_LINE} bytes")
                words = line.split()
                if not words or words[0].startswith(b"#"):
                    continue
                if len(address) >= limit:
                    raise InputError(f"{place}: the trace has more than {limit:,} requests")
                at, writes, when = _parse([word.decode("ascii", "replace") for word in words], place)
                if at >= capacity_bytes:
                    raise InputError(
                        f"{place}: address {at:#x} is beyond the memory, which ends at {capacity_bytes:#x}; more"
                        " channels hold more"
                    )
                if clock and when is not None and when < clock[-1]:
                    raise InputError(f"{place}: clock {when} is before the {clock[-1]} of the request ahead of it")
                address.append(at)
                write.append(writes)
                if when is not None:
                    clock.append(when)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not address:
        raise InputError(f"{path}: holds no requests")
    if clock and len(clock) != len(address):
        raise InputError(f"{path}: {len(clock)} of its {len(address)} requests name a clock; all of them must, or none")
    due = np.array(clock, np.int64) if clock else None
    return Stream(np.array(address, np.int64), np.array(write, bool)), due


def _parse(words: list[str], place: str) -> tuple[int, bool, int | None]:
    upper = [word.upper() for word in words]
    if len(words) == 2 and upper[0] in ("LD", "ST", "R", "W"):
        return _number(words[1], "address", place), _WRITES[upper[0]], None
    if len(words) in (2, 3) and upper[1] in ("R", "W", "READ", "WRITE"):
        when = _number(words[2], "clock", place) if len(words) == 3 else None
        return _number(words[0], "address", place), _WRITES[upper[1]], when
    raise InputError(f"{place}: '{' '.join(words)[:60]}' is no request; a line is {_FORMS}")


def _number(word: str, what: str, place: str) -> int:
    try:
        value = int(word, 16) if word.lower().startswith("0x") else int(word, 10)
    except ValueError:
        value = -1
    if not 0 <= value < 2**62:
        raise InputError(f"{place}: '{word[:40]}' is no {what}: a number from 0 to 2^62, decimal or 0x hexadecimal")
    return value
