"""Machines and the programs that run on them.

A program can be written by hand. Two tiles are fetched through one memory and one link, multiplied on one matrix
unit, and joined:

>>> from archsim.program import Dram, Link, Machine, Memory, ProgramBuilder, Unit
>>> dram = Dram(channels=2, interleave_bytes=256, banks=4, row_bytes=1024, burst_bytes=32, burst_ps=1000)
>>> machine = Machine((Memory("hbm", "memory", dram), Link("port", "noc", as_per_byte=10**6), Unit("mxu", "matrix")))
>>> builder = ProgramBuilder(machine, "two tiles")
>>> weights = builder.region("weights", 8192)
>>> loads = [builder.step(("hbm", "port"), nbytes=4096, region=weights, offset=4096 * tile) for tile in (0, 1)]
>>> tiles = [builder.step("mxu", work_ps=70_000, after=[load]) for load in loads]
>>> done = builder.join(tiles, mark=True)
>>> program = builder.build()
>>> print(program.describe())
program two tiles: 5 steps on 3 resources
region 0 weights: 8192 bytes
     0   hbm > port  4096 bytes  read weights+0
     1   hbm > port  4096 bytes  read weights+4096
     2   mxu  70000 ps  after 0
     3   mxu  70000 ps  after 1
     4   join  after 2,3  [mark]
"""

from archsim.program.builder import ProgramBuilder
from archsim.program.carry import Carry
from archsim.program.machine import (
    Cache,
    Dram,
    Kind,
    Link,
    Machine,
    Memory,
    Resource,
    Unit,
    Window,
    attoseconds_per_byte,
    service_ps,
)
from archsim.program.program import MAX_PRIORITY, NO_GATHER, NO_REGION, Program, Region
from archsim.program.run import Counters, Run, check_launch

__all__ = [
    "MAX_PRIORITY",
    "NO_GATHER",
    "NO_REGION",
    "Cache",
    "Carry",
    "Counters",
    "Dram",
    "Kind",
    "Link",
    "Machine",
    "Memory",
    "Program",
    "ProgramBuilder",
    "Region",
    "Resource",
    "Run",
    "Unit",
    "Window",
    "attoseconds_per_byte",
    "check_launch",
    "service_ps",
]
