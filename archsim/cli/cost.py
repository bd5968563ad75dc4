"""`archsim cost`: what a chip costs to make and to run, and its export-control figures."""

from __future__ import annotations

from pathlib import Path

import click

from archsim.cli._common import emit_json, json_option
from archsim.cli._results import figure_file, wrote
from archsim.cli.chip import set_option

__all__ = ["cost"]


@click.command()
@click.argument("chip")
@set_option
@click.option("--parts", "parts_name", default="default", metavar="FILE", help="Another list of parts and prices.")
@click.option(
    "--yield",
    "yield_model",
    type=click.Choice(("poisson", "murphy", "seeds", "negative")),
    default="negative",
    show_default=True,
    help="Model of the share of good dies.",
)
@click.option("--volume", type=int, help="Chips that share masks and engineering.  [default: as the parts list says]")
@click.option("--price", type=float, metavar="USD", help="Price of a chip.  [default: its parts and the usual margin]")
@click.option("--power", type=float, metavar="WATTS", help="Of a chip at work.  [default: its TDP]")
@click.option("--tokens-per-s", type=float, help="Of a chip, to price a million tokens.")
@figure_file("--floorplan", "Draw the dies to scale")
@json_option
def cost(
    chip: str,
    overrides: dict[str, str],
    parts_name: str,
    yield_model: str,
    volume: int | None,
    price: float | None,
    power: float | None,
    tokens_per_s: float | None,
    floorplan: Path | None,
    as_json: bool,
) -> None:
    """Show what CHIP costs: dies and yield, bill of materials, an hour of work, a million tokens, export figures.

    CHIP is a preset (`archsim chip list`) or a YAML file that names its process node (physical.technology).

    \b
    Examples:
      archsim cost h100
      archsim cost b200 --price 35000 --tokens-per-s 900
      archsim cost custom-npu --set physical.technology=n5 --yield murphy --floorplan npu.svg
    """
    from archsim.hardware import load_parts
    from archsim.physical import load_variant
    from archsim.physical.sheet import cost_sheet

    spec, parts = load_variant(chip, overrides), load_parts(parts_name)
    sheet = cost_sheet(
        spec, parts=parts, yield_model=yield_model, volume=volume, price_usd=price, watts=power,
        tokens_per_s=tokens_per_s,
    )  # fmt: skip
    if floorplan is not None:
        from archsim.physical import silicon
        from archsim.physical.drawing import write_floorplan

        write_floorplan(silicon(spec, parts), floorplan)
        wrote(floorplan)
    if as_json:
        emit_json(sheet)
        return
    from archsim.cli._physical import print_cost

    print_cost(spec.title, sheet)
