"""Collectives within a step: they meet kernels at the memory, take cores, and depend on every link."""

from __future__ import annotations

from dataclasses import replace

import pytest

import archsim
from archsim.engine import Launch, Session
from archsim.hardware import load_chip, load_system
from archsim.mapping import bound_kernels, make_target
from archsim.network import Collective, Fabric, Group, on_chip, run_collective, schedule_of
from archsim.network.on_chip import beside, on_machine
from archsim.program import ProgramBuilder
from archsim.simulation import Options, prepare
from archsim.simulation.blocks import _dependencies
from archsim.simulation.collectives import lower_collective, narrowed, overlapping, spread
from archsim.trace import load_workload

pytestmark = pytest.mark.theory


def test_a_collective_contends_with_memory_traffic() -> None:
    chip = load_chip("custom-npu", {"memory.bandwidth": "400 GB/s"})
    fabric = Fabric.of(load_system("custom-npu-x16"), chip)
    target = make_target(chip)
    machine = beside(target.machine, fabric.folded)
    schedule = schedule_of(fabric, Collective("all_reduce", 2**24, Group(16)))
    exchange = on_machine(schedule, machine, 0, 2**24)
    builder = ProgramBuilder(machine, "reads")
    region = builder.region("weights", 2**25)
    for at in range(0, 2**25, 2**20):
        builder.step([0], nbytes=2**20, region=region, offset=at)
    reads = builder.build()

    def end(*launches: Launch) -> int:
        return max(record.end_ps for record in Session(machine).run(launches))

    messages = Launch("all_reduce", "communication", program=exchange, bases=[2**26])
    stream = Launch("reads", "compute", program=reads, bases=[2**28])
    assert end(messages, stream) > 1.02 * max(end(messages), end(stream))


def test_of_large_messages_a_share_passes_through_memory_for_all() -> None:
    fabric = Fabric.of(load_system("hgx-h100"), load_chip("h100"))
    machine = beside(make_target(load_chip("h100")).machine, fabric.folded)
    counts, blocks = [], []
    for most in (on_chip.MOST_BYTES, 2**40):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(on_chip, "MOST_BYTES", most)
            schedule = schedule_of(fabric, Collective("all_gather", 2**28, Group(8)))
            program = on_machine(schedule, machine, 0, 2**28, alone=True)
        (record,) = Session(machine).run([Launch("x", "communication", program=program, bases=[0])])
        assert record.run is not None
        counts.append(record.run.counters.bytes_requested)
        blocks.append(int(program.nbytes[program.region >= 0].sum()))
        time = run_collective(fabric, Collective("all_gather", 2**28, Group(8))).time_ps
        assert record.end_ps + schedule.launch_s * 1e12 == pytest.approx(time, rel=0.02)
    assert blocks[0] < 0.15 * blocks[1]
    assert counts[0] == pytest.approx(counts[1], rel=1e-3)


def test_a_slow_link_slows_the_step() -> None:
    options = {"phase": "prefill", "seq": 256, "tp": 8, "exact": False}
    system = load_system("hgx-h800")
    faulty = load_system("hgx-h800", {"faults": [{"chip": 5, "network": "scale_up", "rate": 0.1}]})
    sound, slow = (archsim.simulate("h800", "llama-3.1-8b", system=each, **options) for each in (system, faulty))
    assert slow.time_s > 1.2 * sound.time_s


def test_kernels_beside_a_collective_leave_it_its_cores() -> None:
    job = prepare("h800", "deepseek-v3", Options(phase="decode", batch=32, tp=1, ctx=256), "h800-x32")
    block = next(block for block in job.blocks if block.name == "moe")
    assert narrowed(job.target, job.network, block.kernels).cores == 132  # low-latency kernels leave them all
    dies = prepare("ascend-910c-die", "deepseek-v3", Options(phase="decode", batch=32, tp=1, ctx=256, quant="int8"),
                   "ascend-910c-die-x32")  # fmt: skip
    moe = next(block for block in dies.blocks if block.name == "moe")
    assert narrowed(dies.target, dies.network, moe.kernels).cores == 24 - 8  # which write the rows one by one
    many = prepare("h800", "deepseek-v3", Options(phase="prefill", batch=64, seq=512, tp=1, overlap="none"), "h800-x32")
    kernels = next(block for block in many.blocks if block.name == "moe").kernels
    assert narrowed(many.target, many.network, kernels).cores == 132 - 20
    job = prepare("h800", "deepseek-v3", Options(phase="decode", batch=32, tp=8, ctx=256), "h800-x32")
    block = next(block for block in job.blocks if block.name == "moe")
    seconds = bound_kernels(block.kernels, job.target).seconds.tolist()
    found = overlapping([*map(block.communicates, block.kernels)], _dependencies(block.kernels), seconds)
    names = {block.kernels[i].name for i in found}
    assert names
    assert not any("experts.gate_up_proj" in name and "shared" not in name for name in names)


