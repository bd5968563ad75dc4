"""How fast are systolic arrays simulated? The fold loop, a product on one core, a decode layer on four, and the growth.

    python benchmarks/systolic_speed.py [--json]

CPU time of this process, best of three, the first call's imports left out. The targets are those of issue 4; beside
them stands what ONNXim and SCALE-Sim took for the same work (CPU seconds, measured on a machine like this one).
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
from archsim.mapping import Target, make_target
from archsim.mapping.tiling import MatmulShape
from archsim.validation.op.build import attention, elementwise
from archsim.validation.op.case import Kernel, Product

HIDDEN, INNER, KV = 4096, 14336, 1024
LAYER = [(HIDDEN + 2 * KV, HIDDEN), (HIDDEN, HIDDEN), (2 * INNER, HIDDEN), (HIDDEN, INNER)]
"""Columns and reduction of the products of a Llama-3-8B layer."""
CONTEXT = 512


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    one = make_target(load_chip("onnxim-128x128", {"cores": "1", "peak": {}}))
    layer = decode_layer()
    four = make_target(load_chip("onnxim-128x128"))
    small, large = (SystolicCore(side, side, "weight_stationary") for side in (32, 128))
    cases: list[tuple[str, Callable[[], object], float | None, str]] = [
        ("folds of 512^3 on 32 x 32", lambda: run_product(small, 512, 512, 512), 10, "SCALE-Sim 34.7 s"),
        ("folds of 2048 x 14336 x 4096 on 128 x 128", lambda: run_product(large, 2048, 14336, 4096), 100, ""),
        ("2048^3 on one 128 x 128 core", lambda: simulate(one, [product(2048, 2048, 2048)]), 20, "ONNXim 24.8 s"),
        ("Llama-3-8B decode layer on four such cores", lambda: simulate(four, layer), 100, "ONNXim above 445 s"),
    ]  # fmt: skip
    cases += [
        (f"{m} x 4096 x 4096 on four such cores", partial(simulate, four, [product(m, 4096, 4096)]), None, "")
        for m in (64, 256, 1024, 4096, 16384, 65536)
    ]
    rows = [{"case": name, "cpu_ms": cpu_ms(work), "target_ms": target, "other": o} for name, work, target, o in cases]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if parser.parse_args().json:
        print(json.dumps({"cases": rows, "peak_mib": peak}, indent=2))
        return
    for row in rows:
        target = f"target {row['target_ms']:g} ms, {row['other']}" if row["target_ms"] else ""
        print(f"{row['case']:46s} {row['cpu_ms']:9.2f} ms  {target}")
    print(f"peak memory {peak:.0f} MiB (target 200)")


if __name__ == "__main__":
    main()
