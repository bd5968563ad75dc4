"""`archsim fusion`: which operators of a step run as one kernel, and what that saves."""

from __future__ import annotations

from pathlib import Path

import click

from archsim.cli._common import console, emit_json, json_option, step_options

__all__ = ["fusion"]


@click.command()
@click.argument("chip")
@click.argument("workload")
@step_options
@click.option("--mapping", type=click.Path(path_type=Path), help="YAML with `fusion:` products, vectors, apart.")
@json_option
def fusion(
    chip: str, workload: str, phase: str, batch: int, seq: int | None, ctx: int | None, mapping: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Show which operators of a step of WORKLOAD become one kernel on one CHIP, and what that saves the step: launches,
    and traffic against operators that each read and write memory.

    \b
    Examples:
      archsim fusion h100 llama-3.1-8b --phase decode --batch 32
      archsim fusion h100 llama-3.1-8b --phase decode --mapping apart.yaml --json
    where apart.yaml may hold
      fusion:
        products: false                # products of one input stay apart
        vectors: true                  # runs of vector operators are one kernel
        apart: [mlp.residual]          # these become kernels of their own
    """
    from archsim.mapping import read_pins, savings
    from archsim.simulation import options_of
    from archsim.simulation.setting import prepare

    options = options_of(phase, batch=batch, seq=seq, ctx=ctx, pins=read_pins(mapping) if mapping else {})
    job = prepare(chip, workload, options)
    saved = savings(job.tasks, job.blocks)
    rows = [
        {"kernel": each.name, "operators": list(each.operators), "launches_saved": each.launches,
         "bytes_saved": each.nbytes}
        for each in saved
    ]  # fmt: skip
    kernels = sum(block.repeat * len(block.kernels) for block in job.blocks)
    total = {"kernels": kernels, "launches_saved": sum(each.launches for each in saved),
             "bytes_saved": sum(each.nbytes for each in saved)}  # fmt: skip
    if as_json:
        emit_json({"chip": job.chip.name, "workload": workload, **total, "fused": rows})
        return
    from rich.table import Table

    table = Table("kernel", "operators", "launches saved", "traffic saved", box=None, pad_edge=False)
    for each in saved:
        names = [name.rpartition(".")[2] for name in each.operators]
        table.add_row(each.name, " + ".join(names), f"{each.launches:,}", f"{each.nbytes / 1e6:,.3f} MB")
    console().print(table)
    gaps = total["launches_saved"] * job.target.launch_s(vector=True) * 1e6
    click.echo(
        f"{kernels:,} kernels a step; fusion saves {total['launches_saved']:,} launches (gaps of {gaps:,.1f} us) and "
        f"{total['bytes_saved'] / 1e6:,.3f} MB of traffic"
    )
