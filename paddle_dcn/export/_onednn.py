"""Tells and rewrites what ends a predictor of Paddle 3.3 with oneDNN, its default on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle import Tensor
from paddle.nn import functional

from .._checks import dtype_name
from . import _forms
from ._programs import Program, kind, replace, where

ADVICE = "a predictor on the CPU needs config.disable_mkldnn(): with oneDNN it may fail at"

_CONVOLUTIONS = ("conv2d", "depthwise_conv2d")


def refused(program: Program) -> list[str]:
    """Return what of a program a predictor of Paddle 3.3 with oneDNN may fail or crash at."""
    found = [operator for operator in program.operators if _refused(operator)]
    return [f"{operator.name().partition('.')[2]}{where(operator)}" for operator in found]


def _refused(operator: Any) -> bool:
    name = operator.name()
    if name in _forms.OPERATORS:
        return _forms.read(operator)[0].attributes.data_format == "NHWC"
    if name == "pd_op.leaky_relu":  # which it fuses into a convolution
        source = operator
        while kind(source) in ("leaky_relu", "batch_norm", "add"):
            source = source.operand_source(0).get_defining_op()
        return kind(source) in _CONVOLUTIONS
    if kind(operator) in _CONVOLUTIONS:
        return dtype_name(operator.result(0).dtype) == "float64" or _crashes(operator)
    if kind(operator) == "add":
        return _adds_number(*operator.operands_source())
    if kind(operator) == "batch_norm":
        return not all(each.initialized() for each in operator.operands_source())
    return name in ("pd_op.nearest_interp", "pd_op.bilinear_interp")


def _crashes(operator: Any) -> bool:
    """Whether a convolution may be one that ends the process, in oneDNN 3.6.

    Of kernels that are one column wide, and dilated nonetheless, it has no code for columns of
    padding if there are no others: if the stride leaps over the image. With strides and dilations
    that leave 32 bits together with the padding it reads anywhere.
    """
    x, weight = operator.operands_source()[:2]
    attributes = operator.attrs()
    strides, dilations = attributes["strides"], attributes["dilations"]
    padding = attributes["paddings"]
    left, right = padding[2:] if len(padding) == 4 else [padding[1]] * 2
    if max(strides + dilations) + max(padding) >= 2**31:
        return True
    if weight.shape[3] != 1 or dilations[1] == 1 or attributes["padding_algorithm"] != "EXPLICIT":
        return False
    first = -left % strides[1]  # the column with which an output begins that is not left of x
    width = x.shape[attributes["data_format"].index("W")]
    width = first if width < 0 else width
    return 0 < width <= first < width + right


def rewrite(program: Program) -> None:
    """Rewrite each operator of a program that has a rule here which applies to it."""
    with program.building():
        for operator in program.operators:
            rule = _RULES.get(operator.name().removesuffix("_"))  # also in place
            if rule is not None:
                tensors = [
                    each if each.initialized() else None for each in operator.operands_source()
                ]
                replace(operator, lambda rule=rule, t=tensors, o=operator: rule(*t, **o.attrs()))


def _leaky_relu(x: Tensor, *, negative_slope: float, **_: Any) -> Tensor | None:
    """Where it is taken into a convolution, its slope is read as a float32, which it is not.

    oneDNN takes none in float64, for which a constant would be too coarse.
    """
    if x.dtype == paddle.float64:
        return None
    return functional.prelu(x, paddle.full([1], negative_slope, x.dtype))


def _nearest_interp(
    x: Tensor,
    *sizes: Any,
    scale: Sequence[float],
    out_h: int,
    out_w: int,
    align_corners: bool,
    data_format: str,
    **_: Any,
) -> Tensor | None:
    """That of oneDNN fails, as its scale is a list of float64.

    Pixel i of the result is pixel floor(i / factor), in float32: exact for powers of two.
    """
    if not _is_image(x, sizes, data_format) or align_corners:
        return None
    if not scale and min(x.shape[2:]) > 0:
        scale = [out / size for out, size in zip((out_h, out_w), x.shape[2:])]
    if not scale or not {*scale} <= {2.0**power for power in range(8)}:
        return None
    down, across = map(int, scale)
    batch, channels, height, width = x.shape
    if min(channels, height, width) > 0:
        return _repeat(x, width, down, across).reshape(
            [batch, channels, down * height, across * width]
        )
    x = x.unsqueeze([3, 5]).expand([-1, -1, -1, down, -1, across])
    return x.flatten(2, 3).flatten(3, 4)


def _expand(x: Tensor, sizes: Any, **_: Any) -> Tensor | None:
    """[..., 1, width, 1] to [..., down, width, across], as the repetition of pixels is written."""
    maker = sizes.get_defining_op()
    if maker.name() != "pd_op.full_int_array" or len(x.shape) != len(maker.attrs()["value"]):
        return None
    wanted = [old if new < 0 else new for old, new in zip(x.shape, maker.attrs()["value"])]
    grown = [i - len(wanted) for i, (a, b) in enumerate(zip(x.shape, wanted)) if a != b]
    if grown != [-3, -1] or min(wanted[1:]) <= 0:
        return None
    _, down, width, across = wanted[-4:]
    return _repeat(x, width, down, across).reshape(wanted)


def _repeat(x: Tensor, width: int, down: int, across: int) -> Tensor:
    """Repeat pixels, then rows: Paddle's expansion of both at once takes two times as long."""
    rows = x.reshape([-1, 1]).expand([-1, across]).reshape([-1, 1, across * width])
    return rows.expand([-1, down, across * width])


