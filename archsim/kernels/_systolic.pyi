import numpy as np
from numpy.typing import NDArray

def walk_folds(
    down: int,
    across: int,
    last_high: int,
    last_wide: int,
    rows: int,
    cols: int,
    words: int,
    stream: int,
    shift: int,
    outputs_stay: bool,
    overlap: bool,
    drains: bool,
    down_rate: int,
    across_rate: int,
    out_rate: int,
    loaded: NDArray[np.int64],
    begun: NDArray[np.int64],
    ended: NDArray[np.int64],
    drained: NDArray[np.int64],
    timeline: NDArray[np.int64],
) -> int: ...
