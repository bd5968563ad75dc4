"""Running a sweep: which points are missing, in which order they are tried, and what the workers send back."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archsim._version import MODEL_VERSION, __version__
from archsim.errors import InputError
from archsim.explore.axis import Value
from archsim.explore.bounds import Bounds, bound_points
from archsim.explore.evaluate import Evaluator, Metrics
from archsim.explore.executors import started
from archsim.explore.pareto import dominated
from archsim.explore.store import DONE, FAILED, INFEASIBLE, PRUNED, Journal, Record, Store
from archsim.explore.sweep import Sweep
from archsim.reuse import ResultCache, reusing

__all__ = ["Outcome", "count_records", "evaluate_points", "is_complete", "prepare_store", "run_sweep"]

#: seconds of work that one message to a worker should carry, so that messages cost next to nothing
CHUNK_S = 0.2
#: times that a point may be in the hands of a worker that dies before it is recorded as failed
DEATHS = 3
DOMINATED = "even its bound is dominated"

Floats = NDArray[np.float64]


@dataclass
class Outcome:
    """What a run did: records by status, those found done before, and the wall time of the evaluations.

    lookups, hits: of steps and tilings in the cache of results, over the points that were simulated.
    """

    total: int
    reused: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    busy_s: float = 0.0
    wall_s: float = 0.0
    lookups: int = 0
    hits: int = 0

    def add(self, record: Record) -> None:
        """Count a record that came in."""
        self.counts[record.status] += 1
        self.busy_s += record.wall_s
        self.lookups += int(record.meta.get("lookups", 0))
        self.hits += int(record.meta.get("hits", 0))

    @property
    def done(self) -> int:
        """Points with a record."""
        return self.reused + sum(self.counts.values())


def run_sweep(
    sweep: Sweep,
    store: Store,
    executor: Callable[[], Executor],
    *,
    in_flight: int,
    shard: tuple[int, int] = (1, 1),
    limit: int | None = None,
    prune: bool = True,
    margin: float = 0.0,
    retry: bool = False,
    cache: Path | None = None,
    on_progress: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Evaluate every point that has no record yet, and record it; safe to kill and to run again.

    executor: makes a ``concurrent.futures`` executor; called again when the one before broke.
    in_flight: messages that are with the executor at a time.
    shard: (i, n): only every n-th point, from the i-th on, for array jobs on a shared folder.
    limit: only the first so many points of the sample.
    prune: skip points, or the rest of their workloads, whose lower bound on time is dominated by what others really
        reached. The front is the same as without as long as `margin` is 0; a margin also skips those that would be
        better than another point by no more than that fraction, in what has yet to be simulated.
    retry: try points again that failed before.
    cache: folder in which steps and tilings are looked up before they are simulated (:func:`archsim.reuse.user_folder`
        is the one that all sweeps share); None for none. The results are the same to the bit.
    """
    begin = time.perf_counter()
    evaluator = Evaluator(sweep)
    numbers = prepare_store(sweep, store, limit, shard)
    points = [sweep.space.point(number) for number in numbers]
    keys = [evaluator.key(point) for point in points]
    known = store.records()
    missing = [i for i, key in enumerate(keys) if key not in known or (retry and known[key].status == FAILED)]
    outcome = Outcome(len(numbers), reused=len(numbers) - len(missing))
    on_progress(outcome)
    journal = Journal(store.journals)

    bounds = bound_points(evaluator, [points[i] for i in missing]) if prune and missing else None
    order = range(len(missing)) if bounds is None else np.argsort(-bounds.score, kind="stable").tolist()
    race = _Race(sweep, bounds, margin, [known[key] for key in keys if key in known])
    queue = _Queue([missing[i] for i in order])
    rows = {index: row for row, index in enumerate(missing)}

    def next_chunk(idle: bool) -> list[int]:
        chunk: list[int] = []
        while len(chunk) < queue.chunk and (index := queue.pop(alone=idle and not chunk)) is not None:
            why = race.why_not(rows[index])
            if why is None:
                chunk.append(index)
                if index in queue.deaths:
                    break
                continue
            status, text = why
            journal.append([Record(keys[index], numbers[index], points[index], status, why=text)])
            outcome.counts[status] += 1
            on_progress(outcome)
        return chunk

    def heard(records: Iterable[Record]) -> None:
        for record in records:
            outcome.add(record)
            race.add(record)
        done = sum(outcome.counts.values()) or 1
        queue.chunk = int(min(max(CHUNK_S * done / max(outcome.busy_s, 1e-9), 1), 64))
        on_progress(outcome)

    def died(indices: Sequence[int]) -> None:
        for index in queue.died(indices):
            record = Record(keys[index], numbers[index], points[index], FAILED, why="the worker died every time")
            journal.append([record])
            heard([record])

    work = work_of(sweep, store, cache)

    def submit(pool: Executor, chunk: list[int]) -> Future[list[Record]]:
        return pool.submit(evaluate_points, work, race.rivals() if prune else None, margin, [numbers[i] for i in chunk])

    try:
        while queue:
            _drive(started(executor()), in_flight, next_chunk, submit, heard, died)
    finally:
        journal.close()
    outcome.wall_s = time.perf_counter() - begin
    return outcome


