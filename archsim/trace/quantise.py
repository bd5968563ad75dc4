"""Weight quantisation as an overlay on a trace."""

from __future__ import annotations

from dataclasses import replace

from archsim.errors import InputError, did_you_mean
from archsim.trace.trace import BlockSpec, OpSpec, TensorSpec, Trace

__all__ = ["quantised"]

# What one scale covers: fp8 as DeepSeek-V3 ships (128 x 128 blocks), int8 an output channel (0: the whole axis).
_SCALE_BLOCK = {"fp8": (128, 128), "int8": (1, 0)}


def quantised(trace: Trace, dtype: str) -> Trace:
    """`trace` with the weights of its linear and grouped matmuls in `dtype`, computed in `dtype`.

    What stays as it is: everything outside the layers (embedding, final norm, lm_head), norms, the router, attention,
    and the per-head matmuls of absorbed MLA (their weight too), as DeepSeek-V3 does. The fp32 scales count in the bytes
    of the weight. Activations stay bf16 in memory: casting them is fused into the producer or the matmul's prologue,
    and its cost is not modelled.
    """
    if dtype not in _SCALE_BLOCK:
        known = ", ".join(_SCALE_BLOCK)
        raise InputError(f"unknown quantisation '{dtype}'{did_you_mean(dtype, _SCALE_BLOCK)}; it is one of {known}")
    chosen = {id(op) for block in trace.blocks for op in block.ops if _is_quantised(trace, block, op)}
    weights = {op.inputs[1] for block in trace.blocks for op in block.ops if id(op) in chosen}
    tensors = tuple(_quantise(t, dtype) if i in weights else t for i, t in enumerate(trace.tensors))

    def requantised(op: OpSpec) -> OpSpec:
        return replace(op, dtype=dtype) if id(op) in chosen else op

    blocks = tuple(replace(block, ops=tuple(map(requantised, block.ops))) for block in trace.blocks)
    return replace(trace, tensors=tensors, blocks=blocks)


def _is_quantised(trace: Trace, block: BlockSpec, op: OpSpec) -> bool:
    linear = op.kind == "grouped_matmul" or (op.kind == "matmul" and str(op.dims["b"]) == "1")
    if not linear or block.name in ("prologue", "epilogue") or trace.tensors[op.inputs[1]].role != "weight":
        return False
    routed = {i for other in block.ops if other.kind == "router" for i in other.inputs}
    return not routed & set(op.outputs)


def _quantise(tensor: TensorSpec, dtype: str) -> TensorSpec:
    rows, cols = _SCALE_BLOCK[dtype]
    return replace(tensor, dtype=dtype, scale_block=(rows, cols or tensor.shape[-1].evaluate({})))
