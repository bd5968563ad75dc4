"""`simulate`: one step of a workload on a chip or a system, from names to a Result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from archsim.engine import Session
from archsim.engine.cycle import cycle_memory
from archsim.hardware import ChipSpec, SystemSpec
from archsim.mapping import Pins, read_pins
from archsim.mapping.dram import chip_channels
from archsim.results import Result, run_meta
from archsim.simulation import outcome
from archsim.simulation.blocks import BlockRun, leeways, run_block
from archsim.simulation.borrowing import borrowers, in_order, lent
from archsim.simulation.collectives import spread
from archsim.simulation.job import Job
from archsim.simulation.least import least_bounds
from archsim.simulation.options import Options
from archsim.simulation.setting import candidates, prepare
from archsim.simulation.staged import StagedJob, prepare_staged, run_stages, staged_candidates
from archsim.simulation.step_reuse import step_runs
from archsim.trace import Trace

__all__ = [
    "Job", "Options", "StagedJob", "candidates", "least_of_job", "options_of", "prepare", "roofline_of_job", "run_job",
    "run_staged", "simulate", "staged_candidates",
]  # fmt: skip


def simulate(
    chip: str | ChipSpec,
    workload: str | Trace,
    *,
    phase: str,
    batch: int = 1,
    seq: int | None = None,
    ctx: int | None = None,
    system: str | SystemSpec | None = None,
    tp: int | None = None,
    ep: int | None = None,
    cp: int = 1,
    cp_by: str = "tokens",
    pp: int = 1,
    stage_layers: Sequence[int] | None = None,
    micro_batches: int | None = None,
    set: Mapping[str, str] | None = None,
    fidelity: str = "tile",
    engine: str = "compiled",
    exact: bool = False,
    quant: str = "none",
    routing: str | None = None,
    mtp: bool = False,
    timeline: bool = False,
    seed: int = 0,
    power_cap: float | None = None,
    overlap: str = "auto",
    redundant: int = 0,
    shared_experts: str = "everywhere",
    node_limit: int | None = None,
    mapping: str | Path | Pins | None = None,
    sparsity: str = "none",
    command: str = "",
    progress: Callable[[int, int, str], None] | None = None,
) -> Result:
    """Simulate one step of ``workload`` on ``chip``: a whole prompt, or the decoding of one token per sequence.

    Args:
        chip: preset name, path of a chip YAML, or a spec.
        workload: name of a shipped workload, path of a trace, or a trace.
        phase: "prefill" or "decode".
        batch: sequences over the whole system.
        seq: new tokens per sequence (default: prefill 2048, decode 1; more in decode verify a speculation).
        ctx: tokens already in the KV cache (default: decode 4096, prefill 0; more in prefill for a later chunk of a
            prompt, or a prefix that was found in the cache).
        system: preset or path of a system; one chip when omitted.
        tp, ep: tensor- and expert-parallel degree; by default what the roofline likes best among all that fit.
        cp: chips that share the tokens of each sequence and its KV cache: of a prompt two chunks each; in decode
            products are cut over them as well.
        cp_by: how they attend to a prompt: "tokens": a chip's own queries to all keys, which are gathered; "heads": a
            share of the heads to all tokens, what is read and what results exchanged (Ulysses, SP-TP-SP).
        pp: stages of a pipeline, each of ``chips / pp`` chips.
        stage_layers: layers of each stage; by default so that the slowest has least to do by the roofline.
        micro_batches: of each data-parallel group, that fill the pipeline; by default ``pp``, or as many as there are
            sequences.
        set: overrides of the chip, dotted path to value: ``{"memory.bandwidth": "6 TB/s"}``.
        fidelity: "roofline" (a closed-form lower bound on the time), "tile", or "cycle" (every DRAM command and
            every chunk, on chips without a shared cache, in seconds to minutes).
        engine: "compiled", or "simpy", the readable reference (slow; for small workloads).
        exact: simulate every wave of tiles and every repeated layer instead of carrying settled ones forward.
        quant: "none", "fp8", "fp8-kv", "int8", "int4", "fp4", "fp4-kv" or "mxfp4" (see `archsim.trace.quantised`).
        routing: of tokens to experts: "uniform", "balanced", "zipf:0.5", or the path of a file of measured routing
            (docs/trace-format.md); by default what the trace says, which is uniform unless it was set.
        mtp: with the layers that predict more than one token (DeepSeek-V3, GLM-4.5).
        timeline: also keep the tile steps of one core.
        seed: of the expert routing.
        overlap: "two-batch": the halves of each chip's batch take turns, one computes while the other communicates;
            "none"; or "auto": where experts are spread over chips, if the closed form finds it faster.
        redundant: copies of experts beyond the first, which relieve the busiest chips (DeepSeek-V3 serves with 32).
        shared_experts: "everywhere": every chip holds them; "spread": they lie and are copied like the experts that a
            router chooses (`archsim.trace.with_routed_shared`; CloudMatrix384 serves DeepSeek so).
        node_limit: nodes that the experts of one token may lie on, 0 for any; by default as the model was trained.
        power_cap: watts of one chip that a dense product must stay within; by default its TDP.
        mapping: pinned tilings of products, and how tensors are stored: a YAML file of operator names with tm, tn, tk,
            ... below each, and of `layout` with weights, kv_cache, ... below it (docs/memory.md), or a dict.
        sparsity: "none", or "2:4" or another N:M that the matrix unit can use: of every M weights of linear layers N
            are kept.
        progress: called with (layers done, layers in all, block name).

    Returns the Result of the step on one chip; chips do the same work. Raises InputError for anything that
    cannot be run.

    >>> import archsim
    >>> step = archsim.simulate("h800", "llama-3.1-8b", phase="decode", batch=32, ctx=4096)
    >>> 7e-3 < step.time_s < 15e-3
    True
    """
    options = options_of(
        phase, seq=seq, ctx=ctx, batch=batch, tp=tp, ep=ep, fidelity=fidelity, engine=engine, exact=exact, quant=quant,
        routing=routing, mtp=mtp, seed=seed, power_cap=power_cap, overlap=overlap, redundant=redundant,
        shared_experts=shared_experts, node_limit=node_limit, cp=cp, cp_by=cp_by, pp=pp, micro_batches=micro_batches,
        stage_layers=None if stage_layers is None else tuple(stage_layers), sparsity=sparsity,
        pins=read_pins(Path(mapping)) if isinstance(mapping, str | Path) else mapping or {},
    )  # fmt: skip
    if pp != 1:
        staged = prepare_staged(chip, workload, options, system, set)
        return run_staged(staged, timeline=timeline, command=command, progress=progress)
    return run_job(
        prepare(chip, workload, options, system, set), timeline=timeline, command=command, progress=progress
    )


def run_job(
    job: Job, *, timeline: bool = False, command: str = "", progress: Callable[[int, int, str], None] | None = None
) -> Result:
    """The Result of a job that was prepared; see :func:`simulate`."""
    if job.options.fidelity == "roofline":
        return roofline_of_job(job, command)
    hear = progress or (lambda done, total, name: None)
    runs = _run(job, hear) if timeline else step_runs(job, lambda: _run(job, hear))
    return outcome.from_runs(job, runs, _meta(job, command), timeline=timeline)


def run_staged(
    job: StagedJob, *, timeline: bool = False, command: str = "",
    progress: Callable[[int, int, str], None] | None = None,
) -> Result:  # fmt: skip
    """The Result of a step on a pipeline of stages; see :func:`simulate`."""
    results = run_stages(
        job, lambda stage, hear: run_job(stage, command=command, progress=hear),
        progress or (lambda done, total, name: None),
    )  # fmt: skip
    return outcome.from_stages(job, results, timeline=timeline)


def roofline_of_job(job: Job, command: str = "") -> Result:
    """The Result that no mapping can beat."""
    return outcome.from_bounds(job, job.bounds, _meta(job, command))


def least_of_job(job: Job) -> Result:
    """The Result that the ``tile`` fidelity cannot beat, without simulating it (`least.py`)."""
    return outcome.from_bounds(job, least_bounds(job), _meta(job))


def options_of(phase: str, *, seq: int | None, ctx: int | None, **others: Any) -> Options:
    """Options of a step; sizes that are not given are those of the trace, or the defaults of the phase."""
    return Options(phase=phase, seq=seq, ctx=ctx, **others)


def _run(job: Job, progress: Callable[[int, int, str], None]) -> list[BlockRun]:
    target, network = spread(job.target, job.network, [kernel for block in job.blocks for kernel in block.kernels])
    cycle = job.options.fidelity == "cycle"
    models = {"memory": cycle_memory(chip_channels(job.chip.memory))} if cycle else None
    session = Session(target.machine, job.options.engine, models)
    blocks, more = job.blocks, leeways(job.blocks, target)
    total = sum(block.repeat for block in blocks)
    last = set() if job.options.exact or cycle else borrowers(blocks, target)
    done = 0
    runs: dict[int, BlockRun] = {}
    for i in sorted(range(len(blocks)), key=lambda i: (i in last, i)):
        hear = lambda n, base=done, name=blocks[i].name: progress(base + n, total, name)  # noqa: E731
        runs[i] = run_block(
            session, blocks[i], target, job.layout, network, exact=job.options.exact, whole=cycle, leeway=more[i],
            on_repeat=hear, lent=lent(blocks[i], target, runs.values()) if i in last else None,
        )  # fmt: skip
        done += blocks[i].repeat
    return in_order([runs[i] for i in range(len(blocks))])


@lru_cache(maxsize=8)
def _yaml(chip: ChipSpec) -> str:
    return chip.resolved_yaml()


def _meta(job: Job, command: str = "") -> dict[str, object]:
    options = job.options
    return run_meta(command=command) | {
        "chip": job.chip.name,
        "chip_yaml": _yaml(job.chip),
        "chip_hash": job.chip.content_hash,
        "chip_estimated": job.chip.estimated,
        "workload": job.trace.name,
        "trace_hash": job.trace.content_hash,
        "phase": options.phase,
        "batch": options.batch,
        "seq": options.seq,
        "ctx": options.ctx,
        "system": job.system.name if job.system else None,
        "chips": job.plan.chips,
        "plan": {"tp": job.plan.tp, "dp": job.plan.dp, "ep": job.plan.ep, "redundant": job.plan.redundant}
        | ({"cp": job.plan.cp} if job.plan.cp > 1 else {}),
        "micro_batches": job.micro_batches,
        "fidelity": options.fidelity,
        "engine": "simpy" if options.fidelity == "cycle" else options.engine,
        "exact": options.exact,
        "quant": options.quant,
        **({"sparsity": options.sparsity} if options.sparsity != "none" else {}),
        **({"shared_experts": "spread"} if options.shared_experts == "spread" else {}),
        **({"cp_by": "heads"} if job.plan.by_heads else {}),
        "routing": options.routing,
        "seed": options.seed,
        "power_cap_w": options.power_cap,
        "mapping": {name: dict(pin) for name, pin in options.pins.items()},
        "layout": asdict(job.target.storage),
        "notes": job.notes(),
    }
