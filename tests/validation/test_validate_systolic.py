"""The suite `systolic`: exact on SCALE-Sim's cycles, and honest about what it cannot compare."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from archsim.cli.main import cli
from archsim.models import systolic
from archsim.validation import SUITES, Report, Row, Table, run_suite
from archsim.validation.suite import DATA
from archsim.validation.systolic import DATAFLOWS

GOLDEN = DATA / "scalesim_gemm_golden.csv"
HEADER = "array_rows,array_cols,dataflow,M,N,K,total_cycles"


def archsim(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def golden() -> Table:
    return Table.read(GOLDEN)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_counts_of_every_golden_row(golden: Table, dataflow: str) -> None:
    at = np.array(golden.columns["dataflow"]) == dataflow
    m, n, k, rows, cols = (golden.integers(name)[at] for name in ("M", "N", "K", "array_rows", "array_cols"))
    array = {"rows": rows, "cols": cols, "dataflow": DATAFLOWS[dataflow]}
    assert at.sum() > 70

    def column(name: str) -> np.ndarray:
        return np.array(golden.columns[name])[at].astype(float)

    total = systolic.cycles(m, n, k, **array, convention="scalesim")
    assert (total == column("total_cycles")).all()
    efficiency = systolic.mapping_efficiency(m, n, k, **array)
    np.testing.assert_allclose(100 * efficiency, column("mapping_eff_pct"), rtol=1e-9)
    overall = systolic.utilisation(m, n, k, **array, convention="scalesim")
    np.testing.assert_allclose(100 * overall, column("overall_util_pct"), rtol=1e-9)

    counts = systolic.accesses(m, n, k, **array)
    assert (counts.ifmap_reads == column("ifmap_sram_reads")).all()
    assert (counts.filter_reads == column("filter_sram_reads")).all()
    down, across, _ = systolic.folds(m, n, k, **array)
    slip = down * across * (rows + cols) if dataflow == "os" else 0  # SCALE-Sim adds the tile's dimensions
    assert (counts.ofmap_writes + slip == column("ofmap_sram_writes")).all()


def test_physical_folds_overlap_so_they_never_take_longer(golden: Table) -> None:
    for short, dataflow in (("ws", "weight_stationary"), ("is", "input_stationary")):
        at = np.array(golden.columns["dataflow"]) == short
        shape = [golden.integers(name)[at] for name in ("M", "N", "K")]
        array = {"rows": golden.integers("array_rows")[at], "cols": golden.integers("array_cols")[at]}
        physical = systolic.cycles(*shape, **array, dataflow=dataflow)
        scalesim = systolic.cycles(*shape, **array, dataflow=dataflow, convention="scalesim")
        assert (physical <= scalesim + 1).all()


def test_json_has_the_stable_keys() -> None:
    outcome = archsim("validate", "systolic", "--json")
    assert outcome.exit_code == 0
    found = json.loads(outcome.stdout)
    assert list(found) == [
        "suite", "cases", "skipped", "mape_pct", "median_ape_pct", "p95_ape_pct", "max_ape_pct", "bias_pct", "wall_s",
    ]  # fmt: skip
    assert (found["suite"], found["cases"], found["max_ape_pct"]) == ("systolic", 253, 0.0)
    assert sum(found["skipped"].values()) == 29  # rows of limited bandwidth in which SCALE-Sim stalled


def test_all_suites_are_a_json_list(monkeypatch: pytest.MonkeyPatch) -> None:
    for slow in ("npu", "hbm-tile", "collective", "op", "model"):
        monkeypatch.delitem(SUITES, slow)
    found = json.loads(archsim("validate", "--json").stdout)
    assert [each["suite"] for each in found] == list(SUITES) == ["systolic", "hbm", "noc", "physical"]


def test_rows_show_every_case() -> None:
    outcome = archsim("validate", "systolic", "--rows", "--json")
    rows = json.loads(outcome.stdout)["rows"]
    assert len(rows) == 253
    assert rows[0] == {"case": "ws 8x8 M1 N1 K1", "expected": 22, "got": 22, "error_pct": 0.0}
    assert "ws 8x8 M1 N1 K1" in archsim("validate", "systolic", "--rows").stdout


def test_every_case_is_drawn(tmp_path: Path) -> None:
    figure = tmp_path / "systolic.svg"
    outcome = archsim("validate", "systolic", "--plot", figure)
    assert outcome.exit_code == 0
    assert figure.read_text().count("<use ") > 253  # a mark for each case, and those of the axes
    assert archsim("validate", "--plot", tmp_path / "x.doc").exit_code == 2


def test_a_wrong_reference_value_is_an_error_and_exit_code_1(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(f"{HEADER}\n8,8,ws,1,1,1,22\n8,8,os,8,8,8,20\n")
    outcome = archsim("validate", "--reference", file, "--json", "--rows")
    assert outcome.exit_code == 1
    found = json.loads(outcome.stdout)
    assert [row["error_pct"] for row in found["rows"]] == [0.0, 5.0]
    assert (found["mape_pct"], found["max_ape_pct"], found["bias_pct"]) == (2.5, 5.0, 2.5)
    assert "misses its band" in archsim("validate", "--reference", file).stdout


def test_stalled_rows_and_zeros_are_skipped_with_their_reason(tmp_path: Path) -> None:
    file = tmp_path / "user_mode.csv"
    file.write_text(f"{HEADER},stall_cycles\n8,8,ws,1,1,1,22,0\n8,8,ws,1,1,1,30,8\n1,1,os,1,1,1,0,0\n")
    outcome = archsim("validate", "systolic", "--reference", file, "--json")
    assert outcome.exit_code == 0
    found = json.loads(outcome.stdout)
    assert found["cases"] == 1
    assert list(found["skipped"].values()) == [1, 1]
    assert any("stalled" in reason for reason in found["skipped"])


def test_rows_of_limited_bandwidth_say_how_scalesim_stalls() -> None:
    table = Table.read(DATA / "scalesim_gemm_bw_golden.csv")
    rows, reasons = SUITES["systolic"].references[1].compare(table)
    assert all(row.error_pct == 0 for row in rows)
    assert len(rows) + len(reasons) == len(table)
    assert any("thrashed" in reason and "times a bandwidth bound" in reason for reason in reasons)


def test_a_suite_that_compared_nothing_does_not_pass(tmp_path: Path) -> None:
    file = tmp_path / "all_stalled.csv"
    file.write_text(f"{HEADER},stall_cycles\n8,8,ws,1,1,1,30,8\n")
    outcome = archsim("validate", "systolic", "--reference", file, "--json")
    assert outcome.exit_code == 1
    assert json.loads(outcome.stdout)["max_ape_pct"] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("", "holds no rows"),
        (f"{HEADER}\n", "holds no rows"),
        (f"{HEADER}\n8,8,ws,1,1,1\n", ":2: has 6 cells where the header has 7"),
        (f"{HEADER}\n8,8,ws,1,one,1,22\n", ":2: N is 'one', which is no 64-bit integer"),
        (f"{HEADER}\n8,8,ws,1,1,{10**30},22\n", "which is no 64-bit integer"),
        (f"{HEADER}\n8,8,ws,1,1,1,22\n8,0,ws,1,1,1,22\n", ":3: array_cols is 0, but must be at least 1"),
        (f"{HEADER}\n8,8,rs,1,1,1,22\n", ":2: dataflow is 'rs', but must be one of ws, os, is"),
        ("a,b\n1,2\n", "lacks the columns K, M, N"),
        (b"\xff\xfe\x00", "is not a CSV file"),
    ],
)
def test_a_bad_reference_file_is_one_sentence_and_exit_code_2(tmp_path: Path, content, message: str) -> None:
    file = tmp_path / "bad.csv"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    outcome = archsim("validate", "systolic", "--reference", file)
    assert outcome.exit_code == 2
    assert message in outcome.stderr
    assert str(file) in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_a_file_that_no_suite_knows(tmp_path: Path) -> None:
    file = tmp_path / "other.csv"
    file.write_text("a,b\n1,2\n")
    outcome = archsim("validate", "--reference", file)
    assert outcome.exit_code == 2
    assert "no suite knows its columns" in outcome.stderr


def test_an_unknown_suite_is_named_with_the_nearest() -> None:
    outcome = archsim("validate", "sistolic")
    assert outcome.exit_code == 2
    assert "did you mean 'systolic'?" in outcome.stderr


def test_error_statistics_by_hand() -> None:
    rows = tuple(Row(str(got), expected=100, got=got) for got in (90, 100, 104, 130))
    report = Report("x", rows, {}, 0.0, {"mape_pct": 11.0, "bias_pct": 5.0})
    assert report.error("mape_pct") == 11.0
    assert report.error("median_ape_pct") == 7.0
    assert report.error("p95_ape_pct") == pytest.approx(10 + 0.85 * 20)
    assert report.error("bias_pct") == 6.0
    assert not report.passed  # the bias lies outside
    assert Report("x", rows, {}, 0.0, {"mape_pct": 11.0}).passed


def test_shipped_references_are_known_by_their_own_columns() -> None:
    for suite in SUITES.values():
        for reference in suite.references:
            found = suite.reference_for(Table.read(DATA / reference.file))
            assert found is not None
            assert found.compare is reference.compare  # two files may be of one kind
    assert run_suite(SUITES["systolic"]).passed
