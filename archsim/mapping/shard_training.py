"""Sharding of a training step: the forward pass as in inference, and its mirror image.

Backward operators follow the rule of their forward operator (attribute ``of``). For a product ``y = x W`` whose columns
are split over ``tp`` chips, the gradient ``dx = dy W^T`` sums over split columns: every chip has a part of it, and the
sum over chips is taken where something else than a sum reads it, so that q, k and v (gate and up) pay one all-reduce.
Where the reduction was split, ``dx`` has split columns. Weight gradients are split as their weight is.

With sequence parallelism (Korthikanti et al., arXiv:2205.05198, section 4.2.2) norms and residuals work on
``tokens / tp`` rows; an all-reduce becomes a reduce-scatter behind a row product and an all-gather before a column
product, and the backward pass gathers the input of a column product once more for its weight gradient.

With context parallelism each chip has ``seq / cp`` tokens of every sequence, cut so that a causal mask loads all alike
(two chunks from opposite ends): a query sees ``(seq + seq / cp) / 2`` keys at most in the mean, and the keys and values
of all chips are gathered (backward: gathered again, and their gradients scattered). What a ring would send step by step
beside the attention is one all-gather here, which runs beside what does not need it.
"""

from __future__ import annotations

from dataclasses import replace

from archsim.mapping.plan import Plan
from archsim.mapping.shard import COLUMN, KEY_VALUE, ROW, Fabric, Sharder, State
from archsim.mapping.task import Task, TaskBlock
from archsim.trace import Graph
from archsim.trace.graph import Block, Op

__all__ = ["BACKWARD", "OPTIMIZER", "shard_training"]

#: endings of the names of blocks
BACKWARD, OPTIMIZER = ".backward", ".optimizer"


def shard_training(
    graph: Graph, plan: Plan, fabric: Fabric | None, seed: int = 0, *, gradient_bytes: int = 4, by_row: bool = False
) -> tuple[TaskBlock, ...]:
    """The tasks of one chip in the forward and backward blocks; updates of weights are not among them.

    ``graph`` must be evaluated at the sequences of one micro-batch, and at ``seq / plan.cp`` tokens. gradient_bytes: of
    one gradient of weights as it is summed up over micro-batches. by_row: a row crosses to another node for each of its
    experts there (NCCL's all-to-all), not once (DeepEP).
    """
    sharder = _TrainingSharder(graph, plan, fabric, seed, gradient_bytes, by_row)
    return tuple(sharder.block(block) for block in graph.blocks if not block.name.endswith(OPTIMIZER))


