"""Off-chip memory: a DRAM standard (organisation and timings) and what a chip attaches of it."""

from __future__ import annotations

from pydantic import Field

from archsim.hardware.spec import Count, ProvenanceMap, Spec
from archsim.units import Bandwidth, Size, Time, TransferRate

__all__ = ["MemorySpec", "MemoryStandard", "Timings"]


class Timings(Spec):
    """DRAM timings, by their JEDEC names."""

    trcd: Time
    """Activate to read."""
    trp: Time
    """Precharge."""
    tras: Time
    """Activate to precharge."""
    trc: Time
    """Activate to activate, same bank."""
    trrd: Time
    """Activate to activate, other bank."""
    tfaw: Time
    """Window for four activates."""
    tcl: Time
    """Read command to first data."""
    twtr: Time
    """Bus idle from the end of write data to the next read command."""
    trtw: Time
    """Read command to write command."""
    trefi: Time
    """Interval between refreshes (0: none)."""
    trfc: Time
    """The channel is blocked this long by a refresh."""


class MemoryStandard(Spec):
    """One DRAM standard. A channel is the unit that transfers on its own: a pseudo-channel in HBM."""

    name: str
    title: str
    data_rate: TransferRate
    """Top rate of a pin."""
    channels_per_stack: Count
    """Channels of one stack (HBM) or one device (GDDR, LPDDR)."""
    channel_width_bits: Count
    burst_length: Count
    banks: Count
    """Banks of one channel, over all bank groups."""
    row_bytes: Count
    """Row buffer of one bank, as one channel sees it."""
    timings: Timings
    provenance: ProvenanceMap = Field(default_factory=dict)

    @property
    def burst_bytes(self) -> int:
        """Bytes of one burst on one channel."""
        return self.channel_width_bits * self.burst_length // 8


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
