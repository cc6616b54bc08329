"""`fluid.layers` of Paddle 1.x: layers with parameters, pooling, resizing, dropout."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.nn.initializer import Constant, Normal

from ... import _checks
from ...static import _operators
from ...static._layer import add_layer
from ...static._parameters import Parameters, require_static
from ._common import ACTIVATIONS, activated, count_channels, ints, is_tensor
from .tensor import pad

__all__ = [
    "adaptive_pool2d",
    "adaptive_pool3d",
    "affine_channel",
    "affine_grid",
    "batch_norm",
    "conv2d",
    "conv2d_transpose",
    "conv3d",
    "conv3d_transpose",
    "deformable_conv",
    "dropout",
    "embedding",
    "fc",
    "grid_sampler",
    "group_norm",
    "image_resize",
    "image_resize_short",
    "instance_norm",
    "l2_normalize",
    "label_smooth",
    "layer_norm",
    "lrn",
    "maxout",
    "pixel_shuffle",
    "pool2d",
    "pool3d",
    "prelu",
    "resize_bilinear",
    "resize_nearest",
    "resize_trilinear",
    "shuffle_channel",
    "softmax",
    "spectral_norm",
    "temporal_shift",
    "unfold",
]


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
    require_static("paddle_dcn.fluid.layers.deformable_conv", "paddle_dcn.DeformConv2D")
    if isinstance(modulated, str):
        if name is not None:
            raise TypeError(f"modulated: expected a bool beside name={name!r}, got {modulated!r}")
        modulated, name = True, modulated
    modulated = _checks.check_flag("modulated", modulated, optional=True)
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
        names=_checks.Names(x="input", weight_attr="param_attr"),
    )


# --- convolutions --------------------------------------------------------------------------------


def _convolve(
    layer: str,
    input: Any,
    num_filters: int,
    filter_size: int | Sequence[int],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int | None,
    param_attr: Any,
    bias_attr: Any,
    use_cudnn: bool,
    act: str | None,
    name: str | None,
    data_format: str,
) -> Any:
    """Add a convolution over as many axes as the digit in its name says."""
    axes = int(layer[4])
    channel_axis = _channel_axis(data_format, axes)
    counterpart = f"paddle.nn.Conv{axes}D"
    channels = count_channels(layer, counterpart, input, [axes + 2], channel_axis)
    groups = 1 if groups is None else _checks.check_int("groups", groups)
    _checks.check_divides("groups", groups, channels, "channels of input")
    # 1.x names the parameters after the operator, which without cuDNN is another one here.
    depthwise = axes == 2 and channels == groups and num_filters % channels == 0 and not use_cudnn
    parameters = Parameters(f"depthwise_{layer}" if depthwise else layer, name, input.dtype)
    taps = ints(filter_size, axes)
    weight = parameters.weight(
        param_attr,
        [num_filters, channels // groups, *taps],
        Normal(0.0, math.sqrt(2 / (math.prod(taps) * channels))),
    )
    bias = parameters.bias(bias_attr, [num_filters])
    convolution = F.conv2d if axes == 2 else F.conv3d
    out = convolution(input, weight, bias, stride, padding, dilation, groups, data_format)
    return activated(out, act)


def conv2d(
    input: Any,
    num_filters: int,
    filter_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: Any = 0,
    dilation: int | Sequence[int] = 1,
    groups: int | None = None,
    param_attr: Any = None,
    bias_attr: Any = None,
    use_cudnn: bool = True,
    act: str | None = None,
    name: str | None = None,
    data_format: str = "NCHW",
) -> Any:
    """Add a convolution with its own parameters.

    They are `conv2d_0.w_0` [num_filters, C / groups, kh, kw], which starts at
    Normal(0, sqrt(2 / (kh * kw * C))), and `conv2d_0.b_0` [num_filters], which starts at zeros.

    Args:
        input: Images [N, C, H, W], or [N, H, W, C] with `data_format="NHWC"`.
        num_filters: Channels of the result.
        filter_size: An int, or (height, width).
        stride: An int, or (height, width).
        padding: An int, (height, width), (top, bottom, left, right), a pair for each dimension,
            `"SAME"` or `"VALID"`.
        dilation: An int, or (height, width).
        groups: Groups of channels; None is 1.
        param_attr: A ParamAttr, initializer or name of the filter.
        bias_attr: The same of the bias; False for none.
        use_cudnn: False names the parameters of a depthwise convolution after another operator,
            `depthwise_conv2d_0.w_0`, as it did in Paddle 1.x.
        act: Name of an activation to apply.
        name: Prefix of the parameters' names.
        data_format: `"NCHW"` or `"NHWC"`.

    Returns:
        The images [N, num_filters, Ho, Wo], or [N, Ho, Wo, num_filters].

    Raises:
        RuntimeError: a call in dynamic mode.
        TypeError: no tensor of the static program.
        ValueError: a wrong shape or value.
        AssertionError: `param_attr` is False.

    Examples:
        >>> import paddle
        >>> import paddle_dcn.fluid as fluid
        >>> paddle.enable_static()
        >>> with fluid.program_guard(fluid.Program(), fluid.Program()), fluid.unique_name.guard():
        ...     image = fluid.layers.data("image", [3, 32, 32])
        ...     out = fluid.layers.conv2d(image, 8, 3, padding=1, act="relu")
        ...     sorted(p.name for p in fluid.default_main_program().all_parameters())
        ...     list(out.shape)
        ['conv2d_0.b_0', 'conv2d_0.w_0']
        [-1, 8, 32, 32]
        >>> paddle.disable_static()
    """
    return _convolve("conv2d", **locals())


def conv3d(
    input: Any,
    num_filters: int,
    filter_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: Any = 0,
    dilation: int | Sequence[int] = 1,
    groups: int | None = None,
    param_attr: Any = None,
    bias_attr: Any = None,
    use_cudnn: bool = True,
    act: str | None = None,
    name: str | None = None,
    data_format: str = "NCDHW",
) -> Any:
    """Add a convolution of volumes [N, C, D, H, W]; the arguments are those of :func:`conv2d`."""
    return _convolve("conv3d", **locals())


def _convolve_transposed(
    layer: str,
    input: Any,
    num_filters: int,
    output_size: Any,
    filter_size: Any,
    padding: Any,
    stride: Any,
    dilation: Any,
    groups: int | None,
    param_attr: Any,
    bias_attr: Any,
    use_cudnn: bool,
    act: str | None,
    name: str | None,
    data_format: str,
) -> Any:
    """Add a transposed convolution over as many axes as the digit in its name says."""
    axes = int(layer[4])
    channel_axis = _channel_axis(data_format, axes)
    counterpart = f"paddle.nn.Conv{axes}DTranspose"
    channels = count_channels(layer, counterpart, input, [axes + 2], channel_axis)
    groups = 1 if groups is None else _checks.check_int("groups", groups)
    _checks.check_divides("groups", groups, num_filters, "num_filters")
    depthwise = axes == 2 and channels == groups == num_filters and not use_cudnn
    parameters = Parameters(f"depthwise_{layer}" if depthwise else layer, name, input.dtype)
    sizes = None if output_size is None else ints(output_size, axes)
    if filter_size is None:
        if sizes is None:
            raise ValueError("filter_size: expected a size where output_size is None, got None")
        first = 2 if channel_axis == 1 else 1
        now = input.shape[first : first + axes]
        taps = _taps_for(now, sizes, stride, padding, dilation)
    else:
        taps = ints(filter_size, axes)
    weight = parameters.weight(param_attr, [channels, num_filters // groups, *taps])
    bias = parameters.bias(bias_attr, [num_filters])
    convolution = F.conv2d_transpose if axes == 2 else F.conv3d_transpose
    out = convolution(
        input,
        weight,
        bias,
        stride,
        padding,
        dilation=dilation,
        groups=groups,
        output_size=sizes,
        data_format=data_format,
    )
    return activated(out, act)


def _channel_axis(data_format: str, axes: int) -> int:
    """Return where the channels are."""
    if data_format not in ("NCHW", "NHWC", "NCDHW", "NDHWC") or len(data_format) != axes + 2:
        formats = "'NCHW' or 'NHWC'" if axes == 2 else "'NCDHW' or 'NDHWC'"
        raise ValueError(f"data_format: expected {formats}, got {data_format!r}")
    return data_format.index("C")


def conv2d_transpose(
    input: Any,
    num_filters: int,
    output_size: int | Sequence[int] | None = None,
    filter_size: int | Sequence[int] | None = None,
    padding: Any = 0,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int | None = None,
    param_attr: Any = None,
    bias_attr: Any = None,
    use_cudnn: bool = True,
    act: str | None = None,
    name: str | None = None,
    data_format: str = "NCHW",
) -> Any:
    """Add a transposed convolution with its own parameters.

    They are `conv2d_transpose_0.w_0` [C, num_filters / groups, kh, kw], which starts with Xavier's
    uniform values, and `conv2d_transpose_0.b_0` [num_filters], which starts at zeros.

    Args:
        input: Images [N, C, H, W], or [N, H, W, C] with `data_format="NHWC"`.
        num_filters: Channels of the result.
        output_size: Size of the result, an int or (height, width); None is the smallest that the
            other arguments give.
        filter_size: An int, or (height, width); None is computed from `output_size`.
        padding: As in :func:`conv2d`.
        stride: An int, or (height, width).
        dilation: An int, or (height, width).
        groups: Groups of channels; None is 1.
        param_attr: A ParamAttr, initializer or name of the filter.
        bias_attr: The same of the bias; False for none.
        use_cudnn: As in :func:`conv2d`.
        act: Name of an activation to apply.
        name: Prefix of the parameters' names.
        data_format: `"NCHW"` or `"NHWC"`.

    Returns:
        The images [N, num_filters, Ho, Wo], or [N, Ho, Wo, num_filters].

    Raises:
        RuntimeError: a call in dynamic mode.
        TypeError: no tensor of the static program.
        ValueError: a wrong shape or value, or neither `filter_size` nor `output_size`.
        AssertionError: `param_attr` is False.
    """
    return _convolve_transposed("conv2d_transpose", **locals())


def conv3d_transpose(
    input: Any,
    num_filters: int,
    output_size: int | Sequence[int] | None = None,
    filter_size: int | Sequence[int] | None = None,
    padding: Any = 0,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int | None = None,
    param_attr: Any = None,
    bias_attr: Any = None,
    use_cudnn: bool = True,
    act: str | None = None,
    name: str | None = None,
    data_format: str = "NCDHW",
) -> Any:
    """Add a transposed convolution of volumes [N, C, D, H, W]; see :func:`conv2d_transpose`."""
    return _convolve_transposed("conv3d_transpose", **locals())


def _taps_for(
    size: Sequence[int], output_size: list[int], stride: Any, padding: Any, dilation: Any
) -> list[int]:
    """Return the kernel that makes images of `size` images of `output_size`."""
    axes = len(output_size)
    pads = _sums_of_pads(padding, axes)
    return [
        (out - (now - 1) * step + pad - 1) // distance + 1
        for now, out, step, pad, distance in zip(
            size, output_size, ints(stride, axes), pads, ints(dilation, axes)
        )
    ]


def _sums_of_pads(padding: Any, axes: int) -> list[int]:
    if isinstance(padding, str):
        return [0] * axes
    if isinstance(padding, int) or len(padding) == axes:
        return [2 * pad for pad in ints(padding, axes)]
    if isinstance(padding[0], (list, tuple)):
        return [sum(pair) for pair in padding[2:]]
    return [padding[2 * i] + padding[2 * i + 1] for i in range(axes)]


# --- dense layers --------------------------------------------------------------------------------


def fc(
    input: Any,
    size: int,
    num_flatten_dims: int = 1,
    param_attr: Any = None,
    bias_attr: Any = None,
    act: str | None = None,
    name: str | None = None,
) -> Any:
    """Add a fully connected layer with its own parameters.

    They are `fc_0.w_0` [inputs, size], one for each tensor of the input, which start with Xavier's
    uniform values, and `fc_0.b_0` [size], which starts at zeros.

    Args:
        input: A tensor or a list of them, whose products are added.
        size: Size of the last dimension of the result.
        num_flatten_dims: How many dimensions stay; the others are flattened. -1 is all but the
            last.
        param_attr: A ParamAttr, initializer or name of the weight, or a list of them.
        bias_attr: The same of the bias; False for none.
        act: Name of an activation to apply.
        name: Prefix of the parameters' names.

    Raises:
        RuntimeError: a call in dynamic mode.
        TypeError: no tensor of the static program.
        ValueError: a dimension to be flattened that is unknown.
        AssertionError: `param_attr` is False.
    """
    require_static("paddle_dcn.fluid.layers.fc", "paddle.nn.Linear")
    tensors = input if isinstance(input, (list, tuple)) else [input]
    attrs = param_attr if isinstance(param_attr, (list, tuple)) else [param_attr] * len(tensors)
    if len(attrs) != len(tensors):
        raise ValueError(f"param_attr: expected {len(tensors)} of them, got {len(attrs)}")
    for tensor in tensors:
        _checks.inspect("input", tensor)
    parameters = Parameters("fc", name, tensors[0].dtype)
    out = None
    for tensor, attr in zip(tensors, attrs):
        rank = len(tensor.shape)
        kept = rank - 1 if num_flatten_dims == -1 else num_flatten_dims
        sizes = [*tensor.shape[kept:]]
        if min(sizes, default=0) < 1:
            raise ValueError(
                f"input: expected known, positive sizes from dimension {kept} on, got {sizes}"
            )
        weight = parameters.weight(attr, [math.prod(sizes), size])
        flat = paddle.flatten(tensor, kept) if rank > kept + 1 else tensor
        product = _operators.matmul(flat, weight)
        out = product if out is None else out + product
    bias = parameters.bias(bias_attr, [size])
    return activated(out if bias is None else out + bias, act)


def embedding(
    input: Any,
    size: Sequence[int],
    is_sparse: bool = False,
    is_distributed: bool = False,
    padding_idx: int | None = None,
    param_attr: Any = None,
    dtype: str = "float32",
) -> Any:
    """Look rows of a table up, the parameter `embedding_0.w_0`.

    Args:
        input: The numbers of the rows, int64 [..., 1]; the last dimension becomes that of a row.
        size: Shape of the table, (rows, size of a row). It starts with Xavier's uniform values.
        is_sparse: Not used.
        is_distributed: Not used.
        padding_idx: A row, counted from the end if negative, that gives zeros; None for none.
        param_attr: A ParamAttr, initializer or name of the table.
        dtype: Dtype of the table.

    Raises:
        RuntimeError: a call in dynamic mode.
        ValueError: a last dimension other than 1.
        AssertionError: `param_attr` is False.
    """
    if [*input.shape][-1:] != [1]:
        raise ValueError(f"input: expected a last dimension of 1, got shape {[*input.shape]}")
    return look_up(
        "layers.embedding", paddle.squeeze(input, -1), size, padding_idx, param_attr, dtype
    )


def look_up(
    function: str, ids: Any, size: Sequence[int], padding_idx: Any, param_attr: Any, dtype: Any
) -> Any:
    """Add the layer behind both functions `embedding`."""
    require_static(f"paddle_dcn.fluid.{function}", "paddle.nn.Embedding")
    parameters = Parameters("embedding", None, dtype)
    weight = parameters.weight(param_attr, [int(number) for number in size])
    return F.embedding(ids, weight, padding_idx)


def prelu(x: Any, mode: str, param_attr: Any = None, name: str | None = None) -> Any:
    """Return x where it is positive, alpha * x elsewhere, with the parameter alpha, `prelu_0.w_0`.

    Args:
        x: A tensor [N, C, ...].
        mode: Which elements share an alpha: `"all"` (shape [1]), `"channel"` ([1, C, 1, 1]) or
            `"element"` (those of an image, [1, C, ...]).
        param_attr: A ParamAttr, initializer or name of alpha, which starts at 0.25.
        name: Prefix of the parameter's name.

    Raises:
        RuntimeError: a call in dynamic mode.
        ValueError: an unknown mode.
        AssertionError: `param_attr` is False.
    """
    if mode not in ("all", "channel", "element"):
        raise ValueError(f"mode: expected 'all', 'channel' or 'element', got {mode!r}")
    channels = count_channels("prelu", "paddle.nn.PReLU", x, [2, 3, 4, 5], argument="x")
    parameters = Parameters("prelu", name, x.dtype)
    shape = {"all": [1], "channel": [1, channels, 1, 1], "element": [1, *x.shape[1:]]}[mode]
    alpha = parameters.weight(param_attr, shape, Constant(0.25))
    if mode == "channel":
        alpha = paddle.reshape(alpha, [channels] + [1] * (len(x.shape) - 2))
    return paddle.where(x > 0, x, _operators.multiply(x, alpha))


# --- normalisation -------------------------------------------------------------------------------


def batch_norm(
    input: Any,
    act: str | None = None,
    is_test: bool = False,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
    param_attr: Any = None,
    bias_attr: Any = None,
    data_layout: str = "NCHW",
    in_place: bool = False,
    name: str | None = None,
    moving_mean_name: str | None = None,
    moving_variance_name: str | None = None,
    do_model_average_for_mean_and_var: bool = False,
    use_global_stats: bool = False,
) -> Any:
    """Add batch normalisation (arXiv 1502.03167) with its own parameters, all of shape [C].

    They are the scale `batch_norm_0.w_0`, which starts at 1, the shift `batch_norm_0.b_0`, which
    starts at 0, and two that no optimizer moves: the running mean `batch_norm_0.w_1`, 0, and the
    running variance `batch_norm_0.w_2`, 1. A training program updates these; one that is cloned
    with `for_test=True` uses them as they are.

    Args:
        input: [N, C, ...], or [N, ..., C] with `data_layout="NHWC"`.
        act: Name of an activation to apply.
        is_test: Use the running statistics, and leave them as they are.
        momentum: How much of the running statistics is kept in a step.
        epsilon: Added to the variance.
        param_attr: A ParamAttr, initializer or name of the scale.
        bias_attr: The same of the shift.
        data_layout: `"NCHW"` or `"NHWC"`.
        in_place: Not used.
        name: Prefix of the parameters' names.
        moving_mean_name: Name of the running mean.
        moving_variance_name: Name of the running variance.
        do_model_average_for_mean_and_var: Whether model averages hold them, too.
        use_global_stats: Use the running statistics in training, too.

    Raises:
        RuntimeError: a call in dynamic mode.
        TypeError: no tensor of the static program.
        ValueError: a wrong shape or layout.
        AssertionError: `param_attr` or `bias_attr` is False.
    """
    if data_layout not in ("NCHW", "NHWC"):
        raise ValueError(f"data_layout: expected 'NCHW' or 'NHWC', got {data_layout!r}")
    channel_axis = 1 if data_layout == "NCHW" else -1
    counterpart = "paddle.nn.BatchNorm2D"
    channels = count_channels("batch_norm", counterpart, input, [2, 3, 4, 5], channel_axis)
    if bias_attr is False:
        raise AssertionError(
            "bias_attr: expected None, a ParamAttr, initializer or name, got False"
        )
    half = str(input.dtype).endswith(("float16", "FP16", "BF16"))
    parameters = Parameters("batch_norm", name, "float32" if half else input.dtype)
    scale = parameters.weight(param_attr, [channels], Constant(1.0))
    shift = parameters.bias(bias_attr, [channels])
    mean, variance = (
        parameters.weight(
            paddle.ParamAttr(
                name=statistic,
                initializer=Constant(start),
                trainable=False,
                do_model_average=do_model_average_for_mean_and_var,
            ),
            [channels],
        )
        for statistic, start in ((moving_mean_name, 0.0), (moving_variance_name, 1.0))
    )
    mean.stop_gradient = variance.stop_gradient = True
    # Paddle's gradient of the operator is of both of these, or of neither.
    together = scale.stop_gradient == shift.stop_gradient
    out = F.batch_norm(
        input,
        mean,
        variance,
        scale if together else paddle.ones([channels], scale.dtype),
        shift if together else paddle.zeros([channels], shift.dtype),
        training=not is_test,
        momentum=momentum,
        epsilon=epsilon,
        data_format=data_layout,
        # False would mean the statistics of the batch even in tests.
        use_global_stats=use_global_stats or None,
    )
    if not together:
        out = affine_channel(out, scale, shift, data_layout)
    return activated(out, act)


def group_norm(
    input: Any,
    groups: int,
    epsilon: float = 1e-5,
    param_attr: Any = None,
    bias_attr: Any = None,
    act: str | None = None,
    data_layout: str = "NCHW",
    name: str | None = None,
) -> Any:
    """Add group normalisation (arXiv 1803.08494).

    Args:
        input: [N, C, ...], or [N, ..., C] with `data_layout="NHWC"`.
        groups: Number of groups of channels.
        epsilon: Added to the variance.
        param_attr: A ParamAttr, initializer or name of the scale `group_norm_0.w_0` [C], which
            starts at 1; None or False for no scale. (That None is none is what Paddle 1.x did, and
            not what its documentation said.)
        bias_attr: The same of the shift `group_norm_0.b_0` [C], which starts at 0.
        act: Name of an activation to apply.
        data_layout: `"NCHW"` or `"NHWC"`.
        name: Prefix of the parameters' names.

    Raises:
        RuntimeError: a call in dynamic mode.
        TypeError: no tensor of the static program.
        ValueError: a wrong shape, layout or number of groups.
    """
    if data_layout not in ("NCHW", "NHWC"):
        raise ValueError(f"data_layout: expected 'NCHW' or 'NHWC', got {data_layout!r}")
    channel_axis = 1 if data_layout == "NCHW" else -1
    counterpart = "paddle.nn.GroupNorm"
    channels = count_channels("group_norm", counterpart, input, [2, 3, 4, 5], channel_axis)
    parameters = Parameters("group_norm", name, input.dtype)
    _checks.check_divides(
        "groups", _checks.check_int("groups", groups), channels, "channels of input"
    )
    # Without a scale, the gradient of Paddle 3.3's operator for CPUs is wrong.
    one = paddle.ones([channels], input.dtype)
    scale = parameters.weight(param_attr, [channels], Constant(1.0)) if param_attr else one
    shift = parameters.bias(bias_attr, [channels]) if bias_attr else None
    if not input.stop_gradient:
        out = F.group_norm(input, groups, epsilon, scale, shift, data_layout)
    else:  # Paddle 3.0 cannot compute the gradients of scale and shift alone
        out = F.group_norm(input, groups, epsilon, one, None, data_layout)
        trailing = [1] * (len(input.shape) - 2 if channel_axis == 1 else 0)
        out = out if scale is one else out * scale.reshape([channels, *trailing])
        out = out if shift is None else out + shift.reshape([channels, *trailing])
    return activated(out, act)


def instance_norm(
    input: Any,
    epsilon: float = 1e-5,
    param_attr: Any = None,
    bias_attr: Any = None,
    name: str | None = None,
) -> Any:
    """Add instance normalisation (arXiv 1607.08022).

    Args:
        input: [N, C, ...].
        epsilon: Added to the variance.
        param_attr: A ParamAttr, initializer or name of the scale `instance_norm_0.w_0` [C], which
            starts at 1.
        bias_attr: The same of the shift `instance_norm_0.b_0` [C], which starts at 0. False of
            both for neither.
        name: Prefix of the parameters' names.

    Raises:
        RuntimeError: a call in dynamic mode.
        TypeError: no tensor of the static program.
        ValueError: a wrong shape.
        AssertionError: one of `param_attr` and `bias_attr` is False.
    """
    channels = count_channels("instance_norm", "paddle.nn.InstanceNorm2D", input, [2, 3, 4, 5])
    if (param_attr is False) != (bias_attr is False):
        raise AssertionError("bias_attr: expected False exactly where param_attr is False")
    if param_attr is False:
        return F.instance_norm(input, eps=epsilon)
    parameters = Parameters("instance_norm", name, input.dtype)
    scale = parameters.weight(param_attr, [channels], Constant(1.0))
    shift = parameters.bias(bias_attr, [channels])
    # Paddle's gradient of the operator is of its input, and of both of these or of neither.
    if input.stop_gradient or scale.stop_gradient != shift.stop_gradient:
        return affine_channel(F.instance_norm(input, eps=epsilon), scale, shift)
    return F.instance_norm(input, weight=scale, bias=shift, eps=epsilon)


def layer_norm(
    input: Any,
    scale: bool = True,
    shift: bool = True,
    begin_norm_axis: int = 1,
    epsilon: float = 1e-5,
    param_attr: Any = None,
    bias_attr: Any = None,
    act: str | None = None,
    name: str | None = None,
) -> Any:
    """Add layer normalisation (arXiv 1607.06450) over the dimensions from `begin_norm_axis` on.

    Args:
        input: A tensor whose normalised dimensions are known.
        scale: Whether there is a scale `layer_norm_0.w_0`, which starts at 1. It has one dimension,
            the product of the normalised ones.
        shift: Whether there is a shift `layer_norm_0.b_0` like that, which starts at 0.
        begin_norm_axis: The first normalised dimension.
        epsilon: Added to the variance.
        param_attr: A ParamAttr, initializer or name of the scale.
        bias_attr: The same of the shift.
        act: Name of an activation to apply.
        name: Prefix of the parameters' names.

    Raises:
        RuntimeError: a call in dynamic mode.
        TypeError: no tensor of the static program.
        ValueError: a normalised dimension that is unknown.
        AssertionError: the attribute of a wanted parameter is False.
    """
    count_channels("layer_norm", "paddle.nn.LayerNorm", input, range(2, 10), -1)
    parameters = Parameters("layer_norm", name, input.dtype)
    sizes = [*input.shape[begin_norm_axis:]]
    if min(sizes) < 1:
        raise ValueError(f"input: expected known sizes from begin_norm_axis on, got {sizes}")
    if shift and bias_attr is False:
        raise AssertionError("bias_attr: expected an attribute where shift is True, got False")
    weight = parameters.weight(param_attr, [math.prod(sizes)], Constant(1.0)) if scale else None
    bias = parameters.bias(bias_attr, [math.prod(sizes)]) if shift else None
    return activated(F.layer_norm(input, sizes, weight, bias, epsilon), act)


def affine_channel(
    x: Any,
    scale: Any = None,
    bias: Any = None,
    data_layout: str = "NCHW",
    name: str | None = None,
    act: str | None = None,
) -> Any:
    """Return x times the scale plus the bias of each channel.

    Args:
        x: [N, C, ...], or [N, ..., C] with `data_layout="NHWC"`.
        scale: A tensor [C].
        bias: A tensor [C].
        data_layout: `"NCHW"` or `"NHWC"`.
        name: Not used.
        act: Name of an activation to apply.
    """
    if data_layout == "NCHW":
        ones = [1] * (len(x.shape) - 2)
        scale, bias = (paddle.reshape(tensor, [-1, *ones]) for tensor in (scale, bias))
    return activated(_operators.multiply(x, scale) + bias, act)


def l2_normalize(x: Any, axis: int, epsilon: float = 1e-12, name: str | None = None) -> Any:
    """Return x / sqrt(sum(x * x) + epsilon), the sum along `axis`."""
    return paddle.divide(
        x, _operators.sqrt(_operators.sum(paddle.square(x), [axis], True) + epsilon)
    )


# --- pooling -------------------------------------------------------------------------------------


def _pool(
    axes: int,
    input: Any,
    pool_size: Any,
    pool_type: str,
    pool_stride: Any,
    pool_padding: Any,
    global_pooling: bool,
    ceil_mode: bool,
    exclusive: bool,
    data_format: str,
    **unused: Any,
) -> Any:
    if pool_type not in ("max", "avg"):
        raise ValueError(f"pool_type: expected 'max' or 'avg', got {pool_type!r}")
    if global_pooling:
        if data_format.endswith("C"):
            over = list(range(1, axes + 1))
            return (paddle.max if pool_type == "max" else paddle.mean)(input, over, keepdim=True)
        return getattr(F, f"adaptive_{pool_type}_pool{axes}d")(input, 1)
    if min(ints(pool_size, axes)) < 1:
        raise ValueError(
            f"pool_size: expected positive sizes where global_pooling is False, got {pool_size}"
        )
    if pool_type == "avg" and ceil_mode and not exclusive and not isinstance(pool_padding, str):
        # Current Paddle leaves what a window has beyond the padding out; 1.x counted it.
        input = _framed(input, axes, pool_stride, pool_padding, data_format)
        ceil_mode, pool_padding = False, 0
    settings = {"ceil_mode": ceil_mode, "data_format": data_format}
    if pool_type == "avg":
        settings["exclusive"] = exclusive
    pool = getattr(F, f"{pool_type}_pool{axes}d")
    return pool(input, pool_size, pool_stride, pool_padding, **settings)


def _framed(input: Any, axes: int, stride: Any, padding: Any, data_format: str) -> Any:
    """Put the padding of a pool around its input, and what lets its last windows be whole."""
    if isinstance(padding, int) or len(padding) == axes:
        pairs = [(pad, pad) for pad in ints(padding, axes)]
    elif isinstance(padding[0], int):
        pairs = [(padding[2 * i], padding[2 * i + 1]) for i in range(axes)]
    else:
        first = data_format.index("C") == 1
        pairs = padding[2:] if first else padding[1:-1]
    pads = [(before, after + step - 1) for (before, after), step in zip(pairs, ints(stride, axes))]
    sides = [side for pair in reversed(pads) for side in pair]
    return F.pad(input, sides, "constant", 0.0, data_format)


def pool2d(
    input: Any,
    pool_size: int | Sequence[int] = -1,
    pool_type: str = "max",
    pool_stride: int | Sequence[int] = 1,
    pool_padding: Any = 0,
    global_pooling: bool = False,
    use_cudnn: bool = True,
    ceil_mode: bool = False,
    name: str | None = None,
    exclusive: bool = True,
    data_format: str = "NCHW",
) -> Any:
    """Return the maximum or the mean of windows of images.

    Args:
        input: Images [N, C, H, W], or [N, H, W, C] with `data_format="NHWC"`.
        pool_size: Size of a window: an int, or (height, width).
        pool_type: `"max"` or `"avg"`.
        pool_stride: Step between windows: an int, or (height, width).
        pool_padding: As the padding of :func:`conv2d`.
        global_pooling: Take the whole image for a window; then size and padding do not matter.
        use_cudnn: Not used.
        ceil_mode: Round the size of the result up instead of down.
        name: Not used.
        exclusive: Leave the padding out of means.
        data_format: `"NCHW"` or `"NHWC"`.

    Raises:
        ValueError: an unknown `pool_type`, or no positive `pool_size`.
    """
    return _pool(2, **locals())


def pool3d(
    input: Any,
    pool_size: int | Sequence[int] = -1,
    pool_type: str = "max",
    pool_stride: int | Sequence[int] = 1,
    pool_padding: Any = 0,
    global_pooling: bool = False,
    use_cudnn: bool = True,
    ceil_mode: bool = False,
    name: str | None = None,
    exclusive: bool = True,
    data_format: str = "NCDHW",
) -> Any:
    """Return the maximum or the mean of windows of volumes, [N, C, D, H, W]; see :func:`pool2d`."""
    return _pool(3, **locals())


def _adaptive_pool(
    axes: int, input: Any, pool_size: Any, pool_type: str, require_index: bool
) -> Any:
    if pool_type not in ("max", "avg"):
        raise ValueError(f"pool_type: expected 'max' or 'avg', got {pool_type!r}")
    if require_index and pool_type == "avg":
        raise ValueError("require_index: expected False for pool_type 'avg', got True")
    pool = getattr(F, f"adaptive_{pool_type}_pool{axes}d")
    return pool(input, pool_size, return_mask=True) if require_index else pool(input, pool_size)


def adaptive_pool2d(
    input: Any,
    pool_size: int | Sequence[int],
    pool_type: str = "max",
    require_index: bool = False,
    name: str | None = None,
) -> Any:
    """Return the maximum or the mean of `pool_size` windows that share the image out.

    Args:
        input: Images [N, C, H, W].
        pool_size: Size of the result: an int, or (height, width).
        pool_type: `"max"` or `"avg"`.
        require_index: Return the positions of the maxima, too.
        name: Not used.

    Raises:
        ValueError: an unknown `pool_type`, or positions of means.
    """
    return _adaptive_pool(2, input, pool_size, pool_type, require_index)


def adaptive_pool3d(
    input: Any,
    pool_size: int | Sequence[int],
    pool_type: str = "max",
    require_index: bool = False,
    name: str | None = None,
) -> Any:
    """Pool volumes [N, C, D, H, W] as :func:`adaptive_pool2d` pools images."""
    return _adaptive_pool(3, input, pool_size, pool_type, require_index)


# --- resizing and moving pixels ------------------------------------------------------------------

_MODES = {
    "LINEAR": "linear",
    "BILINEAR": "bilinear",
    "TRILINEAR": "trilinear",
    "NEAREST": "nearest",
    "BICUBIC": "bicubic",
}


def image_resize(
    input: Any,
    out_shape: Any = None,
    scale: Any = None,
    name: str | None = None,
    resample: str = "BILINEAR",
    actual_shape: Any = None,
    align_corners: bool = True,
    align_mode: int = 1,
    data_format: str = "NCHW",
) -> Any:
    """Resize images or volumes.

    Args:
        input: [N, C, ...], or channels last as `data_format` says.
        out_shape: The new size: a list of ints or tensors of one element, or a tensor.
        scale: Factor of the size, a number or a tensor; used where there is no `out_shape`. Sizes
            are rounded down.
        name: Not used.
        resample: `"BILINEAR"`, `"NEAREST"`, `"TRILINEAR"`, `"LINEAR"` or `"BICUBIC"`.
        actual_shape: A tensor that overrides `out_shape`.
        align_corners: Keep the outermost pixels where they are: positions are multiples of
            (size - 1) / (new size - 1), which NEAREST rounds half up. Otherwise they are multiples
            of size / new size, which NEAREST rounds down.
        align_mode: Without `align_corners`, 0 counts positions from the middle of a pixel and 1
            from its edge.
        data_format: `"NCHW"`, `"NHWC"`, `"NCDHW"`, `"NDHWC"`, `"NCW"` or `"NWC"`.

    Raises:
        ValueError: an unknown `resample`, or no new size.
    """
    if resample.upper() not in _MODES:
        raise ValueError(f"resample: expected one of {', '.join(_MODES)}, got {resample!r}")
    mode = _MODES[resample.upper()]
    axes = [axis for axis, letter in enumerate(data_format) if letter not in "NC"]
    axes = axes if len(input.shape) == len(data_format) else list(range(2, len(input.shape)))
    size = actual_shape if actual_shape is not None else out_shape
    if size is None:
        if scale is None:
            raise ValueError("out_shape: expected a size where scale is None, got None")
        size = [_scaled(input, axis, scale) for axis in axes]
    if not is_tensor(size):
        size = [item if is_tensor(item) else int(item) for item in size]
    if mode == "nearest" and align_corners:
        rank = len(input.shape)
        for i, axis in enumerate(axes):
            # Along the first axis, as along others gather's gradient is wrong in Paddle 3.0.
            order = [axis if each == 0 else 0 if each == axis else each for each in range(rank)]
            pixels = paddle.gather(input.transpose(order), _nearest(input, axis, size[i]))
            input = pixels.transpose(order)
        return input
    channel_last = data_format.endswith("C")
    formats = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}
    return F.interpolate(
        input,
        size=size,
        mode=mode,
        align_corners=align_corners,
        align_mode=align_mode,
        data_format=formats[len(axes)][channel_last],
    )


def _size(x: Any, axis: int) -> Any:
    """Return a size as an int, or as a tensor where the program does not know it."""
    return int(x.shape[axis]) if x.shape[axis] >= 0 else paddle.shape(x)[axis]


def _scaled(x: Any, axis: int, scale: Any) -> Any:
    size = _size(x, axis)
    if isinstance(size, int) and not is_tensor(scale):
        return int(np.float32(size) * np.float32(scale))  # 1.x kept the scale in float32
    if not is_tensor(size):
        size = paddle.full([], size, "int32")
    scale = paddle.reshape(scale, []) if is_tensor(scale) else scale
    return (size.astype("float32") * scale).astype("int32")


def _nearest(x: Any, axis: int, new: Any) -> Any:
    """Return which pixels of an axis lie nearest to `new` ones whose ends are the axis's ends."""
    old = _size(x, axis)
    if isinstance(old, int) and isinstance(new, int):
        ratio = np.float32(old - 1) / np.float32(max(new - 1, 1))
        positions = ratio * np.arange(new, dtype="float32") + 0.5
        return paddle.assign(positions.astype("int32"))
    old, new = (
        paddle.reshape(size, []).astype("int32")
        if is_tensor(size)
        else paddle.full([], size, "int32")
        for size in (old, new)
    )
    steps = paddle.clip(new - 1, min=1).astype("float32")
    ratio = (old - 1).astype("float32") / steps
    positions = paddle.arange(0, new, 1, "int32").astype("float32") * ratio + 0.5
    return positions.astype("int32")


