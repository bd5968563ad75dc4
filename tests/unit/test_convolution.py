"""Convolutions by implicit GEMM read their input, and the halo between tiles, but never the expanded matrix."""

from __future__ import annotations

import pytest

from archsim.hardware import load_chip
from archsim.mapping import make_target
from archsim.mapping.fuse import Kernel
from archsim.mapping.lowering import lower
from archsim.mapping.task import Operand, Task


def convolution(
    batch: int, size: int, channels: int, filters: int, side: int, stride: int, **attrs: str
) -> Kernel:  # fmt: skip
    m, k = batch * size * size, side * side * channels
    x = Operand(0, "activation", batch * (size * stride) ** 2 * channels * 2, 2)
    w = Operand(1, "weight", k * filters * 2, 2)
    y = Operand(2, "activation", m * filters * 2, 2)
    words = {"kernel": f"{side}x{side}", "strides": f"{stride}x{stride}", "pixels": f"{size}x{size}"} | attrs
    task = Task(
        "conv", "matmul", {"b": 1, "m": m, "n": filters, "k": k}, words, "bf16", (x, w), (y,), 2 * m * filters * k
    )
    return Kernel("product", (task,), (x, w), (y,))


def read_of_input(chip: str, kernel: Kernel) -> float:
    """Bytes of the input that the tiles read, over its own."""
    lowered = lower(kernel, make_target(load_chip(chip)), exact=True)
    program = lowered.program
    return float(program.nbytes[program.region == 0].sum()) / kernel.inputs[0].nbytes


@pytest.mark.parametrize("chip", ["custom-npu", "tpu-v3", "h100"])
def test_a_three_by_three_convolution_reads_its_input_and_a_halo(chip):
    kernel = convolution(16, 56, 64, 64, 3, 1)
    assert 1.0 < read_of_input(chip, kernel) < 4.0  # the expanded matrix would be 9; small tiles share more


@pytest.mark.parametrize("chip", ["custom-npu", "h100"])
def test_a_one_by_one_convolution_has_no_halo(chip):
    kernel = convolution(4, 28, 128, 64, 1, 1)
    assert read_of_input(chip, kernel) == pytest.approx(1.0, rel=0.01)


def test_a_trace_that_does_not_say_how_wide_images_are_counts_them_as_square():
    kernel = convolution(1, 56, 64, 64, 3, 1, pixels="")
    same = convolution(1, 56, 64, 64, 3, 1)
    assert read_of_input("custom-npu", kernel) == read_of_input("custom-npu", same)


@pytest.mark.parametrize("words", ["", "x", "9" * 40, "-3x3", "axb"])
def test_words_that_are_no_sizes_do_no_harm(words):
    kernel = convolution(1, 14, 64, 64, 3, 1, kernel=words)
    assert read_of_input("custom-npu", kernel) >= 1.0
