"""Prefill and decode on chips of their own, with the KV cache sent from the one to the other."""

from __future__ import annotations

from dataclasses import dataclass

from archsim.errors import InputError
from archsim.hardware import load_chip, load_system
from archsim.serving.deployment import Deployment
from archsim.serving.load import Operating, Request, decode_pool, prefill_rate

__all__ = ["Pools", "pools"]


@dataclass(frozen=True)
class Pools:
    """Two pools in balance. prefill_share: prefill systems for each decode system. transfer_s: of a request's cache."""

    decode: Operating
    prefill_per_s: float
    prefill_share: float
    kv_bytes: int
    transfer_s: float
    ttft_s: float

    @property
    def output_per_chip(self) -> float:
        """Output tokens a second for each chip of both pools."""
        return self.decode.output_per_s / (self.decode.chips + self.prefill_share * self.prefill_chips)

    prefill_chips: int = 1


def pools(
    prefill: Deployment, decode: Deployment, request: Request, prompts: int, batch: int, link_bytes_per_s: float | None
) -> Pools:
    """Prefill of ``prompts`` prompts at a time, decode of ``batch`` sequences, a link between them.

    A request's cache leaves by the links of the chips that computed it (one data-parallel group), by default their
    scale-out link; it is sent after the prefill (layer by layer would hide most of it: an upper bound).
    """
    chip = load_chip(prefill.chip)
    where = load_system(prefill.system) if isinstance(prefill.system, str) else prefill.system
    link = chip.scale_out or chip.scale_up
    if link_bytes_per_s is None:
        if link is None:
            raise InputError(f"--kv-link: {chip.name} has no link; say how fast the cache travels")
        link_bytes_per_s = link.bandwidth * link.best_efficiency
    tp = int(prefill.options.get("tp") or (where.chips if where else 1))
    tp *= int(prefill.options.get("cp", 1)) * int(prefill.options.get("pp", 1))
    nbytes = decode.kv_bytes(request.input_tokens)
    transfer = nbytes / (link_bytes_per_s * tp)
    rate = prefill_rate(prefill, request, prompts)
    state = decode_pool(decode, request, batch)
    first = prompts * request.input_tokens / rate + transfer + state.tpot_s
    return Pools(state, rate, state.input_per_s / rate, nbytes, transfer, first, prefill.chips)
