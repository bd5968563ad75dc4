"""The stages of a tile of attention: who waits for whom, and what a kernel's way of being written costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from archsim.engine import CompiledInterpreter
from archsim.hardware import load_chip
from archsim.mapping import Target, choose_tiling, make_target
from archsim.mapping.attention_kernel import ANY_KERNEL, AttentionKernel, AttentionShape, Merge
from archsim.mapping.lowering.attention import lower_attention
from archsim.mapping.lowering.attention_cut import Cut, choose_cut, latent_cycle, order_of, stage_cycles
from archsim.mapping.lowering.product import ProductOperands, lower_product
from archsim.mapping.lowering.rows import Stream, lower_rows
from archsim.mapping.tiling import MatmulShape
from archsim.models.attention import Order, block_time
from archsim.models.vector import NarrowLoads

A100, H100, B200, TPU = (make_target(load_chip(name)) for name in ("a100", "h100", "b200", "tpu-v6e"))
TURNS = AttentionKernel(overlap=False, fixed=True)


def shape(q_len: int, kv_len: int, *, heads: int = 16, kernel: AttentionKernel = ANY_KERNEL) -> AttentionShape:
    """Heads that share one key/value head, so that keys come from the cache."""
    return AttentionShape(1, q_len, kv_len, heads, 1, 128, 128, False, None, False, "bf16", 2.0, 2.0, kernel=kernel)


def seconds(target: Target, attention: AttentionShape) -> float:
    program = lower_attention(target, "attention", attention, (0, 1, 2, 3)).program
    run = CompiledInterpreter(target.machine).run(program, 0, [i << 34 for i in range(len(program.regions))])
    return run.end_ps * 1e-12


def test_a_synchronous_unit_is_fed_between_its_products() -> None:
    """128 x 128 x 128 on an A100: 2048 cycles of products, and four warps with 32 rows that read 32 KiB each."""
    m = np.array([128])
    assert A100.matrix_cycles(m, m, m, "bf16").tolist() == [2048]
    assert A100.fed_cycles(m, m, m, "bf16").tolist() == [2048 + 4 * 128 * 128 * 2 // 128]
    assert A100.fed_cycles(m // 2, m, m, "bf16").tolist() == [1024 + 4 * 128 * 128 * 2 // 128]  # with 16 rows
    # warps that read ahead load for the next product while they multiply
    assert A100.fed_cycles(m, m, m, "bf16", read_ahead=True).tolist() == [2048]
    assert A100.fed_cycles(m // 8, m, m, "bf16", read_ahead=True).tolist() == [256]
    # wgmma takes 64 rows a time and reads ahead: two times 32 KiB take less than the product
    assert H100.fed_cycles(m, m, m, "bf16").tolist() == H100.matrix_cycles(m, m, m, "bf16").tolist() == [1024]


def test_older_kernels_on_hopper_multiply_by_synchronous_instructions() -> None:
    unit, share = H100.chip.core.matrix, 0.62
    older = H100.synchronous
    m = np.array([128])
    assert unit.kind == "tensor_core"
    assert unit.synchronous_share == share
    assert older.matrix_cycles(m, m, m, "bf16").tolist() == [int(np.ceil(1024 / share))]
    assert not older.asynchronous
    assert A100.synchronous is A100
    kernel = AttentionKernel(overlap=False, split=False, fixed=True, rows=128, synchronous=True)
    one = shape(128, 4096, kernel=kernel)
    assert seconds(H100, one) > 1.3 * seconds(H100, replace(one, kernel=replace(kernel, synchronous=False)))
    # 128 x 64 leaves room for two blocks of threads on an H100; an A6000 of 100 KiB gets 32 keys
    cuts = [choose_cut(target, one) for target in (older, make_target(load_chip("a6000")))]
    assert [(cut.rows, cut.keys, cut.resident) for cut in cuts] == [(128, 64, 2), (128, 32, 2)]


def test_a_pair_of_cores_shares_the_rows_of_an_instruction() -> None:
    """128 heads of MLA on a B200: a core holds 64 of them and delivers half of the 128 keys, alone all of them."""
    b200 = make_target(load_chip("b200"))
    latent = AttentionShape(1, 1, 4096, 128, 1, 576, 512, False, None, True, "bf16", 2.0, 2.0)
    rows = np.array([64])
    paired, alone = (stage_cycles(b200, replace(latent, heads=heads), rows, 128) for heads in (128, 64))
    assert (int(paired[0][0]), int(alone[0][0])) == ((64 + 64) * 576 * 2 // 128, (64 + 128) * 576 * 2 // 128)
    # of 64 keys a core delivers 32; the queries, which are read for every block, take longer than the products
    paired, _ = (stage_cycles(b200, replace(latent, heads=heads), rows, 64) for heads in (128, 64))
    assert int(paired[0][0]) == (64 + 32) * 576 * 2 // 128


def test_what_lies_outside_the_loop_counts_once_a_block_of_threads() -> None:
    kernel = replace(TURNS, persistent=False)
    tiles = [seconds(H100, shape(1024, 512, heads=132, kernel=replace(kernel, outside=n))) for n in (0, 2000)]
    # less what the loads of the first wait for
    assert tiles[1] - tiles[0] == pytest.approx(8 * 2000 / H100.clock, rel=0.05)


def test_keys_are_split_as_a_library_says_and_two_of_its_blocks_hide_each_other() -> None:
    """64 heads of 1,024 keys on 132 cores: eight ranges of 128, four blocks of threads a core."""
    kernel = AttentionKernel(overlap=False, persistent=False, merge="last", ranges=8, outside=2000)
    decode = AttentionShape(64, 1, 1024, 8, 1, 128, 128, True, None, False, "bf16", 2.0, 2.0, kernel=kernel)
    assert choose_cut(H100, decode).splits == 8
    two = replace(decode, kernel=replace(kernel, resident=2))
    assert choose_cut(H100, two).resident == 2
    assert choose_cut(H100, two).slots * choose_cut(H100, two).keys * 512 * 2 <= H100.scratchpad_bytes
    assert seconds(H100, two) < seconds(H100, decode)


def test_the_steady_state_is_the_closed_form() -> None:
    for kernel in (TURNS, replace(TURNS, overlap=True)):
        long, longer = (shape(128, keys, heads=132, kernel=kernel) for keys in (4096, 8192))
        cut = choose_cut(H100, long)
        clock = H100.sustained_clock("bf16", cut.busy)
        scores, softmax, value = (int(each[0]) / clock for each in stage_cycles(H100, long, np.array([128]), cut.keys))
        assert scores == value == 1024 / clock
        block = block_time(scores, softmax, value, order_of(H100, long))
        measured = (seconds(H100, longer) - seconds(H100, long)) / (4096 / cut.keys)
        assert cut.keys == 128
        assert measured == pytest.approx(block, rel=0.08)  # latencies of the matrix unit


def test_units_with_sequencers_of_their_own_wait_for_nothing_but_each_other() -> None:
    """On a TPU the products of some blocks hide the softmax of others: the busier unit sets the pace."""
    keys = 32768
    for rows in (512, 1024):  # fewer are bound by the memory
        long = shape(rows, keys, heads=1)
        cut = choose_cut(TPU, long)
        scores, softmax, value = (int(each[0]) for each in stage_cycles(TPU, long, np.array([cut.rows]), cut.keys))
        busier = max(scores + value, softmax) / TPU.sustained_clock("bf16", cut.busy)
        blocks = keys / cut.keys * rows / cut.rows
        slope = (seconds(TPU, replace(long, kv_len=2 * keys)) - seconds(TPU, long)) / blocks
        assert slope == pytest.approx(busier, rel=0.1)


def test_tensor_memory_frees_the_warps_of_blackwell() -> None:
    """On a B200 products of one block hide the softmax of another, as many as tensor memory holds beside the output;
    kernels that take turns, as those that were measured, reach two thirds (1.0 to 1.13 PFLOP/s)."""
    prompt = AttentionShape(1, 16384, 16384, 16, 2, 128, 128, True, None, False, "bf16", 2.0, 2.0)
    cut = choose_cut(B200, prompt)
    assert cut.order == "apart"
    assert 4 * cut.rows * (cut.scores * cut.keys + 128) <= B200.accumulator_bytes
    flops = 2 * 16 * 16384**2 * 128
    apart, turns = (flops / seconds(B200, replace(prompt, kernel=kernel)) for kernel in (ANY_KERNEL, TURNS))
    assert 1.40e15 < apart < 1.62e15
    assert 0.9e15 < turns < 1.13e15
    assert (order_of(H100, prompt), order_of(A100, prompt)) == ("alternate", "turns")


def test_a_block_of_threads_alone_waits_for_its_keys() -> None:
    """Twice as many blocks of threads as cores cost less than twice the time: what one waits for, the other hides."""
    kernel = replace(TURNS, split=False)  # feeding the products of one block of threads is what another hides
    few, many = (shape(64, 8192, heads=heads, kernel=kernel) for heads in (108, 216))
    cut = choose_cut(A100, few)
    assert (cut.slots, cut.resident) == (1, 2)
    assert seconds(A100, few) < seconds(A100, many) < 1.5 * seconds(A100, few)


def test_a_tile_of_one_size_costs_the_same_with_few_queries_in_it() -> None:
    one, full = (seconds(H100, shape(rows, 2048, kernel=TURNS)) for rows in (20, 128))
    assert one == pytest.approx(full, rel=0.3)  # queries and results are fewer bytes
    assert seconds(H100, shape(20, 2048)) < 0.8 * one


def test_blocks_that_start_from_their_loads_wait_for_them() -> None:
    following = replace(TURNS, persistent=False)
    tiles = [seconds(H100, shape(1024, 128, heads=132, kernel=kernel)) for kernel in (TURNS, following)]
    assert 0.5e-6 < (tiles[1] - tiles[0]) / 7 < 2.5e-6  # seven of eight tiles of a core


def test_a_group_that_is_too_large_is_worked_on_head_by_head() -> None:
    grouped = AttentionShape(4, 1, 8192, 64, 1, 128, 128, True, None, False, "bf16", 2.0, 2.0)
    alone = replace(grouped, kernel=replace(ANY_KERNEL, pack=32))
    assert seconds(H100, alone) > 2 * seconds(H100, grouped)


def test_narrow_loads_wait_for_a_round_trip_a_pass() -> None:
    loads = NarrowLoads(threads=1024, per_row=1)
    round_trip = A100.chip.core.vector.round_trip
    assert round_trip is not None
    # two blocks of 1024 threads a core, nine trips for 8192 elements, one of them the load itself
    busy = A100.row_seconds(loads, 8192, 10**6, cached=False)
    assert busy == pytest.approx(8 * round_trip / 2)
    assert A100.row_seconds(loads, 8192, 10**6, cached=True) < busy
    assert A100.row_seconds(loads, 8192, 1, cached=False) == pytest.approx(8 * (A100.memory_latency_s + round_trip) / 2)
    times = []
    for how in (None, loads):
        streams = [Stream(0, 4096 * 8192 * 2)], [Stream(1, 4096 * 8192 * 2)]
        program = lower_rows(A100, "norm", 4096, *streams, [], loads=how, cols=8192).program
        times.append(CompiledInterpreter(A100.machine).run(program, 0, [0, 1 << 34]).end_ps)
    assert times[1] > 2 * times[0]


def test_a_narrow_cache_is_widened_on_the_lanes() -> None:
    """2 x 128 elements a key at 13 more operations on 128 lanes: 26 cycles a key."""
    ada = make_target(load_chip("l40s"))
    narrow = AttentionShape(1, 1, 16384, 8, 1, 128, 128, False, None, False, "bf16", 2.0, 1.0, convert=True,
                            kernel=AttentionKernel(overlap=False, split=False))  # fmt: skip
    slow = replace(narrow, kernel=replace(narrow.kernel, widen=15.0))
    assert seconds(ada, slow) - seconds(ada, narrow) == pytest.approx(16384 * 26 / ada.clock, rel=0.1)


def test_a_short_scratchpad_gets_a_lower_tile() -> None:
    """64 queries of MLA's 576 dims and two blocks of 16 keys exceed the 100 KiB of Ada; 32 queries do not."""
    latent = AttentionShape(1, 1, 4096, 128, 1, 576, 512, False, None, True, "bf16", 2.0, 2.0, kernel=TURNS)
    ada = make_target(load_chip("l40s"))
    cut = choose_cut(ada, latent)
    assert cut.rows == 32
    assert cut.rows * 576 * 2 + cut.slots * cut.keys * 576 * 2 <= ada.scratchpad_bytes