def resize_bilinear(
    input: Any,
    out_shape: Any = None,
    scale: Any = None,
    name: str | None = None,
    actual_shape: Any = None,
    align_corners: bool = True,
    align_mode: int = 1,
    data_format: str = "NCHW",
) -> Any:
    """Call :func:`image_resize` with `resample="BILINEAR"`."""
    return image_resize(**locals(), resample="BILINEAR")


def resize_trilinear(
    input: Any,
    out_shape: Any = None,
    scale: Any = None,
    name: str | None = None,
    actual_shape: Any = None,
    align_corners: bool = True,
    align_mode: int = 1,
    data_format: str = "NCDHW",
) -> Any:
    """Call :func:`image_resize` with `resample="TRILINEAR"`."""
    return image_resize(**locals(), resample="TRILINEAR")


def resize_nearest(
    input: Any,
    out_shape: Any = None,
    scale: Any = None,
    name: str | None = None,
    actual_shape: Any = None,
    align_corners: bool = True,
    data_format: str = "NCHW",
) -> Any:
    """Call :func:`image_resize` with `resample="NEAREST"`."""
    return image_resize(**locals(), resample="NEAREST")


def image_resize_short(input: Any, out_short_len: int, resample: str = "BILINEAR") -> Any:
    """Resize images [N, C, H, W] of known size so that their shorter side gets this length."""
    size = [int(number) for number in input.shape[2:]]
    factor = out_short_len / min(size)
    short = size.index(min(size))
    new = [int(number * factor + 0.5) for number in size]
    new[short] = out_short_len
    return image_resize(input, new, resample=resample)


