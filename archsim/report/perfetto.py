"""The timeline as Chrome trace JSON, for ui.perfetto.dev and chrome://tracing.

One process per chip, one thread per lane; times are in microseconds, written as exact decimals of the picoseconds. A
counter shows the memory traffic of the operators as they come.
"""

from __future__ import annotations

import gzip
import heapq
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from archsim.errors import write_atomically
from archsim.report.headline import title

if TYPE_CHECKING:
    from archsim.results import Result, Slice

__all__ = ["events", "write_perfetto"]

PID = 1  # one chip stands for all


def write_perfetto(result: Result, path: Path) -> None:
    """Write the timeline of `result`, compressed if the name ends in .gz; whole or not at all."""

    def write(beside: Path) -> None:
        with beside.open("wb") as raw:
            if path.suffix == ".gz":  # no name and time inside, so that the same result gives the same bytes
                with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                    _dump(result, packed)
            else:
                _dump(result, raw)

    write_atomically(path, write)


def events(result: Result) -> Iterator[str]:
    """The trace events of `result`, each as JSON text."""
    what, where = title(result)
    yield _meta("process_name", 0, name=f"{where}: {what}")
    kinds = dict(zip(result.op_table.name.tolist(), result.op_table.kind.tolist(), strict=True))
    for tid, (lane, slices) in enumerate(_lanes(result.timeline), start=1):
        yield _meta("thread_name", tid, name=lane)
        yield _meta("thread_sort_index", tid, sort_index=tid)
        for _, name, start, duration in slices:
            kind = kinds.get(name, "other")
            yield (
                f'{{"ph":"X","pid":{PID},"tid":{tid},"ts":{_us(start)},"dur":{_us(duration)},'
                f'"name":{json.dumps(name)},"cat":{json.dumps(kind)}}}'
            )
    yield from _traffic(result)


def _lanes(timeline: Sequence[Slice]) -> Iterator[tuple[str, list[Slice]]]:
    """Slices by lane in order of start; a lane whose slices overlap is split, as a thread does one thing at a time."""
    lanes: dict[str, list[Slice]] = {}
    for part in timeline:
        lanes.setdefault(part.lane, []).append(part)
    for lane, slices in lanes.items():
        rows: list[list[Slice]] = []
        busy: list[tuple[int, int]] = []  # heap of (end of its last slice, row)
        for part in sorted(slices, key=lambda part: part.start_ps):
            if busy and busy[0][0] <= part.start_ps:
                row = busy[0][1]
                heapq.heapreplace(busy, (part.start_ps + part.dur_ps, row))
                rows[row].append(part)
            else:
                heapq.heappush(busy, (part.start_ps + part.dur_ps, len(rows)))
                rows.append([part])
        for number, row_slices in enumerate(rows, start=1):
            yield lane if number == 1 else f"{lane} ({number})", row_slices


def _dump(result: Result, out: IO[bytes] | gzip.GzipFile) -> None:
    out.write(b'{"displayTimeUnit":"ns","traceEvents":[\n')
    for number, event in enumerate(events(result)):
        out.write((",\n" if number else "").encode() + event.encode())
    keys = ("archsim_version", "model_version", "command", "created", "workload", "chip", "fidelity")
    out.write(f'\n],"otherData":{json.dumps({key: result.meta[key] for key in keys})}}}\n'.encode())


def _traffic(result: Result) -> Iterator[str]:
    """Counter steps at the start and end of the first run of each operator that moves bytes."""
    table = result.op_table
    change: dict[int, float] = {}
    columns = (table.start_ps, table.launch_ps, table.time_ps, table.dram_bytes)
    for start, launch, time, moved in zip(*(column.tolist() for column in columns), strict=True):
        if moved and time > launch:
            rate = moved / (time - launch) * 1e3  # bytes per ps are TB/s
            change[start + launch] = change.get(start + launch, 0.0) + rate
            change[start + time] = change.get(start + time, 0.0) - rate
    level = 0.0
    for when in sorted(change):
        level += change[when]
        yield (
            f'{{"ph":"C","pid":{PID},"name":"memory traffic","ts":{_us(when)},"args":{{"GB/s":{max(level, 0.0):.1f}}}}}'
        )


def _meta(kind: str, tid: int, **args: Any) -> str:
    return json.dumps({"ph": "M", "pid": PID, "tid": tid, "name": kind, "args": args})


def _us(ps: int) -> str:
    """Microseconds, exactly.

    >>> _us(1_500_250), _us(2_000_000)
    ('1.50025', '2')
    """
    whole, rest = divmod(ps, 1_000_000)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")
