"""How fast is a sweep? Bounds, the overhead of a point, many points, two workers, and ten thousand real ones.

    python benchmarks/sweep_speed.py [--json] [--full] [--margin 0]

Everything but the last three parts runs in one process. The curve replaces the simulation by a formula, so what it
measures is all the rest: points, keys, journal, race, records. `--full` runs the sweep of ten thousand points to its
end instead of timing a part of it; a part of it that can be enumerated has its front compared with and without pruning.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Executor, Future
from typing import Any

TARGETS = {"bounds_per_s": 100_000, "overhead_ms": 2.0, "two_workers": 1.8, "ten_thousand_s": 600.0}
CURVE = (100, 1_000, 10_000, 100_000)
WORKLOADS = [
    {"workload": "llama-3.1-8b", "phase": "decode", "batch": 32, "ctx": 4096},
    {"workload": "llama-3.1-8b", "phase": "prefill", "seq": 2048},
]


def rates(points: int) -> dict[str, Any]:
    """A space of about `points` points that differ in clock, array, lanes and bandwidth."""
    each = max(2, round(points**0.25))
    return {
        "chip": "custom-npu",
        "axes": {
            "clock": {"from": "1 GHz", "to": "2 GHz", "count": each},
            "core.matrix.rows": [64 + 8 * i for i in range(each)],
            "core.vector.lanes": [256 + 64 * i for i in range(each)],
            "memory.bandwidth": {"from": "2 TB/s", "to": "8 TB/s", "count": each},
        },
        "workloads": WORKLOADS,
        "objectives": ["maximize decode.tokens_per_s", "minimize prefill.ttft"],
    }


class Inline(Executor):
    """Runs what it is given at once, in this process."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The result of ``fn``, already there."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def bounds() -> dict[str, float]:
    """Roofline evaluations, each of one workload at one point, in a second of one core."""
    from archsim.explore import Sweep
    from archsim.explore.bounds import bound_points
    from archsim.explore.evaluate import Evaluator

    sweep = Sweep.of(rates(10_000))
    evaluator = Evaluator(sweep)
    points = [sweep.space.point(number) for number in range(sweep.space.size)]
    bound_points(evaluator, points[:1])  # files are read once
    begin = time.process_time()
    bound_points(evaluator, points)
    return {"bounds_per_s": len(points) * len(WORKLOADS) / (time.process_time() - begin)}


def curve(points: int) -> dict[str, float]:
    """Processor time and memory of a point of a sweep whose simulations are a formula; in a fresh process."""
    from archsim.explore import Store, Sweep, evaluate, open_sweep, run_sweep

    def formula(self: Any, point: dict[str, Any], **_: Any) -> Any:
        rows, lanes = float(point["core.matrix.rows"]), float(point["core.vector.lanes"])
        yield {"decode.tokens_per_s": rows * lanes % 997 + 1, "prefill.ttft": 1 / (rows + lanes)}, ()

    evaluate.Evaluator.stages = formula  # type: ignore[method-assign]
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        outcome = run_sweep(Sweep.of(rates(points)), Store(folder), Inline, in_flight=4, prune=False)
        ran = time.process_time() - begin
        begin = time.process_time()
        front = len(open_sweep(folder).front)
        read = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    total = outcome.total
    return {
        "points": total, "run_ms_a_point": ran / total * 1e3, "open_ms_a_point": read / total * 1e3, "front": front,
        "peak_mib": peak, "kib_a_point": (peak - base) * 1024 / total,
    }  # fmt: skip


def workers(points: int = 24) -> dict[str, float]:
    """The same simulated points with one worker and with two: wall times, and the processors' load meanwhile."""
    from archsim.explore import Store, Sweep, executors, run_sweep

    data = rates(points) | {"workloads": WORKLOADS[:1]}
    walls = []
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            outcome = run_sweep(
                Sweep.of(data | {"objectives": ["tokens_per_s"]}), Store(folder), executors.local(count),
                in_flight=2 * count, prune=False, limit=points,
            )  # fmt: skip
            walls.append(outcome.wall_s)
    return {"one_s": walls[0], "two_s": walls[1], "two_workers": walls[0] / walls[1], "load": os.getloadavg()[0]}


