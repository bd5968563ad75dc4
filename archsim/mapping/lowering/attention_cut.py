"""Which tiles an attention operator is cut into: query rows, keys of a block, ranges that the keys are split into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.mapping.attention_kernel import AttentionShape
from archsim.mapping.target import Target
from archsim.models.attention import WARPS, Order, block_time
from archsim.models.vector import COSTS, VectorCost
from archsim.trace.graph import DTYPE_BITS

__all__ = [
    "DECODE",
    "Cut",
    "choose_cut",
    "handed",
    "item_seconds",
    "latent_cycle",
    "loaded_again",
    "order_of",
    "packed_rows",
    "stage_cycles",
    "sums_blocks",
    "tile_height",
]

Ints = NDArray[np.int64]

#: chunks of keys that a core holds, one in use and the others on their way, and twice its blocks of queries
MAX_SLOTS = 4
#: blocks of queries that a core holds where they take no more than an eighth of the scratchpad
MAX_QUERIES = 16
#: tiles of scores at a time: one where all warps take turns, at most so many where two groups of them alternate or the
#: units work apart
SCORE_TILES: Mapping[Order, int] = {"turns": 1, "alternate": 2, "apart": 4}
#: power of the vector unit in a softmax over that of a busy matrix unit: an estimate, between what the rates of
#: FlashAttention-3 on the H100 (0.35) and of long prefills on the B200 (0.25) ask for
VECTOR_POWER = 0.3
#: operations on addresses for a load of a kernel on the lanes, 16 B a thread of a cache in pages
ADDRESSES, LOAD_BYTES = 48, 16
#: keys whose P V are added up before they are handed over, where the units are apart: blocks of 512 keys (AMLA, arXiv
#: 2509.25224, and the best tiles of the flash attention of CANN's PTO library)
HANDED_KEYS = 512
#: share of the best time within which cuts count as equal
INDIFFERENT = 0.02
#: query rows, and keys of a block; kernels are written for blocks of 64 keys or more, which they work on whole
SIZES = (16, 32, 64, 128, 256, 512, 1024)
BLOCKS, SMALL_BLOCKS = SIZES[2:], SIZES[:2]
SPLITS = (1, 2, 4, 8, 16, 32, 64)
#: query positions up to which all the heads that share keys also share a tile
DECODE = 16


@dataclass(frozen=True)
class Cut:
    """Query rows and keys of a tile, ranges the keys are split into, chunks and query blocks in the scratchpad.

    scores: tiles of scores at a time. order: how the stages of its blocks overlap. resident: blocks of threads that
    share a core, each with all of this. busy: power that the tiles draw, as a share of that of busy matrix units, which
    the clock depends on. together: cores that share the rows of an instruction; each holds its part of every block.
    planned: sequences are laid end to end and cut into equal ranges, one for every core; else ``splits`` says how.
    """

    rows: int
    keys: int
    splits: int
    slots: int
    queries: int
    scores: int
    order: Order
    resident: int = 1
    busy: float = 1.0
    together: int = 1
    planned: bool = False


def packed_rows(shape: AttentionShape) -> int:
    """Query rows that share a key/value head: a whole group's when one query each, as decode kernels pack them."""
    group = shape.heads // shape.kv_heads
    return shape.q_len * group if shape.q_len <= DECODE and group <= shape.kernel.pack else shape.q_len


def tile_height(target: Target, shape: AttentionShape) -> int | None:
    """Query rows of every tile of a kernel whose tiles have one height; None where the mapper chooses."""
    unit = target.chip.core.matrix
    if unit.kind == "systolic" or not shape.kernel.fixed:
        return None
    return shape.kernel.rows if unit.synchronous else 2 * unit.m


def block_keys(target: Target, shape: AttentionShape, height: int) -> int:
    """Keys of a block of tiles that are ``height`` rows high, in a kernel whose tiles have one size."""
    unit, keys = target.chip.core.matrix, 128 if target.asynchronous else shape.kernel.keys // shape.kernel.pieces
    if unit.kind == "tensor_core" and unit.synchronous and height > WARPS * unit.m:
        room = target.scratchpad_bytes / 2 - height * shape.d_qk * shape.q_bytes
        while keys > SMALL_BLOCKS[0] and keys * (shape.k_bytes + shape.v_bytes) > room:
            keys //= 2
    return keys


def single_buffered(target: Target, shape: AttentionShape) -> bool:
    """Whether the kernel holds one block of keys and one of values; a latent block that is both has to be two."""
    return tile_height(target, shape) is not None and not target.asynchronous and not shape.kv_shared


