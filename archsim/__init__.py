"""archsim: a cycle-approximate simulator of AI chips, driven by operator traces of large language models.

    import archsim
    result = archsim.simulate(chip="h800", workload="llama-3.1-8b", phase="decode", batch=32, ctx=4096)

Names below are imported when they are first used, so that `import archsim` is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from archsim._version import MODEL_VERSION, __version__
from archsim.errors import ArchsimError, InputError, KernelError

if TYPE_CHECKING:
    from archsim.explore import open_sweep
    from archsim.hardware import ChipSpec, SystemSpec, list_chips, list_systems, load_chip, load_system
    from archsim.results import Result, compare, load_result
    from archsim.simulation import simulate
    from archsim.trace import Trace, list_workloads, load_trace, load_workload

_LAZY = {
    "ChipSpec": "archsim.hardware",
    "Result": "archsim.results",
    "SystemSpec": "archsim.hardware",
    "Trace": "archsim.trace",
    "compare": "archsim.results",
    "list_chips": "archsim.hardware",
    "list_systems": "archsim.hardware",
    "list_workloads": "archsim.trace",
    "load_chip": "archsim.hardware",
    "load_result": "archsim.results",
    "load_system": "archsim.hardware",
    "load_trace": "archsim.trace",
    "load_workload": "archsim.trace",
    "open_sweep": "archsim.explore",
    "simulate": "archsim.simulation",  # not archsim/simulate.py: importing that would replace the function here
}

__all__ = [
    "MODEL_VERSION",
    "ArchsimError",
    "ChipSpec",
    "InputError",
    "KernelError",
    "Result",
    "SystemSpec",
    "Trace",
    "__version__",
    "compare",
    "list_chips",
    "list_systems",
    "list_workloads",
    "load_chip",
    "load_result",
    "load_system",
    "load_trace",
    "load_workload",
    "open_sweep",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'archsim' has no attribute '{name}'")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