def affine_grid(theta: Any, out_shape: Any, name: str | None = None) -> Any:
    """Return the positions [N, H, W, 2] that affine maps [N, 2, 3] give images [N, C, H, W]."""
    return F.affine_grid(theta, out_shape)


def grid_sampler(x: Any, grid: Any, name: str | None = None) -> Any:
    """Sample images [N, C, H, W] bilinearly at positions [N, H, W, 2] from -1 to 1, x before y."""
    return _operators.grid_sample(x, grid)


def pixel_shuffle(x: Any, upscale_factor: int) -> Any:
    """Move channels [N, C * f * f, H, W] into the image, [N, C, H * f, W * f]."""
    return F.pixel_shuffle(x, upscale_factor)


def shuffle_channel(x: Any, group: int, name: str | None = None) -> Any:
    """Take the channels of [N, C, H, W] in turn from each of `group` groups."""
    return F.channel_shuffle(x, group)


def temporal_shift(x: Any, seg_num: int, shift_ratio: float = 0.25, name: str | None = None) -> Any:
    """Move a share of the channels of [N * seg_num, C, H, W] one frame forth, another one back."""
    return F.temporal_shift(x, seg_num, shift_ratio)


def unfold(
    x: Any,
    kernel_sizes: Any,
    strides: Any = 1,
    paddings: Any = 0,
    dilations: Any = 1,
    name: str | None = None,
) -> Any:
    """Return the windows of images [N, C, H, W] as columns [N, C * kh * kw, windows]."""
    return F.unfold(x, kernel_sizes, strides, paddings, dilations)


