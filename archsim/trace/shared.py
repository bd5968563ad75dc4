"""Shared experts as routed ones: an overlay for systems that place them on chips of their own.

A layer of DeepSeek's adds to the experts that a router chooses shared ones, which every token passes. Usually every
chip holds them. Where a chip holds very few experts, they are spread like the others: of CloudMatrix384's 320 dies 32
hold a copy of the shared expert and no other (arXiv:2506.12708), and tokens are sent to nine experts instead of eight::

    experts' = E + S        top_k' = k + S        rows of a shared expert = all tokens

Redundant experts then are copies of the shared ones as well, which have the most rows.
"""

from __future__ import annotations

from dataclasses import replace

from archsim.errors import InputError
from archsim.trace.expr import Expr
from archsim.trace.trace import BlockSpec, OpSpec, TensorSpec, Trace

__all__ = ["with_routed_shared"]

_SHARED = ".shared_experts."
_ROUTED = ("moe_dispatch", "grouped_matmul", "moe_combine")


def with_routed_shared(trace: Trace) -> Trace:
    """`trace` whose shared experts are among the routed ones, as experts that every token goes to.

    >>> from archsim.trace import load_workload
    >>> trace = load_workload("deepseek-v3", "decode")
    >>> more = with_routed_shared(trace)
    >>> next(str(op.dims["top_k"]) for op in more.blocks[2].ops if op.kind == "moe_combine")
    '9'
    >>> more.at(ctx=1).n_params == trace.at(ctx=1).n_params
    True
    """
    tensors = list(trace.tensors)
    blocks = tuple(_block(block, tensors, trace.name) for block in trace.blocks)
    if blocks == trace.blocks:
        raise InputError(f"{trace.name} has no shared experts that could be spread over chips")
    return replace(trace, blocks=blocks, tensors=tuple(tensors))


def _block(block: BlockSpec, tensors: list[TensorSpec], name: str) -> BlockSpec:
    shared = [op for op in block.ops if _SHARED in op.name]
    combine = next((op for op in block.ops if op.kind == "moe_combine"), None)
    if not shared or combine is None:
        return block
    ends = (*combine.outputs, *shared[-1].outputs)
    add = next((op for op in block.ops if op.attrs.get("fn") == "add" and set(op.inputs) == set(ends)), None)
    width = next(op.dims["n"] for op in block.ops if op.kind == "grouped_matmul").evaluate({}) // 2
    inner = shared[-1].dims["k"].evaluate({}) if shared[-1].kind == "matmul" else 0
    more = inner // width
    if add is None or more * width != inner or not more:
        raise InputError(f"{name}: the shared experts of {block.name} are none of the size and kind of the routed ones")
    for op in block.ops:
        if op.kind == "grouped_matmul":
            weight = tensors[op.inputs[1]]
            tensors[op.inputs[1]] = replace(weight, shape=(_plus(weight.shape[0], more), *weight.shape[1:]))
    ops: list[OpSpec] = []
    routed: dict[int, Expr] = {}  # tensors of one row a token and expert, with their rows
    for op in block.ops:
        if op in shared or op is add:
            continue
        dims = dict(op.dims)
        if op.kind in _ROUTED:
            dims |= {"experts": _plus(dims["experts"], more), "top_k": _plus(dims["top_k"], more)}
        rows = next((routed[t] for t in op.inputs if t in routed), None)
        if op.kind == "moe_dispatch":
            rows = Expr.parse(f"({dims['top_k']})*({dims['tokens']})")
        if rows is not None and op.kind != "moe_combine":
            dims |= {"rows": rows} if "rows" in dims else {}
            for t in op.outputs:
                routed[t] = rows
                tensors[t] = replace(tensors[t], shape=(rows, *tensors[t].shape[1:]))
        attrs = {**op.attrs, "always": more} if op.kind in ("moe_dispatch", "grouped_matmul") else op.attrs
        outputs = add.outputs if op is combine else op.outputs
        ops.append(replace(op, dims=dims, attrs=attrs, outputs=outputs))
    return replace(block, ops=tuple(ops))


def _plus(expr: Expr, more: int) -> Expr:
    return Expr.parse(str(expr.evaluate({}) + more))