def _bilinear_interp(
    x: Tensor,
    *sizes: Any,
    scale: Sequence[float],
    out_h: int,
    out_w: int,
    align_corners: bool,
    align_mode: int,
    data_format: str,
    **_: Any,
) -> Tensor | None:
    """That of oneDNN fails as well. It has no trilinear one, here of an image of depth 1."""
    if not _is_image(x, sizes, data_format):
        return None
    size = {"scale_factor": [1.0, *scale]} if scale else {"size": [1, out_h, out_w]}
    x = functional.interpolate(
        x.unsqueeze(2),
        **size,
        mode="trilinear",
        align_corners=align_corners,
        align_mode=align_mode,
        data_format="NCDHW",
    )
    return x.squeeze(2)


def _is_image(x: Tensor, sizes: Sequence[Any], data_format: str) -> bool:
    """Return whether an interpolation is of [N, C, H, W] to a size that no tensor tells."""
    return len(x.shape) == 4 and data_format == "NCHW" and all(each is None for each in sizes)


def _add(x: Tensor, y: Tensor, **_: Any) -> Tensor | None:
    """It takes a parameter behind a convolution for the bias of each channel, one number too."""
    if not _adds_number(x, y) or x.get_defining_op().attrs()["data_format"] != "NCHW":
        return None
    return x + y.expand([1, x.shape[1], 1, 1])


def _adds_number(x: Tensor, y: Tensor) -> bool:
    """Return whether a sum is of a convolution and a parameter of one axis and element."""
    parameter = kind(y.get_defining_op()) == "parameter"
    return parameter and y.shape == [1] and kind(x.get_defining_op()) in _CONVOLUTIONS


def _batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    epsilon: float,
    data_format: str,
    is_test: bool,
    use_global_stats: bool,
    **_: Any,
) -> Tensor | None:
    """It reads weight and bias, whether there are any or not."""
    if (weight is not None and bias is not None) or not (is_test or use_global_stats):
        return None
    weight = paddle.ones(mean.shape, mean.dtype) if weight is None else weight
    bias = paddle.zeros(mean.shape, mean.dtype) if bias is None else bias
    return functional.batch_norm(
        x, mean, variance, weight, bias, epsilon=epsilon, data_format=data_format
    )


_RULES: dict[str, Callable[..., Tensor | None]] = {
    "pd_op.add": _add,
    "pd_op.batch_norm": _batch_norm,
    "pd_op.bilinear_interp": _bilinear_interp,
    "pd_op.expand": _expand,
    "pd_op.leaky_relu": _leaky_relu,
    "pd_op.nearest_interp": _nearest_interp,
}
