"""Where the data directories are: inside an installed package, or beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path

from archsim.errors import ArchsimError

__all__ = ["data_path"]


def data_path(name: str) -> Path:
    """The directory ``configs`` or ``workloads``.

    >>> (data_path("configs") / "chips").is_dir()
    True
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise ArchsimError(f"the data directory '{name}' is missing; install archsim again (pip install .)")
