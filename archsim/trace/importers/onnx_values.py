"""The small integers that shapes are computed from, where ONNX's own shape inference does not follow them.

Exported models compute shapes in the graph: ``Shape``, ``Gather``, ``Range``, ``Concat``, ... Such nodes are
evaluated here with ONNX's reference implementation, one at a time and only when everything about them is small, and
their results take their place as constants.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["fold_values"]

_OPS = {
    "Add", "Cast", "Ceil", "Concat", "ConstantOfShape", "Div", "Equal", "Floor", "Gather", "Greater", "Identity",
    "Less", "Max", "Min", "Mod", "Mul", "Neg", "Range", "ReduceProd", "Reshape", "Size", "Slice", "Squeeze", "Sub",
    "Unsqueeze", "Where",
}  # fmt: skip
_MAX_ELEMENTS = 4096
_MAX_WORK = 2**20  # elements that broadcast inputs could make
_MAX_RANK = 4

_Values = dict[str, NDArray[Any]]


def fold_values(onnx: Any, model: Any, shapes: dict[str, list[int]]) -> int:
    """Replace what can be computed from `shapes` and short constants by constants; returns how many nodes went."""
    held: _Values = {}
    for tensor in model.graph.initializer:
        _keep(held, tensor.name, _array(onnx, tensor))
    left = []
    for node in model.graph.node:
        found = _evaluate(onnx, model, node, held, shapes)
        if found is None:
            left.append(node)
        elif node.op_type == "Constant":
            left.append(node)
            _keep(held, node.output[0], found)
        else:
            _keep(held, node.output[0], found)
            model.graph.initializer.append(onnx.numpy_helper.from_array(found, node.output[0]))
    gone = len(model.graph.node) - len(left)
    if gone:
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in left]
        del model.graph.node[:]
        model.graph.node.extend(kept)
    return gone


def _keep(held: _Values, name: str, value: NDArray[Any] | None) -> None:
    if value is not None:
        held[name] = value


def _array(onnx: Any, tensor: Any) -> NDArray[Any] | None:
    if math.prod(tensor.dims) > _MAX_ELEMENTS or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    try:
        value: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
    except Exception:  # damaged contents: not known, which is reported only if the shape is needed
        return None
    return value


def _evaluate(onnx: Any, model: Any, node: Any, held: _Values, shapes: dict[str, list[int]]) -> NDArray[Any] | None:
    """The value of the only output of `node`, or None."""
    if len(node.output) != 1 or not node.output[0]:
        return None
    if node.op_type == "Constant":
        return next((_array(onnx, a.t) for a in node.attribute if a.name == "value"), None)
    if node.op_type in ("Shape", "Size") and len(node.input) == 1 and node.input[0] in shapes:
        return _shape(node, shapes[node.input[0]])
    names = [name for name in node.input if name]
    if node.op_type not in _OPS or not names or not all(name in held for name in names):
        return None
    inputs = [held[name] for name in names]
    if not _small(node.op_type, inputs):
        return None
    try:
        return _run(onnx, model, node, dict(zip(names, inputs, strict=True)))
    except Exception:  # ill-formed node: shape inference has said so or will
        return None


def _shape(node: Any, shape: list[int]) -> NDArray[np.int64]:
    if node.op_type == "Size":
        return np.array(math.prod(shape), dtype=np.int64)
    bounds: dict[str, int] = {str(a.name): a.i for a in node.attribute}
    return np.array(shape[bounds.get("start", 0) : bounds.get("end", len(shape))], dtype=np.int64)


def _small(op: str, inputs: list[NDArray[Any]]) -> bool:
    """Whether the result must be small, judged before it is made."""
    if any(value.ndim > _MAX_RANK for value in inputs) or math.prod(max(value.size, 1) for value in inputs) > _MAX_WORK:
        return False
    if op == "ConstantOfShape":
        return all(0 <= int(n) <= _MAX_ELEMENTS for n in inputs[0].ravel()) and math.prod(
            int(n) for n in inputs[0].ravel()
        ) <= _MAX_ELEMENTS  # fmt: skip
    if op == "Range":
        if len(inputs) != 3 or any(value.size != 1 for value in inputs):
            return False
        begin, end, step = (float(value.item()) for value in inputs)
        return step != 0 and abs(end - begin) <= abs(step) * _MAX_ELEMENTS
    return True


def _run(onnx: Any, model: Any, node: Any, feeds: _Values) -> NDArray[Any] | None:
    from onnx.reference import ReferenceEvaluator

    make = onnx.helper
    inputs = [make.make_tensor_value_info(k, make.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()]
    output = make.make_empty_tensor_value_info(node.output[0])
    graph = make.make_graph([node], "one", inputs, [output])
    one = make.make_model(graph, opset_imports=list(model.opset_import), ir_version=8)
    with np.errstate(all="ignore"):
        results: Any = ReferenceEvaluator(one).run(None, feeds)
    value = np.asarray(results[0])
    return value if value.size <= _MAX_ELEMENTS and value.dtype.kind in "iubf" else None
