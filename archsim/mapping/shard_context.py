"""Sharding of an inference step whose sequences are shared by ``cp`` chips: each holds 1 / cp of their KV cache.

Prefill: a chip computes ``seq / cp`` tokens of every prompt, cut so that a causal mask loads all alike (two chunks from
opposite ends, "zig-zag"): a query sees ``ctx + (seq + seq / cp) / 2`` keys where the last queries alone would see more.
The keys and values of all chips are gathered, layer by layer; of MLA the latent ones, which every chip expands.
(Llama 3 trains so: Dubey et al., arXiv:2407.21783, section 3.3.2. A ring would send the same bytes piece by piece
beside the attention; here the gather is beside what does not need it.) ``graph`` must be evaluated at ``seq / cp``
tokens after ``ctx + seq - seq / cp``.

Prefill by heads: a chip keeps its tokens for all that works token by token, and attends for all tokens with
``heads / cp`` heads, so that prompts of all lengths load all chips alike. Queries, keys and values change hands before
the attention, its results after it (Jacobs et al., "DeepSpeed Ulysses", arXiv:2309.14509). Of MLA the latent queries,
keys and values are gathered, in the type in which they were computed, and each chip expands them for its heads
(CloudMatrix384's SP-TP-SP, arXiv:2506.12708, section 4.3; so does vLLM-Ascend).

Decode: products are cut over all ``tp x cp`` chips, attention by heads over tp and by cached tokens over cp: queries
are gathered over cp, each chip attends to its tokens, and the partial results, with the logarithms of their sums, are
scattered and merged (Bhatia et al., "Helix Parallelism", arXiv:2507.07120; vLLM's decode context parallelism). The
sum of a few partial results is no kernel of its own here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from archsim.mapping.plan import Plan
from archsim.mapping.shard import REPLICATED, Fabric, Sharder, State, shard
from archsim.mapping.task import Task, TaskBlock
from archsim.trace import Graph
from archsim.trace.graph import Block, Op

__all__ = ["shard_step"]

#: bytes of the logarithm of a sum of exponentials
LSE_BYTES = 4
#: what expands latent queries, and latent keys and values, for the heads
QUERIES = re.compile(r"(^|\.)q_b_proj(\.quantise)?$")
KEYS = re.compile(r"(^|\.)kv_b_proj$")


def shard_step(graph: Graph, plan: Plan, fabric: Fabric | None, seed: int = 0) -> tuple[TaskBlock, ...]:
    """The tasks of the busiest chip of an inference step, whose sequences are shared by ``plan.cp`` chips."""
    if plan.cp == 1:
        return shard(graph, plan, fabric, seed)
    kind = _Decode if graph.phase == "decode" else _ByHeads if plan.by_heads else _Prefill
    sharder = kind(graph, plan, fabric, seed)
    return tuple(sharder.block(block) for block in graph.blocks)


class _Prefill(Sharder):
    def block(self, block: Block) -> TaskBlock:
        self.gathered: set[int] = set()
        done = super().block(block)
        held = {t: s * self.plan.cp for t, s in done.shares.items() if self._is_cache(t)}
        whole = {t: self.plan.cp for t in block.tensors if self._is_cache(t)}  # those that tensor parallelism leaves
        return replace(done, shares={**done.shares, **whole, **held})

    def _op(self, op: Op, state: State) -> list[Task]:
        return [*self._gathers(op, state), *super()._op(self._in_context(op), state)]

    def _gathers(self, op: Op, state: State) -> list[Task]:
        """Of the caches that ``op`` is the first to read."""
        reads = [] if op.kind == "kv_append" else [t for t in op.inputs if self._is_cache(t)]
        missing = [t for t in dict.fromkeys(reads) if t not in self.gathered]
        self.gathered.update(missing)
        return self._numbered(
            self._over_context(op, "all_gather", self.graph.tensors[t].nbytes // state.share.get(t, 1), t)
            for t in missing
        )

    def _over_context(self, op: Op, kind: str, nbytes: int, tensor: int) -> Task:
        return self._collective(op, kind, nbytes, self.plan.cp, tensor, stride=self.plan.tp)

    @staticmethod
    def _numbered(tasks: Iterable[Task]) -> list[Task]:
        return [replace(task, name=f"{task.name}{i or ''}") for i, task in enumerate(tasks)]

    def _in_context(self, op: Op) -> Op:
        """``op`` with the keys that a query of this chip sees in the mean, if it is attention to all of them."""
        causal = op.kind == "attention" and op.attrs.get("causal")
        if not causal or op.dims["kv_len"] != self.graph.ctx + self.graph.seq:
            return op
        fewer = op.dims["q_len"] * (self.plan.cp - 1) // 2
        return replace(op, dims={**op.dims, "kv_len": op.dims["kv_len"] - fewer})

    def _is_cache(self, tensor: int) -> bool:
        return self.graph.tensors[tensor].role == "kv_cache"


class _ByHeads(_Prefill):
    """Own tokens outside of attention; in it all tokens, for 1 / cp of the heads.

    of_heads: activations of the chip's heads, of all tokens, as large as those of all heads and its tokens. whole:
    those of all tokens. by_head: caches that are kept by heads.
    """

    def block(self, block: Block) -> TaskBlock:
        self.of_heads: set[int] = set()
        self.whole: set[int] = set()
        self.by_head: dict[int, int] = {}
        done = super().block(block)
        return replace(done, shares={**done.shares, **self.by_head})

    @property
    def _ways(self) -> int:
        return self.plan.tp * self.plan.cp

    def _op(self, op: Op, state: State) -> list[Task]:
        if op.kind == "attention" and not REPLICATED.search(op.name):
            return self._attend(op, state)
        if QUERIES.search(op.name):
            return self._expand_queries(op, state)
        if op.kind == "matmul" and KEYS.search(op.name):
            dims = {**op.dims, "n": self._divide(op.dims["n"], self._ways)}
            shares = [1, self._ways, self._ways]
            return [*self._gathers(op, state), self._task(op, state, dims, share_in=shares, share_out=self._ways)]
        mine = [t for t in op.inputs if t in self.of_heads]
        if mine and op.kind == "matmul" and op.dims["b"] > 1:  # one small product a head
            dims = {**op.dims, "b": self._divide(op.dims["b"], self._ways), "m": op.dims["m"] * self.plan.cp}
            self.of_heads.update(op.outputs)
            tp = self.plan.tp
            return [self._task(op, state, dims, share_in=[tp, self._ways], share_out=tp)]
        alike = all(t in self.of_heads for t in op.inputs if self._is_activation(t))
        if mine and alike and op.kind not in ("matmul", "elementwise"):
            self.of_heads.update(op.outputs)
            mine = []
        self.of_heads.difference_update(mine)
        return [*self._exchanged(op, state, mine), *super()._op(op, state)]

    def _expand_queries(self, op: Op, state: State) -> list[Task]:
        """The product that makes queries of latent ones, or what quantises its input: for the tokens of all chips."""
        latent, cp = op.inputs[0], self.plan.cp
        whole = self.graph.tensors[latent].nbytes * cp
        gathers = [] if latent in self.whole else [self._over_context(op, "all_gather", whole, latent)]
        self.whole.update((latent, *op.outputs))
        if op.kind != "matmul":
            dims = {**op.dims, "rows": op.dims["rows"] * cp}
            return [*gathers, self._task(op, state, dims, share_in=[1 / cp], share_out=1 / cp)]
        dims = {**op.dims, "m": op.dims["m"] * cp, "n": self._divide(op.dims["n"], self._ways)}
        self.of_heads.update(op.outputs)
        shares = [1 / cp, self._ways, self._ways]
        return [*gathers, self._task(op, state, dims, share_in=shares, share_out=self.plan.tp)]

    def _attend(self, op: Op, state: State) -> list[Task]:
        """Attention of this chip's heads to all tokens, and what changes hands before it."""
        tp, ways, d = self.plan.tp, self._ways, op.dims
        query, *keys = op.inputs[:3]
        kv_ways = min(ways, d["kv_heads"])
        before = self._exchanged(op, state, [] if query in self.of_heads else [query])
        if kv_ways > 1:  # caches of heads: each chip keeps its own, of all tokens
            for tensor in (t for t in keys if self._is_cache(t)):
                new = self.graph.tensors[tensor].nbytes * d["q_len"] // d["kv_len"] * ways // kv_ways
                before.append(self._over_context(op, "head_exchange", max(new // tp, 1), tensor))
                self.by_head[tensor] = kv_ways
        else:
            before += self._gathers(op, state)
        more = []
        for tensor in op.inputs[3:]:
            weight = not self._is_activation(tensor)
            if not weight:  # the tokens that each query attends to
                nbytes = self.graph.tensors[tensor].nbytes * self.plan.cp
                before.append(self._over_context(op, "all_gather", nbytes, tensor))
            more.append(ways if weight else 1 / self.plan.cp)
        dims = {
            **d, "q_len": d["q_len"] * self.plan.cp, "heads": self._divide(d["heads"], ways),
            "kv_heads": self._divide(d["kv_heads"], kv_ways),
        }  # fmt: skip
        self.of_heads.update(op.outputs)
        task = self._task(op, state, dims, share_in=[tp, kv_ways, kv_ways, *more], share_out=tp)
        return [*self._numbered(before), task]

    def _exchanged(self, op: Op, state: State, tensors: Sequence[int]) -> list[Task]:
        """Heads of all tokens for tokens of all heads, or back."""
        return self._numbered(
            self._over_context(op, "head_exchange", self.graph.tensors[t].nbytes // state.share.get(t, 1), t)
            for t in tensors
        )


class _Decode(Sharder):
    """With all chips of a sequence as one tensor-parallel group, in which attention is cut another way."""

    def __init__(self, graph: Graph, plan: Plan, fabric: Fabric | None, seed: int) -> None:
        super().__init__(graph, replace(plan, tp=plan.tp * plan.cp), fabric, seed)

    def _op(self, op: Op, state: State) -> list[Task]:
        tasks = super()._op(op, state)
        if op.kind != "attention" or REPLICATED.search(op.name):
            return tasks
        cp, d = self.plan.cp, op.dims
        heads = self.plan.tp // cp
        query, result = op.inputs[0], op.outputs[0]
        sums = LSE_BYTES * d["batch"] * d["q_len"] * d["heads"]
        return [
            self._collective(op, "all_gather", self.graph.tensors[query].nbytes // heads, cp, query),
            *tasks,
            self._collective(op, "reduce_scatter", (self.graph.tensors[result].nbytes + sums) // heads, cp, result),
        ]

    def _attention(self, op: Op, state: State) -> Task:
        if REPLICATED.search(op.name):
            return super()._attention(op, state)
        cp = self.plan.cp
        by_head = self.plan.tp // cp
        ways = min(by_head, op.dims["kv_heads"])
        dims = {
            **op.dims,
            "heads": self._divide(op.dims["heads"], by_head),
            "kv_heads": self._divide(op.dims["kv_heads"], ways),
            "kv_len": self._divide(op.dims["kv_len"], cp),
        }
        window = op.attrs.get("window")
        if window is not None:
            op = replace(op, attrs={**op.attrs, "window": self._divide(int(window), cp)})
        more = [by_head if self.graph.tensors[t].role == "weight" else 1 for t in op.inputs[3:]]
        return self._task(
            op, state, dims, share_in=[by_head, ways * cp, ways * cp, *more], share_out=by_head,
            split_out=self.plan.tp,
        )  # fmt: skip