def test_an_engine_takes_no_cores() -> None:
    job = prepare("custom-npu", "llama-3.1-8b", Options(phase="decode", batch=16, tp=16, ctx=256), "custom-npu-x16")
    kernels = [kernel for block in job.blocks for kernel in block.kernels]
    assert any(kernel.kind == "collective" for kernel in kernels)
    assert narrowed(job.target, job.network, kernels) is job.target
    assert narrowed(job.target, None, kernels) is job.target


def test_a_part_of_a_ring_is_simulated_with_all_its_chips() -> None:
    """The two chips of a group are there with their links; their messages meet the traffic of the chip's memory."""
    system = load_system("tpu-v4-x64", {"chips": 16, "chips_per_node": 16, "dims": [4, 4]})
    options = Options(phase="decode", batch=32, ctx=64, tp=2)
    job = prepare("tpu-v4", "llama-3.1-8b", options, system)
    target, block = spread(job.target, job.network, [kernel for each in job.blocks for kernel in each.kernels])
    assert block is not None
    assert (block.chips, block.folds) == (2, False)
    kernel = next(k for each in job.blocks for k in each.kernels if k.kind == "collective")
    exchange = lower_collective(kernel, target, block)
    assert exchange.program is not None
    assert exchange.program.nbytes[exchange.program.region >= 0].sum() == 2 * kernel.tasks[0].dims["bytes"]
    alone = run_collective(block, Collective("all_reduce", kernel.tasks[0].dims["bytes"], Group(2), "fastest")).time_ps
    launch = Launch("all_reduce", "communication", (), exchange.launch_ps, program=exchange.program, bases=[0])
    (record,) = Session(target.machine).run([launch])
    assert alone <= record.end_ps < 1.5 * alone


def test_a_block_of_groups_takes_the_time_of_the_whole_system() -> None:
    whole = Fabric.of(load_system("tpu-v4-x64"), load_chip("tpu-v4"))
    for group in (Group(2), Group(2, stride=2), Group(8), Group(4, stride=4)):
        request = Collective("all_reduce", 2**20, group, "ring")
        block = whole.alone([group])
        assert block.chips < 64
        assert run_collective(block, request).time_ps == run_collective(whole, request, fold=False).time_ps


def test_a_block_has_the_faults_of_all_that_it_stands_for() -> None:
    system = load_system("hgx-h800", {"faults": [{"chip": 5, "network": "scale_up", "rate": 0.25}]})
    fabric = Fabric.of(system, load_chip("h800"))
    request = Collective("all_gather", 2**26, Group(4))
    assert fabric.alone([Group(4)]).faults == ((1, "scale_up", 0.25),)
    assert run_collective(fabric.alone([Group(4)]), request).time_ps == run_collective(fabric, request).time_ps


def test_the_job_of_one_chip_has_no_fabric() -> None:
    job = prepare("h800", "llama-3.1-8b", Options(phase="decode"))
    assert job.network is None
    assert replace(job).network is None


def test_tensor_parallelism_follows_the_dimensions_of_the_fabric() -> None:
    system = load_system("h800-x32", {"chips": 24})
    step = archsim.simulate("h800", "llama-3.1-8b", phase="decode", batch=24, ctx=64, system=system)
    assert 8 % step.meta["plan"]["tp"] == 0
    fabric = Fabric.of(system, load_chip("h800"))
    assert not fabric.fits(Group(3))
    assert fabric.fits(Group(1))
    assert fabric.fits(Group(24))


def test_cards_carry_few_tokens_while_cores_do_something_else() -> None:
    """Posting begins with the exchange, taking over when it has ended; together they are the one kernel."""
    trace = load_workload("deepseek-v3", "decode")
    layers = replace(trace, blocks=tuple(replace(block, repeat=1) for block in trace.blocks))
    system = load_system("h800-x32", {"chips": 16})
    options = {"phase": "decode", "batch": 16 * 64, "ctx": 256, "tp": 1, "routing": "balanced", "quant": "fp8"}

    def step(overlap: str, post: str) -> dict[str, tuple[int, int]]:
        at = {"scale_out.transports.expert.post": post}
        ran = archsim.simulate("h800", layers, system=system, set=at, overlap=overlap, **options)
        rows = zip(ran.op_table.name, ran.op_table.start_ps, ran.op_table.time_ps, strict=True)
        return {str(name).removeprefix("mlp.experts."): (int(start), int(time)) for name, start, time in rows}

    cards, kernel = step("none", "10 us"), step("none", "0 us")
    exchange, post, receive = (cards[f"dispatch.{name}"] for name in ("all_to_all", "post", "receive"))
    assert "dispatch.post" not in kernel
    assert post[0] == exchange[0]
    assert post[1] == pytest.approx(10e6 + 64 * 8 * 12e3, rel=0.1)  # and the gap between two kernels
    assert receive[0] >= exchange[0] + exchange[1]
    assert exchange[1] + receive[1] == pytest.approx(kernel["dispatch.all_to_all"][1], rel=0.05)
    assert combined(cards) == pytest.approx(combined(kernel), rel=0.1)


def combined(step: dict[str, tuple[int, int]]) -> int:
    """Picoseconds from the beginning of the way back to its results."""
    begin, last = step["combine.all_to_all"][0], step["combine"]
    return last[0] + last[1] - begin
