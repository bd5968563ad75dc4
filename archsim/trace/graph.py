"""The concrete operator graph: every shape an integer, every cost filled in (see `Trace.at`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from archsim.sparsity import Sparsity

__all__ = ["DTYPE_BITS", "ROLES", "Attr", "Block", "Graph", "Op", "Tensor", "layers_of", "scale_bytes"]

DTYPE_BITS = {"fp32": 32, "tf32": 32, "int32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "fp4": 4, "int4": 4}
# A gradient (of a weight) and the optimizer's state are kept, as the weight is, once for each repeat of a block.
ROLES = ("weight", "activation", "kv_cache", "constant", "gradient", "optimizer")

Attr = str | int | float | bool | None


def scale_bytes(shape: tuple[int, ...], block: tuple[int, int] | None, dtype: str = "fp32") -> int:
    """Bytes of the scales of a quantised tensor: one per `block` of the last two axes.

    >>> scale_bytes((576, 7168), (128, 128))  # ceil(4.5) x 56 blocks
    1120
    """
    if block is None:
        return 0
    *outer, rows, cols = shape
    scales = math.prod(outer) * -(-rows // block[0]) * -(-cols // block[1])
    return -(-scales * DTYPE_BITS[dtype] // 8)


@dataclass(frozen=True)
class Tensor:
    """An array in memory. Inside a repeated block a weight or KV cache stands for one array per repeat.

    sparsity: of weights that are stored without their zeros.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    scale_block: tuple[int, int] | None = None
    scale_dtype: str = "fp32"
    sparsity: Sparsity | None = None

    @cached_property
    def numel(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """Bytes, the scales of a quantised tensor and the indices of a sparse one included."""
        scales = scale_bytes(self.shape, self.scale_block, self.scale_dtype)
        width = DTYPE_BITS[self.dtype]
        bits = self.sparsity.bits(self.numel, width) if self.sparsity else self.numel * width
        return -(-bits // 8) + scales

    def bytes_of(self, elements: int) -> int:
        """Bytes of `elements` of this tensor with their share of the scales, rounded up."""
        return -(-self.nbytes * elements // self.numel) if self.numel else 0


@dataclass(frozen=True)
class Op:
    """One operator. `input_bytes` and `output_bytes` are the unique bytes of each operand, in operand order."""

    name: str
    kind: str
    dims: dict[str, int]
    attrs: dict[str, Attr]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    dtype: str
    flops: int
    input_bytes: tuple[int, ...]
    output_bytes: tuple[int, ...]

    @property
    def bytes_read(self) -> int:
        """Unique bytes read."""
        return sum(self.input_bytes)

    @property
    def bytes_written(self) -> int:
        """Unique bytes written."""
        return sum(self.output_bytes)


def layers_of(names: Iterable[str]) -> int:
    """Layers of the model in a block with operators of these `names`, which say where kinds of layers alternate.

    >>> layers_of(["self_attn.q_proj", "mlp.down_proj"]), layers_of(["0.mlp.down_proj", "1.mlp.down_proj"])
    (1, 2)
    """
    return len({name.split(".")[0] for name in names if name.split(".")[0].isdecimal()}) or 1


@dataclass(frozen=True)
class Block:
    """A run of operators in execution order, performed `repeat` times one after another."""

    name: str
    repeat: int
    ops: tuple[Op, ...]

    @cached_property
    def tensors(self) -> frozenset[int]:
        """Indices of the tensors that the block touches."""
        return frozenset(index for op in self.ops for index in op.inputs + op.outputs)

    @property
    def layers(self) -> int:
        """Layers of the model in one repeat."""
        return layers_of(op.name for op in self.ops)

    @property
    def flops(self) -> int:
        """FLOPs of one repeat."""
        return sum(op.flops for op in self.ops)


@dataclass(frozen=True)
class Graph:
    """What one step of the model does: blocks of operators over one table of tensors."""

    name: str
    phase: str
    batch: int
    seq: int
    ctx: int
    blocks: tuple[Block, ...]
    tensors: tuple[Tensor, ...]

    @cached_property
    def n_params(self) -> int:
        """Weights of the whole model, repeats counted, shared weights once."""
        return sum(tensor.numel * times for tensor, times in self._held("weight"))

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of the weights of the whole model."""
        return sum(tensor.nbytes * times for tensor, times in self._held("weight"))

    @cached_property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache of the whole model after the step."""
        return sum(tensor.nbytes * times for tensor, times in self._held("kv_cache"))

    @cached_property
    def gradient_bytes(self) -> int:
        """Bytes of the gradients of all weights (training)."""
        return sum(tensor.nbytes * times for tensor, times in self._held("gradient"))

    @cached_property
    def optimizer_bytes(self) -> int:
        """Bytes of the optimizer's state (training)."""
        return sum(tensor.nbytes * times for tensor, times in self._held("optimizer"))

    @cached_property
    def saved(self) -> dict[int, int]:
        """Activations that the forward pass keeps for the backward pass: tensor to copies, one for each repeat."""
        made: dict[int, int] = {}
        kept: dict[int, int] = {}
        for block in self.blocks:
            for op in block.ops:
                if op.attrs.get("pass") == "backward":
                    kept.update({i: made[i] for i in op.inputs if i in made})
                elif op.attrs.get("pass") == "forward":
                    made.update({i: block.repeat for i in op.outputs if self.tensors[i].role == "activation"})
        return kept

    @cached_property
    def saved_bytes(self) -> int:
        """Bytes of the `saved` activations if none is computed again."""
        return sum(self.tensors[i].nbytes * times for i, times in self.saved.items())

    @cached_property
    def flops(self) -> int:
        """FLOPs of the whole step."""
        return sum(block.flops * block.repeat for block in self.blocks)

    @property
    def tokens(self) -> int:
        """Tokens that the step takes in."""
        return self.batch * self.seq

    def _held(self, role: str) -> list[tuple[Tensor, int]]:
        """Each tensor of `role` with the number of copies that the model holds."""
        repeats: dict[int, int] = {}
        for block in self.blocks:
            for index in block.tensors:
                repeats[index] = max(block.repeat, repeats.get(index, 0))
        return [(self.tensors[i], times) for i, times in repeats.items() if self.tensors[i].role == role]
