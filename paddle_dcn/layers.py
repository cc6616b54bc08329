"""Layers: `DeformConv2D`, and the two that predict their own offsets."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Sequence
from typing import Any

import paddle
from paddle import Tensor, nn

from . import _checks
from ._to_static import Constant, opaque
from .functional import amp_dtype, convolve


@opaque
def _convolve(*tensors: Tensor | None, attributes: Constant) -> Tensor:
    return convolve(*tensors, attributes.value)


@opaque
def check_input(
    x: Tensor, weight: Tensor, attributes: Constant, names: _checks.Names = _checks.OUR_NAMES
) -> None:
    """Check the input of a layer before it predicts its sampling.

    Paddle's convolution does not, and its kernels can even corrupt memory. Sizes that a program
    leaves open, as to_static(full_graph=False) does with one that has changed, are not known here:
    of wrong channels Paddle's convolution tells then.
    """
    _checks.check_input(x, weight, attributes.value, amp_dtype(), _checks.Names(*names))


@opaque
def _conv2d(x: Tensor, weight: Tensor, bias: Tensor, attributes: Constant) -> Tensor:
    """Convolve in float32 at least: half types are too coarse for positions of pixels.

    On the CPU Paddle has no convolution of half types, either.
    """
    attributes = attributes.value
    if _checks.dtype_name(weight.dtype) in ("float16", "bfloat16"):
        x, weight, bias = (tensor.astype("float32") for tensor in (x, weight, bias))
    return nn.functional.conv2d(
        x,
        weight,
        bias,
        attributes.stride,
        list(attributes.padding),
        attributes.dilation,
        data_format=attributes.data_format,
    )


class OffsetConv2D(nn.Conv2D):
    """The convolution, zero at first, that predicts the sampling of a layer.

    It has `planes_per_tap` channels for each tap of each deformable group.
    """

    def __init__(
        self,
        arguments: _checks.LayerArguments,
        attributes: _checks.Attributes,
        planes_per_tap: int,
    ) -> None:
        """Create the parameters, for the layer with these arguments."""
        zero = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
        super().__init__(
            arguments.in_channels,
            planes_per_tap * _taps(arguments, attributes),
            arguments.kernel_size,
            attributes.stride,
            list(attributes.padding),
            attributes.dilation,
            weight_attr=zero,
            bias_attr=zero,
            data_format=attributes.data_format,
        )
        self._constant = Constant(attributes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the planes that are predicted for x, in float32 if the layer has a half type."""
        return _conv2d(x, self.weight, self.bias, self._constant)


def _taps(arguments: _checks.LayerArguments, attributes: _checks.Attributes) -> int:
    return attributes.deformable_groups * math.prod(arguments.kernel_size)


def count_offsets(arguments: _checks.LayerArguments, attributes: _checks.Attributes) -> Constant:
    """Return how many planes are offsets, which shapes do not tell where a program is open."""
    return Constant(2 * _taps(arguments, attributes))


@opaque
def cut_planes(planes: Tensor, offsets: Constant) -> tuple[Tensor, Tensor]:
    """Return the offset and the mask that predicted planes hold in mmcv's order."""
    count = offsets.value
    return planes[:, :count], nn.functional.sigmoid(planes[:, count:])


@opaque
def _bound(offset: Tensor, limit: Constant) -> Tensor:
    """Keep offsets below a limit; those near 0 stay what they are."""
    return offset if limit.value is None else paddle.tanh(offset / limit.value) * limit.value


