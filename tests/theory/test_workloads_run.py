"""Does every shipped workload go through sharding, fusion and the bounds? Eight H200 in fp8 hold them all."""

from __future__ import annotations

import pytest

from archsim import simulate
from archsim.trace import list_workloads, load_workload

CHIPS, BATCH = 8, 8


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("name", list_workloads())
def test_a_workload_runs(name: str, phase: str) -> None:
    point = {"seq": 256} if phase == "prefill" else {"ctx": 1024}
    result = simulate(
        "h200", name, phase=phase, batch=BATCH, system="hgx-h200", quant="fp8", fidelity="roofline", **point
    )
    whole = load_workload(name, phase).at(batch=BATCH, **point)
    # the chip that stands for all is the busiest, and some of its work is done by every chip of its group
    assert result.summary()["flops"] >= whole.flops / CHIPS
    assert whole.weight_bytes / 2 / CHIPS < result.memory_used < result.memory_capacity
