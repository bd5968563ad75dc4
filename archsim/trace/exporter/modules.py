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
from archsim.trace.exporter.recorder import Recorder
from archsim.trace.exporter.sparse import indexer_function

__all__ = [
    "NoCache",
    "RecordingCache",
    "attention_function",
    "experts_function",
    "instrument",
    "layer_index",
    "relative",
    "rotary_function",
]

# Modules that write out the tanh form of GELU, under the names of models that use it.
_GELUS = ("NewGELUActivation", "FastGELUActivation")
# The backbone is called `model` or `transformer`, its list of layers `layers` or `h`.
_PREFIX = re.compile(r"^((model|transformer)\b\.?)?((layers|h)\.(?P<layer>\d+)\b\.?)?")


def relative(path: str) -> str:
    """A module path within its layer.

    >>> relative("model.layers.3.self_attn.q_proj"), relative("transformer.h.0.attn"), relative("lm_head")
    ('self_attn.q_proj', 'attn', 'lm_head')
    """
    return _PREFIX.sub("", path)


def layer_index(path: str) -> int | None:
    """The number of the layer that a path goes through, None outside the layers.

    >>> layer_index("model.layers.3.self_attn.q_proj"), layer_index("transformer.ln_f")
    (3, None)
    """
    number = _PREFIX.match(path)["layer"]  # type: ignore[index]  # it matches the empty string too
    return None if number is None else int(number)


def instrument(model: torch.nn.Module, recorder: Recorder, *, own: bool = False) -> None:
    """Wrap the forward of every module of `model` so that `recorder` sees its regions.

    Norms are known by their names; routers, indexers and such are not in a module of the user's `own`.
    """
    for path, module in model.named_modules():
        family = type(module).__name__
        inner: Callable[..., Any] = module.forward
        if family.endswith(("RMSNorm", "LayerNorm")):
            inner = functools.partial(_norm, recorder, module, inner, "rms" if "RMS" in family else "layer")
        elif own:
            pass
        elif family.endswith("Router"):
            inner = functools.partial(_router, recorder, module, inner)
        elif family.endswith("Indexer"):
            inner = indexer_function(recorder, module)
        elif family in _GELUS:
            inner = functools.partial(_gelu, recorder, inner)
        module.forward = functools.partial(_scoped, recorder, relative(path), inner)


