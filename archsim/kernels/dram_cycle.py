"""DRAM channels command by command: the `cycle` fidelity of the memory.

Every channel holds, for each bank, the open row and the earliest tick of an activate, a read, a write and a
precharge; for each
bank group, stack and pseudo-channel what tCCD, tRRD, tWTR, tFAW and the turnarounds add; and one row-command and one
column-command bus that its pseudo-channels share. A request that arrives at tick a is seen from tick a + 1 on.
At each tick
the controller may issue one column command (on whole clocks) and one row command (activates and refreshes on
whole clocks):

    column: of the rows just opened, the request that opened one; else the oldest ready hit among reads, or among writes
            while these are drained
    row:    what a refresh that is due needs; else the oldest ready activate or precharge that a waiting request needs

Writes are drained from above `drain_high` of their queue, or when no read waits, until below `drain_low`. The
request that
opens a row leaves its queue at the activate and has the row first. A read is done tCL + BL after its command; a
write when its
command issues (posted). A read of an address that waits to be written is answered a tick after it came.

    x_ticks(first -> second) = x + (ticks of first - 1) - (ticks of second - 1)         for every JEDEC time x

Refresh: all banks of each pseudo-channel every tREFI, all other commands but those for open rows waiting; or,
bank by bank,
every tREFIpb one bank of each pseudo-channel, which alone waits. Between events time is skipped.

Assumptions: one clock domain; commands are never lost. Not modelled: power-down, self-refresh,
refresh management (RFM), ECC
on the fly, temperature-dependent refresh,
the falling-edge pairing rules of HBM3 (they never bind where tRAS and tRP are legal).
Reference: the constraint lists of Ramulator 2.1 (HBM2, HBM3,
HBM4) and DRAMsim3 (scheduler bank_queues); `archsim validate hbm`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archsim.errors import InputError
from archsim.kernels._dram_cycle import DramCycleKernel
from archsim.program.dram import DramChannels, DramTiming

__all__ = ["COMMANDS", "CycleRun", "cycle_kernel", "run_cycle"]

#: the names of the numbers in a command log
COMMANDS = ("ACT", "PRE", "RD", "WR", "RDA", "WRA", "PREab", "REFab", "REFpb")

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CycleRun:
    """A stream as it was served: the tick of each request's arrival and end, and what the channels did.

    counts: over all channels: activates, precharges, reads, writes, refreshes (all-bank, and refreshes_pb), row_hits,
    row_misses and row_conflicts (by a request's first command), forwarded (answered from the write queue),
    open_ticks (with a
    row open, summed over pseudo-channels). log: rows of (tick, command, bank, row) of the first channel, if asked for.
    """

    arrive: Ints
    done: Ints
    counts: dict[str, int]
    log: Ints

    @property
    def ticks(self) -> int:
        """When the last request is done."""
        return int(self.done.max(initial=0))


def run_cycle(
    dram: DramChannels, address: ArrayLike, write: ArrayLike = False, *, due: ArrayLike | None = None,
    serial: bool = False, separate: bool = False, log: int = 0,
) -> CycleRun:  # fmt: skip
    """Serve requests of one burst each, offered in order.

    Args:
        due: the ticks before which requests are not offered; all at once otherwise.
        serial: offer each request after the one before is done.
        separate: offer each channel its requests in order, instead of all of them in one order.
        log: how many commands of the first channel to record.

    >>> from archsim.program.address_map import AddressMap, Organisation
    >>> from archsim.program.dram import Controller
    >>> order = ("column", "bank_group", "bank", "row")
    >>> where = AddressMap(Organisation(1, 1, 4, 4, rows=1024, columns=32, burst_bytes=32), order, interleave_bytes=32)
    >>> timing = DramTiming(tick_ps=1000, ticks_per_clock=1, bl=2, cl=14, cwl=5, rcd_rd=14, rcd_wr=12, rp=14,
    ...     ras=34, rc=48, wr=16, rtp=5, ccd_s=2, ccd_l=4, ccd_r=2, rrd_s=4, rrd_l=4, wtr_s=6, wtr_l=8, rtw=13,
    ...     faw=15)
    >>> dram = DramChannels("hbm2", where, timing, Controller(refresh="none"))
    >>> run = run_cycle(dram, [0, 32, 16 * 1024], serial=True)  # a closed bank, a hit, another row of the same bank
    >>> (run.done - run.arrive).tolist()  # 1 + tRCD + tCL + BL, 1 + tCL + BL, 1 + tRP + tRCD + tCL + BL
    [31, 17, 45]
    """
    where = dram.map
    addresses = np.ascontiguousarray(np.atleast_1d(np.asarray(address)), np.int64)
    writes = np.ascontiguousarray(np.broadcast_to(np.asarray(write, bool), addresses.shape)).view(np.uint8)
    beyond = np.flatnonzero((addresses < 0) | (addresses >= where.capacity_bytes))
    if len(beyond):
        raise InputError(
            f"{dram.name}: request {beyond[0]} is at address {int(addresses[beyond[0]]):#x}, beyond the capacity of"
            f" {where.capacity_bytes} bytes ({where.capacity_bytes:#x})"
        )
    times = np.zeros(0, np.int64) if due is None else np.ascontiguousarray(due, np.int64)
    if due is not None and (times.shape != addresses.shape or (times < 0).any()):
        raise InputError(f"{dram.name}: due must hold one tick, at least 0, for each of the {len(addresses)} requests")
    kernel = cycle_kernel(dram)
    arrive, done = np.empty_like(addresses), np.empty_like(addresses)
    record = np.zeros((log, 4), np.int64)
    kernel.run(addresses, writes, times, arrive, done, serial, separate, record)
    counts: Counter[str] = Counter()
    for channel in kernel.totals():
        counts.update(channel)
    return CycleRun(arrive, done, dict(counts), record[: kernel.logged])


def cycle_kernel(dram: DramChannels) -> DramCycleKernel:
    """The channels, cold; `offer` and `advance` serve transfers as they come (`archsim.engine.cycle`)."""
    where, controller = dram.map, dram.controller
    return DramCycleKernel(
        where.channels, where.interleave_bytes, where.organisation.burst_bytes.bit_length() - 1, where.tables,
        _starts(dram.timing, posted_early=controller.scheduler == "bank_queues"), vars(where.organisation),
        asdict(controller),
    )  # fmt: skip


def _starts(t: DramTiming, *, posted_early: bool) -> dict[str, int]:
    """Every constraint as the ticks between the starts of two commands.

    posted_early: the controller that moves a request to its bank's queue a tick before the bank sees it, in the
    tick of its
    arrival; its reads are therefore counted one tick shorter.
    """
    act, pre, col, ref = (ticks - 1 for ticks in (t.act_ticks, t.pre_ticks, t.col_ticks, t.ref_ticks))
    return {
        "clock": t.ticks_per_clock, "data": t.bl, "read_done": t.cl + t.bl - posted_early,
        "rcd_rd": t.rcd_rd + act - col, "rcd_wr": t.rcd_wr + act - col, "ras": t.ras + act - pre, "rc": t.rc,
        "rp": t.rp + pre - act, "rtp": t.rtp + col - pre, "wr_pre": t.cwl + t.bl + t.wr + col - pre,
        "rrd_s": t.rrd_s, "rrd_l": t.rrd_l, "faw": t.faw, "ppd": t.ppd,
        "ccd_s": t.ccd_s, "ccd_l": t.ccd_l, "ccd_r": t.ccd_r, "rtw": t.rtw,
        "wtr_s": t.cwl + t.bl + t.wtr_s, "wtr_l": t.cwl + t.bl + t.wtr_l,
        "act_ticks": t.act_ticks, "pre_ticks": t.pre_ticks, "col_ticks": t.col_ticks, "ref_ticks": t.ref_ticks,
        "refi": t.refi, "rfc": t.rfc + ref - act, "refi_pb": t.refi_pb, "rfc_pb": t.rfc_pb + ref - act,
        "rrefd": t.rrefd + ref - act, "act_ref": t.rc + act - ref, "pre_ref": t.rp + pre - ref, "ref_ref": t.rfc,
        "act_refpb": t.rrd_s + act - ref, "refpb_refpb": t.rrefd, "refpb_again": t.rfc_pb, "ref_pre": t.rfc + ref - pre,
    }  # fmt: skip
