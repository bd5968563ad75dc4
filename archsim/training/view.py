"""A training step in a terminal, as a picture of its schedule, and as a timeline for Perfetto."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from archsim._figure import check_figure, new_figure, save_figure
from archsim.errors import write_atomically
from archsim.pipeline.run import Span
from archsim.report.numbers import count, percent, si
from archsim.report.table import table
from archsim.training.memory import StageMemory
from archsim.training.result import TrainStep

__all__ = ["draw_schedule", "step_view", "write_timeline"]

#: colours of passes (Okabe and Ito, readable to the colour-blind)
COLOURS = {"F": "#56b4e9", "B": "#009e73", "I": "#66c2a5", "W": "#f0e442", "FB": "#cc79a7", "update": "#999999",
           "network": "#d55e00"}  # fmt: skip
LEGEND = {"F": "forward", "B": "backward", "I": "input gradients", "W": "weight gradients", "FB": "forward + backward",
          "update": "optimizer", "network": "weights and gradients over the network"}  # fmt: skip


def step_view(step: TrainStep, width: int) -> RenderableType:
    """Headline, passes of each block, memory of the stages."""
    plan, chips = step.plan, step.plan.chips
    where = f"{chips:,} x {step.chip.name}" if chips > 1 else step.chip.name
    head = Text.assemble(
        (f"{step.workload} training, {where}", "bold"), f"  {plan}; batch {plan.batch:,} x {step.seq:,} tokens, "
        f"micro-batch {plan.micro_batch}, {step.precision}\n",
        ("step ", "dim"), (si(step.time_s, "s"), "bold"),
        ("   throughput ", "dim"), (f"{count(step.tokens_per_s)} tokens/s", "bold"),
        f" ({count(step.tokens_per_s / chips)} a chip)",
        ("   MFU ", "dim"), (percent(step.mfu), "bold"), ("   HFU ", "dim"), percent(step.hfu),
        ("   bubble ", "dim"), percent(step.bubble), ("   exposed network ", "dim"), percent(step.exposed), "\n",
    )  # fmt: skip
    passes = table(
        ["block", ">times", ">forward", ">backward", ">of weights", ">collectives"],
        [
            (
                b.name, str(b.repeat), si(b.forward.time * 1e-12, "s"), si(b.backward.time * 1e-12, "s"),
                si(b.backward.weights * 1e-12, "s"), si((b.forward.collectives + b.backward.collectives) * 1e-12, "s"),
            )
            for b in step.passes
        ],
        width,
    )  # fmt: skip
    labels = [label for label, _ in step.stages[0].rows()]
    memory = table(
        ["stage", *(f">{label}" for label in labels), ">total", ">of memory"],
        [
            (str(rank), *(f"{n / 1e9:.1f} GB" for _, n in stage.rows()), f"{stage.total / 1e9:.1f} GB",
             percent(stage.total / step.chip.memory.usable_capacity))
            for rank, stage in _worth_showing(step)
        ],
        width,
    )  # fmt: skip
    notes = Text("\n".join(f"note: {note}" for note in step.notes), style="dim")
    return Group(head, passes, Text(), memory, Text(), notes)


def _worth_showing(step: TrainStep) -> list[tuple[int, StageMemory]]:
    """The first, the fullest and the last stage where there are many."""
    stages = list(enumerate(step.stages))
    if len(stages) <= 8:
        return stages
    fullest = max(stages, key=lambda item: item[1].total)
    return [each for each in stages if each in (stages[0], fullest, stages[-1])]


def write_timeline(step: TrainStep, path: Path) -> None:
    """Chrome trace JSON for ui.perfetto.dev, a process for each pipeline rank; compressed if the name ends in .gz."""
    text = json.dumps({"displayTimeUnit": "ms", "traceEvents": list(_events(step.spans))})
    data = gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode()
    write_atomically(path, lambda beside: beside.write_bytes(data))


def _events(spans: tuple[Span, ...]) -> Iterator[dict[str, object]]:
    for rank in sorted({span.rank for span in spans}):
        yield {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"stage {rank}"}}
        for tid, lane in enumerate(("compute", "network")):
            yield {"ph": "M", "name": "thread_name", "pid": rank, "tid": tid, "args": {"name": lane}}
    for span in spans:
        yield {
            "ph": "X", "name": span.name, "pid": span.rank, "tid": int(span.lane == "network"),
            "ts": span.start_ps / 1e6, "dur": span.ps / 1e6, "cat": kind_of(span),
        }  # fmt: skip


def kind_of(span: Span) -> str:
    """The key of `COLOURS` that a span belongs to."""
    if span.lane == "network":
        return "network"
    if span.name.startswith("update"):
        return "update"
    return "FB" if "+" in span.name else span.name[0]


def draw_schedule(step: TrainStep, path: Path) -> None:
    """The step as a picture: a row for each rank, time to the right."""
    check_figure(path)
    ranks = len(step.stages)
    figure = new_figure(11.0, 1.6 + 0.32 * ranks)
    from matplotlib.patches import Patch

    axes = figure.add_subplot()
    used: set[str] = set()
    for span in step.spans:
        kind = kind_of(span)
        used.add(kind)
        network = span.lane == "network"
        axes.broken_barh(
            [(span.start_ps * 1e-12, span.ps * 1e-12)],
            (span.rank + (0.28 if network else -0.42), 0.14 if network else 0.66),
            facecolors=COLOURS[kind], edgecolors="white", linewidth=0.2,
        )  # fmt: skip
    axes.set_ylim(ranks - 0.4, -0.6)
    axes.set_xlim(0, step.time_s)
    axes.set_yticks(range(ranks))
    axes.set_ylabel("stage")
    axes.set_xlabel("time (s)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"{step.workload} on {step.plan.chips:,} x {step.chip.name}: {step.plan}, {percent(step.mfu)} MFU, "
        f"{percent(step.bubble)} bubble", fontsize="medium", loc="left",
    )  # fmt: skip
    handles = [Patch(color=COLOURS[kind], label=LEGEND[kind]) for kind in COLOURS if kind in used]
    axes.legend(handles=handles, ncols=len(handles), loc="upper center",
                bbox_to_anchor=(0.5, -0.16 - 0.6 / (ranks + 3)), frameon=False, fontsize="small")  # fmt: skip
    save_figure(figure, path)
