"""Published training runs as steps of `archsim.training`: what each row ran, as far as it was published.

A row names its model, chips and batch; what it leaves open (schedule, recomputation, precision of gradients) is that of
the software that made it. One `Stack` holds these assumptions for all rows of that software, with a share of the speed
of our kernels that its passes reach: it stands for what a step does and we do not model (imbalanced experts,
allocators, stragglers, clocks that fall over hours).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from archsim.hardware import SystemSpec, load_system
from archsim.trace import Trace
from archsim.trace.costs import flops
from archsim.training import Software, TrainPlan, TrainStep
from archsim.training.job import prepare_training
from archsim.training.step import run_training
from archsim.validation.model.names import trace_of

__all__ = ["STACKS", "Stack", "TrainingCase", "megatron_case", "published_case", "simulate_case"]


#: Share of the speed of our kernels that training software reaches: one number for all stacks and chips. Chosen on the
#: rows of dense models of four stacks on A100, H100, H800 and B200, which ask for 0.73 to 0.94; rows of MaxText on TPUs
#: ask for 0.64 to 0.93 (most for 0.8 to 0.9) and got the same. The GB300 was added afterwards.
SHARE = 0.82
#: What the host of eager PyTorch with Transformer Engine needs for an operator: chosen on three of six mixtures of
#: experts on B200 and H100 (Qwen3-30B, whose two runs ask for 41 and 55 us, and DeepSeek-V3: 57).
HOST_S = 55e-6


@dataclass(frozen=True)
class Stack:
    """The software of a row: what it makes of the kernels, and what it leaves to be assumed."""

    name: str
    software: Software
    assumption: str


STACKS = {
    stack.name: stack
    for stack in (
        Stack("Megatron-LM 2022", Software(SHARE), "unfused attention, dropout, interleaved 1F1B, fp32 gradients"),
        Stack("HAI-LLM", Software(SHARE), "DualPipe, fp8 with block scales, selective recomputation, MTP, ZeRO-1"),
        Stack("Megatron-Bridge", Software(SHARE, HOST_S), "flash attention, Transformer Engine, NCCL, ZeRO-1"),
        Stack("Llama 3", Software(SHARE), "flash attention, interleaved 1F1B with 4 chunks a stage, ZeRO-1"),
        Stack("MaxText", Software(SHARE), "FSDP, all-gathers fused with products, recomputation as its scripts say"),
    )
}


@dataclass(frozen=True, eq=False)
class TrainingCase:
    """A row that can be simulated. value: what the row states, from a step."""

    group: str
    stack: Stack
    system: SystemSpec
    model: str
    plan: TrainPlan
    options: Mapping[str, Any]
    value: Callable[[TrainStep], float]


def simulate_case(case: TrainingCase) -> TrainStep:
    """The step of a case; equal steps are simulated once."""
    key = (case.system.name, case.system.chips, case.model, case.plan, tuple(sorted(case.options.items())), case.stack)
    if key not in _STEPS:
        job = prepare_training(case.system, _trace(case.model), case.plan, **case.options)
        # our estimate of activations is not what decides whether a run that was published fits
        _STEPS[key] = run_training(job, software=case.stack.software, fit=False)
    return _STEPS[key]


_STEPS: dict[object, TrainStep] = {}


@cache
def _trace(model: str) -> Trace:
    """The trace of a model; with ``+mtp`` one that also predicts the token after the next: a layer and a head more.

    (The projection that joins both embeddings in that layer is left out: a two-hundredth of it.)
    """
    model, _, more = model.partition("+")
    if more:
        trace = _trace(model)
        last = [block.name for block in trace.blocks if block.repeat > 1 and "." not in block.name][-1]
        grown = {name + end for name in (last, "epilogue") for end in ("", ".backward", ".optimizer")}
        blocks = tuple(replace(b, repeat=b.repeat + 1) if b.name in grown else b for b in trace.blocks)
        return replace(trace, blocks=blocks)
    return trace_of(model, "train")


# Korthikanti et al., arXiv:2205.05198, table 3: tp, pp, chunks, batch, micro-batch -----------------------------

_MEGATRON = {
    "megatron-22b": (8, 1, 1, 4, 4),
    "gpt3-175b": (8, 8, 3, 64, 1),
    "turing-530b": (8, 35, 3, 280, 1),
    "megatron-1t": (8, 64, 1, 512, 1),
}


def megatron_case(model: str, op: str) -> TrainingCase | str:
    """A row of Megatron-LM's table 5 (batch times in microseconds), or why there is none."""
    if model not in _MEGATRON:
        return f"the model '{model}' is not in the table that its plan would come from"
    tp, pp, virtual, batch, micro = _MEGATRON[model]
    selective = "selective" in op
    plan = TrainPlan(
        tp=tp, pp=pp, virtual=virtual, batch=batch, micro_batch=micro, sp=selective,
        recompute="selective" if selective else "full",
    )  # fmt: skip
    system = load_system("hgx-a100") if pp == 1 else load_system("a100-x16", {"chips": tp * pp})
    options = {"seq": 2048, "attention": "unfused"}
    return TrainingCase(
        "a100 training, Megatron-LM 2022", STACKS["Megatron-LM 2022"], system, model, plan, options,
        lambda step: step.time_s * 1e6,
    )  # fmt: skip


