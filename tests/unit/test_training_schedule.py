"""Schedules of micro-batches over pipeline stages: every pass once, in a possible order, with the known bubbles."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from archsim.pipeline.run import LayerTimes, PipelineRun, run_pipeline
from archsim.pipeline.schedule import Chunk, Schedule, make_schedule

pytestmark = pytest.mark.unit

F, B = 100, 200  # of a whole stage; half of the backward pass is for weights


def play(schedule: Schedule, *, layers: int = 1, virtual: int = 1, **options: int | bool) -> PipelineRun:
    part = LayerTimes(F // virtual // layers, B // virtual // layers, B // 2 // virtual // layers, (F + B) // virtual)
    held = {chunk: [part] * layers for rank in range(len(schedule.orders)) for chunk in schedule.chunks_of(rank)}
    settings = {"send_ps": 0, "overlap": True} | options
    return run_pipeline(schedule, held, update_ps=[0] * len(schedule.orders), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "virtual", "bubble"),
    [
        ("gpipe", 1, 3 * (F + B)),
        ("1f1b", 1, 3 * (F + B)),  # (p - 1) (F + B)
        ("1f1b", 2, 3 * (F + B) // 2),  # over the chunks of a stage
        ("zero-bubble", 1, 3 * (F + B // 2 - B // 2)),  # (p - 1) (F + I - W), a third
    ],
)
def test_the_bubble_is_that_of_the_paper(name: str, virtual: int, bubble: int) -> None:
    ranks, count = 4, 8
    run = play(make_schedule(name, ranks, count, virtual), virtual=virtual)
    assert run.time_ps == count * (F + B) + bubble
    assert run.busy_ps == [count * (F + B)] * ranks


def test_activations_wait_as_long_as_the_schedule_says() -> None:
    assert play(make_schedule("gpipe", 4, 8)).alive == [8, 8, 8, 8]
    assert play(make_schedule("1f1b", 4, 8)).alive == [4, 3, 2, 1]
    assert play(make_schedule("dualpipe", 8, 20)).alive == [9] * 8  # pp + 1: DeepSeek-V3 technical report, table 2


def test_dualpipe_has_half_the_bubble_and_every_rank_works_alike() -> None:
    ranks, count = 8, 20
    run = play(make_schedule("dualpipe", ranks, count))
    # (pp / 2 - 1) (F&B + B - 3 W): DeepSeek-V3 technical report, table 2
    assert run.time_ps == count * (F + B) + (ranks // 2 - 1) * (F + B + B - 3 * (B // 2))
    assert len(set(run.busy_ps)) == 1


@pytest.mark.parametrize(
    ("name", "ranks", "count", "virtual"),
    [("gpipe", 3, 5, 1), ("1f1b", 5, 3, 1), ("1f1b", 4, 8, 3), ("zero-bubble", 3, 7, 1), ("dualpipe", 6, 14, 1)],
)
def test_every_micro_batch_passes_every_stage_once(name: str, ranks: int, count: int, virtual: int) -> None:
    schedule = make_schedule(name, ranks, count, virtual)
    copies = 2 if name == "dualpipe" else 1
    wanted = {
        (Chunk(copy, stage), m)
        for copy in range(copies) for stage in range(schedule.stages) for m in range(count // copies)
    }  # fmt: skip
    actions = [action for order in schedule.orders for action in order]
    assert sorted(map(repr, (a.forward for a in actions if a.forward))) == sorted(map(repr, wanted))
    for kinds in (("B", "FB", "I"), ("B", "FB", "W")):
        assert sorted(repr(a.backward) for a in actions if a.backward and a.kind in kinds) == sorted(map(repr, wanted))
    for rank, order in enumerate(schedule.orders):
        assert all(schedule.rank_of(w[0]) == rank for a in order for w in (a.forward, a.backward) if w)


def with_network(gather: int, reduce: int, count: int, **options: bool) -> int:
    schedule = make_schedule("1f1b", 1, count)
    held: dict[Chunk, Sequence[LayerTimes]] = {Chunk(0, 0): [LayerTimes(F, B, B // 2, F + B, gather, reduce)] * 4}
    return run_pipeline(schedule, held, send_ps=0, update_ps=[7], **options).time_ps  # type: ignore[arg-type]


def test_gradients_travel_beside_the_backward_pass() -> None:
    passes = 2 * 4 * (F + B)
    assert with_network(0, 50, 2, overlap=True) == passes + 50 + 7  # only those of the first layer are left over
    assert with_network(0, 50, 2, overlap=False) == passes + 4 * 50 + 7
    assert with_network(0, 1000, 2, overlap=True) == passes - 3 * B + 4 * 1000 + 7  # the links bound the end


def test_sharded_weights_are_gathered_one_layer_ahead() -> None:
    hidden = with_network(60, 0, 3, overlap=True, sharded=True)
    exposed = with_network(60, 0, 3, overlap=False, sharded=True)
    passes = 3 * 4 * (F + B)
    assert exposed == passes + 3 * 8 * 60 + 7
    assert hidden == passes + 6 * 60 + 7  # the first layer of every pass has nothing to hide behind