# --- the rest ------------------------------------------------------------------------------------


def dropout(
    x: Any,
    dropout_prob: float,
    is_test: bool = False,
    seed: int | None = None,
    name: str | None = None,
    dropout_implementation: str = "downgrade_in_infer",
) -> Any:
    """Set random elements to 0, in training.

    Args:
        x: A tensor.
        dropout_prob: The probability of an element to become 0.
        is_test: Set none to 0. So does a program that is cloned with `for_test=True`.
        seed: Seed of the random numbers; None is the program's.
        name: Not used.
        dropout_implementation: `"downgrade_in_infer"` multiplies by 1 - dropout_prob where none
            become 0, `"upscale_in_train"` divides by it where some do.

    Raises:
        ValueError: an unknown `dropout_implementation`.
    """
    modes = {"downgrade_in_infer": "downscale_in_infer", "upscale_in_train": "upscale_in_train"}
    if dropout_implementation not in modes:
        raise ValueError(
            f"dropout_implementation: expected one of {', '.join(modes)}, got "
            f"{dropout_implementation!r}"
        )
    with _seed(seed):
        return F.dropout(x, dropout_prob, training=not is_test, mode=modes[dropout_implementation])


@contextlib.contextmanager
def _seed(seed: int | None) -> Iterator[None]:
    """Give the current program another seed, which Paddle's dropout takes over."""
    program = paddle.static.default_main_program()
    before = program.random_seed
    if seed is not None:
        program.random_seed = seed
    try:
        yield
    finally:
        program.random_seed = before