def test_one_core_keeps_as_much_in_flight_as_its_memory_needs() -> None:
    """A copy on a chip with one core and no cache runs at the rate of its memory, not at two blocks a latency."""
    tpu = make_target(load_chip("tpu-v6e"))
    nbytes = 64 << 20
    program = lower_rows(tpu, "copy", 8192, [Stream(0, nbytes)], [Stream(1, nbytes)], []).program
    run = CompiledInterpreter(tpu.machine).run(program, 0, [0, nbytes])
    assert run.end_ps * 1e-12 < 1.5 * 2 * nbytes / tpu.dram_bytes_per_s


def test_a_copy_behind_a_cache_turns_the_bus_seldom() -> None:
    """256 MiB read and written on an A100, where a queue of 128 bursts alone leaves 62 % of the peak."""
    nbytes = 256 << 20
    program = lower_rows(A100, "copy", 8192, [Stream(0, nbytes)], [Stream(1, nbytes)], []).program
    run = CompiledInterpreter(A100.machine).run(program, 0, [0, nbytes])
    assert 0.75 < 2 * nbytes / A100.dram_bytes_per_s / (run.end_ps * 1e-12) < 1.0


def test_many_small_products_keep_the_arrays_of_one_core_busy() -> None:
    """A head at a time: loads for many heads are under way, and sums of several on their way through the arrays."""
    heads = MatmulShape((4,) * 512, 33, 128, "bf16", 2, 2, 2)
    tiling, operands = choose_tiling(TPU, heads), ProductOperands(0, 1, 2, True)
    program = lower_product(TPU, "scores", heads, tiling, operands, exact=True).program
    run = CompiledInterpreter(TPU.machine).run(program, 0, [i << 34 for i in range(3)])
    busy_s = 512 * 256 / TPU.clock  # changing what is stationary takes 256 cycles
    assert busy_s < run.end_ps * 1e-12 < 1.1 * busy_s


