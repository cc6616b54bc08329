"""What the adapters share: the attributes of PyTorch's layers."""

from __future__ import annotations

from typing import Any

from paddle import Tensor, nn

from .._checks import Names, check_attributes, check_layer, reject

MMCV = Names(x="input", deformable_groups="deform_groups")


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
        attributes = check_attributes(
            stride, padding, dilation, groups, deform_groups, im2col_step, names=MMCV
        )
        checked = check_layer(in_channels, out_channels, kernel_size, attributes, names=MMCV)
        self._arguments, self._attributes = checked, attributes
        top, bottom, left, right = attributes.padding
        if (top, left) != (bottom, right):
            reject(ValueError, "padding", "an int or 2 ints", padding)
        self.in_channels = checked.in_channels
        self.out_channels = checked.out_channels
        self.kernel_size = checked.kernel_size
        self.stride = attributes.stride
        self.padding = (top, left)
        self.dilation = attributes.dilation
        self.groups = attributes.groups
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
