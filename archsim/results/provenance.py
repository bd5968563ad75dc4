"""The part of a result's meta that says which software made it, when, and by which command."""

from __future__ import annotations

import os
import platform
import time
from datetime import datetime, timezone
from typing import Any

import numpy as np

from archsim._version import MODEL_VERSION, __version__
from archsim.errors import InputError

__all__ = ["META", "check_meta", "run_meta"]

META: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("archsim_version", "python", "numpy", "command", "created"), str),
    "model_version": int,
    **dict.fromkeys(("chip", "chip_yaml", "chip_hash"), str),
    "chip_estimated": bool,
    "system": (str, type(None)),
    "chips": int,
    "plan": dict,
    **dict.fromkeys(("workload", "trace_hash", "phase", "quant"), str),
    **dict.fromkeys(("batch", "seq", "ctx", "seed"), int),
    **dict.fromkeys(("fidelity", "engine"), str),
    "exact": bool,
    "notes": list,
}
"""The keys that `Result.meta` has at least, and the types of their values."""


def run_meta(command: str = "", created: str | None = None) -> dict[str, Any]:
    """Provenance of a run started by `command` at `created` (ISO 8601).

    `created` makes results byte-identical; without it the time is that of SOURCE_DATE_EPOCH (seconds, the convention
    of reproducible builds), or else the present.

    >>> run_meta("archsim run h800 llama-3.1-8b", "2026-01-01T00:00:00+00:00")["created"]
    '2026-01-01T00:00:00+00:00'
    """
    return {
        "archsim_version": __version__,
        "model_version": MODEL_VERSION,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "command": command,
        "created": created or _now(),
    }


def _now() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    try:
        moment = datetime.fromtimestamp(int(epoch) if epoch else time.time(), timezone.utc)
    except (OverflowError, ValueError):
        raise InputError(f"SOURCE_DATE_EPOCH={epoch}: must be a whole number of seconds since 1970") from None
    return moment.isoformat(timespec="seconds")


def check_meta(meta: dict[str, Any]) -> None:
    """Raise ValueError unless `meta` holds every key of META with a value of its type."""
    for key, kind in META.items():
        if key not in meta:
            raise ValueError(f"meta lacks '{key}'")
        if not isinstance(meta[key], kind):
            raise ValueError(f"meta['{key}'] is {meta[key]!r:.60}")
    if meta["phase"] not in ("prefill", "decode") or meta["chips"] < 1:
        raise ValueError(f"meta names phase '{meta['phase']}' on {meta['chips']} chips")
