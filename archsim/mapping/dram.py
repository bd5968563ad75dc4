"""A DRAM standard in the integers of the engine: clocks and ticks for the cycle model."""

from __future__ import annotations

from math import ceil, isclose

from archsim.errors import InputError
from archsim.hardware.memory import ControllerSpec, MappingSpec, MemoryStandard
from archsim.program.address_map import AddressMap, Organisation
from archsim.program.dram import Controller, DramChannels, DramTiming

__all__ = ["dram_channels", "dram_timing", "organisation"]


def organisation(standard: MemoryStandard, *, shared_bus: bool = True) -> Organisation:
    """Of one command channel, or (not shared_bus) of one pseudo-channel on its own."""
    return Organisation(
        pseudo_channels=standard.channels_per_command_bus if shared_bus else 1,
        stack_ids=standard.stack_ids,
        bank_groups=standard.bank_groups,
        banks_per_group=standard.banks_per_group,
        rows=standard.rows,
        columns=standard.row_bytes // standard.burst_bytes,
        burst_bytes=standard.burst_bytes,
    )


def dram_timing(standard: MemoryStandard, data_rate: float | None = None) -> DramTiming:
    """The timings of a standard at a data rate (its top one), rounded up to ticks and, for JEDEC times, to clocks.

    >>> from archsim.hardware import load_memory_standard
    >>> hbm3 = dram_timing(load_memory_standard("hbm3"))
    >>> hbm3.tick_ps, hbm3.bl, hbm3.rcd_rd, hbm3.faw, hbm3.rfc  # half clocks of 312.5 ps
    (312.5, 4, 62, 48, 1120)
    """
    t, commands = standard.timings, standard.command_clocks
    clock_s = standard.transfers_per_clock / (data_rate or standard.data_rate)
    ticks = 2 if standard.half_clocks else 1

    def clocks(seconds: float | None, default: int = 0) -> int:
        # data sheets round: a hundredth of a clock is no clock
        return default if seconds is None else ticks * ceil(seconds / clock_s - 0.01)

    def bus(held: float) -> int:
        if not isclose(held * ticks, round(held * ticks)):
            raise InputError(f"{standard.name}: a command that holds its bus for {held} clocks needs half_clocks")
        return round(held * ticks)

    burst = clocks(standard.burst_length / standard.transfers_per_clock * clock_s)
    rcd, rrd, wtr = clocks(t.trcd), clocks(t.trrd), clocks(t.twtr)
    return DramTiming(
        tick_ps=round(clock_s * 1e12 / ticks, 6), ticks_per_clock=ticks, bl=burst, cl=clocks(t.tcl), cwl=clocks(t.tcwl),
        rcd_rd=rcd, rcd_wr=clocks(t.trcd_write, rcd), rp=clocks(t.trp), ras=clocks(t.tras), rc=clocks(t.trc),
        wr=clocks(t.twr), rtp=clocks(t.trtp), ccd_s=burst, ccd_l=max(burst, clocks(t.tccd_l)),
        ccd_r=max(burst, clocks(t.tccd_r, burst)), rrd_s=rrd, rrd_l=clocks(t.trrd_l, rrd), wtr_s=wtr,
        wtr_l=clocks(t.twtr_l, wtr), rtw=clocks(t.trtw), faw=clocks(t.tfaw), ppd=clocks(t.tppd), refi=clocks(t.trefi),
        rfc=clocks(t.trfc), refi_pb=clocks(t.trefi_bank), rfc_pb=clocks(t.trfc_bank), rrefd=clocks(t.trrefd),
        act_ticks=bus(commands.activate), pre_ticks=bus(commands.precharge), col_ticks=bus(commands.column),
        ref_ticks=bus(commands.refresh),
    )  # fmt: skip


def dram_channels(
    standard: MemoryStandard, *, channels: int = 1, data_rate: float | None = None, interleave_bytes: int = 256,
    mapping: MappingSpec | None = None, controller: ControllerSpec | None = None,
) -> DramChannels:  # fmt: skip
    """`channels` command channels of a standard (two pseudo-channels each in HBM) for the cycle model."""
    mapping, controller = mapping or standard.mapping, controller or ControllerSpec()
    where = AddressMap(organisation(standard), mapping.order, channels, interleave_bytes, mapping.xor)
    return DramChannels(standard.name, where, dram_timing(standard, data_rate), Controller(**controller.model_dump()))
