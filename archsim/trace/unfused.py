"""Attention as frameworks ran it before flash attention: scores, softmax, dropout and values, each stored in memory."""

from __future__ import annotations

from dataclasses import replace

from archsim.errors import InputError
from archsim.trace.expr import Expr
from archsim.trace.trace import BlockSpec, OpSpec, TensorSpec, Trace

__all__ = ["ATTENTIONS", "unfused_attention"]

ATTENTIONS = ("fused", "unfused")


def unfused_attention(trace: Trace) -> Trace:
    """A training trace whose attention is products per head with a softmax and a dropout between them.

    Whole squares of scores are computed, whatever the mask lets through, as batched products do. The rest of the
    backward pass is untouched: ``dP = dO V^T``, ``dV = P^T dO``, through dropout and softmax, ``dQ = dS K``,
    ``dK = dS^T Q``. Reference: Korthikanti et al., arXiv:2205.05198, section 4.1 (and figure 3).
    """
    walk = _Walk(list(trace.tensors))
    blocks = tuple(replace(block, ops=tuple(walk.block(block))) for block in trace.blocks)
    return replace(trace, tensors=tuple(walk.tensors), blocks=blocks)


class _Walk:
    def __init__(self, tensors: list[TensorSpec]) -> None:
        self.tensors = tensors
        self.made: dict[str, tuple[int, int]] = {}  # of each forward operator: probabilities, and after dropout

    def block(self, block: BlockSpec) -> list[OpSpec]:
        ops: list[OpSpec] = []
        for op in block.ops:
            if op.kind == "attention":
                ops += self._forward(block.name, op)
            elif op.kind == "attention_backward":
                ops += self._backward(block.name.removesuffix(".backward"), op)
            else:
                ops.append(op)
        return ops

    def _forward(self, block: str, op: OpSpec) -> list[OpSpec]:
        q, k, v = op.inputs[:3]
        scores, softmax, dropped = (self._scores(op, name) for name in ("scores", "softmax", "dropout"))
        self.made[f"{block}/{op.name}"] = softmax, dropped
        per_head, square = _per_head(op), _square(op)
        return [
            self._op(op, "scores", "matmul", {**per_head, "n": op.dims["kv_len"], "k": op.dims["d_qk"]}, (q, k),
                     scores),
            self._op(op, "softmax", "norm", square, (scores,), softmax, fn="softmax"),
            self._op(op, "dropout", "elementwise", square, (softmax,), dropped, fn="mul"),
            self._op(op, "values", "matmul", {**per_head, "n": op.dims["d_v"], "k": op.dims["kv_len"]}, (dropped, v),
                     op.outputs[0]),
        ]  # fmt: skip

    def _backward(self, block: str, op: OpSpec) -> list[OpSpec]:
        q, k, v = op.inputs[:3]
        dy, (dq, dk, dv) = op.inputs[-1], op.outputs[:3]
        softmax, dropped = self.made[f"{block}/{op.attrs['of']}"]
        dp, ds, dscores = (self._scores(op, name) for name in ("dropout.grad", "softmax.grad", "scores.grad"))
        d, per_head, square = op.dims, _per_head(op), _square(op)
        keys = {**per_head, "m": d["kv_len"], "k": d["q_len"]}
        return [
            self._op(op, "dropout.dgrad", "matmul", {**per_head, "n": d["kv_len"], "k": d["d_v"]}, (dy, v), dp),
            self._op(op, "values.dgrad", "matmul", {**keys, "n": d["d_v"]}, (dropped, dy), dv),
            self._op(op, "dropout.backward", "elementwise", square, (dp,), ds, fn="mul"),
            self._op(op, "softmax.backward", "norm", square, (softmax, ds), dscores, fn="softmax_backward"),
            self._op(op, "queries.dgrad", "matmul", {**per_head, "n": d["d_qk"], "k": d["kv_len"]}, (dscores, k), dq),
            self._op(op, "keys.dgrad", "matmul", {**keys, "n": d["d_qk"]}, (dscores, q), dk),
        ]

    def _scores(self, op: OpSpec, name: str) -> int:
        d = op.dims
        shape = (_times(d["batch"], d["heads"]), d["q_len"], d["kv_len"])
        self.tensors.append(TensorSpec(f"{op.name}.{name}", shape, op.dtype, "activation"))
        return len(self.tensors) - 1

    @staticmethod
    def _op(
        op: OpSpec, label: str, kind: str, dims: dict[str, Expr], inputs: tuple[int, ...], output: int, **attrs: str
    ) -> OpSpec:
        if str(op.dims["heads"]) != str(op.dims["kv_heads"]):
            raise InputError(f"{op.name}: unfused attention needs as many key/value heads as query heads")
        kept = {name: value for name, value in op.attrs.items() if name in ("pass", "of")}
        return OpSpec(f"{op.name}.{label}", kind, dims, {**kept, **attrs}, inputs, (output,), op.dtype)


def _per_head(op: OpSpec) -> dict[str, Expr]:
    return {"b": _times(op.dims["batch"], op.dims["heads"]), "m": op.dims["q_len"]}


def _square(op: OpSpec) -> dict[str, Expr]:
    d = op.dims
    return {"rows": _times(_times(d["batch"], d["heads"]), d["q_len"]), "cols": d["kv_len"]}


def _times(a: Expr, b: Expr) -> Expr:
    return Expr.parse(f"({a})*({b})")
