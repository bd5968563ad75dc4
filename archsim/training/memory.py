"""What each rank of a pipeline holds: weights, gradients and optimizer to the byte, activations as an estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archsim.mapping.fuse import COLLECTIVES
from archsim.mapping.task import TaskBlock
from archsim.training.passes import is_cheap
from archsim.training.plan import TrainPlan
from archsim.training.replicas import Parameters

__all__ = ["OPTIMIZER_BYTES", "StageMemory", "saved_bytes", "stage_memory"]

#: AdamW keeps an fp32 copy of each weight and two moments
OPTIMIZER_BYTES = 12


@dataclass(frozen=True)
class StageMemory:
    """Bytes of one chip. activations: of all micro-batches that wait for their backward pass (an estimate)."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations

    def rows(self) -> tuple[tuple[str, int], ...]:
        return (
            ("weights", self.weights), ("gradients", self.gradients), ("optimizer", self.optimizer),
            ("activations (estimate)", self.activations),
        )  # fmt: skip


def saved_bytes(forward: TaskBlock, backward: TaskBlock, recompute: str) -> tuple[int, int]:
    """Activations of one micro-batch that a block keeps, and the most that its two passes hold beside them.

    What a task of the forward pass writes and one of the backward pass reads is kept. With selective recomputation that
    is not what is cheap to compute again, nor the results of experts, whose weights multiply their input there. With
    full recomputation it is what the block reads from outside, and the rest is alive while one layer is computed again.
    """
    tasks = [task for task in forward.tasks if task.kind not in COLLECTIVES]  # what they gather is dropped after use
    made = {o.tensor: o.nbytes for task in tasks for o in task.outputs if o.role == "activation"}
    read = {o.tensor for task in backward.tasks if task.attrs.get("fn") != "dot" for o in task.inputs}
    if recompute == "none":
        read = {o.tensor for task in backward.tasks for o in task.inputs}
    again = {o.tensor for task in forward.tasks if is_cheap(task) for o in task.outputs}
    if recompute == "selective":  # what the cheap tasks start from is needed too
        read |= {o.tensor for task in forward.tasks if is_cheap(task) for o in task.inputs if o.tensor not in again}
        read -= again
    kept = sum(nbytes for tensor, nbytes in made.items() if tensor in read)
    outside = {
        o.tensor: o.nbytes for task in forward.tasks for o in task.inputs
        if o.role == "activation" and o.tensor not in made
    }  # fmt: skip
    residual = max(outside.values(), default=0)
    working = max((sum(o.nbytes for o in (*t.inputs, *t.outputs) if o.role == "activation") for t in backward.tasks),
                  default=0)  # fmt: skip
    if recompute in ("full", "needed"):
        return residual, working + kept
    return kept, working


def stage_memory(
    weights: Sequence[Parameters], plan: TrainPlan, *, gradient_bytes: float, kept: float, working: int
) -> StageMemory:
    """The memory of a rank with the blocks `weights`. kept: bytes of the activations of all micro-batches."""
    held, gradients, optimizer = (plan.zero >= 3, plan.zero >= 2, plan.zero >= 1)
    dense, experts = plan.dp * plan.cp, plan.tp * plan.cp * plan.dp / plan.ep

    def share(amount: Parameters, *, split: bool) -> float:
        return amount.dense / dense + amount.experts / experts if split else amount.count

    def of(split: bool) -> float:
        return sum(share(each, split=split) for each in weights)

    width = sum(each.nbytes for each in weights) / max(sum(each.count for each in weights), 1)
    return StageMemory(
        round(of(held) * width), round(of(gradients) * gradient_bytes), round(of(optimizer) * OPTIMIZER_BYTES),
        round(kept) + working,
    )  # fmt: skip
