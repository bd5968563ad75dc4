"""Experts with biases as Megatron-LM runs them: what its fused kernels leave out, in kernels of PyTorch of their own.

Where gate and up are clamped (gpt-oss), both halves are clamped and put together again before the fused activation
(`weighted_bias_quick_geglu_impl`). The bias of the second product is scaled by the routing weight of each row and
added, expert by expert, and the rows are put together again (`TEGroupedMLP._apply_bias`). The backward pass mirrors it:
two products with the gradient of the rows for the bias and for the weights, and the mask of the clamp.
"""

from __future__ import annotations

from dataclasses import replace

from archsim.errors import InputError
from archsim.trace.expr import Expr
from archsim.trace.trace import BlockSpec, OpSpec, TensorSpec, Trace

__all__ = ["EXPERTS", "eager_experts"]

#: the attribute "eager" of an operator: a kernel of its own over all rows, or one for each expert
WHOLE, EACH = "whole", "experts"

EXPERTS = ("fused", "eager")


def eager_experts(trace: Trace, experts: str) -> Trace:
    """A training trace with the kernels around biased experts written out; "fused" is as exported."""
    if experts not in EXPERTS:
        raise InputError(f"experts {experts}: must be one of {', '.join(EXPERTS)}")
    if experts == "fused":
        return trace
    walk = _Walk(list(trace.tensors), _biased(trace))
    blocks = tuple(replace(block, ops=tuple(walk.block(block))) for block in trace.blocks)
    return replace(trace, tensors=tuple(walk.tensors), blocks=blocks)


def _biased(trace: Trace) -> set[str]:
    """Block and name of the grouped products with a bias."""
    return {
        f"{block.name}/{op.name}" for block in trace.blocks for op in block.ops
        if op.kind == "grouped_matmul" and len(op.inputs) > 2
    }  # fmt: skip


class _Walk:
    def __init__(self, tensors: list[TensorSpec], biased: set[str]) -> None:
        self.tensors, self.biased = tensors, biased

    def block(self, block: BlockSpec) -> list[OpSpec]:
        stem = block.name.removesuffix(".backward")
        ops: list[OpSpec] = []
        for op in block.ops:
            fn, of = op.attrs.get("fn"), str(op.attrs.get("of", op.name))
            experts = of.rpartition(".")[0]
            if f"{stem}/{experts}.gate_up_proj" in self.biased and fn == "silu_mul":
                ops += self._clamped(op)
            elif f"{stem}/{experts}.gate_up_proj" in self.biased and fn == "silu_mul_backward":
                ops += [op, *self._halves(op, (op.outputs[0], op.inputs[0]))]
            elif f"{stem}/{of}" in self.biased and of.endswith("down_proj") and op.name == of:
                ops += [op, *self._shifted(op)]
            elif f"{stem}/{of}" in self.biased and of.endswith("down_proj") and fn == "sum_rows":
                ops += self._weighted(op)
            else:
                ops.append(op)
        return ops

    def _clamped(self, op: OpSpec) -> list[OpSpec]:
        clamped = self._halves(op, op.inputs[:1])
        return [*clamped, replace(op, inputs=clamped[-1].outputs * 2)]

    def _halves(self, op: OpSpec, inputs: tuple[int, ...]) -> list[OpSpec]:
        """Gate and up clamped (or their gradients masked), and put together again."""
        dims = {**op.dims, "cols": self.tensors[inputs[0]].shape[-1]}
        halves, whole = (self._like(inputs[0], label) for label in ("clamp", "cat"))
        return [
            _eager(op, "clamp", dims, inputs, halves, fn="mul"), _eager(op, "cat", dims, (halves,), whole, fn="copy"),
        ]  # fmt: skip

    def _shifted(self, op: OpSpec) -> list[OpSpec]:
        """The bias of the second product, scaled by the weights of the rows, added to them."""
        y, dims = op.outputs[0], {"rows": op.dims["rows"], "cols": op.dims["n"]}
        bias, total, whole = (self._like(y, label) for label in ("bias", "biased", "cat"))
        return [
            _eager(op, "scale_bias", dims, (y,), bias, fn="mul", eager=EACH),
            _eager(op, "add_bias", dims, (y, bias), total, fn="add", eager=EACH),
            _eager(op, "cat", dims, (total,), whole, fn="copy"),
        ]  # fmt: skip

    def _weighted(self, op: OpSpec) -> list[OpSpec]:
        """Gradients of the bias (``op``, over scaled rows) and, through the bias, of the weights of the rows."""
        dy = op.inputs[0]
        scaled, times_bias = (self._like(dy, label) for label in ("scaled", "times_bias"))
        self.tensors.append(TensorSpec(f"{op.name}.weights", self.tensors[dy].shape[:1], op.dtype, "activation"))
        return [
            _eager(op, "scale", op.dims, (dy,), scaled, fn="mul", eager=EACH),
            replace(op, inputs=(scaled,), attrs={**op.attrs, "eager": EACH}),
            _eager(op, "times_bias", op.dims, (dy,), times_bias, fn="mul", eager=EACH),
            _eager(op, "weights", op.dims, (times_bias,), len(self.tensors) - 1, fn="sum_rows", eager=EACH),
        ]

    def _like(self, tensor: int, label: str) -> int:
        spec = self.tensors[tensor]
        self.tensors.append(replace(spec, name=f"{spec.name}.{label}"))
        return len(self.tensors) - 1


def _eager(
    op: OpSpec, label: str, dims: dict[str, Expr], inputs: tuple[int, ...], output: int, *, fn: str, eager: str = WHOLE
) -> OpSpec:
    kept = {name: value for name, value in op.attrs.items() if name in ("pass", "of")}
    attrs = {**kept, "fn": fn, "eager": eager}
    return OpSpec(f"{op.name}.{label}", "elementwise", dims, attrs, inputs, (output,), op.dtype)
