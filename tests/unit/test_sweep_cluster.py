"""The same sweep on a Dask cluster and as a Slurm array job, on real ones that run on this machine."""

from __future__ import annotations

import builtins
import itertools
import json
import subprocess
import sys
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from slurm_cluster import missing, slurm

from archsim.cli.main import cli
from archsim.errors import InputError
from archsim.explore import Store, Sweep, executors, open_sweep, run_sweep
from archsim.explore.slurm import write_script

pytestmark = pytest.mark.unit

DATA: dict[str, Any] = {
    "chip": "custom-npu",
    "axes": {"core.vector.lanes": [256, 512, 1024], "memory.bandwidth": ["4 TB/s", "6 TB/s"]},
    "workloads": [{"workload": "llama-3.1-8b", "phase": "decode", "batch": 8, "ctx": 512}],
    "objectives": ["maximize tokens_per_s"],
    "fidelity": "roofline",
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, float]]:
    return metrics(run_locally(tmp_path_factory.mktemp("local")))


def run_locally(folder: Path) -> Path:
    run_sweep(Sweep.of(DATA), Store(folder), executors.local(1), in_flight=2, prune=False)
    return folder


def metrics(folder: Path) -> dict[int, dict[str, float]]:
    return {record.number: dict(record.metrics) for record in open_sweep(folder).records}


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps(DATA))  # JSON is YAML
    return path


def test_dask_gives_the_same_numbers(tmp_path: Path, sweep_file: Path, expected: dict[int, dict[str, float]]) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        arguments = ["sweep", "run", str(sweep_file), "--out", str(tmp_path / "dask"), "--no-prune", "--json"]
        arguments += ["--executor", "dask", "--address", cluster.scheduler_address]
        result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["done"] == 6
    assert metrics(tmp_path / "dask") == expected


def test_dask_without_a_scheduler_is_one_sentence(sweep_file: Path) -> None:
    arguments = ["sweep", "run", str(sweep_file), "--executor", "dask"]
    assert "needs --address" in CliRunner().invoke(cli, arguments).output
    with pytest.raises(InputError, match="no Dask scheduler answers there"):
        executors.dask("tcp://127.0.0.1:1")


@pytest.mark.skipif(missing() != "", reason=missing())
def test_slurm_gives_the_same_numbers(tmp_path: Path, sweep_file: Path, expected: dict[int, dict[str, float]]) -> None:
    """As an array of tasks, and as Dask workers that are jobs."""
    daemons = tmp_path / "slurm"
    daemons.mkdir()
    command = ["sweep", "run", str(sweep_file), "--no-prune", "--no-reuse"]
    with slurm(daemons):
        array = ["--out", str(tmp_path / "array"), "--json", "--executor", "slurm", "--shards", "3"]
        result = CliRunner().invoke(cli, [*command, *array])
        again = CliRunner().invoke(cli, [*command, *array])  # submits nothing
        jobs = ["--out", str(tmp_path / "jobs"), "--executor", "dask", "--queue", "slurm", "--shards", "1"]
        queued = [sys.executable, "-m", "archsim", *command, *jobs, f"--sbatch=--output={tmp_path}/job.log"]
        done = subprocess.run(queued, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    logs = [path.read_text() for path in (tmp_path / "array").glob("slurm-*.log")]
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["done"] == 6, logs
    assert len(logs) == 3
    assert json.loads(again.stdout)["reused"] == 6
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path / "array") == metrics(tmp_path / "jobs") == expected


def test_a_batch_system_without_dask_jobqueue_is_one_sentence(
    sweep_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    invoke = CliRunner().invoke
    result = invoke(cli, ["sweep", "run", str(sweep_file), "--executor", "dask", "--queue", "pbs"])
    assert (result.exit_code, result.output) == (2, "archsim: --queue needs dask-jobqueue: pip install dask-jobqueue\n")
    assert "give --executor dask" in invoke(cli, ["sweep", "run", str(sweep_file), "--queue", "pbs"]).output


def test_a_notebook_has_a_pool_of_its_own(
    tmp_path: Path, expected: dict[int, dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    pool = executors.local(1)
    assert type(pool()).__module__.startswith("loky")
    run_sweep(Sweep.of(DATA), Store(tmp_path), pool, in_flight=2, prune=False)
    assert metrics(tmp_path) == expected


def test_the_script_refuses_what_is_no_option(tmp_path: Path) -> None:
    script = write_script(tmp_path, ["archsim", "sweep", "run", "a b.yaml"], 4, ["--partition=cpu"]).read_text()
    assert "#SBATCH --array=1-4\n" in script
    assert "#SBATCH --partition=cpu\n" in script
    assert "'a b.yaml' --shard \"$SLURM_ARRAY_TASK_ID/4\"" in script
    for option in ("rm -rf", "--time=1\nrm -rf"):
        with pytest.raises(InputError, match="must be an option of sbatch"):
            write_script(tmp_path, ["archsim"], 1, [option])


@pytest.mark.parametrize("flag", [["--shard", "1/2"], ["--limit", "3"], ["--executor", "slurm"], ["--no-prune"]])
def test_a_search_refuses_what_it_would_not_do(tmp_path: Path, flag: list[str]) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(json.dumps(DATA | {"sampler": {"kind": "tpe", "points": 4}}))
    result = CliRunner().invoke(cli, ["sweep", "run", str(path), "--out", str(tmp_path / "out"), *flag])
    assert result.exit_code == 2
    assert "the sampler tpe proposes its points one after the other: it takes no --shard" in result.output


@pytest.mark.parametrize("kind", ["nsga2", "tpe"])
def test_a_search_resumes_and_evaluates_no_point_twice(tmp_path: Path, kind: str) -> None:
    from archsim.explore.search import search_sweep

    objectives = ["maximize tokens_per_s", "minimize peak_flops"] if kind == "nsga2" else ["maximize tokens_per_s"]
    data = DATA | {"objectives": objectives, "sampler": {"kind": kind, "points": 8}}
    first = search_sweep(Sweep.of(data), Store(tmp_path), executors.local(1), in_flight=1)
    assert first.done == 8
    assert 1 < len(open_sweep(tmp_path).records) <= 6
    again = search_sweep(Sweep.of(data), Store(tmp_path), executors.local(1), in_flight=1)
    assert (again.reused, sum(again.counts.values())) == (8, 0)


def test_a_search_survives_dying_workers(tmp_path: Path) -> None:
    """One message finds its worker dead, and one point kills whoever takes it."""
    from archsim.explore.search import search_sweep

    calls = itertools.count()

    class Dying(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            if args and (next(calls) == 1 or 3 in args[-1]):
                future.set_exception(BrokenExecutor("a worker died"))
            else:
                future.set_result(fn(*args, **kwargs))
            return future

    data = DATA | {"sampler": {"kind": "tpe", "points": 12}}
    outcome = search_sweep(Sweep.of(data), Store(tmp_path), Dying, in_flight=3)
    assert outcome.done == 12
    failed = [record for record in open_sweep(tmp_path).records if record.status == "failed"]
    assert [(record.number, record.why) for record in failed] == [(3, "the worker died every time")]
