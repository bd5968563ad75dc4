"""Does the chip issue launches as its streams say, on either engine?"""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

from archsim.engine import Arbiter, CompiledInterpreter, Launch, LaunchRecord, Session, SimpyInterpreter
from archsim.engine.reference import Request, Service
from archsim.errors import InputError
from archsim.kernels import MemoryModel
from archsim.program import Carry, Dram, Link, Machine, Memory, Program, ProgramBuilder, Unit

MACHINE = Machine((Unit("mxu", "matrix"), Unit("vec", "vector"), Link("noc", "noc", 10**6)))


def work(on: str, *works_ps: int) -> Program:
    """A program of steps on one unit, each after the one before."""
    builder = ProgramBuilder(MACHINE, on)
    for step, work_ps in enumerate(works_ps):
        builder.step(on, work_ps=work_ps, after=[step - 1] if step else [])
    return builder.build()


@pytest.fixture(params=["compiled", "simpy"])
def session(request: pytest.FixtureRequest) -> Session:
    return Session(MACHINE, request.param)


def times(records: tuple[LaunchRecord, ...]) -> list[tuple[int, int, int]]:
    return [(record.ready_ps, record.start_ps, record.end_ps) for record in records]


def test_a_chip_that_nobody_needs_gives_its_memory_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[CompiledInterpreter]] = []

    def make(machine: Machine) -> CompiledInterpreter:
        interpreter = CompiledInterpreter(machine)
        made.append(weakref.ref(interpreter))
        return interpreter

    monkeypatch.setattr("archsim.engine.compiled.CompiledInterpreter", make)
    gc.disable()
    try:
        session = Session(MACHINE)
        session.run([Launch("a", "main", program=work("mxu", 100))])
        assert made[0]() is not None
        del session
        assert made[0]() is None
    finally:
        gc.enable()


def test_a_stream_issues_in_order_with_a_gap_before_each(session: Session) -> None:
    records = session.run(
        [
            Launch("a", "main", launch_ps=50, program=work("mxu", 100)),
            Launch("b", "main", launch_ps=50, program=work("vec", 100)),
        ]
    )
    assert times(records) == [(0, 50, 150), (150, 200, 300)]


def test_the_start_up_belongs_to_the_kernel_and_precedes_its_first_step(session: Session) -> None:
    (record,) = session.run([Launch("a", "main", launch_ps=50, startup_ps=30, program=work("mxu", 100))])
    assert times((record,)) == [(0, 50, 180)]
    assert record.run is not None
    assert record.run.begin_ps == 80


def test_what_a_program_leaves_out_is_added_up_to_a_limit(session: Session) -> None:
    """Three more steps like the second; a neighbour on the unit delays the second, and not what is left out."""
    sampled = replace(work("mxu", 100, 100), carry=Carry(np.array([0, 1, 2]), np.array([0, 1]), np.array([-3.0, 3.0])))
    (alone,) = session.run([Launch("a", "one", program=sampled)])
    assert alone.end_ps == 200 + 300
    start = alone.end_ps
    neighbour = Launch("b", "two", launch_ps=50, program=work("mxu", 1000))
    for most, left_out in ((None, 3 * 1100), (300, 300)):
        crowded, _ = session.run([Launch("a", "one", program=sampled, most_carried_ps=most), neighbour])
        assert crowded.end_ps - start == 1200 + left_out
        start = session.now_ps


def test_a_launch_takes_as_long_as_one_before_it(session: Session) -> None:
    first = Launch("a", "main", launch_ps=5, startup_ps=7, program=work("mxu", 100))
    again = Launch("b", "main", launch_ps=20, startup_ps=7, like=0)
    one, other = session.run([first, again])
    assert other.end_ps - other.start_ps == one.end_ps - one.start_ps == 107
    assert other.start_ps == one.end_ps + 20
    assert other.run is None


def test_streams_overlap(session: Session) -> None:
    records = session.run(
        [
            Launch("a", "one", program=work("mxu", 100)),
            Launch("b", "two", program=work("vec", 70)),
        ]
    )
    assert times(records) == [(0, 0, 100), (0, 0, 70)]


def test_streams_meet_at_a_shared_unit(session: Session) -> None:
    records = session.run(
        [
            Launch("a", "one", program=work("mxu", 100, 100)),
            Launch("b", "two", launch_ps=30, program=work("mxu", 10, 10)),
        ]
    )
    # b waits behind a's first step; at 100 its turn comes before a's second, which arrives only then,
    # and b's second waits for that.
    assert times(records) == [(0, 0, 210), (0, 30, 220)]


def test_ties_between_launches_go_to_the_earlier_one(session: Session) -> None:
    records = session.run(
        [
            Launch("a", "one", program=work("mxu", 10)),
            Launch("b", "two", program=work("mxu", 10)),
            Launch("c", "three", program=work("mxu", 10)),
        ]
    )
    assert [record.end_ps for record in records] == [10, 20, 30]


