"""Suite `hbm`: the cycle model of DRAM channels against Ramulator 2.1 and DRAMsim3,
on their own parameters and streams."""

from __future__ import annotations

from archsim.validation.hbm.suite import HBM
from archsim.validation.hbm.tile import HBM_TILE

__all__ = ["HBM", "HBM_TILE"]
