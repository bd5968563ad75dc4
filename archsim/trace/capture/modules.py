"""Which operators each module of the model becomes: the regions that a kernel library runs as one.

Every module's forward is wrapped in place (the model is thrown away afterwards): most only add their name to the scope,
norms and routers become operators of their own. Attention, experts and the KV cache go through Hugging Face's own
extension points.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from archsim.errors import InputError
from archsim.trace.capture.recorder import Recorder, numel

__all__ = ["RecordingCache", "attention_function", "experts_function", "instrument", "relative", "rotary_function"]


def relative(path: str) -> str:
    """A module path within its block.

    >>> relative("model.layers.3.self_attn.q_proj"), relative("model.norm"), relative("lm_head")
    ('self_attn.q_proj', 'norm', 'lm_head')
    """
    return re.sub(r"^(model\b\.?)?(layers\.\d+\b\.?)?", "", path)


def instrument(model: torch.nn.Module, recorder: Recorder) -> None:
    """Wrap the forward of every module of `model` so that `recorder` sees its regions."""
    for path, module in model.named_modules():
        family = type(module).__name__
        inner: Callable[..., Any] = module.forward
        if family.endswith(("RMSNorm", "LayerNorm")):
            inner = functools.partial(_norm, recorder, module, inner, "rms" if "RMS" in family else "layer")
        elif family.endswith("Router"):
            inner = functools.partial(_router, recorder, module, inner)
        module.forward = functools.partial(_scoped, recorder, relative(path), inner)


def _scoped(recorder: Recorder, scope: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with recorder.within(scope):
        return forward(*args, **kwargs)


def _norm(recorder: Recorder, module: Any, forward: Callable[..., Any], fn: str, x: Any) -> Any:
    with recorder.unrecorded():
        out = forward(x)
    recorder.record("norm", recorder.rows_cols(x), [x, *module.parameters()], [out], dtype="fp32", fn=fn)
    return out


def _router(recorder: Recorder, module: Any, forward: Callable[..., Any], x: Any) -> Any:
    with recorder.unrecorded():
        logits, weights, indices = forward(x)
    experts, width = module.weight.shape
    # The model code multiplies in fp32, but both operands hold bf16 values: a bf16 matrix unit with fp32 accumulation
    # forms the same products, and that is what serving engines run.
    recorder.record("matmul", {"b": 1, "m": recorder.tokens, "n": experts, "k": width}, [x, module.weight], [logits])
    # Softmax routers say so nowhere in their interface; DeepSeek's keeps a bias for the choice and scores by sigmoid.
    fn = "sigmoid" if hasattr(module, "e_score_correction_bias") else "softmax"
    choice = {"rows": recorder.tokens, "cols": experts}
    recorder.record("router", choice, [logits], [weights, indices], "top_k", top_k=module.top_k, fn=fn)
    return logits, weights, indices


def rotary_function(recorder: Recorder, function: Callable[..., Any], width: int) -> Callable[..., Any]:
    """`function` (a model's apply_rotary_pos_emb) recorded as one operator for the queries and one for the keys.

    `width` columns of each head are rotated at most: with partial rotary embedding the others pass.
    """

    @functools.wraps(function)
    def rotary(q: Any, k: Any, *args: Any, **kwargs: Any) -> Any:
        with recorder.unrecorded():
            rotated = function(q, k, *args, **kwargs)
        for part, before, after in zip("qk", (q, k), rotated, strict=True):
            dims = recorder.rows_cols(after)
            dims["cols"] = dims["cols"] * min(width, after.shape[-1]) / after.shape[-1]
            recorder.record("rotary", dims, [before], [after], f"rotary_{part}", part=part)
        return rotated

    return rotary


def attention_function(recorder: Recorder) -> Callable[..., Any]:
    """An attention implementation for Hugging Face models that records one operator and computes nothing."""

    def attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
        batch, heads, q_len, d_qk = query.shape
        kv_heads, kv_len, d_v = value.shape[1:]
        with recorder.unrecorded():
            out = query.new_empty(batch, q_len, heads, d_v)
        dims = {"batch": batch, "q_len": q_len, "kv_len": kv_len, "heads": heads, "kv_heads": kv_heads}
        recorder.record(
            "attention",
            {**dims, "d_qk": d_qk, "d_v": d_v},
            [query, key, value],
            [out],
            "attention",
            causal=bool(module.is_causal),
            window=kwargs.get("sliding_window"),
            kv_shared=recorder.find(key) == recorder.find(value),
        )
        return out, None

    return attention


def experts_function(recorder: Recorder) -> Callable[..., Any]:
    """An experts implementation that records dispatch, the two grouped matmuls around SwiGLU, and combine."""

    def experts(module: Any, x: Any, indices: Any, weights: Any) -> Any:
        if module.has_bias or module.is_transposed or not module.has_gate:
            raise InputError(f"the exporter has no rule for {type(module).__name__} (biased, transposed or ungated)")
        tokens, cols = x.shape
        top_k = indices.shape[-1]
        count, _, inner = module.down_proj.shape
        rows = tokens * top_k
        with recorder.unrecorded():
            routed, gate_up = x.new_empty(rows, cols), x.new_empty(rows, 2 * inner)
            activated, down, out = x.new_empty(rows, inner), x.new_empty(rows, cols), x.new_empty(tokens, cols)
        moe = {"tokens": tokens, "cols": cols, "top_k": top_k, "experts": count}
        shared = {"experts": count, "rows": rows, "top_k": top_k, "tokens": tokens}
        record = functools.partial(recorder.record, "grouped_matmul", routing="uniform", seed=0)
        recorder.record("moe_dispatch", moe, [x, indices], [routed], "dispatch")
        record({**shared, "n": 2 * inner, "k": cols}, [routed, module.gate_up_proj], [gate_up], "gate_up_proj")
        recorder.record(
            "elementwise", {"rows": rows, "cols": inner}, [gate_up, gate_up], [activated], "silu_mul", fn="silu_mul"
        )
        record({**shared, "n": cols, "k": inner}, [activated, module.down_proj], [down], "down_proj")
        recorder.record("moe_combine", moe, [down, weights], [out], "combine")
        return out

    return experts


class RecordingCache(DynamicCache):  # type: ignore[misc, unused-ignore]
    """A KV cache of `cached` tokens before the step; new tokens are written in place, as serving engines do.

    Multi-head latent attention keeps its latent and its rotated key side by side in one array.
    """

    def __init__(self, recorder: Recorder, cached: Any, latent: bool) -> None:
        super().__init__()
        self.recorder, self.cached, self.latent = recorder, cached, latent

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        return self.cached

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        batch, heads, new, d_k = key_states.shape
        d_v = value_states.shape[-1]
        widths = {"kv_cache": d_k + d_v} if self.latent else {"k_cache": d_k, "v_cache": d_v}
        with self.recorder.unrecorded():
            held = [key_states.new_empty(batch, heads, self.cached + new, width) for width in widths.values()]
        for cache, name in zip(held, widths, strict=True):
            self.recorder.add_tensor(cache, f"{self.recorder.scope[-1]}.{name}", "kv_cache")
        cols = (numel(key_states) + numel(value_states)) / self.recorder.tokens
        dims = {"rows": self.recorder.tokens, "cols": cols}
        self.recorder.record("kv_append", dims, [key_states, value_states], held, "kv_append")
        if isinstance(self.cached, int) and self.cached == 0:
            return key_states, value_states  # attention in prefill reads the fresh tensors
        if self.latent:
            return held[0][..., :d_k], held[0][..., d_k:]
        return held[0], held[1]
