"""A drawing of one block of operators: boxes top to bottom, data as arrows, weights and caches at their side.

The layout is a column. What the next operator reads goes straight down; what one further down reads leaves to the left
and runs down a lane of its own, one lane for all readers of an output, the shortest innermost. `draw` computes shapes
in points; `write` puts them into an SVG, or with matplotlib into a PNG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from archsim.errors import InputError, write_atomically

__all__ = ["Drawing", "Node", "Side", "draw", "write"]

WIDTH, GAP, LANE, MARGIN = 300.0, 22.0, 14.0, 24.0
LINE, PAD = 15.0, 9.0
SIDE_GAP, SIDE_WIDTH = 26.0, 245.0
INK, SOFT, RULE = "#1f2933", "#5f6b7a", "#8593a3"
#: fill and stroke by family of operator; the hues are those of the other views
FAMILIES = {
    "matrix": ("#fbeadd", "#d55e00"),
    "attention": ("#e9e5f7", "#7a68c4"),
    "vector": ("#fdf3da", "#c98a00"),
    "movement": ("#e4eff8", "#0072b2"),
    "outside": ("#ffffff", "#8593a3"),
    "weight": ("#f3f5f7", "#8593a3"),
    "cache": ("#dff3ec", "#009e73"),
}


@dataclass(frozen=True)
class Side:
    """A weight or cache beside an operator; ``written``: the arrow points to it."""

    text: str
    family: str
    written: bool = False


@dataclass(frozen=True)
class Node:
    """A box: its title, smaller lines below, and the numbers of the nodes whose outputs it reads."""

    title: str
    lines: tuple[str, ...]
    family: str
    inputs: tuple[int, ...] = ()
    sides: tuple[Side, ...] = ()


@dataclass(frozen=True)
class Box:
    x: float
    y: float
    width: float
    height: float
    family: str


@dataclass(frozen=True)
class Line:
    """A line through ``points``; ``arrow``: a head at its end."""

    points: tuple[tuple[float, float], ...]
    arrow: bool = True
    colour: str = RULE


@dataclass(frozen=True)
class Text:
    x: float
    y: float
    text: str
    size: float = 11.0
    bold: bool = False
    colour: str = INK
    anchor: str = "middle"


@dataclass(frozen=True)
class Drawing:
    """Shapes in points, y downwards, in the order in which they are painted."""

    width: float
    height: float
    shapes: tuple[Box | Line | Text, ...]


def draw(title: str, subtitle: str, nodes: Sequence[Node]) -> Drawing:
    """Lay out `nodes`, which are in execution order."""
    lanes = _lanes(nodes)
    left = MARGIN + LANE * (max(lanes.values(), default=-1) + 2)
    top = MARGIN + 44.0
    shapes: list[Box | Line | Text] = [
        Text(MARGIN, MARGIN + 12, title, 15, bold=True, anchor="start"),
        Text(MARGIN, MARGIN + 30, subtitle, 11, colour=SOFT, anchor="start"),
    ]
    heights = [2 * PAD + LINE * (1 + len(node.lines)) for node in nodes]
    tops = [top]
    for node, height in zip(nodes, heights, strict=True):
        tops.append(tops[-1] + max(height, _side_height(node)) + GAP)
    for i, node in enumerate(nodes):
        for source in node.inputs:
            if source == i - 1:
                x = left + WIDTH / 2
                shapes.append(Line(((x, tops[source] + heights[source]), (x, tops[i]))))
    for source, lane in lanes.items():
        shapes += _bus(source, lane, nodes, left, tops, heights)
    for i, node in enumerate(nodes):
        shapes += _node(node, left, tops[i], heights[i])
    right = left + WIDTH + (SIDE_GAP + SIDE_WIDTH if any(node.sides for node in nodes) else 0)
    return Drawing(right + MARGIN, tops[-1] - GAP + MARGIN, tuple(shapes))


def write(drawing: Drawing, path: Path) -> None:
    """Write `drawing` as the suffix of `path` says: .svg, or .png (needs matplotlib)."""
    writers = {".svg": _write_svg, ".png": _write_png}
    if path.suffix not in writers:
        raise InputError(f"{path}: drawings are written as .svg or .png")
    write_atomically(path, lambda beside: writers[path.suffix](drawing, beside))


def _lanes(nodes: Sequence[Node]) -> dict[int, int]:
    """The lane of each node that is read further down than by the next: 0 is the innermost, no two overlap."""
    spans = {}
    for source in range(len(nodes)):
        readers = [i for i, node in enumerate(nodes) if source in node.inputs and i > source + 1]
        if readers:
            spans[source] = max(readers)
    lanes: dict[int, int] = {}
    for source in sorted(spans, key=lambda s: (spans[s] - s, s)):
        taken = {lane for s, lane in lanes.items() if s <= spans[source] and source <= spans[s]}
        lanes[source] = next(lane for lane in range(len(nodes)) if lane not in taken)
    return lanes


def _bus(
    source: int, lane: int, nodes: Sequence[Node], left: float, tops: Sequence[float], heights: Sequence[float]
) -> list[Line]:
    """The line from `source` down its lane, with a branch to every reader but the next node."""
    x = left - LANE * (lane + 1)
    start = tops[source] + heights[source] - PAD
    branches = []
    for i, node in enumerate(nodes):
        far = [s for s in dict.fromkeys(node.inputs) if s < i - 1]
        if source in far:
            spread = heights[i] / (len(far) + 1)
            y = tops[i] + spread * (far.index(source) + 1)
            branches.append(Line(((left, start), (x, start), (x, y), (left, y))))
    return branches


def _side_height(node: Node) -> float:
    return (LINE + 2 * PAD) * len(node.sides) + 4 * max(len(node.sides) - 1, 0)


def _node(node: Node, left: float, top: float, height: float) -> list[Box | Line | Text]:
    shapes: list[Box | Line | Text] = [Box(left, top, WIDTH, height, node.family)]
    middle = left + WIDTH / 2
    shapes.append(Text(middle, top + PAD + 11, _fitted(node.title, WIDTH, 12), 12, bold=True))
    for i, line in enumerate(node.lines):
        shapes.append(Text(middle, top + PAD + 11 + LINE * (i + 1), _fitted(line, WIDTH, 10.5), 10.5, colour=SOFT))
    x, each = left + WIDTH + SIDE_GAP, LINE + 2 * PAD
    for i, side in enumerate(node.sides):
        y = top + max(height - _side_height(node), 0) / 2 + i * (each + 4)
        level = y + each / 2
        at = min(level, top + height - PAD)  # a long list of sides reaches below its box
        bend = () if at == level else ((x - SIDE_GAP / 2, level), (x - SIDE_GAP / 2, at))
        points = ((x, level), *bend, (left + WIDTH, at))
        shapes.append(Line(tuple(reversed(points)) if side.written else points, colour=FAMILIES[side.family][1]))
        shapes.append(Box(x, y, SIDE_WIDTH, each, side.family))
        shapes.append(Text(x + 10, y + PAD + 11, _fitted(side.text, SIDE_WIDTH, 10.5), 10.5, anchor="start"))
    return shapes


def _fitted(text: str, width: float, size: float) -> str:
    """`text`, shortened in its middle where it would not fit (letters are about half as wide as their size)."""
    most = int((width - 2 * PAD) / (0.5 * size))
    keep = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - keep]}…{text[len(text) - keep :]}"


def _write_svg(drawing: Drawing, path: Path) -> None:
    size = f'width="{drawing.width:g}" height="{drawing.height:g}" viewBox="0 0 {drawing.width:g} {drawing.height:g}"'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="Helvetica, Arial, sans-serif">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for shape in drawing.shapes:
        if isinstance(shape, Box):
            fill, stroke = FAMILIES[shape.family]
            box = f'x="{shape.x:g}" y="{shape.y:g}" width="{shape.width:g}" height="{shape.height:g}"'
            out.append(f'<rect {box} rx="6" fill="{fill}" stroke="{stroke}"/>')
        elif isinstance(shape, Text):
            look = f'font-size="{shape.size:g}" fill="{shape.colour}" text-anchor="{shape.anchor}"'
            weight = ' font-weight="bold"' if shape.bold else ""
            out.append(f'<text x="{shape.x:g}" y="{shape.y:g}" {look}{weight}>{escape(shape.text)}</text>')
        else:
            line = " ".join(f"{x:g},{y:g}" for x, y in shape.points)
            out.append(f'<polyline points="{line}" fill="none" stroke="{shape.colour}" stroke-width="1.3"/>')
            head = " ".join(f"{x:g},{y:g}" for x, y in _head(shape))
            out.append(f'<polygon points="{head}" fill="{shape.colour}"/>')
    path.write_text("\n".join([*out, "</svg>", ""]), encoding="utf-8")


def _head(line: Line) -> tuple[tuple[float, float], ...]:
    """The triangle at the end of a line, whose last part is horizontal or vertical."""
    (x0, y0), (x, y) = line.points[-2:]
    if abs(y - y0) > abs(x - x0):
        back = 6.0 if y > y0 else -6.0
        return (x, y), (x - 3.5, y - back), (x + 3.5, y - back)
    back = 6.0 if x > x0 else -6.0
    return (x, y), (x - back, y - 3.5), (x - back, y + 3.5)


def _write_png(drawing: Drawing, path: Path) -> None:
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import FancyBboxPatch, Polygon
    except ImportError:
        raise InputError("a PNG needs matplotlib: pip install archsim[plot], or write an .svg") from None
    figure = Figure(figsize=(drawing.width / 72, drawing.height / 72), dpi=144)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, drawing.width), ylim=(drawing.height, 0))
    ax.axis("off")
    for order, shape in enumerate(drawing.shapes):
        if isinstance(shape, Box):
            fill, stroke = FAMILIES[shape.family]
            corner = "round,pad=0,rounding_size=6"
            box = (shape.x, shape.y), shape.width, shape.height
            ax.add_patch(FancyBboxPatch(*box, boxstyle=corner, fc=fill, ec=stroke, lw=1, zorder=order))
        elif isinstance(shape, Text):
            align = {"middle": "center", "start": "left"}[shape.anchor]
            weight = "bold" if shape.bold else "normal"
            text = ax.text(shape.x, shape.y, shape.text, ha=align, va="baseline", zorder=order, parse_math=False)
            text.set(fontsize=0.9 * shape.size, color=shape.colour, fontweight=weight)
        else:
            ax.plot(*zip(*shape.points, strict=True), color=shape.colour, lw=1.3, zorder=order)
            ax.add_patch(Polygon(_head(shape), closed=True, fc=shape.colour, lw=0, zorder=order))
    figure.savefig(path, format="png")
