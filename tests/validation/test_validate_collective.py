"""The suite `collective`, on every eighth measured row and on all of ASTRA-sim's."""

from __future__ import annotations

from pathlib import Path

import pytest

from archsim.errors import InputError
from archsim.validation import SUITES, Report, Table, run_suite
from archsim.validation.suite import DATA

pytestmark = pytest.mark.validation

SUITE = SUITES["collective"]


def sample(file: str, every: int) -> Report:
    table = Table.read(DATA / file)
    reference = SUITE.reference_for(table)
    assert reference is not None
    rows, _ = reference.compare(table.take(range(0, len(table), every)))
    return Report("collective", tuple(rows), {}, 0.0)


@pytest.mark.parametrize("file", ["collectives_measured.csv", "measured_allreduce.csv"])
def test_measured_rows_lie_within_ten_percent_in_the_mean(file: str) -> None:
    report = sample(file, 8)
    assert (report.error("mape_pct") or 100) <= 10
    nccl = {name: group for name, group in report.groups.items() if "(" not in name and group.cases >= 4}
    assert nccl
    for name, group in nccl.items():
        assert (group.error("mape_pct") or 100) <= 15, name  # few rows: the whole file keeps to 10


def test_sound_rows_of_astra_sim_lie_within_five_percent() -> None:
    report = run_suite(SUITE, DATA / "collectives_golden.csv")
    assert report.cases > 70
    assert (report.error("mape_pct") or 100) <= 2
    assert (report.error("p95_ape_pct") or 100) <= 5
    assert sum(report.skipped.values()) + report.cases == 152


def test_a_file_with_other_rows_is_read_and_a_bad_cell_named(tmp_path: Path) -> None:
    header = "system,gpus,nodes,interconnect,collective,backend_or_algorithm,dtype,bytes,time_us,note"
    good = "H100-SXM 80GB HGX,8,1,NVLink4,all_reduce,nccl-tests,half,1048576,25.4,"
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([header, good, "abacus,8,1,string,all_reduce,nccl-tests,half,1024,1,"]))
    report = run_suite(SUITE, path)
    assert report.cases == 1
    assert list(report.skipped) == ["archsim describes no such system (abacus)"]
    path.write_text("\n".join([header, good.replace("1048576", "-5")]))
    with pytest.raises(InputError, match=r"rows.csv:2: bytes is -5, but must be at least 1"):
        run_suite(SUITE, path)
