"""Rewrites what ends a predictor of Paddle 3.3 with oneDNN, its default on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle import Tensor
from paddle.nn import functional

from ._programs import Program, replace


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
    x = x.unsqueeze([3, 5]).expand([-1, -1, -1, down, -1, across])
    return x.flatten(2, 3).flatten(3, 4)


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


_RULES: dict[str, Callable[..., Tensor | None]] = {
    "pd_op.bilinear_interp": _bilinear_interp,
    "pd_op.leaky_relu": _leaky_relu,
    "pd_op.nearest_interp": _nearest_interp,
}
