"""The measured files, row by row: each becomes a case, or the reason why it cannot be one."""

from __future__ import annotations

from archsim.trace.graph import DTYPE_BITS
from archsim.validation.op import build
from archsim.validation.op.case import Case, target_of
from archsim.validation.op.dtypes import Format, format_of, width
from archsim.validation.op.routing import rank_rows
from archsim.validation.op.sources import DEVICES, HOPPER, Source, mla_kernel, phase_kernel, source_of
from archsim.validation.table import Record

__all__ = ["chip_of", "formats_of", "read_attention", "read_matmul", "read_mla", "read_moe", "read_rows"]

NO_SOURCE = "how the source measured is not known"
EAGER = "sum of several eager PyTorch kernels, which is no one operator"
FUSED = "the file itself doubts which product this is"
IMPOSSIBLE = "A100 decode attention of TensorRT-LLM 1.0.0: many of its times exceed the memory bandwidth of the chip"


def chip_of(device: str) -> str | None:
    """The preset of a device."""
    return DEVICES.get(device)


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
    m, n, k = (row.integer(name) for name in "MNK")
    kernels, weights = build.product((m,), n, k, form)
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
    if graphs and chip == "a100" and phase == "decode":
        return IMPOSSIBLE
    batch, q_len, heads, kv_heads, d = (
        row.integer(name) for name in ("batch", "q_len", "q_heads", "kv_heads", "head_dim")
    )
    kv_len = row.integer("kv_len", least=0) + (0 if graphs else q_len)
    form = format_of(row.text("dtype"), formats_of(chip))
    if isinstance(form, str):
        return form
    held = width(row.text("kv_dtype")) if graphs else None
    dtype = multiplied(chip, form.dtype, held)
    kernels = build.attention(
        batch, q_len, kv_len, heads, kv_heads, d, d, dtype=dtype, kv_bytes=held or DTYPE_BITS[dtype] / 8,
        cache_bytes=held, append=phase == "prefill" or not appends(chip, dtype),
        kernel=phase_kernel(source, phase, gpu=is_gpu(chip)),
    )  # fmt: skip
    dtype = _label(row.text("dtype")) + (f"/kv {_label(row.text('kv_dtype'))}" if graphs else "")
    name = f"{chip} attention {phase} {dtype} b{batch} q{q_len} kv{kv_len} h{heads}/{kv_heads}"
    return Case(name, chip, f"attention {phase}", dtype, kernels, row.number("latency_us"), source)


def multiplied(chip: str, dtype: str, held: float | None) -> str:
    """The type that is multiplied: TensorRT-LLM multiplies fp8 where keys and values are held so and the chip can."""
    return "fp8" if held == 1 and "fp8" in formats_of(chip) else dtype


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
    held = width(row.text("kv_dtype"))
    math = multiplied(chip, "bf16", held)
    if phase == "decode":
        kernel = mla_kernel(source, asynchronous=target_of(chip).asynchronous)
        kernels = build.mla_decode(batch, kv_len, heads, held, dtype=math, kernel=kernel)
    else:
        kernels = build.mla_prefill(batch, q_len, heads, dtype=math, kernel=source.attention)
    name = f"{chip} mla {phase} {dtype} b{batch} q{q_len} kv{kv_len} h{heads}"
    return Case(name, chip, f"mla {phase}", dtype, kernels, row.number("latency_us"), source)


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
    rows = rank_rows(tokens, experts, top_k, ep, row.text("distribution"))
    if rows is None:
        return f"the routing '{row.text('distribution')}' is not known"
    kernels, weights = build.moe(
        rows, tokens=tokens, hidden=hidden, inner=inner // tp, experts=experts, top_k=top_k, form=form
    )
    dtype = _label(row.text("dtype"))
    name = f"{chip} moe {dtype} {row.text('model')} t{tokens} tp{tp} ep{ep} {row.text('distribution')}"
    return Case(name, chip, "moe", dtype, kernels, row.number("latency_us"), source, weights)


#: operators of measured_norm_softmax_gelu.csv: group, vector function, streams read, reduces along the row
FUNCTIONS = {
    "softmax": ("softmax", "softmax", 1, True),
    "layernorm": ("norm", "layer", 1, True),
    "input_layernorm": ("norm", "rms", 1, True),
    "final_layernorm": ("norm", "rms", 1, True),
    "gelu": ("activation", "gelu", 1, False),
    "act_fn": ("activation", "silu", 1, False),
    "mlp_act": ("activation", "silu_mul", 2, False),
    "attn_rope": ("rotary", "rotary", 1, False),
    "rope": ("rotary", "rotary", 1, False),
    "add": ("add", "add", 2, False),
    "emb": ("embedding", "copy", 1, False),
    "embedding": ("embedding", "copy", 1, False),
}
#: operators that the GPU rows of LLMServingSim v0 time as eager Hugging Face code
EAGER_OPERATORS = {"input_layernorm", "final_layernorm", "rope"}


def read_rows(row: Record) -> Case | str:
    """A row of measured_norm_softmax_gelu.csv."""
    where = _where(row)
    if isinstance(where, str):
        return where
    chip, source = where
    operator = row.text("op")
    if operator not in FUNCTIONS:
        return f"the operator '{operator}' is not known"
    if source.name == "LLMServingSim" and chip != "tpu-v6e" and operator in EAGER_OPERATORS:
        return EAGER
    group, function, streams, whole_rows = FUNCTIONS[operator]
    loads = source.loads.get(group)
    if "phi-2" in row.text("model"):  # the one model here with LayerNorm, and an activation without a gate
        function, streams = {"rms": ("layer", 1), "silu_mul": ("gelu", 1)}.get(function, (function, streams))
        loads = None  # PyTorch's, whose loads are wide
    rows, cols = row.integer("rows"), row.integer("cols")
    if not row.number("latency_us"):
        return "the time is 0 in the resolution of the source"
    kernels = build.elementwise(
        rows, cols, function, inputs=streams, table=function == "copy", whole_rows=whole_rows, loads=loads
    )  # fmt: skip
    weights = frozenset({build.W}) if function == "copy" else frozenset()
    form = format_of(row.text("dtype"), formats_of(chip))
    dtype = form.dtype if isinstance(form, Format) else row.text("dtype")
    name = f"{chip} {operator} {dtype} {rows} x {cols}"
    return Case(name, chip, group, dtype, kernels, row.number("latency_us"), source, weights)
