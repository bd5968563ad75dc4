"""Stale code never runs silently: the guard on the kernels, and the build that feeds it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from archsim.errors import KernelError
from archsim.kernels._guard import check_kernels, source_digest

ROOT = Path(__file__).resolve().parents[2]
SUFFIX = EXTENSION_SUFFIXES[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A kernel, a header that it shares, and a binary that carries the digest of both."""
    (tmp_path / "_k.pyx").write_text("x = 1\n")
    (tmp_path / "_shared.pxd").write_text("cdef int y\n")
    (tmp_path / f"_k{SUFFIX}").write_bytes(b"\x7fELF" + source_digest(tmp_path, "_k").encode() + b"\0")
    return tmp_path


def test_a_kernel_built_from_its_sources_passes(folder: Path) -> None:
    check_kernels(folder)


@pytest.mark.parametrize("edited", ["_k.pyx", "_shared.pxd"])
def test_an_edited_source_is_refused(folder: Path, edited: str) -> None:
    (folder / edited).write_text((folder / edited).read_text() + "# one more line\n")
    with pytest.raises(KernelError, match=r"_k\.pyx or a \.pxd beside it has changed .*; run `make build` or `pip"):
        check_kernels(folder)


def test_time_stamps_and_line_ends_do_not_matter(folder: Path) -> None:
    source = folder / "_k.pyx"
    source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))
    os.utime(source, (2e9, 2e9))
    check_kernels(folder)


def test_a_new_header_is_a_change(folder: Path) -> None:
    (folder / "_another.pxd").write_text("")
    with pytest.raises(KernelError, match="has changed"):
        check_kernels(folder)


def test_an_unbuilt_kernel_is_one_sentence(folder: Path) -> None:
    (folder / f"_k{SUFFIX}").rename(folder / "_k.cpython-27-other.so")
    with pytest.raises(KernelError, match=r"^the kernel _k\.pyx is not built for this Python; run `make build`"):
        check_kernels(folder)


def test_an_installed_wheel_holds_no_sources_and_passes(tmp_path: Path) -> None:
    (tmp_path / f"_k{SUFFIX}").write_bytes(b"anything")
    check_kernels(tmp_path)


def test_the_kernels_of_this_checkout_are_guarded(tmp_path: Path) -> None:
    """An edit to any kernel of a copied checkout stops the import, before the stale binary runs."""
    copy = tmp_path / "archsim"
    shutil.copytree(ROOT / "archsim", copy, ignore=shutil.ignore_patterns("__pycache__", "results", "trace"))
    code = "import archsim.kernels"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, env=environment, cwd=tmp_path, check=False).returncode == 0
    for source in (ROOT / "archsim" / "kernels").glob("_*.pyx"):
        edited = copy / "kernels" / source.name
        edited.write_text(source.read_text() + "\n")
        outcome = subprocess.run(command, env=environment, cwd=tmp_path, check=False, capture_output=True, text=True)
        assert outcome.returncode == 1
        assert outcome.stderr.splitlines()[-1].startswith(f"archsim.errors.KernelError: the kernel {source.name}")
        edited.write_text(source.read_text())


class Project:
    """A copy of the project with one tiny kernel, built by the real setup.py."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kernels = root / "archsim" / "kernels"
        self.kernels.mkdir(parents=True)
        for name in ("setup.py", "README.md", "archsim/__init__.py", "archsim/_version.py", "archsim/errors.py"):
            shutil.copy(ROOT / name, root / name)
        shutil.copy(ROOT / "archsim/kernels/_guard.py", self.kernels / "_guard.py")
        (self.kernels / "_tiny.pyx").write_text("def answer():\n    return 41\n")

    def build(self, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        return subprocess.run(
            command, cwd=self.root, env={**os.environ, **environment}, check=False, capture_output=True, text=True
        )

    def binary(self) -> Path:
        return next(path for suffix in EXTENSION_SUFFIXES for path in self.kernels.glob(f"_tiny{suffix}"))

    def answer(self) -> str:
        code = "import _tiny; print(_tiny.answer())"
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=self.kernels, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_build_follows_the_sources_even_when_time_stamps_lie(project: Project) -> None:
    assert project.build().returncode == 0
    check_kernels(project.kernels)
    assert project.answer() == "41"

    built = project.binary().stat().st_mtime_ns
    assert project.build().returncode == 0
    assert project.binary().stat().st_mtime_ns == built, "nothing changed, so nothing is compiled"

    source = project.kernels / "_tiny.pyx"
    source.write_text("def answer():\n    return 42\n")
    os.utime(source, (1e9, 1e9))  # older than the binary, as after a checkout of an old commit
    with pytest.raises(KernelError, match="has changed"):
        check_kernels(project.kernels)
    assert project.build().returncode == 0
    check_kernels(project.kernels)
    assert project.answer() == "42"


def test_a_debug_build_checks_bounds(project: Project) -> None:
    source = project.kernels / "_tiny.pyx"
    source.write_text("def answer():\n    cdef int[4] c = [1, 2, 3, 4]\n    cdef int[:] v = c\n    return v[4]\n")
    outcome = project.build(ARCHSIM_DEBUG="1")
    assert outcome.returncode == 0, outcome.stderr
    with pytest.raises(subprocess.CalledProcessError) as raised:
        project.answer()
    assert "IndexError: Out of bounds" in raised.value.stderr


def test_a_missing_compiler_is_one_sentence_that_names_the_package(project: Project) -> None:
    outcome = project.build(CC="no-such-cc")
    assert outcome.returncode == 1
    assert "Traceback" not in outcome.stderr
    last = outcome.stderr.splitlines()[-1]
    assert last.startswith("error: archsim compiles its kernels, but the C compiler 'no-such-cc' was not found")
    assert "build-essential" in last
    assert "xcode-select" in last
