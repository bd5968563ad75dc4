"""Multi-head latent attention in the absorbed form that serving engines run in decode, and always if it is sparse.

Hugging Face caches the compressed latents but expands the whole cache to per-head keys and values in every step.
Serving engines move the two halves of ``kv_b_proj`` to the other side of the products instead (DeepSeek-V2,
arXiv:2405.04434, section 2.1.2): with the per-head weights W_k (nope x rank) and W_v (v x rank) and a cached latent c,

    q . (W_k c) = (W_k^T q) . c          sum_j p_j (W_v c_j) = W_v (sum_j p_j c_j)

so that attention runs on the latents themselves: one key head of rank + rope columns, of which the first `rank` are
also the values. The result is the same; a test holds it against the model's own attention.
"""

from __future__ import annotations

import sys
from types import MethodType
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from archsim.errors import InputError

__all__ = ["absorb"]


class _HeadMatmul(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """One matrix per head: (batch, heads, seq, k) x (heads, k, n) as a batched matmul over heads."""

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        batch, heads, seq, width = x.shape
        rows = x.transpose(0, 1).reshape(heads, batch * seq, width)
        return torch.matmul(rows, weight).view(heads, batch, seq, -1).transpose(0, 1)


def absorb(attention: torch.nn.Module) -> None:
    """Make an attention module of the DeepSeek-V2 or V3 kind run in the absorbed form."""
    if _rotation(attention) is None:
        raise InputError(f"the exporter has no absorbed form for {type(attention).__name__}")
    attention.q_absorb = _HeadMatmul()
    attention.v_absorb = _HeadMatmul()
    attention.forward = MethodType(_forward, attention)


def _rotation(attention: Any) -> str | None:
    """The name of the rotary function that the model code uses: by complex numbers in V2, else by the configuration."""
    modeling = sys.modules[type(attention).__module__]
    if hasattr(modeling, "apply_rotary_emb"):
        return "apply_rotary_emb"
    if not hasattr(modeling, "apply_rotary_pos_emb_interleave"):
        return None
    return f"apply_rotary_pos_emb{'_interleave' if getattr(attention.config, 'rope_interleave', True) else ''}"


def _forward(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: Any = None,
    attention_mask: torch.Tensor | None = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    batch, seq = hidden_states.shape[:-1]
    modeling = sys.modules[type(self).__module__]

    if self.q_lora_rank is None:
        queries = self.q_proj(hidden_states)
    else:
        q_latent = self.q_a_layernorm(self.q_a_proj(hidden_states))
        queries = self.q_b_proj(q_latent)
    queries = queries.view(batch, seq, -1, self.qk_head_dim).transpose(1, 2)
    q_nope, q_rot = torch.split(queries, [self.qk_nope_head_dim, self.qk_rope_head_dim], dim=-1)

    compressed = self.kv_a_proj_with_mqa(hidden_states)
    latent, k_rot = torch.split(compressed, [self.kv_lora_rank, self.qk_rope_head_dim], dim=-1)
    latent = self.kv_a_layernorm(latent).view(batch, 1, seq, self.kv_lora_rank)
    k_rot = k_rot.view(batch, 1, seq, self.qk_rope_head_dim)

    angles = position_embeddings if isinstance(position_embeddings, tuple) else (position_embeddings,)
    q_rot, k_rot = getattr(modeling, str(_rotation(self)))(q_rot, k_rot, *angles)
    if past_key_values is not None:
        latent, k_rot = past_key_values.update(latent, k_rot, self.layer_idx)

    if hasattr(self, "indexer"):  # the caller's attention attends to the tokens that it chooses
        mask = None if attention_mask is None else attention_mask[:, 0]
        kwargs["indices"] = self.indexer(
            hidden_states, q_latent, position_embeddings, mask, None, past_key_values=past_key_values
        )

    per_head = self.kv_b_proj.weight.view(self.num_heads, -1, self.kv_lora_rank)
    w_k, w_v = torch.split(per_head, [self.qk_nope_head_dim, self.v_head_dim], dim=1)

    query = torch.cat((self.q_absorb(q_nope, w_k), q_rot), dim=-1)
    key = torch.cat((latent, k_rot), dim=-1)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, modeling.eager_attention_forward)
    mixed, weights = attend(self, query, key, latent, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs)
    values = self.v_absorb(mixed.transpose(1, 2), w_v.transpose(1, 2)).transpose(1, 2)
    return self.o_proj(values.reshape(batch, seq, -1)), weights
