"""What simulated points show of others: bounds between neighbours, losses that are seen, and fronts within a margin."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archsim.explore import Outcome, Store, Sweep, SweepView, evaluate, open_sweep, run_sweep
from archsim.explore.envelope import UNKNOWN, Envelope

pytestmark = pytest.mark.unit

EDGE: dict[str, Any] = {
    "chip": "edge-npu",
    "axes": {"core.scratchpad.capacity": ["1 MiB", "2 MiB", "4 MiB"]},
    "workloads": [{"workload": "deepseek-r1-distill-qwen-1.5b", "phase": "decode", "ctx": 64}],
    "objectives": ["maximize tokens_per_s", "minimize area"],
}
LARGE: dict[str, Any] = {
    "chip": "custom-npu",
    "axes": {
        "core.matrix.count": [1, 4],
        "core.vector.lanes": [256, 512, 1024, 2048],
        "memory.bandwidth": ["2 TB/s", "4 TB/s", "6 TB/s"],
        "cache.capacity": ["16 MiB", "32 MiB", "64 MiB", "128 MiB"],
        "core.scratchpad.capacity": ["2 MiB", "8 MiB"],
    },
    "workloads": [
        {"workload": "llama-3.1-8b", "phase": "decode", "ctx": 512},
        {"workload": "llama-3.1-8b", "phase": "prefill", "seq": 256},
    ],
    "objectives": ["maximize decode.tokens_per_s", "minimize prefill.ttft", "minimize area"],
    "margin": 0.02,
}


@pytest.fixture(autouse=True)
def _one_point_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where each takes long, so that the next is chosen by what the last showed."""
    monkeypatch.setattr("archsim.explore.runner.CHUNK_S", 0.0)


class Inline(Executor):
    """Runs what it is given at once, in this process."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def run(data: dict[str, Any], folder: Path, **options: Any) -> Outcome:
    return run_sweep(Sweep.of(data), Store(folder), Inline, **{"in_flight": 3} | options)


def values(view: SweepView) -> dict[int, Any]:
    """By number, the objectives of simulated points, to be made large."""
    goals = view.sweep.objectives
    return {r.number: np.array([o.sign * r.metrics[o.key] for o in goals]) for r in view.records if r.metrics}


def assert_covered(whole: dict[int, Any], few: dict[int, Any], margin: Any) -> None:
    """Every point of `whole` is matched by one of `few` within the margin of each objective."""
    for number, value in whole.items():
        least = value - margin * np.abs(value) - 1e-9 * np.abs(value)
        assert any((kept >= least).all() for kept in few.values()), number


def grid(lanes: list[int], caches: list[int]) -> list[dict[str, Any]]:
    return [{"core.vector.lanes": a, "cache.capacity": f"{b} MiB", "cores": 4} for a in lanes for b in caches]


def test_a_point_lies_between_a_poorer_and_a_richer_one() -> None:
    points = grid([1, 2, 3], [16, 32])
    envelope = Envelope(points, np.full((6, 1), 10.0), np.array([True]))
    assert envelope.resources == ["core.vector.lanes", "cache.capacity"]
    envelope.add(70, points[5], np.array([8.0]))  # 3 lanes, 32 MiB
    envelope.add(71, points[0], np.array([7.5]))  # 1 lane, 16 MiB
    assert (envelope.most.tolist(), envelope.least.tolist()) == ([[7.5]] + [[8.0]] * 5, [[7.5]] * 5 + [[8.0]])
    assert envelope.unknown()[[0, 2]] == pytest.approx([0.0, 0.5 / 8 / UNKNOWN])
    assert (envelope.sources(2), envelope.losses(["speed"])) == ([70], {})
    envelope.add(72, points[1] | {"cores": 5}, np.array([1.0]))  # another kind of chip tells nothing
    assert envelope.most[1] == 8.0


def test_more_that_costs_is_allowed_for_by_what_was_seen() -> None:
    points = grid([1, 2, 3], [16, 32])
    envelope = Envelope(points, np.full((6, 2), 10.0), np.array([True, False]))
    envelope.add(0, points[5], np.array([8.0, -3.0]))  # 3 lanes, 32 MiB
    assert envelope.most[3].tolist() == [8.0, 10.0]
    envelope.add(1, points[4], np.array([8.4, -2.0]))  # 5 % better with half the cache
    assert envelope.losses(["speed", "size"]) == {"cache.capacity": {"speed": pytest.approx(0.05)}}
    assert envelope.most[:, 0] == pytest.approx([8.4, 8.0, 8.4, 8.0, 8.4, 8.0])
    envelope.add(2, points[0], np.array([9.2, -1.0]))  # 15 % better with less of both, of which 5 % are known
    losses = envelope.losses(["speed", "size"])
    assert losses["cache.capacity"]["speed"] == pytest.approx(0.1)
    assert envelope.most[0, 0] == pytest.approx(9.2)
    assert envelope.most[2, 0] == pytest.approx(min(8.0 * 1.15, 8.4 * (1 + losses["core.vector.lanes"]["speed"])))
    assert envelope.bounded(np.array([0, 3])).tolist() == [True, True]


def test_the_front_of_an_enumerated_space_is_found_within_the_margin(tmp_path: Path) -> None:
    run(EDGE, tmp_path / "all", prune=False, cache=tmp_path / "cache")
    outcome = run(EDGE, tmp_path / "few", margin=0.02, in_flight=1, cache=tmp_path / "cache")
    whole, few = values(open_sweep(tmp_path / "all")), values(open_sweep(tmp_path / "few"))
    assert outcome.done == len(whole) == 3
    assert len(few) == outcome.counts["done"] == 2
    assert all((whole[number] == value).all() for number, value in few.items())
    assert_covered(whole, few, np.array([0.02, 0.0]))


def formula(self: Any, point: dict[str, Any], **_: Any) -> Iterator[tuple[dict[str, float], tuple[str, ...]]]:
    """Rising in every resource, less and less, but for a scratchpad that takes up to 0.4 % to fill."""
    of = {path: float(str(value).split()[0]) for path, value in point.items()}
    little = 16 / of["cache.capacity"]
    rate = 100 * of["memory.bandwidth"] * (1 - 0.05 * little) * (1 - 5e-4 * of["core.scratchpad.capacity"])
    time = 1 + 8 / of["core.matrix.count"] + 0.1 * 256 / of["core.vector.lanes"] + 0.05 * little
    known = self.chip_metrics(self.chip(point), ("area",))
    yield {"decode.tokens_per_s": rate, "prefill.ttft": time} | known, ()


def test_a_sweep_of_resources_simulates_few_and_goes_on_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate.Evaluator, "stages", formula)
    run(LARGE, tmp_path / "all", prune=False)

    def stop(outcome: Outcome) -> None:
        if outcome.counts["done"] == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(LARGE, tmp_path / "few", on_progress=stop)
    assert {record.status for record in open_sweep(tmp_path / "few").records} == {"done"}
    outcome = run(LARGE, tmp_path / "few")
    assert outcome.done == outcome.total == 192
    whole, view = values(open_sweep(tmp_path / "all")), open_sweep(tmp_path / "few")
    few = values(view)
    assert len(few) < 40
    assert_covered(whole, few, np.array([0.02, 0.02, 0.0]))
    assert outcome.losses["core.scratchpad.capacity"]["decode.tokens_per_s"] == pytest.approx(0.003, rel=0.4)
    for record in view.records:
        if record.status == "pruned":
            best, *richer = map(int, re.findall(r"#(\d+)", record.why))
            assert richer
            assert few.keys() >= {best, *richer}
            assert few[best][2] >= whole[record.number][2]
