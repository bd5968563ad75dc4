"""The measured files, row by row: each becomes a case, or the reason why it cannot be one."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from math import inf

from archsim.hardware import list_chips
from archsim.mapping.attention_kernel import AttentionKernel
from archsim.mapping.known_kernels import tensorrt_llm_for
from archsim.mapping.tiling import MatmulShape
from archsim.models.vector import NarrowLoads
from archsim.trace.graph import DTYPE_BITS
from archsim.validation.op import build
from archsim.validation.op.attention_kernels import decode_kernel, mla_kernel, packs, phase_kernel, written
from archsim.validation.op.case import Case, Kernel, Product, target_of
from archsim.validation.op.dtypes import Format, format_of, width
from archsim.validation.op.routing import rank_rows
from archsim.validation.op.sources import DEVICES, HOPPER, Source, experts_source, product_source, source_of
from archsim.validation.table import Record

__all__ = [
    "attention_kernel", "chip_of", "formats_of", "mla", "read_attention", "read_matmul", "read_mla", "read_moe",
    "read_rows",
]  # fmt: skip

NO_SOURCE = "how the source measured is not known"
EAGER = "sum of several eager PyTorch kernels, which is no one operator"
SHORT = "fewer cached tokens than sequences"
UNSHARDED = "experts that the profile did not shard, under the columns of a shard"
#: the collector tunes every format but w4a16_mxfp4; taken for tuned kernels, 12 such rows came out 74 % too fast
UNTUNED = "kernels for MXFP4 weights with bf16 ran untuned, and which one TensorRT-LLM falls back to is not documented"
#: part of the file names of what aiconfigurator's first collectors timed: they did not bound the rows of an expert yet,
#: and made the cache of attention for keys alone (``CacheType.SELFKONLY`` in collect_attn.py), so that values are read
#: from where the keys are: most of the times exceed the memory bandwidth for both
FIRST = "trtllm/1.0."
#: experts of a rank up to which two models of the collector have the same shapes: Llama 4 of 16 and of 128 experts,
#: gpt-oss of 32 and of 128. Its files of tuned kernels are named by the shapes, their entries by the ranks as well: the
#: second model finds a file without an entry, and runs the first kernel of the list. The order is not recorded.
SHARED_TUNING = {"Llama-4": 16, "gpt-oss": 32}
#: and its rows of nvfp4 are of two implementations (up to 256 experts), told apart by no column, that share a file too
UNTOLD = "moe (kernel unknown)"
FUSED = "the file itself doubts which product this is"
UNEVEN = "experts that the ranks cannot share evenly"


def chip_of(device: str) -> str | None:
    """The preset of a device: one of another name, or of its own in other spelling.

    >>> chip_of("NVIDIA H100 80GB HBM3"), chip_of("AMD MI300X"), chip_of("abacus")
    ('h100', 'mi300x', None)
    """
    own = re.sub(r"^(nvidia|amd|google|huawei)-|-(sxm\d?|pcie|oam)$", "", re.sub(r"[ _]", "-", device.lower()))
    return DEVICES.get(device) or (own if own in list_chips() else None)


def no_preset(device: str) -> str:
    return f"there is no preset of the {device}"


def formats_of(chip: str) -> frozenset[str]:
    """Types that the chip's matrix units multiply."""
    return frozenset(target_of(chip).chip.core.matrix.rates)


def _where(row: Record, column: str = "source_file") -> tuple[str, Source] | str:
    """The preset and the rule of a row."""
    chip = chip_of(row.text("device"))
    if chip is None:
        return no_preset(row.text("device"))
    source = source_of(row.text(column))
    return (chip, source) if source else NO_SOURCE


