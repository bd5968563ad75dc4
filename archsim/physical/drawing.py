"""The floorplan as a figure (SVG or PNG, by the name of the file); needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from archsim._figure import new_figure, save_figure
from archsim.physical.area import chip_area
from archsim.physical.energy import stated_mm2
from archsim.physical.floorplan import floorplan, outline
from archsim.physical.silicon import Silicon

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_floorplan", "write_floorplan"]

COLOURS = {
    "matrix units": "#d55e00",
    "vector units and control": "#e69f00",
    "core memories": "#f0e442",
    "shared cache": "#56b4e9",
    "near cache": "#9ad0f0",
    "network": "#cc79a7",
    "memory PHYs": "#0072b2",
    "memory controllers": "#4d9fd0",
    "link PHYs": "#009e73",
    "link controllers": "#5fc4a5",
    "host link": "#7a68c4",
    "die-to-die link": "#a6761d",
}
OTHER = "#8c8c8c"
SCALE_MM = 5.0
LETTER_MM = 0.72  # width of a letter of the labels at the scale of the figure


def draw_floorplan(made: Silicon, reticle_mm: tuple[float, float] = (26.0, 33.0)) -> Figure:
    """Each kind of die side by side at one scale, with the field of the reticle dashed around it."""
    area = chip_area(made)
    figure = new_figure(4.4 * len(area.dies) + 2.9, 5.6)
    from matplotlib.patches import Patch
    from matplotlib.patches import Rectangle as Box

    axes = figure.subplots(1, len(area.dies), squeeze=False)[0]
    shown: dict[str, str] = {}
    for ax, die, stated in zip(axes, area.dies, stated_mm2(made.chip), strict=False):
        for r in floorplan(die, reticle_mm):
            colour = COLOURS.get(r.name, OTHER)
            shown[f"{r.name}, {die.of(r.name):.0f} mm2" if len(area.dies) == 1 else r.name] = colour
            line = min(0.6, r.width / 2)
            ax.add_patch(Box((r.x, r.y), r.width, r.height, facecolor=colour, edgecolor="white", linewidth=line))
            if r.height > 1.6 and r.width > LETTER_MM * len(r.name):
                ax.text(r.x + r.width / 2, r.y + r.height / 2, r.name, ha="center", va="center", fontsize=7)
        ax.add_patch(Box((0, 0), *reticle_mm, fill=False, linestyle="--", edgecolor=OTHER))
        ax.plot([0, SCALE_MM], [-1.2, -1.2], color="black", linewidth=2)
        ax.text(SCALE_MM + 0.5, -1.2, f"{SCALE_MM:g} mm", va="center", fontsize=8)
        width, height = outline(die, reticle_mm)
        ax.set(xlim=(-1, max(width, reticle_mm[0]) + 1), ylim=(-2.5, max(height, reticle_mm[1]) + 1), aspect="equal")
        ax.set_axis_off()
        size = f"{die.mm2:.0f} mm2" + (f" (stated {stated:.0f})" if stated else "")
        ax.set_title(f"{die.count} x {die.name}, {die.technology}: {size}", fontsize=9, loc="left")
    title = f"{made.chip.title}: modelled areas to scale (estimate; dashed: reticle)"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    handles = [Patch(color=colour, label=name) for name, colour in shown.items()]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=8)
    return figure


def write_floorplan(made: Silicon, path: Path) -> None:
    """Draw to `path`, whole or not at all; the suffix chooses the format."""
    save_figure(draw_floorplan(made), path)
