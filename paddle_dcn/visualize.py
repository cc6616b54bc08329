"""Shows where deformable convolutions sample: the positions as arrays, and pictures of them.

Drawing needs matplotlib, the rest of this module does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import numpy as np
import paddle
from paddle import Tensor, nn

from . import _checks
from .layers import DeformConv2D

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REGULAR = "#4c78a8"  # the grid of a plain convolution
_DEFORMED = ("#e4572e", "#2a9d4e", "#8e44ad", "#d4a017")  # the samples, a colour for each point


class Sampling(NamedTuple):
    """How one layer samples its input, for one image; the arguments are the layer's own.

    Attributes:
        offset: [deformable_groups * 2 * kh * kw, Ho, Wo], in pixels of the layer's input.
        mask: [deformable_groups * kh * kw, Ho, Wo]; None where all factors are 1.
        kernel_size: An int, or (kh, kw).
        stride: An int, or (height, width).
        padding: An int, (height, width), or (top, bottom, left, right).
        dilation: An int, or (height, width).
    """

    offset: Tensor | np.ndarray
    mask: Tensor | np.ndarray | None = None
    kernel_size: int | Sequence[int] = 3
    stride: int | Sequence[int] = 1
    padding: int | Sequence[int] = 0
    dilation: int | Sequence[int] = 1

    def regular(self) -> Sampling:
        """Return the same layer as a plain convolution: offsets 0 and no mask."""
        return self._replace(offset=np.zeros(self.offset.shape), mask=None)


def sampling_points(
    offset: Tensor | np.ndarray,
    kernel_size: int | Sequence[int] = 3,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
) -> np.ndarray:
    """Where a deformable convolution samples: absolute positions from relative offsets.

    Output pixel (i, j) and tap (kh, kw) sample at `(i * stride_h - pad_top + kh * dilation_h + dy,
    j * stride_w - pad_left + kw * dilation_w + dx)`; whole numbers are pixel centres, (0, 0) the
    first pixel's.

    Args:
        offset: [..., deformable_groups * 2 * kh * kw, Ho, Wo], in pixels; with or without a batch.
        kernel_size: An int, or (kh, kw).
        stride: An int, or (height, width).
        padding: An int, (height, width), or (top, bottom, left, right).
        dilation: An int, or (height, width).

    Returns:
        float64 array [..., deformable_groups, kh * kw, Ho, Wo, 2] of y and x, in pixels of the
        layer's input.

    Raises:
        TypeError: an argument of a wrong kind.
        ValueError: a value out of its range, or channels of offset that no number of deformable
            groups explains.

    Examples:
        >>> import numpy as np
        >>> from paddle_dcn.visualize import sampling_points
        >>> points = sampling_points(np.zeros([18, 4, 4]), stride=2, padding=1)
        >>> points.shape
        (1, 9, 4, 4, 2)
        >>> points[0, :, 1, 0].tolist()[:4]
        [[1.0, -1.0], [1.0, 0.0], [1.0, 1.0], [2.0, -1.0]]
    """
    offset = _array(offset)
    if offset.ndim < 3:
        raise ValueError(f"offset: expected [..., channels, Ho, Wo], got {offset.ndim}-D")
    *batch, channels, out_h, out_w = offset.shape
    count = math.prod(batch)
    at = np.indices((count, out_h, out_w)).reshape(3, -1)[1:].T
    planes = offset.reshape(count, channels, out_h * out_w).swapaxes(0, 1)
    planes = planes.reshape(channels, len(at))
    points = _positions(planes, at, kernel_size, stride, padding, dilation)
    points = points.reshape(*points.shape[:2], count, out_h, out_w, 2)
    return np.moveaxis(points, 2, 0).reshape(*batch, *points.shape[:2], out_h, out_w, 2)


def receptive_field(
    samplings: Sequence[Sampling], point: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Where an output pixel of a stack of layers finally samples the input of the first.

    Follows the taps of the last layer into its input, from each the taps of the layer before it,
    and so on, as figure 5 of arXiv 1703.06211 does: three 3x3 layers give 729 positions. Between
    pixels, offsets and mask are interpolated, as the operator interpolates the features there.

    Args:
        samplings: The layers from the image to the output, each taking the previous one's output.
            A plain convolution among them has offsets of 0.
        point: The output pixel of the last layer, (row, column).

    Returns:
        The positions, float64 [K, 2] of y and x in pixels of the first layer's input, and their
        weights, float64 [K]: the product of the masks passed on the way, and of the shares of the
        samples that lie inside the feature maps in between.

    Raises:
        TypeError: an argument of a wrong kind.
        ValueError: as `sampling_points`.
    """
    at = np.array([point], np.float64)
    weight = np.ones(1)
    for sampling in reversed(samplings):
        offset, mask = _arrays(sampling)
        # The zeros around this layer's output hold nothing that could be followed further.
        share = np.clip(np.minimum(at + 1, offset.shape[1:] - at), 0, 1).prod(axis=1)
        at, weight = at[share > 0], (weight * share)[share > 0]
        points = _positions(_interpolate(offset, at), at, *sampling[2:])  # [dg, taps, K, 2]
        weight = (_interpolate(mask, at) * weight).reshape(-1)
        at = points.reshape(-1, 2)
    return at, weight


