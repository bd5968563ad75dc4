"""How long do the export and the evaluation of DeepSeek-V3's trace take, and how large is its file?

    python benchmarks/traces.py [--json]

The export runs in a fresh process (imports included) and needs torch; without it, it is skipped with a reason.
Processor time is beside the wall time, since other work on the machine stretches only the latter.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

#: targets of one phase of DeepSeek-V3
EXPORT_S, EXPORT_GIB, EVALUATE_MS, FILE_KB = 60.0, 3.0, 50.0, 300.0
PHASES = ("prefill", "decode", "train")
ROUNDS = 7


def export(phase: str) -> dict[str, float]:
    """Export one phase in this process."""
    begin = time.perf_counter()
    from archsim._data import data_path
    from archsim.trace import capture

    config = json.loads((data_path("workloads") / "configs" / "deepseek-v3.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.h5"
        capture(config, phase=phase, name="deepseek-v3").save(path)
        size = path.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "export_s": time.perf_counter() - begin, "export_cpu_s": time.process_time(), "export_gib": peak,
        "file_kb": size / 1e3,
    }  # fmt: skip


def evaluate(phase: str) -> dict[str, float]:
    """Load the shipped file and evaluate it at a point that is new each time; the best of a few rounds."""
    from archsim._data import data_path
    from archsim.trace import load_trace

    path = data_path("workloads") / f"deepseek-v3.{phase}.h5"
    load_trace(path)  # imports
    wall, cpu = [], []
    for i in range(ROUNDS):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        point = {"batch": 64 + i, "seq": 1 if phase == "decode" else 512}
        load_trace(path).at(**point, ctx=None if phase == "train" else 4096 + i)
        wall.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - begin_cpu)
    return {"evaluate_ms": 1e3 * min(wall), "evaluate_cpu_ms": 1e3 * min(cpu), "file_kb": path.stat().st_size / 1e3}


def measure(phase: str) -> dict[str, Any]:
    """One phase: the export in a process of its own where torch is installed."""
    result: dict[str, Any] = evaluate(phase)
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        return result | {"skipped": f"no export: {' and '.join(missing)} not installed (pip install archsim[export])"}
    child = subprocess.run([sys.executable, __file__, "--export", phase], check=True, capture_output=True, text=True)
    return result | json.loads(child.stdout)


def main() -> None:
    """Print a line for each phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--export", choices=PHASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.export:
        print(json.dumps(export(options.export)))
        return
    results = {phase: measure(phase) for phase in PHASES}
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print(f"DeepSeek-V3, targets: export {EXPORT_S:g} s and {EXPORT_GIB:g} GiB, load and evaluate {EVALUATE_MS:g} ms, "
          f"file {FILE_KB:g} kB")  # fmt: skip
    for phase, r in results.items():
        exported = r.get("skipped") or (
            f"export {r['export_s']:.1f} s ({r['export_cpu_s']:.1f} s of processor), {r['export_gib']:.2f} GiB"
        )
        print(f"  {phase:8} {exported}; load and evaluate {r['evaluate_ms']:.1f} ms "
              f"({r['evaluate_cpu_ms']:.1f} ms of processor); file {r['file_kb']:.1f} kB")  # fmt: skip


if __name__ == "__main__":
    main()
