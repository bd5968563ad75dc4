import numpy as np
from numpy.typing import NDArray

class NocCycleKernel:
    now_cycle: int
    hops_done: int
    packets_done: int
    overflowed: bool
    def __init__(
        self,
        vcs: int,
        depth: int,
        lanes_per_port: int,
        route_cycles: int,
        switch_cycles: int,
        credit_cycles: int,
        speculative: bool,
        tail_credit: bool,
        link_from: NDArray[np.int32],
        link_to: NDArray[np.int32],
        link_cycles: NDArray[np.int32],
        out_rank: NDArray[np.int32],
        in_rank: NDArray[np.int32],
        node_router: NDArray[np.int32],
        node_rank: NDArray[np.int32],
        ports: NDArray[np.int32],
        node_cycles: int,
        hops: NDArray[np.int32],
        hop_kind: NDArray[np.int8],
        allowed: NDArray[np.uint64],
    ) -> None: ...
    def add(
        self,
        created: NDArray[np.int64],
        source: NDArray[np.int32],
        flits: NDArray[np.int32],
        route: NDArray[np.int64],
        kind: NDArray[np.int32],
        releases: NDArray[np.int32],
        held: NDArray[np.uint8],
    ) -> None: ...
    def times(self, created: NDArray[np.int64], injected: NDArray[np.int64], arrived: NDArray[np.int64]) -> None: ...
    def counts(self, carried: NDArray[np.int64], accepted: NDArray[np.int64]) -> None: ...
    def run(self, until: int, drain: bool) -> bool: ...