def trace(model: nn.Layer, image: Tensor) -> list[Sampling]:
    """Run a model on one image and return how its deformable layers sampled.

    Call `model.eval()` before, unless statistics of a single image are wanted.

    Args:
        model: Any layer in dynamic mode; its `DeformConv2D` layers, packs included, are recorded.
        image: What the model takes, without the batch axis.

    Returns:
        One `Sampling` for each call of a deformable layer, in the order of the calls.

    Examples:
        >>> import paddle
        >>> from paddle_dcn import DeformConv2DPack
        >>> from paddle_dcn.visualize import trace
        >>> (sampling,) = trace(DeformConv2DPack(3, 8, 3, padding=1), paddle.rand([3, 28, 28]))
        >>> sampling.offset.shape, sampling.padding
        ((18, 28, 28), (1, 1, 1, 1))
    """
    members = {id(layer) for layer in model.sublayers(include_self=True)}
    found: list[Sampling] = []
    forward = DeformConv2D.forward

    def record(layer: DeformConv2D, x: Tensor, offset: Tensor, mask: Tensor | None = None):
        if id(layer) in members:
            kept = [None if tensor is None else _array(tensor[0]) for tensor in (offset, mask)]
            stride, padding, dilation, *_ = layer._attributes
            kernel_size = layer._arguments.kernel_size
            found.append(Sampling(*kept, kernel_size, stride, padding, dilation))
        return forward(layer, x, offset, mask)

    with mock.patch.object(DeformConv2D, "forward", record), paddle.no_grad():
        model(image.unsqueeze(0))
    return found


def plot_sampling_points(
    image: Tensor | np.ndarray | None,
    sampling: Sampling,
    points: Iterable[tuple[int, int]],
    *,
    scale: float = 1.0,
    axes: Axes | None = None,
) -> Axes:
    """Draw where chosen output pixels of one layer sample, over an image.

    Each output pixel has a colour of its own and a cross at the middle of its regular grid. Hollow
    squares are the grid of a plain convolution; a line leads from each to its deformed sample, a
    disc whose size and opacity follow the mask. `axes.legend()` names them.

    Args:
        image: [H, W] or [H, W, 3]; None draws on what the axes already show.
        sampling: The layer's offsets, mask and arguments, from `trace` or made by hand.
        points: Output pixels of the layer, (row, column).
        scale: Pixels of the image for each pixel of the layer's input: the product of the strides
            that lie in between.
        axes: Where to draw; the current axes where None.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
        IndexError: a point outside the output.
        TypeError: an argument of a wrong kind.
        ValueError: as `sampling_points`.
    """
    axes = _show(image, axes)
    offset, mask = _arrays(sampling)
    deformed = sampling_points(offset, *sampling[2:]) * scale
    regular = sampling_points(np.zeros_like(offset), *sampling[2:]) * scale
    for number, (row, column) in enumerate(points):
        colour = _DEFORMED[number % len(_DEFORMED)]
        start, end = (p[:, :, row, column].reshape(-1, 2) for p in (regular, deformed))
        strength = np.clip(mask[:, row, column], 0, 1)
        axes.plot(*np.stack([start, end]).T[::-1].swapaxes(1, 2), color=colour, lw=0.8, alpha=0.5)
        style = {"s": 6 + 34 * strength, "color": colour, "alpha": 0.25 + 0.75 * strength}
        _draw(axes, start, end, style, number == 0)
    return axes


