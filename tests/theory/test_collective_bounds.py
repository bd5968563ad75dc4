"""Collectives: bytes are conserved, no link is beaten, one chip may stand for all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsim.engine import SimpyInterpreter
from archsim.hardware import LinkSpec, SystemSpec, load_chip, load_system
from archsim.kernels import CompiledInterpreter
from archsim.network import Collective, Fabric, Group, build, candidates, foldable, lower_schedule, run_collective
from archsim.network.lowering import _Walk
from archsim.network.request import Kind
from archsim.network.run import floor_ps

pytestmark = pytest.mark.theory

SHAPES = [
    ("switch", (8,)),
    ("full_mesh", (8,)),
    ("ring", (8,)),
    ("torus", (4, 4)),
    ("torus", (4, 2, 2)),
    ("fat_tree", (16,)),
    ("switch", (6,)),
    ("torus", (3, 5)),
]
SYMMETRIC: list[Kind] = ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "dispatch", "combine"]


def fabric_of(topology: str, dims: tuple[int, ...], nodes: int = 1) -> Fabric:
    per_node = int(np.prod(dims))
    up = LinkSpec(
        name="up",
        bandwidth=200e9,
        latency=5e-7,
        topology=topology,
        domain=per_node,
        efficiency=0.8,
        oversubscription=1.5,
    )
    out = LinkSpec(name="out", bandwidth=50e9, latency=3e-6, topology="switch", domain=1024, efficiency=0.9)
    system = SystemSpec(
        name="t", title="", chip="custom-npu", chips=per_node * nodes, chips_per_node=per_node,
        dims=dims if topology == "torus" else (), scale_up=up, scale_out=out,
    )  # fmt: skip
    return Fabric.of(system, load_chip("custom-npu"))


cases = st.tuples(
    st.sampled_from(SHAPES), st.sampled_from([1, 2, 3, 4]), st.sampled_from(SYMMETRIC), st.integers(1, 2**26)
)


@settings(max_examples=15, deadline=None)
@given(cases)
def test_folded_equals_unfolded(case: tuple[tuple[str, tuple[int, ...]], int, Kind, int]) -> None:
    """One chip that stands for all takes exactly as long as all chips."""
    (topology, dims), nodes, kind, nbytes = case
    fabric = fabric_of(topology, dims, nodes)
    request = Collective(kind, nbytes, Group(fabric.chips))
    for choice in candidates(fabric, request):
        schedule = build(fabric, request, choice)
        if foldable(schedule):
            one, every = (lower_schedule(schedule, folded=folded) for folded in (True, False))
            times = [CompiledInterpreter(program.machine).run(program) for program in (one, every)]
            assert times[0].elapsed_ps == times[1].elapsed_ps
            finish = times[1].finish_ps.reshape(len(schedule.messages), fabric.chips)
            assert (finish == times[0].finish_ps[:, None]).all()


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "all_to_all"])
def test_folded_equals_unfolded_at_64_chips(kind: Kind) -> None:
    for name in ("tpu-v4-x64", "h800-x32"):
        system = load_system(name)
        fabric = Fabric.of(system, load_chip(system.chip))
        request = Collective(kind, 2**24, Group(fabric.chips))
        assert run_collective(fabric, request).time_ps == run_collective(fabric, request, fold=False).time_ps


@settings(max_examples=15, deadline=None)
@given(cases)
def test_bytes_are_conserved_and_no_link_is_beaten(case: tuple[tuple[str, tuple[int, ...]], int, Kind, int]) -> None:
    (topology, dims), nodes, kind, nbytes = case
    fabric = fabric_of(topology, dims, nodes)
    request = Collective(kind, nbytes, Group(fabric.chips))
    rounds = 2 if kind == "all_reduce" else 1  # a chip has to send, and receive, so often all blocks but its own
    for choice in candidates(fabric, request):
        schedule = build(fabric, request, choice)
        sent = sum(message.payload for message in schedule.messages)
        assert sent >= rounds * (fabric.chips - 1) / fabric.chips * nbytes * (1 - 1e-9)
        program = lower_schedule(schedule, folded=False)
        run = CompiledInterpreter(program.machine).run(program)
        assert run.elapsed_ps >= run.busy_ps.max()
        assert (run.finish_ps > 0).all()  # every message arrived


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter"])
@pytest.mark.parametrize(("chips", "nodes"), [(3, 1), (6, 1), (7, 1), (12, 1), (8, 3), (3, 5), (2, 18)])
def test_every_chip_hears_of_every_other(kind: Kind, chips: int, nodes: int) -> None:
    """What a chip receives was sent after what its sender had received: by these waits all contributions get around."""
    fabric = fabric_of("switch", (chips,), nodes)
    algorithms = ["ring", "hierarchical"] if nodes > 1 else ["ring", "halving_doubling"]
    algorithms += ["tree"] if nodes == 1 and kind == "all_reduce" else []
    for algorithm in algorithms:
        schedule = build(fabric, Collective(kind, 2**20, Group(fabric.chips)), (algorithm, None, None))  # type: ignore[arg-type]
        program, walk = lower_schedule(schedule, folded=False), _Walk(schedule.parts, fabric.chips)
        heard = [{chip} for chip in range(fabric.chips)]
        carries: list[set[int]] = []
        for message in schedule.messages:
            for chip, to in ((chip, walk.to(message.moves)[chip]) for chip in walk.senders(message.senders)):
                carries.append({int(chip)}.union(*(carries[p] for p in program.preds_of(len(carries)))))
                heard[to] |= carries[-1]
        assert all(len(each) == fabric.chips for each in heard), algorithm


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["broadcast", "all_reduce", "send_recv"]), st.sampled_from([2, 4, 8]), st.integers(1, 2**22))
def test_the_readable_interpreter_agrees(kind: Kind, chips: int, nbytes: int) -> None:
    fabric = fabric_of("switch", (chips,))
    request = Collective(kind, nbytes, Group(chips), "tree" if kind == "all_reduce" else "auto")
    for choice in candidates(fabric, request):
        program = lower_schedule(build(fabric, request, choice), folded=False)
        fast, slow = (each(program.machine).run(program) for each in (CompiledInterpreter, SimpyInterpreter))
        assert (fast.finish_ps == slow.finish_ps).all()


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(SYMMETRIC), st.integers(1, 2**25), st.integers(1, 2**25))
def test_more_bytes_never_take_less_time(kind: Kind, small: int, more: int) -> None:
    """With the same algorithm and the same chunks."""
    fabric = fabric_of("switch", (8,), 2)
    for algorithm in (
        ("ring", "hierarchical") if kind in ("all_reduce", "all_gather", "reduce_scatter") else ("direct",)
    ):
        few, many = (
            run_collective(fabric, Collective(kind, n, Group(16), algorithm, chunks=2)).time_ps  # type: ignore[arg-type]
            for n in (small, small + more)
        )
        assert few <= many


@settings(max_examples=12, deadline=None)
@given(cases)
def test_no_schedule_beats_its_floor(case: tuple[tuple[str, tuple[int, ...]], int, Kind, int]) -> None:
    (topology, dims), nodes, kind, nbytes = case
    fabric = fabric_of(topology, dims, nodes)
    request = Collective(kind, nbytes, Group(fabric.chips))
    for choice in candidates(fabric, request):
        schedule = build(fabric, request, choice)
        program = lower_schedule(schedule, folded=foldable(schedule))
        elapsed_ps = CompiledInterpreter(program.machine).run(program).elapsed_ps
        assert floor_ps(schedule) <= elapsed_ps + schedule.launch_s * 1e12
