"""Running a sweep: which points are missing, in which order they are tried, and what the workers send back."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from archsim._version import MODEL_VERSION, __version__
from archsim.errors import InputError
from archsim.explore.axis import Value
from archsim.explore.bounds import bound_points
from archsim.explore.evaluate import Evaluator, Metrics
from archsim.explore.executors import started
from archsim.explore.race import Race, Rivals, Task, why_give_up
from archsim.explore.store import DONE, FAILED, INFEASIBLE, PRUNED, Journal, Record, Store
from archsim.explore.sweep import Sweep
from archsim.reuse import ResultCache, reusing

__all__ = ["Outcome", "count_records", "evaluate_points", "is_complete", "prepare_store", "run_sweep"]

#: seconds of work that one message to a worker should carry, so that messages cost next to nothing
CHUNK_S = 0.2
#: times that a point may be in the hands of a worker that dies before it is recorded as failed
DEATHS = 3


@dataclass
class Outcome:
    """What a run did: records by status, those found done before, and the wall time of those that were tried.

    lookups, hits: of steps and tilings in the cache of results, over the points that were simulated. given_up: points
    that will get a record at the end, unless what is simulated until then brings them back. losses: by resource and
    objective, the share that more of the one was seen to cost of the other.
    """

    total: int
    reused: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    tried: int = 0
    busy_s: float = 0.0
    wall_s: float = 0.0
    lookups: int = 0
    hits: int = 0
    given_up: int = 0
    losses: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Count a record that came in."""
        self.counts[record.status] += 1
        self.tried += 1
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
    margin: float | None = None,
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
        reached. The front is the same as without as long as the margin is 0.
    margin: skip also points that would be better than another one by no more than that fraction, in what has yet to be
        simulated, and take it that more of a resource takes no longer, apart from the losses that simulated points show
        (`envelope.py`). That of the sweep if it is not given.
    retry: try points again that failed before.
    cache: folder in which steps and tilings are looked up before they are simulated (:func:`archsim.reuse.user_folder`
        is the one that all sweeps share); None for none. The results are the same to the bit.
    """
    begin = time.perf_counter()
    margin = sweep.spec.margin if margin is None else margin
    evaluator = Evaluator(sweep)
    numbers = prepare_store(sweep, store, limit, shard)
    known = store.records()
    tasks, found = [], []
    for number in numbers:
        point = sweep.space.point(number)
        task = Task(evaluator.key(point), number, point)
        record = known.get(task.key)
        if record is None or (retry and record.status == FAILED):
            tasks.append(task)
        else:
            found.append(record)
    outcome = Outcome(len(numbers), reused=len(found))
    on_progress(outcome)
    journal = Journal(store.journals)

    def ruled_out(status: str, reasons: Iterable[tuple[Task, str]]) -> None:
        records = [Record(task.key, task.number, task.point, status, why=why) for task, why in reasons]
        journal.append(records)
        outcome.counts[status] += len(records)
        on_progress(outcome)

    race: Race | None = None
    if prune and tasks:
        bounds = bound_points(evaluator, [task.point for task in tasks])
        ruled_out(INFEASIBLE, [(task, why) for task, why in zip(tasks, bounds.broken, strict=True) if why])
        order = [row for row in np.argsort(-bounds.score, kind="stable")[::-1].tolist() if not bounds.broken[row]]
        tasks = [tasks[row] for row in order]
        race = Race(sweep, tasks, bounds.objectives[order], margin, found)
    in_order = iter(range(len(tasks)))
    queue = _Queue(len(tasks), race.pick if race else lambda idle: next(in_order, None))

    def next_chunk(idle: bool) -> list[int]:
        chunk: list[int] = []
        lost: list[tuple[Task, str]] = []
        while len(chunk) < queue.chunk and (row := queue.pop(idle=idle and not chunk)) is not None:
            why = race.why_not(row) if race else None
            if why is not None:
                lost.append((tasks[row], why))
                continue
            chunk.append(row)
            if row in queue.deaths:
                break
        if lost:
            outcome.given_up = race.given_up if race else 0
            ruled_out(PRUNED, lost)
        return chunk

    def heard(records: Iterable[Record]) -> None:
        for record in records:
            outcome.add(record)
            if race:
                race.add(record)
        queue.chunk = int(min(max(CHUNK_S * outcome.tried / max(outcome.busy_s, 1e-9), 1), 64))
        outcome.given_up = race.given_up if race else 0
        on_progress(outcome)

    def died(rows: Sequence[int]) -> None:
        for row in queue.died(rows):
            task = tasks[row]
            record = Record(task.key, task.number, task.point, FAILED, why="the worker died every time")
            journal.append([record])
            heard([record])

    work = work_of(sweep, store, cache)

    def submit(pool: Executor, chunk: list[int]) -> Future[list[Record]]:
        rivals = None if race is None or any(map(race.tells, chunk)) else race.rivals()
        return pool.submit(evaluate_points, work, rivals, margin, [tasks[row].number for row in chunk])

    try:
        while queue:
            _drive(started(executor()), in_flight, next_chunk, submit, heard, died)
    finally:
        journal.close()
    outcome.wall_s = time.perf_counter() - begin
    outcome.losses = race.losses if race else {}
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
    """Rows still to be tried; those whose worker died come last and one at a time, to find the one that kills.

    pick: the next of `left` rows, or none yet; told whether nothing is under way.
    """

    def __init__(self, left: int, pick: Callable[[bool], int | None]) -> None:
        self.left, self.pick = left, pick
        self.suspects: list[int] = []
        self.deaths: Counter[int] = Counter()
        self.chunk = 1

    def __bool__(self) -> bool:
        return bool(self.left or self.suspects)

    def pop(self, *, idle: bool) -> int | None:
        """The next row; a suspect only where nothing else is left and nothing is under way."""
        if self.left:
            row = self.pick(idle)
            self.left -= row is not None
            return row
        return self.suspects.pop() if self.suspects and idle else None

    def died(self, rows: Sequence[int]) -> list[int]:
        """Take rows back; return those that have been with too many dying workers."""
        self.deaths.update(rows)
        self.suspects += [row for row in rows if self.deaths[row] < DEATHS]
        return [row for row in rows if self.deaths[row] >= DEATHS]


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


def evaluate_points(work: str, rivals: Rivals | None, margin: float, numbers: list[int]) -> list[Record]:
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


def evaluate_point(evaluator: Evaluator, number: int, rivals: Rivals | None = None, margin: float = 0.0) -> Record:
    """Evaluate one point, or as much of it as shows that it cannot matter. An error is recorded, and stops nothing."""
    point = evaluator.sweep.space.point(number)
    key, begin = evaluator.key(point), time.perf_counter()
    meta: dict[str, Value] = {"archsim": __version__, "model_version": MODEL_VERSION, "created": round(time.time(), 3)}

    def record(status: str, why: str = "", metrics: Metrics | None = None) -> Record:
        return Record(key, number, point, status, metrics or {}, why, time.perf_counter() - begin, meta)

    metrics: Metrics = {}
    try:
        for metrics, pending in evaluator.stages(point, bounds=rivals is not None):
            if pending and rivals and (why := why_give_up(evaluator.sweep, metrics, pending, rivals, margin)):
                return record(*why)  # without metrics: bounds are no measure of the point
    except InputError as error:
        return record(FAILED, str(error))
    except Exception as error:  # a fault of ours at one point must not cost the others
        return record(FAILED, f"internal fault ({type(error).__name__}: {error})")
    broken = [limit.text for limit in evaluator.sweep.constraints if limit.broken_by(metrics, evaluator.sweep.labels)]
    return record(INFEASIBLE if broken else DONE, "; ".join(broken), metrics)
