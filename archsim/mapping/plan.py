"""How a model is spread over the chips of a system: tensor-, data- and expert-parallel degrees."""

from __future__ import annotations

from dataclasses import dataclass

from archsim.errors import InputError

__all__ = ["Plan", "candidate_plans", "make_plan", "tensor_degrees"]


@dataclass(frozen=True)
class Plan:
    """Degrees of parallelism; every chip does the same work, so one of them stands for all.

    tp: chips that share each layer's heads and columns. dp: groups of tp chips, each with its share of the
    batch. ep: chips that the experts are spread over: in inference all of a stage, in training any multiple
    of tp that divides them, or 1, where each expert is cut tp ways instead. redundant: copies of experts beyond the
    first, which relieve the busiest chips. node_limit: nodes that the experts of one token may lie on (0: any). pp:
    stages of a pipeline, each of which has so many chips (of an inference step; training keeps its own count). cp:
    chips that share each sequence (`shard_context.py`, in training `shard_training.py`); by_heads: those of a prompt
    attend with a share of the heads to all of its tokens.

    In training also: sp: what tensor parallelism leaves whole (norms, residuals) is split by tokens.
    """

    tp: int = 1
    dp: int = 1
    ep: int = 1
    cp: int = 1
    sp: bool = False
    redundant: int = 0
    node_limit: int = 0
    pp: int = 1
    by_heads: bool = False

    @property
    def chips(self) -> int:
        return self.tp * self.cp * self.dp * self.pp

    def __str__(self) -> str:
        shared = "CP by heads " if self.by_heads else "CP"
        more = "".join(f" x {name}{n}" for name, n in ((shared, self.cp), ("PP", self.pp)) if n > 1)
        return f"TP{self.tp} x DP{self.dp}{more}" + self._experts()

    def _experts(self) -> str:
        if self.ep == 1:
            return ""
        return f", EP{self.ep}" + (f" with {self.redundant} redundant experts" if self.redundant else "")


def make_plan(
    *, chips: int, heads: int, experts: int, batch: int, tp: int, ep: int | None = None, redundant: int = 0,
    node_limit: int = 0, cp: int = 1,
) -> Plan:  # fmt: skip
    """The plan of a given tensor-parallel degree; the experts are spread over all chips unless ``ep`` says otherwise.

    Args:
        heads: attention heads of what cp leaves whole; tp must divide them.
        experts: routed experts of a MoE layer, 0 for a dense model.
        batch: sequences of the whole system; every DP group takes an equal share.
        cp: chips that share each sequence; it must divide the chips.
        redundant, node_limit: see `Plan`.

    Raises InputError with the legal values where a degree does not divide what it has to.
    """
    legal = tensor_degrees(chips // cp, heads)
    if tp not in legal:
        parts = f" of a part of the context at CP{cp}" if cp > 1 else ""
        raise InputError(
            f"--tp {tp}: must divide both the {chips // cp} chips and the {heads} attention heads{parts} "
            f"({_list(legal)})"
        )
    dp = chips // cp // tp
    if batch % dp:
        raise InputError(
            f"--batch {batch}: must be a multiple of {dp}, the data-parallel groups of {chips} chips at TP{tp} "
            f"(choose another --batch or --tp)"
        )
    if not experts:
        if ep not in (None, 1):
            raise InputError(f"--ep {ep}: the model has no experts")
        for flag, given in (("redundant", redundant), ("node-limit", node_limit)):
            if given:
                raise InputError(f"--{flag} {given}: the model has no experts")
        return Plan(tp, dp, 1, cp)
    choices = [d for d in {1 if dp == 1 else chips, chips} if (experts + redundant) % d == 0 or d == 1]
    if not choices:
        also = f" and {redundant} redundant ones" if redundant else ""
        least = -(experts + redundant) % chips + redundant
        raise InputError(
            f"--tp {tp}: the {experts} experts{also} do not divide over {chips} chips, as data-parallel groups need "
            f"(--redundant {least} would)"
        )
    if ep is None:
        ep = max(choices)
    if ep not in choices:
        raise InputError(
            f"--ep {ep}: at TP{tp} the {experts} experts can be spread over {_list(sorted(choices))} of {chips} chips"
        )
    if ep == 1:
        if redundant:
            raise InputError(f"--redundant {redundant}: every chip holds its part of all experts at EP1")
        return Plan(tp, dp, ep, cp)
    return Plan(tp, dp, ep, cp, redundant=redundant, node_limit=node_limit)


def tensor_degrees(chips: int, heads: int) -> list[int]:
    """Tensor-parallel degrees that divide the chips and the heads.

    >>> tensor_degrees(12, 32)
    [1, 2, 4]
    """
    return [d for d in range(1, chips + 1) if chips % d == 0 and heads % d == 0]


def candidate_plans(
    *, chips: int, chips_per_node: int, heads: int, experts: int, batch: int, ep: int | None = None,
    redundant: int = 0, node_limit: int = 0, cp: int = 1,
) -> list[Plan]:  # fmt: skip
    """All plans with tensor parallelism inside a node, the widest first; InputError where there is none."""
    inside = [d for d in tensor_degrees(chips // cp, heads) if d <= chips_per_node]
    widest = max(inside)
    plans = []
    for tp in sorted(inside, reverse=True):
        try:
            plans.append(
                make_plan(
                    chips=chips, heads=heads, experts=experts, batch=batch, tp=tp, ep=ep, redundant=redundant,
                    node_limit=node_limit, cp=cp,
                )
            )  # fmt: skip
        except InputError:
            if tp == widest:  # the one that asks the least of the batch: its complaint is the one to hear
                raise
    return plans


def _list(values: list[int]) -> str:
    return ", ".join(map(str, values))
