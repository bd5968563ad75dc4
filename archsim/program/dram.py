"""A DRAM channel and its controller as integers, for the cycle model; `archsim.kernels.dram_cycle` documents the model.

Times are in ticks,
the resolution of the command bus (half a clock in HBM3 and HBM4). A timing constraint of JEDEC counts
from the last tick of a command to the last tick of the next: a command of c ticks has it c - 1 later than where
it starts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from archsim.errors import InputError
from archsim.program.address_map import AddressMap

__all__ = ["Controller", "DramChannels", "DramTiming"]


@dataclass(frozen=True)
class DramTiming:
    """Timing constraints of one channel, in ticks.

    | field | meaning |
    | --- | --- |
    | `tick_ps`, `ticks_per_clock` | one tick; column commands, activates and refreshes start on whole clocks |
    | `bl`, `cl`, `cwl` | data of one burst; read, write command to data |
    | `rcd_rd`, `rcd_wr` | activate to read, write |
    | `rp`, `ras`, `rc` | precharge; activate to precharge, to activate |
    | `wr`, `rtp`, `ppd` | end of write data to precharge; read to precharge; precharge to precharge |
    | `ccd_s`, `ccd_l`, `ccd_r` | column to column: other bank group, same bank group, other stack |
    | `rrd_s`, `rrd_l`, `faw` | activate to activate, other and same group; window of four |
    | `wtr_s`, `wtr_l`, `rtw` | end of write data to read, other and same group; read to write |
    | `refi`, `rfc` | all-bank refresh: interval, duration |
    | `refi_pb`, `rfc_pb`, `rrefd` | per-bank refresh: interval, duration, to an activate elsewhere |
    | `act_ticks`, `pre_ticks`, `col_ticks`, `ref_ticks` | ticks for which a command holds its bus |
    """

    tick_ps: float
    ticks_per_clock: int
    bl: int
    cl: int
    cwl: int
    rcd_rd: int
    rcd_wr: int
    rp: int
    ras: int
    rc: int
    wr: int
    rtp: int
    ccd_s: int
    ccd_l: int
    ccd_r: int
    rrd_s: int
    rrd_l: int
    wtr_s: int
    wtr_l: int
    rtw: int
    faw: int
    ppd: int = 0
    refi: int = 0
    rfc: int = 0
    refi_pb: int = 0
    rfc_pb: int = 0
    rrefd: int = 0
    act_ticks: int = 1
    pre_ticks: int = 1
    col_ticks: int = 1
    ref_ticks: int = 1

    def __post_init__(self) -> None:
        least = {"tick_ps": 0, "ticks_per_clock": 1, "bl": 1, "cl": 1, "ras": 1, "rc": 1}
        for each in fields(self):
            value = getattr(self, each.name)
            bound = least.get(each.name, 1 if each.name.endswith("_ticks") else 0)
            if value < bound or value > 2**40:
                raise InputError(f"memory: timing {each.name} is {value}, but must be at least {bound}")
        if self.ticks_per_clock & (self.ticks_per_clock - 1):
            raise InputError(f"memory: a clock has {self.ticks_per_clock} ticks, but must have a power of two")
        # a clock of rounding is allowed: both are given in whole clocks
        self._require("rc", self.ras + self.rp - self.ticks_per_clock, "tRC must be at least tRAS + tRP")
        self._require("ras", self.rcd_rd, "tRAS must be at least tRCD")
        self._require("faw", self.rrd_s, "tFAW must be at least tRRD_S")
        self._require("rrd_l", self.rrd_s, "tRRD_L must be at least tRRD_S")
        self._require("ccd_l", self.ccd_s, "tCCD_L must be at least tCCD_S")
        self._require("wtr_l", self.wtr_s, "tWTR_L must be at least tWTR_S")
        for interval, busy in (("refi", "rfc"), ("refi_pb", "rrefd")):
            if getattr(self, interval):
                self._require(interval, getattr(self, busy) + 1, f"{interval} must be longer than {busy}")

    def _require(self, name: str, least: int, rule: str) -> None:
        value = getattr(self, name)
        if value < least:
            raise InputError(f"memory: timing {name} is {value} ticks, but {least} at least: {rule}")


@dataclass(frozen=True)
class Controller:
    """How a channel's controller works.

    scheduler: ``row_hits_first`` and ``oldest_first`` share one queue for reads and one for writes over all
    banks; both serve
        what is ready, then what is oldest, and differ in whether an older conflicting request may close a row
        that a still
        older one hits. ``bank_queues`` sorts requests into a short queue for each bank and serves these in turn.
    drain_high, drain_low: the share of the write queue at which writes are begun, and ended.
    bank_queue: entries of each bank's queue (bank_queues only). row_hit_cap: column accesses after which a
    conflict may close
        the row while hits wait (bank_queues), or after which a closed-row policy closes it (0: when no hit is queued).
    """

    scheduler: Literal["row_hits_first", "oldest_first", "bank_queues"] = "row_hits_first"
    read_queue: int = 32
    write_queue: int = 32
    drain_high: float = 0.8
    drain_low: float = 0.2
    row_policy: Literal["open", "closed"] = "open"
    row_hit_cap: int = 0
    refresh: Literal["all_bank", "per_bank", "none"] = "all_bank"
    bank_queue: int = 8

    def __post_init__(self) -> None:
        for name, legal in (
            ("scheduler", ("row_hits_first", "oldest_first", "bank_queues")), ("row_policy", ("open", "closed")),
            ("refresh", ("all_bank", "per_bank", "none")),
        ):  # fmt: skip
            if getattr(self, name) not in legal:
                raise InputError(f"memory: {name} is '{getattr(self, name)}', but must be one of {', '.join(legal)}")
        for name in ("read_queue", "write_queue", "bank_queue"):
            if not 1 <= getattr(self, name) <= 4096:
                raise InputError(f"memory: {name} is {getattr(self, name)}, but must be 1 to 4096 entries")
        if not 0 <= self.drain_low <= self.drain_high <= 1:
            raise InputError(
                f"memory: writes are drained from {self.drain_high} to {self.drain_low} of their queue,"
                " but both must be shares, the first the larger"
            )
        if self.row_hit_cap < 0:
            raise InputError(f"memory: row_hit_cap is {self.row_hit_cap}, but must be at least 0")


@dataclass(frozen=True)
class DramChannels:
    """Channels behind one address space, each with a controller of its own."""

    name: str
    map: AddressMap
    timing: DramTiming
    controller: Controller = Controller()

    def __post_init__(self) -> None:
        timing, refresh = self.timing, self.controller.refresh
        if (refresh == "all_bank" and not timing.refi) or (
            refresh == "per_bank" and not (timing.refi_pb and timing.rfc_pb)
        ):
            raise InputError(f"{self.name}: {refresh} refresh needs its interval and duration, and one of them is 0")
        organisation = self.map.organisation
        banks = organisation.banks // organisation.pseudo_channels
        every = timing.refi_pb * banks
        if refresh == "per_bank" and every <= timing.rfc_pb + timing.rc:
            raise InputError(
                f"{self.name}: a bank is refreshed every {every} ticks, which leaves it no room for a row beside the "
                f"{timing.rfc_pb} of its refresh and tRC of {timing.rc}"
            )
        if self.controller.scheduler == "bank_queues" and (
            refresh == "per_bank" or self.map.organisation.pseudo_channels * self.map.organisation.stack_ids > 1
            or {timing.ticks_per_clock, timing.act_ticks, timing.pre_ticks, timing.col_ticks, timing.ref_ticks} != {1}
        ):  # fmt: skip
            raise InputError(
                f"{self.name}: the scheduler bank_queues knows all_bank refresh, one pseudo-channel,"
                " one stack ID and commands of one tick only"
            )

    @property
    def peak_bytes_per_s(self) -> float:
        """All data buses, each always busy."""
        organisation = self.map.organisation
        buses = self.map.channels * organisation.pseudo_channels
        return buses * organisation.burst_bytes / (self.timing.bl * self.timing.tick_ps * 1e-12)
