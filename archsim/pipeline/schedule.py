"""The order in which each pipeline rank works on its micro-batches.

An order is a list of actions for every rank. ``F`` is the forward pass of a chunk of layers, ``B`` its whole backward
pass, ``I`` the part that gives the gradient of its input, ``W`` the part that gives those of its weights (of the oldest
``I`` that has none yet), and two chunks at once are a forward and a backward pass that overlap. When an action starts
is not said here: it waits for what it needs (`archsim.pipeline.run`), so that bubbles emerge.

====================  ===============================================================================================
schedule              reference
====================  ===============================================================================================
gpipe                 Huang et al., "GPipe", 2019: all forward passes, then all backward passes
1f1b                  Narayanan et al., "PipeDream-Flush", 2021; with chunks: Narayanan et al., "Efficient large-scale
                      language model training", 2021, section 2.2 (interleaved)
zero-bubble           Qi et al., "Zero bubble pipeline parallelism", 2023, ZB-H1: 1F1B whose gradients of weights
                      are kept back, by rank r those of r micro-batches, until it has nothing else to do
dualpipe              DeepSeek-V3 technical report, section 3.2.1, and the code published with it: two copies of the
                      pipeline in opposite directions, a forward pass of one beside a backward pass of the other
forward_only          inference; in decode a micro-batch begins again with the token that it brought
====================  ===============================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Action", "Chunk", "Schedule", "forward_only", "make_schedule"]


@dataclass(frozen=True)
class Chunk:
    """Layers of one stage of one copy of the pipeline; `stage` counts all chunks along the way of a micro-batch."""

    copy: int
    stage: int


@dataclass(frozen=True)
class Action:
    """kind: F, B, I, W or FB. forward, backward: (chunk, micro-batch) that it works on."""

    kind: str
    forward: tuple[Chunk, int] | None = None
    backward: tuple[Chunk, int] | None = None


@dataclass(frozen=True)
class Schedule:
    """orders: the actions of each rank. stages: chunks along a copy of the pipeline.

    again: after so many micro-batches the first stage waits for what the last one made of the one so many before.
    """

    orders: tuple[tuple[Action, ...], ...]
    stages: int
    again: int = 0

    def rank_of(self, chunk: Chunk) -> int:
        """The rank that holds a chunk."""
        ranks = len(self.orders)
        return ranks - 1 - chunk.stage if chunk.copy else chunk.stage % ranks

    def chunks_of(self, rank: int) -> tuple[Chunk, ...]:
        """The chunks that a rank holds."""
        order = self.orders[rank]
        return tuple(dict.fromkeys(action.forward[0] for action in order if action.forward is not None))


def make_schedule(name: str, ranks: int, micro_batches: int, virtual: int = 1) -> Schedule:
    """The schedule of that name; degrees must have been checked (`archsim.training.plan.check`).

    >>> [a.kind for a in make_schedule("1f1b", 4, 4).orders[2]]
    ['F', 'F', 'B', 'F', 'B', 'F', 'B', 'B']
    """
    if name == "gpipe":
        orders = [_gpipe(rank, micro_batches) for rank in range(ranks)]
    elif name == "dualpipe":
        return Schedule(tuple(_DualPipe(rank, ranks, micro_batches).order() for rank in range(ranks)), ranks)
    else:
        orders = [_interleaved(rank, ranks, micro_batches, virtual) for rank in range(ranks)]
        if name == "zero-bubble":
            orders = [_split(order, rank) for rank, order in enumerate(orders)]
    return Schedule(tuple(tuple(order) for order in orders), ranks * virtual)


def forward_only(ranks: int, micro_batches: int, rounds: int = 1) -> Schedule:
    """Forward passes of so many micro-batches, and of each again in every further round.

    >>> [a.forward[1] for a in forward_only(2, 3, rounds=2).orders[1]]
    [0, 1, 2, 3, 4, 5]
    """
    count = micro_batches * rounds
    orders = (tuple(Action("F", (Chunk(0, rank), m)) for m in range(count)) for rank in range(ranks))
    return Schedule(tuple(orders), ranks, micro_batches)


def _gpipe(rank: int, count: int) -> list[Action]:
    chunk = Chunk(0, rank)
    return [Action("F", (chunk, m)) for m in range(count)] + [Action("B", None, (chunk, m)) for m in range(count)]


def _interleaved(rank: int, ranks: int, count: int, virtual: int) -> list[Action]:
    """1F1B, with several chunks: micro-batches in groups of as many as there are ranks, chunk after chunk."""
    total = count * virtual

    def place(number: int, *, back: bool) -> tuple[Chunk, int]:
        if virtual == 1:
            return Chunk(0, rank), number
        group, inside = divmod(number, ranks * virtual)
        chunk, micro_batch = divmod(inside, ranks)
        chunk = virtual - 1 - chunk if back else chunk
        return Chunk(0, chunk * ranks + rank), group * ranks + micro_batch

    ahead = ranks - rank - 1 if virtual == 1 else 2 * (ranks - rank - 1) + (virtual - 1) * ranks
    ahead = min(ahead, total)
    order = [Action("F", place(i, back=False)) for i in range(ahead)]
    for i in range(total - ahead):
        order += [Action("F", place(ahead + i, back=False)), Action("B", None, place(i, back=True))]
    return order + [Action("B", None, place(i, back=True)) for i in range(total - ahead, total)]


def _split(order: list[Action], rank: int) -> list[Action]:
    """Backward passes in two parts. Rank r keeps r second parts back, for the time when it waits at the end."""
    split: list[Action] = []
    waiting: list[Action] = []
    for action in order:
        if action.kind != "B":
            split.append(action)
            continue
        split.append(Action("I", None, action.backward))
        waiting.append(Action("W", None, action.backward))
        if len(waiting) > rank:
            split.append(waiting.pop(0))
    return split + waiting


class _DualPipe:
    """The eight steps of the published schedule, for one rank."""

    def __init__(self, rank: int, ranks: int, count: int) -> None:
        self.rank, self.ranks, self.half_count = rank, ranks, count // 2
        self.near = min(rank, ranks - 1 - rank)  # ranks from the nearer end
        self.second = rank >= ranks // 2
        self.actions: list[Action] = []
        self.forwards, self.backwards = [0, 0], [0, 0]
        self.pending: list[tuple[Chunk, int]] = []

    def order(self) -> tuple[Action, ...]:
        half, near, count = self.ranks // 2, self.near, self.half_count
        for _ in range(2 * (half - near - 1)):
            self.forward(0)
        for _ in range(near + 1):
            self.forward(0)
            self.forward(1)
        for _ in range(half - near - 1):
            self.backward(1, split=True)
            self.weights()
            self.forward(1)
        for i in range(count - self.ranks + near + 1):
            if i == 0 and near == half - 1:  # the middle ranks do not overlap these two, which shortens the bubble
                self.forward(0)
                self.backward(1)
            else:
                self.both(0, 1)
            self.both(1, 0)
        for _ in range(half - near - 1):
            self.backward(1)
            self.both(1, 0)
        split = False
        for i in range(near + 1):
            split = split or (i == (near + 1) // 2 and near % 2 == 1)
            self.backward(1, split=split)
            split = split or (i == (near + 1) // 2 and near % 2 == 0)
            self.backward(0, split=split)
        for _ in range(half - near - 1):
            self.weights()
            self.backward(0, split=True)
        while self.pending:
            self.weights()
        return tuple(self.actions)

    def _chunk(self, phase: int) -> Chunk:
        copy = phase ^ self.second
        return Chunk(int(copy), self.ranks - 1 - self.rank if copy else self.rank)

    def _next(self, phase: int, counts: list[int]) -> tuple[Chunk, int]:
        chunk = self._chunk(phase)
        counts[chunk.copy] += 1
        return chunk, counts[chunk.copy] - 1

    def forward(self, phase: int) -> None:
        self.actions.append(Action("F", self._next(phase, self.forwards)))

    def backward(self, phase: int, *, split: bool = False) -> None:
        work = self._next(phase, self.backwards)
        self.actions.append(Action("I" if split else "B", None, work))
        if split:
            self.pending.append(work)

    def weights(self) -> None:
        if self.pending:
            self.actions.append(Action("W", None, self.pending.pop(0)))

    def both(self, forward: int, backward: int) -> None:
        self.actions.append(Action("FB", self._next(forward, self.forwards), self._next(backward, self.backwards)))
