"""How fast are the two interpreters? A tiled matrix product on a GPU-like machine, and one memory alone.

    python benchmarks/engine_speed.py [--cores 132] [--tiles 16] [--json]

An event is what passes through the heap: one arrival per stage of a step's route, and its finish.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable

import numpy as np

from archsim.engine import CompiledInterpreter, Interpreter, SimpyInterpreter
from archsim.kernels import MemoryModel
from archsim.program import (
    Cache,
    Dram,
    Link,
    Machine,
    Memory,
    Program,
    ProgramBuilder,
    Unit,
    attoseconds_per_byte,
)

TILE_BYTES = 16 * 1024
TILES_OF_A_CORE = 64  # the operands span this many tiles, so that later tiles hit the cache


def memory(cache: bool) -> Memory:
    """Five HBM3 stacks, 160 pseudo-channels of 21 GB/s, behind a 50 MiB cache or none."""
    dram = Dram(channels=160, interleave_bytes=256, banks=16, row_bytes=1024, burst_bytes=32, burst_ps=1538,
                cl_ps=150_000, rcd_ps=14_000, rp_ps=14_000, rc_ps=42_000, act_ps=4_000, refi_ps=3_900_000,
                rfc_ps=350_000, to_write_ps=3_000, to_read_ps=3_000)  # fmt: skip
    front = Cache(50 * 2**20, 4096, attoseconds_per_byte(5.5e12), hit_latency_ps=200_000) if cache else None
    return Memory("hbm", "memory", dram, front)


def machine(cores: int, cache: bool) -> Machine:
    """Cores with a matrix unit and a port in and out, around one memory."""
    per_core = [
        (
            Unit(f"mxu{core}", "matrix", latency_ps=20_000),
            Link(f"in{core}", "port_in", attoseconds_per_byte(110e9), latency_ps=100_000),
            Link(f"out{core}", "port_out", attoseconds_per_byte(110e9), latency_ps=100_000),
        )
        for core in range(cores)
    ]
    return Machine((memory(cache), *(each for core in per_core for each in core)))


def tiled_product(chip: Machine, tiles: int) -> Program:
    """Every core in turn loads two operand tiles, multiplies them, and stores every fourth result; double buffered."""
    cores = (len(chip) - 1) // 3
    builder = ProgramBuilder(chip, "tiled product")
    operands = [builder.region(name, (TILES_OF_A_CORE + cores) * TILE_BYTES) for name in ("a", "b")]
    result = builder.region("c", cores * TILE_BYTES)
    core = np.arange(cores)
    loads = np.array([builder.route("hbm", f"in{each}") for each in core])
    mxus = np.array([builder.route(f"mxu{each}") for each in core])
    stores = np.array([builder.route(f"out{each}", "hbm") for each in core])
    free = np.full((2, cores), -1)  # the product that last read each of the two buffers
    for tile in range(tiles):
        offset = (core + tile % TILES_OF_A_CORE) * TILE_BYTES
        sources = [
            builder.steps(loads, nbytes=TILE_BYTES, region=which, offset=offset, after=free[tile % 2], tag=core)
            for which in operands
        ]
        free[tile % 2] = builder.steps(mxus, work_ps=300_000, after=np.stack(sources, axis=1), tag=core)
        if tile % 4 == 3:
            builder.steps(stores, nbytes=TILE_BYTES, region=result, offset=core * TILE_BYTES, write=True,
                          after=free[tile % 2], tag=core)  # fmt: skip
    builder.join(free[free >= 0], mark=True)
    return builder.build()


def best_of(rounds: int, work: Callable[[], object]) -> float:
    """The shortest processor time of a few rounds: other load on the machine only adds to it."""
    times = []
    for _ in range(rounds):
        before = time.process_time()
        work()
        times.append(time.process_time() - before)
    return min(times)


def interpreter_row(name: str, interpreter: Interpreter, program: Program, rounds: int) -> dict[str, object]:
    """Steps and events a second of one interpreter on one program."""
    bases = {"a": 0, "b": 2**30, "c": 2**31}

    def once() -> None:
        interpreter.reset()
        interpreter.run(program, 0, bases)

    seconds = best_of(rounds, once)
    stages = int(np.diff(program.route_start)[program.route].sum())
    return {
        "what": name,
        "count": len(program),
        "seconds": seconds,
        "steps_per_s": len(program) / seconds,
        "events_per_s": (len(program) + stages) / seconds,
    }


def memory_row(name: str, spec: Memory, nbytes: int, rounds: int, count: int = 20_000) -> dict[str, object]:
    """Accesses a second of a memory on its own: random ones of `nbytes`."""
    model = MemoryModel(spec)
    address = np.random.default_rng(0).integers(0, 2**33 // nbytes, count) * nbytes
    times = np.arange(count, dtype=np.int64) * 1000
    seconds = best_of(rounds, lambda: model.access_many(times, address, nbytes))
    return {"what": name, "count": count, "seconds": seconds, "accesses_per_s": count / seconds}


def main() -> None:
    """Run the benchmark and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cores", type=int, default=132)
    parser.add_argument("--tiles", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    rows = []
    before = time.process_time()
    programs = {cache: tiled_product(machine(options.cores, cache), options.tiles) for cache in (False, True)}
    count, seconds = len(programs[False]) + len(programs[True]), time.process_time() - before
    rows.append({"what": "build programs", "count": count, "seconds": seconds, "steps_per_s": count / seconds})
    for cache, program in programs.items():
        label = "compiled, cached HBM" if cache else "compiled, bare HBM"
        rows.append(interpreter_row(label, CompiledInterpreter(program.machine), program, options.rounds))
    units = units_only(options.cores, options.tiles)
    rows.append(interpreter_row("compiled, units and links", CompiledInterpreter(units.machine), units, options.rounds))
    small = tiled_product(machine(options.cores, cache=True), 8)
    rows.append(interpreter_row("SimPy, cached HBM", SimpyInterpreter(small.machine), small, 1))
    rows.append(memory_row("memory, 64 B, no cache", memory(cache=False), 64, options.rounds))
    rows.append(memory_row("memory, 16 KiB, no cache", memory(cache=False), TILE_BYTES, options.rounds))
    rows.append(memory_row("memory, 16 KiB, cached", memory(cache=True), TILE_BYTES, options.rounds))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if options.json:
        print(json.dumps({"rows": rows, "peak_mib": peak}, indent=2))
        return
    print(f"{'what':28}{'count':>10}{'seconds':>10}{'steps/s':>12}{'events/s':>12}{'accesses/s':>12}")
    for row in rows:
        rates = "".join(
            f"{row[key]:12.3g}" if key in row else " " * 12 for key in ("steps_per_s", "events_per_s", "accesses_per_s")
        )
        print(f"{row['what']:28}{row['count']:10d}{row['seconds']:10.3f}{rates}")
    print(f"peak memory {peak:.0f} MiB")


def units_only(cores: int, tiles: int) -> Program:
    """The tiled product without its memory: what the heap and the bookkeeping cost."""
    chip = machine(cores, cache=False)
    builder = ProgramBuilder(chip, "units and links")
    routes = np.array([builder.route(f"in{each}", f"mxu{each}", f"out{each}") for each in range(cores)])
    last = np.full(cores, -1)
    for _ in range(3 * tiles):
        last = builder.steps(routes, work_ps=300_000, nbytes=TILE_BYTES, after=last)
    for name in ("a", "b", "c"):
        builder.region(name, 1)
    return builder.build()


if __name__ == "__main__":
    main()
