"""How long do steps of DeepSeek-V3 on large units take to simulate? Processor time and peak memory.

    python benchmarks/serving_speed.py [--json]

Bounds: two layers of two half batches are simulated tile by tile; nearly all of the time is the interpreter's, which
serves some million steps a second. After a small change of the batch the step lies between two that were simulated.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable

from archsim.serving import Deployment

OPTIONS = {"quant": "fp8", "tp": 1, "redundant": 32, "routing": "balanced"}
DECODE = Deployment("h800", "deepseek-v3", "h800-x144", OPTIONS)
PREFILL = Deployment("h800", "deepseek-v3", "h800-x32", OPTIONS)

CASES: list[tuple[str, float, Callable[[], object]]] = [
    ("decode, 144 H800, 128 sequences each, cold", 2.0, lambda: DECODE.step("decode", 144 * 128, 1, 4096)),
    ("both ends of the span of batches around it", 4.0, lambda: DECODE.between_s(144 * 120, 4096)),
    ("the same with 122 sequences each", 0.05, lambda: DECODE.between_s(144 * 122, 4096)),
    ("prefill, 32 H800, one prompt of 4,096 each", 5.0, lambda: PREFILL.step("prefill", 32, 4096, 0)),
    ("prefill, 32 H800, four prompts of 4,096 each", 20.0, lambda: PREFILL.step("prefill", 128, 4096, 0)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for what, target, run in CASES:
        before = time.process_time()
        run()
        seconds = time.process_time() - before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        rows.append({"what": what, "seconds": seconds, "target_s": target, "peak_bytes": peak})
        if not options.json:
            print(f"{what:46} {seconds:8.3f} s of CPU (goal {target:g} s), {peak / 2**20:,.0f} MiB", flush=True)
    if options.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
