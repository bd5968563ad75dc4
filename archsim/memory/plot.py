"""A figure of a memory bench: how long reads wait, and the bandwidth over time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from archsim._figure import new_figure, save_figure
from archsim.memory.bench import BenchResult

__all__ = ["plot_bench"]

WINDOWS = 60


def plot_bench(result: BenchResult, path: Path) -> None:
    """Write the figure."""
    figure = new_figure(9, 3.6)
    latency, bandwidth = figure.subplots(1, 2)
    if len(result.read_latency_s):
        sorted_ns = np.sort(result.read_latency_s) * 1e9
        latency.plot(sorted_ns, np.linspace(0, 100, len(sorted_ns)), color="#1f5fa8")
    latency.set(xlabel="read latency (ns)", ylabel="requests served within (%)", ylim=(0, 101), xlim=(0, None))
    counts, edges = np.histogram(result.done_s, bins=WINDOWS, range=(0.0, result.time_s))
    burst = result.bytes_moved / result.requests
    rate = counts * burst / (edges[1] - edges[0]) / 1e9
    bandwidth.stairs(rate, edges * 1e6, fill=True, color="#1f5fa8", alpha=0.6)
    bandwidth.axhline(result.peak_bytes_per_s / 1e9, color="#a33", linewidth=1)
    bandwidth.text(0, result.peak_bytes_per_s / 1e9, " peak", color="#a33", va="bottom")
    bandwidth.set(xlabel="time (us)", ylabel="bandwidth (GB/s)", xlim=(0, result.time_s * 1e6))
    bandwidth.set_ylim(0, result.peak_bytes_per_s / 1e9 * 1.12)
    figure.suptitle(f"{result.memory}: {Path(result.stream).name}, {100 * result.utilisation:.0f} % of the peak")
    for axes in (latency, bandwidth):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    save_figure(figure, path)
