"""Bulk transfers: the cycles until the last packet has arrived."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from archsim.engine.noc import run_bulk
from archsim.errors import InputError
from archsim.noc import Packets, read_packets, write_packets
from archsim.validation.noc.networks import compare_each, router_of, routes_of, why_not
from archsim.validation.report import Row
from archsim.validation.suite import DATA, Outcome, Plan, Reference
from archsim.validation.table import Record, Table

__all__ = ["BULK", "CYCLE_BULK", "TILE_BULK", "packets_of"]

CYCLE_BULK, TILE_BULK = "bulk transfers, cycle", "bulk transfers, tile"

FIDELITIES: tuple[tuple[Literal["cycle", "tile"], str], ...] = (("cycle", CYCLE_BULK), ("tile", TILE_BULK))

FOLDER = "booksim_batch_xfers"
SHIPPED = f"{FOLDER}.npz"
FIELDS = ("src", "dst", "packet_size", "npkts")
#: a file of transfers that asks for more is refused
MOST_FLITS = 10_000_000


def compare(table: Table) -> Outcome:
    """Simulate the transfers of every row."""
    return compare_each(table, lambda record: _rows(record, table.path))


def _rows(record: Record, path: Path) -> list[Row]:
    """The transfers of a row by either model."""
    routes = routes_of(record)
    packets, classes = packets_of(record, path, routes.network.nodes)
    router = router_of(record, classes=classes)
    case, expected = record.text("case"), record.integer("total_cycles")
    return [
        Row(case, expected, run_bulk(routes, router, packets, fidelity=fidelity).cycles, group)
        for fidelity, group in FIDELITIES
    ]


def packets_of(record: Record, path: Path, nodes: int) -> tuple[Packets, int]:
    """The packets of a row in the order in which their sources take them up, and how many classes they form."""
    sources, targets, flits, counts = _transfers(path, record.text("xfer_file"))
    if sources.min() < 0 or targets.min() < 0 or max(sources.max(), targets.max()) >= nodes:
        raise InputError(f"the transfers name nodes outside 0..{nodes - 1}")
    if min(flits.min(), counts.min()) < 1 or (flits * counts).sum() > MOST_FLITS:
        raise InputError(f"the transfers must have at least one packet of one flit, and {MOST_FLITS:,} flits at most")
    transfer = np.repeat(np.arange(len(counts)), counts)
    if record.text("source_interleave") == "round_robin":  # a packet of each transfer of a source in turn
        turn = np.concatenate([np.arange(count) for count in counts])
        transfer = transfer[np.lexsort((transfer, turn))]
    source, target, size = sources[transfer], targets[transfer], flits[transfer]
    kind = record.text("packet_size_flits")
    if not kind.startswith("req"):
        return write_packets(source, target, size), 1
    reply = kind.rpartition("rep")[2]
    if not reply.isdigit():
        raise InputError(f"packet_size_flits is '{kind[:40]}', but must be a number or like req1/rep8")
    return read_packets(source, target, size, int(reply), record.integer("window", least=0)), 2


def _transfers(path: Path, name: str) -> Sequence[NDArray[np.int64]]:
    """Source, target, flits a packet and packets of each transfer: from the folder beside the file, or as shipped."""
    if Path(name).name != name or name in ("", ".", ".."):
        raise InputError(f"xfer_file is '{name[:80]}', but must be the plain name of a file in {FOLDER}/")
    beside = path.parent / FOLDER / name
    if beside.exists():
        table = Table.read(beside)
        if missing := set(FIELDS) - table.columns.keys():
            raise InputError(f"{beside}: lacks the columns {', '.join(sorted(missing))}")
        return [table.integers(field, least=0) for field in FIELDS]
    shipped = _shipped()
    if name not in shipped:
        raise InputError(f"the transfers {name} lie neither in {FOLDER}/ beside the file nor in {SHIPPED}")
    return list(shipped[name])


@lru_cache(maxsize=1)
def _shipped() -> dict[str, NDArray[np.int64]]:
    with np.load(DATA / SHIPPED, allow_pickle=False) as arrays:
        names, start, fields = arrays["names"], arrays["start"], arrays["fields"].astype(np.int64)
    return {str(name): fields[:, start[i] : start[i + 1]] for i, name in enumerate(names)}


def plan(table: Table) -> list[Plan]:
    """Every row is one of many of its topology."""
    return [Plan("" if why_not(record) else record.text("topology")) for record in table.records()]


BULK = Reference(
    file="booksim_batch_golden.csv",
    columns=frozenset(
        {"case", "topology", "k", "routing", "vcs", "buf", "credit_delay", "packet_size_flits", "source_interleave",
         "window", "total_cycles", "xfer_file"}
    ),
    compare=compare,
    plan=plan,
)  # fmt: skip
