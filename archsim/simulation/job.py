"""A simulation job: names and options checked and resolved, the model sharded, fused and fitted into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from archsim.errors import InputError
from archsim.hardware import ChipSpec, LinkSpec, SystemSpec, list_systems, load_system
from archsim.mapping import (
    COLLECTIVES,
    FUSION,
    LAYOUT,
    Bounds,
    Fabric,
    Footprint,
    Fusion,
    Handover,
    KernelBlock,
    Layout,
    Pins,
    Plan,
    Storage,
    Target,
    bound_kernels,
    candidate_plans,
    checked,
    footprint,
    fuse,
    lay_out,
    make_plan,
    make_target,
    pin_kernels,
    require_fit,
    require_sparsity,
    savings,
    shard_step,
)
from archsim.mapping.task import TaskBlock
from archsim.models.collective import Level
from archsim.network import Fabric as Network
from archsim.network import Group
from archsim.physical import load_variant
from archsim.simulation.collectives import attach
from archsim.sparsity import Sparsity
from archsim.trace import QUANTS, Graph, Trace, load_workload, pruned, quantised, routed, with_mtp, with_routed_shared
from archsim.trace.quantise import PLANS
from archsim.trace.routing import describe_routing
from archsim.trace.trace import PHASES

__all__ = [
    "Job", "Options", "Setting", "Share", "candidates", "links_of", "prepare", "refuse", "resolve",
    "variants",
]  # fmt: skip

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


#: by name of a block, how often a stage of a pipeline performs it; it performs no others
Share = Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that the two fidelities need; ``graph`` is evaluated at the batch of one micro-batch.

    That is the batch of one data-parallel group, or its half where two micro-batches take turns; ``need`` is for all of
    it. network: the fabric of the system; None where there is one chip. share: repeats of the blocks that stand on the
    stage of a pipeline (`staged.py`); None where there is one stage.
    """

    options: Options
    chip: ChipSpec
    system: SystemSpec | None
    trace: Trace
    plan: Plan
    graph: Graph
    tasks: tuple[TaskBlock, ...]
    need: Footprint
    target: Target
    network: Network | None = None
    micro_batches: int = 1
    share: Share | None = None

    @cached_property
    def blocks(self) -> tuple[KernelBlock, ...]:
        pins, times = self.options.pins, self.micro_batches
        blocks = pin_kernels(fuse(self.tasks, Fusion.of(pins.get(FUSION, {}))), pins, whole=self.share is None)
        return tuple(replace(b, repeat=times * b.repeat, micro_batches=times) for b in blocks)

    @cached_property
    def layout(self) -> Layout:
        return lay_out(self.graph, self.tasks, self.blocks, self.target.block_bytes, self.target.storage)

    @cached_property
    def bounds(self) -> tuple[Bounds, ...]:
        """Lower bounds of the kernels of each block."""
        return tuple(bound_kernels(block.kernels, self.target) for block in self.blocks)

    def bound_s(self) -> float:
        """Least time of the step, in seconds, that plans are chosen by.

        That of all kernels and collectives one after the other, or of the longer of both if micro-batches take turns.
        """
        streams = {True: 0.0, False: 0.0}
        for bound, block in zip(self.bounds, self.blocks, strict=True):
            for kernel, seconds in zip(block.kernels, bound.seconds.tolist(), strict=True):
                streams[block.communicates(kernel)] += seconds * block.repeat
        return max(streams.values()) if self.micro_batches > 1 else sum(streams.values())

    @property
    def fits(self) -> bool:
        """Whether a chip can hold its part."""
        return self.need.total <= self.chip.memory.usable_capacity

    @property
    def tokens(self) -> int:
        """Tokens of the step over the whole system: new ones in decode, prompt tokens in prefill."""
        return self.options.batch * int(self.options.seq or 1)

    def notes(self) -> list[str]:
        """What a reader must know about the figures: every estimate and simplification that took part."""
        notes = []
        if self.chip.estimated:
            notes.append(f"the description of {self.chip.name} is an estimate: {self.chip.title}")
        if self.system is not None and self.system.chip != self.chip.name:
            notes.append(
                f"{self.system.name} is built of {self.system.chip}; here each is replaced by {self.chip.name}"
            )
        kinds = {task.kind for block in self.tasks for task in block.tasks}
        if kinds & COLLECTIVES:
            notes.append("collectives are messages over the links; one chip stands for all, which arrive at once")
        if "expert_post" in kinds:
            notes.append("network cards carry tokens between nodes; what that takes of the cores is an estimate")
        if "grouped_matmul" in kinds:
            notes.append(describe_routing(_routing(self.trace), self.options.seed))
            if self.plan.ep > 1:
                notes.append("the chip whose experts got the most tokens stands for all chips")
            if self.plan.redundant:
                notes.append(f"{self.plan.redundant} redundant experts are where the loads of this step want them")
        if self.options.shared_experts == "spread":
            notes.append("shared experts are spread over the chips like those that the router chooses")
        if self.plan.cp > 1:
            how = "two chunks of each prompt a chip"
            if self.options.phase == "decode":
                how = "products over all of them"
            elif self.plan.by_heads:
                how = "and its heads in attention, which exchanges what it reads and gives"
            notes.append(f"{self.plan.cp} chips share the tokens of each sequence, {how}")
        if self.micro_batches > 1:
            notes.append("two halves of each chip's batch take turns: one computes while the other communicates")
        if self.options.mtp:
            notes.append("the step includes the layers that predict more than one token")
        if self.trace.fixed.keys() >= {"batch", "seq"}:
            notes.append(
                f"all sizes are those of the imported trace: a step counts as {self.tokens:,} tokens (batch x seq)"
            )
        if self.options.quant != "none":
            notes.append(f"quantised after the export: {PLANS[self.options.quant].title}")
        if self.options.sparsity != "none":
            notes.append(f"weights of linear layers are {self.options.sparsity} sparse; FLOPs are of what is kept")
        for wanted, used in self._widened().items():
            notes.append(f"the matrix unit of {self.chip.name} has no {wanted}: such products run in {used}")
        if self.options.pins.get(LAYOUT):
            notes.append(f"layout: {self.target.storage}")
        notes.append(f"{self._clock()}; activation memory is an estimate")
        if self.options.fidelity == "cycle":
            notes.append("every DRAM command, every chunk of a product; links and vector units as in the tile fidelity")
        if self.options.pins.get(FUSION):
            saved = savings(self.tasks, self.blocks)
            launches, nbytes = sum(each.launches for each in saved), sum(each.nbytes for each in saved)
            notes.append(f"fusion as the mapping says: it saves {launches:,} launches and {nbytes:,} B of traffic")
        return notes

    def _clock(self) -> str:
        """Which clock the matrix units run at, and why."""
        chip, clock = self.chip, self.target.matrix_clock
        limit = self.options.power_cap or chip.physical.tdp
        if self.options.power_cap is None and chip.clock_under_load:
            return f"matrix units at the {clock / 1e9:g} GHz stated for full load"
        if clock < chip.clock and limit is not None:
            cores = f", all else at {self.target.clock / 1e9:.3g} GHz" if self.target.clock < chip.clock else ""
            held = f"{clock / 1e9:.3g} GHz that {limit:g} W sustain in a dense product"
            return f"matrix units at the {held}{cores} (estimate)"
        return "every unit at the quoted clock"

    def _widened(self) -> dict[str, str]:
        """Types of products that the matrix unit lacks, with those that it computes in instead."""
        kinds = {"matmul", "grouped_matmul", "attention"}
        dtypes = sorted({task.dtype for block in self.tasks for task in block.tasks if task.kind in kinds})
        used = {dtype: self.target.compute_dtype(dtype) for dtype in dtypes}
        return {dtype: other for dtype, other in used.items() if other != dtype}


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


def _routing(trace: Trace) -> str:
    ops = (op for block in trace.blocks for op in block.ops)
    return next((str(op.attrs["routing"]) for op in ops if op.kind == "grouped_matmul"), "uniform")


def links_of(chip: ChipSpec, system: SystemSpec | None) -> Fabric | None:
    if system is None or system.chips == 1:
        return None
    inside, outside = system.links(chip)
    inner = _level(inside if system.chips_per_node > 1 else outside)
    spec = outside.transports.get("expert") if outside is not None and system.nodes > 1 else None
    handover = Handover(spec.post, spec.post_row, spec.receive, spec.receive_row) if spec and spec.post else None
    return Fabric(inner, _level(outside) if system.nodes > 1 else None, system.chips_per_node, handover)


def _level(link: LinkSpec | None) -> Level:
    assert link is not None, "SystemSpec.links has checked that the links exist"
    known = link.transports.values()
    latency = min((each.launch + each.latency for each in known), default=link.latency)
    return Level(latency, link.bandwidth * link.best_efficiency, "in_switch" in link.transports)


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
