"""`archsim trace`: export, import, show, list, compare and draw operator traces."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archsim.cli._common import console, emit_json, json_option
from archsim.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from archsim.trace import Graph, Op, Trace
    from archsim.trace.diff import GraphDiff

__all__ = ["trace"]

_PHASES = ("prefill", "decode")
_DEFAULT_POINT = {"batch": 1, "seq": 4096, "ctx": 4096}

phase_option = click.option("--phase", type=click.Choice(_PHASES), help="Which phase of inference.")


@click.group()
def trace() -> None:
    """Export, show, compare and draw operator traces of models."""


@trace.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the traces that ship with archsim."""
    from archsim.trace import list_workloads, load_workload

    rows = [_describe(load_workload(name, phase)) for name in list_workloads() for phase in _PHASES]
    if as_json:
        emit_json(rows)
        return
    table = _table("workload", "parameters", "layers", "KV bytes/token")
    for row in rows[:: len(_PHASES)]:  # the phases of a model differ in none of these
        layers = " + ".join(f"{b['repeat']} {b['name']}" for b in row["blocks"] if b["repeat"] > 1)
        table.add_row(row["name"], f"{row['parameters'] / 1e9:.2f} B", layers, f"{row['kv_bytes_per_token']:,}")
    console().print(table)


@trace.command()
@click.argument("source", metavar="FILE|NAME")
@phase_option
@click.option("--at", "point", metavar="SYMBOLS", default="", help="The point to evaluate, as in batch=8,ctx=4096.")
@json_option
def show(source: str, phase: str | None, point: str, as_json: bool) -> None:
    """Show the operators of a trace, their sizes, FLOPs and bytes, at one point.

    Without --at the point is batch=1 with 4096 new tokens (prefill) or 4096 cached tokens (decode).

    \b
    Examples:
      archsim trace show llama-3.1-8b --phase decode --at batch=8,ctx=4096
      archsim trace show my-model.decode.h5 --at batch=64,ctx=1024 --json
    """
    loaded = _load(source, phase)
    given = _point(point)
    graph = loaded.at(**{**{name: _DEFAULT_POINT[name] for name in loaded.symbols}, **given})
    if as_json:
        emit_json({**_describe(loaded), **_graph_json(graph)})
    else:
        _print_graph(loaded, graph)


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
    before, after = (
        loaded.at(**{**{name: _DEFAULT_POINT[name] for name in loaded.symbols}, **given})
        for loaded in (_load(a, phase), _load(b, phase))
    )
    change = diff_graphs(before, after)
    if as_json:
        sides = {side: {"name": g.name, "phase": g.phase} for side, g in (("a", before), ("b", after))}
        emit_json({**sides, "at": {k: getattr(before, k) for k in ("batch", "seq", "ctx")}, **change.to_dict()})
    else:
        _print_diff(before, after, change)


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
    subtitle = f"block {block.name}: {where}; shapes in {' and '.join(loaded.symbols)}"
    write(draw(f"{loaded.name} {loaded.phase}", subtitle, block_nodes(loaded, block)), out)
    wrote(out)


@trace.command()
@click.argument("model", metavar="MODEL")
@click.option("--phase", type=click.Choice(_PHASES), required=True, help="Which phase of inference.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The .h5 file to write.")
def export(model: str, phase: str, out: Path) -> None:
    """Export a trace from Hugging Face model code, at full size and without weights.

    MODEL is a model that ships with archsim or the path of a Hugging Face config.json.
    Needs torch and transformers: pip install archsim[export].

    \b
    Examples:
      archsim trace export deepseek-v3 --phase decode --out deepseek-v3.decode.h5
      archsim trace export ./my-model/config.json --phase prefill --out my-model.prefill.h5
    """
    from archsim.trace import capture

    begin = time.monotonic()
    name, config = _config(model)
    captured = capture(config, phase=phase, name=name)
    captured.save(out)
    size, seconds = out.stat().st_size, time.monotonic() - begin
    click.echo(f"{name} {phase}: wrote {out} ({size:,} bytes, {seconds:.1f} s)", err=True)


@trace.command("import")
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(("onnx", "chakra")), required=True, help="What kind of file it is.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The .h5 file to write.")
@click.option("--dim", "dims", metavar="NAME=SIZE", multiple=True, help="ONNX: what a symbolic dimension is.")
@click.option("--dtype", help="ONNX: run what is fp32 in the file in this type, as in bf16.")
def import_(source: Path, form: str, out: Path, dims: tuple[str, ...], dtype: str | None) -> None:
    """Make a trace of an ONNX model or of an MLCommons Chakra execution trace.

    It is a prefill trace unless archsim wrote the Chakra file in decode. A --dim is batch, seq or a number.
    Needs the onnx package for ONNX files: pip install archsim[onnx].

    \b
    Examples:
      archsim trace import gpt2.onnx --format onnx --dtype bf16 --out gpt2.h5
      archsim trace import bert.onnx --format onnx --dim tokens=seq --dim labels=3 --out bert.h5
      archsim trace import llama.0.et --format chakra --out llama.h5
    """
    from archsim.trace.importers import import_chakra, import_onnx

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


