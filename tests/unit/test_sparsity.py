"""N:M sparse weights: what is stored, multiplied, spent and remembered, and one sentence where a chip has none."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import archsim
from archsim.cli.main import cli
from archsim.errors import InputError
from archsim.explore import Store, Sweep, open_sweep, run_sweep
from archsim.hardware import load_chip
from archsim.mapping import make_target
from archsim.physical import load_variant
from archsim.results import Result
from archsim.reuse import ResultCache, reusing
from archsim.sparsity import Sparsity
from archsim.trace import load_trace, load_workload, pruned, quantised

HALF = Sparsity(2, 4)
MODEL = "deepseek-r1-distill-qwen-1.5b"
NPU_2_4 = {"core.matrix.sparsity": '{"2:4": [bf16]}'}


def times(result: Result, name: str) -> int:
    """Picoseconds of the operators whose names hold ``name``."""
    frame = result.ops
    return int(frame[frame["name"].str.contains(name)]["time_ps"].sum())


@pytest.mark.parametrize(("pattern", "width", "share"), [("2:4", 16, 9 / 16), ("2:4", 8, 5 / 8), ("1:8", 16, 19 / 128)])
def test_kept_weights_are_stored_with_an_index_each(pattern: str, width: int, share: float) -> None:
    assert Sparsity.of(pattern).bits(4096, width) == share * 4096 * width


def test_only_the_weights_of_linear_layers_are_pruned_and_only_what_is_kept_is_multiplied() -> None:
    dense = load_workload("llama-3.1-8b", "decode")
    sparse = pruned(dense, HALF)
    before, after = (trace.at(batch=4, ctx=64) for trace in (dense, sparse))
    for old, new in zip(before.tensors, after.tensors, strict=True):
        linear = old.role == "weight" and "_proj" in old.name
        assert new.nbytes == (old.nbytes * 9 // 16 if linear else old.nbytes), old.name
    for block, other in zip(before.blocks, after.blocks, strict=True):
        for one, two in zip(block.ops, other.ops, strict=True):
            assert two.flops == (one.flops // 2 if "_proj" in one.name else one.flops), one.name


def test_a_pruned_trace_is_another_trace_and_comes_back_from_its_file(tmp_path: Path) -> None:
    dense = quantised(load_workload("llama-3.1-8b", "decode"), "fp8")
    sparse = pruned(dense, HALF)
    assert sparse.content_hash != dense.content_hash
    sparse.save(tmp_path / "sparse.h5")
    again = load_trace(tmp_path / "sparse.h5")
    assert again.tensors == sparse.tensors
    assert again.at(ctx=8).weight_bytes == sparse.at(ctx=8).weight_bytes


def test_a_sparse_instruction_takes_half_the_time_with_weights_as_its_first_operand() -> None:
    target, (m, n, k) = make_target(load_chip("h100")), (np.array(each) for each in (256, 128, 64))
    assert 2 * target.matrix_cycles(m, n, k, "bf16", sparsity=HALF) == target.matrix_cycles(m, n, k, "bf16")
    # 64 rows of an instruction hold weights: 8 columns of them fill an eighth, where 8 tokens do no harm
    narrow = target.matrix_cycles(np.array(256), np.array(8), k, "bf16", sparsity=HALF)
    assert narrow == 8 * target.matrix_cycles(np.array(8), np.array(256), k, "bf16", sparsity=HALF)
    # at twice the rate, activations cannot be read twice as fast: wgmma in bf16 waits for the scratchpad
    fed = target.multiply_cycles(m, n, k, "bf16", 2.0, 9 / 8, sparsity=HALF)
    assert fed > 1.5 * target.matrix_cycles(m, n, k, "bf16", sparsity=HALF)


def test_systolic_arrays_skip_folds_of_the_reduction() -> None:
    target = make_target(load_variant("custom-npu", NPU_2_4))
    m, n, k = (np.array(each) for each in (512, 128, 4096))
    assert target.matrix_cycles(m, n, k, "bf16", sparsity=HALF) == target.matrix_cycles(m, n, k // 2, "bf16")


@pytest.mark.parametrize(
    ("chip", "options"),
    [("h100", {}), ("h100", {"quant": "int4"}), ("custom-npu", {"set": NPU_2_4})],
)
def test_a_step_moves_holds_and_spends_less_and_attention_is_as_it_was(chip: str, options: dict[str, Any]) -> None:
    run: dict[str, Any] = {"phase": "decode", "batch": 16, "ctx": 512, **options}
    dense, sparse = archsim.simulate(chip, MODEL, **run), archsim.simulate(chip, MODEL, sparsity="2:4", **run)
    assert times(sparse, "down_proj") < times(dense, "down_proj")
    assert times(sparse, r"\.attention") == pytest.approx(times(dense, r"\.attention"), rel=0.05)
    assert dict(sparse.memory)["weights"] < 0.95 * dict(dense.memory)["weights"]
    assert dict(sparse.memory)["kv cache"] == dict(dense.memory)["kv cache"]
    assert sparse.energy_j < dense.energy_j
    assert sparse.meta["sparsity"] == "2:4"
    assert "sparsity" not in dense.meta
    least = archsim.simulate(chip, MODEL, sparsity="2:4", fidelity="roofline", **run)
    assert least.time_ps <= sparse.time_ps


def test_scales_of_blocks_are_still_seen_beside_the_indices() -> None:
    run: dict[str, Any] = {"phase": "prefill", "seq": 2048, "quant": "fp8"}
    dense, sparse = (archsim.simulate("h100", MODEL, sparsity=each, **run) for each in ("none", "2:4"))
    rows = [result.ops[result.ops["name"] == "mlp.down_proj"].iloc[0] for result in (dense, sparse)]
    vector = [row["vector_busy"] * row["time_ps"] for row in rows]
    assert vector[1] > 0.5 * vector[0] > 0  # partial sums of blocks leave for the vector unit as before


def test_a_remembered_dense_step_is_not_taken_for_a_sparse_one() -> None:
    run: dict[str, Any] = {"phase": "decode", "ctx": 64}
    with reusing(ResultCache()):
        kept = [archsim.simulate("h100", MODEL, sparsity=each, **run).time_ps for each in 2 * ("none", "2:4")]
    assert kept == kept[:2] * 2
    assert kept[1] < kept[0]


@pytest.mark.parametrize(
    ("chip", "options", "message"),
    [
        ("tpu-v5e", {"sparsity": "2:4"}, "self_attn.q_proj: the systolic array of tpu-v5e cannot .*no sparsity"),
        ("h100", {"sparsity": "1:4"}, "1:4 sparse weights in bf16; it has 2:4 in bf16, fp16, fp8, int8"),
        ("b200", {"sparsity": "2:4", "quant": "fp4"}, "2:4 sparse weights in fp4"),
        ("h100", {"sparsity": "4:2"}, "--sparsity 4:2: must be N:M"),
        ("h100", {"sparsity": "half"}, "--sparsity half: must be N:M"),
    ],
)
def test_what_a_matrix_unit_cannot_use_is_one_sentence(chip: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        archsim.simulate(chip, MODEL, phase="decode", **options)


def test_the_commands_take_a_sparsity() -> None:
    def call(*args: str) -> Any:
        return json.loads(CliRunner().invoke(cli, [*args, "--json"]).stdout)

    dense, sparse = (call("map", "a100", "--gemm", "4096,4096,4096", *more) for more in ((), ("--sparsity", "2:4")))
    assert (dense["sparsity"], sparse["sparsity"]) == ("none", "2:4")
    assert dense["chosen"]["simulated_us"] / 2 < sparse["chosen"]["simulated_us"] < dense["chosen"]["simulated_us"]
    assert call("run", "h100", MODEL, "--phase", "decode", "--sparsity", "2:4")["sparsity"] == "2:4"
    refused = CliRunner().invoke(cli, ["map", "tpu-v4", "--gemm", "64,64,64", "--sparsity", "2:4"])
    assert refused.exit_code == 2 or isinstance(refused.exception, InputError)


def test_a_chip_file_that_states_no_pattern_is_refused() -> None:
    with pytest.raises(InputError, match="must be N:M"):
        load_variant("custom-npu", {"core.matrix.sparsity": '{"4:2": [bf16]}'})


def test_a_sweep_takes_it_as_an_axis(tmp_path: Path) -> None:
    data: dict[str, Any] = {
        "chip": "h100", "axes": {"run.sparsity": ["none", "2:4"]}, "objectives": ["maximize tokens_per_s"],
        "workloads": [{"workload": MODEL, "phase": "decode", "ctx": 64}], "fidelity": "roofline",
    }  # fmt: skip
    run_sweep(Sweep.of(data), Store(tmp_path), lambda: ThreadPoolExecutor(1), in_flight=1, prune=False)
    dense, sparse = (record.metrics["tokens_per_s"] for record in open_sweep(tmp_path).done)
    assert sparse > 1.2 * dense
