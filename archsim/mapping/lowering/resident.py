"""Products and convolutions with one operand resident in the scratchpad: what XLA makes of them on a TPU.

The smaller operand (or a panel of it, where it exceeds half of the scratchpad) is fetched whole; then the larger one
streams past in windows, two at a time, and the windows of the result stream out::

    panel:   load resident -> [ load window -> multiply -> epilogue -> store window ] ...

The next panel is fetched when the last window of the present one (or of the one before, where two panels fit in half of
the scratchpad) has been multiplied. A convolution streams its input:
each window of output rows needs its own input rows and the halo of the kernel, never the expanded matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from archsim.errors import InputError
from archsim.mapping.lowering.table import Lowered, StepTable
from archsim.mapping.target import Target
from archsim.models.vector import COSTS, VectorCost

__all__ = ["Streaming", "lower_resident"]

A, B, C = 0, 1, 2
#: bytes of one transfer, so that a large one spreads over channels and keeps several in flight
PIECE_BYTES = 256 * 1024
#: a product is cut so often at least, rows permitting, that its transfers overlap its multiplications
FEWEST_WINDOWS = 4


@dataclass(frozen=True)
class Streaming:
    """A product of ``m x k`` (streamed) with ``k x n`` (resident); bytes are those that memory holds, padding included.

    ``in_bytes`` and ``out_bytes``: of all the m streamed rows. ``resident_bytes``: of all n columns. ``batch``: equal
    products one after the other. ``halo``: streamed bytes that a window needs beyond its own. ``taps``: positions of a
    convolution's kernel, each of which is a product of its own over k input channels.
    """

    m: int
    n: int
    k: int
    dtype: str
    in_bytes: int
    resident_bytes: int
    out_bytes: int
    batch: int = 1
    taps: int = 1
    halo: int = 0


def lower_resident(
    target: Target, name: str, work: Streaming, tensors: tuple[int, int, int], epilogue: VectorCost = COSTS["cast"]
) -> Lowered:
    """The Program of ``work`` on the cores of ``target``, which share out its batch and rows."""
    if target.cores != 1:
        raise InputError(f"{name}: resident products are lowered for one core, {target.name} has {target.cores}")
    half = target.scratchpad_bytes // 2
    panels = min(-(-work.resident_bytes // half), work.n)
    per_window = (work.in_bytes + work.out_bytes / panels) / work.m
    shortest = target.tile_floor()[2]  # a shorter stream would not hide the loading of the next weights
    rows = min(_window_bytes(target, work) / per_window, work.m / FEWEST_WINDOWS)
    rows = int(np.clip(rows // shortest * shortest, shortest, work.m))
    windows = -(-work.m // rows)
    pieces = max(1, -(-work.resident_bytes // panels // PIECE_BYTES))

    size = pieces + 4 * windows
    count = work.batch * panels
    table = StepTable(target, count * size)
    first = (np.arange(count) * size)[:, None]
    product, panel = np.divmod(np.arange(count), panels)
    piece, w = np.arange(pieces), np.arange(windows)
    core = np.zeros((count, 1), dtype=np.int64)
    resident = first + piece
    load, multiply, finish, store = (first + pieces + 4 * w + i for i in range(4))

    share = work.resident_bytes // panels
    begin = share * piece // pieces
    table.load(
        resident, core + 0 * resident, B, (product * work.resident_bytes + panel * share)[:, None] + begin,
        np.broadcast_to(share * (piece + 1) // pieces - begin, resident.shape),
    )  # fmt: skip
    row = w * rows
    take = np.minimum(rows, work.m - row)
    origin = product[:, None] * work.in_bytes + work.in_bytes * row // work.m
    here = core + 0 * load
    wanted = np.minimum(work.in_bytes * take // work.m + (work.halo if windows > 1 else 0), work.in_bytes)
    table.load(load, here, A, np.minimum(origin, (product[:, None] + 1) * work.in_bytes - wanted), wanted + 0 * load)
    columns = -(-work.n // panels)
    table.multiply(multiply, here, take, columns, work.taps * -(-work.k // shortest) * shortest, work.dtype)
    table.vector(finish, here, target.vector_cycles(take * columns, epilogue) + 0 * finish)
    out = work.out_bytes // panels
    table.store(
        store, here, C, (product * work.out_bytes + panel * out)[:, None] + out * row // work.m,
        out * take // work.m + 0 * store,
    )  # fmt: skip

    ahead = 2 if 2 * share <= half else 1  # panels that fit side by side
    flat_load, flat_multiply = load.ravel(), multiply.ravel()
    table.after(flat_load[2:], flat_multiply[:-2])  # two windows are in the scratchpad at once
    table.after(multiply, load)
    for each in range(pieces):
        table.after(multiply[:, 0], resident[:, each])
        table.after(resident[ahead:, each], multiply[:-ahead, -1])
    table.after(finish, multiply)
    table.after(store, finish)
    return table.build(
        name, ["streamed", "resident", "result"], list(tensors),
        f"{panels} resident panels, {windows} windows of {rows} rows",
    )  # fmt: skip


def _window_bytes(target: Target, work: Streaming) -> float:
    """A window that keeps the memory busy for its loaded latency, and that fits twice beside the resident panel."""
    room = (target.scratchpad_bytes - min(work.resident_bytes, target.scratchpad_bytes // 2)) / 4
    return min(room, max(PIECE_BYTES, target.dram_bytes_per_s * target.loaded_latency_s))