class _TrainingSharder(Sharder):
    def __init__(
        self, graph: Graph, plan: Plan, fabric: Fabric | None, seed: int, gradient_bytes: int, by_row: bool
    ) -> None:
        super().__init__(graph, plan, fabric, seed)
        self.gradient_bytes, self.by_row = gradient_bytes, by_row
        self.states: dict[str, State] = {}  # of the forward blocks
        self.by_rows: set[int] = set()  # tensors whose tokens are split over tp chips
        self.gathered: set[int] = set()  # of these, the ones that this block has gathered
        self.partial: set[int] = set()  # gradients of which every chip has a part

    def block(self, block: Block) -> TaskBlock:
        forward = self.states.get(block.name.removesuffix(BACKWARD))
        state = State({}, {}) if forward is None else State(dict(forward.share), dict(forward.expert_rows))
        self.states[block.name] = state
        self.gathered.clear()
        tasks: list[Task] = []
        for op in block.ops:
            tasks += self._whole(op, state)
            tasks += [self._accumulating(task) for task in self._op(op, state)]
        # the gradient that leaves the block is whole, or (with sequence parallelism) whole in its rows
        written = {tensor for op in block.ops for tensor in op.outputs} & self.partial
        for op in reversed(block.ops):
            tasks += [self._sum(op, tensor) for tensor in op.outputs if tensor in written & self.partial]
        return TaskBlock(block.name, block.repeat, tuple(_merged(tasks)), state.shares())

    # sums and gathers that an operator needs before it can start ----------------------------------------------

    def _whole(self, op: Op, state: State) -> list[Task]:
        """Reductions of partial gradients, and gathers of split tokens, that ``op`` waits for."""
        tasks = []
        if not (op.name.endswith(".accumulate") and all(t in self.partial for t in op.inputs)):
            tasks = [self._sum(op, tensor) for tensor in op.inputs if tensor in self.partial]
        if not self.plan.sp or not self._is_split(op, state):
            return tasks
        for tensor in op.inputs:
            if tensor in self.by_rows and tensor not in self.gathered:
                self.gathered.add(tensor)
                tasks.append(self._collective(op, "all_gather", self._nbytes(tensor), self.plan.tp, tensor))
        return tasks

    def _is_split(self, op: Op, state: State) -> bool:
        """Whether tensor parallelism splits the columns or heads of ``op``, so that it needs all tokens."""
        name = self._rule(op)
        if op.kind == "matmul":
            return op.dims["b"] > 1 or bool(COLUMN.search(name) or ROW.search(name))
        if op.kind in ("attention", "attention_backward"):
            return True
        return any(state.share.get(t, 1) > 1 for t in op.inputs if self._is_activation(t))

    def _accumulating(self, task: Task) -> Task:
        """A gradient of weights is added to that of earlier micro-batches: as many bytes are read as are written.

        The kernel is lowered with stores of the sum of both.
        """
        if not (task.kind in ("matmul", "grouped_matmul_wgrad") and task.outputs[0].role == "gradient"):
            return task
        out, both = task.outputs[0], 2.0 * self.gradient_bytes
        nbytes = round(out.nbytes / out.element_bytes * both)
        return replace(task, outputs=(replace(out, nbytes=nbytes, element_bytes=both),))

    def _sum(self, op: Op, tensor: int) -> Task:
        self.partial.discard(tensor)
        kind = "all_reduce"
        if self.plan.sp:
            self.by_rows.add(tensor)
            kind = "reduce_scatter"
        return self._collective(op, kind, self._nbytes(tensor), self.plan.tp, tensor)

    def _nbytes(self, tensor: int) -> int:
        return self.graph.tensors[tensor].nbytes

    # operators ------------------------------------------------------------------------------------------------

    def _exchange(self, op: Op, nbytes: int, tokens: int, tensor: int) -> Task:
        if self.by_row:
            return self._collective(op, "all_to_all", nbytes, self.plan.ep, tensor)
        return super()._exchange(op, nbytes, tokens, tensor)

    def _on_routed_rows(self, op: Op, state: State, rows: tuple[int, ...]) -> Task:
        task = super()._on_routed_rows(op, state, rows)
        each = op.attrs.get("fn") in ("amax", "quantise_twice") or op.attrs.get("eager") == "experts"
        return replace(task, rows=rows) if each else task

    def _has_all_tokens(self) -> bool:
        """Each chip sends its share of the tokens and gets it back, as Megatron-LM's dispatcher does."""
        return False

    def _op(self, op: Op, state: State) -> list[Task]:
        tp = self.plan.tp
        if op.name.endswith(".accumulate") and all(t in self.partial for t in op.inputs):
            self.partial -= set(op.inputs)
            self.partial |= set(op.outputs)
            return [self._task(op, state, op.dims, share_in=[1, 1], share_out=1)]
        if op.kind == "grouped_matmul_wgrad":
            return [self._grouped_wgrad(op, state)]
        if op.kind == "attention_backward":
            return self._attention_backward(op, state)
        if op.kind == "attention":
            ways = min(tp, op.dims["kv_heads"])
            return [*self._context(op, ("all_gather",), ways), self._attention(op, state)]
        routed = any(t in state.expert_rows for t in op.inputs)
        if self.plan.sp and not routed and not self._is_split(op, state) and op.kind != "embedding":
            if op.kind not in ("moe_dispatch", "moe_combine"):
                return [self._on_own_rows(op, state)]
            tasks = super()._op(op, state)  # dispatch and combine work on a chip's own tokens already
            self.by_rows |= {t for t in op.outputs if t not in state.expert_rows}
            return [task for task in tasks if task.kind != "all_gather"]
        tasks = super()._op(op, state)
        if op.attrs.get("fn") == "dot":  # gradients of the routing weights: numbers, that go back with the rows
            for tensor in op.outputs:
                state.expert_rows.pop(tensor)
        if self.plan.sp and tp > 1 and tasks[-1].kind == "all_reduce":
            self.by_rows |= set(op.outputs)
            reduced = tasks[-1]
            scatter = self._collective(op, "reduce_scatter", reduced.dims["bytes"], tp, op.outputs[0])
            tasks = [*tasks[:-1], scatter]
        return tasks

    def _matmul(self, op: Op, state: State) -> list[Task]:
        name, dims, tp = self._rule(op), dict(op.dims), self.plan.tp
        column, row = bool(COLUMN.search(name)), bool(ROW.search(name))
        if dims["b"] > 1:  # one small product per head
            return super()._matmul(op, state)
        if tp == 1 or not (column or row):
            return [self._task(op, state, dims, share_in=[1] * len(op.inputs), share_out=1)]
        ways = min(tp, self._kv_heads()) if KEY_VALUE.search(name) else tp
        if op.name.endswith(".dgrad"):
            axis = "k" if column else "n"
            dims[axis] = self._divide(dims[axis], ways)
            if column:
                self.partial |= set(op.outputs)
                return [self._task(op, state, dims, share_in=[ways, ways], share_out=1)]
            return [self._task(op, state, dims, share_in=[1, ways], share_out=ways)]
        if op.name.endswith(".wgrad"):
            axis = "n" if column else "m"
            dims[axis] = self._divide(dims[axis], ways)
            shares = [1, ways] if column else [ways, 1]
            return [self._task(op, state, dims, share_in=shares, share_out=ways)]
        if name.endswith("lm_head"):  # the loss works on split logits
            dims["n"] = self._divide(dims["n"], tp)
            return [self._task(op, state, dims, share_in=[1, tp], share_out=tp)]
        return super()._matmul(op, state)

    def _on_own_rows(self, op: Op, state: State) -> Task:
        """An operator between the tensor-parallel regions, on this chip's share of the tokens."""
        tp, dims = self.plan.tp, dict(op.dims)
        axis = {"matmul": "k" if op.name.endswith(".wgrad") else "m"}.get(op.kind, "rows")
        dims[axis] = self._divide(dims[axis], tp)
        ins = [tp if self._is_activation(t) else 1 for t in op.inputs]
        out = tp if any(self._is_activation(t) for t in op.outputs) else 1
        task = self._task(op, state, dims, share_in=ins, share_out=out, split_out=1)
        self.by_rows |= {t for t in op.outputs if self._is_activation(t)}
        return task

    def _attention(self, op: Op, state: State) -> Task:
        return super()._attention(self._in_context(op), state)

    def _attention_backward(self, op: Op, state: State) -> list[Task]:
        op = self._in_context(op)
        tp = self.plan.tp
        ways = min(tp, op.dims["kv_heads"])
        dims = {
            **op.dims,
            "heads": self._divide(op.dims["heads"], tp),
            "kv_heads": self._divide(op.dims["kv_heads"], ways),
        }
        more = [tp if self.graph.tensors[t].role == "weight" else 1 for t in op.inputs[3:-2]]
        task = self._task(op, state, dims, share_in=[tp, ways, ways, *more, tp, tp], share_out=tp)
        return [*self._context(op, ("all_gather", "reduce_scatter"), ways), task]

    def _in_context(self, op: Op) -> Op:
        """``op`` with the keys that a query of this chip sees in the mean."""
        if self.plan.cp == 1:
            return op
        own = op.dims["q_len"]
        whole = op.dims["kv_len"] * self.plan.cp
        return _with_dims(op, kv_len=(whole + own) // 2 if op.attrs.get("causal") else whole)

    def _context(self, op: Op, kinds: tuple[str, ...], ways: int) -> list[Task]:
        """Collectives over the chips that share a sequence: its keys and values, or their gradients."""
        if self.plan.cp == 1:
            return []
        nbytes = sum(self._nbytes(t) for t in op.inputs[1:3]) * self.plan.cp // ways
        return [self._collective(op, kind, nbytes, self.plan.cp, op.inputs[1], stride=self.plan.tp) for kind in kinds]

    def _grouped_wgrad(self, op: Op, state: State) -> Task:
        """The gradient of this chip's experts: a product per expert, as deep as it has rows."""
        rows = state.expert_rows[op.inputs[0]]
        n, k = op.dims["n"], op.dims["k"]
        if self.plan.ep == 1 and self.plan.tp > 1:
            if state.share.get(op.inputs[0], 1) > 1:
                k = self._divide(k, self.plan.tp)
            else:
                n = self._divide(n, self.plan.tp)
        total, active = sum(rows), sum(r > 0 for r in rows)
        depth = max(round(total / max(active, 1)), 1)
        dims = {**op.dims, "experts": active, "rows": active * k, "n": n, "k": depth}
        x, dy, dw = (self.graph.tensors[t] for t in (*op.inputs, op.outputs[0]))
        state.share[op.outputs[0]] = self.plan.ep if self.plan.ep > 1 else self.plan.tp
        return Task(
            op.name, op.kind, dims, op.attrs, op.dtype,
            inputs=(
                self._operand(op.inputs[0], x.bytes_of(total * k)), self._operand(op.inputs[1], dy.bytes_of(total * n)),
            ),
            outputs=(self._operand(op.outputs[0], active * n * k * self._element(dw.dtype)),),
            flops=2 * total * n * k, rows=(k,) * max(active, 1),
        )  # fmt: skip

    @staticmethod
    def _rule(op: Op) -> str:
        """The name of the forward operator, by which the rules go."""
        return str(op.attrs.get("of", op.name))


def _merged(tasks: list[Task]) -> list[Task]:
    """Products whose results are only added up become one with a deeper reduction: ``[dq dk dv] [Wq Wk Wv]^T``."""
    made = {task.outputs[0].tensor: task for task in tasks if task.kind == "matmul" and task.name.endswith(".dgrad")}
    gone: set[int] = set()
    merged: dict[int, Task] = {}
    for task in tasks:
        parts = [made.get(operand.tensor) for operand in task.inputs]
        if not task.name.endswith(".accumulate") or len(parts) != 2 or parts[0] is None or parts[1] is None:
            continue
        first, second = parts[0], parts[1]
        same = [(p.dims["b"], p.dims["m"], p.dims["n"], p.dtype, p.inputs[1].element_bytes) for p in (first, second)]
        if same[0] != same[1]:
            continue
        sides = [replace(a, nbytes=a.nbytes + b.nbytes) for a, b in zip(first.inputs, second.inputs, strict=True)]
        whole = replace(
            second, dims={**second.dims, "k": first.dims["k"] + second.dims["k"]}, inputs=tuple(sides),
            outputs=task.outputs, flops=first.flops + second.flops,
        )  # fmt: skip
        gone |= {id(first), id(second)}
        merged[id(task)] = made[task.outputs[0].tensor] = whole
    kept = [merged.get(id(task), task) for task in tasks if id(task) not in gone]
    return [task for task in kept if id(task) not in gone]


def _with_dims(op: Op, **dims: int) -> Op:
    return replace(op, dims={**op.dims, **dims})
