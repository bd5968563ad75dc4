"""ONNX's shape inference in a process of its own.

The inference is a C++ library that some malformed models make run away or crash. A child process with bounds on its
time and memory turns that into an error message.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import Any

from archsim.errors import InputError
from archsim.trace.importers.onnx_values import fold_values

__all__ = ["Found", "infer_apart", "main"]

_MAX_SECONDS = 60
_MAX_MEMORY = 4 * 2**30
_MAX_ROUNDS = 6  # of inference and evaluation of shape arithmetic

# Element type by name, and shape if it is known.
Found = tuple[str, "list[int] | None"]


def infer_apart(model: bytes, points: list[dict[str, int]]) -> list[dict[str, Found]]:
    """For each point (symbolic dimension -> number): element type and shape of every array of the model."""
    code = f"from {__name__} import main; main()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        child = subprocess.run(
            [sys.executable, "-c", code], input=json.dumps(points).encode() + b"\n" + model, capture_output=True,
            timeout=_MAX_SECONDS, env=environment, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InputError(f"its shapes cannot be inferred within {_MAX_SECONDS} s") from None
    try:
        answer = json.loads(child.stdout)
    except ValueError:
        raise InputError("its shapes cannot be inferred (the ONNX library gave up on it)") from None
    if isinstance(answer, str):
        raise InputError(f"its shapes cannot be inferred ({answer})")
    return [{name: (element, shape) for name, (element, shape) in point.items()} for point in answer]


def main() -> None:
    """The child: points and model on standard input, shapes or an error message on standard output."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows, nor above a stricter limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import onnx
    import onnx.shape_inference

    points = json.loads(sys.stdin.buffer.readline())
    light = onnx.load_model_from_string(sys.stdin.buffer.read())
    answer: list[dict[str, Found]] | str
    try:
        answer = [_infer(onnx, light, point) for point in points]
    except Exception as error:  # the C++ library raises several kinds
        answer = " ".join(str(error).split())[:160] or type(error).__name__
    sys.stdout.write(json.dumps(answer))


def _infer(onnx: Any, light: Any, numbers: dict[str, int]) -> dict[str, Found]:
    model = onnx.ModelProto()
    model.CopyFrom(light)
    for value in model.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            if not axis.HasField("dim_value"):
                axis.dim_value = numbers[axis.dim_param]
    found: dict[str, Found] = {}
    for _ in range(_MAX_ROUNDS):
        found = _found(onnx, model)
        shapes = {name: shape for name, (_, shape) in found.items() if shape is not None}
        if len(shapes) == len(found) or not fold_values(onnx, model, shapes):
            break
    return found


def _found(onnx: Any, model: Any) -> dict[str, Found]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    found: dict[str, Found] = {}
    for value in [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]:
        kind = value.type.tensor_type
        axes = kind.shape.dim
        known = kind.HasField("shape") and all(axis.HasField("dim_value") for axis in axes)
        with contextlib.suppress(ValueError):  # an element type of the future
            element = onnx.TensorProto.DataType.Name(kind.elem_type)
            found[value.name] = (element, [axis.dim_value for axis in axes] if known else None)
    for tensor in inferred.graph.initializer:
        with contextlib.suppress(ValueError):
            found[tensor.name] = (onnx.TensorProto.DataType.Name(tensor.data_type), list(tensor.dims))
    return found
