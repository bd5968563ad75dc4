"""Streams that meet in a memory: each gets its share, and together they get what the memory gives."""

from __future__ import annotations

import numpy as np
import pytest

from archsim.engine import CompiledInterpreter
from archsim.hardware import load_memory_standard
from archsim.hardware.memory import ControllerSpec, MappingSpec
from archsim.kernels import MemoryModel
from archsim.kernels.dram_cycle import run_cycle
from archsim.mapping.dram import dram_channels, tile_dram
from archsim.memory import make_stream
from archsim.program import Machine, Memory, ProgramBuilder

pytestmark = pytest.mark.theory

TRANSFER, COUNT = 4096, 400


def streams(count: int, *, aligned: bool = False, write: int = 0) -> tuple[list[int], float]:
    """When each of some streams ends, and the bytes a second of all of them until the first does.

    Each keeps four transfers in flight. aligned: they walk through the rows of one bank in step. write: so many write.
    """
    dram = dram_channels(load_memory_standard("hbm3"), channels=4)
    machine = Machine((Memory("hbm", "memory", tile_dram(dram)),))
    builder = ProgramBuilder(machine)
    route = builder.route("hbm")
    apart = dram.map.capacity_bytes // 8
    for stream in range(count):
        data = builder.region(f"stream{stream}", TRANSFER * COUNT)
        before: list[int] = []
        for step in range(COUNT):
            after = before[-4:-3]
            at = builder.step(
                route, nbytes=TRANSFER, region=data, offset=step * TRANSFER, write=stream < write, after=after
            )
            before.append(at)
    shift = 0 if aligned else 7 * 65536
    run = CompiledInterpreter(machine).run(builder.build(), 0, [stream * (apart + shift) for stream in range(count)])
    ends = [int(run.finish_ps[stream * COUNT : (stream + 1) * COUNT].max()) for stream in range(count)]
    first = min(ends)
    return ends, float(np.sum(run.finish_ps <= first)) * TRANSFER / first * 1e12


@pytest.mark.parametrize("aligned", [False, True])
def test_streams_that_read_end_together(aligned: bool) -> None:
    ends, _ = streams(4, aligned=aligned)
    assert min(ends) > 0.95 * max(ends)


def test_streams_together_get_what_one_alone_does() -> None:
    _, alone = streams(1)
    _, together = streams(4)
    assert together == pytest.approx(alone, rel=0.03)


def test_streams_that_walk_through_one_bank_in_step_cost_bandwidth() -> None:
    assert streams(4, aligned=True)[1] < 0.95 * streams(4)[1]


@pytest.mark.parametrize(
    ("standard", "run_bytes", "stride"),
    [("hbm3", 64, 1600), ("hbm3", 128, 8192), ("hbm2", 512, 4096), ("gddr6", 256, 3072), ("lpddr5", 2048, 8192)],
)
def test_tiles_of_a_matrix_take_as_long_as_their_bursts_do_one_by_one(
    standard: str, run_bytes: int, stride: int
) -> None:
    dram = dram_channels(load_memory_standard(standard), channels=2)
    burst, runs = dram.map.organisation.burst_bytes, 64
    across = stride // run_bytes
    tile = np.arange(400_000 // (run_bytes * runs))
    corner = tile // across * runs * stride + tile % across * run_bytes
    model = MemoryModel(Memory("hbm", "memory", tile_dram(dram)))
    _, done = model.access_many(0, corner, run_bytes * runs, runs=runs, stride=stride)
    bursts = corner[:, None, None] + np.arange(runs)[:, None] * stride + np.arange(0, run_bytes, burst)
    cycle = run_cycle(dram, bursts.ravel(), separate=True)
    assert int(done.max()) == pytest.approx(cycle.ticks * dram.timing.tick_ps, rel=0.05)


def test_a_stream_that_writes_does_not_starve_one_that_reads() -> None:
    ends, _ = streams(2, write=1)
    assert min(ends) > 0.9 * max(ends)


@pytest.mark.parametrize("writes", [0.0, 0.3])
def test_channels_in_the_same_state_are_served_as_if_each_were_alone(writes: float) -> None:
    """A transfer is as many as its channels' pieces, one after the other, whichever channels are in one state."""
    dram = tile_dram(dram_channels(load_memory_standard("hbm3"), channels=8))
    whole, pieces = (MemoryModel(Memory("hbm", "memory", dram)) for _ in range(2))
    rng = np.random.default_rng(7)
    stripe, t = 8 * dram.interleave_bytes, 0
    for _ in range(400):
        t += int(rng.integers(0, 40_000))
        count, write = int(rng.integers(1, 40)), bool(rng.random() < writes)
        address = int(rng.integers(0, 4096)) * stripe
        head, done = whole.access(t, address, count * dram.interleave_bytes, write)
        heads, dones = pieces.access_many(
            t, address + np.arange(count) * dram.interleave_bytes, dram.interleave_bytes, write
        )
        assert (head, done) == (heads.min(), dones.max())
    assert whole.counters == pieces.counters


@pytest.mark.parametrize(
    ("pattern", "order"),
    [
        ("stride_2048", "pseudo_channel bank_group column bank stack_id row"),
        ("streams2_aligned", "column pseudo_channel stack_id bank_group bank row"),
    ],
)
def test_columns_keep_their_distance_in_bank_groups_and_between_stacks(pattern: str, order: str) -> None:
    controller = ControllerSpec(read_queue=32, write_queue=32, refresh="none")
    dram = dram_channels(
        load_memory_standard("hbm3"), mapping=MappingSpec(order=tuple(order.split())), controller=controller
    )
    address = make_stream(pattern, 8000, request_bytes=32, region_bytes=2**28, stripe_bytes=65536).address
    done = MemoryModel(Memory("hbm", "memory", tile_dram(dram))).access_in_order(address, 32)
    assert int(done.max()) == pytest.approx(run_cycle(dram, address).ticks * dram.timing.tick_ps, rel=0.1)
