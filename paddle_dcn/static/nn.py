"""Layers of static programs as Paddle 2.x spells them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._layer import add_layer
from ._parameters import require_static

__all__ = ["deform_conv2d"]


def deform_conv2d(
    x: Any,
    offset: Any,
    mask: Any,
    num_filters: int,
    filter_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    deformable_groups: int = 1,
    im2col_step: int | None = 1,
    weight_attr: Any = None,
    bias_attr: Any = None,
    name: str | None = None,
) -> Any:
    """Add a deformable convolution with its own parameters to the current static program.

    A drop-in for `paddle.static.nn.deform_conv2d`, which no longer runs in Paddle 3. The formula
    is that of `paddle_dcn.deform_conv2d`. The parameters are created once, as
    `deformable_conv_0.w_0` [num_filters, C / groups, kh, kw] and `deformable_conv_0.b_0`
    [num_filters] (the next layer's as `deformable_conv_1.w_0`, those of a layer with a name as
    `<name>.w_0`), so that checkpoints of the original load.

    Args:
        x: The images, [N, C, H, W], of which N, H and W may be unknown; float16, bfloat16, float32
            or float64.
        offset: How far each tap is moved, in pixels of x: [N, deformable_groups * 2 * kh * kw, Ho,
            Wo], per deformable group and tap first dy, then dx. The dtype of x, or float32.
        mask: Factor of each sample, [N, deformable_groups * kh * kw, Ho, Wo], the dtype of x or
            float32; no sigmoid is applied to it. None for v1.
        num_filters: Channels of the result.
        filter_size: Size of the kernel: an int, or (height, width).
        stride: Step between output pixels in pixels of x: an int, or (height, width).
        padding: Rows and columns of zeros around x: an int, (height, width), or (top, bottom,
            left, right).
        dilation: Distance of neighbouring taps in pixels of x: an int, or (height, width).
        groups: Groups of channels as in a grouped convolution.
        deformable_groups: Groups of channels of x that have offsets (and masks) of their own.
        im2col_step: At most so many images are sampled into the workspace at a time; None is 64.
            Bounds memory and never changes results beyond rounding. As in the original, N must be
            divisible by it or smaller than it. Where N is unknown the program checks that with
            Paddle's `Assert` when it runs; saving an inference model leaves the check out, as
            nothing that is fetched depends on it.
        weight_attr: A ParamAttr, initializer or name of the weight. It starts at
            Normal(0, sqrt(2 / (kh * kw * C))) unless this says otherwise. Layers that give the
            same name share their parameter.
        bias_attr: The same for the bias, which starts at zeros. False for no bias.
        name: Prefix of the parameters' names.

    Returns:
        [N, num_filters, Ho, Wo] in the dtype of x.

    Raises:
        RuntimeError: a call in dynamic mode or inside `to_static`.
        TypeError: an argument that is no tensor or int, or an unsupported dtype.
        ValueError: a wrong shape or value; when the program runs, a batch that `im2col_step` does
            not divide. Both name the argument, its value and what was expected.
        AssertionError: `weight_attr` is False.

    Examples:
        >>> import paddle, paddle_dcn.static
        >>> paddle.enable_static()
        >>> x = paddle.static.data("x", [None, 3, 32, 32])
        >>> offset = paddle.static.data("offset", [None, 18, 32, 32])
        >>> mask = paddle.static.data("mask", [None, 9, 32, 32])
        >>> out = paddle_dcn.static.nn.deform_conv2d(x, offset, mask, 2, 3, padding=1)
        >>> list(out.shape)
        [-1, 2, 32, 32]
        >>> paddle.disable_static()
    """
    require_static("paddle_dcn.static.nn.deform_conv2d", "paddle_dcn.DeformConv2D")
    return add_layer(
        x,
        offset,
        mask,
        num_filters,
        filter_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        deformable_groups=deformable_groups,
        im2col_step=im2col_step,
        weight_attr=weight_attr,
        bias_attr=bias_attr,
        name=name,
    )