def test_a_kernel_that_multiplies_on_the_vector_unit_takes_its_lane_operations() -> None:
    """For each element of K and V two for the product, two more to add up a key, and six of 48 on the address of eight
    elements: these are issued beside the others, of which an A100 has 64 lanes, and 128 operations of all kinds a
    cycle."""
    kernel = AttentionKernel(pack=1, lanes=True)
    one = np.array([1])
    assert [int(each[0]) for each in stage_cycles(A100, shape(1, 64, kernel=kernel), one, 64)] == [
        64 * 128 * (4 + 6) // 128, 64 * 4 // 64, 64 * 128 * (2 + 6) // 128,
    ]  # fmt: skip
    narrow = replace(shape(1, 64, kernel=kernel), kv_bytes=1.0)  # two more to widen it, and half of the addresses
    assert int(stage_cycles(A100, narrow, one, 64)[2][0]) == 64 * 128 * 4 // 64
    many = replace(shape(1, 2048, kernel=kernel), batch=108)
    lane_s = 108 * 16 * 2048 * (128 * 18 / 128 + 4 / 64) / (108 * A100.clock)
    wide = make_target(load_chip("a100", {"cache.efficiency": "1"}))  # its cache is no limit
    assert lane_s < seconds(wide, many) < 1.3 * lane_s