def softmax(input: Any, use_cudnn: bool = False, name: str | None = None, axis: int = -1) -> Any:
    """Return exp(x) / sum(exp(x)), the sum along `axis`."""
    return F.softmax(input, axis)


ACTIVATIONS["softmax"] = softmax


def maxout(x: Any, groups: int, name: str | None = None, axis: int = 1) -> Any:
    """Return the maximum of each `groups` neighbouring channels."""
    return F.maxout(x, groups, axis)


def label_smooth(
    label: Any,
    prior_dist: Any = None,
    epsilon: float = 0.1,
    dtype: str = "float32",
    name: str | None = None,
) -> Any:
    """Return (1 - epsilon) * label + epsilon * prior_dist; None is 1 / the number of classes."""
    return F.label_smooth(label, prior_dist, epsilon)


def lrn(
    input: Any,
    n: int = 5,
    k: float = 1.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
    name: str | None = None,
    data_format: str = "NCHW",
) -> Any:
    """Return x / (k + alpha * s)^beta, where s is the sum of squares of `n` neighbouring channels.

    Args:
        input: Images [N, C, H, W], or [N, H, W, C] with `data_format="NHWC"`.
        n: How many channels are added, of which x is the middle one.
        k: See above.
        alpha: See above.
        beta: See above.
        name: Not used.
        data_format: `"NCHW"` or `"NHWC"`.
    """
    axis = _channel_axis(data_format, 2)
    channels = input.shape[axis]
    sides = [0] * 8
    sides[2 * axis : 2 * axis + 2] = (n - 1) // 2, n // 2
    squares = pad(paddle.square(input), sides)
    total = sum(paddle.slice(squares, [axis], [i], [i + channels]) for i in range(n))
    return input * paddle.pow(total * alpha + k, -beta)


def spectral_norm(
    weight: Any, dim: int = 0, power_iters: int = 1, eps: float = 1e-12, name: str | None = None
) -> Any:
    """Divide a weight by its largest singular value, as power iterations find it.

    They start from the parameters `spectral_norm_0.w_0` and `spectral_norm_0.w_1`, which are
    random, and have no gradient.

    Args:
        weight: A tensor of known shape.
        dim: The dimension that is the matrix's first; the others are its second.
        power_iters: How many iterations each run makes.
        eps: Added to norms.
        name: Prefix of the parameters' names.

    Raises:
        RuntimeError: a call in dynamic mode.
    """
    require_static("paddle_dcn.fluid.layers.spectral_norm", "paddle.nn.SpectralNorm")
    parameters = Parameters("spectral_norm", name, weight.dtype)
    rows = weight.shape[dim]
    vectors = []
    for size in (rows, math.prod(weight.shape) // rows):
        frozen = paddle.ParamAttr(trainable=False)
        vectors.append(parameters.weight(frozen, [size], Normal(0.0, 1.0)))
    return _operators.spectral_norm(weight, *vectors, dim, power_iters, eps)
