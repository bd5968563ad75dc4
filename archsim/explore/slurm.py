"""The same sweep as a Slurm array job: write the script, submit it, and read what its tasks have recorded."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from archsim.errors import ArchsimError, InputError, write_atomically

__all__ = ["running", "submit", "write_script"]


def write_script(folder: Path, command: Sequence[str], shards: int, options: Sequence[str] = ()) -> Path:
    """Write ``FOLDER/sweep.sbatch``, an array of `shards` tasks that each run `command` on their part; return its path.

    options: further ``#SBATCH`` lines such as ``--partition=cpu`` or ``--time=1:00:00``.
    """
    if shards < 1:
        raise InputError(f"--shards {shards}: must be at least 1")
    for option in options:
        if not option.startswith("--") or "\n" in option:
            raise InputError(f"--sbatch {option!r:.60}: must be an option of sbatch such as --partition=cpu")
    lines = [
        "#!/bin/sh",
        "#SBATCH --job-name=archsim-sweep",
        f"#SBATCH --array=1-{shards}",
        f"#SBATCH --output={folder.resolve()}/slurm-%A_%a.log",
        *(f"#SBATCH {option}" for option in options),
        f'exec {shlex.join(command)} --shard "$SLURM_ARRAY_TASK_ID/{shards}"',
    ]
    path = folder / "sweep.sbatch"
    write_atomically(path, lambda target: target.write_bytes("\n".join([*lines, ""]).encode()))
    return path


def submit(script: Path) -> str:
    """Hand the script to sbatch; the job's id."""
    text = _call(["sbatch", "--parsable", str(script)])
    match = re.match(r"(\d+)", text)
    if match is None:
        raise ArchsimError(f"sbatch answered '{text.strip()[:100]}', which names no job")
    return match[1]


def running(job: str) -> bool:
    """Whether any task of the job is waiting or running."""
    text = _call(["squeue", "--noheader", "--format=%T", f"--jobs={job}"], check=False)
    return any(line.strip() in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING") for line in text.splitlines())


def _call(command: Sequence[str], *, check: bool = True) -> str:
    if shutil.which(command[0]) is None:
        raise InputError(f"--executor slurm needs the command {command[0]}, which is not installed here")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if check and done.returncode:
        raise ArchsimError(f"{command[0]} failed: {done.stderr.strip()[:300] or f'exit code {done.returncode}'}")
    return done.stdout
