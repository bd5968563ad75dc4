"""Does a program refuse what a machine could not run, in one sentence, and keep what it was given?"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from archsim.errors import InputError
from archsim.program import (
    MAX_PRIORITY,
    Cache,
    Dram,
    Link,
    Machine,
    Memory,
    Program,
    ProgramBuilder,
    Unit,
    attoseconds_per_byte,
    service_ps,
)

DRAM = Dram(channels=2, interleave_bytes=256, banks=4, row_bytes=1024, burst_bytes=32, burst_ps=1000)
MACHINE = Machine((Unit("mxu", "matrix"), Link("noc", "noc", 10**6), Memory("hbm", "memory", DRAM)))


@pytest.fixture
def builder() -> ProgramBuilder:
    return ProgramBuilder(MACHINE, "demo")


# --- machines -------------------------------------------------------------------------------------------------------


def test_a_machine_finds_its_resources_by_name() -> None:
    assert [MACHINE.index(resource.name) for resource in MACHINE] == [0, 1, 2]
    with pytest.raises(InputError, match=r"no resource is called 'mxv' \(did you mean 'mxu'\?\)"):
        MACHINE.index("mxv")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Machine((Unit("a", "x"), Unit("a", "y"))), "the resource name 'a' appears twice"),
        (lambda: Unit("a", "x", latency_ps=-1), "a: latency_ps is -1, but must be at least 0"),
        (lambda: Link("a", "x", as_per_byte=0), "a: as_per_byte is 0, but must be at least 1"),
        (lambda: replace(DRAM, channels=0), "dram: channels is 0"),
        (lambda: replace(DRAM, rc_ps=-1), "dram: rc_ps is -1"),
        (lambda: replace(DRAM, refi_ps=100, rfc_ps=100), "no time is left"),
        (lambda: Cache(100, 128, 1), "less than one block"),
    ],
)
def test_a_spec_refuses_impossible_numbers(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]


def test_rates_are_rounded_up_to_whole_picoseconds() -> None:
    assert attoseconds_per_byte(3.35e12) == 298_507
    assert service_ps(1, 1) == 1
    assert service_ps(1000, 10**6) == 1000
    assert service_ps(1000, 10**6 + 1) == 1001


# --- validation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"route": "mxu", "work_ps": 1, "after": [1]}, "step 1 waits for step 1, which is not before it"),
        ({"route": "mxu", "work_ps": 1, "after": [7]}, "step 1 waits for step 7, which is not before it"),
        ({"route": "mxu", "work_ps": 1, "after": [-1]}, "step 1 waits for step -1"),
        ({"route": ["mxu", 3], "work_ps": 1}, "a route visits resource 3, but the machine has 3"),
        ({"route": 9}, "step 1 takes a route that the program does not have"),
        ({"route": "mxu"}, "step 1 visits a unit but has no work_ps"),
        ({"route": "noc"}, "step 1 visits a link, a memory or a window but moves no bytes"),
        ({"route": "hbm", "nbytes": 64}, "step 1 visits a memory but has no region, hence no address"),
        ({"route": "hbm", "nbytes": 64, "region": 1}, "step 1 names a region that the program does not have"),
        ({"route": "hbm", "nbytes": 64, "region": 0, "offset": 4040}, "step 1 reaches outside its region"),
        ({"route": "hbm", "nbytes": 64, "region": 0, "offset": -1}, "step 1 reaches outside its region"),
        ({"route": "hbm", "nbytes": 64, "region": 0, "runs": 2, "stride": 4065}, "step 1 reaches outside its region"),
        ({"route": "hbm", "nbytes": 64, "region": 0, "runs": 2, "gather": 0}, "step 1 reaches outside its region"),
        ({"route": "hbm", "nbytes": 64, "region": 0, "runs": 2, "gather": 1}, "runs that are not in gather_offsets"),
        ({"route": "hbm", "nbytes": 64, "region": 0, "runs": 3}, "bytes that its runs do not divide"),
        ({"route": "hbm", "nbytes": 64, "region": 0, "runs": 0}, "step 1 has no run"),
        ({"route": "hbm", "nbytes": 64, "region": 0, "stride": -64}, "step 1 has a negative stride"),
        ({"route": "mxu", "work_ps": 1, "priority": MAX_PRIORITY + 1}, "step 1 has a priority outside 0..4095"),
        ({"route": "noc", "nbytes": 2**44}, "too many to time in 64-bit attoseconds"),
    ],
)
def test_a_program_refuses_steps_that_cannot_run(
    builder: ProgramBuilder, step: dict[str, object], message: str
) -> None:
    builder.region("weights", 4096)
    builder.gather_list([0, 4065])
    builder.join([])
    builder.step(**step)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message) as error:
        builder.build()
    assert str(error.value).count("\n") == 0
    assert str(error.value).startswith("program demo: ")


def test_names_are_checked_at_once(builder: ProgramBuilder) -> None:
    with pytest.raises(InputError, match="did you mean 'noc'"):
        builder.step("nok", nbytes=1)
    builder.region("weights", 4096)
    with pytest.raises(InputError, match="region 'weights' is declared twice"):
        builder.region("weights", 4096)
    with pytest.raises(InputError, match="region 'empty' needs at least one byte"):
        builder.region("empty", 0)


def test_marks_and_columns_are_checked(builder: ProgramBuilder) -> None:
    builder.step("mxu", work_ps=1)
    builder.mark(5)
    with pytest.raises(InputError, match="mark 5 is not one of its 1 steps"):
        builder.build()
    with pytest.raises(InputError, match=r"different lengths \(2, 3\)"):
        builder.steps(0, work_ps=[1, 2], nbytes=[1, 2, 3])
    with pytest.raises(InputError, match=r"different lengths \(none\)"):
        builder.steps(0, work_ps=1)


def test_columns_of_other_lengths_are_refused(builder: ProgramBuilder) -> None:
    builder.steps(builder.route("mxu"), work_ps=[1, 2])
    program = builder.build()
    with pytest.raises(InputError, match="column tag does not have one entry for each of 2 steps"):
        replace(program, tag=np.zeros(3))
    with pytest.raises(InputError, match="pred_start does not rise from 0"):
        replace(program, pred_start=np.array([0, 1, 0]))
    with pytest.raises(InputError, match="one entry more than the 2 steps"):
        replace(program, pred_start=np.array([0]))


# --- the builder ----------------------------------------------------------------------------------------------------


def predecessors(program: Program) -> list[list[int]]:
    return [program.preds_of(step).tolist() for step in range(len(program))]


def test_steps_and_step_say_the_same(builder: ProgramBuilder) -> None:
    other = ProgramBuilder(MACHINE, "demo")
    for each in (builder, other):
        each.region("weights", 4096)
    ids = builder.steps(
        builder.route("hbm", "noc"), nbytes=256, region=0, offset=[0, 256, 512], priority=[2, 1, 0], tag=7
    )
    builder.steps(builder.route("mxu"), work_ps=[10, 20], after=[[0, 1], [2, -1]])
    for offset, priority in ((0, 2), (256, 1), (512, 0)):
        other.step(("hbm", "noc"), nbytes=256, region=0, offset=offset, priority=priority, tag=7)
    other.step("mxu", work_ps=10, after=[0, 1])
    other.step("mxu", work_ps=20, after=[2])
    assert ids.tolist() == [0, 1, 2]
    one, two = builder.build(), other.build()
    assert one.describe() == two.describe()
    assert one.tag.tolist() == two.tag.tolist() == [7, 7, 7, 0, 0]


def test_predecessors_come_in_three_shapes(builder: ProgramBuilder) -> None:
    route = builder.route("mxu")
    builder.steps(route, work_ps=1, count=2)
    builder.steps(route, work_ps=1, after=[-1, 0, 3])  # one each; step 4 waits for step 3 of the same call
    builder.steps(route, work_ps=1, after=np.array([[0, -1, 1], [-1, -1, -1]]))
    builder.steps(route, work_ps=1, after=([0, 0, 3], [4, 5, 6]))
    assert predecessors(builder.build()) == [[], [], [], [0], [3], [0, 1], [], [], [4, 5, 6]]


def test_equal_routes_share_an_id(builder: ProgramBuilder) -> None:
    assert builder.route("noc", "mxu") == builder.route(1, 0) != builder.route("mxu", "noc")


def test_successors_are_the_transpose_of_predecessors(builder: ProgramBuilder) -> None:
    builder.steps(builder.route("mxu"), work_ps=1, after=[[-1, -1], [0, -1], [0, 1], [0, 2]])
    starts, ids = builder.build().successors
    assert [ids[a:b].tolist() for a, b in pairwise(starts)] == [[1, 2, 3], [2], [3], []]


def test_columns_are_read_only_copies(builder: ProgramBuilder) -> None:
    work = np.array([1, 2])
    builder.steps(builder.route("mxu"), work_ps=work)
    program = builder.build()
    work[0] = 9
    assert program.work_ps.tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        program.work_ps[0] = 9


def test_an_empty_program_can_be_built(builder: ProgramBuilder) -> None:
    assert builder.build().describe() == "program demo: 0 steps on 3 resources"


# --- addresses and description --------------------------------------------------------------------------------------


def test_addresses_are_base_plus_offset(builder: ProgramBuilder) -> None:
    for name in ("a", "b"):
        builder.region(name, 4096)
    builder.steps(builder.route("hbm"), nbytes=64, region=[0, 1, 1], offset=[0, 0, 128])
    builder.step("mxu", work_ps=1)
    program = builder.build()
    assert program.addresses([100, 1000]).tolist() == [100, 1000, 1128, 0]
    assert program.addresses({"b": 1000, "a": 100}).tolist() == [100, 1000, 1128, 0]
    for bases, message in [
        ([1], "1 base addresses were given for 2 regions"),
        ({"a": 1}, "the base address of region 'b' is missing"),
        ({"a": 1, "b": 1, "aa": 1}, r"no region is called 'aa' \(did you mean 'a'\?\)"),
        ([-1, 0], "region 'a' cannot lie at address -1"),
    ]:
        with pytest.raises(InputError, match=message):
            program.addresses(bases)  # type: ignore[arg-type]


def test_runs_are_listed(builder: ProgramBuilder) -> None:
    weights = builder.region("weights", 4096)
    pages = builder.gather_list([0, 1024, 512])
    builder.step("hbm", nbytes=256, region=weights, runs=4, stride=1000)
    builder.step("hbm", nbytes=256, region=weights, offset=64, runs=2, gather=pages + 1)
    program = builder.build()
    assert [program.runs_of(step).tolist() for step in (0, 1)] == [[0, 1000, 2000, 3000], [1024, 512]]
    assert "in 4 runs every 1000" in program.describe()


def test_a_long_listing_is_cut(builder: ProgramBuilder) -> None:
    builder.region("out", 64)
    builder.step(("noc", "hbm"), nbytes=64, region=0, write=True, priority=3)
    builder.steps(builder.route("mxu"), work_ps=5, count=9)
    assert builder.build().describe(limit=2).splitlines() == [
        "program demo: 10 steps on 3 resources",
        "region 0 out: 64 bytes",
        "     0   noc > hbm  64 bytes  write out+0  priority 3",
        "     1   mxu  5 ps",
        "... and 8 more steps",
    ]
