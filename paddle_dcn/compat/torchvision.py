"""The interface of `torchvision.ops.deform_conv2d` and `torchvision.ops.DeformConv2d`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from paddle import Tensor

from .._checks import UNKNOWN, Names, check_attributes, check_flag, check_shape, reject
from .._to_static import opaque
from ..functional import convolve
from ._shared import Convolution

__all__ = ["DeformConv2d", "deform_conv2d"]

_NAMES = Names(x="input")


@opaque
def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = (1, 1),
    padding: int | Sequence[int] = (0, 0),
    dilation: int | Sequence[int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Deformable convolution as `torchvision.ops.deform_conv2d` has it.

    The number of groups is the channels of `input` over those of `weight`; the number of offset
    groups is the channels of `offset` over `2 * kh * kw`. dtypes are those of
    `paddle_dcn.deform_conv2d`. One value differs from torchvision: the gradient of an offset that
    moves its sample to exactly -1, H or W is 0 here.

    Args:
        input: [N, C, H, W].
        offset: [N, 2 * offset_groups * kh * kw, Ho, Wo], in pixels, y before x.
        weight: [M, C / groups, kh, kw].
        bias: [M]; None for no bias.
        stride: Step between output pixels: an int, or (height, width).
        padding: Rows and columns of zeros around the images: an int, or (height, width).
        dilation: Distance of neighbouring taps: an int, or (height, width).
        mask: [N, offset_groups * kh * kw, Ho, Wo], the factors of the samples; None for v1.

    Returns:
        [N, M, Ho, Wo] in the dtype of `input`.

    Raises:
        TypeError: an argument of a wrong kind or dtype.
        ValueError: shapes that do not fit each other, a value out of its range.

    Source: `torchvision.ops.deform_conv2d`.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.torchvision import deform_conv2d
        >>> input = paddle.rand([4, 3, 10, 10])
        >>> weight = paddle.rand([5, 3, 3, 3])
        >>> offset = paddle.rand([4, 2 * 3 * 3, 8, 8])
        >>> mask = paddle.rand([4, 3 * 3, 8, 8])
        >>> list(deform_conv2d(input, offset, weight, mask=mask).shape)
        [4, 5, 8, 8]

    """
    channels = check_shape("input", input, "[N, C, H, W]")[1]
    group_channels, *kernel = check_shape("weight", weight, "[M, C / groups, kh, kw]")[1:]
    planes = check_shape("offset", offset, "[N, 2 * offset_groups * kh * kw, Ho, Wo]")[1]
    sizes = [channels, planes, group_channels, *kernel]
    if UNKNOWN in sizes:
        reject(ValueError, "input, offset, weight", "known numbers of channels and taps", sizes)
    # A quotient that is not whole or is 0 leaves shapes that do not fit, which is found below.
    groups = channels // group_channels if group_channels else 1
    offset_groups = planes // (2 * math.prod(kernel)) if math.prod(kernel) else 1
    attributes = check_attributes(stride, padding, dilation, max(1, groups), max(1, offset_groups))
    return convolve(input, offset, mask, weight, bias, attributes, _NAMES)


class DeformConv2d(Convolution):
    """Deformable convolution with parameters, as `torchvision.ops.DeformConv2d` has it.

    Weight and bias start uniform between `-b` and `b`, `b = 1 / sqrt(C / groups * kh * kw)`.

    Args:
        in_channels: C, the channels of the input.
        out_channels: M, the channels of the result.
        kernel_size: kh and kw: an int, or (kh, kw).
        stride: Step between output pixels: an int, or (height, width).
        padding: Rows and columns of zeros around the images: an int, or (height, width).
        dilation: Distance of neighbouring taps: an int, or (height, width).
        groups: Groups of channels as in a grouped convolution.
        bias: Whether there is a bias.

    Raises:
        TypeError: an argument that is no int.
        ValueError: a value out of its range, or groups that do not divide the channels.

    Source: `torchvision.ops.DeformConv2d`.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.torchvision import DeformConv2d
        >>> layer = DeformConv2d(3, 5, kernel_size=3, padding=1)
        >>> list(layer(paddle.rand([4, 3, 10, 10]), paddle.rand([4, 18, 10, 10])).shape)
        [4, 5, 10, 10]

    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        """Create the parameters; see the class."""
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        bound = 1 / math.sqrt(self.in_channels // self.groups * math.prod(self.kernel_size))
        self.weight = self._weight(bound)
        bias = check_flag("bias", bias, optional=True)
        self.bias = self._uniform([self.out_channels], bound) if bias else None

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `deform_conv2d` of the input with this layer's parameters."""
        return deform_conv2d(
            input,
            offset,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            mask,
        )
