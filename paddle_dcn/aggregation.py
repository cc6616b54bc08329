"""DCNv3 and DCNv4, which add samples up without weights: the functions and the layers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional

from . import _checks
from ._checks import Aggregation, Attributes, check_aggregation
from ._to_static import Constant, opaque
from .functional import amp_dtype, convolve, watchers

_PADDLE_3_0 = paddle.__version__.startswith("3.0.")

# --- on the operator -----------------------------------------------------------------------------
#
# It is a convolution with as many groups as channels and a weight of ones, which the operator knows
# to be that and does not read on the CPU. In the originals offsets and masks are channels-last,
# samples count x before y and go down the columns of the kernel. On the CPU the operator takes them
# as they are; in programs, which other runtimes read, too, and elsewhere planes are put in order
# first.


class _Plan(NamedTuple):
    """What the convolution is given beside the tensors; arrays are indices or values of planes."""

    kernel: tuple[int, int]
    attributes: Attributes
    moves: np.ndarray | None  # what is added to offsets, [1, planes, 1, 1]
    moves_last: np.ndarray  # the same in DCNv3's order, [planes]
    packed_moves: np.ndarray  # and in DCNv4's, [padded planes]
    packed_scales: np.ndarray  # what that is multiplied with before
    offset: np.ndarray  # where each plane of the operator's is in DCNv3's
    mask: np.ndarray
    packed: np.ndarray  # offset, then mask, in DCNv4's


@functools.lru_cache(maxsize=256)
def _arrange(how: Aggregation) -> _Plan:
    """Arrange the taps of the convolution.

    Along an axis, tap i of an output pixel samples at `start + center + (i * dilation - center +
    offset) * offset_scale`, where the center is half the kernel's reach. Where the kernel has no
    middle tap, k * k - 1 taps, the operator has a kernel of k - 1 by k + 1 in its place, whose
    taps are moved to where they belong.
    """
    height, width = how.kernel
    kernel = (height - 1, width + 1) if how.remove_center else how.kernel
    dilation, padding, wanted, had = [], [], [], []
    for size, taps, pad, step in zip(how.kernel, kernel, how.pad, how.dilation):
        reach = step * (size - 1)
        spread = step if taps == size else -(-reach // (taps - 1))
        dilation.append(spread)
        padding += [pad, pad + spread * (taps - 1) - reach]
        center = reach // 2
        wanted.append(center + (np.arange(size) * step - center) * how.offset_scale)
        had.append(np.arange(taps) * spread)
    wanted, had = (np.stack(np.meshgrid(*each), -1).reshape(-1, 2) for each in (wanted, had))
    if how.remove_center:
        wanted = np.delete(wanted, len(wanted) // 2, 0)
    number = np.arange(len(had)).reshape(kernel[::-1]).T.flatten()

    def planes(first: int, of_each: list[int], of_group: int) -> np.ndarray:
        """Return the planes [group * taps * len(of_each)] of what begins with `first`."""
        taps = number[:, None] * len(of_each) + of_each
        groups = np.arange(how.group)[:, None, None] * of_group * len(number)
        return (first * len(number) + groups + taps).flatten()

    offset = planes(0, [1, 0], 2)
    moves = (wanted - had)[:, ::-1].flatten()  # of a group, in DCNv3's order

    def packed(of_offsets: np.ndarray, of_masks: float) -> np.ndarray:
        of_group = np.append(of_offsets, np.full(len(number), of_masks))
        padding = how.packed_planes - how.group * len(of_group)
        return np.pad(np.tile(of_group, how.group), [0, padding], constant_values=of_masks)

    moves_last = np.tile(moves, how.group)
    attributes = Attributes(
        how.stride,
        tuple(padding),
        tuple(dilation),
        deformable_groups=how.group,
        im2col_step=how.im2col_step,
    )
    return _Plan(
        kernel,
        attributes,
        moves_last[offset].reshape(1, -1, 1, 1) if moves.any() else None,
        moves_last,
        packed(moves, 0.0),
        packed(np.full(len(moves), how.offset_scale), 1.0),
        offset,
        planes(0, [0], 1),
        np.concatenate([planes(0, [1, 0], 3), planes(2, [0], 3)]),
    )


def _constant(name: str, how: Aggregation, dtype: str, like: Tensor) -> Tensor:
    """Return an array of the plan as a tensor."""
    # Beside a distributed tensor Paddle makes a distributed one of any other, where it is.
    if paddle.in_dynamic_mode() and not like.is_dist():
        return _kept(name, how, dtype, like._place_str)
    return paddle.assign(getattr(_arrange(how), name).astype(dtype))


@functools.lru_cache(maxsize=256)
def _kept(name: str, how: Aggregation, dtype: str, place: str) -> Tensor:
    array = getattr(_arrange(how), name).astype(dtype)
    return paddle.to_tensor(array, place=place[len("Place(") : -1])


def _transposed(tensor: Tensor, axes: list[int]) -> Tensor:
    if paddle.in_dynamic_mode():  # several times faster than the method
        return paddle._C_ops.transpose(tensor, axes)
    return tensor.transpose(axes)


def _ones(shape: list[int], like: Tensor) -> Tensor:
    if paddle.in_dynamic_mode():  # as above
        return paddle._C_ops.full(shape, 1.0, like.dtype, like.place)
    return paddle.ones(shape, like.dtype)


def _half(tensor: Tensor) -> bool:
    return _checks.dtype_name(tensor.dtype) in ("float16", "bfloat16")


def _widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(each.astype("float32") if _half(each) else each for each in tensors)


def _planes(tensor: Tensor, name: str, how: Aggregation) -> Tensor:
    """Return the planes [N, planes, Ho, Wo] of a tensor [N, Ho, Wo, planes], in order."""
    (tensor,) = _widened(tensor)  # for sums of positions; and Paddle gathers no float16
    order = _constant(name, how, "int64", tensor)
    # Along other axes gather is wrong for an empty batch in programs, its gradient in Paddle 3.0.
    return _transposed(paddle.gather(_transposed(tensor, [3, 0, 1, 2]), order), [1, 0, 2, 3])


def _without_casts() -> contextlib.AbstractContextManager:
    """Keep auto_cast, which casts for Paddle's operations, from rounding positions."""
    return paddle.amp.auto_cast(enable=False) if amp_dtype() else contextlib.nullcontext()


