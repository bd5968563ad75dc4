"""Flit-hops and packet-hops a CPU second of the network models on the 8x8 mesh: `python benchmarks/noc_speed.py`.

BookSim 2 (-O3), on the same kind of machine, does 0.45 million flit-hops a CPU second here.
"""

from __future__ import annotations

from time import process_time

import numpy as np

from archsim.kernels.noc_cycle import CycleNetwork
from archsim.kernels.noc_tile import tile_run
from archsim.noc import Router, mesh, pattern_for, random_packets, routes_for

BOOKSIM_M_HOPS_PER_S = 0.45
CYCLES = 10_000


def main() -> None:
    routes, router, uniform = routes_for(mesh(8, 8), "xy"), Router(), pattern_for("uniform", 64)
    for load, flits in ((0.05, 8), (0.2, 8), (0.36, 8), (0.2, 1)):
        packets = random_packets(uniform, 64, load, flits, 0, CYCLES, np.random.default_rng(1))
        network = CycleNetwork(routes, router)
        network.send(packets)
        begin = process_time()
        network.advance(CYCLES)
        speed = network.flit_hops / (process_time() - begin) / 1e6
        begin = process_time()
        hops = tile_run(routes, router, packets)[2]
        tile = hops / (process_time() - begin) / 1e6
        times = speed / BOOKSIM_M_HOPS_PER_S
        print(f"load {load:4} flits {flits}: cycle {speed:5.1f} M flit-hops/s ({times:.0f} x BookSim), "
              f"tile {tile:4.1f} M packet-hops/s")  # fmt: skip


if __name__ == "__main__":
    main()
