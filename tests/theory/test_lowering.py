"""Lowered programs do the work of the operator, all of it, once, within the buffers of the core."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from archsim.engine import CompiledInterpreter, SimpyInterpreter
from archsim.errors import InputError
from archsim.hardware import load_chip
from archsim.mapping import MatmulShape, Target, choose_tiling, make_target, score_tilings
from archsim.mapping.attention_kernel import AttentionShape
from archsim.mapping.lowering import Lowered
from archsim.mapping.lowering.attention import lower_attention
from archsim.mapping.lowering.product import ProductOperands, lower_product
from archsim.mapping.lowering.rows import Stream, lower_rows
from archsim.mapping.lowering.table import WORKSPACE
from archsim.mapping.pin import pinned
from archsim.mapping.search import simulated_s
from archsim.models.vector import COSTS

CHIPS = ("h800", "a100", "b200", "custom-npu", "tpu-v4", "gaudi3", "ascend-910b")
TARGETS = {name: make_target(load_chip(name)) for name in CHIPS}
A, B, C = 0, 1, 2
PIN = {"tm": 64, "tn": 256, "tk": 128, "slots": 2, "split_k": 4}

names = st.sampled_from(CHIPS)
sizes = st.integers(1, 700)
groups = st.lists(st.integers(0, 300), min_size=1, max_size=4).filter(any)


def lower_gemm(
    target: Target, m: tuple[int, ...], n: int, k: int, *, exact: bool = True
) -> tuple[MatmulShape, Lowered]:
    shape = MatmulShape(m, n, k, "bf16", 2.0, 2.0, 2.0)
    operands = ProductOperands(A, B, C, b_each=len(m) > 1)
    return shape, lower_product(target, "gemm", shape, score_tilings(target, shape, keep=1)[0], operands, exact=exact)


def bases(lowered: Lowered) -> list[int]:
    """Regions far apart."""
    return [i << 36 for i in range(len(lowered.tensors))]


def stores(lowered: Lowered, tensor: int) -> list[tuple[int, int]]:
    """(offset, bytes) of every run of every store to the region of ``tensor``, in address order."""
    program = lowered.program
    mine = np.flatnonzero(program.write & (program.region == lowered.tensors.index(tensor)))
    return sorted(
        (int(program.offset[step] + run * program.stride[step]), int(program.nbytes[step] // program.runs[step]))
        for step in mine
        for run in range(program.runs[step])
    )


def loaded(lowered: Lowered, tensor: int) -> int:
    program = lowered.program
    region = lowered.tensors.index(tensor)
    return int(program.nbytes[(program.region == region) & ~program.write].sum())


def covered(lowered: Lowered, tensor: int) -> int:
    """Bytes of the region of ``tensor`` that are read at least once."""
    program = lowered.program
    reads = np.flatnonzero((program.region == lowered.tensors.index(tensor)) & ~program.write & (program.nbytes > 0))
    assert (program.runs[reads] == 1).all()
    order = reads[np.argsort(program.offset[reads], kind="stable")]
    begin, end = program.offset[order], program.offset[order] + program.nbytes[order]
    before = np.maximum.accumulate(np.concatenate([[0], end[:-1]]))
    return int(np.clip(end - np.maximum(begin, before), 0, None).sum())


def assert_written_once(written: list[tuple[int, int]], total: int) -> None:
    place = 0
    for offset, nbytes in written:
        assert offset == place
        place += nbytes
    assert place == total


@settings(max_examples=60, deadline=None)
@given(names, groups, sizes, sizes)
def test_every_output_of_a_product_is_stored_exactly_once(name: str, m: list[int], n: int, k: int) -> None:
    target = TARGETS[name]
    _, lowered = lower_gemm(target, tuple(m), n, k)
    assert_written_once(stores(lowered, C), sum(m) * n * 2)


@settings(max_examples=60, deadline=None)
@given(names, groups, sizes, sizes)
def test_every_product_term_is_multiplied_once(name: str, m: list[int], n: int, k: int) -> None:
    """Each output tile meets its whole panels of A and B: A is read once per column of tiles, B per row of tiles."""
    target = TARGETS[name]
    shape, lowered = lower_gemm(target, tuple(m), n, k)
    tiling = score_tilings(target, shape, keep=1)[0]
    columns = -(-n // tiling.tn)
    assert sum(m) * k * columns * 2 / tiling.cluster_n <= loaded(lowered, A) <= sum(m) * k * columns * 2
    received = loaded(lowered, B)  # a team of cores fetches once for all
    rows = sum(-(-part // tiling.tm) for part in m)
    assert received <= rows * n * k * 2
    assert received >= sum(-(-(-(-part // tiling.tm)) // target.multicast) for part in m) * n * k * 2


@settings(max_examples=8, deadline=None)
@given(groups, st.integers(1, 300), st.integers(512, 2000), st.sampled_from([2, 4, 8]))
def test_sums_that_meet_in_the_network_are_stored_once_and_need_no_workspace(
    m: list[int], n: int, k: int, split: int
) -> None:
    target = make_target(load_chip("custom-npu", {"noc.reduction": split}))
    shape = MatmulShape(tuple(m), n, k, "bf16", 2.0, 2.0, 2.0)
    tiling = pinned(target, shape, {"tm": 128, "tn": 128, "tk": 64, "split_k": split}, "gemm")
    lowered = lower_product(target, "gemm", shape, tiling, ProductOperands(A, B, C, b_each=len(m) > 1), exact=True)
    assert_written_once(stores(lowered, C), sum(m) * n * 2)
    assert WORKSPACE not in lowered.tensors
    assert loaded(lowered, A) == sum(m) * k * -(-n // tiling.tn) * 2
    program = lowered.program
    compiled, readable = (
        engine(program.machine).run(program, bases=bases(lowered)) for engine in (CompiledInterpreter, SimpyInterpreter)
    )
    assert np.array_equal(compiled.finish_ps, readable.finish_ps)
    sums = np.isin(program.route, target.sum_routes[split])
    assert program.nbytes[sums].sum() == sum(m) * n * 4  # every tile once, in fp32
    before = program.nbytes[~sums & (program.region < 0)]
    assert not before.any()  # nothing else passes between cores


@pytest.mark.parametrize("split", [3, 8])
def test_pairs_of_cores_share_a_reduction_out(split: int) -> None:
    """Mates work on the same terms: each fetches half of B for them, and all tiles are added up and stored once."""
    target, (m, n, k) = TARGETS["b200"], (300, 500, 1100)
    shape = MatmulShape((m,), n, k, "bf16", 2.0, 2.0, 2.0)
    tiling = pinned(target, shape, {"tm": 128, "tn": 128, "tk": 64, "split_k": split, "pair": 2}, "gemm")
    lowered = lower_product(target, "gemm", shape, tiling, ProductOperands(A, B, C, b_each=False), exact=True)
    assert_written_once(stores(lowered, C), m * n * 2)
    assert loaded(lowered, A) == m * k * -(-n // 128) * 2
    assert loaded(lowered, B) == n * k * -(-m // 256) * 2


def test_chunks_that_are_asked_for_at_once_arrive_in_the_order_of_use() -> None:
    """More chunks in flight do not keep the first one of another core waiting: eight slots are no slower than four."""
    target = TARGETS["a100"]
    shape = MatmulShape((256,), 1024, 1024, "bf16", 2.0, 2.0, 2.0)
    pin = {"tm": 64, "tn": 64, "tk": 64}
    times = [simulated_s(target, shape, pinned(target, shape, pin | {"slots": n}, "gemm")) for n in (4, 8)]
    assert times[1] <= 1.01 * times[0]


def test_all_cores_add_up_the_parts_of_a_split() -> None:
    """Twelve tiles on 148 cores: twelve slices each, so that no core reads more than its share of the parts."""
    target = TARGETS["b200"]
    shape = MatmulShape((512,), 768, 4096, "bf16", 2.0, 2.0, 2.0)
    pin = {"tm": 128, "tn": 256, "tk": 64, "slots": 4, "split_k": 4}
    program = lower_product(
        target, "gemm", shape, pinned(target, shape, pin, "gemm"), ProductOperands(A, B, C, b_each=False)
    ).program
    merging = (program.region == 3) & ~program.write
    assert int(program.nbytes[merging].sum()) == 512 * 768 * 4 * 4
    assert int(program.nbytes[merging].max()) <= 1.2 * 512 * 768 * 4 * 4 / target.cores
    assert len(np.unique(program.tag[merging])) == 144


@pytest.mark.parametrize(("name", "in_turn"), [("a100", True), ("h800", False)])
def test_narrow_weights_are_unpacked_in_turn_with_synchronous_products(name: str, in_turn: bool) -> None:
    """128 rows a tile: a weight is unpacked once for 128 multiplications, an eighth more on 64 lanes of an A100,
    at a clock that is higher as its matrix units rest. Wide tiles, which the cache can feed."""
    target = TARGETS[name]
    wide, narrow = (
        MatmulShape((8192,), 4096, 4096, "fp16", 2.0, width, 2.0, convert_b=width < 2) for width in (2.0, 1.0)
    )
    pin = {"tm": 128, "tn": 256, "tk": 64, "slots": 2}
    times = [simulated_s(target, shape, pinned(target, shape, pin, "gemm")) for shape in (wide, narrow)]
    assert (1.04 < times[1] / times[0] < 1.14) if in_turn else times[1] <= 1.01 * times[0]


def test_a_network_that_adds_beats_the_workspace() -> None:
    """64 x 1024 of a reduction over 8192: the barrier and the second pass over the parts fall away."""
    shape = MatmulShape((64,), 1024, 8192, "bf16", 2.0, 2.0, 2.0)
    times = []
    for cores in (1, 4):
        target = make_target(load_chip("custom-npu", {"noc.reduction": cores}))
        times.append(simulated_s(target, shape, pinned(target, shape, PIN, "gemm")))
    assert times[1] < 0.9 * times[0]


@pytest.mark.parametrize(("down", "across"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)])
def test_a_cluster_fetches_what_it_shares_once(down: int, across: int) -> None:
    """Four tiles down and four across: A is read once for each cluster across, B once for each cluster down."""
    target = make_target(load_chip("h800", {"noc.multicast": "4"}))
    shape = MatmulShape((256,), 512, 640, "bf16", 2.0, 2.0, 2.0)
    pin = {"tm": 64, "tn": 128, "tk": 64, "cluster_m": down, "cluster_n": across}
    tiling = pinned(target, shape, pin, "gemm")
    lowered = lower_product(target, "gemm", shape, tiling, ProductOperands(A, B, C, b_each=False), exact=True)
    assert loaded(lowered, A) == 4 // across * 256 * 640 * 2
    assert loaded(lowered, B) == 4 // down * 512 * 640 * 2
    assert_written_once(stores(lowered, C), 256 * 512 * 2)
    arrived = lowered.program.nbytes[np.isin(lowered.program.route, target.port_routes)].sum()
    assert loaded(lowered, A) + loaded(lowered, B) + arrived == 4 * (256 + 512) * 640 * 2


@settings(max_examples=40, deadline=None)
@given(names, groups, sizes, sizes)
def test_no_candidate_exceeds_a_buffer(name: str, m: list[int], n: int, k: int) -> None:
    target = TARGETS[name]
    for tiling in score_tilings(target, MatmulShape(tuple(m), n, k, "bf16", 2.0, 2.0, 2.0), keep=100):
        assert tiling.slots >= 2
        chunk = 2 * tiling.tk * (tiling.tm + tiling.tn / tiling.pair)
        assert tiling.slots * chunk <= target.scratchpad_bytes
        assert 4 * tiling.tm * tiling.tn <= target.accumulator_bytes


@pytest.mark.parametrize(("name", "m", "n", "k"), [("a100", 2048, 6144, 12288), ("tpu-v4", 262144, 4096, 4096)])
def test_what_is_left_out_is_counted(name: str, m: int, n: int, k: int) -> None:
    """Multiplications, results and transfers of a sampled product are those of the whole one."""
    counts = []
    for exact in (False, True):
        _, lowered = lower_gemm(TARGETS[name], (m,), n, k, exact=exact)
        program = lowered.program
        weight = program.weight.astype(np.int64)
        written = program.write & (program.region == lowered.tensors.index(C))
        counts.append(
            [len(program), (weight * program.work_ps).sum(), (weight * program.nbytes)[written].sum(),
             (weight * program.nbytes)[~program.write].sum()]
        )  # fmt: skip
    assert counts[0][0] < 0.75 * counts[1][0]
    assert counts[0][1:] == pytest.approx(counts[1][1:], rel=0.02)  # low tiles at the edge of the group


def test_the_few_large_tiles_of_a_tpu_are_all_walked() -> None:
    """Left out, of 576 steps, they were 8 % of its time."""
    target, shape = make_target(load_chip("tpu-v5e")), MatmulShape((2735,), 12288, 8192, "bf16", 2.0, 2.0, 2.0)
    program = lower_product(
        target, "gemm", shape, choose_tiling(target, shape), ProductOperands(A, B, C, b_each=False)
    ).program  # fmt: skip
    assert (program.weight == 1).all()
    assert not len(program.carry.weights)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(("h800", "tpu-v4", "custom-npu")), st.integers(1, 600), sizes, sizes)
def test_chunks_alive_in_a_scratchpad_never_exceed_it(name: str, m: int, n: int, k: int) -> None:
    """From the arrival of its first byte to the end of its multiplication a chunk holds its place."""
    target = TARGETS[name]
    _, lowered = lower_gemm(target, (m,), n, k)
    program = lowered.program
    run = CompiledInterpreter(target.machine).run(program, 0, bases(lowered))
    multiplies = np.flatnonzero(np.isin(program.route, target.matrix_routes))
    events: dict[int, list[tuple[int, int]]] = {}
    for step in multiplies:
        for load in program.preds_of(int(step)):
            if program.nbytes[load]:
                core = int(program.tag[step])
                size = int(program.nbytes[load])
                events.setdefault(core, []).extend([(int(run.start_ps[load]), size), (int(run.finish_ps[step]), -size)])
    for moves in events.values():
        alive = np.cumsum([size for _, size in sorted(moves)])
        assert alive.max() <= target.scratchpad_bytes


@settings(max_examples=30, deadline=None)
@given(names, groups, sizes, sizes)
def test_a_product_takes_at_least_its_flops_and_its_bytes(name: str, m: list[int], n: int, k: int) -> None:
    target = TARGETS[name]
    _, lowered = lower_gemm(target, tuple(m), n, k)
    run = CompiledInterpreter(target.machine).run(lowered.program, 0, bases(lowered))
    active = sum(rows > 0 for rows in m)
    cold = 2 * (sum(m) * k + active * n * k)
    assert run.elapsed_ps >= 2e12 * sum(m) * n * k / target.peak_flops("bf16")
    assert run.elapsed_ps >= 1e12 * cold / target.dram_bytes_per_s


@pytest.mark.parametrize(("name", "m", "n", "k"), [("h800", 4096, 28672, 4096), ("a100", 16384, 4096, 4096)])
def test_waves_carried_forward_agree_with_the_exact_run(name: str, m: int, n: int, k: int) -> None:
    from archsim.engine import Launch, Session

    target, times = TARGETS[name], []
    for exact in (True, False):
        _, lowered = lower_gemm(target, (m,), n, k, exact=exact)
        assert bool(len(lowered.program.carry.weights)) != exact
        session = Session(target.machine)
        for base in (bases(lowered), [1 << 40 | place for place in bases(lowered)]):  # the first run fills the cache
            launch = Launch("gemm", "compute", program=lowered.program, bases=base)
            begin = session.now_ps
            session.run([launch])
        times.append(session.now_ps - begin)
    assert times[1] == pytest.approx(times[0], rel=0.01)


MORE = [  # what a chip has more of; its power limit is lifted, for more of anything would lower the clock
    {"clock": "2400 MHz"},
    {"memory.bandwidth": "4078 GB/s", "memory.stacks": "10"},
    {"core.scratchpad.capacity": "256 KiB"},
    {"core.accumulator.capacity": "256 KiB"},
    {"core.port.read_bytes_per_cycle": "128"},
    {"cache.capacity": "80 MiB"},
    {"cores": "216", "cache.bandwidth": "14.4 TB/s"},  # more cores behind the same cache share out small products worse
]


@pytest.mark.parametrize("more", MORE, ids=lambda more: next(iter(more)))
def test_a_product_takes_no_longer_with_more_of_a_resource(more: dict[str, str]) -> None:
    """Within 3 %: other tilings meet other banks and refreshes."""
    free = {"peak": {}, "physical.tdp": "4000 W"}
    plain, richer = (make_target(load_chip("a100", free | change)) for change in ({}, more))
    for m, n, k in ((60, 1838, 2190), (512, 1024, 1024), (16, 4096, 1024)):
        shape = MatmulShape((m,), n, k, "bf16", 2.0, 2.0, 2.0)
        before, after = (simulated_s(target, shape, choose_tiling(target, shape)) for target in (plain, richer))
        assert after <= 1.03 * before, (m, n, k)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("b200", {"core.port.read_bytes_per_cycle": "128"}),
        ("h800", {"cache.bandwidth": "18.8 TB/s"}),
        ("mi300x", {"core.port.read_bytes_per_cycle": "128"}),
        ("gaudi3", {"core.scratchpad.capacity": "48 MiB"}),
        ("ascend-910b", {"memory.bandwidth": "3200 GB/s", "memory.stacks": "8"}),
        ("tpu-v5p", {"core.accumulator.capacity": "64 MiB"}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_small_products_of_other_chips_take_no_longer_with_more(name: str, more: dict[str, str]) -> None:
    """Within 10 %: the search probes six tilings, and the best of others may be among them on one chip alone."""
    free = {"peak": {}, "physical.tdp": "9000 W"}
    plain, richer = (make_target(load_chip(name, free | change)) for change in ({}, more))
    for m, n, k in ((91, 206, 2815), (373, 1013, 3990), (3, 2570, 1390)):
        shape = MatmulShape((m,), n, k, "bf16", 2.0, 2.0, 2.0)
        before, after = (simulated_s(target, shape, choose_tiling(target, shape)) for target in (plain, richer))
        assert after <= 1.1 * before, (m, n, k)


@pytest.mark.parametrize("name", ["h800", "custom-npu"])
def test_a_lowered_product_runs_alike_on_both_interpreters(name: str) -> None:
    target = TARGETS[name]
    _, lowered = lower_gemm(target, (70, 0, 33), 150, 200)
    fast = CompiledInterpreter(target.machine).run(lowered.program, 0, bases(lowered))
    slow = SimpyInterpreter(target.machine).run(lowered.program, 0, bases(lowered))
    assert np.array_equal(fast.finish_ps, slow.finish_ps)
    assert fast.counters == slow.counters


attention = st.builds(
    lambda batch, q_len, past, group, kv_heads, causal, window, shared: AttentionShape(
        batch, q_len, q_len + past, group * kv_heads, kv_heads, 80, 64, causal, window, shared, "bf16", 2.0, 2.0
    ),
    st.integers(1, 3), st.integers(1, 200), st.one_of(st.just(0), st.integers(0, 400)), st.sampled_from([1, 2, 5]),
    st.integers(1, 3), st.booleans(), st.one_of(st.none(), st.integers(1, 300)), st.booleans(),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(names, attention)
@example("b200", AttentionShape(2, 145, 145, 2, 2, 80, 64, True, 1, False, "bf16", 2.0, 2.0))  # pairs of cores
@example("b200", AttentionShape(2, 256, 256, 4, 2, 80, 64, True, None, False, "bf16", 2.0, 2.0))
@example("b200", AttentionShape(2, 256, 256, 4, 2, 80, 64, False, None, False, "bf16", 2.0, 2.0))
def test_attention_stores_every_output_once_and_sees_every_visible_key(name: str, shape: AttentionShape) -> None:
    target = TARGETS[name]
    lowered = lower_attention(target, "attention", shape, (0, 1, 2, 3))
    assert_written_once(stores(lowered, 3), shape.batch * shape.heads * shape.q_len * shape.d_v * 2)
    keys = shape.kv_len if shape.window is None else min(shape.kv_len, shape.window + shape.q_len - 1)
    # what earlier steps left lies in pages, in runs of one mean length
    seen = loaded if shape.kv_len > shape.q_len else covered
    assert seen(lowered, 1) >= shape.batch * shape.kv_heads * keys * shape.d_qk * 2
    if shape.kv_shared:
        assert loaded(lowered, 2) == 0
    else:
        assert seen(lowered, 2) >= shape.batch * shape.kv_heads * keys * shape.d_v * 2
    run = CompiledInterpreter(target.machine).run(lowered.program, 0, bases(lowered))
    assert run.elapsed_ps > 0


@settings(max_examples=60, deadline=None)
@given(
    names, st.integers(1, 5000), st.lists(st.integers(1, 3_000_000), min_size=1, max_size=3), st.integers(1, 3_000_000)
)
def test_a_vector_kernel_moves_each_stream_once(name: str, rows: int, read: list[int], written: int) -> None:
    target = TARGETS[name]
    inputs = [Stream(i, nbytes) for i, nbytes in enumerate(read)]
    lowered = lower_rows(target, "rows", rows, inputs, [Stream(9, written)], [(written, COSTS["silu_mul"])])
    assert_written_once(stores(lowered, 9), written)
    assert [loaded(lowered, i) for i in range(len(read))] == read


def test_a_tile_that_fits_no_buffer_is_named_with_its_bytes() -> None:
    tiny = make_target(load_chip("custom-npu", {"core.scratchpad.capacity": "16 KiB"}))
    with pytest.raises(InputError, match=r"no tile of a bf16 product fits custom-npu: .* B of scratchpad \(16,384 B\)"):
        choose_tiling(tiny, MatmulShape((64,), 64, 64, "bf16", 2.0, 2.0, 2.0))
    tiny = make_target(load_chip("custom-npu", {"core.accumulator.capacity": "3 KiB"}))
    shape = AttentionShape(1, 1, 64, 1, 1, 80, 64, True, None, False, "bf16", 2.0, 2.0)
    with pytest.raises(InputError, match="no attention tile with heads of 80 fits custom-npu"):
        lower_attention(tiny, "attention", shape, (0, 1, 2, 3))


def test_a_limit_of_outstanding_bytes_cuts_reads_and_holds_them_up() -> None:
    """The same bytes arrive in parts of an eighth of the limit, no faster than the limit over the latency allows."""
    limit = 8 * 1024
    narrow = make_target(load_chip("custom-npu", {"core.port.outstanding": f"{limit} B"}))
    shape = MatmulShape((256,), 512, 2048, "bf16", 2.0, 2.0, 2.0)
    tiling = pinned(narrow, shape, {"tm": 64, "tn": 128, "tk": 128, "slots": 4}, "gemm")
    operands = ProductOperands(A, B, C, b_each=False)
    free, held = (lower_product(t, "gemm", shape, tiling, operands) for t in (TARGETS["custom-npu"], narrow))
    assert [loaded(held, each) for each in (A, B)] == [loaded(free, each) for each in (A, B)]
    reads = ~held.program.write & (held.program.region >= 0)
    assert held.program.nbytes[reads].max() == limit // 8
    free_ps, held_ps = (
        CompiledInterpreter(t.machine).run(each.program, 0, bases(each)).elapsed_ps
        for t, each in ((TARGETS["custom-npu"], free), (narrow, held))
    )
    core_bytes = (loaded(held, A) + loaded(held, B)) / narrow.cores
    assert held_ps > core_bytes / limit * narrow.memory_latency_s * 0.8e12  # open rows answer sooner
    assert held_ps > 1.5 * free_ps


def test_a_limit_of_all_cores_together_counts_as_one_of_each() -> None:
    target = make_target(load_chip("custom-npu", {"memory.outstanding": "64 KiB"}))
    stream = [Stream(A, 16 << 20)]
    lowered = lower_rows(target, "copy", 1 << 12, stream, [], [])
    elapsed = CompiledInterpreter(target.machine).run(lowered.program, 0, bases(lowered)).elapsed_ps
    rate = (16 << 20) / elapsed * 1e12
    assert rate == pytest.approx(64 * 1024 / target.memory_latency_s, rel=0.2)
