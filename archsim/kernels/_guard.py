"""Never run a stale kernel: a compiled kernel carries the digest of the sources it was built from.

`setup.py` links ``source_digest()`` of a kernel into its binary. In a checkout, where the sources lie beside the
binaries, `check_kernels` looks for the digest of the present sources in each binary before any of them is imported. An
installed wheel holds no sources, and there is nothing to check.
"""

from __future__ import annotations

import hashlib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from archsim.errors import KernelError

__all__ = ["check_kernels", "source_digest"]

REMEDY = "run `make build` or `pip install -e .` in the checkout"


def source_digest(folder: Path, name: str) -> str:
    """Digest of what kernel `name` is compiled from: its .pyx and every .pxd and .pxi of the folder."""
    shared = sorted(path for suffix in ("pxd", "pxi") for path in folder.glob(f"*.{suffix}"))
    digest = hashlib.blake2b(digest_size=20)
    for path in (folder / f"{name}.pyx", *shared):
        text = path.read_bytes().replace(b"\r\n", b"\n")  # whatever line ends git checked out
        digest.update(f"{path.name} {len(text)}\n".encode() + text)
    return digest.hexdigest()


def check_kernels(folder: Path) -> None:
    """Raise `KernelError` if a kernel whose source is in `folder` is not built, or was built from another source."""
    for source in sorted(folder.glob("*.pyx")):
        candidates = (folder / f"{source.stem}{suffix}" for suffix in EXTENSION_SUFFIXES)
        binary = next((path for path in candidates if path.exists()), None)
        if binary is None:
            raise KernelError(f"the kernel {source.name} is not built for this Python; {REMEDY}")
        if source_digest(folder, source.stem).encode() not in binary.read_bytes():
            raise KernelError(f"the kernel {source.name} or a .pxd beside it has changed since it was built; {REMEDY}")
