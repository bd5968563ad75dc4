"""Pictures of a sweep with matplotlib, an optional extra: front, parallels, sensitivity, tornado, heat map, roofs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from archsim.errors import ArchsimError, InputError, did_you_mean
from archsim.explore.axis import number_of
from archsim.explore.metrics import METRICS
from archsim.explore.rules import Objective
from archsim.explore.sensitivity import first_order, sobol, tornado
from archsim.explore.store import Record
from archsim.explore.view import SweepView
from archsim.report.numbers import si
from archsim.report.palette import OTHER, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "heat_map", "parallel", "pareto", "roofline", "sensitivity", "tornado_plot"]

_POINT = "#9aa5b1"
#: roofs that are drawn one by one; of more only the lowest and the highest
MOST_ROOFS = 12
_SCALED = ("s", "B", "W", "J", "FLOP/s")


def pareto(view: SweepView) -> Figure:
    """Every pair of objectives against each other, the front on top; one objective alone by rank."""
    objectives = view.sweep.objectives
    pairs = [(i, j) for i in range(len(objectives)) for j in range(i + 1, len(objectives))]
    figure, axes = _subplots(max(len(pairs), 1), width=5.2, height=4.2)
    done, best = _done(view), view.front
    for ax, (i, j) in zip(axes, pairs, strict=False):
        x, y = objectives[i], objectives[j]
        _scatter(ax, done, x, y, color=_POINT, s=14, alpha=0.6, label=f"{len(done)} points")
        _scatter(ax, best, x, y, color=SERIES[1], s=34, label=f"{len(best)} on the front", zorder=3)
        if len(objectives) == 2:
            path = sorted((record.metrics[x.key], record.metrics[y.key]) for record in best)
            ax.step(*zip(*path, strict=True), where="post" if x.sign < 0 else "pre", color=SERIES[1], lw=1, zorder=2)
        _axis(ax.xaxis, x)
        _axis(ax.yaxis, y)
        _arrow(ax, x, y)
    if not pairs:
        values = sorted((record.metrics[objectives[0].key] for record in done), reverse=objectives[0].sign > 0)
        axes[0].plot(range(1, len(values) + 1), values, color=SERIES[0])
        axes[0].set_xlabel("rank")
        _axis(axes[0].yaxis, objectives[0])
    else:
        axes[0].legend(frameon=False, fontsize="small")
    return _titled(figure, view)


def parallel(view: SweepView) -> Figure:
    """A line a point through its parameters and objectives; the front in colour, by the first objective."""
    done = _done(view)
    paths = view.sweep.free
    keys = [(path, "", [record.params.get(path) for record in done]) for path in paths]
    keys += [(o.key, _unit(o), [record.metrics[o.key] for record in done]) for o in view.sweep.objectives]
    figure, (ax,) = _subplots(1, width=max(1.6 * len(keys), 5.0), height=4.2)
    best = {record.key for record in view.front}
    columns = [_heights(values, unit) for _, unit, values in keys]
    heights = np.array([column[0] for column in columns]).T
    for record, line in sorted(zip(done, heights, strict=True), key=lambda pair: pair[0].key in best):
        on = record.key in best
        ax.plot(line, color=SERIES[1] if on else _POINT, lw=1.6 if on else 0.6, alpha=0.9 if on else 0.35)
    for x, (_, low, high) in enumerate(columns):
        ax.axvline(x, color="black", lw=0.5)
        ax.text(x, -0.03, low, ha="center", va="top", fontsize="small")
        ax.text(x, 1.03, high, ha="center", va="bottom", fontsize="small")
    ax.set_xticks(range(len(keys)), [key for key, *_ in keys], rotation=20, ha="right")
    ax.tick_params(axis="x", pad=18, length=0)
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    return _titled(figure, view)


def sensitivity(view: SweepView) -> Figure:
    """The share of each objective's variance that each parameter explains alone, and with its interactions.

    The latter (total Sobol' indices) where the points are a Saltelli sample.
    """
    objectives, done = view.sweep.objectives, _done(view)
    figure, axes = _subplots(len(objectives), width=4.4, height=0.9 + 0.32 * len(view.sweep.free))
    for ax, objective in zip(axes, objectives, strict=True):
        if view.sweep.spec.sampler.kind == "saltelli":
            found = sobol(view.sweep, done, objective.key)
            indices = {path: index.first for path, index in found.items()}
            totals = [index.total for index in found.values()]
            ax.barh(list(found), totals, color=_POINT, alpha=0.5, label="with interactions")
            ax.plot([], [], lw=6, color=SERIES[0], label="alone")
            ax.legend(frameon=False, fontsize="small", loc="lower right")
        else:
            indices = first_order(done, objective.key, view.sweep.free)
        bars = ax.barh(list(indices), list(indices.values()), color=SERIES[0], height=0.5)
        ax.bar_label(bars, [f"{value:.0%}" for value in indices.values()], padding=3, fontsize="small")
        ax.invert_yaxis()
        ax.set_xlim(0, 1.12)
        ax.set_title(objective.key, fontsize="medium")
        ax.set_xlabel("share of its variance")
        ax.spines[["top", "right"]].set_visible(False)
    return _titled(figure, view)


def tornado_plot(view: SweepView) -> Figure:
    """What each parameter alone does to the first objective, around the best point."""
    objective, done = view.sweep.objectives[0], _done(view)
    if not view.front:
        raise InputError("a tornado needs a point that keeps every constraint")
    centre = view.front[0]
    swings = tornado(done, centre, objective.key, view.sweep.free)
    figure, (ax,) = _subplots(1, width=7.0, height=1.3 + 0.4 * len(swings))
    middle = centre.metrics[objective.key]
    for row, swing in enumerate(swings):
        ax.barh(row, swing.high[1] - swing.low[1], left=swing.low[1], color=SERIES[0], height=0.6)
        for (value, at), side in ((swing.low, "right"), (swing.high, "left")):
            ax.annotate(str(value), (at, row), (-4 if side == "right" else 4, 0), textcoords="offset points", ha=side,
                        va="center", fontsize="small")  # fmt: skip
    ax.axvline(middle, color="black", lw=0.8)
    ax.set_yticks(range(len(swings)), [swing.path for swing in swings])
    ax.invert_yaxis()
    span = max(swing.high[1] for swing in swings) - min(swing.low[1] for swing in swings)
    ax.set_xlim(min(swing.low[1] for swing in swings) - span / 4, max(swing.high[1] for swing in swings) + span / 4)
    _axis(ax.xaxis, objective)
    ax.spines[["top", "right"]].set_visible(False)
    return _titled(figure, view)


def heat_map(view: SweepView, axes: Sequence[str] = ()) -> Figure:
    """The best value of the first objective for each pair of values of two parameters, by default those that matter."""
    objective, done = view.sweep.objectives[0], _done(view)
    for path in axes:
        if path not in view.sweep.space.paths:
            raise InputError(f"--axes {path}: the sweep varies {', '.join(view.sweep.space.paths)}")
    paths = [*axes, *(path for path in first_order(done, objective.key, view.sweep.free) if path not in axes)][:2]
    if len(paths) < 2:
        raise InputError("a heat map needs two parameters that change the first objective")
    x_values, y_values = (_sorted({record.params[path] for record in done}) for path in paths)
    grid = np.full((len(y_values), len(x_values)), np.nan)
    for record in done:
        at = y_values.index(record.params[paths[1]]), x_values.index(record.params[paths[0]])
        value = record.metrics[objective.key]
        grid[at] = value if np.isnan(grid[at]) or objective.sign * value > objective.sign * grid[at] else grid[at]
    figure, (ax,) = _subplots(1, width=2.6 + 0.7 * len(x_values), height=1.6 + 0.5 * len(y_values))
    image = ax.imshow(grid, origin="lower", aspect="auto", cmap="viridis" if objective.sign > 0 else "viridis_r")
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            dark = (value < middle) == (objective.sign > 0)
            ax.text(column, row, si(value, _unit(objective)), ha="center", va="center", fontsize="small",
                    color="white" if dark else "black")  # fmt: skip
    ax.set_xticks(range(len(x_values)), [str(value) for value in x_values], rotation=30, ha="right")
    ax.set_yticks(range(len(y_values)), [str(value) for value in y_values])
    ax.set_xlabel(paths[0])
    ax.set_ylabel(paths[1])
    bar = figure.colorbar(image, ax=ax)
    _axis(bar.ax.yaxis, objective)
    return _titled(figure, view)


def roofline(view: SweepView) -> Figure:
    """For each workload the FLOP/s that every point reached, under the roofs of the chips that there are."""
    done, best, labels = _done(view), view.front, view.sweep.labels
    roofs = sorted({(record.metrics["memory_bandwidth"], record.metrics["peak_flops"]) for record in done})
    figure, axes = _subplots(len(labels), width=5.2, height=4.2)
    for ax, label in zip(axes, labels, strict=True):
        keys = f"{label}.intensity", f"{label}.flop_per_s"
        (x, y), (front_x, front_y) = ([[r.metrics[key] for r in records] for key in keys] for records in (done, best))
        ax.scatter(x, y, color=_POINT, s=14, alpha=0.6, linewidths=0, label=f"{len(done)} points")
        ax.scatter(front_x, front_y, color=SERIES[1], s=34, linewidths=0, label=f"{len(best)} on the front", zorder=3)
        ridges = [peak / rate for rate, peak in roofs]
        low, high = min(min(x) / 3, min(ridges) / 2), max(max(x) * 3, 2 * max(ridges))
        drawn = roofs if len(roofs) <= MOST_ROOFS else [roofs[0], roofs[-1]]
        for rate, peak in drawn:
            ax.plot([low, peak / rate, high], [low * rate, peak, peak], color=SERIES[0], lw=0.8, alpha=0.6, zorder=1)
        which = f"{len(drawn)} of {len(roofs)} roofs" if len(drawn) < len(roofs) else "roofs"
        ax.plot([], [], color=SERIES[0], lw=0.8, label=f"{which}: memory, then matrix units")
        ax.set(xscale="log", yscale="log", title=label)
        _axis(ax.xaxis, Objective("", label, METRICS["intensity"], 1))
        _axis(ax.yaxis, Objective("", label, METRICS["flop_per_s"], 1))
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize="small")
    return _titled(figure, view)


FIGURES: dict[str, Callable[..., Figure]] = {
    "pareto": pareto, "parallel": parallel, "sensitivity": sensitivity, "tornado": tornado_plot, "heatmap": heat_map,
    "roofline": roofline,
}  # fmt: skip


def _done(view: SweepView) -> list[Record]:
    done = [r for r in view.done if all(o.key in r.metrics for o in view.sweep.objectives)]
    if len(done) < 2:
        raise InputError("a picture needs at least two points that were simulated and keep every constraint")
    return done


def _sorted(values: set[Any]) -> list[Any]:
    return sorted(values, key=lambda value: (number_of(value) is None, number_of(value) or 0.0, str(value)))


def _unit(objective: Objective) -> str:
    return METRICS[objective.metric.name].unit


def _heights(values: list[Any], unit: str) -> tuple[list[float], str, str]:
    """Positions from 0 to 1 on an axis of parallel coordinates, and what stands at its ends."""
    distinct = _sorted(set(values))
    numbers = [number_of(value) for value in distinct]
    if len(distinct) > 12 and all(number is not None for number in numbers):
        low, high = min(values), max(values)
        return [(value - low) / (high - low) for value in values], si(low, unit).strip(), si(high, unit).strip()
    place = {value: index / max(len(distinct) - 1, 1) for index, value in enumerate(distinct)}
    return [place[value] for value in values], _short(distinct[0]), _short(distinct[-1])


def _short(value: Any) -> str:
    return si(value, "").strip() if isinstance(value, float) else str(value)


def _scatter(ax: Axes, records: Sequence[Record], x: Objective, y: Objective, **style: Any) -> None:
    ax.scatter([r.metrics[x.key] for r in records], [r.metrics[y.key] for r in records], linewidths=0, **style)


def _axis(axis: Any, objective: Objective) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator

    unit = _unit(objective)
    scaled = unit in _SCALED  # "40 ms" stands at the mark, "tokens/s" beside the axis
    if unit != "USD":
        axis.set_major_formatter(EngFormatter(unit=unit if scaled else ""))
    if axis.get_scale() == "log":  # few decades: marks between them are named like them
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.set_minor_formatter(axis.get_major_formatter())
    words = re.split("[:,(]", objective.metric.title)[0].strip()
    named = f"{objective.label}: {words}" if objective.label else words
    axis.set_label_text(f"{named} ({unit})" if unit and not scaled else named)


def _arrow(ax: Axes, x: Objective, y: Objective) -> None:
    """Which corner is the good one."""
    at = (0.97 if x.sign > 0 else 0.03, 0.97 if y.sign > 0 else 0.03)
    ax.text(*at, "better", transform=ax.transAxes, color=OTHER, fontsize="small", ha="right" if x.sign > 0 else "left",
            va="top" if y.sign > 0 else "bottom")  # fmt: skip
    ax.spines[["top", "right"]].set_visible(False)


def _subplots(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ArchsimError("figures need matplotlib, run: pip install 'archsim[plot]'") from None
    columns = min(count, 3)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained"
    )
    flat = list(axes.flat)
    for ax in flat[count:]:
        ax.set_visible(False)
    return figure, flat[:count]


def _titled(figure: Figure, view: SweepView) -> Figure:
    figure.suptitle(view.sweep.spec.title or view.sweep.spec.chip, x=0.01, ha="left", fontsize="medium")
    return figure


def figure_of(name: str) -> Callable[..., Figure]:
    """The function that draws a kind of figure."""
    if name not in FIGURES:
        known = did_you_mean(name, FIGURES) or f" (known: {', '.join(FIGURES)})"
        raise InputError(f"unknown figure '{name}'{known}")
    return FIGURES[name]
