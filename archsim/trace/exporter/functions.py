"""Which operator each torch function becomes. Views and layout changes are free: kernels take strided operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archsim.trace.exporter.recorder import Handler, RecordedOp, Recorder, numel, product

__all__ = ["HANDLERS"]

Func = Callable[..., Any]
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def _linear(recorder: Recorder, func: Func, args: Args, kwargs: Kwargs) -> Any:
    out = func(*args, **kwargs)
    operands = [tensor for tensor in (*args, *kwargs.values()) if tensor is not None]
    n, k = operands[1].shape
    dims = {"b": 1, "m": numel(operands[0]) / k, "n": n, "k": k}
    recorder.record("matmul", dims, operands, [out])
    return out


def _addmm(recorder: Recorder, func: Func, args: Args, kwargs: Kwargs) -> Any:
    """bias + x w, the linear layer of GPT-2, whose weight is stored transposed."""
    out, (bias, x, weight) = func(*args, **kwargs), args
    k, n = weight.shape
    recorder.record("matmul", {"b": 1, "m": numel(x) / k, "n": n, "k": k}, [x, weight, bias], [out])
    return out


def _matmul(recorder: Recorder, func: Func, args: Args, kwargs: Kwargs) -> Any:
    out = func(*args, **kwargs)
    m, n = out.shape[-2:]
    dims = {"b": product(out.shape[:-2]), "m": m, "n": n, "k": args[0].shape[-1]}
    recorder.record("matmul", dims, args[:2], [out])
    return out


def _embedding(recorder: Recorder, func: Func, args: Args, kwargs: Kwargs) -> Any:
    out = func(*args, **kwargs)
    width = out.shape[-1]
    recorder.record("embedding", {"rows": numel(out) / width, "cols": width}, [args[1]], [out])
    return out


def _activation(fn: str) -> Handler:
    def handler(recorder: Recorder, func: Func, args: Args, kwargs: Kwargs) -> Any:
        out = func(*args, **kwargs)
        recorder.record("elementwise", recorder.rows_cols(out), args[:1], [out], fn=fn)
        return out

    return handler


def _mul(recorder: Recorder, func: Func, args: Args, kwargs: Kwargs) -> Any:
    out = func(*args, **kwargs)
    operands = recorder.tracked(args)
    gate = next(
        (op for op in map(recorder.producer, operands) if op is not None and op.attrs.get("fn") == "silu"), None
    )
    if gate is not None and len(operands) == 2:
        # SwiGLU: one operator reads gate and up and writes the product; the activated gate never exists.
        recorder.ops.remove(gate)
        up = [tensor for tensor in operands if recorder.index(tensor) not in gate.outputs]
        op = recorder.record("elementwise", recorder.rows_cols(out), up, [out], "silu_mul", fn="silu_mul")
        op.inputs.insert(0, gate.inputs[0])
    else:
        recorder.record("elementwise", recorder.rows_cols(out), operands, [out], "mul", fn="mul")
    return out


def _add(recorder: Recorder, func: Func, args: Args, kwargs: Kwargs) -> Any:
    out = func(*args, **kwargs)
    operands = recorder.tracked(args)
    last = max((op for op in map(recorder.producer, operands) if op is not None), key=recorder.ops.index)
    # In a layer itself an addition is the residual of the part that ran before: "self_attn.residual", "mlp.residual".
    label = "add" if recorder.scope[-1] or not recorder.block else f"{last.name.split('.')[0]}.residual"
    recorder.record("elementwise", recorder.rows_cols(out), operands, [out], label, fn="add")
    return out


def _cat(recorder: Recorder, func: Func, args: Args, kwargs: Kwargs) -> Any:
    out, parts = func(*args, **kwargs), args[0]
    indices = [recorder.index(part) for part in parts]
    if len(set(indices)) == 1:  # the parts of one tensor, back together
        recorder.alias(out, indices[0])
        return out
    turned = recorder.producer(parts[-1])
    if turned is not None and turned.kind == "rotary" and len(parts) == 2 and turned.inputs == indices[:1]:
        # A tensor whose tail was rotated: kernels rotate in place, nothing is copied.
        recorder.tensors[indices[1]].shape = tuple(out.shape)
        recorder.alias(out, indices[1])
        return out
    _concat(recorder, parts, out)
    return out


def _new_empty(recorder: Recorder, func: Func, args: Args, kwargs: Kwargs) -> Any:
    return recorder.allocate(func(*args, **kwargs))


def _copy(recorder: Recorder, func: Func, args: Args, kwargs: Kwargs) -> Any:
    """Copies into slices of one fresh tensor assemble it: together they are a concat."""
    target, part = args[:2]
    op = recorder.producer(target)
    if op is None:
        _concat(recorder, [part], recorder.allocated(target))
    else:
        _widen(recorder, op, part)
    return func(*args, **kwargs)


def _concat(recorder: Recorder, parts: Any, out: Any) -> None:
    dtype = recorder.tensors[recorder.index(parts[0])].dtype
    op = recorder.record("elementwise", recorder.rows_cols(out), [], [out], "concat", dtype, fn="concat")
    for part in parts:
        _widen(recorder, op, part)


def _widen(recorder: Recorder, op: RecordedOp, part: Any) -> None:
    """Add `part` to what a concat reads; an expanded axis (stride 0) is read once."""
    once = [n for n, stride in zip(part.shape, part.stride(), strict=True) if stride != 0]
    op.dims[f"cols_{len(op.inputs)}"] = product(once) / op.dims["rows"]
    op.inputs.append(recorder.index(part))


def _layout(recorder: Recorder, func: Func, args: Args, kwargs: Kwargs) -> Any:
    out, source = func(*args, **kwargs), recorder.index(args[0])
    if out.dtype != args[0].dtype:
        recorder.record("elementwise", recorder.rows_cols(out), args[:1], [out], "cast", fn="cast")
    elif recorder.find(out) is None:
        recorder.alias(out, source)
    return out


HANDLERS: dict[str, Handler] = {
    "linear": _linear,
    "addmm": _addmm,
    "matmul": _matmul,
    "embedding": _embedding,
    "silu": _activation("silu"),
    "gelu": _activation("gelu"),
    "mul": _mul,
    "add": _add,
    "cat": _cat,
    "copy": _copy,
    "new_empty": _new_empty,
    **dict.fromkeys(("reshape", "contiguous", "flatten", "clone", "to", "type"), _layout),
}
