"""Links between chips: what one chip puts on a fabric, and how software moves data over it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from archsim.hardware.spec import Count, Spec
from archsim.units import Bandwidth, Size, Time

__all__ = ["LinkSpec", "TopologyName", "TransportName", "TransportSpec"]

TopologyName = Literal["switch", "full_mesh", "torus", "ring", "point_to_point", "fat_tree"]
TransportName = Literal["ll", "ll128", "simple", "p2p_ll", "p2p", "in_switch", "direct", "pull", "expert"]

Share = Annotated[float, Field(strict=True, gt=0, le=1)]


class TransportSpec(Spec):
    """One way in which software moves data over a link: a protocol of a library, or a kernel of its own.

    | name | mechanism |
    | --- | --- |
    | `ll` | a flag with every word: half of the wire, no fence, lowest latency |
    | `ll128` | a flag with every 120 bytes: at most 120/128 of the wire |
    | `simple` | chunks, each followed by a fence and a flag |
    | `p2p_ll`, `p2p` | send and receive between pairs, in the manner of `ll` and of `simple` |
    | `in_switch` | loads that the switch reduces and stores that it multicasts (NVLS) |
    | `direct` | one kernel that writes into its peers' buffers (custom all-reduce of TensorRT-LLM) |
    | `pull` | one kernel that reads its peers' buffers, between two barriers (custom all-reduce of vLLM) |
    | `expert` | one kernel that sends tokens to experts and back (DeepEP) |
    """

    launch: Time
    """From the launch to the first byte, and from the last byte to the end of the kernel."""
    latency: Time
    """What one step adds to the time on the wire: flag, fence, and the wire itself unless it is one of a ring."""
    efficiency: Share
    """Payload over line rate while data flow."""
    copy_bandwidth: Bandwidth | None = None
    """Rate at which a chip copies its own block into place, which no link hides; none: nothing is copied."""
    message_overhead: Time = 0.0
    """Time that each message takes of its port beyond its bytes."""
    row_overhead: Time = 0.0
    """Time of the sender's cores for each row of a message, beside that of the wire, where they write rows singly."""
    row_cores: Annotated[int, Field(strict=True, ge=0)] = 0
    """Cores that write them, and have no time for kernels beside."""
    post: Time = 0.0
    """Time of the sender's cores to hand few messages over to cards, which do the rest beside other kernels."""
    post_row: Time = 0.0
    """The same for each row of these messages."""
    receive: Time = 0.0
    """Time of the receiver's cores, once all has come, to see that it has and to put it into place."""
    receive_row: Time = 0.0
    """The same for each row."""
    lane: Bandwidth | None = None
    """Most that one pair of chips reaches, where a message keeps to one channel or few loads are under way."""
    cores: Annotated[int, Field(strict=True, ge=0)] | None = None
    """Cores that a collective of this transport occupies; none: as many as the link says."""
    core_bandwidth: Bandwidth | None = None
    """Most that one core sends, where a kernel does not spread every message over all of its cores."""
    core_share: Size | None = None
    """Bytes of a message that such a core sends before the next one joins in."""

    @property
    def issues(self) -> bool:
        """Whether messages take time of the sender's cores."""
        return bool(self.message_overhead or self.row_overhead or self.core_bandwidth)

    def issue_s(self, nbytes: int, cores: int, rows: float = 0.0) -> float:
        """Time of the sender's cores for a message, one after the other: overheads, and the share of one core.

            t = o + n r + min(S, max(s, S / c)) / b

        o, r: overhead of the message, of each of its n rows; S, s: bytes of the message, of a core's share; c: most
        cores; b: rate.

        >>> spec = TransportSpec(
        ...     launch="0 us", latency="0 us", efficiency=0.5, core_bandwidth="16 GB/s", core_share="8 KiB"
        ... )
        >>> [round(spec.issue_s(nbytes << 10, 24) * 1e9) for nbytes in (4, 8, 64, 384)]
        [256, 512, 512, 1024]
        """
        overhead = self.message_overhead + rows * self.row_overhead
        if self.core_bandwidth is None or self.core_share is None:
            return overhead
        share = min(nbytes, max(self.core_share, nbytes / max(cores, 1)))
        return overhead + share / self.core_bandwidth

    @model_validator(mode="after")
    def _share_has_a_rate(self) -> TransportSpec:
        if (self.core_bandwidth is None) != (self.core_share is None):
            missing = "core_share" if self.core_share is None else "core_bandwidth"
            text = "is missing: core_bandwidth and core_share go together"
            raise PydanticCustomError("contradiction", "{text}", {"path": missing, "text": text})
        return self


class LinkSpec(Spec):
    """What one chip puts on a fabric."""

    name: str
    bandwidth: Bandwidth
    """Line rate, per direction and chip, over all its ports."""
    latency: Time
    """One chip to another, small message."""
    topology: TopologyName
    domain: Count
    """Most chips that one fabric of this kind joins."""
    efficiency: Share
    """Sustained over line rate for large messages."""
    message_overhead: Time = 0.0
    """Time that each message takes of its port beyond its bytes: headers, a work request."""
    ramp: Size | None = None
    """Bytes over which a port comes up to speed: it loses the time of that many (`e`-folding)."""
    planes: Count = 1
    """Parallel networks that share the bandwidth; a message keeps to one."""
    oversubscription: Annotated[float, Field(strict=True, ge=1)] = 1.0
    """Bandwidth of the ports under a leaf switch of a fat tree over that of its uplinks."""
    leaf: Count | None = None
    """Chips under one switch; a message to others goes through a second level of switches."""
    spine_latency: Time = 0.0
    """What the second level adds to the time of a message."""
    cores: Annotated[int, Field(strict=True, ge=0)] = 0
    """Cores that a collective occupies, unless its transport says otherwise; 0 where engines do the work."""
    transports: dict[TransportName, TransportSpec] = Field(default_factory=dict)
    """How software uses the link; none: one transport of `latency` and `efficiency` without launch cost."""

    def cores_of(self, spec: TransportSpec | None) -> int:
        """Cores that a collective of a transport occupies."""
        return self.cores if spec is None or spec.cores is None else spec.cores

    @property
    def sustained(self) -> float:
        """Bytes per second, per direction and chip, that large messages reach."""
        return self.bandwidth * self.efficiency

    @property
    def best_efficiency(self) -> float:
        """The largest share of the line rate that any transport reaches."""
        return max([self.efficiency, *(t.efficiency for t in self.transports.values())])

    @model_validator(mode="after")
    def _frames_fit(self) -> LinkSpec:
        """A protocol cannot carry more than its framing leaves."""
        framing: dict[TransportName, float] = {"ll": 1 / 2, "p2p_ll": 1 / 2, "ll128": 120 / 128}
        for name, most in framing.items():
            if name in self.transports and self.transports[name].efficiency > most:
                path = f"transports.{name}.efficiency"
                text = f"{self.transports[name].efficiency:g}, but the flags of {name} leave at most {most:g}"
                raise PydanticCustomError("contradiction", "{text}", {"path": path, "text": text})
        if self.leaf and self.topology not in ("switch", "fat_tree"):
            text = f"{self.leaf}, but a {self.topology} has no switches"
            raise PydanticCustomError("contradiction", "{text}", {"path": "leaf", "text": text})
        if self.topology == "point_to_point" and self.domain > 2:
            text = f"{self.domain}, but a point-to-point link joins two chips"
            raise PydanticCustomError("contradiction", "{text}", {"path": "domain", "text": text})
        return self