def _in_planes(sampling: tuple[Tensor, ...], how: Aggregation) -> tuple[Tensor, Tensor]:
    """Return offset and mask [N, planes, Ho, Wo], in the operator's order."""
    if len(sampling) == 1:
        samples = how.group * how.taps
        planes = _planes(*sampling, "packed", how)
        if _PADDLE_3_0 and 0 in planes.shape:  # of whose parts split has no gradient there
            offset, mask = planes[:, : 2 * samples], planes[:, 2 * samples :]
        else:
            offset, mask = paddle.split(planes, [2 * samples, samples], axis=1)
    else:
        offset, mask = (_planes(each, n, how) for each, n in zip(sampling, ("offset", "mask")))
    if how.offset_scale != 1:
        offset = offset * how.offset_scale
    if _arrange(how).moves is not None:
        offset = offset + _constant("moves", how, _checks.dtype_name(offset.dtype), offset)
    return offset, mask


def _moved(planes_last: Tensor, how: Aggregation, packed: bool) -> Tensor:
    """Return the offset of DCNv3, or offset_mask of DCNv4, with offsets as the operator's are."""
    plan = _arrange(how)
    if how.offset_scale == 1 and plan.moves is None:
        return planes_last
    (moved,) = _widened(planes_last)  # for sums of positions

    def of_planes(name: str) -> Tensor:
        constant = _constant(name, how, _checks.dtype_name(moved.dtype), moved)
        return constant if constant.shape[0] == moved.shape[-1] else constant[: moved.shape[-1]]

    if packed:
        return moved * of_planes("packed_scales") + of_planes("packed_moves")
    return moved * how.offset_scale + of_planes("moves_last")


