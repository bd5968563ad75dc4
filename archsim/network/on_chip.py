"""A chip's part in a collective, as a program on the machine of the chip.

The links of the fabric, folded to those of one chip, stand beside the chip's own resources. Every message also reads
what it sends and writes what it brings in the chip's memory, where it meets the traffic of kernels; the next message
does not wait for that, but the end of the collective does.
"""

from __future__ import annotations

import numpy as np

from archsim.network.lowering import lower_schedule
from archsim.network.schedule import Schedule
from archsim.program import Machine, Program, Region

__all__ = ["beside", "on_machine"]


def beside(machine: Machine, links: Machine) -> Machine:
    """The machine of a chip with the links of its fabric after its own resources."""
    return Machine((*machine.resources, *links.resources))


def on_machine(schedule: Schedule, machine: Machine, memory: int, buffer_bytes: int) -> Program:
    """The program of one chip that stands for all; its one region is the buffer that the collective works on.

    machine: made by :func:`beside`. memory: number of the memory that holds the buffer. Message m is step m; its read
    and its write follow after all messages.
    """
    alone = lower_schedule(schedule, folded=True)
    first = len(machine) - len(alone.machine)
    payload = np.array([message.payload for message in schedule.messages], np.int64)
    real = np.flatnonzero(payload)
    moved = np.repeat(payload[real], 2)
    room = max(buffer_bytes, int(payload.max(initial=1)))
    before = np.cumsum(payload[real]) - payload[real]
    offset = np.where(before % room + payload[real] <= room, before % room, 0)
    counts = np.diff(alone.pred_start)
    steps, extra = len(alone), len(moved)
    through_memory = len(alone.route_start) - 1

    def column(
        own: object, added: object, dtype: type[np.generic]
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        return np.concatenate(
            [np.broadcast_to(np.asarray(own, dtype), steps), np.broadcast_to(np.asarray(added, dtype), extra)]
        )

    preds = [alone.preds, *(np.tile(alone.preds_of(int(message)), 2) for message in real)]
    return Program(
        machine, alone.name,
        route_start=np.append(alone.route_start, alone.route_start[-1] + 1).astype(np.int32),
        route_resources=np.append(alone.route_resources + first, memory).astype(np.int32),
        route=column(alone.route, through_memory, np.int32),  # type: ignore[arg-type]
        work_ps=column(alone.work_ps, 0, np.int64),  # type: ignore[arg-type]
        nbytes=column(alone.nbytes, moved, np.int64),  # type: ignore[arg-type]
        region=column(-1, 0, np.int32), offset=column(0, np.repeat(offset, 2), np.int64),  # type: ignore[arg-type]
        write=column(False, np.tile([False, True], len(real)), np.bool_),  # type: ignore[arg-type]
        priority=column(0, 0, np.int32), tag=column(-1, -1, np.int32),  # type: ignore[arg-type]
        pred_start=np.concatenate([alone.pred_start, alone.pred_start[-1] + np.cumsum(np.repeat(counts[real], 2))]),
        preds=np.concatenate(preds).astype(np.int32), regions=(Region("buffer", room),),
    )  # fmt: skip
