"""Reading an ONNX file: checked, without its weights' values, with every shape in ``batch`` and ``seq``.

The file is not trusted: its size, node count and tensor sizes are bounded, external data is never opened, and what
could make shape inference run away (functions, loops, branches) is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archsim.errors import InputError
from archsim.trace.importers.builder import read_bounded
from archsim.trace.importers.onnx_infer import Found, infer_apart
from archsim.trace.importers.sizes import POINTS, Size, fit

__all__ = ["Array", "OnnxGraph", "read_graph"]

_MAX_FILE_BYTES = 2**31 - 1  # protobuf's own limit
_MAX_NODES = 50_000
_MAX_ELEMENTS = 2**40
_MAX_AXES = 16
_KEPT_ELEMENTS = 4096  # integers up to this many are kept: they may be the shape of a reshape
_SYMBOLS = {
    "batch": {"batch", "batch_size", "batchsize", "bs", "b", "n"},
    "seq": {"seq", "seq_len", "seq_length", "seqlen", "sequence", "sequence_length", "tokens", "num_tokens", "s", "t"},
}


@dataclass(frozen=True)
class Array:
    """A tensor of the model: its shape, and its ONNX element type by name (``FLOAT``, ``INT64``, ...).

    fault: why the shape is not known (it is then empty); harmless unless somebody needs it.
    """

    shape: tuple[Size, ...]
    element: str
    fault: str = ""


@dataclass
class OnnxGraph:
    """The nodes in order, and every array that they name. `weights`: those that the file (or a Constant node) holds."""

    name: str
    nodes: list[Any]
    arrays: dict[str, Array]
    weights: set[str]
    outputs: set[str]
    producer: str
    dims: dict[str, str] = field(default_factory=dict)


def read_graph(path: Path, dims: Mapping[str, str]) -> OnnxGraph:
    """Read, check and infer; `dims` says what each symbolic dimension is: ``batch``, ``seq`` or a number."""
    onnx = _onnx()
    data = read_bounded(path, _MAX_FILE_BYTES)
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf raises its own, by version
        raise InputError(f"is not an ONNX model ({_first_line(error)})") from None
    _check(model)
    bound = _bind(model.graph, dims)
    light = _without_weights(onnx, model)
    points = POINTS if any(means in _SYMBOLS for means in bound.values()) else POINTS[:1]
    numbers = [{"batch": batch, "seq": seq} for batch, seq in points]
    points_of = [{name: at.get(means) or int(means) for name, means in bound.items()} for at in numbers]
    shapes = infer_apart(light.SerializeToString(), points_of)
    weights = {t.name for t in model.graph.initializer}
    weights |= {node.output[0] for node in model.graph.node if node.op_type == "Constant" and node.output}
    return OnnxGraph(
        name=path.stem,
        nodes=list(model.graph.node),
        arrays={name: _array(name, [each.get(name) for each in shapes]) for name in shapes[0]},
        weights=weights,
        outputs={output.name for output in model.graph.output},
        producer=f"{model.producer_name} {model.producer_version}".strip()[:100],
        dims=bound,
    )


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise InputError("reading ONNX files needs the onnx package: pip install archsim[onnx]") from None
    return onnx


def _check(model: Any) -> None:
    """Refuse what is not one flat graph of standard operators."""
    graph = model.graph
    _need(len(graph.node) > 0, "has no nodes, so it is no ONNX model")
    _need(len(graph.node) <= _MAX_NODES, f"has more than {_MAX_NODES:,} nodes")
    _need(not model.functions, "has functions of its own: inline them first (onnx.inliner)")
    _need(not graph.sparse_initializer, "has sparse weights, which archsim does not read")
    _need(all(isinstance(text, str) for text in _texts(graph)), "has names that are not UTF-8")
    known = {t.name for t in graph.initializer} | {i.name for i in graph.input} | {""}
    for node in graph.node:
        where = f"node '{node.name or node.op_type}'"
        standard = node.domain in ("", "ai.onnx")
        _need(standard, f"{where}: the operator {node.domain}.{node.op_type} is not one of ONNX's own")
        nested = any(a.HasField("g") or a.graphs or a.sparse_tensors for a in node.attribute)
        _need(not nested, f"{where}: {node.op_type} holds a graph (a loop or branch), which archsim does not read")
        unknown = [name for name in node.input if name not in known]
        _need(not unknown, f"{where}: nothing before it makes its input '{unknown[0] if unknown else ''}'")
        _need(len(node.output) > 0, f"{where}: it has no output")
        twice = [name for name in node.output if name and name in known]
        _need(not twice, f"{where}: '{twice[0] if twice else ''}' is made twice")
        known.update(node.output)
        tensors = [a.t for a in node.attribute if a.HasField("t")] + [t for a in node.attribute for t in a.tensors]
        for tensor in tensors:
            _check_tensor(tensor, where)
    for tensor in graph.initializer:
        _check_tensor(tensor, f"weight '{tensor.name}'")


def _texts(graph: Any) -> Iterator[object]:
    """Every name that is used later (protobuf gives bytes for what is no text)."""
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
        yield from (text for entry in node.metadata_props for text in (entry.key, entry.value))
    for value in (*graph.input, *graph.output):
        yield value.name
        yield from (axis.dim_param for axis in value.type.tensor_type.shape.dim)
    yield from (tensor.name for tensor in graph.initializer)


def _check_tensor(tensor: Any, where: str) -> None:
    dims = list(tensor.dims)
    _need(len(dims) <= _MAX_AXES and _sane(dims), f"{where}: impossible shape {dims[:_MAX_AXES]}")


def _bind(graph: Any, dims: Mapping[str, str]) -> dict[str, str]:
    """Each symbolic dimension of the inputs -> ``batch``, ``seq`` or a number."""
    held = {t.name for t in graph.initializer}
    names: dict[str, None] = {}
    for value in graph.input:
        if value.name in held:
            continue
        _need(value.type.HasField("tensor_type"), f"input '{value.name}' is not a tensor")
        _need(value.type.tensor_type.HasField("shape"), f"input '{value.name}' has no shape")
        axes = value.type.tensor_type.shape.dim
        _need(len(axes) <= _MAX_AXES, f"input '{value.name}' has more than {_MAX_AXES} axes")
        for i, axis in enumerate(axes):
            if axis.HasField("dim_value"):
                sane = 0 < axis.dim_value <= _MAX_ELEMENTS
                _need(sane, f"input '{value.name}': impossible size {axis.dim_value} of axis {i}")
            else:
                names.setdefault(_axis_name(value, i))
    strange = [name for name in dims if name not in names]
    known = ", ".join(names) or "it has none"
    _need(not strange, f"has no symbolic dimension '{strange[0] if strange else ''}' (its own: {known})")
    bound = {}
    for name in names:
        own = next((symbol for symbol, spellings in _SYMBOLS.items() if name.lower() in spellings), "")
        bound[name] = dims.get(name, own)
        _need(bound[name] != "", f"say what its dimension '{name}' is, as in --dim '{name}=seq' or --dim '{name}=128'")
        number = bound[name].isascii() and bound[name].isdecimal() and 0 < int(bound[name][:13]) <= _MAX_ELEMENTS
        _need(number or bound[name] in _SYMBOLS, f"dimension '{name}' must be batch, seq or a number")
    return bound


def _axis_name(value: Any, axis: int) -> str:
    return value.type.tensor_type.shape.dim[axis].dim_param or f"{value.name}:{axis}"


def _without_weights(onnx: Any, model: Any) -> Any:
    """The model with its weights as mere inputs, but for the short integer ones, and no shapes that it claims."""
    light = onnx.ModelProto()
    light.ir_version = max(model.ir_version, 4)  # since 4 initializers need not be inputs
    light.opset_import.extend(model.opset_import)
    graph = light.graph
    graph.name = "model"
    graph.node.extend(model.graph.node)
    held = {t.name: t for t in model.graph.initializer}
    graph.input.extend(value for value in model.graph.input if value.name not in held)
    for value in graph.input:
        for i, axis in enumerate(value.type.tensor_type.shape.dim):
            if not axis.HasField("dim_value"):
                axis.dim_param = _axis_name(value, i)
    whole = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
    for tensor in held.values():
        inside = tensor.data_location != onnx.TensorProto.EXTERNAL
        if inside and tensor.data_type in whole and math.prod(tensor.dims) <= _KEPT_ELEMENTS:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    for value in model.graph.output:
        output = graph.output.add()
        output.name = value.name
        output.type.tensor_type.elem_type = value.type.tensor_type.elem_type
    return light


def _array(name: str, found: list[Found | None]) -> Array:
    """One array from what it is at each point."""
    element = next((each[0] for each in found if each is not None), "UNDEFINED")
    shapes = [each[1] for each in found if each is not None and each[1] is not None]
    if len(shapes) != len(found):
        return Array((), element, f"the shape of '{name}' cannot be inferred (simplify the model first, or use --dim)")
    if len({len(shape) for shape in shapes}) != 1:
        return Array((), element, f"the number of axes of '{name}' depends on batch or seq")
    if len(shapes[0]) > _MAX_AXES or not all(_sane(shape) for shape in shapes):
        return Array((), element, f"'{name}' has the impossible shape {shapes[0][:_MAX_AXES]}")
    if len(shapes) == 1:
        return Array(tuple(Size.of(n) for n in shapes[0]), element)
    try:
        return Array(tuple(fit(list(axis)) for axis in zip(*shapes, strict=True)), element)
    except ValueError as error:
        return Array((), element, f"an axis of '{name}' is {error}: give numbers by --dim")


def _sane(shape: Sequence[int]) -> bool:
    return all(n >= 0 for n in shape) and math.prod(shape) <= _MAX_ELEMENTS


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:160] or type(error).__name__


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise InputError(what)
