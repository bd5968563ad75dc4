"""FLOPs and operand bytes of every operator kind: the only place where these formulas stand.

Bytes are *unique* bytes: each operand element that the operator needs, once, whatever a schedule later fetches again.
FLOPs count a multiply and an add as two. Vector kinds count what one element costs on a vector unit:

=============  =============================================================================================
kind           FLOPs
=============  =============================================================================================
norm           an element: rms 4 (square, accumulate, scale, weight), layer 7 (mean, centre, bias more),
               softmax 5 (max, subtract, exp, sum, divide)
rotary         3 an element (two products, one sum)
elementwise    add, mul: 1; silu: 4 (exp, add, divide, multiply); silu_mul: 5; gelu (tanh form): 9; copies: 0;
               quantise: 3 (magnitude, maximum, scale), dequantise: 1 (scale); cross_entropy: 5 (softmax)
router         an element: sigmoid 5 (exp, add, divide, bias, compare), softmax 6 (and max, subtract, exp, sum)
moe_combine    2 a routed element (weight, accumulate)
sample         1 compare an element
embedding, kv_append, moe_dispatch: 0 (data movement)
=============  =============================================================================================

Matrix kinds: ``matmul 2 b m n k``, ``grouped_matmul 2 rows n k``, ``attention 2 batch heads pairs (d_qk + d_v)``; the
softmax of attention is not counted, as is usual in the literature.

A product whose weights are pruned (attribute ``sparsity``) counts what is multiplied: ``k`` less the zeros.

Backward, where it is no operator that the forward pass has too: ``attention_backward 2 batch heads pairs (3 d_qk + 2
d_v)`` (the scores again, then the gradients of scores, values, queries and keys: FlashAttention-2, arXiv:2307.08691,
section 3.1), ``grouped_matmul_wgrad 2 rows n k`` (the gradient of the experts' weights). An element of ``X_backward``:
rms 11, layer 14, softmax 4 (each with the sum over its row and the gradient of its weight), silu 7, silu_mul 10,
gelu 18, mul 2, router 6 (sigmoid, softmax), cross_entropy 7; sum_rows, scatter_add and amax 1, dot 2, quantise_twice
4. ``adamw`` 15: moments 7, their correction 2, root and sum 2, division 1, weight decay 1, step 2 (Loshchilov and
Hutter, arXiv:1711.05101).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from archsim.sparsity import Sparsity
from archsim.trace.graph import Attr, Tensor
from archsim.trace.moe import expert_counts

__all__ = ["KIND_DIMS", "attention_keys", "attention_pairs", "flops", "operand_bytes", "sparsity_of"]

KIND_DIMS: dict[str, tuple[str, ...]] = {
    "matmul": ("b", "m", "n", "k"),
    "attention": ("batch", "q_len", "kv_len", "heads", "kv_heads", "d_qk", "d_v"),
    "grouped_matmul": ("experts", "rows", "n", "k", "top_k", "tokens"),
    "norm": ("rows", "cols"),
    "rotary": ("rows", "cols"),
    "elementwise": ("rows", "cols"),
    "router": ("rows", "cols"),
    "moe_dispatch": ("tokens", "cols", "top_k", "experts"),
    "moe_combine": ("tokens", "cols", "top_k", "experts"),
    "attention_backward": ("batch", "q_len", "kv_len", "heads", "kv_heads", "d_qk", "d_v"),
    "grouped_matmul_wgrad": ("experts", "rows", "n", "k", "top_k", "tokens"),
    "embedding": ("rows", "cols"),
    "kv_append": ("rows", "cols"),
    "sample": ("rows", "cols"),
}

_NORM_FLOPS = {"rms": 4, "layer": 7, "softmax": 5, "rms_backward": 11, "layer_backward": 14, "softmax_backward": 4}
_ROUTER_FLOPS = {"sigmoid": 5, "softmax": 6, "sigmoid_backward": 6, "softmax_backward": 6}
_ELEMENTWISE_FLOPS = {
    "add": 1, "mul": 1, "silu": 4, "silu_mul": 5, "gelu": 9, "cast": 0, "copy": 0, "concat": 0, "quantise": 3,
    "quantise_twice": 4, "amax": 1,
    "dequantise": 1, "cross_entropy": 5, "cross_entropy_backward": 7, "mul_backward": 2, "silu_backward": 7,
    "silu_mul_backward": 10, "gelu_backward": 18, "concat_backward": 0, "sum_rows": 1, "scatter_add": 1, "dot": 2,
    "adamw": 15,
}  # fmt: skip


def attention_pairs(q_len: int, kv_len: int, causal: bool, window: int | None = None) -> int:
    """Query-key pairs of one head of one sequence that the mask lets through.

    The last query sees all `kv_len` keys; with a `window` a query sees at most its last `window` keys, itself included.

    >>> attention_pairs(3, 5, causal=True)  # 3 + 4 + 5
    12
    >>> attention_pairs(3, 5, causal=True, window=4)  # 3 + 4 + 4
    11
    """
    if not causal:
        return q_len * kv_len
    full = q_len * (kv_len - q_len) + q_len * (q_len + 1) // 2
    if window is None:
        return full
    beyond = max(kv_len - window, 0)  # the last query loses this many keys, the one before one fewer, ...
    last = min(beyond, q_len)
    return full - (last * beyond - last * (last - 1) // 2)


def flops(kind: str, dims: Mapping[str, int], attrs: Mapping[str, Attr]) -> int:
    """FLOPs of one operator.

    >>> flops("matmul", {"b": 1, "m": 2, "n": 3, "k": 4}, {})
    48
    """
    d, fn = dims, str(attrs.get("fn"))
    if kind in ("matmul", "grouped_matmul"):
        pattern = sparsity_of(attrs)
        rows = d["b"] * d["m"] if kind == "matmul" else d["rows"]
        return 2 * rows * d["n"] * (pattern.kept(d["k"]) if pattern else d["k"])
    if kind == "attention":
        return 2 * d["batch"] * d["heads"] * _pairs(dims, attrs) * (d["d_qk"] + d["d_v"])
    if kind == "attention_backward":
        return 2 * d["batch"] * d["heads"] * _pairs(dims, attrs) * (3 * d["d_qk"] + 2 * d["d_v"])
    if kind == "grouped_matmul_wgrad":
        return 2 * d["rows"] * d["n"] * d["k"]
    if kind == "moe_combine":
        return 2 * d["tokens"] * d["top_k"] * d["cols"]
    if kind in ("moe_dispatch", "embedding", "kv_append"):
        return 0
    each = {"norm": _NORM_FLOPS, "router": _ROUTER_FLOPS, "elementwise": _ELEMENTWISE_FLOPS}.get(kind, {}).get(fn)
    return d["rows"] * d["cols"] * (each if each is not None else {"rotary": 3, "sample": 1}[kind])


def sparsity_of(attrs: Mapping[str, Attr]) -> Sparsity | None:
    """The pattern of the weights of a product; None where they are dense."""
    pattern = attrs.get("sparsity")
    return None if pattern is None else Sparsity.of(str(pattern))


def operand_bytes(
    kind: str, dims: Mapping[str, int], attrs: Mapping[str, Attr], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Unique bytes of each input read and of each output written, in operand order.

    No operand gives more than all it holds: a convolution multiplies an element of x up to k times (its k is input
    channels x window), a broadcast operand serves many rows; both are read once.

    >>> x, w, y = (Tensor("", s, "bf16", "activation") for s in [(2, 4), (3, 4), (2, 3)])
    >>> operand_bytes("matmul", {"b": 1, "m": 2, "n": 3, "k": 4}, {}, [x, w], [y])
    ((16, 24), (12,))
    """
    read, written = _elements(kind, dims, attrs, inputs, outputs)
    return (
        tuple(tensor.bytes_of(min(n, tensor.numel)) for tensor, n in zip(inputs, read, strict=True)),
        tuple(tensor.bytes_of(min(n, tensor.numel)) for tensor, n in zip(outputs, written, strict=True)),
    )


