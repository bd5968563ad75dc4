"""Networks and routing tables from text files: one link or one table entry a line, `#` starts a comment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from archsim.errors import InputError
from archsim.noc.network import MAX_ROUTERS, Network, join

__all__ = ["read_network", "read_table"]

#: a longer file is refused before it is read
MOST_BYTES = 16 * 2**20


def read_network(path: Path) -> Network:
    """A network with one node on every router, from lines `from to [cycles]`; a link leads one way."""
    links = [(line[0], line[1], line[2] if len(line) > 2 else 1) for line in _lines(path, 2, 3)]
    if not links:
        raise InputError(f"{path}: names no link")
    routers = 1 + max(max(a, b) for a, b, _ in links)
    if routers > MAX_ROUTERS:
        raise InputError(f"{path}: names router {routers - 1}, but the numbers end at {MAX_ROUTERS - 1}")
    if min(cycles for *_, cycles in links) < 1:
        raise InputError(f"{path}: a link takes at least 1 cycle")
    return join(path.name, routers, links, range(routers))


def read_table(path: Path) -> dict[tuple[int, int], int]:
    """A routing table, from lines `router destination next`."""
    return {(router, destination): following for router, destination, following in _lines(path, 3, 3)}


def _lines(path: Path, least: int, most: int) -> Iterator[tuple[int, ...]]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path}: has more than {MOST_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text file ({error})") from error
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].replace(",", " ").split()
        if not words:
            continue
        if not least <= len(words) <= most or not all(word.isdecimal() and len(word) < 10 for word in words):
            raise InputError(f"{path}:{number}: '{line[:40]}' must be {least} to {most} whole numbers")
        yield tuple(int(word) for word in words)
