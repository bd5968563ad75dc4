import numpy as np
from numpy.typing import NDArray

def walk_program(
    kind: NDArray[np.int8],
    latency_ps: NDArray[np.int64],
    hit_ps: NDArray[np.int64],
    as_per_byte: NDArray[np.int64],
    route_start: NDArray[np.int32],
    route_resources: NDArray[np.int32],
    route: NDArray[np.int32],
    work_ps: NDArray[np.int64],
    nbytes: NDArray[np.int64],
    write: NDArray[np.uint8],
    weight: NDArray[np.int32],
    pred_start: NDArray[np.int64],
    preds: NDArray[np.int32],
    ready: NDArray[np.int64],
    finish: NDArray[np.int64],
    after: NDArray[np.int64],
    head: NDArray[np.int64],
    work: NDArray[np.int64],
    more: NDArray[np.int64],
    tail: NDArray[np.int64],
) -> int: ...
