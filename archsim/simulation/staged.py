"""A step on a pipeline of stages: layers one after the other on different chips, micro-batches behind each other.

Each stage is a job of its own (`job.py`): its layers, on ``chips / pp`` chips, for one micro-batch. What is simulated
for it is how long it takes; micro-batches then pass from stage to stage (`archsim.pipeline.run`), over the system's
fabric, and bubbles come out. A prefill ends when the last micro-batch has left the last stage. A decode step is the
time between two tokens of a sequence in the steady state: a micro-batch begins again as soon as its token is back at
the first stage, so that::

    t = max(sum over stages (t_stage + t_send), micro-batches x slowest stage)

The activations of a token are sent cut over the tensor-parallel chips and gathered by the next stage, as Megatron-LM
and vLLM do. Micro-batches are as large as the largest of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate, pairwise

from archsim.errors import InputError
from archsim.hardware import ChipSpec, SystemSpec
from archsim.mapping import Footprint, Plan
from archsim.network import Collective, Group, run_collective
from archsim.network.request import Kind
from archsim.pipeline.partition import balanced, cut
from archsim.pipeline.run import LayerTimes, PipelineRun, run_pipeline
from archsim.pipeline.schedule import Chunk, forward_only
from archsim.results import Result
from archsim.simulation.job import Job, Share
from archsim.simulation.options import Options
from archsim.simulation.setting import Setting, refuse, resolve, variants
from archsim.trace import Block, Graph, Trace

__all__ = ["StagedJob", "prepare_staged", "run_stages", "staged_candidates"]

#: rounds of decode that are played; the last one is in the steady state
ROUNDS = 6
#: bytes of a token as it returns to the first stage
TOKEN_BYTES = 4


@dataclass(frozen=True, eq=False)
class StagedJob:
    """A plan of a step: a job for each stage, each of one micro-batch.

    options: of the whole step. micro_batches: of each data-parallel group. layers: of each stage.
    """

    options: Options
    stages: tuple[Job, ...]
    micro_batches: int
    layers: tuple[int, ...]

    @property
    def plan(self) -> Plan:
        return self.stages[0].plan

    @cached_property
    def send_ps(self) -> int:
        """From a stage to the next: the hidden states of a micro-batch."""
        nbytes, tp = _hidden_bytes(self.stages[0].graph), self.plan.tp
        across = self._collective_ps("send_recv", -(-nbytes // tp), self._across)
        return across + (self._collective_ps("all_gather", nbytes, Group(tp)) if tp > 1 else 0)

    @cached_property
    def return_ps(self) -> int:
        """From the last stage to the first: the new tokens of a micro-batch."""
        sequences = self.stages[0].options.batch // self.plan.dp
        return self._collective_ps("send_recv", sequences * TOKEN_BYTES, self._across)

    @property
    def _across(self) -> Group:
        return Group(self.plan.pp, self.plan.chips // self.plan.pp)

    def _collective_ps(self, kind: Kind, nbytes: int, group: Group) -> int:
        network = self.stages[0].network
        assert network is not None, "stages without a fabric"
        return run_collective(network, Collective(kind, nbytes, group)).time_ps

    def flow(self, stage_ps: Sequence[int], *, timeline: bool = False) -> tuple[int, PipelineRun]:
        """Time of the step and how it went, if a micro-batch takes so long on each stage."""
        rounds = ROUNDS if self.options.phase == "decode" else 1
        run = run_pipeline(
            forward_only(len(stage_ps), self.micro_batches, rounds),
            {Chunk(0, stage): [LayerTimes(ps, 0, 0, 0)] for stage, ps in enumerate(stage_ps)},
            send_ps=self.send_ps, update_ps=[0] * len(stage_ps), return_ps=self.return_ps, timeline=timeline,
        )  # fmt: skip
        return run.time_ps if rounds == 1 else run.ends_ps[-1] - run.ends_ps[-1 - self.micro_batches], run

    def bound_s(self) -> float:
        """What plans are chosen by: the step if every stage took its least time."""
        return self.flow([round(job.bound_s() * 1e12) for job in self.stages])[0] * 1e-12

    @property
    def fullest(self) -> Job:
        """The stage whose chips hold most."""
        return max(self.stages, key=lambda job: job.need.total)

    @property
    def need(self) -> Footprint:
        """What a chip of the fullest stage holds."""
        return self.fullest.need

    @property
    def tokens(self) -> int:
        """Tokens of the step over the whole system."""
        return self.options.batch * int(self.options.seq or 1)

    def notes(self) -> list[str]:
        """What a reader must know about the figures of a stage."""
        return self.stages[0].notes()


def prepare_staged(
    chip: str | ChipSpec, workload: str | Trace, options: Options, system: str | SystemSpec | None = None,
    overrides: Mapping[str, str] | None = None,
) -> StagedJob:  # fmt: skip
    """The job of the plan with the least bound among those that fit into memory."""
    return min(staged_candidates(chip, workload, options, system, overrides), key=StagedJob.bound_s)


def staged_candidates(
    chip: str | ChipSpec, workload: str | Trace, options: Options, system: str | SystemSpec | None = None,
    overrides: Mapping[str, str] | None = None,
) -> list[StagedJob]:  # fmt: skip
    """A job for every plan of so many stages that fits into memory; InputError if there is none."""
    setting = resolve(chip, workload, options, system, overrides)
    _check(setting)
    jobs = [_staged(setting, plan) for plan in setting.plans()]
    fitting = [job for job in jobs if job.fullest.fits]
    if not fitting:
        least = min(jobs, key=lambda job: job.fullest.need.total)
        refuse(least.fullest, f", stage {least.stages.index(least.fullest)}")
    return fitting


def run_stages(
    job: StagedJob, run: Callable[[Job, Callable[[int, int, str], None]], Result],
    progress: Callable[[int, int, str], None],
) -> list[Result]:  # fmt: skip
    """The Result of a micro-batch on every stage; stages that do the same are simulated once."""
    known: dict[tuple[tuple[str, int], ...], Result] = {}
    results = []
    total = sum(job.layers)
    for number, stage in enumerate(job.stages):
        content = tuple((stage.share or {}).items())
        if content not in known:
            known[content] = run(stage, partial(_hear, progress, sum(job.layers[:number]), total))
        results.append(known[content])
    return results


def _hear(
    progress: Callable[[int, int, str], None], before: int, total: int, done: int, of: int, name: str
) -> None:
    progress(min(before + done, total), total, name)


def _check(setting: Setting) -> None:
    """InputError where a step cannot be cut into the stages that were asked for."""
    options, where, trace = setting.options, setting.system, setting.trace
    chips = where.chips if where else 1
    if where is None or chips % options.pp:
        place = f"the {chips} chips of {where.name}" if where else "the chips of a system (--system)"
        raise InputError(f"--pp {options.pp}: stages of equal size must divide {place}")
    if "batch" in trace.fixed or not any(op.kind == "embedding" for op in trace.blocks[0].ops):
        raise InputError(f"--pp {options.pp}: {trace.name} begins with no embedding, or its batch is fixed")
    held = [block.layers for block in _layers(setting.trace.at(batch=1, seq=options.seq, ctx=options.ctx))[0]]
    each = max(held)
    if options.pp > len(held):
        groups = f"layers that can be cut apart, {each} by turns" if each > 1 else "layers"
        raise InputError(f"--pp {options.pp}: {trace.name} has only {len(held)} {groups}")
    given = options.stage_layers
    if given is not None and (len(given) != options.pp or _counts(given, held) is None):
        alike = f", multiples of {each}: layers by turns stay together" if each > 1 else ""
        raise InputError(
            f"--stage-layers {','.join(map(str, given))}: must be {options.pp} numbers from 1 that add up to the "
            f"{sum(held)} layers of {trace.name}{alike}"
        )


def _counts(layers: Sequence[int], held: Sequence[int]) -> list[int] | None:
    """How many blocks make up so many layers on each stage, of blocks that hold so many; None where none do.

    >>> _counts([2, 6], [2, 2, 2, 2]), _counts([3, 5], [2, 2, 2, 2])
    ([1, 3], None)
    """
    ends, wanted = list(accumulate(held)), list(accumulate(layers))
    if min(layers) < 1 or wanted[-1] != ends[-1] or not set(wanted) <= set(ends):
        return None
    return [b - a for a, b in pairwise([0, *(ends.index(end) + 1 for end in wanted)])]


def _staged(setting: Setting, plan: Plan) -> StagedJob:
    options = setting.options
    sequences = options.batch // plan.dp
    count = min(options.pp, sequences) if options.micro_batches is None else options.micro_batches
    if count > sequences:
        raise InputError(f"--micro-batches {count}: the sequences of a data-parallel group ({plan}) are {sequences:,}")
    each = -(-sequences // count)
    whole = setting.job(plan, each * plan.dp)
    layers, shares = _shares(whole, options)
    stages = []
    for share in shares:
        part = min(variants(setting.job(plan, each * plan.dp, share)), key=Job.bound_s)
        held = -(-part.need.kv_cache * sequences // each)  # of all micro-batches
        stages.append(replace(part, need=replace(part.need, kv_cache=held)))
    return StagedJob(options, tuple(stages), count, tuple(layers))


def _shares(whole: Job, options: Options) -> tuple[list[int], list[Share]]:
    """Layers of each stage as given, or so that the slowest has least to do by the closed form; and their blocks."""
    layers, before, after = _layers(whole.graph)
    kinds = [block.name for block in layers]
    seconds = {
        block.name: float(bound.seconds.sum()) for block, bound in zip(whole.blocks, whole.bounds, strict=True)
    }  # fmt: skip
    costs = [seconds[kind] for kind in kinds]
    costs[0] += sum(seconds[name] * times for name, times in before.items())
    costs[-1] += sum(seconds[name] * times for name, times in after.items())
    held = [block.layers for block in layers]
    counts = (_counts(options.stage_layers, held) if options.stage_layers else None) or balanced(costs, options.pp)
    parts = cut(kinds, counts)
    each = dict(zip(kinds, held, strict=True))
    shares = [dict(Counter(names)) for names in parts]
    standing = [sum(each[name] for name in names) for names in parts]
    return standing, [before | shares[0], *shares[1:-1], shares[-1] | after]


def _layers(graph: Graph) -> tuple[list[Block], dict[str, int], dict[str, int]]:
    """The block of each layer (or of several by turns), and repeats of blocks that stay with the first and the last."""
    ends = [block.name.startswith(("prologue", "epilogue", "mtp")) for block in graph.blocks]
    first = ends.index(False)
    layers = [block for block, end in zip(graph.blocks, ends, strict=True) if not end for _ in range(block.repeat)]
    before = {block.name: block.repeat for block in graph.blocks[:first]}
    after = {b.name: b.repeat for b, end in list(zip(graph.blocks, ends, strict=True))[first:] if end}
    return layers, before, after


def _hidden_bytes(graph: Graph) -> int:
    embedding = next(op for op in graph.blocks[0].ops if op.kind == "embedding")
    return graph.tensors[embedding.outputs[0]].nbytes
