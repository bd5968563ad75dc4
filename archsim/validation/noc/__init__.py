"""Suite `noc`: on-chip networks against BookSim 2, bulk transfers and random traffic."""

from __future__ import annotations

from archsim.validation.noc.bulk import BULK, CYCLE_BULK, TILE_BULK
from archsim.validation.noc.sweep import LATENCY, SATURATION, SWEEP
from archsim.validation.suite import Suite

__all__ = ["NOC"]

NOC = Suite(
    name="noc",
    title="on-chip networks, against BookSim 2: bulk transfers, latency under load, saturation",
    references=(BULK, SWEEP),
    group_bands={
        CYCLE_BULK: {"mape_pct": 1.5},
        TILE_BULK: {"mape_pct": 3.0},
        LATENCY: {"mape_pct": 5.0},
        SATURATION: {"mape_pct": 5.0},
    },
)
