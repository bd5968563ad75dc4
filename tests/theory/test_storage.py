"""Layouts say where bytes lie, never how many there are; and what they cost shows in the memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsim.engine import CompiledInterpreter
from archsim.hardware import load_chip
from archsim.mapping import MatmulShape, Storage, Target, make_target
from archsim.mapping.attention_kernel import AttentionShape
from archsim.mapping.lowering import Lowered
from archsim.mapping.lowering.attention import lower_attention
from archsim.mapping.lowering.product import ProductOperands, lower_product
from archsim.mapping.pin import pinned
from archsim.mapping.storage import page_runs, tile_runs
from archsim.program import Counters, Program

NPU = load_chip("custom-npu")
TILED = Storage(kv_cache="contiguous")
ROW_MAJOR = Storage("row_major", "row_major", "contiguous")


def places(runs: np.ndarray, stride: np.ndarray, offset: np.ndarray, nbytes: np.ndarray) -> list[int]:
    """Every byte of all transfers, in order."""
    each = zip(*(np.ravel(x).tolist() for x in (runs, stride, offset, nbytes)), strict=True)
    return sorted(o + i * s + b for r, s, o, n in each for i in range(r) for b in range(n // r))


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(["row_major", "tiled"]), st.integers(1, 40), st.integers(1, 40), st.integers(1, 12),
    st.integers(1, 12), st.sampled_from([1, 2]), st.integers(1, 3),
)  # fmt: skip
def test_the_tiles_of_a_matrix_are_all_of_it(
    layout: str, height: int, width: int, rows: int, cols: int, element: int, parts: int
) -> None:
    row, col, part = (
        x.ravel() for x in np.meshgrid(np.arange(0, height, rows), np.arange(0, width, cols), np.arange(parts))
    )
    tiles = tile_runs(
        layout, row, col, np.minimum(rows, height - row), np.minimum(cols, width - col), width=width,
        element_bytes=element, part=(part, parts),
    )  # fmt: skip
    assert places(tiles.runs, tiles.stride, tiles.offset, tiles.nbytes) == list(range(height * width * element))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 70), st.integers(1, 16), st.integers(1, 20))
def test_every_key_of_a_paged_cache_is_in_one_page(
    sequences: int, heads: int, length: int, page: int, block: int
) -> None:
    cache, head, begin = (
        x.ravel() for x in np.meshgrid(np.arange(sequences), np.arange(heads), np.arange(0, length, block))
    )
    keys = np.minimum(block, length - begin)
    runs, first, offsets = page_runs(cache, head, begin, keys, heads=heads, length=length, page=page, key_bytes=2.0)
    assert (keys % runs == 0).all()
    found: set[int] = set()
    for n, start, count in zip(runs.tolist(), first.tolist(), keys.tolist(), strict=True):
        for place in offsets[start : start + n].tolist():
            run = {place // 2 + key for key in range(count // n)}
            assert len({key // page for key in run}) == 1  # no run crosses the end of a head's part of a page
            found |= run
    assert len(found) == sequences * heads * length
    assert max(found) < sequences * -(-length // page) * page * heads


def product(storage: Storage, experts: int = 1) -> tuple[Target, Lowered]:
    target = make_target(NPU, storage=storage)
    shape = MatmulShape((128,) * experts, 1000, 1536, "bf16", 2.0, 2.0, 2.0)
    tiling = pinned(target, shape, {"tm": 64, "tn": 128, "tk": 64}, "gemm")
    return target, lower_product(target, "gemm", shape, tiling, ProductOperands(0, 1, 2, b_each=experts > 1))


def decode(storage: Storage, length: int = 1000) -> tuple[Target, Lowered]:
    target = make_target(NPU, storage=storage)
    shape = AttentionShape(8, 1, length, 16, 4, 128, 128, True, None, False, "bf16", 2.0, 2.0)
    return target, lower_attention(target, "decode", shape, (0, 1, 2, 3))


def moved(program: Program) -> list[int]:
    """Bytes read and written of each region."""
    mine = [program.region == region for region in range(len(program.regions))]
    return [int(program.nbytes[each & (program.write == write)].sum()) for each in mine for write in (False, True)]


def run(lowered: tuple[Target, Lowered]) -> tuple[int, Counters]:
    target, each = lowered
    ran = CompiledInterpreter(target.machine).run(each.program, 0, [i << 36 for i in range(len(each.tensors))])
    return ran.elapsed_ps, ran.counters


@pytest.mark.parametrize("storage", [ROW_MAJOR, replace(ROW_MAJOR, weights="tiled"), Storage("row_major", "tiled")])
def test_a_product_moves_the_same_bytes_in_every_layout(storage: Storage) -> None:
    assert moved(product(storage)[1].program) == moved(product(TILED)[1].program)


@pytest.mark.parametrize("page", [1, 16, 24, 256])
def test_decode_moves_the_same_bytes_whatever_the_pages(page: int) -> None:
    assert moved(decode(Storage(page_size=page))[1].program) == moved(decode(TILED)[1].program)


def test_scattered_experts_are_the_same_tensors_elsewhere() -> None:
    kinds = ("stacked", "scattered")
    stacked, scattered = (product(replace(TILED, experts=kind), experts=6)[1].program for kind in kinds)
    assert moved(stacked) == moved(scattered)
    expert = 1000 * 1536 * 2
    begins = {int(offset) // (expert // 4096 * 4096) for offset in scattered.offset[scattered.region == 1]}
    assert begins == set(range(6))
    assert (stacked.offset[stacked.region == 1][:100] != scattered.offset[scattered.region == 1][:100]).all()


def test_narrow_runs_of_a_row_major_matrix_open_more_rows_and_take_longer() -> None:
    """32 elements are a quarter of the 256 B that lie in one row of one bank; as many tiles as the memory can feed."""
    shape, found = MatmulShape((64,), 4096, 4096, "bf16", 2.0, 2.0, 2.0), []
    for storage in (TILED, ROW_MAJOR):
        target = make_target(load_chip("rtx-4090"), storage=storage)
        tiling = pinned(target, shape, {"tm": 64, "tn": 64, "tk": 32}, "gemm")
        found.append(run((target, lower_product(target, "gemm", shape, tiling, ProductOperands(0, 1, 2, False)))))
    (tiled_ps, tiled), (narrow_ps, narrow) = found
    assert narrow.bytes_requested == tiled.bytes_requested
    assert narrow.activates > 2 * tiled.activates
    assert narrow_ps > 2 * tiled_ps


def test_small_pages_open_more_rows_than_large_ones() -> None:
    layouts = (Storage(page_size=1), Storage(page_size=256), TILED)
    opened = [run(decode(storage, 4096))[1].activates for storage in layouts]
    assert opened == sorted(opened, reverse=True)
    assert opened[0] > 1.1 * opened[-1]


def test_without_a_hash_a_stride_of_a_power_of_two_falls_on_few_channels() -> None:
    """Rows of 8 KB: tiles of a row-major matrix lie on every 32nd of the 160 channels unless they are turned."""
    shape = MatmulShape((64,), 4096, 4096, "bf16", 2.0, 2.0, 2.0)
    times = []
    for hashed in ("true", "false"):
        target = make_target(load_chip("h100", {"memory.hashed": hashed}), storage=ROW_MAJOR)
        tiling = pinned(target, shape, {"tm": 64, "tn": 64, "tk": 128}, "gemm")
        times.append(run((target, lower_product(target, "gemm", shape, tiling, ProductOperands(0, 1, 2, False))))[0])
    assert times[1] > 1.5 * times[0]
