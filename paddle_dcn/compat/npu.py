"""The interface of `torch_npu.npu_deformable_conv2d`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import paddle
from paddle import Tensor

from .. import _checks
from .._to_static import opaque
from ..functional import amp_dtype, convolve

__all__ = ["npu_deformable_conv2d"]

_NAMES = _checks.Names(x="self")
_TO_NCHW, _TO_NHWC, _HWCN_TO_NCHW = [0, 3, 1, 2], [0, 2, 3, 1], [3, 2, 0, 1]


def _four(name: str, value: Any, least: int, expected: str) -> tuple[int, ...]:
    if not _checks.is_row(value):
        _checks.reject_kind(name, expected, value)
    if len(value) != 4:
        _checks.reject(ValueError, name, expected, value)
    return _checks.check_ints(name, value, least, (4,))


def _spatial(name: str, value: Any, data_format: str) -> tuple[int, int]:
    """(height, width) out of one int for each dimension, those of N and C being 1."""
    dimensions = dict(zip(data_format, _four(name, value, 1, f"4 ints ({data_format})")))
    if (dimensions["N"], dimensions["C"]) != (1, 1):
        _checks.reject(ValueError, name, f"1 for N and C ({data_format})", value)
    return dimensions["H"], dimensions["W"]


def _moved(name: str, tensor: Tensor, axes: list[int] | None) -> _checks.Found:
    """Return the shape and dtype that a tensor has after a transpose."""
    shape, dtype = _checks.inspect(name, tensor)
    return shape if axes is None else tuple(shape[axis] for axis in axes), dtype


@opaque
def npu_deformable_conv2d(
    self: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1, 1, 1, 1),
    groups: int = 1,
    deformable_groups: int = 1,
    modulated: bool = True,
    *,
    data_format: str = "NCHW",
    with_deformable_offset: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Deformable convolution as `torch_npu.npu_deformable_conv2d` has it.

    The vendor's text describes NHWC tensors and HWCN weights, its example has NCHW and OIHW:
    `data_format` chooses. Both results are differentiable.

    The second result is the operator's output for a weight that picks each sample: C * kh * kw
    outputs where the convolution has M. It takes several times as long as the first one and kh * kw
    times the memory of the input, so switch it off where it is not used. A NaN or infinity in
    `self` spreads to the other samples of the same channel and output pixel there. In a static
    program it needs all sizes to be known.

    Args:
        self: The images, [N, C, H, W], or [N, H, W, C] with `data_format="NHWC"`.
        weight: [M, C / groups, kh, kw], or [kh, kw, C / groups, M] with `"NHWC"`.
        offset: [N, 3 * deformable_groups * kh * kw, Ho, Wo], or with the channels last; first x
            of all deformable groups and taps, then y, in pixels, then the mask, to which no
            sigmoid is applied.
        bias: [M]; None for no bias.
        kernel_size: (kh, kw), those of the weight.
        stride: Steps between output pixels, one for each dimension of `self` in its order; 1 for N
            and C.
        padding: Rows and columns of zeros around the images: (top, bottom, left, right).
        dilation: Distances of neighbouring taps, in the order of `stride`.
        groups: Groups of channels as in a grouped convolution.
        deformable_groups: Groups of channels that have offsets and masks of their own.
        modulated: False for v1, which the original refuses; `offset` may then be without the
            channels of the mask, which are not used.
        data_format: `"NCHW"`, that of the vendor's example, or `"NHWC"`, that of its text.
        with_deformable_offset: Whether to compute the second result.

    Returns:
        The output, [N, M, Ho, Wo] or [N, Ho, Wo, M]; and the samples times the mask, [N, C,
        Ho * kh, Wo * kw] or [N, Ho * kh, Wo * kw, C], in which output pixel (i, j) has the cell of
        kh x kw from (i * kh, j * kw), or None.

    Raises:
        TypeError: an argument of a wrong kind or dtype.
        ValueError: shapes that do not fit each other, a value out of its range.

    Source: `torch_npu.npu_deformable_conv2d` in the API reference of Ascend Extension for PyTorch.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.npu import npu_deformable_conv2d
        >>> x, weight = paddle.rand([16, 32, 32, 32]), paddle.rand([32, 32, 5, 5])
        >>> offset = paddle.rand([16, 75, 32, 32])
        >>> output, deformable_offset = npu_deformable_conv2d(
        ...     x, weight, offset, None, [5, 5], [1, 1, 1, 1], [2, 2, 2, 2])
        >>> list(output.shape), list(deformable_offset.shape)
        ([16, 32, 32, 32], [16, 32, 160, 160])

    """
    channels_last = _checks.check_data_format(data_format) == "NHWC"
    stride = _spatial("stride", stride, data_format)
    dilation = _spatial("dilation", dilation, data_format)
    padding = _four("padding", padding, 0, "4 ints (top, bottom, left, right)")
    kernel = _checks.check_pair("kernel_size", kernel_size)
    modulated = _checks.check_flag("modulated", modulated)
    samples_too = _checks.check_flag("with_deformable_offset", with_deformable_offset)
    attributes = _checks.check_attributes(
        stride, padding, dilation, groups, deformable_groups, data_format=data_format
    )

    axes = "[N, H, W, C]" if channels_last else "[N, C, H, W]"
    _checks.check_shape("self", self, axes)
    _checks.check_shape(
        "weight", weight, "[kh, kw, C / groups, M]" if channels_last else "[M, C, kh, kw]"
    )
    _checks.check_shape("offset", offset, axes)
    filters = _moved("weight", weight, _HWCN_TO_NCHW if channels_last else None)
    sampling = _moved("offset", offset, _TO_NCHW if channels_last else None)
    if filters[0][2:] != kernel:
        _checks.reject(ValueError, "kernel_size", f"{filters[0][2:]}, that of weight", kernel_size)

    planes = attributes.deformable_groups * math.prod(kernel)
    allowed = (3 * planes,) if modulated else (3 * planes, 2 * planes)
    (batch, channels, *sizes), dtype = sampling
    if channels not in allowed:
        expected = (
            f"{' or '.join(map(str, allowed))} channels (3 * deformable_groups "
            f"{deformable_groups} * kernel {kernel[0]}x{kernel[1]})"
        )
        _checks.reject(ValueError, "offset", expected, channels)
    _checks.check_found(
        _checks.inspect("self", self),
        ((batch, 2 * planes, *sizes), dtype),
        ((batch, planes, *sizes), dtype) if modulated else None,
        filters,
        None if bias is None else _checks.inspect("bias", bias),
        attributes,
        amp_dtype(),
        _NAMES,
    )
    if channels_last:
        weight, offset = weight.transpose(_HWCN_TO_NCHW), offset.transpose(_TO_NCHW)
    x_moves, y_moves = offset[:, :planes], offset[:, planes : 2 * planes]
    mask = offset[:, 2 * planes :] if modulated else None
    moves = paddle.stack([y_moves, x_moves], axis=2).flatten(1, 2)

    output = convolve(self, moves, mask, weight, bias, attributes, _NAMES)
    if not samples_too:
        return output, None

    x = self.transpose(_TO_NCHW) if channels_last else self
    out_size = moves.shape[2:]
    sizes = [*x.shape[:2], *out_size]
    if _checks.UNKNOWN in sizes:
        expected = "known sizes for with_deformable_offset=True"
        _checks.reject(ValueError, "self, offset", expected, sizes)
    # Each channel is a group with an output for each tap, whose weight is 1 at that tap.
    taps = math.prod(kernel)
    picks = paddle.eye(taps).tile([x.shape[1], 1]).reshape([-1, 1, *kernel]).astype(x.dtype)
    each_channel = attributes._replace(groups=x.shape[1], data_format="NCHW")
    samples = convolve(x, moves, mask, picks, None, each_channel, _NAMES)
    sizes = [size * tap for size, tap in zip(out_size, kernel)]
    # The taps of an output pixel become a block of pixels.
    blocks = samples.reshape([*x.shape[:2], *kernel, *out_size]).transpose([0, 1, 4, 2, 5, 3])
    folded = blocks.reshape([*x.shape[:2], *sizes])
    return output, folded.transpose(_TO_NHWC) if channels_last else folded
