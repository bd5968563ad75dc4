"""What the user states of a mapping: tilings and whether the chip can hold them, fusion, and layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from archsim.errors import InputError, did_you_mean
from archsim.hardware.document import Document, read_document
from archsim.mapping.fuse import Fusion, Kernel, KernelBlock
from archsim.mapping.known_kernels import KNOWN
from archsim.mapping.storage import checked
from archsim.mapping.target import Target
from archsim.mapping.tiling import MAX_SLOTS, MatmulShape, Tiling, chunk_bytes, clusters, score_tiling

__all__ = ["FUSION", "LAYOUT", "Pins", "pin_kernels", "pinned", "read_pin", "read_pins"]

KERNEL = "kernel"
"""The key of an attention operator under which its kernel is named."""

KEYS = ("tm", "tn", "tk", "slots", "split_k", "group_m", "pair", "cluster_m", "cluster_n", "stream_k")

FUSION = "fusion"
"""The key of a mapping that says which operators become one kernel, beside the operators."""

LAYOUT = "layout"
"""The key that says how tensors are stored."""

PINNED = ("product", "grouped", "attention")
"""Kinds of kernels of which a mapping may state how they are done."""

WANTED = {FUSION: "products, vectors or apart", LAYOUT: "weights, activations, kv_cache, page_size or experts"}

Pins = Mapping[str, Mapping[str, Any]]
"""Operators by name, and for each the sizes of its tiling or, of attention, the name of its kernel; under `FUSION`
fields of a `Fusion`, under `LAYOUT` those of a `Storage`."""


def read_pin(path: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """The YAML file of one product: its tiling (``tm``, ``tn``, ``tk``, and maybe others of `KEYS`), a ``layout``, or
    both."""
    document = read_document(path, str(path))
    sizes = {key: value for key, value in document.data.items() if key != LAYOUT}
    tiling = _tiling(document, (), sizes) if sizes or LAYOUT not in document.data else {}
    given = document.data.get(LAYOUT, {})
    if not isinstance(given, dict):
        raise InputError(f"{document.mark((LAYOUT,))}: {LAYOUT}: expected {WANTED[LAYOUT]} below it")
    return tiling, checked(given, lambda key: document.mark((LAYOUT, key)))


def read_pins(path: Path) -> dict[str, dict[str, Any]]:
    """The YAML file of a step's mapping: operator names, and under each a tiling as :func:`read_pin` reads it, or the
    ``kernel`` of attention; ``fusion`` and ``layout``."""
    document = read_document(path, str(path))
    for name, value in document.data.items():
        if not isinstance(value, dict):
            wanted = WANTED.get(name, "an operator with its tm, tn and tk, or the kernel of attention,")
            raise InputError(f"{document.mark((name,))}: {name}: expected {wanted} below it")
    if FUSION in document.data:
        Fusion.of(document.data[FUSION], lambda key: document.mark((FUSION, key)))
    if LAYOUT in document.data:
        checked(document.data[LAYOUT], lambda key: document.mark((LAYOUT, key)))
    return {
        name: dict(value) if name in WANTED
        else _kernel(document, (name,), value) if KERNEL in value else _tiling(document, (name,), value)
        for name, value in document.data.items()
    }  # fmt: skip


def _kernel(document: Document, path: tuple[str, ...], data: Mapping[str, Any]) -> dict[str, str]:
    for key in data:
        if key != KERNEL:
            raise InputError(f"{document.mark((*path, key))}: {key}: of attention only its {KERNEL} is pinned")
    return {KERNEL: _known(data[KERNEL], document.mark((*path, KERNEL)))}


def _known(name: Any, place: str) -> str:
    if not isinstance(name, str) or name not in KNOWN:  # a list or a map cannot be looked up
        guess = did_you_mean(name, KNOWN) if isinstance(name, str) else ""
        raise InputError(f"{place}: {KERNEL} is {name!s:.60}: unknown{guess}; legal are {', '.join(KNOWN)}")
    return name


def _tiling(document: Document, path: tuple[str, ...], data: Mapping[str, Any]) -> dict[str, int]:
    for key, value in data.items():
        place = document.mark((*path, key))
        if key not in KEYS:
            raise InputError(f"{place}: {key}: unknown key{did_you_mean(key, KEYS)}; legal are {', '.join(KEYS)}")
        if key == "stream_k" and not isinstance(value, bool):
            raise InputError(f"{place}: {key} is {value}, but must be true or false")
        if key != "stream_k" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InputError(f"{place}: {key} is {value}, but must be a whole number, at least 1")
    for key in KEYS[:3]:
        if key not in data:
            where = f"{document.mark(path)}: {'.'.join((*path, key))}"
            raise InputError(f"{where} is missing; a pinned tiling states {', '.join(KEYS[:3])}")
    return dict(data)


def pin_kernels(blocks: Sequence[KernelBlock], pins: Pins, *, whole: bool = True) -> tuple[KernelBlock, ...]:
    """The kernels with their pinned tilings; a kernel goes by its name or by that of any operator merged into it.

    whole: these are the blocks of a whole step, not of one stage of it, so that every pin has to name an operator.
    """
    found: set[str] = set()

    def pin(kernel: Kernel) -> Kernel:
        names = [kernel.name, *(t.name for t in kernel.tasks)] if kernel.kind in PINNED else []
        mine = [name for name in names if name in pins]
        found.update(mine)
        if not mine:
            return kernel
        stated, place = pins[mine[0]], f"--mapping: {mine[0]}"
        if kernel.kind == "attention":
            if KERNEL not in stated:
                raise InputError(f"{place}: attention has its {KERNEL} pinned ({', '.join(KNOWN)}), not a tiling")
            return replace(kernel, known=_known(stated[KERNEL], place))
        if KERNEL in stated:
            raise InputError(f"{place}: a product has its tiling pinned ({', '.join(KEYS)}), not a {KERNEL}")
        return replace(kernel, pin=tuple(stated.items()))

    pins = {name: pin for name, pin in pins.items() if name not in WANTED}
    if not pins:
        return tuple(blocks)
    result = tuple(replace(block, kernels=tuple(pin(kernel) for kernel in block.kernels)) for block in blocks)
    operators = [k.name for block in blocks for k in block.kernels if k.kind in PINNED]
    for name in pins if whole else ():
        if name not in found:
            known = ", ".join(dict.fromkeys(operators))
            guess = did_you_mean(name, operators)
            raise InputError(f"--mapping: no product or attention is called '{name}'{guess}; there are {known}")
    return result


def pinned(target: Target, shape: MatmulShape, pin: Mapping[str, int], operator: str) -> Tiling:
    """The tiling ``pin`` of ``shape``; InputError names the operator, the buffer and the bytes where it is illegal."""
    tm, tn, tk = pin["tm"], pin["tn"], pin["tk"]
    split, pair, stream = pin.get("split_k", 1), pin.get("pair", 1), bool(pin.get("stream_k", False))
    where = f"operator {operator}: the pinned tiling {tm} x {tn} x {tk}"
    if pair not in (1, target.pair):
        raise InputError(f"{where} pairs {pair} cores, but an instruction of {target.name} spans at most {target.pair}")
    cluster = (pin.get("cluster_m", pair), pin.get("cluster_n", 1)) if {"cluster_m", "cluster_n"} & pin.keys() else None
    if cluster and cluster not in (legal := [(pair, 1)] if pair > 1 else clusters(target)):
        shapes = ", ".join(f"{m} x {n}" for m, n in legal)
        raise InputError(f"{where} is shared by {cluster[0]} x {cluster[1]} cores, but {target.name} has {shapes}")
    if cluster and cluster != (pair, 1) and (split > 1 or stream):
        raise InputError(f"{where} is shared by a cluster, which split-K and stream-K exclude")
    if split > 1 and stream:
        raise InputError(f"{where} splits k and asks for stream-K, which exclude each other")
    rows = sum(-(-m // (tm * pair)) * pair for m in shape.m)
    if stream and (chunks := rows * -(-shape.n // tn) * -(-shape.k // tk)) < target.cores:
        raise InputError(f"{where} has {chunks} chunks, too few for stream-K to give each of {target.cores} cores one")
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
    slots = max(pin.get("slots", min(target.scratchpad_bytes // chunk, MAX_SLOTS)), 2)
    if slots * chunk > target.scratchpad_bytes:
        raise InputError(
            f"{where} needs {slots} x {chunk:,} B of scratchpad, but a core of {target.name} has "
            f"{target.scratchpad_bytes:,} B"
        )
    tiling = score_tiling(target, shape, Tiling(tm, tn, tk, slots, split, 1, pair, 0.0, "", stream_k=stream), cluster)
    tallest = max(-(-m // (tm * pair)) * pair for m in shape.m)
    group_m = min(pin.get("group_m", tiling.group_m), tallest)
    return replace(tiling, group_m=-(-group_m // tiling.cluster_m) * tiling.cluster_m)
