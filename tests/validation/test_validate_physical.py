"""Area, power, parts and export figures stay as near to published ones as promised, and misses stay known."""

from __future__ import annotations

from pathlib import Path

import pytest

from archsim.errors import InputError
from archsim.validation import SUITES, Report, run_suite

pytestmark = pytest.mark.validation

#: the errors in percent that the project promises, by the beginning of a case
PROMISED = {
    **{f"{chip} {block}": 25.0 for chip in ("a100", "mi210") for block in (
        "cores", "network", "shared cache", "memory PHYs", "memory controllers", "link", "other",
    )},
    "a100 die": 10.0, "mi210 die": 10.0,
    **dict.fromkeys(("h100 die", "tpu-v4 die", "ascend-910b die", "mi300x compute die"), 15.0),
    **{f"{chip} dense product": 15.0 for chip in ("a100", "h100", "tpu-v4", "mi300x", "b200")},
    **{f"{chip} {item}": 25.0 for chip in ("h100", "b200", "mi300x") for item in (
        "silicon", "memory", "package", "yield loss and test", "total",
    )},
    **{f"{chip} tpp": 0.1 for chip in ("h100", "h800", "a100", "a800", "h20", "rtx-4090")},
    **dict.fromkeys(("h100 bf16", "a100 fp16", "b200 bf16", "mi300x bf16"), 12.5),  # as 1.4 to 1.75 around 1.6
}  # fmt: skip

#: what the model does not reach
KNOWN_MISSES: set[str] = set()


@pytest.fixture(scope="module")
def report() -> Report:
    return run_suite(SUITES["physical"])


def test_the_errors_lie_within_the_band(report: Report) -> None:
    assert report.passed
    assert report.cases > 45


def test_what_misses_its_promise_is_known(report: Report) -> None:
    missed, found = set(), set()
    for row in report.rows:
        limit = next((PROMISED[name] for name in PROMISED if row.case.startswith(name)), None)
        if limit is not None:
            found.add(row.case)
            if abs(row.error_pct) > limit:
                missed.add(row.case)
    assert missed == KNOWN_MISSES
    assert report.skipped["mi300x holds 1.2 GHz under load: its TDP is not the power at the quoted clock"] == 1
    assert len(found) > 40


def test_a_file_with_a_wrong_item_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    header = "kind,chip,item,expected,confidence,source\n"
    path.write_text(header + "block,a100,moat,5,high,here\n")
    with pytest.raises(InputError, match=r"mine\.csv:2: item is 'moat', which is nothing of kind block"):
        run_suite(SUITES["physical"], path)
    path.write_text(header + "die,abacus,die,5,high,here\ntpp,h100,tpp,15824,high,here\n")
    report = run_suite(SUITES["physical"], path)
    assert report.skipped == {"no preset of this chip ships": 1}
