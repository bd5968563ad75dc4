"""`archsim run`: simulate a workload on a chip or a system."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from archsim.cli._common import cp_by_option, json_option, progress, shared_experts_option, step_options
from archsim.cli._results import check_outputs, output_file, show, top_option, wrote
from archsim.cli.chip import set_option
from archsim.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from archsim.results import Result

__all__ = ["run"]


def _counts(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", value):
        raise InputError(f"--stage-layers {value}: must be whole numbers with commas between them, such as 20,20")
    return tuple(map(int, value.split(",")))


@click.command()
@click.argument("chip")
@click.argument("workload")
@step_options
@click.option("--system", metavar="NAME", help="Of such chips: a preset, a YAML file, or CHIP-xN.  [default: one chip]")
@click.option("--tp", type=int, help="Tensor-parallel degree.  [default: chosen]")
@click.option("--ep", type=int, help="Expert-parallel degree.  [default: chosen]")
@click.option("--cp", type=int, default=1, show_default=True, help="Chips that share each sequence and its cache.")
@cp_by_option
@click.option("--pp", type=int, default=1, show_default=True, help="Stages of a pipeline, of equally many chips.")
@click.option("--stage-layers", metavar="N,N,...", callback=_counts, help="Of each stage.  [default: balanced by time]")
@click.option("--micro-batches", type=int, help="That fill the pipeline.  [default: one a stage]")
@click.option("--redundant", type=int, default=0, show_default=True, help="Copies of experts that relieve busy chips.")
@shared_experts_option
@click.option("--node-limit", type=int, help="Nodes of a token's experts, 0: any.  [default: as the model is trained]")
@click.option(
    "--overlap",
    type=click.Choice(("auto", "two-batch", "none")),
    default="auto",
    show_default=True,
    help="Two halves of a chip's batch take turns: one computes while the other communicates.",
)
@set_option
@click.option(
    "--quant",
    type=click.Choice(("none", "fp8", "fp8-kv", "int8", "int4", "fp4", "fp4-kv", "fp4-mlp-kv", "mxfp4")),
    default="none",
    show_default=True,
    help="Narrower weights, activations (fp8, int8, fp4) and KV cache (-kv; fp4-mlp-kv: attention as it is).",
)
@click.option("--sparsity", metavar="N:M", default="none", show_default=True,
              help="Of linear layers' weights, where the chip can use it.")  # fmt: skip
@click.option(
    "--routing",
    metavar="KIND|FILE",
    help="Of tokens to experts: uniform, balanced, zipf:S or a file of measured routing.  [default: as the trace says]",
)
@click.option("--mtp", is_flag=True, help="With the layers that predict more than one token (DeepSeek-V3, GLM-4.5).")
@click.option(
    "--fidelity",
    type=click.Choice(("roofline", "tile", "cycle")),
    default="tile",
    show_default=True,
    help="A lower bound in closed form, every tile, or every DRAM command (cycle: chips without a cache, slow).",
)
@click.option(
    "--engine",
    type=click.Choice(("compiled", "simpy")),
    default="compiled",
    show_default=True,
    help="simpy is the readable reference, for small workloads.",
)
@click.option("--exact", is_flag=True, help="Simulate every repeated layer and wave of tiles, also once they settle.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the routing of tokens to experts.")
@click.option("--uncertainty", is_flag=True, help="Every figure as an interval, over the doubtful values of the chip.")
@click.option("--power-cap", type=float, metavar="WATTS", help="Of one chip: lowers its clock.  [default: its TDP]")
@click.option("--mapping", type=click.Path(path_type=Path), help="YAML: tilings, attention kernels, fusion, layout.")
@output_file("--out", "Store the result (HDF5); `archsim report` shows it again.")
@output_file("--timeline", "Write a timeline for ui.perfetto.dev (.json or .json.gz).")
@output_file("--html", "Write a page of its own.")
@json_option
@top_option
def run(
    chip: str,
    workload: str,
    phase: str,
    batch: int,
    seq: int | None,
    ctx: int | None,
    system: str | None,
    tp: int | None,
    ep: int | None,
    cp: int,
    cp_by: str,
    pp: int,
    stage_layers: tuple[int, ...] | None,
    micro_batches: int | None,
    redundant: int,
    shared_experts: str,
    node_limit: int | None,
    overlap: str,
    overrides: dict[str, str],
    quant: str,
    sparsity: str,
    routing: str | None,
    mtp: bool,
    fidelity: str,
    engine: str,
    exact: bool,
    seed: int,
    uncertainty: bool,
    power_cap: float | None,
    mapping: Path | None,
    out: Path | None,
    timeline: Path | None,
    html: Path | None,
    as_json: bool,
    top: int,
) -> None:
    """Simulate one step of WORKLOAD on CHIP: a whole prompt, or one token of each sequence.

    A prefill with --ctx is a later chunk of a prompt, or one whose prefix was found in the cache; a decode with --seq
    verifies that many tokens of a speculation at once.

    CHIP is a preset (`archsim chip list`) or a YAML file, WORKLOAD a shipped trace (`archsim trace list`) or a file.

    \b
    Examples:
      archsim run h800 llama-3.1-8b --phase decode --batch 32 --ctx 4096
      archsim run h800 deepseek-v3 --phase decode --batch 11808 --quant fp8 --system h800-x144 --tp 1 --redundant 32
      archsim run h100 llama-3.1-405b --phase decode --batch 64 --quant fp8 --system h100-x16 --tp 8 --pp 2
      archsim run h100 llama-3.1-70b --phase prefill --seq 131072 --quant fp8 --system h100-x16 --tp 4 --cp 4
      archsim run custom-npu llama-3.1-8b --phase prefill --seq 4096 --set core.matrix.rows=256 --html npu.html
      archsim run tpu-v5e deepseek-r1-distill-qwen-1.5b --phase decode --fidelity cycle
      archsim run h100 llama-3.1-8b --phase decode --quant fp8 --sparsity 2:4    # pruned weights
      archsim run h800 llama-3.1-8b --phase decode --mapping mapping.yaml    # layout: {kv_cache: paged, page_size: 64}
    """
    check_outputs(out, timeline, html)
    import archsim

    with progress("simulating") as update:

        def step(values: Mapping[str, str]) -> Result:
            return archsim.simulate(
                chip,
                workload,
                phase=phase,
                batch=batch,
                seq=seq,
                ctx=ctx,
                system=system,
                tp=tp,
                ep=ep,
                cp=cp,
                cp_by=cp_by,
                pp=pp,
                stage_layers=stage_layers,
                micro_batches=micro_batches,
                redundant=redundant,
                shared_experts=shared_experts,
                node_limit=node_limit,
                overlap=overlap,
                set=dict(values),
                fidelity=fidelity,
                engine=engine,
                exact=exact,
                quant=quant,
                sparsity=sparsity,
                routing=routing,
                mtp=mtp,
                timeline=timeline is not None,
                seed=seed,
                power_cap=power_cap,
                mapping=mapping,
                command=shlex.join(["archsim", *sys.argv[1:]]),
                progress=lambda done, total, block: update(done, total),
            )

        result = step(overrides)
        ranges = None
        if uncertainty:
            from archsim.simulation.uncertainty import intervals

            ranges = intervals(chip, step, overrides)
    if out is not None:
        result.to_hdf5(out)
        wrote(out)
    show(result, as_json=as_json, top=top, timeline=timeline, html=html, ranges=ranges)
