"""Suite noc: bulk transfers and random traffic against BookSim 2, on a sample (`archsim validate noc --all`: all)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from archsim.errors import InputError
from archsim.validation import SUITES, Report, run_suite
from archsim.validation.suite import DATA


@pytest.fixture(scope="module")
def report() -> Report:
    return run_suite(SUITES["noc"], per_group=1)


def test_every_group_keeps_its_band(report: Report) -> None:
    assert report.passed
    assert {name for name, group in report.groups.items() if group.band} == set(SUITES["noc"].group_bands)
    assert report.cases > 10


def test_bulk_transfers_on_a_mesh_are_exact(report: Report) -> None:
    rows = [row for row in report.groups["bulk transfers, cycle"].rows if "torus" not in row.case]
    assert rows
    assert all(row.error_pct == 0 for row in rows)


def test_most_bulk_transfers_are_close_packet_by_packet() -> None:
    report = run_suite(SUITES["noc"], DATA / "booksim_batch_golden.csv", per_group=None)
    rows = report.groups["bulk transfers, tile"].rows
    close = sum(abs(row.error_pct) <= 5 for row in rows)
    assert close / len(rows) >= 0.85


def test_what_is_left_out_says_why() -> None:
    table_rows = (DATA / "booksim_golden.csv").read_text().splitlines()
    adaptive = sum("min_adapt" in line for line in table_rows)
    report = run_suite(SUITES["noc"], DATA / "booksim_golden.csv", per_group=1)
    assert adaptive == 2
    assert sum(report.skipped.values()) == adaptive
    assert "adaptive" in next(iter(report.skipped))


def bulk_file(folder: Path, *, case: str = "p2p_8x8_0to63_n4", name: str | None = None) -> Path:
    lines = (DATA / "booksim_batch_golden.csv").read_text().splitlines()
    row = next(line for line in lines if line.startswith(f"{case},"))
    if name is not None:
        row = row.replace(f"{case}.csv", name)
    path = folder / "aside.csv"
    path.write_text(f"{lines[0]}\n{row}\n")
    return path


def test_the_transfers_may_lie_in_a_folder_beside_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "booksim_batch_xfers"
    folder.mkdir()
    head = "id,src,dst,packet_size,npkts,start,first_generate_cycle,last_tail_arrival_cycle,avg_packet_latency\n"
    (folder / "mine.csv").write_text(head + "0,0,63,8,4,0,0,93,77\n")
    report = run_suite(SUITES["noc"], bulk_file(tmp_path, name="mine.csv"))
    assert [row.error_pct for row in report.rows] == [0.0, 0.0]  # flit by flit, and packet by packet
    (folder / "mine.csv").write_text(head + "0,0,64,8,4,0,0,93,77\n")
    with pytest.raises(InputError, match=r"aside.csv:2: the transfers name nodes outside 0..63"):
        run_suite(SUITES["noc"], bulk_file(tmp_path, name="mine.csv"))


@pytest.mark.parametrize("name", ["../../secret.csv", "", "absent.csv"])
def test_a_name_that_is_no_file_of_transfers_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"xfer_file is|lie neither"):
        run_suite(SUITES["noc"], bulk_file(tmp_path, name=name))


def test_a_copy_of_the_reference_uses_the_transfers_that_ship(tmp_path: Path) -> None:
    path = bulk_file(tmp_path, case="reqrep_4x4_west_near_w1")
    assert run_suite(SUITES["noc"], path).rows[0].error_pct == 0
    shutil.copy(DATA / "booksim_batch_xfers.npz", tmp_path)
    with np.load(tmp_path / "booksim_batch_xfers.npz", allow_pickle=False) as arrays:
        assert len(arrays["names"]) == len(arrays["start"]) - 1
