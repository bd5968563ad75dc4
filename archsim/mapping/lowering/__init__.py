"""Lowering: a kernel of one chip becomes a Program of tile steps."""

from __future__ import annotations

from math import ceil, isclose, isqrt

from archsim.errors import InputError
from archsim.mapping.attention_kernel import ANY_KERNEL, AttentionKernel, AttentionShape
from archsim.mapping.fuse import Kernel
from archsim.mapping.known_kernels import known_kernel
from archsim.mapping.lowering.attention import lower_attention
from archsim.mapping.lowering.attention_backward import lower_attention_backward
from archsim.mapping.lowering.attention_cut import DECODE
from archsim.mapping.lowering.product import ProductOperands, lower_product
from archsim.mapping.lowering.rows import Stream, lower_rows
from archsim.mapping.lowering.table import Lowered
from archsim.mapping.pin import pinned
from archsim.mapping.search import choose_tiling, lowered_product
from archsim.mapping.target import Target
from archsim.mapping.task import Operand, Task
from archsim.mapping.tiling import MatmulShape
from archsim.models.vector import COSTS, VectorCost
from archsim.trace.graph import DTYPE_BITS

__all__ = ["Lowered", "attention_shape", "converted", "lower", "product_shape", "vector_work"]


#: by how much whole bytes may exceed the bits of sparse weights, well below what the scales of blocks add
ROUNDED = 1e-5


def lower(kernel: Kernel, target: Target, *, exact: bool = False) -> Lowered:
    """The Program of one kernel on ``target``; ``exact`` keeps every wave of tiles and every head."""
    if kernel.kind in ("product", "grouped"):
        return _product(kernel, target, exact)
    if kernel.kind == "attention":
        return _attention(kernel, target, exact)
    return _vector(kernel, target)


def _product(kernel: Kernel, target: Target, exact: bool) -> Lowered:
    x, w, y = (*kernel.tasks[0].inputs[:2], kernel.tasks[0].outputs[0])
    shape = product_shape(kernel, target)
    try:
        tiling = pinned(target, shape, dict(kernel.pin), kernel.name) if kernel.pin else choose_tiling(target, shape)
    except InputError as error:
        named = str(error).startswith("operator ")
        raise InputError(str(error) if named else f"operator {kernel.name}: {error}") from None
    b_each = kernel.kind == "grouped" or kernel.tasks[0].dims["b"] > 1
    operands = ProductOperands(x.tensor, w.tensor, y.tensor, b_each)
    if exact:
        return lower_product(target, kernel.name, shape, tiling, operands, exact=True)
    return lowered_product(target, kernel.name, shape, tiling, operands)


def product_shape(kernel: Kernel, target: Target) -> MatmulShape:
    """What a product, or a group of them, multiplies on ``target``."""
    first = kernel.tasks[0]
    x, w, y = first.inputs[0], first.inputs[1], first.outputs[0]
    dims = first.dims
    rows = first.rows if kernel.kind == "grouped" else (dims["m"],) * dims["b"]
    columns = sum(task.dims["n"] for task in kernel.tasks)
    a_bytes, halo = _window(first, x) if "kernel" in first.attrs else (x.element_bytes, 0)
    expand = x.element_bytes / a_bytes if a_bytes else 1.0
    width, stored, sparsity = _weight_width(kernel), w.element_bytes, first.sparsity
    if sparsity:
        stored = sparsity.bits(sparsity.m, round(8 * stored)) / (8 * sparsity.m)
    return MatmulShape(
        rows, columns, dims["k"], first.dtype, a_bytes, width, y.element_bytes,
        convert_a=converted(first, x, target), convert_b=converted(first, w, target),
        block_scaled=width > stored and not isclose(width, stored, rel_tol=ROUNDED), halo=halo, expand=expand,
        sparsity=sparsity,
    )  # fmt: skip


def _window(task: Task, x: Operand) -> tuple[float, int]:
    """Of a convolution: bytes of x that an element of the expanded matrix stands for, and the halo of a tile in rows.

    The input is fetched once and expanded inside the core. A tile of output rows shares ``kernel - stride`` input rows
    with its neighbour, as many pixels as ``(kernel - stride) / stride`` output rows have. Images count as square where
    the trace does not say how wide they are.
    """
    d = task.dims
    elements = d["b"] * d["m"] * d["k"]
    share = x.nbytes / elements if elements else x.element_bytes
    kernel, stride = _first(task, "kernel", 0, 1), _first(task, "strides", 0, 1)
    if share >= x.element_bytes or kernel <= stride:
        return min(share, x.element_bytes), 0
    width = _first(task, "pixels", -1, isqrt(d["m"]))
    return share, min(ceil((kernel - stride) / stride * width), d["m"])


