"""Where the time of a step goes: the operators added up over blocks and repeats."""

from __future__ import annotations

from dataclasses import dataclass, replace

from archsim.results.result import Result

__all__ = ["Part", "operators", "top_operators"]


@dataclass(frozen=True)
class Part:
    """One operator over all its calls in a step, on one chip; `share` is that of the summed operator time.

    `kind` and `bound` are those of the calls that take most of its time.
    """

    name: str
    kind: str
    bound: str
    calls: int
    time_ps: int
    share: float
    flops: int
    dram_bytes: int

    @property
    def time_s(self) -> float:
        """Seconds of all calls."""
        return self.time_ps * 1e-12

    @property
    def rates(self) -> tuple[tuple[float, str], tuple[float, str]]:
        """Mean compute and memory traffic while it runs, each with its unit."""
        time = self.time_s or 1.0
        return (self.flops / time, "FLOP/s"), (self.dram_bytes / time, "B/s")


def operators(result: Result) -> list[Part]:
    """The operators of `result` by name, the longest first."""
    table = result.op_table
    whole = table.total("time_ps") or 1
    longest: dict[str, int] = {}
    parts: dict[str, Part] = {}
    for i, name in enumerate(table.name.tolist()):
        calls = int(table.repeat[i])
        time, flops, dram = (calls * int(column[i]) for column in (table.time_ps, table.flops, table.dram_bytes))
        part = parts.get(name) or Part(name, "", "", 0, 0, 0.0, 0, 0)
        if time >= longest.get(name, 0):
            longest[name] = time
            part = replace(part, kind=str(table.kind[i]), bound=str(table.bound[i]))
        parts[name] = replace(
            part,
            calls=part.calls + calls,
            time_ps=part.time_ps + time,
            share=(part.time_ps + time) / whole,
            flops=part.flops + flops,
            dram_bytes=part.dram_bytes + dram,
        )
    return sorted(parts.values(), key=lambda part: (-part.time_ps, part.name))


def top_operators(result: Result, top: int) -> list[Part]:
    """The `top` longest operators and, if there are more, one part named "(n others)" for the rest."""
    parts = operators(result)
    if len(parts) <= top + 1:
        return parts
    rest = parts[top:]
    others = Part(
        name=f"({len(rest)} others)",
        kind="",
        bound="",
        calls=sum(part.calls for part in rest),
        time_ps=sum(part.time_ps for part in rest),
        share=sum(part.share for part in rest),
        flops=sum(part.flops for part in rest),
        dram_bytes=sum(part.dram_bytes for part in rest),
    )
    return [*parts[:top], others]
