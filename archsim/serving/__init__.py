"""Serving: what a model on a system yields in a steady state, and readers of public request traces."""

from archsim.serving.arrivals import REQUEST, Arrivals, read_arrivals
from archsim.serving.deployment import Deployment
from archsim.serving.finite import answer_all, spread_lengths
from archsim.serving.load import (
    Operating,
    Request,
    at_batch,
    curve,
    decode_pool,
    first_token_s,
    fixed_batch,
    largest_batch,
    most_load,
    prefill_rate,
)
from archsim.serving.online import HALVINGS, Online, most_rate, poisson, serve_arrivals, serve_users
from archsim.serving.pools import Pools, pools
from archsim.serving.stacks import FP4_TILE, STACKS, Stack, stack_of

__all__ = [
    "FP4_TILE",
    "HALVINGS",
    "REQUEST",
    "STACKS",
    "Arrivals",
    "Deployment",
    "Online",
    "Operating",
    "Pools",
    "Request",
    "Stack",
    "answer_all",
    "at_batch",
    "curve",
    "decode_pool",
    "first_token_s",
    "fixed_batch",
    "largest_batch",
    "most_load",
    "most_rate",
    "poisson",
    "pools",
    "prefill_rate",
    "read_arrivals",
    "serve_arrivals",
    "serve_users",
    "spread_lengths",
    "stack_of",
]  # fmt: skip
