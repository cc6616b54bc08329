"""The interface of mmcv's deformable convolutions (`mmcv.ops`), and its checkpoints."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from paddle import Tensor, nn

from .. import _checks
from .._to_static import Constant, opaque
from ..layers import OffsetConv2D, check_input, count_offsets, cut_planes
from ._checkpoints import convert_state_dict
from ._shared import (
    MMCV,
    ArgumentError,
    Convolution,
    ModulatedConvolution,
    check_padded,
    check_step,
    convolve_v1,
    convolve_v2,
    kaiming,
    like_offset,
    missing_pixels,
    refuse_bias,
)

__all__ = [
    "DeformConv2d",
    "DeformConv2dPack",
    "ModulatedDeformConv2d",
    "ModulatedDeformConv2dPack",
    "convert_state_dict",
    "deform_conv2d",
    "modulated_deform_conv2d",
]


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
    refuse_bias(bias, only_false=True)
    im2col_step = _checks.check_int("im2col_step", im2col_step)  # None is none here
    attributes = _checks.check_attributes(
        stride, padding, dilation, groups, deform_groups, im2col_step, names=MMCV
    )
    attributes = Constant(attributes)
    check_step(input, attributes)
    input, weight = like_offset(offset, input=input, weight=weight)
    return convolve_v1(input, offset, weight, attributes, MMCV)


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
    attributes = _checks.check_attributes(
        stride, padding, dilation, groups, deform_groups, names=MMCV
    )
    input, mask, weight, bias = like_offset(
        offset, input=input, mask=mask, weight=weight, bias=bias
    )
    return convolve_v2(input, offset, mask, weight, bias, Constant(attributes), MMCV)


def _takes_old_name(init: Callable[..., None]) -> Callable[..., None]:
    """Let a constructor take deform_groups by its old name, but not by both."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def __init__(
        self: Any, *args: Any, deformable_groups: int | None = None, **kwargs: Any
    ) -> None:
        if deformable_groups is not None:
            if "deform_groups" in signature.bind_partial(self, *args, **kwargs).arguments:
                expected = "None beside deform_groups, whose old name it is"
                _checks.reject(ArgumentError, "deformable_groups", expected, deformable_groups)
            warnings.warn(
                "deformable_groups is now deform_groups", DeprecationWarning, stacklevel=3
            )
            kwargs["deform_groups"] = deformable_groups
        init(self, *args, **kwargs)

    old = inspect.Parameter("deformable_groups", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = [*signature.parameters.values(), old]
    __init__.__signature__ = signature.replace(parameters=parameters)
    return __init__


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
        ValueError: a value out of its range, groups that do not divide the channels, or groups by
            both names; also an AssertionError.

    Source: `mmcv.ops.DeformConv2d`, mmcv 2.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.mmcv import DeformConv2d
        >>> layer = DeformConv2d(4, 6, 3, padding=1, deform_groups=2)
        >>> list(layer(paddle.rand([2, 4, 8, 8]), paddle.rand([2, 36, 8, 8])).shape)
        [2, 6, 8, 8]

    """

    _bound = kaiming

    @_takes_old_name
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
    ) -> None:
        """Create the weight; see the class."""
        refuse_bias(bias)
        try:
            im2col_step = _checks.check_int("im2col_step", im2col_step)
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
        self.weight = self._weight(self._bound())

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Return `deform_conv2d` of x with this layer's weight.

        An input smaller than the kernel is padded with zeros and the result cropped.
        """
        check_step(x, self._constant)
        x, weight = like_offset(offset, input=x, weight=self.weight)
        # More zeros below and to the right change no sample, so they are only needed where the
        # kernel does not fit at all: there they give one row or column, which is cropped.
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size)]
        lacks = missing_pixels(x, spans, self.padding)
        rows, columns = (min(1, lack) for lack in lacks)
        if rows or columns:
            grown = [lacks, [rows, columns]]
            check_padded(x, offset, weight, grown, self._constant, self._names)
            x = nn.functional.pad(x, [0, lacks[1], 0, lacks[0]])
            offset = nn.functional.pad(offset, [0, columns, 0, rows])
        out = convolve_v1(x, offset, weight, self._constant, self._names)
        return out[:, :, : -rows or None, : -columns or None] if rows or columns else out


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
        self.conv_offset = OffsetConv2D(self._arguments, self._attributes, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the deformable convolution of x, [N, C, H, W]."""
        check_input(x, self.weight, self._constant, self._names)
        check_step(x, self._constant)
        return convolve_v1(x, self.conv_offset(x), self.weight, self._constant, self._names)


class ModulatedDeformConv2d(ModulatedConvolution):
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
        ValueError: a value out of its range, groups that do not divide the channels, or groups by
            both names, which is an AssertionError, too.

    Source: `mmcv.ops.ModulatedDeformConv2d`, mmcv 2.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.mmcv import ModulatedDeformConv2d
        >>> layer = ModulatedDeformConv2d(4, 6, 3, padding=1)
        >>> offset, mask = paddle.rand([2, 18, 8, 8]), paddle.rand([2, 9, 8, 8])
        >>> list(layer(paddle.rand([2, 4, 8, 8]), offset, mask).shape)
        [2, 6, 8, 8]

    """

    @_takes_old_name
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
            deform_groups,
            bias=True if isinstance(bias, str) and bias == "auto" else bias,
        )
        self.deform_groups = deform_groups

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """Return `modulated_deform_conv2d` of x with this layer's parameters."""
        x, mask, weight, bias = like_offset(
            offset, input=x, mask=mask, weight=self.weight, bias=self.bias
        )
        return convolve_v2(x, offset, mask, weight, bias, self._constant, self._names)


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
        self.conv_offset = OffsetConv2D(self._arguments, self._attributes, 3)
        self._offsets = count_offsets(self._arguments, self._attributes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the deformable convolution of x, [N, C, H, W]."""
        check_input(x, self.weight, self._constant, self._names)
        planes = self.conv_offset(x)
        sampling = cut_planes(planes, self._offsets)
        return convolve_v2(x, *sampling, self.weight, self.bias, self._constant, self._names)
