"""Does every run obey what holds for any machine: nobody is busy longer than time lasts, and bytes are conserved?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archsim.engine import CompiledInterpreter
from archsim.program import Cache, Dram, Kind, Link, Machine, Memory, Program, ProgramBuilder, Unit, Window, service_ps

EXAMPLES = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
REGION = 16 * 1024


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    dram = Dram(
        channels=draw(st.integers(1, 4)),
        interleave_bytes=256,
        banks=4,
        row_bytes=1024,
        burst_bytes=32,
        burst_ps=draw(st.integers(1, 40)),
        cl_ps=10,
        rcd_ps=12,
        rp_ps=15,
        rc_ps=60,
        act_ps=5,
        refi_ps=draw(st.sampled_from([0, 500])),
        rfc_ps=50,
        to_write_ps=2,
        to_read_ps=4,
        read_queue=draw(st.sampled_from([0, 16])),
        write_queue=16,
        drain_high=12,
        drain_low=4,
    )
    cache = draw(st.none() | st.builds(Cache, st.integers(512, 4096), st.just(512), st.integers(1, 400_000)))
    return Machine(
        (
            Unit("mxu", "matrix", 3),
            Unit("vec", "vector"),
            Link("noc", "noc", draw(st.integers(1, 2_000_000)), 5),
            Memory("hbm", "memory", dram, cache, 4),
        )
    )


@st.composite
def programs(draw: st.DrawFn, machine: Machine) -> Program:
    builder = ProgramBuilder(machine)
    region = builder.region("data", REGION)
    for step in range(draw(st.integers(1, 40))):
        nbytes = draw(st.integers(1, 2000))
        builder.step(
            draw(st.sampled_from([("mxu",), ("vec",), ("noc",), ("hbm",), ("hbm", "noc"), ("noc", "hbm"), ()])),
            work_ps=draw(st.integers(1, 100)),
            nbytes=nbytes,
            region=region,
            offset=draw(st.integers(0, REGION - nbytes)),
            write=draw(st.booleans()),
            after=draw(st.lists(st.integers(0, step - 1), max_size=2)) if step else (),
        )
    return builder.build()


@st.composite
def cases(draw: st.DrawFn) -> Program:
    return draw(programs(draw(machines())))


def critical_path_ps(program: Program) -> int:
    """The longest chain of steps, each at the least time that its units and links take when they are free."""
    longest: list[int] = []
    for step in range(len(program)):
        alone = 0
        for resource in (program.machine[number] for number in program.route_of(step)):
            if isinstance(resource, Unit):
                alone = max(alone, int(program.work_ps[step])) + resource.latency_ps
            elif isinstance(resource, Link):
                alone = max(alone, service_ps(int(program.nbytes[step]), resource.as_per_byte)) + resource.latency_ps
        longest.append(alone + max((longest[before] for before in program.preds_of(step)), default=0))
    return max(longest)


@given(cases(), st.integers(0, 10_000))
@EXAMPLES
def test_time_is_bounded_from_below(program: Program, start: int) -> None:
    run = CompiledInterpreter(program.machine).run(program, start, [0])
    memory = program.machine[3]
    assert isinstance(memory, Memory)
    posted = memory.dram.write_queue * memory.dram.burst_ps  # nobody waits for the writes in a controller's queue
    assert (run.busy_ps <= run.elapsed_ps + np.array([0, 0, 0, posted])).all()
    assert run.elapsed_ps >= critical_path_ps(program)
    assert (run.start_ps >= start).all()
    assert (run.finish_ps >= run.start_ps).all()
    assert run.end_ps == run.finish_ps.max()
    for step in range(len(program)):
        assert (run.finish_ps[program.preds_of(step)] <= run.start_ps[step]).all()


@given(cases())
@EXAMPLES
def test_busy_time_is_the_work_that_was_asked_for(program: Program) -> None:
    run = CompiledInterpreter(program.machine).run(program, 0, [0])
    for number, resource in enumerate(program.machine):
        visitors = [step for step in range(len(program)) if number in program.route_of(step)]
        if resource.kind == Kind.UNIT:
            assert run.busy_ps[number] == program.work_ps[visitors].sum()
        elif isinstance(resource, Link):
            expected = sum(service_ps(int(program.nbytes[step]), resource.as_per_byte) for step in visitors)
            assert run.busy_ps[number] == expected


@given(cases())
@EXAMPLES
def test_bytes_are_conserved(program: Program) -> None:
    run, memory = CompiledInterpreter(program.machine).run(program, 0, [0]), program.machine[3]
    assert isinstance(memory, Memory)
    visitors = np.array([3 in program.route_of(step) for step in range(len(program))])
    read = int(program.nbytes[visitors & ~program.write].sum())
    written = int(program.nbytes[visitors & program.write].sum())
    counters = run.counters
    assert counters.bytes_requested == read + written
    if memory.cache is None:
        assert (counters.bytes_read, counters.bytes_written) == (read, written)
    else:
        # whole sectors move, and at either end of an access at most one that was not asked for
        assert counters.bytes_read % 64 == counters.bytes_written % 64 == 0
        assert counters.bytes_read <= read + 126 * int((visitors & ~program.write).sum())
        assert counters.bytes_written <= written + 126 * int((visitors & program.write).sum())


@given(st.data())
@EXAMPLES
def test_one_more_step_never_makes_a_resource_less_busy(data: st.DataObject) -> None:
    machine = data.draw(machines())
    whole = data.draw(programs(machine))
    if len(whole) < 2:
        return
    part = _without_last(whole)
    less = CompiledInterpreter(machine).run(part, 0, [0])
    more = CompiledInterpreter(machine).run(whole, 0, [0])
    units_and_links = [number for number, each in enumerate(machine) if each.kind != Kind.MEMORY]
    assert (more.busy_ps[units_and_links] >= less.busy_ps[units_and_links]).all()
    assert more.counters.bytes_requested >= less.counters.bytes_requested


@given(cases())
@EXAMPLES
def test_time_does_not_depend_on_when_it_starts_without_refresh(program: Program) -> None:
    memory = program.machine[3]
    assert isinstance(memory, Memory)
    if memory.dram.refi_ps:
        return
    early = CompiledInterpreter(program.machine).run(program, 0, [0])
    late = CompiledInterpreter(program.machine).run(program, 123_457, [0])
    np.testing.assert_array_equal(late.finish_ps - 123_457, early.finish_ps)


def test_a_stream_reaches_the_peak_of_the_memory_and_not_more() -> None:
    dram = Dram(8, 256, 16, 1024, 32, 1500, 15_000, 14_000, 14_000, 42_000, 4_000, 3_900_000, 350_000)
    machine = Machine((Memory("hbm", "memory", dram),))
    builder = ProgramBuilder(machine)
    data = builder.region("data", 1 << 23)
    builder.steps(builder.route("hbm"), nbytes=4096, region=data, offset=np.arange(2048) * 4096)
    run = CompiledInterpreter(machine).run(builder.build(), 0, [0])
    busy = run.busy_ps[0] / run.elapsed_ps
    assert 0.88 < busy <= 1 - 350_000 / 3_900_000 + 0.01  # all but the refresh


def _without_last(program: Program) -> Program:
    keep = len(program) - 1
    columns = ("route", "work_ps", "nbytes", "region", "offset", "write", "priority", "tag")
    return Program(
        machine=program.machine,
        name=program.name,
        route_start=program.route_start,
        route_resources=program.route_resources,
        pred_start=program.pred_start[: keep + 1],
        preds=program.preds[: program.pred_start[keep]],
        regions=program.regions,
        **{column: getattr(program, column)[:keep] for column in columns},
    )


@pytest.mark.parametrize("outstanding", [256, 1024, 4096, 16 * 1024, 64 * 1024])
def test_what_is_outstanding_over_the_latency_limits_the_bandwidth(outstanding: int) -> None:
    """Little's law: 64 B requests, 500 ns there and back, a port of 32 B/ns; 16 KB outstanding are what it takes."""
    latency_ns, peak = 500, 32
    dram = Dram(channels=16, interleave_bytes=256, banks=16, row_bytes=1024, burst_bytes=64, burst_ps=1000)
    machine = Machine((
        Window("dma", "window", outstanding), Memory("hbm", "memory", dram, latency_ps=latency_ns * 1000),
        Link("port", "port_in", 10**9 // peak),
    ))  # fmt: skip
    builder = ProgramBuilder(machine)
    region, count = builder.region("data", 2**20), 2**14
    builder.steps(builder.route("dma", "hbm", "port"), nbytes=64, region=region, offset=64 * np.arange(count))
    run = CompiledInterpreter(machine).run(builder.build(), 0, [0])
    rate = count * 64 / (run.elapsed_ps * 1e-3)
    assert rate == pytest.approx(min(peak, outstanding / latency_ns), rel=0.08)
