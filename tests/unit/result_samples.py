"""Results made by hand for the tests of results, reports and commands."""

from __future__ import annotations

from typing import Any

from archsim.results import OpTable, Result, Slice

CHIP_YAML = """\
name: h800
clock: 1.83 GHz
core:
  vector:
    lanes: 128
memory:
  bandwidth: 3.35 TB/s
provenance:
  memory.bandwidth:
    source: a data sheet
"""


def meta(**changes: Any) -> dict[str, Any]:
    return {
        "archsim_version": "0.1.0",
        "model_version": 1,
        "python": "3.11.7",
        "numpy": "2.4.6",
        "command": "archsim run h800 llama-3.1-8b --phase decode --batch 32",
        "created": "2026-01-01T00:00:00+00:00",
        "chip": "h800",
        "chip_yaml": CHIP_YAML,
        "chip_hash": "c0ffee",
        "chip_estimated": False,
        "system": None,
        "chips": 1,
        "plan": {"tp": 1, "dp": 1, "ep": 1},
        "workload": "llama-3.1-8b",
        "trace_hash": "decade",
        "phase": "decode",
        "batch": 32,
        "seq": 1,
        "ctx": 4096,
        "quant": "none",
        "fidelity": "tile",
        "engine": "compiled",
        "exact": False,
        "seed": 0,
        "notes": ["layers 3 to 32 carried forward from the settled layer 2"],
        **changes,
    }


def row(name: str, kind: str, time_us: float, **changes: Any) -> dict[str, Any]:
    return {
        "block": "layer",
        "name": name,
        "kind": kind,
        "repeat": 32,
        "start_ps": 0,
        "time_ps": round(time_us * 1e6),
        "launch_ps": 1_500_000,
        "flops": 10**9,
        "bytes": 10**7,
        "dram_bytes": 10**7,
        "bound": "memory",
        "matrix_busy": 0.1,
        "vector_busy": 0.0,
        "memory_busy": 0.9,
        **changes,
    }


def physical(**changes: Any) -> dict[str, Any]:
    """What an H800 costs, with round numbers."""
    return {
        "technology": "n4",
        "idle_j": 1e-3,
        "peak_power_w": 412.0,
        "static_power_w": 234.0,
        "power_limit_w": 700.0,
        "matrix_clock_hz": 1.6e9,
        "die_mm2": 863.0,
        "silicon_mm2": 863.0,
        "power_density_w_per_mm2": 0.41,
        "junction_celsius": 54.0,
        "parts_usd": 3050.0,
        "chip_usd": 15250.0,
        "usd_per_hour": 0.92,
        "usd_per_million_tokens": 0.083,
        "tpp": 15832.0,
        "performance_density": 19.4,
        "export_rules": ["3A090.a"],
        **changes,
    }


def llama_decode(**changes: Any) -> Result:
    """Roughly a decode step of Llama-3.1-8B, batch 32 and 4,096 cached tokens, on an H800."""
    rows = [
        row("model.embed_tokens", "embedding", 1.9, block="prologue", repeat=1, bound="launch", memory_busy=0.2),
        row("input_layernorm", "norm", 2.1, bound="launch", memory_busy=0.1, flops=10**6, vector_busy=0.15),
        row("self_attn.qkv_proj", "matmul", 17.4, flops=1_610_612_736, dram_bytes=50_855_936),
        row("self_attn.rotary", "rotary", 2.0, bound="launch", vector_busy=0.1, memory_busy=0.1),
        row("self_attn.attention", "attention", 164.0, flops=2_147_483_648, dram_bytes=537_000_000),
        row("self_attn.o_proj", "matmul", 12.1, flops=1_073_741_824, dram_bytes=34_078_720),
        row("mlp.gate_up_proj", "matmul", 71.8, flops=7_516_192_768, dram_bytes=236_978_176),
        row("mlp.act_fn", "elementwise", 2.2, bound="latency", vector_busy=0.3, memory_busy=0.2),
        row("mlp.down_proj", "matmul", 36.4, flops=3_758_096_384, dram_bytes=118_489_088),
        row("lm_head", "matmul", 317.0, block="epilogue", repeat=1, flops=33_621_540_864, dram_bytes=1_058_013_184),
    ]
    start = 0
    for entry in rows:
        entry["start_ps"] = start
        start += entry["time_ps"]
    time_ps = sum(entry["time_ps"] * entry["repeat"] for entry in rows)
    slices = tuple(Slice("compute", r["name"], r["start_ps"] + 1_500_000, r["time_ps"] - 1_500_000) for r in rows)
    fields: dict[str, Any] = {
        "meta": meta(),
        "time_ps": time_ps,
        "tokens": 32,
        "op_table": OpTable.from_rows(rows),
        "units": {"matrix": 0.06, "vector": 0.02, "memory": 0.87, "noc": 0.31},
        "memory": (("weights", 16_060_522_496), ("kv cache", 17_179_869_184), ("activations", 134_217_728)),
        "memory_capacity": 80_000_000_000,
        "timeline": slices,
    }
    return Result(**{**fields, **changes})
