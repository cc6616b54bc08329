"""The problems that forward and backward are tested on, in every dtype."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


def pair(value):
    """Return (v, v) for an int, the value itself otherwise."""
    return (value, value) if isinstance(value, int) else value


@dataclass(frozen=True)
class Case:
    """One problem: the sizes and attributes, and the kind of offsets."""

    batch: int
    channels: int
    size: tuple[int, int]
    outputs: int
    kernel: int | tuple[int, int] = 3
    stride: int | tuple[int, int] = 1
    padding: int | tuple[int, ...] = 0
    dilation: int | tuple[int, int] = 1
    groups: int = 1
    deformable_groups: int = 1
    modulated: bool = True
    bias: bool = True
    offsets: str = "random"  # a key of _OFFSETS
    im2col_step: int | None = None
    data_format: str = "NCHW"

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Padding as (top, bottom, left, right)."""
        pads = pair(self.padding)
        return pads if len(pads) == 4 else (pads[0], pads[0], pads[1], pads[1])

    @property
    def out_size(self) -> tuple[int, int]:
        """(Ho, Wo)."""
        ends = (self.pads[:2], self.pads[2:])
        reach = [d * (k - 1) + 1 for d, k in zip(pair(self.dilation), pair(self.kernel))]
        return tuple(
            (size + sum(pads) - span) // step + 1
            for size, pads, span, step in zip(self.size, ends, reach, pair(self.stride))
        )

    @property
    def depth(self) -> dict[str, int]:
        """How many rounded terms are summed into an element of the output and of each gradient."""
        taps = math.prod(pair(self.kernel))
        pixels = math.prod(self.out_size)
        group_outputs = self.outputs // self.groups
        coordinate = group_outputs * self.channels // self.deformable_groups
        return {
            "out": self.channels // self.groups * taps,
            "x": group_outputs * taps * pixels,  # all samples may fall on one pixel
            "offset": 4 * coordinate,
            "mask": 4 * coordinate,
            "weight": max(1, self.batch * pixels),
            "bias": max(1, self.batch * pixels),
        }

    def attributes(self) -> dict:
        """Keyword arguments of deform_conv2d."""
        names = ("stride", "padding", "dilation", "groups", "deformable_groups")
        names += ("im2col_step", "data_format")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        """Return a short test id: what differs from the defaults."""
        parts = [f"{self.batch}x{self.channels}x{self.size[0]}x{self.size[1]}-{self.outputs}"]
        for field, short in _SHORT.items():
            value = getattr(self, field)
            if value != self.__dataclass_fields__[field].default:
                parts.append(short + "x".join(map(str, np.atleast_1d(value))))
        return "-".join(parts)


_SHORT = {
    "kernel": "k",
    "stride": "s",
    "padding": "p",
    "dilation": "d",
    "groups": "g",
    "deformable_groups": "dg",
    "modulated": "modulated",
    "bias": "bias",
    "offsets": "",
    "im2col_step": "step",
    "data_format": "",
}


# Every kind of offsets, with a deformable group that straddles the groups' border.
KINDS = [
    Case(2, 6, (7, 5), 12, padding=1, groups=2, deformable_groups=3, offsets=kind, modulated=v2)
    for kind in ("zero", "random", "integer", "border", "huge", "nonfinite")
    for v2 in (True, False)
]

# Few channels and outputs, odd sizes and attributes.
SMALL = [
    Case(1, 1, (1, 1), 1, kernel=1),
    Case(1, 1, (3, 3), 1),
    Case(1, 1, (9, 8), 40, padding=1),  # one channel, many outputs
    Case(5, 3, (3, 3), 5, bias=False),
    Case(1, 3, (4, 9), 2, kernel=1, stride=3, deformable_groups=3),
    Case(2, 3, (6, 7), 5, kernel=(2, 3), padding=(0, 1), stride=(1, 2), modulated=False),
    Case(2, 7, (9, 8), 1, kernel=(1, 5), padding=(0, 0, 4, 1), dilation=(1, 2)),
    Case(2, 7, (8, 9), 7, kernel=(5, 1), padding=(2, 0), groups=7, deformable_groups=7),
    Case(1, 5, (11, 12), 2, kernel=5, padding=(3, 0, 1, 4), stride=(2, 3), offsets="border"),
    Case(2, 4, (10, 10), 6, kernel=(2, 3), dilation=(3, 2), stride=(3, 1), groups=2),
    Case(3, 13, (9, 9), 2, kernel=7, padding=3, modulated=False, bias=False),
    Case(1, 2, (2, 300), 3, padding=1, stride=(1, 2)),  # coordinates that half types cannot hold
]

