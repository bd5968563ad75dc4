"""Chips without published LLM measurements: what their vendors claim beside the range that archsim gives.

`python -m archsim.validation.claims` prints the table. The range is that of `archsim run --uncertainty`: the doubtful
values of the description all at their slow end, and all at their fast end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from archsim.hardware import load_system
from archsim.simulation import simulate
from archsim.simulation.uncertainty import Interval, intervals

__all__ = ["CLAIMS", "Claim", "claim_table", "simulated"]


@dataclass(frozen=True)
class Claim:
    """What is claimed of a step in tokens per second and chip ("" if nothing is), and the step that stands for it."""

    chip: str
    system: str
    chips: int
    workload: str
    claimed: str
    step: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """The step in words."""
        share, options = self.step["batch"] // self.chips, self.step
        what = f"{share} x {options['seq']:,} tokens" if options["phase"] == "prefill" else (
            f"{share} sequences, {options['ctx']:,} cached tokens"
        )
        return f"{self.workload} {options['phase']} on {self.chips}, {what} a chip, {options['quant']}"


def _expert(phase: str, batch: int, **sizes: int) -> dict[str, Any]:
    return {"phase": phase, "batch": batch, "quant": "fp8", "tp": 1, "routing": "balanced", **sizes}


CLAIMS = (
    Claim("mtt-s5000", "mtt-s5000-x8", 32, "deepseek-v3", "> 4,000 (Moore Threads and SiliconFlow, 2025)",
          _expert("prefill", 64, seq=4096)),
    Claim("mtt-s5000", "mtt-s5000-x8", 32, "deepseek-v3", "> 1,000 (Moore Threads and SiliconFlow, 2025)",
          _expert("decode", 32 * 64, ctx=4096)),
    Claim("hygon-bw1000", "hygon-bw1000-x8", 8, "llama-3.1-70b", "nothing published",
          {"phase": "decode", "batch": 64, "ctx": 4096, "quant": "int8", "tp": 8}),
    Claim("openai-jalapeno", "jalapeno-x64", 64, "deepseek-v3", "nothing published",
          _expert("decode", 64 * 64, ctx=4096)),
)  # fmt: skip


def simulated(claim: Claim) -> Interval:
    """Tokens per second and chip."""
    per_node = min(claim.chips, load_system(claim.system).chips_per_node)
    system = load_system(claim.system, {"chips": claim.chips, "chips_per_node": per_node})
    found, _ = intervals(
        claim.chip, lambda values: simulate(claim.chip, claim.workload, system=system, set=dict(values), **claim.step)
    )
    return found["tokens_per_s_per_chip"]


def claim_table(claims: tuple[Claim, ...] = CLAIMS) -> str:
    """A Markdown table of claims and simulated ranges."""
    lines = ["| chip | step | claimed, tokens/s a chip | simulated | from | to |"]
    lines += ["| --- | --- | --- | --: | --: | --: |"]
    for claim in claims:
        at = simulated(claim)
        numbers = " | ".join(f"{value:,.0f}" for value in (at.nominal, at.low, at.high))
        lines.append(f"| {claim.chip} | {claim.describe()} | {claim.claimed} | {numbers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(claim_table())
