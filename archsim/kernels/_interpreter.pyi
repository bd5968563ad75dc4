import numpy as np
from numpy.typing import NDArray

from archsim.kernels._memory import MemoryKernel

class InterpreterKernel:
    now_ps: int
    next_ps: int
    def __init__(
        self,
        kind: NDArray[np.int8],
        latency_ps: NDArray[np.int64],
        as_per_byte: NDArray[np.int64],
        room: NDArray[np.int64],
        memories: list[MemoryKernel | None],
    ) -> None: ...
    def reset(self) -> None: ...
    def submit(
        self,
        order: int,
        start_ps: int,
        route_start: NDArray[np.int32],
        route_resources: NDArray[np.int32],
        route: NDArray[np.int32],
        work_ps: NDArray[np.int64],
        nbytes: NDArray[np.int64],
        address: NDArray[np.int64],
        write: NDArray[np.uint8],
        priority: NDArray[np.int32],
        weight: NDArray[np.int32],
        room: NDArray[np.int32],
        partition: NDArray[np.int8],
        runs: NDArray[np.int32],
        stride: NDArray[np.int64],
        gather: NDArray[np.int64],
        gather_offsets: NDArray[np.int64],
        succ_start: NDArray[np.int64],
        succs: NDArray[np.int32],
        pred_start: NDArray[np.int64],
        out_start: NDArray[np.int64],
        out_finish: NDArray[np.int64],
        busy_ps: NDArray[np.int64],
    ) -> None: ...
    def settle(self, time: int) -> int: ...
    def advance(self, until: int) -> int: ...
    def collect(self) -> list[tuple[int, int, dict[str, int]]]: ...
