"""`archsim chip` and `archsim system`: list, show and check hardware descriptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archsim.cli._common import console, emit_json, headed, json_option, refuse
from archsim.cli._results import figure_file, wrote
from archsim.errors import InputError

if TYPE_CHECKING:
    from archsim.hardware import ChipSpec, Provenance

__all__ = ["chip", "set_option", "system"]


def _overrides(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text}: expected path=value, such as core.matrix.rows=256")
        found[path.strip()] = value.strip()
    return found


set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    callback=_overrides,
    help="Change one value of the chip, such as core.matrix.rows=256 or 'memory.bandwidth=4 TB/s'. Repeatable.",
)


@click.group()
def chip() -> None:
    """List, show and check chip descriptions."""


@click.group()
def system() -> None:
    """List and show systems of chips."""


def _mark(spec: ChipSpec, path: str, text: str) -> str:
    source = spec.source_of(path)
    return f"~{text}" if spec.estimated or (source is not None and source.estimated) else text


def _row(spec: ChipSpec) -> list[str]:
    """The cells of `chip list`, in the units of its header."""

    def peak(*dtypes: str) -> str:
        found = next((dtype for dtype in spec.dtypes if dtype in dtypes), None)
        return _mark(spec, f"peak.{found}", f"{spec.flops(found) / 1e12:.0f}") if found else "-"

    link = spec.scale_up
    return [
        spec.name,
        _mark(spec, "cores", str(spec.cores)),
        _mark(spec, "clock", f"{spec.clock / 1e9:.2f}"),
        peak("bf16", "fp16"),
        peak("fp8", "int8"),
        _mark(spec, "memory.bandwidth", f"{spec.memory.bandwidth / 1e12:.2f}"),
        _mark(spec, "memory.capacity", f"{spec.memory.capacity / 2**30:.0f}"),
        _mark(spec, "scale_up.bandwidth", f"{link.bandwidth / 1e9:.0f}") if link else "-",
    ]


def _facts(spec: ChipSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "title": spec.title,
        "vendor": spec.vendor,
        "year": spec.year,
        "status": spec.status,
        "estimated": spec.estimated,
        "cores": spec.cores,
        "clock_hz": spec.clock,
        "peak_flops": {dtype: spec.flops(dtype) for dtype in spec.dtypes},
        "memory_bytes": spec.memory.capacity,
        "memory_bytes_per_s": spec.memory.bandwidth,
        "scale_up_bytes_per_s": spec.scale_up.bandwidth if spec.scale_up else None,
    }


@chip.command("list")
@json_option
def chip_list(as_json: bool) -> None:
    """List the chip presets; ~ marks an estimate.

    \b
    Examples:
      archsim chip list
      archsim chip list --json
    """
    from archsim.hardware import list_chips, load_chip

    specs = [load_chip(name) for name in list_chips()]
    if as_json:
        emit_json([_facts(spec) for spec in specs])
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold", caption="~ estimate, not a public fact", caption_justify="left")
    table.add_column("chip", no_wrap=True)
    rates = ("bf16\nTFLOP/s", "8-bit\nTFLOP/s", "memory\nTB/s", "memory\nGiB", "scale-up\nGB/s")
    for column in ("cores", "clock\nGHz", *rates):
        table.add_column(column, justify="right", no_wrap=True)
    for spec in specs:
        table.add_row(*_row(spec))
    console().print(table)


@chip.command("show")
@click.argument("name")
@set_option
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the resolved description as YAML, without `base:`.")
@click.option("--physical", is_flag=True, help="Show area, power and clock instead: estimates from its process node.")
@click.option("--power-cap", type=float, metavar="WATTS", help="With --physical: hold this.  [default: the TDP]")
@figure_file("--floorplan", "With --physical: draw the dies to scale")
@json_option
def chip_show(
    name: str, overrides: dict[str, str], as_yaml: bool, physical: bool, power_cap: float | None,
    floorplan: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Show every value of a chip (a preset or a file) with its source and confidence.

    \b
    Examples:
      archsim chip show h800
      archsim chip show h100 --physical --floorplan h100.svg
      archsim chip show custom-npu --set core.matrix.rows=256 --yaml
    """
    from archsim.hardware import load_chip
    from archsim.hardware.listing import values

    if physical:
        refuse("shows the description; --physical shows what follows from it", "as_yaml")
    else:
        refuse("goes with --physical", "power_cap", "floorplan")
    if physical:
        from archsim.physical import load_variant

        _show_physical(load_variant(name, overrides), power_cap, floorplan, as_json)
        return
    spec = load_chip(name, overrides)
    if as_yaml:
        click.echo(spec.resolved_yaml(), nl=False)
        return
    if as_json:
        checks = [{"path": c.path, "text": c.text, "passed": c.passed} for c in spec.checks()]
        emit_json({**spec.model_dump(mode="json"), "content_hash": spec.content_hash, "checks": checks})
        return
    from rich.table import Table

    console().print(headed(spec.title, f"  ({spec.vendor})").append("  ESTIMATE" * spec.estimated, "yellow"))
    console().print(spec.status, end="\n\n")
    table = Table(box=None, show_header=False)
    sources: dict[Provenance, int] = {}
    for value in values(spec):
        source = value.provenance
        reference = f"[{sources.setdefault(source, len(sources) + 1)}]" if source else ""
        table.add_row(value.path, f"~{value.text}" if value.is_estimate else value.text, reference)
    console().print(table)
    click.echo("\nSources (~ marks an estimate, not a public fact):")
    for source, number in sources.items():
        text = "; ".join(filter(None, (source.source, source.note)))
        click.echo(f"{f'[{number}]':>5} {source.confidence:<6}  {text}")


