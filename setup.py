"""Build of archsim: metadata, the compiled kernels, and the data directories that ship inside the package.

`ARCHSIM_DEBUG=1 pip install -e .` compiles the kernels with bounds checks.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys
import sysconfig
from pathlib import Path
from threading import Lock

from Cython import __version__ as cython_version
from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError, SetupError

ROOT = Path(__file__).parent
DATA = ("configs", "workloads")  # top-level directories, installed as archsim/<name>
KERNELS = Path("archsim/kernels")
DEBUG = os.environ.get("ARCHSIM_DEBUG", "0") not in ("", "0")

sys.path.insert(0, str(ROOT))  # the build backend does not put the project's directory there
VERSION = runpy.run_path(str(ROOT / "archsim/_version.py"))["__version__"]
source_digest = runpy.run_path(str(ROOT / KERNELS / "_guard.py"))["source_digest"]


def kernel_extensions() -> list[Extension]:
    """One extension per `archsim/kernels/*.pyx`; reproducible flags, so every machine computes the same."""
    return [
        Extension(
            f"archsim.kernels.{path.stem}",
            [str(KERNELS / path.name)],
            extra_compile_args=["-O1", "-g"] if DEBUG else ["-O3"],
        )
        for path in sorted((ROOT / KERNELS).glob("*.pyx"))
    ]


class BuildKernels(build_ext):
    """Compiles a kernel whenever its binary does not carry the digest of its sources, and says so if it cannot."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.cython_directives = {
            "language_level": 3,
            "boundscheck": DEBUG,
            "initializedcheck": DEBUG,
            "wraparound": False,
            "cdivision": True,
        }

    def build_extensions(self) -> None:
        self.parallel = self.parallel or True  # a C compiler on every core
        self.forced, self.force = self.force, True  # time stamps do not decide, the digest does
        self.translating = Lock()  # Cython itself takes one file at a time
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        name = ext.name.rpartition(".")[2]
        digest = source_digest(ROOT / KERNELS, name)
        mark = f"{digest} Cython {cython_version} {ext.extra_compile_args} {self.cython_directives}"
        target = Path(self.get_ext_fullpath(ext.name))
        in_place = ROOT / self.get_ext_filename(ext.name)
        if not self.forced and in_place.exists() and mark.encode() in in_place.read_bytes():
            self.mkpath(str(target.parent))
            self.copy_file(str(in_place), str(target))
            return
        self.require_compiler()
        marker = Path(self.build_temp) / f"{name}_digest.c"
        self.mkpath(self.build_temp)
        marker.write_text(f'const char archsim_source_digest[] = "{mark}";\n')
        with self.translating:
            translated = cythonize(
                ext, build_dir=self.build_temp, compiler_directives=self.cython_directives, force=True,
                quiet=self.verbose == 0,
            )  # fmt: skip
        ext.sources = [*translated[0].sources, str(marker)]
        super().build_extension(ext)

    def require_compiler(self) -> None:
        """Fail with one sentence when there is no C compiler or no Python header."""
        command = getattr(self.compiler, "compiler", None)  # absent on Windows, where setuptools explains itself
        if command and shutil.which(command[0]) is None:
            raise CompileError(
                f"archsim compiles its kernels, but the C compiler '{command[0]}' was not found: install gcc "
                "(Debian, Ubuntu: build-essential; Fedora: gcc; macOS: xcode-select --install) and try again"
            )
        if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
            raise CompileError(
                "archsim compiles its kernels, but Python.h was not found: install Python's headers "
                "(Debian, Ubuntu: python3-dev; Fedora: python3-devel) and try again"
            )


class BuildPackage(build_py):
    """Copies the data directories into the package; an editable install reads them where they are."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for source, target in self.data_pairs():
            self.mkpath(str(target.parent))
            self.copy_file(str(source), str(target))

    def data_pairs(self) -> list[tuple[Path, Path]]:
        for name in DATA:
            if not (ROOT / name).is_dir():
                raise SetupError(f"the directory {name}/ is missing from the source tree")
        files = (path for name in DATA for path in sorted(Path(name).rglob("*")))
        target = Path(self.build_lib) / "archsim"
        return [(path, target / path) for path in files if path.is_file() and path.suffix not in (".py", ".pyc")]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        data = [] if self.editable_mode else [str(target) for _, target in self.data_pairs()]
        return [*super().get_outputs(include_bytecode), *data]


TEST = [
    "pytest>=8,<10",
    "pytest-xdist>=3.5,<4",
    "hypothesis>=6.100,<7",
    "nbmake>=1.5,<2",
    "ipykernel>=6.29,<8",
    "ruff>=0.9,<0.18",
    "mypy>=1.15,<3",
    "import-linter>=2.1,<3",
    "build>=1.2,<2",
    "setuptools>=70",
    "cython>=3.1,<4",
]
PLOT = ["pandas>=2.2,<4", "matplotlib>=3.8,<4"]
EXPORT = ["torch==2.13.0", "transformers==5.23.0"]
ONNX = ["onnx>=1.19,<2"]
EXPLORE = [
    "optuna>=4,<5", "distributed>=2024.8", "dask-jobqueue>=0.9", "loky>=3.4", "SALib>=1.5", "scipy>=1.11,<2",
    "pyarrow>=16",
]  # fmt: skip

setup(
    name="archsim",
    version=VERSION,
    description="Cycle-approximate simulation of AI chips, driven by operator traces of large language models",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Cython",
        "Topic :: Scientific/Engineering",
        "Typing :: Typed",
    ],
    package_dir={"": "."},  # an editable install is then one line in a .pth file
    packages=find_packages(include=["archsim", "archsim.*"]),
    package_data={"archsim": ["py.typed", "report/*.css", "validation/data/*", "validation/data/models/*"]},
    exclude_package_data={"archsim": ["*.pyx", "*.pxd", "*.c"]},
    include_package_data=False,
    ext_modules=kernel_extensions(),
    cmdclass={"build_ext": BuildKernels, "build_py": BuildPackage},
    install_requires=[  # the lower ends are the oldest versions that passed the tests
        "numpy>=1.26,<3",
        "simpy>=4.1,<5",
        "click>=8.2,<9",
        "h5py>=3.10,<4",
        "pydantic>=2.10,<3",
        "pyyaml>=6.0.1,<7",
        "rich>=13.7,<16",
    ],
    extras_require={
        "plot": PLOT,
        "export": EXPORT,
        "onnx": ONNX,
        "explore": EXPLORE,
        "test": [*TEST, *PLOT, *ONNX, *EXPLORE],
    },
    entry_points={"console_scripts": ["archsim = archsim.cli.main:main"]},
)
