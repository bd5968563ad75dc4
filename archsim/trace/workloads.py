"""The traces that ship with archsim, by name."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from archsim._data import data_path
from archsim.errors import InputError, did_you_mean
from archsim.trace.hdf5 import load_trace
from archsim.trace.trace import PHASES, Trace

__all__ = ["list_workloads", "load_workload"]


def list_workloads() -> tuple[str, ...]:
    """Names of the shipped workloads, sorted, other names of the same model included."""
    return tuple(
        sorted({path.name.rsplit(".", 2)[0] for path in data_path("workloads").glob("*.*.h5")} | set(_aliases()))
    )


def load_workload(name: str, phase: str) -> Trace:
    """The trace of a workload in `phase`: of a shipped one, of the file NAME.PHASE.h5, or of the `.h5` file NAME."""
    if phase not in PHASES:
        raise InputError(f"unknown phase '{phase}'{did_you_mean(phase, PHASES)}; it is one of {', '.join(PHASES)}")
    if name.endswith(".h5"):
        trace = load_trace(name)
        if trace.phase != phase:
            every = name.removesuffix(f".{trace.phase}.h5")
            hint = f"; {every} stands for the files {every}.PHASE.h5 of all phases" if every != name else ""
            raise InputError(f"{name}: holds the {trace.phase} phase, not {phase}{hint}")
        return trace
    known = list_workloads()
    if name not in known:
        own = Path(f"{name}.{phase}.h5")
        if own.is_file():
            return load_trace(own)
        raise InputError(
            f"unknown workload '{name}'{did_you_mean(name, known)}, and there is no file {own}; shipped are "
            f"{', '.join(known)}"
        )
    model = _aliases().get(name, name)
    path = Path(data_path("workloads")) / f"{model}.{phase}.h5"
    if not path.exists():
        raise InputError(f"the workload '{name}' has no {phase} trace ({path})")
    return replace(load_trace(path), name=name) if model != name else load_trace(path)


@lru_cache(maxsize=1)
def _aliases() -> dict[str, str]:
    """Models that differ from another in their weights only, and that other one."""
    aliases: dict[str, str] = json.loads((data_path("workloads") / "aliases.json").read_text(encoding="utf-8"))
    return aliases
