"""Rules for functions of torch that models of one's own call, beside those that Hugging Face's models do.

An element-wise function has the cost class nearest to it (`fn`: add is one simple operation an element, silu one with
a special function) and keeps its name (`torch`), as operators imported from ONNX do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archsim.errors import InputError
from archsim.trace.exporter.functions import HANDLERS
from archsim.trace.exporter.recorder import Handler, Recorder, numel, product

__all__ = ["LIBRARY"]

Func = Callable[..., Any]
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def _elementwise(name: str, fn: str) -> Handler:
    def handler(recorder: Recorder, func: Func, args: Args, kwargs: Kwargs) -> Any:
        out = func(*args, **kwargs)
        operands = recorder.tracked((args, kwargs))
        widest = max([*operands, out], key=lambda tensor: tensor.ndim)  # a reduction reads more than it writes
        recorder.record("elementwise", recorder.rows_cols(widest), operands, [out], name, fn=fn, torch=name)
        return out

    return handler


def _softmax(recorder: Recorder, func: Func, args: Args, kwargs: Kwargs) -> Any:
    out = func(*args, **kwargs)
    dims = {"rows": product(out.shape[:-1]), "cols": out.shape[-1]}
    recorder.record("norm", dims, recorder.tracked((args, kwargs))[:1], [out], "softmax", fn="softmax")
    return out


def _norm(fn: str) -> Handler:
    def handler(recorder: Recorder, func: Func, args: Args, kwargs: Kwargs) -> Any:
        out = func(*args, **kwargs)
        operands = recorder.tracked((args, kwargs))
        recorder.record("norm", recorder.rows_cols(out), operands, [out], "norm", dtype="fp32", fn=fn)
        return out

    return handler


def _attention(recorder: Recorder, func: Func, args: Args, kwargs: Kwargs) -> Any:
    """A mask tensor is not looked into: only `is_causal` halves the work."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    query, key, value = (given[name] for name in names[:3])
    if query.ndim != 4:
        raise InputError(f"the exporter needs attention over (batch, heads, tokens, width), not {query.ndim} axes")
    with recorder.unrecorded():
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
    dims = {
        "batch": query.shape[0], "q_len": query.shape[2], "kv_len": key.shape[2], "heads": query.shape[1],
        "kv_heads": key.shape[1], "d_qk": query.shape[3], "d_v": value.shape[3],
    }  # fmt: skip
    causal = bool(given.get("is_causal", False))
    operands = [query, key, value]
    recorder.record("attention", dims, operands, [out], "attention", causal=causal, window=None, kv_shared=False)
    return out


def _conv(recorder: Recorder, func: Func, args: Args, kwargs: Kwargs) -> Any:
    """An implicit matrix product: output pixels x output channels x (input channels x window) of each group."""
    out = func(*args, **kwargs)
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    weight, groups = given["weight"], int(given.get("groups", 1))
    pixels = product((out.shape[0], *out.shape[2:]))
    dims = {"b": groups, "m": pixels, "n": weight.shape[0] // groups, "k": numel(weight[0])}
    recorder.record("matmul", dims, recorder.tracked([given["input"], weight, given.get("bias")]), [out])
    return out


def _dropout(recorder: Recorder, func: Func, args: Args, kwargs: Kwargs) -> Any:
    """Dropout is part of the kernel before it; in evaluation nothing happens."""
    out = func(*args, **kwargs)
    recorder.alias(out, recorder.index(args[0]))
    return out


_CLASSES = {
    "add": ("sub", "rsub", "radd", "neg", "relu", "abs", "clamp", "maximum", "minimum", "where", "mean", "sum",
            "amax", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "masked_fill", "leaky_relu"),
    "mul": ("rmul", "truediv", "div", "rtruediv", "pow", "rpow", "sqrt", "rsqrt", "reciprocal", "square", "batch_norm"),
    "silu": ("tanh", "sigmoid", "exp", "log", "elu", "softplus", "sin", "cos", "erf", "mish"),
}  # fmt: skip

LIBRARY: dict[str, Handler] = {
    **HANDLERS,
    **{name: _elementwise(name, fn) for fn, names in _CLASSES.items() for name in names},
    "softmax": _softmax,
    "layer_norm": _norm("layer"),
    "group_norm": _norm("layer"),
    "rms_norm": _norm("rms"),
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv),
    "dropout": _dropout,
    "float": HANDLERS["to"],
    "type_as": HANDLERS["to"],
    "bfloat16": HANDLERS["to"],
}
