"""Stream-K: runs that cross tiles compute every term once, and even out the last waves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from archsim.engine import CompiledInterpreter, SimpyInterpreter
from archsim.hardware import load_chip
from archsim.mapping import MatmulShape, Target, choose_tiling, make_target
from archsim.mapping.lowering import Lowered
from archsim.mapping.lowering.product import ProductOperands, lower_product
from archsim.mapping.lowering.table import WORKSPACE
from archsim.mapping.pin import pinned
from archsim.mapping.search import simulated_s
from archsim.mapping.tiling import score_tilings

TARGETS = {name: make_target(load_chip(name)) for name in ("a100", "b200", "custom-npu")}
A, B, C = 0, 1, 2


def streamed(target: Target, m: tuple[int, ...], n: int, k: int, pair: int = 1) -> Lowered:
    pin = {"tm": 64, "tn": 64, "tk": 64, "pair": pair, "stream_k": True}
    shape = MatmulShape(m, n, k, "bf16", 2.0, 2.0, 2.0)
    operands = ProductOperands(A, B, C, b_each=len(m) > 1)
    return lower_product(target, "gemm", shape, pinned(target, shape, pin, "gemm"), operands, exact=True)


def moved(lowered: Lowered, tensor: int, *, write: bool) -> list[tuple[int, int]]:
    """(offset, bytes) of what is stored to, or loaded from, the region of ``tensor``, in the order of addresses."""
    program = lowered.program
    mine = (program.write == write) & (program.region == lowered.tensors.index(tensor))
    return sorted(zip(program.offset[mine].tolist(), program.nbytes[mine].tolist(), strict=True))


def assert_tile_the_range(spans: list[tuple[int, int]], total: int) -> None:
    place = 0
    for offset, nbytes in spans:
        assert offset == place
        place += nbytes
    assert place == total


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(list(TARGETS)), st.lists(st.integers(0, 700), min_size=1, max_size=2), st.integers(1, 900),
    st.integers(1, 900), st.booleans(),
)  # fmt: skip
def test_every_term_is_multiplied_once_and_every_part_is_added_once(
    name: str, m: list[int], n: int, k: int, paired: bool
) -> None:
    target = TARGETS[name]
    pair = target.pair if paired else 1
    rows = sum(-(-each // (64 * pair)) * pair for each in m)
    assume(rows * -(-n // 64) * -(-k // 64) >= target.cores)
    lowered = streamed(target, tuple(m), n, k, pair)
    program = lowered.program
    assert_tile_the_range(moved(lowered, C, write=True), sum(m) * n * 2)
    fetched = [sum(nbytes for _, nbytes in moved(lowered, tensor, write=False)) for tensor in (A, B)]
    tiles_down = sum(-(-each // 64) for each in m)
    assert fetched[0] == sum(m) * k * -(-n // 64) * 2
    assert tiles_down * n * k * 2 / max(target.multicast, pair) <= fetched[1] <= (tiles_down + len(m)) * n * k * 2
    stored, added = (moved(lowered, WORKSPACE, write=write) for write in (True, False))
    assert_tile_the_range(stored, sum(nbytes for _, nbytes in added))
    assert_tile_the_range(added, sum(nbytes for _, nbytes in stored))
    work = np.bincount(program.tag[np.isin(program.route, target.matrix_routes)], minlength=target.cores)
    assert work.sum() == sum(-(-each // 64) for each in m) * -(-n // 64) * -(-k // 64)
    if pair == 1 and all(m):  # all cores do as many chunks, give or take one
        assert np.ptp(work) <= 1


def test_both_interpreters_agree_on_it() -> None:
    target = TARGETS["custom-npu"]
    lowered = streamed(target, (200,), 300, 400)
    bases = [i << 36 for i in range(len(lowered.tensors))]
    runs = [each(target.machine).run(lowered.program, 0, bases) for each in (CompiledInterpreter, SimpyInterpreter)]
    assert (runs[0].finish_ps == runs[1].finish_ps).all()


def test_it_evens_out_a_wave_that_is_barely_begun() -> None:
    """109 tiles on 108 cores: two waves of whole tiles, little more than one of stream-K."""
    target = TARGETS["a100"]
    shape = MatmulShape((64 * 109,), 64, 8192, "bf16", 2.0, 2.0, 2.0)
    pin = {"tm": 64, "tn": 64, "tk": 64}
    whole, stream = (
        simulated_s(target, shape, pinned(target, shape, pin | {"stream_k": on}, "gemm")) for on in (False, True)
    )
    assert stream < 0.7 * whole


@pytest.mark.parametrize(("m", "n", "k", "wanted"), [(130, 130, 9000, True), (1280, 4096, 4096, False)])
def test_it_is_chosen_where_it_is_faster_and_only_there(m: int, n: int, k: int, wanted: bool) -> None:
    """A few tiles with a long reduction for 108 cores, or waves that are full."""
    target, shape = TARGETS["a100"], MatmulShape((m,), n, k, "bf16", 2.0, 2.0, 2.0)
    chosen = choose_tiling(target, shape)
    assert chosen.stream_k == wanted
    others = [tiling for tiling in score_tilings(target, shape) if not tiling.stream_k]
    assert simulated_s(target, shape, chosen) <= simulated_s(target, shape, others[0])


def test_split_k_that_is_too_large_for_the_probes_has_to_beat_whole_tiles() -> None:
    """Its score is the better one here, and its time the worse."""
    target, shape = TARGETS["a100"], MatmulShape((3072,), 3072, 16384, "bf16", 2.0, 2.0, 2.0)
    chosen, best = choose_tiling(target, shape), score_tilings(target, shape)[0]
    assert best.split_k > 1 == chosen.split_k
    assert simulated_s(target, shape, chosen) < simulated_s(target, shape, best)
