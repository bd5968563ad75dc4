"""Times of whole layers measured on GPUs, summed over kernels: Vidur's without attention, LLMServingSim's with it.

Neither profile fuses what serving engines do: every operator is a kernel, or several, written as its source has them
(`archsim.validation.op.sources`), and the layer is the sum of their times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from archsim.mapping import FUSION, Kernel, KernelBlock
from archsim.simulation import Options, prepare
from archsim.validation.model.case import Case
from archsim.validation.model.names import CHIPS, system_of, trace_of
from archsim.validation.model.training import megatron_case
from archsim.validation.model.wiring import training_case
from archsim.validation.op import build
from archsim.validation.op.case import Case as Operator
from archsim.validation.op.case import Kernel as Timed
from archsim.validation.op.case import simulate_us
from archsim.validation.op.dtypes import Format
from archsim.validation.op.sources import Source, source_of
from archsim.validation.table import Record

__all__ = ["read_layer"]

_MODELS = {
    "meta-llama/Llama-2-7b-hf": "llama-2-7b", "meta-llama/Llama-2-70b-hf": "llama-2-70b",
    "meta-llama/Meta-Llama-3-8B": "llama-3.1-8b", "meta-llama/Meta-Llama-3-70B": "llama-3.1-70b",
    "meta-llama/Llama-3.1-8B": "llama-3.1-8b", "meta-llama/Llama-3.1-70B": "llama-3.1-70b",
    "Qwen/Qwen-72B": "qwen-72b", "codellama/CodeLlama-34b-Instruct-hf": "codellama-34b",
    "internlm/internlm-20b": "internlm-20b",
}  # fmt: skip
#: presets of the GPUs that layers were measured on
_CHIPS = {"A100": "a100", "H100": "h100", "A6000": "a6000", "RTX3090": "rtx-3090"}
FP16 = Format("fp16", 2.0, 2.0)


def read_layer(record: Record) -> Case | str:
    """The case of a row, or why it has none."""
    device, model, phase, op = (record.text(name) for name in ("device", "model", "phase", "op"))
    name = f"{device} {model.split('/')[-1]} {phase} TP{record.text('tp')}"
    if phase.startswith("TRAINING"):
        found = megatron_case(model.replace("-22B", "-22b").replace("-175B", "-175b").replace("-530B", "-530b")
                              .replace("-1T", "-1t"), phase)  # fmt: skip
        return training_case(name, record.number("latency_us"), found)
    if "serving" in phase:
        return "a server under arrivals of its own with prompts of many lengths, which one run does not mix"
    if device.startswith("4xA100"):
        return "operators one by one, with attention in three kernels: the suite op has them"
    if model not in _MODELS:
        return f"no workload of {model.split('/')[-1]} is shipped"
    if device not in _CHIPS:
        return f"no preset of the {device}"
    if device not in CHIPS and record.integer("tp") > 1:
        return f"no preset of a board of several {device}"
    tokens, tp = int((re.search(r"tokens=(\d+)", phase) or ["", "0"])[1]), record.integer("tp")
    source = source_of(record.text("source_file"))
    if source is None or not (op.startswith("TOTAL") and tokens):
        return "a single operator: the suite op has them"
    bare = "w/o attention core" in phase
    kind = "without attention" if bare else "with attention"
    return Case(
        name, f"layer {kind}, {device}", record.number("latency_us"),
        lambda: _layer_us(device, _MODELS[model], tokens, tp, source),
        "kernel times of a layer added up, without launches, collectives"
        + (" and attention; kernels of vLLM 0.2, none fused" if bare else "; eager kernels of Hugging Face"),
    )  # fmt: skip


def _layer_us(device: str, workload: str, tokens: int, tp: int, source: Source) -> float:
    """Microseconds of the kernels of one layer over ``tokens`` new tokens."""
    vidur = source.name == "Vidur"
    trace = trace_of(workload, "prefill")
    blocks = tuple(replace(block, repeat=min(block.repeat, 2)) for block in trace.blocks)  # the layers fit one chip
    options = Options("prefill", seq=tokens, tp=tp, pins={FUSION: {"products": vidur, "vectors": False}})
    job = prepare(_CHIPS[device], replace(trace, blocks=blocks), options, system_of(device, tp))
    layer = next(block for block in job.blocks if block.repeat > 1)
    chip = job.chip.name
    kernels = _of_vidur(layer, source, chip) if vidur else _of_hugging_face(layer, source)
    return sum(
        simulate_us(Operator(workload, chip, "layer", "fp16", (kernel,), 1.0, source, frozenset({build.W})))
        for kernel in kernels
    )


def _of_vidur(layer: KernelBlock, source: Source, chip: str) -> Iterator[Timed]:
    """The kernels that Vidur profiles; queries and keys rotate in one, and attention is not among them."""
    rows, widths, _ = _rotated(layer)
    yield from build.elementwise(rows, sum(widths), "rotary", loads=source.loads["rotary"])
    for kernel in layer.kernels:
        task, fn = kernel.tasks[0], kernel.tasks[0].attrs.get("fn")
        cols = task.dims.get("cols", 0)
        if kernel.kind == "product":
            yield from _product(kernel, source.tiles.get(chip, ()))
        elif task.kind == "norm":
            yield from build.elementwise(rows, cols, "rms", whole_rows=True, loads=source.loads["norm"])
        elif fn == "silu_mul":
            yield from build.elementwise(rows, cols, fn, inputs=2, loads=source.loads["activation"])
        elif fn == "add":
            yield from build.elementwise(rows, cols, fn, inputs=2)


def _of_hugging_face(layer: KernelBlock, source: Source) -> Iterator[Timed]:
    """The kernels of Hugging Face's layer that LLMServingSim profiles; it leaves out the residual additions."""
    yield from build.rotary_eager(*_rotated(layer))
    for kernel in layer.kernels:
        task, d = kernel.tasks[0], kernel.tasks[0].dims
        if kernel.kind == "product":
            yield from _product(kernel)
        elif kernel.kind == "attention":
            yield from build.attention(
                d["batch"], d["q_len"], d["kv_len"], d["heads"], d["kv_heads"], d["d_qk"], d["d_v"], dtype="fp16",
                kernel=source.attention,
            )  # fmt: skip
        elif task.kind == "norm":
            yield from build.norm_eager(d["rows"], d["cols"])
        elif task.attrs.get("fn") == "silu_mul":
            yield from build.elementwise(d["rows"], d["cols"], "silu")
            yield from build.elementwise(d["rows"], d["cols"], "mul", inputs=2)


def _product(kernel: Kernel, tiles: tuple[tuple[int, int], ...] = ()) -> tuple[Timed, ...]:
    d = kernel.tasks[0].dims
    return build.product((d["m"],), sum(task.dims["n"] for task in kernel.tasks), d["k"], FP16, tiles=tiles)[0]


def _rotated(layer: KernelBlock) -> tuple[int, list[int], int]:
    """Tokens, widths of the queries and of the keys that are rotated, and of a head."""
    dims = [task.dims for kernel in layer.kernels for task in kernel.tasks if task.kind == "rotary"]
    head = next(kernel.tasks[0].dims["d_qk"] for kernel in layer.kernels if kernel.kind == "attention")
    return dims[0]["rows"], [d["cols"] for d in dims], head
