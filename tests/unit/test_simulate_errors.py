"""What cannot be simulated is refused in one sentence that says what is legal."""

from __future__ import annotations

from typing import Any

import pytest

import archsim
from archsim.errors import InputError


def refused(**changes: Any) -> str:
    """The message for a decode step of Llama on an H800 with ``changes``."""
    options: dict[str, Any] = {"chip": "h800", "workload": "llama-3.1-8b", "phase": "decode"} | changes
    with pytest.raises(InputError) as error:
        archsim.simulate(**options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chip": "h80"}, "unknown chip 'h80' (did you mean 'h800'?)"),
        (
            {"workload": "llama-3.1-8"},
            "unknown workload 'llama-3.1-8' (did you mean 'llama-3.1-8b'?), and there is no file llama-3.1-8.decode.h5",
        ),
        ({"system": "hgx-h80"}, "unknown system 'hgx-h80' (did you mean 'hgx-h800'?)"),
        ({"set": {"memory.bandwith": "3 TB/s"}}, "memory.bandwith: unknown key (did you mean 'bandwidth'?)"),
        ({"set": {"memory.bandwidth": "3 GB"}}, "'3 GB' is a size, expected a bandwidth"),
        ({"set": {"memory.bandwidth": "30 TB/s"}}, "needs 46.9 GT/s per pin, HBM3 reaches 6.4 GT/s"),
    ],
)
def test_a_misspelt_name_or_value_is_told_the_right_one(changes: dict[str, Any], message: str) -> None:
    assert message in refused(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "--batch 0: must be a whole number, at least 1"),
        ({"batch": 1.5}, "--batch 1.5: must be a whole number, at least 1"),
        ({"batch": True}, "--batch True: must be a whole number, at least 1"),
        ({"ctx": -1}, "--ctx -1: must be a whole number, at least 0"),
        ({"tp": 0}, "--tp 0: must be a whole number, at least 1"),
        ({"seed": -1}, "--seed -1: must be a whole number, at least 0"),
        ({"phase": "prefill", "seq": 0}, "--seq 0: must be a whole number, at least 1"),
        ({"phase": "prefil"}, "--phase prefil: must be one of prefill, decode, train"),
        (
            {"phase": "train"},
            "a training step has a plan of its own over stages and replicas: archsim train SYSTEM llama-3.1-8b "
            "(archsim plan SYSTEM ... --phase train ranks the plans)",
        ),
        ({"mtp": True}, "llama-3.1-8b has no layers for the prediction of more than one token"),
        ({"fidelity": "exact"}, "--fidelity exact: must be one of roofline, tile, cycle"),
        ({"engine": "gem5"}, "--engine gem5: must be one of compiled, simpy"),
        ({"quant": "fp3"}, "--quant fp3: must be one of none, fp8, fp8-kv, int8, int4, fp4, fp4-kv, fp4-mlp-kv, mxfp4"),
        ({"tp": 2}, "--tp 2: must divide both the 1 chips and the 32 attention heads (1)"),
        ({"ep": 2}, "--ep 2: the model has no experts"),
    ],
)
def test_an_impossible_option_is_told_the_legal_values(changes: dict[str, Any], message: str) -> None:
    assert refused(**changes) == message


def test_a_model_that_does_not_fit_is_told_its_bytes_and_a_system_that_holds_it() -> None:
    message = refused(workload="deepseek-v3")
    assert message.startswith(
        "deepseek-v3 does not fit h800: each chip would hold 1342.05 GB weights + 0.29 GB kv cache + "
    )
    assert "but has 84.94 GB (85.90 GB less 0.96 GB reserved); use --system h800-x16 with 16 of them" in message


def test_a_model_that_does_not_fit_its_system_is_told_the_plan() -> None:
    message = refused(workload="deepseek-v3", batch=8, system="hgx-h800")
    assert "does not fit hgx-h800 (TP8 x DP1, EP8)" in message
    assert "use --system h800-x32 with 32 of them" in message


def test_a_cache_that_does_not_fit_counts_like_weights() -> None:
    assert "16.06 GB weights + 137.57 GB kv cache" in refused(batch=256, ctx=4096 + 3)
    assert "fewer sequences (--batch)" in refused(batch=10**6)


def test_a_trace_of_the_other_phase_is_refused() -> None:
    trace = archsim.load_workload("llama-3.1-8b", "prefill")
    assert refused(workload=trace) == "the trace llama-3.1-8b holds the prefill phase, not decode"


def test_a_finished_spec_takes_no_overrides() -> None:
    chip = archsim.load_chip("h800")
    assert refused(chip=chip, set={"cores": "3"}) == "overrides need the chip's name or path; a ChipSpec is final"


def test_cycle_fidelity_refuses_a_shared_cache() -> None:
    with pytest.raises(InputError, match="h100 has a shared cache, which only tile models; cycle runs chips without"):
        archsim.simulate("h100", "llama-3.1-8b", phase="decode", fidelity="cycle")
