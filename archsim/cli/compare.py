"""`archsim compare`: two stored results side by side."""

from __future__ import annotations

from pathlib import Path

import click

from archsim.cli._common import console, emit_json, json_option
from archsim.cli._results import top_option

__all__ = ["compare"]


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@json_option
@top_option
def compare(a: Path, b: Path, as_json: bool, top: int) -> None:
    """Compare the results A and B: what differs in the set-up, the main numbers, and the operators.

    \b
    Examples:
      archsim compare h800.h5 h100.h5
      archsim compare h800.h5 h100.h5 --top 30
      archsim compare h800.h5 h100.h5 --json
    """
    from archsim.results import compare, load_result

    comparison = compare(load_result(a), load_result(b))
    if as_json:
        emit_json(comparison.to_dict())
        return
    from archsim.report.comparison import comparison_view

    out = console()
    out.print(comparison_view(comparison, top, out.width))
