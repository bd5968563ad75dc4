"""`archsim trace`: export, import, show, list, compare and draw operator traces."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archsim.cli._common import console, emit_json, json_option
from archsim.cli._trace_tables import describe, graph_json, print_diff, print_graph, table
from archsim.errors import InputError, did_you_mean, whole_number

if TYPE_CHECKING:
    from archsim.trace import Graph, Trace

__all__ = ["trace"]

_PHASES = ("prefill", "decode", "train")
_SYMBOLS = ("batch", "seq", "ctx")
# where --at says nothing (seq in decode is 1 and ctx in prefill 0 anyhow)
_DEFAULT_POINT = {"prefill": {"seq": 4096}, "decode": {"ctx": 4096}, "train": {"seq": 4096}}

phase_option = click.option("--phase", type=click.Choice(_PHASES), help="Which kind of step.")


@click.group()
def trace() -> None:
    """Export, show, compare and draw operator traces of models."""


@trace.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the traces that ship with archsim."""
    from archsim.trace import list_workloads, load_workload

    rows = [describe(load_workload(name, phase)) for name in list_workloads() for phase in _PHASES]
    if as_json:
        emit_json(rows)
        return
    lines = table("workload", "parameters", "layers", "KV bytes/token")
    for row in rows[:: len(_PHASES)]:  # the phases of a model differ in none of these
        layers = " + ".join(f"{b['layers']} {b['name']}" for b in row["blocks"] if b["repeat"] > 1)
        lines.add_row(row["name"], f"{row['parameters'] / 1e9:.2f} B", layers, f"{row['kv_bytes_per_token']:,}")
    console().print(lines)


@trace.command()
@click.argument("source", metavar="FILE|NAME")
@phase_option
@click.option("--at", "point", metavar="SYMBOLS", default="", help="The point to evaluate, as in batch=8,ctx=4096.")
@json_option
def show(source: str, phase: str | None, point: str, as_json: bool) -> None:
    """Show the operators of a trace, their sizes, FLOPs and bytes, at one point.

    Without --at the point is batch=1 with 4096 new tokens (prefill, training) or 4096 cached tokens (decode).

    \b
    Examples:
      archsim trace show llama-3.1-8b --phase decode --at batch=8,ctx=4096
      archsim trace show llama-3.1-8b --phase prefill --at seq=2048,ctx=6144
      archsim trace show deepseek-v3 --phase train --at batch=4,seq=4096
      archsim trace show my-model.decode.h5 --at batch=64,ctx=1024 --json
    """
    loaded = _load(source, phase)
    given = _point(point)
    graph = _at(loaded, given)
    if as_json:
        emit_json({**describe(loaded), **graph_json(graph)})
    else:
        print_graph(loaded, graph)


@trace.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@phase_option
@click.option("--at", "point", metavar="SYMBOLS", default="", help="The point to evaluate both at, as in batch=8.")
@json_option
def diff(a: str, b: str, phase: str | None, point: str, as_json: bool) -> None:
    """Show what differs between two traces at one point: operators added, removed and changed.

    A and B are files, or names of shipped traces with --phase.

    \b
    Examples:
      archsim trace diff llama-3.1-8b llama-3.1-70b --phase decode
      archsim trace diff before.decode.h5 after.decode.h5 --at batch=64,ctx=1024 --json
    """
    from archsim.trace.diff import diff_graphs

    given = _point(point)
    before, after = (_at(loaded, given) for loaded in (_load(a, phase), _load(b, phase)))
    change = diff_graphs(before, after)
    if as_json:
        sides = {side: {"name": g.name, "phase": g.phase} for side, g in (("a", before), ("b", after))}
        emit_json({**sides, "at": {k: getattr(before, k) for k in ("batch", "seq", "ctx")}, **change.to_dict()})
    else:
        print_diff(before, after, change)


@trace.command()
@click.argument("source", metavar="FILE|NAME")
@phase_option
@click.option("--layer", metavar="N|BLOCK", help="Layer, counted from 0, or a block.  [default: the most frequent]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .svg or .png file to write.")
def graph(source: str, phase: str | None, layer: str | None, out: Path) -> None:
    """Draw one layer: operators as boxes, data as arrows, weights and KV cache at their side.

    \b
    Examples:
      archsim trace graph deepseek-v3 --phase decode --layer 3 --out moe-layer.svg
      archsim trace graph my-model.decode.h5 --layer epilogue --out end.png
    """
    from archsim.cli._results import check_outputs, wrote
    from archsim.cli._trace_graph import block_nodes, find_block
    from archsim.report.trace_graph import draw, write

    check_outputs(out)
    loaded = _load(source, phase)
    block, where = find_block(loaded, layer)
    subtitle = f"block {block.name}: {where}; shapes in {', '.join(loaded.symbols)}"
    write(draw(f"{loaded.name} {loaded.phase}", subtitle, block_nodes(loaded, block)), out)
    wrote(out)


