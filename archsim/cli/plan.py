"""`archsim plan`: which way to spread a step over a system?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from archsim.cli._common import console, emit_json, headed, json_option, progress, refuse

__all__ = ["plan"]

#: what stands in a plan, and what it says
MARKS = {
    "+": "EP144+32: 144 chips share the experts and 32 redundant ones",
    "halves": "halves: those of a chip's batch take turns, one computes, the other communicates",
    "mb": "mb: sequences of a micro-batch; v: chunks of layers of a stage; selective, full: recomputation",
}


@click.command()
@click.argument("system")
@click.argument("workload")
@click.option("--phase", type=click.Choice(("prefill", "decode", "train")), required=True, help="What kind of step.")
@click.option("--batch", type=click.IntRange(1), required=True, help="Sequences over the whole system.")
@click.option("--seq", type=click.IntRange(1), help="New tokens of a sequence.  [default: train 4096, as `run`]")
@click.option("--ctx", type=click.IntRange(0), help="Tokens in the KV cache already.  [default: as `run`]")
@click.option("--cp", type=click.IntRange(1), help="Chips that share each sequence.  [default: 1 to 8 are tried]")
@click.option("--pp", type=click.IntRange(1),
              help="Stages of an inference step.  [default: 1 to 8 are tried; training: all that divide]")  # fmt: skip
@click.option("--quant", default="none", show_default=True, help="Of an inference step, as `run`.")
@click.option("--sparsity", metavar="N:M", default="none", show_default=True,
              help="Of weights in an inference step, as `run`.")  # fmt: skip
@click.option("--precision", type=click.Choice(("bf16", "fp8", "fp8-tensor", "mxfp8")), default="bf16",
              show_default=True, help="Of a training step, as `train`.")  # fmt: skip
@click.option("--simulate", "simulated", type=click.IntRange(0), default=2, show_default=True,
              help="How many of the best in closed form are simulated.")  # fmt: skip
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Plans to list.")
@json_option
def plan(
    system: str, workload: str, phase: str, batch: int, seq: int | None, ctx: int | None, cp: int | None,
    pp: int | None, quant: str, sparsity: str, precision: str, simulated: int, top: int, as_json: bool,
) -> None:  # fmt: skip
    """Rank the plans for one step of WORKLOAD on SYSTEM: which fit into memory, how fast each is, why others do not.

    All plans that divide what they must are scored in closed form, and the best few are simulated: tensor, data,
    expert, context and pipeline parallelism, with as many redundant experts as fill all chips alike; in training
    also chunks of layers, micro-batch, ZeRO, recomputation.

    \b
    Examples:
      archsim plan hgx-h800 llama-3.1-70b --phase decode --batch 64
      archsim plan h800-x144 deepseek-v3 --phase decode --batch 18432 --quant fp8 --simulate 1
      archsim plan h100-x16 llama-3.1-405b --phase decode --batch 64 --quant fp8
      archsim plan h800-x16 llama-3.1-8b --phase train --batch 128 --json
    """
    if phase == "train":
        refuse("is of a prefill or decode step; plans of a training step are all tried", "ctx", "cp", "pp", "quant",
               "sparsity")  # fmt: skip
    else:
        refuse("is of a training step; a prefill or decode step takes --quant", "precision")
    from archsim.planning import rank_inference, rank_training
    from archsim.simulation import Options

    with progress("ranking") as update:
        if phase == "train":
            ranking = rank_training(
                system, workload, batch=batch, seq=seq or 4096, precision=precision, simulated=simulated,
                progress=lambda done, total: update(done, total),
            )  # fmt: skip
        else:
            options = Options(phase=phase, batch=batch, seq=seq, ctx=ctx, quant=quant, sparsity=sparsity)
            ranking = rank_inference(
                system, workload, options, cp=cp, pp=pp, simulated=simulated,
                progress=lambda done, total: update(done, total),
            )  # fmt: skip
    if as_json:
        emit_json(ranking.to_dict())
        return
    from archsim.report.numbers import count, percent, si
    from archsim.report.table import table

    out = console()
    shown = ranking.fitting[:top]
    out.print(
        headed(
            f"{ranking.workload} {ranking.phase}, {ranking.system}",
            f"  {len(ranking.fitting):,} plans fit, {len(ranking.refused):,} do not",
        )
    )
    out.print(
        table(
            ["plan", ">bound", ">simulated", ">tokens/s", ">memory"],
            [
                (
                    _label(r.degrees), si(r.bound_s, "s"), "-" if r.time_s is None else si(r.time_s, "s"),
                    "< " * (r.time_s is None) + count(r.tokens_per_s / r.chips),
                    percent(r.memory_bytes / ranking.capacity_bytes),
                )
                for r in shown
            ],
            out.width,
        )
    )  # fmt: skip
    out.print(f"tokens/s of one chip; memory of its {si(ranking.capacity_bytes, 'B')}", style="dim")
    labels = " ".join(_label(r.degrees) for r in shown)
    for mark, meaning in MARKS.items():
        if mark in labels:
            out.print(meaning, style="dim")
    for name, why in ranking.refused[:3]:
        out.print(f"not {name}: {why}", style="dim", soft_wrap=True)
    for note in ranking.notes:
        out.print(f"note: {note}", style="dim", soft_wrap=True)


def _label(degrees: Mapping[str, Any]) -> str:
    """A plan in few words."""
    parts = [f"{name.upper()}{degrees[name]}" for name in ("tp", "cp", "pp", "dp", "ep") if degrees[name] > 1]
    if redundant := degrees.get("redundant"):
        parts[-1] += f"+{redundant}"
    if degrees.get("halves"):
        parts.append("halves")
    if "micro_batch" in degrees:
        parts.append(f"mb{degrees['micro_batch']}")
        if degrees["virtual"] > 1:
            parts.append(f"v{degrees['virtual']}")
        elif degrees["pp"] > 1:
            parts.append(degrees["schedule"])
        if degrees["zero"] != 1 and degrees["dp"] > 1:
            parts.append(f"ZeRO-{degrees['zero']}")
        if degrees["recompute"] != "none":
            parts.append(degrees["recompute"])
    return " ".join(parts) or "one chip"
