"""The commands run, report and compare, as a user types them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from result_samples import llama_decode, meta

from archsim.cli.main import cli
from archsim.results import load_result

RUN = ["run", "h800", "llama-3.1-8b", "--phase", "decode", "--batch", "4", "--ctx", "512", "--fidelity", "roofline"]


def archsim(*arguments: object):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="archsim")


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "a.h5"
    llama_decode().to_hdf5(path)
    return path


def test_run_prints_a_report():
    outcome = archsim(*RUN)
    assert outcome.exit_code == 0, outcome.output
    assert "step (TPOT)" in outcome.stdout
    assert "\x1b" not in outcome.stdout


def test_run_prints_json_alone_on_stdout(tmp_path):
    outcome = archsim(*RUN, "--json", "--out", tmp_path / "r.h5")
    document = json.loads(outcome.stdout)
    assert document["batch"] == 4
    assert document["time_s"] > 0
    assert {"meta", "ops"} <= set(document)
    assert outcome.stderr == f"wrote {tmp_path / 'r.h5'}\n"


def test_run_writes_what_is_asked_for(tmp_path):
    outputs = {"--out": "r.h5", "--timeline": "t.json", "--html": "r.html"}
    outcome = archsim(*RUN, *(word for flag, name in outputs.items() for word in (flag, tmp_path / name)))
    assert outcome.exit_code == 0, outcome.output
    assert load_result(tmp_path / "r.h5").meta["ctx"] == 512
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert (tmp_path / "r.html").read_text().startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(outputs.values())


def test_set_changes_the_chip():
    slow = json.loads(archsim(*RUN, "--json", "--set", "memory.bandwidth=1 TB/s").stdout)
    fast = json.loads(archsim(*RUN, "--json").stdout)
    assert slow["time_s"] > 2 * fast["time_s"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*RUN, "--batch", "0"), ("--batch 0", "at least 1")),
        ((*RUN, "--set", "memory.bandwidht=1 TB/s"), ("memory.bandwidht", "did you mean")),
        (("run", "h8000", *RUN[2:]), ("h8000", "did you mean")),
        (("run", "h800", "llama-3.1-7b", *RUN[3:]), ("llama-3.1-7b", "did you mean")),
        ((*RUN, "--batch", "4096"), ("does not fit",)),
        ((*RUN, "--out", "/nowhere/r.h5"), ("/nowhere/r.h5", "does not exist")),
        ((*RUN, "--html", "."), ("is a directory",)),
        ((*RUN, "--html", "x", "--timeline", "x"), ("named for two outputs",)),
        (("report", "/nowhere/r.h5"), ("/nowhere/r.h5", "no such file")),
    ],
)
def test_bad_input_gives_one_sentence_and_exit_code_2(arguments, words):
    outcome = archsim(*arguments)
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    assert outcome.stderr.count("\n") == 1
    for word in words:
        assert word in outcome.stderr


def test_an_output_that_cannot_be_written_is_found_before_the_simulation(monkeypatch):
    monkeypatch.setattr("archsim.simulate", lambda *a, **k: pytest.fail("simulated"))
    assert archsim(*RUN, "--out", "/nowhere/r.h5").exit_code == 2


def test_report_shows_a_stored_result(stored, tmp_path):
    outcome = archsim("report", stored, "--html", tmp_path / "r.html", "--top", "2")
    assert outcome.exit_code == 0
    assert "(8 others)" in outcome.stdout
    assert (tmp_path / "r.html").exists()
    assert json.loads(archsim("report", stored, "--json").stdout) == json.loads(json.dumps(llama_decode().to_dict()))


def test_compare_shows_two_results(stored, tmp_path):
    llama_decode(time_ps=10**9, meta=meta(chip="h200")).to_hdf5(tmp_path / "b.h5")
    outcome = archsim("compare", stored, tmp_path / "b.h5")
    assert outcome.exit_code == 0
    assert "times as fast as A" in outcome.stdout
    document = json.loads(archsim("compare", stored, tmp_path / "b.h5", "--json").stdout)
    assert document["options"]["chip"] == {"a": "h800", "b": "h200"}


@pytest.mark.parametrize("command", ["run", "report", "compare"])
def test_help_has_examples(command):
    text = archsim(command, "--help").stdout
    assert text.count(f"  archsim {command}") >= 3
