"""Does every operator kind cost what a hand count says?"""

from __future__ import annotations

import pytest

from archsim.trace.costs import attention_pairs, flops, operand_bytes
from archsim.trace.graph import Tensor, scale_bytes
from archsim.trace.moe import expert_counts


def tensor(*shape: int, dtype: str = "bf16", role: str = "activation", block: tuple[int, int] | None = None) -> Tensor:
    return Tensor("t", shape, dtype, role, block)


def test_linear_layer_with_bias() -> None:
    dims = {"b": 1, "m": 5, "n": 3, "k": 4}
    assert flops("matmul", dims, {}) == 2 * 5 * 3 * 4
    operands = [tensor(5, 4), tensor(3, 4), tensor(3)]
    assert operand_bytes("matmul", dims, {}, operands, [tensor(5, 3)]) == ((40, 24, 6), (30,))


def test_absorbed_matmul_reads_its_half_of_the_weight() -> None:
    dims = {"b": 2, "m": 5, "n": 8, "k": 4}  # 2 heads; the weight also holds 4 rows a head for the values
    weight = tensor(2 * (4 + 4), 8)
    read, _ = operand_bytes("matmul", dims, {}, [tensor(5, 2, 4), weight], [tensor(2, 5, 8)])
    assert read == (5 * 2 * 4 * 2, 2 * 4 * 8 * 2)


@pytest.mark.parametrize("window", [None, 1, 3, 5, 9])
@pytest.mark.parametrize(("q_len", "kv_len"), [(1, 1), (1, 7), (4, 4), (3, 7), (7, 7)])
def test_attention_pairs_by_counting(q_len: int, kv_len: int, window: int | None) -> None:
    visible = 0
    for query in range(kv_len - q_len, kv_len):
        visible += sum(1 for key in range(kv_len) if key <= query and (window is None or query - key < window))
    assert attention_pairs(q_len, kv_len, causal=True, window=window) == visible


def test_grouped_query_attention() -> None:
    dims = {"batch": 2, "q_len": 1, "kv_len": 10, "heads": 8, "kv_heads": 2, "d_qk": 4, "d_v": 4}
    attrs = {"causal": True, "window": None, "kv_shared": False}
    assert flops("attention", dims, attrs) == 2 * 2 * 8 * 10 * (4 + 4)
    cache = tensor(2, 2, 10, 4)
    read, written = operand_bytes("attention", dims, attrs, [tensor(2, 8, 1, 4), cache, cache], [tensor(2, 1, 8, 4)])
    assert read == (2 * 8 * 4 * 2, 2 * 2 * 10 * 4 * 2, 2 * 2 * 10 * 4 * 2)
    assert written == (2 * 8 * 4 * 2,)


def test_latent_attention_reads_its_cache_once() -> None:
    dims = {"batch": 1, "q_len": 1, "kv_len": 10, "heads": 8, "kv_heads": 1, "d_qk": 6, "d_v": 4}
    attrs = {"causal": True, "window": None, "kv_shared": True}
    cache = tensor(1, 1, 10, 6)
    read, _ = operand_bytes("attention", dims, attrs, [tensor(1, 8, 1, 6), cache, cache], [tensor(1, 1, 8, 4)])
    assert read == (8 * 6 * 2, 10 * 6 * 2, 0)


def test_a_window_bounds_the_keys_read() -> None:
    dims = {"batch": 1, "q_len": 1, "kv_len": 100, "heads": 1, "kv_heads": 1, "d_qk": 4, "d_v": 4}
    attrs = {"causal": True, "window": 16, "kv_shared": False}
    cache = tensor(1, 1, 100, 4)
    read, _ = operand_bytes("attention", dims, attrs, [tensor(1, 1, 1, 4), cache, cache], [tensor(1, 1, 1, 4)])
    assert read[1:] == (16 * 4 * 2, 16 * 4 * 2)


