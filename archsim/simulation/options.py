"""The options of a simulation, checked."""

from __future__ import annotations

from dataclasses import dataclass, field

from archsim.errors import InputError
from archsim.mapping import (
    Pins,
)
from archsim.sparsity import Sparsity
from archsim.trace import QUANTS
from archsim.trace.trace import PHASES

__all__ = ["Options"]

#: default prompt of a prefill and default cached tokens of a decode step
SEQ, CTX = 2048, 4096
FIDELITIES = ("roofline", "tile", "cycle")
ENGINES = ("compiled", "simpy")
#: whether the halves of a chip's batch take turns: as the closed form says where experts are spread, or as told
OVERLAPS = ("auto", "two-batch", "none")
#: shared experts of a layer: on every chip, or spread like those that a router chooses
SHARED = ("everywhere", "spread")
#: what chips that share a prompt divide its attention by
CONTEXT = ("tokens", "heads")


@dataclass(frozen=True)
class Options:
    """How to simulate; see :func:`archsim.simulate` for the meaning of each."""

    phase: str
    batch: int = 1
    seq: int | None = None
    ctx: int | None = None
    tp: int | None = None
    ep: int | None = None
    fidelity: str = "tile"
    engine: str = "compiled"
    exact: bool = False
    quant: str = "none"
    routing: str | None = None
    mtp: bool = False
    seed: int = 0
    power_cap: float | None = None
    overlap: str = "auto"
    redundant: int = 0
    shared_experts: str = "everywhere"
    node_limit: int | None = None
    cp: int = 1
    cp_by: str = "tokens"
    pp: int = 1
    stage_layers: tuple[int, ...] | None = None
    micro_batches: int | None = None
    pins: Pins = field(default_factory=dict)
    sparsity: str = "none"

    def __post_init__(self) -> None:
        for name, value, legal in (
            ("phase", self.phase, PHASES), ("fidelity", self.fidelity, FIDELITIES), ("engine", self.engine, ENGINES),
            ("quant", self.quant, QUANTS), ("overlap", self.overlap, OVERLAPS),
            ("shared-experts", self.shared_experts, SHARED), ("cp-by", self.cp_by, CONTEXT),
        ):  # fmt: skip
            if value not in legal:
                raise InputError(f"--{name} {value}: must be one of {', '.join(legal)}")
        least = {"batch": 1, "seq": 1, "ctx": 0, "tp": 1, "ep": 1, "seed": 0, "redundant": 0, "node_limit": 0,
                 "cp": 1, "pp": 1, "micro_batches": 1}  # fmt: skip
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < low):
                raise InputError(f"--{name.replace('_', '-')} {value}: must be a whole number, at least {low}")
        Sparsity.chosen(self.sparsity)  # refuses what is none
        if self.power_cap is not None and not 0 < self.power_cap < 1e6:
            raise InputError(f"--power-cap {self.power_cap:g}: must be watts of one chip, more than 0")
        for flag, given in (("stage-layers", self.stage_layers), ("micro-batches", self.micro_batches)):
            if given is not None and self.pp == 1:
                raise InputError(f"--{flag}: there is one stage; --pp N makes more of them")
