"""From the forward pass to a training step: its backward pass by reverse-mode differentiation, and the optimizer.

Whole operators have whole operators as their derivatives, as in the kernel libraries that training runs: a matmul has
two (``.dgrad`` with respect to its input, ``.wgrad`` to its weight), an attention one ``attention_backward``. Rules for
every kind are in `archsim.trace.derivatives`. With ``dy`` the gradient of y:

    y = x W        ->  dx = dy W^T,  dW = x^T dy
    y = f(x)       ->  dx = dy f'(x)
    y read twice   ->  dy = dy_1 + dy_2, an `add`

Every operator has the attribute ``pass`` (forward, backward, optimizer), every backward operator ``of``, the name of
its forward operator. The blocks of the forward pass are followed by their backward passes in reverse order
(``moe.backward``) and by the updates of their weights (``moe.optimizer``), each as often as the block is repeated.

Mixed precision as in ZeRO (Rajbhandari et al., arXiv:1910.02054, section 3.1): gradients have the type of their weight,
AdamW keeps a copy of the weight and two moments in fp32: 16 bytes a parameter where weights are bf16.

Not modelled: recomputed activations, clipping by the norm of all gradients, losses that balance experts or teach the
indexer of sparse attention. What no gradient reaches (the indexer's weights) is not updated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from archsim.errors import InputError
from archsim.trace.derivatives import DERIVATIVES, NO_TENSOR
from archsim.trace.expr import Expr
from archsim.trace.graph import Attr
from archsim.trace.trace import BlockSpec, OpSpec, TensorSpec, Trace

__all__ = ["Backward", "training_step"]


def training_step(forward: Trace) -> Trace:
    """`forward` (a prefill without a cache, logits of all tokens), its loss, its backward pass and an AdamW step."""
    step = Backward(forward)
    blocks = [replace(block, ops=tuple(_passing(op, "forward") for op in block.ops)) for block in step.forward]
    blocks += [step.block(block) for block in reversed(step.forward)]
    blocks += [update for block in step.forward if (update := step.update(block)).ops]
    fixed = {name: n for name, n in forward.fixed.items() if name != "ctx"}
    return replace(forward, phase="train", tensors=tuple(step.tensors), blocks=tuple(blocks), fixed=fixed)


class Backward:
    """Walks a trace from its end to its start and collects the operators of one block at a time."""

    def __init__(self, trace: Trace) -> None:
        self.tensors = list(trace.tensors)
        self.forward = _with_loss(trace, self.tensors)
        self.ops: list[OpSpec] = []
        self.gradients: dict[int, int] = {}  # of each tensor that one has reached: where it is
        for op in (op for block in self.forward for op in block.ops if op.attrs.get("fn") == "cross_entropy"):
            self.gradients[op.outputs[0]] = NO_TENSOR  # the gradient of a loss is 1

    def block(self, block: BlockSpec) -> BlockSpec:
        """The backward pass of one block."""
        self.ops = []
        for op in reversed(block.ops):
            if any(i in self.gradients for i in op.outputs):
                if op.kind not in DERIVATIVES:
                    raise InputError(f"the exporter has no derivative for '{op.kind}' ('{block.name}/{op.name}')")
                DERIVATIVES[op.kind](self, op)
        return BlockSpec(f"{block.name}.backward", block.repeat, tuple(self.ops))

    def update(self, block: BlockSpec) -> BlockSpec:
        """AdamW on the weights that this block is the first to read, one operator a weight."""
        seen = {i for earlier in self.forward[: self.forward.index(block)] for op in earlier.ops for i in op.inputs}
        weights = dict.fromkeys(i for op in block.ops for i in op.inputs if self.tensors[i].role == "weight")
        ops = [self._adamw(block, weight) for weight in weights if weight not in seen and weight in self.gradients]
        return BlockSpec(f"{block.name}.optimizer", block.repeat, tuple(ops))

    def emit(
        self, of: OpSpec, label: str, kind: str, dims: dict[str, Expr], inputs: Sequence[int], outputs: Sequence[int],
        **attrs: Attr,
    ) -> None:  # fmt: skip
        """Append a backward operator of the forward operator `of`; it computes in the same type."""
        attrs = {**attrs, "pass": "backward", "of": of.name}
        taken = {op.name for op in self.ops}
        numbered = (f"{of.name}.{label}{suffix}" for suffix in ("", *(f"_{n}" for n in range(1, len(taken) + 1))))
        name = next(name for name in numbered if name not in taken)
        self.ops.append(OpSpec(name, kind, dims, attrs, tuple(inputs), tuple(outputs), of.dtype))

    def needs(self, tensor: int) -> bool:
        """Whether anything asks for the gradient of `tensor`: not of indices, masks and what came from outside."""
        spec = self.tensors[tensor]
        return spec.role in ("weight", "activation") and spec.dtype != "int32"

    def gradient(self, tensor: int) -> int:
        """Where the gradient of `tensor` is."""
        return self.gradients[tensor]

    def weight_gradient(self, weight: int) -> int:
        """Where the gradient of a weight accumulates: kernels add to it in place."""
        if weight not in self.gradients:
            spec = self.tensors[weight]
            self.gradients[weight] = self.add(TensorSpec(f"{spec.name}.grad", spec.shape, spec.dtype, "gradient"))
        return self.gradients[weight]

    def fresh(self, tensor: int) -> int:
        """A new tensor for a contribution to the gradient of `tensor`."""
        spec = self.tensors[tensor]
        return self.add(TensorSpec(f"{spec.name}.grad", spec.shape, spec.dtype, "activation"))

    def add(self, spec: TensorSpec) -> int:
        """Add a tensor and return its index."""
        self.tensors.append(spec)
        return len(self.tensors) - 1

    def contribute(self, of: OpSpec, tensor: int, gradient: int) -> None:
        """`gradient` is (a part of) the gradient of `tensor`: parts are added up."""
        if tensor not in self.gradients:
            self.gradients[tensor] = gradient
            return
        before = self.gradients[tensor]
        if before == gradient:  # parts of one tensor, each written to its place
            return
        spec = self.tensors[tensor]
        total = self.fresh(tensor)
        rows = Expr.parse("*".join(f"({axis})" for axis in spec.shape[:-1]) or "1")
        dims = {"rows": rows, "cols": spec.shape[-1]}
        added = replace(of, dtype=spec.dtype)
        self.emit(added, "accumulate", "elementwise", dims, (before, gradient), (total,), fn="add")
        self.gradients[tensor] = total

    def _adamw(self, block: BlockSpec, weight: int) -> OpSpec:
        spec = self.tensors[weight]
        state = [
            self.add(TensorSpec(f"{spec.name}.{part}", spec.shape, "fp32", "optimizer"))
            for part in ("master", "momentum", "variance")
        ]
        rows = Expr.parse("*".join(str(axis) for axis in spec.shape[:-1]) or "1")
        name = f"{spec.name.removeprefix(block.name + '.')}.adamw"
        attrs: dict[str, Attr] = {"fn": "adamw", "pass": "optimizer"}
        inputs, outputs = (weight, self.gradients[weight], *state), (weight, *state)
        return OpSpec(name, "elementwise", {"rows": rows, "cols": spec.shape[-1]}, attrs, inputs, outputs, "fp32")


def _with_loss(trace: Trace, tensors: list[TensorSpec]) -> list[BlockSpec]:
    """The blocks, with a cross entropy behind what is last and behind each lm_head; adds its tensors to `tensors`."""
    blocks = []
    for block in trace.blocks:
        last = block.ops[-1]
        if block is trace.blocks[-1] or last.name.endswith("lm_head"):
            block = replace(block, ops=(*block.ops, _loss(block.name, last.outputs[0], tensors)))
        blocks.append(block)
    return blocks


def _loss(block: str, logits: int, tensors: list[TensorSpec]) -> OpSpec:
    rows, vocabulary = Expr.parse("*".join(f"({n})" for n in tensors[logits].shape[:-1])), tensors[logits].shape[-1]
    tensors.append(TensorSpec(f"{block}.labels", (rows,), "int32", "constant"))
    tensors.append(TensorSpec(f"{block}.loss", (rows,), "fp32", "activation"))
    dims = {"rows": rows, "cols": vocabulary}
    operands = (logits, len(tensors) - 2), (len(tensors) - 1,)
    return OpSpec("loss", "elementwise", dims, {"fn": "cross_entropy"}, *operands, "fp32")


def _passing(op: OpSpec, which: str) -> OpSpec:
    return replace(op, attrs={**op.attrs, "pass": which})