# rows of published_llm.csv -------------------------------------------------------------------------------------

_MODELS = {
    "DeepSeek-V3": "deepseek-v3", "DeepSeek-V3 671B": "deepseek-v3", "Llama-3-8B": "llama-3.1-8b",
    "Llama-3.1-8B": "llama-3.1-8b", "Llama-3-70B": "llama-3.1-70b", "Llama-3.1-70B": "llama-3.1-70b",
    "Llama-3.1-405B": "llama-3.1-405b", "gpt-oss-120b": "gpt-oss-120b", "gpt-oss-20b": "gpt-oss-20b",
    "Qwen3-30B-A3B": "qwen3-30b-a3b", "Qwen3-235B-A22B": "qwen3-235b-a22b", "Llama-2-70B": "llama-2-70b",
    "Mixtral-8x7B": "mixtral-8x7b",
}  # fmt: skip


def published_case(row: Mapping[str, str]) -> TrainingCase | str:
    """A training row, or the reason why it cannot be expressed."""
    source, system, value = row["source"], row["system"], row["value"]
    try:
        float(value)
    except ValueError:
        return f"a range or a bound ('{value}'), which is no figure"
    if "DeepSeek-V3 technical report" in source or "2505.09343" in source:
        return _deepseek(row)
    if "Megatron-Bridge" in source:
        return _megatron_bridge(row)
    if "Llama 3 herd" in source:
        return _llama3(row)
    if "maxtext" in source and system.startswith("TPU"):
        return _maxtext(row)
    return "published without its plan of parallelism"


def _deepseek(row: Mapping[str, str]) -> TrainingCase | str:
    """2,048 H800; DeepSeek-V3 technical report, section 3, and the figures of its network paper (arXiv:2505.09343)."""
    metric = row["metric"]
    values: dict[str, Callable[[TrainStep], float]] = {
        "GPU hours per trillion tokens": lambda s: 1e12 / s.tokens_per_s / 3600 * s.plan.chips,
        "pre-training": lambda s: 14.8e12 / s.tokens_per_s / 3600 * s.plan.chips,
        "tokens per day": lambda s: s.tokens_per_s * 86400 / 1e9,
        # 385 TFLOP/s and 272.8 billion tokens a day are 250 GFLOP a token: without the MTP layer (ours: 260)
        "TFLOPS/GPU causal": lambda s: s.model_flops * _main_model(s) * 1e-12,
        "MFU causal (BF16 peak)": lambda s: 100 * s.mfu * _main_model(s),
    }
    if metric not in values:
        return f"'{metric}' is no figure of a step of pre-training"
    if metric != "GPU hours per trillion tokens" and "MRFT" in row["system"]:
        return "a second figure of the run of another row"
    plan = TrainPlan(
        pp=16, dp=128, ep=64, batch=15360, micro_batch=1, schedule="dualpipe", recompute="selective"
    )  # fmt: skip
    return TrainingCase(
        "h800 training, HAI-LLM", STACKS["HAI-LLM"], load_system("h800-x2048"), "deepseek-v3+mtp", plan,
        {"seq": 4096, "precision": "fp8"}, values[metric],
    )  # fmt: skip


def _main_model(step: TrainStep) -> float:
    """Share of the FLOPs of a step that are not of its MTP layer."""
    return _forward_flops(_trace("deepseek-v3"), step.seq) / _forward_flops(_trace("deepseek-v3+mtp"), step.seq)


def _forward_flops(trace: Trace, seq: int) -> float:
    kinds = ("matmul", "grouped_matmul", "attention")
    return sum(
        op.flops * block.repeat for block in trace.at(batch=1, seq=seq).blocks for op in block.ops
        if op.kind in kinds and op.attrs.get("pass") == "forward"
    )  # fmt: skip