def plot_receptive_field(
    image: Tensor | np.ndarray | None,
    samplings: Sequence[Sampling],
    point: tuple[int, int],
    *,
    scale: float = 1.0,
    axes: Axes | None = None,
) -> Axes:
    """Draw where an output pixel of a stack of layers finally samples, over an image.

    Hollow squares are the positions that plain convolutions would reach, discs those of the
    deformable ones, their size and opacity following their weight. See `receptive_field`.

    Args:
        image: [H, W] or [H, W, 3]; None draws on what the axes already show.
        samplings: The layers from the image to the output, each taking the previous one's output.
        point: The output pixel of the last layer, (row, column).
        scale: Pixels of the image for each pixel of the first layer's input.
        axes: Where to draw; the current axes where None.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: an argument of a wrong kind.
        ValueError: as `sampling_points`.
    """
    axes = _show(image, axes)
    regular, _ = receptive_field([sampling.regular() for sampling in samplings], point)
    regular = np.unique(regular, axis=0) * scale
    deformed, weight = receptive_field(samplings, point)
    strength = np.clip(weight / max(weight.max(initial=0), 1e-30), 0, 1)
    style = {"s": 3 + 12 * strength, "color": _DEFORMED[0], "alpha": 0.15 + 0.85 * strength}
    _draw(axes, regular, deformed * scale, style, True)
    return axes


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    """A float64 array of a tensor of any dtype, or of anything NumPy understands."""
    if isinstance(values, Tensor):
        values = values.detach().astype("float64").numpy()
    return np.asarray(values, np.float64)


def _arrays(sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """Offset and mask of a sampling as arrays, a mask of ones where it has none."""
    offset = _array(sampling.offset)
    if offset.ndim != 3:
        raise ValueError(f"offset: expected [channels, Ho, Wo], got {offset.ndim}-D")
    shape = (offset.shape[0] // 2, *offset.shape[1:])
    mask = np.ones(shape) if sampling.mask is None else _array(sampling.mask)
    if mask.shape != shape:
        raise ValueError(f"mask: expected {[*shape]} (half the offset), got {[*mask.shape]}")
    return offset, mask


def _positions(
    planes: np.ndarray,
    at: np.ndarray,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
) -> np.ndarray:
    """Samples [dg, kh * kw, K, 2] of output positions `at` [K, 2].

    `planes` [dg * 2 * kh * kw, K] are the offsets there.
    """
    kernel_h, kernel_w = _checks.check_pair("kernel_size", kernel_size)
    layer = _checks.check_attributes(stride, padding, dilation, 1, 1)
    channels, taps = len(planes), kernel_h * kernel_w
    if channels == 0 or channels % (2 * taps):
        raise ValueError(
            f"offset: expected a multiple of {2 * taps} channels (2 * kernel "
            f"{kernel_h}x{kernel_w}), got {channels}"
        )
    corner = at * layer.stride - np.array(layer.padding[::2])
    tap = np.array(list(np.ndindex(kernel_h, kernel_w))) * layer.dilation
    offsets = planes.reshape(channels // taps // 2, taps, 2, len(at)).swapaxes(2, 3)
    return corner + tap[:, None] + offsets


def _interpolate(planes: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Bilinear values [P, K] of planes [P, H, W] at positions [K, 2], the edges continued."""
    last = np.array(planes.shape[1:]) - 1
    at = np.clip(at, 0, last)
    low = np.floor(at).astype(np.int64)
    (top, left), (bottom, right) = low.T, np.minimum(low + 1, last).T
    down, aside = (at - low).T
    upper = (1 - aside) * planes[:, top, left] + aside * planes[:, top, right]
    lower = (1 - aside) * planes[:, bottom, left] + aside * planes[:, bottom, right]
    return (1 - down) * upper + down * lower


def _show(image: Tensor | np.ndarray | None, axes: Axes | None) -> Axes:
    """Return the axes, with the image drawn and the view kept to it."""
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError(
            "paddle_dcn.visualize needs matplotlib to draw: pip install matplotlib"
        ) from None
    axes = pyplot.gca() if axes is None else axes
    if image is not None:
        image = _array(image)
        # Paled, so that the points stand out.
        axes.imshow(image, cmap="gray_r", alpha=0.45, interpolation="bilinear")
        axes.set(xticks=[], yticks=[])
    axes.autoscale(False)
    return axes


def _draw(
    axes: Axes, regular: np.ndarray, deformed: np.ndarray, style: dict[str, Any], labelled: bool
) -> None:
    """Draw both sets of positions [K, 2] of y and x, and a cross at the middle of the regular."""
    squares = {"marker": "s", "s": 7, "facecolors": "none", "edgecolors": _REGULAR, "lw": 0.6}
    cross = {"marker": "+", "s": 80, "color": "black", "lw": 1.6}
    for positions, look, label in (
        (regular, squares, "plain grid"),
        (deformed, {"lw": 0, **style}, "deformable samples"),
        (regular.mean(axis=0)[None], cross, "output pixel"),
    ):
        label = label if labelled else None
        axes.scatter(positions[:, 1], positions[:, 0], zorder=3, label=label, **look)
