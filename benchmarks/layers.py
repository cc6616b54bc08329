"""The layers that the benchmarks time: of real networks, and what each takes at least."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One layer; kernels are 3x3, padding is 1."""

    name: str
    x: tuple[int, int, int, int]
    outputs: int
    stride: int = 1
    groups: int = 1
    deformable_groups: int = 1
    modulated: bool = True
    spread: float = 2.0  # standard deviation of the offsets, in pixels

    @property
    def out_size(self) -> tuple[int, int]:
        """Output height and width."""
        return tuple((size - 1) // self.stride + 1 for size in self.x[2:])

    @property
    def flop(self) -> int:
        """Floating-point operations of the forward product; backward has two of that size."""
        n, c, _, _ = self.x
        height, width = self.out_size
        return 2 * n * height * width * 9 * c // self.groups * self.outputs

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every input, and of the gradient of the output."""
        n, c, _, _ = self.x
        taps = 9 * self.deformable_groups
        shapes = {
            "x": self.x,
            "offset": (n, 2 * taps, *self.out_size),
            "mask": (n, taps, *self.out_size),
            "weight": (self.outputs, c // self.groups, 3, 3),
            "bias": (self.outputs,),
            "grad": (n, self.outputs, *self.out_size),
        }
        return {name: shape for name, shape in shapes.items() if name != "mask" or self.modulated}

    def elements(self, direction: str) -> int:
        """Elements of the tensors that "forward" or "backward" reads and writes, each once.

        Forward reads all inputs and writes the output; backward reads all inputs and the gradient
        of the output, and writes the gradients of the inputs.
        """
        out = math.prod(self.shapes["grad"])
        inputs = sum(map(math.prod, self.shapes.values())) - out
        return (inputs if direction == "forward" else 2 * inputs) + out


LAYERS = {
    layer.name: layer
    for layer in (
        Layer("big", (8, 256, 100, 100), 256),
        Layer("resnet_c4", (1, 256, 64, 64), 256),
        Layer("ppyolo_c5", (1, 512, 19, 19), 512),
        Layer("ppyolo_c5_s2", (1, 512, 38, 38), 512, stride=2),
        Layer("rcnn_c3", (1, 128, 100, 168), 128),
        Layer("rcnn_c4", (1, 256, 50, 84), 256),
        Layer("rcnn_c4_still", (1, 256, 50, 84), 256, spread=0.0),
        Layer("rcnn_c4_far", (1, 256, 50, 84), 256, spread=16.0),
        Layer("fairmot", (6, 512, 19, 34), 256),
        Layer("s2anet_align", (1, 256, 128, 128), 256, modulated=False),
        Layer("dbpp_c3", (4, 128, 80, 80), 128, deformable_groups=2),
        Layer("x101_c4", (1, 1024, 50, 84), 1024, groups=64),
        Layer("edvr_m", (4, 64, 64, 64), 64, deformable_groups=8),
        Layer("basicvsrpp", (2, 128, 64, 64), 64, deformable_groups=16),
        Layer("basicvsrpp_test", (1, 128, 180, 320), 64, deformable_groups=16),
        Layer("c2_small", (1, 64, 56, 56), 64),
        Layer("depthwise_c3", (8, 112, 56, 56), 112, groups=112),
        Layer("depthwise_c4", (1, 256, 64, 64), 256, groups=256),
        Layer("depthwise_c4_dg", (4, 256, 28, 28), 256, groups=256, deformable_groups=16),
        Layer("depthwise_c5", (2, 512, 14, 14), 512, groups=512),
    )
}
