"""Searching instead of enumerating: Optuna proposes the next points from what the others reached (NSGA-II, TPE).

The study lies in the sweep's folder as Optuna's own journal (``optuna.log``), so its dashboard opens it
(``optuna-dashboard sweep/optuna.log``) and a search goes on where it stopped. The records of the points are in the same
store as those of any other sweep; a point proposed twice is evaluated once.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any

from archsim.errors import InputError
from archsim.explore.axis import number_of
from archsim.explore.evaluate import Evaluator
from archsim.explore.runner import Outcome, evaluate_points, prepare_store
from archsim.explore.store import DONE, Record, Store
from archsim.explore.sweep import Sweep

__all__ = ["search_sweep"]


def search_sweep(
    sweep: Sweep, store: Store, executor: Callable[[], Executor], *, in_flight: int,
    on_progress: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:  # fmt: skip
    """Try ``sampler.points`` proposals in all, those of earlier runs counted; at most `in_flight` at a time.

    Proposals depend on the order in which results come back, so that only ``in_flight=1`` repeats a search exactly.
    """
    evaluator, study = Evaluator(sweep), _study(sweep, store)
    known = store.records()
    trials = sweep.spec.sampler.points or 0
    outcome = Outcome(trials, reused=min(_finished(study), trials))
    spec = sweep.spec.model_dump(mode="json")
    pool = executor()
    held: dict[Future[list[Record]], tuple[Any, int]] = {}
    left = trials - outcome.reused
    try:
        while left or held:
            while left and len(held) < in_flight:
                left -= 1
                trial = study.ask()
                number = sweep.space.number(_choices(sweep, trial))
                record = known.get(evaluator.key(sweep.space.point(number)))
                if record is not None:
                    _tell(sweep, study, trial, record)
                    outcome.counts[record.status] += 1
                    continue
                arguments = (spec, str(sweep.folder), str(store.folder), [number])
                held[pool.submit(evaluate_points, *arguments)] = trial, number
            finished, _ = wait(held, return_when=FIRST_COMPLETED) if held else (set(), set())
            for future in finished:
                trial, _ = held.pop(future)
                (record,) = future.result()
                known[record.key] = record
                outcome.counts[record.status] += 1
                outcome.busy_s += record.wall_s
                _tell(sweep, study, trial, record)
            on_progress(outcome)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return outcome


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