def absorbed(batch: int, kv_len: int, heads: int, kernel: AttentionKernel = ANY_KERNEL) -> AttentionShape:
    """MLA's decode: all heads share one latent key, which is the value as well."""
    return AttentionShape(batch, 1, kv_len, heads, 1, 576, 512, True, None, True, "bf16", 2.0, 2.0, kernel=kernel)


def test_latents_hold_their_place_until_their_values_are_used() -> None:
    """Two blocks fit beside 64 heads on an H800: its warps take turns, since alternating would wait for every load."""
    h800 = make_target(load_chip("h800"))
    decode = absorbed(128, 4096, 128)
    cut = choose_cut(h800, decode)
    assert (cut.rows, cut.keys, cut.slots, cut.order) == (64, 64, 2, "turns")
    flops = 2 * 128 * 128 * 4096 * (576 + 512)
    assert flops / seconds(h800, decode) == pytest.approx(660e12, rel=0.1)  # FlashMLA, April 2025
    assert choose_cut(h800, replace(decode, kv_shared=False, d_qk=128, d_v=128)).order == "alternate"


def test_sequences_of_latents_are_cut_into_equal_ranges() -> None:
    """48 sequences are 96 tiles for 132 cores: 66 ranges on two cores each, whose parts of a tile are merged."""
    h800 = make_target(load_chip("h800"))
    decode = absorbed(48, 4989, 128)
    assert choose_cut(h800, decode).planned
    program = lower_attention(h800, "attention", decode, (0, 1, 2, 3)).program
    read, written = (program.nbytes[(program.region == i) & (program.write == w)].sum() for i, w in ((1, 0), (3, 1)))
    assert read == 2 * 48 * 4989 * 576 * 2  # by each of two tiles, once
    assert written == 48 * 128 * 512 * 2  # every result once, merged or not
    times = [seconds(h800, replace(decode, batch=n)) for n in (40, 48, 56)]
    assert times[2] - times[1] == pytest.approx(times[1] - times[0], rel=0.35)  # no waves of tiles
    assert seconds(h800, decode) < 0.95 * seconds(h800, replace(decode, kernel=AttentionKernel(split=False)))


