"""The figure of a sweep of collectives over message sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from archsim._figure import new_figure, save_figure

__all__ = ["bandwidth_figure"]

ALGBW, BUSBW = "#0072b2", "#d55e00"


def bandwidth_figure(
    nbytes: Sequence[int], time_us: Sequence[float], busbw: Sequence[float], title: str, path: Path
) -> None:
    """Draw time and bus bandwidth over the size, and write the figure to `path`."""
    figure = new_figure(7.0, 4.2)
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
    save_figure(figure, path)


def _binary(nbytes: float) -> str:
    """``4 KiB`` for 4096."""
    for prefix in ("", "Ki", "Mi", "Gi"):
        if nbytes < 1024:
            return f"{nbytes:g} {prefix}B"
        nbytes /= 1024
    return f"{nbytes:g} TiB"