class DeformConv2D(nn.Layer):
    """Deformable convolution with parameters of its own; offsets (and mask) are inputs.

    Up to the `*` a drop-in for `paddle.vision.ops.DeformConv2D`, with the same initial values and
    state-dict keys, `weight` and `bias`. v1 (arXiv 1703.06211) where forward gets no mask, v2
    (arXiv 1811.11168) where it does.

    Args:
        in_channels: C, the channels of x.
        out_channels: M, the channels of the result.
        kernel_size: kh and kw: an int, or (kh, kw).
        stride: Step between output pixels in pixels of x: an int, or (height, width).
        padding: Rows and columns of zeros around x: an int, (height, width), or (top, bottom,
            left, right).
        dilation: Distance of neighbouring taps in pixels of x: an int, or (height, width).
        deformable_groups: Groups of channels of x that have offsets (and masks) of their own.
        groups: Groups of channels as in a grouped convolution.
        weight_attr: Paddle's attribute of the weight, [M, C / groups, kh, kw]; initial values are
            `Normal(0, sqrt(2 / (kh * kw * C)))` unless it says otherwise.
        bias_attr: Paddle's attribute of the bias, [M]; zeros unless it says otherwise. False: no
            bias.
        im2col_step: See `paddle_dcn.deform_conv2d`.
        data_format: `"NCHW"` or `"NHWC"`, the layout of x and of the result. Offset and mask are
            [N, channels, Ho, Wo] in both.

    Raises:
        TypeError: an argument that is no int.
        ValueError: a value out of its range, groups or deformable_groups that do not divide the
            channels. Both name the argument, its value and what was expected.

    Examples:
        >>> import paddle
        >>> from paddle_dcn import DeformConv2D
        >>> layer = DeformConv2D(1, 16, 3)
        >>> x = paddle.rand([8, 1, 28, 28])
        >>> offset = paddle.rand([8, 2 * 3 * 3, 26, 26])
        >>> mask = paddle.rand([8, 3 * 3, 26, 26])
        >>> list(layer(x, offset, mask).shape)
        [8, 16, 26, 26]
        >>> sorted(layer.state_dict())
        ['bias', 'weight']

    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        deformable_groups: int = 1,
        groups: int = 1,
        weight_attr: Any = None,
        bias_attr: Any = None,
        *,
        im2col_step: int | None = None,
        data_format: str = "NCHW",
    ) -> None:
        """Create the parameters; see the class."""
        super().__init__()
        attributes = _checks.check_attributes(
            stride, padding, dilation, groups, deformable_groups, im2col_step, data_format
        )
        arguments = _checks.check_layer(
            in_channels, out_channels, kernel_size, attributes, weight_attr
        )
        _checks.check_attr("bias_attr", bias_attr)
        self._arguments, self._attributes = arguments, attributes
        self._constant = Constant(attributes)
        kernel_h, kernel_w = arguments.kernel_size
        std = math.sqrt(2 / (kernel_h * kernel_w * arguments.in_channels))
        self.weight = self.create_parameter(
            shape=[
                arguments.out_channels,
                arguments.in_channels // attributes.groups,
                kernel_h,
                kernel_w,
            ],
            attr=weight_attr,
            default_initializer=nn.initializer.Normal(0.0, std),
        )
        self.bias = self.create_parameter(
            shape=[arguments.out_channels], attr=bias_attr, is_bias=True
        )

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `paddle_dcn.deform_conv2d` of x with this layer's parameters."""
        return _convolve(x, offset, mask, self.weight, self.bias, attributes=self._constant)

    def extra_repr(self) -> str:
        """Return the constructor's arguments, those at their default left out."""
        values = {**self._arguments._asdict(), **self._attributes._asdict()}
        defaults = self._attributes._field_defaults
        shown = [
            f"{name}={values[name]!r}"
            for name in inspect.signature(DeformConv2D).parameters
            if name in values and values[name] != defaults.get(name)
        ]
        if self.bias is None:
            shown.append("bias_attr=False")
        return ", ".join(shown)


