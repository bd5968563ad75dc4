"""Operators and networks as the kernels that XLA makes of them on one TPU core, in fp32 with products in bf16.

What is assumed of the compiler, everywhere alike:

* arrays lie in memory in tiles of 8 x 128, one of two dimensions padded to the lanes and the other one to the sublanes,
  whichever way round pads less; the features of an image are always along the lanes;
* a product keeps its smaller operand in VMEM and streams the larger one; bias, activation, residual and the inference
  form of batch norm are part of its output;
* a reduction along rows is a pass of its own over its input, unless a product or a pass makes that input;
* a softmax is three passes (row maximum; sum of exponentials; normalise), a layer norm of PyTorch four: it becomes
  a batch norm of the transposed rows followed by scale and shift (mean; variance; normalise; scale and shift);
* in attention the row maximum belongs to the first product and the division to the second one's input, so that one pass
  is left between them, which writes bf16 for the product that reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from archsim.mapping import Lowered, Target
from archsim.mapping.lowering.resident import Streaming, lower_resident
from archsim.mapping.lowering.rows import Stream, lower_rows
from archsim.models.vector import COSTS, VectorCost

__all__ = ["Kernel", "Pass", "Product", "Shapes"]

FP32, BF16 = 4, 2


@dataclass(frozen=True)
class Product:
    """A product or convolution, and what is applied to each of its results."""

    work: Streaming
    epilogue: VectorCost = COSTS["cast"]

    def lower(self, target: Target) -> Lowered:
        return lower_resident(target, "product", self.work, (0, 1, 2), self.epilogue)


@dataclass(frozen=True)
class Pass:
    """One pass of the vector unit over ``elements``, which reads and writes so many bytes."""

    rows: int
    elements: int
    read: int
    written: int
    cost: VectorCost

    def lower(self, target: Target) -> Lowered:
        outputs = [Stream(1, self.written)] if self.written else []
        work = [(self.elements, self.cost)]
        return lower_rows(target, "pass", self.rows, [Stream(0, self.read)], outputs, work)


Kernel = Product | Pass


@dataclass(frozen=True)
class Shapes:
    """Makes kernels for a core whose arrays have ``lanes`` columns and whose vectors have ``sublanes`` rows."""

    lanes: int
    sublanes: int

    @classmethod
    def of(cls, target: Target) -> Shapes:
        """The tile of memory that fits the units of ``target``."""
        lanes = target.tile_floor()[1]
        return cls(lanes, target.chip.core.vector.lanes // lanes)

    def nbytes(self, rows: int, cols: int, width: int = FP32) -> int:
        """Bytes of a matrix as it lies in memory."""
        upright = _up(rows, self.sublanes) * _up(cols, self.lanes)
        return min(upright, _up(cols, self.sublanes) * _up(rows, self.lanes)) * width

    def image_bytes(self, pixels: int, channels: int) -> int:
        """Bytes of images, features along the lanes."""
        return pixels * _up(channels, self.lanes) * FP32

    def product(
        self, m: int, n: int, k: int, *, batch: int = 1, left: int = FP32, out: int = FP32, residual: bool = False,
        epilogue: VectorCost = COSTS["cast"],
    ) -> Product:  # fmt: skip
        """``batch`` products of ``m x k`` (elements of ``left`` bytes) by ``k x n``, of which the smaller one stays."""
        a, b, c = self.nbytes(m, k, left), self.nbytes(k, n), self.nbytes(m, n, out)
        extra = c if residual else 0
        if a < b:
            return Product(Streaming(n, m, k, "bf16", b + extra, a, c, batch), epilogue)
        return Product(Streaming(m, n, k, "bf16", a + extra, b, c, batch), epilogue)

    def convolution(
        self, batch: int, height: int, width: int, channels: int, filters: int, kernel: int, stride: int, *,
        residual: bool = False,
    ) -> Product:  # fmt: skip
        """``height x width`` are the output's; its weights stay, the images stream past."""
        pixels = batch * height * width
        seen, out = self.image_bytes(pixels * stride * stride, channels), self.image_bytes(pixels, filters)
        halo = self.image_bytes((kernel - 1) * width * stride, channels) if kernel > stride else 0
        extra = out if residual else 0
        weights = kernel * kernel * self.nbytes(channels, filters)
        return Product(
            Streaming(pixels, filters, channels, "bf16", seen + extra, weights, out, taps=kernel**2, halo=halo),
            COSTS["add"],
        )

    def softmax(self, rows: int, cols: int) -> list[Kernel]:
        size, nbytes = rows * cols, self.nbytes(rows, cols)
        exponential = VectorCost(2.0, 1.0)
        return [
            Pass(rows, size, nbytes, 0, COSTS["add"]),
            Pass(rows, size, nbytes, 0, exponential),
            Pass(rows, size, nbytes, nbytes, exponential + COSTS["mul"]),
        ]

    def layer_norm(self, rows: int, cols: int) -> list[Kernel]:
        size, nbytes = rows * cols, self.nbytes(rows, cols)
        return [
            Pass(rows, size, nbytes, 0, COSTS["add"]),
            Pass(rows, size, nbytes, 0, VectorCost(2.0, 0.0)),
            Pass(rows, size, nbytes, nbytes, VectorCost(2.0, 0.0)),
            Pass(rows, size, nbytes, nbytes, COSTS["mul"]),
        ]

    def attention(self, heads: int, length: int, depth: int) -> list[Kernel]:
        scores = heads * length
        return [
            self.product(length, length, depth, batch=heads, epilogue=COSTS["add"] + COSTS["mul"]),
            Pass(
                scores, scores * length, self.nbytes(scores, length), self.nbytes(scores, length, BF16),
                VectorCost(3.0, 1.0),
            ),
            self.product(length, depth, length, batch=heads, left=BF16),
        ]  # fmt: skip

    def encoder(self, length: int, hidden: int, heads: int, inner: int) -> list[Kernel]:
        """One transformer layer over ``length`` tokens."""
        projection = self.product(length, hidden, hidden)
        return [
            *[projection] * 3,
            *self.attention(heads, length, hidden // heads),
            self.product(length, hidden, hidden, residual=True),
            *self.layer_norm(length, hidden),
            self.product(length, inner, hidden, epilogue=COSTS["gelu"]),
            self.product(length, hidden, inner, residual=True),
            *self.layer_norm(length, hidden),
        ]

    def pool(self, pixels: int, channels: int, window: int, stride: int) -> Pass:
        """``pixels`` are the output's, for each of which ``window`` squared inputs are compared or added."""
        read, written = self.image_bytes(pixels * stride * stride, channels), self.image_bytes(pixels, channels)
        work = VectorCost(float(window**2), 0.0)
        return Pass(max(pixels // self.sublanes, 1), pixels * _up(channels, self.lanes), read, written, work)


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
