"""From a block of a trace to the nodes of its drawing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archsim.errors import InputError, did_you_mean, whole_number

if TYPE_CHECKING:
    from archsim.report.trace_graph import Node, Side
    from archsim.trace import BlockSpec, OpSpec, TensorSpec, Trace

__all__ = ["block_nodes", "find_block"]

_FAMILIES = {
    "matmul": "matrix", "grouped_matmul": "matrix", "attention": "attention", "moe_dispatch": "movement",
    "moe_combine": "movement", "embedding": "movement", "kv_append": "movement",
}  # fmt: skip
_OUTSIDE = ("prologue", "epilogue")


def find_block(trace: Trace, layer: str | None) -> tuple[BlockSpec, str]:
    """The block that `layer` (a number, counted from 0 over all layers, or a name) means, and how often it comes."""
    layers = [block for block in trace.blocks if block.name not in _OUTSIDE] or list(trace.blocks)
    total = sum(block.repeat * block.layers for block in layers)
    first, spans = 0, {}
    for block in layers:
        end = first + block.repeat * block.layers
        spans[block.name] = f"layer {first}" if end == first + 1 else f"layers {first} to {end - 1}"
        spans[block.name] += f", {block.layers} by turns" if block.layers > 1 else ""
        first = end
    if layer is None:
        chosen = max(layers, key=lambda block: block.repeat)
    elif (number := whole_number(layer)) is not None:
        if number >= total:
            raise InputError(f"--layer {layer}: {trace.name} has {total} layers, the first is 0")
        expanded = [block for block in layers for _ in range(block.repeat * block.layers)]
        chosen = expanded[number]
    else:
        names = {block.name: block for block in trace.blocks}
        if layer not in names:
            known = ", ".join(names)
            raise InputError(f"--layer {layer}: no such block{did_you_mean(layer, names)}; there are {known}")
        chosen = names[layer]
    return chosen, spans.get(chosen.name, "once")


def block_nodes(trace: Trace, block: BlockSpec) -> list[Node]:
    """Inputs of the block, its operators in execution order, its outputs."""
    from archsim.report.trace_graph import Node

    held = [i for op in block.ops for i in op.inputs if trace.tensors[i].role == "activation"]
    made = {i for op in block.ops for i in op.outputs}
    first_made = {i: at for at, op in reversed(list(enumerate(block.ops))) for i in op.outputs}
    outside = list(
        dict.fromkeys(
            i for at, op in enumerate(block.ops) for i in op.inputs
            if trace.tensors[i].role == "activation" and first_made.get(i, at) >= at
        )
    )  # fmt: skip
    nodes = [Node("input", (trace.tensors[i].name, _shape(trace.tensors[i])), "outside") for i in outside]
    source = {tensor: at for at, tensor in enumerate(outside)}
    for op in block.ops:
        read = dict.fromkeys(source[i] for i in op.inputs if i in source and trace.tensors[i].role == "activation")
        for tensor in op.outputs:
            source[tensor] = len(nodes)
        nodes.append(Node(op.name, _lines(trace, op), _family(op), tuple(read), tuple(_sides(trace, block, op))))
    elsewhere = {i for other in trace.blocks if other is not block for op in other.ops for i in op.inputs}
    last = block.ops[-1].outputs
    for tensor in sorted(i for i in made if trace.tensors[i].role == "activation"):
        if tensor in elsewhere or (tensor in last and tensor not in held):
            lines = (_shape(trace.tensors[tensor]),)
            nodes.append(Node("output", lines, "outside", (source[tensor],)))
    return nodes


def _lines(trace: Trace, op: OpSpec) -> tuple[str, ...]:
    what = str(op.attrs["fn"]) if op.kind == "elementwise" else op.kind.replace("_", " ")
    if op.kind == "attention":
        what += f", {op.dims['heads']} heads on {op.dims['kv_heads']}, {op.dims['kv_len']} keys"
    if op.kind in ("grouped_matmul", "router"):
        top_k = op.dims.get("top_k", op.attrs.get("top_k"))
        what += f", {top_k} of {op.dims.get('experts', op.dims.get('cols'))} experts"
    activations = [trace.tensors[i] for i in op.outputs if trace.tensors[i].role == "activation"]
    return (f"{what}, {op.dtype}", *(_shape(tensor) for tensor in activations))


def _family(op: OpSpec) -> str:
    moves = op.attrs.get("fn") in ("concat", "copy")
    return "movement" if moves else _FAMILIES.get(op.kind, "vector")


def _sides(trace: Trace, block: BlockSpec, op: OpSpec) -> list[Side]:
    from archsim.report.trace_graph import Side

    families = {"weight": "weight", "constant": "weight", "kv_cache": "cache"}
    sides = []
    for operands, written in ((op.inputs, False), (op.outputs, True)):
        for i in dict.fromkeys(operands):
            tensor = trace.tensors[i]
            if tensor.role in families:
                name = tensor.name.removeprefix(f"{block.name}.").removeprefix(op.name).lstrip(".") or "weight"
                sides.append(Side(f"{name.rpartition('.')[2]}  {_shape(tensor)}", families[tensor.role], written))
    return sides


def _shape(tensor: TensorSpec) -> str:
    axes = [f"({axis})" if " " in str(axis) else str(axis) for axis in tensor.shape]
    return f"{' × '.join(axes)} {tensor.dtype}".replace("*", "·")
