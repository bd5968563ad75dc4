"""What the score of a tiling knows of waves, memory and the cache, and which tilings are simulated beside it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from archsim.errors import InputError
from archsim.hardware import load_chip
from archsim.mapping import MatmulShape, Target, Tiling, choose_tiling, make_target, search
from archsim.mapping.lowering.product import ProductOperands, lower_product
from archsim.mapping.pin import pinned
from archsim.mapping.search import candidates, contenders, lowered_product, simulated_s

H800, B200 = (make_target(load_chip(name)) for name in ("h800", "b200"))
DECODE = MatmulShape((64,), 7168, 2048, "fp8", 1.0, 1.0, 2.0)


def test_few_tiles_of_a_last_wave_wait_for_what_a_core_has_to_itself() -> None:
    """448 tiles on 148 cores: the last four have the memory to themselves, and take a quarter of the time all the same;
    of 224 tiles half a wave is left, which still keeps the memory busy."""
    shape = MatmulShape((1,), 28672, 4096, "bf16", 2.0, 2.0, 2.0)
    narrow, wide = (
        pinned(B200, shape, {"tm": 16, "tn": tn, "tk": tk, "slots": 4}, "gemm") for tn, tk in ((64, 256), (128, 128))
    )
    assert 1.1 < narrow.estimate_s / wide.estimate_s < 1.3
    assert 1.1 < simulated_s(B200, shape, narrow) / simulated_s(B200, shape, wide) < 1.3


def test_a_library_of_few_tiles_takes_two_waves_where_a_tile_between_would_take_one_and_a_half() -> None:
    """On 132 cores 16 x 12 tiles of 128 x 256 are 1.45 waves, 16 x 16 of 128 x 192 are 1.94."""
    free = MatmulShape((2048,), 3072, 4096, "fp16", 2.0, 2.0, 2.0, streams=False)
    times = []
    for shape in (free, replace(free, tiles=((128, 128), (128, 256)))):
        tiling, seconds = candidates(H800, shape, keep=8)[0]
        assert not shape.tiles or (tiling.tm, tiling.tn) in shape.tiles
        times.append(seconds or tiling.estimate_s)
    assert 1.05 < times[1] / times[0] < 1.35


def test_tiles_that_do_not_fit_the_chip_are_refused() -> None:
    with pytest.raises(InputError, match="no tile of a fp16 product on h800 is legal: its library has 7 x 9"):
        choose_tiling(H800, MatmulShape((64,), 64, 64, "fp16", 2.0, 2.0, 2.0, tiles=((7, 9),)))


@pytest.mark.parametrize(("rows", "written"), [(256, 0.0), (2048, 2048 * 24576 * 2.0)])
def test_results_that_the_cache_has_room_for_wait_there(rows: int, written: float) -> None:
    """12 MB of results stay, of 100 MB so many are written that the rest fits beside nothing else of the cache."""
    shape = MatmulShape((rows,), 24576, 512, "bf16", 2.0, 2.0, 2.0)
    parts = dict(pinned(H800, shape, {"tm": 128, "tn": 256, "tk": 64}, "gemm").parts)
    read = (rows + 24576) * 512 * 2.0
    moved = parts["dram"] * H800.streamed_bytes_per_s
    assert moved == pytest.approx(read + min(written, read + written - H800.cache_bytes) if written else read)


def test_a_stream_is_scored_at_what_refreshes_leave_of_the_bandwidth() -> None:
    dram = H800.memory.dram
    assert H800.streamed_bytes_per_s == pytest.approx(H800.dram_bytes_per_s * (1 - dram.rfc_ps / dram.refi_ps))
    assert simulated_s(H800, DECODE, candidates(H800, DECODE)[0][0]) > 7168 * 2048 / H800.streamed_bytes_per_s


@pytest.mark.parametrize(("slower", "simulated"), [(1.0, 1), (1.5, 4)])
def test_a_tiling_that_scores_no_better_than_one_took_is_not_simulated(
    monkeypatch: pytest.MonkeyPatch, slower: float, simulated: int
) -> None:
    """Where the first is as fast as its score none of the others is tried; where it is slower, all are."""
    tried: list[Tiling] = []

    def engine(of: float) -> Callable[[Target, MatmulShape, Tiling], float]:
        def seconds(target: Target, shape: MatmulShape, tiling: Tiling) -> float:
            tried.append(tiling)
            return of * tiling.estimate_s

        return seconds

    monkeypatch.setattr(search, "simulated_s", engine(slower))
    found = candidates(H800, DECODE)
    whole = [tiling for tiling in contenders(H800, DECODE) if not tiling.stream_k]
    assert len(whole) == 4
    assert sum(not tiling.stream_k for tiling in tried) == simulated
    assert [seconds is not None for _, seconds in found] == sorted((s is not None for _, s in found), reverse=True)


def test_stream_k_is_simulated_whatever_it_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """2,112 columns leave a third of the cores idle; parts of tiles do not, though they score worse than they run."""
    shape = MatmulShape((64,), 2112, 7168, "fp8", 1.0, 1.0, 2.0)
    assert any(tiling.stream_k for tiling in contenders(H800, shape))
    monkeypatch.setattr(search, "simulated_s", lambda target, shape, tiling: tiling.estimate_s)
    assert any(tiling.stream_k and seconds for tiling, seconds in candidates(H800, shape))


@pytest.mark.parametrize("shape", [DECODE, replace(DECODE, m=(64, 3), dtype="bf16", a_bytes=2.0, b_bytes=2.0)])
def test_what_has_been_simulated_is_not_made_again(shape: MatmulShape) -> None:
    """Its Program is launched under the kernel's name, on the kernel's tensors, and is the one that would be made."""
    tiling = candidates(H800, shape)[0][0]
    for operands in (ProductOperands(7, 5, 9, len(shape.m) > 1), ProductOperands(7, 5, 9, len(shape.m) == 1)):
        made, reused = (make(H800, "gate", shape, tiling, operands) for make in (lower_product, lowered_product))
        assert (reused.program.name, reused.tensors, reused.mapping) == ("gate", made.tensors, made.mapping)
        assert reused.program.digest == made.program.digest
    simulated_s(H800, shape, tiling)
    first, second = (lowered_product(H800, name, shape, tiling, operands).program for name in ("gate", "up"))
    assert (first.name, second.name) == ("gate", "up")


def test_a_renamed_program_shares_its_columns() -> None:
    tiling = candidates(H800, DECODE)[0][0]
    program = lower_product(H800, "gate", DECODE, tiling, ProductOperands(0, 1, 2, False)).program
    other = program.renamed("up")
    assert (program.name, other.name) == ("gate", "up")
    assert other.route is program.route
