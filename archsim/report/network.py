"""The figure of a sweep of collectives over message sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from archsim.errors import ArchsimError, InputError, write_atomically

__all__ = ["bandwidth_figure"]

SUFFIXES = (".png", ".svg", ".pdf")
ALGBW, BUSBW = "#0072b2", "#d55e00"


def bandwidth_figure(
    nbytes: Sequence[int], time_us: Sequence[float], busbw: Sequence[float], title: str, path: Path
) -> None:
    """Draw time and bus bandwidth over the size, and write the figure to `path`."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"--plot {path}: the name must end in {', '.join(SUFFIXES)}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ArchsimError("figures need matplotlib: pip install 'archsim[plot]'") from error
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    left = figure.add_subplot()
    right = left.twinx()
    (rate,) = left.plot(nbytes, [value * 1e-9 for value in busbw], "o-", color=BUSBW, label="bus bandwidth")
    (time,) = right.plot(nbytes, time_us, "s--", color=ALGBW, markersize=4, label="time")
    left.set_xscale("log", base=2)
    right.set_yscale("log")
    left.set_ylim(bottom=0)
    left.set_xticks(list(nbytes)[:: max(1, len(nbytes) // 7)])
    left.xaxis.set_major_formatter(lambda value, _: f"{_binary(value)}")
    left.minorticks_off()
    left.set_xlabel("size")
    left.set_ylabel("bus bandwidth (GB/s)")
    right.set_ylabel("time (µs)")
    left.grid(alpha=0.25)
    left.set_title(title, fontsize="medium")
    left.legend(handles=[rate, time], loc="upper left", frameon=False)
    write_atomically(path, lambda beside: figure.savefig(beside, format=path.suffix[1:], dpi=150))


def _binary(nbytes: float) -> str:
    """``4 KiB`` for 4096."""
    for prefix in ("", "Ki", "Mi", "Gi"):
        if nbytes < 1024:
            return f"{nbytes:g} {prefix}B"
        nbytes /= 1024
    return f"{nbytes:g} TiB"
