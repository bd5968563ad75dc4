"""Figures with matplotlib, an optional extra: how all of them are begun and saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from archsim.errors import ArchsimError, InputError, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_figure", "new_figure", "save_figure"]

SUFFIXES = (".png", ".svg", ".pdf")


def check_figure(path: Path) -> None:
    """Raise InputError unless the suffix of `path` is one of a figure."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: the name of a figure must end in .png, .svg or .pdf")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ArchsimError("figures need matplotlib: pip install archsim[plot]") from None
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path, **options: Any) -> None:
    """Write `figure` to `path`, whole or not at all, and the same bytes every time; the suffix chooses the format."""
    check_figure(path)
    import matplotlib

    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)
    with matplotlib.rc_context({"svg.hashsalt": "archsim"}):
        write_atomically(
            path, lambda beside: figure.savefig(beside, format=path.suffix[1:], dpi=150, metadata=undated, **options)
        )
