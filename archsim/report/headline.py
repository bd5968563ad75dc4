"""What every view says first: what ran where, and the few numbers that answer the question."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archsim.report.numbers import count, percent, si

if TYPE_CHECKING:
    from archsim.results import Result

__all__ = ["costs", "facts", "headline", "title"]


def title(result: Result) -> tuple[str, str]:
    """What ran, and on what."""
    meta = result.meta
    new, cached = f"{meta['seq']:,} new tokens", f"{count(meta['ctx'])} cached tokens"
    both = f"{new} after {cached}"
    if meta["phase"] == "prefill":
        length = both if meta["ctx"] else new
    else:
        length = both if meta["seq"] > 1 else cached
    quant = "" if meta["quant"] == "none" else f", {meta['quant']}"
    quant += f", {meta['sparsity']} sparse weights" if meta.get("sparsity") else ""
    where = meta["chip"] + (" (estimate)" if meta["chip_estimated"] else "")
    if meta["chips"] > 1:
        how = {"cp": f" by {meta['cp_by']}"} if "cp_by" in meta else {}
        degrees = ", ".join(f"{key} {value}{how.get(key, '')}" for key, value in meta["plan"].items())
        where = f"{meta['chips']} x {where}, {degrees}"
    return f"{meta['workload']} {meta['phase']}, batch {meta['batch']}, {length}{quant}", where


def headline(result: Result) -> list[tuple[str, str]]:
    """Pairs of a value and what it is."""
    summary = result.summary()
    per_chip = "/chip" if result.meta["chips"] > 1 else ""
    numbers = [
        (si(result.time_s, "s"), "step (TPOT)" if result.ttft_s is None else "step (TTFT)"),
        (count(result.tokens_per_s), "tokens/s"),
        (si(summary["flop_per_s"], "FLOP/s"), "compute" + per_chip),
        (si(summary["dram_bytes_per_s"], "B/s"), "traffic" + per_chip),
    ]
    if summary["bound_by"] is not None:
        share = summary["bound_share"][summary["bound_by"]]
        numbers.insert(2, (percent(share), f"bound by {summary['bound_by']}"))
    return numbers


def facts(result: Result) -> list[tuple[str, str]]:
    """The work of one chip in one step (traffic is that with its memory): pairs of a name and a value."""
    summary = result.summary()
    facts = [
        ("compute", si(summary["flops"], "FLOP")),
        ("operands", si(summary["bytes"], "B")),
        ("traffic", si(summary["dram_bytes"], "B")),
        ("launch gaps", si(summary["launch_s"], "s")),
    ]
    if summary["dram_bytes"]:
        facts.insert(3, ("intensity", f"{count(summary['flops'] / summary['dram_bytes'])} FLOP/B"))
    if (hits := summary["row_hit_rate"]) is not None:
        facts.insert(3, ("row hits", percent(hits)))
    if result.meta["chips"] > 1:
        facts.append(("tokens/s", count(summary["tokens_per_s_per_chip"])))
    return facts


def costs(result: Result) -> list[tuple[str, str]]:
    """Power, energy and money of a step: pairs of a name and a value; nothing where no technology is stated."""
    found, power, per_token = result.physical, result.power_w, result.joules_per_token
    if found is None or power is None or per_token is None:
        return []
    limit, peak = found["power_limit_w"], found["peak_power_w"]
    rows = [("power of a chip", si(power, "W") + (f" of {limit:g}" if limit else ""))]
    if peak is not None:
        rows.append(("hungriest operator", si(peak, "W")))
    rows.append(("energy per token", si(per_token, "J")))
    if commands := {name: joules for name, joules in result.dram_energy_j.items() if joules}:
        name, most = max(commands.items(), key=lambda item: item[1])
        rows.append(("memory energy", f"{percent(most / sum(commands.values()))} {name}"))
    rows.append(("heat", f"{found['power_density_w_per_mm2']:.2f} W/mm2"))
    rows.append(("silicon", f"{found['silicon_mm2']:,.0f} mm2, {found['technology']}"))
    if found["parts_usd"] is not None:
        rows.append(("parts of a chip", f"{found['parts_usd']:,.0f} USD"))
        rows.append(("a million tokens", f"{found['usd_per_million_tokens']:.3g} USD"))
    return rows