def _elements(
    kind: str, dims: Mapping[str, int], attrs: Mapping[str, Attr], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> tuple[list[int], list[int]]:
    """Unique elements of each operand; what a kind has no rule for below is rows x cols."""
    d = dims
    if kind == "matmul":
        bias = [d["b"] * d["n"]] * (len(inputs) - 2)
        return [d["b"] * d["m"] * d["k"], d["b"] * d["k"] * d["n"], *bias], [d["b"] * d["m"] * d["n"]]
    if kind == "attention":
        keys = d["batch"] * d["kv_heads"] * attention_keys(dims, attrs)
        values = 0 if attrs.get("kv_shared") else keys * d["d_v"]
        queries = d["batch"] * d["heads"] * d["q_len"]
        more = [tensor.numel for tensor in inputs[3:]]  # sinks, indices of selected keys
        return [queries * d["d_qk"], keys * d["d_qk"], values, *more], [queries * d["d_v"]]
    if kind == "attention_backward":  # q, k, v, the output and its gradient; gradients of q, k, v (and of sinks)
        (queries, keys, values, *more), (out,) = _elements("attention", dims, attrs, inputs, outputs)
        extra = [tensor.numel for tensor in outputs[3:]]
        return [queries, keys, values, *more[:-2], out, out], [queries, keys, values, *extra][: len(outputs)]
    if kind == "grouped_matmul_wgrad":  # rows of x and of the gradient; the gradient of the active experts' weights
        active = _active_experts(dims, attrs)
        return [d["rows"] * d["k"], d["rows"] * d["n"]], [active * d["n"] * d["k"]]
    if kind == "grouped_matmul":
        active = _active_experts(dims, attrs)
        bias = [active * d["n"]] * (len(inputs) - 2)
        return [d["rows"] * d["k"], active * d["n"] * d["k"], *bias], [d["rows"] * d["n"]]
    if kind in ("moe_dispatch", "moe_combine"):
        tokens, routed = d["tokens"] * d["cols"], d["tokens"] * d["top_k"] * d["cols"]
        choices = d["tokens"] * d["top_k"]  # the indices, or the weights, of the chosen experts
        return ([tokens, choices], [routed]) if kind == "moe_dispatch" else ([routed, choices], [tokens])
    whole = d["rows"] * d["cols"]
    if kind == "norm" and not str(attrs.get("fn")).endswith("_backward"):
        return [whole] + [d["cols"]] * (len(inputs) - 1), [whole]
    if kind == "router" and not str(attrs.get("fn")).endswith("_backward"):
        return [whole], [d["rows"] * int(attrs["top_k"] or 0)] * 2  # weights and indices
    if kind == "sample":
        return [whole], [d["rows"] * int(attrs.get("top_k") or 1)]
    if kind == "kv_append":
        held = sum(cache.numel for cache in outputs) or 1
        return [min(tensor.numel, whole) for tensor in inputs], [whole * cache.numel // held for cache in outputs]
    if attrs.get("fn") == "concat_backward":
        return [whole], [d["rows"] * d[f"cols_{i}"] for i in range(len(outputs))]
    if attrs.get("fn") == "concat":  # parts of different width; one may be repeated over the heads, and is read once
        return [d["rows"] * d[f"cols_{i}"] for i in range(len(inputs))], [whole]
    return [whole] * len(inputs), [whole] * len(outputs)


def _active_experts(dims: Mapping[str, int], attrs: Mapping[str, Attr]) -> int:
    """Experts that receive any row."""
    routing, seed = str(attrs["routing"]), int(attrs["seed"] or 0)
    always = int(attrs.get("always") or 0)
    counts = expert_counts(dims["tokens"], dims["experts"], dims["top_k"], routing, seed, always)
    return int((counts > 0).sum())


def _pairs(dims: Mapping[str, int], attrs: Mapping[str, Attr]) -> int:
    return attention_pairs(dims["q_len"], dims["kv_len"], bool(attrs.get("causal")), _window(attrs))


def attention_keys(dims: Mapping[str, int], attrs: Mapping[str, Attr]) -> int:
    """Keys of one sequence that any query sees."""
    window = _window(attrs)
    return dims["kv_len"] if window is None else min(dims["kv_len"], window + dims["q_len"] - 1)


def _window(attrs: Mapping[str, Attr]) -> int | None:
    window = attrs.get("window")
    return None if window is None else int(window)
