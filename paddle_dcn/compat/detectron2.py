"""The interface of detectron2's deformable convolutions (`detectron2.layers`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from paddle import Tensor

from .. import _checks
from .._to_static import Constant, opaque
from ._shared import BEFORE_MMCV, Convolution, convolve_v1, convolve_v2, kaiming, refuse_bias

__all__ = ["DeformConv", "ModulatedDeformConv", "deform_conv", "modulated_deform_conv"]


@opaque
def deform_conv(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    deformable_groups: int = 1,
    im2col_step: int = 64,
) -> Tensor:
    """Deformable convolution v1 as detectron2 and mmdet 1.x have it.

    dtypes are those of `paddle_dcn.deform_conv2d`.

    Args:
        input: [N, C, H, W].
        offset: [N, deformable_groups * 2 * kh * kw, Ho, Wo], in pixels, y before x.
        weight: [M, C / groups, kh, kw].
        stride: Step between output pixels: an int, or (height, width).
        padding: Rows and columns of zeros around the images: an int, or (height, width).
        dilation: Distance of neighbouring taps: an int, or (height, width).
        groups: Groups of channels as in a grouped convolution.
        deformable_groups: Groups of channels that have offsets of their own.
        im2col_step: At most so many images are sampled into memory at a time; need not divide N.

    Returns:
        [N, M, Ho, Wo] in the dtype of `input`.

    Raises:
        TypeError: an argument of a wrong kind or dtype.
        ValueError: shapes that do not fit each other, a value out of its range.

    Source: `detectron2.layers.deform_conv.deform_conv`, detectron2 0.6; `mmdet.ops.deform_conv`,
    mmdet 1.2, which needs a batch that im2col_step divides.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.detectron2 import deform_conv
        >>> input, weight = paddle.rand([2, 4, 8, 8]), paddle.rand([6, 4, 3, 3])
        >>> list(deform_conv(input, paddle.rand([2, 18, 8, 8]), weight, 1, 1).shape)
        [2, 6, 8, 8]

    """
    im2col_step = _checks.check_int("im2col_step", im2col_step)  # None is none here
    attributes = _checks.check_attributes(
        stride, padding, dilation, groups, deformable_groups, im2col_step
    )
    return convolve_v1(input, offset, weight, Constant(attributes), BEFORE_MMCV)


@opaque
def modulated_deform_conv(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    deformable_groups: int = 1,
) -> Tensor:
    """Deformable convolution v2 as detectron2 and mmdet 1.x have it.

    dtypes are those of `paddle_dcn.deform_conv2d`.

    Args:
        input: [N, C, H, W].
        offset: [N, deformable_groups * 2 * kh * kw, Ho, Wo], in pixels, y before x.
        mask: [N, deformable_groups * kh * kw, Ho, Wo], the factors of the samples; no sigmoid is
            applied to it.
        weight: [M, C / groups, kh, kw].
        bias: [M]; None for no bias.
        stride: Step between output pixels: an int, or (height, width).
        padding: Rows and columns of zeros around the images: an int, or (height, width).
        dilation: Distance of neighbouring taps: an int, or (height, width).
        groups: Groups of channels as in a grouped convolution.
        deformable_groups: Groups of channels that have offsets and masks of their own.

    Returns:
        [N, M, Ho, Wo] in the dtype of `input`.

    Raises:
        TypeError: an argument of a wrong kind or dtype.
        ValueError: shapes that do not fit each other, a value out of its range.

    Source: `detectron2.layers.deform_conv.modulated_deform_conv`, detectron2 0.6;
    `mmdet.ops.modulated_deform_conv`, mmdet 1.2.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.detectron2 import modulated_deform_conv
        >>> input, weight = paddle.rand([2, 4, 8, 8]), paddle.rand([6, 4, 3, 3])
        >>> offset, mask = paddle.rand([2, 18, 8, 8]), paddle.rand([2, 9, 8, 8])
        >>> list(modulated_deform_conv(input, offset, mask, weight, None, 1, 1).shape)
        [2, 6, 8, 8]

    """
    attributes = _checks.check_attributes(stride, padding, dilation, groups, deformable_groups)
    return convolve_v2(input, offset, mask, weight, bias, Constant(attributes), BEFORE_MMCV)


class _Activated(Convolution):
    """A convolution whose result goes through a normalisation and an activation, if it has them."""

    _names = BEFORE_MMCV

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        deformable_groups: int,
        norm: Callable[[Tensor], Tensor] | None,
        activation: Callable[[Tensor], Tensor] | None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            deformable_groups,
        )
        self.deformable_groups = self._attributes.deformable_groups
        self.weight = self._weight(kaiming(self))
        for name, function in (("norm", norm), ("activation", activation)):
            # A class would make a layer of each result.
            if function is not None and (isinstance(function, type) or not callable(function)):
                _checks.reject_kind(
                    name, "a layer or another function of a tensor, or None", function
                )
        self.norm, self.activation = norm, activation

    def _finish(self, out: Tensor) -> Tensor:
        if self.norm is not None:
            out = self.norm(out)
        return out if self.activation is None else self.activation(out)


class DeformConv(_Activated):
    """Deformable convolution v1 with a weight, as `detectron2.layers.DeformConv` has it.

    The weight starts uniform between `-b` and `b`, `b = sqrt(6 / (C / groups * kh * kw))`.

    Args:
        in_channels: C, the channels of the input.
        out_channels: M, the channels of the result.
        kernel_size: kh and kw: an int, or (kh, kw).
        stride: Step between output pixels: an int, or (height, width).
        padding: Rows and columns of zeros around the images: an int, or (height, width).
        dilation: Distance of neighbouring taps: an int, or (height, width).
        groups: Groups of channels as in a grouped convolution.
        deformable_groups: Groups of channels that have offsets of their own.
        bias: False; there is no bias.
        norm: A layer that normalises the result, or None.
        activation: A function of the result, after `norm`, or None.

    Raises:
        TypeError: an argument that is no int, a `norm` or `activation` that is no function.
        ValueError: a value out of its range, or groups that do not divide the channels; also an
            AssertionError where it is about `bias`.

    Source: `detectron2.layers.DeformConv`, detectron2 0.6.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.detectron2 import DeformConv
        >>> layer = DeformConv(4, 6, 3, padding=1, norm=paddle.nn.BatchNorm2D(6))
        >>> list(layer(paddle.rand([2, 4, 8, 8]), paddle.rand([2, 18, 8, 8])).shape)
        [2, 6, 8, 8]

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
        deformable_groups: int = 1,
        bias: bool = False,
        norm: Callable[[Tensor], Tensor] | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Create the weight; see the class."""
        refuse_bias(bias)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            deformable_groups,
            norm,
            activation,
        )
        self.bias = None

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Return `deform_conv` of x with this layer's weight, normalised and activated."""
        return self._finish(convolve_v1(x, offset, self.weight, self._constant, self._names))


