from typing import Any

import numpy as np
from numpy.typing import NDArray

class MemoryKernel:
    def __init__(
        self, dram: dict[str, Any], tables: NDArray[np.uint64] | None, capacity_blocks: int, cache: dict[str,
        Any]) -> None: ...
    def reset(self) -> None: ...
    def access(
        self,
        t: NDArray[np.int64],
        address: NDArray[np.int64],
        nbytes: NDArray[np.int64],
        write: NDArray[np.uint8],
        runs: NDArray[np.int64],
        stride: NDArray[np.int64],
        head: NDArray[np.int64],
        done: NDArray[np.int64],
    ) -> None: ...
    def access_in_order(
        self,
        address: NDArray[np.int64],
        nbytes: NDArray[np.int64],
        write: NDArray[np.uint8],
        done: NDArray[np.int64],
    ) -> None: ...
    def read_counters(self) -> dict[str, int]: ...
