"""Do both interpreters get the small stories right that a reader can work out by hand?

All times are picoseconds. The DRAM of the stories: bursts of 32 bytes in 2 ps, cl 10, rcd 12, rp 15, rc 60, act 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from archsim.engine import CompiledInterpreter, Interpreter, SimpyInterpreter
from archsim.errors import InputError
from archsim.program import Cache, Dram, Link, Machine, Memory, ProgramBuilder, Resource, Run, Unit, Window

DRAM = Dram(channels=1, interleave_bytes=256, banks=4, row_bytes=1024, burst_bytes=32, burst_ps=2,
            cl_ps=10, rcd_ps=12, rp_ps=15, rc_ps=60, act_ps=5)  # fmt: skip
CACHE = Cache(capacity_bytes=512, block_bytes=256, as_per_byte=250_000, hit_latency_ps=20)  # 4 bytes a ps
LINES = replace(CACHE, capacity_bytes=128, block_bytes=64)  # two blocks of one sector
PS_PER_BYTE = 10**6

Make = Callable[[Machine], Interpreter]


@pytest.fixture(params=[CompiledInterpreter, SimpyInterpreter], ids=["compiled", "simpy"])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param  # type: ignore[no-any-return]


def program_on(*resources: Resource) -> ProgramBuilder:
    return ProgramBuilder(Machine(resources))


def finishes(make: Make, builder: ProgramBuilder, bases: tuple[int, ...] = ()) -> list[int]:
    return run(make, builder, bases).finish_ps.tolist()


def run(make: Make, builder: ProgramBuilder, bases: tuple[int, ...] = ()) -> Run:
    return make(builder.machine).run(builder.build(), 0, bases)


def accesses(make: Make, memory: Memory, *stories: tuple[int, int, int, bool], start: int = 0) -> Run:
    """Run (delay, address, nbytes, write) accesses, each begun `delay` after the launch."""
    builder = program_on(memory, *(Unit(f"clock{i}", "clock") for i in range(len(stories))))
    data = builder.region("data", 2**20)
    for number, (delay, address, nbytes, write) in enumerate(stories):
        after = [builder.step(f"clock{number}", work_ps=delay)] if delay else []
        builder.step(memory.name, nbytes=nbytes, region=data, offset=address, write=write, after=after, tag=1)
    program = builder.build()
    whole = make(builder.machine).run(program, start, [0])
    chosen = program.tag == 1
    return replace(whole, start_ps=whole.start_ps[chosen], finish_ps=whole.finish_ps[chosen])


def memory(cache: Cache | None = None, latency_ps: int = 0, **dram: int) -> Memory:
    return Memory("memory", "memory", replace(DRAM, **dram), cache, latency_ps)


# --- windows --------------------------------------------------------------------------------------------------------


def test_a_window_lets_in_what_fits_beside_what_is_under_way(make: Make) -> None:
    """Room for 100 bytes, a link of 1 byte a ps and 1,000 ps: 60 and 40 go together, 60 and 50 one after the other."""
    builder = program_on(Window("dma", "window", 100), Link("port", "noc", PS_PER_BYTE, 1000))
    for nbytes in (60, 40, 60, 50):
        builder.step(("dma", "port"), nbytes=nbytes)
    result = run(make, builder)
    # the third fits when the first has left, and the last when the third has
    assert result.start_ps.tolist() == [0, 0, 1061, 2122]
    assert result.finish_ps.tolist() == [1061, 1101, 2122, 3173]


def test_more_than_the_window_goes_alone_and_nobody_is_overtaken(make: Make) -> None:
    builder = program_on(Window("dma", "window", 100), Link("port", "noc", PS_PER_BYTE))
    for nbytes in (80, 300, 10):
        builder.step(("dma", "port"), nbytes=nbytes)
    assert run(make, builder).start_ps.tolist() == [0, 81, 382]


def test_a_window_stands_first_on_a_route() -> None:
    builder = program_on(Window("dma", "window", 100), Link("port", "noc", PS_PER_BYTE))
    builder.step(("port", "dma"), nbytes=1)
    with pytest.raises(InputError, match="visits a window behind another resource"):
        builder.build()


# --- units and links ------------------------------------------------------------------------------------------------


def test_two_steps_on_one_unit_follow_each_other(make: Make) -> None:
    builder = program_on(Unit("mxu", "matrix", latency_ps=3))
    builder.steps(builder.route("mxu"), work_ps=10, count=2)
    both = run(make, builder)
    assert both.start_ps.tolist() == [0, 10]
    assert both.finish_ps.tolist() == [13, 23]  # the pipeline's latency overlaps with the next step
    assert both.busy_ps.tolist() == [20]


def test_a_tie_goes_to_the_lower_priority_number_then_to_the_lower_step(make: Make) -> None:
    builder = program_on(Unit("mxu", "matrix"))
    builder.steps(builder.route("mxu"), work_ps=10, priority=[1, 1, 0])
    assert finishes(make, builder) == [20, 30, 10]


def test_priority_does_not_overtake_an_earlier_arrival(make: Make) -> None:
    builder = program_on(Unit("mxu", "matrix"), Unit("vec", "vector"))
    first = builder.step("vec", work_ps=1)
    builder.steps(builder.route("mxu"), work_ps=10, priority=5, count=2)
    builder.step("mxu", work_ps=10, priority=0, after=[first])
    assert finishes(make, builder) == [1, 10, 20, 30]


def test_a_resource_arbitrates_when_all_finishes_of_the_instant_are_known(make: Make) -> None:
    builder = program_on(Unit("a", "matrix"), Unit("b", "matrix"), Unit("c", "vector"))
    one, two = builder.step("a", work_ps=10), builder.step("b", work_ps=10)
    builder.step("c", work_ps=7, after=[two])  # released by the later of two finishes at 10, but first by its id
    builder.step("c", work_ps=7, after=[one])
    assert finishes(make, builder) == [10, 10, 17, 24]


def test_joins_take_no_time(make: Make) -> None:
    builder = program_on(Unit("mxu", "matrix"))
    root = builder.join([])
    tile = builder.step("mxu", work_ps=10, after=[root])
    join = builder.join([tile, root])
    builder.step("mxu", work_ps=10, after=[builder.join([join])])
    assert finishes(make, builder) == [0, 10, 10, 10, 20]


@pytest.mark.parametrize("slow_first", [False, True])
def test_a_transfer_cuts_through_two_links(make: Make, slow_first: bool) -> None:
    fast = Link("fast", "noc", PS_PER_BYTE, latency_ps=5)
    slow = Link("slow", "noc", 2 * PS_PER_BYTE, latency_ps=7)
    builder = program_on(fast, slow)
    builder.step(("slow", "fast") if slow_first else ("fast", "slow"), nbytes=100)
    # fast first: head at 5, so the slow link works from 5 to 205, and 7 more;
    # slow first: the last byte leaves it at 200 + 7, and 5 more.
    assert finishes(make, builder) == [212]


def test_a_stage_takes_at_least_a_picosecond(make: Make) -> None:
    builder = program_on(Link("one", "noc", 1), Link("two", "noc", 1))
    builder.step(("one", "two"), nbytes=1)
    assert finishes(make, builder) == [2]  # arrives at 0 and at 1, without any latency


def test_a_busy_link_holds_up_the_second_transfer_only(make: Make) -> None:
    builder = program_on(*(Link(name, "noc", PS_PER_BYTE, latency_ps=5) for name in ("in1", "in2", "trunk")))
    builder.step(("in1", "trunk"), nbytes=100)  # trunk 5..105
    builder.step(("in2", "trunk"), nbytes=100)  # trunk 105..205
    assert finishes(make, builder) == [110, 210]


# --- DRAM -----------------------------------------------------------------------------------------------------------


def test_closed_bank_row_hit_and_conflict(make: Make) -> None:
    stories = [(0, 0, 64, False), (100, 64, 64, False), (200, 4096, 64, False)]
    done = accesses(make, memory(), *stories)
    assert done.finish_ps.tolist() == [
        12 + 10 + 4,  # rcd, cl, two bursts
        100 + 10 + 4,  # cl
        200 + 15 + 12 + 10 + 4,  # rp, rcd, cl: row 4 lies in bank 0 as row 0 does
    ]
    assert (done.counters.read_bursts, done.counters.activates) == (6, 2)
    assert (done.counters.bytes_read, done.counters.dram_busy_ps) == (192, 12)


def test_a_bank_is_activated_once_in_trc(make: Make) -> None:
    done = accesses(make, memory(), (0, 0, 64, False), (30, 4096, 64, False))
    assert done.finish_ps.tolist() == [26, 60 + 12 + 10 + 4]


def test_the_bus_works_on_while_a_bank_waits(make: Make) -> None:
    # Two banks at once: the second activates act_ps = 5 later, and its data follow at 5 + 12 + 10.
    done = accesses(make, memory(), (0, 0, 64, False), (0, 1024, 64, False))
    assert done.finish_ps.tolist() == [26, 31]


def test_a_range_is_spread_over_the_channels(make: Make) -> None:
    one = accesses(make, memory(), (0, 0, 512, False))
    two = accesses(make, memory(channels=2), (0, 0, 512, False))
    assert one.finish_ps.tolist() == [28 + 10 + 16]  # the first row is ready at 12 and holds the bus until 28
    assert two.finish_ps.tolist() == [22 + 16]  # one piece a channel, and both rows are opened at once
    assert one.busy_ps[0] == 32
    assert two.busy_ps[0] == 16  # the mean over channels


def test_a_write_is_posted_when_its_bus_slot_ends_and_the_bus_takes_time_to_turn(make: Make) -> None:
    done = accesses(make, memory(to_write_ps=2, to_read_ps=4), (0, 0, 64, True), (0, 64, 64, False))
    assert done.finish_ps.tolist() == [
        12 + 4,  # the bus starts out reading and has turned by 2, the row is open at 12
        16 + 4 + 10 + 4,  # the bus is free at 16 and has turned by 20, cl
    ]
    assert (done.counters.bytes_written, done.counters.bytes_read) == (64, 64)


def test_a_queue_takes_a_request_when_another_has_left_it(make: Make) -> None:
    # Room for one burst: the second row is activated (act_ps = 5 apart) as the first request leaves with its activate.
    # The third goes through bank 0 and waits until 60 for tRC, so that the last, in an idle bank, comes in then only
    # and follows it on the bus. With room it follows the third in their bank group, at
    # 25 + 12 + 2, as if that had not had to wait for its bank.
    rows = (0, 1, 4, 2)
    one, many = (accesses(make, memory(read_queue=n), *((0, 1024 * row, 32, False) for row in rows)) for n in (1, 8))
    assert one.finish_ps.tolist() == [24, 29, 60 + 24, 60 + 24 + 2]
    assert many.finish_ps.tolist() == [24, 29, 60 + 24, 39 + 12]


def test_writes_wait_while_reads_do_until_there_are_enough_of_them(make: Make) -> None:
    dram = memory(read_queue=8, write_queue=8, drain_high=2, to_write_ps=2, to_read_ps=4)
    stories = [(0, 0, 64, False), *((0, 64 + 32 * i, 32, True) for i in range(3)), (0, 192, 32, False)]
    done = accesses(make, dram, *stories)
    # The read has its columns from 12 to 16. Two writes wait, and are said to follow on the bus: until 18 and 20. With
    # the third they are served, from 16 + 2 to 24; the read after them from 24 + 4 on.
    assert done.finish_ps.tolist() == [26, 18, 20, 22, 28 + 10 + 2]


def test_a_row_that_is_wanted_while_it_is_open_is_not_opened_again(make: Make) -> None:
    # Rows 0 and 4 of bank 0 in turn, all at once: each is opened once.
    done = accesses(make, memory(), *((0, at, 32, False) for at in (0, 4096, 32, 4128)))
    assert done.counters.activates == 2


def test_nothing_starts_during_a_refresh(make: Make) -> None:
    done = accesses(make, memory(refi_ps=1000, rfc_ps=100), (50, 0, 64, False), start=900)
    assert done.finish_ps.tolist() == [1000 + 12 + 10 + 4]  # the lanes are gone from 900 to 1000


def test_runs_of_a_strided_transfer_are_served_in_one_go(make: Make) -> None:
    builder = program_on(memory())
    data = builder.region("data", 8192)
    rows = builder.step("memory", nbytes=96, region=data, runs=3, stride=1024)  # rows 0, 1, 2 in banks 0, 1, 2
    builder.step("memory", nbytes=64, region=data, gather=builder.gather_list([32, 2064]), runs=2, after=[rows])
    # Activates at 0, 5 and 10; the last column at 22. Then a burst of row 0 and, because they are not aligned to one,
    # two of row 2, all open: columns from 34 on, one after the other.
    assert finishes(make, builder, (0,)) == [10 + 12 + 2 + 10, 34 + 3 * 2 + 10]


def test_the_memory_latency_is_on_every_access(make: Make) -> None:
    assert accesses(make, memory(latency_ps=9), (0, 0, 64, False)).finish_ps.tolist() == [26 + 9]


def test_memory_and_link_overlap(make: Make) -> None:
    builder = program_on(memory(), Link("noc", "noc", PS_PER_BYTE, latency_ps=5))
    data = builder.region("data", 256)
    builder.step(("memory", "noc"), nbytes=256, region=data)
    # first data at 22, all at 38; the link is slower and works from 22 to 278.
    assert finishes(make, builder, (0,)) == [278 + 5]


def test_the_base_of_a_region_is_given_at_run_time(make: Make) -> None:
    builder = program_on(memory())
    one, two = builder.region("one", 64), builder.region("two", 64)
    first = builder.step("memory", nbytes=64, region=one)
    builder.step("memory", nbytes=64, region=two, after=[first])
    assert finishes(make, builder, (0, 64)) == [26, 40]  # a row hit
    assert finishes(make, builder, (0, 4096)) == [26, 60 + 12 + 10 + 4]


# --- cache ----------------------------------------------------------------------------------------------------------


def test_a_miss_fetches_the_sectors_that_are_missing_and_then_it_hits(make: Make) -> None:
    done = accesses(make, memory(CACHE), (0, 70, 16, False), (200, 0, 240, False), (400, 0, 128, False))
    assert done.finish_ps.tolist() == [
        20 + 12 + 10 + 4,  # the way in, rcd, cl, a sector of 64 bytes
        200 + 20 + 60,  # the way in, 240 bytes through the port; the sectors before and behind it come meanwhile
        400 + 20 + 32,
    ]
    assert (done.counters.block_misses, done.counters.block_hits) == (2, 1)
    assert (done.counters.bytes_requested, done.counters.bytes_read) == (384, 256)
    assert done.counters.cache_busy_ps == 96


def test_sectors_that_came_earlier_do_not_wait_for_those_under_way(make: Make) -> None:
    done = accesses(make, memory(CACHE), (0, 0, 64, False), (200, 64, 4, False), (201, 0, 4, False))
    # the sector fetched at 220 is there at 234, and the other one since 46: 201 + 20 + 1
    assert done.finish_ps.tolist() == [46, 234, 222]


def test_a_hit_under_a_pending_miss_waits_for_the_block(make: Make) -> None:
    done = accesses(make, memory(CACHE), (0, 0, 16, False), (5, 0, 16, False))
    assert done.finish_ps.tolist() == [46, 46]
    assert (done.counters.block_misses, done.counters.block_hits) == (1, 1)


def test_a_write_allocates_without_a_fetch(make: Make) -> None:
    done = accesses(make, memory(CACHE), (0, 0, 64, True))
    assert done.finish_ps.tolist() == [20 + 16]
    assert (done.counters.bytes_read, done.counters.bytes_written) == (0, 0)


def test_the_least_recent_block_leaves(make: Make) -> None:
    # The cache holds two blocks: 0 and 1 come in, 0 is used again, 2 takes the place of 1.
    touched = [0, 1, 0, 2, 0, 1]
    stories = [(1 + 1000 * i, 256 * block, 64, False) for i, block in enumerate(touched)]
    counters = accesses(make, memory(LINES), *stories).counters
    assert (counters.block_hits, counters.block_misses) == (2, 4)


def test_what_the_other_partition_reads_is_held_twice_until_it_is_written(make: Make) -> None:
    # Blocks 0 and 4 are at home in partition 0. Read from there both fit; read from the other one, 0 takes all of the
    # room and 4 leaves, until 0 is written, of which one copy stays.
    halves = memory(replace(LINES, partitions=2))
    touched = [(0, 0), (4, 0), (0, 0), (4, 0), (0, 1), (4, 0), (0, 1), (0, 1), (4, 0), (0, 0)]
    builder = program_on(halves)
    data = builder.region("data", 2**10)
    last: tuple[int, ...] = ()
    for i, (block, partition) in enumerate(touched):
        where = {"region": data, "offset": 64 * block, "partition": partition}
        last = (builder.step("memory", nbytes=64, write=i == 7, after=last, **where),)
    counters = run(make, builder, (0,)).counters
    assert (counters.block_hits, counters.block_misses) == (5, 5)


def test_sectors_fill_the_cache_and_blocks_leave_with_all_of_theirs(make: Make) -> None:
    # Eight sectors: four blocks with two each are all there, a ninth sector takes the place of both of block 3,
    # which take that of block 0.
    touched = [(0, 128), (1, 128), (2, 128), (3, 128), (0, 128), (1, 128), (2, 192), (3, 128), (0, 64)]
    stories = [(1 + 1000 * i, 256 * block, nbytes, False) for i, (block, nbytes) in enumerate(touched)]
    counters = accesses(make, memory(CACHE), *stories).counters
    assert (counters.block_hits, counters.block_misses) == (2, 7)


def test_a_dirty_victim_is_written_back_before_its_successor_is_fetched(make: Make) -> None:
    stories = [(0, 0, 64, True), (100, 256, 64, True), (1000, 1024, 64, False)]
    done = accesses(make, memory(LINES, to_write_ps=2, to_read_ps=4), *stories)
    # At t1 = 1020 what is dirty of block 0 goes out: slot 1032..1036 in bank 0. Then the bus turns, until 1040; row 1
    # (bank 1) is ready at 1025 + 12, so its data come at 1040 + 10 + 4.
    assert done.finish_ps.tolist() == [36, 136, 1054]
    assert (done.counters.bytes_written, done.counters.bytes_read) == (64, 64)


def test_a_write_that_evicts_is_done_when_the_bus_has_taken_the_victim(make: Make) -> None:
    stories = [(0, 0, 64, True), (100, 256, 64, True), (1000, 512, 16, True)]
    done = accesses(make, memory(LINES, to_write_ps=2, to_read_ps=4), *stories)
    assert done.finish_ps.tolist() == [36, 136, 1020 + 12 + 4]


def test_slices_of_a_cache_pass_their_shares_side_by_side(make: Make) -> None:
    sliced = replace(CACHE, slices=2, interleave_bytes=64)  # 2 bytes a ps each
    stories = [(0, 0, 128, True), (100, 0, 64, False), (100, 0, 64, False), (100, 64, 64, False), (300, 0, 256, False)]
    done = accesses(make, memory(sliced), *stories)
    # The second read of the first slice waits for the one before, that of the second slice does not; the last one takes
    # as long as half of it in one slice.
    assert done.finish_ps[:4].tolist() == [20 + 32, 152, 152 + 32, 152]
    assert done.finish_ps[4] == 300 + 20 + 64


def test_the_cache_serves_one_access_after_the_other(make: Make) -> None:
    stories = [(0, 0, 64, True), (100, 0, 64, False), (100, 0, 64, False)]
    assert accesses(make, memory(CACHE), *stories).finish_ps.tolist() == [36, 136, 152]
