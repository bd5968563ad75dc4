"""What holds for the project as a whole: sizes, versions, imports, and nothing that ties it to one machine."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import archsim
from archsim._data import data_path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("archsim", "benchmarks", "configs", "docs", "examples", "notebooks", "tests", "workloads", ".ci")
TEXT = {".py", ".pyx", ".pxd", ".pyi", ".md", ".toml", ".yaml", ".json", ".csv", ".css", ".sh", ".ipynb", ".in", ""}
MACHINE_PATH = re.compile(r"(?<![\w.~}>-])/(?:home|root|Users|tmp|mnt|opt|srv|work|data)/\w")
LONGEST = 600

BLOCK_OPTIONAL = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"pandas", "matplotlib", "torch", "transformers", "IPython"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import archsim
for module in pkgutil.walk_packages(archsim.__path__, "archsim."):
    if not module.name.startswith("archsim.trace.exporter.") and module.name != "archsim.__main__":
        importlib.import_module(module.name)
for name in archsim.__all__:
    getattr(archsim, name)
step = archsim.simulate("h800", "llama-3.1-8b", phase="decode", batch=1, ctx=128)
assert "tokens" in step._repr_html_()
print(step.summary()["tokens_per_s"] > 0)
"""


def text_files() -> Iterator[Path]:
    everything = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    for path in (*ROOT.iterdir(), *everything):
        if path.is_file() and path.suffix in TEXT and "__pycache__" not in path.parts:
            yield path


def test_no_source_file_is_too_long_to_read() -> None:
    sources = [path for path in text_files() if path.suffix in (".py", ".pyx", ".pxd")]
    assert len(sources) > 50
    long = {str(path.relative_to(ROOT)): count for path in sources if (count := _lines(path)) > LONGEST}
    assert not long


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not found


def test_version_is_the_same_everywhere() -> None:
    assert importlib.metadata.version("archsim") == archsim.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first = re.search(r"^## \[([\w.]+)\]", changelog, flags=re.MULTILINE)
    assert first is not None
    assert first[1] in ("Unreleased", archsim.__version__)


def test_every_name_of_the_facade_exists() -> None:
    for name in archsim.__all__:
        assert getattr(archsim, name) is not None
    assert callable(archsim.simulate)
    assert set(archsim.__all__) <= set(dir(archsim))
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        archsim.simulat  # noqa: B018


def test_the_function_simulate_survives_the_import_of_its_module() -> None:
    code = "import archsim.simulation; assert callable(archsim.simulate)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_everything_but_the_exporter_works_without_the_optional_packages() -> None:
    outcome = subprocess.run([sys.executable, "-c", BLOCK_OPTIONAL], check=False, capture_output=True, text=True)
    assert outcome.stdout.strip() == "True", outcome.stderr


def test_data_directories_are_found() -> None:
    assert list((data_path("configs") / "chips").glob("*.yaml"))
    assert list(data_path("workloads").glob("*.h5"))


def test_readme_demo_and_tests_name_only_targets_that_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = {
        target
        for name in ("README.md", "CONTRIBUTING.md", ".ci/run")
        for target in re.findall(r"(?:^|`|; +)make ([a-z][\w-]*)", (ROOT / name).read_text("utf-8"), re.M)
    }
    assert named
    assert named <= targets


def _lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")