def _first(task: Task, key: str, which: int, default: int) -> int:
    """One of the sizes of an attribute like ``3x3``."""
    size = str(task.attrs.get(key, "")).split("x")[which]
    return int(size) if size.isdecimal() and 0 < len(size) < 10 else default


def converted(task: Task, operand: Operand, target: Target) -> bool:
    """Whether an operand of 8 bits or fewer has to be widened before the matrix unit can multiply it."""
    wide = DTYPE_BITS[target.compute_dtype(task.dtype)] / 8
    return operand.element_bytes <= 1 and operand.element_bytes < wide


def _weight_width(kernel: Kernel) -> float:
    """Bytes of one weight with its share of the quantisation scales."""
    task = kernel.tasks[0]
    weight, d = task.inputs[1], task.dims
    elements = (sum(r > 0 for r in task.rows) if kernel.kind == "grouped" else d["b"]) * d["n"] * d["k"]
    return weight.nbytes / elements if elements else weight.element_bytes


def _attention(kernel: Kernel, target: Target, exact: bool) -> Lowered:
    task, shape = kernel.tasks[0], attention_shape(kernel, target)
    if task.kind == "attention_backward":
        tensors = [operand.tensor for operand in (*task.inputs[:3], *task.inputs[-2:], *task.outputs[:3])]
        return lower_attention_backward(target, kernel.name, shape, tuple(tensors), exact=exact)
    q, k, v = task.inputs[:3]
    return lower_attention(
        target, kernel.name, shape, (q.tensor, k.tensor, v.tensor, task.outputs[0].tensor), exact=exact
    )


def attention_shape(kernel: Kernel, target: Target) -> AttentionShape:
    """What an attention operator computes on ``target``, by the kernel that is pinned, if any."""
    task = kernel.tasks[0]
    q, k = task.inputs[:2]
    d, attrs = task.dims, task.attrs
    window = attrs.get("window")
    return AttentionShape(
        batch=d["batch"], q_len=d["q_len"], kv_len=d["kv_len"], heads=d["heads"], kv_heads=d["kv_heads"],
        d_qk=d["d_qk"], d_v=d["d_v"], causal=bool(attrs.get("causal")), window=None if window is None else int(window),
        kv_shared=bool(attrs.get("kv_shared")), dtype=task.dtype, q_bytes=q.element_bytes, kv_bytes=k.element_bytes,
        out_bytes=task.outputs[0].element_bytes, convert=converted(task, k, target),
        kernel=_known(kernel, target) if kernel.known else ANY_KERNEL,
    )  # fmt: skip


def _known(kernel: Kernel, target: Target) -> AttentionKernel:
    """The kernel that is pinned."""
    d = kernel.tasks[0].dims
    try:
        return known_kernel(kernel.known, target, d["d_qk"], few=d["q_len"] <= DECODE)
    except InputError as error:
        raise InputError(f"operator {kernel.name}: {error}") from None


def _vector(kernel: Kernel, target: Target) -> Lowered:
    work = [vector_work(task) for task in kernel.tasks]
    rows = max(_rows(task) for task in kernel.tasks)
    inputs = [Stream(o.tensor, o.nbytes) for o in kernel.inputs]
    outputs = [Stream(o.tensor, o.nbytes) for o in kernel.outputs]
    return lower_rows(target, kernel.name, rows, inputs, outputs, work)


def _rows(task: Task) -> int:
    d = task.dims
    if task.kind in ("moe_dispatch", "moe_combine"):
        return max(d["tokens"], 1)
    if task.kind in ("elementwise", "kv_append", "rotary", "embedding"):  # no reduction along a row: any cut will do
        return max(-(-d["rows"] * d.get("cols", 1) // 1024), 1)
    return max(d["rows"], 1)


def vector_work(task: Task) -> tuple[int, VectorCost]:
    """Elements of a vector operator and the operations that each costs."""
    d, fn = task.dims, task.attrs.get("fn")
    if task.kind == "moe_combine":
        return d["tokens"] * d["top_k"] * d["cols"], COSTS["add"]
    if task.kind in ("moe_dispatch", "embedding", "kv_append"):
        return 0, COSTS["copy"]
    name = {"rotary": "rotary", "sample": "argmax"}.get(task.kind, str(fn))
    if name not in COSTS:
        raise InputError(f"operator {task.name}: no vector cost is known for the function '{name}'")
    return d["rows"] * d["cols"], COSTS[name]
