"""From the shape of a measured operator to the kernels that its time covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from archsim.mapping.attention_kernel import ANY_KERNEL, AttentionKernel, AttentionShape
from archsim.mapping.tiling import MatmulShape
from archsim.models.vector import COSTS, NarrowLoads
from archsim.serving import FP4_TILE
from archsim.trace.graph import DTYPE_BITS
from archsim.validation.op.case import Attention, Gradients, Kernel, Product, Vector
from archsim.validation.op.dtypes import Format

__all__ = [
    "W", "attention", "attention_training", "attention_unfused", "elementwise", "mla_decode", "mla_prefill", "moe",
    "moe_fused", "moe_triton", "norm_eager", "product", "rotary_eager", "routing_kernels",
]  # fmt: skip

#: bytes of an element of activations outside the product, and of the result
WIDE = 2
#: bytes of fp32
FULL = 4
#: rows up to which a block of PyTorch's ``index_select`` gathers its columns of all of them, one after the other
FEW_INDICES = 16
#: elements of one row of a kernel without a reduction, which may be cut anywhere
ANY_ROW = 1024
#: TensorRT-LLM's block-scaled fp4 kernels for experts: smallest tile, chosen among 128 x 64, 128 and 256 by half of the
#: products measured on a B200; CUTLASS shares no tile's reduction out over cores
LEAST_FP4 = (128, 256)
#: smallest tile of products with weights of 8 and 4 bits, and those that TensorRT-LLM has of them for synchronous units
#: (fpA_intB of its CUTLASS extensions; get_candidate_tiles of its cutlass_heuristic.cpp)
LEAST_UNPACKED = (16, 128)
UNPACKED_TILES = ((16, 128), (16, 256), (32, 128), (64, 128), (128, 128))
#: the kernel that quantises to fp4: a block for a row, 16 B a thread; three waits a row, chosen with the tile
FP4_LOADS = NarrowLoads(threads=512, width=8, per_row=3)
#: cudaFp8Utils.cu, from memory: 1024 blocks of 256 threads stride over the matrix by single elements, unrolled fourfold
FP8_LOADS, FP8_BLOCKS, FP8_COLS = NarrowLoads(threads=256, width=4), 1024, 16384
#: moe_kernels.cu of TensorRT-LLM: eight blocks of 256 threads a core, 16 B or eight elements a thread. A block gathers
#: a row behind its index; it loads no row while it works on another, so that every row is waited for
MOE_LOAD, GATHER_WAITS = 16, 2
#: its weighted sum: a block a token, which finds the row of an expert's result and then loads it, one after the other
SUM_WAITS = 2
#: scale_1x128_kernel of fp8_blockscale_gemm_kernel.cuh, before a grouped product on Hopper: one block of 256 threads a
#: core, whose warps each take 128 elements at a time and load no others while they reduce and convert them
SCALE_COLS, SCALE_LOADS = 128, NarrowLoads(threads=32, width=4, per_row=1, most=8)
X, W, Y, QUANTISED, K, V, CACHE, GATHERED, HIDDEN, ACTIVE, W2, PARTS, CHOSEN, MAPS, SIZES, NARROW = range(16)
RESIDUAL, W_BEFORE, X_BEFORE, OF_OUT, OF_Q, OF_K, OF_V = range(16, 23)


#: the block-scaled fp8 kernel for Ada, the only tile it is built for and the part of each of its four warps
#: (fp8_blockscale_gemm_kernel.cuh and ada_blockwise_gemm of TensorRT-LLM)
ADA_TILE, ADA_WARP = (32, 128, 128, 3), (16, 64)
#: experts, and experts of a token, that TensorRT-LLM's routing kernel serves (routing.py of its fused_moe)
FUSED_ROUTING = (128, 8)
#: experts that TensorRT-LLM's fused kernels for fp4 serve. Some of the measured rows are theirs and some CUTLASS's, and
#: no column tells which (collect_moe.py of aiconfigurator): the fused ones are faster, and what a server would run
FUSED_EXPERTS = 256
#: small kernels between triton_kernels' top-k and the products (fused_moe_triton.py): sums of the bit matrix (two),
#: memset and compute of the indices; and what cuts the experts of a rank out (shift, clear, compaction)
TRITON_SORTING, TRITON_CUTTING = 4, 3
#: warps of CUTLASS's grouped products for Ampere, which TensorRT-LLM also builds for Ada, from memory
GROUPED_WARP = (64, 32)


def _shape(
    rows: Sequence[int], n: int, k: int, form: Format, warp: tuple[int, int] | None = None,
    tiles: tuple[tuple[int, int], ...] = (),
) -> MatmulShape:  # fmt: skip
    """What cuBLAS, CUTLASS as TensorRT-LLM builds it, or DeepGEMM multiply; none of them takes stream-K."""
    return MatmulShape(
        tuple(rows), n, k, form.dtype, form.a_bytes, form.b_bytes, WIDE,
        convert_b=form.unpacks, block_scaled=form.block_scaled,
        least=LEAST_FP4 if form.dtype == "fp4" else LEAST_UNPACKED if form.unpacks else (1, 1),
        splits=form.dtype != "fp4", streams=False, tiles=tiles, warp=warp, b_padded=form.b_padded,
    )  # fmt: skip


def product(
    rows: Sequence[int], n: int, k: int, form: Format, *, synchronous: bool = False,
    tiles: tuple[tuple[int, int], ...] = (),
) -> tuple[tuple[Kernel, ...], frozenset[int]]:  # fmt: skip
    """A product (or a group of them, a weight each), after what quantises its activations if anything does.

    synchronous: for matrix units that are, where blocks of fp8 are scaled by a kernel of a single tile. That of fp4 has
    one everywhere. tiles: those that the library has, where they are known.
    """
    shape = _shape(rows, n, k, form, tiles=UNPACKED_TILES if synchronous and form.unpacks else tiles)
    tile = None
    if synchronous and form.block_scaled and form.dtype == "fp8":
        shape, tile = replace(shape, warp=ADA_WARP), ADA_TILE
    elif form.dtype == "fp4":
        tile = FP4_TILE
    if not form.quantised:
        return (Product(shape, (X, W, Y)),), frozenset({W})
    size = sum(rows) * k
    kernels: tuple[Kernel, ...] = (_quantise(sum(rows), k, X, QUANTISED, form),)
    if form.dynamic:
        cols = min(max(size // FP8_BLOCKS, FP8_LOADS.threads * FP8_LOADS.width), FP8_COLS)
        blocks = -(-size // cols)
        reading = ((X, size * WIDE),)
        kernels = (
            Vector(1, (), ((CHOSEN, 4),), started=False),
            Vector(blocks, reading, ((CHOSEN, 4),), ((size, COSTS["argmax"]),), loads=FP8_LOADS, cols=cols),
            Vector(
                blocks, reading, ((QUANTISED, size * form.a_bytes),), ((size, COSTS["quantise"]),), loads=FP8_LOADS,
                cols=cols,
            ),
            Vector(1, ((CHOSEN, 4),), ((V, 4),)),
        )  # fmt: skip
    return (*kernels, Product(shape, (QUANTISED, W, Y), tile=tile)), frozenset({W})


def attention(
    batch: int, q_len: int, kv_len: int, heads: int, kv_heads: int, d_qk: int, d_v: int, *, dtype: str = "bf16",
    causal: bool = True, kv_bytes: float = WIDE, cache_bytes: float | None = None, append: bool = True, small: int = 1,
    kernel: AttentionKernel = ANY_KERNEL, keys_only: bool = False,
) -> tuple[Kernel, ...]:  # fmt: skip
    """Fused attention. cache_bytes: as in TensorRT-LLM, after a kernel that finds where each sequence begins and one
    that rotates q and k and appends k and v, so wide, to the cache (unless ``append`` is False: the attention kernel
    does it). small: kernels like the first that go before. keys_only: values lie where the keys do; a kernel on the
    lanes reads them when it has read all its keys, which are no longer in the cache then."""
    q_bytes = DTYPE_BITS[dtype] // 8
    shape = AttentionShape(
        batch, q_len, kv_len, heads, kv_heads, d_qk, d_v, causal, None, False, dtype, q_bytes, kv_bytes, WIDE,
        convert=kv_bytes < q_bytes, kernel=kernel,
    )  # fmt: skip
    core = Attention(shape, (X, K, K if keys_only and not kernel.lanes else V, Y))
    if cache_bytes is None:
        return (core,)
    tokens = batch * q_len
    q, kv = tokens * heads * d_qk, tokens * kv_heads * (d_qk + d_v)
    # in prefill the attention reads what has just been written, in decode the cache of which this is a small part;
    # where a prefill multiplies 8 bits, keys and values are written once more, beside the queries for its kernel
    packed = kv if q_len > 1 and q_bytes < WIDE else 0
    rotate = Vector(
        max(tokens, q // ANY_ROW), ((QUANTISED, (q + kv) * WIDE),),
        ((X, (q + packed) * q_bytes), (CACHE, kv * cache_bytes)),
        ((q, COSTS["rotate_append"]),), in_turn=True,
    )  # fmt: skip
    return *(_offsets(batch),) * small, *((rotate,) if append else ()), core


def attention_training(
    batch: int, q_len: int, heads: int, kv_heads: int, d: int, *, dtype: str, causal: bool, kernel: AttentionKernel
) -> tuple[Kernel, ...]:
    """Fused attention and its gradients, as a training step runs them."""
    (core,) = attention(batch, q_len, q_len, heads, kv_heads, d, d, dtype=dtype, causal=causal, kernel=kernel)
    assert isinstance(core, Attention)
    return core, Gradients(core, (X, K, V, Y, OF_OUT, OF_Q, OF_K, OF_V))


def attention_vllm(
    batch: int, q_len: int, kv_len: int, heads: int, kv_heads: int, d: int, *, dtype: str = "bf16",
    kernel: AttentionKernel = ANY_KERNEL,
) -> tuple[Kernel, ...]:  # fmt: skip
    """Attention as vLLM calls FlashAttention-2: keys and values are copied into pages first (reshape_and_cache_flash).

    In decode, query heads that share keys become rows of one head, and back (``seqlenq_ngroups_swapped`` of
    mha_varlen_fwd): of several sequences that is a copy each time, of one a view.
    """
    core = attention(batch, q_len, kv_len, heads, kv_heads, d, d, dtype=dtype, kernel=kernel)
    tokens = batch * q_len
    kv, q = 2 * tokens * kv_heads * d, tokens * heads * d
    append = _copy(QUANTISED, CACHE, kv)
    if q_len > 1 or batch == 1 or heads == kv_heads:
        return append, *core
    return append, _copy(HIDDEN, X, q), *core, _copy(Y, GATHERED, q)


def _copy(source: int, target: int, elements: int) -> Vector:
    return Vector(max(elements // ANY_ROW, 1), ((source, elements * WIDE),), ((target, elements * WIDE),))


def attention_unfused(
    batch: int, q_len: int, cached: int, heads: int, kv_heads: int, d: int, *, dtype: str = "bf16"
) -> tuple[Kernel, ...]:
    """Attention that a compiler made of a framework's: both products and the softmax between them go to memory.

    Before them keys and values are concatenated with those that are cached, which copies the cache. Query heads that
    share keys are rows of one product; what the mask hides is computed.
    """
    keys = cached + q_len
    group, scores = q_len * heads // kv_heads, batch * heads * q_len * keys
    pairs = (group,) * (batch * kv_heads)
    cache = batch * keys * kv_heads * d * WIDE
    append = Vector(
        max(batch * keys * kv_heads * d // ANY_ROW, 1), ((CACHE, cache), (GATHERED, cache)), ((K, cache), (V, cache))
    )
    return (
        *((append,) if cached else ()),
        Product(MatmulShape(pairs, keys, d, dtype, WIDE, WIDE, WIDE), (X, K, HIDDEN)),
        Vector(
            batch * heads * q_len, ((HIDDEN, scores * WIDE),), ((ACTIVE, scores * WIDE),),
            ((scores, COSTS["softmax"]),),
        ),
        Product(MatmulShape(pairs, d, keys, dtype, WIDE, WIDE, WIDE), (ACTIVE, V, Y)),
    )  # fmt: skip


def _offsets(batch: int) -> Vector:
    """TensorRT-LLM's small kernel that turns the lengths of the sequences into where each of them begins."""
    return Vector(batch, ((CHOSEN, batch * 4),), ((PARTS, batch * 8),))