def test_grouped_matmul_reads_only_the_active_experts() -> None:
    dims = {"experts": 8, "rows": 2, "n": 3, "k": 4, "top_k": 2, "tokens": 1}
    attrs = {"routing": "uniform", "seed": 0}
    assert flops("grouped_matmul", dims, attrs) == 2 * 2 * 3 * 4
    read, written = operand_bytes("grouped_matmul", dims, attrs, [tensor(2, 4), tensor(8, 3, 4)], [tensor(2, 3)])
    active = int((expert_counts(1, 8, 2) > 0).sum())
    assert active == 2
    assert read == (2 * 4 * 2, active * 3 * 4 * 2)
    assert written == (2 * 3 * 2,)


def test_moe_dispatch_and_combine() -> None:
    dims = {"tokens": 3, "cols": 4, "top_k": 2, "experts": 8}
    choice, routed = tensor(3, 2, dtype="int32"), tensor(6, 4)
    assert operand_bytes("moe_dispatch", dims, {}, [tensor(3, 4), choice], [routed]) == ((24, 24), (48,))
    assert operand_bytes("moe_combine", dims, {}, [routed, choice], [tensor(3, 4)]) == ((48, 24), (24,))
    assert flops("moe_combine", dims, {}) == 2 * 3 * 2 * 4


@pytest.mark.parametrize(
    ("kind", "attrs", "each"),
    [
        ("norm", {"fn": "rms"}, 4),
        ("norm", {"fn": "layer"}, 7),
        ("rotary", {}, 3),
        ("elementwise", {"fn": "add"}, 1),
        ("elementwise", {"fn": "silu_mul"}, 5),
        ("elementwise", {"fn": "concat"}, 0),
        ("router", {"fn": "sigmoid"}, 5),
        ("router", {"fn": "softmax"}, 6),
        ("sample", {}, 1),
        ("embedding", {}, 0),
        ("kv_append", {}, 0),
    ],
)
def test_vector_kinds(kind: str, attrs: dict[str, str], each: int) -> None:
    assert flops(kind, {"rows": 6, "cols": 7}, attrs) == each * 42


def test_vector_operands() -> None:
    dims = {"rows": 3, "cols": 4}
    x = tensor(3, 4)
    assert operand_bytes("norm", dims, {}, [x, tensor(4)], [x]) == ((24, 8), (24,))
    assert operand_bytes("elementwise", dims, {"fn": "add"}, [x, x], [x]) == ((24, 24), (24,))
    assert operand_bytes("embedding", dims, {}, [tensor(1000, 4)], [x]) == ((24,), (24,))  # rows, not the table
    assert operand_bytes("sample", dims, {}, [x], [tensor(3, dtype="int32")]) == ((24,), (12,))
    weights, indices = tensor(3, 2, dtype="fp32"), tensor(3, 2, dtype="int32")
    logits = tensor(3, 4, dtype="fp32")
    assert operand_bytes("router", dims, {"top_k": 2}, [logits], [weights, indices]) == ((48,), (24, 24))
    caches = [tensor(1, 100, 3, role="kv_cache"), tensor(1, 100, 1, role="kv_cache")]
    assert operand_bytes("kv_append", dims, {}, [tensor(3, 3), tensor(3, 1)], caches) == ((18, 6), (18, 6))
    parts = {**dims, "cols_0": 3, "cols_1": 1}
    assert operand_bytes("elementwise", parts, {"fn": "concat"}, [tensor(3, 3), tensor(3, 1)], [x]) == ((18, 6), (24,))


def test_tensor_bytes() -> None:
    assert tensor(3, 5, dtype="fp4").nbytes == 8  # 7.5 rounded up
    assert tensor(256, 300, dtype="fp8", block=(128, 128)).nbytes == 256 * 300 + 4 * 2 * 3
    assert scale_bytes((8, 256, 128), (128, 128)) == 4 * 8 * 2
    assert scale_bytes((10, 7), (1, 7)) == 40
    assert tensor(0, 5).bytes_of(3) == 0
