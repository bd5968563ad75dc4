"""What nodes of other tools' Chakra traces do: PyTorch operators by name and shapes, others by FLOPs and bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from archsim.trace.graph import Attr
from archsim.trace.importers.chakra_file import Operands
from archsim.trace.importers.literal import Literal, parse_literal

__all__ = ["Argument", "Work", "arguments", "torch_work", "work_of_size"]

# Types as PyTorch's observer writes them, and archsim's own names.
_DTYPES = {
    "float": "fp32", "c10::Half": "fp16", "half": "fp16", "c10::BFloat16": "bf16", "bfloat16": "bf16",
    "c10::Float8_e4m3fn": "fp8", "c10::Float8_e5m2": "fp8", "signed char": "int8", "unsigned char": "int8",
    "int": "int32",
    **{name: name for name in ("fp32", "tf32", "fp16", "bf16", "fp8", "int8", "int32", "fp4", "int4")},
}  # fmt: skip
_TENSOR = re.compile(r"Tensor\(([\w: ]{1,40})\)", re.ASCII)
_MAX_ELEMENTS = 2**40

_ELEMENTWISE = {
    **dict.fromkeys(
        ("add", "add_", "sub", "rsub", "relu", "relu_", "clamp", "where", "masked_fill", "neg", "maximum"),
        "add",
    ),
    **dict.fromkeys(("mul", "mul_", "div", "div_", "pow", "rsqrt", "sqrt", "reciprocal"), "mul"),
    **dict.fromkeys(("silu", "silu_", "sigmoid", "tanh", "exp", "log", "sin", "cos"), "silu"),
    "gelu": "gelu", "cat": "concat", "copy_": "copy", "clone": "copy", "_to_copy": "cast",
}  # fmt: skip
_REDUCTIONS = {
    "sum",
    "mean",
    "amax",
    "max",
    "min",
    "argmax",
    "cumsum",
    "max_pool2d",
    "avg_pool2d",
    "adaptive_avg_pool2d",
}


@dataclass(frozen=True)
class Argument:
    """One tensor that a node reads or writes. key: its identity as far as the file tells it."""

    key: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Work:
    """An operator of archsim. operands: positions among the node's inputs; weights: which of them may be weights."""

    kind: str
    dims: dict[str, int]
    attrs: dict[str, Attr] = field(default_factory=dict)
    operands: tuple[int, ...] = (0,)
    weights: tuple[int, ...] = ()


def arguments(operands: Operands) -> list[Argument | None]:
    """The operands in order, None for what is no tensor of numbers; ValueError if the lists are no lists."""
    lists = [_items(text) for text in (operands.values, operands.shapes, operands.types)]
    if len(lists[1]) != len(lists[2]):
        return []
    values = lists[0] if len(lists[0]) == len(lists[1]) else [""] * len(lists[1])
    return [_argument(*each) for each in zip(values, lists[1], lists[2], strict=True)]


def _items(text: str) -> list[Literal]:
    parsed = parse_literal(text) if text.strip() else []
    return parsed if isinstance(parsed, list) else [parsed]


def _argument(value: Literal, shape: Literal, kind: Literal) -> Argument | None:
    match = _TENSOR.fullmatch(kind) if isinstance(kind, str) else None
    dtype = _DTYPES.get(match[1]) if match else None
    if dtype is None or not isinstance(shape, list):
        return None
    sizes = tuple(n for n in shape if isinstance(n, int) and not isinstance(n, bool) and n > 0)
    if len(sizes) != len(shape) or len(sizes) > 16 or math.prod(sizes) > _MAX_ELEMENTS:
        return None
    numbers = [n for n in value if isinstance(n, int)] if isinstance(value, list) else []
    return Argument(tuple(numbers[:5]), sizes, dtype)


def torch_work(
    name: str, inputs: Sequence[Argument | None], outputs: Sequence[Argument | None], text: str
) -> Work | None:
    """What ``aten::...`` does, None for what is free or not known. `text`: the values of the inputs."""
    if not name.startswith("aten::"):
        return None
    op = name.removeprefix("aten::").partition(".")[0]
    shapes = [argument.shape if argument else () for argument in inputs]
    out = next((argument for argument in outputs if argument), None)
    rule = _RULES.get(op)
    if rule is not None:
        try:
            return rule(shapes, out, text)
        except (IndexError, ValueError):  # shapes that the operator cannot have
            return None
    whole = out if op not in _REDUCTIONS else next((argument for argument in inputs if argument), None)
    fn = "add" if op in _REDUCTIONS else _ELEMENTWISE.get(op)
    if fn is None or whole is None:
        return None
    operands = tuple(i for i, argument in enumerate(inputs) if argument and argument.elements > 1)
    dims = _rows(whole.shape)
    if fn == "concat":
        return None if not operands else Work("elementwise", dims, {"fn": "copy"}, operands)
    return Work("elementwise", dims, {"fn": fn}, operands)