def order_of(target: Target, shape: AttentionShape) -> Order:
    """How the stages of different blocks overlap (`archsim.models.attention`)."""
    if shape.kernel.lanes or not (shape.kernel.overlap and target.asynchronous):
        return "turns"
    # no kernel for latents that is known leaves the warps to the softmax of several blocks
    frees = target.tensor_memory and not shape.kv_shared
    return "apart" if target.chip.core.matrix.kind == "systolic" or target.apart or frees else "alternate"


def orders(target: Target, shape: AttentionShape) -> tuple[Order, ...]:
    """The orders that the mapper may choose among: turns as well where latents are keys and values.

    Warps that alternate issue the scores of a block before P V of the one before, so that both hold their place; with
    two places the next block is then loaded while nothing is multiplied.
    """
    best = order_of(target, shape)
    return ("alternate", "turns") if best == "alternate" and shape.kv_shared else (best,)


def stage_cycles(
    target: Target, shape: AttentionShape, rows: Ints, keys: int, order: Order | None = None
) -> tuple[Ints, Ints, Ints]:
    """Cycles of a block: of its scores on the matrix unit, of what the vector unit does then, and of P V.

    The loads of warps that another block of threads hides count as work of the vector unit; products are, where the
    kernel has them there.
    """
    if shape.kernel.lanes:
        product, each = COSTS["lane_product"], np.asarray(rows, dtype=np.int64) * keys
        product = product + VectorCost(0.0, 0.0, integer=ADDRESSES * shape.kv_bytes / LOAD_BYTES)
        if shape.kv_bytes <= 1:
            product = product + VectorCost(shape.kernel.widen, 0.0)
        cost = COSTS["online_softmax"]
        work = ((shape.d_qk, product + COSTS["lane_sum"]), (1, cost), (shape.d_v, product))
        first, softmax, second = (target.vector_cycles(each * width, cost) for width, cost in work)
        return first, softmax, second
    ahead, apart = shape.kernel.read_ahead, single_buffered(target, shape)
    sizes = [(rows, np.full_like(rows, n), np.full_like(rows, k)) for n, k in ((keys, shape.d_qk), (shape.d_v, keys))]
    share = _cores_of_an_instruction(target, shape)
    scores, value = (
        target.fed_cycles(*size, shape.dtype, read_ahead=ahead and not apart, share=share, stored=stored)
        for size, stored in zip(sizes, (True, False), strict=True)  # probabilities wait in registers
    )
    softmax = softmax_cycles(target, shape, rows, keys, order or order_of(target, shape))
    if ahead and apart:
        first, second = (target.matrix_cycles(*size, shape.dtype) for size in sizes)
        return first, softmax + (scores - first) + (value - second), second
    return scores, softmax, value


def _cores_of_an_instruction(target: Target, shape: AttentionShape) -> int:
    """Cores that may share the rows of an instruction: a pair, where enough rows see the same keys."""
    unit = target.chip.core.matrix
    return target.pair if unit.kind == "tensor_core" and packed_rows(shape) >= unit.m else 1


def softmax_cycles(target: Target, shape: AttentionShape, rows: int | Ints, keys: int, order: Order) -> Ints:
    """Cycles of the vector unit for a block: the softmax with the rescaling of the output, and narrowing what results.

    Probabilities of 8 bits are converted and permuted into the layout of an operand after the exponentials, or beside
    them where they become one by way of a memory for matrices, which instructions for pairs of cores have. Units
    without it take 8-bit values only as columns: V is transposed, in the scratchpad (FlashAttention-3, section 3.3), or
    by every warp of a synchronous unit for itself.
    """
    unit, scores = target.chip.core.matrix, np.asarray(rows, dtype=np.int64) * keys
    cost = COSTS["online_softmax"] + VectorCost(shape.d_v / keys, 0.0)
    alternate = order == "alternate"
    if DTYPE_BITS[target.compute_dtype(shape.dtype)] >= 16:
        return target.vector_cycles(scores, cost, in_turn=alternate)
    if target.tensor_memory:
        return target.vector_cycles(scores, cost + COSTS["narrow"], in_turn=alternate)
    cycles = target.vector_cycles(scores, cost, in_turn=alternate) + target.vector_cycles(scores, COSTS["narrow"])
    if unit.kind == "tensor_core":
        warps = WARPS if unit.synchronous else 1
        cycles = cycles + target.vector_cycles(warps * keys * shape.d_v, COSTS["transpose"])
    return cycles


