"""Is the compiled interpreter the machine that the SimPy one defines? On any program, to the picosecond."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archsim.engine import CompiledInterpreter, Launch, Session, SimpyInterpreter
from archsim.engine.reference_memory import ReferenceMemory
from archsim.hardware import load_memory_standard
from archsim.hardware.memory import MappingSpec
from archsim.kernels import MemoryModel
from archsim.mapping.dram import dram_channels, tile_dram
from archsim.program import Cache, Dram, Link, Machine, Memory, Program, ProgramBuilder, Run, Unit, Window

REGION_BYTES = 6000
GATHER_OFFSETS = [0, 700, 64, 64, 2500, 1000, 1030]
EXAMPLES = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def memories(draw: st.DrawFn, name: str = "memory") -> Memory:
    """Small numbers make ties, evictions, conflicts and refreshes frequent."""
    refi = draw(st.sampled_from([0, 40, 97]))
    queue = draw(st.sampled_from([0, 1, 5, 40]))
    dram = Dram(
        channels=draw(st.integers(1, 4)),
        interleave_bytes=draw(st.sampled_from([32, 100, 256, 1024])),
        hashed=draw(st.booleans()),
        banks=draw(st.integers(1, 3)),
        row_bytes=draw(st.sampled_from([64, 150, 512])),
        burst_bytes=draw(st.sampled_from([16, 32])),
        burst_ps=draw(st.integers(1, 3)),
        cl_ps=draw(st.integers(0, 10)),
        rcd_ps=draw(st.integers(0, 10)),
        rp_ps=draw(st.integers(0, 10)),
        rc_ps=draw(st.integers(0, 30)),
        act_ps=draw(st.integers(0, 6)),
        refi_ps=refi,
        rfc_ps=draw(st.integers(0, 20)) if refi else 0,
        row_bus_ps=draw(st.integers(0, 3)),
        to_write_ps=draw(st.integers(0, 5)),
        to_read_ps=draw(st.integers(0, 5)),
        ccd_ps=draw(st.integers(0, 6)),
        rtp_ps=draw(st.integers(0, 6)),
        wr_ps=draw(st.integers(0, 12)),
        read_queue=draw(st.sampled_from([0, 1, 5, 40])),
        write_queue=queue,
        drain_high=queue * 3 // 4,
        drain_low=queue // 4,
    )
    cache = None
    if draw(st.booleans()):
        block = draw(st.sampled_from([64, 256, 500]))
        cache = Cache(
            capacity_bytes=block * draw(st.integers(1, 6)) + draw(st.integers(0, 63)),
            block_bytes=block,
            as_per_byte=draw(st.sampled_from([1, 20_000, 333_333])),
            hit_latency_ps=draw(st.integers(0, 8)),
            slices=draw(st.sampled_from([1, 3])),
            interleave_bytes=draw(st.sampled_from([48, 256])),
            partitions=draw(st.sampled_from([1, 1, 2, 3])),
        )
    return Memory(name, "memory", dram, cache, latency_ps=draw(st.integers(0, 3)))


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    units = [Unit(f"unit{i}", "matrix", draw(st.integers(0, 5))) for i in range(draw(st.integers(1, 2)))]
    links = [
        Link(f"link{i}", "noc", draw(st.sampled_from([1, 9_999, 250_000])), draw(st.integers(0, 5)))
        for i in range(draw(st.integers(1, 3)))
    ]
    stores = [draw(memories(f"memory{i}")) for i in range(draw(st.integers(1, 2)))]
    windows = [
        Window(f"window{i}", "window", draw(st.sampled_from([100, 1000, 4000]))) for i in range(draw(st.integers(0, 2)))
    ]
    return Machine((*windows, *units, *links, *stores))


@st.composite
def programs(draw: st.DrawFn, machine: Machine, most: int = 25) -> Program:
    builder = ProgramBuilder(machine)
    regions = [builder.region(f"region{i}", REGION_BYTES) for i in range(3)]
    builder.gather_list(GATHER_OFFSETS)
    windows = [i for i, resource in enumerate(machine) if isinstance(resource, Window)]
    others = st.integers(len(windows), len(machine) - 1)
    routes = [
        builder.route(
            *(window for window in windows if draw(st.booleans())), *draw(st.lists(others, min_size=0, max_size=4))
        )
        for _ in range(draw(st.integers(1, 5)))
    ]
    for step in range(draw(st.integers(1, most))):
        nbytes, runs = draw(st.sampled_from([(1, 1), (64, 1), (257, 1), (3000, 1), (64, 2), (90, 5), (1000, 4)]))
        stride = draw(st.sampled_from([0, 16, 100, 257, 512]))
        gather = draw(st.integers(-1, len(GATHER_OFFSETS) - runs))
        last = max(GATHER_OFFSETS) if gather >= 0 else (runs - 1) * stride
        builder.step(
            draw(st.sampled_from(routes)),
            work_ps=draw(st.integers(1, 20)),
            nbytes=nbytes,
            runs=runs,
            stride=stride,
            gather=gather,
            region=draw(st.sampled_from(regions)),
            offset=draw(st.integers(0, REGION_BYTES - last - nbytes // runs)),
            write=draw(st.booleans()),
            priority=draw(st.integers(0, 2)),
            weight=draw(st.sampled_from([1, 1, 3])),
            room=draw(st.sampled_from([1, 1, 2, 9])),
            partition=draw(st.integers(0, 3)),
            after=draw(st.lists(st.integers(0, step - 1), max_size=3)) if step else (),
        )
    return builder.build()


BASES = st.lists(st.integers(0, 20_000), min_size=3, max_size=3)  # regions may overlap


def assert_same(one: Run, other: Run) -> None:
    np.testing.assert_array_equal(one.start_ps, other.start_ps)
    np.testing.assert_array_equal(one.finish_ps, other.finish_ps)
    np.testing.assert_array_equal(one.busy_ps, other.busy_ps)
    assert (one.begin_ps, one.end_ps, one.counters) == (other.begin_ps, other.end_ps, other.counters)


@given(st.data())
@EXAMPLES
def test_consecutive_runs_are_the_same(data: st.DataObject) -> None:
    machine = data.draw(machines())
    compiled, simpy = CompiledInterpreter(machine), SimpyInterpreter(machine)
    now = 0
    for _ in range(data.draw(st.integers(1, 3))):
        program, bases = data.draw(programs(machine)), data.draw(BASES)
        start = now + data.draw(st.sampled_from([0, 0, 13]))
        one = compiled.run(program, start, bases)
        assert_same(one, simpy.run(program, start, bases))
        now = one.end_ps


@given(st.data())
@EXAMPLES
def test_programs_in_flight_together_are_the_same(data: st.DataObject) -> None:
    machine = data.draw(machines())
    launches = []
    for index in range(data.draw(st.integers(2, 6))):
        is_program = data.draw(st.integers(0, 3)) > 0
        launches.append(
            Launch(
                f"launch{index}",
                stream=data.draw(st.sampled_from("abc")),
                after=tuple(data.draw(st.sets(st.integers(0, index - 1), max_size=2))) if index else (),
                launch_ps=data.draw(st.integers(0, 6)),
                program=data.draw(programs(machine, most=8)) if is_program else None,
                bases=data.draw(BASES) if is_program else (),
                duration_ps=None if is_program else data.draw(st.integers(0, 40)),
            )
        )
    sessions = [Session(machine, "compiled"), Session(machine, "simpy")]
    for repeat in range(2):
        compiled, simpy = (session.run(launches) for session in sessions)
        for one, other in zip(compiled, simpy, strict=True):
            assert (one.ready_ps, one.start_ps, one.end_ps) == (other.ready_ps, other.start_ps, other.end_ps)
            if one.run is not None and other.run is not None:
                assert_same(one.run, other.run)
        for session in sessions:
            session.skip(repeat * 17)


@given(st.data())
@EXAMPLES
def test_memory_alone_is_the_same(data: st.DataObject) -> None:
    spec = data.draw(memories())
    model, reference = MemoryModel(spec), ReferenceMemory(spec)
    t, total = 0, dict.fromkeys(vars(model.counters), 0)
    for _ in range(data.draw(st.integers(1, 60))):
        t += data.draw(st.integers(0, 30))
        runs, stride = data.draw(st.sampled_from([(1, 0), (1, 0), (3, 20), (5, 300)]))
        nbytes = runs * data.draw(st.integers(1, 1500 // runs))
        access = (t, data.draw(st.integers(0, 8000)), nbytes, data.draw(st.booleans()))
        head, done = reference.access(*access, runs=range(0, runs * stride or 1, stride or 1))
        found = model.access(*access, runs=runs, stride=stride)
        assert found == (head + spec.latency_ps, done + spec.latency_ps)
        for name, count in reference.counters.items():
            total[name] += count
    assert vars(model.counters) == total


@pytest.mark.parametrize(("seed", "channels", "hashed"), [*((i, 12, False) for i in range(4)), (4, 130, True)])
def test_channels_in_the_same_state_are_the_same(seed: int, channels: int, hashed: bool) -> None:
    # long transfers over many channels, of which the kernel moves on those together that are in the same state
    random = np.random.default_rng(seed)
    dram = Dram(channels, 64, 4, 256, 16, 2, cl_ps=9, rcd_ps=10, rp_ps=9, rc_ps=30, act_ps=4, refi_ps=800, rfc_ps=60,
                row_bus_ps=2, to_write_ps=3, to_read_ps=5, bank_groups=2, ccd_ps=3, rtp_ps=4, wr_ps=12, read_queue=32,
                write_queue=32, drain_high=24, drain_low=8, hashed=hashed)  # fmt: skip
    spec = Memory("memory", "memory", dram)
    model, reference = MemoryModel(spec), ReferenceMemory(spec)
    t = 0
    for _ in range(150):
        t += int(random.choice([0, 0, 40, 300]))
        address, nbytes = 64 * random.integers([17 * channels, 3 * channels], endpoint=True)
        access = (t, int(address), 64 + int(nbytes), bool(random.random() < 0.1))
        assert model.access(*access) == reference.access(*access)


def test_channels_in_the_same_state_have_the_same_turns_of_a_bank_group() -> None:
    # two banks of one group take turns, whose columns are further apart than its bursts; at last in one channel only
    dram = Dram(12, 64, 4, 256, 16, 2, cl_ps=9, rcd_ps=10, rp_ps=9, rc_ps=30, bank_groups=2, ccd_ps=5, read_queue=64)
    spec = Memory("memory", "memory", dram)
    model, reference = MemoryModel(spec), ReferenceMemory(spec)
    for turn in range(8):
        first = 0 if turn < 5 else 11
        access = (0, turn % 2 * 12 * 256 + turn // 2 * 12 * 64 + first * 64, (12 - first) * 64, False)
        assert model.access(*access) == reference.access(*access)


def test_a_state_that_is_used_again_remembers_no_rows() -> None:
    # channels 0 to 5 leave a state with rows of bank 0 when the last of them catch up; 6 to 8 get it and open such rows
    dram = Dram(12, 64, 4, 256, 16, 2, cl_ps=9, rcd_ps=10, rp_ps=9, rc_ps=30, read_queue=64)
    spec = Memory("memory", "memory", dram)
    model, reference = MemoryModel(spec), ReferenceMemory(spec)
    for local, first, last in (
        (0, 0, 5), (1024, 0, 5), (2048, 0, 5), (3072, 0, 2), (3072, 3, 5),
        (256, 6, 8), (0, 6, 8), (1024, 6, 8), (0, 6, 8),
    ):  # fmt: skip
        access = (0, local * 12 + first * 64, (last + 1 - first) * 64, False)
        assert model.access(*access) == reference.access(*access)


@pytest.mark.parametrize("order", ["column bank_group bank stack_id row", "bank_group stack_id column bank row"])
def test_bank_groups_and_stacks_share_a_bus_alike(order: str) -> None:
    random = np.random.default_rng(3)
    mapping = MappingSpec(order=("pseudo_channel", *order.split()))
    dram = tile_dram(dram_channels(load_memory_standard("hbm3"), mapping=mapping))
    assert dram.switch_ps > 0
    spec = Memory("memory", "memory", dram)
    model, reference = MemoryModel(spec), ReferenceMemory(spec)
    t = 0
    for _ in range(400):
        t += int(random.choice([0, 0, 0, 20_000, 400_000]))
        nbytes = 32 * int(random.choice([1, 1, 2, 40]))
        access = (t, 32 * int(random.integers(2**21)), nbytes, bool(random.random() < 0.2))
        assert model.access(*access) == reference.access(*access)


@pytest.mark.parametrize("interpreter", [CompiledInterpreter, SimpyInterpreter])
def test_reset_forgets_everything(interpreter: type[CompiledInterpreter] | type[SimpyInterpreter]) -> None:
    dram = Dram(2, 64, 2, 256, 32, 10, cl_ps=5, rcd_ps=7, rp_ps=9, to_read_ps=3)
    machine = Machine((Memory("memory", "memory", dram, Cache(512, 128, 100_000)), Link("link", "noc", 100)))
    builder = ProgramBuilder(machine)
    region = builder.region("data", 4096)
    for write in (True, False):
        builder.step(("memory", "link"), nbytes=1000, region=region, write=write)
    program, machine_run = builder.build(), interpreter(machine)
    first = machine_run.run(program, 0, [0])
    again = machine_run.run(program, first.end_ps, [0])
    assert again.counters != first.counters  # the cache was warm
    machine_run.reset()
    assert_same(machine_run.run(program, 0, [0]), first)
