"""`fluid.layers` of Paddle 1.x: `data` and `deformable_conv`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle

from .._checks import Names
from ..static._layer import add_layer, require_static
from ._moved import module_getattr

__all__ = ["data", "deformable_conv"]


def data(
    name: str,
    shape: Sequence[int | None],
    append_batch_size: bool = True,
    dtype: str = "float32",
    lod_level: int = 0,
    type: Any = None,
    stop_gradient: bool = True,
) -> Any:
    """Declare an input of the current static program.

    Args:
        name: Its key in the feed of `Executor.run`.
        shape: Its shape; None or -1 stands for a size that is known only when the program runs.
        append_batch_size: Put such a size, the batch, before a shape that has none itself.
        dtype: The dtype that will be fed.
        lod_level: For the sake of Paddle 1.x's scripts; only 0 is left in current Paddle.
        type: For the sake of Paddle 1.x's scripts; the input is a dense tensor.
        stop_gradient: Whether no gradient is wanted.

    Returns:
        The tensor of the static program.

    Raises:
        RuntimeError: a call in dynamic mode or inside `to_static`.
        ValueError: a `lod_level` other than 0.
    """
    require_static("paddle_dcn.fluid.layers.data")
    if lod_level != 0:
        raise ValueError(f"lod_level: expected 0, got {lod_level}")
    sizes = [-1 if size is None else size for size in shape]
    if append_batch_size and all(size >= 0 for size in sizes):
        sizes = [-1, *sizes]
    tensor = paddle.static.data(name, sizes, dtype)
    tensor.stop_gradient = stop_gradient
    return tensor


def deformable_conv(
    input: Any,
    offset: Any,
    mask: Any,
    num_filters: int,
    filter_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int | None = None,
    deformable_groups: int | None = None,
    im2col_step: int | None = None,
    param_attr: Any = None,
    bias_attr: Any = None,
    modulated: bool | str = True,
    name: str | None = None,
) -> Any:
    """Add a deformable convolution with its own parameters to the current static program.

    A drop-in for `paddle.fluid.layers.deformable_conv` of Paddle 1.5 to 2.4. The formula is that of
    `paddle_dcn.deform_conv2d`. The parameters are created once, as `deformable_conv_0.w_0`
    [num_filters, C / groups, kh, kw] and `deformable_conv_0.b_0` [num_filters] (the next layer's as
    `deformable_conv_1.w_0`, those of a layer with a name as `<name>.w_0`), so that checkpoints of
    the original load.

    Args:
        input: The images, [N, C, H, W], of which N, H and W may be unknown; float16, bfloat16,
            float32 or float64.
        offset: How far each tap is moved, in pixels of the input: [N, deformable_groups * 2 * kh *
            kw, Ho, Wo], per deformable group and tap first dy, then dx. The dtype of the input, or
            float32.
        mask: Factor of each sample, [N, deformable_groups * kh * kw, Ho, Wo], the dtype of the
            input or float32; no sigmoid is applied to it. Ignored if not modulated.
        num_filters: Channels of the result.
        filter_size: Size of the kernel: an int, or (height, width).
        stride: Step between output pixels in pixels of the input: an int, or (height, width).
        padding: Rows and columns of zeros around the input: an int, (height, width), or (top,
            bottom, left, right).
        dilation: Distance of neighbouring taps in pixels of the input: an int, or (height, width).
        groups: Groups of channels as in a grouped convolution; None is 1.
        deformable_groups: Groups of input channels that have offsets (and masks) of their own;
            None is 1.
        im2col_step: At most so many images are sampled into the workspace at a time; None is 64.
            Bounds memory and never changes results beyond rounding. As in the original, N must be
            divisible by it or smaller than it. Where N is unknown the program checks that with
            Paddle's `Assert` when it runs; saving an inference model leaves the check out, as
            nothing that is fetched depends on it.
        param_attr: A ParamAttr, initializer or name of the filter. It starts at
            Normal(0, sqrt(2 / (kh * kw * C))) unless this says otherwise. Layers that give the
            same name share their parameter.
        bias_attr: The same for the bias, which starts at zeros. False for no bias.
        modulated: True for v2, False for v1. A str is the `name`, which Paddle 1.5 had here.
        name: Prefix of the parameters' names.

    Returns:
        [N, num_filters, Ho, Wo] in the dtype of the input.

    Raises:
        RuntimeError: a call in dynamic mode or inside `to_static`.
        TypeError: an argument that is no tensor or int, or an unsupported dtype.
        ValueError: a wrong shape or value; when the program runs, a batch that `im2col_step` does
            not divide. Both name the argument, its value and what was expected.
        AssertionError: `param_attr` is False.

    Examples:
        >>> import paddle
        >>> paddle.enable_static()
        >>> import paddle_dcn.fluid as fluid
        >>> data = fluid.layers.data(name="data", shape=[3, 32, 32], dtype="float32")
        >>> offset = fluid.layers.data(name="offset", shape=[18, 32, 32], dtype="float32")
        >>> mask = fluid.layers.data(name="mask", shape=[9, 32, 32], dtype="float32")
        >>> out = fluid.layers.deformable_conv(
        ...     input=data, offset=offset, mask=mask, num_filters=2, filter_size=3, padding=1
        ... )
        >>> list(out.shape)
        [-1, 2, 32, 32]
        >>> paddle.disable_static()
    """
    require_static("paddle_dcn.fluid.layers.deformable_conv")
    if isinstance(modulated, str):
        if name is not None:
            raise TypeError(f"modulated: expected a bool beside name={name!r}, got {modulated!r}")
        modulated, name = True, modulated
    if modulated and mask is None:
        raise TypeError("mask: expected a tensor of the static program (modulated=True), got None")
    return add_layer(
        input,
        offset,
        mask if modulated else None,
        num_filters,
        filter_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        deformable_groups=deformable_groups,
        im2col_step=im2col_step,
        weight_attr=param_attr,
        bias_attr=bias_attr,
        name=name,
        names=Names(x="input", weight_attr="param_attr"),
    )


__getattr__ = module_getattr(__name__)
