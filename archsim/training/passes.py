"""What the passes of each block cost on one chip: simulated once, for all ranks and micro-batches that do the same.

A block (embedding, a kind of layer, head and loss) has a forward and a backward pass. Each is run on the machine of one
chip, repetition after repetition until it settles, with its collectives on a stream of their own.

Where a forward and a backward pass overlap (DualPipe) their kernels share the chip and the collectives of one run
beside the kernels of the other: layers with experts are run that way (`pairs.py`), and of others, or as a bound,
``both = max(kernels, collectives)`` of the two, but no less than either alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from archsim.engine import Session
from archsim.mapping import Fabric as Links
from archsim.mapping import KernelBlock, Layout, Plan, Target, bound_kernels, fuse, lay_out, shard_training
from archsim.mapping.shard_training import BACKWARD
from archsim.mapping.task import Task, TaskBlock
from archsim.network import Fabric
from archsim.simulation.blocks import BlockRun, run_block
from archsim.simulation.borrowing import borrowers, lent
from archsim.simulation.collectives import narrowed
from archsim.trace import Graph
from archsim.training.pairs import pair_of

__all__ = ["BlockPasses", "Passes", "is_cheap", "simulate_passes"]

#: repetitions that a block of layers is run for at most; one that takes so long runs once, since what the cache holds
#: from the layer before is nothing to it
REPEATS, LONG_S = 4, 2e-3


@dataclass(frozen=True)
class Passes:
    """One pass of a block for one micro-batch on one chip, in ps.

    kernels, collectives: sums of each alone. weights: of the backward pass, kernels whose results are gradients of
    weights. cheap: of the forward pass, kernels that selective recomputation repeats. flops: of this chip.
    operators: name and time of each kernel and collective. launches: of each, by the host, experts one by one. waits:
    before which of them a host has to know how many tokens each expert got. exchanges: kind and time of each
    collective, and whether the backward pass needs what it brings. spare, spare_flops: kernels of a forward pass whose
    results its backward pass does not need.
    """

    time: int
    kernels: int
    collectives: int
    weights: int
    cheap: int
    flops: int
    operators: tuple[tuple[str, int], ...]
    launches: tuple[int, ...]
    waits: tuple[int, ...]
    exchanges: tuple[tuple[str, int, bool], ...] = ()
    spare: int = 0
    spare_flops: int = 0

    def needed(self, kinds: Collection[str]) -> int:
        """How long it takes to compute again what the backward pass reads (`hiding` collectives of these kinds)."""
        gone = sum(time for kind, time, needed in self.exchanges if not needed and kind not in kinds)
        return max(self.hiding(kinds) - self.spare - gone, 0)

    def hiding(self, kinds: Collection[str]) -> int:
        """How long the pass takes where collectives of these kinds run beside kernels, as far as they are shorter."""
        hidden = sum(time for kind, time, _ in self.exchanges if kind in kinds)
        return max(self.kernels, self.time - hidden, hidden)

    def paced(self, time: float, launch_ps: float) -> float:
        """How long the pass takes, `time` without a host, where one launches operator by operator.

        The host runs ahead: ``max(time, launches * launch_ps)``. Where it has to wait for counts of tokens the chip has
        nothing queued when it goes on, each layer: kernel i starts when it is launched and i - 1 has ended, and its n
        parts end no sooner than a part after the last launch. That is periodic, from one wait to the next.
        """
        if not self.waits:
            return max(time, sum(self.launches) * launch_ps)
        stretch = time / max(sum(each for _, each in self.operators), 1)
        issued = done = 0.0
        first = self.waits[0]
        for i in [*range(first, len(self.operators)), *range(first)]:
            count, length = self.launches[i], self.operators[i][1] * stretch
            issued = done if i in self.waits else issued
            begin = max(done, issued + launch_ps)
            issued += count * launch_ps
            done = max(begin + length, issued + length / count)
        return done


@dataclass(frozen=True)
class BlockPasses:
    """Both passes of a block that the model has `repeat` times."""

    name: str
    repeat: int
    forward: Passes
    backward: Passes
    paired: int | None = None

    def flops(self, recompute: str) -> int:
        """Of both passes, and of the whole layer where that is computed again (not of what is cheap to compute)."""
        forward = self.forward
        again = {"full": forward.flops, "needed": forward.flops - forward.spare_flops}.get(recompute, 0)
        return forward.flops + again + self.backward.flops

    @property
    def both(self) -> int:
        """A forward and a backward pass that overlap, as they were run (`paired`) or could at best."""
        if self.paired is not None:
            return self.paired
        kernels = self.forward.kernels + self.backward.kernels
        collectives = self.forward.collectives + self.backward.collectives
        return max(kernels, collectives, self.forward.time, self.backward.time)


def simulate_passes(
    graph: Graph, plan: Plan, target: Target, links: Links | None, network: Fabric | None, *, fidelity: str,
    beside: bool = False, paired: bool = False, gradient_bytes: int = 4, by_row: bool = False, seed: int = 0,
    progress: Callable[[str], None] = lambda name: None,
) -> tuple[tuple[BlockPasses, ...], tuple[TaskBlock, ...]]:  # fmt: skip
    """Both passes of every block of one micro-batch, and the tasks they consist of.

    target: the chip with its ports on the fabric. graph: at the sequences of a micro-batch and ``seq / plan.cp``
    tokens. beside: another collective (of gradients, of weights) is always under way and holds its cores. paired: a
    forward pass runs beside a backward pass of another micro-batch. fidelity: "tile", or "roofline" for a lower bound.
    """
    tasks = shard_training(graph, plan, links, seed, gradient_bytes=gradient_bytes, by_row=by_row)
    blocks = fuse(tasks)
    needs = _needs(blocks)
    whole, target = target, narrowed(target, network) if beside else target
    named = {block.name: block for block in blocks}
    found = [(block, named[block.name + BACKWARD]) for block in blocks if not block.name.endswith(BACKWARD)]
    if fidelity == "roofline":
        bounds = {block.name: _bound(block, target, needs[block.name]) for block in blocks}
        return tuple(BlockPasses(b.name, b.repeat, bounds[b.name], bounds[back.name]) for b, back in found), tasks
    layout = lay_out(graph, tasks, blocks, target.block_bytes, target.storage)

    pairs = {each[0].name: pair_of(*each, layout) if paired else None for each in found}
    parts: list[tuple[KernelBlock, Layout, Target]] = []
    for each in found:
        pair = pairs[each[0].name]
        # exchanges of a pair take their cores as it runs
        parts += [(*pair, whole)] if pair else [(block, layout, target) for block in each]
    runs = _run(parts, network, progress)

    def alone(block: KernelBlock) -> Passes:
        done = runs[block.name]
        return _sums(done.block, [each.time_ps for each in done.kernels], done.period_ps, needs[block.name])

    def both(forward: KernelBlock, backward: KernelBlock) -> BlockPasses:
        pair = pairs[forward.name]
        if pair is None:
            return BlockPasses(forward.name, forward.repeat, alone(forward), alone(backward))
        done = runs[pair[0].name]
        times = {each.kernel.name: each.time_ps for each in done.kernels}
        ahead, back = (  # one after the other, nothing hides
            _sums(block, [times[k.name] for k in block.kernels], round(sum(times[k.name] for k in block.kernels)),
                  needs[block.name]) for block in (forward, backward)
        )  # fmt: skip
        return BlockPasses(forward.name, forward.repeat, ahead, back, done.period_ps)

    return tuple(both(*each) for each in found), tasks


def _run(
    parts: Sequence[tuple[KernelBlock, Layout, Target]], network: Fabric | None, progress: Callable[[str], None]
) -> dict[str, BlockRun]:
    """Blocks by name, each with where its tensors lie and what it has of the chip. Small ones borrow from the largest
    (`archsim.simulation.borrowing`): which are is told by their bounds, on the chip of the first."""
    last = borrowers([block for block, _, _ in parts], parts[0][2])
    runs: dict[str, BlockRun] = {}
    for i in sorted(range(len(parts)), key=lambda i: (i in last, i)):
        block, layout, chip = parts[i]
        progress(block.name)
        long = _bound(block, chip, ()).time > LONG_S * 1e12
        some = KernelBlock(block.name, 1 if long else min(block.repeat, REPEATS), block.kernels)
        shared = lent(some, chip, runs.values()) if i in last else None
        runs[block.name] = run_block(Session(chip.machine), some, chip, layout, network, exact=False, lent=shared)
    return runs


def _needs(blocks: tuple[KernelBlock, ...]) -> dict[str, tuple[int, ...]]:
    """Of every forward pass the kernels, by number, whose results its backward pass reads or those start from."""
    named = {block.name: block for block in blocks}
    found: dict[str, tuple[int, ...]] = {}
    for block in blocks:
        back = named.get(block.name + BACKWARD)
        wanted = {o.tensor for kernel in back.kernels for o in kernel.inputs} if back else set()
        numbers = []
        for number in reversed(range(len(block.kernels))):
            kernel = block.kernels[number]
            if wanted & {o.tensor for o in kernel.outputs}:
                wanted |= {o.tensor for o in kernel.inputs}
                numbers.append(number)
        found[block.name] = tuple(numbers)
    return found


def _bound(block: KernelBlock, target: Target, needed: Collection[int]) -> Passes:
    seconds = bound_kernels(block.kernels, target).seconds * 1e12
    return _sums(block, seconds.tolist(), None, needed)


def _sums(block: KernelBlock, times: Sequence[float], whole: int | None, needed: Collection[int]) -> Passes:
    """A pass from the times of its kernels; without a time of the whole, the longer of its two streams."""
    kernels = collectives = weights = cheap = 0.0
    for kernel, time in zip(block.kernels, times, strict=True):
        if kernel.kind == "collective":
            collectives += time
            continue
        kernels += time
        weights += time if _of_weights(kernel.name) else 0.0
        cheap += time if all(is_cheap(task) for task in kernel.tasks) else 0.0
    flops = sum(kernel.flops for kernel in block.kernels)
    launches = tuple(sum(max(len(task.rows), 1) for task in kernel.tasks) for kernel in block.kernels)
    dispatches = (  # rows that have arrived are sorted without a question
        i for i, k in enumerate(block.kernels) if k.op_kind == "moe_dispatch" and not k.name.endswith(".sort")
    )  # fmt: skip
    waits = () if block.name.endswith(BACKWARD) else tuple(dispatches)  # backward, the counts are known
    time = round(max(kernels, collectives)) if whole is None else whole
    operators = tuple((kernel.name, round(each)) for kernel, each in zip(block.kernels, times, strict=True))
    timed = list(enumerate(zip(block.kernels, times, strict=True)))
    exchanges = tuple((k.tasks[0].kind, round(t), i in needed) for i, (k, t) in timed if k.kind == "collective")
    unread = [(kernel, time) for i, (kernel, time) in timed if kernel.kind != "collective" and i not in needed]
    return Passes(
        time, round(kernels), round(collectives), round(weights), round(cheap), flops, operators, launches, waits,
        exchanges, sum(round(time) for _, time in unread), sum(kernel.flops for kernel, _ in unread),
    )  # fmt: skip


def _of_weights(name: str) -> bool:
    return name.endswith(".wgrad")


def is_cheap(task: Task) -> bool:
    """Whether selective recomputation repeats a task rather than keep its result: row by row, or of low rank."""
    if task.kind == "matmul":
        return 4 * task.dims["k"] <= task.dims["n"]
    if task.attrs.get("eager") == "experts":  # behind the second product
        return False
    return task.kind in ("norm", "rotary", "elementwise") and task.attrs.get("fn") != "add"
