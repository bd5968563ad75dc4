"""Does each quantisation plan store, scale, convert and compute what it says, and is its work simulated?"""

from __future__ import annotations

from pathlib import Path

import pytest

import archsim
from archsim.cli.run import run
from archsim.errors import InputError
from archsim.trace import QUANTS, Graph, Op, Trace, load_trace, load_workload, quantised

TRACES = {
    (name, phase): load_workload(name, phase)
    for name in ("llama-3.1-8b", "deepseek-v3")
    for phase in ("prefill", "decode")
}
LAYER = {"q_proj": 4096 * 4096, "gate_proj": 14336 * 4096, "down_proj": 4096 * 14336}


def at(trace: Trace, batch: int = 16, length: int = 64) -> Graph:
    return trace.at(batch=batch, **{"seq" if trace.phase == "prefill" else "ctx": length})


def ops(graph: Graph, block: str) -> dict[str, Op]:
    return {op.name: op for b in graph.blocks if b.name == block for op in b.ops}


@pytest.mark.parametrize(
    ("quant", "bits", "scale"),
    [
        ("fp8", 8, lambda n, k: 4 * -(-n // 128) * -(-k // 128)),
        ("int8", 8, lambda n, k: 4 * n),
        ("int4", 4, lambda n, k: 2 * n * k // 128),
        ("fp4", 4, lambda n, k: n * k // 16),
        ("mxfp4", 4, lambda n, k: n * k // 32),
    ],
)
def test_weights_and_their_scales(quant: str, bits: int, scale: object) -> None:
    graph = at(quantised(TRACES["llama-3.1-8b", "decode"], quant))
    for tensor in graph.tensors:
        if tensor.name.endswith("_proj.weight"):
            n, k = tensor.shape
            assert tensor.nbytes == n * k * bits // 8 + scale(n, k)  # type: ignore[operator]
    assert graph.n_params == at(TRACES["llama-3.1-8b", "decode"]).n_params


@pytest.mark.parametrize("key", TRACES)
@pytest.mark.parametrize("quant", QUANTS[1:])
def test_products_stay_the_same_work(key: tuple[str, str], quant: str, tmp_path: Path) -> None:
    before, after = at(TRACES[key]), at(quantised(TRACES[key], quant))
    assert after.n_params == before.n_params
    for old, new in zip(before.blocks, after.blocks, strict=True):
        kept = [op for op in new.ops if op.attrs.get("fn") != "quantise"]
        assert [op.name for op in kept] == [op.name for op in old.ops]
        assert [op.flops for op in kept] == [op.flops for op in old.ops]
        for op, was in zip(kept, old.ops, strict=True):
            assert op.input_bytes[0] <= was.input_bytes[0]
    if quant != "fp8":  # saving is the same for all; the one with typed scales and the one with few suffice
        quantised(TRACES[key], quant).save(tmp_path / "q.h5")
        assert load_trace(tmp_path / "q.h5") == quantised(TRACES[key], quant)


def test_activations_are_quantised_once_for_all_readers() -> None:
    layer = ops(at(quantised(TRACES["llama-3.1-8b", "decode"], "fp8")), "layer")
    quantise = {name: op for name, op in layer.items() if op.attrs.get("fn") == "quantise"}
    assert list(quantise) == [
        f"{name}.quantise" for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
    ]
    op = quantise["mlp.down_proj.quantise"]
    assert op.dims == {"rows": 16, "cols": 14336}
    assert op.flops == 3 * 16 * 14336
    assert op.bytes_read == 2 * 16 * 14336
    assert op.bytes_written == 16 * 14336 + 4 * 16 * 14336 // 128  # a scale for 128 channels of a token
    readers = [op.name for op in layer.values() if quantise["self_attn.q_proj.quantise"].outputs[0] in op.inputs]
    assert readers == ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
    assert layer["self_attn.q_proj"].dtype == "fp8"


def test_a_rewritten_activation_is_quantised_again() -> None:
    trace = TRACES["llama-3.1-8b", "decode"]
    quantised_ops = [op for b in quantised(trace, "int8").blocks for op in b.ops if op.attrs.get("fn") == "quantise"]
    sources = [op.inputs[0] for op in quantised_ops]
    assert len(set(sources)) == len(sources) == 4


def test_tokens_are_sent_to_experts_in_the_narrow_type() -> None:
    graph = at(quantised(TRACES["deepseek-v3", "decode"], "fp8"))
    moe = ops(graph, "moe")
    dispatch, experts = moe["mlp.experts.dispatch"], moe["mlp.experts.gate_up_proj"]
    assert [graph.tensors[i].dtype for i in (dispatch.inputs[0], dispatch.outputs[0])] == ["fp8", "fp8"]
    assert experts.inputs[0] == dispatch.outputs[0]
    assert moe["mlp.shared_experts.gate_proj"].inputs[0] == dispatch.inputs[0]  # quantised once for both
    assert graph.tensors[moe["mlp.gate"].inputs[0]].dtype == "bf16"  # the router decides in full precision
    assert "mlp.experts.down_proj.quantise" in moe
    assert "mlp.experts.gate_up_proj.quantise" not in moe


@pytest.mark.parametrize("quant", ["int4", "mxfp4"])
def test_weight_only_plans_compute_as_before(quant: str) -> None:
    for key, trace in TRACES.items():
        old, new = at(trace), at(quantised(trace, quant))
        assert [[op.dtype for op in b.ops] for b in new.blocks] == [[op.dtype for op in b.ops] for b in old.blocks], key


def test_fp8_kv_cache() -> None:
    plain, narrow = (at(quantised(TRACES["llama-3.1-8b", "decode"], q)) for q in ("fp8", "fp8-kv"))
    assert 2 * narrow.kv_bytes == plain.kv_bytes
    layer = ops(narrow, "layer")
    assert [name for name in layer if ".quantise_" in name] == [
        "self_attn.kv_append.quantise_0", "self_attn.kv_append.quantise_1", "self_attn.attention.quantise_0",
    ]  # fmt: skip
    attention = layer["self_attn.attention"]
    assert attention.dtype == "fp8"
    assert attention.input_bytes == (16 * 4096, 16 * 65 * 1024, 16 * 65 * 1024)
    assert attention.output_bytes == (2 * 16 * 4096,)
    assert layer["self_attn.kv_append"].bytes_written == 16 * 2048


def test_fp8_kv_cache_in_prefill() -> None:
    """Keys are read from the cache in its type; keys that MLA expands from the latent ones stay bf16."""
    layer = ops(at(quantised(TRACES["llama-3.1-8b", "prefill"], "fp8-kv")), "layer")
    assert layer["self_attn.attention"].inputs[1:] == layer["self_attn.kv_append"].outputs
    assert layer["self_attn.attention"].dtype == "fp8"
    assert ops(at(quantised(TRACES["deepseek-v3", "prefill"], "fp8-kv")), "moe")["self_attn.attention"].dtype == "bf16"
    graph = at(quantised(TRACES["deepseek-v3", "decode"], "fp8-kv"))
    assert ops(graph, "moe")["self_attn.attention"].dtype == "fp8"
    assert graph.kv_bytes == 70272 // 2 * 16 * 65


def test_none_and_unknown() -> None:
    trace = TRACES["llama-3.1-8b", "decode"]
    assert quantised(trace, "none") is trace
    with pytest.raises(InputError, match=r"unknown quantisation 'fp9' \(did you mean 'fp8'\?\); it is one of none"):
        quantised(trace, "fp9")


# simulated


def step(chip: str, quant: str, **point: object) -> archsim.Result:
    point = {"phase": "decode", "batch": 32, "ctx": 512, **point}
    return archsim.simulate(chip, "llama-3.1-8b", quant=quant, **point)  # type: ignore[arg-type]


def test_narrower_weights_make_decode_faster_in_both_fidelities() -> None:
    for fidelity in ("roofline", "tile"):
        times = [step("h800", quant, fidelity=fidelity).time_ps for quant in ("none", "fp8", "int4")]
        assert times == sorted(times, reverse=True)
        assert times[2] < 0.6 * times[0]


def test_tile_is_never_below_the_roofline() -> None:
    for quant in QUANTS:
        assert step("h800", quant).time_ps >= step("h800", quant, fidelity="roofline").time_ps


def test_dequantisation_works_the_vector_unit() -> None:
    """Every int4 weight is widened once where one tile has all rows: elements / lanes, on all cores."""
    spec = archsim.load_chip("h800")
    plain, narrow = step("h800", "none", batch=16), step("h800", "int4", batch=16)
    elements = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 4096 * 14336)
    seconds = elements / spec.core.vector.lanes / spec.cores / spec.clock
    extra = narrow.units["vector"] * narrow.time_s - plain.units["vector"] * plain.time_s
    assert extra == pytest.approx(seconds, rel=0.1)
    assert [op for op in narrow.ops["name"] if "quantise" in op] == []  # inside the products


def test_quantisation_is_an_operator_of_a_vector_kernel() -> None:
    names = " ".join(step("h800", "fp8").op_table.name)
    assert "mlp.silu_mul + down_proj.quantise" in names


def test_a_unit_without_the_type_computes_in_the_next_wider_one_and_says_so() -> None:
    lacking = "the matrix unit of {} has no {}: such products run in {}"
    notes = step("a100", "fp8").meta["notes"]
    assert lacking.format("a100", "fp8", "bf16") in notes
    assert lacking.format("h800", "fp4", "fp8") in step("h800", "fp4").meta["notes"]
    assert not [note for note in step("h800", "fp8").meta["notes"] if "matrix unit" in note and "has no" in note]
    # stored in 8 bits but multiplied in 16: as much memory traffic, and half the rate of products
    fast, slow = (step(chip, "fp8", phase="prefill", ctx=None, seq=2048, batch=1, fidelity="roofline")
                  for chip in ("h800", "a100"))  # fmt: skip
    flops = sum(op.flops * b.repeat for b in at(TRACES["llama-3.1-8b", "prefill"], 1, 2048).blocks for op in b.ops
                if op.kind == "matmul")  # fmt: skip
    assert slow.time_s > flops / 312e12
    assert fast.time_s < flops / 989e12


def test_the_command_line_offers_every_plan() -> None:
    option = next(p for p in run.params if p.name == "quant")
    assert tuple(option.type.choices) == QUANTS  # type: ignore[attr-defined]
