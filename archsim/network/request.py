"""What is asked of a fabric: a collective, over which chips, by which algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

from archsim.errors import InputError, did_you_mean
from archsim.hardware.link import TransportName

__all__ = ["ALGORITHMS", "KINDS", "Algorithm", "Collective", "Group", "Kind"]

Kind = Literal[
    "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv", "dispatch", "combine"
]
Algorithm = Literal[
    "auto", "fastest", "ring", "tree", "halving_doubling", "one_shot", "two_shot", "direct", "in_switch",
    "hierarchical", "chain",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
TRANSPORTS: tuple[TransportName, ...] = get_args(TransportName)

#: more than any buffer: 64-bit picoseconds hold it at a byte a nanosecond
MOST_BYTES = 2**44
MOST_CHUNKS = 1024


@dataclass(frozen=True)
class Group:
    """`size` chips, `stride` apart; every chip of the system is in one such group, and all groups work at once.

    Chips are numbered node by node. Tensor parallelism of 8 is ``Group(8)``, the data parallelism beside it on 32
    chips ``Group(4, stride=8)``.
    """

    size: int
    stride: int = 1


@dataclass(frozen=True)
class Collective:
    """One collective operation of every group.

    kind: what is done. `dispatch` and `combine` are the all-to-alls of a mixture of experts, there and back.
    nbytes: as nccl-tests counts: the buffer (all_reduce, broadcast, send_recv), what a chip holds in the end
        (all_gather) or in the beginning (reduce_scatter), what it sends to all, itself included (all_to_all).
    algorithm: `auto` takes what a collective library would, `fastest` also the kernels of inference engines.
    imbalance: of an all-to-all, the bytes of the busiest chip over the mean.
    rows: that a chip sends in an all-to-all of tokens, each to each of its experts; 0: not sent row by row.
    top_k, node_limit: of a hierarchical dispatch, experts of a token and the nodes that they may lie on (0: any).
    chunks: pieces of a block that follow each other; 0: by its size.
    transport: how data move inside a node; none: the fastest of those that fit.
    """

    kind: Kind
    nbytes: int
    group: Group
    algorithm: Algorithm = "auto"
    imbalance: float = 1.0
    rows: int = 0
    top_k: int = 1
    node_limit: int = 0
    chunks: int = 0
    transport: TransportName | None = None

    def __post_init__(self) -> None:
        words: list[tuple[str, str, tuple[str, ...]]] = [
            ("collective", self.kind, KINDS), ("algorithm", self.algorithm, ALGORITHMS),
            ("transport", self.transport or TRANSPORTS[0], TRANSPORTS),
        ]  # fmt: skip
        for name, value, legal in words:
            if value not in legal:
                raise InputError(f"{name} '{value}': must be one of {', '.join(legal)}{did_you_mean(value, legal)}")
        if not 1 <= self.nbytes <= MOST_BYTES:
            raise InputError(f"{self.kind} of {self.nbytes} bytes: must be at least 1 byte and at most 16 TiB")
        if self.group.size < 1 or self.group.stride < 1:
            raise InputError(f"{self.kind}: a group has at least one chip and a stride of at least 1")
        if not 1.0 <= self.imbalance < inf:
            raise InputError(f"{self.kind}: an imbalance of {self.imbalance} is below the mean, which is 1")
        if not 0 <= self.chunks <= MOST_CHUNKS:
            raise InputError(f"{self.kind}: a block is cut into at most {MOST_CHUNKS} chunks, not {self.chunks}")
        if self.rows < 0:
            raise InputError(f"{self.kind} of {self.rows} rows: must be at least 0")
        if self.top_k < 1 or self.node_limit < 0:
            raise InputError(f"{self.kind}: a token goes to at least one expert, and to at least one node if limited")
