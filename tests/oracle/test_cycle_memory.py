"""A memory that issues every DRAM command inside the interpreter: the same commands as the stream on its own."""

from __future__ import annotations

import numpy as np
import pytest

from archsim.engine import CompiledInterpreter, SimpyInterpreter
from archsim.engine.cycle import cycle_memory
from archsim.hardware import load_chip
from archsim.kernels.dram_cycle import run_cycle
from archsim.mapping import MatmulShape, choose_tiling, make_target
from archsim.mapping.dram import chip_channels
from archsim.mapping.lowering.product import ProductOperands, lower_product
from archsim.program import Machine, Memory, Program, ProgramBuilder

CHIP = load_chip("tpu-v5e")
DRAM = chip_channels(CHIP.memory)
TARGET = make_target(CHIP)
MEMORY = TARGET.machine[0]
assert isinstance(MEMORY, Memory)
BURST = DRAM.map.organisation.burst_bytes


def interpreter(machine: Machine) -> SimpyInterpreter:
    return SimpyInterpreter(machine, models={"memory": cycle_memory(DRAM)})


def transfers(*sizes: int, serial: bool = False, write: bool = False) -> Program:
    """Transfers of consecutive bytes, all at once or each after the one before."""
    builder = ProgramBuilder(Machine((MEMORY,)))
    region = builder.region("all", sum(sizes))
    offset, last = 0, list[int]()
    for size in sizes:
        step = builder.step("memory", nbytes=size, region=region, offset=offset, write=write, after=last)
        offset, last = offset + size, [step] if serial else []
    return builder.build()


@pytest.mark.parametrize("nbytes", [BURST, 10_000, 1_000_000])
def test_one_transfer_takes_as_long_as_its_bursts_on_their_own(nbytes: int) -> None:
    run = interpreter(transfers(nbytes).machine).run(transfers(nbytes), 0, [0])
    alone = run_cycle(DRAM, np.arange(0, nbytes, BURST), separate=True)
    assert run.finish_ps[0] == round(alone.ticks * DRAM.timing.tick_ps) + MEMORY.latency_ps
    assert run.counters.activates == alone.counts["activates"]
    assert run.counters.bytes_read == -(-nbytes // BURST) * BURST


def test_transfers_of_one_instant_are_served_in_their_order_and_share_the_channels() -> None:
    program = transfers(50_000, 50_000, 50_000)
    run = interpreter(program.machine).run(program, 0, [0])
    alone = run_cycle(DRAM, np.concatenate([np.arange(i * 50_000 // BURST, -(-(i + 1) * 50_000 // BURST)) * BURST
                                            for i in range(3)]), separate=True)  # fmt: skip
    assert run.finish_ps.max() == round(alone.ticks * DRAM.timing.tick_ps) + MEMORY.latency_ps
    serial = transfers(50_000, 50_000, 50_000, serial=True)
    assert interpreter(serial.machine).run(serial, 0, [0]).elapsed_ps > run.elapsed_ps


def test_writes_are_done_when_their_last_command_is_issued() -> None:
    program = transfers(100_000, write=True)
    run = interpreter(program.machine).run(program, 0, [0])
    alone = run_cycle(DRAM, np.arange(0, 100_000, BURST), True, separate=True)
    look_ps = DRAM.timing.cl * DRAM.timing.tick_ps
    late = run.finish_ps[0] - MEMORY.latency_ps - alone.ticks * DRAM.timing.tick_ps
    assert 0 <= late <= look_ps
    assert run.counters.bytes_written == -(-100_000 // BURST) * BURST


@pytest.mark.parametrize(("m", "n", "k"), [(512, 512, 512), (1, 2048, 2048)])
def test_products_move_the_same_bytes_in_nearly_the_time_of_the_tile_model(m: int, n: int, k: int) -> None:
    shape = MatmulShape((m,), n, k, "bf16", 2.0, 2.0, 2.0)
    operands = ProductOperands(0, 1, 2, b_each=False)
    program = lower_product(TARGET, "gemm", shape, choose_tiling(TARGET, shape), operands, exact=True).program
    bases = [i << 28 for i in range(len(program.regions))]
    tile = CompiledInterpreter(TARGET.machine).run(program, 0, bases)
    cycle = interpreter(TARGET.machine).run(program, 0, bases)
    assert cycle.elapsed_ps == pytest.approx(tile.elapsed_ps, rel=0.05)
    assert cycle.elapsed_ps > (m * k + k * n) * 2 / DRAM.peak_bytes_per_s * 1e12
    assert cycle.counters.bytes_read == tile.counters.bytes_read
    assert cycle.counters.dram_busy_ps == pytest.approx(tile.counters.dram_busy_ps, rel=0.02)
