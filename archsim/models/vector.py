"""Work of the vector unit, in lane operations and special-function operations per element.

The unit issues ``lanes`` simple operations (add, multiply, compare, convert; a fused multiply-add counts once) and
``special`` transcendental operations (exp, rsqrt, reciprocal, sin/cos) each cycle; the two run side by side.
Operations on integers have lanes of their own where the core issues more than ``lanes`` in all::

    cycles = ceil(elements * max(simple / lanes, (simple + integer) / issue, special_ops / special))

The counts below are those of straightforward kernels: reductions cost one operation an element. Not modelled:
lane shuffles at the end of a reduction, unaligned rows, dual issue. Estimated from the operator definitions; no
constant is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["COSTS", "NarrowLoads", "VectorCost", "vector_cycles"]


@dataclass(frozen=True)
class VectorCost:
    """Operations per element: ``simple`` lane operations and ``special`` transcendental ones.

    access: bytes that pass between registers and the core's memory beyond the streams themselves, in whole lines.
    integer: operations on addresses.
    """

    simple: float
    special: float
    access: float = 0.0
    integer: float = 0.0

    def __add__(self, other: VectorCost) -> VectorCost:
        return VectorCost(
            self.simple + other.simple, self.special + other.special, self.access + other.access,
            self.integer + other.integer,
        )  # fmt: skip


@dataclass(frozen=True)
class NarrowLoads:
    """How a kernel with a block of threads for each row moves it, where its loads are too narrow to fill the memory.

    Equation (Little's law, with what a block has in flight)::

        trips = ceil(cols / (threads width)) per_pass + per_row,   seconds per row and core = trips latency / blocks
    threads = min(threads, cols / width)

    ========== ============================================================ ======
    symbol     meaning                                                      unit
    ========== ============================================================ ======
    threads    of the block that works on one row, at most                  1
    width      elements that a thread loads in one pass                     1
    per_pass   loads of a pass that wait for each other                     1
    per_row    round trips once a row: reductions, positions                1
    latency    of a load under load                                         s
    blocks     that a core works on at a time, ``most`` at most             1
    ========== ============================================================ ======

    Assumptions: the compiler does not move loads of one pass before the end of the pass before.
    Not modelled: latencies of second passes. passes: times that a row is read; it is fetched again where the rows of
    all blocks exceed the core's memory. cold: rows are in no cache, as those of a table.

    >>> NarrowLoads(threads=1024, per_row=1).trips(4096)
    5.0
    """

    threads: int
    width: int = 1
    per_pass: float = 1.0
    per_row: float = 0.0
    most: int = 1 << 30
    cold: bool = False
    passes: int = 1

    def trips(self, cols: int) -> float:
        """Round trips of one row."""
        return -(-cols // (self.block(cols) * self.width)) * self.per_pass + self.per_row

    def block(self, cols: int) -> int:
        """Threads of the block that works on a row."""
        return max(min(self.threads, cols // self.width), 1)


#: operations per element of each vector function (elements = rows x cols of its dims)
COSTS: dict[str, VectorCost] = {
    "copy": VectorCost(0.0, 0.0),  # gather, scatter and append move bytes only
    "concat": VectorCost(0.0, 0.0),
    "cast": VectorCost(1.0, 0.0),
    "add": VectorCost(1.0, 0.0),
    "mul": VectorCost(1.0, 0.0),
    "silu": VectorCost(2.0, 2.0),  # x * 1/(1 + exp(-x)): exp and reciprocal are special
    "silu_mul": VectorCost(3.0, 2.0),
    "gelu": VectorCost(5.0, 1.0),  # tanh form
    "gelu_mul": VectorCost(6.0, 1.0),
    # by the error function, as torch.nn.GELU is without an argument: two polynomials of degree six in one, by seven
    # selected coefficients, and an exponential (erff of CUDA's math library, 21 in all); four for the rest, conversions
    "gelu_erf": VectorCost(27.0, 1.0),
    "rms": VectorCost(4.0, 0.0),  # square-accumulate, convert, scale, weight
    "layer": VectorCost(6.0, 0.0),
    "rotary": VectorCost(2.0, 0.0),  # one multiply and one fused multiply-add; sin/cos come from a table
    "sigmoid": VectorCost(4.0, 2.0),  # score, bias, group maximum, top-k compare
    "softmax": VectorCost(4.0, 1.0),  # maximum, scale-subtract, sum, normalise; one exp
    # TensorRT-LLM, applyBiasRopeUpdateKVCacheV2, for each element of q: it rotates q and k (the k of its group again),
    # both widened and narrowed, eight elements a thread with 60 instructions of addresses. A warp of 32 threads reads
    # five vectors of 16 B and the table of sines, 8 lines for each of 8 elements, and writes one: 88 lines of 128 B
    # for 256 elements.
    "rotate_append": VectorCost(24.0, 0.0, 88 * 128 / 256),
    # TensorRT-LLM, decoderMaskedMultiheadAttentionTemplate.h, for each element of K or V and head: widened to fp32,
    # multiplied and added. A thread adds up its 8 products of a key, and 16 threads theirs by four shuffles
    "lane_product": VectorCost(2.0, 0.0),
    "lane_sum": VectorCost(2.0, 0.0),
    # PyTorch, softmax_warp_forward for rows of up to 1,024: widen, compare, subtract, exponential (range reduction and
    # eight in all), add, a quotient rounded as IEEE says (ten), narrow; cunn_SoftMaxForward for longer ones widens and
    # exponentiates once more
    "softmax_warp": VectorCost(23.0, 2.0),
    "softmax_block": VectorCost(33.0, 3.0),
    "online_softmax": VectorCost(4.0, 1.0),  # the same per score of a flash-attention tile
    "attention_backward": VectorCost(5.0, 1.0),  # scale, exp; difference, product; conversion of P and dS
    # gradients (FLOPs: `archsim.trace.costs`; a multiply-add is one operation)
    "rms_backward": VectorCost(7.0, 0.0),
    "layer_backward": VectorCost(9.0, 0.0),
    "softmax_backward": VectorCost(3.0, 0.0),
    "sigmoid_backward": VectorCost(4.0, 0.0),
    "mul_backward": VectorCost(2.0, 0.0),
    "silu_backward": VectorCost(4.0, 2.0),
    "silu_mul_backward": VectorCost(7.0, 2.0),
    "gelu_backward": VectorCost(11.0, 1.0),
    "concat_backward": VectorCost(0.0, 0.0),
    "cross_entropy": VectorCost(3.0, 1.0),
    "cross_entropy_backward": VectorCost(4.0, 1.0),
    "sum_rows": VectorCost(1.0, 0.0),
    "scatter_add": VectorCost(1.0, 0.0),
    "dot": VectorCost(1.0, 0.0),
    "adamw": VectorCost(9.0, 2.0),  # moments, corrections, decay, step; root and quotient
    "narrow": VectorCost(2.0, 0.0),  # convert, permute
    "transpose": VectorCost(1.0, 0.0, 2.0),  # bytes out of the scratchpad, permuted, and back
    "argmax": VectorCost(1.0, 0.0),
    "quantise": VectorCost(3.0, 0.0),  # absolute maximum, scale, convert
    "quantise_twice": VectorCost(4.0, 0.0),  # one more conversion, and a transposition in the scratchpad
    "amax": VectorCost(1.0, 0.0),
    "promote": VectorCost(1.0, 0.0),  # one fused multiply-add of a partial sum, its scale, and the sum so far
    "unpack": VectorCost(1.0, 0.0),  # int8 or int4 to 2-byte floats, two an instruction: permute or subtract, and scale
    "dequantise": VectorCost(2.0, 0.0),  # convert, scale
}


def vector_cycles(
    elements: NDArray[np.int64] | int, cost: VectorCost, *, lanes: int, special: int, access: float = np.inf,
    issue: int | None = None, in_turn: bool = False,
) -> NDArray[np.int64]:  # fmt: skip
    """Cycles of ``elements`` elements at ``cost`` operations each, at least one.

    access: bytes per cycle between the registers and the core's memory. issue: operations of all kinds per cycle, as
    many as ``lanes`` by default. in_turn: too few warps to fill all pipes, or
    barriers between phases, so that their times add up.

    >>> int(vector_cycles(128 * 128, COSTS["online_softmax"], lanes=128, special=16))
    1024
    """
    simple = max(cost.simple / lanes, (cost.simple + cost.integer) / (issue or lanes))
    pipes = (simple, cost.special / special, cost.access / access)
    per_element = sum(pipes) if in_turn else max(pipes)
    return np.maximum(np.ceil(np.asarray(elements) * per_element).astype(np.int64), 1)
