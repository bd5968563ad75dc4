"""`archsim systolic`: one matrix product on systolic arrays, fold by fold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from archsim.cli._common import console, emit_json, json_option, refuse
from archsim.cli._results import figure_file, wrote

if TYPE_CHECKING:
    from archsim.kernels.systolic import ArrayRun, Ports, SystolicCore

__all__ = ["systolic"]

SHORT = {"ws": "weight_stationary", "os": "output_stationary", "is": "input_stationary"}
DRAWN = 40


@click.command()
@click.argument("chip", required=False)
@click.option("--gemm", metavar="M,N,K", required=True, help="The product: M x K times K x N.")
@click.option("--array", metavar="RxC[:ws|os|is]", help="An array instead of a chip's.  [dataflow default: ws]")
@click.option("--count", type=int, help="Arrays that share the folds.  [default: the chip's, or 1]")
@click.option("--dtype", help="Operands, for the chip's rate.  [default: its fastest]")
@click.option("--ports", metavar="I,F,O", help="Words a cycle of ifmap, filter and ofmap; 0 is unlimited.")
@click.option("--sparsity", metavar="N:M", help="At most N of M weights along K differ from zero.")
@click.option("--no-overlap", is_flag=True, help="Without double registers: folds one after the other.")
@click.option("--convention", type=click.Choice(("physical", "scalesim")), default="physical", show_default=True)
@figure_file("--plot", "Draw the timeline of the first folds")
@json_option
def systolic(
    chip: str | None, gemm: str, array: str | None, count: int | None, dtype: str | None, ports: str | None,
    sparsity: str | None, no_overlap: bool, convention: str, plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Walk one product through the systolic arrays of a core, fold by fold: cycles, stalls, utilisation, accesses.

    \b
    Examples:
      archsim systolic custom-npu --gemm 2048,14336,4096
      archsim systolic --array 32x32:os --gemm 512,512,512 --ports 16,16,16
      archsim systolic --array 8x8 --gemm 64,64,64 --plot folds.png
      archsim systolic --array 32x32:ws --gemm 512,512,512 --convention scalesim --json
    """
    from archsim.kernels.systolic import Ports, run_product

    m, n, k = _integers(gemm, ",", 3, "--gemm")
    core = _core(chip, array, count, dtype, no_overlap, _integers(sparsity, ":", 2, "--sparsity") if sparsity else None)
    limits = Ports(*_integers(ports, ",", 3, "--ports")) if ports else Ports()
    run = run_product(core, m, n, k, ports=limits, convention=convention, timeline=plot is not None)  # type: ignore[arg-type]
    if plot is not None:
        _draw(run, plot)
        wrote(plot)
    if as_json:
        emit_json(_as_dict(core, run))
    else:
        _print(core, run, limits)


def _integers(text: str, separator: str, count: int, option: str) -> tuple[int, ...]:
    from archsim.errors import InputError, whole_number

    numbers = [whole_number(part) for part in text.split(separator)]
    if len(numbers) != count or None in numbers:
        raise InputError(f"{option} '{text[:40]}': write {count} whole numbers with '{separator}' between them")
    return tuple(number for number in numbers if number is not None)


def _core(
    chip: str | None, array: str | None, count: int | None, dtype: str | None, no_overlap: bool,
    sparsity: tuple[int, ...] | None,
) -> SystolicCore:  # fmt: skip
    from archsim.errors import InputError
    from archsim.kernels.systolic import SystolicCore

    kept = (sparsity[0], sparsity[1]) if sparsity else None
    if (chip is None) == (array is None):
        raise InputError("say either a CHIP or an --array RxC, not both and not neither")
    if array is not None:
        refuse("is of a CHIP; an --array multiplies one pair of operands a cycle", "dtype")
        size, _, flow = array.partition(":")
        rows, cols = _integers(size, "x", 2, "--array")
        if flow and flow not in SHORT:
            raise InputError(f"--array names the dataflow '{flow}'; there are: {', '.join(SHORT)}")
        return SystolicCore(rows, cols, SHORT[flow or "ws"], 1 if count is None else count, 1.0, not no_overlap, kept)
    from archsim.hardware import load_chip

    assert chip is not None
    unit = load_chip(chip).core.matrix
    if unit.kind != "systolic":
        raise InputError(f"{chip} has tensor cores, no systolic arrays")
    rates = {str(name): rate for name, rate in unit.dtypes.items()}
    if dtype is not None and dtype not in rates:
        raise InputError(f"the arrays of {chip} cannot multiply {dtype}; they have {', '.join(rates)}")
    rate = rates[dtype] if dtype else max(rates.values())
    return SystolicCore(
        unit.rows, unit.cols, unit.dataflow, unit.count if count is None else count, rate, not no_overlap, kept
    )


def _as_dict(core: SystolicCore, run: ArrayRun) -> dict[str, object]:
    return {
        "rows": core.rows, "cols": core.cols, "count": core.count, "dataflow": core.dataflow, "cycles": run.cycles,
        "stall_cycles": run.stall_cycles, "folds": run.folds, "utilisation": run.utilisation,
        "mapping_efficiency": run.mapping_efficiency,
        **{name: int(value) for name, value in run.accesses._asdict().items()},
    }  # fmt: skip


def _print(core: SystolicCore, run: ArrayRun, ports: Ports) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_row("arrays", f"{core.count} of {core.rows} x {core.cols}, {core.dataflow.replace('_', ' ')}")
    table.add_row("folds", f"{run.folds:,}")
    table.add_row("cycles", f"{run.cycles:,}")
    table.add_row("stalled", f"{run.stall_cycles:,} cycles of them on the ports" if run.stall_cycles else "never")
    table.add_row("utilisation", f"{run.utilisation:.1%}")
    table.add_row("mapping efficiency", f"{run.mapping_efficiency:.1%}")
    for name, words in run.accesses._asdict().items():
        table.add_row(name.replace("_", " "), f"{int(words):,} words, {int(words) / run.cycles:,.1f} a cycle")
    console().print(table)


def _draw(run: ArrayRun, path: Path) -> None:
    """One row per fold: load, stream, and the way out."""
    from archsim._figure import new_figure, save_figure

    shown = run.timeline[:DRAWN]
    figure = new_figure(9, 1.4 + 0.22 * len(shown))
    axes = figure.subplots()
    parts = (
        ("load what stays, wait", 1, 2, "#c9c9c9"),
        ("stream", 2, 3, "#2a6f97"),
        ("results leave", 3, 4, "#e0a458"),
    )
    for fold, row in enumerate(shown):
        for label, begin, end, colour in parts:
            first = int(row[begin])
            axes.barh(fold, int(row[end]) - first, left=first, color=colour, label=label if fold == 0 else None)
    axes.set_yticks(range(len(shown)), [f"fold {i}" for i in range(len(shown))], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("cycle")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8)
    more = f", the first {len(shown)} of {run.folds:,}" if run.folds > len(shown) else ""
    axes.set_title(f"{run.folds:,} folds{more}; {run.cycles:,} cycles in all", loc="right", fontsize=9)
    save_figure(figure, path)
