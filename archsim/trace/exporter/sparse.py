"""DeepSeek sparse attention (DeepSeek-V3.2-Exp): an indexer chooses the tokens that attention then reads.

The indexer scores every cached token by ``sum_h w_h relu(q_h . k)`` over its own small heads, with one key a token in
a cache of its own, and keeps the `index_topk` best. Hugging Face's code multiplies the scores of all heads out and
attends under a mask; serving engines run one kernel for the scores, one for the choice, and gather what was chosen:

* the scores are an `attention` operator with one value column: 2 FLOPs for each of the head's columns and one more
  for the weighted sum over heads, over causal pairs, the keys read once;
* the choice is a `sample` operator with `top_k`;
* attention has the attribute `selected` and a `window` of as many keys: each query sees that many or, before there
  are that many, all of its past, just as a sliding window. Which tokens they are does not change what is counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from archsim.trace.exporter.recorder import Recorder

__all__ = ["indexer_function"]


def indexer_function(recorder: Recorder, module: Any) -> Callable[..., Any]:
    """The forward of an indexer of the DeepSeek-V3.2 kind, recorded as serving engines run it."""
    modeling = sys.modules[type(module).__module__]
    parts = [module.head_dim - module.qk_rope_head_dim, module.qk_rope_head_dim]

    def indexer(x: Any, latent: Any, angles: Any, mask: Any, positions: Any = None, past_key_values: Any = None) -> Any:
        batch, seq = x.shape[:2]
        queries = module.wq_b(latent).view(batch, seq, module.n_heads, module.head_dim)
        keys = module.k_norm(module.wk(x)).unsqueeze(2)
        (q_pass, q_rot), (k_pass, k_rot) = torch.split(queries, parts, dim=-1), torch.split(keys, parts, dim=-1)
        q_rot, k_rot = modeling.apply_rotary_pos_emb(q_rot, k_rot, *angles, unsqueeze_dim=2)
        queries, keys = torch.cat((q_pass, q_rot), dim=-1), torch.cat((k_pass, k_rot), dim=-1)
        keys = past_key_values.update_indexer(keys.transpose(1, 2), module.layer_idx)
        weights = module.weights_proj(x)
        cached = keys.shape[2]
        with recorder.unrecorded():
            scores = x.new_empty(batch, seq, cached, dtype=torch.float32)
            chosen = x.new_empty(batch, seq, module.index_topk, dtype=torch.int32)
        dims = {"batch": batch, "q_len": seq, "kv_len": cached, "heads": module.n_heads, "kv_heads": 1}
        dims = {**dims, "d_qk": module.head_dim, "d_v": 1}
        operands = [queries, keys, weights]
        recorder.record("attention", dims, operands, [scores], "scores", causal=True, window=None, kv_shared=True)
        choice = {"rows": recorder.tokens, "cols": cached}
        recorder.record("sample", choice, [scores], [chosen], "top_k", top_k=module.index_topk)
        return chosen

    return indexer
