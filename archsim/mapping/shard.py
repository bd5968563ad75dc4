"""Sharding: the graph of one step becomes the tasks of one chip, collectives included.

The graph is evaluated with the batch of one data-parallel group. Tensor parallelism then follows Megatron: a
*column* product splits its output columns over ``tp`` chips, a *row* product its reduction and is followed by
an all-reduce. What stands between (rotary, attention, SwiGLU, KV append, MLA absorption) works on the split
tensor and inherits the split. Only the products themselves need rules, and those are data (``COLUMN``,
``ROW``). Key/value heads fewer than ``tp`` are replicated; MLA's latent cache is one head.

Experts (``ep`` = all chips): each chip owns ``experts / ep`` of them, redundant ones included. Tokens of all groups
are routed; an all-to-all carries them to the experts' chips and back, and an all-gather rebuilds the group's
activations. Where there is one group only, every chip has all tokens already: it takes those of its experts, and an
all-reduce adds up what the experts of all chips gave (as vLLM and TensorRT-LLM do without data-parallel attention).
One chip stands for all: the one whose experts received the most rows, since the layer waits for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from archsim.mapping.experts import busiest_chip
from archsim.mapping.plan import Plan
from archsim.mapping.task import Operand, Task, TaskBlock
from archsim.models import collective
from archsim.trace import Graph
from archsim.trace.costs import flops
from archsim.trace.graph import DTYPE_BITS, Block, Op
from archsim.trace.moe import expert_counts

__all__ = ["COLUMN", "KEY_VALUE", "ROW", "Fabric", "Sharder", "State", "shard"]

#: products whose output columns are split (module names as the model code has them)
COLUMN = re.compile(
    r"(^|\.)(q_proj|k_proj|v_proj|gate_proj|up_proj|gate_up_proj|q_b_proj|kv_b_proj|c_attn|c_fc|lm_head)$"
)
#: products whose reduction is split; an all-reduce follows
ROW = re.compile(r"(^|\.)(o_proj|down_proj|c_proj)$")
#: tokens of a chip up to which experts exchange them by low-latency kernels, directly between all chips; beyond, one
#: copy goes to each node and is passed on inside. Source: DeepEP, README (low-latency kernels for fewer than 256
#: tokens) and DeepSeek-V3 technical report, section 3.4
FEW_TOKENS = 256
#: small attention that every chip does in full: the scores by which DeepSeek-V3.2 chooses tokens
REPLICATED = re.compile(r"(^|\.)indexer\.scores$")
KEY_VALUE = re.compile(r"(^|\.)(k_proj|v_proj)$")


@dataclass(frozen=True)
class Handover:
    """What an exchange between nodes takes of the cores where cards carry the messages: seconds, and for each row."""

    post_s: float
    post_row_s: float
    receive_s: float
    receive_row_s: float

    def posting_s(self, rows: int) -> float:
        """Until the cards have all messages of ``rows`` rows."""
        return self.post_s + rows * self.post_row_s

    def receiving_s(self, rows: int) -> float:
        """From the arrival of the last of ``rows`` rows until they are in place."""
        return self.receive_s + rows * self.receive_row_s


@dataclass(frozen=True)
class Fabric:
    """The links of one chip: inside the node, and between nodes (None: there is only one node).

    handover: where cores hand few tokens over to cards between nodes; None: kernels that stay send them.
    """

    inside: collective.Level
    outside: collective.Level | None
    chips_per_node: int
    handover: Handover | None = None


@dataclass
class State:
    """How the tensors met so far are split, within one block.

    share: of how many chips one holds its part. expert_share: the same for what experts own.
    """

    share: dict[int, int]
    expert_rows: dict[int, tuple[int, ...]]
    expert_share: dict[int, int | Fraction] = field(default_factory=dict)

    def shares(self) -> dict[int, int | Fraction]:
        return {**self.share, **self.expert_share}


def shard(graph: Graph, plan: Plan, fabric: Fabric | None, seed: int = 0) -> tuple[TaskBlock, ...]:
    """The tasks of the busiest chip, block by block. ``graph`` must be evaluated at ``batch / plan.dp`` sequences."""
    return tuple(Sharder(graph, plan, fabric, seed).block(block) for block in graph.blocks)


class Sharder:
    """Walks through the operators of a graph, block by block, and knows how each tensor is split."""

    def __init__(self, graph: Graph, plan: Plan, fabric: Fabric | None, seed: int) -> None:
        self.graph, self.plan, self.fabric, self.seed = graph, plan, fabric, seed

    def block(self, block: Block) -> TaskBlock:
        state = State({}, {})
        tasks: list[Task] = []
        for op in block.ops:
            tasks += self._op(op, state)
        return TaskBlock(block.name, block.repeat, tuple(tasks), state.shares())

    # one operator ---------------------------------------------------------------------------------------------

    def _op(self, op: Op, state: State) -> list[Task]:
        if op.kind == "grouped_matmul":
            return [self._grouped(op, state)]
        if op.kind == "moe_dispatch":
            return self._dispatch(op, state)
        if op.kind == "moe_combine":
            return self._combine(op, state)
        routed = next((state.expert_rows[t] for t in op.inputs if t in state.expert_rows), None)
        if routed is not None:
            return [self._on_routed_rows(op, state, routed)]
        if op.kind == "matmul":
            return self._matmul(op, state)
        if op.kind == "attention":
            return [self._attention(op, state)]
        if op.kind == "embedding" and self.plan.tp > 1:
            task = self._task(op, state, op.dims, share_in=[self.plan.tp], share_out=1)
            return [task, self._all_reduce(op, task)]
        # what is left works element by element and inherits the split of what it reads; MLA's cache is one head for all
        split = max((state.share.get(t, 1) for t in op.inputs), default=1)
        shares = [split if self.graph.tensors[t].role == "weight" else state.share.get(t, 1) for t in op.inputs]
        cols = {"cols": split} | {f"cols_{i}": share for i, share in enumerate(shares)}
        dims = {
            name: self._divide(n, cols.get(name, split)) if name.startswith("cols") else n
            for name, n in op.dims.items()
        }
        return [self._task(op, state, dims, share_in=shares, share_out=split)]

    def _matmul(self, op: Op, state: State) -> list[Task]:
        tp, dims = self.plan.tp, dict(op.dims)
        if dims["b"] > 1:  # one small product per head (MLA absorption): heads are split
            dims["b"] = self._divide(dims["b"], tp)
            return [self._task(op, state, dims, share_in=[tp, tp], share_out=tp)]
        if COLUMN.search(op.name):
            ways = min(tp, self._kv_heads()) if KEY_VALUE.search(op.name) else tp
            dims["n"] = self._divide(dims["n"], ways)
            task = self._task(op, state, dims, share_in=[1, ways, ways], share_out=ways)
            if op.name.endswith("lm_head") and tp > 1:
                state.share[op.outputs[0]] = 1
                return [task, self._collective(op, "all_gather", task.outputs[0].nbytes * tp, tp, op.outputs[0])]
            return [task]
        if ROW.search(op.name) and tp > 1:
            dims["k"] = self._divide(dims["k"], tp)
            task = self._task(op, state, dims, share_in=[tp, tp, 1], share_out=1)
            return [task, self._all_reduce(op, task)]
        return [self._task(op, state, dims, share_in=[1] * len(op.inputs), share_out=1)]

    def _attention(self, op: Op, state: State) -> Task:
        if REPLICATED.search(op.name):
            return self._task(op, state, op.dims, share_in=[1] * len(op.inputs), share_out=1)
        tp = self.plan.tp
        ways = min(tp, op.dims["kv_heads"])
        dims = {
            **op.dims,
            "heads": self._divide(op.dims["heads"], tp),
            "kv_heads": self._divide(op.dims["kv_heads"], ways),
        }
        # after q, k and v: weights with one element a head (the sinks of gpt-oss), or indices that all heads read
        more = [tp if self.graph.tensors[t].role == "weight" else 1 for t in op.inputs[3:]]
        return self._task(op, state, dims, share_in=[tp, ways, ways, *more], share_out=tp)

    # mixture of experts ---------------------------------------------------------------------------------------

    def _own_rows(self, op: Op) -> tuple[int, ...]:
        """Rows of each expert of the busiest chip (most rows, then most active experts, then first)."""
        groups = max(self.plan.ep // self.plan.tp, 1)  # of tensor parallelism, each with tokens of its own
        counts = expert_counts(
            op.dims["tokens"] * groups, op.dims["experts"], op.dims["top_k"],
            str(op.attrs.get("routing", "uniform")), self.seed + int(op.attrs.get("seed") or 0),
            int(op.attrs.get("always") or 0),
        )  # fmt: skip
        return busiest_chip(counts.tolist(), self.plan.ep, self.plan.redundant)

    def _has_all_tokens(self) -> bool:
        """Whether every chip with experts has the tokens of all: one tensor-parallel group."""
        return self.plan.ep == self.plan.tp > 1

    def _own_tokens(self, op: Op) -> int:
        """Tokens that this chip sends to experts; where all are here, as many as make up the rows of its own."""
        if self.plan.ep == 1:
            return op.dims["tokens"]
        if self._has_all_tokens():
            return max(self._divide(sum(self._own_rows(op)), op.dims["top_k"]), 1)
        return self._divide(op.dims["tokens"], self.plan.tp)

    def _expert_share(self, experts: int) -> int | Fraction:
        """Of how many chips one holds its part of the experts: fewer than there are if some experts have copies."""
        if self.plan.ep == 1:
            return self.plan.tp
        share = Fraction(experts * self.plan.ep, experts + self.plan.redundant)
        return share.numerator if share.denominator == 1 else share

    def _dispatch(self, op: Op, state: State) -> list[Task]:
        rows = self._own_rows(op)
        for tensor in op.outputs:
            state.expert_rows[tensor] = rows
        tokens = self._own_tokens(op)
        task = self._task(
            op,
            state,
            {**op.dims, "tokens": tokens},
            share_in=[op.dims["tokens"] / tokens] * len(op.inputs),
            share_out=1,
        )
        sent = self.graph.tensors[op.inputs[0]].bytes_of(tokens * op.dims["top_k"] * op.dims["cols"])
        routed = Operand(task.outputs[0].tensor, "activation", max(sent, 1), task.outputs[0].element_bytes)
        task = replace(task, outputs=(routed, *task.outputs[1:]))
        if self.plan.ep == 1 or self._has_all_tokens():
            return [task]
        exchange = self._exchange(op, sent, tokens, op.outputs[0])
        return [task, *self._handed_over(op, exchange), *self._sorted(op, op.outputs[0], rows, tokens)]

    def _combine(self, op: Op, state: State) -> list[Task]:
        tokens = self._own_tokens(op)
        dims, share = {**op.dims, "tokens": tokens}, op.dims["tokens"] / tokens
        whole_out = self._has_all_tokens()
        task = self._task(op, state, dims, share_in=[share] * len(op.inputs), share_out=1 if whole_out else share)
        for tensor in op.outputs:
            state.share[tensor] = 1
        if self.plan.ep == 1 or whole_out:
            return [task, self._all_reduce(op, task)] if self.plan.tp > 1 else [task]
        element = task.outputs[0].element_bytes
        sent = int(tokens * op.dims["top_k"] * op.dims["cols"] * element)
        rows = state.expert_rows[op.inputs[0]]
        exchange, *held = self._handed_over(op, self._exchange(op, sent, tokens, op.inputs[0]))
        before = [self._moved(op, op.inputs[0], rows, "pack")] if held else self._sorted(op, op.inputs[0], rows, tokens)
        tasks = [*before, exchange, *held[:1], task]  # the weighted sum takes the rows over
        if self.plan.tp > 1:
            whole = int(op.dims["tokens"] * op.dims["cols"] * element)
            tasks.append(self._collective(op, "all_gather", whole, self.plan.tp, op.outputs[0]))
        return tasks

    def _sorted(self, op: Op, tensor: int, rows: tuple[int, ...], tokens: int) -> list[Task]:
        """The pass that orders the rows of this chip's experts by expert, or back by sender, in place like an exchange.

        Kernels for many tokens bring them sorted by sender (Megatron-LM's dispatcher and the users of DeepEP permute);
        those for few tokens put each row where its expert reads it.
        """
        return [] if len(rows) == 1 or tokens <= FEW_TOKENS else [self._moved(op, tensor, rows, "sort")]

    def _moved(self, op: Op, tensor: int, rows: tuple[int, ...], name: str) -> Task:
        """A pass over the rows of this chip's experts, which lie elsewhere then: in order, or where cards read."""
        total, cols = max(sum(rows), 1), op.dims["cols"]
        moved = (self._operand(tensor, self.graph.tensors[tensor].bytes_of(total * cols)),)
        return Task(f"{op.name}.{name}", "moe_dispatch", {"tokens": total, "cols": cols, "top_k": 1}, {}, op.dtype,
                    moved, moved, 0)  # fmt: skip

    def _grouped(self, op: Op, state: State) -> Task:
        rows = state.expert_rows[op.inputs[0]]
        n, k = op.dims["n"], op.dims["k"]
        if self.plan.ep == 1 and self.plan.tp > 1:  # experts cut like a dense layer: columns first, then the reduction
            first = op.inputs[0] not in state.share
            n, k = (self._divide(n, self.plan.tp), k) if first else (n, self._divide(k, self.plan.tp))
            state.share[op.outputs[0]] = self.plan.tp if first else 1
        total, active = sum(rows), sum(r > 0 for r in rows)
        dims = {**op.dims, "experts": len(rows), "rows": total, "n": n, "k": k}
        state.expert_rows[op.outputs[0]] = rows
        state.expert_share[op.inputs[1]] = self._expert_share(op.dims["experts"])
        x, w, y = (self.graph.tensors[t] for t in (op.inputs[0], op.inputs[1], op.outputs[0]))
        weight_bytes = w.nbytes / (op.dims["experts"] * op.dims["n"] * op.dims["k"])
        for bias in op.inputs[2:]:  # split with the experts, or with the columns
            state.expert_share[bias] = self._expert_share(op.dims["experts"]) if self.plan.ep > 1 else op.dims["n"] // n
        return Task(
            op.name, op.kind, dims, op.attrs, op.dtype,
            inputs=(
                self._operand(op.inputs[0], x.bytes_of(total * k)),
                self._operand(op.inputs[1], active * n * k * weight_bytes),
                *(self._operand(b, active * n * self._element(self.graph.tensors[b].dtype)) for b in op.inputs[2:]),
            ),
            outputs=(self._operand(op.outputs[0], total * n * self._element(y.dtype)),),
            flops=flops(op.kind, dims, op.attrs), rows=rows,
        )  # fmt: skip

    def _on_routed_rows(self, op: Op, state: State, rows: tuple[int, ...]) -> Task:
        """An element-wise operator between dispatch and combine works on this chip's routed rows."""
        total = max(sum(rows), 1)
        split = max((state.share.get(t, 1) for t in op.inputs), default=1)
        dims = {**op.dims, "rows": total, "cols": self._divide(op.dims["cols"], split)}
        ratio = split * op.dims["rows"] / total
        for tensor in op.outputs:
            state.expert_rows[tensor] = rows
        return self._task(op, state, dims, share_in=[ratio] * len(op.inputs), share_out=ratio, split_out=split)

    # pieces ---------------------------------------------------------------------------------------------------

    def _task(
        self, op: Op, state: State, dims: dict[str, int], *, share_in: list[float] | list[int], share_out: float,
        split_out: int | None = None,
    ) -> Task:  # fmt: skip
        """``op`` with ``dims`` and each operand divided by its share; records how the outputs are split."""
        split = split_out if split_out is not None else round(share_out)
        if split > 1:
            for tensor in op.outputs:
                state.share[tensor] = split
        shares = [*share_in, *[1] * len(op.inputs)]
        for tensor, share in zip(op.inputs, shares, strict=False):
            if not self._is_activation(tensor) and share > 1:
                state.share[tensor] = round(share)
        return Task(
            op.name, op.kind, dims, op.attrs, op.dtype,
            inputs=tuple(self._operand(t, b / s) for t, b, s in zip(op.inputs, op.input_bytes, shares, strict=False)),
            outputs=tuple(self._operand(t, b / share_out) for t, b in zip(op.outputs, op.output_bytes, strict=True)),
            flops=flops(op.kind, dims, op.attrs),
        )  # fmt: skip

    def _operand(self, tensor: int, nbytes: float) -> Operand:
        spec = self.graph.tensors[tensor]
        return Operand(tensor, spec.role, int(np.ceil(nbytes)), self._element(spec.dtype))

    @staticmethod
    def _element(dtype: str) -> float:
        return DTYPE_BITS[dtype] / 8

    def _is_activation(self, tensor: int) -> bool:
        return self.graph.tensors[tensor].role == "activation"

    def _kv_heads(self) -> int:
        """Key/value heads of the model: what the k and v projections can be split into."""
        heads = [op.dims["kv_heads"] for block in self.graph.blocks for op in block.ops if op.kind == "attention"]
        return min(heads, default=1)

    @staticmethod
    def _divide(size: int, ways: int) -> int:
        """The largest chip's share."""
        return -(-size // ways)

    # collectives ----------------------------------------------------------------------------------------------

    def _all_reduce(self, op: Op, task: Task) -> Task:
        return self._collective(op, "all_reduce", task.outputs[0].nbytes, self.plan.tp, op.outputs[0])

    def _exchange(self, op: Op, nbytes: int, tokens: int, tensor: int) -> Task:
        """The all-to-all of a chip's ``tokens`` to experts, or back."""
        task = self._collective(op, "all_to_all", nbytes, self.plan.ep, tensor)
        fabric = self.fabric
        assert fabric is not None, "more than one chip without a fabric"
        if tokens <= FEW_TOKENS:
            return replace(task, dims={**task.dims, "rows": tokens * op.dims["top_k"]})
        if fabric.outside is None or self.plan.ep <= fabric.chips_per_node:
            return task
        top_k = op.dims["top_k"]
        nodes = self.plan.ep // fabric.chips_per_node
        limit = min(self.plan.node_limit or nodes, nodes)
        copies = collective.nodes_of_a_token(limit, top_k) / top_k  # between nodes, for each expert of a token
        seconds = collective.all_to_all(
            nbytes, self.plan.ep, fabric.chips_per_node, fabric.inside, fabric.outside, across=copies
        )
        return replace(task, dims={**task.dims, "top_k": top_k, "node_limit": limit}, seconds=seconds)

    def _handed_over(self, op: Op, exchange: Task) -> list[Task]:
        """An exchange with what it takes of the cores beside it, where cards carry its few tokens between nodes.

        Posting holds the cores while the first messages are on their way; taking over waits for the last.
        """
        fabric, rows = self.fabric, exchange.dims.get("rows", 0)
        if not rows or fabric is None or fabric.handover is None or self.plan.ep <= fabric.chips_per_node:
            return [exchange]
        posting, receiving = fabric.handover.posting_s(rows), fabric.handover.receiving_s(rows)
        carried = replace(exchange, dims={**exchange.dims, "received_ps": round(receiving * 1e12)})
        dims = {"rows": rows}
        return [
            carried,
            Task(f"{op.name}.post", "expert_post", dims, {}, op.dtype, (), (), 0, seconds=posting),
            Task(f"{op.name}.receive", "expert_receive", dims, {}, op.dtype, exchange.inputs, exchange.outputs, 0,
                 seconds=receiving),
        ]  # fmt: skip

    def _collective(self, op: Op, kind: str, nbytes: int, ranks: int, tensor: int, stride: int = 1) -> Task:
        """``kind`` over ``ranks`` chips that are ``stride`` apart, working on ``tensor`` in place."""
        assert self.fabric is not None, "more than one chip without a fabric"
        inside, outside, node = self.fabric.inside, self.fabric.outside, self.fabric.chips_per_node
        if kind in ("all_to_all", "head_exchange"):
            seconds = collective.all_to_all(nbytes, ranks, node, inside, outside)
        else:
            bound = getattr(collective, kind)
            seconds = collective.over_nodes(bound, nbytes, ranks, node, inside, outside)
        moved = (Operand(tensor, "activation", nbytes, 1.0),)
        dims = {"bytes": nbytes, "ranks": ranks, "stride": stride}
        return Task(f"{op.name}.{kind}", kind, dims, {}, op.dtype, moved, moved, 0, seconds=seconds)