def _takes_planes_last(*tensors: Tensor) -> bool:
    """Tell whether the operator takes offsets and masks as they are; watchers expect its order."""
    here = paddle.in_dynamic_mode() and not watchers
    return here and all(each.place.is_cpu_place() and not each.is_dist() for each in tensors)


def _aggregate(input: Tensor, sampling: tuple[Tensor, ...], how: Aggregation) -> Tensor:
    """Check and run one call, with an offset and a mask or with an offset_mask."""
    channels = _checks.check_aggregated(input, sampling, how, amp_dtype())
    plan = _arrange(how)
    # A predictor of Paddle 3.3 with oneDNN cannot run a program of it in NHWC.
    last = paddle.in_dynamic_mode()
    planes_last = _takes_planes_last(input, *sampling)
    with _without_casts():
        x = input if last else input.transpose([0, 3, 1, 2])
        if planes_last:
            mask = sampling[1] if len(sampling) == 2 else None
            offset = _moved(sampling[0], how, mask is None)
        else:
            offset, mask = _in_planes(sampling, how)
        ones = _ones([channels, 1, *plan.kernel], input)
    attributes = plan.attributes._replace(
        groups=channels,
        data_format="NHWC" if last else "NCHW",
        weighted=False,
        planes_last=planes_last,
    )
    out = convolve(x, offset, mask, ones, None, attributes, _checks.DCNV3)
    with _without_casts():
        return out if last else out.transpose([0, 2, 3, 1])


def _sizes(tensor: Tensor) -> list[int | Tensor]:
    """Return the sizes to reshape to, where any may be open or empty: -1 would be ambiguous."""
    return [n if n >= 0 else paddle.shape(tensor)[axis] for axis, n in enumerate(tensor.shape)]


@opaque
def _split(tensor: Tensor, *sizes: int) -> Tensor:
    """Split the last axis."""
    return tensor.reshape([*_sizes(tensor)[:-1], *sizes])


@opaque
def _reshape_as(tensor: Tensor, other: Tensor) -> Tensor:
    return tensor.reshape(_sizes(other))


@opaque
def _aggregate_in_layer(input: Tensor, *sampling: Tensor, how: Constant) -> Tensor:
    return _aggregate(input, sampling, how.value)


# --- functions -----------------------------------------------------------------------------------


