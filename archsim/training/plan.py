"""How a training step is spread over the chips of a system, and what each degree must divide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from archsim.errors import InputError
from archsim.hardware import SystemSpec
from archsim.mapping import Plan

__all__ = ["EXCHANGES", "GRADIENTS", "OVERLAPS", "RECOMPUTE", "SCHEDULES", "ModelFacts", "TrainPlan", "check", "fill"]

#: in which gradients are summed up and reduced, and its bytes
GRADIENTS = {"fp32": 4, "bf16": 2}
#: what travels between nodes on the way to experts: a row for each node, or for each expert
EXCHANGES = ("node", "row")
SCHEDULES = ("1f1b", "gpipe", "zero-bubble", "dualpipe")
#: tensor-parallel collectives that run beside products
OVERLAPS: dict[str, frozenset[str]] = {
    "none": frozenset(), "gathers": frozenset({"all_gather"}),
    "all": frozenset({"all_gather", "reduce_scatter", "all_reduce"}),
}  # fmt: skip
RECOMPUTE = ("none", "selective", "needed", "full")


@dataclass(frozen=True)
class TrainPlan:
    """Degrees of parallelism of a training step. Chips are numbered tp, cp, dp, pp, the first changing fastest.

    tp: chips that share each layer's heads and columns. cp: that share each sequence. pp: pipeline stages. dp: replicas
    of the model. ep: chips of a stage that share its experts (1: each expert is cut tp ways).
    sp: norms and residuals are split by tokens over tp (Megatron's sequence parallelism).
    virtual: chunks of layers on each stage (interleaved 1F1B). schedule: of micro-batches over stages.
    zero: 0 all-reduces gradients; 1 splits the optimizer's state over dp, 2 gradients too, 3 weights too (FSDP).
    exchange: a row crosses to another node once for its experts there ("node": DeepEP), or for each ("row": NCCL's
    all-to-all).
    recompute: what a layer computes again in its backward pass: "full" the whole forward pass (PyTorch's checkpoints);
    "needed" of it what the backward pass reads (compilers drop the rest, of a layer its last product); "selective" what
    is cheap to compute (norms, activations, rotations, low-rank up-projections; DeepSeek-V3 technical report, section
    3.2.3).
    gradients: the type in which they are summed up over micro-batches and reduced over replicas (fp32: Megatron-LM's
    accumulate_allreduce_grads_in_fp32).
    micro_batch: sequences of a replica at a time. batch: sequences of the whole step.
    overlap: gradients are reduced, and weights gathered, beside the passes (Megatron's overlap_grad_reduce and
    overlap_param_gather); otherwise after and before them.
    overlap_tp: which tensor-parallel collectives of a layer run beside the products that feed them or wait for them,
    piece by piece: "gathers" (XLA's collective fusion, as far as it fuses all-gathers), "all" (user buffers of
    Transformer Engine), "none"; otherwise they run beside what does not need them.
    overlap_ep: rows travel to experts and back beside the kernels of another micro-batch (Megatron-LM's
    overlap_moe_expert_parallel_comm).
    """

    tp: int = 1
    cp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    sp: bool = False
    virtual: int = 1
    schedule: str = "1f1b"
    zero: int = 1
    recompute: str = "none"
    exchange: str = "node"
    gradients: str = "fp32"
    micro_batch: int = 1
    batch: int = 1
    overlap: bool = True
    overlap_tp: str = "none"
    overlap_ep: bool = False

    @property
    def chips(self) -> int:
        return self.tp * self.cp * self.pp * self.dp

    @property
    def micro_batches(self) -> int:
        """Micro-batches of each replica in a step."""
        return self.batch // (self.dp * self.micro_batch)

    @property
    def gradient_bytes(self) -> int:
        return GRADIENTS[self.gradients]

    @property
    def hidden(self) -> frozenset[str]:
        """Kinds of collectives of a layer that run beside its kernels."""
        return OVERLAPS[self.overlap_tp] | (frozenset({"all_to_all"}) if self.overlap_ep else frozenset())

    @property
    def layer(self) -> Plan:
        """The plan of one layer, which the chips of one stage share."""
        return Plan(self.tp, self.dp, self.ep, self.cp, self.sp)

    def __str__(self) -> str:
        parts = [f"{name.upper()}{getattr(self, name)}" for name in ("tp", "cp", "pp", "dp", "ep")
                 if getattr(self, name) > 1]  # fmt: skip
        extra = [f"{self.virtual} chunks a stage"] if self.virtual > 1 else []
        if self.pp > 1:
            extra.append(self.schedule)
        extra += [f"ZeRO-{self.zero}"] if self.zero != 1 and self.dp > 1 else []
        extra += [f"{self.recompute} recomputation"] if self.recompute != "none" else []
        return " ".join([" x ".join(parts) or "one chip", *(f", {each}" for each in extra)]).replace(" ,", ",")


@dataclass(frozen=True)
class ModelFacts:
    """What degrees have to divide: attention heads, experts of a layer (0: dense), layers."""

    heads: int
    experts: int
    layers: int
    seq: int


def fill(
    system: SystemSpec, *, tp: int, cp: int, pp: int, dp: int | None, sp: bool | None, batch: int | None,
    micro_batch: int, **others: Any,
) -> TrainPlan:  # fmt: skip
    """A plan for all chips of a system, with defaults where None is given."""
    if dp is None:
        dp, left = divmod(system.chips, tp * cp * pp)
        if left:
            raise InputError(f"tp {tp} x cp {cp} x pp {pp} = {tp * cp * pp} chips do not divide the {system.chips} "
                             f"of {system.name}")  # fmt: skip
    if batch is None:
        batch = dp * micro_batch * 8 * pp
    return TrainPlan(
        tp=tp, cp=cp, pp=pp, dp=dp, sp=tp > 1 if sp is None else sp, batch=batch, micro_batch=micro_batch, **others
    )


def check(plan: TrainPlan, model: ModelFacts, chips: int, system: str) -> None:
    """InputError, in one sentence with what is legal, where a degree does not divide what it has to."""
    for name, value, legal in (
        ("schedule", plan.schedule, SCHEDULES), ("recompute", plan.recompute, RECOMPUTE),
        ("zero", plan.zero, (0, 1, 2, 3)), ("gradients", plan.gradients, tuple(GRADIENTS)),
        ("overlap_tp", plan.overlap_tp, tuple(OVERLAPS)), ("exchange", plan.exchange, EXCHANGES),
    ):  # fmt: skip
        if value not in legal:
            raise InputError(f"{name} {value}: must be one of {', '.join(map(str, legal))}")
    for name in ("tp", "cp", "pp", "dp", "ep", "virtual", "micro_batch", "batch"):
        if getattr(plan, name) < 1:
            raise InputError(f"{name} {getattr(plan, name)}: must be a whole number, at least 1")
    if plan.chips != chips:
        raise InputError(
            f"tp {plan.tp} x cp {plan.cp} x pp {plan.pp} x dp {plan.dp} = {plan.chips} chips, but {system} has {chips}"
        )
    _divides("tp", plan.tp, model.heads, "attention heads")
    _divides("cp", 2 * plan.cp if plan.cp > 1 else 1, model.seq, "tokens of a sequence (two chunks a chip)")
    stage = plan.tp * plan.cp * plan.dp
    if plan.ep > 1:
        if not model.experts:
            raise InputError(f"ep {plan.ep}: the model has no experts")
        _divides("ep", plan.ep, model.experts, "experts")
        _divides("ep", plan.ep, stage, "chips of a stage")
        if plan.ep % plan.tp:
            raise InputError(f"ep {plan.ep}: must be a multiple of tp {plan.tp}, or 1, where experts are cut tp ways")
    if plan.pp * plan.virtual > model.layers:
        raise InputError(f"pp {plan.pp} x {plan.virtual} chunks: the model has only {model.layers} layers")
    if plan.pp == 1 and plan.virtual > 1:
        raise InputError(f"virtual {plan.virtual}: chunks of layers need more than one pipeline stage")
    if plan.sp and plan.tp == 1:
        raise InputError("sp: splits over tp what tensor parallelism leaves whole, and tp is 1")
    if plan.zero == 3 and plan.schedule == "dualpipe":
        raise InputError("zero 3: dualpipe keeps two copies of the weights on each chip; choose zero 1")
    if plan.virtual > 1 and plan.schedule != "1f1b":
        raise InputError(f"virtual {plan.virtual}: chunks of layers are for the schedule 1f1b, not {plan.schedule}")
    per_step = plan.dp * plan.micro_batch
    if plan.batch % per_step:
        raise InputError(f"batch {plan.batch}: must be a multiple of dp {plan.dp} x micro-batch {plan.micro_batch}")
    count = plan.micro_batches
    if plan.virtual > 1 and count % plan.pp:
        raise InputError(f"{count} micro-batches: chunks of layers need a multiple of pp {plan.pp}")
    if plan.schedule == "dualpipe" and (plan.pp % 2 or count % 2 or count < 2 * plan.pp):
        raise InputError(
            f"dualpipe: needs an even pp ({plan.pp}) and an even number of micro-batches, at least 2 pp ({count})"
        )


def _divides(name: str, degree: int, whole: int, what: str) -> None:
    if whole % degree:
        legal = [d for d in range(1, min(whole, 4096) + 1) if whole % d == 0]
        shown = ", ".join(map(str, legal[:12])) + (", ..." if len(legal) > 12 else "")
        raise InputError(f"{name} {degree}: must divide the {whole} {what} ({shown})")
