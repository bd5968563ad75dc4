"""A DRAM standard in the integers of the engine: clocks and ticks for the cycle model."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, isclose

from archsim.errors import InputError
from archsim.hardware.memory import ControllerSpec, MappingSpec, MemorySpec, MemoryStandard
from archsim.program import Dram
from archsim.program.address_map import AddressMap, Organisation
from archsim.program.dram import Controller, DramChannels, DramTiming

__all__ = ["chip_channels", "chip_dram", "dram_channels", "dram_timing", "organisation", "tile_dram"]


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


def chip_channels(memory: MemorySpec) -> DramChannels:
    """The memory of a chip for the cycle model: command channels, with their pseudo-channels."""
    return dram_channels(
        memory.standard, channels=memory.channels // memory.standard.channels_per_command_bus,
        data_rate=memory.data_rate, interleave_bytes=int(memory.interleave), mapping=memory.mapping,
        controller=memory.controller,
    )  # fmt: skip


def chip_dram(memory: MemorySpec) -> Dram:
    """The memory of a chip for the tile model: every pseudo-channel is a channel of its own,
    with its share of the queues."""
    standard, given = memory.standard, memory.controller
    mapping = memory.mapping or standard.mapping
    shared = standard.channels_per_command_bus
    controller = Controller(**given.model_dump())
    order = tuple(field for field in mapping.order if field != "pseudo_channel")
    xor = {field: bits for field, bits in mapping.xor.items() if field != "pseudo_channel"}
    where = AddressMap(
        organisation(standard, shared_bus=False), order, memory.channels, int(memory.interleave), xor
    )  # fmt: skip
    timing = dram_timing(standard, memory.data_rate)
    dram = tile_dram(DramChannels(standard.name, where, timing, controller), sharing=shared)
    # the burst at the chip's own bandwidth, which a clock of whole ticks would round, and its part of those of codes
    burst_s = memory.burst_time * (1.0 + memory.code_bursts * standard.burst_bytes / memory.interleave)
    return replace(dram, burst_ps=max(1, round(burst_s * 1e12)), hashed=memory.hashed)


def tile_dram(dram: DramChannels, *, sharing: int | None = None) -> Dram:
    """The same channels for the tile model, in picoseconds.

    sharing: how many pseudo-channels share a row-command bus and the queues, if it is not those of one channel of the
    map. Each has its share of the queues then, and the others' activates take as much of the bus as its own.
    """
    t, controller, found = dram.timing, dram.controller, dram.map.organisation

    def ps(ticks: float) -> int:
        return round(ticks * t.tick_ps)

    lanes = found.pseudo_channels
    sharing = sharing or lanes
    all_banks, by_bank = controller.refresh == "all_bank", controller.refresh == "per_bank"
    return Dram(
        channels=dram.map.channels,
        # one channel is not interleaved: its transfers are cut at rows only
        interleave_bytes=dram.map.interleave_bytes if dram.map.channels > 1 else found.columns *
        found.burst_bytes * lanes,
        banks=found.banks // lanes,
        row_bytes=found.columns * found.burst_bytes, burst_bytes=found.burst_bytes, burst_ps=ps(t.bl), cl_ps=ps(t.cl),
        rcd_ps=ps(t.rcd_rd), rcd_write_ps=ps(t.rcd_wr), rp_ps=ps(t.rp), rc_ps=ps(t.rc), rtp_ps=ps(t.rtp),
        wr_ps=ps(t.cwl + t.bl + t.wr), act_ps=ps(max(t.rrd_s, t.faw / 4)),
        row_bus_ps=ps(t.act_ticks + t.pre_ticks) * sharing // lanes,
        ccd_ps=ps(t.ccd_l), ccd_stack_ps=ps(t.ccd_r) if found.stack_ids > 1 else 0,
        bank_groups=found.stack_ids * found.bank_groups, to_write_ps=max(ps(t.rtw - t.bl), 0),
        to_read_ps=ps(t.cwl + t.wtr_l), read_queue=max(1, controller.read_queue * lanes // sharing),
        write_queue=max(1, controller.write_queue * lanes // sharing),
        drain_high=int(controller.drain_high * controller.write_queue * lanes / sharing),
        drain_low=int(controller.drain_low * controller.write_queue * lanes / sharing),
        refi_ps=ps(t.refi) if all_banks else 0, rfc_ps=ps(t.rfc) if all_banks else 0,
        refi_bank_ps=ps(t.refi_pb) if by_bank else 0, rfc_bank_ps=ps(t.rfc_pb) if by_bank else 0, map=dram.map,
    )  # fmt: skip
