"""The interface of mmcv's deformable convolutions (`mmcv.ops`), and its checkpoints."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import paddle
from paddle import Tensor, nn

from .. import _checks
from .._to_static import breaks_graph, opaque
from ..functional import convolve
from ..layers import check_input, offset_conv
from ._checkpoints import convert_state_dict
from ._shared import MMCV, Convolution

__all__ = [
    "DeformConv2d",
    "DeformConv2dPack",
    "ModulatedDeformConv2d",
    "ModulatedDeformConv2dPack",
    "convert_state_dict",
    "deform_conv2d",
    "modulated_deform_conv2d",
]


class ArgumentError(AssertionError, ValueError):
    """What mmcv asserts is a ValueError here; code written for either catches it."""


def _refuse_bias(refused: bool, bias: Any) -> None:
    if refused:
        _checks.reject(ArgumentError, "bias", "False, as there is no bias here", repr(bias))


def _like_offset(offset: Any, *tensors: Any) -> list[Any]:
    """Cast tensors to the dtype of offset, in which mmcv computes; it is what autocast sets."""
    dtype = getattr(offset, "dtype", None)
    if _checks.dtype_name(dtype) not in _checks.DTYPES:
        return [*tensors]
    kinds = (paddle.Tensor, *_checks.STATIC)
    return [t.astype(dtype) if isinstance(t, kinds) and t.dtype != dtype else t for t in tensors]


@opaque
def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    deform_groups: int = 1,
    bias: bool = False,
    im2col_step: int = 32,
) -> Tensor:
    """Deformable convolution v1 as `mmcv.ops.deform_conv2d` has it.

    Args:
        input: [N, C, H, W]; cast to the dtype of `offset`.
        offset: [N, deform_groups * 2 * kh * kw, Ho, Wo], in pixels, y before x.
        weight: [M, C / groups, kh, kw]; cast to the dtype of `offset`.
        stride: Step between output pixels: an int, or (height, width).
        padding: Rows and columns of zeros around the images: an int, or (height, width).
        dilation: Distance of neighbouring taps: an int, or (height, width).
        groups: Groups of channels as in a grouped convolution.
        deform_groups: Groups of channels that have offsets of their own.
        bias: False; there is no bias.
        im2col_step: At most so many images are sampled into memory at a time; divides N unless N
            is smaller. Not checked where a program leaves N open: no result depends on it.

    Returns:
        [N, M, Ho, Wo] in the dtype of `offset`.

    Raises:
        TypeError: an argument of a wrong kind or dtype.
        ValueError: shapes that do not fit each other, a value out of its range; also an
            AssertionError where it is about `bias` or `im2col_step`.

    Source: `mmcv.ops.deform_conv2d`, mmcv 2.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.mmcv import deform_conv2d
        >>> input, weight = paddle.rand([2, 4, 8, 8]), paddle.rand([6, 4, 3, 3])
        >>> offset = paddle.rand([2, 18, 8, 8])
        >>> list(deform_conv2d(input, offset, weight, 1, 1, 1, 1, 1).shape)
        [2, 6, 8, 8]

    """
    _refuse_bias(bias is not False, bias)
    attributes = _checks.check_attributes(
        stride, padding, dilation, groups, deform_groups, im2col_step, names=MMCV
    )
    batch, step = _checks.check_shape("input", input, "[N, C, H, W]")[0], attributes.im2col_step
    if batch > step and batch % step:
        text = (
            "im2col_step: batch size must be divisible by im2col_step or smaller, got "
            f"batch size {batch} and im2col_step {step}"
        )
        raise breaks_graph(ArgumentError(text))
    input, weight = _like_offset(offset, input, weight)
    return convolve(input, offset, None, weight, None, attributes, MMCV)


@opaque
def modulated_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """Deformable convolution v2 as `mmcv.ops.modulated_deform_conv2d` has it.

    Args:
        input: [N, C, H, W]; cast to the dtype of `offset`, as are mask, weight and bias.
        offset: [N, deform_groups * 2 * kh * kw, Ho, Wo], in pixels, y before x.
        mask: [N, deform_groups * kh * kw, Ho, Wo], the factors of the samples; no sigmoid is
            applied to it.
        weight: [M, C / groups, kh, kw].
        bias: [M]; None for no bias.
        stride: Step between output pixels: an int, or (height, width).
        padding: Rows and columns of zeros around the images: an int, or (height, width).
        dilation: Distance of neighbouring taps: an int, or (height, width).
        groups: Groups of channels as in a grouped convolution.
        deform_groups: Groups of channels that have offsets and masks of their own.

    Returns:
        [N, M, Ho, Wo] in the dtype of `offset`.

    Raises:
        TypeError: an argument of a wrong kind or dtype.
        ValueError: shapes that do not fit each other, a value out of its range.

    Source: `mmcv.ops.modulated_deform_conv2d`, mmcv 2.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.mmcv import modulated_deform_conv2d
        >>> input, weight = paddle.rand([2, 4, 8, 8]), paddle.rand([6, 4, 3, 3])
        >>> offset, mask = paddle.rand([2, 18, 8, 8]), paddle.rand([2, 9, 8, 8])
        >>> list(modulated_deform_conv2d(input, offset, mask, weight, None, 1, 1).shape)
        [2, 6, 8, 8]

    """
    _checks.check_shape("mask", mask, "[N, deform_groups * kh * kw, Ho, Wo]")
    attributes = _checks.check_attributes(
        stride, padding, dilation, groups, deform_groups, names=MMCV
    )
    input, mask, weight, bias = _like_offset(offset, input, mask, weight, bias)
    return convolve(input, offset, mask, weight, bias, attributes, MMCV)


def _current_name(deform_groups: int, deformable_groups: int | None) -> int:
    """Take deform_groups from its old name where that was used."""
    if deformable_groups is None:
        return deform_groups
    warnings.warn("deformable_groups is now deform_groups", DeprecationWarning, stacklevel=4)
    return deformable_groups


class DeformConv2d(Convolution):
    """Deformable convolution v1 with a weight, as `mmcv.ops.DeformConv2d` has it.

    The weight starts uniform between `-b` and `b`, `b = sqrt(6 / (C / groups * kh * kw))`.

    Args:
        in_channels: C, the channels of the input.
        out_channels: M, the channels of the result.
        kernel_size: kh and kw: an int, or (kh, kw).
        stride: Step between output pixels: an int, or (height, width).
        padding: Rows and columns of zeros around the images: an int, or (height, width).
        dilation: Distance of neighbouring taps: an int, or (height, width).
        groups: Groups of channels as in a grouped convolution.
        deform_groups: Groups of channels that have offsets of their own.
        bias: False; there is no bias.
        im2col_step: See `deform_conv2d`.
        deformable_groups: The old name of `deform_groups`.

    Raises:
        TypeError: an argument that is no int.
        ValueError: a value out of its range, or groups that do not divide the channels; also an
            AssertionError.

    Source: `mmcv.ops.DeformConv2d`, mmcv 2.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.mmcv import DeformConv2d
        >>> layer = DeformConv2d(4, 6, 3, padding=1, deform_groups=2)
        >>> list(layer(paddle.rand([2, 4, 8, 8]), paddle.rand([2, 36, 8, 8])).shape)
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
        deform_groups: int = 1,
        bias: bool = False,
        im2col_step: int = 32,
        *,
        deformable_groups: int | None = None,
    ) -> None:
        """Create the weight; see the class."""
        _refuse_bias(bool(bias), bias)
        deform_groups = _current_name(deform_groups, deformable_groups)
        try:
            super().__init__(
                in_channels,
                out_channels,
                kernel_size,
                stride,
                padding,
                dilation,
                groups,
                deform_groups,
                im2col_step,
            )
        except ValueError as error:
            raise ArgumentError(*error.args) from None
        self.deform_groups = deform_groups
        self.im2col_step = im2col_step
        fan_in = self.in_channels // self.groups * math.prod(self.kernel_size)
        self.weight = self._weight(math.sqrt(6 / fan_in))

    def _convolve(self, x: Tensor, offset: Tensor) -> Tensor:
        return deform_conv2d(
            x,
            offset,
            self.weight,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.deform_groups,
            False,
            self.im2col_step,
        )

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Return `deform_conv2d` of x with this layer's weight.

        An input smaller than the kernel is padded with zeros and the result cropped.
        """
        # More zeros below and to the right change no sample, so they are only needed where the
        # kernel does not fit at all: there they give one row or column, which is cropped.
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size)]
        lacks = [
            max(0, span - size - 2 * pad) if size >= 0 else 0
            for span, size, pad in zip(spans, x.shape[2:], self.padding)
        ]
        if not any(lacks):
            return self._convolve(x, offset)
        rows, columns = (min(1, lack) for lack in lacks)
        out = self._convolve(
            nn.functional.pad(x, [0, lacks[1], 0, lacks[0]]),
            nn.functional.pad(offset, [0, columns, 0, rows]),
        )
        return out[:, :, : out.shape[2] - rows, : out.shape[3] - columns]


class DeformConv2dPack(DeformConv2d):
    """Deformable convolution v1 that predicts its offsets, as `mmcv.ops.DeformConv2dPack` does.

    Takes the arguments of `DeformConv2d` and raises what that raises. The offsets are those of
    `conv_offset`, a convolution of x that starts at zero.

    Old checkpoints call the parameters of `conv_offset` `<name>_offset.*`. mmcv's layer renames
    them while it loads, for which a layer of Paddle has no hook: `convert_state_dict` does.

    Source: `mmcv.ops.DeformConv2dPack`, mmcv 2 (`DCN` in its registry).

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.mmcv import DeformConv2dPack
        >>> layer = DeformConv2dPack(4, 6, kernel_size=3, padding=1)
        >>> sorted(layer.state_dict())
        ['conv_offset.bias', 'conv_offset.weight', 'weight']
        >>> list(layer(paddle.rand([2, 4, 8, 8])).shape)
        [2, 6, 8, 8]

    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Create the parameters; see `DeformConv2d`."""
        super().__init__(*args, **kwargs)
        self.conv_offset = offset_conv(self._arguments, self._attributes, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the deformable convolution of x, [N, C, H, W]."""
        check_input(x, self.weight, self._attributes, *MMCV)
        return self._convolve(x, self.conv_offset(x))


