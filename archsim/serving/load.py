"""Steady states of a server: a fixed batch, the most load, the most sequences under a limit, two pools.

Nothing here happens over time: requests are all alike and always waiting, so an iteration in the middle stands for all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from archsim.errors import InputError
from archsim.serving.deployment import Deployment

__all__ = [
    "Operating", "Request", "at_batch", "curve", "decode_pool", "first_token_s", "fixed_batch", "largest_batch",
    "most_load", "prefill_rate", "prompt_s",
]  # fmt: skip

#: share of a batch within which the largest is found
PRECISION = 0.005


@dataclass(frozen=True)
class Request:
    """What every request asks for. prefix_hit: share of its prompt whose KV cache is there already."""

    input_tokens: int
    output_tokens: int
    prefix_hit: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("--input", self.input_tokens), ("--output", self.output_tokens)):
            if value < 1:
                raise InputError(f"{name} {value}: must be at least 1 token")
        if not 0 <= self.prefix_hit < 1:
            raise InputError(f"--prefix-hit {self.prefix_hit:g}: must be a share from 0 to below 1")

    @property
    def known(self) -> int:
        """Prompt tokens that are in the cache."""
        return int(self.input_tokens * self.prefix_hit)

    @property
    def computed(self) -> int:
        return self.input_tokens - self.known


@dataclass(frozen=True)
class Operating:
    """A steady state of a whole system. batch: sequences in decode. tpot_s, ttft_s: seconds per output token of one
    sequence and until its first one. output_per_s, input_per_s: tokens of the whole system, input with cached ones."""

    batch: int
    chips: int
    tpot_s: float
    ttft_s: float
    output_per_s: float
    input_per_s: float

    @property
    def interactivity(self) -> float:
        """Output tokens per second of one user."""
        return 1 / self.tpot_s

    @property
    def per_chip(self) -> float:
        return self.output_per_s / self.chips


def fixed_batch(server: Deployment, request: Request, batch: int) -> Operating:
    """One batch from prompt to last token, then the next: ``B O / (t_prefill + O t_decode)`` tokens a second.

    The first output token comes from the prefill, so ``O - 1`` decode steps follow.
    """
    first = first_token_s(server, request, batch)
    tpot = server.tpot_s(batch, request.input_tokens, request.input_tokens + request.output_tokens)
    total = first + (request.output_tokens - 1) * tpot
    return Operating(
        batch, server.chips, tpot, first, batch * request.output_tokens / total, batch * request.input_tokens / total
    )


def first_token_s(server: Deployment, request: Request, batch: int) -> float:
    """Seconds from nothing to the first token of a fixed batch."""
    return server.stack.setup_s + _prefill(server, request, batch)


def at_batch(server: Deployment, request: Request, batch: int, *, first_token: bool = True) -> Operating:
    """Batches in flight at ``batch`` sequences: whoever ends is replaced, whose prompt is computed in between.

    For each output token of all sequences, ``B / O`` prompts have to be computed::

        t_iteration = t_decode(B) + (B / O) t_prompt        output = B / t_iteration

    t_prompt is the share of a prompt in an iteration full of prompts (chunks of long ones, several of short ones).
    first_token: also the time of one prompt alone, which a request waits for at least, and then for an iteration.
    Where decode and prefill share an iteration the weights are read once for both; that saving is left out.
    """
    middle = request.input_tokens, request.input_tokens + request.output_tokens
    tpot = server.tpot_s(batch, *middle)
    prompt = prompt_s(server, request)
    first = _whole(server, request, server.groups()) if first_token else 0.0
    per_token = tpot + batch / request.output_tokens * prompt
    output = batch / per_token
    return Operating(
        batch, server.chips, per_token, first + tpot, output, output * request.input_tokens / request.output_tokens
    )


def prompt_s(server: Deployment, request: Request) -> float:
    """A prompt's share of an iteration that is full of them."""
    at_once = max(server.chunk // request.computed, 1) * server.groups()
    return _whole(server, request, at_once, first=False) / at_once


def most_load(server: Deployment, request: Request, *, first_token: bool = True) -> Operating:
    """All sequences that fit: each has room for its prompt and all of its output."""
    batch = server.capacity(request.input_tokens + request.output_tokens)
    return at_batch(server, request, batch, first_token=first_token)


def largest_batch(
    server: Deployment, request: Request, tpot_s: float, *, heard: Callable[[Operating], None] = lambda each: None,
    shared: bool = True,
) -> Operating:  # fmt: skip
    """The most sequences whose output tokens come at least every ``tpot_s``; InputError if not even the fewest do.

    To 0.5 %: the next batch is tried where a line between the nearest on both sides of the limit meets it, and in the
    middle each third time, since time bends upwards. Where a step takes longer with fewer sequences (tiles that do not
    fill the cores) that is a batch within the limit, maybe not the largest. shared: prompts are computed on the same
    chips.
    """
    grain = server.groups() * (2 if server.options.get("overlap", "auto") != "none" and server.groups() > 1 else 1)
    most = max(server.capacity(request.input_tokens + request.output_tokens) // grain, 1)

    def at(units: int) -> Operating:
        state = at_batch(server, request, units * grain) if shared else decode_pool(server, request, units * grain)
        heard(state)
        return state

    low, high = at(1), at(most)
    if low.tpot_s > tpot_s:
        raise InputError(
            f"--tpot {tpot_s * 1e3:g} ms: with {low.batch} sequences a token takes {low.tpot_s * 1e3:.3g} ms already"
        )
    if high.tpot_s <= tpot_s:
        return high
    for turn in itertools.count(1):
        span, near = (high.batch - low.batch) // grain, max(int(PRECISION * high.batch / grain), 1)
        if span <= near:
            break
        share = (tpot_s - low.tpot_s) / (high.tpot_s - low.tpot_s) if turn % 3 else 0.5
        tried = at(low.batch // grain + min(max(int(share * span), near), span - near))
        low, high = (tried, high) if tried.tpot_s <= tpot_s else (low, tried)
    return low


def decode_pool(server: Deployment, request: Request, batch: int) -> Operating:
    """Decode alone: prompts are computed elsewhere."""
    tpot = server.tpot_s(batch, request.input_tokens, request.input_tokens + request.output_tokens)
    output = batch / tpot
    return Operating(batch, server.chips, tpot, 0.0, output, output * request.input_tokens / request.output_tokens)


def prefill_rate(server: Deployment, request: Request, batch: int) -> float:
    """Prompt tokens a second, cached ones included, of a system that computes ``batch`` prompts at a time."""
    return batch * request.input_tokens / _prefill(server, request, batch, first=False)


def curve(
    server: Deployment, request: Request, points: int = 6, *, heard: Callable[[Operating], None] = lambda each: None
) -> list[Operating]:
    """Throughput against interactivity: from the fewest sequences to the most that fit, by equal factors."""
    grain = server.groups() * (2 if server.groups() > 1 else 1)
    most = max(server.capacity(request.input_tokens + request.output_tokens) // grain, 1)
    units = sorted({max(round(most ** (n / (points - 1))), 1) for n in range(points)})
    found = []
    for each in units:
        found.append(at_batch(server, request, each * grain))
        heard(found[-1])
    return found


def _prefill(server: Deployment, request: Request, batch: int, *, first: bool = True) -> float:
    """Seconds to compute ``batch`` prompts in one iteration, or in chunks where they are more than one holds.

    first: before them the stages of a pipeline are empty; otherwise what they add to those before them.
    """
    tokens = request.computed * batch
    chunks = max(1, -(-tokens // (server.chunk * server.groups())))
    if chunks == 1:
        return server.prefill_s(batch, request.computed, request.known, first=first)
    at_once = max(server.groups(), batch // chunks // server.groups() * server.groups())
    each = _whole(server, request, at_once, first=False)
    return batch / at_once * each + (_whole(server, request, at_once) - each if first else 0.0)


def _whole(server: Deployment, request: Request, batch: int, *, first: bool = True) -> float:
    """Seconds of ``batch`` prompts; a prompt longer than a chunk is cut, and its middle chunk stands for all."""
    chunk = server.chunk
    if request.computed <= chunk:
        return server.prefill_s(batch, request.computed, request.known, first=first)
    size = batch, chunk, request.known + (request.computed - chunk) // 2
    each = server.prefill_s(*size, first=False)
    return request.computed / chunk * each + (server.prefill_s(*size) - each if first else 0.0)
