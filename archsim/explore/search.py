"""Searching instead of enumerating: Optuna proposes the next points from what the others reached (NSGA-II, TPE).

The study lies in the sweep's folder as Optuna's own journal (``optuna.log``), so its dashboard opens it
(``optuna-dashboard sweep/optuna.log``) and a search goes on where it stopped. The records of the points are in the same
store as those of any other sweep; a point proposed twice is evaluated once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from pathlib import Path
from typing import Any

from archsim.errors import InputError
from archsim.explore.axis import number_of
from archsim.explore.evaluate import Evaluator
from archsim.explore.executors import started
from archsim.explore.runner import DEATHS, Outcome, evaluate_points, prepare_store, work_of
from archsim.explore.store import DONE, FAILED, Journal, Record, Store
from archsim.explore.sweep import Sweep

__all__ = ["search_sweep"]


def search_sweep(
    sweep: Sweep, store: Store, executor: Callable[[], Executor], *, in_flight: int, cache: Path | None = None,
    on_progress: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:  # fmt: skip
    """Try ``sampler.points`` proposals in all, those of earlier runs counted; at most `in_flight` at a time.

    Proposals depend on the order in which results come back, so that only ``in_flight=1`` repeats a search exactly.
    The points of a worker that dies run again, alone, as those of `run_sweep`, whose `executor` and `cache` these are.
    """
    begin = time.perf_counter()
    search = _Search(sweep, store)
    work = work_of(sweep, store, cache)
    held: dict[Future[list[Record]], tuple[Any, int]] = {}
    taken: list[tuple[Any, int]] = []  # between the search and the pool
    pool = started(executor())
    try:
        while search or held:
            try:
                while len(held) < in_flight and (proposal := search.next(alone=not held)) is not None:
                    taken = [proposal]
                    held[pool.submit(evaluate_points, work, ([], []), 0.0, [proposal[1]])] = proposal
                    taken = []
                for future in wait(held, return_when=FIRST_COMPLETED).done if held else ():
                    (record,) = future.result()
                    search.heard(held.pop(future)[0], record)
            except (BrokenExecutor, CancelledError):
                pool.shutdown(wait=False, cancel_futures=True)
                search.died([*held.values(), *taken])
                held.clear()
                taken = []
                pool = started(executor())
            on_progress(search.outcome)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        search.journal.close()
    search.outcome.wall_s = time.perf_counter() - begin
    return search.outcome


class _Search:
    """The study with its proposals: those still to be made, and those whose worker died, which run alone."""

    def __init__(self, sweep: Sweep, store: Store) -> None:
        self.sweep, self.evaluator, self.study = sweep, Evaluator(sweep), _study(sweep, store)
        self.known, self.journal = store.records(), Journal(store.journals)
        trials = sweep.spec.sampler.points or 0
        self.outcome = Outcome(trials, reused=min(_finished(self.study), trials))
        self.left = trials - self.outcome.reused
        self.suspects: list[tuple[Any, int]] = []
        self.deaths: Counter[int] = Counter()

    def __bool__(self) -> bool:
        return bool(self.left or self.suspects)

    def next(self, *, alone: bool) -> tuple[Any, int] | None:
        """A trial and its point that need a worker; points with a record are told at once."""
        if self.suspects:
            return self.suspects.pop() if alone else None
        while self.left:
            self.left -= 1
            trial = self.study.ask()
            number = self.sweep.space.number(_choices(self.sweep, trial))
            point = self.sweep.space.point(number)
            for path in self.sweep.free:  # its parameters are ranks; what stands there is for readers
                trial.set_user_attr(path, point[path])
            record = self.known.get(self.evaluator.key(point))
            if record is None:
                return trial, number
            self.outcome.counts[record.status] += 1
            _tell(self.sweep, self.study, trial, record)
        return None

    def heard(self, trial: Any, record: Record) -> None:
        """Keep and tell what a worker found."""
        self.known[record.key] = record
        self.outcome.add(record)
        _tell(self.sweep, self.study, trial, record)

    def died(self, proposals: Sequence[tuple[Any, int]]) -> None:
        """Take proposals back from a dead worker; one that was with too many of them is recorded as failed."""
        for trial, number in proposals:
            self.deaths[number] += 1
            if self.deaths[number] < DEATHS:
                self.suspects.append((trial, number))
                continue
            point = self.sweep.space.point(number)
            record = Record(self.evaluator.key(point), number, point, FAILED, why="the worker died every time")
            self.journal.append([record])
            self.heard(trial, record)


def _study(sweep: Sweep, store: Store) -> Any:
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        kind = sweep.spec.sampler.kind
        raise InputError(f"sampler.kind: '{kind}' needs Optuna: pip install 'archsim[explore]'") from None
    prepare_store(sweep, store, 0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = sweep.spec.sampler
    if sampler.points is None:
        raise InputError(f"sampler.points: the sampler '{sampler.kind}' needs the number of points to try")
    made = optuna.samplers.NSGAIISampler if sampler.kind == "nsga2" else optuna.samplers.TPESampler
    study = optuna.create_study(
        study_name=sweep.spec.title or sweep.spec.chip,
        storage=JournalStorage(JournalFileBackend(str(store.folder / "optuna.log"))),
        sampler=made(seed=sampler.seed),
        directions=["maximize" if objective.sign > 0 else "minimize" for objective in sweep.objectives],
        load_if_exists=True,
    )
    study.set_metric_names([objective.key for objective in sweep.objectives])
    for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):  # of a killed run
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _finished(study: Any) -> int:
    from optuna.trial import TrialState

    ended = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.FAIL])
    return sum(trial.state == TrialState.COMPLETE or "told" in trial.user_attrs for trial in ended)


def _choices(sweep: Sweep, trial: Any) -> list[int]:
    """A value of each axis: by rank where the values are numbers, as categories where they are names."""
    choices = []
    for axis in sweep.space.axes:
        name, values = " + ".join(axis.paths), [value[0] for value in axis.values]
        if all(number_of(value) is not None for value in values):
            choices.append(trial.suggest_int(name, 0, len(axis) - 1))
        else:
            choices.append(trial.suggest_categorical(name, list(range(len(axis)))))
    return choices


def _tell(sweep: Sweep, study: Any, trial: Any, record: Record) -> None:
    """Report the objectives; a point that fails or breaks a constraint is told as failed, so that it wins nothing."""
    from optuna.trial import TrialState

    keys = [objective.key for objective in sweep.objectives]
    if record.status == DONE and all(key in record.metrics for key in keys):
        study.tell(trial, [record.metrics[key] for key in keys])
    else:
        trial.set_user_attr("told", record.status)  # unlike the trial of a run that was killed
        study.tell(trial, state=TrialState.FAIL)