class ModulatedDeformConv2d(Convolution):
    """Deformable convolution v2 with parameters, as `mmcv.ops.ModulatedDeformConv2d` has it.

    The weight starts uniform between `-b` and `b`, `b = 1 / sqrt(C * kh * kw)`, the bias at zero.

    Args:
        in_channels: C, the channels of the input.
        out_channels: M, the channels of the result.
        kernel_size: kh and kw: an int, or (kh, kw).
        stride: Step between output pixels: an int, or (height, width).
        padding: Rows and columns of zeros around the images: an int, or (height, width).
        dilation: Distance of neighbouring taps: an int, or (height, width).
        groups: Groups of channels as in a grouped convolution.
        deform_groups: Groups of channels that have offsets and masks of their own.
        bias: Whether there is a bias; `"auto"` means yes.
        deformable_groups: The old name of `deform_groups`.

    Raises:
        TypeError: an argument that is no int.
        ValueError: a value out of its range, or groups that do not divide the channels.

    Source: `mmcv.ops.ModulatedDeformConv2d`, mmcv 2.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.mmcv import ModulatedDeformConv2d
        >>> layer = ModulatedDeformConv2d(4, 6, 3, padding=1)
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
        deform_groups: int = 1,
        bias: bool | str = True,
        *,
        deformable_groups: int | None = None,
    ) -> None:
        """Create the parameters; see the class."""
        deform_groups = _current_name(deform_groups, deformable_groups)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            deform_groups,
        )
        self.deform_groups = deform_groups
        taps = math.prod(self.kernel_size)
        self.weight = self._weight(1 / math.sqrt(self.in_channels * taps))
        self.bias = self.create_parameter([self.out_channels], is_bias=True) if bias else None

    def _convolve(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return modulated_deform_conv2d(
            x,
            offset,
            mask,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.deform_groups,
        )

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """Return `modulated_deform_conv2d` of x with this layer's parameters."""
        return self._convolve(x, offset, mask)


