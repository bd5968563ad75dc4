"""Off-chip memory: a DRAM standard (organisation, timings, energy) and what a chip attaches of it."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from archsim.hardware.spec import Count, ProvenanceMap, Spec
from archsim.units import Bandwidth, Size, Time, TransferRate

__all__ = ["CommandClocks", "ControllerSpec", "DramEnergy", "MappingSpec", "MemorySpec", "MemoryStandard", "Timings"]

Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Picojoules = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Clocks = Annotated[float, Field(strict=True, gt=0, le=64)]


class Timings(Spec):
    """DRAM timings, by their JEDEC names; what is not given follows from the others as said."""

    trcd: Time
    """Activate to read."""
    trcd_write: Time | None = None
    """Activate to write (as to read)."""
    trp: Time
    """Precharge."""
    tras: Time
    """Activate to precharge."""
    trc: Time
    """Activate to activate, same bank."""
    trrd: Time
    """Activate to activate, other bank group."""
    trrd_l: Time | None = None
    """Activate to activate, same bank group (as other)."""
    tfaw: Time
    """Window for four activates."""
    tcl: Time
    """Read command to first data."""
    tcwl: Time
    """Write command to first data."""
    tccd_l: Time
    """Column command to column command, same bank group; to another one, a burst."""
    tccd_r: Time | None = None
    """Read to read, other stack ID (a burst)."""
    twr: Time
    """End of write data to precharge."""
    trtp: Time
    """Read to precharge."""
    twtr: Time
    """End of write data to the next read command, other bank group."""
    twtr_l: Time | None = None
    """The same in the same bank group (as other)."""
    trtw: Time
    """Read command to write command."""
    tppd: Time = 0.0
    """Precharge to precharge of another bank."""
    trefi: Time
    """Interval between all-bank refreshes (0: none)."""
    trfc: Time
    """The channel is blocked this long by an all-bank refresh."""
    trefi_bank: Time = 0.0
    """Interval between per-bank refreshes (0: not offered)."""
    trfc_bank: Time = 0.0
    """A bank is blocked this long by its refresh."""
    trrefd: Time = 0.0
    """Per-bank refresh to an activate or refresh of another bank."""


class CommandClocks(Spec):
    """Clocks for which a command holds its bus; channels that share the buses wait for each other."""

    activate: Clocks = 1.0
    precharge: Clocks = 1.0
    column: Clocks = 1.0
    refresh: Clocks = 1.0


class DramEnergy(Spec):
    """Energy of one channel's commands, and its power while it waits; energies in pJ, powers in mW."""

    activate_pj: Picojoules
    """One activate with its precharge."""
    read_pj_per_bit: Picojoules
    write_pj_per_bit: Picojoules
    io_pj_per_bit: Picojoules
    """Interface, both ends."""
    refresh_pj: Picojoules
    """One all-bank refresh."""
    active_mw: Picojoules
    """With a row open."""
    idle_mw: Picojoules
    """With all rows closed."""


class MappingSpec(Spec):
    """Where the bits of an address go within one command channel."""

    order: tuple[str, ...]
    """Fields, least significant first: column, bank_group, bank, stack_id, pseudo_channel,
    row; also in pieces: column[0:3]."""
    xor: dict[str, str] = Field(default_factory=dict)
    """Field -> bits of another field that are XORed into it, such as ``bank: row[0:2]``."""


class ControllerSpec(Spec):
    """The memory controller of a command channel; the defaults are those of Ramulator 2.1, with deeper queues."""

    scheduler: Literal["row_hits_first", "oldest_first", "bank_queues"] = "row_hits_first"
    read_queue: Count = 128
    """Requests of a burst that wait to be read; vendors' depths are not public, with 64 and less a stream stays
    below the
    nine tenths of the peak that chips reach."""
    write_queue: Count = 128
    drain_high: Share = 0.8
    """Share of the write queue above which writes are served."""
    drain_low: Share = 0.2
    """Share of the write queue below which reads are served again."""
    row_policy: Literal["open", "closed"] = "open"
    row_hit_cap: Annotated[int, Field(strict=True, ge=0)] = 0
    refresh: Literal["all_bank", "per_bank", "none"] = "all_bank"