@opaque
def dcnv3(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_h: int = 3,
    kernel_w: int = 3,
    stride_h: int = 1,
    stride_w: int = 1,
    pad_h: int = 1,
    pad_w: int = 1,
    dilation_h: int = 1,
    dilation_w: int = 1,
    group: int = 1,
    group_channels: int | None = None,
    offset_scale: float = 1.0,
    im2col_step: int | None = None,
    remove_center: bool = False,
) -> Tensor:
    """DCNv3, the operator of InternImage: sums of samples, without weights.

    A channel of output pixel (i, j) is the sum, over the taps (p, q) of the kernel, of the mask
    times the bilinear sample of that channel at

        y = i * stride_h - pad_h + center_h + (p * dilation_h - center_h + dy) * offset_scale
        x = j * stride_w - pad_w + center_w + (q * dilation_w - center_w + dx) * offset_scale

    with `center_h = dilation_h * (kernel_h - 1) // 2`, and `center_w` likewise. A sample outside
    the image is 0. The channels of a group share offsets and masks. No softmax is applied to the
    mask; the layer `DCNv3` applies it before.

    Arguments, their order and their layouts are those of the original, whose `DCNv3Function.apply`
    this replaces. Gradients, modes, `auto_cast` and samples at infinite or NaN positions are as in
    `paddle_dcn.deform_conv2d`, by whose operator it is computed, in any of its dtypes and on any of
    its devices.

    Args:
        input: [N, H, W, C]; float16, bfloat16, float32 or float64. N may be 0.
        offset: How far each tap is moved, in pixels of the input before `offset_scale`: [N, Ho, Wo,
            group * taps * 2], first dx, then dy; taps go down the columns of the kernel, q before
            p. The dtype of the input, or float32, in which positions are then computed.
        mask: Factor of each sample, [N, Ho, Wo, group * taps]. The dtype of the input, or float32.
        kernel_h: Taps in a column of the kernel.
        kernel_w: Taps in a row of it; `taps = kernel_h * kernel_w - remove_center`.
        stride_h: Step between output pixels downwards, in pixels of the input.
        stride_w: The same rightwards.
        pad_h: Rows of zeros above and below the input.
        pad_w: Columns of zeros on its left and right.
        dilation_h: Distance of taps in a column of the kernel, in pixels of the input.
        dilation_w: The same in a row.
        group: Groups of channels that have offsets and masks of their own.
        group_channels: Channels of a group; None: C / group.
        offset_scale: Factor of offsets and of the distances of taps from the center.
        im2col_step: At most so many images are sampled into the workspace at a time. Bounds memory,
            never changes results beyond rounding, need not divide N. None: chosen by the
            implementation.
        remove_center: Leave the middle tap out; for square kernels of an odd size from 3 on.

    Returns:
        [N, Ho, Wo, C] in the dtype of the input, where
        `Ho = (H + 2 * pad_h - (dilation_h * (kernel_h - 1) + 1)) // stride_h + 1`.

    Raises:
        TypeError: an argument that is no tensor or number, or dtypes that do not go together.
        ValueError: shapes that do not fit each other, a value out of its range, tensors on
            different devices. Both name the argument, its value and what was expected.

    Source: InternImage, arXiv 2211.05778; `ops_dcnv3` in https://github.com/OpenGVLab/InternImage.

    Examples:
        >>> import paddle
        >>> from paddle_dcn import dcnv3
        >>> input = paddle.rand([2, 14, 14, 32])
        >>> offset = paddle.rand([2, 14, 14, 4 * 9 * 2])
        >>> mask = paddle.nn.functional.softmax(paddle.rand([2, 14, 14, 4, 9])).flatten(3)
        >>> list(dcnv3(input, offset, mask, group=4).shape)
        [2, 14, 14, 32]

    """
    how = check_aggregation(
        *(kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w),
        *(group, group_channels, offset_scale, im2col_step, remove_center),
    )
    return _aggregate(input, (offset, mask), how)


@opaque
def dcnv4(
    input: Tensor,
    offset_mask: Tensor,
    kernel_h: int = 3,
    kernel_w: int = 3,
    stride_h: int = 1,
    stride_w: int = 1,
    pad_h: int = 1,
    pad_w: int = 1,
    dilation_h: int = 1,
    dilation_w: int = 1,
    group: int = 1,
    group_channels: int | None = None,
    offset_scale: float = 1.0,
    im2col_step: int | None = None,
    remove_center: bool = False,
) -> Tensor:
    """DCNv4, the operator of FlashInternImage: DCNv3 with offsets and masks in one tensor.

    It computes what `paddle_dcn.dcnv3` computes, of masks that are not normalised. Arguments, their
    order and their layouts are those of the original, whose `DCNv4Function.apply` this replaces;
    the original runs on GPUs only, with kernels of 8 or 9 taps and groups of a multiple of 8
    channels.

    Args:
        input: As in `paddle_dcn.dcnv3`.
        offset_mask: [N, Ho, Wo, P]: for each group `taps * 2` offsets, in the order of
            `paddle_dcn.dcnv3`, then `taps` masks; P is `group * taps * 3`, or the next multiple of
            8 of it, of which the rest is not read. The dtype of the input, or float32.
        kernel_h: This and the further arguments are as in `paddle_dcn.dcnv3`.
        kernel_w: See there.
        stride_h: See there.
        stride_w: See there.
        pad_h: See there.
        pad_w: See there.
        dilation_h: See there.
        dilation_w: See there.
        group: See there.
        group_channels: See there.
        offset_scale: See there.
        im2col_step: See there.
        remove_center: See there.

    Returns:
        [N, Ho, Wo, C] in the dtype of the input, as `paddle_dcn.dcnv3` does.

    Raises:
        TypeError: as `paddle_dcn.dcnv3`.
        ValueError: as `paddle_dcn.dcnv3`.

    Source: DCNv4, arXiv 2401.06197; `DCNv4_op` in https://github.com/OpenGVLab/DCNv4.

    Examples:
        >>> import paddle
        >>> from paddle_dcn import dcnv4
        >>> input = paddle.rand([2, 14, 14, 32])
        >>> offset_mask = paddle.rand([2, 14, 14, 112])  # 4 * 9 * 3 = 108, padded
        >>> list(dcnv4(input, offset_mask, group=4).shape)
        [2, 14, 14, 32]

    """
    how = check_aggregation(
        *(kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w),
        *(group, group_channels, offset_scale, im2col_step, remove_center),
    )
    return _aggregate(input, (offset_mask,), how)


