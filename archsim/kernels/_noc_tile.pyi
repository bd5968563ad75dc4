import numpy as np
from numpy.typing import NDArray

class NocTileKernel:
    packet_hops: int
    def run(
        self,
        flight: NDArray[np.int32],
        room_cycles: NDArray[np.int32],
        room: NDArray[np.int64],
        beat: NDArray[np.int64],
        rank: NDArray[np.int32],
        ports: NDArray[np.int32],
        links: int,
        nodes: int,
        lanes: int,
        split: int,
        ready_cycles: int,
        gap: int,
        hops: NDArray[np.int32],
        halves: NDArray[np.int8],
        kind: NDArray[np.int32],
        source: NDArray[np.int32],
        flits: NDArray[np.int32],
        route: NDArray[np.int64],
        releases: NDArray[np.int32],
        held: NDArray[np.uint8],
        length: NDArray[np.int32],
        waits: NDArray[np.int32],
        next_start: NDArray[np.int32],
        nexts: NDArray[np.int32],
        created: NDArray[np.int64],
        injected: NDArray[np.int64],
        arrived: NDArray[np.int64],
        carried: NDArray[np.int64],
    ) -> None: ...
