"""Sheets of `archsim.physical` as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from archsim.cli._common import console

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["print_cost", "print_physical"]

ESTIMATE = "estimates from technology tables (archsim validate physical shows their errors)"
BAR = 20


def print_physical(title: str, sheet: Mapping[str, Any]) -> None:
    """Area, power and clock, heat."""
    from rich.text import Text

    from archsim.report.table import table

    out = console()
    out.print(Text(f"{title}: {ESTIMATE}", style="bold"))
    for die in sheet["dies"]:
        out.print()
        out.print(_die(die))
    out.print()
    limit = sheet["power_limit_w"]
    rows = [
        (
            dtype,
            f"{p['peak_flops'] / 1e12:.0f}",
            f"{p['peak_w']:.0f}",
            f"{p['sustained_clock_hz'] / 1e9:.2f}",
            f"{p['sustained_volt']:.2f}",
            f"{p['sustained_flops'] / 1e12:.0f}",
            f"{p['sustained_w']:.0f}",
        )
        for dtype, p in sheet["products"].items()
    ]
    heads = ("dense product", ">peak TFLOP/s", ">at W", ">clock GHz", ">V", ">TFLOP/s held", ">at W")
    out.print(table(heads, rows, out.width))
    dtype = sheet["sizing_dtype"]
    split = [f"{unit} {watts:.0f}" for unit, watts in sheet["products"][dtype]["sustained_w_by_unit"].items()]
    out.print(f"watts in {dtype}: {', '.join(split)}; memory at its full rate: {sheet['memory_at_full_rate_w']:.0f}")
    cap = f"{limit:g} W" if limit else "none stated"
    loaded = f"{sheet['loaded_clock_hz'] / 1e9:.3g} GHz"
    out.print(f"power limit {cap}; busy matrix units are simulated at {loaded}")
    heat = ", ".join(f"{t:.0f} C with {name}" for name, t in sheet["junction_celsius"].items())
    out.print(f"heat {sheet['power_density_w_per_mm2']:.2f} W/mm2: junctions at {heat}")
    for warning in sheet["warnings"]:
        out.print(Text(f"warning: {warning}", style="yellow"))


def print_cost(title: str, sheet: Mapping[str, Any]) -> None:
    """Bill of materials, ownership, export figures."""
    from rich.text import Text

    from archsim.report.table import Bar, Cell, table

    out = console()
    out.print(Text(f"{title}: {ESTIMATE}; {sheet['parts_list'].lower()}", style="bold"))
    out.print()
    dies = [
        (
            f"{die['count']} x {die['name']}, {die['technology']}",
            f"{die['mm2']:.0f}" + ("" if die["stated"] else " modelled"),
            f"{die['per_wafer']:.1f}",
            f"{die['good'] * 100:.0f} %",
            f"{die['usd']:,.0f}",
        )
        for die in sheet["dies"]
    ]
    heads = ("die", ">mm2", ">on a wafer", f">yield ({sheet['yield_model']})", ">USD each")
    out.print(table(heads, dies, out.width))
    for warning in sheet["warnings"]:
        out.print(Text(f"warning: {warning}", style="yellow"))
    out.print()
    parts = sheet["parts_usd"]
    rows: list[list[Cell]] = []
    for item, usd in sheet["items_usd"].items():
        if item == "engineering":
            rows.append([Text("parts of one chip", "bold"), Text(f"{parts:,.0f}", "bold"), ""])
            label = f"masks and engineering over {sheet['volume']:,}"
            rows.append([label, f"{usd:,.0f}", ""])
        else:
            rows.append([item.replace("_", " "), f"{usd:,.0f}", Bar(usd / parts, BAR, "#0072b2")])
    out.print(table(("item", ">USD", ""), rows, out.width))
    out.print()
    hour = sheet["usd_per_hour"]
    origin = "given" if sheet["chip_usd_given"] else "parts and the usual margin"
    out.print(
        f"an hour of work: {hour['total']:.2f} USD = {hour['capital']:.2f} capital ({sheet['chip_usd']:,.0f} a chip, "
        f"{origin}) + {hour['power']:.2f} power at {sheet['power_w']:.0f} W"
    )
    if sheet["usd_per_million_tokens"] is not None:
        out.print(f"a million tokens: {sheet['usd_per_million_tokens']:.3g} USD")
    out.print()
    out.print(_export(sheet["export"]))


def _die(die: Mapping[str, Any]) -> RenderableType:
    from archsim.report.table import Bar, Cell, table

    whole = die["modelled_mm2"]
    rows: list[list[Cell]] = [
        [name, f"{mm2:.1f}", f"{mm2 / whole * 100:.1f} %", Bar(mm2 / whole, BAR, "#0072b2")]
        for name, mm2 in sorted(die["blocks_mm2"].items(), key=lambda item: -item[1])
    ]
    stated = die["stated_mm2"]
    against = "" if stated is None else f" (stated {stated:g}, {(whole / stated - 1) * 100:+.0f} %)"
    rows.append([f"one die{against}", f"{whole:.1f}", "", ""])
    return table((f"{die['count']} x {die['name']}, {die['technology']}", ">mm2", ">share", ""), rows, 100)


def _export(export: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from archsim.report.table import table

    rows = [
        (f"total processing performance ({export['tpp_dtype']})", f"{export['tpp']:,.0f}"),
        (f"performance density over {export['die_mm2']:.0f} mm2", f"{export['performance_density']:.2f}"),
        ("links, both directions, GB/s", f"{export['links_gbyte_s']:,.0f}"),
        ("memory, GB/s", f"{export['memory_gbyte_s']:,.0f}"),
    ]
    met = [
        Text(f"  {rule['name']}, since {rule['since']}" + (f" until {rule['until']}" if rule["until"] else "")
             + f": {rule['effect']} [{rule['citation']}]")
        for rule in export["rules"]
    ]  # fmt: skip
    head = Text("rules of the United States that speak of it:" if met else "no rule in the table speaks of it")
    title = f"export figures ({export['disclaimer']})"
    return Group(table((title, ">"), rows, 100), head, *met)
