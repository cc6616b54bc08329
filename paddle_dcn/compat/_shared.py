"""What the adapters share: a look at shapes, and PyTorch's layer attributes."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

from .. import _checks


def shape_of(name: str, tensor: Any, axes: str) -> tuple[int, ...]:
    """Shape of a tensor (-1: left open by a static program) that must have these axes."""
    inspect = _checks._inspect_dynamic if paddle.in_dynamic_mode() else _checks._inspect_static
    shape = inspect(name, tensor, None)[0]
    _checks._check_rank(name, shape, axes)
    return shape


class Convolution(nn.Layer):
    """The attributes that a convolution of PyTorch has, checked; parameters are its heirs'."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        deform_groups: int = 1,
        im2col_step: int | None = None,
    ) -> None:
        super().__init__()
        checked = _checks.check_layer(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            deform_groups,
            groups,
            None,
            im2col_step,
            "NCHW",
        )
        top, bottom, left, right = checked.padding
        if (top, left) != (bottom, right):
            raise ValueError(f"padding: expected an int or 2 ints, got {padding}")
        self.in_channels = checked.in_channels
        self.out_channels = checked.out_channels
        self.kernel_size = checked.kernel_size
        self.stride = checked.stride
        self.padding = (top, left)
        self.dilation = checked.dilation
        self.groups = checked.groups
        self.transposed = False
        self.output_padding = (0,)

    def extra_repr(self) -> str:
        """Return the constructor's arguments as torchvision shows them."""
        shown = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        shown.append(f"stride={self.stride}")
        defaults = {"padding": (0, 0), "dilation": (1, 1), "groups": 1, "deform_groups": 1}
        for name, default in defaults.items():
            value = getattr(self, name, default)
            if value != default:
                shown.append(f"{name}={value}")
        if getattr(self, "bias", True) is None:
            shown.append("bias=False")
        return ", ".join(shown)

    def _uniform(self, shape: list[int], bound: float) -> Tensor:
        """Create a parameter with values from -bound to bound."""
        return self.create_parameter(
            shape, default_initializer=nn.initializer.Uniform(-bound, bound)
        )

    def _weight(self, bound: float) -> Tensor:
        channels = self.in_channels // self.groups
        return self._uniform([self.out_channels, channels, *self.kernel_size], bound)