def prepare_store(sweep: Sweep, store: Store, limit: int | None, shard: tuple[int, int] = (1, 1)) -> list[int]:
    """Make the folder, or check that it is this sweep's; return the numbers of the points to be tried."""
    store.create({
        "sweep": sweep.spec.model_dump(mode="json"), "folder": str(sweep.folder.resolve()), "archsim": __version__,
    })  # fmt: skip
    part, parts = shard
    if not 1 <= part <= parts:
        raise InputError(f"--shard {part}/{parts}: the part must be from 1 to {parts}")
    return sweep.numbers()[:limit][part - 1 :: parts]


def count_records(sweep: Sweep, store: Store, numbers: Sequence[int]) -> Outcome:
    """How many of the points have a record by now, by status."""
    evaluator, known = Evaluator(sweep), store.records()
    outcome = Outcome(len(numbers))
    for number in numbers:
        record = known.get(evaluator.key(sweep.space.point(number)))
        if record is not None:
            outcome.add(record)
    return outcome


def is_complete(sweep: Sweep, store: Store) -> bool:
    """Whether every point of the sample has its record, so that no worker can still be writing."""
    numbers = sweep.numbers()
    return count_records(sweep, store, numbers).done == len(numbers)


class _Queue:
    """Points still to be tried; those whose worker died come last and one at a time, to find the one that kills."""

    def __init__(self, indices: Sequence[int]) -> None:
        self.indices = list(indices)[::-1]
        self.deaths: Counter[int] = Counter()
        self.chunk = 1

    def __bool__(self) -> bool:
        return bool(self.indices)

    def pop(self, *, alone: bool) -> int | None:
        """The next point; a suspect only if it would be alone with the workers."""
        if not self.indices or (self.indices[-1] in self.deaths and not alone):
            return None
        return self.indices.pop()

    def died(self, indices: Sequence[int]) -> list[int]:
        """Take points back; return those that have been with too many dying workers."""
        self.deaths.update(indices)
        self.indices = [index for index in indices if self.deaths[index] < DEATHS] + self.indices
        return [index for index in indices if self.deaths[index] >= DEATHS]


class _Race:
    """The best objective values so far, and whether a point's bound can still reach beyond them."""

    def __init__(self, sweep: Sweep, bounds: Bounds | None, margin: float, known: Iterable[Record]) -> None:
        self.sweep, self.bounds = sweep, bounds
        self.margin = margin * np.array([objective.waits_for(sweep.labels) for objective in sweep.objectives])
        self.best: Floats = np.empty((0, len(sweep.objectives)))
        for record in known:
            self.add(record)

    def add(self, record: Record) -> None:
        keys = [objective.key for objective in self.sweep.objectives]
        if record.status != DONE or any(key not in record.metrics for key in keys) or self.bounds is None:
            return
        if any(limit.broken_by(record.metrics, self.sweep.labels) for limit in self.sweep.constraints):
            return  # a point that may not be built beats nothing
        row = np.array([[o.sign * record.metrics[o.key] for o in self.sweep.objectives]])
        if not dominated(row, self.best)[0]:
            self.best = np.vstack([self.best[~dominated(self.best, row)], row])

    def rivals(self) -> list[list[float]]:
        """The best so far, which a worker holds what it learns of a point against."""
        return [list(map(float, row)) for row in self.best]

    def why_not(self, row: int) -> tuple[str, str] | None:
        """The status and the reason for which a missing point need not be tried, None where it must."""
        if self.bounds is None:
            return None
        broken = self.bounds.broken[row]
        if broken:
            return INFEASIBLE, broken
        if dominated(self.bounds.objectives[row : row + 1], self.best, self.margin)[0]:
            return PRUNED, DOMINATED
        return None


