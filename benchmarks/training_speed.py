"""How long does a training step take to simulate, and a search over all plans? Processor time and peak memory.

    python benchmarks/training_speed.py [--json]

Bounds: the passes of a step are simulated tile by tile once for each kind of block and cost nearly all of it; the
pipeline costs a SimPy event or two for each layer, micro-batch and stage. A search evaluates lower bounds of passes
once for each combination of degrees that they depend on, and microseconds for each plan.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable

from archsim.hardware import SystemSpec, load_system
from archsim.training import TrainPlan, simulate_training
from archsim.training.search import search_training

DEEPSEEK = TrainPlan(
    pp=16, dp=128, ep=64, batch=15360, micro_batch=1, schedule="dualpipe", recompute="selective"
)  # fmt: skip
LLAMA = TrainPlan(tp=8, pp=16, dp=16, sp=True, batch=512, micro_batch=1, recompute="selective")

CASES: list[tuple[str, float, Callable[[], object]]] = [
    ("DeepSeek-V3 on 2,048 H800, a step", 20.0,
     lambda: simulate_training("h800-x2048", "deepseek-v3", DEEPSEEK, precision="fp8")),
    ("Llama-3.1-405B on 2,048 H800, a step", 20.0,
     lambda: simulate_training("h800-x2048", "llama-3.1-405b", LLAMA, seq=8192)),
    ("Llama-3.1-70B on 64 GPUs, all plans", 60.0,
     lambda: search_training(_gpus(64), "llama-3.1-70b", batch=128, seq=8192)),
    ("Qwen3-30B-A3B on 64 GPUs, all plans", 60.0,
     lambda: search_training(_gpus(64), "qwen3-30b-a3b", batch=512, seq=4096)),
]  # fmt: skip


def _gpus(chips: int) -> SystemSpec:
    return load_system("h800-x16", {"chips": chips})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for what, target, run in CASES:
        before = time.process_time()
        found = run()
        seconds = time.process_time() - before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        plans = len(found) if isinstance(found, list) else None
        rows.append({"what": what, "seconds": seconds, "target_s": target, "plans": plans, "peak_bytes": peak})
        if not options.json:
            count = f", {plans:,} plans" if plans else ""
            print(f"{what:40} {seconds:6.1f} s of CPU (goal {target:g} s){count}, {peak / 2**20:,.0f} MiB")
    if options.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