def test_a_collective_runs_beside_compute_and_is_waited_for(session: Session) -> None:
    records = session.run(
        [
            Launch("matmul", "main", program=work("mxu", 100)),
            Launch("all-reduce", "comm", after=(0,), launch_ps=5, duration_ps=300),
            Launch("other", "main", program=work("mxu", 100)),
            Launch("norm", "main", after=(1,), program=work("vec", 10)),
        ]
    )
    assert times(records) == [(0, 0, 100), (100, 105, 405), (100, 100, 200), (405, 405, 415)]
    assert records[1].run is None


def test_time_and_state_go_on_between_runs(session: Session) -> None:
    launches = [Launch("a", "main", program=work("mxu", 100))]
    session.run(launches)
    assert session.now_ps == 100
    session.skip(0)
    session.skip(900)
    assert session.now_ps == 1000
    assert times(session.run(launches)) == [(1000, 1000, 1100)]
    assert session.run([]) == ()


def test_a_run_reports_on_its_own_program(session: Session) -> None:
    first, second = session.run(
        [Launch("a", "one", program=work("mxu", 30, 40)), Launch("b", "two", program=work("vec", 100))]
    )
    assert first.run is not None
    assert second.run is not None
    assert first.run.busy_ps.tolist() == [70, 0, 0]
    assert second.run.busy_ps.tolist() == [0, 100, 0]
    assert (first.run.begin_ps, first.run.end_ps, first.run.elapsed_ps) == (0, 70, 70)


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        (Launch("x", "main"), "needs a program, a duration, or one like which it is"),
        (Launch("x", "main", duration_ps=1, program=work("mxu", 1)), "needs a program, a duration, or one like which"),
        (Launch("x", "main", like=1), "is like launch 1, which is not before it in its stream"),
        (Launch("x", "side", like=0), "is like launch 0, which is not before it in its stream"),
        (Launch("x", "main", duration_ps=-1), "has a negative time"),
        (Launch("x", "main", duration_ps=1, launch_ps=-1), "has a negative time"),
        (Launch("x", "main", duration_ps=1, after=(1,)), "waits for launch 1, which is not before it"),
    ],
)
def test_impossible_launches_are_refused(session: Session, launch: Launch, message: str) -> None:
    with pytest.raises(InputError, match=rf"launch 1 \(x\) {message}"):
        session.run([Launch("a", "main", duration_ps=1), launch])


def test_a_program_that_cannot_be_launched_is_an_input_error(session: Session) -> None:
    other = ProgramBuilder(Machine((Unit("mxu", "matrix"),)))
    other.step("mxu", work_ps=1)
    with pytest.raises(InputError, match="it was written for another machine"):
        session.run([Launch("a", "main", program=other.build())])


def test_time_does_not_run_backwards(session: Session) -> None:
    with pytest.raises(InputError, match="cannot be skipped"):
        session.skip(-1)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(InputError, match="'fast' is neither 'compiled' nor 'simpy'"):
        Session(MACHINE, "fast")


@pytest.mark.parametrize("interpreter", [CompiledInterpreter, SimpyInterpreter])
def test_an_interpreter_refuses_what_it_cannot_run(
    interpreter: type[CompiledInterpreter] | type[SimpyInterpreter],
) -> None:
    machine = interpreter(MACHINE)
    with pytest.raises(InputError, match="it was written for another machine"):
        interpreter(Machine((Unit("mxu", "matrix"),))).run(work("mxu", 1))
    with pytest.raises(InputError, match="it has no steps"):
        machine.run(work("mxu"))
    machine.run(work("mxu", 10), 5)
    with pytest.raises(InputError, match="it starts at 14 ps, but the machine is at 15 ps already"):
        machine.run(work("mxu", 10), 14)


def test_orders_in_flight_are_unique() -> None:
    machine = CompiledInterpreter(MACHINE)
    machine.submit(work("mxu", 10), 0, order=3)
    with pytest.raises(InputError, match="order 3 is taken"):
        machine.submit(work("mxu", 10), 0, order=3)
    with pytest.raises(InputError, match="another program is still under way"):
        machine.run(work("mxu", 10))


def test_a_user_adds_a_unit_to_the_simpy_engine() -> None:
    class Throttled(Arbiter):
        """A unit that needs as long a rest after each step as the step took."""

        free_ps = 0

        def serve(self, request: Request) -> Service:
            start = max(int(self.env.now), self.free_ps)
            done = start + request.work_ps
            self.free_ps = done + request.work_ps
            return Service(start, start, done, request.work_ps)

    run = SimpyInterpreter(MACHINE, models={"mxu": Throttled}).run(work("mxu", 10, 10))
    assert run.finish_ps.tolist() == [10, 30]
    with pytest.raises(InputError, match="no resource is called 'mxx'"):
        SimpyInterpreter(MACHINE, models={"mxx": Throttled})


def test_a_memory_refuses_impossible_accesses() -> None:
    model = MemoryModel(Memory("hbm", "memory", Dram(1, 256, 4, 1024, 32, 1000)))
    for access, what in [((-1, 0, 64), "time"), ((0, -1, 64), "address"), ((0, 0, 0), "size")]:
        with pytest.raises(InputError, match=f"hbm: the {what} of an access must be at least"):
            model.access(*access)
    model.access(0, 0, 64)
    model.reset()
    assert model.counters.bytes_read == 0
