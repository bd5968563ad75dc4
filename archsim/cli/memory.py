"""`archsim memory`: list memory standards and run request streams through one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from archsim.cli._common import console, emit_json, json_option, refuse
from archsim.cli._results import figure_file, wrote

if TYPE_CHECKING:
    from archsim.memory import BenchResult

__all__ = ["memory"]


@click.group()
def memory() -> None:
    """List memory standards, and see what a stream of requests gets from one."""


@memory.command("list")
@json_option
def list_standards(as_json: bool) -> None:
    """List the standards with their bandwidth and organisation."""
    from archsim.hardware import list_memory_standards, load_memory_standard

    rows = []
    for standard in map(load_memory_standard, list_memory_standards()):
        pins = standard.channels_per_stack * standard.channel_width_bits
        timings = standard.provenance.get("timings")
        rows.append({
            "name": standard.name, "data_rate": standard.data_rate, "stack_bytes_per_s": standard.data_rate * pins / 8,
            "channels": standard.channels_per_stack, "banks": standard.banks, "row_bytes": standard.row_bytes,
            "confidence": timings.confidence if timings else "",
        })  # fmt: skip
    if as_json:
        emit_json(rows)
        return
    from rich.table import Table

    table = Table("name", box=None)
    for name in ("GT/s", "GB/s a stack", "channels", "banks", "row bytes", "timings"):
        table.add_column(name, justify="right")
    for row in rows:
        rates = (f"{float(str(row['data_rate'])) / 1e9:g}", f"{float(str(row['stack_bytes_per_s'])) / 1e9:,.0f}")
        table.add_row(
            str(row["name"]), *rates, *(str(row[k]) for k in ("channels", "banks", "row_bytes", "confidence"))
        )
    console().print(table)


@memory.command("bench")
@click.option("--memory", "standard", default="hbm3", show_default=True, help="Standard: a name or a YAML file.")
@click.option(
    "--pattern",
    default="sequential",
    show_default=True,
    help="sequential, random, row_thrash, stride_N, streamsN_aligned, streamsN_skewed, chunk_N.",
)
@click.option("--trace", type=click.Path(path_type=Path), help="Replay a trace of Ramulator or DRAMsim3 instead.")
@click.option("--requests", default=100_000, show_default=True, help="Requests, of one burst each.")
@click.option("--reads", default=1.0, show_default=True, help="Share of the requests that read.")
@click.option("--load", type=float, help="Offered share of the peak; as fast as it goes if not given.")
@click.option("--serial", is_flag=True, help="One request at a time.")
@click.option("--channels", default=1, show_default=True, help="Command channels (two pseudo-channels each in HBM).")
@click.option("--queue", default=32, show_default=True, help="Entries of the read and of the write queue of a channel.")
@click.option(
    "--scheduler", default="row_hits_first", show_default=True, type=click.Choice(["row_hits_first", "oldest_first"])
)
@click.option("--refresh", default="all_bank", show_default=True, type=click.Choice(["all_bank", "per_bank", "none"]))
@click.option("--row-policy", default="open", show_default=True, type=click.Choice(["open", "closed"]))
@figure_file("--plot", "Draw latency and bandwidth")
@json_option
def bench_command(
    standard: str, pattern: str, trace: Path | None, requests: int, reads: float, load: float | None, serial: bool,
    channels: int, queue: int, scheduler: str, refresh: str, row_policy: str, plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Run a stream of requests through the cycle model of a memory.

    \b
    Examples:
      archsim memory bench --memory hbm3 --pattern random
      archsim memory bench --memory hbm4 --pattern chunk_4096 --reads 0.75 --queue 64 --json
      archsim memory bench --memory hbm2 --trace requests.trace --plot latency.png
    """
    from archsim.errors import InputError
    from archsim.hardware.memory import ControllerSpec
    from archsim.memory import bench

    if trace is not None:
        refuse("is of a stream that is made; --trace says all of its requests", "pattern", "requests", "reads", "load")
    if not 1 <= queue <= 4096 or not 1 <= channels <= 4096:
        raise InputError(f"--queue {queue} --channels {channels}: both must be 1 to 4096")
    controller = ControllerSpec.model_validate(
        {
            "read_queue": queue,
            "write_queue": queue,
            "scheduler": scheduler,
            "refresh": refresh,
            "row_policy": row_policy,
        }
    )
    result = bench(standard, pattern, trace=trace, requests=requests, reads=reads, load=load, serial=serial,
                   channels=channels, controller=controller)  # fmt: skip
    if plot is not None:
        from archsim.memory.plot import plot_bench

        plot_bench(result, plot)
        wrote(plot)
    if as_json:
        emit_json(result.as_dict())
    else:
        _print(result)


def _print(result: BenchResult) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_row("memory", f"{result.memory}, {result.channels} channel{'s' * (result.channels > 1)}")
    table.add_row("stream", f"{result.stream}, {result.requests:,} requests in {result.time_s * 1e6:,.1f} us")
    table.add_row("bandwidth", f"{result.bytes_per_s / 1e9:,.2f} of {result.peak_bytes_per_s / 1e9:,.1f} GB/s")
    table.add_row("utilisation", f"{100 * result.utilisation:.1f} %")
    if result.latency_s:
        texts = (f"{name} {1e9 * value:,.0f}" for name, value in result.latency_s.items())
        table.add_row("read latency", ", ".join(texts) + " ns")
    table.add_row("row hits", f"{100 * result.row_hit_rate:.1f} %")
    table.add_row("refresh", f"{100 * result.refresh_share:.1f} % of the time")
    total = sum(result.energy_j.values())
    parts = ", ".join(f"{name} {100 * value / total:.0f} %" for name, value in result.energy_j.items() if value)
    table.add_row("energy", f"{result.pj_per_bit:.2f} pJ/bit, an estimate: {parts}")
    console().print(table)