@trace.command()
@click.argument("model", metavar="MODEL")
@click.option("--phase", type=click.Choice(_PHASES), help="Which kind of step.  [needed unless MODEL is a .h5 file]")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
@click.option("--mtp", is_flag=True, help="With the layers that predict more than one token (DeepSeek-V3, GLM-4.5).")
@click.option(
    "--format", "form", type=click.Choice(("hdf5", "chakra")), default="hdf5", show_default=True,
    help="archsim's own, or an MLCommons Chakra execution trace of one step, as ASTRA-sim reads it.",
)  # fmt: skip
@click.option("--at", "point", metavar="SYMBOLS", default="", help="Chakra: the sizes of the step, as in batch=8.")
def export(model: str, phase: str | None, out: Path, mtp: bool, form: str, point: str) -> None:
    """Export a trace from Hugging Face model code, at full size and without weights.

    MODEL is a model that ships with archsim or the path of a Hugging Face config.json; that needs torch and
    transformers: pip install archsim[export]. With --format chakra it may be a .h5 file too, and shipped models need
    no torch. Phases are prefill (also with tokens in the cache), decode, and train: forward, backward and optimizer.

    \b
    Examples:
      archsim trace export deepseek-v3 --phase decode --out deepseek-v3.decode.h5
      archsim trace export ./my-model/config.json --phase train --out my-model.train.h5
      archsim trace export llama-3.1-8b --phase decode --format chakra --at batch=8,ctx=4096 --out llama.0.et
    """
    from archsim.cli._results import check_outputs

    check_outputs(out)
    given, begin = _point(point), time.monotonic()
    if form == "chakra":
        from archsim.trace import with_mtp
        from archsim.trace.importers import export_chakra

        held = _captured(model, phase, False) if model.endswith(".json") else _load(model, phase)
        graph = _at(with_mtp(held) if mtp else held, given)
        export_chakra(graph, out)
        name, what = graph.name, f"{graph.phase} at batch={graph.batch}, seq={graph.seq}, ctx={graph.ctx}"
    else:
        if given:
            raise InputError(f"--at {point}: is for --format chakra; a trace of archsim holds for all sizes")
        captured = _captured(model, phase, mtp)
        captured.save(out)
        name, what = captured.name, captured.phase
    size, seconds = out.stat().st_size, time.monotonic() - begin
    click.echo(f"{name} {what}: wrote {out} ({size:,} bytes, {seconds:.1f} s)", err=True)


def _captured(model: str, phase: str | None, mtp: bool) -> Trace:
    from archsim.trace import capture

    if phase is None:
        raise InputError(f"say which phase of '{model}' to export: --phase {', --phase '.join(_PHASES)}")
    name, config = _config(model)
    return capture(config, phase=phase, name=name, mtp=mtp)


@trace.command("import")
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(("onnx", "chakra")), required=True, help="What kind of file it is.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The .h5 file to write.")
@click.option("--dim", "dims", metavar="NAME=SIZE", multiple=True, help="ONNX: what a symbolic dimension is.")
@click.option("--dtype", help="ONNX: run what is fp32 in the file in this type, as in bf16.")
def import_(source: Path, form: str, out: Path, dims: tuple[str, ...], dtype: str | None) -> None:
    """Make a trace of an ONNX model or of an MLCommons Chakra execution trace.

    It is a prefill trace unless archsim wrote the Chakra file of another phase. A --dim is batch, seq or a number.
    Needs the onnx package for ONNX files: pip install archsim[onnx].

    \b
    Examples:
      archsim trace import gpt2.onnx --format onnx --dtype bf16 --out gpt2.h5
      archsim trace import bert.onnx --format onnx --dim tokens=seq --dim labels=3 --out bert.h5
      archsim trace import llama.0.et --format chakra --out llama.h5
    """
    from archsim.cli._results import check_outputs
    from archsim.trace.importers import import_chakra, import_onnx

    check_outputs(out)
    if form == "chakra":
        if dims or dtype:
            raise InputError("--dim and --dtype are for ONNX files: a Chakra trace has fixed sizes and types")
        made = import_chakra(source)
    else:
        made = import_onnx(source, dims=dict(map(_dim, dims)), dtype=dtype)
    made.save(out)
    ops = sum(len(block.ops) for block in made.blocks)
    click.echo(f"{made.name} {made.phase}: wrote {out} ({ops} operators in {len(made.blocks)} blocks)", err=True)
    for what in ("collectives", "left_out"):
        if made.config.get(what):
            click.echo(f"  {what.replace('_', ' ')}: {json.dumps(made.config[what])}", err=True)


def _dim(text: str) -> tuple[str, str]:
    name, equals, size = text.rpartition("=")
    if not (name and equals and size):
        raise InputError(f"--dim {text}: write it as NAME=batch, NAME=seq or NAME=128")
    return name, size


def _load(source: str, phase: str | None) -> Trace:
    from archsim.trace import load_trace, load_workload

    if source.endswith(".h5") and phase is None:
        return load_trace(source)
    if phase is None:
        raise InputError(f"say which phase of '{source}' to show: --phase prefill or --phase decode")
    return load_workload(source, phase)


def _at(loaded: Trace, given: dict[str, int]) -> Graph:
    usual = {name: n for name, n in _DEFAULT_POINT[loaded.phase].items() if name in loaded.symbols}
    return loaded.at(**{**usual, **given})


def _point(text: str) -> dict[str, int]:
    point = {}
    for term in filter(None, text.split(",")):
        name, _, value = (part.strip() for part in term.partition("="))
        if name not in _SYMBOLS:
            raise InputError(f"--at {text}: unknown symbol '{name}'{did_you_mean(name, _SYMBOLS)}")
        number = whole_number(value)
        if number is None:
            raise InputError(f"--at {text}: {name} needs a whole number, not '{value}'")
        point[name] = number
    return point


def _config(model: str) -> tuple[str, dict[str, Any]]:
    """Name and configuration of a shipped model or of a config.json."""
    from archsim._data import data_path

    shipped = {path.stem: path for path in (data_path("workloads") / "configs").glob("*.json")}
    path = shipped.get(model, Path(model))
    if model not in shipped and path.suffix != ".json":
        known = ", ".join(sorted(shipped))
        raise InputError(
            f"unknown model '{model}'{did_you_mean(model, shipped)}; it is one of {known}, or a config.json"
        )
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: is not JSON ({error})") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError(f"{path}: is not a Hugging Face configuration (it has no model_type)")
    name = path.resolve().parent.name if path.stem == "config" else path.stem
    return name, config