_BRIDGE = re.compile(r"TP(\d+) PP(\d+) CP(\d+) VP(\d+|n/a) EP(\d+) FSDP(\d+)")
_PRECISION = {"FP8-CS": "fp8-tensor", "FP8-MX": "mxfp8", "BF16": "bf16"}
_NODES = {"B200": "hgx-b200", "H100": "hgx-h100", "GB200": "gb200-nvl72", "GB300": "gb300-nvl72"}
#: (model, chip) -> what the recipes of the release (scripts/performance) set, and the table does not show or shows
#: otherwise: gpt-oss on B200 and H100 has columns of each other (experts over 8 chips, 4 sequences; "GA 2" fits only
#: one of them), Qwen3 on H100 those of the release before. The table of the next release, 26.02, has the recipes'
#: values, with throughputs within 6 % of these.
_RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("gpt-oss-120b", "B200"): {"ep": 64, "recompute": "selective"},
    ("gpt-oss-120b", "GB200"): {"recompute": "selective"},
    ("gpt-oss-120b", "H100"): {"micro_batch": 1, "recompute": "selective"},
    ("Qwen3-30B-A3B", "H100"): {"micro_batch": 1, "virtual": 12, "overlap_ep": True},
    ("Qwen3-235B-A22B", "B200"): {"virtual": 4, "overlap_ep": True},
    ("Qwen3-235B-A22B", "H100"): {"batch": 2048, "overlap_ep": True},
}


def _megatron_bridge(row: Mapping[str, str]) -> TrainingCase | str:
    """NVIDIA's table of Megatron-Bridge 25.11: degrees as they stand there, the rest as in its scripts/performance.

    Gradients are reduced in bf16 (grad_reduce_in_fp32 = False), DeepSeek-V3 computes its up-projections again, rows go
    to experts by NCCL's all-to-all, biases of experts are PyTorch's. User buffers, which hide a part of the collectives
    of tensor parallelism, are left out: `overlap_tp` hides all of them.
    """
    chip, _, chips = row["system"].partition(" x")
    recipe = _RECIPES.get((row["model"], chip), {})
    degrees, sizes = _BRIDGE.match(row["parallelism"]), re.match(r"GBS (\d+|\?) MBS (\d+)", row["batch_concurrency"])
    if degrees is None or sizes is None:
        return "the row does not state its degrees or its batch"
    if chip not in _NODES:
        return f"there is no preset of the {chip}"
    if row["dtype"] not in _PRECISION:
        return f"the precision {row['dtype']} is not modelled in training"
    tp, pp, cp, _, ep, fsdp = (1 if d == "n/a" else int(d) for d in degrees.groups())
    virtual = 1 if degrees[4] == "n/a" else int(degrees[4])
    dp = int(chips) // (tp * pp * cp)
    if sizes[1] == "?" and "batch" not in recipe:
        return "the row does not state its degrees or its batch"
    plan = TrainPlan(
        tp=tp, pp=pp, cp=cp, dp=dp, ep=ep, sp=tp > 1, virtual=virtual if pp > 1 else 1, zero=3 if fsdp else 1,
        batch=recipe.get("batch", 0) or int(sizes[1]), micro_batch=int(sizes[2]), gradients="bf16", exchange="row",
        recompute="selective" if row["model"] == "DeepSeek-V3" else "none",
    )  # fmt: skip
    plan = replace(plan, **recipe)
    values: dict[str, Callable[[TrainStep], float]] = {
        "tokens per second per GPU": lambda s: s.tokens_per_s / s.plan.chips,
        "model TFLOPS per GPU": lambda s: _as_bridge_counts(s) * 1e-12,
    }
    # on B200 the two figures of DeepSeek-V3 are 260 GFLOP a token apart, which counts its MTP layer; on GB300 250
    model = _MODELS[row["model"]] + ("+mtp" if (row["model"], chip) == ("DeepSeek-V3", "B200") else "")
    system = _gpus(_NODES[chip], int(chips))
    options = {"seq": int(row["input_len"]), "precision": _PRECISION[row["dtype"]], "experts": "eager"}
    kind = "experts" if ep > 1 else "dense"
    return TrainingCase(
        f"{chip.lower()} training, Megatron-Bridge, {kind}", STACKS["Megatron-Bridge"], system,
        model, plan, options, values[row["metric"]],
    )  # fmt: skip


def _as_bridge_counts(step: TrainStep) -> float:
    """Megatron-Bridge counts windows as full attention, and a gate only beside SiLU, which gpt-oss has not."""
    if not step.workload.startswith("gpt-oss"):
        return step.model_flops
    counted = 0.0
    for block in _trace(step.workload).at(batch=1, seq=step.seq).blocks:
        for op in block.ops:
            if op.attrs.get("pass") != "forward":
                continue
            if op.kind == "attention":
                counted += flops(op.kind, op.dims, {**op.attrs, "window": None}) * block.repeat
            elif op.kind in ("matmul", "grouped_matmul"):
                counted += op.flops * block.repeat / (2 if op.name.endswith("gate_up_proj") else 1)
    return step.model_flops * 3 * counted / step.seq / step.flops_per_token