def _point(text: str) -> dict[str, int]:
    point = {}
    for term in filter(None, text.split(",")):
        name, _, value = (part.strip() for part in term.partition("="))
        if name not in _DEFAULT_POINT:
            raise InputError(f"--at {text}: unknown symbol '{name}'{did_you_mean(name, _DEFAULT_POINT)}")
        if not value.isdecimal():
            raise InputError(f"--at {text}: {name} needs a whole number, not '{value}'")
        point[name] = int(value)
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
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error})") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError(f"{path}: is not a Hugging Face configuration (it has no model_type)")
    name = path.resolve().parent.name if path.stem == "config" else path.stem
    return name, config


def _describe(loaded: Trace) -> dict[str, Any]:
    """What holds at every point."""
    graph = loaded.at(**dict.fromkeys(loaded.symbols, 1))
    return {
        "name": loaded.name,
        "phase": loaded.phase,
        "symbols": list(loaded.symbols),
        "content_hash": loaded.content_hash,
        "parameters": graph.n_params,
        "weight_bytes": graph.weight_bytes,
        "kv_bytes_per_token": graph.kv_bytes // (graph.seq + graph.ctx),
        "blocks": [{"name": block.name, "repeat": block.repeat, "ops": len(block.ops)} for block in loaded.blocks],
    }


def _graph_json(graph: Graph) -> dict[str, Any]:
    ops = [
        {
            "block": block.name,
            "name": op.name,
            "kind": op.kind,
            "dtype": op.dtype,
            "dims": op.dims,
            "attrs": op.attrs,
            "flops": op.flops,
            "bytes_read": op.bytes_read,
            "bytes_written": op.bytes_written,
        }
        for block in graph.blocks
        for op in block.ops
    ]
    point = {"batch": graph.batch, "seq": graph.seq, "ctx": graph.ctx}
    return {"at": point, "flops": graph.flops, "kv_bytes": graph.kv_bytes, "ops": ops}


def _print_graph(loaded: Trace, graph: Graph) -> None:
    out = console()
    held = _describe(loaded)
    point = ", ".join(f"{name}={getattr(graph, name)}" for name in loaded.symbols)
    out.print(f"[bold]{graph.name}[/bold] {graph.phase} at {point}")
    out.print(
        f"{graph.n_params / 1e9:.2f} B parameters ({_size(graph.weight_bytes)}), KV cache "
        f"{held['kv_bytes_per_token']:,} bytes a token ({_size(graph.kv_bytes)} here), {_count(graph.flops)}FLOP a step"
    )
    for block in graph.blocks:
        times = f", {block.repeat} times" if block.repeat > 1 else ""
        table = _table("operator", "kind", "dtype", "dims", "FLOP", "read", "written", "FLOP/B")
        table.title, table.title_justify = f"{block.name}{times}", "left"
        for op in block.ops:
            table.add_row(op.name, _kind(op), op.dtype, _dims(op), _count(op.flops), *_bytes(op))
        out.print(table)


def _print_diff(a: Graph, b: Graph, change: GraphDiff) -> None:
    out = console()
    point = ", ".join(f"{name}={getattr(a, name)}" for name in ("batch", "seq", "ctx"))
    out.print(f"[bold]{a.name}[/bold] {a.phase} to [bold]{b.name}[/bold] {b.phase} at {point}")
    if not change:
        out.print("no operator differs")
        return
    table = _table("", "operator", "change")
    for name, pair in change.totals.items():
        table.add_row("", name.replace("_", " "), _changed(name, *pair))
    for name, (before, after) in change.repeats.items():
        table.add_row("", f"block {name}", f"{before} to {after} times")
    for sign, listed in (("-", change.removed), ("+", change.added)):
        for block, op in listed:
            table.add_row(sign, f"{block}/{op.name}", f"{_kind(op)} {op.dtype} {_dims(op)}")
    for each in change.changed:
        text = ", ".join(f"{name} {_changed(name, *pair)}" for name, pair in each.fields.items())
        table.add_row("~", f"{each.block}/{each.name}", text)
    out.print(table)


def _changed(name: str, before: Any, after: Any) -> str:
    if name == "flops":
        return f"{_count(before).strip()} to {_count(after).strip()}"
    if "bytes" in name:
        return f"{_size(before)} to {_size(after)}"
    numbers = isinstance(before, int) and isinstance(after, int)
    short = [f"{v:,}" if numbers else str(v) if len(str(v)) <= 40 else f"{str(v)[:37]}..." for v in (before, after)]
    return " to ".join("none" if text == "None" else text for text in short)


def _kind(op: Op) -> str:
    return str(op.attrs["fn"]) if op.kind == "elementwise" else op.kind


def _dims(op: Op) -> str:
    return " ".join(f"{name}={size}" for name, size in op.dims.items())


def _bytes(op: Op) -> tuple[str, str, str]:
    moved = op.bytes_read + op.bytes_written
    return _size(op.bytes_read), _size(op.bytes_written), f"{op.flops / moved:.1f}" if moved else "-"


def _count(value: int) -> str:
    """Three significant digits with an SI prefix: 1.05 T."""
    return _scaled(value, 1000, ("", "k", "M", "G", "T", "P", "E"))


def _size(nbytes: int) -> str:
    return _scaled(nbytes, 1000, ("B", "kB", "MB", "GB", "TB"))


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    unit = 0
    while value >= base and unit < len(units) - 1:
        value, unit = value / base, unit + 1
    return f"{value:.3g} {units[unit]}"


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    text = {"", "workload", "phase", "layers", "symbols", "operator", "kind", "dtype", "dims", "change"}
    for column in columns:
        table.add_column(column, justify="left" if column in text else "right", overflow="fold")
    return table
