"""Routing of tokens to experts as data on a trace: by name, or measured elsewhere and read from a file.

Files are read as data only (no pickle, no links out of an HDF5 file), and every size is checked before it is allocated.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archsim._h5file import own_dataset
from archsim.errors import InputError, did_you_mean
from archsim.trace.moe import ROUTINGS, whole_rows
from archsim.trace.trace import OpSpec, Trace

__all__ = ["describe_routing", "measured_routing", "routed"]

_MAX_BYTES = 1 << 30
_SUFFIXES = (".npy", ".h5", ".hdf5", ".csv")
_DATASET = "routed_experts"


def routed(trace: Trace, routing: str) -> Trace:
    """`trace` with its tokens routed to experts by `routing`.

    `routing` is ``uniform``, ``balanced``, ``zipf:S`` (`archsim.trace.moe.expert_counts` says what they mean), or the
    path of a file of measured routing (`measured_routing`), whose counts then travel with the trace.
    """
    kind = routing.partition(":")[0]
    file = Path(routing) if Path(routing).suffix in _SUFFIXES else None
    if file is None and kind not in ROUTINGS:
        raise InputError(
            f"unknown expert routing '{routing}'{did_you_mean(kind, ROUTINGS)}; it is uniform, balanced, zipf:S or "
            f"a file of measured routing ({', '.join(_SUFFIXES)})"
        )
    texts: dict[tuple[int, int], str] = {}

    def rerouted(op: OpSpec) -> OpSpec:
        if op.kind not in ("grouped_matmul", "moe_dispatch"):
            return op
        always = int(op.attrs.get("always") or 0)
        size = (op.dims["experts"].evaluate({}) - always, op.dims["top_k"].evaluate({}) - always)
        if size not in texts:
            texts[size] = routing if file is None else measured_routing(file, *size)
        return replace(op, attrs={**op.attrs, "routing": texts[size]})

    blocks = tuple(replace(block, ops=tuple(map(rerouted, block.ops))) for block in trace.blocks)
    if not texts:
        raise InputError(f"{trace.name} has no experts that tokens could be routed to")
    return replace(trace, blocks=blocks)


def describe_routing(routing: str, seed: int) -> str:
    """A phrase for the notes of a result.

    >>> describe_routing("zipf:0.5", seed=3)
    'expert routing: popularity by Zipf, s = 0.5 (seed 3), one typical layer for all'
    """
    kind, _, detail = routing.partition(":")
    if kind == "balanced":
        return "expert routing: perfectly balanced, which no real router is"
    if kind == "measured":
        return (
            f"expert routing: as measured (mean over layers of the sorted counts of {len(detail.split())} experts, "
            f"placed at random by seed {seed}), one typical layer for all"
        )
    what = f"popularity by Zipf, s = {detail}" if kind == "zipf" else "uniform random"
    return f"expert routing: {what} (seed {seed}), one typical layer for all"


def measured_routing(path: str | Path, experts: int, top_k: int) -> str:
    """The routing ``measured:...`` of a file: for each rank of popularity the mean over layers, most popular first.

    * ``.npy`` or HDF5 (dataset ``routed_experts``, or the only one) of integers: ids of the chosen experts, shaped
      [tokens, moe_layers, top_k] as vLLM returns them, or counts, shaped [moe_layers, experts];
    * ``.csv``: counts, a line for each layer and a column for each expert; a first line of names is skipped.
    """
    path = Path(path)
    data = _read(path)
    if data.ndim == 3:
        counts = _count(path, data, experts, top_k)
    elif data.ndim == 2:
        counts = data.astype(np.float64)
    else:
        raise InputError(f"{path}: has {data.ndim} axes; ids have three (tokens, layers, top_k), counts two")
    if len(counts) == 0 or counts.shape[1] != experts:
        raise InputError(f"{path}: holds {len(counts)} layers of {counts.shape[1]} experts, the model has {experts}")
    rows = counts.sum(axis=1)
    if counts.min() < 0 or rows.min() <= 0 or (counts.max(axis=1) * top_k > rows * (1 + 1e-9)).any():
        raise InputError(f"{path}: no tokens with {top_k} different experts each give its counts")
    tokens = round(float(rows.max()) / top_k)
    share = np.sort(counts / rows[:, None], axis=1)[:, ::-1].mean(axis=0)
    typical = whole_rows(np.minimum(share * tokens * top_k, tokens), tokens * top_k)
    return "measured:" + " ".join(map(str, typical))


def _count(path: Path, ids: NDArray[Any], experts: int, top_k: int) -> NDArray[np.float64]:
    tokens, layers, chosen = ids.shape
    if chosen != top_k:
        raise InputError(f"{path}: each token chooses {chosen} experts, those of the model choose {top_k}")
    counts = np.zeros((layers, experts))
    for layer in range(layers):
        here = np.sort(ids[:, layer], axis=1).astype(np.int64)
        if tokens and not 0 <= int(here.min()) <= int(here.max()) < experts:
            raise InputError(f"{path}: layer {layer} names an expert that is not among 0 to {experts - 1}")
        if (here[:, 1:] == here[:, :-1]).any():
            raise InputError(f"{path}: in layer {layer} a token names an expert twice (is it a layer with experts?)")
        counts[layer] = np.bincount(here.ravel(), minlength=experts)
    return counts


def _read(path: Path) -> NDArray[Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: is larger than {_MAX_BYTES} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        data = {".npy": _read_npy, ".csv": _read_csv}.get(path.suffix, _read_hdf5)(content)
    except (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError, MemoryError) as error:
        raise InputError(f"{path}: is not a readable {path.suffix} file of integers ({error})") from None
    if data.dtype.kind not in "iu":
        raise InputError(f"{path}: holds {data.dtype} values, not integers")
    return data


def _read_npy(content: bytes) -> NDArray[Any]:
    data: NDArray[Any] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    return data


def _read_csv(content: bytes) -> NDArray[Any]:
    lines = [line for line in content.decode().splitlines() if line.strip()]
    if lines and not any(word.strip().isdecimal() for word in lines[0].split(",")):
        lines = lines[1:]
    return np.array([[int(word) for word in line.split(",")] for line in lines], dtype=np.int64)


def _read_hdf5(content: bytes) -> NDArray[Any]:
    import h5py

    with h5py.File(io.BytesIO(content), "r") as file:
        name = _DATASET if _DATASET in file else next(iter(file), "")
        if name != _DATASET and len(file) != 1:
            raise ValueError(f"it has {len(file)} items, none of them '{_DATASET}'")
        data: NDArray[Any] = own_dataset(file, name, _MAX_BYTES)[()]
        return data
