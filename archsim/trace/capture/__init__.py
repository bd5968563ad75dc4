"""Export traces from Hugging Face model code, without weights (needs the extra `archsim[export]`)."""

from __future__ import annotations

import importlib.util
from typing import Any

from archsim.errors import InputError
from archsim.trace.trace import Trace

__all__ = ["capture"]


def capture(name: str, config: dict[str, Any], phase: str, *, collapse: bool = True) -> Trace:
    """Export one phase of the causal language model that the Hugging Face `config` describes.

    `collapse` runs one layer of each run of identical layers and stores it with a repeat count; without it every layer
    is run and stored (the tests hold the one against the other).
    """
    if any(importlib.util.find_spec(package) is None for package in ("torch", "transformers")):
        raise InputError("exporting a trace needs torch and transformers: pip install archsim[export]")
    from archsim.trace.capture.model import capture_model

    return capture_model(name, config, phase, collapse)
