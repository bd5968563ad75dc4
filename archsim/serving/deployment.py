"""A model on a system as a server sees it: how long an iteration takes, and how many sequences fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import floor, inf, log2
from typing import Any

from archsim.errors import InputError
from archsim.hardware import ChipSpec, SystemSpec, load_chip, load_system
from archsim.mapping import Footprint, Pins
from archsim.serving.stacks import STACKS, Stack
from archsim.simulation import Options, StagedJob, candidates, simulate, staged_candidates
from archsim.trace import Trace, load_workload, quantised

__all__ = ["Deployment", "Step"]

#: sequences above which none is looked for
MOST = 2**20


@dataclass(frozen=True)
class Step:
    """One simulated iteration on the device. kernels: launches in it. period_s: what it adds to a long row of such
    iterations: less than its time where they follow each other through the stages of a pipeline."""

    time_s: float
    kernels: int
    period_s: float


@dataclass(frozen=True)
class _Need:
    """Bytes of a chip: weights, activations of a chunk of prompts, activations and cache of a sequence in decode."""

    weights: int
    prompts: int
    decode: int
    kv_cache: float

    def most(self, whole: float, share: float) -> float:
        """Sequences that fit into ``whole`` bytes; the cache gets a ``share`` of what weights and prompts leave."""
        beside = (whole - self.weights - self.prompts) * share / self.kv_cache
        return min(beside, (whole - self.weights) / (self.kv_cache + self.decode))


@dataclass(frozen=True)
class Deployment:
    """A model on a system under a serving stack; simulated steps are kept, equal ones are simulated once.

    options: of `archsim.simulate` (tp, ep, quant, redundant, routing, overlap, ...), the same for every step.
    draft: tokens that a multi-token-prediction module proposes each step, ``acceptance`` of them right.
    """

    chip: str
    workload: str
    system: str | SystemSpec | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    stack: Stack = STACKS["ideal"]
    draft: int = 0
    acceptance: float = 0.0
    _steps: dict[tuple[Any, ...], Step] = field(default_factory=dict, init=False, compare=False, repr=False)
    _pinned: dict[str, Pins] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.acceptance <= 1:
            raise InputError(f"--mtp-acceptance {self.acceptance:g}: must be a share from 0 to 1")
        if self.draft < 0:
            raise InputError(f"--draft {self.draft}: must be at least 0")

    @cached_property
    def chips(self) -> int:
        where = load_system(self.system) if isinstance(self.system, str) else self.system
        return where.chips if where is not None else 1

    @property
    def chunk(self) -> int:
        """Tokens of an iteration of a data-parallel group; each of the chips that share its sequences takes as many."""
        return self.stack.chunk * int(self.options.get("cp", 1))

    @cached_property
    def stage_layers(self) -> tuple[int, ...] | None:
        """Layers on each stage of a pipeline, for prompts as for answers.

        If they are not given, stages take equally long to decode a single sequence, which balances their weights.
        """
        if self.options.get("pp", 1) == 1 or self.options.get("stage_layers"):
            return self.options.get("stage_layers")
        return self._staged(self._options("decode", 1, 63)).layers

    @cached_property
    def tokens_per_step(self) -> float:
        """Tokens of one sequence that a decode step yields: ``1 + p + p^2 + ... + p^draft``.

        A draft token counts only if all before it were right.
        """
        return sum(self.acceptance**n for n in range(self.draft + 1))

    def prefill_s(self, batch: int, seq: int, ctx: int = 0, *, first: bool = True) -> float:
        """Seconds of an iteration that computes ``seq`` new prompt tokens of each sequence after ``ctx`` known ones.

        first: nothing is in the pipeline before it; otherwise what it takes longer with it than without it.
        """
        step = self.step("prefill", batch, self._padded(seq), ctx)
        seconds = step.time_s if first else step.period_s
        return self.iteration_s(seconds, step.kernels, batch)

    def iteration_s(self, device_s: float, launches: int, batch: int) -> float:
        """Seconds of an iteration of ``batch`` sequences from the device's, with so many launches outside of graphs."""
        return max(device_s, launches * self.stack.launch_s) + self.host_s(batch)

    def host_s(self, batch: int) -> float:
        """Host time between iterations; data-parallel groups have hosts of their own."""
        return self.stack.gap_s + self.stack.sequence_s * batch / self.groups()

    def decode_s(self, batch: int, ctx: int) -> float:
        """Seconds of an iteration that decodes every sequence, at ``ctx`` cached tokens (launches are in a graph).

        What fills a graph up computes but reads no cache: all sequences are simulated with so much less of it each.
        """
        groups = self.groups()
        each = -(-batch // groups)
        filled = self.stack.captured(each)
        return self.iteration_s(self.decode_step(filled * groups, round(ctx * each / filled)).time_s, 0, batch)

    def decode_step(self, batch: int, ctx: int) -> Step:
        """The iteration on the device that decodes every sequence."""
        return self.step("decode", batch, 1 + self.draft, max(ctx, 1))

    def mixed_s(self, step_s: float, prompts_s: float, batch: int) -> float:
        """Seconds of an iteration that decodes ``batch`` sequences in ``step_s`` and computes prompts in ``prompts_s``.

        Such iterations are in no graph. That weights are read once for both is left out.
        """
        launches = self.decode_step(self.groups(), 1).kernels if self.stack.launch_s else 0
        return self.iteration_s(step_s + prompts_s, launches, batch)

    def between_s(self, batch: int, ctx: int) -> float:
        """Seconds of a decode iteration, linear between the nearest batches of a grid of eighths of an octave.

        For questions about many batches: only the grid is simulated. A step that grows by whole tiles lies up to a tile
        off the line.
        """
        grain = 2 * self.groups()
        at = 8 * log2(max(batch / grain, 1))
        low, high = (max(round(2 ** (n / 8)), 1) * grain for n in (floor(at), floor(at) + 1))
        if high == low:
            return self.decode_s(low, ctx)
        share = (batch - low) / (high - low)
        return (1 - share) * self.decode_s(low, ctx) + share * self.decode_s(high, ctx)

    def tpot_s(self, batch: int, first: int, last: int) -> float:
        """Seconds of one output token of a sequence, in the mean over a growing cache of ``first`` to ``last`` tokens.

        The time of a step is linear in the cache that it reads, so the step in the middle is the mean.
        """
        return self.decode_s(batch, (first + last) // 2) / self.tokens_per_step

    def step(self, phase: str, batch: int, seq: int, ctx: int) -> Step:
        """The simulated iteration."""
        key = (phase, batch, seq, ctx)
        if key not in self._steps:
            mtp = self.draft > 0 and phase == "decode"
            result = simulate(
                self.chip, self.workload, phase=phase, batch=batch, seq=seq, ctx=ctx, system=self.system, mtp=mtp,
                **{"mapping": self._pins(phase), **self.options, "stage_layers": self.stage_layers},
            )  # fmt: skip
            stages = result.meta.get("pipeline")
            period = stages["period_s"] * stages["micro_batches"] if stages else result.time_s
            more = self._expanding_s(phase, batch * seq, result.meta["plan"])
            self._steps[key] = Step(result.time_s + more, int(result.op_table.repeat.sum()), period + more)
        return self._steps[key]

    def _expanding_s(self, phase: str, tokens: int, plan: Mapping[str, int]) -> float:
        """Seconds that the rows of a chip's experts take beside the simulated kernels (`Stack.fp4_row_s`)."""
        if not self.stack.fp4_row_s or not str(self.options.get("quant", "")).startswith("fp4"):
            return 0.0
        trace = load_workload(self.workload, phase)
        chosen = sum(block.repeat * int(str(op.dims["top_k"])) for block in trace.blocks for op in block.ops
                     if op.kind == "moe_dispatch")  # fmt: skip
        return tokens * chosen / (plan["ep"] if plan["ep"] > 1 else plan["dp"]) * self.stack.fp4_row_s

    def _pins(self, phase: str) -> Pins:
        """Found once for each phase: the trace is read for it."""
        if phase not in self._pinned:
            self._pinned[phase] = self._find_pins(phase)
        return self._pinned[phase]

    def _find_pins(self, phase: str) -> Pins:
        """The stack's kernels: of attention, and tilings of products in fp4 for units whose instructions span cores."""
        tile, kernel = self.stack.fp4_tile, self.stack.answers if phase == "decode" else self.stack.prompts
        if not (tile or kernel) or (core := self._spec.core).matrix.kind != "tensor_core" or core.apart:
            return {}
        trace = quantised(load_workload(self.workload, phase), self.options.get("quant", "none"))
        ops = [op for block in trace.blocks for op in block.ops]
        pins: dict[str, dict[str, Any]] = {}
        if kernel:
            pins |= {op.name: {"kernel": kernel} for op in ops if op.kind == "attention"}
        if tile and core.matrix.pair > 1:
            sizes = dict(zip(("tm", "tn", "tk", "slots"), tile, strict=True))
            pins |= {op.name: sizes for op in ops if op.kind == "matmul" and op.dtype == "fp4"}
        return pins

    def capacity(self, tokens: int) -> int:
        """Most sequences over the whole system whose caches of ``tokens`` tokens fit; InputError if none does."""
        fits, need = self._fits(tokens)
        if fits < 1:
            fixed, free = need.weights + need.prompts, (self._whole - need.weights - need.prompts) * self.stack.kv_share
            process = f" and {self.stack.process_bytes / 1e9:g} GB of the process" if self.stack.process_bytes else ""
            raise InputError(
                f"{self.workload} on {self.where()}: {fixed / 1e9:.1f} GB of weights and activations{process} leave "
                f"{max(free, 0) / 1e9:.1f} GB for the KV cache of a chip, less than one sequence of {tokens:,} tokens "
                f"({need.kv_cache / 1e9:.2f} GB)"
            )
        group = self.groups()
        return min(int(fits), self.stack.most, MOST // group) * group

    def share(self, tokens: int) -> float:
        """Share of all the room for caches that a sequence of ``tokens`` tokens takes; infinite where there is none."""
        fits, _ = self._fits(tokens)
        return 1 / (fits * self.groups()) if fits > 0 else inf

    def _fits(self, tokens: int) -> tuple[float, _Need]:
        """Sequences that fit a data-parallel group, and what one takes; of a pipeline the stage where fewest do.

        Weights and caches are exact; activations, of a chunk of prompts or of all sequences, are an estimate. The cache
        gets the stack's share of what they leave.
        """
        least, needs = self._needs
        longer = self.kv_bytes(tokens) / least
        stages = [replace(need, kv_cache=need.kv_cache * longer) for need in needs]
        fits = [need.most(self._whole, self.stack.kv_share) for need in stages]
        return min(zip(fits, stages, strict=True), key=lambda found: found[0])

    @property
    def _whole(self) -> float:
        """Bytes of a chip's memory that the process leaves."""
        return self._spec.memory.usable_capacity - self.stack.process_bytes

    @cached_property
    def _spec(self) -> ChipSpec:
        return load_chip(self.chip, dict(self.options.get("set") or {}))

    def _padded(self, tokens: int) -> int:
        """New tokens of a prompt, filled up to whole chunks of the chips that share it."""
        cp = self.options.get("cp", 1)
        return tokens if cp == 1 else -(-tokens // (2 * cp)) * 2 * cp

    def where(self) -> str:
        system = self.system if isinstance(self.system, str) or self.system is None else self.system.name
        return system or self.chip

    def groups(self) -> int:
        """Data-parallel groups of the plan: batches are multiples of it."""
        tp = self.options.get("tp")
        return self.chips // (tp * self.options.get("cp", 1) * self.options.get("pp", 1)) if tp else 1

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of the KV cache of one sequence; no multiple of ``tokens`` where layers keep a window of them."""
        return self._quantised.at(batch=1, seq=1, ctx=tokens - 1).kv_bytes

    @cached_property
    def _quantised(self) -> Trace:
        trace, quant = load_workload(self.workload, "decode"), self.options.get("quant", "none")
        return trace if quant == "none" else quantised(trace, quant)

    @cached_property
    def _needs(self) -> tuple[int, list[_Need]]:
        """Bytes of the cache of a short sequence, and what a chip of each stage holds with it."""
        tokens = 64  # that fit, where those asked for may not
        decode = self._options("decode", 1, tokens - 1)
        prefill = self._options("prefill", self._padded(self.chunk), 0)
        if not (least := self.kv_bytes(tokens)):
            raise InputError(f"{self.workload} keeps no KV cache: a server of it holds no sequences")
        return least, [
            _Need(first.weights, max(first.activations, prompts.activations), first.activations, first.kv_cache)
            for first, prompts in zip(self._stages(decode), self._stages(prefill), strict=True)
        ]

    def _options(self, phase: str, seq: int, ctx: int) -> Options:
        """Of a step of one sequence for each data-parallel group."""
        known = {
            "quant", "sparsity", "tp", "ep", "redundant", "shared_experts", "routing", "node_limit", "cp", "cp_by",
            "pp", "stage_layers",
        }  # fmt: skip
        options = {name: value for name, value in self.options.items() if name in known} | {"overlap": "none"}
        return Options(phase, self.groups(), seq, ctx, mtp=self.draft > 0 and phase == "decode", **options)

    def _stages(self, options: Options) -> list[Footprint]:
        """What a chip of each stage holds."""
        if options.pp > 1:
            return [stage.need for stage in self._staged(replace(options, stage_layers=self.stage_layers)).stages]
        return [candidates(self.chip, self.workload, options, self.system, self.options.get("set"))[0].need]

    def _staged(self, options: Options) -> StagedJob:
        return staged_candidates(self.chip, self.workload, options, self.system, self.options.get("set"))[0]