class MemoryStandard(Spec):
    """One DRAM standard. A channel is the unit that transfers on its own: a pseudo-channel in HBM."""

    name: str
    title: str
    data_rate: TransferRate
    """Top rate of a pin."""
    channels_per_stack: Count
    """Channels of one stack (HBM) or one device (GDDR, LPDDR)."""
    channels_per_command_bus: Count = 1
    """Channels that share the row- and column-command buses: the two pseudo-channels of an HBM channel."""
    channel_width_bits: Count
    burst_length: Count
    transfers_per_clock: Annotated[float, Field(strict=True, gt=0)]
    """Data transfers of a pin in one clock of the command bus."""
    half_clocks: bool = False
    """Precharges may also start on a falling clock edge."""
    command_clocks: CommandClocks = CommandClocks()
    banks: Count
    """Banks of one channel, over all bank groups and stack IDs."""
    bank_groups: Count
    """Bank groups of one channel and stack ID."""
    stack_ids: Count = 1
    rows: Count
    """Rows of one bank."""
    row_bytes: Count
    """Row buffer of one bank, as one channel sees it."""
    timings: Timings
    mapping: MappingSpec
    energy: DramEnergy
    provenance: ProvenanceMap = Field(default_factory=dict)

    @property
    def burst_bytes(self) -> int:
        """Bytes of one burst on one channel."""
        return self.channel_width_bits * self.burst_length // 8

    @property
    def banks_per_group(self) -> int:
        """Banks of one bank group."""
        return self.banks // (self.bank_groups * self.stack_ids)

    @model_validator(mode="after")
    def _is_consistent(self) -> MemoryStandard:
        t = self.timings

        def ns(seconds: float) -> str:
            return f"{seconds * 1e9:g} ns"

        for path, holds, text in (
            ("timings.trc", t.trc >= 0.98 * (t.tras + t.trp),
             f"tRC {ns(t.trc)} is less than tRAS + tRP = {ns(t.tras + t.trp)}"),
            ("timings.tfaw", t.tfaw >= t.trrd, f"tFAW {ns(t.tfaw)} is less than tRRD {ns(t.trrd)}"),
            ("timings.tras", t.tras >= t.trcd, f"tRAS {ns(t.tras)} is less than tRCD {ns(t.trcd)}"),
            ("timings.trefi", t.trefi == 0 or t.trefi > t.trfc,
             f"tREFI {ns(t.trefi)} leaves no time beside a refresh of {ns(t.trfc)}"),
            ("banks", self.banks % (self.bank_groups * self.stack_ids) == 0,
             f"{self.banks} banks cannot be split over {self.stack_ids} stack IDs x {self.bank_groups} bank groups"),
            ("row_bytes", self.row_bytes % self.burst_bytes == 0,
             f"a row of {self.row_bytes} bytes is not a whole number of bursts of {self.burst_bytes} bytes"),
            ("channels_per_stack", self.channels_per_stack % self.channels_per_command_bus == 0,
             f"{self.channels_per_stack} channels cannot share command buses by {self.channels_per_command_bus}"),
        ):  # fmt: skip
            if not holds:
                raise PydanticCustomError("contradiction", "{text}", {"path": path, "text": text})
        return self


class MemorySpec(Spec):
    """The memory of one chip."""

    standard: MemoryStandard
    """Name of a file in configs/memory, or the standard itself."""
    stacks: Count
    """HBM stacks, or GDDR/LPDDR devices."""
    capacity: Size
    bandwidth: Bandwidth
    """Peak; it sets the data rate."""
    latency: Time
    """Unloaded controller, PHY and path, beyond the DRAM timings, the cache and the network."""
    interleave: Size = 256
    """Consecutive bytes on one channel before the next one."""
    hashed: bool = True
    """Whether an address hash spreads strides over the channels: each row of chunks over all channels is turned by a
    number of its own. Chips have such hashes; which ones is not public."""
    mapping: MappingSpec | None = None
    """Of addresses within a channel; that of the standard if it is not given."""
    controller: ControllerSpec = ControllerSpec()
    ecc_overhead: Annotated[float, Field(strict=True, ge=0, le=0.5)] = 0.0
    """Share of the capacity that the codes of error correction in band take (none where they have their own pins); what
    they take of the bandwidth follows, see :attr:`code_bursts`."""
    outstanding: Size | None = None
    """Bytes of reads of all cores together that may be under way at once; without it only the controllers' queues bind.
    """
    reserved: Size | None = None
    """Capacity that models cannot use: spare rows, firmware, the driver's own."""

    @property
    def channels(self) -> int:
        """Independent channels (pseudo-channels in HBM)."""
        return self.stacks * self.standard.channels_per_stack

    @property
    def data_rate(self) -> float:
        """Transfers per second and pin: bandwidth / (channels x width)."""
        return self.bandwidth * 8 / (self.channels * self.standard.channel_width_bits)

    @property
    def burst_time(self) -> float:
        """Seconds that one burst holds its channel's bus."""
        return self.standard.burst_length / self.data_rate

    @property
    def code_bursts(self) -> int:
        """Bursts of codes for each `interleave` of data on a channel, which are whole bursts of their own.

        What a controller keeps of the codes for the next piece is left out.
        """
        share = self.ecc_overhead / (1.0 - self.ecc_overhead)
        return ceil(share * self.interleave / self.standard.burst_bytes)

    @property
    def usable_capacity(self) -> float:
        """Bytes that a model can use."""
        return self.capacity * (1.0 - self.ecc_overhead) - (self.reserved or 0.0)