@pytest.mark.parametrize(("order", "slots"), [("turns", 2), ("alternate", 2), ("alternate", 4)])
def test_the_pace_of_latents_is_the_closed_form(monkeypatch: pytest.MonkeyPatch, order: Order, slots: int) -> None:
    decode = absorbed(1, 8192, 64, AttentionKernel(split=False))
    longer, keys = replace(decode, kv_len=16384), 64 if slots == 2 else 32
    cut = Cut(64, keys, 1, slots, 1, 2 if order == "alternate" else 1, order)
    monkeypatch.setattr("archsim.mapping.lowering.attention.choose_cut", lambda *_: cut)
    clock = H100.sustained_clock("bf16", cut.busy)
    stages = (int(each[0]) / clock for each in stage_cycles(H100, decode, np.array([64]), keys, order))
    scores, softmax, value = stages
    load = H100.memory_latency_s + keys * 576 * 2 / H100.port_read_bytes_per_s
    waiting = latent_cycle(cut, scores, softmax, value, load)
    pace = (seconds(H100, longer) - seconds(H100, decode)) / (8192 / keys)
    assert pace == pytest.approx(max(waiting, block_time(scores, softmax, value, order)), rel=0.12)


def test_tiles_in_pieces_are_as_high_and_as_long_in_a_small_scratchpad() -> None:
    """An L40S has room for 32 rows of 576 dims beside their keys; the kernel works on 64, and on whole blocks of 64."""
    small = make_target(load_chip("l40s"))
    whole = AttentionKernel(overlap=False, fixed=True, split=False, persistent=False, read_ahead=False)
    pieces = replace(whole, pieces=2)
    assert choose_cut(small, absorbed(1, 512, 16, whole)).rows == 32
    cut = choose_cut(small, absorbed(1, 512, 16, pieces))
    assert (cut.rows, cut.keys, cut.slots) == (64, 32, 2)
    short, block = (seconds(A100, absorbed(1, keys, 16, pieces)) for keys in (2, 64))
    assert short == pytest.approx(block, rel=0.06)  # but for the keys that it does not load


