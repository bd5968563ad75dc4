"""What every router of a network is: its virtual channels, its buffers and the length of its pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from archsim.errors import InputError

__all__ = ["NODE_CYCLES", "Router", "zero_load_cycles"]

#: cycles on the wire between a node and its router
NODE_CYCLES = 1


@dataclass(frozen=True)
class Router:
    """An input-queued router with virtual channels and credits.

    A head flit takes `route_cycles` to learn its way (0: the router before has looked ahead), a cycle to get an output
    virtual channel, a cycle to get the switch (the same one with `speculative`), and `switch_cycles` to cross it; body
    flits follow through the switch only.

    | field           | meaning                                                                           |
    | --------------- | --------------------------------------------------------------------------------- |
    | `vcs`           | virtual channels of each port                                                     |
    | `buffer_flits`  | flits that each virtual channel can hold                                          |
    | `credit_cycles` | cycles in which a router takes in a credit, after the wire                        |
    | `tail_credit`   | a virtual channel is given away again only when its last credit is back           |
    | `input_speedup` | inputs that a port has at the switch; its virtual channels are dealt out to them  |
    | `classes`       | classes of messages that share the virtual channels out (2: requests and replies) |
    """

    vcs: int = 4
    buffer_flits: int = 8
    route_cycles: int = 0
    switch_cycles: int = 1
    credit_cycles: int = 1
    speculative: bool = False
    tail_credit: bool = False
    input_speedup: int = 1
    classes: int = 1

    def __post_init__(self) -> None:
        for name, least, most in (
            ("vcs", 1, 64),
            ("buffer_flits", 1, 4096),
            ("route_cycles", 0, 1000),
            ("switch_cycles", 1, 1000),
            ("credit_cycles", 0, 1000),
            ("input_speedup", 1, 64),
            ("classes", 1, 64),
        ):
            if not least <= getattr(self, name) <= most:
                raise InputError(f"router: {name} is {getattr(self, name)}, but must be between {least} and {most}.")
        if self.vcs % self.classes:
            raise InputError(f"router: {self.vcs} virtual channels do not divide among {self.classes} classes.")
        if self.vcs % self.input_speedup:
            raise InputError(f"router: {self.vcs} virtual channels do not divide among {self.input_speedup} inputs.")

    @property
    def pipeline_cycles(self) -> int:
        """Cycles of a head flit in one router."""
        return self.route_cycles + (1 if self.speculative else 2) + self.switch_cycles

    def credit_loop(self, link_cycles: int) -> int:
        """Cycles before a buffer slot can be used again: a virtual channel streams buffer_flits per loop.

        Getting the switch and crossing it, the wire, getting the next switch, the credit's wire and its intake.

        >>> Router().credit_loop(link_cycles=1)
        6
        """
        return self.switch_cycles + 2 * (link_cycles + 1) + self.credit_cycles

    def ranges(self, halved: bool) -> list[tuple[int, int]]:
        """First and last virtual channel of each kind of hop (lower half, upper half, any), class by class."""
        share = self.vcs // self.classes
        if halved and share < 2:
            raise InputError(
                f"router: {self.vcs} virtual channels in {self.classes} classes leave {share} for each, but this "
                "routing splits each class in two halves to stay free of deadlock."
            )
        found = []
        for first in range(0, self.vcs, share):
            middle, last = first + share - share // 2, first + share - 1
            found += [(first, middle - 1), (min(middle, last), last), (first, last)]
        return found


def zero_load_cycles(router: Router, hops: int, flits: int, link_cycles: int) -> int:
    """Latency of a packet in an empty network, from its head leaving the node to its tail arriving.

        T = H P + L + 2 N + 1 + (S - 1)

    | symbol | meaning                                     | unit   |
    | ------ | ------------------------------------------- | ------ |
    | H      | routers on the way (`hops`)                 | -      |
    | P      | pipeline of a router                        | cycles |
    | L      | wires between the routers, summed           | cycles |
    | N      | wire between a node and its router          | cycles |
    | S      | flits of the packet                         | -      |

    Assumes buffers that cover the credit loop. Reference: BookSim 2 (single packets, run one by one): 3 H + (H - 1) L +
    3 + (S - 1) with the default router.

    >>> zero_load_cycles(Router(), hops=8, flits=20, link_cycles=7)
    53
    """
    return hops * router.pipeline_cycles + link_cycles + 2 * NODE_CYCLES + 1 + flits - 1