class ModulatedDeformConv(_Activated):
    """Deformable convolution v2 with parameters, as `detectron2.layers.ModulatedDeformConv` has it.

    The weight starts uniform between `-b` and `b`, `b = sqrt(6 / (C / groups * kh * kw))`, the
    bias at zero.

    Args:
        in_channels: C, the channels of the input.
        out_channels: M, the channels of the result.
        kernel_size: kh and kw: an int, or (kh, kw).
        stride: Step between output pixels: an int, or (height, width).
        padding: Rows and columns of zeros around the images: an int, or (height, width).
        dilation: Distance of neighbouring taps: an int, or (height, width).
        groups: Groups of channels as in a grouped convolution.
        deformable_groups: Groups of channels that have offsets and masks of their own.
        bias: Whether there is a bias.
        norm: A layer that normalises the result, or None.
        activation: A function of the result, after `norm`, or None.

    Raises:
        TypeError: an argument that is no int, a `norm` or `activation` that is no function.
        ValueError: a value out of its range, or groups that do not divide the channels.

    Source: `detectron2.layers.ModulatedDeformConv`, detectron2 0.6.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.detectron2 import ModulatedDeformConv
        >>> layer = ModulatedDeformConv(4, 6, 3, padding=1, activation=paddle.nn.functional.relu)
        >>> offset, mask = paddle.rand([2, 18, 8, 8]), paddle.rand([2, 9, 8, 8])
        >>> list(layer(paddle.rand([2, 4, 8, 8]), offset, mask).shape)
        [2, 6, 8, 8]

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
        deformable_groups: int = 1,
        bias: bool = True,
        norm: Callable[[Tensor], Tensor] | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Create the parameters; see the class."""
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            deformable_groups,
            norm,
            activation,
        )
        self.bias = self._zeros_if(bias)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """Return `modulated_deform_conv` of x with these parameters, normalised and activated."""
        return self._finish(
            convolve_v2(x, offset, mask, self.weight, self.bias, self._constant, self._names)
        )