def ten_thousand(full: bool, margin: float | None, seconds: float = 120.0) -> dict[str, float]:
    """The sweep `npu-ten-thousand` at the tile fidelity on two processes with reuse, or a part of it."""
    from archsim.explore import Outcome, Store, executors, load_sweep, run_sweep

    class Enough(Exception):
        pass

    sweep, seen = load_sweep("npu-ten-thousand"), Outcome(0)
    margin = sweep.spec.margin if margin is None else margin
    begin, before = time.perf_counter(), processor_s()

    def watch(outcome: Outcome) -> None:
        nonlocal seen
        seen = outcome
        if not full and time.perf_counter() - begin > seconds:
            raise Enough

    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        with contextlib.suppress(Enough):
            run_sweep(
                sweep, store, executors.local(2), in_flight=4, margin=margin, cache=store.folder / "cache",
                on_progress=watch,
            )  # fmt: skip
    return {
        "margin": margin, "wall_s": time.perf_counter() - begin, "processor_s": processor_s() - before,
        "points": seen.total, "settled": seen.done + seen.given_up, "simulated": seen.counts["done"],
        "hit_share": seen.hits / max(seen.lookups, 1), "load": os.getloadavg()[0],
    }  # fmt: skip


def processor_s() -> float:
    """Processor time of this process and of those that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def same_front() -> dict[str, float]:
    """Sixteen of the ten thousand points with and without pruning: how many were simulated, are the fronts the same?"""
    from archsim.explore import Store, Sweep, executors, load_sweep, open_sweep, run_sweep

    data = load_sweep("npu-ten-thousand").spec.model_dump(mode="json")
    data["margin"] = 0.0
    data["axes"] |= {
        "core.matrix.rows": [64, 128], "core.matrix.count": [4], "core.vector.lanes": [512],
        "memory.bandwidth": ["5 TB/s", "6 TB/s"], "cache.capacity": ["32 MiB", "64 MiB"],
        "core.scratchpad.capacity": ["4 MiB", "8 MiB"],
    }  # fmt: skip
    fronts, simulated = [], []
    with tempfile.TemporaryDirectory() as folder:
        for prune in (False, True):
            store = Store(f"{folder}/{prune}")
            outcome = run_sweep(
                Sweep.of(data), store, executors.local(2), in_flight=2, prune=prune, cache=store.folder.parent / "cache"
            )
            simulated.append(outcome.counts["done"])
            fronts.append([record.key for record in open_sweep(store.folder).front])
    return {"all": simulated[0], "pruned": simulated[1], "front": len(fronts[0]), "same": fronts[0] == fronts[1]}


def estimate(part: dict[str, float]) -> float:
    """Seconds of the whole sweep from a part of it: what is pruned meanwhile is pruned at the same rate after."""
    return part["wall_s"] * part["points"] / max(part["settled"], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--full", action="store_true", help="run the ten thousand points to their end")
    parser.add_argument("--margin", type=float, help="of the ten thousand (default: that of the sweep)")
    parser.add_argument("--curve", type=int, metavar="POINTS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.curve:
        print(json.dumps(curve(options.curve)))
        return
    alone = [[sys.executable, __file__, "--curve", str(points)] for points in CURVE]
    lines = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for command in alone]
    found = {
        "bounds": bounds(), "curve": lines, "workers": workers(), "same_front": same_front(),
        "ten_thousand": ten_thousand(options.full, options.margin),
    }  # fmt: skip
    if options.json:
        print(json.dumps(found, indent=2))
        return
    per_s, pair, big = found["bounds"]["bounds_per_s"], found["workers"], found["ten_thousand"]
    print(f"roofline: {per_s:,.0f} evaluations/s of one core (target {TARGETS['bounds_per_s']:,})")
    print(f"overhead: target {TARGETS['overhead_ms']} ms a point\n  points  run, ms  open, ms  front  peak, MiB")
    for line in lines:
        times = f"{line['run_ms_a_point']:8.3f} {line['open_ms_a_point']:9.3f}"
        print(f"{line['points']:8,.0f} {times} {line['front']:6,.0f} {line['peak_mib']:10.0f}")
    print(
        f"workers: one {pair['one_s']:.1f} s, two {pair['two_s']:.1f} s, {pair['two_workers']:.2f} x "
        f"(target {TARGETS['two_workers']} x; load {pair['load']:.1f})"
    )
    part = found["same_front"]
    print(
        f"pruning: {part['pruned']} of {part['all']} points simulated, the front of {part['front']} "
        f"{'is the same' if part['same'] else 'DIFFERS'}"
    )
    took = f"{big['wall_s']:.0f} s ({big['processor_s']:.0f} s of processors)"
    whole = took if options.full else f"about {estimate(big):,.0f} s, by {took} of it"
    print(
        f"ten thousand points at tile, margin {big['margin']:g}: {whole} (target {TARGETS['ten_thousand_s']:.0f} s; "
        f"{big['settled']:,.0f} settled, {big['simulated']:,.0f} simulated, {big['hit_share']:.0%} of look-ups found; "
        f"load {big['load']:.1f})"
    )


if __name__ == "__main__":
    main()
