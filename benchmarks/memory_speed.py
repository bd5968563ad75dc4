"""How fast are the memory models? Requests a CPU second of one HBM3 channel, and transfers of a chip's memory.

python benchmarks/memory_speed.py [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from archsim.hardware import load_chip, load_memory_standard
from archsim.hardware.memory import ControllerSpec
from archsim.kernels import MemoryModel
from archsim.kernels.dram_cycle import run_cycle
from archsim.mapping import make_target
from archsim.mapping.dram import dram_channels
from archsim.memory import make_stream
from archsim.program import Memory

REQUESTS = 200_000
ROUNDS = 5
#: requests a second of the cycle model; GB a second and transfers a second of the tile model
TARGETS = {"sequential": 5e6, "random": 2e6, "bytes": 20e9, "transfers": 1e6}


def cpu_s(work: Callable[[], object]) -> float:
    """The least CPU time of a few rounds: what others do on the machine only adds to it."""
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best


def cycle(pattern: str) -> float:
    """Requests a CPU second of one HBM3 channel, with the queues of the reference simulators."""
    controller = ControllerSpec(read_queue=32, write_queue=32)
    dram = dram_channels(load_memory_standard("hbm3"), controller=controller)
    stream = make_stream(pattern, REQUESTS, request_bytes=32, region_bytes=2**30, stripe_bytes=65536)
    return REQUESTS / cpu_s(lambda: run_cycle(dram, stream.address))


def tile(count: int, *kib: int) -> float:
    """Transfers a CPU second through the five HBM3 stacks of an H100, of these sizes in turn, one after the other in
    memory."""
    memory = make_target(load_chip("h100")).machine.resources[0]
    assert isinstance(memory, Memory)
    model = MemoryModel(Memory("memory", "memory", memory.dram))
    nbytes = np.resize(np.array(kib, dtype=np.int64) * 1024, count)
    address = np.cumsum(nbytes) - nbytes

    def work() -> None:
        model.reset()
        model.access_many(0, address, nbytes)

    return count / cpu_s(work)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    rates = {f"cycle {pattern} requests/s": cycle(pattern) for pattern in ("sequential", "random")}
    for kib in (4, 16, 64):
        rates[f"tile {kib} KiB transfers/s"] = tile(40_000 // kib, kib)
    rates["tile 4 to 64 KiB transfers/s"] = tile(2_000, 4, 8, 16, 32, 64)
    rates["tile bytes/s"] = 65536 * rates["tile 64 KiB transfers/s"]
    if as_json:
        print(json.dumps({"rates": rates, "targets": TARGETS}, indent=2))
        return
    for name, rate in rates.items():
        print(f"{name:28s} {rate / 1e6:12,.2f} M")


if __name__ == "__main__":
    main()
