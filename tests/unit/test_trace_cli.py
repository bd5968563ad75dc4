"""Does `archsim trace` show what the library knows, and explain what it cannot do?"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from archsim.cli.main import cli
from archsim.trace import list_workloads, load_workload
from archsim.trace.trace import PHASES


def archsim(*args: str) -> Result:
    return CliRunner().invoke(cli, ["trace", *args], env={"COLUMNS": "160"})


def test_list() -> None:
    rows = json.loads(archsim("list", "--json").stdout)
    assert [(row["name"], row["phase"]) for row in rows] == [(n, p) for n in list_workloads() for p in PHASES]
    per_token = {row["name"]: row["kv_bytes_per_token"] for row in rows if row["phase"] == "decode"}
    assert (per_token["deepseek-v3"], per_token["llama-3.1-8b"]) == (70272, 131072)
    assert "70,272" in archsim("list").stdout


def test_show() -> None:
    result = archsim("show", "deepseek-v3", "--phase", "decode", "--at", "batch=8,ctx=1024")
    assert result.exit_code == 0
    for text in ("671.03 B", "70,272", "moe, 58 times", "mlp.experts.down_proj", "kv_len=1025"):
        assert text in result.stdout


def test_show_json_agrees_with_the_library() -> None:
    shown = json.loads(archsim("show", "llama-3.1-8b", "--phase", "prefill", "--at", "batch=2,seq=7", "--json").stdout)
    graph = load_workload("llama-3.1-8b", "prefill").at(batch=2, seq=7)
    assert shown["at"] == {"batch": 2, "seq": 7, "ctx": 0}
    assert shown["flops"] == graph.flops
    assert shown["parameters"] == graph.n_params
    assert [op["bytes_read"] for op in shown["ops"]] == [op.bytes_read for b in graph.blocks for op in b.ops]


def test_show_file(tmp_path: Path) -> None:
    load_workload("llama-3.1-8b", "decode").save(tmp_path / "mine.h5")
    assert "llama-3.1-8b decode at batch=1, seq=1, ctx=4096" in archsim("show", str(tmp_path / "mine.h5")).stdout


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("show", "llama-3.1-8b"), "say which phase"),
        (("show", "lama-3.1-8b", "--phase", "decode"), "did you mean 'llama-3.1-8b'"),
        (
            ("show", "llama-3.1-8b", "--phase", "decode", "--at", "batsh=8"),
            "unknown symbol 'batsh' (did you mean 'batch'?)",
        ),
        (("show", "llama-3.1-8b", "--phase", "decode", "--at", "batch=-8"), "batch needs a whole number, not '-8'"),
        (("show", "llama-3.1-8b", "--phase", "decode", "--at", "batch"), "batch needs a whole number"),
        (("show", "llama-3.1-8b", "--phase", "train", "--at", "ctx=8"), "ctx=8 has no meaning here"),
        (("show", "none.h5"), "no such file"),
        (("export", "gpt", "--phase", "decode", "--out", "x.h5"), "unknown model 'gpt'"),
        (("export", "none.json", "--phase", "decode", "--out", "x.h5"), "none.json: cannot be read"),
    ],
)
def test_mistakes_are_one_sentence(args: tuple[str, ...], what: str) -> None:
    result = archsim(*args)
    assert result.exit_code == 2
    assert what in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "what"), [("{", "is not JSON"), ("[]", "it has no model_type"), ("{}", "no model_type")]
)
def test_export_checks_the_config(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    result = archsim("export", str(tmp_path / "config.json"), "--phase", "decode", "--out", str(tmp_path / "x.h5"))
    assert result.exit_code == 2
    assert what in result.stderr


def test_export_without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = archsim("export", "llama-3.1-8b", "--phase", "decode", "--out", str(tmp_path / "x.h5"))
    assert result.exit_code == 2
    assert "pip install archsim[export]" in result.stderr
    assert not (tmp_path / "x.h5").exists()


@pytest.mark.parametrize("command", ["list", "show", "export"])
def test_help(command: str) -> None:
    assert archsim(command, "--help").exit_code == 0
