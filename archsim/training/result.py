"""What comes out of a training step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from archsim.hardware import ChipSpec, SystemSpec
from archsim.pipeline.run import Span
from archsim.training.memory import StageMemory
from archsim.training.passes import BlockPasses
from archsim.training.plan import TrainPlan

__all__ = ["TrainStep"]


@dataclass(frozen=True, eq=False)
class TrainStep:
    """What came out of a step.

    time_s: of the step. flops_per_token: of the model, as usual thrice the products and attention of its forward pass,
    a causal mask counted as what it lets through. computed_flops: what one chip computes, recomputation included.
    bubble: share of the passes in which the mean rank waits. exposed: share of the step in which the network alone
    works (before the first and after the last pass). stages: memory of each rank. passes: of each block.
    """

    plan: TrainPlan
    chip: ChipSpec
    system: SystemSpec
    workload: str
    seq: int
    precision: str
    time_s: float
    flops_per_token: float
    computed_flops: float
    bubble: float
    exposed: float
    stages: tuple[StageMemory, ...]
    passes: tuple[BlockPasses, ...]
    spans: tuple[Span, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        return self.plan.batch * self.seq

    @property
    def tokens_per_s(self) -> float:
        """Of the whole system."""
        return self.tokens / self.time_s

    @property
    def model_flops(self) -> float:
        """Model FLOP/s of one chip."""
        return self.flops_per_token * self.tokens_per_s / self.plan.chips

    @property
    def mfu(self) -> float:
        """Model FLOP/s over the dense bf16 peak of the chip, as is usual also where products are narrower."""
        return self.model_flops / self.chip.flops("bf16")

    @property
    def hfu(self) -> float:
        """The same with what is computed again."""
        return self.computed_flops / self.time_s / self.chip.flops("bf16")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; keys carry their units."""
        return {
            "workload": self.workload, "system": self.system.name, "chip": self.chip.name, "chips": self.plan.chips,
            "precision": self.precision, "plan": asdict(self.plan), "seq": self.seq, "time_s": self.time_s,
            "tokens": self.tokens, "tokens_per_s": self.tokens_per_s,
            "tokens_per_s_per_chip": self.tokens_per_s / self.plan.chips,
            "model_flops_per_s_per_chip": self.model_flops, "mfu": self.mfu, "hfu": self.hfu, "bubble": self.bubble,
            "exposed_network": self.exposed,
            "memory_bytes": [dict(stage.rows()) for stage in self.stages],
            "memory_capacity_bytes": int(self.chip.memory.usable_capacity),
            "passes": [
                {
                    "block": b.name, "repeat": b.repeat, "forward_s": b.forward.time * 1e-12,
                    "backward_s": b.backward.time * 1e-12, "weight_gradients_s": b.backward.weights * 1e-12,
                    "collectives_s": (b.forward.collectives + b.backward.collectives) * 1e-12,
                    "operators_s": {
                        name: ps * 1e-12 for half in (b.forward, b.backward) for name, ps in half.operators
                    },
                }
                for b in self.passes
            ],
            "notes": list(self.notes),
        }  # fmt: skip
