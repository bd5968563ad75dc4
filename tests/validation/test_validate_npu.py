"""The suite `npu`: what each of its references promises, and which rows it leaves out."""

from __future__ import annotations

import pytest

from archsim.errors import InputError
from archsim.hardware import load_chip
from archsim.validation import SUITES, Report, Table, run_suite
from archsim.validation.npu.gemmini import compare_gemmini
from archsim.validation.npu.onnxim import compare_layers, compare_products
from archsim.validation.npu.tpu import compare_tpu
from archsim.validation.npu.xla import Shapes
from archsim.validation.suite import DATA


def report(compare, table: Table) -> Report:
    rows, reasons = compare(table)
    return Report("npu", tuple(rows), dict.fromkeys(reasons, 1), 0.0)


def test_gemmini_rtl_within_one_percent_on_average():
    found = report(compare_gemmini, Table.read(DATA / "gemmini_rtl_gt_from_onnxim_tests.csv"))
    assert found.cases == 13
    assert found.error("mape_pct") < 1.0
    assert found.max_ape_pct < 2.0


def test_tpu_v3_core_within_ten_percent_on_average():
    found = report(compare_tpu, Table.read(DATA / "tpuv3_measured_cycles_pytorchsim_artifact.csv"))
    assert found.cases == 16
    assert not found.skipped
    assert found.error("mape_pct") < 10.0


def test_onnxim_products_within_eight_percent_on_average():
    table = Table.read(DATA / "onnxim_golden.csv")
    found = report(compare_products, table)
    assert found.error("mape_pct") < 8.0
    assert found.cases + 25 == len(table)  # failed, patched and whole-model rows


def test_onnxim_layers_on_a_sample_of_each_kind():
    table = Table.read(DATA / "onnxim_layers.csv")
    found = report(compare_layers, table.take(range(0, len(table), 5)))
    assert found.cases > 15
    assert found.error("mape_pct") < 10.0
    assert any("free in ONNXim" in reason for reason in found.skipped)


def test_a_workload_without_a_rule_is_skipped_with_its_reason(tmp_path):
    file = tmp_path / "tpu.csv"
    file.write_text("Workload,TPUv3\ngemm_256x256x256,3000\nlstm_5,100\ngemm_0x1x1,5\nbert_huge,9\n")
    found = run_suite(SUITES["npu"], file)
    assert [row.case for row in found.rows] == ["gemm_256x256x256"]
    assert sum(found.skipped.values()) == 3


@pytest.mark.parametrize("mapping", ["", "[T] N1 - [O] N1 - [I] N0", "[T] N1", "[T] X1 - [O] N1 - [I] N1"])
def test_a_bad_mapping_names_its_line(tmp_path, mapping):
    file = tmp_path / "gemmini.csv"
    file.write_text(f"test,kind,mapping,gemmini_rtl_compute_cycles\na,gemm,{mapping},100\n")
    with pytest.raises(InputError, match=r"gemmini\.csv:2: mapping"):
        run_suite(SUITES["npu"], file)


def test_an_array_keeps_narrow_matrices_along_the_side_that_pads_less():
    shapes = Shapes(lanes=128, sublanes=8)
    assert shapes.nbytes(512, 64) == 512 * 64 * 4  # 512 along the lanes
    assert shapes.image_bytes(49, 64) == 49 * 128 * 4  # features always are


def test_presets_say_what_was_fitted():
    gemmini = load_chip("gemmini-8x8")
    assert gemmini.source_of("core.matrix.load_bubble_cycles").source.startswith("fitted")
    assert "fitted" in load_chip("onnxim-128x128").source_of("memory.bandwidth").source