def mla_prefill(
    batch: int, q_len: int, heads: int, *, dtype: str = "bf16", small: int = 1, kernel: AttentionKernel = ANY_KERNEL
) -> tuple[Kernel, ...]:
    """DeepSeek's attention with keys and values expanded, after the rotation of 64 of 192 dims and the append.

    small: as in `attention`.
    """
    tokens = batch * q_len
    rotated, latent = tokens * 64 * (heads + 1), tokens * 576
    append = Vector(
        max(tokens, rotated // ANY_ROW), ((X, rotated * WIDE), (GATHERED, latent * WIDE)),
        ((X, tokens * heads * 64 * WIDE), (K, tokens * heads * 64 * WIDE), (CACHE, latent * WIDE)),
        ((rotated, COSTS["rotary"]),),
    )  # fmt: skip
    kv_bytes = DTYPE_BITS[dtype] // 8
    core = attention(batch, q_len, q_len, heads, heads, 192, 128, dtype=dtype, kv_bytes=kv_bytes, kernel=kernel)
    before = (*(_offsets(batch),) * small, append)
    if dtype == "bf16":
        return *before, *core
    size = tokens * heads * (192 + 192 + 128)  # q, k and v are computed in bf16, and narrowed by a kernel of its own
    narrow = Vector(
        max(tokens, size // ANY_ROW), ((QUANTISED, size * WIDE),), ((GATHERED, size * kv_bytes),),
        ((size, COSTS["quantise"]),),
    )  # fmt: skip
    return *before, narrow, *core


def mla_decode(
    batch: int, kv_len: int, heads: int, kv_bytes: float, *, dtype: str = "bf16", small: int = 1,
    kernel: AttentionKernel = ANY_KERNEL,
) -> tuple[Kernel, ...]:  # fmt: skip
    """DeepSeek's absorbed attention over the latent cache, after the rotation and the append of one token each.

    The kernel that does these also narrows the other 512 dims of every query, where 8 bits are multiplied
    (``applyMLARopeAndAssignQKVKernelGeneration`` of TensorRT-LLM). small: as in `attention`.
    """
    rotated, latent = batch * 64 * (heads + 1), batch * 576
    q_bytes = DTYPE_BITS[dtype] // 8
    narrowed = batch * heads * 512 if q_bytes < WIDE else 0
    append = Vector(
        max(batch, (rotated + narrowed) // ANY_ROW), ((GATHERED, (rotated + latent + narrowed) * WIDE),),
        ((X, (batch * heads * 64 + narrowed) * q_bytes), (CACHE, latent * kv_bytes)),
        ((rotated, COSTS["rotary"]), *([(narrowed, COSTS["quantise"])] if narrowed else [])),
    )  # fmt: skip
    shape = AttentionShape(
        batch, 1, kv_len, heads, 1, 576, 512, True, None, True, dtype, q_bytes, kv_bytes, WIDE,
        convert=kv_bytes < q_bytes, kernel=kernel,
    )  # fmt: skip
    return *(_offsets(batch),) * small, append, Attention(shape, (X, K, K, Y))


def mla_sparse(
    queries: int, keys: int, heads: int, kv_bytes: float, *, kernel: AttentionKernel = ANY_KERNEL
) -> tuple[Kernel, ...]:
    """DeepSeek-V3.2's attention: absorbed, every query over the keys that an indexer has chosen for it.

    In prefill, where neighbouring queries choose many of the same keys, they are found in the cache; a query of decode
    has its own, in narrower elements.
    """
    batch, q_len = (1, queries) if kv_bytes == WIDE else (queries, 1)
    shape = AttentionShape(
        batch, q_len, keys, heads, 1, 576, 512, False, None, True, "bf16", WIDE, kv_bytes, WIDE,
        convert=kv_bytes < WIDE, kernel=kernel,
    )  # fmt: skip
    return (Attention(shape, (X, K, K, Y)),)


def moe(
    rows: Sequence[int], *, tokens: int, hidden: int, inner: int, experts: int, top_k: int, form: Format,
    tuned: tuple[int, ...] | None = None, hopper: bool = False,
) -> tuple[tuple[Kernel, ...], frozenset[int]]:  # fmt: skip
    """The experts of one rank, as TensorRT-LLM runs them on CUTLASS.

    Routing; sorting tokens by expert (one kernel, or three for more than 256 tokens) and the problem sizes of the
    grouped products; gathering rows; gate and up; SwiGLU; down; weighted sum. Activations are quantised by tensor
    before they are gathered and by SwiGLU, by block in kernels of their own after both (before products that find the
    sizes themselves; ``hopper``: by a warp for 128 elements). ``tuned``: rows for which the auto-tuner chose the tiles.
    """
    routed = sum(rows)
    up, down = (_shape(rows, n, k, form, GROUPED_WARP) for n, k in ((2 * inner, hidden), (hidden, inner)))
    apart = form.quantised and form.dtype == "fp8" and form.block_scaled
    early = form.quantised and not apart
    index = Vector(tokens, ((V, tokens * top_k * 4),), ((MAPS, tokens * top_k * 8),))
    kernels: list[Kernel] = [
        *_routing(tokens, experts, top_k),
        *[index] * (1 if tokens <= 256 else 3),
        *[Vector(1, ((MAPS, experts * 8),), ((SIZES, experts * 64),))] * (not apart),
    ]
    if early:
        kernels.append(_quantise(tokens, hidden, X, QUANTISED, form))
    width = form.a_bytes if early else WIDE
    gathered = Vector(
        routed, ((QUANTISED if early else X, tokens * hidden * width),), ((GATHERED, routed * hidden * width),),
        loads=_wide(width, per_row=GATHER_WAITS), cols=hidden,
    )  # fmt: skip
    act_bytes = WIDE if apart else form.a_bytes
    work = [(routed * inner, COSTS["silu_mul"])] + [(routed * inner, COSTS["quantise"])] * early
    activate = Vector(
        routed, ((HIDDEN, 2 * routed * inner * WIDE),), ((ACTIVE, routed * inner * act_bytes),), tuple(work),
        loads=_wide(act_bytes), cols=inner,
    )  # fmt: skip
    scale = _scale if hopper else _quantise
    kernels += [gathered, *[scale(routed, hidden, GATHERED, NARROW, form)] * apart]
    kernels += [Product(up, (NARROW if apart else GATHERED, W, HIDDEN), tuned), activate]
    kernels += [*[scale(routed, inner, ACTIVE, NARROW, form)] * apart]
    kernels += [
        Product(down, (NARROW if apart else ACTIVE, W2, PARTS), tuned),
        replace(
            _weighted_sum(tokens, routed, hidden),
            loads=_wide(WIDE, per_pass=SUM_WAITS * routed / tokens), cols=hidden,
        ),
    ]  # fmt: skip
    return tuple(kernels), frozenset({W, W2})


def moe_fused(
    rows: Sequence[int], *, tokens: int, hidden: int, inner: int, experts: int, top_k: int, form: Format,
    tuned: tuple[int, ...] | None = None,
) -> tuple[tuple[Kernel, ...], frozenset[int]]:  # fmt: skip
    """The experts of one rank in TensorRT-LLM's own kernels for Blackwell (``TRTLLMGenFusedMoE``).

    Quantisation; routing; sorting; gate and up, which gathers rows as it loads them and ends with SwiGLU and
    quantisation; down. Weights are the rows of its instructions, so that tiles may have few tokens. The rows in NVFP4
    are without a last sum (``do_finalize`` of collect_moe.py); in MXFP4 it follows, and a copy of what is no padding.
    """
    up, down = (replace(_shape(rows, n, k, form), least=(1, 1)) for n, k in ((2 * inner, hidden), (hidden, inner)))
    chosen = tokens * top_k * 8
    copy = Vector(tokens, ((Y, tokens * hidden * WIDE),), ((HIDDEN, tokens * hidden * WIDE),))
    return (
        _quantise(tokens, hidden, X, QUANTISED, form),
        Vector(tokens, ((CHOSEN, tokens * experts * 4),), ((V, chosen),), ((tokens * experts, COSTS["sigmoid"]),)),
        Vector(tokens, ((V, chosen),), ((MAPS, chosen),)),
        Product(replace(up, c_bytes=form.a_bytes / 2), (QUANTISED, W, ACTIVE), tuned),
        Product(down, (ACTIVE, W2, PARTS), tuned),
        *((_weighted_sum(tokens, sum(rows), hidden), copy) if form.b_padded else ()),
    ), frozenset({W, W2})


def moe_triton(
    rows: Sequence[int], *, tokens: int, hidden: int, inner: int, experts: int, top_k: int, form: Format,
    tuned: tuple[int, ...] | None = None,
) -> tuple[tuple[Kernel, ...], frozenset[int]]:  # fmt: skip
    """The experts of one rank in Triton's kernels (``matmul_ogs``), which TensorRT-LLM uses for MXFP4 on Hopper.

    The best experts of each token; small kernels that count and sort them; gate and up, which gathers rows as it loads
    them and ends with SwiGLU; down, which scatters its rows; their sum.
    """
    up, down = (_shape(rows, n, k, form) for n, k in ((2 * inner, hidden), (hidden, inner)))
    routed, chosen = sum(rows), tokens * top_k * 8
    small = TRITON_SORTING + TRITON_CUTTING * (len(rows) < experts)
    find = Vector(tokens, ((CHOSEN, tokens * experts * WIDE),), ((V, chosen),), ((tokens * experts, COSTS["softmax"]),))
    return (
        find,
        *[Vector(tokens, ((V, chosen),), ((MAPS, chosen),))] * small,
        Product(replace(up, c_bytes=form.a_bytes / 2), (X, W, ACTIVE), tuned),
        Product(down, (ACTIVE, W2, PARTS), tuned),
        _weighted_sum(tokens, routed, hidden),
    ), frozenset({W, W2})


def _weighted_sum(tokens: int, routed: int, hidden: int) -> Vector:
    """What the experts of each token found, added up."""
    return Vector(
        tokens, ((PARTS, routed * hidden * WIDE),), ((Y, tokens * hidden * WIDE),), ((routed * hidden, COSTS["add"]),)
    )


def routing_kernels(experts: int, top_k: int) -> int:
    """Kernels that find the experts of each token (see :func:`moe`)."""
    return len(_routing(1, experts, top_k))


def _routing(tokens: int, experts: int, top_k: int) -> tuple[Vector, ...]:
    """The experts of each token: ``RenormalizeMoeRoutingMethod`` of TensorRT-LLM, whose kernel serves up to 128 experts
    and 8 of them a token; for more PyTorch finds them, sorts them, casts indices and scores, and normalises."""
    scores, chosen = tokens * experts, tokens * top_k
    find = Vector(
        tokens, ((CHOSEN, scores * WIDE),), ((V, chosen * 8),), ((scores, COSTS["softmax"]),)
    )
    small = Vector(tokens, ((V, chosen * 8),), ((V, chosen * 8),))
    return (find,) if experts <= FUSED_ROUTING[0] and top_k <= FUSED_ROUTING[1] else (find, *[small] * 4)


def _quantise(rows: int, cols: int, source: int, result: int, form: Format) -> Vector:
    size = rows * cols
    loads = FP4_LOADS if form.dtype == "fp4" else None
    return Vector(
        rows, ((source, size * WIDE),), ((result, size * form.a_bytes),), ((size, COSTS["quantise"]),), loads=loads,
        cols=cols,
    )  # fmt: skip


def _wide(element: float, *, per_row: float = 1.0, per_pass: float = 1.0) -> NarrowLoads:
    """How the vector kernels of a MoE layer load rows of elements so wide."""
    width = MOE_LOAD // round(element) if element >= 1 else 8
    return NarrowLoads(threads=256, width=width, per_pass=per_pass, per_row=per_row, most=8)


def _scale(rows: int, cols: int, source: int, result: int, form: Format) -> Vector:
    """Quantises to blocks of fp8 as DeepGEMM's grouped products on Hopper have it: a warp for 128 elements."""
    return replace(
        _quantise(rows * cols // SCALE_COLS, SCALE_COLS, source, result, form), loads=SCALE_LOADS, cols=SCALE_COLS
    )


def elementwise(
    rows: int,
    cols: int,
    function: str,
    *,
    inputs: int = 1,
    outputs: int = 1,
    table: bool = False,
    whole_rows: bool = False,
    residual: bool = False,
    element: int = WIDE,
    loads: NarrowLoads | None = None,
) -> tuple[Kernel, ...]:
    """A vector kernel of so many streams in and out; whole_rows: it reduces along the row; residual: the last of those
    that come in is what the layer before left. element: bytes of one.

    loads: how its threads move a row, with a block of threads each.
    """
    size = rows * cols
    source = W if table else X
    if loads and table:  # a block of threads for each part of a row, or of all rows where they are few
        part = loads.threads * loads.width
        rows, cols = (-(-cols // part), rows * part) if rows <= FEW_INDICES else (-(-size // part), part)
    return (
        Vector(
            rows if whole_rows or loads else -(-size // ANY_ROW),
            ((source, (inputs - residual) * size * element), (RESIDUAL, residual * size * element)),
            ((Y, outputs * size * element),),
            ((size, COSTS[function]),), loads=loads, cols=cols,
        ),
    )  # fmt: skip


def norm_eager(rows: int, cols: int) -> tuple[Kernel, ...]:
    """Hugging Face's ``LlamaRMSNorm``, a kernel of PyTorch for each operator of its line of code.

    To fp32, square, mean, plus epsilon, inverse root, product with it, to 16 bits, product with the weight.
    """
    return (
        _eager(rows, cols, WIDE, FULL, "cast"), _eager(rows, cols, FULL, FULL, "mul"),
        _eager(rows, cols, FULL, FULL / cols, "sum_rows"), _eager(rows, 1, FULL, FULL, "add"),
        _eager(rows, 1, FULL, FULL, "mul"), _eager(rows, cols, FULL, FULL, "mul"),
        _eager(rows, cols, FULL, WIDE, "cast"), _eager(rows, cols, WIDE, WIDE, "mul"),
    )  # fmt: skip


def rotary_eager(rows: int, widths: Sequence[int], head: int) -> tuple[Kernel, ...]:
    """Hugging Face's ``apply_rotary_pos_emb`` of tensors so wide: cosines and sines of the positions are gathered; for
    each tensor a product with the one, half of it negated, both halves joined, a product with the other, the sum."""
    kernels = [_eager(rows, head, WIDE, WIDE, "copy")] * 2
    for cols in widths:
        kernels += [
            _eager(rows, cols, WIDE, WIDE, "mul"), _eager(rows, cols // 2, WIDE, WIDE, "mul"),
            _eager(rows, cols, WIDE, WIDE, "concat"), _eager(rows, cols, WIDE, WIDE, "mul"),
            _eager(rows, cols, 2 * WIDE, WIDE, "add"),
        ]  # fmt: skip
    return tuple(kernels)


def _eager(rows: int, cols: int, read: float, written: float, function: str) -> Vector:
    """A kernel of PyTorch over all elements, with bytes of each that it reads and writes."""
    size = rows * cols
    return Vector(
        -(-size // ANY_ROW), ((X, size * read),), ((Y, size * written),), ((size, COSTS[function]),), cols=cols
    )
