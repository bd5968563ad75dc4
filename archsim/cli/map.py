"""`archsim map`: how a matrix product is cut into tiles on a chip, and why."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import click

from archsim.cli._common import console, emit_json, json_option
from archsim.cli._results import figure_file, wrote
from archsim.cli.chip import set_option

__all__ = ["map_product"]


@click.command("map")
@click.argument("chip")
@click.option("--gemm", required=True, metavar="M,N,K", help="Sizes of the product.")
@click.option("--dtype", default="bf16", show_default=True, help="What is multiplied, and how operands are stored.")
@click.option("--sparsity", metavar="N:M", default="none", show_default=True, help="Of the weights (second operand).")
@set_option
@click.option("--mapping", type=click.Path(path_type=Path), help="YAML of a tiling (tm, tn, tk), a layout, or both.")
@click.option("--top", type=click.IntRange(1, 100), default=6, show_default=True, help="Candidates to show.")
@figure_file("--figure", "Draw the tiles")
@json_option
def map_product(
    chip: str, gemm: str, dtype: str, sparsity: str, overrides: dict[str, str], mapping: Path | None, top: int,
    figure: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Show how a product is cut on CHIP: the tiling, the times it was chosen by, and the runners-up.

    `score` is the closed form, the slowest of the resources (all of them with --json) plus what cannot overlap;
    `simulated` is what the engine says, everything cold. Of those that the search itself simulated, marked *, the
    fastest is taken; where it simulated none, the score decides: one of the best waits for its matrix unit alone, or
    two of them would take too long.

    \b
    Examples:
      archsim map h100 --gemm 4096,4096,4096
      archsim map b200 --gemm 512,7168,2048 --dtype fp8 --figure tiles.png
      archsim map a100 --gemm 64,12288,12288 --json
      archsim map h100 --gemm 4096,4096,4096 --dtype fp8 --set noc.multicast=4    # clusters of four cores
      archsim map h100 --gemm 4096,4096,4096 --sparsity 2:4    # a pattern of the unit: core.matrix.sparsity of the chip
      archsim map custom-npu --gemm 256,4096,4096 --mapping pinned.yaml    # layout: {weights: row_major}
    """
    from archsim.errors import InputError, whole_number
    from archsim.hardware import load_chip
    from archsim.mapping import MatmulShape, Storage, candidates, make_target
    from archsim.mapping.lowering.sample import tile_count, whole_waves
    from archsim.mapping.pin import pinned, read_pin
    from archsim.mapping.search import simulated_s
    from archsim.sparsity import Sparsity
    from archsim.trace.graph import DTYPE_BITS

    sizes = [whole_number(size) or 0 for size in gemm.split(",")]
    if len(sizes) != 3 or 0 in sizes:
        raise InputError(f"--gemm {gemm}: must be three whole numbers, at least 1, as in 4096,4096,4096")
    if dtype not in DTYPE_BITS:
        raise InputError(f"--dtype {dtype}: must be one of {', '.join(DTYPE_BITS)}")
    m, n, k = sizes
    spec = load_chip(chip, overrides)
    pin, layout = read_pin(mapping) if mapping else ({}, {})
    target = make_target(spec, storage=replace(Storage.usual(spec), **layout))
    width = DTYPE_BITS[dtype] / 8
    used = target.compute_dtype(dtype)
    narrow = DTYPE_BITS[dtype] <= 8 and DTYPE_BITS[dtype] < DTYPE_BITS[used]  # unpacked as they arrive
    pattern, weight = Sparsity.chosen(sparsity), width
    if pattern:
        target.require_sparsity(pattern, dtype, f"gemm {m} x {n} x {k}")
        weight = pattern.bits(n * k, DTYPE_BITS[dtype]) / (8 * n * k)
    shape = MatmulShape(
        (m,), n, k, dtype, width, weight, max(width, 2.0), convert_a=narrow, convert_b=narrow, sparsity=pattern
    )
    need, room = m * k * width + k * n * weight + m * n * shape.c_bytes, int(target.chip.memory.usable_capacity)
    if need > room:
        raise InputError(f"--gemm {gemm}: operands and result need {need:,.0f} B of memory, but {chip} has {room:,} B")
    ranked = candidates(target, shape, keep=top) if not pin else []
    if pin:
        ranked.append((pinned(target, shape, pin, f"gemm {m} x {n} x {k}"), None))
    probed = [seconds is not None for _, seconds in ranked]
    found = [(tiling, simulated_s(target, shape, tiling)) for tiling, _ in ranked]
    chosen = found[0][0]
    if figure is not None:
        _draw(figure, chip, target.cores, shape, chosen)
    rows = [
        {
            "tm": t.tm, "tn": t.tn, "tk": t.tk, "slots": t.slots, "split_k": t.split_k, "pair": t.pair,
            "cluster_m": t.cluster_m, "cluster_n": t.cluster_n,
            "group_m": t.group_m, "stream_k": t.stream_k, "bound": t.bound, "score_us": t.estimate_s * 1e6,
            "simulated_us": s * 1e6, "probed": tried, "parts_us": {name: x * 1e6 for name, x in t.parts},
        }
        for (t, s), tried in zip(found, probed, strict=True)
    ]  # fmt: skip
    if as_json:
        emit_json({"chip": chip, "m": m, "n": n, "k": k, "dtype": dtype, "sparsity": sparsity, "pinned": bool(pin),
                   "layout": asdict(target.storage), "chosen": rows[0], "runners_up": rows[1:]})  # fmt: skip
        return
    from rich.table import Table

    out = console()
    rounds = tile_count(shape, chosen) * chosen.split_k / target.cores
    out.print(f"{m} x {n} x {k} {dtype}{f' ({pattern} sparse)' if pattern else ''} on {chip}: {chosen}")
    out.print(f"{rounds:.2f} waves of {target.cores} cores, tiles in raster order of {chosen.group_m} rows")
    out.print(f"layout: {target.storage}")
    if used != dtype:
        out.print(f"the matrix unit of {chip} has no {dtype}: it multiplies in {used}")
    if chosen.stream_k:
        left = tile_count(shape, chosen) - whole_waves(target, shape, chosen) * target.cores
        out.print(f"stream-K: the last {left} tiles are cut along k and shared out evenly over all cores")
    table = Table("tile", "split k", "cluster", "score", "simulated", "bound by", "then by", box=None, pad_edge=False)
    for (t, _), row in zip(found, rows, strict=True):
        second = sorted(t.parts, key=lambda part: -part[1])[1:2]
        table.add_row(
            f"{t.tm} x {t.tn} x {t.tk}", "stream-K" if t.stream_k else str(t.split_k),
            "pair" if t.pair > 1 else f"{t.cluster_m} x {t.cluster_n}",
            f"{row['score_us']:.1f} us", f"{row['simulated_us']:.1f} us{' *' if row['probed'] else ''}",
            t.bound, ", ".join(f"{name} {seconds * 1e6:.1f}" for name, seconds in second),
        )  # fmt: skip
    out.print(table)


def _draw(figure: Path, chip: str, cores: int, shape: object, chosen: object) -> None:
    from archsim.mapping import MatmulShape, Tiling
    from archsim.mapping.lowering.tiles import waves_of
    from archsim.report.tiles import draw_tiles

    assert isinstance(shape, MatmulShape)
    assert isinstance(chosen, Tiling)
    wave = waves_of(shape, chosen, cores)
    title = f"{shape.m[0]} x {shape.n} x {shape.k} on {chip}: tiles of {chosen.tm} x {chosen.tn}"
    draw_tiles(figure, wave, tile=(chosen.tm, chosen.tn), shape=(shape.m[0], shape.n), title=title)
    wrote(figure)
