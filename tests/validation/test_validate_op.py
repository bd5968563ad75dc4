"""The suite `op`: what its rows become, what it leaves out and why, and errors where physics makes them safe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from archsim.cli.main import cli
from archsim.validation import SUITES, Report, Row, Table, run_suite
from archsim.validation.suite import DATA, WORTH_PROCESSES

OP = SUITES["op"]
FILES = [reference.file for reference in OP.references]


def archsim(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def rows_of(file: str, tmp_path: Path, **wanted: str) -> Path:
    """A reference file with the rows of a shipped one whose cells are `wanted`."""
    table = Table.read(DATA / file)
    names = list(table.columns)
    lines = [",".join(f'"{cell}"' for cell in row) for row in zip(*table.columns.values(), strict=True)
             if all(row[names.index(name)] == cell for name, cell in wanted.items())]  # fmt: skip
    path = tmp_path / file
    path.write_text("\n".join([",".join(names), *lines]))
    return path


@pytest.fixture(scope="module")
def few() -> Iterator[Report]:
    return run_suite(OP)


def test_every_file_becomes_cases_or_reasons(few: Report) -> None:
    lines = sum(len(Table.read(DATA / file)) for file in FILES)
    assert few.sampled_from is not None
    assert few.sampled_from + sum(few.skipped.values()) == lines
    assert few.cases >= len(few.groups) > 50
    assert {name.split()[0] for name in few.groups} == {
        "a100",
        "a40",
        "a6000",
        "ascend-910b",
        "b200",
        "h100",
        "h800",
        "l40s",
        "mi210",
        "rtx-3090",
        "rtx-4090",
        "rtx-pro-6000",
        "tpu-v6e",
    }
    assert all(row.got > 0 for row in few.rows)


def test_what_is_left_out_is_named(few: Report) -> None:
    reasons = " ".join(few.skipped)
    for part in ("preset of the CloudMatrix384", "ran untuned", "eager PyTorch",
                 "communication", "not the fastest", "than the peaks"):  # fmt: skip
        assert part in reasons


def test_json_has_the_groups_and_rows(tmp_path: Path) -> None:
    path = rows_of("measured_matmul.csv", tmp_path, device="A100-80GB", M="64")
    outcome = archsim("validate", "--reference", path, "--json", "--rows")
    assert outcome.exit_code == 0
    found = json.loads(outcome.stdout)
    assert list(found) == [
        "suite", "cases", "skipped", "mape_pct", "median_ape_pct", "p95_ape_pct", "max_ape_pct", "bias_pct", "wall_s",
        "development", "held_out", "transfer", "groups", "rows",
    ]  # fmt: skip
    assert found["development"]["cases"] + found["held_out"]["cases"] == found["cases"]
    assert found["transfer"]["cases"] == 0
    assert list(found["groups"]) == ["a100 gemm fp16"]
    assert found["groups"]["a100 gemm fp16"]["cases"] == found["cases"] == len(found["rows"]) > 0


def test_halves_and_chips_that_informed_nothing_are_told_apart() -> None:
    rows = tuple(Row(f"case {i}", 100.0, 110.0, "h800 gemm fp8" if i % 4 else "h100 gemm fp8") for i in range(64))
    parts = Report("op", rows, {}, 0.0, transfer=OP.transfer).parts
    assert {row.case for row in parts["transfer"].rows} == {row.case for row in rows if row.group[:4] == "h800"}
    assert not {row.case for row in parts["development"].rows} & {row.case for row in parts["held_out"].rows}
    assert 16 < parts["held_out"].cases < 48
    assert Report("other", rows, {}, 0.0).parts == {}


def test_small_references_can_be_left_out(tmp_path: Path) -> None:
    path = rows_of("measured_matmul_aiconfigurator.csv", tmp_path, device="NVIDIA L40S", dtype="bfloat16", M="1")
    report = run_suite(OP, path, per_group=2, least=20)
    assert all(row.expected >= 20 for row in report.rows)
    assert report.skipped["smaller than 20"] > 0


def test_samples_say_of_how_many(tmp_path: Path) -> None:
    path = rows_of("measured_matmul_aiconfigurator.csv", tmp_path, device="NVIDIA B200", dtype="bfloat16", M="1")
    report = run_suite(OP, path, per_group=3)
    assert (report.cases, report.sampled_from) == (3, len(Table.read(path)))
    everything = run_suite(OP, path, per_group=None)
    assert (everything.cases, everything.sampled_from) == (len(Table.read(path)), None)
    assert {row.case for row in report.rows} <= {row.case for row in everything.rows}


def test_rows_compared_side_by_side_are_the_same_in_the_same_order(tmp_path: Path) -> None:
    path = rows_of("measured_norm_softmax_gelu.csv", tmp_path, device="A40")
    alone, beside = (run_suite(OP, path, per_group=6, processes=n) for n in (1, 2))
    assert alone.cases >= WORTH_PROCESSES
    assert alone.rows == beside.rows
    assert alone.skipped == beside.skipped


def test_markdown_is_a_table(tmp_path: Path) -> None:
    path = rows_of("measured_matmul.csv", tmp_path, device="A100-80GB", M="64")
    lines = archsim("validate", "--reference", path, "--markdown").stdout.splitlines()
    assert lines[0] == "| group | cases | mean | median | p95 | worst | bias | development | held out |"
    assert lines[2].startswith("| a100 gemm fp16 | ")
    assert "of" not in archsim("validate", "--reference", path).stdout.split("cases")[1].split("\n")[0]


@pytest.mark.parametrize("device", ["NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA B200"])
def test_large_products_lie_within_20_percent(device: str, tmp_path: Path) -> None:
    path = rows_of("measured_matmul_aiconfigurator.csv", tmp_path, device=device, dtype="bfloat16")
    table = Table.read(path)
    work = table.integers("M") * table.integers("N") * table.integers("K")
    records = [record for record, macs in zip(table.records(), work, strict=True) if macs > 2**37]
    path.write_text("\n".join([",".join(table.columns), *(",".join(r.cells.values()) for r in records[::3])]))
    report = run_suite(OP, path)
    assert report.cases >= 1
    mape = report.error("mape_pct")
    assert mape is not None
    assert mape < 20


def test_a_cold_cache_costs_time_and_a_warm_one_does_not(tmp_path: Path) -> None:
    header = "device,M,K,N,dtype,latency_us,op,source_file"
    row = "H100,1,4096,4096,fp16,10,mlp,{}"
    path = tmp_path / "two.csv"
    path.write_text("\n".join([header, row.format("LLMCompass"), row.format("Vidur")]))
    warm, cold = run_suite(OP, path, per_group=None).rows
    host_us = 21  # what the first source publishes for a call
    assert warm.got - host_us < 0.75 * cold.got  # 34 MB from the cache instead of the memory; start-up is in both


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("H100,0,64,64,fp16,5,mlp,Vidur", ":2: M is 0, but must be at least 1"),
        ("H100,x,64,64,fp16,5,mlp,Vidur", ":2: M is 'x', which is no number"),
        ("H100,1.5,64,64,fp16,5,mlp,Vidur", ":2: M is '1.5', which is no whole number"),
        ("H100,64,64,64,fp16,nan,mlp,Vidur", ":2: latency_us is 'nan', which is no number"),
    ],
)
def test_a_bad_cell_is_one_sentence(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(f"device,M,K,N,dtype,latency_us,op,source_file\n{row}\n")
    outcome = archsim("validate", "op", "--reference", path)
    assert outcome.exit_code == 2
    assert message in outcome.stderr
