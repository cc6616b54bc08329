"""The oracle: deformable convolution written with plain, differentiable Paddle operations."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor
from paddle.nn import functional

from ._checks import Attributes, check_attributes, check_call, check_name, reject
from ._to_static import opaque


def _sizes(tensor: Tensor) -> list[int | Tensor]:
    """Return the shape, with a tensor for each size but the first that a program leaves open."""
    sizes = list(tensor.shape)
    for axis in range(1, len(sizes)):
        if sizes[axis] < 0:
            sizes[axis] = paddle.shape(tensor)[axis].astype("int64")
    return sizes


def _number(size: int | Tensor, like: Tensor) -> int | Tensor:
    """Return a size to calculate with beside a tensor."""
    return size if isinstance(size, int) else size.astype(like.dtype)


def _grid(
    taps: Sequence[int], outputs: Sequence[int], attributes: Attributes, dtype: str
) -> tuple[Tensor, Tensor]:
    """Where every tap samples before its offset is added: y and x, each [kh * kw, Ho, Wo]."""
    axes = [paddle.arange(size, dtype=dtype) for size in (*taps, *outputs)]
    tap_y, tap_x, row, column = paddle.meshgrid(*axes)
    (stride_h, stride_w), (dilation_h, dilation_w) = attributes.stride, attributes.dilation
    y_at = row * stride_h - attributes.padding[0] + tap_y * dilation_h
    x_at = column * stride_w - attributes.padding[2] + tap_x * dilation_w
    shape = [taps[0] * taps[1], *outputs]
    return y_at.reshape(shape), x_at.reshape(shape)


def _sample(x: Tensor, y_at: Tensor, x_at: Tensor, inside: Tensor) -> Tensor:
    """Bilinear samples [N, dg, kh * kw, Ho, Wo, C / dg] of x [N, C, H, W], zero around the image.

    A sample that is not inside is moved to (H, W), where all four corners lie in the zero border:
    it reads nothing of the image, and `where` keeps every gradient from its true coordinate.
    """
    batch, channels, height, width = _sizes(x)
    deformable_groups = y_at.shape[1]
    group_channels = channels // deformable_groups
    y_at = paddle.where(inside, y_at, paddle.zeros_like(y_at) + _number(height, y_at))
    x_at = paddle.where(inside, x_at, paddle.zeros_like(x_at) + _number(width, x_at))
    top, left = paddle.floor(y_at).detach(), paddle.floor(x_at).detach()
    down, right = (y_at - top).unsqueeze(-1), (x_at - left).unsqueeze(-1)

    # Corners reach from -1 to H + 1, so a border of one row before and two after holds them all.
    rows, columns = height + 3, width + 3
    planes = functional.pad(x, [1, 2, 1, 2])
    planes = planes.reshape([batch, deformable_groups, group_channels, rows, columns])
    pixels = planes.transpose([0, 1, 3, 4, 2]).reshape([-1, group_channels])
    plane = paddle.arange(paddle.shape(x)[0] * deformable_groups, dtype="int64")
    plane = plane.reshape([batch, deformable_groups, 1, 1, 1])
    corner = (plane * rows + top.astype("int64") + 1) * columns + left.astype("int64") + 1

    def pixel(step_down: int, step_right: int) -> Tensor:
        index = (corner + (step_down * columns + step_right)).flatten()
        return paddle.gather(pixels, index).reshape([*_sizes(y_at), group_channels])

    upper = (1 - right) * pixel(0, 0) + right * pixel(0, 1)
    lower = (1 - right) * pixel(1, 0) + right * pixel(1, 1)
    return (1 - down) * upper + down * lower


def _convolve(columns: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Product [N, M, Ho, Wo] of columns [N, dg, kh * kw, Ho, Wo, C / dg] with the weight."""
    batch, deformable_groups, taps, out_h, out_w, group_channels = _sizes(columns)
    depth = deformable_groups * group_channels // groups * taps
    out_channels = weight.shape[0]
    columns = columns.transpose([0, 3, 4, 1, 5, 2])  # pixels; then channels and taps
    columns = columns.reshape([-1, groups, depth]).transpose([1, 0, 2])
    weight = weight.reshape([groups, out_channels // groups, depth]).transpose([0, 2, 1])
    out = paddle.bmm(columns, weight)
    out = out.reshape([groups, batch, out_h, out_w, out_channels // groups])
    return out.transpose([1, 0, 4, 2, 3]).reshape([batch, out_channels, out_h, out_w])


@opaque
def deform_conv2d_reference(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    deformable_groups: int = 1,
    groups: int = 1,
    mask: Tensor | None = None,
    name: str | None = None,
    *,
    im2col_step: int | None = None,
    data_format: str = "NCHW",
) -> Tensor:
    """Compute what :func:`paddle_dcn.deform_conv2d` computes, with plain Paddle operations.

    This is the oracle that the operator is tested against: short, slow, and differentiated
    automatically. It holds the samples of the whole batch, N * C * kh * kw * Ho * Wo values, in
    memory several times.

    Arguments, shapes, result and errors are those of :func:`paddle_dcn.deform_conv2d`, on any
    device; in a static program N, H and W may be open. It computes in float64 if ``x`` is
    float64, in float32 otherwise, and rounds the result to the dtype of ``x``. ``im2col_step`` and
    ``name`` are checked and not used.

    Its gradients follow the same rules: at integer coordinates the offset gradient is that of the
    cell which starts there; a sample at or beyond -1, H or W, or at a NaN or infinite coordinate,
    contributes 0 to the output and to every gradient.

    References:
        Deformable Convolutional Networks, https://arxiv.org/abs/1703.06211 (v1);
        Deformable ConvNets v2, https://arxiv.org/abs/1811.11168.

    Examples:
        >>> import paddle
        >>> from paddle_dcn import deform_conv2d_reference
        >>> x = paddle.rand([8, 1, 28, 28], dtype="float64")
        >>> offset = paddle.randn([8, 2 * 3 * 3, 26, 26], dtype="float64")
        >>> weight = paddle.randn([16, 1, 3, 3], dtype="float64")
        >>> tuple(deform_conv2d_reference(x, offset, weight).shape)
        (8, 16, 26, 26)

    """
    check_name(name)
    attributes = check_attributes(
        stride, padding, dilation, groups, deformable_groups, im2col_step, data_format
    )
    x, offset, mask, weight, bias, _ = check_call(x, offset, mask, weight, bias, attributes)
    channels = x.shape[1 if data_format == "NCHW" else 3]
    for argument, sizes in {"x": [channels], "weight": weight.shape}.items():
        if -1 in sizes:
            reject(ValueError, argument, "known channels and kernel", [*sizes])

    dtype = x.dtype
    wide = "float64" if dtype == paddle.float64 else "float32"
    x, weight = x.astype(wide), weight.astype(wide)
    if attributes.data_format == "NHWC":
        x = x.transpose([0, 3, 1, 2])
    batch, _, height, width = _sizes(x)
    taps, outputs = weight.shape[2:], _sizes(offset)[2:]

    tap_shape = [batch, attributes.deformable_groups, taps[0] * taps[1]]
    offset = offset.astype(wide).reshape([*tap_shape, 2, *outputs])
    y_at, x_at = _grid(taps, outputs, attributes, wide)
    y_at, x_at = y_at + offset[:, :, :, 0], x_at + offset[:, :, :, 1]
    # Comparisons with NaN are false, so a NaN or infinite coordinate is not inside.
    inside = (y_at > -1) & (y_at < _number(height, y_at))
    inside = inside & (x_at > -1) & (x_at < _number(width, x_at))
    columns = _sample(x, y_at, x_at, inside)
    if mask is not None:
        mask = mask.astype(wide).reshape([*tap_shape, *outputs])
        # A sample that is not inside contributes 0 whatever its mask value is.
        columns = columns * paddle.where(inside, mask, paddle.zeros_like(mask)).unsqueeze(-1)

    out = _convolve(columns, weight, attributes.groups)
    if bias is not None:
        out = out + bias.astype(wide).reshape([1, -1, 1, 1])
    if attributes.data_format == "NHWC":
        out = out.transpose([0, 2, 3, 1])
    return out.astype(dtype)
