"""What `archsim trace` prints: tables of a trace, of its operators, and of what differs between two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from archsim.cli._common import console, headed

if TYPE_CHECKING:
    from archsim.trace import Graph, Op, Trace
    from archsim.trace.diff import GraphDiff

__all__ = ["describe", "graph_json", "print_diff", "print_graph", "table"]


#: columns of a terminal from which there is room for all that is known of an operator
WIDE = 110


def describe(loaded: Trace) -> dict[str, Any]:
    """What holds at every point."""
    graph = loaded.at(**dict.fromkeys(loaded.symbols, 1))
    held = graph.seq + graph.ctx
    return {
        "name": loaded.name,
        "phase": loaded.phase,
        "symbols": list(loaded.symbols),
        "content_hash": loaded.content_hash,
        "parameters": graph.n_params,
        "weight_bytes": graph.weight_bytes,
        "kv_bytes_per_token": graph.kv_bytes // held,
        "blocks": [
            {"name": b.name, "repeat": b.repeat, "layers": b.repeat * b.layers, "ops": len(b.ops)}
            for b in loaded.blocks
        ],
    }


def graph_json(graph: Graph) -> dict[str, Any]:
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
    totals: dict[str, Any] = {"flops": graph.flops, "kv_bytes": graph.kv_bytes}
    if graph.phase == "train":
        totals |= {
            "gradient_bytes": graph.gradient_bytes,
            "optimizer_bytes": graph.optimizer_bytes,
            "saved_bytes": graph.saved_bytes,
            "saved": {graph.tensors[i].name: graph.tensors[i].nbytes * n for i, n in graph.saved.items()},
        }
    return {"at": point, **totals, "ops": ops}


def print_graph(loaded: Trace, graph: Graph) -> None:
    out = console()
    held = describe(loaded)
    point = ", ".join(f"{name}={getattr(graph, name)}" for name in loaded.symbols)
    out.print(headed(graph.name, f" {graph.phase} at {point}"))
    memory = (
        f"gradients {_size(graph.gradient_bytes)}, optimizer {_size(graph.optimizer_bytes)}, activations saved for the "
        f"backward pass {_size(graph.saved_bytes)}"
        if graph.phase == "train"
        else f"KV cache {held['kv_bytes_per_token']:,} bytes a token ({_size(graph.kv_bytes)} here)"
    )
    parameters = f"{graph.n_params / 1e9:.2f} B parameters ({_size(graph.weight_bytes)})"
    out.print(f"{parameters}, {memory}, {_count(graph.flops)}FLOP a step", soft_wrap=True)
    for block in graph.blocks:
        times = f", {block.repeat} times" if block.repeat > 1 else ""
        times += f", {block.layers} layers each" if block.layers > 1 else ""
        columns = ("operator", "kind", "dtype", "dims", "FLOP", "read", "written", "FLOP/B")
        kept = [c for c in columns if out.width >= WIDE or c not in ("kind", "dtype", "FLOP/B")]
        lines = table(*kept)
        lines.title, lines.title_justify = f"{block.name}{times}", "left"
        for op in block.ops:
            cells = (op.name, _kind(op), op.dtype, _dims(op), _count(op.flops), *_bytes(op))
            lines.add_row(*(cell for column, cell in zip(columns, cells, strict=True) if column in kept))
        out.print(lines)


def print_diff(a: Graph, b: Graph, change: GraphDiff) -> None:
    out = console()
    point = ", ".join(f"{name}={getattr(a, name)}" for name in ("batch", "seq", "ctx"))
    out.print(headed(a.name, f" {a.phase} to ") + headed(b.name, f" {b.phase} at {point}"))
    if not change:
        out.print("no operator differs")
        return
    lines = table("", "operator", "change")
    for name, pair in change.totals.items():
        lines.add_row("", name.replace("_", " "), _changed(name, *pair))
    for name, (before, after) in change.repeats.items():
        lines.add_row("", f"block {name}", f"{before} to {after} times")
    for sign, listed in (("-", change.removed), ("+", change.added)):
        for block, op in listed:
            lines.add_row(sign, f"{block}/{op.name}", f"{_kind(op)} {op.dtype} {_dims(op)}")
    for each in change.changed:
        text = ", ".join(f"{name} {_changed(name, *pair)}" for name, pair in each.fields.items())
        lines.add_row("~", f"{each.block}/{each.name}", text)
    out.print(lines)


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


def table(*columns: str) -> Any:
    from rich.table import Table

    lines = Table(box=None, pad_edge=False, header_style="dim")
    text = {"", "workload", "phase", "layers", "symbols", "operator", "kind", "dtype", "dims", "change"}
    for column in columns:
        whole = column not in ("dims", "change", "layers")
        lines.add_column(column, justify="left" if column in text else "right", overflow="fold", no_wrap=whole)
    return lines
