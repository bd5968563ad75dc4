"""Suite `model`: every row is a case or says why not, and a few that are light lie within the band."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from archsim.serving import STACKS
from archsim.validation import SUITES
from archsim.validation.accuracy import MARKERS, OP_MARKERS, brief, read_kept, summary
from archsim.validation.model import read_row
from archsim.validation.model.case import Case
from archsim.validation.model.inference import LEAST_CHUNK, _chunked, _server
from archsim.validation.suite import DATA
from archsim.validation.table import Table

pytestmark = pytest.mark.validation

RECORDS = {record.text("id"): record for record in Table.read(DATA / "published_llm.csv").records()}


def test_every_row_is_a_case_or_says_why_not() -> None:
    read = {name: read_row(record) for name, record in RECORDS.items()}
    cases = {name: case for name, case in read.items() if isinstance(case, Case)}
    assert len(cases) > 90
    assert all(case.assumption and case.expected > 0 for case in cases.values())
    assert all(isinstance(case, Case) or len(case) > 10 for case in read.values())
    assert {"DSI-001", "DSI-002", "CM-002", "CM-003", "TR1-011", "NIM-009", "MLP-013"} <= cases.keys()


def test_the_suite_knows_its_file() -> None:
    assert SUITES["model"].reference_for(Table.read(DATA / "published_llm.csv")) is not None


def test_the_exchange_of_a_layer_in_a_step_is_the_published_one() -> None:
    """Combine over 128 H800: DeepEP's README."""
    table = Table.read(DATA / "published_exchanges.csv")
    cases = {case.name: case for record in table.records() if isinstance(case := read_row(record), Case)}
    assert len(cases) == 10
    assert cases["EXC-006"].got() == pytest.approx(369, rel=0.15)


def test_a_limit_on_the_time_of_a_token_bounds_the_prompts_beside_it() -> None:
    server = _server("B200", "llama-3.1-8b", 1, 1, "fp4-kv", STACKS["nim"])
    server = replace(server, options={**server.options, "fidelity": "roofline"})
    seconds = [server.prefill_s(1, tokens) for tokens in (8192, 4096, 2048)]
    chunks = [_chunked(server, limit_s).stack.chunk for limit_s in (*seconds, 0.9 * seconds[-1])]
    assert chunks == [8192, 4096, LEAST_CHUNK, 8192]


def test_the_table_of_the_readme_is_that_of_the_kept_rows() -> None:
    """Stale: simulate again by `python -m archsim.validation.accuracy`."""
    assert _between("README.md", MARKERS) == summary(read_kept())


def test_the_operators_of_the_readme_are_those_of_the_docs() -> None:
    """Stale: `python -m archsim.validation.accuracy --op TABLE`."""
    assert _between("README.md", OP_MARKERS) == brief(_between("docs/accuracy.md", OP_MARKERS))


def _between(path: str, markers: tuple[str, str]) -> str:
    text = (Path(__file__).parents[2] / path).read_text()
    return text.split(markers[0])[1].split(markers[1])[0].strip()


@pytest.mark.parametrize("name", ["TR5-003", "TR5-012"])
def test_kept_rows_are_what_is_simulated_today(name: str) -> None:
    """Stale: simulate again by `python -m archsim.validation.accuracy`."""
    case, kept = read_row(RECORDS[name]), read_kept()[name]
    assert isinstance(case, Case)
    assert (case.group, case.expected, case.assumption) == (kept["group"], kept["expected"], kept["assumption"])
    got = case.got()
    assert kept["got"] == pytest.approx(got, rel=0.03)
    assert got == pytest.approx(case.expected, rel=0.2)
