"""Multi-token prediction (DeepSeek-V3, GLM-4.5) as an overlay: Hugging Face's code leaves these layers out.

A module of it predicts one token further than the model (DeepSeek-V3's report, arXiv:2412.19437, section 2.2): with h
the model's last hidden states and e the embeddings of the tokens one place further on,

    h' = layer(W [norm(h); norm(e)])        logits' = lm_head(norm(h'))

where the layer is one more of the model's last kind and embedding and lm_head are those of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from archsim.errors import InputError
from archsim.trace.expr import Expr
from archsim.trace.graph import Attr
from archsim.trace.trace import BlockSpec, OpSpec, TensorSpec, Trace

__all__ = ["with_mtp"]


def with_mtp(trace: Trace) -> Trace:
    """`trace` followed by the multi-token-prediction modules that its configuration names, as the block ``mtp``.

    >>> from archsim.trace import load_workload
    >>> more = with_mtp(load_workload("deepseek-v3", "decode"))
    >>> [(block.name, block.repeat) for block in more.blocks][-2:], round(more.at(ctx=1).n_params / 1e9, 1)
    ([('epilogue', 1), ('mtp', 1)], 682.6)
    """
    depth = trace.config.get("num_nextn_predict_layers")
    if not isinstance(depth, int) or depth < 1 or len(trace.blocks) < 3:
        raise InputError(f"{trace.name} has no layers for the prediction of more than one token")
    if trace.phase == "train":
        raise InputError(f"{trace.name}: add these layers when a training trace is exported (trace export --mtp)")
    if any(block.name == "mtp" for block in trace.blocks):
        has = "has its layers for the prediction of more than one token already"
        raise InputError(f"{trace.name} {has}: export it without --mtp")
    module = _Module(trace)
    return replace(trace, blocks=(*trace.blocks, module.block(depth)), tensors=tuple(module.tensors))


class _Module:
    """Builds the block from the prologue, the last layer and the epilogue of the trace."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.tensors, self.ops = trace, list(trace.tensors), list[OpSpec]()

    def block(self, depth: int) -> BlockSpec:
        first, layer, last = self.trace.blocks[0], self.trace.blocks[-2], self.trace.blocks[-1]
        embedding = next(op for op in first.ops if op.kind == "embedding")
        norm = next(op for op in last.ops if op.kind == "norm")
        stream, width = norm.inputs[0], norm.dims["cols"]
        rows = embedding.dims["rows"]
        embedded = self.clone(embedding, "embed_tokens", {}, shared=True)
        both = [self.norm(norm, name, x, rows) for name, x in (("hnorm", stream), ("enorm", embedded))]
        double = Expr.parse(f"2*({width})")
        joined = self.tensor("concat", (rows, double), "bf16", "activation")
        dims = {"rows": rows, "cols": double, "cols_0": width, "cols_1": width}
        self.add("concat", "elementwise", dims, both, joined, "bf16", {"fn": "concat"})
        weight = self.tensor("eh_proj.weight", (width, double), "bf16", "weight")
        x = self.tensor("eh_proj", (rows, width), "bf16", "activation")
        dims = {"b": Expr.parse("1"), "m": rows, "n": width, "k": double}
        self.add("eh_proj", "matmul", dims, [joined, weight], x, "bf16", {})
        stands_for: dict[int, int] = {}
        made = {i for op in layer.ops for i in op.outputs}
        for op in layer.ops:
            for i in op.inputs:  # the layer reads the stream that eh_proj leaves
                if i not in made and self.tensors[i].role == "activation":
                    stands_for[i] = x
            self.clone(op, op.name, stands_for)
        end = {stream: stands_for.get(stream, x)}
        for op in last.ops:  # a norm of its own, the model's lm_head
            self.clone(op, f"shared_head.{op.name}", end, shared=op.kind != "norm")
        return BlockSpec("mtp", depth, tuple(self.ops))

    def norm(self, like: OpSpec, name: str, x: int, rows: Expr) -> int:
        spec = self.tensors[like.inputs[1]]
        weight = self.tensor(f"{name}.weight", spec.shape, spec.dtype, "weight")
        out = self.tensor(name, (rows, like.dims["cols"]), "bf16", "activation")
        self.add(name, "norm", {**like.dims, "rows": rows}, [x, weight], out, like.dtype, like.attrs)
        return out

    def clone(self, op: OpSpec, name: str, stands_for: dict[int, int], *, shared: bool = False) -> int:
        """Add `op` again over tensors of its own; `stands_for` maps tensors of the model to those of this module."""
        for i in (*op.inputs, *op.outputs):
            spec = self.tensors[i]
            own = spec.role not in ("weight", "constant") or not shared
            if i not in stands_for and own and spec.role != "constant":
                stands_for[i] = self.tensor(spec.name.partition(".")[2] or name, spec.shape, spec.dtype, spec.role)
        inputs, outputs = (tuple(stands_for.get(i, i) for i in side) for side in (op.inputs, op.outputs))
        self.ops.append(replace(op, name=name, inputs=inputs, outputs=outputs))
        return outputs[0]

    def add(
        self, name: str, kind: str, dims: dict[str, Expr], inputs: list[int], out: int, dtype: str,
        attrs: Mapping[str, Attr],
    ) -> None:  # fmt: skip
        self.ops.append(OpSpec(name, kind, dims, dict(attrs), tuple(inputs), (out,), dtype))

    def tensor(self, name: str, shape: tuple[Expr, ...], dtype: str, role: str) -> int:
        self.tensors.append(TensorSpec(f"mtp.{name}", shape, dtype, role))
        return len(self.tensors) - 1
