"""The interface of the `dcn_v2` module of CharlesShang's DCNv2, which CenterNet uses."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor

from .. import _checks
from .._to_static import Constant, opaque
from ..layers import OffsetConv2D, check_input, count_offsets, cut_planes
from ._shared import BEFORE_MMCV, ModulatedConvolution, convolve_v2

__all__ = ["DCN", "DCNv2", "dcn_v2_conv"]


@opaque
def dcn_v2_conv(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    deformable_groups: int,
) -> Tensor:
    """Deformable convolution v2 as `dcn_v2.dcn_v2_conv` has it.

    dtypes are those of `paddle_dcn.deform_conv2d`.

    Args:
        input: [N, C, H, W].
        offset: [N, deformable_groups * 2 * kh * kw, Ho, Wo], in pixels, y before x.
        mask: [N, deformable_groups * kh * kw, Ho, Wo], the factors of the samples; no sigmoid is
            applied to it.
        weight: [M, C, kh, kw].
        bias: [M]; None for no bias.
        stride: Step between output pixels: an int, or (height, width).
        padding: Rows and columns of zeros around the images: an int, or (height, width).
        dilation: Distance of neighbouring taps: an int, or (height, width).
        deformable_groups: Groups of channels that have offsets and masks of their own.

    Returns:
        [N, M, Ho, Wo] in the dtype of `input`.

    Raises:
        TypeError: an argument of a wrong kind or dtype.
        ValueError: shapes that do not fit each other, a value out of its range.

    Source: `dcn_v2_conv` in dcn_v2.py, https://github.com/CharlesShang/DCNv2.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.dcn_v2 import dcn_v2_conv
        >>> input, weight, bias = paddle.rand([2, 4, 8, 8]), paddle.rand([6, 4, 3, 3]), None
        >>> offset, mask = paddle.rand([2, 18, 8, 8]), paddle.rand([2, 9, 8, 8])
        >>> list(dcn_v2_conv(input, offset, mask, weight, bias, 1, 1, 1, 1).shape)
        [2, 6, 8, 8]

    """
    attributes = _checks.check_attributes(
        stride, padding, dilation, 1, deformable_groups, names=BEFORE_MMCV
    )
    return convolve_v2(input, offset, mask, weight, bias, Constant(attributes), BEFORE_MMCV)


class DCNv2(ModulatedConvolution):
    """Deformable convolution v2 with parameters, as `dcn_v2.DCNv2` has it.

    The weight starts uniform between `-b` and `b`, `b = 1 / sqrt(C * kh * kw)`, the bias at zero.

    Args:
        in_channels: C, the channels of the input.
        out_channels: M, the channels of the result.
        kernel_size: kh and kw: an int, or (kh, kw).
        stride: Step between output pixels: an int, or (height, width).
        padding: Rows and columns of zeros around the images: an int, or (height, width).
        dilation: Distance of neighbouring taps: an int, or (height, width).
        deformable_groups: Groups of channels that have offsets and masks of their own.

    Raises:
        TypeError: an argument that is no int.
        ValueError: a value out of its range, or groups that do not divide the channels.

    Source: `DCNv2` in dcn_v2.py, https://github.com/CharlesShang/DCNv2.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.dcn_v2 import DCNv2
        >>> layer = DCNv2(4, 6, 3, stride=1, padding=1)
        >>> offset, mask = paddle.rand([2, 18, 8, 8]), paddle.rand([2, 9, 8, 8])
        >>> list(layer(paddle.rand([2, 4, 8, 8]), offset, mask).shape)
        [2, 6, 8, 8]

    """

    _names = BEFORE_MMCV

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        padding: int | Sequence[int],
        dilation: int | Sequence[int] = 1,
        deformable_groups: int = 1,
    ) -> None:
        """Create the parameters; see the class."""
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, 1, deformable_groups
        )
        self.deformable_groups = self._attributes.deformable_groups

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """Return `dcn_v2_conv` of the input with this layer's parameters."""
        return convolve_v2(input, offset, mask, self.weight, self.bias, self._constant, self._names)


class DCN(DCNv2):
    """Deformable convolution v2 that predicts its sampling, as `dcn_v2.DCN` does.

    Takes the arguments of `DCNv2` and raises what that raises. `conv_offset_mask`, a convolution of
    the input that starts at zero, gives two thirds offsets and one third masks, of which the
    sigmoid is taken. In the original it is not dilated, so that with a dilation the shapes do not
    fit; here it is.

    Source: `DCN` in dcn_v2.py, https://github.com/CharlesShang/DCNv2.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.dcn_v2 import DCN
        >>> layer = DCN(4, 6, kernel_size=(3, 3), stride=1, padding=1, deformable_groups=2)
        >>> sorted(layer.state_dict())
        ['bias', 'conv_offset_mask.bias', 'conv_offset_mask.weight', 'weight']
        >>> list(layer(paddle.rand([2, 4, 8, 8])).shape)
        [2, 6, 8, 8]

    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        padding: int | Sequence[int],
        dilation: int | Sequence[int] = 1,
        deformable_groups: int = 1,
    ) -> None:
        """Create the parameters; see `DCNv2`."""
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, deformable_groups
        )
        self.conv_offset_mask = OffsetConv2D(self._arguments, self._attributes, 3)
        self._offsets = count_offsets(self._arguments, self._attributes)

    def forward(self, input: Tensor) -> Tensor:
        """Return the deformable convolution of the input, [N, C, H, W]."""
        check_input(input, self.weight, self._constant, self._names)
        planes = self.conv_offset_mask(input)
        sampling = cut_planes(planes, self._offsets)
        return convolve_v2(input, *sampling, self.weight, self.bias, self._constant, self._names)