def _show_physical(spec: ChipSpec, power_cap: float | None, floorplan: Path | None, as_json: bool) -> None:
    from archsim.cli._physical import print_physical
    from archsim.physical import silicon
    from archsim.physical.sheet import physical_sheet

    sheet = physical_sheet(spec, cap_w=power_cap)
    if floorplan is not None:
        from archsim.physical.drawing import write_floorplan

        write_floorplan(silicon(spec), floorplan)
        wrote(floorplan)
    if as_json:
        emit_json(sheet)
    else:
        print_physical(spec.title, sheet)


@chip.command("check")
@click.argument("name")
@set_option
@json_option
def chip_check(name: str, overrides: dict[str, str], as_json: bool) -> None:
    """Load a chip (a preset or a file) and show the arithmetic of its consistency checks.

    Exits with 2 when the description is wrong or contradicts itself.

    \b
    Examples:
      archsim chip check my-chip.yaml
      archsim chip check custom-npu --set cores=32 --set noc.rows=8
    """
    from archsim.hardware import load_chip
    from archsim.hardware.listing import unsourced

    spec = load_chip(name, overrides)
    missing = unsourced(spec)
    if as_json:
        checks = [{"path": c.path, "text": c.text, "passed": c.passed} for c in spec.checks()]
        emit_json({"name": spec.name, "checks": checks, "unsourced": missing})
        return
    for check in spec.checks():
        click.echo(f"{check.path}: {check.text}")
    if missing:
        shown = ", ".join(missing[:6]) + (", ..." if len(missing) > 6 else "")
        click.echo(f"{len(missing)} values have no source under `provenance`: {shown}")
    click.echo(f"{spec.name}: the description is consistent")


@chip.command("schema")
@click.option(
    "--of",
    "kind",
    type=click.Choice(["chip", "system", "memory", "technology", "parts", "rules"]),
    default="chip",
    show_default=True,
)
def chip_schema(kind: str) -> None:
    """Print the JSON schema of a description file, for editors.

    \b
    Example:
      archsim chip schema > configs/chip.schema.json
    """
    from archsim.hardware.schema import json_schema

    click.echo(json.dumps(json_schema(kind), indent=2))


@system.command("list")
@json_option
def system_list(as_json: bool) -> None:
    """List the system presets; ~ marks an estimate.

    \b
    Example:
      archsim system list
    """
    from archsim.hardware import list_systems, load_system

    specs = [load_system(name) for name in list_systems()]
    if as_json:
        emit_json([spec.model_dump(mode="json") for spec in specs])
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold", caption="~ estimate, not a public fact", caption_justify="left")
    table.add_column("system", no_wrap=True)
    table.add_column("chip", no_wrap=True)
    table.add_column("chips", justify="right")
    table.add_column("per node", justify="right")
    table.add_column("what")
    for spec in specs:
        name = f"~{spec.name}" if spec.estimated else spec.name
        table.add_row(name, spec.chip, str(spec.chips), str(spec.chips_per_node), spec.title)
    console().print(table)


@system.command("show")
@click.argument("name")
@json_option
def system_show(name: str, as_json: bool) -> None:
    """Show a system (a preset or a file), its chip and its links.

    \b
    Example:
      archsim system show h800-x32
    """
    from archsim.hardware import load_chip, load_system
    from archsim.units import format_quantity

    spec = load_system(name)
    board = load_chip(spec.chip)
    scale_up, scale_out = spec.links(board)
    if as_json:
        resolved = {"scale_up": scale_up, "scale_out": scale_out}
        emit_json(spec.model_copy(update=resolved).model_dump(mode="json"))
        return
    lines = [spec.title, f"{spec.chips} x {board.title}: {spec.nodes} node(s) of {spec.chips_per_node}"]
    for label, link in (("inside a node", scale_up), ("between nodes", scale_out)):
        if link is not None:
            rate, sustained = (format_quantity(x, "bandwidth", 3) for x in (link.bandwidth, link.sustained))
            latency = format_quantity(link.latency, "time", 3)
            lines.append(f"{label}: {link.name}, {rate} per direction ({sustained} sustained), {latency}")
    memory = format_quantity(spec.chips * board.memory.capacity, "size", 4)
    lines += [f"memory: {memory} in all", f"source: {spec.source}", *([spec.notes] if spec.notes else [])]
    click.echo("\n".join(lines))
