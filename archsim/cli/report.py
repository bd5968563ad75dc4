"""`archsim report`: show a stored result again."""

from __future__ import annotations

from pathlib import Path

import click

from archsim.cli._common import json_option
from archsim.cli._results import check_outputs, output_file, show, top_option

__all__ = ["report"]


@click.command()
@click.argument("result", type=click.Path(path_type=Path))
@output_file("--timeline", "Write a timeline for ui.perfetto.dev (.json or .json.gz).")
@output_file("--html", "Write a page of its own.")
@json_option
@top_option
def report(result: Path, timeline: Path | None, html: Path | None, as_json: bool, top: int) -> None:
    """Show a RESULT that `archsim run --out` stored.

    \b
    Examples:
      archsim report step.h5
      archsim report step.h5 --html step.html
      archsim report step.h5 --json
    """
    check_outputs(timeline, html)
    from archsim.results import load_result

    show(load_result(result), as_json=as_json, top=top, timeline=timeline, html=html)