# --- layers --------------------------------------------------------------------------------------

# Layers of half types predict offsets and masks in float32: half types are too coarse for positions
# of pixels. On the CPU, where Paddle has nothing else, they project in float32, too.


@opaque
def _compute(input: Tensor, *parameters: Tensor, function: Constant) -> Tensor:
    """Call a function of Paddle's; if the parameters have a half type, in float32."""
    if not _half(parameters[0]):
        return function.value(input, *parameters)
    with _without_casts():
        return function.value(*_widened(input, *parameters))


_LINEAR = Constant(functional.linear)


@opaque
def _project(input: Tensor, *parameters: Tensor) -> Tensor:
    """Apply the parameters of a Linear layer, in their dtype where Paddle has that."""
    if not _half(parameters[0]) or paddle.device.get_device() != "cpu":
        return functional.linear(input, *parameters)
    return _compute(input, *parameters, function=_LINEAR).astype(input.dtype)


class _Linear(nn.Linear):
    """A layer that predicts."""

    def forward(self, input: Tensor) -> Tensor:
        return _compute(input, self.weight, self.bias, function=_LINEAR)


class _Projection(nn.Linear):
    """A layer whose result has the dtype of the parameters."""

    def forward(self, input: Tensor) -> Tensor:
        parameters = (self.weight,) if self.bias is None else (self.weight, self.bias)
        return _project(input, *parameters)


class _Depthwise(nn.Conv2D):
    """A convolution that keeps the size of images, with the initial values of PyTorch."""

    def __init__(self, channels: int, size: int) -> None:
        uniform, half = nn.initializer.Uniform(-1 / size, 1 / size), size // 2
        super().__init__(
            channels,
            channels,
            size,
            padding=half,
            groups=channels,
            weight_attr=uniform,
            bias_attr=uniform,
        )
        convolve = functools.partial(functional.conv2d, padding=half, groups=channels)
        self._function = Constant(convolve)

    def forward(self, x: Tensor) -> Tensor:
        return _compute(x, self.weight, self.bias, function=self._function)


_EPSILON = 1e-6  # of the originals' normalisation


