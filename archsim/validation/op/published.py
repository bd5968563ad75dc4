"""published_ops.csv: operator times that vendors and authors of kernels have published."""

from __future__ import annotations

from archsim.mapping.known_kernels import unsplit_for
from archsim.validation.op import build
from archsim.validation.op.case import Case
from archsim.validation.op.dtypes import format_of, width
from archsim.validation.op.readers import (
    NO_SOURCE,
    appends,
    attention_kernel,
    chip_of,
    formats_of,
    mla,
    multiplied,
    no_preset,
)
from archsim.validation.op.sources import Source, product_source, source_of
from archsim.validation.table import Record

__all__ = ["read_published"]

#: sparse attention of DeepSeek-V3.2: (queries, bytes of a cached element); where the source gives no number of queries,
#: so many that the rate no longer depends on them. A token in fp8 takes 656 B, its scales and 64 rotated dims in bf16
SPARSE = {"mla_prefill_sparse": (1024, 2.0), "mla_decode_sparse_fp8kv": (256, 656 / 576)}
OPERATORS = {"gemm", "grouped_gemm_contiguous", "grouped_gemm_masked", "attention_fwd", "attention_prefill",
             "attention_fwd_bwd", "attention_decode", "mla_decode", "mla_prefill"}  # fmt: skip
SECOND = "a second figure of the run of another row"
#: implementations of plain attention whose kernels are known, by the first word of the note
KNOWN, FLASH_2 = ("FA2", "FA3", "PTO"), "FA2"
UNFINISHED = "a kernel that its authors call not well optimised yet"
BESIDE = "timed within a training step, beside exchanges that keep cores and memory busy: the suite model runs the step"
OTHER = "an implementation of attention whose kernels are not known, and that is not the fastest for this chip"


def read_published(row: Record) -> Case | str:
    """One row: a product, attention, MLA or grouped product with a time, or a rate that gives one."""
    chip, operator, unit = chip_of(row.text("chip")), row.text("op"), row.text("unit")
    if chip is None:
        return no_preset(row.text("chip"))
    if operator.startswith(("nccl", "moe_", "p2p")):
        return "communication between chips, which is no operator of one"
    if operator.startswith("attention_fwd ("):
        return BESIDE
    if operator not in OPERATORS and operator not in SPARSE:
        return f"the operator '{operator}' (published without a shape) is not modelled"
    if unit not in ("us", "TFLOPS"):
        return SECOND
    if "gemm" in operator and not all(row.text(name) for name in "MNK"):
        return "published without its shape"
    source = source_of(row.text("source"))
    if source is None:
        return NO_SOURCE
    if "not well optimised" in row.text("notes"):
        return UNFINISHED
    if operator in SPARSE:
        return _sparse(row, chip, source)
    plain, training = operator.startswith("attention_fwd"), operator == "attention_fwd_bwd"
    author = row.text("notes").partition(" ")[0]
    if plain and author not in KNOWN:
        return OTHER
    math, _, held = row.text("dtype").partition(", KV ")
    form = format_of(math, formats_of(chip))
    if isinstance(form, str):
        return form
    dtype = math.replace("bfloat16", "bf16").replace("fp8xfp8->bf16", "fp8_block")
    weights: frozenset[int] = frozenset()
    if "gemm" in operator:
        m, n, k = (row.integer(name) for name in "MNK")
        groups = row.integer("groups") if operator != "gemm" else 1
        source = product_source(source, chip, form)
        kernels, weights = build.product((m,) * groups, n, k, form)
        flops, label, shape = 2.0 * groups * m * n * k, "grouped gemm" if groups > 1 else "gemm", f"M{m} N{n} K{k}"
        shape += f" x {groups}" if groups > 1 else ""
    else:
        batch, heads, kv_heads, d_qk, d_v, q_len, kv_len = (
            row.integer(name) for name in ("batch", "heads", "kv_heads", "head_dim", "head_dim_v", "seq_q", "seq_kv")
        )
        causal = not plain or row.integer("causal", least=0) == 1
        kv_bytes = width(held) if held else float(build.WIDE)
        multiplies = multiplied(chip, form.dtype, kv_bytes if held else None)
        flops = (7.0 if training else 2.0) * batch * heads * q_len * kv_len * (d_qk + d_v) / (2 if causal else 1)
        phase = "decode" if operator.endswith("decode") else "prefill"
        label = f"mla {phase}" if operator.startswith("mla") else f"attention {phase}"
        shape = f"b{batch} q{q_len} kv{kv_len} h{heads}/{kv_heads} d{d_qk}" + (" causal" if causal else "")
        kernel = attention_kernel(source, phase, chip, kv_bytes, batch * kv_heads, heads // kv_heads, kv_len)
        if plain and author == FLASH_2:
            kernel, dtype = unsplit_for(d_qk), f"{dtype} FA2"
        if training:
            label = "attention training"
            kernels = build.attention_training(
                batch, q_len, heads, kv_heads, d_qk, dtype=multiplies, causal=causal, kernel=kernel
            )
        elif operator.startswith("mla"):
            kernels = mla(source, chip, phase, batch, q_len, kv_len, heads, kv_bytes)
        elif source.vllm:
            kernels = build.attention_vllm(batch, q_len, kv_len, heads, kv_heads, d_qk, dtype=multiplies, kernel=kernel)
        else:
            kernels = build.attention(
                batch, q_len, kv_len, heads, kv_heads, d_qk, d_v, dtype=multiplies, causal=causal,
                kv_bytes=kv_bytes, cache_bytes=None if plain else kv_bytes,
                append=phase == "prefill" or not appends(chip, multiplies),
                kernel=kernel,
            )  # fmt: skip
        if not plain:
            dtype += f"/kv {(held or 'bf16').replace('bfloat16', 'bf16')}"
    value = row.number("value")
    expected_us = value if unit == "us" else flops / value * 1e-6
    name = f"{row.text('id')} {chip} {label} {dtype} {shape}"
    return Case(name, chip, label, dtype, kernels, expected_us, source, weights)


def _sparse(row: Record, chip: str, source: Source) -> Case:
    """A row of FlashMLA's sparse kernels, which are published as a rate."""
    operator, heads, keys = row.text("op"), row.integer("heads"), row.integer("seq_kv")
    queries, kv_bytes = SPARSE[operator]
    kernels = build.mla_sparse(queries, keys, heads, kv_bytes, kernel=source.attention)
    label = "mla prefill" if operator == "mla_prefill_sparse" else "mla decode"
    flops = 2.0 * queries * heads * keys * (576 + 512)
    name = f"{row.text('id')} {chip} sparse {label} {queries} queries x {keys} keys h{heads}"
    return Case(name, chip, label, "bf16 sparse", kernels, flops / row.number("value") * 1e-6, source)
