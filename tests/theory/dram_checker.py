"""Does a sequence of DRAM commands obey the rules? Knows only the rules, nothing of the model that issued it."""

from __future__ import annotations

from collections import defaultdict

from archsim.kernels.dram_cycle import COMMANDS
from archsim.program.address_map import Organisation
from archsim.program.dram import DramTiming

READS, WRITES, OPENS = ("RD", "RDA"), ("WR", "WRA"), ("ACT",)
#: commands to a whole pseudo-channel
ALL_BANKS = ("PREab", "REFab")


def violations(log: list[list[int]], timing: DramTiming, organisation: Organisation) -> list[str]:
    """Every broken rule, in words."""
    return _Checker(timing, organisation).check(log)


class _Checker:
    def __init__(self, timing: DramTiming, organisation: Organisation) -> None:
        self.t, self.organisation = timing, organisation
        t = timing
        self.ticks = {name: t.act_ticks if name == "ACT" else t.pre_ticks if name.startswith("PRE") else
                      t.ref_ticks if name.startswith("REF") else t.col_ticks for name in COMMANDS}  # fmt: skip
        after_write = t.cwl + t.bl
        #: scope, commands before, commands after, least ticks from the end of the one to the end of the other
        self.rules = [
            ("pc", READS, READS, t.bl), ("pc", WRITES, WRITES, t.bl), ("pc", READS, WRITES, t.rtw),
            ("pc", WRITES, READS, after_write + t.wtr_s), ("pc", OPENS, OPENS, t.rrd_s),
            ("pc", ("PRE", "PREab"), ("PRE", "PREab"), t.ppd), ("pc", OPENS, ("REFab",), t.rc),
            ("pc", ("PRE", "PREab"), ("REFab",), t.rp), ("pc", ("RDA",), ("REFab",), t.rtp + t.rp),
            ("pc", ("WRA",), ("REFab",), after_write + t.wr + t.rp), ("pc", ("REFab",), ("ACT", "PREab", "REFab"),
            t.rfc),
            ("pc", ("REFpb",), ("ACT", "REFpb"), t.rrefd), ("pc", OPENS, ("REFpb",), t.rrd_s),
            ("stack", READS, READS, t.ccd_s), ("stack", WRITES, WRITES, t.ccd_s),
            ("group", READS, READS, t.ccd_l), ("group", WRITES, WRITES, t.ccd_l),
            ("group", WRITES, READS, after_write + t.wtr_l), ("group", OPENS, OPENS, t.rrd_l),
            ("bank", OPENS, OPENS, t.rc), ("bank", OPENS, READS, t.rcd_rd), ("bank", OPENS, WRITES, t.rcd_wr),
            ("bank", OPENS, ("PRE",), t.ras), ("bank", ("PRE",), ("ACT", "REFpb"), t.rp), ("bank", ("RD",),
            ("PRE",), t.rtp),
            ("bank", ("WR",), ("PRE",), after_write + t.wr), ("bank", ("RDA",), ("ACT", "REFpb"), t.rtp + t.rp),
            ("bank", ("WRA",), ("ACT", "REFpb"), after_write + t.wr + t.rp), ("bank", OPENS, ("REFpb",), t.rc),
            ("bank", ("REFpb",), ("ACT", "REFpb"), t.rfc_pb),
        ]  # fmt: skip
        self.latest: dict[tuple[str, int, str], int] = {}
        self.open: dict[int, int] = {}
        self.activates: dict[int, list[int]] = defaultdict(list)
        self.bus = {"row": 0, "column": 0}
        self.found: list[str] = []

    def check(self, log: list[list[int]]) -> list[str]:
        banks_per_pc = self.organisation.banks // self.organisation.pseudo_channels
        for start, code, place, row in log:
            name = COMMANDS[code]
            banks = range(place * banks_per_pc, (place + 1) * banks_per_pc) if name in ALL_BANKS else [place]
            self._bus(start, name)
            if name != "PREab":
                self._command(start, name, banks[0], row)
            else:  # stands for a precharge of every bank that is open
                self._command(start, name, banks[0], row)
                for bank in [bank for bank in banks if bank in self.open]:
                    self._spacing(start, "PRE", bank, scopes=("bank",))
                    del self.open[bank]
                    self.latest["bank", bank, "PRE"] = start
            if name == "REFab" and any(bank in self.open for bank in banks):
                self.found.append(f"{start}: refresh with a row open")
        return self.found

    def _bus(self, start: int, name: str) -> None:
        bus = "column" if name in READS + WRITES else "row"
        if start < self.bus[bus]:
            self.found.append(f"{start}: {name} while the {bus} bus is taken until {self.bus[bus]}")
        self.bus[bus] = start + self.ticks[name]
        if not name.startswith("PRE") and (start - 1) % self.t.ticks_per_clock:
            self.found.append(f"{start}: {name} between two clocks")

    def _command(self, start: int, name: str, bank: int, row: int) -> None:
        scopes = ("pc",) if name in ALL_BANKS else ("pc", "stack", "group", "bank")
        self._spacing(start, name, bank, scopes)
        if name == "ACT":
            if bank in self.open:
                self.found.append(f"{start}: ACT of the open bank {bank}")
            self.open[bank] = row
            recent = self.activates[self._key("pc", bank)]
            recent.append(start)
            if len(recent) > 4 and start - recent[-5] < self.t.faw:
                self.found.append(f"{start}: five activates within {start - recent[-5]} ticks, tFAW is {self.t.faw}")
        elif name in READS + WRITES:
            if self.open.get(bank) != row:
                self.found.append(f"{start}: {name} of row {row}, but bank {bank} has {self.open.get(bank)} open")
            if name in ("RDA", "WRA"):
                self.open.pop(bank, None)
        elif name == "PRE":
            self.open.pop(bank, None)
        elif name == "REFpb" and bank in self.open:
            self.found.append(f"{start}: refresh of the open bank {bank}")
        for scope in scopes:
            self.latest[scope, self._key(scope, bank), name] = start

    def _spacing(self, start: int, name: str, bank: int, scopes: tuple[str, ...]) -> None:
        end = start + self.ticks[name]
        for scope, before, after, least in self.rules:
            if scope not in scopes or name not in after:
                continue
            for earlier in before:
                then = self.latest.get((scope, self._key(scope, bank), earlier))
                if then is not None and end - then - self.ticks[earlier] < least:
                    gap = end - then - self.ticks[earlier]
                    self.found.append(
                        f"{start}: {earlier} to {name} in one {scope} after {gap} ticks, at least {least}"
                    )
        if name in READS and "stack" in scopes:
            own, first = self._key("stack", bank), self._key("pc", bank) * self.organisation.stack_ids
            for stack in range(first, first + self.organisation.stack_ids):
                then = max((self.latest.get(("stack", stack, n), -(10**9)) for n in READS), default=-(10**9))
                if stack != own and start - then < self.t.ccd_r:
                    self.found.append(
                        f"{start}: reads of two stacks {start - then} ticks apart, at least {self.t.ccd_r}"
                    )

    def _key(self, scope: str, bank: int) -> int:
        o = self.organisation
        size = {"bank": 1, "group": o.banks_per_group, "stack": o.banks_per_group * o.bank_groups}
        return bank // size.get(scope, o.banks_per_group * o.bank_groups * o.stack_ids)