class ModulatedDeformConv2dPack(ModulatedDeformConv2d):
    """Deformable convolution v2 that predicts its sampling: `mmcv.ops.ModulatedDeformConv2dPack`.

    Takes the arguments of `ModulatedDeformConv2d` and raises what that raises. `conv_offset`, a
    convolution of x that starts at zero, gives two thirds offsets and one third masks, of which
    the sigmoid is taken.

    Old checkpoints call the parameters of `conv_offset` `<name>_offset.*`. mmcv's layer renames
    them while it loads, for which a layer of Paddle has no hook: `convert_state_dict` does.

    Source: `mmcv.ops.ModulatedDeformConv2dPack`, mmcv 2 (`DCNv2` in its registry).

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.mmcv import ModulatedDeformConv2dPack
        >>> layer = ModulatedDeformConv2dPack(4, 6, kernel_size=3, padding=1)
        >>> sorted(layer.state_dict())
        ['bias', 'conv_offset.bias', 'conv_offset.weight', 'weight']
        >>> list(layer(paddle.rand([2, 4, 8, 8])).shape)
        [2, 6, 8, 8]

    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Create the parameters; see `ModulatedDeformConv2d`."""
        super().__init__(*args, **kwargs)
        self.conv_offset = offset_conv(self._arguments, self._attributes, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the deformable convolution of x, [N, C, H, W]."""
        check_input(x, self.weight, self._attributes, *MMCV)
        moves_y, moves_x, mask = paddle.chunk(self.conv_offset(x), 3, axis=1)
        offset = paddle.concat([moves_y, moves_x], axis=1)
        return self._convolve(x, offset, nn.functional.sigmoid(mask))
