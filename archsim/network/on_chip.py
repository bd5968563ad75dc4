"""A chip's part in a collective, as a program on the machine of the chip.

The links of the fabric stand beside the chip's own resources: folded to those of one chip, or, where chips are not
alike, those of all. Every message also reads what it sends and writes what it brings in the chip's memory, where it
meets the traffic of kernels; the next message does not wait for that, but the end of the collective does. Where no
kernel runs beside it, of messages that are more than ``MOST_BYTES`` together a share passes memory and cache, which
counts, and takes room, for all.
"""

from __future__ import annotations

import numpy as np

from archsim.network.lowering import foldable, lower_schedule, steps_of
from archsim.network.schedule import Schedule
from archsim.program import Machine, Program, Region

__all__ = ["beside", "on_machine"]

#: that messages of a collective read and write, of more than which a share passes through memory where it is alone
MOST_BYTES = 64_000_000


def beside(machine: Machine, links: Machine) -> Machine:
    """The machine of a chip with the links of its fabric after its own resources."""
    return Machine((*machine.resources, *links.resources))


def on_machine(
    schedule: Schedule, machine: Machine, memory: int, buffer_bytes: int, *, alone: bool = False
) -> Program:
    """The program of a collective beside one chip's work; its one region is the buffer that the collective works on.

    machine: made by :func:`beside`. memory: number of the memory that holds the buffer. alone: no kernel meets it
    there. The messages are those of the chip that stands for all, or of all chips of the fabric, and then the buffer is
    the first one's. Message m is step m; the reads and writes of the buffer follow after all messages.
    """
    folded = foldable(schedule)
    sent = lower_schedule(schedule, folded=folded)
    first = len(machine) - len(sent.machine)
    parts = steps_of(schedule, 0, folded=folded)
    message, moved = (np.array([part[i] for part in parts], np.int64) for i in (0, 1))
    writes = np.array([part[2] for part in parts], np.bool_)
    room = max(buffer_bytes, int(moved.max(initial=1)))
    offset = np.zeros(len(parts), np.int64)
    for mine in (writes, ~writes):  # round and round the buffer, for what is read and for what is written
        before = np.cumsum(moved[mine]) - moved[mine]
        offset[mine] = np.where(before % room + moved[mine] <= room, before % room, 0)
    share = -(-int(moved.sum()) // MOST_BYTES) if alone else 1
    moved = -(-moved // share)
    counts = np.diff(sent.pred_start)
    steps, extra = len(sent), len(parts)
    through_memory = len(sent.route_start) - 1

    def column(
        own: object, added: object, dtype: type[np.generic]
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        return np.concatenate(
            [np.broadcast_to(np.asarray(own, dtype), steps), np.broadcast_to(np.asarray(added, dtype), extra)]
        )

    preds = [sent.preds, *(sent.preds_of(int(each)) for each in message)]
    return Program(
        machine, sent.name,
        route_start=np.append(sent.route_start, sent.route_start[-1] + 1).astype(np.int32),
        route_resources=np.append(sent.route_resources + first, memory).astype(np.int32),
        route=column(sent.route, through_memory, np.int32),  # type: ignore[arg-type]
        work_ps=column(sent.work_ps, 0, np.int64),  # type: ignore[arg-type]
        nbytes=column(sent.nbytes, moved, np.int64),  # type: ignore[arg-type]
        region=column(-1, 0, np.int32), offset=column(0, offset, np.int64),  # type: ignore[arg-type]
        write=column(False, writes, np.bool_),  # type: ignore[arg-type]
        priority=column(0, 0, np.int32), tag=column(-1, -1, np.int32),  # type: ignore[arg-type]
        weight=column(1, share, np.int32),  # type: ignore[arg-type]
        room=column(1, share, np.int32),  # type: ignore[arg-type]
        pred_start=np.concatenate([sent.pred_start, sent.pred_start[-1] + np.cumsum(counts[message])]),
        preds=np.concatenate(preds).astype(np.int32), regions=(Region("buffer", room),),
    )  # fmt: skip
