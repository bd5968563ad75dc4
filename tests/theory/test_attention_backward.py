"""Gradients of attention: what is left out of a long one, what fits which chip, and what its warps wait for."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np
import pytest
from numpy.typing import NDArray

from archsim.engine import CompiledInterpreter
from archsim.hardware import list_chips, load_chip
from archsim.mapping import Target, make_target
from archsim.mapping.attention_kernel import ANY_KERNEL, AttentionShape
from archsim.mapping.lowering.attention_backward import lower_attention_backward
from archsim.mapping.lowering.table import Lowered
from archsim.models.attention import two_warps
from archsim.program import Program

#: arrays of 8 x 8, whose 16 KiB of sums hold no tile of 64 keys of 128 dims
TINY = {"gemmini-8x8", "onnxim-8x8"}


def shape(seq: int, heads: int, kv_heads: int, d_qk: int, d_v: int, *, causal: bool = True) -> AttentionShape:
    return AttentionShape(1, seq, seq, heads, kv_heads, d_qk, d_v, causal, None, False, "bf16", 2.0, 2.0)


def lowered(target: Target, attention: AttentionShape, *, exact: bool = False) -> Lowered:
    return lower_attention_backward(target, "gradients", attention, tuple(range(8)), exact=exact)


def run(target: Target, attention: AttentionShape, *, exact: bool = False) -> tuple[int, int, float]:
    """Steps, time in ps with what is left out, and bytes that memory is asked for."""
    program = lowered(target, attention, exact=exact).program
    done = CompiledInterpreter(target.machine).run(program, 0, [i << 34 for i in range(len(program.regions))])
    left_out = program.carry.time_ps(done.finish_ps) if len(program.carry.weights) else 0
    return len(program.route), done.end_ps + left_out, done.counters.bytes_requested


def matrix_unit(target: Target, program: Program) -> NDArray[np.int64]:
    """Of every step which matrix unit works on it, from 1 on."""
    first = program.route_resources[np.minimum(program.route_start[program.route], len(program.route_resources) - 1)]
    numbers = np.zeros(len(target.machine), dtype=np.int64)
    numbers[target.groups["matrix"]] = 1 + np.arange(len(target.groups["matrix"]))
    found: NDArray[np.int64] = np.where(program.work_ps > 0, numbers[first], 0)
    return found


@pytest.mark.parametrize("chip", ["h800", "a100"])
@pytest.mark.parametrize("attention", [shape(2048, 128, 128, 192, 128), shape(4096, 64, 8, 128, 128)])
def test_a_window_of_heads_stands_for_the_others(chip: str, attention: AttentionShape) -> None:
    target = make_target(load_chip(chip))
    steps, time_ps, nbytes = run(target, attention)
    all_steps, exact_ps, exact_bytes = run(target, attention, exact=True)
    assert steps < 0.6 * all_steps
    assert time_ps == pytest.approx(exact_ps, rel=0.015)
    assert nbytes == pytest.approx(exact_bytes, rel=0.01)


@pytest.mark.parametrize("chip", sorted(set(list_chips()) - TINY))
def test_every_preset_has_a_tile_for_usual_heads(chip: str) -> None:
    """Also where the scratchpad is short: there keys and values are held in registers, beside the sums."""
    target = make_target(load_chip(chip))
    for d in (64, 128):
        assert len(lowered(target, shape(256, 2, 2, d, d)).program.route)


def test_blocks_go_to_the_core_that_is_free_first() -> None:
    """Causal blocks differ by their queries; dealt out in turn, some cores would get the long ones of every head."""
    target = make_target(load_chip("a100"))
    program = lowered(target, shape(2048, 80, 80, 128, 128), exact=True).program
    work = np.bincount(matrix_unit(target, program), program.work_ps)[1:]
    assert work.min() > 0.8 * work.max()


def test_warps_wait_for_each_other_and_for_a_barrier() -> None:
    """A100, 128 keys x 128 queries of 64 dims: 5 products of 2^20 multiply-adds at 1,024 a cycle; warps of 32 x 64
    (S, dP) and 32 x 32 read both operands; P and dS are stored. The softmax is behind a barrier, after them."""
    target = make_target(load_chip("a100"))
    program = lowered(target, shape(128, 1, 1, 64, 64, causal=False)).program
    multiply = 5 * 128 * 128 * 64 / 1024
    read = 2 * (128 * 64 * 2 * (128 / 64 + 128 / 32)) + 3 * (128 * 64 * 128 * 2 * (1 / 32 + 1 / 32))
    read = (read + 2 * 128 * 128 * 2) / 128
    cycles, softmax = two_warps(multiply, read) * (multiply + read), 128 * 128 * 5 / 64
    clock = target.sustained_clock("bf16", (multiply + 0.3 * softmax) / (cycles + softmax))
    took = program.work_ps[matrix_unit(target, program) > 0].sum() * 1e-12 * clock
    assert took == pytest.approx(ceil(cycles), rel=1e-3)


def test_older_kernels_on_hopper_take_longer() -> None:
    target, attention = make_target(load_chip("h100")), shape(2048, 16, 16, 128, 128)
    older = replace(attention, kernel=replace(ANY_KERNEL, synchronous=True))
    assert run(target, older)[1] > 1.3 * run(target, attention)[1]