def _normalize(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.layer_norm(x, [*weight.shape], weight, bias, _EPSILON)


_NORMALIZE = Constant(_normalize)


class _LayerNorm(nn.LayerNorm):
    """A normalisation over channels, the last axis."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, _EPSILON)

    def forward(self, input: Tensor) -> Tensor:
        return _compute(input, self.weight, self.bias, function=_NORMALIZE)


class _BatchNorm(nn.BatchNorm2D):
    # Its statistics are changed in place, so this is not `_compute`.
    def forward(self, input: Tensor) -> Tensor:
        if not _half(self.weight):
            return super().forward(input)
        statistics = self._mean, self._variance
        mean, variance, weight, bias = _widened(*statistics, self.weight, self.bias)
        out = functional.batch_norm(
            *(input, mean, variance, weight, bias, self.training, self._momentum, self._epsilon)
        )
        if self.training:
            for kept, new in zip(statistics, (mean, variance)):
                paddle.assign(new.astype(kept.dtype), kept)
        return out


_ACTIVATIONS = {"ReLU": nn.ReLU, "SiLU": nn.Silu, "GELU": nn.GELU}


class _ChannelsLast(nn.Layer):
    """Turns [N, C, H, W] into [N, H, W, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose([0, 2, 3, 1])


def _zeros(channels: int, planes: int) -> _Linear:
    return _Linear(channels, planes, nn.initializer.Constant(0.0))


def _projection(channels: int, bias: bool = True) -> _Projection:
    xavier = nn.initializer.XavierUniform()
    return _Projection(channels, channels, xavier, None if bias else False)


@opaque
def _check_input(input: Any, weight: Tensor, channels: Constant, axes: str) -> tuple[int, ...]:
    """Check the input of a layer before Paddle's operations get it, and return its shape."""
    dtype = _checks.dtype_name(weight.dtype)
    return _checks.check_features("input", input, axes, channels.value, dtype, amp_dtype())


@opaque
def _as_images(input: Any, shape: Any, weight: Tensor, channels: Constant) -> Tensor:
    """Check an input [N, H * W, C], and turn it into [N, H, W, C]."""
    pixels = _check_input(input, weight, channels, "[N, H * W, C]")[1]
    sides = _checks.check_sides(shape, pixels)
    batch = input.shape[0] if input.shape[0] >= 0 else paddle.shape(input)[0]
    return input.reshape([batch, *sides, channels.value])


class AggregationLayer(nn.Layer):
    """What both layers have: checked arguments, and the share of what was not moved."""

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        stride: int,
        pad: int,
        dilation: int,
        group: int,
        offset_scale: float,
        center_feature_scale: bool,
        remove_center: bool,
    ) -> None:
        super().__init__()
        how = _checks.check_aggregation_layer(
            channels, kernel_size, stride, pad, dilation, group, offset_scale, remove_center
        )
        channels = how.group * how.group_channels
        self._how, self._width = Constant(how), Constant(channels)
        self.taps = how.taps
        self.channels, self.kernel_size, self.stride = channels, how.kernel[0], 1
        self.pad, self.dilation, self.group = how.pad[0], how.dilation[0], how.group
        self.group_channels, self.offset_scale = how.group_channels, how.offset_scale
        self.remove_center = int(how.remove_center)
        self.center_feature_scale = _checks.check_flag("center_feature_scale", center_feature_scale)

    def _add_scale(self) -> None:
        """Create the parameters of center_feature_scale, which have no transposed layout."""
        zero = nn.initializer.Constant(0.0)
        for name, shape in (("weight", [self.group, self.channels]), ("bias", [self.group])):
            parameter = self.create_parameter(shape, default_initializer=zero)
            self.add_parameter(f"center_feature_scale_proj_{name}", parameter)

    def _mix(self, out: Tensor, still: Tensor, features: Tensor) -> Tensor:
        """Blend the aggregated samples with what lies at the pixel itself, group by group."""
        if not self.center_feature_scale:
            return out
        weight = self.center_feature_scale_proj_weight.transpose([1, 0])
        bias = self.center_feature_scale_proj_bias
        share = _compute(features, weight, bias, function=_LINEAR)
        share = functional.sigmoid(share).unsqueeze(-1)
        dtype = out.dtype
        if _half(weight):
            out, still = _widened(out, still)
        out, still = (_split(each, self.group, self.group_channels) for each in (out, still))
        mixed = (out * (1 - share) + still * share).flatten(3)
        return mixed.astype(dtype) if _half(weight) else mixed

    def extra_repr(self) -> str:
        """Return the constructor's arguments that describe the operator."""
        names = ("channels", "kernel_size", "pad", "dilation", "group", "offset_scale")
        shown = [f"{name}={getattr(self, name)}" for name in names]
        flags = ("center_feature_scale", "remove_center")
        return ", ".join(shown + [f"{name}=True" for name in flags if getattr(self, name)])


class DCNv3(AggregationLayer):
    """The layer of InternImage: predicts offsets and masks, and applies `paddle_dcn.dcnv3`.

    A depthwise convolution of the input, normalised and activated (`dw_conv`), gives `offset` and
    `mask`, whose softmax over the taps of a group weighs the samples of `input_proj`; `output_proj`
    projects their sums. Arguments, their order, parameter names and initial values are those of the
    original: offsets and masks start at zero, so the layer starts with means over the kernel.
    `paddle_dcn.compat.internimage.convert_state_dict` converts its checkpoints.

    Args:
        channels: C, of input and output.
        kernel_size: Height and width of the kernel.
        dw_kernel_size: Those of the depthwise convolution, an odd number; None: `kernel_size`.
        stride: 1; with another the original computes nothing meaningful.
        pad: Rows and columns of zeros around the input: `dilation * (kernel_size - 1) / 2`.
        dilation: Distance of neighbouring taps in pixels.
        group: Groups of channels that have offsets and masks of their own.
        offset_scale: Factor of offsets and of the distances of taps from the center.
        act_layer: `"GELU"`, `"SiLU"` or `"ReLU"`.
        norm_layer: `"LN"` (over channels) or `"BN"`.
        center_feature_scale: Blend the sums with the input's own features, by a predicted share
            for each group, as the largest InternImages do.
        remove_center: Leave the middle tap out.

    Raises:
        TypeError: an argument of a wrong kind.
        ValueError: a value out of its range. Both name the argument, its value and what was
            expected. Forward raises both for an input that is not [N, H, W, channels] in the dtype
            of the parameters.

    Source: InternImage, arXiv 2211.05778; `DCNv3` in https://github.com/OpenGVLab/InternImage.

    Examples:
        >>> import paddle
        >>> from paddle_dcn import DCNv3
        >>> layer = DCNv3(channels=32, group=4)
        >>> list(layer(paddle.rand([2, 14, 14, 32])).shape)
        [2, 14, 14, 32]
        >>> [name for name in layer.state_dict() if name.startswith("dw_conv")]
        ['dw_conv.0.weight', 'dw_conv.0.bias', 'dw_conv.1.1.weight', 'dw_conv.1.1.bias']

    """

    def __init__(
        self,
        channels: int = 64,
        kernel_size: int = 3,
        dw_kernel_size: int | None = None,
        stride: int = 1,
        pad: int = 1,
        dilation: int = 1,
        group: int = 4,
        offset_scale: float = 1.0,
        act_layer: str = "GELU",
        norm_layer: str = "LN",
        center_feature_scale: bool = False,
        remove_center: bool = False,
    ) -> None:
        """Create the parameters; see the class."""
        super().__init__(
            *(channels, kernel_size, stride, pad, dilation, group, offset_scale),
            *(center_feature_scale, remove_center),
        )
        if dw_kernel_size is None:
            dw_kernel_size = self.kernel_size
        self.dw_kernel_size = _checks.check_odd("dw_kernel_size", dw_kernel_size)
        _checks.check_choice("act_layer", act_layer, _ACTIVATIONS)
        _checks.check_choice("norm_layer", norm_layer, ("LN", "BN"))
        channels = self.channels
        if norm_layer == "LN":
            norm = nn.Sequential(_ChannelsLast(), _LayerNorm(channels))
        else:
            norm = nn.Sequential(_BatchNorm(channels), _ChannelsLast())
        convolution = _Depthwise(channels, self.dw_kernel_size)
        self.dw_conv = nn.Sequential(convolution, norm, _ACTIVATIONS[act_layer]())
        self.offset = _zeros(channels, 2 * self.group * self.taps)
        self.mask = _zeros(channels, self.group * self.taps)
        self.input_proj = _projection(channels)
        self.output_proj = _projection(channels)
        if self.center_feature_scale:
            self._add_scale()

    def forward(self, input: Tensor) -> Tensor:
        """Return [N, H, W, C] of an input of that shape."""
        _check_input(input, self.output_proj.weight, self._width, "[N, H, W, C]")
        x = self.input_proj(input)
        features = self.dw_conv(input.transpose([0, 3, 1, 2]))
        mask = functional.softmax(_split(self.mask(features), self.group, self.taps)).flatten(3)
        out = _aggregate_in_layer(x, self.offset(features), mask, how=self._how)
        return self.output_proj(self._mix(out, x, features))


class DCNv4(AggregationLayer):
    """The layer of FlashInternImage: predicts offsets and masks, and applies `paddle_dcn.dcnv4`.

    `offset_mask`, of the input or of a depthwise convolution of it (`offset_mask_dw`), weighs the
    samples of `value_proj`, without a softmax; `output_proj` projects their sums. Arguments, their
    order, parameter names and initial values are those of the original: all masks start at zero,
    and with them the output. Groups may have any number of channels.
    `paddle_dcn.compat.internimage.convert_state_dict` converts its checkpoints.

    Args:
        channels: C, of input and output.
        kernel_size: Height and width of the kernel.
        stride: 1; with another the original computes nothing meaningful.
        pad: Rows and columns of zeros around the input: `dilation * (kernel_size - 1) / 2`.
        dilation: Distance of neighbouring taps in pixels.
        group: Groups of channels that have offsets and masks of their own.
        offset_scale: Factor of offsets and of the distances of taps from the center.
        dw_kernel_size: Kernel size of the depthwise convolution, an odd number; None: no such
            convolution.
        center_feature_scale: Blend the sums with the input's own features, by a predicted share
            for each group.
        remove_center: Leave the middle tap out.
        output_bias: Whether `output_proj` has a bias.
        without_pointwise: Leave `value_proj` and `output_proj` out.
        act_layer: Accepted for the sake of code that also builds `DCNv3`, and not used.
        norm_layer: The same.

    Raises:
        TypeError: an argument of a wrong kind.
        ValueError: a value out of its range. Both name the argument, its value and what was
            expected. Forward raises both for an input that is not [N, H * W, channels] in the dtype
            of the parameters.

    Source: DCNv4, arXiv 2401.06197; `DCNv4` in https://github.com/OpenGVLab/DCNv4.

    Examples:
        >>> import paddle
        >>> from paddle_dcn import DCNv4
        >>> layer = DCNv4(channels=32, group=4)
        >>> list(layer(paddle.rand([2, 14 * 10, 32]), shape=(14, 10)).shape)
        [2, 140, 32]
        >>> layer.offset_mask.weight.shape[1]  # 4 * 9 * 3, padded to a multiple of 8
        112

    """

    def __init__(
        self,
        channels: int = 64,
        kernel_size: int = 3,
        stride: int = 1,
        pad: int = 1,
        dilation: int = 1,
        group: int = 4,
        offset_scale: float = 1.0,
        dw_kernel_size: int | None = None,
        center_feature_scale: bool = False,
        remove_center: bool = False,
        output_bias: bool = True,
        without_pointwise: bool = False,
        act_layer: Any = None,
        norm_layer: Any = None,
    ) -> None:
        """Create the parameters; see the class."""
        super().__init__(
            *(channels, kernel_size, stride, pad, dilation, group, offset_scale),
            *(center_feature_scale, remove_center),
        )
        self.dw_kernel_size = dw_kernel_size
        self.without_pointwise = _checks.check_flag("without_pointwise", without_pointwise)
        output_bias = _checks.check_flag("output_bias", output_bias)
        channels = self.channels
        if dw_kernel_size is not None:
            size = _checks.check_odd("dw_kernel_size", dw_kernel_size)
            self.offset_mask_dw = _Depthwise(channels, size)
        self.offset_mask = _zeros(channels, self._how.value.packed_planes)
        if not self.without_pointwise:
            self.value_proj = _projection(channels)
            self.output_proj = _projection(channels, output_bias)
        if self.center_feature_scale:
            self._add_scale()

    def forward(self, input: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """Return [N, H * W, C] of an input of that shape; `shape` is (H, W), None: equal sides."""
        images = _as_images(input, shape, self.offset_mask.weight, self._width)
        x = images if self.without_pointwise else self.value_proj(images)
        features = images
        if self.dw_kernel_size is not None:
            features = self.offset_mask_dw(images.transpose([0, 3, 1, 2])).transpose([0, 2, 3, 1])
        out = _aggregate_in_layer(x, self.offset_mask(features), how=self._how)
        out = _reshape_as(self._mix(out, x, out), input)
        return out if self.without_pointwise else self.output_proj(out)
