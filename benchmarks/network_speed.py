"""How long does a collective take to simulate? Processor time, the best of some rounds, at sizes of a rack and a pod.

    python benchmarks/network_speed.py [--rounds 5] [--json]
"""

from __future__ import annotations

import argparse
import json
import time

from archsim.hardware import SystemSpec, load_chip, load_system
from archsim.network import Collective, Fabric, Group, run_collective


def fabric(system: SystemSpec) -> Fabric:
    return Fabric.of(system, load_chip(system.chip))


def torus(*sides: int) -> SystemSpec:
    """TPU v4 chips in a torus."""
    chips = sides[0] * sides[1] * sides[2]
    return load_system("tpu-v4-x64", {"chips": chips, "chips_per_node": chips, "dims": list(sides)})


CASES = [
    # (what, system, collective, bytes, algorithm, one chip for all, target in seconds)
    ("8 GPUs, in the switch", load_system("hgx-h100"), "all_reduce", 2**20, "in_switch", True, 1e-3),
    ("8 GPUs, library's choice", load_system("hgx-h100"), "all_reduce", 2**20, "auto", True, None),
    ("64 chips, torus", torus(4, 4, 4), "all_reduce", 2**26, "auto", True, None),
    ("64 chips, torus, all of them", torus(4, 4, 4), "all_reduce", 2**26, "auto", False, None),
    ("1,024 chips, torus", torus(8, 8, 16), "all_reduce", 2**26, "auto", True, 1.0),
    ("1,024 chips, torus, all of them", torus(8, 8, 16), "all_reduce", 2**26, "auto", False, None),
    ("1,024 chips, torus", torus(8, 8, 16), "all_to_all", 2**26, "auto", True, None),
    ("2,048 GPUs, 256 nodes", load_system("h800-x2048"), "all_reduce", 2**26, "auto", True, None),
    ("4,096 chips, torus", torus(16, 16, 16), "all_reduce", 2**26, "auto", True, 5.0),
    ("4,096 chips, torus", torus(16, 16, 16), "all_to_all", 2**26, "auto", True, 5.0),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for what, system, kind, nbytes, algorithm, folded, target in CASES:
        network, times = fabric(system), []
        for round_ in range(options.rounds):
            request = Collective(kind, nbytes + 64 * round_, Group(network.chips), algorithm)  # type: ignore[arg-type]
            before = time.process_time()
            run = run_collective(network, request, fold=folded)
            times.append(time.process_time() - before)
        rows.append(
            {"what": f"{kind}, {what}", "seconds": min(times), "target_s": target, "messages": run.messages,
             "simulated_us": run.time_ps * 1e-6}
        )  # fmt: skip
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'what':44}{'messages':>10}{'seconds':>12}{'target':>9}{'simulated us':>14}")
    for row in rows:
        wanted = f"{row['target_s']:g}" if row["target_s"] else ""
        line = f"{row['what']:44}{row['messages']:10,d}{row['seconds']:12.6f}{wanted:>9}{row['simulated_us']:14,.1f}"
        print(line)


if __name__ == "__main__":
    main()
