"""What one run of a program returns, whichever interpreter ran it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.program.machine import Machine
from archsim.program.program import Program

__all__ = ["Counters", "Run", "check_launch"]


@dataclass(frozen=True)
class Counters:
    """What the memories of the machine did during a run (sums over all of them).

    `activates`, `read_bursts` and `write_bursts` are the commands that the DRAM served; `dram_busy_ps` is data-bus time
    summed over channels, `cache_busy_ps` the time of the cache's port.
    """

    bytes_requested: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    block_hits: int = 0
    block_misses: int = 0
    activates: int = 0
    read_bursts: int = 0
    write_bursts: int = 0
    cache_busy_ps: int = 0
    dram_busy_ps: int = 0


@dataclass(frozen=True, eq=False)
class Run:
    """Times of every step of a program, and how busy each resource was with it.

    `start_ps` is when the first resource of a step's route took it up (a memory does so on arrival; a join starts
    and finishes at once). `busy_ps` of a memory is its mean over channels of data-bus time, rounded down.
    """

    begin_ps: int
    end_ps: int
    start_ps: NDArray[np.int64]
    finish_ps: NDArray[np.int64]
    busy_ps: NDArray[np.int64]
    counters: Counters

    @property
    def elapsed_ps(self) -> int:
        """From the launch of the program to the finish of its last step."""
        return self.end_ps - self.begin_ps


def check_launch(machine: Machine, program: Program, start_ps: int, now_ps: int) -> None:
    """Refuse a program that cannot be launched on `machine` at `start_ps`."""
    if program.machine is not machine and program.machine != machine:
        raise InputError(f"program {program.name}: it was written for another machine than the one it runs on.")
    if len(program) == 0:
        raise InputError(f"program {program.name}: it has no steps.")
    if start_ps < now_ps:
        raise InputError(
            f"program {program.name}: it starts at {start_ps} ps, but the machine is at {now_ps} ps already."
        )
