"""How long tokens travel to experts and back in a layer of DeepSeek-V3, as it stands in a decode step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from archsim.hardware import load_system
from archsim.simulation import simulate
from archsim.trace import load_workload
from archsim.validation.model.case import Case
from archsim.validation.table import Record

__all__ = ["read_exchange"]

#: what a rank of a chip is, its system preset, and the quantisation of its dispatch
_SYSTEMS = {"h800": ("h800", "h800-x144", "fp8"), "ascend-910c": ("ascend-910c-die", "cloudmatrix384-dies", "int8")}


def read_exchange(record: Record) -> Case | str:
    """The case of a row, or why it has none."""
    chip, exchange = record.text("chip"), record.text("exchange")
    if chip not in _SYSTEMS:
        return f"no preset of a system of {chip}"
    ranks, tokens = record.integer("ranks"), record.integer("tokens")
    return Case(
        record.text("id"), f"DeepSeek-V3 exchanges of a layer, {chip}", record.number("latency_us"),
        lambda: _times_us(chip, ranks, tokens)[exchange],
        f"{exchange} in a decode step of {tokens} tokens a rank, {ranks} of {_SYSTEMS[chip][0]}, experts in balance",
    )  # fmt: skip


@cache
def _times_us(chip: str, ranks: int, tokens: int) -> Mapping[str, float]:
    """Microseconds of dispatch and combine in a step of a few layers, which fit any number of chips."""
    rank, name, quant = _SYSTEMS[chip]
    system = load_system(name, {"chips": ranks, "chips_per_node": min(ranks, load_system(name).chips_per_node)})
    trace = load_workload("deepseek-v3", "decode")
    layers = replace(trace, blocks=tuple(replace(block, repeat=min(block.repeat, 2)) for block in trace.blocks))
    table = simulate(
        rank, layers, phase="decode", batch=tokens * ranks, ctx=64, quant=quant, system=system, tp=1,
        routing="balanced", overlap="none",
    ).op_table  # fmt: skip
    times = {str(name): float(ps) * 1e-6 for name, ps in zip(table.name, table.time_ps, strict=True)}
    dispatch, combine = (times[f"mlp.experts.{name}.all_to_all"] for name in ("dispatch", "combine"))
    received = times.get("mlp.experts.dispatch.receive")
    if received is None:  # one kernel does it all
        return {"dispatch": dispatch, "combine": combine}
    # two halves, as with a receiving hook: the second copies what came into its place, or sums it up
    return {"dispatch": dispatch + received, "combine": combine + times["mlp.experts.combine"]}
