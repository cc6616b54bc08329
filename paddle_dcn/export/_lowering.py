"""Expresses a call of this package's operator by Paddle's own, in a program being traced."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn.functional import pad


def portable(*tensors: Tensor | None, **attributes: Any) -> Tensor:
    """Emit a call that any Paddle can run; takes what `_ops.deform_conv2d` takes."""
    return _emit(_pad_alike, *tensors, **attributes)


def for_onnx(mark: int, *tensors: Tensor | None, **attributes: Any) -> Tensor:
    """Emit a call that is to become an ONNX DeformConv, with `mark` to recognise it by."""
    return _emit(functools.partial(_pad_before, mark), *tensors, **attributes)


def _emit(
    convolve: Callable[..., Tensor],
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    im2col_step: int,
    data_format: str,
    **attributes: Any,
) -> Tensor:
    """Call `convolve` with what the builtin knows: NCHW, one dtype of 32 bits or more, no bias."""
    dtype = x.dtype
    wide = paddle.float64 if dtype == paddle.float64 else paddle.float32
    x, offset, mask, weight, bias = (
        tensor if tensor is None or tensor.dtype == wide else tensor.astype(wide)
        for tensor in (x, offset, mask, weight, bias)
    )
    if data_format == "NHWC":
        x = x.transpose([0, 3, 1, 2])
    column = None if bias is None else bias.reshape([1, -1, 1, 1])
    out = convolve(x, offset, mask, weight, **attributes)
    if column is not None:
        out = out + column
    if data_format == "NHWC":
        out = out.transpose([0, 2, 3, 1])
    return out if dtype == wide else out.astype(dtype)


def _pad_alike(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    **attributes: Any,
) -> Tensor:
    """Emit the builtin, which pads both ends of an axis alike: as the first end asks for.

    Where the last end asks for more, x gets the missing rows. Where it asks for less, the builtin
    makes rows of output that are cut off again, and x gets the rows that make these a whole number
    of strides. (Padding x in front instead would move the samples at -1 inside, where gradients
    are not 0.)
    """
    top, bottom, left, right = padding
    surplus_h = max(0, math.ceil((top - bottom) / stride[0]))
    surplus_w = max(0, math.ceil((left - right) / stride[1]))
    rows = bottom - top + surplus_h * stride[0]
    columns = right - left + surplus_w * stride[1]
    if rows or columns:
        x = pad(x, [0, columns, 0, rows])
    if surplus_h or surplus_w:
        offset = pad(offset, [0, surplus_w, 0, surplus_h])
        mask = None if mask is None else pad(mask, [0, surplus_w, 0, surplus_h])
    # Gradients of the builtin are wrong with an im2col_step other than 1.
    out = _builtin(x, offset, mask, weight, stride, (top, left), im2col_step=1, **attributes)
    if surplus_h or surplus_w:
        out = out[:, :, : -surplus_h or None, : -surplus_w or None]
    return out


def _pad_before(
    mark: int,
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    **attributes: Any,
) -> Tensor:
    """Emit the builtin in a form that paddle2onnx can convert.

    DeformConv pads every side on its own: the Pad emitted here moves into its node. paddle2onnx
    cannot do without a mask: v1 gets any tensor of that shape, which is taken out of the node.
    """
    top, bottom, left, right = padding
    if (top, left) != (bottom, right):
        x = pad(x, [0, 0, 0, 0, top, bottom, left, right])
        top = left = 0
    if mask is None:
        mask = offset[:, : offset.shape[1] // 2]
    return _builtin(x, offset, mask, weight, stride, (top, left), im2col_step=mark, **attributes)


def _builtin(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    *,
    dilation: Sequence[int],
    groups: int,
    deformable_groups: int,
    im2col_step: int,
) -> Tensor:
    """Emit the builtin.

    It insists that deformable_groups divide the output channels, for no reason in the formula: each
    group gets filters of zeros until they do, whose output is left out.
    """
    out_channels, *filter_shape = weight.shape
    filters = out_channels // groups
    filled = filters + -filters % (deformable_groups // math.gcd(groups, deformable_groups))
    if filled != filters:
        zeros = paddle.zeros([groups, filled - filters, *filter_shape], weight.dtype)
        weight = paddle.concat([weight.reshape([groups, filters, *filter_shape]), zeros], axis=1)
        weight = weight.reshape([groups * filled, *filter_shape])
    out = paddle._C_ops.deformable_conv(
        x,
        offset,
        weight,
        mask,
        list(stride),
        list(padding),
        list(dilation),
        deformable_groups,
        groups,
        im2col_step,
    )
    if filled != filters:
        channels = np.arange(groups * filled).reshape(groups, filled)[:, :filters]
        out = paddle.gather(out, paddle.assign(channels.flatten()), axis=1)
    return out
