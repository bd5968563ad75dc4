"""What every view says first: what ran where, and the few numbers that answer the question."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archsim.report.numbers import count, percent, si

if TYPE_CHECKING:
    from archsim.results import Result

__all__ = ["facts", "headline", "title"]


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
    where = meta["chip"] + (" (estimate)" if meta["chip_estimated"] else "")
    if meta["chips"] > 1:
        degrees = ", ".join(f"{key} {value}" for key, value in meta["plan"].items())
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
    if result.meta["chips"] > 1:
        facts.append(("tokens/s", count(summary["tokens_per_s_per_chip"])))
    return facts
