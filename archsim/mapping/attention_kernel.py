"""What an attention operator computes, and what is known of the kernel that does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from archsim.models.vector import COSTS

__all__ = ["ANY_KERNEL", "AttentionKernel", "AttentionShape", "Merge"]

Merge = Literal["kernel", "cluster", "last"]


@dataclass(frozen=True)
class AttentionKernel:
    """How an attention kernel is written; the defaults leave everything to the mapper.

    overlap: the softmax of a block runs beside the products of another, where the matrix unit is asynchronous.
    pack: most query heads that can share a tile of keys in decode; larger groups are worked on head by head.
    lanes: both products run on the vector unit, in fp32, as in decode kernels from before tensor cores did them.
    split: keys may be split over cores. partials: results are partial, and merged, even where nothing was split.
    whole: blocks that the mask hides are worked on as well.
    fixed: its tiles have one size, which is worked on whole: the queries of two instructions of an asynchronous matrix
    unit and 128 keys, or ``rows`` (half where the scratchpad is short) of a synchronous one and ``keys`` (fewer where a
    second block of threads, whose warps hold two instructions' rows, would find no room). In the latter a block of
    threads holds one block of keys and one of values, each fetched once the one before has been used, and two blocks of
    threads share a core where they fit.
    persistent: loads for the next block of queries are under way while this one ends; otherwise blocks of threads
    follow each other, each from its loads to its store.
    read_ahead: operands of a synchronous matrix unit are loaded while it multiplies others: of the same warps or, with
    tiles of one size, which leave them one warp a scheduler, of the other block of threads on the core.
    outside: cycles of a block of threads before its first and after its last block of keys: indices, descriptors,
    barriers, sums over warps, the output on its way through the scratchpad.
    widen: operations of a lane on an element of keys or values that are stored narrower than they are multiplied.
    synchronous: it multiplies by synchronous instructions whatever the unit has (`Target.synchronous`).
    pieces: parts in which a block of ``keys`` comes and is multiplied, two at a time in a scratchpad of any size: a
    tile too large for it is cut along the dims. most: query rows of a tile, at most.
    resident: blocks of threads that share a core, each with its part of the scratchpad and the registers.
    ranges: that the keys are split into where a rule of the library says so; 0: as the mapper finds best.
    merge: who merges partial results: a kernel on all cores, behind a barrier; or, of the blocks of threads that the
    keys were split over, all that are in a cluster or the last to end, once a counter says that the others have stored.
    """

    overlap: bool = True
    pack: int = 1 << 30
    lanes: bool = False
    split: bool = True
    partials: bool = False
    whole: bool = False
    fixed: bool = False
    rows: int = 64
    keys: int = 64
    persistent: bool = True
    read_ahead: bool = True
    outside: int = 0
    widen: float = COSTS["dequantise"].simple
    synchronous: bool = False
    pieces: int = 1
    most: int = 1 << 30
    resident: int = 1
    ranges: int = 0
    merge: Merge = "kernel"


#: a kernel of which nothing is known: the mapper chooses, for the best
ANY_KERNEL = AttentionKernel()


@dataclass(frozen=True)
class AttentionShape:
    """Dims of the operator (see docs/trace-format.md), bytes of an element of queries, of keys and values, of output.

    ``convert``: keys and values are stored narrower than they are multiplied.
    """

    batch: int
    q_len: int
    kv_len: int
    heads: int
    kv_heads: int
    d_qk: int
    d_v: int
    causal: bool
    window: int | None
    kv_shared: bool
    dtype: str
    q_bytes: float
    kv_bytes: float
    out_bytes: float = 2.0
    convert: bool = False
    kernel: AttentionKernel = ANY_KERNEL

    @property
    def k_bytes(self) -> float:
        """Bytes of one key of one head."""
        return self.d_qk * self.kv_bytes

    @property
    def v_bytes(self) -> float:
        """Bytes of one value of one head that are not those of its key."""
        return 0.0 if self.kv_shared else self.d_v * self.kv_bytes
