"""The derivative of every kind of operator, as operators (see `archsim.trace.training`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from archsim.trace.expr import Expr
from archsim.trace.trace import OpSpec

if TYPE_CHECKING:
    from archsim.trace.training import Backward

__all__ = ["DERIVATIVES", "NO_TENSOR"]

NO_TENSOR = -1  # where the gradient of a loss would be: it is 1


def _matmul(step: Backward, op: OpSpec) -> None:
    (x, weight, *bias), dy = op.inputs, step.gradient(op.outputs[0])
    d = op.dims
    if step.needs(x):
        dx = step.fresh(x)
        dims = {**d, "n": d["k"], "k": d["n"]}
        step.emit(op, "dgrad", "matmul", dims, (dy, weight), (dx,))
        step.contribute(op, x, dx)
    if step.needs(weight):
        dims = {**d, "m": d["k"], "n": d["n"], "k": d["m"]}
        step.emit(op, "wgrad", "matmul", dims, (x, dy), (_of_weight(step, op, weight),))
    _biases(step, op, bias, dy, {"rows": _times(d["b"], d["m"]), "cols": d["n"]})


def _grouped_matmul(step: Backward, op: OpSpec) -> None:
    (x, weight, *bias), dy = op.inputs, step.gradient(op.outputs[0])
    routing, seed = op.attrs["routing"], op.attrs["seed"]
    dx = step.fresh(x)
    turned = {**op.dims, "n": op.dims["k"], "k": op.dims["n"]}
    step.emit(op, "dgrad", "grouped_matmul", turned, (dy, weight), (dx,), routing=routing, seed=seed)
    step.contribute(op, x, dx)
    dw = step.weight_gradient(weight)
    step.emit(op, "wgrad", "grouped_matmul_wgrad", op.dims, (x, dy), (dw,), routing=routing, seed=seed)
    _biases(step, op, bias, dy, {"rows": op.dims["rows"], "cols": op.dims["n"]})


def _attention(step: Backward, op: OpSpec) -> None:
    q, k, v, *more = op.inputs
    out, dy = op.outputs[0], step.gradient(op.outputs[0])
    parts = {i: step.fresh(i) for i in dict.fromkeys((q, k, v))}  # fused projections: parts of one tensor
    sinks = [step.weight_gradient(i) for i in more if step.needs(i)]
    attrs = {name: value for name, value in op.attrs.items() if name != "pass"}
    outputs = [parts[q], parts[k], parts[v], *sinks]
    step.emit(op, "backward", "attention_backward", op.dims, (*op.inputs, out, dy), outputs, **attrs)
    for tensor, part in parts.items():
        step.contribute(op, tensor, part)


def _norm(step: Backward, op: OpSpec) -> None:
    x, *weights = op.inputs
    dx = step.fresh(x)
    fn = f"{op.attrs['fn']}_backward"
    outputs = [dx, *(step.weight_gradient(i) for i in weights)]
    step.emit(op, "backward", "norm", op.dims, (*op.inputs, step.gradient(op.outputs[0])), outputs, fn=fn)
    step.contribute(op, x, dx)


def _rotary(step: Backward, op: OpSpec) -> None:
    """The rotation by the opposite angle."""
    x = op.inputs[0]
    dx = step.fresh(x)
    step.emit(op, "backward", "rotary", op.dims, (step.gradient(op.outputs[0]),), (dx,), part=op.attrs["part"])
    step.contribute(op, x, dx)


def _elementwise(step: Backward, op: OpSpec) -> None:
    fn, dy = str(op.attrs["fn"]), step.gradient(op.outputs[0])
    sources = [i for i in dict.fromkeys(op.inputs) if step.needs(i)]
    called = op.attrs.get("torch", fn)  # the function itself where `fn` is only its cost class
    if called in ("add", "sub", "copy"):  # the gradient passes as it is; a broadcast operand sums it up
        for i in sources:
            if step.tensors[i].role == "weight":
                _biases(step, op, [i], dy, op.dims)
            else:
                step.contribute(op, i, dy)
        return
    parts = {i: step.weight_gradient(i) if step.tensors[i].role == "weight" else step.fresh(i) for i in sources}
    reads = [] if fn in ("cast", "concat") else list(op.inputs)
    reads += [dy] if dy != NO_TENSOR else []
    writes = [parts[i] for i in op.inputs if i in parts]  # gate and up may be two parts of one tensor
    step.emit(op, "backward", "elementwise", op.dims, reads, writes, fn=_BACKWARD.get(fn, f"{fn}_backward"))
    for i, part in parts.items():
        if step.tensors[i].role != "weight":
            step.contribute(op, i, part)


_BACKWARD = {"cast": "cast", "add": "mul_backward"}  # a simple function's derivative is one factor


def _router(step: Backward, op: OpSpec) -> None:
    """Only the weights of the chosen experts have a gradient, their indices have none."""
    logits, (weights, indices) = op.inputs[0], op.outputs
    if weights in step.gradients:
        dx = step.fresh(logits)
        reads = (logits, indices, step.gradient(weights))
        step.emit(op, "backward", "router", op.dims, reads, (dx,), fn=f"{op.attrs['fn']}_backward")
        step.contribute(op, logits, dx)


def _dispatch(step: Backward, op: OpSpec) -> None:
    """A token's gradient is the sum over the experts that it went to: a combine."""
    x, indices = op.inputs
    dx = step.fresh(x)
    step.emit(op, "backward", "moe_combine", op.dims, (step.gradient(op.outputs[0]), indices), (dx,))
    step.contribute(op, x, dx)


