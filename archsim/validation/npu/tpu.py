"""One core of a real TPU v3: cycles at 940 MHz of products, convolutions, norms, attention and whole networks.

The workload's name says its shape. Networks: ResNet on one image of 224 x 224; a BERT row is one encoder layer over 512
tokens (as in PyTorchSim's `experiments/BERT.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from archsim.hardware import load_chip
from archsim.mapping import Target, make_target
from archsim.validation.npu.resnet import RESNETS, resnet
from archsim.validation.npu.single import run_once
from archsim.validation.npu.xla import Kernel, Shapes
from archsim.validation.report import Row
from archsim.validation.suite import Outcome
from archsim.validation.table import Record, Table

__all__ = ["compare_tpu", "kernels_of", "simulate_cycles"]

CHIP = "tpu-v3-core"
BERT = {"base": (768, 12), "large": (1024, 16), "xlarge": (2048, 32)}
"""Hidden size and heads; the inner size of the MLP is four times the hidden one."""
UNKNOWN = "no rule says what kernels this workload is"


def compare_tpu(table: Table) -> Outcome:
    """Compare the column `TPUv3` of every row."""
    rows, reasons = [], []
    for record in table.records():
        kernels = kernels_of(record)
        if kernels is None:
            reasons.append(UNKNOWN)
            continue
        group = "TPU v3 " + re.split(r"_|\d", record.text("Workload"))[0]
        got = simulate_cycles(kernels)
        rows.append(Row(record.text("Workload"), record.integer("TPUv3"), got, group))
    return rows, reasons


def kernels_of(record: Record) -> Sequence[Kernel] | None:
    """The kernels of a workload by its name, or None for a name that says nothing."""
    name, shapes = record.text("Workload"), Shapes.of(_target())
    kind, _, sizes = name.partition("_")
    if name in RESNETS:
        return _resnet(name, shapes)
    if kind == "bert" and sizes in BERT:
        hidden, heads = BERT[sizes]
        return shapes.encoder(512, hidden, heads, 4 * hidden)
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5})+", sizes):
        return None
    d = [int(size) for size in sizes.split("x")]
    if kind == "gemm" and len(d) == 3:
        return [shapes.product(d[0], d[1], d[2])]
    if kind == "conv" and len(d) == 8:
        batch, height, width, channels, filters, kernel, stride, _ = d
        return [shapes.convolution(batch, height // stride, width // stride, channels, filters, kernel, stride)]
    if kind == "layernorm" and len(d) == 2:
        return shapes.layer_norm(*d)
    if kind == "softmax" and len(d) == 2:
        return shapes.softmax(*d)
    if kind == "attention" and len(d) == 3:
        return shapes.attention(*d)
    return None


def _resnet(name: str, shapes: Shapes) -> list[Kernel]:
    kernels: list[Kernel] = [shapes.convolution(1, 112, 112, 3, 64, 7, 2), shapes.pool(56 * 56, 64, 3, 2)]
    for conv in resnet(name):
        kernels.append(
            shapes.convolution(
                1, conv.size, conv.size, conv.channels, conv.filters, conv.kernel, conv.stride, residual=conv.adds
            )
        )
    features = resnet(name)[-1].filters
    return [*kernels, shapes.pool(1, features, 7, 7), shapes.product(1, 1000, features)]


@cache
def _target() -> Target:
    return make_target(load_chip(CHIP))


@cache
def _simulate(kernel: Kernel) -> int:
    """Time of one kernel with its launch, in ps, on an idle core: no cache holds anything between kernels."""
    target = _target()
    return run_once(target, kernel.lower(target)) + round(target.chip.launch.latency * 1e12)


def simulate_cycles(kernels: Sequence[Kernel]) -> float:
    """Core cycles of kernels that run one after the other."""
    return sum(_simulate(kernel) for kernel in kernels) * 1e-12 * _target().clock
