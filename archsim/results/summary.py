"""The main numbers of a result as one dict: the keys are stable and carry their units."""

from __future__ import annotations

from typing import Any

from archsim.results.result import Result

__all__ = ["summarise", "to_dict"]

_FROM_META = (
    *("workload", "phase", "batch", "seq", "ctx", "quant"),
    *("chip", "chip_estimated", "system", "chips", "plan"),
    *("fidelity", "engine", "exact"),
)
_WHERE_CHOSEN = ("sparsity", "shared_experts", "cp_by")


def summarise(result: Result) -> dict[str, Any]:
    """The main numbers of `result`.

    flops, bytes and dram_bytes are those of one chip in one step. `bound_share` and `kind_share` split the summed time
    of the operators, which is longer than `time_s` when operators overlap.
    """
    table, time_s = result.op_table, result.time_s
    flops, dram_bytes = table.total("flops"), table.total("dram_bytes")
    bound_share = _shares(result.time_by("bound"))
    return {
        **{key: result.meta[key] for key in _FROM_META},
        **{key: result.meta[key] for key in _WHERE_CHOSEN if key in result.meta},
        "time_s": time_s,
        "ttft_s": result.ttft_s,
        "tpot_s": result.tpot_s,
        "tokens": result.tokens,
        "tokens_per_s": result.tokens_per_s,
        "tokens_per_s_per_chip": result.tokens_per_s / result.meta["chips"],
        "flops": flops,
        "flop_per_s": flops / time_s,
        "bytes": table.total("bytes"),
        "dram_bytes": dram_bytes,
        "dram_bytes_per_s": dram_bytes / time_s,
        "activates": table.total("activates"),
        "row_hit_rate": result.row_hit_rate,
        "launch_s": table.total("launch_ps") * 1e-12,
        "energy_j": result.energy_j,
        "energy_by_unit_j": result.energy_by_unit if result.physical else None,
        "dram_energy_j": result.dram_energy_j if result.physical else None,
        "power_w": result.power_w,
        "joules_per_token": result.joules_per_token,
        "physical": result.physical,
        "bound_by": next(iter(bound_share), None),
        "bound_share": bound_share,
        "kind_share": _shares(result.time_by("kind")),
        "busy": dict(result.units),
        "busiest_link": result.busiest_link
        and {
            "name": result.busiest_link[0],
            "busy": result.busiest_link[1],
            "bound_s": result.busiest_link[1] * time_s,
        },
        "memory_bytes": dict(result.memory),
        "memory_used_bytes": result.memory_used,
        "memory_capacity_bytes": result.memory_capacity,
        "notes": list(result.meta["notes"]),
    }


def to_dict(result: Result) -> dict[str, Any]:
    """The summary, with the whole meta and a row per operator: what `archsim run --json` prints."""
    table = result.op_table
    columns = {name: column.tolist() for name, column in table.columns().items()}
    columns["row_hit_rate"] = table.row_hit_rate.tolist()
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {**summarise(result), "meta": result.meta, "links": dict(result.links), "ops": rows}


def _shares(times: dict[str, int]) -> dict[str, float]:
    whole = sum(times.values()) or 1
    return {key: time / whole for key, time in times.items()}
