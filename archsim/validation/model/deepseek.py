"""DeepSeek-V3 and R1 on large expert-parallel units: DeepSeek's own figures, SGLang's, CloudMatrix384's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from archsim.hardware import load_system
from archsim.serving import STACKS, Deployment, Request, decode_pool, largest_batch, prefill_rate
from archsim.validation.model.case import Case
from archsim.validation.table import Record

__all__ = ["read_deepseek"]

#: share of what a unit yields at full load that DeepSeek's fleet had in the mean of a day: prompts and answers of all
#: lengths, experts that are out of balance, load that comes and goes, slack so that prompts do not queue. An
#: assumption, chosen with these rows in view; DeepSeek's profile of full load stands beside them. Decode needs none:
#: its batch is what the speed allows that users were given
FLEET_PREFILL = 0.5


@dataclass(frozen=True)
class Unit:
    """A unit of serving. chips: ranks of the system preset; redundant: experts so that all slots are filled.

    of_one: ranks of what a published chip is; the 910C has two dies, each a device for its software. by_heads: all
    chips share all prompts, and the heads of attention.
    """

    chip: str
    system: str
    chips: int
    redundant: int
    quant: str
    stack: str
    draft: int = 0
    acceptance: float = 0.0
    of_one: int = 1
    shared_experts: str = "everywhere"
    by_heads: bool = False

    def server(self) -> Deployment:
        return _server(self)


@cache
def _server(unit: Unit) -> Deployment:
    per_node = min(unit.chips, load_system(unit.system).chips_per_node)
    system = load_system(unit.system, {"chips": unit.chips, "chips_per_node": per_node})
    options: dict[str, Any] = {
        "quant": unit.quant, "tp": 1, "redundant": unit.redundant, "routing": "balanced",
        "shared_experts": unit.shared_experts, "cp": unit.chips if unit.by_heads else 1, "cp_by": "heads",
    }  # fmt: skip
    return Deployment(unit.chip, "deepseek-v3", system, options, STACKS[unit.stack], unit.draft, unit.acceptance)


H800_PREFILL = Unit("h800", "h800-x32", 32, 32, "fp8", "deepseek")
H800_DECODE = Unit("h800", "h800-x144", 144, 32, "fp8", "deepseek")
#: the profile verifies a draft token: its dispatch, combine and experts take what 128 tokens of a micro-batch do
H800_PROFILE = Unit("h800", "h800-x144", 128, 0, "fp8", "deepseek", 1, 0.7)
H100_PREFILL = Unit("h100", "hgx-h100", 32, 32, "fp8", "sglang")
H100_MTP = Unit("h100", "hgx-h100", 72, 32, "fp8", "sglang", 1, 0.7)
#: the paper's SP-TP-SP = 32
ASCEND_PREFILL = Unit(
    "ascend-910c-die", "cloudmatrix384-dies", 32, 32, "int8", "cloudmatrix", of_one=2, by_heads=True
)
#: 288 dies hold one of 256 routed experts and 32 copies, 32 the shared one (the paper's EP320)
ASCEND_DECODE = Unit(
    "ascend-910c-die", "cloudmatrix384-dies", 320, 63, "int8", "cloudmatrix", 1, 0.7, of_one=2, shared_experts="spread"
)


def _prefill(unit: Unit, prompts: int, tokens: int, hit: float = 0.0) -> float:
    """Computed prompt tokens a second of one chip, ``prompts`` a chip at a time."""
    server, request, chips = unit.server(), Request(tokens, 1, hit), unit.chips // unit.of_one
    return prefill_rate(server, request, prompts * chips) / chips * (1 - hit)


def _decode(unit: Unit, sequences: int, ctx: int) -> float:
    """Output tokens a second of one chip at so many sequences a chip and ``ctx`` cached tokens."""
    chips = unit.chips // unit.of_one
    return decode_pool(unit.server(), Request(ctx, 1), sequences * chips).per_chip * unit.of_one


def _decode_within(unit: Unit, tpot_s: float, ctx: int) -> float:
    return largest_batch(unit.server(), Request(ctx, 1), tpot_s, shared=False).per_chip


_GROUPS = {
    "fleet": "DeepSeek fleet, H800", "profile": "DeepSeek profiles, H800", "sglang": "SGLang, H100",
    "ascend": "CloudMatrix384, 910C",
}  # fmt: skip
_DRAFTS = "sequences a chip, one draft token, 70 % right"
_TOKENS = "16,384 tokens a chip at a time, experts in balance"
_OF_PREFILL = f"the fleet in the mean of a day: {FLEET_PREFILL:.0%} of full load"

#: (group, factor from a chip to the unit of the row, how, assumption) of each row
_ROWS: dict[str, tuple[str, float, Callable[[], float], str]] = {
    "DSI-002": ("fleet", 8, lambda: _decode_within(H800_DECODE, 1 / 21, 4989),
                "the most sequences at 21 tokens a second each: users were given 20 to 22; experts in balance"),
    "PRO-001": ("profile", 1, lambda: _prefill(H800_PREFILL, 4, 4096), _TOKENS),
    "PRO-002": ("profile", 1, lambda: _decode(H800_PROFILE, 128, 4096), f"128 {_DRAFTS}; experts in balance"),
    "CM-002": ("ascend", 1, lambda: _prefill(ASCEND_PREFILL, 4, 4096), f"{_TOKENS}; all dies share prompts and heads"),
    "CM-003": ("ascend", 1, lambda: _decode(ASCEND_DECODE, 96, 4096), f"96 {_DRAFTS}"),
    "CM-004": ("ascend", 1, lambda: _decode(ASCEND_DECODE, 8, 4096), f"8 {_DRAFTS}"),
    "CM-008": ("fleet", FLEET_PREFILL, lambda: _prefill(H800_PREFILL, 4, 4096), f"{_TOKENS}; {_OF_PREFILL}"),
    "CM-009": ("fleet", 1, lambda: _decode_within(H800_DECODE, 0.05, 4989),
               "the most sequences at the 50 ms a token that the row states; experts in balance"),
    "CM-011": ("sglang", 1, lambda: _prefill(H100_PREFILL, 4, 4096), _TOKENS),
    "CM-012": ("sglang", 1, lambda: _decode(H100_MTP, 128, 4000),
               f"128 {_DRAFTS} (published with simulated MTP); 72 chips, 4,000 cached tokens"),
    "SGL-001": ("sglang", 8, lambda: _prefill(H100_PREFILL, 8, 2000),
                "16,000 tokens a chip at a time, experts in balance"),
}  # fmt: skip
_REASONS = {
    "DSI-004": "a count of tokens, not a rate of a machine", "DSI-005": "a count of tokens, not a rate of a machine",
    "DSI-008": "a count of nodes", "ISC-001": "a formula, not a measurement", "CM-005": "three values in one cell",
    "SGL-009": "published without its batch, or a limit on the time per token",
}  # fmt: skip
#: of the prompt tokens that DeepSeek counts, 56.3 % were in the cache
_HIT = 342 / 608


def read_deepseek(record: Record) -> Case | str | None:
    """The case of one of these rows, or why it has none; None for rows of other tables."""
    name = record.text("id")
    if name in _REASONS:
        return _REASONS[name]
    if name == "DSI-001":
        return Case(name, _GROUPS["fleet"], record.number("value") * (1 - _HIT),
                    lambda: 8 * FLEET_PREFILL * _prefill(H800_PREFILL, 4, 4096),
                    f"computed tokens only, the row less its 56.3 % of cache hits; {_TOKENS}; {_OF_PREFILL}",
                    heavy=True)  # fmt: skip
    if name not in _ROWS:
        return None
    group, factor, figure, assumption = _ROWS[name]
    return Case(name, _GROUPS[group], record.number("value"), lambda: factor * figure(), assumption, heavy=True)