# 1, 2, 3, 4, 5, 8, 12, 17 and more channels in a deformable group; groups that cut across them;
# outputs that deformable_groups does not divide; more than a hundred groups of either kind.
GROUPED = [
    Case(2, 3, (6, 7), 2, padding=1, deformable_groups=3),
    Case(2, 16, (6, 5), 5, padding=1, deformable_groups=8),
    Case(2, 30, (5, 6), 33, padding=1, groups=3, deformable_groups=10),
    Case(2, 16, (7, 7), 17, padding=1, deformable_groups=4),
    Case(2, 10, (7, 6), 12, padding=(1, 0), groups=2, deformable_groups=2),
    Case(1, 16, (9, 9), 100, padding=1, stride=2, groups=4, deformable_groups=2),
    Case(2, 36, (5, 7), 4, padding=1, groups=2, deformable_groups=3, modulated=False),
    Case(1, 34, (6, 6), 33, padding=1, deformable_groups=2),
    Case(2, 33, (6, 5), 33, padding=1, groups=11, deformable_groups=3),
    Case(1, 40, (6, 7), 24, padding=1, groups=8, deformable_groups=2),
    Case(1, 64, (9, 7), 128, padding=1, groups=64, deformable_groups=16),
    Case(1, 64, (6, 9), 64, padding=1, groups=16, deformable_groups=64),
    Case(1, 130, (6, 5), 260, padding=1, groups=130, deformable_groups=26),
    Case(1, 200, (4, 7), 100, padding=1, groups=100, deformable_groups=8, modulated=False),
    Case(1, 260, (5, 4), 6, padding=1, groups=2, deformable_groups=130),
]

# Long sums (K from 576 to 4680), many channels and outputs, hundreds of pixels.
LARGE = [
    Case(1, 64, (17, 17), 100, padding=1),
    Case(2, 64, (13, 11), 33, padding=1, stride=2, deformable_groups=8, modulated=False),
    Case(1, 130, (10, 11), 130, padding=(1, 2, 0, 1), offsets="huge"),
    Case(1, 520, (5, 6), 33, padding=1),
    Case(1, 520, (6, 5), 16, padding=1, groups=8, deformable_groups=4, offsets="nonfinite"),
    Case(1, 13, (16, 15), 17, kernel=7, padding=3, dilation=2, stride=2, offsets="border"),
    Case(2, 4, (96, 96), 512, padding=1),  # backward works on it in bands of tiles
    Case(1, 64, (7, 6), 200, padding=1),  # threads share the outputs rather than the pixels
    Case(2, 16, (23, 29), 5, padding=1),
    Case(1, 24, (31, 21), 40, padding=1, groups=2, deformable_groups=2, modulated=False),
]

# Layout, image chunks and empty batches.
ARRANGED = [
    Case(2, 6, (7, 5), 4, padding=1, groups=2, deformable_groups=3, data_format="NHWC"),
    Case(3, 17, (9, 8), 33, padding=1, modulated=False, data_format="NHWC", im2col_step=2),
    Case(1, 64, (14, 15), 64, padding=1, stride=2, data_format="NHWC", offsets="border"),
    *(Case(5, 8, (7, 9), 10, padding=1, deformable_groups=2, im2col_step=s) for s in (1, 2, 3, 64)),
    Case(0, 4, (5, 5), 6, padding=1, deformable_groups=2),
    Case(0, 4, (5, 5), 6, padding=1, modulated=False, data_format="NHWC", im2col_step=2),
]

TABLE = KINDS + SMALL + GROUPED + LARGE + ARRANGED

# What each instruction set and thread count is run on: every code path, as few cases as will do.
COMPACT = (
    KINDS[:4] + SMALL[-3:] + GROUPED[1:4] + LARGE[:2] + LARGE[4:5] + LARGE[-1:] + ARRANGED[1:2]
)
