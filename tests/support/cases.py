"""The problems that forward and backward are tested on, in every dtype."""

from __future__ import annotations

import functools
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

    @functools.cached_property
    def out_size(self) -> tuple[int, int]:
        """(Ho, Wo)."""
        ends = (self.pads[:2], self.pads[2:])
        reach = [d * (k - 1) + 1 for d, k in zip(pair(self.dilation), pair(self.kernel))]
        return tuple(
            (size + sum(pads) - span) // step + 1
            for size, pads, span, step in zip(self.size, ends, reach, pair(self.stride))
        )

    @property
    def taps(self) -> int:
        """Positions in the kernel."""
        return math.prod(pair(self.kernel))

    @property
    def pixels(self) -> int:
        """Pixels of one output image."""
        return math.prod(self.out_size)

    @property
    def group_channels(self) -> int:
        """Channels of a group."""
        return self.channels // self.groups

    @property
    def group_outputs(self) -> int:
        """Output channels of a group."""
        return self.outputs // self.groups

    @property
    def deformable_channels(self) -> int:
        """Channels of a deformable group."""
        return self.channels // self.deformable_groups

    @property
    def run(self) -> int:
        """Neighbouring channels that every group samples alike."""
        return math.gcd(self.group_channels, self.deformable_channels)

    @property
    def products(self) -> int:
        """Multiplications by a weight that the output takes."""
        return self.batch * self.pixels * self.outputs * self.group_channels * self.taps

    @property
    def paths(self) -> set[str]:
        """The names of the PATHS that it leads through."""
        return {name for name, leads_through in PATHS.items() if leads_through(self)}

    @property
    def depth(self) -> dict[str, int]:
        """How many rounded terms are summed into an element of the output and of each gradient."""
        coordinate = self.group_outputs * self.deformable_channels
        return {
            "out": self.group_channels * self.taps,
            "x": self.group_outputs * self.taps * self.pixels,  # all samples may fall on one pixel
            "offset": 4 * coordinate,
            "mask": 4 * coordinate,
            "weight": max(1, self.batch * self.pixels),
            "bias": max(1, self.batch * self.pixels),
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


# The ways through the kernels, by name, and what leads a case there. Tests choose cases by these
# names; sizes are at or beyond the kernels' limits for every instruction set.
PATHS = {
    # Where samples lie, and what multiplies them.
    "samples on pixels": lambda c: c.offsets in ("zero", "integer"),
    "samples on the edges": lambda c: c.offsets == "border",
    "samples far outside": lambda c: c.offsets == "huge",
    "samples nowhere": lambda c: c.offsets == "nonfinite",
    "no mask": lambda c: not c.modulated,
    "no bias": lambda c: not c.bias,
    "asymmetric padding": lambda c: c.pads[0] != c.pads[1] or c.pads[2] != c.pads[3],
    "stride and dilation": lambda c: c.stride != 1 and c.dilation != 1,
    # How tensors are stored.
    "NHWC": lambda c: c.data_format == "NHWC",
    "images in chunks, the last one smaller": lambda c: c.batch % (c.im2col_step or 1) > 0,
    # Channels that are sampled at a time: the widths of a vector, parts and multiples of it.
    **{
        f"runs of {width} channels": lambda c, width=width: c.run == width
        for width in (1, 2, 4, 8, 16, 32, 64)
    },
    "runs that end in a part of a vector": lambda c: c.run > 16 and c.run % 16 > 0,
    "short runs of several groups at once": (
        lambda c: c.group_channels in (3, 5) and c.deformable_channels >= 2 * c.group_channels
    ),
    "deformable groups across groups": (
        lambda c: c.run < min(c.group_channels, c.deformable_channels)
    ),
    # Channels that are multiplied at a time.
    "one channel a group, few outputs": lambda c: c.group_channels == 1 and c.group_outputs <= 16,
    "one channel a group, one output, several slabs": (
        lambda c: c.group_channels == c.group_outputs == 1 and c.channels > 128
    ),
    "one channel a group, many outputs": lambda c: c.group_channels == 1 and c.group_outputs > 32,
    "several groups in a slab": lambda c: c.groups > 1 and c.group_channels <= 16,
    "groups in several slabs": lambda c: c.groups > 1 and c.group_channels > 64,
    "deformable groups in several slabs": lambda c: c.deformable_channels > 64,
    "a narrower last slab": lambda c: c.group_channels > 64 and c.group_channels % 16 > 0,
    "taps in several blocks": lambda c: c.taps * min(c.group_channels, 16) > 640,
    # Panels of outputs: 16 or 32 columns of the split product.
    "few outputs": lambda c: c.group_channels > 1 and c.group_outputs < 16,
    "a last panel of 16 outputs": lambda c: c.group_outputs > 32 >= 2 * (c.group_outputs % 32) > 0,
    "a last panel of 32 outputs": lambda c: c.group_outputs > 32 and c.group_outputs % 32 > 16,
    "depths that are padded": lambda c: c.group_channels > 1 and c.group_channels * c.taps % 32 > 0,
    # Pixels: a tile has up to 96, a task up to 384.
    "one pixel": lambda c: c.pixels == 1,
    "a last block of 16 pixels": lambda c: c.group_channels > 1 and 0 < c.pixels % 32 <= 16,
    "a last block of 32 pixels": lambda c: c.group_channels > 1 and c.pixels % 32 > 16,
    "several tiles": lambda c: c.pixels > 96,
    "several tasks": lambda c: c.pixels > 384,
    "threads share the outputs": lambda c: c.groups == 1 and c.pixels < 96 and c.outputs > 128,
    # Backward holds up to 32 MiB of the output's gradient and 8 MiB of partial sums at a time.
    "bands of tiles": lambda c: (
        4 * c.batch * c.outputs * c.pixels > 32 << 20
        or 32 % c.deformable_channels > 0
        and 12 * c.batch * c.pixels * c.taps * c.deformable_groups > 8 << 20
    ),
}


def choose(cases: list[Case], *paths: str) -> list[Case]:
    """Return the cases that lead through any of the paths."""
    unknown = set(paths) - PATHS.keys()
    assert not unknown, f"no path is called {unknown}"
    return [case for case in cases if case.paths & set(paths)]


# What each instruction set and thread count is run on: every one of PATHS, as few cases as will do.
COMPACT = [
    Case(2, 6, (7, 5), 12, padding=1, groups=2, deformable_groups=3),
    Case(2, 6, (7, 5), 12, padding=1, groups=2, deformable_groups=3, offsets="zero"),
    Case(2, 6, (7, 5), 12, padding=1, groups=2, deformable_groups=3, offsets="huge"),
    Case(2, 6, (7, 5), 12, padding=1, groups=2, deformable_groups=3, modulated=False),
    Case(1, 1, (1, 1), 1, kernel=1),
    Case(1, 1, (9, 8), 40, padding=1),  # one channel, many outputs
    Case(2, 4, (10, 10), 6, kernel=(2, 3), dilation=(3, 2), stride=(3, 1), groups=2),
    Case(2, 20, (9, 8), 2, kernel=7, padding=3, modulated=False, bias=False),
    Case(1, 2, (2, 300), 3, padding=1, stride=(1, 2)),  # coordinates that half types cannot hold
    Case(2, 16, (6, 5), 5, padding=1, deformable_groups=8),
    Case(2, 16, (7, 7), 17, padding=1, deformable_groups=4),
    Case(1, 40, (6, 7), 24, padding=1, groups=8, deformable_groups=2),
    Case(1, 64, (9, 7), 128, padding=1, groups=64, deformable_groups=16),
    Case(1, 168, (9, 8), 168, padding=1, groups=168, deformable_groups=2),
    Case(1, 64, (17, 17), 100, padding=1),
    Case(2, 64, (13, 11), 33, padding=1, stride=2, deformable_groups=8, modulated=False),
    Case(1, 520, (6, 5), 16, padding=1, groups=8, deformable_groups=4, offsets="nonfinite"),
    Case(1, 64, (7, 6), 200, padding=1),
    Case(2, 16, (23, 29), 5, padding=1),
    Case(1, 32, (8, 9), 60, padding=(1, 2, 0, 1), data_format="NHWC", offsets="border"),
    Case(3, 17, (9, 8), 33, padding=1, modulated=False, data_format="NHWC", im2col_step=2),
    Case(2, 66, (42, 43), 3, padding=1, deformable_groups=22),
]

# Every kind of offsets, with a deformable group that straddles the groups' border.
KINDS = [
    Case(2, 6, (7, 5), 12, padding=1, groups=2, deformable_groups=3, offsets=kind, modulated=v2)
    for kind in ("zero", "random", "integer", "border", "huge", "nonfinite")
    for v2 in (True, False)
]

# Few channels and outputs, odd sizes and attributes.
SMALL = [
    Case(1, 1, (3, 3), 1),
    Case(5, 3, (3, 3), 5, bias=False),
    Case(1, 3, (4, 9), 2, kernel=1, stride=3, deformable_groups=3),
    Case(2, 3, (6, 7), 5, kernel=(2, 3), padding=(0, 1), stride=(1, 2), modulated=False),
    Case(2, 7, (9, 8), 1, kernel=(1, 5), padding=(0, 0, 4, 1), dilation=(1, 2)),
    Case(2, 7, (8, 9), 7, kernel=(5, 1), padding=(2, 0), groups=7, deformable_groups=7),
    Case(1, 5, (11, 12), 2, kernel=5, padding=(3, 0, 1, 4), stride=(2, 3), offsets="border"),
    Case(3, 13, (9, 9), 2, kernel=7, padding=3, modulated=False, bias=False),
]

# More widths of groups and deformable groups; outputs that deformable_groups does not divide; more
# than a hundred groups of either kind.
GROUPED = [
    Case(2, 3, (6, 7), 2, padding=1, deformable_groups=3),
    Case(2, 30, (5, 6), 33, padding=1, groups=3, deformable_groups=10),
    Case(2, 10, (7, 6), 12, padding=(1, 0), groups=2, deformable_groups=2),
    Case(1, 16, (9, 9), 100, padding=1, stride=2, groups=4, deformable_groups=2),
    Case(2, 36, (5, 7), 4, padding=1, groups=2, deformable_groups=3, modulated=False),
    Case(1, 34, (6, 6), 33, padding=1, deformable_groups=2),
    Case(2, 33, (6, 5), 33, padding=1, groups=11, deformable_groups=3),
    Case(1, 64, (6, 9), 64, padding=1, groups=16, deformable_groups=64),
    Case(1, 130, (6, 5), 260, padding=1, groups=130, deformable_groups=26),
    Case(1, 200, (4, 7), 100, padding=1, groups=100, deformable_groups=8, modulated=False),
    Case(1, 260, (5, 4), 6, padding=1, groups=2, deformable_groups=130),
]

# Few channels per group, as many outputs or few multiples of them: what takes no columns. More taps
# than are planned at a time, groups that end in a part of a vector, every layout and chunk.
DIRECT = [
    Case(1, 6, (12, 11), 12, kernel=9, padding=4, groups=6, modulated=False, offsets="integer"),
    Case(2, 40, (8, 9), 40, padding=(1, 2, 0, 1), groups=40, data_format="NHWC", offsets="border"),
    Case(3, 33, (5, 6), 99, padding=1, groups=33, deformable_groups=33, im2col_step=2),
    Case(2, 24, (7, 6), 24, padding=1, groups=12, deformable_groups=3, offsets="huge"),
    Case(2, 44, (9, 7), 44, stride=2, dilation=2, padding=2, groups=11),
    Case(1, 88, (5, 9), 88, kernel=(2, 3), groups=11, data_format="NHWC", offsets="nonfinite"),
]

# Long sums (up to 4680 terms), many channels and outputs, hundreds of pixels.
LARGE = [
    Case(2, 2, (97, 96), 512, kernel=(2, 1)),
    Case(1, 130, (10, 11), 130, padding=(1, 2, 0, 1), offsets="huge"),
    Case(1, 520, (5, 6), 33, padding=1),
    Case(1, 13, (16, 15), 17, kernel=7, padding=3, dilation=2, stride=2, offsets="border"),
    Case(1, 24, (31, 21), 40, padding=1, groups=2, deformable_groups=2, modulated=False),
]

# Layout, image chunks and empty batches.
ARRANGED = [
    Case(2, 6, (7, 5), 4, padding=1, groups=2, deformable_groups=3, data_format="NHWC"),
    Case(1, 64, (14, 15), 64, padding=1, stride=2, data_format="NHWC", offsets="border"),
    *(Case(5, 8, (7, 9), 10, padding=1, deformable_groups=2, im2col_step=s) for s in (1, 2, 3, 64)),
    Case(0, 4, (5, 5), 6, padding=1, deformable_groups=2),
    Case(0, 4, (5, 5), 6, padding=1, modulated=False, data_format="NHWC", im2col_step=2),
]

TABLE = list(dict.fromkeys(COMPACT + KINDS + SMALL + GROUPED + DIRECT + LARGE + ARRANGED))