def _gpus(node: str, chips: int) -> SystemSpec:
    """So many GPUs in nodes of eight, or racks of 64."""
    if node.endswith("nvl72"):
        return load_system(node, {"chips": chips, "chips_per_node": min(chips, 64)})
    if chips <= 8:
        return load_system(node)
    many = {"hgx-h100": "p5-x16", "hgx-b200": "a4-x16"}[node]
    return load_system(many, {"chips": chips})


def _llama3(row: Mapping[str, str]) -> TrainingCase | str:
    """Llama 3 herd of models, table 4; 16 sequences of each of 128 replicas."""
    plan = TrainPlan(tp=8, pp=16, dp=128, sp=True, batch=2048, micro_batch=1, virtual=4)
    values: dict[str, Callable[[TrainStep], float]] = {
        "TFLOPS per GPU": lambda s: s.model_flops * 1e-12, "MFU": lambda s: 100 * s.mfu,
    }  # fmt: skip
    return TrainingCase(
        "h100 training, Llama 3", STACKS["Llama 3"], _gpus("hgx-h100", 16384), "llama-3.1-405b", plan, {"seq": 8192},
        values[row["metric"]],
    )  # fmt: skip


#: (model, chip) -> tensor degree, sequences of a chip, recomputation: the scripts of configs/tpu
_TPU = {
    ("16B", "v5e"): (1, 6, "needed"), ("32B", "v5e"): (1, 4, "needed"), ("64B", "v5e"): (1, 2, "needed"),
    ("128B", "v5e"): (16, 1, "selective"), ("32B", "v5p"): (4, 6, "selective"), ("64B", "v5p"): (4, 3, "selective"),
    ("128B", "v5p"): (8, 1, "selective"), ("256B", "v5p"): (8, 1, "selective"), ("512B", "v5p"): (8, 2, "needed"),
    ("22B", "v4"): (1, 13, "needed"),
}  # fmt: skip
_SLICE = re.compile(r"TPU (v\d\w?)-(\d+)(?: x(\d+))?$")


def _maxtext(row: Mapping[str, str]) -> TrainingCase | str:
    """MaxText's tables: FSDP over a slice. Names of v4 and v5p count cores, two a chip."""
    size, named = row["model"].removeprefix("MaxText "), _SLICE.match(row["system"])
    if named is None or (size, named[1]) not in _TPU:
        return "published without its plan of parallelism, or a model whose dimensions were not published"
    if named[3] not in (None, "1"):
        return "slices joined by a data-centre network, whose bandwidth was not published"
    tp, each, recompute = _TPU[size, named[1]]
    chips = int(named[2]) // (2 if named[1] in ("v4", "v5p") else 1)
    dp = chips // tp
    plan = TrainPlan(
        tp=tp, dp=dp, sp=tp > 1, zero=3, batch=each * chips, micro_batch=each * tp, recompute=recompute,
        overlap_tp="gathers" if tp > 1 else "none",
    )  # fmt: skip
    base = {"v4": "tpu-v4-pod", "v5p": "tpu-v5p-pod", "v5e": "tpu-v5e-pod"}[named[1]]
    values: dict[str, Callable[[TrainStep], float]] = {
        "TFLOPS per chip": lambda s: _whole_attention(s) * 1e-12,
        "MFU": lambda s: 100 * _whole_attention(s) / s.chip.flops("bf16"),
    }
    system = load_system(base, {"chips": chips, "chips_per_node": chips, "dims": list(_sides(named[1], chips))})
    return TrainingCase(
        f"tpu-{named[1]} training, MaxText", STACKS["MaxText"], system, f"maxtext-{size.lower()}", plan, {"seq": 2048},
        values[row["metric"]],
    )  # fmt: skip


def _sides(chip: str, chips: int) -> tuple[int, ...]:
    """A torus as square as powers of two allow, in two dimensions for a v5e, else in three."""
    sides = [1, 1] if chip == "v5e" else [1, 1, 1]
    while chips > 1:
        sides[sides.index(min(sides))] *= 2
        chips //= 2
    return tuple(sides)


def _whole_attention(step: TrainStep) -> float:
    """MaxText counts attention as if no mask cut it (these tables are older than the change)."""
    graph = _trace(f"{step.workload}").at(batch=1, seq=step.seq)
    causal = 3.0 * sum(
        op.flops * block.repeat for block in graph.blocks for op in block.ops if op.kind == "attention"
    )  # fmt: skip
    return step.model_flops * (1 + causal / step.seq / step.flops_per_token)
