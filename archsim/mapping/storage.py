"""How tensors are stored, and which bytes a tile of one consists of.

A tile of ``rows x cols`` elements of a row-major matrix is so many runs of ``cols`` elements, one every row of the
matrix; of a tiled one, which compilers and converters of weights write in the order in which kernels read, it is one
run. A paged KV cache consists of pages of so many tokens anywhere in a pool, with the tokens of one head together::

    page p, key/value head h:  place[p] * page bytes + h * page size * bytes of a key

The pages of a pool are in an order as random as after hours of serving (drawn once, the same every time). Experts are
one stack, as in vLLM, SGLang and TensorRT-LLM, or scattered: separate tensors in any order.

Reference: Kwon et al., "Efficient memory management for large language model serving with PagedAttention", SOSP 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archsim.errors import InputError, did_you_mean
from archsim.hardware import ChipSpec

__all__ = ["Runs", "Storage", "checked", "page_runs", "shuffled", "tile_runs"]

Ints = NDArray[np.int64]

MATRICES, CACHES, EXPERTS = ("row_major", "tiled"), ("contiguous", "paged"), ("stacked", "scattered")


@dataclass(frozen=True)
class Storage:
    """Layout of each kind of tensor.

    page_size: tokens of a page of the KV cache; by default 16 as in vLLM, and 64 of a latent array as in FlashMLA.
    """

    weights: Literal["row_major", "tiled"] = "tiled"
    activations: Literal["row_major", "tiled"] = "tiled"
    kv_cache: Literal["contiguous", "paged"] = "paged"
    page_size: int | None = None
    experts: Literal["stacked", "scattered"] = "stacked"

    @classmethod
    def usual(cls, chip: ChipSpec) -> Storage:
        """What is usual on such a chip: pages on GPUs, contiguous caches on systolic arrays.

        XLA and the compilers of NPUs store tiles. Frameworks on GPUs store rows; as long as a kernel's tile has runs of
        256 B, as those of libraries have, that costs 1 to 5 % more, for three times the work to simulate.
        """
        return cls() if chip.core.matrix.kind == "tensor_core" else cls(kv_cache="contiguous")

    def page(self, *, latent: bool) -> int:
        """Tokens of a page; latent: keys and values are one array."""
        return self.page_size or (64 if latent else 16)

    def __str__(self) -> str:
        cache = f"in pages of {self.page(latent=False)} tokens" if self.kv_cache == "paged" else "contiguous"
        names = {"row_major": "row-major", "tiled": "tiled"}
        return (
            f"weights {names[self.weights]}, activations {names[self.activations]}, KV cache {cache}, "
            f"experts {self.experts}"
        )


def checked(given: Mapping[str, Any], where: Callable[[str], str] = lambda key: "layout") -> dict[str, Any]:
    """The fields of a `Storage` that a user gives; ``where``: the place of a key, for the sentence about its value."""
    legal = {"weights": MATRICES, "activations": MATRICES, "kv_cache": CACHES, "experts": EXPERTS}
    known = ("weights", "activations", "kv_cache", "page_size", "experts")
    for key, value in given.items():
        if key not in known:
            guess = did_you_mean(key, known)
            raise InputError(f"{where(key)}: {key}: unknown key{guess}; legal are {', '.join(known)}")
        if key == "page_size":
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 2**20:
                raise InputError(f"{where(key)}: page_size is {value}, but must be whole tokens, 1 to 1,048,576")
        elif value not in legal[key]:
            raise InputError(f"{where(key)}: {key} is {value}, but must be {' or '.join(legal[key])}")
    if "page_size" in given and given.get("kv_cache") == "contiguous":
        raise InputError(f"{where('page_size')}: page_size is given, but a contiguous kv_cache has no pages")
    return {"kv_cache": "paged", **given} if "page_size" in given else dict(given)


class Runs(NamedTuple):
    """Where the bytes of transfers lie: the arguments of `StepTable.load` and `store`."""

    offset: Ints
    nbytes: Ints
    runs: Ints
    stride: Ints


def tile_runs(
    layout: str, row: ArrayLike, col: ArrayLike, rows: ArrayLike, cols: ArrayLike, *, width: int, element_bytes: float,
    part: tuple[ArrayLike, int] = (0, 1),
) -> Runs:  # fmt: skip
    """Tiles of a matrix of ``width`` columns; scales of blocks lie with their elements.

    part: which of how many parts of its rows is wanted of each tile.

    >>> [int(x) for x in tile_runs("row_major", 64, 128, 32, 64, width=4096, element_bytes=2.0)]
    [524544, 4096, 32, 8192]
    >>> [int(x) for x in tile_runs("tiled", 64, 128, 32, 64, width=4096, element_bytes=2.0)]
    [532480, 4096, 1, 0]
    """
    which, parts = part
    row, col, rows, cols, which = (np.asarray(x, dtype=np.int64) for x in (row, col, rows, cols, which))
    begin = rows * which // parts
    taken = rows * (which + 1) // parts - begin
    if layout == "tiled":
        offset = np.floor((row * width + col * rows + begin * cols) * element_bytes).astype(np.int64)
        nbytes = np.ceil(taken * cols * element_bytes).astype(np.int64)
        return Runs(*np.broadcast_arrays(offset, nbytes, np.int64(1), np.int64(0)))
    pitch = max(round(width * element_bytes), 1)
    whole = cols >= width  # rows without a gap between them
    run = np.where(whole, pitch, np.where(cols > 0, np.maximum(np.rint(cols * element_bytes), 1), 0)).astype(np.int64)
    offset = (row + begin) * pitch + np.floor(col * element_bytes).astype(np.int64)
    runs = np.where(whole | (taken < 1), 1, taken)
    return Runs(*np.broadcast_arrays(offset, taken * run, runs, np.int64(pitch)))


def page_runs(
    cache: Ints, head: Ints, begin: Ints, keys: Ints, *, heads: int, length: int, page: int, key_bytes: float
) -> tuple[Ints, Ints, Ints]:
    """The runs of ranges of keys in a paged cache: how many each range has, its list in the offsets, and these.

    cache: the sequence of each range; it has ``length`` keys of ``heads`` heads. Whole pages are a run each, the rest
    is cut as finely as it must be for equal runs.
    """
    unit = np.gcd(np.gcd(begin, keys), page)
    runs = np.where(keys > 0, keys // np.maximum(unit, 1), 0)
    pages = -(-length // page)
    place = shuffled((int(cache.max(initial=-1)) + 1) * pages)
    which = np.repeat(np.arange(len(runs)), runs)
    first = np.cumsum(runs) - runs
    key = begin[which] + (np.arange(len(which)) - first[which]) * unit[which]
    number = place[cache[which] * pages + key // page]
    slot = (number * heads + head[which]) * page + key % page
    return runs, np.where(runs > 0, first, -1), np.floor(slot * key_bytes).astype(np.int64)


def shuffled(count: int) -> Ints:
    """The numbers up to ``count`` in an order without order, the same every time."""
    return cast(Ints, np.random.default_rng(count).permutation(count).astype(np.int64))
