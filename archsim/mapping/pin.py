"""A tiling that the user states instead of letting the search choose, and whether the chip can hold it."""

from __future__ import annotations

from pathlib import Path

from archsim.errors import InputError, did_you_mean
from archsim.hardware.document import read_document
from archsim.mapping.target import Target
from archsim.mapping.tiling import MAX_SLOTS, MatmulShape, Tiling, chunk_bytes

__all__ = ["pinned", "read_pin"]

KEYS = ("tm", "tn", "tk", "slots", "split_k", "group_m", "pair")


def read_pin(path: Path) -> dict[str, int]:
    """The YAML file of a pinned tiling: ``tm``, ``tn``, ``tk``, and any of slots, split_k, group_m and pair."""
    document = read_document(path, str(path))
    for key, value in document.data.items():
        place = document.marks.get((key,), str(path))
        if key not in KEYS:
            raise InputError(f"{place}: {key}: unknown key{did_you_mean(key, KEYS)}; legal are {', '.join(KEYS)}")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{place}: {key} is {value}, but must be a whole number, at least 1")
    for key in KEYS[:3]:
        if key not in document.data:
            raise InputError(f"{path}: {key} is missing; a pinned tiling states {', '.join(KEYS[:3])}")
    return dict(document.data)


def pinned(target: Target, shape: MatmulShape, pin: dict[str, int], operator: str) -> Tiling:
    """The tiling ``pin`` of ``shape``; InputError names the operator, the buffer and the bytes where it is illegal."""
    tm, tn, tk = pin["tm"], pin["tn"], pin["tk"]
    split, pair = pin.get("split_k", 1), pin.get("pair", 1)
    where = f"operator {operator}: the pinned tiling {tm} x {tn} x {tk}"
    if pair not in (1, target.pair):
        raise InputError(f"{where} pairs {pair} cores, but an instruction of {target.name} spans at most {target.pair}")
    if split > 1 and pair > 1:
        raise InputError(f"{where} splits k and pairs cores, which exclude each other")
    if split > min(target.cores, -(-shape.k // tk)):
        raise InputError(
            f"{where} splits k {split} ways, but there are {-(-shape.k // tk)} chunks and {target.cores} cores"
        )
    held = tm * tn * 4 * (2 if shape.block_scaled and target.promotion(shape.dtype) else 1)
    if held > target.accumulator_bytes:
        raise InputError(
            f"{where} needs {held:,} B of accumulator, but a core of {target.name} has {target.accumulator_bytes:,} B"
        )
    chunk = int(chunk_bytes(tm, tn, tk, pair, shape))
    slots = pin.get("slots", min(target.scratchpad_bytes // chunk, MAX_SLOTS))
    if max(slots, 2) * chunk > target.scratchpad_bytes:
        raise InputError(
            f"{where} needs {max(slots, 2)} x {chunk:,} B of scratchpad, but a core of {target.name} has "
            f"{target.scratchpad_bytes:,} B"
        )
    rows = max(-(-m // (tm * pair)) * pair for m in shape.m)
    group_m = min(pin.get("group_m", rows), rows)
    return Tiling(tm, tn, tk, max(slots, 2), split, -(-group_m // pair) * pair, pair, 0.0, "pinned")