class _Pack(DeformConv2D):
    """A deformable convolution with a convolution `conv_offset` that predicts its sampling."""

    _planes_per_tap: int  # channels of conv_offset for each tap of each deformable group

    @functools.wraps(DeformConv2D.__init__)
    def __init__(self, *args: Any, max_offset: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if max_offset is not None:
            max_offset = _checks.check_number("max_offset", max_offset, positive=True)
        self._max_offset = Constant(max_offset)
        self._offsets = count_offsets(self._arguments, self._attributes)
        self.conv_offset = OffsetConv2D(self._arguments, self._attributes, self._planes_per_tap)

    def _predict(self, x: Tensor) -> Tensor:
        """Return conv_offset's result as [N, channels, Ho, Wo], the layout of offset and mask."""
        check_input(x, self.weight, self._constant)
        planes = self.conv_offset(x)
        return planes.transpose([0, 3, 1, 2]) if self._attributes.data_format == "NHWC" else planes

    def extra_repr(self) -> str:
        """Return the constructor's arguments, those at their default left out."""
        shown, bound = super().extra_repr(), self._max_offset.value
        return shown if bound is None else f"{shown}, max_offset={bound:g}"

    _parameters_of_init = [
        *inspect.signature(DeformConv2D.__init__).parameters.values(),
        inspect.Parameter("max_offset", inspect.Parameter.KEYWORD_ONLY, default=None),
    ]
    __init__.__signature__ = inspect.Signature(_parameters_of_init)
    del _parameters_of_init


class DeformConv2DPack(_Pack):
    """Deformable convolution v1 that predicts its own offsets.

    The offsets come from `conv_offset`, an ordinary convolution of x with the same kernel size,
    stride, padding and dilation, without groups. It starts at zero, so the layer starts as a plain
    convolution. Parameters have the names they have in mmcv's `DeformConv2dPack`: `weight`,
    `conv_offset.weight`, `conv_offset.bias`, besides `bias`.

    Takes the arguments of `DeformConv2D` and raises what that raises; forward takes x alone. Of
    its own it has

    Args:
        max_offset: A bound, in pixels, for offsets that grow without limit in training: `max_offset
            * tanh(offset / max_offset)` takes the place of what `conv_offset` gives. None: no
            bound.

    Examples:
        >>> import paddle
        >>> from paddle_dcn import DeformConv2DPack
        >>> layer = DeformConv2DPack(8, 16, 3, stride=2, padding=1, deformable_groups=2)
        >>> list(layer(paddle.rand([2, 8, 14, 14])).shape)
        [2, 16, 7, 7]

    """

    _planes_per_tap = 2

    def forward(self, x: Tensor) -> Tensor:
        """Return the deformable convolution of x, [N, C, H, W] or [N, H, W, C]."""
        return super().forward(x, _bound(self._predict(x), self._max_offset))


class ModulatedDeformConv2DPack(_Pack):
    """Deformable convolution v2 that predicts its own offsets and mask.

    As `DeformConv2DPack`, with a third of the channels of `conv_offset` for the mask: the first
    `2 * deformable_groups * kh * kw` are the offset, the sigmoid of the others is the mask (mmcv's
    order in `ModulatedDeformConv2dPack`). It starts at zero, so the layer starts as half a plain
    convolution plus the bias.

    Takes the arguments of `DeformConv2DPack` and raises what that raises; forward takes x alone.

    Examples:
        >>> import paddle
        >>> from paddle_dcn import ModulatedDeformConv2DPack
        >>> layer = ModulatedDeformConv2DPack(8, 16, 3, padding=1)
        >>> x = paddle.rand([2, 8, 14, 14])
        >>> half = paddle.nn.functional.conv2d(x, layer.weight / 2, layer.bias, padding=1)
        >>> bool(paddle.allclose(layer(x), half, atol=1e-5))
        True

    """

    _planes_per_tap = 3

    def forward(self, x: Tensor) -> Tensor:
        """Return the deformable convolution of x, [N, C, H, W] or [N, H, W, C]."""
        offset, mask = cut_planes(self._predict(x), self._offsets)
        return super().forward(x, _bound(offset, self._max_offset), mask)
