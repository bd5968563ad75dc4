"""Export traces from PyTorch code, without weights (needs the extra `archsim[export]`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from archsim.errors import InputError
from archsim.trace.trace import Trace

__all__ = ["capture"]


def capture(
    model: Any,
    example_inputs: Sequence[Any] | None = None,
    *,
    phase: str = "prefill",
    name: str | None = None,
    axes: Sequence[Mapping[int, str]] = (),
    mtp: bool = False,
    collapse: bool = True,
) -> Trace:
    """Export one phase of `model`: a Hugging Face configuration (a dictionary), or a torch module of your own.

    A configuration of a causal language model needs no inputs: `phase` is prefill, decode or train, and all its sizes
    are symbols. `mtp` adds its layers for multi-token prediction (`archsim.trace.with_mtp`). `collapse` runs one layer
    of each run of identical layers and stores it with a repeat count; without it every layer is run and stored (the
    tests hold the one against the other).

    A module is run once on tensors without storage that look like `example_inputs`, forward only unless `phase` is
    train. `axes` says, for each input, which of its axes are ``batch`` or ``seq``, as in ``[{0: "batch", 1: "seq"}]``;
    other sizes are what the example has. Repeated layers are found afterwards.
    """
    if any(importlib.util.find_spec(package) is None for package in ("torch", "transformers")):
        raise InputError("exporting a trace needs torch and transformers: pip install archsim[export]")
    if isinstance(model, dict):
        from archsim.trace.exporter.model import capture_model

        return capture_model(name or str(model.get("model_type", "model")), model, phase, mtp, collapse)
    if mtp:
        raise InputError("multi-token prediction is for configurations of language models")
    from archsim.trace.exporter.own import capture_module

    return capture_module(name or type(model).__name__, model, tuple(example_inputs or ()), phase, axes)