def test_heads_beyond_the_most_of_a_tile_read_the_keys_again() -> None:
    kernel = AttentionKernel(most=16, split=False)
    assert choose_cut(B200, absorbed(64, 4096, 32, kernel)).rows == 16
    assert seconds(B200, absorbed(64, 4096, 32, kernel)) > 1.15 * seconds(B200, absorbed(64, 4096, 32))


def test_cores_that_share_an_instruction_hold_a_part_of_the_keys_each() -> None:
    """128 heads are two tiles of 64 rows, half an instruction each: together they load every key once."""
    attention = absorbed(64, 1000, 128)
    cut = choose_cut(B200, attention)
    assert (cut.rows, cut.together) == (64, 2)
    program = lower_attention(B200, "attention", attention, (0, 1, 2, 3)).program
    assert choose_cut(B200, absorbed(64, 1000, 64)).together == 1  # too few rows for an instruction
    odd = choose_cut(B200, absorbed(64, 1000, 192))  # of three tiles of 64 rows one would have nobody to share with
    assert (odd.rows, odd.together) == (32, 2)
    read = program.nbytes[(program.region == 1) & (program.nbytes > 0)].sum()
    assert read == pytest.approx(64 * 1000 * 576 * 2, rel=0.01)


def test_who_merges_partial_results() -> None:
    """The last block of threads, without the boundary of a kernel; a cluster shares what is much for one core."""

    def merged(rows: int, way: Merge) -> float:
        return seconds(H100, shape(1, 1024, heads=rows, kernel=AttentionKernel(merge=way)))

    assert choose_cut(H100, shape(1, 1024, heads=8)).splits > 1
    assert merged(8, "last") < merged(8, "kernel")
    assert merged(64, "cluster") < merged(64, "last")


def test_tiles_of_one_size_with_room_for_one_block_keep_its_length() -> None:
    """Heads of 192 and 128 dims on a B200: 256 queries and two blocks of 128 keys are 262 KB, one of them 180."""
    kernel = AttentionKernel(overlap=False, fixed=True, split=False)
    expanded = AttentionShape(1, 4096, 4096, 16, 16, 192, 128, True, None, False, "bf16", 2.0, 2.0, kernel=kernel)
    cut = choose_cut(B200, expanded)
    assert (cut.rows, cut.keys, cut.slots) == (256, 128, 1)
    short = choose_cut(B200, replace(expanded, q_len=64, kv_len=64))
    assert (short.keys, short.slots >= 2) == (64, True)
    # values of a block are used after the scores of the next where warps alternate, so that two have to be there
    wide = AttentionShape(1, 2048, 2048, 8, 8, 256, 256, True, None, False, "bf16", 2.0, 2.0,
                          kernel=AttentionKernel(fixed=True, split=False))  # fmt: skip
    assert (choose_cut(H100, wide).order, choose_cut(H100, wide).slots) == ("alternate", 2)
    assert seconds(H100, wide) > 0


def test_a_core_with_room_for_one_block_of_queries_waits_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """256 queries of 192 dims take 96 KiB of a GB300's scratchpad, and their results 128 KiB of its tensor memory: the
    closed form counts the wait for the next ones, and takes smaller tiles."""
    target = make_target(load_chip("gb300"))
    prompt = AttentionShape(1, 4096, 4096, 128, 128, 192, 128, True, None, False, "bf16", 2.0, 2.0)
    chosen = choose_cut(target, prompt)
    tall = replace(chosen, rows=256, keys=64, slots=3, queries=1, scores=2, together=1)

    def whole_s(cut: Cut) -> float:
        monkeypatch.setattr("archsim.mapping.lowering.attention.choose_cut", lambda *_: cut)
        program = lower_attention(target, "attention", prompt, (0, 1, 2, 3)).program
        run = CompiledInterpreter(target.machine).run(program, 0, [i << 34 for i in range(len(program.regions))])
        return (run.end_ps + program.carry.time_ps(run.finish_ps)) * 1e-12

    assert chosen.queries > 1
    assert whole_s(tall) > 1.3 * whole_s(chosen)