def _drive(
    pool: Executor,
    in_flight: int,
    next_chunk: Callable[[bool], list[int]],
    submit: Callable[[Executor, list[int]], Future[list[Record]]],
    heard: Callable[[Iterable[Record]], None],
    died: Callable[[Sequence[int]], None],
) -> None:
    """Keep the executor busy until nothing is left or it breaks; what it held then is handed to `died`."""
    held: dict[Future[list[Record]], list[int]] = {}
    try:
        while True:
            while len(held) < in_flight and (chunk := next_chunk(not held)):
                held[submit(pool, chunk)] = chunk
            if not held:
                break
            finished, _ = wait(held, return_when=FIRST_COMPLETED)
            for future in finished:
                heard(future.result())
                del held[future]
    except (BrokenExecutor, CancelledError):
        died([index for chunk in held.values() for index in chunk])
    except BaseException:
        for future in held:
            future.cancel()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown(wait=True)


# --- in the workers -----------------------------------------------------------------------------------------------


def work_of(sweep: Sweep, store: Store, cache: Path | None) -> str:
    """All that a worker needs to know of a run, in a form that travels."""
    return json.dumps({
        "sweep": sweep.spec.model_dump(mode="json"), "folder": str(sweep.folder), "store": str(store.folder),
        "cache": None if cache is None else str(cache),
    })  # fmt: skip


@lru_cache(maxsize=4)
def _worker(work: str) -> tuple[Evaluator, Journal, ResultCache | None]:
    told = json.loads(work)
    sweep = Sweep.of(told["sweep"], Path(told["folder"]))
    cache = None if told["cache"] is None else ResultCache(told["cache"])
    return Evaluator(sweep), Journal(Store(told["store"]).journals), cache


def evaluate_points(work: str, rivals: list[list[float]] | None, margin: float, numbers: list[int]) -> list[Record]:
    """Evaluate points and append their records to this process's journal; runs in a worker.

    work: of `work_of`. rivals: objective values that others reached; a point is given up as soon as they dominate, by
    `margin`, all that it can still be. None: it is simulated in any case.
    """
    evaluator, journal, cache = _worker(work)
    records = []
    with reusing(cache):
        for number in numbers:
            lookups, hits = (cache.lookups, cache.hits) if cache else (0, 0)
            record = evaluate_point(evaluator, number, rivals, margin)
            if cache:
                found = {"lookups": cache.lookups - lookups, "hits": cache.hits - hits}
                record = replace(record, meta={**record.meta, **found})
            journal.append([record])
            records.append(record)
    return records


def evaluate_point(
    evaluator: Evaluator, number: int, rivals: Sequence[Sequence[float]] | None = None, margin: float = 0.0
) -> Record:
    """Evaluate one point, or as much of it as shows that it cannot matter. An error is recorded, and stops nothing."""
    point = evaluator.sweep.space.point(number)
    key, begin = evaluator.key(point), time.perf_counter()
    meta: dict[str, Value] = {"archsim": __version__, "model_version": MODEL_VERSION, "created": round(time.time(), 3)}

    def record(status: str, why: str = "", metrics: Metrics | None = None) -> Record:
        return Record(key, number, point, status, metrics or {}, why, time.perf_counter() - begin, meta)

    best = np.array(rivals or np.empty((0, len(evaluator.sweep.objectives))))
    metrics: Metrics = {}
    try:
        for metrics, pending in evaluator.stages(point, bounds=rivals is not None):
            if pending and (why := _why_give_up(evaluator.sweep, metrics, pending, best, margin)):
                return record(*why)  # without metrics: bounds are no measure of the point
    except InputError as error:
        return record(FAILED, str(error))
    except Exception as error:  # a fault of ours at one point must not cost the others
        return record(FAILED, f"internal fault ({type(error).__name__}: {error})")
    broken = [limit.text for limit in evaluator.sweep.constraints if limit.broken_by(metrics, evaluator.sweep.labels)]
    return record(INFEASIBLE if broken else DONE, "; ".join(broken), metrics)


def _why_give_up(
    sweep: Sweep, metrics: Metrics, pending: Sequence[str], best: Floats, margin: float
) -> tuple[str, str] | None:
    """The status and the reason of a point that needs no more of its workloads simulated; None where it does.

    metrics: the best possible ones where the workload is `pending`.
    """
    broken = [limit.text for limit in sweep.constraints if limit.lost(metrics, sweep.labels, pending)]
    if broken:
        return INFEASIBLE, "; ".join(broken)
    values = np.array([[objective.reach(metrics, pending) for objective in sweep.objectives]])
    open_yet = np.array([objective.waits_for(pending) for objective in sweep.objectives])
    if not dominated(values, best, margin * open_yet)[0]:
        return None
    if len(pending) == len(sweep.labels):
        return PRUNED, DOMINATED
    return PRUNED, f"dominated whatever {', '.join(pending)} yields"
