"""The choice of a tiling: the best few by the closed form are simulated, and the fastest is kept.

The closed form knows no queues: which of several near-equal cuts really is the best, the engine says. Each one runs
alone on a fresh chip, everything cold, unless an earlier one was as fast as its score already: the engine is seldom
faster than the score, but with stream-K, which is always tried, and first where it scores best. The closed form decides
alone where one of the best waits for nothing but its matrix unit, by a wide margin; where the best waits for nothing
but memory and streams more than ``LONG_BYTES``, so that its start and end are no matter (of 40 such on five chips it
was 0.7 % slower in the median than the best of three, 2.6 % in the mean, up to 19 % where operands pass through
registers); and where not even two candidates fit ``PROBE_STEPS``. The best with stream-K, whose cores are all at
different places, is taken only if it was faster than the others' best when both were simulated, or scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache

import numpy as np

from archsim.kernels import CompiledInterpreter
from archsim.mapping.lowering.product import ProductOperands, lower_product, step_count
from archsim.mapping.lowering.table import Lowered
from archsim.mapping.target import Target
from archsim.mapping.tiling import INDIFFERENT, MatmulShape, Tiling, score_tilings
from archsim.program import Program
from archsim.reuse import is_active, recall

__all__ = ["candidates", "choose_tiling", "contenders", "forget_choices", "lowered_product", "simulated_s"]

#: candidates that are simulated, if their steps together are not more than this, and their scores within the share
PROBES, PROBE_STEPS, PROBE_WITHIN = 4, 60_000, 1.3
#: split-K takes 1 to 12 % longer than its score on large products, whole tiles hardly at all. So both are simulated up
#: to so many steps of split-K; beyond, it is taken where its score is better by more than this share
SPLIT_STEPS, SPLIT_DOUBT = 150_000, 0.15
#: weights that are streamed, from which on the cut hardly matters
LONG_BYTES = 512e6


def contenders(target: Target, shape: MatmulShape, ranked: Sequence[Tiling] = ()) -> list[Tiling]:
    """Of the ``ranked`` tilings, best first, those that the choice is made among: one, or those to simulate."""
    ranked = ranked or score_tilings(target, shape, keep=PROBES)
    found = _whole_tiles(target, shape, [tiling for tiling in ranked if not tiling.stream_k])
    for stream in [tiling for tiling in ranked if tiling.stream_k][:1]:
        cheap = len(found) > 1 and sum(step_count(target, shape, each) for each in (*found, stream)) <= PROBE_STEPS
        if stream.estimate_s < (PROBE_WITHIN if cheap else 1 - INDIFFERENT) * found[0].estimate_s:
            found.insert(0 if stream.estimate_s < found[0].estimate_s else len(found), stream)
    return found


def _whole_tiles(target: Target, shape: MatmulShape, ranked: Sequence[Tiling]) -> list[Tiling]:
    """Those without stream-K."""
    for tiling in ranked:
        alone = tiling.steady and tiling.split_k == 1
        if alone and tiling.estimate_s <= (1 + INDIFFERENT) * ranked[0].estimate_s:
            return [tiling]
    if ranked[0].streams and shape.n * shape.k * shape.b_bytes > LONG_BYTES:
        return [ranked[0]]
    best, whole = ranked[:PROBES], None
    if all(tiling.split_k > 1 for tiling in best):  # whose scores flatter them
        whole = _unsplit(target, shape)
        best = [best[0], whole, *best[1 : PROBES - 1]]
    probed: list[Tiling] = []
    steps = 0
    for tiling in best:
        cost = step_count(target, shape, tiling)
        if tiling.estimate_s <= PROBE_WITHIN * ranked[0].estimate_s and steps + cost <= PROBE_STEPS:
            steps += cost
            probed.append(tiling)
    if len(probed) > 1 and ranked[0] in probed:
        return probed
    if ranked[0].split_k > 1:
        whole = whole or _unsplit(target, shape)
        if step_count(target, shape, ranked[0]) <= SPLIT_STEPS:
            return [whole, ranked[0]]
        if whole.estimate_s <= (1 + SPLIT_DOUBT) * ranked[0].estimate_s:
            return [whole]
    return [ranked[0]]


def _unsplit(target: Target, shape: MatmulShape) -> Tiling:
    """The best that leaves each reduction whole."""
    return score_tilings(target, replace(shape, splits=False), keep=1)[0]


def candidates(target: Target, shape: MatmulShape, keep: int = PROBES) -> list[tuple[Tiling, float | None]]:
    """The ``keep`` best tilings, the fastest first, with the simulated seconds of those that were simulated."""
    ranked = score_tilings(target, shape, keep=keep)
    probed = contenders(target, shape, ranked)
    if len(probed) < 2:
        rest = [tiling for tiling in ranked if tiling not in probed]
        return [(tiling, None) for tiling in (*probed, *rest)[:keep]]
    timed: list[tuple[float, int]] = []
    for place, tiling in enumerate(probed):
        if tiling.stream_k or not timed or (1 + INDIFFERENT) * tiling.estimate_s < min(timed)[0]:
            timed.append((simulated_s(target, shape, tiling), place))
    fastest: list[tuple[Tiling, float | None]] = [(probed[place], seconds) for seconds, place in sorted(timed)]
    tried = [tiling for tiling, _ in fastest]
    return (fastest + [(tiling, None) for tiling in (*probed, *ranked) if tiling not in tried])[:keep]


@lru_cache(maxsize=4096)
def choose_tiling(target: Target, shape: MatmulShape) -> Tiling:
    """The best legal tiling of ``shape`` on ``target``; deterministic, and remembered.

    Raises InputError, naming the buffer and the bytes, when not even the smallest tile fits.
    """
    found = recall("tiling", f"{target.digest} {shape}", lambda: asdict(candidates(target, shape)[0][0]))
    return Tiling(**found | {"parts": tuple(map(tuple, found["parts"]))})


@lru_cache(maxsize=PROBES)
def _lowered(target: Target, shape: MatmulShape, tiling: Tiling) -> Lowered:
    """One of the latest tilings, for nobody's tensors: what is chosen is launched next."""
    return lower_product(target, "probe", shape, tiling, ProductOperands(0, 1, 2, len(shape.m) > 1))