def read_matmul(row: Record) -> Case | str:
    """A row of measured_matmul.csv or measured_matmul_aiconfigurator.csv."""
    where = _where(row)
    if isinstance(where, str):
        return where
    chip, source = where
    if "maybe" in row.cells.get("op", ""):
        return FUSED
    form = format_of(row.text("dtype"), formats_of(chip))
    if isinstance(form, str):
        return form
    source = product_source(source, chip, form)
    m, n, k = (row.integer(name) for name in "MNK")
    kernels, weights = build.product(
        (m,), n, k, form, synchronous=not target_of(chip).asynchronous, tiles=source.tiles.get(chip, ())
    )  # fmt: skip
    dtype = _label(row.text("dtype"))
    return Case(
        f"{chip} gemm {dtype} M{m} N{n} K{k}", chip, "gemm", dtype, kernels, row.number("latency_us"), source, weights
    )


def _label(dtype: str) -> str:
    return dtype.replace("bfloat16", "bf16")


def read_attention(row: Record) -> Case | str:
    """A row of measured_attention.csv (cached tokens) or measured_attention_aiconfigurator.csv (keys in all)."""
    where = _where(row)
    if isinstance(where, str):
        return where
    chip, source = where
    phase, graphs = row.text("phase"), "kv_dtype" in row.cells
    batch, q_len, heads, kv_heads, d = (
        row.integer(name) for name in ("batch", "q_len", "q_heads", "kv_heads", "head_dim")
    )
    cached = row.integer("kv_len", least=0)
    all_keys = source.shared_context and is_gpu(chip)
    if phase == "decode" and all_keys:
        if cached < batch:
            return SHORT
        cached //= batch
    kv_len = cached + (0 if graphs or all_keys else q_len)
    form = format_of(row.text("dtype"), formats_of(chip))
    if isinstance(form, str):
        return form
    held = width(row.text("kv_dtype")) if graphs else None
    special = phase == "prefill" or not graphs or packs(heads // kv_heads)
    dtype = multiplied(chip, form.dtype, held if special or chip not in HOPPER else None)
    narrows = phase == "prefill" and target_of(chip).asynchronous and dtype != form.dtype
    math_bytes = DTYPE_BITS[dtype] / 8  # in prefill keys and values are those just computed, whatever the cache holds
    kernel = attention_kernel(source, phase, chip, held, batch * kv_heads, heads // kv_heads, kv_len)
    if source.unfused and not is_gpu(chip):
        kernels = build.attention_unfused(batch, q_len, cached, heads, kv_heads, d, dtype=dtype)
    elif source.vllm:
        kernels = build.attention_vllm(batch, q_len, kv_len, heads, kv_heads, d, dtype=dtype, kernel=kernel)
    else:
        kernels = build.attention(
            batch, q_len, kv_len, heads, kv_heads, d, d, dtype=dtype,
            kv_bytes=held if held and phase == "decode" else math_bytes,
            cache_bytes=held, causal=not all_keys, small=1 + narrows,
            append=phase == "prefill" or not appends(chip, dtype), kernel=kernel,
            keys_only=phase == "decode" and FIRST in row.text("source_file"),
        )  # fmt: skip
    dtype = _label(row.text("dtype")) + (f"/kv {_label(row.text('kv_dtype'))}" if graphs else "")
    name = f"{chip} attention {phase} {dtype} b{batch} q{q_len} kv{kv_len} h{heads}/{kv_heads}"
    cold = frozenset({build.K, build.V}) if source.cold_cache else frozenset()
    return Case(name, chip, f"attention {phase}", dtype, kernels, row.number("latency_us"), source, cold)


def attention_kernel(
    source: Source, phase: str, chip: str, held: float | None, groups: int, heads: int, keys: int
) -> AttentionKernel:
    """The kernel that a source runs on a chip; those of TensorRT-LLM are others for each kind of matrix unit.

    groups: heads of keys in all sequences, each with so many query heads.
    """
    target = target_of(chip)
    kernel = written(phase_kernel(source, phase, gpu=is_gpu(chip)), phase, chip)
    if source.name != "aiconfigurator" or not is_gpu(chip):
        return kernel
    if held and phase == "decode":
        kernel = decode_kernel(kernel, chip, groups, heads, keys, target.cores, held)
    return replace(tensorrt_llm_for(target, kernel), split=kernel.split and not unsplit(chip, held))


def multiplied(chip: str, dtype: str, held: float | None) -> str:
    """The type that is multiplied: TensorRT-LLM multiplies fp8 where keys and values are held so and the chip can.

    Its kernels for synchronous matrix units widen them instead, unless the operator as a whole is asked for in fp8.
    """
    return "fp8" if held == 1 and "fp8" in formats_of(chip) and target_of(chip).asynchronous else dtype


def unsplit(chip: str, held: float | None) -> bool:
    """Whether decode leaves all keys of a head to one core: TensorRT-LLM's for synchronous units and a cache in fp8."""
    return held == 1 and not target_of(chip).asynchronous


def is_gpu(chip: str) -> bool:
    """Whether the matrix units are tensor cores, which the documented kernels are written for."""
    return target_of(chip).chip.core.matrix.kind == "tensor_core"


def appends(chip: str, dtype: str) -> bool:
    """Whether the decode kernel rotates and appends itself: XQA's for Hopper does, which is written for fp8."""
    return chip in HOPPER and dtype == "fp8"


def read_mla(row: Record) -> Case | str:
    """A row of measured_mla_aiconfigurator.csv: prefill with expanded keys, decode absorbed."""
    where = _where(row)
    if isinstance(where, str):
        return where
    chip, source = where
    batch, q_len, kv_len, heads = (row.integer(name) for name in ("batch", "q_len", "kv_len", "heads_per_gpu"))
    phase, dtype = row.text("phase"), f"{_label(row.text('dtype'))}/kv {_label(row.text('kv_dtype'))}"
    kernels = mla(source, chip, phase, batch, q_len, kv_len, heads, width(row.text("kv_dtype")))
    name = f"{chip} mla {phase} {dtype} b{batch} q{q_len} kv{kv_len} h{heads}"
    return Case(name, chip, f"mla {phase}", dtype, kernels, row.number("latency_us"), source)


def mla(
    source: Source, chip: str, phase: str, batch: int, q_len: int, kv_len: int, heads: int, held: float
) -> tuple[Kernel, ...]:
    """MLA as a source runs it on a chip, from a cache of so many bytes an element.

    On synchronous units TensorRT-LLM keeps a cache of 16 bits: asking for fp8 changes no time by 1 %.
    """
    asynchronous = target_of(chip).asynchronous
    held = held if asynchronous else float(build.WIDE)
    math = multiplied(chip, "bf16", held)
    kernel = source.attention if phase == "prefill" else mla_kernel(source, chip, heads, asynchronous=asynchronous)
    kernel = written(kernel, phase, chip)
    if phase == "decode":
        return build.mla_decode(batch, kv_len, heads, held, dtype=math, small=int(asynchronous), kernel=kernel)
    small = 1 + (asynchronous and source.name == "aiconfigurator")
    return build.mla_prefill(batch, q_len, heads, dtype=math, small=small, kernel=kernel)


def read_moe(row: Record) -> Case | str:
    """A row of measured_moe.csv: the experts of one rank, without the all-to-all."""
    where = _where(row)
    if isinstance(where, str):
        return where
    chip, source = where
    form = format_of(row.text("dtype"), formats_of(chip))
    if isinstance(form, str):
        return form
    tokens, hidden, inner, top_k, experts, tp, ep = (
        row.integer(name) for name in ("num_tokens", "hidden", "inter", "topk", "experts", "tp", "ep")
    )
    if experts % ep:
        return UNEVEN
    # in MXFP4 TensorRT-LLM takes Triton's kernels on Hopper, its own on Blackwell (collect_moe.py of aiconfigurator)
    mixed = "mxfp4" in row.text("dtype")
    blackwell = "fp4" in formats_of(chip)
    if mixed and blackwell and form.unpacks:
        return UNTUNED
    fused = (mixed and blackwell) or (form.dtype == "fp4" and experts <= build.FUSED_EXPERTS)
    rows = rank_rows(
        tokens, experts, top_k, ep, row.text("distribution"),
        limited=fused and not mixed, unbounded=FIRST in row.text("source_file"),
    )  # fmt: skip
    if rows is None:
        return f"the routing '{row.text('distribution')}' is not known"
    layer = (
        build.moe_fused if fused else build.moe_triton if mixed else partial(build.moe, hopper=chip in HOPPER)
    )
    kernels, weights = layer(
        rows, tokens=tokens, hidden=hidden, inner=inner // tp, experts=experts, top_k=top_k, form=form,
        tuned=rank_rows(tokens, experts, top_k, ep, "balanced"),
    )
    dtype = _label(row.text("dtype"))
    name = f"{chip} moe {dtype} {row.text('model')} t{tokens} tp{tp} ep{ep} {row.text('distribution')}"
    shared = max((n for model, n in SHARED_TUNING.items() if row.text("model").startswith(model)), default=0)
    tuned = blackwell if mixed else not form.block_scaled  # fp8 by block has one kernel, as have Triton's experts
    untold = (tuned and experts // ep <= shared) or (fused and not mixed)
    operator = UNTOLD if untold else "moe"
    if layer is not build.moe_triton:
        source = experts_source(source, chip)
    own = 1 if fused else build.routing_kernels(experts, top_k)  # of TensorRT-LLM, behind the first or PyTorch's
    return Case(
        name, chip, operator, dtype, kernels, row.number("latency_us"), source, weights, dependent=own
    )  # fmt: skip


#: operators of measured_norm_softmax_gelu.csv: group, vector function, streams read, reduces along the row
FUNCTIONS = {
    "softmax": ("softmax", "softmax_block", 1, True),
    "layernorm": ("norm", "layer", 1, True),
    "input_layernorm": ("norm", "rms", 1, True),
    "final_layernorm": ("norm", "rms", 1, True),
    "gelu": ("activation", "gelu", 1, False),
    "act_fn": ("activation", "silu_mul", 2, False),
    "mlp_act": ("activation", "silu_mul", 2, False),
    "attn_rope": ("rotary", "rotary", 1, False),
    "rope": ("rotary", "rotary", 1, False),
    "rotary_emb": ("rotary", "rotary", 1, False),
    "qk_norm": ("norm", "rms", 1, True),
    "add": ("add", "add", 2, False),
    "emb": ("embedding", "copy", 1, False),
    "embedding": ("embedding", "copy", 1, False),
}
#: operators of vLLM that add the residual first, and write the sum back
WITH_RESIDUAL = {"layernorm", "input_layernorm", "final_layernorm"}
#: operators that the GPU rows of LLMServingSim v0 time as eager Hugging Face code
EAGER_OPERATORS = {"input_layernorm", "final_layernorm", "rope"}
#: terms of the product before over the hidden size, or its inverse: the inner size of a layer (an estimate; 2.7 to 5)
INNER = 3.5
#: rows up to which that product has one row of tiles: it reads weights once, past the cache (evicted first), which
#: then still holds its results (half of the rows of A6000, RTX 3090 and H100)
ONE_TILE = 128
#: longest rows of which PyTorch's softmax leaves each to a warp, in registers
WARP_SOFTMAX = 1024
#: round trips of a reduction in PyTorch's softmax on the MI210: at its end each lane of one wave adds up as many values
#: as a wave has lanes, 64, of one bank of the LDS, for 64 + 16 cycles each (latency from memory): 3 us
LONG_REDUCTION = 64 * (64 + 16) / 1.7e9 / 1.3e-6
#: vLLM normalises queries and keys by its kernel for rows, here heads of 128 dims: it sums, and reads the row again
HEAD, HEAD_NORM = 128, NarrowLoads(threads=128, per_row=2)
#: models whose experts its eager profile did not shard: the time of their activation does not depend on tp
EXPERTS = ("Mixtral", "MoE")


def read_rows(row: Record) -> Case | str:
    """A row of measured_norm_softmax_gelu.csv."""
    where = _where(row)
    if isinstance(where, str):
        return where
    chip, source = where
    operator = row.text("op")
    if operator not in FUNCTIONS:
        return f"the operator '{operator}' is not known"
    eager = source.name == "LLMServingSim v0" and is_gpu(chip)
    if eager and operator in EAGER_OPERATORS:
        return EAGER
    if eager and operator == "act_fn" and row.integer("tp") > 1 and any(name in row.text("model") for name in EXPERTS):
        return UNSHARDED
    group, function, streams, whole_rows = FUNCTIONS[operator]
    few = group == "embedding" and row.integer("rows") <= build.FEW_INDICES
    loads = source.loads.get("few embeddings" if few else group)
    if group == "softmax" and row.integer("cols") <= WARP_SOFTMAX:
        function, loads = "softmax_warp", None
    if loads and chip in source.full:
        loads = replace(loads, width=loads.width // 2)
        if group == "softmax":
            loads = replace(loads, per_row=loads.per_row * LONG_REDUCTION)
    if "phi-2" in row.text("model"):  # the one model here with LayerNorm, and an activation without a gate
        function, streams = {"rms": ("layer", 1), "silu_mul": ("gelu_erf", 1)}.get(function, (function, streams))
        loads = None if group in ("norm", "activation") else loads  # PyTorch's, whose loads are wide
    residual = source.name == "LLMServingSim" and operator in WITH_RESIDUAL
    if residual:
        function, streams = "rms", 2
    rows, cols = row.integer("rows"), row.integer("cols")
    if operator == "qk_norm":  # every head is a row, with a block of threads of its own
        rows, cols, loads = rows * cols // HEAD, HEAD, HEAD_NORM
    if not row.number("latency_us"):
        return "the time is 0 in the resolution of the source"
    kernels = build.elementwise(
        rows, cols, function, inputs=streams, outputs=2 if residual else 1, table=function == "copy",
        whole_rows=whole_rows, residual=residual, loads=loads,
        element=build.FULL if chip in source.full else build.WIDE,
    )  # fmt: skip
    if eager and operator == "act_fn":  # SiLU of the gate, then the product with it: two kernels of PyTorch
        kernels = (*build.elementwise(rows, cols, "silu"), *build.elementwise(rows, cols, "mul", inputs=2))
    if operator == "add" and "phi-2" in row.text("model"):  # attention and MLP stand side by side: a sum of three
        kernels *= 2
    weights = frozenset({build.W} if function == "copy" else {build.RESIDUAL} if residual else {})
    form = format_of(row.text("dtype"), formats_of(chip))
    dtype = form.dtype if isinstance(form, Format) else row.text("dtype")
    name = f"{chip} {operator} {dtype} {rows} x {cols}"
    before: tuple[Kernel, ...] = ()
    if source.weight_copies == inf and isinstance(form, Format) and target_of(chip).cache_bytes:
        before = _before(row, group, streams - residual, form.dtype)
    return Case(name, chip, group, dtype, kernels, row.number("latency_us"), source, weights, before)


def _before(row: Record, group: str, streams: int, dtype: str) -> tuple[Kernel, ...]:
    """The product that writes the streams of a vector kernel in a model, on chips with a cache that may hold them."""
    rows, cols = row.integer("rows"), row.integer("cols")
    shards = row.integer("tp") if "tp" in row.cells else 1
    inner = {
        "norm": cols * INNER / shards, "add": cols * INNER / shards, "activation": cols * shards / INNER,
        "rotary": cols * shards,
    }.get("rotary" if row.text("op") == "qk_norm" else group)  # fmt: skip
    if inner is None or rows <= ONE_TILE:
        return ()
    shape = MatmulShape((rows,), streams * cols, max(round(inner), 1), dtype, build.WIDE, build.WIDE, build.WIDE)
    return (Product(shape, (build.X_BEFORE, build.W_BEFORE, build.X)),)
