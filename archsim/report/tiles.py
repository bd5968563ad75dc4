"""The picture of a tiling: which core computes which tile of the output, wave by wave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archsim._figure import new_figure, save_figure

__all__ = ["draw_tiles"]

#: rectangles that a reader can still tell apart
MOST_TILES = 4000


def draw_tiles(
    path: Path, wave: NDArray[np.int64], *, tile: tuple[int, int], shape: tuple[int, int], title: str
) -> None:
    """Write the output of a product as an image of its tiles, coloured by ``wave[row, column]``.

    tile, shape: rows and columns, in elements, of one tile and of the output.
    """
    figure = new_figure(7.5, 5.2)
    import matplotlib

    ax = figure.subplots()
    waves = int(wave.max()) + 1
    colours = matplotlib.colormaps["viridis"].resampled(waves)
    extent = (0, wave.shape[1] * tile[1], wave.shape[0] * tile[0], 0)
    image = ax.imshow(wave, extent=extent, aspect="auto", cmap=colours, interpolation="nearest", vmin=-0.5,
                      vmax=waves - 0.5)  # fmt: skip
    if wave.size <= MOST_TILES:
        for x in np.arange(wave.shape[1] + 1) * tile[1]:
            ax.axvline(x, color="white", linewidth=0.4)
        for y in np.arange(wave.shape[0] + 1) * tile[0]:
            ax.axhline(y, color="white", linewidth=0.4)
    ax.plot([0, shape[1], shape[1], 0, 0], [0, 0, shape[0], shape[0], 0], color="#d55e00", linewidth=1.5,
            clip_on=False, label="output")  # fmt: skip
    ax.set(xlabel="column of the output (n)", ylabel="row of the output (m)", title=title)
    ax.legend(loc="upper right", fontsize=8)
    figure.colorbar(image, ax=ax, label="wave: which turn of its core", ticks=range(0, waves, max(1, waves // 8)))
    save_figure(figure, path)
