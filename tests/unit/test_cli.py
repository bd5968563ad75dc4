"""The command line's root: cheap help, one line for an error, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from archsim import __version__
from archsim.cli import _common, main
from archsim.errors import InputError, KernelError, write_atomically

HEAVY = ("numpy", "pandas", "pydantic", "h5py", "simpy", "rich", "yaml", "matplotlib", "torch", "json.tool")
SHOW_HEAVY = f"print([name for name in {HEAVY!r} if name in sys.modules])"


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys\nfrom archsim.cli.main import cli\ncli(['--help'], standalone_mode=False)\n{SHOW_HEAVY}"
    *text, heavy = python(code).splitlines()
    assert heavy == "[]"
    for name in main.COMMANDS:
        assert any(line.strip().startswith(name) for line in text)


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert python(f"import sys, archsim\n{SHOW_HEAVY}").strip() == "[]"


@pytest.mark.parametrize("name", main.COMMANDS)
def test_each_command_has_its_help_without_running_a_model(name: str) -> None:
    outcome = CliRunner().invoke(main.cli, [name, "--help"])
    assert outcome.exit_code == 0
    assert "Usage" in outcome.stdout


def test_version_names_the_models_too() -> None:
    assert CliRunner().invoke(main.cli, ["--version"]).stdout.startswith(f"archsim {__version__} (model version ")


def test_module_form() -> None:
    command = [sys.executable, "-m", "archsim", "--version"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.startswith("archsim ")


@pytest.mark.parametrize("args", [["rum"], ["--colour"], ["run"], ["run", "h800", "llama-3.1-8b", "--phase", "both"]])
def test_usage_errors_exit_with_2(args: list[str]) -> None:
    assert CliRunner().invoke(main.cli, args).exit_code == 2


SERVE = "serve h100 llama-3.1-8b --input 8 --output 8"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{SERVE} --ttft 1s", "--ttft: is of requests over time (--rate, --arrivals, --users)"),
        (f"{SERVE} --tpot 1s --batch 4", "--batch: does not go with --tpot"),
        (f"{SERVE} --curve 3 --prefill-system h100-x8", "--prefill-system: does not go with --curve"),
        (f"{SERVE} --rate 1 --static", "--static: does not go with --rate"),
        (f"{SERVE} --tp 3", "--tp 3: h100 is one chip"),
        (f"{SERVE} --draft 2", "--draft: needs --mtp-acceptance"),
        (f"{SERVE} --prompts 2", "--prompts: is of prompts on another system"),
        ("plan hgx-h100 llama-3.1-8b --phase train --batch 8 --quant fp8", "--quant: is of a prefill or decode step"),
        ("plan hgx-h100 llama-3.1-8b --phase decode --batch 8 --precision fp8", "--precision: is of a training step"),
        ("memory bench --trace x.trace --reads 0.5", "--reads: is of a stream that is made"),
        ("noc bench --graph x.txt --size 4x4", "--size: is of a network that is built"),
        ("systolic --array 8x8 --gemm 8,8,8 --dtype bf16", "--dtype: is of a CHIP"),
        ("sweep run npu-serving --sbatch --partition=cpu", "--sbatch: is of jobs"),
        ("chip show h100 --physical --yaml", "--yaml: shows the description"),
    ],
)
def test_an_option_that_would_say_nothing_is_refused(line: str, message: str) -> None:
    outcome = CliRunner().invoke(main.cli, line.split())
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith(f"archsim: {message}")


@pytest.mark.parametrize(
    ("out", "message"),
    [("pipe", "is a device or a pipe"), ("a" * 300, "cannot be written (File name too long)"), ("", "is a directory")],
)
def test_what_cannot_be_written_is_refused_before_the_work(out: str, message: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    command = ["run", "h100", "llama-3.1-8b", "--phase", "decode", "--out", str(tmp_path / out)]
    outcome = CliRunner().invoke(main.cli, command)
    assert (outcome.exit_code, message in outcome.stderr) == (2, True)


def test_a_file_is_written_where_a_link_points_and_no_device_is_replaced(tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(target)
    write_atomically(link, lambda path: path.write_text("new"))
    assert link.is_symlink()
    assert target.read_text() == "new"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="is not a file"):
        write_atomically(pipe, lambda path: path.write_text("new"))
    assert pipe.is_fifo()


def test_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    out = _common.console()
    out.print("[bold]x[/y] :x:")
    out.print(_common.headed("[red]", " [/b]"))
    assert capsys.readouterr().out == "[bold]x[/y] :x:\n[red] [/b]\n"


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch):
    """Run `archsim fail` where that command raises the given error."""

    def run(error: Exception, *options: str):
        module = types.ModuleType("archsim_test_command")

        @click.command()
        def command() -> None:
            raise error

        module.command = command
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(main.COMMANDS, "fail", (module.__name__, "command", "Fails."))
        return CliRunner().invoke(main.cli, [*options, "fail"])

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("x.yaml:1:2: clok: unknown key"), 2, "archsim: x.yaml:1:2: clok: unknown key"),
        (KernelError("the kernel k is not built"), 1, "archsim: the kernel k is not built"),
        (
            ZeroDivisionError("division\nby zero"),
            1,
            "archsim: internal fault (ZeroDivisionError: division by zero); run with --debug for the traceback",
        ),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(fail, error: Exception, code: int, line: str) -> None:
    outcome = fail(error)
    assert outcome.exit_code == code
    assert outcome.stderr == line + "\n"
    assert outcome.stdout == ""


def test_debug_shows_the_traceback(fail) -> None:
    outcome = fail(InputError("no such chip"), "--debug")
    assert isinstance(outcome.exception, InputError)


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m archsim validate systolic --rows --json | head -n 1"
    outcome = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], check=False, capture_output=True, text=True)
    assert outcome.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", [["chip", "list"], ["--help"]])
def test_a_full_disk_is_one_sentence(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "archsim", *arguments]
        outcome = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    assert outcome.stderr == "archsim: standard output cannot be written: No space left on device\n"
    assert outcome.returncode == 1


def test_json_takes_numpy_and_refuses_nan(capsys: pytest.CaptureFixture[str]) -> None:
    _common.emit_json({"a": np.int64(3), "b": np.arange(2), "c": np.float64(0.5)})
    assert json.loads(capsys.readouterr().out) == {"a": 3, "b": [0, 1], "c": 0.5}
    with pytest.raises(ValueError, match="not JSON compliant"):
        _common.emit_json({"a": float("nan")})


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with _common.progress("working", 2) as update:
        update(1)
        update(2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("quiet_s", [0.0, 3600.0])
def test_progress_shows_on_a_terminal_after_a_while(monkeypatch, capsys, quiet_s: float) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(_common, "QUIET_S", quiet_s)
    with _common.progress("working") as update:
        update(1, 2)
        time.sleep(0.01)
        update(2, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("working" in err) == (quiet_s == 0.0)
