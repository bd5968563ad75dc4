"""Sharding of an inference step whose sequences are shared by ``cp`` chips: each holds 1 / cp of their KV cache.

Prefill: a chip computes ``seq / cp`` tokens of every prompt, cut so that a causal mask loads all alike (two chunks from
opposite ends, "zig-zag"): a query sees ``ctx + (seq + seq / cp) / 2`` keys where the last queries alone would see more.
The keys and values of all chips are gathered, layer by layer; of MLA the latent ones, which every chip expands.
(Llama 3 trains so: Dubey et al., arXiv:2407.21783, section 3.3.2. A ring would send the same bytes piece by piece
beside the attention; here the gather is beside what does not need it.) ``graph`` must be evaluated at ``seq / cp``
tokens after ``ctx + seq - seq / cp``.

Decode: products are cut over all ``tp x cp`` chips, attention by heads over tp and by cached tokens over cp: queries
are gathered over cp, each chip attends to its tokens, and the partial results, with the logarithms of their sums, are
scattered and merged (Bhatia et al., "Helix Parallelism", arXiv:2507.07120; vLLM's decode context parallelism). The
sum of a few partial results is no kernel of its own here.
"""

from __future__ import annotations

from dataclasses import replace

from archsim.mapping.plan import Plan
from archsim.mapping.shard import REPLICATED, Fabric, Sharder, State, shard
from archsim.mapping.task import Task, TaskBlock
from archsim.trace import Graph
from archsim.trace.graph import Block, Op

__all__ = ["shard_step"]

#: bytes of the logarithm of a sum of exponentials
LSE_BYTES = 4


def shard_step(graph: Graph, plan: Plan, fabric: Fabric | None, seed: int = 0) -> tuple[TaskBlock, ...]:
    """The tasks of the busiest chip of an inference step, whose sequences are shared by ``plan.cp`` chips."""
    if plan.cp == 1:
        return shard(graph, plan, fabric, seed)
    kind = _Decode if graph.phase == "decode" else _Prefill
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
        reads = [] if op.kind == "kv_append" else [t for t in op.inputs if self._is_cache(t)]
        missing = [t for t in dict.fromkeys(reads) if t not in self.gathered]
        self.gathered.update(missing)
        plan = self.plan
        gathers = [
            self._collective(
                op, "all_gather", self.graph.tensors[t].nbytes // state.share.get(t, 1), plan.cp, t, stride=plan.tp
            )
            for t in missing
        ]  # fmt: skip
        named = [replace(task, name=f"{task.name}{i or ''}") for i, task in enumerate(gathers)]
        return [*named, *super()._op(self._in_context(op), state)]

    def _in_context(self, op: Op) -> Op:
        """``op`` with the keys that a query of this chip sees in the mean, if it is attention to all of them."""
        causal = op.kind == "attention" and op.attrs.get("causal")
        if not causal or op.dims["kv_len"] != self.graph.ctx + self.graph.seq:
            return op
        fewer = op.dims["q_len"] * (self.plan.cp - 1) // 2
        return replace(op, dims={**op.dims, "kv_len": op.dims["kv_len"] - fewer})

    def _is_cache(self, tensor: int) -> bool:
        return self.graph.tensors[tensor].role == "kv_cache"


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
