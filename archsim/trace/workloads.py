"""The traces that ship with archsim, by name."""

from __future__ import annotations

from pathlib import Path

from archsim._data import data_path
from archsim.errors import InputError, did_you_mean
from archsim.trace.hdf5 import load_trace
from archsim.trace.trace import PHASES, Trace

__all__ = ["list_workloads", "load_workload"]


def list_workloads() -> tuple[str, ...]:
    """Names of the shipped workloads, sorted."""
    return tuple(sorted({path.name.rsplit(".", 2)[0] for path in data_path("workloads").glob("*.*.h5")}))


def load_workload(name: str, phase: str) -> Trace:
    """The trace of a shipped workload, or of the `.h5` file that `name` is the path of, in `phase`."""
    if phase not in PHASES:
        raise InputError(f"unknown phase '{phase}'{did_you_mean(phase, PHASES)}; it is one of {', '.join(PHASES)}")
    if name.endswith(".h5"):
        trace = load_trace(name)
        if trace.phase != phase:
            raise InputError(f"{name}: holds the {trace.phase} phase, not {phase}")
        return trace
    known = list_workloads()
    if name not in known:
        raise InputError(f"unknown workload '{name}'{did_you_mean(name, known)}; shipped are {', '.join(known)}")
    path = Path(data_path("workloads")) / f"{name}.{phase}.h5"
    if not path.exists():
        raise InputError(f"the workload '{name}' has no {phase} trace ({path})")
    return load_trace(path)
