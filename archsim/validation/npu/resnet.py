"""The layers of ResNet-18 and ResNet-50, in order, as (kind, arguments)."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["RESNETS", "Conv", "resnet"]

RESNETS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
"""Blocks of each of the four stages."""


class Conv(NamedTuple):
    """A convolution by its output: ``size`` x ``size`` pixels; ``adds``: the block's input is added to its result."""

    size: int
    channels: int
    filters: int
    kernel: int
    stride: int
    adds: bool = False


def resnet(name: str) -> list[Conv]:
    """The convolutions after the first pooling (He et al., "Deep residual learning", CVPR 2016, table 1).

    The stride of a bottleneck is that of its 3 x 3 convolution, as in torchvision; a shortcut that changes the shape
    comes first in its block.

    >>> len(resnet("resnet18")), len(resnet("resnet50"))  # with the first one and the last product, 18 + 3 and 50 + 4
    (19, 52)
    """
    convs: list[Conv] = []
    channels = 64
    for stage, blocks in enumerate(RESNETS[name]):
        size, width = 56 >> stage, 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            out = width if name == "resnet18" else 4 * width
            if channels != out:
                convs.append(Conv(size, channels, out, 1, stride))
            if name == "resnet18":
                convs.append(Conv(size, channels, width, 3, stride))
                last = Conv(size, width, width, 3, 1, adds=True)
            else:
                convs.append(Conv(size * stride, channels, width, 1, 1))
                convs.append(Conv(size, width, width, 3, stride))
                last = Conv(size, width, out, 1, 1, adds=True)
            convs.append(last)
            channels = out
    return convs
