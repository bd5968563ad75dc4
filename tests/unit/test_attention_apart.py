"""Matrix and vector units that are cores of their own: what goes through the cache between them, and what that costs.

Held against Huawei's: 246 TFLOP/s of absorbed MLA on a die (CloudMatrix384 paper, second hand), and the flash
attention of CANN's PTO library on a 910B2.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from archsim.engine import CompiledInterpreter
from archsim.hardware import load_chip
from archsim.mapping import Target, make_target
from archsim.mapping.attention_kernel import AttentionShape
from archsim.mapping.lowering.attention import lower_attention
from archsim.mapping.lowering.attention_cut import HANDED_KEYS, choose_cut, handed, loaded_again, order_of

ASCEND, H100 = make_target(load_chip("ascend-910b")), make_target(load_chip("h100"))


def shape(rows: int, keys: int, d: int = 128) -> AttentionShape:
    return AttentionShape(1, rows, keys, 1, 1, d, d, False, None, False, "fp16", 2.0, 2.0)


def seconds(target: Target, attention: AttentionShape) -> float:
    program = lower_attention(target, "attention", attention, (0, 1, 2, 3)).program
    bases = [i << 34 for i in range(len(program.regions))]
    interpreter = CompiledInterpreter(target.machine)
    interpreter.run(program, 0, bases)
    first = interpreter.now_ps
    return (interpreter.run(program, first, bases).end_ps - first) * 1e-12  # the cache is warm


def test_every_score_and_probability_goes_and_comes_and_every_sum_of_512_keys() -> None:
    one = shape(2048, 4096)
    cut, lowered = choose_cut(ASCEND, one), lower_attention(ASCEND, "attention", one, (0, 1, 2, 3))
    program, tiles = lowered.program, 2048 // cut.rows
    assert program.regions[-1].name == "handed over"
    assert order_of(ASCEND, one) == "apart"
    passed = program.region == len(program.regions) - 1
    each_way = tiles * (4096 * cut.rows * (4 + 2) + 4096 // HANDED_KEYS * cut.rows * 128 * 4)
    for write in (True, False):
        assert program.nbytes[passed & (program.write == write)].sum() == each_way
    assert handed(H100, one, 128, 128) == (0, 0, 0)


def test_latents_are_loaded_once_more_as_values() -> None:
    latents = AttentionShape(4, 1, 4096, 128, 1, 576, 512, False, None, True, "bf16", 2.0, 2.0)
    assert loaded_again(ASCEND, latents)
    assert not loaded_again(H100, latents)
    lowered = lower_attention(ASCEND, "attention", latents, (0, 1, 1, 3))
    loads = lowered.program.nbytes[(lowered.program.region == 1) & ~lowered.program.write].sum()
    tiles = -(-128 // choose_cut(ASCEND, latents).rows)
    assert loads == 2 * tiles * 4 * 4096 * 576 * 2
    assert not (lowered.program.region == 2).any()


def test_absorbed_mla_takes_what_the_cloudmatrix_paper_states() -> None:
    latents = AttentionShape(96, 1, 4096, 128, 1, 576, 512, False, None, True, "bf16", 2.0, 2.0)
    rate = 2 * 96 * 128 * 4096 * (576 + 512) / seconds(ASCEND, latents) * 1e-12
    assert rate == pytest.approx(246, rel=0.1)
    core = ASCEND.chip.core.model_copy(update={"apart": False})
    within = make_target(ASCEND.chip.model_copy(update={"core": core}))
    assert seconds(within, latents) < 0.9 * seconds(ASCEND, latents)


@pytest.mark.parametrize(("tokens", "published_us"), [(16384, 909.1), (32768, 3262.6)])
def test_long_prefills_take_what_cann_publishes(tokens: int, published_us: float) -> None:
    assert seconds(ASCEND, shape(tokens, tokens)) * 1e6 == pytest.approx(published_us, rel=0.1)


def test_a_wider_cache_hands_over_faster() -> None:
    cache = ASCEND.chip.cache
    assert cache is not None
    slow, fast = (
        make_target(ASCEND.chip.model_copy(update={"cache": cache.model_copy(update={"efficiency": share})}))
        for share in (0.35, 1.0)
    )
    one = replace(shape(4096, 4096), heads=4, kv_heads=4)
    assert seconds(fast, one) < seconds(ASCEND, one) < seconds(slow, one)
