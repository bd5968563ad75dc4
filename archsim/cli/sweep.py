"""`archsim sweep`: plan, run, show and draw sweeps over a design space."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archsim.cli._common import console, emit_json, headed, json_option, progress, refuse
from archsim.cli._results import wrote
from archsim.errors import InputError, whole_number

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from archsim.explore import Outcome, Store, Sweep, SweepView

__all__ = ["sweep"]


@click.group()
def sweep() -> None:
    """Explore a space of designs: which chip should be built?

    \b
    Examples:
      archsim sweep plan npu-serving                 how many points, how long, what the constraints leave
      archsim sweep run npu-serving --out sweep/     safe to kill; the same command goes on where it stopped
      archsim sweep show sweep/                      the Pareto front
      archsim sweep plot sweep/ pareto --out front.png
    """


@sweep.command("list")
def list_() -> None:
    """List the sweeps that ship with archsim."""
    from archsim.explore import list_sweeps, load_sweep

    for name in list_sweeps():
        click.echo(f"{name:24} {load_sweep(name).spec.title}")


@sweep.command()
@click.argument("file")
@click.option("--workers", type=click.IntRange(1), help="Processes to reckon with.  [default: one a core]")
@click.option("--measure", type=click.IntRange(0), default=3, show_default=True, help="Points to time.")
@json_option
def plan(file: str, workers: int | None, measure: int, as_json: bool) -> None:
    """Say how many points FILE has, what each axis is, how long it takes and what its constraints rule out."""
    from archsim.explore import load_sweep
    from archsim.explore.executors import cores
    from archsim.explore.preview import preview

    chosen, workers = load_sweep(file), workers or cores()
    look = preview(chosen, measured=measure)
    if as_json:
        axes = {" + ".join(axis.paths): [list(value) for value in axis.values] for axis in chosen.space.axes}
        emit_json({
            "space": look.space, "points": look.points, "axes": axes, "looked_at": look.looked_at,
            "infeasible": look.broken, "seconds_a_point": look.seconds_a_point, "workers": workers,
            "seconds": look.seconds(workers), "errors": list(look.errors),
        })  # fmt: skip
        return
    out = console()
    out.width = max(out.width, 120)
    out.print(headed(chosen.spec.title or file))
    for axis in chosen.space.axes:
        out.print(f"  {axis}  ({len(axis)})")
    for path, expression in chosen.space.expressions:
        out.print(f"  {path}: {expression.text}")
    for label, workload in chosen.workloads:
        own = workload.model_dump(exclude={"workload", "phase", "label"}, exclude_unset=True)
        out.print(f"  workload {label}: {', '.join([workload.workload, *(f'{k} {v}' for k, v in own.items())])}")
    for objective in chosen.objectives:
        out.print(f"  {'maximize' if objective.sign > 0 else 'minimize'} {objective.key}")
    for limit in chosen.constraints:
        out.print(f"  such that {limit.text}")
    sampler = chosen.spec.sampler.kind
    out.print(f"\n{look.points:,} points of {look.space:,} ({sampler})")
    for text, count in sorted(look.broken.items(), key=lambda item: -item[1]):
        out.print(f"  {count / look.looked_at:6.1%} break '{text}' before they are simulated")
    if chosen.constraints and not look.broken:
        out.print("  none breaks a constraint before it is simulated")
    for error in look.errors:
        out.print(f"  fails: {error}", style="red")
    if look.measured:
        each = look.seconds_a_point
        out.print(
            f"{each:.2g} s a point (mean of {look.measured}): at most {_duration(look.seconds(workers))} "
            f"on {workers} processes; dominated points are pruned, so usually less"
        )


def _shard(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    part, parts = (whole_number(word) or 0 for word in text.partition("/")[::2])
    if not 1 <= part <= parts:
        raise InputError(f"--shard {text}: expected I/N such as 3/16, with I from 1 to N")
    return part, parts


@sweep.command()
@click.argument("file")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the sweep.  [default: named as FILE]")
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one a core]")
@click.option("--executor", type=click.Choice(("local", "dask", "slurm")), default="local", show_default=True)
@click.option("--address", help="Of the Dask scheduler, such as tcp://host:8786.")
@click.option(
    "--queue", type=click.Choice(("slurm", "pbs", "lsf", "sge")), help="Dask workers are --shards jobs of this system."
)
@click.option("--shards", type=click.IntRange(1), default=8, show_default=True, help="Tasks of the Slurm array.")
@click.option("--sbatch", multiple=True, metavar="OPTION", help="Of the jobs, such as --partition=cpu.  Repeatable.")
@click.option("--shard", callback=_shard, metavar="I/N", help="Only part I of N, for array jobs on a shared folder.")
@click.option("--limit", type=click.IntRange(1), help="Only the first N points.")
@click.option("--no-prune", is_flag=True, help="Simulate also points whose bound is dominated.")
@click.option(
    "--margin", type=click.FloatRange(0, 1, max_open=True),
    help="Give up also what could be faster than another point by no more than this fraction, trusting that more of a "
    "resource takes no longer. 0 loses no point.  [default: that of FILE, or 0]",
)  # fmt: skip
@click.option("--no-reuse", is_flag=True, help="Look up no results of earlier points and runs, and keep none.")
@click.option("--retry-failed", is_flag=True, help="Try points again that failed.")
@json_option
def run(
    file: str, out: Path | None, workers: int | None, executor: str, address: str | None, queue: str | None,
    shards: int, sbatch: tuple[str, ...], shard: tuple[int, int], limit: int | None, no_prune: bool,
    margin: float | None, no_reuse: bool, retry_failed: bool, as_json: bool,
) -> None:  # fmt: skip
    """Evaluate the points of FILE that are not yet in the folder; kill it when you like, and run it again.

    \b
    Examples:
      archsim sweep run npu-serving --out sweep/ --workers 8
      archsim sweep run npu-serving --out /shared/sweep --shard $SLURM_ARRAY_TASK_ID/64
      archsim sweep run npu-serving --out /shared/sweep --executor slurm --shards 64 --sbatch --partition=cpu
      archsim sweep run npu-serving --out /shared/sweep --executor dask --address tcp://head:8786
      archsim sweep run npu-serving --out /shared/sweep --executor dask --queue pbs --shards 16 --workers 8

    Steps and tilings that were simulated before are looked up in $ARCHSIM_CACHE (default: archsim in the user's cache
    folder); the results are the same to the bit.
    """
    from archsim.explore import Store, executors, load_sweep, run_sweep
    from archsim.explore.search import search_sweep
    from archsim.reuse import user_folder

    if executor != "dask":
        refuse("is of Dask: give --executor dask with it", "queue", "address")
    if executor != "slurm" and queue is None:
        refuse("is of jobs: give --executor slurm, or --executor dask with --queue", "shards", "sbatch")
    chosen = load_sweep(file)
    margin = chosen.spec.margin if margin is None else margin
    store = Store(out or Path(Path(file).stem))
    if chosen.searches and (executor == "slurm" or shard != (1, 1) or limit or no_prune or margin or retry_failed):
        raise InputError(
            f"{file}: the sampler {chosen.spec.sampler.kind} proposes its points one after the other: it takes no "
            "--shard, --executor slurm, --limit, --no-prune, --margin or --retry-failed"
        )
    if executor == "slurm":
        flags = ["--no-prune"] * no_prune + ["--no-reuse"] * no_reuse + ["--retry-failed"] * retry_failed
        flags += ["--workers", str(workers or 1), "--margin", str(margin)] + (["--limit", str(limit)] if limit else [])
        outcome = _run_on_slurm(file, chosen, store, shards, sbatch, limit, flags)
        _report(outcome, store, as_json)
        return
    if queue is not None:
        pool, count = executors.queued(queue, shards, workers or 1, sbatch)
    else:
        pool, count = _pool(executor, address, workers)
    cache = None if no_reuse else user_folder()
    kept = f"what is recorded stays in {store.folder}; the same command goes on"
    with _resumable(kept), _bar() as on_progress:
        if chosen.searches:
            outcome = search_sweep(chosen, store, pool, in_flight=count, cache=cache, on_progress=on_progress)
        else:
            outcome = run_sweep(
                chosen, store, pool, in_flight=2 * count, shard=shard, limit=limit, prune=not no_prune, margin=margin,
                retry=retry_failed, cache=cache, on_progress=on_progress,
            )  # fmt: skip
    _report(outcome, store, as_json)


def _pool(executor: str, address: str | None, workers: int | None) -> tuple[Callable[[], Executor], int]:
    from archsim.explore import executors

    if executor == "dask":
        if address is None:
            raise InputError("--executor dask needs --address, such as tcp://host:8786, or --queue")
        return executors.dask(address)
    count = workers or executors.cores()
    return executors.local(count), count


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[Outcome], None]]:
    with progress("sweeping") as update:
        yield lambda outcome: update(outcome.done + outcome.given_up, outcome.total)


@contextlib.contextmanager
def _resumable(then: str) -> Iterator[None]:
    """Ctrl-C says what comes next, and waits for no worker: one whose next message was cut in two would never end."""
    try:
        yield
    except KeyboardInterrupt:
        for worker in multiprocessing.active_children():
            worker.terminate()
        click.echo(f"stopped: {then}", err=True)
        sys.exit(128 + signal.SIGINT)


def _report(outcome: Outcome, store: Store, as_json: bool) -> None:
    counts = dict(outcome.counts)
    if as_json:
        emit_json({
            "folder": str(store.folder), "points": outcome.total, "reused": outcome.reused, **counts,
            "wall_s": outcome.wall_s, "lookups": outcome.lookups, "hits": outcome.hits, "losses": outcome.losses,
        })  # fmt: skip
        return
    words = [f"{count:,} {status}" for status, count in sorted(counts.items())]
    if outcome.reused:
        words.append(f"{outcome.reused:,} found in the folder")
    click.echo(f"{outcome.total:,} points in {_duration(outcome.wall_s)}: {', '.join(words) or 'nothing to do'}")
    if outcome.lookups:
        found = f"{outcome.hits:,} of {outcome.lookups:,} steps and tilings"
        click.echo(f"{found} found among earlier results ({outcome.hits / outcome.lookups:.0%})")
    for path, losses in outcome.losses.items():
        cost = ", ".join(f"{share:.2%} of {key}" for key, share in losses.items())
        click.echo(f"more {path} cost up to {cost}: allowed for where points were given up")
    click.echo(f"archsim sweep show {store.folder}", err=True)


def _run_on_slurm(
    file: str, chosen: Sweep, store: Store, shards: int, options: tuple[str, ...], limit: int | None, flags: list[str]
) -> Outcome:  # fmt: skip
    from collections import Counter
    from dataclasses import replace

    from archsim.explore import slurm
    from archsim.explore.runner import count_records, prepare_store

    numbers = prepare_store(chosen, store, limit)
    known = count_records(chosen, store, numbers)
    if known.done == known.total and not (known.counts["failed"] and "--retry-failed" in flags):
        return replace(known, reused=known.total, counts=Counter(), lookups=0, hits=0)
    own = str(Path(file).resolve()) if Path(file).is_file() else file
    command = [sys.executable, "-m", "archsim", "sweep", "run", own, "--out", str(store.folder.resolve()), *flags]
    job = slurm.submit(slurm.write_script(store.folder, command, shards, options))
    click.echo(f"submitted job {job}: {shards} tasks, logs in {store.folder}", err=True)
    begin = time.perf_counter()
    then = f"job {job} goes on (scancel {job} ends it), and the same command evaluates what it leaves"
    with _resumable(then), _bar() as on_progress:
        while slurm.running(job):
            on_progress(count_records(chosen, store, numbers))
            time.sleep(2.0)
    outcome = count_records(chosen, store, numbers)
    outcome.wall_s = time.perf_counter() - begin
    return outcome


@sweep.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--limit", type=click.IntRange(1), help="Only the first N points (with --all: in their order).")
@click.option("--all", "everything", is_flag=True, help="All points, not only the front.")
@click.option("--export", "target", type=click.Path(path_type=Path), help="Write all points as .csv or .parquet.")
@json_option
def show(folder: Path, limit: int | None, everything: bool, target: Path | None, as_json: bool) -> None:
    """Show the Pareto front of a sweep's FOLDER, while it runs or after.

    With --json: `points`, each with `key`, `params`, and `metrics` or `error`.
    """
    from archsim.explore import open_sweep

    view = open_sweep(folder)
    if target is not None:
        view.export(target)
        wrote(target)
    if as_json:
        found: dict[str, Any] = view.to_dict()
        emit_json(found | {"points": found["points"][:limit]})
        return
    _print_front(view, limit, everything)


def _print_front(view: SweepView, limit: int | None, everything: bool) -> None:
    from collections import Counter

    from archsim.explore.metrics import METRICS
    from archsim.report.numbers import si
    from archsim.report.table import Cell, table

    out = console()
    counts = Counter(record.status for record in view.records)
    out.print(headed(view.sweep.spec.title or view.sweep.spec.chip))
    out.print(f"{len(view.records):,} points: " + ", ".join(f"{n:,} {status}" for status, n in sorted(counts.items())))
    shown = (view.records if everything else view.front)[:limit]
    if not shown:
        failed = next((record for record in view.records if record.status == "failed"), None)
        if failed is not None:
            out.print(f"the first failure: {failed.why}")
        return
    free, objectives = view.sweep.free, view.sweep.objectives
    rows: list[list[Cell]] = []
    for record in shown:
        values = [
            si(record.metrics[o.key], METRICS[o.metric.name].unit) if o.key in record.metrics else record.status
            for o in objectives
        ]
        rows.append([f"#{record.number}", *(str(record.params[path]) for path in free), *values])
    heads = ["point", *(f">{_head(path, free)}" for path in free), *(f">{o.key}" for o in objectives)]
    out.print("all points:" if everything else "Pareto front:")
    out.width = max(out.width, 120)  # a row that wraps tells more than one that is cut
    out.print(table(heads, rows, out.width))


def _head(path: str, paths: Sequence[str]) -> str:
    """The last part of a dotted path, with the one before it where that alone would not tell."""
    last = path.rpartition(".")[2]
    alone = sum(other.rpartition(".")[2] == last for other in paths) == 1
    return last if alone else ".".join(path.split(".")[-2:])


@sweep.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("kind")
@click.option("--out", type=click.Path(path_type=Path), help="PNG, SVG or PDF.  [default: KIND.png]")
@click.option("--axes", metavar="A,B", help="The two parameters of a heat map.  [default: those that matter most]")
def plot(folder: Path, kind: str, out: Path | None, axes: str | None) -> None:
    """Draw a picture of a sweep: KIND is pareto, parallel, sensitivity, tornado, heatmap or roofline.

    \b
    Examples:
      archsim sweep plot sweep/ pareto --out front.svg
      archsim sweep plot sweep/ heatmap --axes core.matrix.rows,memory.bandwidth
    """
    from archsim._figure import check_figure, save_figure
    from archsim.cli._results import check_outputs
    from archsim.explore import open_sweep
    from archsim.explore.figures import figure_of

    draw, target = figure_of(kind), out or Path(f"{kind}.png")
    check_figure(target)
    check_outputs(target)
    if axes is not None and kind != "heatmap":
        raise InputError(f"--axes are those of a heatmap; a {kind} has all")
    chosen = {"axes": axes.split(",")} if axes else {}
    save_figure(draw(open_sweep(folder), **chosen), target)
    wrote(target)


@sweep.command()
@click.argument("folder", type=click.Path(path_type=Path))
def compact(folder: Path) -> None:
    """Turn the journals of FOLDER into one HDF5 table; they are removed once every point has its record."""
    from archsim.explore import Store, open_sweep
    from archsim.explore.runner import is_complete

    store = Store(folder)
    view = open_sweep(folder)
    count = store.compact(complete=is_complete(view.sweep, store))
    click.echo(f"{count:,} records in {store.table}")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
