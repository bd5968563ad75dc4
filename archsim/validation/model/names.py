"""What the published tables call models, chips and number formats, and what they are called here."""

from __future__ import annotations

import re
from functools import cache

from archsim.hardware import SystemSpec, load_system
from archsim.trace import Trace, load_trace, load_workload
from archsim.validation.suite import DATA

__all__ = ["CHIPS", "FORMATS", "MODELS", "chip_of", "system_of", "tensor_degree", "trace_of"]

#: DeepSeek-R1 has the weights' shapes of V3, Llama-3.3-70B and Llama-3 those of Llama-3.1
MODELS = {
    "DeepSeek-V3/R1 671B": "deepseek-v3", "DeepSeek-R1 671B": "deepseek-v3", "DeepSeek-V3 671B": "deepseek-v3",
    "DeepSeek-R1": "deepseek-v3", "Llama-2-7B": "llama-2-7b", "Llama-2-70B": "llama-2-70b",
    "Llama-3.1-8B": "llama-3.1-8b", "Llama-3.1-70B": "llama-3.1-70b", "Llama-3.3-70B": "llama-3.1-70b",
    "Llama-3.1-405B": "llama-3.1-405b", "Llama-3-70B": "llama-3.1-70b", "Llama-3-8B": "llama-3.1-8b",
    "Mixtral-8x7B": "mixtral-8x7b", "Qwen3-235B-A22B": "qwen3-235b-a22b", "Qwen3-30B-A3B": "qwen3-30b-a3b",
    "gpt-oss-120b": "gpt-oss-120b",
}  # fmt: skip

#: chip preset, and the system of eight whose fabric smaller groups share
CHIPS = {
    "H100": ("h100", "hgx-h100"), "A100": ("a100", "hgx-a100"), "B200": ("b200", "hgx-b200"),
    "H800": ("h800", "h800-x32"), "H200": ("h200", "hgx-h200"), "GB300": ("gb300", "gb300-nvl72"),
    "GB200": ("gb200", "gb200-nvl72"), "H20": ("h20", "hgx-h20"), "MI300X": ("mi300x", "mi300x-x8"),
    "MI325X": ("mi325x", "mi325x-x8"), "MI355X": ("mi355x", "mi355x-x8"),
}  # fmt: skip

#: the cells of the column dtype; checkpoints of TensorRT-LLM 1.0 in 8 and 4 bits have caches in 8 bits
FORMATS = {"FP16": "none", "BF16": "none", "FP8": "fp8", "FP8 + FP8 KV": "fp8-kv", "NVFP4": "fp4-kv"}


def chip_of(system: str) -> str | None:
    """The preset of the chip that a cell names: "H100 SXM 80GB x4" is "h100"."""
    found = re.match(rf"(?:DGX-|\d+x)?({'|'.join(CHIPS)})(?![0-9A-Za-z])", system)
    return found[1] if found else None


def system_of(chip: str, chips: int) -> SystemSpec | None:
    """So many chips of a board, or of several; None for one."""
    if chips == 1:
        return None
    board = load_system(CHIPS[chip][1]).chips_per_node
    return load_system(CHIPS[chip][1], {"chips": chips, "chips_per_node": min(chips, board)})


@cache
def trace_of(model: str, phase: str) -> Trace:
    """The trace of a model that is shipped, or that the suites alone need."""
    own = DATA / "models" / f"{model}.{phase}.h5"
    return load_trace(own) if own.exists() else load_workload(model, phase)


def tensor_degree(parallelism: str) -> int | None:
    """The degree in a cell such as "TP4"."""
    found = re.fullmatch(r"TP(\d+)", parallelism.strip())
    return int(found[1]) if found else None
