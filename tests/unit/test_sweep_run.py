"""Running sweeps: stores that survive kills, pruning that loses nothing, points that fail, workers that die."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from archsim.cli.main import cli
from archsim.errors import InputError
from archsim.explore import Store, Sweep, executors, open_sweep, run_sweep
from archsim.explore.bounds import bound_points
from archsim.explore.evaluate import Evaluator
from archsim.explore.figures import FIGURES
from archsim.explore.preview import preview
from archsim.explore.store import Journal, Record

pytestmark = pytest.mark.unit

DATA: dict[str, Any] = {
    "title": "a small sweep",
    "chip": "custom-npu",
    "axes": {
        "core.matrix.rows": [64, 128],
        "core.vector.lanes": [256, 1024],
        "memory.bandwidth": ["2 TB/s", "4 TB/s", "6 TB/s"],
    },
    "workloads": [
        {"workload": "llama-3.1-8b", "phase": "decode", "batch": 8, "ctx": 512},
        {"workload": "llama-3.1-8b", "phase": "prefill", "seq": 256},
    ],
    "objectives": ["maximize decode.tokens_per_s", "minimize prefill.ttft", "minimize peak_flops"],
    "fidelity": "roofline",
}


class Inline(Executor):
    """Runs what it is given at once, in this process."""

    def __init__(self, dies_on: Callable[[list[int]], bool] = lambda numbers: False) -> None:
        self.dies_on = dies_on

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if args and self.dies_on(args[-1]):
            future.set_exception(BrokenExecutor("a worker died"))
        else:
            future.set_result(fn(*args, **kwargs))
        return future


def run(data: dict[str, Any], folder: Path, **options: Any) -> Any:
    options = {"executor": Inline, "in_flight": 2} | options
    return run_sweep(Sweep.of(data), Store(folder), **options)


def metrics(folder: Path) -> dict[int, dict[str, float]]:
    return {record.number: dict(record.metrics) for record in open_sweep(folder).records if record.metrics}


def test_a_second_run_finds_everything_done(tmp_path: Path) -> None:
    first, second = run(DATA, tmp_path), run(DATA, tmp_path)
    assert sum(first.counts.values()) == first.total == 12
    assert (second.reused, dict(second.counts)) == (12, {})
    assert len(open_sweep(tmp_path).records) == 12


def test_shards_together_are_the_whole_and_a_limit_cuts_it(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(DATA, whole, prune=False)
    counts = [run(DATA, parts, prune=False, shard=(i, 3)).total for i in (1, 2, 3)]
    assert counts == [4, 4, 4]
    assert metrics(whole) == metrics(parts)
    assert run(DATA, tmp_path / "few", limit=5).total == 5


def test_processes_give_the_same_numbers_as_one(tmp_path: Path) -> None:
    run(DATA, tmp_path / "inline", prune=False)
    run(DATA, tmp_path / "pool", prune=False, executor=executors.local(2))
    assert metrics(tmp_path / "inline") == metrics(tmp_path / "pool")


def test_no_simulated_point_is_better_than_its_bound() -> None:
    sweep = Sweep.of(DATA | {"fidelity": "tile"})
    evaluator = Evaluator(sweep)
    points = [sweep.space.point(number) for number in range(sweep.space.size)]
    bounds = bound_points(evaluator, points)
    for row, point in enumerate(points):
        exact = evaluator.run(point, fidelity="roofline")
        values = [objective.sign * exact[objective.key] for objective in sweep.objectives]
        assert bounds.objectives[row].tolist() == pytest.approx(values, rel=1e-6)
    tile = evaluator.run(points[7])
    assert all(o.sign * tile[o.key] <= bound for o, bound in zip(sweep.objectives, bounds.objectives[7], strict=True))


def test_pruning_finds_the_same_front(tmp_path: Path) -> None:
    run(DATA, tmp_path / "all", prune=False)
    pruned = run(DATA, tmp_path / "pruned", prune=True)
    assert pruned.counts["pruned"] > 0
    fronts = [[record.params for record in open_sweep(tmp_path / name).front] for name in ("all", "pruned")]
    assert fronts[0] == fronts[1]


def test_points_given_up_between_their_workloads_would_not_have_been_on_the_front(tmp_path: Path) -> None:
    step = {"workload": "deepseek-r1-distill-qwen-1.5b"}
    data = {
        "chip": "edge-npu",
        "axes": {"memory.bandwidth": ["68 GB/s", "135.5 GB/s", "136 GB/s"]},
        "workloads": [step | {"phase": "decode", "ctx": 64}, step | {"phase": "prefill", "seq": 64}],
        "objectives": ["maximize decode.tokens_per_s"],
    }
    run(data, tmp_path / "all", prune=False, cache=tmp_path / "cache")
    run(data, tmp_path / "pruned", cache=tmp_path / "cache", in_flight=1)
    fronts = [[record.params for record in open_sweep(tmp_path / name).front] for name in ("all", "pruned")]
    assert fronts[0] == fronts[1] == [{"memory.bandwidth": "136 GB/s"}]
    reasons = {record.number: record.why for record in open_sweep(tmp_path / "pruned").records if record.why}
    assert reasons == {0: "even its bound is dominated by #2", 1: "dominated by #2 whatever prefill yields"}


def test_a_margin_gives_up_what_is_hardly_faster_but_nothing_for_its_size(tmp_path: Path) -> None:
    data = DATA | {
        "axes": {"core.matrix.rows": [64, 80, 96, 112, 128]},
        "objectives": ["minimize prefill.ttft", "minimize peak_flops"],
    }
    run(data, tmp_path / "all", prune=False)
    run(data, tmp_path / "few", margin=0.2)
    whole, few = (
        [(record.metrics["prefill.ttft"], record.metrics["peak_flops"]) for record in open_sweep(tmp_path / name).front]
        for name in ("all", "few")
    )
    assert len(few) < len(whole) == 5
    assert all(any(kept * 0.8 <= time and small <= size for kept, small in few) for time, size in whole)


def test_a_point_whose_own_roofline_is_dominated_is_not_simulated(tmp_path: Path) -> None:
    """Energy and money have no array bound, so a worker holds the roofline of a point against what others reached."""
    data = {
        "chip": "edge-npu",
        "axes": {"core.vector.lanes": [64, 256], "memory.bandwidth": ["68 GB/s", "136 GB/s"]},
        "workloads": [{"workload": "deepseek-r1-distill-qwen-1.5b", "phase": "decode", "ctx": 64}],
        "objectives": ["minimize joules_per_token", "minimize usd_per_mtoken"],
    }
    whole, pruned = run(data, tmp_path / "whole", prune=False), run(data, tmp_path / "pruned")
    assert (whole.counts["done"], pruned.counts["pruned"]) == (4, 2)
    fronts = [[record.params for record in open_sweep(tmp_path / name).front] for name in ("whole", "pruned")]
    assert fronts[0] == fronts[1]


def test_constraints_sort_points_out_before_they_are_simulated(tmp_path: Path) -> None:
    data = DATA | {"constraints": ["decode.tpot <= 4 ms", "peak_flops < 3000 TFLOP/s"]}
    outcome = run(data, tmp_path)
    assert outcome.counts["infeasible"] > 0
    view = open_sweep(tmp_path)
    assert all(record.metrics["decode.tpot"] <= 4e-3 for record in view.done)
    reasons = {record.why for record in view.records if record.status == "infeasible"}
    assert "decode.tpot <= 4 ms; peak_flops < 3000 TFLOP/s" in reasons
    assert preview(Sweep.of(data), measured=1).broken.keys() == reasons


def test_a_bad_point_is_recorded_and_stops_nothing(tmp_path: Path) -> None:
    data = DATA | {"axes": DATA["axes"] | {"core.matrix.rows": [64, -1]}}
    outcome = run(data | {"constraints": ["prefill.ttft <= 1 s"]}, tmp_path / "limited")  # no bound of what cannot be
    assert outcome.counts["failed"] == 6
    outcome = run(data, tmp_path)
    assert outcome.counts["failed"] == 6
    point = next(p for p in open_sweep(tmp_path).to_dict()["points"] if p["status"] == "failed")
    assert "core.matrix.rows: must be at least 1" in point["error"]
    assert preview(Sweep.of(data), measured=0).errors == (point["error"],)
    assert run(data, tmp_path).reused == 12
    assert run(data, tmp_path, retry=True).counts["failed"] == 6


def test_points_of_a_lost_worker_run_again(tmp_path: Path) -> None:
    lives = iter([True, False, True])  # the second message finds its worker dead
    outcome = run(DATA, tmp_path, executor=lambda: Inline(lambda numbers: not next(lives, True)))
    assert outcome.done == outcome.total == 12
    assert "failed" not in outcome.counts


def test_a_point_that_kills_every_worker_is_given_up(tmp_path: Path) -> None:
    outcome = run(DATA, tmp_path, prune=False, executor=lambda: Inline(lambda numbers: 7 in numbers))
    failed = [record for record in open_sweep(tmp_path).records if record.status == "failed"]
    assert [record.number for record in failed] == [7]
    assert outcome.done == 12


def test_nothing_of_a_pool_whose_workers_die_is_left() -> None:
    """A thread of it that lives on may close its pipe while the interpreter, as it ends, writes to it."""
    before = set(threading.enumerate())
    spawn = multiprocessing.get_context("spawn")
    with pytest.raises(InputError, match="die as they start"):
        executors.started(ProcessPoolExecutor(1, mp_context=spawn, initializer=os._exit, initargs=(1,)))
    assert set(threading.enumerate()) <= before


def test_a_script_whose_workers_start_it_again_is_told_so(tmp_path: Path) -> None:
    """Without the guard every spawned worker would run the sweep itself; none of that may end as failed points."""
    script = tmp_path / "script.py"
    script.write_text(
        "from archsim.explore import Store, Sweep, executors, run_sweep\n"
        f"run_sweep(Sweep.of({DATA!r}), Store({str(tmp_path / 'sweep')!r}), executors.local(1), in_flight=1)\n"
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert ran.returncode != 0
    last = ran.stderr.rstrip().splitlines()[-1]
    assert last.startswith("archsim.errors.InputError: the sweep's worker processes die as they start")
    assert not open_sweep(tmp_path / "sweep").records


def test_a_torn_line_is_skipped_and_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    run(DATA, tmp_path)
    journal = next((tmp_path / "journals").glob("*.jsonl"))
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-40])
    assert len(Store(tmp_path).records()) == 11
    journal.write_bytes(b'{"key": 1}\n[]\nnonsense\n\xff\xfe\n' + whole)
    assert len(Store(tmp_path).records()) == 12


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system to fill")
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not let a test mount a tmpfs")
    try:
        journal = Journal(folder)
        record = Record("key", 0, {"x": 1}, "done", {"m": 1.0})
        room = 64 * 1024 // len(record.line())
        journal.append([record] * (room - 1))
        with pytest.raises(InputError, match="cannot be written"):
            journal.append([record] * 2)
        lines = journal.path.read_bytes().splitlines(keepends=True)
        assert len(lines) == room - 1
        assert all(Record.read(line) == record for line in lines)
        journal.close()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_table_holds_what_the_journals_held(tmp_path: Path) -> None:
    run(DATA, tmp_path)
    before = Store(tmp_path).records()
    result = CliRunner().invoke(cli, ["sweep", "compact", str(tmp_path)])
    assert "12 records" in result.output
    assert not list((tmp_path / "journals").glob("*.jsonl"))
    assert Store(tmp_path).records() == before
    assert run(DATA, tmp_path).reused == 12


def test_a_folder_belongs_to_one_sweep(tmp_path: Path) -> None:
    run(DATA, tmp_path, limit=1)
    with pytest.raises(InputError, match="holds another sweep"):
        run(DATA | {"objectives": ["tokens_per_s"]}, tmp_path)
    with pytest.raises(InputError, match="is no folder of a sweep"):
        open_sweep(tmp_path / "journals")


def test_the_command_line_shows_exports_and_draws(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    run(DATA, folder, prune=False)
    invoke = CliRunner().invoke
    shown = json.loads(invoke(cli, ["sweep", "show", str(folder), "--json", "--limit", "3"]).output)
    assert len(shown["points"]) == 3
    assert {"key", "params", "metrics"} <= shown["points"][0].keys()
    assert "Pareto front" in invoke(cli, ["sweep", "show", str(folder)]).output
    view = open_sweep(folder)
    assert "12 points: 12 done" in repr(view)
    assert view._repr_html_().count("<tr>") == len(view.front)
    for name in ("points.csv", "points.parquet"):
        assert invoke(cli, ["sweep", "show", str(folder), "--export", str(tmp_path / name)]).exit_code == 0
    assert len(open_sweep(folder).to_frame()) == len((tmp_path / "points.csv").read_text().splitlines()) - 1 == 12
    for kind in FIGURES:
        target = tmp_path / f"{kind}.png"
        result = invoke(cli, ["sweep", "plot", str(folder), kind, "--out", str(target)])
        assert result.exit_code == 0, result.output
        assert target.stat().st_size > 5_000
    assert invoke(cli, ["sweep", "plot", str(folder), "pie"]).exit_code == 2


@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_what_was_recorded_survives_a_kill(tmp_path: Path, victim: str) -> None:
    """A real run is shot at in its middle; what it had recorded counts, and the next run does the rest, once each."""
    file, folder = tmp_path / "sweep.yaml", tmp_path / "out"
    file.write_text(
        "chip: tpu-v3-core\nfidelity: tile\nobjectives: [tokens_per_s]\n"
        "workloads: [{workload: deepseek-r1-distill-qwen-1.5b, phase: decode}]\n"
        "axes: {run.ctx: [64, 65, 66, 67, 68, 69]}\n"
    )
    command = [sys.executable, "-m", "archsim", "sweep", "run", str(file), "--out", str(folder), "--no-prune"]
    command += ["--workers", "1", "--no-reuse"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        _wait(lambda: len(Store(folder).records()) >= 1 if folder.exists() else False, process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in [process.pid] if victim == "driver" else map(int, children):
            os.kill(pid, signal.SIGKILL)
        process.wait(120)
        _wait(lambda: not any(map(_lives, children)))  # no worker survives its driver
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    survived = len(Store(folder).records())
    assert survived >= 1
    done = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert done["reused"] >= survived
    assert done["reused"] + done.get("done", 0) == 6
    assert sorted(metrics(folder)) == list(range(6))


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait(condition: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    for _ in range(2400):
        if condition() or (process is not None and process.poll() is not None):
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to that")
