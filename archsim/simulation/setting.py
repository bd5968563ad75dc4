"""From names and options to jobs: what a step runs on and what it does, resolved and checked, and its plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from archsim.errors import InputError
from archsim.hardware import ChipSpec, SystemSpec, list_systems, load_system
from archsim.mapping import (
    LAYOUT,
    Fabric,
    Footprint,
    Plan,
    Storage,
    Target,
    candidate_plans,
    checked,
    footprint,
    make_plan,
    make_target,
    require_fit,
    require_sparsity,
    shard_step,
)
from archsim.network import Fabric as Network
from archsim.network import Group
from archsim.physical import load_variant
from archsim.simulation.collectives import attach
from archsim.simulation.job import Job, Share
from archsim.simulation.links import links_of
from archsim.simulation.options import CTX, SEQ, Options
from archsim.sparsity import Sparsity
from archsim.trace import Graph, Trace, load_workload, pruned, quantised, routed, with_mtp, with_routed_shared

__all__ = ["Setting", "candidates", "prepare", "refuse", "resolve", "variants"]


def prepare(
    chip: str | ChipSpec, workload: str | Trace, options: Options, system: str | SystemSpec | None = None,
    overrides: Mapping[str, str] | None = None,
) -> Job:  # fmt: skip
    """Resolve names, choose the plan, check the memory. Raises InputError for anything that cannot be run.

    Without ``tp`` the plan is the one with the smallest lower bound on the time among those that fit.
    """
    return min(candidates(chip, workload, options, system, overrides), key=Job.bound_s)


def candidates(
    chip: str | ChipSpec, workload: str | Trace, options: Options, system: str | SystemSpec | None = None,
    overrides: Mapping[str, str] | None = None,
) -> list[Job]:  # fmt: skip
    """A job for every plan that fits into memory, with and without overlap; InputError if there is none."""
    setting = resolve(chip, workload, options, system, overrides)
    jobs = [setting.job(plan) for plan in setting.plans()]
    fitting = [job for job in jobs if job.fits]
    if not fitting:
        refuse(min(jobs, key=lambda job: job.need.total))
    return [variant for job in fitting for variant in variants(job)]


def refuse(job: Job, where: str = "") -> None:
    """InputError with what a chip of a job that does not fit would hold; where: which chip, if they differ."""
    system, chips = job.system, job.plan.chips
    place = f"{system.name} ({job.plan}{where})" if system else job.chip.name
    remedy = _remedy(job.chip, job.need, chips, job.options.quant)
    require_fit(job.need, job.chip.memory, workload=job.trace.name, where=place, remedy=remedy)


@dataclass(frozen=True, eq=False)
class Setting:
    """What a step runs on and what it does, resolved and checked, before it is spread over chips."""

    options: Options
    chip: ChipSpec
    system: SystemSpec | None
    trace: Trace

    @cached_property
    def fabric(self) -> Fabric | None:
        return links_of(self.chip, self.system)

    @cached_property
    def network(self) -> Network | None:
        return Network.of(self.system, self.chip) if self.system is not None and self.system.chips > 1 else None

    @cached_property
    def target(self) -> Target:
        """The chip with its ports on the fabric."""
        storage = replace(Storage.usual(self.chip), **checked(self.options.pins.get(LAYOUT, {})))
        target = make_target(self.chip, self.options.power_cap, storage)
        return attach(target, self.network) if self.network is not None else target

    def plans(self) -> list[Plan]:
        """The plans of a stage that divide what they must and lie on the fabric."""
        options, trace, network = self.options, self.trace, self.network
        chips, per_node = (self.system.chips, self.system.chips_per_node) if self.system else (1, 1)
        chips //= options.pp
        probe = _at(trace, options, options.batch)
        self._check_context(chips, _heads(probe))
        batch = 1 if "batch" in trace.fixed else options.batch  # a batch that is fixed cannot be split
        decode = options.phase == "decode"
        degrees: dict[str, Any] = {
            "chips": chips, "heads": _heads(probe) // (options.cp if decode or self._by_heads else 1),
            "experts": _experts(probe),
            "batch": batch, "ep": options.ep, "redundant": options.redundant,
            "node_limit": _node_limit(trace) if options.node_limit is None else options.node_limit,
            "cp": options.cp,
        }  # fmt: skip
        if options.tp is None:
            plans = candidate_plans(chips_per_node=per_node, **degrees)
        else:
            plans = [make_plan(tp=options.tp, **degrees)]
        if network is not None:
            plans = [
                plan for plan in plans if options.tp is not None or all(map(network.fits, _groups(plan, decode=decode)))
            ]  # fmt: skip
            for group in _groups(plans[0], decode=decode):
                network.parts(group)  # refuses a degree that was asked for and does not lie on the fabric
        return [replace(plan, pp=options.pp, by_heads=self._by_heads) for plan in plans]

    @property
    def _by_heads(self) -> bool:
        return self.options.cp > 1 and self.options.cp_by == "heads" and self.options.phase == "prefill"

    def _check_context(self, chips: int, heads: int) -> None:
        """InputError where the tokens of a sequence cannot be shared by so many chips."""
        options, cp = self.options, self.options.cp
        if cp == 1:
            return
        if chips % cp:
            raise InputError(f"--cp {cp}: must divide the {chips} chips" + (" of a stage" if options.pp > 1 else ""))
        if self.trace.fixed.keys() & {"seq", "ctx"}:
            raise InputError(f"--cp {cp}: the sizes of {self.trace.name} are fixed")
        if options.phase == "decode" and heads % cp:
            raise InputError(f"--cp {cp}: products are cut over these chips too, so it must divide the {heads} heads")
        if self._by_heads:
            for count, what in ((heads, "attention heads"), (int(options.seq or 1), "new tokens of a prompt")):
                if count % cp:
                    raise InputError(f"--cp {cp} --cp-by heads: must divide the {count} {what}")
        elif options.phase == "prefill" and int(options.seq or 1) % (2 * cp):
            raise InputError(f"--cp {cp}: the {options.seq} new tokens must divide into {2 * cp} chunks, two a chip")

    def job(self, plan: Plan, batch: int | None = None, share: Share | None = None) -> Job:
        """The job of one chip, by default at the batch of the options and with all blocks."""
        options = self.options if batch is None else replace(self.options, batch=batch)
        graph = _at(self.trace, options, options.batch // plan.dp, share)
        tasks = shard_step(graph, plan, self.fabric, options.seed)
        require_sparsity(tasks, self.target)
        need = footprint(graph, tasks)
        return Job(
            options, self.chip, self.system, self.trace, plan, graph, tasks, need, self.target, self.network,
            share=share,
        )  # fmt: skip


def resolve(
    chip: str | ChipSpec, workload: str | Trace, options: Options, system: str | SystemSpec | None = None,
    overrides: Mapping[str, str] | None = None,
) -> Setting:  # fmt: skip
    """Names become what they stand for; the trace is quantised and routed. InputError where they do not go together."""
    spec = load_variant(chip, overrides) if isinstance(chip, str) else chip
    if overrides and not isinstance(chip, str):
        raise InputError("overrides need the chip's name or path; a ChipSpec is final")
    where = load_system(system) if isinstance(system, str) else system
    trace = load_workload(workload, options.phase) if isinstance(workload, str) else workload
    if trace.phase != options.phase:
        raise InputError(f"the trace {trace.name} holds the {trace.phase} phase, not {options.phase}")
    if options.phase == "train":
        raise InputError(
            f"a training step has a plan of its own over stages and replicas: archsim train SYSTEM {trace.name} "
            "(archsim plan SYSTEM ... --phase train ranks the plans)"
        )
    if options.fidelity == "cycle" and spec.cache is not None:
        raise InputError(
            f"--fidelity cycle: {spec.name} has a shared cache, which only tile models; cycle runs chips without one, "
            "such as TPUs (`archsim memory bench` runs any chip's memory command by command)"
        )
    options = _sized(options, trace)
    if options.mtp:
        trace = with_mtp(trace)
    if options.shared_experts == "spread":
        trace = with_routed_shared(trace)
    if options.quant != "none":
        trace = quantised(trace, options.quant)
    if sparsity := Sparsity.chosen(options.sparsity):
        trace = pruned(trace, sparsity)
    if options.routing is not None:
        trace = routed(trace, options.routing)
    return Setting(options, spec, where, trace)


def variants(job: Job) -> list[Job]:
    """The job without overlap of micro-batches, with it, or both where the closed form has the choice."""
    options, plan, share = job.options, job.plan, job.options.batch // job.plan.dp
    whole = share % 2 == 1 or "batch" in job.trace.fixed
    if options.overlap == "none" or (options.overlap == "auto" and (whole or plan.ep == 1)):
        return [job]
    if whole:
        raise InputError(
            f"--overlap two-batch: the {share} sequences of each data-parallel group ({plan}) have no two equal halves"
        )
    graph = _at(job.trace, options, share // 2, job.share)
    tasks = shard_step(graph, plan, links_of(job.chip, job.system), options.seed)
    halves = replace(job, graph=graph, tasks=tasks, micro_batches=2)
    return [halves] if options.overlap == "two-batch" else [job, halves]


def _node_limit(trace: Trace) -> int:
    """Nodes that a token's experts may lie on, as the model is trained: DeepSeek-V3's groups of experts are nodes."""
    groups, chosen = trace.config.get("n_group"), trace.config.get("topk_group")
    return chosen if isinstance(groups, int) and isinstance(chosen, int) and groups > chosen else 0


def _at(trace: Trace, options: Options, batch: int, share: Share | None = None) -> Graph:
    seq, ctx = options.seq, options.ctx
    if options.cp > 1 and options.phase == "prefill":  # own tokens after all others, as `shard_step` expects
        seq = max(int(seq or 1) // options.cp, 1)
        ctx = int(ctx or 0) + int(options.seq or 1) - seq
    graph = trace.at(batch=batch, seq=seq, ctx=ctx)
    if share is None:
        return graph
    return replace(graph, blocks=tuple(replace(b, repeat=share[b.name]) for b in graph.blocks if b.name in share))


def _groups(plan: Plan, *, decode: bool) -> tuple[Group, ...]:
    """Of chips that exchange what tensor and context parallelism cut."""
    if plan.cp == 1:
        return (Group(plan.tp),)
    return (Group(plan.tp * plan.cp), Group(plan.cp)) if decode else (Group(plan.tp), Group(plan.cp, plan.tp))


def _sized(options: Options, trace: Trace) -> Options:
    """The options with a value for every size: as given, else as the trace fixes it, else the default of the phase."""
    usual = {"seq": 1, "ctx": CTX} if options.phase == "decode" else {"seq": SEQ, "ctx": 0}
    given = {"seq": options.seq, "ctx": options.ctx}
    sizes = {name: trace.fixed.get(name, usual[name]) if n is None else n for name, n in given.items()}
    graph = trace.at(batch=options.batch, **sizes)  # refuses what contradicts a fixed size
    return replace(options, batch=graph.batch, seq=graph.seq, ctx=graph.ctx)


def _heads(graph: Graph) -> int:
    return next((op.dims["heads"] for block in graph.blocks for op in block.ops if op.kind == "attention"), 1)


def _experts(graph: Graph) -> int:
    return next((op.dims["experts"] for block in graph.blocks for op in block.ops if op.kind == "grouped_matmul"), 0)


def _remedy(chip: ChipSpec, need: Footprint, chips: int, quant: str) -> str:
    """What a user can do about a model that does not fit."""
    total = need.total * chips
    fitting = [
        system for system in map(load_system, list_systems())
        if system.chip == chip.name and system.chips > chips and system.chips * chip.memory.usable_capacity > total
    ]  # fmt: skip
    smallest = min(fitting, key=lambda system: system.chips, default=None)
    narrower = ", or narrower weights (--quant fp8)" if quant == "none" else ""
    if smallest is None:
        return f"use more chips (--system), fewer sequences (--batch){narrower}"
    return f"use --system {smallest.name} with {smallest.chips} of them, fewer sequences (--batch){narrower}"
