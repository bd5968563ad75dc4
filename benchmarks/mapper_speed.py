"""How fast are products mapped and simulated? On a GPU, on arrays, fold by fold, and how does it grow with M?

    python benchmarks/mapper_speed.py [--json]

Milliseconds of CPU in this process, the best of three, against the goals of the project; imports and the chip's YAML
are left out. Cold: no tiling is remembered. Beside the goals stands what other simulators took for the same work (CPU
seconds, measured on a machine like this one).
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial

from archsim.engine import Launch, Session
from archsim.hardware import load_chip
from archsim.kernels.systolic import SystolicCore, run_product
from archsim.mapping import Target, choose_tiling, make_target
from archsim.mapping.search import forget_choices, simulated_s
from archsim.mapping.tiling import MatmulShape
from archsim.validation.op.build import attention, elementwise
from archsim.validation.op.case import Kernel, Product

HIDDEN, INNER, KV = 4096, 14336, 1024
LAYER = [(HIDDEN + 2 * KV, HIDDEN), (HIDDEN, HIDDEN), (2 * INNER, HIDDEN), (HIDDEN, INNER)]
"""Columns and reduction of the products of a Llama-3-8B layer."""
CONTEXT = 512
PEAK_MIB = 200
NOISE = 1.5


def product(m: int, n: int, k: int) -> Product:
    """A product in bf16."""
    return Product(MatmulShape((m,), n, k, "bf16", 2, 2, 2), (0, 1, 2))


def decode_layer() -> list[Kernel]:
    """One token of one sequence: norms, products, attention over the cache, SwiGLU."""
    norm = elementwise(1, HIDDEN, "rms", inputs=2, whole_rows=True)
    qkv, out, up, down = (product(1, n, k) for n, k in LAYER)
    attend = attention(1, 1, CONTEXT, 32, 8, 128, 128, cache_bytes=2)
    return [*norm, qkv, *attend, out, *norm, up, *elementwise(1, INNER, "silu_mul", inputs=2), down]


def simulate(target: Target, kernels: Sequence[Kernel]) -> float:
    """Map, lower and simulate kernels one after the other; their time on the chip in seconds."""
    session = Session(target.machine)
    for kernel in kernels:
        lowered = kernel.lower(target)
        bases, end = [], 0
        for region in lowered.program.regions:
            bases.append(end)
            end += -(-region.nbytes // 4096) * 4096
        program = lowered.program
        session.run([Launch("x", "compute", program=program, bases=bases)])
    return session.now_ps * 1e-12


def cpu_ms(work: Callable[[], object]) -> float:
    """Milliseconds of CPU, best of three."""
    best = float("inf")
    for _ in range(3):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best * 1e3


def product_s(target: Target, shape: MatmulShape) -> float:
    """Map and simulate one product; what was asked before is remembered."""
    return simulated_s(target, shape, choose_tiling(target, shape))


def cold_ms(target: Target, shape: MatmulShape) -> float:
    """Milliseconds of :func:`product_s` with nothing remembered."""

    def work() -> None:
        forget_choices()
        product_s(target, shape)

    return cpu_ms(work)


def gemm(m: int, n: int, k: int) -> MatmulShape:
    """A product in bf16."""
    return MatmulShape((m,), n, k, "bf16", 2, 2, 2)


def growth(target: Target, n: int = 4096, k: int = 4096) -> list[dict[str, float]]:
    """For rows from 64 to 65,536: distinct tiles, and milliseconds."""
    rows = []
    for m in (64, 256, 1024, 4096, 16384, 65536):
        tiling = choose_tiling(target, gemm(m, n, k))
        tiles = -(-m // tiling.tm) * -(-n // tiling.tn) * -(-k // tiling.tk)
        rows.append({"m": m, "tiles": tiles, "cpu_ms": cold_ms(target, gemm(m, n, k))})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    gpu, large = make_target(load_chip("a100")), gemm(4096, 12288, 12288)
    one = make_target(load_chip("onnxim-128x128", {"cores": "1", "peak": {}}))
    four, layer = make_target(load_chip("onnxim-128x128")), decode_layer()
    arrays = {side: SystolicCore(side, side, "weight_stationary") for side in (32, 128)}
    rows = [
        ("4096 x 12288 x 12288 on an A100, cold", cold_ms(gpu, large), 50, "LLMCompass 80 s, ZigZag 3-5 s"),
        ("the same, cached", cpu_ms(partial(product_s, gpu, large)), 1, ""),
        ("2048^3 on one 128 x 128 core, cold", cold_ms(one, gemm(2048, 2048, 2048)), 20, "ONNXim 24.8 s"),
        ("Llama-3-8B decode layer on four such cores", cpu_ms(lambda: simulate(four, layer)), 100,
         "ONNXim above 445 s"),
        ("folds of 512^3 on 32 x 32", cpu_ms(lambda: run_product(arrays[32], 512, 512, 512)), 10, "SCALE-Sim 34.7 s"),
        ("folds of 2048 x 14336 x 4096 on 128 x 128", cpu_ms(lambda: run_product(arrays[128], 2048, 14336, 4096)), 100,
         "SCALE-Sim: hundreds of seconds"),
    ]  # fmt: skip
    curves = {"an A100": growth(gpu), "four 128 x 128 cores": growth(four)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if options.json:
        cases = [{"case": case, "cpu_ms": ms, "goal_ms": goal, "other": other} for case, ms, goal, other in rows]
        print(json.dumps({"cases": cases, "growth": curves, "peak_mib": peak, "goal_mib": PEAK_MIB}, indent=2))
        return
    for case, ms, goal, other in rows:
        print(f"{case:44s} {ms:8.2f} ms  goal {goal:3d} ms: {verdict(ms, goal):6s} {other}")
    for name, curve in curves.items():
        first = curve[0]
        print(f"M x 4096 x 4096 on {name}; goal: cost grows no faster than the distinct tiles (m, n and k), "
              f"within a factor of {NOISE} for candidates that differ and for noise")  # fmt: skip
        for row in curve:
            more, cost = row["tiles"] / first["tiles"], row["cpu_ms"] / first["cpu_ms"]
            print(f"  M = {row['m']:6.0f} {row['tiles']:9,.0f} tiles {row['cpu_ms']:8.2f} ms  x {more:7.1f} tiles, "
                  f"x {cost:5.1f} cost: {verdict(cost, NOISE * more)}")  # fmt: skip
    print(f"peak memory {peak:.0f} MiB  goal {PEAK_MIB} MiB: {verdict(peak, PEAK_MIB)}")


def verdict(value: float, goal: float) -> str:
    """Whether a figure meets its goal."""
    return "met" if value <= goal else "MISSED"


if __name__ == "__main__":
    main()
