"""Times of whole layers measured on GPUs, summed over kernels: Vidur's without attention, LLMServingSim's with it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from archsim.simulation import simulate
from archsim.validation.model.case import Case
from archsim.validation.model.names import CHIPS, system_of, trace_of
from archsim.validation.model.training import megatron_case
from archsim.validation.model.wiring import training_case
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
    tokens = int((re.search(r"tokens=(\d+)", phase) or ["", "0"])[1])
    bare = "w/o attention core" in phase
    tp = record.integer("tp")
    if op.startswith("TOTAL") and tokens:
        kind = "without attention" if bare else "with attention"
        return Case(
            name, f"layer {kind}, {device}", record.number("latency_us"),
            lambda: _layer_us(device, _MODELS[model], tokens, tp, attention=not bare),
            "kernel times of a layer added up, without launches, collectives" + (" and attention" if bare else ""),
        )  # fmt: skip
    return "a single operator: the suite op has them"


def _layer_us(device: str, workload: str, tokens: int, tp: int, *, attention: bool) -> float:
    """Microseconds of the kernels of one layer over ``tokens`` new tokens."""
    options: dict[str, Any] = {"system": system_of(device, tp), "tp": tp, "fidelity": "tile"}
    trace = trace_of(workload, "prefill")
    blocks = tuple(replace(block, repeat=min(block.repeat, 2)) for block in trace.blocks)  # the layers fit one chip
    table = simulate(_CHIPS[device], replace(trace, blocks=blocks), phase="prefill", seq=tokens, **options).op_table
    rows = zip(table.block, table.kind, table.repeat.tolist(), (table.time_ps - table.launch_ps).tolist(), strict=True)
    left_out = {"all_reduce", "all_gather"} | (set() if attention else {"attention"})
    return float(sum(ps for _, kind, repeat, ps in rows if repeat > 1 and kind not in left_out)) * 1e-6
