from typing import Any

import numpy as np
from numpy.typing import NDArray

class DramCycleKernel:
    logged: int
    def __init__(
        self,
        channel_count: int,
        interleave: int,
        burst_shift: int,
        tables: NDArray[np.uint64],
        timing: dict[str, int],
        organisation: dict[str, int],
        controller: dict[str, Any],
    ) -> None: ...
    def run(
        self,
        address: NDArray[np.int64],
        write: NDArray[np.uint8],
        due: NDArray[np.int64],
        arrive: NDArray[np.int64],
        done: NDArray[np.int64],
        serial: bool,
        separate: bool,
        log: NDArray[np.int64],
    ) -> None: ...
    def offer(self, tag: int, address: NDArray[np.int64], write: bool, tick: int) -> None: ...
    def advance(self, until: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]: ...
    def activates(self) -> int: ...
    def totals(self) -> list[dict[str, int]]: ...