def lowered_product(
    target: Target, name: str, shape: MatmulShape, tiling: Tiling, operands: ProductOperands
) -> Lowered:  # fmt: skip
    """What :func:`lower_product` makes, without making again what has just been simulated."""
    if operands.b_each != (len(shape.m) > 1):
        return lower_product(target, name, shape, tiling, operands)
    found = _lowered(target, shape, tiling)
    tensors = dict(enumerate((operands.a, operands.b, operands.c)))
    return replace(found, program=found.program.renamed(name), tensors=tuple(tensors.get(t, t) for t in found.tensors))


@lru_cache(maxsize=8)
def _interpreter(target: Target) -> CompiledInterpreter:
    return CompiledInterpreter(target.machine)


@lru_cache(maxsize=4096)
def simulated_s(target: Target, shape: MatmulShape, tiling: Tiling) -> float:
    """Seconds of one tiling, alone on a fresh chip."""
    program = _lowered(target, shape, tiling).program
    content = f"{target.machine_digest} {_cache_bytes(target, program)} {program.digest}" if is_active() else ""
    seconds: float = recall("probe", content, lambda: _simulated_s(target, program))
    return seconds


def forget_choices() -> None:
    """What has been chosen, simulated and lowered: the next product is mapped as by a new process."""
    for remembered in (choose_tiling, simulated_s, _lowered):
        remembered.cache_clear()


def _simulated_s(target: Target, program: Program) -> float:
    interpreter = _interpreter(target)
    interpreter.reset()
    bases, end = [], 0
    for region in program.regions:
        bases.append(end)
        end += -(-region.nbytes // target.block_bytes) * target.block_bytes
    run = interpreter.run(program, 0, bases)
    return (run.elapsed_ps + program.carry.time_ps(run.finish_ps)) * 1e-12


def _cache_bytes(target: Target, program: Program) -> int | None:
    """The capacity of the cache; None where all that the program touches fits, so that nothing ever leaves."""
    addressed = program.region >= 0
    blocks = program.nbytes // target.block_bytes + 2 * program.runs.astype(np.int64)
    most = int((blocks * program.room)[addressed].sum()) * target.block_bytes * target.partitions
    return None if most <= target.cache_bytes else target.cache_bytes
