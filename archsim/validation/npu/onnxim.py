"""ONNXim: cycles of whole products, and of the layers of Llama-3-8B and of ResNet.

ONNXim's own mapping is pinned, since its cycles tell as much of its tiling as of its machine. What it leaves out is
left out of the comparison, each kind of row with its reason; what it counts is held to our engine.
"""

from __future__ import annotations

import re
from functools import cache

from archsim.hardware import load_chip
from archsim.mapping import Lowered, Target, make_target
from archsim.validation.npu.onnxim_lower import convolution_blocks, lower_tiles, product_blocks
from archsim.validation.npu.onnxim_mapping import Convolution, convolution_tile, product_tile
from archsim.validation.npu.resnet import RESNETS, resnet
from archsim.validation.npu.single import run_once
from archsim.validation.report import Row
from archsim.validation.suite import Outcome
from archsim.validation.table import Table

__all__ = ["compare_layers", "compare_products"]

FAILED = "ONNXim did not finish this run (its status is not ok)"
PATCHED = "a NoC simulated by a patched BookSim with a switch made up for it, where the four cores saturate the network"
WHOLE = "a whole model: its norms and KV writes are free in ONNXim; its products are compared layer by layer instead"
CONFIG = "no preset says what this configuration is"
FREE = "free in ONNXim: norms, pooling, concatenations and KV writes cost it nothing or only their loads"
FUSED = "fused attention: ONNXim reads the wrong KV heads and ignores the offset of a KV tile"
UNNAMED = "the layer's name does not say its shape"
CONFIGS = re.compile(r"(?:systolic_ws|custom)_(?P<side>8x8|128x128)_c(?P<cores>\d+)_(?:simple|booksim2)")
HIDDEN, INNER, KV = 4096, 14336, 1024
"""Llama-3-8B: hidden size, inner size of the MLP, columns of keys and of values."""


def compare_products(table: Table) -> Outcome:
    """Compare `simulated_cycles` of the single products."""
    rows, reasons = [], []
    for record in table.records():
        config = CONFIGS.match(record.text("config"))
        reason = (
            FAILED if record.text("status") != "ok"
            else WHOLE if not record.text("M")
            else PATCHED if record.text("notes").startswith("PATCHED")
            else "" if config else CONFIG
        )  # fmt: skip
        if reason or config is None:
            reasons.append(reason)
            continue
        m, n, k = (record.integer(name) for name in "MNK")
        dtype = "int8" if record.text("notes").startswith("int8") else "fp16"
        target = _target(f"onnxim-{config['side']}", int(config["cores"]))
        case = f"{config['side']} c{config['cores']} {record.text('case')}"
        got = product_cycles(target, m, n, k, dtype)
        rows.append(Row(case, record.integer("simulated_cycles"), got, "ONNXim products"))
    return rows, reasons


def compare_layers(table: Table) -> Outcome:
    """Compare `layer_cycles` of the products of Llama-3-8B and the convolutions of ResNet."""
    rows, reasons = [], []
    for record in table.records():
        config = CONFIGS.match(record.text("config"))
        case, layer = record.text("case"), record.text("layer").rpartition(".")[2]
        if config is None:
            reasons.append(CONFIG)
            continue
        target = _target(f"onnxim-{config['side']}", int(config["cores"]))
        got = _layer_cycles(target, case, layer)
        if isinstance(got, str):
            reasons.append(FUSED if "Attention" in record.text("layer") else got)
        else:
            group = "ONNXim Llama layers" if "llama" in case else "ONNXim convolutions"
            rows.append(Row(f"{case} {layer}", record.integer("layer_cycles"), got, group))
    return rows, reasons


def _layer_cycles(target: Target, case: str, layer: str) -> float | str:
    """Cycles of one layer, or the reason why there are none."""
    if llama := re.fullmatch(r"llama3-8b(?:-tp(\d))?__(prefill_|decode_b|decode_)(\d+).*", case):
        tp = int(llama[1] or 1)
        tokens = 1 if llama[2] == "decode_" else int(llama[3])
        shapes = {
            "QKVgen": ((HIDDEN + 2 * KV) // tp, HIDDEN), "proj": (HIDDEN, HIDDEN // tp),
            "fc1": (2 * INNER // tp, HIDDEN), "fc2": (HIDDEN, INNER // tp),
        }  # fmt: skip
        return product_cycles(target, tokens, *shapes[layer], "fp16") if layer in shapes else FREE
    network = case.removesuffix("_fused")
    if network not in RESNETS:
        return UNNAMED
    number = re.fullmatch(r"conv(\d+)", layer)
    if layer == "fc":
        return product_cycles(target, 1, 1000, resnet(network)[-1].filters, "fp16")
    if number is None:
        return FREE
    convs = [Convolution(112, 3, 64, 7, 2)]
    convs += [Convolution(c.size, c.channels, c.filters, c.kernel, c.stride) for c in resnet(network)]
    return convolution_cycles(target, convs[int(number[1])]) if int(number[1]) < len(convs) else UNNAMED


@cache
def product_cycles(target: Target, m: int, n: int, k: int, dtype: str) -> float:
    """Core cycles of one product under ONNXim's mapping."""
    width = 1 if dtype == "int8" else 2
    cut = product_tile(target, m, n, k, width)
    return _run(target, lower_tiles(target, list(product_blocks(target, m, n, k, width, cut)), dtype))


@cache
def convolution_cycles(target: Target, conv: Convolution) -> float:
    """Core cycles of one convolution under ONNXim's mapping."""
    tiles = list(convolution_blocks(target, conv, 2, convolution_tile(target, conv, 2)))
    return _run(target, lower_tiles(target, tiles, "fp16"))


@cache
def _target(chip: str, cores: int) -> Target:
    return make_target(load_chip(chip, {"cores": str(cores), "peak": {}}))


def _run(target: Target, lowered: Lowered) -> float:
    return run_once(target, lowered) * 1e-12 * target.clock
