"""Results that are kept: the same to the bit, found by what they depend on, and never trusted when damaged."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archsim import simulate
from archsim.explore import Outcome, Store, Sweep, open_sweep, run_sweep
from archsim.explore.evaluate import Evaluator
from archsim.hardware import ChipSpec, load_chip
from archsim.mapping import MatmulShape, candidates, choose_tiling, make_target
from archsim.mapping.target import TIMELESS
from archsim.results import OpTable
from archsim.reuse import ResultCache, recall, reusing

DATA: dict[str, Any] = {
    "chip": "tpu-v3-core",
    "axes": {"run.ctx": [64, 96], "memory.capacity": ["16 GiB", "32 GiB"], "launch.latency": ["0 ns", "300 ns"]},
    "workloads": [{"workload": "deepseek-r1-distill-qwen-1.5b", "phase": "decode"}],
    "objectives": ["maximize tokens_per_s"],
}


class Inline(Executor):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def run(folder: Path, cache: Path | None) -> Outcome:
    return run_sweep(Sweep.of(DATA), Store(folder), Inline, in_flight=1, prune=False, cache=cache)


def metrics(folder: Path) -> list[dict[str, float]]:
    return [dict(record.metrics) for record in open_sweep(folder).done]


def test_a_sweep_with_reuse_equals_one_without_to_the_bit(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(tmp_path / "alone", None)
    first, second = run(tmp_path / "first", cache), run(tmp_path / "second", cache)
    assert 0.3 < first.hits / first.lookups < 1  # capacity changes no time; the context changes no product's tiling
    assert second.hits == second.lookups == 8  # whole steps, found by another run on disk
    assert metrics(tmp_path / "alone") == metrics(tmp_path / "first") == metrics(tmp_path / "second")
    assert len(metrics(tmp_path / "alone")) == 8


def test_a_recalled_step_is_the_whole_result() -> None:
    cache = ResultCache()
    arguments: dict[str, Any] = {"phase": "decode", "ctx": 64}
    columns = fields(OpTable)
    plain = simulate("tpu-v3-core", "deepseek-r1-distill-qwen-1.5b", **arguments)
    for _ in range(2):
        with reusing(cache):
            kept = simulate("tpu-v3-core", "deepseek-r1-distill-qwen-1.5b", **arguments)
        assert all(np.array_equal(getattr(kept.op_table, f.name), getattr(plain.op_table, f.name)) for f in columns)
        assert (kept.units, kept.timeline, kept.physical) == (plain.units, plain.timeline, plain.physical)
    assert cache.hits == 1


def digest(**overrides: str) -> str:
    chip = load_chip("custom-npu", {path.replace("__", "."): value for path, value in overrides.items()})
    return make_target(chip).digest


def test_the_digest_of_a_chip_is_of_what_times_depend_on() -> None:
    base = digest()
    same = {digest(memory__capacity="100 GB"), digest(scale_up__bandwidth="1 TB/s"), digest(physical__process="N3E")}
    assert same == {base}
    others = {
        digest(clock="1.4 GHz", peak="{}"), digest(core__vector__lanes="512"), digest(launch__latency="1 us"),
        digest(memory__bandwidth="5 TB/s"), digest(memory__interleave="512 B"), digest(noc__hop_latency="3 ns"),
        digest(physical__tdp="400 W"), digest(cache__capacity="32 MiB"),
        make_target(load_chip("custom-npu"), 500).digest,
    }  # fmt: skip
    assert base not in others
    assert len(others) == 9


def test_what_is_left_out_of_the_digest_is_still_a_field_of_a_chip() -> None:
    assert set(ChipSpec.model_fields) > TIMELESS


def test_candidates_of_a_product_are_known_by_their_programs() -> None:
    """A larger scratchpad that changes no program, and a larger cache that nothing leaves, need no new simulation.

    The caches are large enough for what waits to be written to be as much in both."""
    shape, cache, hits = MatmulShape((32,), 2560, 2048, "bf16", 2, 2, 2), ResultCache(), []
    for path, value in (("clock", "1.5 GHz"), ("core.scratchpad.capacity", "12 MiB"), ("cache.capacity", "192 MiB"),
                        ("core.vector.lanes", "512")):  # fmt: skip
        target = make_target(load_chip("custom-npu", {"cache.capacity": "128 MiB"} | {path: value}))
        before = cache.hits
        with reusing(cache):
            chosen = choose_tiling(target, shape)
        hits.append(cache.hits - before)
        assert chosen == candidates(make_target.__wrapped__(target.chip), shape)[0][0]
    assert hits[0] == hits[3] == 0
    assert hits[1] == hits[2] > 1


def test_torn_and_damaged_results_are_computed_again(tmp_path: Path) -> None:
    with reusing(ResultCache(tmp_path)):
        assert [recall("kind", text, lambda: {"x": 0.1 + 0.2}) for text in "abc"] == [{"x": 0.1 + 0.2}] * 3
    (journal,) = tmp_path.glob("*.results")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"nonsense\n\xff\n" + lines[0] + lines[1][:40] + b"xxxx" + lines[1][44:] + lines[2][:-5])
    cache = ResultCache(tmp_path)
    with reusing(cache):
        assert recall("kind", "a", lambda: pytest.fail("a was there")) == {"x": 0.1 + 0.2}
        assert [recall("kind", text, lambda: 2) for text in "bc"] == [2, 2]
    assert (cache.hits, cache.lookups) == (1, 3)


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = ResultCache(tmp_path / "file" / "folder")
    with reusing(cache):
        assert [recall("kind", "a", lambda: 1) for _ in range(2)] == [1, 1]
    assert cache.hits == 1


def test_a_failure_is_not_kept() -> None:
    def fails() -> int:
        raise ValueError

    with reusing(ResultCache()):
        with pytest.raises(ValueError):
            recall("kind", "a", fails)
        assert recall("kind", "a", lambda: 1) == 1


def test_a_technology_of_ones_own_is_known_by_its_content(tmp_path: Path) -> None:
    table = tmp_path / "mine.yaml"
    sweep = Sweep.of(DATA | {"axes": {"physical.technology": ["n7", str(table)], "physical.tdp": ["100 W"]}})
    hashes, keys = [], []
    for price in (20_000, 20_000, 25_000):
        table.write_text(f"base: n3\nwafer_usd: {price}\n")
        hashes.append(load_chip("custom-npu", {"physical.technology": str(table)}).content_hash)
        keys.append(Evaluator(sweep).key(sweep.space.point(1)))
    assert hashes[0] == hashes[1] != hashes[2]
    assert keys[0] == keys[1] != keys[2]