def handed(target: Target, shape: AttentionShape, rows: int, keys: int) -> tuple[int, int, int]:
    """Bytes of scores, of probabilities and of the output of a block that go from one unit to the other by way of the
    cache: sums in fp32, probabilities as they are multiplied. None where both units share a core."""
    if not target.apart or shape.kernel.lanes:
        return 0, 0, 0
    wide = DTYPE_BITS[target.compute_dtype(shape.dtype)] // 8
    return 4 * rows * keys, wide * rows * keys, 4 * rows * shape.d_v


def loaded_again(target: Target, shape: AttentionShape) -> bool:
    """Whether latents are loaded once more as values: where the units are apart they would wait too long for P."""
    return target.apart and shape.kv_shared


def _key_bytes(target: Target, shape: AttentionShape) -> float:
    """Bytes that are loaded for a key and its value."""
    return shape.k_bytes + (shape.k_bytes if loaded_again(target, shape) else shape.v_bytes)


def sums_blocks(cut: Cut) -> int:
    """Blocks of keys whose P V are added up before the other unit gets them."""
    return max(HANDED_KEYS // cut.keys, 1)


def choose_cut(target: Target, shape: AttentionShape) -> Cut:
    """The cut with the least estimated time; ties go to the larger tile."""
    found: list[tuple[float, Cut]] = []
    for heights, blocks in _choices(target, shape):
        found = found or list(_rated(target, shape, heights, blocks))
    if not found:
        need = 2 * 16 * shape.d_qk * shape.q_bytes + 2 * 16 * (shape.k_bytes + shape.v_bytes)
        raise InputError(
            f"no attention tile with heads of {shape.d_qk} fits {target.name}: 16 queries x 16 keys need "
            f"{need:,.0f} B of scratchpad ({target.scratchpad_bytes:,} B) and {64 * max(shape.d_v, 16):,} B of "
            f"accumulator ({target.accumulator_bytes:,} B)"
        )
    # among nearly equal ones the largest tile: fewer, larger transfers hold up better in a busy memory
    close = min(time for time, _ in found) * (1 + INDIFFERENT)
    return max((cut for time, cut in found if time <= close), key=lambda cut: (cut.rows * cut.keys, -cut.splits))


def _choices(target: Target, shape: AttentionShape) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Query rows and keys of a tile that may be tried, in order of preference: the next only where nothing of one fits.

    A kernel with tiles of one size is built with half the rows where the scratchpad is too small for its blocks.
    """
    height = tile_height(target, shape)
    if height is None:
        heights = [rows for rows in SIZES if rows <= shape.kernel.most]
        yield from ((heights, BLOCKS), (heights, SMALL_BLOCKS))
    else:
        while height >= SIZES[0]:
            keys = block_keys(target, shape, height)
            yield (height,), (keys,)
            if keys > BLOCKS[0]:
                yield (height,), (BLOCKS[0],)
            yield (height,), SMALL_BLOCKS
            height //= 2


def _rated(
    target: Target, shape: AttentionShape, heights: Sequence[int], blocks: Sequence[int]
) -> Iterator[tuple[float, Cut]]:
    """The legal cuts with tiles and blocks of these sizes, each with an estimate of its time in seconds."""
    packed = packed_rows(shape)
    units = shape.batch * shape.heads * shape.q_len // packed
    seen = shape.kv_len if shape.window is None else min(shape.kv_len, shape.window + shape.q_len)
    width = _key_bytes(target, shape)
    fixed = tile_height(target, shape) is not None
    single = single_buffered(target, shape)
    # queries that a synchronous unit multiplies wait in registers beside the scores, unless the kernel is not like that
    in_registers = not target.asynchronous and not fixed
    for rows, keys, order in product(heights, blocks, orders(target, shape)):
        together = _cores_of_an_instruction(target, shape)
        if rows >= target.instruction_rows or -(-packed // rows) % together:  # a tile alone holds all of its keys
            together = 1
        block_bytes = keys * width / together
        too_high = not fixed and rows > SIZES[0] and rows >= 2 * packed
        if too_high or (keys > min(blocks) and keys >= 2 * seen):
            continue
        # more blocks of keys, and of queries, where few cores share a fast memory
        least, most = (1, 1) if single else (2, max(MAX_SLOTS, ceil(target.in_flight_bytes / block_bytes)))
        query_bytes = rows * shape.d_qk * shape.q_bytes
        queries = 1
        if shape.kernel.persistent and not single:
            queries = max(most // 2, min(int(target.scratchpad_bytes / 8 // query_bytes), MAX_QUERIES))
        accumulator = target.accumulator_bytes / shape.kernel.resident
        free = target.scratchpad_bytes / shape.kernel.resident + in_registers * query_bytes
        found = (2, 1) if shape.kernel.pieces > 1 else _places(free, query_bytes, block_bytes, queries, least, most)
        # tiles of one size may leave room for one block of keys and one of values; short prompts get smaller blocks
        if found is None and fixed and order == "turns" and not shape.kv_shared and seen > BLOCKS[0]:
            found = _places(free, query_bytes, block_bytes, queries, 1, most)
        resident = shape.kernel.resident
        if single:
            resident = min(int(target.scratchpad_bytes // (query_bytes + block_bytes)), 2)
        # the output is held in one half of the registers (or all of a memory of its own), the scores elsewhere; blocks
        # that are under way in tensor memory lie beside it
        held = 4 * rows * (BLOCKS[0] if target.apart else shape.d_v)  # what is handed over leaves in pieces
        beside = held if order == "apart" and target.tensor_memory else 0
        room = accumulator - in_registers * query_bytes - beside
        scores = min(int(room // (4 * rows * (BLOCKS[0] if target.apart else keys))), SCORE_TILES[order])
        if found is None or scores < min(SCORE_TILES[order], 2) or held > accumulator:
            continue
        tiles = units * -(-packed // rows)
        fill = target.cores * resident // tiles  # as many ranges as give every core one
        cuts = [
            Cut(rows, keys, splits, *found, scores, order, resident, together=together)
            for splits in _ranges(shape, fill)
            if splits == 1 or splits * keys <= seen
        ]
        abreast = -(-packed // rows) <= target.cores
        if _plannable(shape) and together == 1 and abreast and tiles > target.cores // 2:
            cuts.append(replace(cuts[0], planned=True))
        for cut in cuts:
            seconds, busy = _estimate(target, shape, cut, tiles * cut.splits, seen)
            yield seconds, replace(cut, busy=busy)


def item_seconds(target: Target, shape: AttentionShape, cut: Cut, chunks: Ints) -> NDArray[np.float64]:
    """About how long each block of queries takes on a lane of its core, by its blocks of keys: they take turns with
    those of other lanes, and all begin and end alike."""
    stages = stage_cycles(target, shape, np.array([cut.rows]), cut.keys, cut.order)
    scores, softmax, value = (float(cycles[0]) / target.sustained_clock(shape.dtype) for cycles in stages)
    block = cut.resident * block_time(scores, softmax, value, cut.order, blocks=cut.scores)
    start = shape.kernel.outside / target.clock
    if not shape.kernel.persistent:
        start += target.memory_latency_s + cut.keys * _key_bytes(target, shape) / target.port_read_bytes_per_s
    return (chunks * block + start).astype(np.float64)


def _ranges(shape: AttentionShape, fill: int) -> Sequence[int]:
    """The numbers of ranges that the keys may be split into; fill: as many as give every core one."""
    if not shape.kernel.split:
        return (1,)
    if shape.kernel.ranges:
        return (shape.kernel.ranges,)
    return sorted({*SPLITS, max(fill, 1)})


def _places(
    room: float, query_bytes: float, block_bytes: float, queries: int, least: int, most: int
) -> tuple[int, int] | None:
    """Blocks of keys and of queries that fit, up to so many: a second block of queries waits where it can.

    >>> _places(200, 40, 30, 2, 3, 4), _places(200, 40, 30, 2, 6, 8)
    ((4, 2), None)
    """
    while queries:
        slots = min(int((room - queries * query_bytes) // block_bytes), most)
        if slots >= least:
            return slots, queries
        queries //= 2
    return None


def _plannable(shape: AttentionShape) -> bool:
    """Whether the kernel plans equal ranges, as those for latents do (FlashMLA), and all tiles have the same keys."""
    decode = shape.q_len <= DECODE and packed_rows(shape) > shape.q_len
    kernel = shape.kernel
    return shape.kv_shared and decode and kernel.persistent and kernel.split and kernel.merge == "kernel"


def _estimate(target: Target, shape: AttentionShape, cut: Cut, items: int, seen: int) -> tuple[float, float]:
    """Seconds that the operator takes, from the time of a block of keys in the steady state, and ``Cut.busy``."""
    packed = packed_rows(shape)
    fixed, width = tile_height(target, shape) is not None, _key_bytes(target, shape)
    height = cut.rows if fixed else min(cut.rows, packed)
    causal = shape.causal and packed == shape.q_len and not shape.kernel.whole
    part = (seen - (shape.q_len - 1) / 2 if causal else seen) / cut.splits
    part_max = seen / cut.splits
    # half a block of the last one is padding, on average, where lengths vary
    chunks = part / cut.keys + 0.5 if causal else np.ceil(part / cut.keys)
    stages = stage_cycles(target, shape, np.array([height]), cut.keys, cut.order)
    scores, softmax, value = (float(cycles[0]) / target.sustained_clock(shape.dtype) for cycles in stages)
    scored, likely, summed = handed(target, shape, height, cut.keys)
    passed = scored + likely + summed / sums_blocks(cut)  # there and back
    latency = target.matrix_latency_s
    if passed:
        latency += 3 * target.memory_latency_s + passed / target.port_write_bytes_per_s
    block = block_time(scores, softmax, value, cut.order, latency=latency, blocks=cut.scores)
    block = max(block, passed / target.port_write_bytes_per_s)
    drawn = items * chunks * (scores + value + VECTOR_POWER * softmax) / target.cores
    block_bytes = cut.keys * width / cut.together
    port = (block_bytes + passed) / target.port_read_bytes_per_s
    waiting = target.loaded_latency_s + port
    load = max(items / target.cores, 1.0)
    if cut.slots == 1:  # keys arrive during the softmax and P V of the block before, values during the scores
        together = min(cut.resident, ceil(load))
        block = max(block, max(scores, waiting) + max(softmax + value, waiting)) / together
        block, waiting = max(block, scores + value, softmax), 0.0
    # causal items differ: the longest go first and the short ones fill the gaps
    turns = max(load * chunks, part_max / cut.keys) if causal else np.ceil(load) * chunks
    if cut.planned:
        turns = np.ceil(items * chunks / target.cores)
    alone = 0.0 if shape.kernel.persistent else np.ceil(load) * (target.memory_latency_s + port)
    if shape.kernel.persistent and cut.queries == 1:  # the next queries are fetched once the results have left
        fetch = target.memory_latency_s + height * shape.d_qk * shape.q_bytes / target.port_read_bytes_per_s
        alone = (np.ceil(load) - 1) * (fetch + scores + softmax + value)
    alone /= shape.kernel.resident
    alone += np.ceil(load) * shape.kernel.outside / target.clock
    tail = block + port + target.memory_latency_s * (2 if cut.splits > 1 or cut.planned else 1)
    merge = 0.0
    shared = min(target.noc_bytes_per_s, target.cache_bytes_per_s or np.inf)  # by all cores, on the way to memory
    if cut.splits > 1 or cut.planned:  # a barrier, then partial results out and in
        partial = (2 * min(items, target.cores) if cut.planned else items) * height * shape.d_v * 4
        held = shared if partial <= target.cache_bytes else target.dram_bytes_per_s
        readers = target.cores if shape.kernel.merge != "last" else min(items / cut.splits, target.cores)
        merge = target.barrier_s if shape.kernel.merge == "kernel" else 2 * target.memory_latency_s
        merge += partial / held + partial / min(readers * target.port_read_bytes_per_s, held)
    # Little's law: no more than the slots' bytes, or what the core may have outstanding, are on their way at once
    waiting /= min(cut.slots * shape.kernel.resident, target.outstanding_bytes / block_bytes)
    if shape.kv_shared and not loaded_again(target, shape):
        waiting = max(waiting, latent_cycle(cut, scores, softmax, value, target.loaded_latency_s + port))
    fetched = items * chunks * (block_bytes + 2 * passed)
    unique = shape.batch * shape.kv_heads * seen * (shape.k_bytes + shape.v_bytes) if target.cache_bytes else fetched
    moving = max(fetched / shared, unique / target.dram_bytes_per_s)
    seconds = float(max(turns * max(block, port, waiting) + alone, moving) + tail + merge)
    return seconds, min(float(drawn) / seconds, 1.0)


def latent_cycle(cut: Cut, scores: float, softmax: float, value: float, loading: float) -> float:
    """Time of a block where loading sets the pace: latents keep their place until P V of their block has ended.

    The place of block j is loaded anew for block j + slots. In turns its P V ends a load and all three stages later;
    where warps alternate, P V of the block before waits for its scores, one block earlier.
    """
    if cut.order == "alternate":
        return (loading + scores + value) / (cut.slots - 1)
    return (loading + scores + softmax + value) / cut.slots
