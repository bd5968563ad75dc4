"""`archsim validate`: hold the simulator against reference data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from archsim.cli._common import console, emit_json, headed, json_option, progress, refuse
from archsim.cli._results import figure_file, wrote

if TYPE_CHECKING:
    from rich.table import Table

    from archsim.validation import Report, Suite

__all__ = ["validate"]

ERROR_TITLES = {
    "mape_pct": "mean error",
    "median_ape_pct": "median error",
    "p95_ape_pct": "95th percentile",
    "max_ape_pct": "worst error",
    "bias_pct": "bias",
}
PARTS = {
    "development": "the half of the rows that was developed on",
    "held_out": "the half that was held out",
    "transfer": "chips whose rows informed no parameter",
}


@click.command()
@click.argument("suite", required=False)
@click.option("--reference", type=click.Path(path_type=Path), help="A CSV file with the columns of a shipped one.")
@click.option("--rows", is_flag=True, help="Show every case.")
@click.option(
    "--per-group",
    type=click.IntRange(1),
    metavar="N",
    help="Compare N rows of each group and file, evenly spaced, where a suite samples.",
)
@click.option(
    "--least",
    type=click.FloatRange(0),
    default=0.0,
    metavar="VALUE",
    help="Leave out rows whose reference is smaller, where a suite samples: `op --least 20` microseconds.",
)
@click.option(
    "--jobs", type=click.IntRange(1), metavar="N", help="Processes, where comparing takes long.  [default: all cores]"
)
@click.option("--all", "everything", is_flag=True, help="Compare every row where a suite samples by default.")
@click.option("--markdown", is_flag=True, help="Print the errors of each group as a Markdown table.")
@figure_file("--plot", "Draw every case, simulated against reference")
@json_option
@click.pass_context
def validate(
    ctx: click.Context, suite: str | None, reference: Path | None, rows: bool, per_group: int | None, least: float,
    jobs: int | None, everything: bool, markdown: bool, plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Compare with reference data and print the errors; exit with 1 if they leave the suite's band.

    Without SUITE all suites run, on few rows where comparing takes long; with a --reference file alone, the suite that
    knows its columns. A suite whose model was developed on half of its rows names the errors of both halves, and of
    chips that informed nothing.

    \b
    archsim validate systolic
    archsim validate op --per-group 5 --least 20
    archsim validate op --reference mine.csv --rows --json
    archsim validate collective --plot collective.png
    """
    if everything:
        refuse("does not go with --all", "per_group")
    from archsim.validation import FEW, MANY, markdown_table, run_suite

    processes = jobs or os.cpu_count() or 1
    count = None if everything else per_group or (MANY if suite or reference else FEW)
    reports = []
    for each in _select(suite, reference):
        with progress(f"suite {each.name}") as update:
            reports.append(
                run_suite(each, reference, per_group=count, least=least, processes=processes, on_progress=update)
            )
    if plot is not None:
        from archsim.validation.agreement import draw_agreement

        draw_agreement(reports, plot)
        wrote(plot)
    if markdown:
        click.echo("\n\n".join(markdown_table(report) for report in reports))
    elif as_json:
        found = [report.as_dict(rows=rows) for report in reports]
        emit_json(found[0] if suite or reference else found)
    else:
        for report in reports:
            _print(report, rows)
    ctx.exit(0 if all(report.passed for report in reports) else 1)


def _select(name: str | None, reference: Path | None) -> list[Suite]:
    from archsim.errors import InputError, did_you_mean
    from archsim.validation import SUITES, suite_of

    if name is not None:
        if name not in SUITES:
            raise InputError(f"unknown suite '{name}'{did_you_mean(name, SUITES)}; there are: {', '.join(SUITES)}")
        return [SUITES[name]]
    return [suite_of(reference, SUITES.values())] if reference else list(SUITES.values())


def _groups(report: Report) -> Table:
    """The errors of each group, in percent."""
    from rich.table import Table

    table = Table("group", box=None)
    for name in ("cases", *(title.replace(" error", "") for title in ERROR_TITLES.values())):
        table.add_column(name, justify="right")
    for name, group in report.groups.items():
        errors = (group.error(error) for error in ERROR_TITLES)
        table.add_row(name, str(group.cases), *("-" if error is None else f"{error:.1f}" for error in errors))
    return table


def _print(report: Report, rows: bool) -> None:
    from rich.table import Table

    from archsim.validation import SUITES

    out = console()
    if rows:
        table = Table("case", box=None)
        for name in ("expected", "got", "error"):
            table.add_column(name, justify="right")
        if any(row.assumption for row in report.rows):
            table.add_column("assumption")
        for row in report.rows:
            said = [row.assumption] if row.assumption else []
            table.add_row(row.case, f"{row.expected:,.6g}", f"{row.got:,.6g}", f"{row.error_pct:+.2f} %", *said)
        out.print(table)
    if report.groups:
        out.print(_groups(report))
    for name, part in report.parts.items():
        error = part.error("mape_pct")
        if error is not None:
            bias = part.error("bias_pct")
            out.print(
                f"{PARTS[name]}: {part.cases:,} cases, mean error {error:.1f} %, bias {bias:+.1f} %", soft_wrap=True
            )
    out.print(headed(report.suite, f": {SUITES[report.suite].title}"), soft_wrap=True)
    summary = Table(box=None, show_header=False, padding=(0, 2))
    sampled = f" of {report.sampled_from:,}; --all compares every one" if report.sampled_from else ""
    summary.add_row("cases", f"{report.cases:,}{sampled}")
    for reason, count in report.skipped.items():
        summary.add_row("skipped", f"{count:,}: {reason}")
    for name in ERROR_TITLES:
        error = report.error(name)
        if error is not None:
            band = f"  (band {report.band[name]:g} %)" if name in report.band else ""
            summary.add_row(ERROR_TITLES[name], f"{error:.3g} %{band}")
    summary.add_row("wall time", f"{report.wall_s:.3f} s")
    out.print(summary)
    out.print("within its band", style="green") if report.passed else out.print("misses its band", style="red")
