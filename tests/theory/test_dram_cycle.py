"""The cycle model on random legal standards, maps, controllers and streams: no rule is ever broken, nothing is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from dram_checker import violations
from hypothesis import given, settings
from hypothesis import strategies as st

from archsim.hardware import list_memory_standards, load_memory_standard
from archsim.kernels.dram_cycle import run_cycle
from archsim.mapping.dram import dram_channels
from archsim.memory import make_stream
from archsim.program.address_map import AddressMap, Organisation
from archsim.program.dram import Controller, DramChannels, DramTiming

pytestmark = pytest.mark.theory


@st.composite
def timings(draw: st.DrawFn, plain: bool) -> DramTiming:
    """Legal timings: whole clocks, and a clock of one or two ticks; `plain`: every command takes one."""
    clock = 1 if plain else draw(st.sampled_from([1, 2]))

    def clocks(low: int, high: int) -> int:
        return clock * draw(st.integers(low, high))

    bl, rcd, rp, cl, rrd, wtr = clocks(1, 4), clocks(2, 12), clocks(2, 12), clocks(3, 20), clocks(1, 6), clocks(1, 8)
    cwl = clocks(1, cl // clock)
    ras, rfc, refi_pb = rcd + clocks(2, 20), clocks(20, 200), clocks(40, 120)
    return DramTiming(
        tick_ps=500, ticks_per_clock=clock, bl=bl, cl=cl, cwl=cwl, rcd_rd=rcd, rcd_wr=clocks(1, rcd // clock),
        rp=rp, ras=ras,
        rc=ras + rp + clocks(0, 3), wr=clocks(2, 12), rtp=clocks(1, 8), ccd_s=bl, ccd_l=bl + clocks(0, 4),
        ccd_r=bl + clocks(0, 3), rrd_s=rrd, rrd_l=rrd + clocks(0, 4), wtr_s=wtr, wtr_l=wtr + clocks(0, 6),
        rtw=max(clock, cl + bl - cwl + clocks(1, 4)), faw=rrd + clocks(1, 20), ppd=clocks(0, 2),
        refi=rfc + clocks(300, 900),
        rfc=rfc, refi_pb=refi_pb, rfc_pb=clocks(10, 100), rrefd=clocks(1, 10),
        act_ticks=1 if plain else draw(st.integers(1, 2 * clock)), pre_ticks=draw(st.integers(1, clock)),
        col_ticks=clock,
        ref_ticks=draw(st.integers(1, clock)),
    )  # fmt: skip


@st.composite
def channels(draw: st.DrawFn) -> DramChannels:
    """One channel of random organisation, with a random map and controller."""
    scheduler = draw(st.sampled_from(["row_hits_first", "oldest_first", "bank_queues"]))
    powers = st.sampled_from([1, 2, 4])
    shared = scheduler != "bank_queues"  # which knows one pseudo-channel
    organisation = Organisation(
        draw(st.sampled_from([1, 2])) if shared else 1, draw(powers) if shared else 1, draw(powers), draw(powers),
        rows=64,
        columns=8, burst_bytes=32,
    )  # fmt: skip
    fields = ["pseudo_channel", "stack_id", "bank_group", "bank", "column[0:1]", "column[1:3]", "row"]
    order = tuple(draw(st.permutations(fields)))
    xor = {"bank": "row[0:1]"} if organisation.banks_per_group > 1 and draw(st.booleans()) else {}
    controller = Controller(
        scheduler, draw(st.integers(1, 40)), draw(st.integers(1, 40)), *sorted([draw(st.floats(0,
        1)) for _ in "ab"])[::-1],
        row_policy=draw(st.sampled_from(["open", "closed"])) if shared else "open", row_hit_cap=draw(st.integers(0, 5)),
        refresh=draw(st.sampled_from(["all_bank", "per_bank", "none"] if shared else ["all_bank", "none"])),
        bank_queue=draw(st.integers(1, 8)),
    )  # fmt: skip
    timing = draw(timings(not shared))
    banks = organisation.banks // organisation.pseudo_channels
    if banks * timing.refi_pb <= timing.rfc_pb + timing.rc:  # no room for a row between two refreshes of a bank
        timing = replace(timing, refi_pb=timing.rfc_pb + timing.rc + timing.ticks_per_clock)
    return DramChannels("random", AddressMap(organisation, order, 1, 32, xor), timing, controller)


@settings(max_examples=60, deadline=None)
@given(dram=channels(), data=st.data())
def test_no_timing_is_ever_violated_and_nothing_is_lost(dram: DramChannels, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 150))
    seed = data.draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    bursts = dram.map.capacity_bytes // 32
    near = random.integers(0, bursts, 1)[0] + np.cumsum(random.integers(0, 3, count))
    address = (
        np.where(random.random(count) < data.draw(st.floats(0, 1)), random.integers(0, bursts, count), near)
        % bursts
        * 32
    )
    write = random.random(count) < data.draw(st.floats(0, 1))
    due = np.sort(random.integers(0, 20 * count, count)) if data.draw(st.booleans()) else None
    run = run_cycle(dram, address, write, due=due, serial=data.draw(st.booleans()), log=20 * count + 5000)
    assert violations(run.log.tolist(), dram.timing, dram.map.organisation) == []
    counts, reads = run.counts, ~write
    posted = count - counts["reads"] - counts["writes"] - counts["forwarded"]
    if dram.controller.scheduler != "bank_queues":
        assert posted == 0
    assert counts["reads"] <= reads.sum()
    assert counts["writes"] <= write.sum()
    assert (run.done >= run.arrive).all()
    served = reads & (run.done > run.arrive + 1)
    assert (run.done - run.arrive >= dram.timing.cl + dram.timing.bl)[served].all()
    if due is not None:
        assert (run.arrive >= due).all()


def test_one_bank_is_not_refreshed_again_before_its_refresh_ends() -> None:
    """A refresh that waited for a row must not let the next one follow on time."""
    timing = DramTiming(
        tick_ps=500, ticks_per_clock=1, bl=1, cl=3, cwl=1, rcd_rd=2, rcd_wr=1, rp=2, ras=4, rc=6, wr=2, rtp=8, ccd_s=1,
        ccd_l=1, ccd_r=1, rrd_s=1, rrd_l=1, wtr_s=1, wtr_l=1, rtw=4, faw=2, ppd=0, refi=320, rfc=20, refi_pb=40,
        rfc_pb=30, rrefd=1, act_ticks=1, pre_ticks=1, col_ticks=1, ref_ticks=1,
    )  # fmt: skip
    order = ("pseudo_channel", "stack_id", "bank_group", "bank", "column[0:1]", "column[1:3]", "row")
    where = AddressMap(Organisation(1, 1, 1, 1, 64, 8, 32), order, 1, 32, {})
    dram = DramChannels("one bank", where, timing, Controller(read_queue=1, write_queue=1, refresh="per_bank"))
    address = np.random.default_rng(0).integers(0, 512, 150) * 32
    run = run_cycle(dram, address, np.zeros(150, bool), log=10_000)
    assert run.counts["refreshes_pb"] > 10
    assert violations(run.log.tolist(), timing, where.organisation) == []


@pytest.mark.parametrize("name", list_memory_standards())
@pytest.mark.parametrize("pattern", ["sequential", "random", "chunk_1024"])
def test_a_standard_keeps_its_rules_and_its_ceiling(name: str, pattern: str) -> None:
    dram = dram_channels(load_memory_standard(name))
    organisation, timing = dram.map.organisation, dram.timing
    stream = make_stream(pattern, 4000, request_bytes=organisation.burst_bytes,
    region_bytes=dram.map.capacity_bytes // 2,
                         stripe_bytes=65536, read_share=0.8)  # fmt: skip
    run = run_cycle(dram, stream.address, stream.write, log=50_000)
    assert violations(run.log.tolist(), timing, organisation) == []
    bus_ticks = 4000 * timing.bl / organisation.pseudo_channels
    # a run may begin right after a refresh and end right before one: one interval more than it holds
    refreshes = max(0, run.ticks // timing.refi - 1)
    assert run.ticks >= bus_ticks + refreshes * timing.rfc


def test_random_accesses_are_bound_by_the_four_activate_window() -> None:
    """HBM3: 4 bursts of 2 clocks in a tFAW of 24 clocks; the rest of the time goes to refreshes."""
    dram = dram_channels(load_memory_standard("hbm3"))
    stream = make_stream("random", 20_000, request_bytes=32, region_bytes=2**30, stripe_bytes=65536)
    run = run_cycle(dram, stream.address)
    used = 20_000 * 32 / (run.ticks * dram.timing.tick_ps * 1e-12) / dram.peak_bytes_per_s
    assert 0.9 * 0.303 < used <= 4 * 2 / 24 * (1 - 560 / 6240)


def test_per_bank_refresh_costs_random_accesses_less_than_all_bank_refresh() -> None:
    standard = load_memory_standard("hbm3")
    stream = make_stream("random", 20_000, request_bytes=32, region_bytes=2**30, stripe_bytes=65536)
    ticks = {}
    for refresh in ("none", "per_bank", "all_bank"):
        dram = dram_channels(standard, controller=None)
        dram = DramChannels(dram.name, dram.map, dram.timing, Controller(refresh=refresh))
        ticks[refresh] = run_cycle(dram, stream.address).ticks
    assert ticks["none"] < ticks["per_bank"] < ticks["all_bank"]
