"""Training in fp8: the three products of every linear layer in a narrow type, everything else as it was.

Forward products read quantised activations and weights, gradients of inputs read quantised gradients, and gradients of
weights read the quantised copies of both, so that the copy of an activation is what is kept for the backward pass.
Products accumulate into the type of the gradient; the optimizer keeps its fp32 copy of each weight.

=============  =================================================================================================
precision      scales
=============  =================================================================================================
fp8            1 x 128 of activations and gradients, 128 x 128 of weights: DeepSeek-V3 technical report, section 3.3
fp8-tensor     one a tensor (Transformer Engine's current scaling)
mxfp8          1 x 32, in hardware (Blackwell)
=============  =================================================================================================

Rows that travel to experts are quantised before they are sent with block scales, as DeepSeek-V3 does, and after they
have arrived with the other two: Transformer Engine quantises the operands of its products, each expert's by itself.

A gradient of weights needs its operands along the other axis, so that a kernel of its own reads what is quantised once
and writes it twice. The scale of a tensor takes a pass before that (`amax`); hardware scales need none.
"""

from __future__ import annotations

from dataclasses import replace

from archsim.errors import InputError
from archsim.trace.quantise import PLANS, Overlay
from archsim.trace.trace import BlockSpec, OpSpec, Trace

__all__ = ["PRECISIONS", "mixed_precision"]

PRECISIONS = ("bf16", "fp8", "fp8-tensor", "mxfp8")


def mixed_precision(trace: Trace, precision: str) -> Trace:
    """A training trace in another precision of its products; "bf16" is as exported."""
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision}: must be one of {', '.join(PRECISIONS)}")
    if precision == "bf16":
        return trace
    overlay = _Training(trace, scale=precision == "fp8-tensor", sent=precision == "fp8")
    blocks = tuple(overlay.block(block) for block in trace.blocks)
    tensors = overlay.tensors
    if precision != "fp8":
        tensors = [replace(tensor, scale_block=None) if tensor.dtype == "fp8" else tensor for tensor in tensors]
    return replace(trace, tensors=tuple(tensors), blocks=blocks)


class _Training(Overlay):
    """The overlay of an inference trace, with both copies of what is quantised, and products of weight gradients."""

    def __init__(self, trace: Trace, *, scale: bool, sent: bool) -> None:
        super().__init__(trace, PLANS["fp8"])
        self.scale, self.sent = scale, sent
        self.turned: dict[int, int] = {}  # of every activation and gradient that has been quantised, the other copy

    def block(self, block: BlockSpec) -> BlockSpec:
        narrow = super().block(block)
        sources = {copy: x for (x, _), copy in self.made.items()}
        ops: list[OpSpec] = []
        for op in narrow.ops:
            if op.attrs.get("fn") == "quantise":
                if self.scale:
                    ops.append(replace(op, name=f"{op.name}.amax", attrs={"fn": "amax"}, outputs=()))
                op = replace(
                    op, attrs={"fn": "quantise_twice"}, outputs=(*op.outputs, self._turn(op.outputs[0], sources))
                )
            ops.append(self._weight_gradient(op))
        return replace(narrow, ops=tuple(ops))

    def _dispatch(self, op: OpSpec) -> None:
        if self.sent:
            super()._dispatch(op)
        else:
            self.ops.append(op)

    def _turn(self, copy: int, sources: dict[int, int]) -> int:
        spec = self.tensors[copy]
        self.tensors.append(replace(spec, name=f"{spec.name}.turned"))
        self.turned[sources[copy]] = len(self.tensors) - 1
        return len(self.tensors) - 1

    def _weight_gradient(self, op: OpSpec) -> OpSpec:
        if not op.name.endswith(".wgrad") or op.kind not in ("matmul", "grouped_matmul_wgrad"):
            return op
        x, dy = (self.turned.get(i, i) for i in op.inputs)
        if self.tensors[x].dtype != self.plan.weights or self.tensors[dy].dtype != self.plan.weights:
            return op
        return replace(op, inputs=(x, dy), dtype=self.plan.weights)