def _combine(step: Backward, op: OpSpec) -> None:
    """The gradient goes to the experts, times their weight: a dispatch; that of a weight is a product of two rows."""
    (y, weights), dy = op.inputs, step.gradient(op.outputs[0])
    routed, dweights = step.fresh(y), step.fresh(weights)
    routing = next(other.attrs["routing"] for block in step.forward for other in block.ops if y in other.outputs)
    step.emit(op, "backward", "moe_dispatch", op.dims, (dy, weights), (routed,), routing=routing)
    dims = {"rows": _times(op.dims["tokens"], op.dims["top_k"]), "cols": op.dims["cols"]}
    step.emit(op, "wgrad", "elementwise", dims, (y, routed), (dweights,), fn="dot")
    step.contribute(op, y, routed)
    step.contribute(op, weights, dweights)


def _embedding(step: Backward, op: OpSpec) -> None:
    """Rows of the gradient are added to those of the table that were looked up."""
    dw = step.weight_gradient(op.inputs[0])
    step.emit(op, "wgrad", "elementwise", op.dims, (step.gradient(op.outputs[0]),), (dw,), fn="scatter_add")


def _biases(step: Backward, op: OpSpec, biases: list[int], dy: int, dims: dict[str, Expr]) -> None:
    for bias in biases:
        step.emit(op, "bias", "elementwise", dims, (dy,), (step.weight_gradient(bias),), fn="sum_rows")


def _of_weight(step: Backward, op: OpSpec, weight: int) -> int:
    """Where the gradient of the second operand of a matmul goes: it may be an activation."""
    if step.tensors[weight].role == "weight":
        return step.weight_gradient(weight)
    part = step.fresh(weight)
    step.contribute(op, weight, part)
    return part


def _times(a: Expr, b: Expr) -> Expr:
    return Expr.parse(f"({a})*({b})")


DERIVATIVES: dict[str, Callable[[Backward, OpSpec], None]] = {
    "matmul": _matmul,
    "grouped_matmul": _grouped_matmul,
    "attention": _attention,
    "norm": _norm,
    "rotary": _rotary,
    "elementwise": _elementwise,
    "router": _router,
    "moe_dispatch": _dispatch,
    "moe_combine": _combine,
    "embedding": _embedding,
}
