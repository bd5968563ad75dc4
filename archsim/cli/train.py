"""`archsim train`: simulate a training step on a system."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archsim.cli._common import console, emit_json, json_option, progress
from archsim.cli._results import check_outputs, figure_file, output_file, ranges_json, show_ranges, wrote
from archsim.cli.chip import set_option

if TYPE_CHECKING:
    from archsim.training import TrainStep

__all__ = ["train"]

DEGREES = {
    "tp": "Chips that share each layer (tensor parallelism).",
    "cp": "Chips that share each sequence (context parallelism).",
    "pp": "Pipeline stages.",
    "ep": "Chips of a stage that share its experts.",
}


def degrees(command: Callable[..., Any]) -> Callable[..., Any]:
    """--tp, --cp, --pp, --ep; --dp is what is left."""
    for name, help in reversed(DEGREES.items()):
        command = click.option(f"--{name}", type=click.IntRange(1), default=1, show_default=True, help=help)(command)
    return command


@click.command()
@click.argument("system")
@click.argument("workload")
@degrees
@click.option("--dp", type=click.IntRange(1), help="Replicas of the model.  [default: the chips that are left]")
@click.option("--sp/--no-sp", default=None, help="Split norms and residuals by tokens.  [default: where tp > 1]")
@click.option("--batch", type=click.IntRange(1), help="Sequences of a step.  [default: 8 micro-batches a stage]")
@click.option("--micro-batch", type=click.IntRange(1), default=1, show_default=True, help="Sequences at a time.")
@click.option("--seq", type=click.IntRange(1), default=4096, show_default=True, help="Tokens of a sequence.")
@click.option("--schedule", type=click.Choice(("1f1b", "gpipe", "zero-bubble", "dualpipe")), default="1f1b",
              show_default=True, help="Of micro-batches over stages.")  # fmt: skip
@click.option(
    "--virtual", type=click.IntRange(1), default=1, show_default=True, help="Chunks of layers a stage (1f1b)."
)
@click.option("--zero", type=click.IntRange(0, 3), default=1, show_default=True,
              help="Split over replicas: 1 optimizer, 2 gradients, 3 weights (FSDP).")  # fmt: skip
@click.option("--recompute", type=click.Choice(("none", "selective", "needed", "full")), default="none",
              show_default=True, help="What a layer computes again in its backward pass.")  # fmt: skip
@click.option("--gradients", type=click.Choice(("fp32", "bf16")), default="fp32", show_default=True,
              help="Type in which gradients are summed up and reduced.")  # fmt: skip
@click.option("--precision", type=click.Choice(("bf16", "fp8", "fp8-tensor", "mxfp8")), default="bf16",
              show_default=True,
              help="Of the products: fp8 has block scales, fp8-tensor one scale a tensor.")  # fmt: skip
@click.option("--attention", type=click.Choice(("fused", "unfused")), default="fused", show_default=True,
              help="Flash attention, or products per head with a softmax between them.")  # fmt: skip
@click.option("--experts", type=click.Choice(("fused", "eager")), default="fused", show_default=True,
              help="Clamps and biases of experts in the kernels around them, or in kernels of PyTorch.")  # fmt: skip
@click.option("--overlap/--no-overlap", default=True, show_default=True, help="Reduce gradients beside the passes.")
@click.option("--overlap-tp", type=click.Choice(("none", "gathers", "all")), default="none", is_flag=False,
              flag_value="all", show_default=True,
              help="Tensor-parallel collectives beside their products, piece by piece.")  # fmt: skip
@click.option("--exchange", type=click.Choice(("node", "row")), default="node", show_default=True,
              help="What crosses to other nodes for experts there: a row once, or for each.")  # fmt: skip
@click.option("--overlap-ep", is_flag=True, help="Rows travel to experts beside the kernels of another micro-batch.")
@click.option("--efficiency", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True,
              help="Share of the simulated speed of the passes that the software reaches.")  # fmt: skip
@click.option("--host-launch", type=click.FloatRange(0), default=0.0, metavar="US", show_default=True,
              help="Microseconds that the host needs to launch an operator.")  # fmt: skip
@click.option("--routing", metavar="KIND|FILE", help="Of tokens to experts.  [default: balanced]")
@click.option("--chip", metavar="NAME", help="Another chip than the system's.")
@set_option
@click.option("--fidelity", type=click.Choice(("roofline", "tile")), default="tile", show_default=True,
              help="Of the passes: a lower bound, or every tile.")  # fmt: skip
@click.option("--uncertainty", is_flag=True, help="Figures as intervals too, over the doubtful values of the chip.")
@output_file("--timeline", "Write a timeline for ui.perfetto.dev (.json or .json.gz).")
@figure_file("--plot", "Draw the schedule")
@json_option
def train(
    system: str, workload: str, timeline: Path | None, plot: Path | None, as_json: bool, fidelity: str,
    overrides: dict[str, str], chip: str | None, routing: str | None, precision: str, attention: str,
    experts: str, seq: int, efficiency: float, host_launch: float, uncertainty: bool, **degrees: Any,
) -> None:  # fmt: skip
    """Simulate one training step of WORKLOAD on SYSTEM: time, tokens/s, MFU, bubbles, memory of each stage.

    The passes of each layer are simulated tile by tile on one chip, the schedule on all stages, gradients and weights
    on the fabric. A degree that does not divide, or memory that does not suffice, is said in one sentence.

    \b
    Examples:
      archsim train hgx-h100 llama-3.1-8b --zero 3 --batch 128 --seq 8192
      archsim train h800-x2048 deepseek-v3 --pp 16 --ep 64 --schedule dualpipe --recompute selective \\
          --precision fp8 --batch 15360 --plot step.png
      archsim train a100-x16 llama-2-13b --tp 8 --pp 2 --batch 64 --timeline step.json.gz
    """
    check_outputs(timeline, plot)
    from archsim.hardware import load_system
    from archsim.training import Software, simulate_training
    from archsim.training.plan import fill

    where = load_system(system)
    plan, drawn = fill(where, **degrees), timeline is not None or plot is not None
    ranges = None
    with progress("simulating") as update:
        blocks: list[str] = []

        def hear(name: str) -> None:
            blocks.append(name)
            update(len(blocks), None)

        def simulated(values: Mapping[str, str]) -> TrainStep:
            return simulate_training(
                system, workload, plan, seq=seq, precision=precision, attention=attention, experts=experts,
                routing=routing, chip=chip, set=values, software=Software(efficiency, host_launch * 1e-6),
                fidelity=fidelity, timeline=drawn, progress=hear,
            )  # fmt: skip

        step = simulated(overrides)
        if uncertainty:
            from archsim.simulation.uncertainty import intervals

            ranges = intervals(chip or where.chip, lambda values: _figures(simulated(values)), overrides)
    from archsim.training import view

    if timeline is not None:
        view.write_timeline(step, timeline)
        wrote(timeline, "open it at ui.perfetto.dev")
    if plot is not None:
        view.draw_schedule(step, plot)
        wrote(plot)
    if as_json:
        emit_json(step.to_dict() | ({"uncertainty": ranges_json(ranges)} if ranges else {}))
        return
    out = console()
    out.print(view.step_view(step, out.width))
    if ranges is not None:
        show_ranges(ranges)


def _figures(step: TrainStep) -> dict[str, float]:
    return {
        "time_s": step.time_s, "tokens_per_s": step.tokens_per_s, "mfu": step.mfu,
        "model_flops_per_s_per_chip": step.model_flops,
    }  # fmt: skip
