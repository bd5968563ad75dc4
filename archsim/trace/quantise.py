"""Quantisation as an overlay on a trace: narrower weights, activations and KV cache, with the work that this takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from archsim.errors import InputError, did_you_mean
from archsim.trace.expr import Expr
from archsim.trace.trace import BlockSpec, OpSpec, TensorSpec, Trace

__all__ = ["PLANS", "QUANTS", "Overlay", "Plan", "is_linear", "quantised"]


@dataclass(frozen=True)
class Plan:
    """What is stored in which type. Blocks are (rows, columns) that one scale covers; 0 stands for the whole axis.

    weights, block, scales: of the linear layers' weights, and the type of a scale.
    activations: what one scale of the quantised inputs of those layers covers; their products are computed in the
        weights' type. None: weight-only, the products stay in the type of the inputs.
    kv_cache: its type, with one scale a tensor (not counted); None: as exported.
    attention: whether the products around attention are narrow as well.
    """

    title: str
    weights: str
    block: tuple[int, int]
    scales: str = "fp32"
    activations: tuple[int, int] | None = None
    kv_cache: str | None = None
    attention: bool = True


PLANS: dict[str, Plan] = {
    # DeepSeek-V3's technical report, section 3.3: 128 x 128 blocks of weights, 1 x 128 tiles of activations
    "fp8": Plan("fp8 weights and activations in blocks", "fp8", (128, 128), activations=(1, 128)),
    "fp8-kv": Plan("fp8 weights, activations and KV cache", "fp8", (128, 128), activations=(1, 128), kv_cache="fp8"),
    # W8A8: a scale for each output channel and for each token
    "int8": Plan("int8 weights and activations", "int8", (1, 0), activations=(1, 0)),
    # W4A16, as GPTQ and AWQ store it
    "int4": Plan("int4 weights", "int4", (1, 128), scales="bf16"),
    # NVFP4: blocks of 16 with an E4M3 scale (its second, per-tensor scale is not counted)
    "fp4": Plan("NVFP4 weights and activations", "fp4", (1, 16), scales="fp8", activations=(1, 16)),
    "fp4-kv": Plan(
        "NVFP4 weights and activations, fp8 KV cache", "fp4", (1, 16), scales="fp8", activations=(1, 16), kv_cache="fp8"
    ),
    # NVIDIA's NVFP4 checkpoints of DeepSeek-R1: self_attn is among the excluded modules (TensorRT-LLM, issue 5766)
    "fp4-mlp-kv": Plan(
        "NVFP4 weights and activations of MLPs and experts alone, fp8 KV cache", "fp4", (1, 16), scales="fp8",
        activations=(1, 16), kv_cache="fp8", attention=False,
    ),
    # OCP microscaling: blocks of 32 with a power of two (E8M0, one byte)
    "mxfp4": Plan("MXFP4 weights", "fp4", (1, 32), scales="fp8"),
}
QUANTS = ("none", *PLANS)


def quantised(trace: Trace, quant: str) -> Trace:
    """`trace` with the weights of its linear layers, and what else the plan `quant` says, in narrower types.

    What stays as it is: everything outside the layers (embedding, final norm, lm_head), norms, the router, and the
    per-head matmuls of absorbed MLA (their weight too), as DeepSeek-V3 does.

    Quantising an activation is an operator of its own (elementwise, fn ``quantise``), once for all that read it, and
    before the dispatch to experts, which then carries the narrow type. A matmul whose operand is narrower in memory
    than the type it computes in converts it on the way in; it is not an operator, since no wide copy is ever stored.
    With a quantised KV cache new entries are quantised before they are appended, and attention that reads them
    quantises its queries and computes in that type. Scales count in the bytes of their tensor.
    """
    if quant not in QUANTS:
        raise InputError(
            f"unknown quantisation '{quant}'{did_you_mean(quant, QUANTS)}; it is one of {', '.join(QUANTS)}"
        )
    if quant == "none":
        return trace
    overlay = Overlay(trace, PLANS[quant])
    blocks = tuple(overlay.block(block) for block in trace.blocks)
    if overlay.tensors == list(trace.tensors):
        raise InputError(f"{trace.name} has no linear layers that {quant} could quantise")
    return replace(trace, tensors=tuple(overlay.tensors), blocks=blocks)


class Overlay:
    """Walks through a trace, block by block, and collects the tensors of the new one."""

    def __init__(self, trace: Trace, plan: Plan) -> None:
        self.trace, self.plan = trace, plan
        self.tensors = list(trace.tensors)
        self.ops: list[OpSpec] = []
        self.narrow: dict[tuple[int, bool], int] = {}  # (activation, for the cache) -> its quantised copy
        self.made: dict[tuple[int, bool], int] = {}  # the same, also of activations that were written anew

    def block(self, block: BlockSpec) -> BlockSpec:
        self.ops, self.narrow, self.made = [], {}, {}
        linear = [op for op in block.ops if is_linear(self.trace, block, op)]
        if not self.plan.attention:
            linear = [op for op in linear if "attn" not in op.name]
        for op in block.ops:
            if any(op is each for each in linear):
                self._linear(op)
            elif op.kind == "moe_dispatch" and any(op.outputs[0] == each.inputs[0] for each in linear):
                self._dispatch(op)
            elif op.kind == "kv_append" and self.plan.kv_cache:
                self._append(op)
            elif op.kind == "attention" and self.plan.kv_cache:
                self._attention(op)
            else:
                self.ops.append(op)
            for key in [key for key in self.narrow if key[0] in op.outputs]:
                del self.narrow[key]  # written anew: the copy is out of date
        return replace(block, ops=tuple(self.ops))

    def _linear(self, op: OpSpec) -> None:
        x, weight = op.inputs[:2]
        plan, spec = self.plan, self.trace.tensors[weight]
        self.tensors[weight] = _stored(spec, plan.weights, plan.block, plan.scales)
        if plan.activations is None:
            self.ops.append(op)
            return
        if self.tensors[x].dtype != plan.weights:  # else the dispatch has brought it in that type
            shape = (op.dims["m" if op.kind == "matmul" else "rows"], op.dims["k"])
            x = self._quantise(op, x, shape)
        self.ops.append(replace(op, inputs=(x, *op.inputs[1:]), dtype=plan.weights))

    def _dispatch(self, op: OpSpec) -> None:
        plan = self.plan
        if plan.activations is not None:
            x = self._quantise(op, op.inputs[0], (op.dims["tokens"], op.dims["cols"]))
            out = op.outputs[0]
            self.tensors[out] = _stored(self.tensors[out], plan.weights, plan.activations, plan.scales)
            op = replace(op, inputs=(x, *op.inputs[1:]))
        self.ops.append(op)

    def _append(self, op: OpSpec) -> None:
        # keys and values in one tensor, maybe with the queries, which no cache takes
        fused = (op.dims["rows"], op.dims["cols"]) if len(op.inputs) == 1 else None
        fresh = tuple(self._quantise(op, x, fused, cache=True) for x in op.inputs)
        for cache in op.outputs:
            self.tensors[cache] = replace(self.tensors[cache], dtype=str(self.plan.kv_cache))
        self.ops.append(replace(op, inputs=fresh))

    def _attention(self, op: OpSpec) -> None:
        dtype = str(self.plan.kv_cache)
        keys, values = (self.narrow.get((t, True), t) for t in op.inputs[1:3])
        if {self.tensors[keys].dtype, self.tensors[values].dtype} == {dtype}:
            queries = self._quantise(op, op.inputs[0], None, cache=True)
            op = replace(op, inputs=(queries, keys, values, *op.inputs[3:]), dtype=dtype)
        self.ops.append(op)

    def _quantise(self, reader: OpSpec, x: int, shape: tuple[Expr, Expr] | None, *, cache: bool = False) -> int:
        """The quantised copy of activation `x`, made before `reader` unless an earlier one has it already."""
        if (x, cache) not in self.narrow:
            spec = self.tensors[x]
            rows, cols = shape or (_product(spec.shape[:-1]), spec.shape[-1])
            narrow = TensorSpec(f"{spec.name}.quantised", shape or spec.shape, spec.dtype, "activation")
            if cache:
                narrow = replace(narrow, name=f"{spec.name}.quantised_kv", dtype=str(self.plan.kv_cache))
            else:
                assert self.plan.activations is not None, "weight-only plans quantise no activation"
                narrow = _stored(narrow, self.plan.weights, self.plan.activations, self.plan.scales)
            self.narrow[x, cache] = self.made[x, cache] = len(self.tensors)
            self.tensors.append(narrow)
            name = f"{reader.name}.quantise" + (f"_{reader.inputs.index(x)}" if cache else "")
            dims = {"rows": rows, "cols": cols}
            out = self.narrow[x, cache]
            self.ops.append(OpSpec(name, "elementwise", dims, {"fn": "quantise"}, (x,), (out,), spec.dtype))
        return self.narrow[x, cache]


# of a multi-token-prediction module: its use of lm_head, and the projection that vLLM holds as a plain bf16 layer
_KEPT = ("lm_head", "eh_proj")


def is_linear(trace: Trace, block: BlockSpec, op: OpSpec) -> bool:
    """Whether `op` multiplies by the weights of a linear layer, or of experts, that deployments store narrower."""
    linear = op.kind == "grouped_matmul" or (op.kind == "matmul" and str(op.dims["b"]) == "1")
    name = str(op.attrs.get("of", op.name))  # a backward operator is treated as its forward operator
    outside = block.name.partition(".")[0] in ("prologue", "epilogue") or name.endswith(_KEPT)
    if not linear or outside or trace.tensors[op.inputs[1]].role != "weight":
        return False
    routed = {i for other in block.ops if other.kind == "router" for i in other.inputs + other.outputs}
    return not routed & set(op.inputs + op.outputs)  # neither the scores of the router nor their gradient


def _stored(tensor: TensorSpec, dtype: str, block: tuple[int, int], scales: str) -> TensorSpec:
    rows, cols = block
    return replace(tensor, dtype=dtype, scale_block=(rows, cols or tensor.shape[-1].evaluate({})), scale_dtype=scales)


def _product(axes: Sequence[Expr]) -> Expr:
    return Expr.parse("*".join(f"({axis})" for axis in axes) or "1")