def _scoped(recorder: Recorder, scope: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with recorder.within(scope):
        return forward(*args, **kwargs)


def _norm(recorder: Recorder, module: Any, forward: Callable[..., Any], fn: str, x: Any) -> Any:
    with recorder.unrecorded():
        out = forward(x)
    recorder.record("norm", recorder.rows_cols(x), [x, *module.parameters()], [out], dtype="fp32", fn=fn)
    return out


def _gelu(recorder: Recorder, forward: Callable[..., Any], x: Any) -> Any:
    with recorder.unrecorded():
        out = forward(x)
    recorder.record("elementwise", recorder.rows_cols(x), [x], [out], fn="gelu")
    return out


def _router(recorder: Recorder, module: Any, forward: Callable[..., Any], x: Any) -> Any:
    with recorder.unrecorded():
        logits, weights, indices = forward(x)
    experts, width = module.weight.shape
    # The model code multiplies in fp32, but both operands hold bf16 values: a bf16 matrix unit with fp32 accumulation
    # forms the same products, and that is what serving engines run.
    dims = {"b": 1, "m": recorder.tokens, "n": experts, "k": width}
    recorder.record("matmul", dims, [x, *module.parameters()], [logits])
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
            rotated = q.new_empty(q.shape), k.new_empty(k.shape)
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
        # gpt-oss has a learned logit a head that takes part in the softmax, DeepSeek-V3.2 the tokens that were chosen.
        more = [kwargs[name] for name in ("s_aux", "indices") if kwargs.get(name) is not None]
        if kwargs.get("sliding_window"):
            recorder.shrink((key, value), kwargs["sliding_window"])
        selected: dict[str, Any] = {"selected": True} if kwargs.get("indices") is not None else {}
        recorder.record(
            "attention",
            {**dims, "d_qk": d_qk, "d_v": d_v},
            [query, key, value, *more],
            [out],
            "attention",
            causal=bool(module.is_causal),
            window=module.indexer.index_topk if selected else kwargs.get("sliding_window"),
            scale=round(float(kwargs.get("scaling") or d_qk**-0.5), 6),
            kv_shared=recorder.find(key) == recorder.find(value) and recorder.role(key) == "kv_cache",
            **selected,
        )
        return out, None

    return attention


def experts_function(recorder: Recorder) -> Callable[..., Any]:
    """An experts implementation that records dispatch, the two grouped matmuls around SwiGLU, and combine."""

    def experts(module: Any, x: Any, indices: Any, weights: Any) -> Any:
        if not module.has_gate:
            raise InputError(f"the exporter has no rule for {type(module).__name__}: its experts have no gate")
        tokens, cols = x.shape
        top_k = indices.shape[-1]
        count = module.down_proj.shape[0]
        inner = module.down_proj.shape[1 if module.is_transposed else 2]
        up_bias = [module.gate_up_proj_bias] if module.has_bias else []
        down_bias = [module.down_proj_bias] if module.has_bias else []
        rows = tokens * top_k
        with recorder.unrecorded():
            routed, gate_up = x.new_empty(rows, cols), x.new_empty(rows, 2 * inner)
            activated, down, out = x.new_empty(rows, inner), x.new_empty(rows, cols), x.new_empty(tokens, cols)
        moe = {"tokens": tokens, "cols": cols, "top_k": top_k, "experts": count}
        shared = {"experts": count, "rows": rows, "top_k": top_k, "tokens": tokens}
        record = functools.partial(recorder.record, "grouped_matmul", routing="uniform", seed=0)
        recorder.record("moe_dispatch", moe, [x, indices], [routed], "dispatch")
        record(
            {**shared, "n": 2 * inner, "k": cols}, [routed, module.gate_up_proj, *up_bias], [gate_up], "gate_up_proj"
        )
        recorder.record(
            "elementwise", {"rows": rows, "cols": inner}, [gate_up, gate_up], [activated], "silu_mul", fn="silu_mul"
        )
        record({**shared, "n": cols, "k": inner}, [activated, module.down_proj, *down_bias], [down], "down_proj")
        recorder.record("moe_combine", moe, [down, weights], [out], "combine")
        return out

    return experts


class RecordingCache(DynamicCache):  # type: ignore[misc, unused-ignore]
    """A KV cache of `cached` tokens before the step; new tokens are written in place, as serving engines do.

    Multi-head latent attention keeps its latent and its rotated key side by side in one array (`latent`).
    """

    def __init__(self, recorder: Recorder, cached: Any, *, latent: bool) -> None:
        super().__init__()
        self.recorder, self.cached, self.latent = recorder, cached, latent

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        return self.cached

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        d_k, d_v = key_states.shape[-1], value_states.shape[-1]
        # Fused projections leave keys and values in one tensor.
        fused = self.recorder.find(key_states) == self.recorder.find(value_states)
        parts = [key_states] if fused else [key_states, value_states]
        held = self._append(parts, {"kv_cache": d_k + d_v} if self.latent else {"k_cache": d_k, "v_cache": d_v})
        if self.latent:
            return held[0][..., :d_k], held[0][..., d_k:]
        return held[0], held[1]

    def update_indexer(self, key_states: Any, layer_idx: int) -> Any:
        """The keys by which DeepSeek-V3.2 chooses tokens."""
        return self._append([key_states], {"index_cache": key_states.shape[-1]})[0]

    def _append(self, parts: list[Any], widths: dict[str, int]) -> list[Any]:
        batch, heads, new, _ = parts[0].shape
        with self.recorder.unrecorded():
            held = [parts[0].new_empty(batch, heads, self.cached + new, width) for width in widths.values()]
        for cache, name in zip(held, widths, strict=True):
            self.recorder.add_tensor(cache, f"{self.recorder.scope[-1]}.{name}", "kv_cache")
        dims = {"rows": self.recorder.tokens, "cols": heads * sum(widths.values())}
        self.recorder.record("kv_append", dims, parts, held, "kv_append")
        return held


class NoCache(RecordingCache):
    """In training attention reads what was computed, and nothing is kept for later steps."""

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        return key_states, value_states

    def update_indexer(self, key_states: Any, layer_idx: int) -> Any:
        return key_states