def work_of_size(flops: int, nbytes: int, dtype_bytes: int = 2) -> Work:
    """Work of which only FLOPs and bytes are known: a square product with that intensity, or element-wise work.

    ``2 m m k = flops`` and ``(2 m k + m m) dtype_bytes = nbytes`` give ``flops / m + m**2 = elements``, of which the
    smaller root is taken; where there is none (fewer bytes than any product has), the cube.
    """
    elements = max(nbytes // dtype_bytes, 1)
    if flops < 4 * elements:
        return Work(
            "elementwise", {"rows": 1, "cols": max(flops, elements // 2, 1)}, {"fn": "add", "estimated": True}, ()
        )
    low, high = 1.0, max((flops / 2) ** (1 / 3), 1.0)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if flops / middle + middle**2 > elements else (low, middle)
    m = max(round(high), 1)
    return Work("matmul", {"b": 1, "m": m, "n": m, "k": max(round(flops / (2 * m * m)), 1)}, {"estimated": True}, ())


_Shapes = Sequence[tuple[int, ...]]


def _rows(shape: tuple[int, ...]) -> dict[str, int]:
    return {"rows": math.prod(shape[:-1]), "cols": math.prod(shape[-1:])}


def _matmul(b: int, m: int, n: int, k: int, operands: tuple[int, ...], attrs: dict[str, Attr] | None = None) -> Work:
    return Work("matmul", {"b": b, "m": m, "n": n, "k": k}, attrs or {}, operands, operands[1:])


def _mm(first: int) -> Callable[[_Shapes, Argument | None, str], Work]:
    """``mm`` and ``bmm`` (first = 0), ``addmm`` and ``baddbmm`` (first = 1, behind the bias)."""

    def rule(shapes: _Shapes, out: Argument | None, text: str) -> Work:
        (*lead, m, k), (*_, n) = shapes[first], shapes[first + 1]
        bias = (0,) if first and len(shapes[0]) == 1 else ()
        return _matmul(math.prod(lead), m, n, k, (first, first + 1, *bias))

    return rule


def _any_matmul(shapes: _Shapes, out: Argument | None, text: str) -> Work:
    (*lead, m, k), (*others, _, n) = shapes[0], shapes[1]
    if math.prod(others) == 1:
        return _matmul(1, math.prod(lead) * m, n, k, (0, 1))
    return _matmul(math.prod(max(lead, others, key=math.prod)), m, n, k, (0, 1))


def _linear(shapes: _Shapes, out: Argument | None, text: str) -> Work:
    n, k = shapes[1]
    bias = (2,) if len(shapes) > 2 and shapes[2] else ()
    return _matmul(1, math.prod(shapes[0]) // k, n, k, (0, 1, *bias))


def _conv(shapes: _Shapes, out: Argument | None, text: str) -> Work | None:
    x, w = shapes[0], shapes[1]
    if out is None or len(x) < 3 or len(w) != len(x):
        return None
    groups = max(x[1] // w[1], 1)
    rows = out.elements // out.shape[1]
    bias = (2,) if len(shapes) > 2 and shapes[2] else ()
    attrs: dict[str, Attr] = {"onnx": "Conv"}
    attrs |= {name: "x".join(map(str, side)) for name, side in (("kernel", w[2:]), ("pixels", out.shape[2:]))}
    return _matmul(groups, rows, w[0] // groups, math.prod(w[1:]), (0, 1, *bias), attrs)


def _attention(position: int) -> Callable[[_Shapes, Argument | None, str], Work]:
    """Attention over (batch, heads, tokens, width); `position`: which argument says that it is causal."""

    def rule(shapes: _Shapes, out: Argument | None, text: str) -> Work:
        (batch, heads, q_len, d_qk), (_, kv_heads, kv_len, _), (*_, d_v) = shapes[:3]
        flags = _items(text)
        causal = len(flags) > position and str(flags[position]) == "True"
        dims = {"batch": batch, "q_len": q_len, "kv_len": kv_len, "heads": heads, "kv_heads": kv_heads}
        return Work("attention", {**dims, "d_qk": d_qk, "d_v": d_v}, {"causal": causal, "window": None}, (0, 1, 2))

    return rule


def _norm(fn: str) -> Callable[[_Shapes, Argument | None, str], Work]:
    def rule(shapes: _Shapes, out: Argument | None, text: str) -> Work:
        weights = tuple(i for i in (2, 3) if i < len(shapes) and shapes[i] == shapes[0][-1:]) if fn != "softmax" else ()
        return Work("norm", _rows(shapes[0]), {"fn": fn}, (0, *weights), weights)

    return rule


def _embedding(shapes: _Shapes, out: Argument | None, text: str) -> Work | None:
    return None if out is None else Work("embedding", _rows(out.shape), {}, (0,), (0,))


_RULES: dict[str, Callable[[_Shapes, Argument | None, str], Work | None]] = {
    "mm": _mm(0), "bmm": _mm(0), "addmm": _mm(1), "baddbmm": _mm(1), "matmul": _any_matmul, "linear": _linear,
    **dict.fromkeys(("convolution", "conv1d", "conv2d", "conv3d", "cudnn_convolution", "_convolution"), _conv),
    "scaled_dot_product_attention": _attention(5),
    "_scaled_dot_product_flash_attention": _attention(4),
    "_scaled_dot_product_efficient_attention": _attention(6),
    "_scaled_dot_product_cudnn_attention": _attention(6),
    "layer_norm": _norm("layer"), "native_layer_norm": _norm("layer"), "rms_norm": _norm("rms"),
    "softmax": _norm("softmax"), "_softmax": _norm("softmax"), "_log_softmax": _norm("softmax"),
    "embedding": _embedding,
}  # fmt: skip
