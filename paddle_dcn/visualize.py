"""Shows where deformable convolutions sample and what they look at: as arrays and as pictures.

Drawing needs matplotlib (`pip install 'paddle_dcn[visualize]'`), the rest of this module does not.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import paddle
from paddle import Tensor, nn

from . import _checks
from ._watch import Watch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REGULAR = "#4c78a8"  # the grid of a plain convolution
_DEFORMED = ("#e4572e", "#2a9d4e", "#8e44ad", "#d4a017")  # the samples, a colour for each point
_OUTSIDE = (0.1, 0.15, 0.4)  # seen on black and on white
_DIVISIONS = 32  # of an image's longer side: cells that are kept or left out, arrows that are drawn
_TINY = 1e-30  # in place of a divisor of 0
_VISIBLE = 0.01  # samples of less of the largest strength are not drawn


class Sampling(NamedTuple):
    """How one layer samples its input, for one image; the arguments are the layer's own.

    Attributes:
        offset: [deformable_groups * 2 * kh * kw, Ho, Wo], in pixels of the layer's input.
        mask: [deformable_groups * kh * kw, Ho, Wo]; None where all factors are 1.
        kernel_size: An int, or (kh, kw).
        stride: An int, or (height, width).
        padding: An int, (height, width), or (top, bottom, left, right).
        dilation: An int, or (height, width).
        input_size: (height, width) of the layer's input; None where it is not known.
    """

    offset: Tensor | np.ndarray
    mask: Tensor | np.ndarray | None = None
    kernel_size: int | Sequence[int] = 3
    stride: int | Sequence[int] = 1
    padding: int | Sequence[int] = 0
    dilation: int | Sequence[int] = 1
    input_size: Sequence[int] | None = None

    @property
    def geometry(self) -> tuple:
        """Kernel size, stride, padding and dilation."""
        return self.kernel_size, self.stride, self.padding, self.dilation

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
        points = _positions(_interpolate(offset, at), at, *sampling.geometry)  # [dg, taps, K, 2]
        weight = (_interpolate(mask, at) * weight).reshape(-1)
        at = points.reshape(-1, 2)
    return at, weight


def trace(model: nn.Layer, image: Tensor) -> list[Sampling]:
    """Run a model on one image and return how its deformable convolutions sampled.

    Call `model.eval()` before, unless statistics of a single image are wanted.

    Args:
        model: Any layer in dynamic mode. All deformable convolutions inside are recorded: layers
            and functions of this package, its adapters (`paddle_dcn.compat`), and Paddle's own
            under `paddle_dcn.patch()`.
        image: What the model takes, without the batch axis.

    Returns:
        One `Sampling` for each call of a deformable convolution, in the order of the calls.

    Examples:
        >>> import paddle
        >>> from paddle_dcn import DeformConv2DPack
        >>> from paddle_dcn.visualize import trace
        >>> (sampling,) = trace(DeformConv2DPack(3, 8, 3, padding=1), paddle.rand([3, 28, 28]))
        >>> sampling.offset.shape, sampling.padding
        ((18, 28, 28), (1, 1, 1, 1))
    """
    found: list[Sampling] = []

    def record(_: str, call: _checks.Call) -> None:
        found.append(_sampling(call))

    with Watch(model, record), paddle.no_grad():
        model(image.unsqueeze(0))
    return found


def _sampling(call: _checks.Call) -> Sampling:
    """Return how a call samples its first image."""
    offset, mask = (None if each is None else _array(each[0]) for each in (call.offset, call.mask))
    kernel = tuple(call.weight.shape[2:])
    stride, padding, dilation, *_ = call.attributes
    last = call.attributes.data_format == "NHWC"
    size = tuple(call.x.shape[1:3] if last else call.x.shape[2:])
    return Sampling(offset, mask, kernel, stride, padding, dilation, size)


class EffectiveSamples(NamedTuple):
    """The samples of one deformable convolution, and how much a response depends on each.

    Attributes:
        layer: The name of the layer that made the call, "" for the model itself.
        points: float64 [deformable_groups, kh * kw, Ho, Wo, 2] of y and x, in pixels of the image.
        strength: float64 [deformable_groups, kh * kw, Ho, Wo]: the length of the response's
            gradient with respect to the sample's position, in units of the response for each
            pixel of the layer's input.
    """

    layer: str
    points: np.ndarray
    strength: np.ndarray


def effective_receptive_field(
    model: nn.Layer,
    image: Tensor,
    position: Sequence[int],
    *,
    layer: str | None = None,
    data_format: str = "NCHW",
    axes: Axes | None = None,
) -> np.ndarray:
    """How much each pixel of an image changes a response: the effective receptive field.

    The magnitude of the gradient of the response with respect to the pixel, summed over the
    image's channels. The response is the sum of what `position` names, so the gradient that is
    sent backward is 1 there and 0 elsewhere, as in the definition of Luo et al. 2016
    (arXiv 1701.04128, section 2). The paper of v2 (arXiv 1811.11168, section 2.1) compares plain
    and deformable networks by it.

    Args:
        model: Any layer in dynamic mode that takes one image. Call `model.eval()` before.
        image: [C, H, W], what the model takes without the batch axis; [H, W, C] with
            `data_format="NHWC"`.
        position: Where the response is looked at. Of a map: (row, column), all channels, or
            (channel, row, column). Of a vector: () for all of it, or (index,).
        layer: The sublayer whose output is the response, by its name in
            `model.named_sublayers()`; the model's own output where None.
        data_format: `"NCHW"` or `"NHWC"`, the layout of the image and of the response.
        axes: Where to draw it, over the image; not drawn where None.

    Returns:
        float64 [H, W].

    Raises:
        ImportError: `axes` is given and matplotlib is not installed.
        IndexError: a position outside the response.
        TypeError: the image or the response is no tensor.
        ValueError: an image without three axes, no such layer, a position with another number of
            axes, or a response that is no [1, C, Ho, Wo] or [1, K].

    Examples:
        >>> import paddle
        >>> from paddle_dcn.visualize import effective_receptive_field
        >>> model = paddle.nn.Sequential(paddle.nn.Conv2D(3, 8, 3), paddle.nn.Conv2D(8, 8, 3))
        >>> field = effective_receptive_field(model, paddle.rand([3, 9, 9]), (2, 2))
        >>> rows, columns = field.nonzero()
        >>> sorted({*rows.tolist()}), sorted({*columns.tolist()})  # 5x5 around pixel (4, 4)
        ([2, 3, 4, 5, 6], [2, 3, 4, 5, 6])
    """
    _check_image(image, data_format)
    with paddle.enable_grad():
        x = _leaf(image.unsqueeze(0))
        response = _respond(model, x, position, layer, data_format)
        (gradient,) = paddle.grad(response.sum(), x, allow_unused=True)
    if gradient is None:
        gradient = paddle.zeros_like(x)
    field = np.abs(_planes(gradient[0], data_format)).sum(axis=0)
    if axes is not None:
        _show(_picture(image, data_format), axes)
        # The square root makes the faint outer part of the field visible, whose decay is Gaussian.
        strength = np.sqrt(_share_of_largest(field))
        axes.imshow(strength, cmap="inferno", alpha=np.clip(2 * strength, 0, 0.9))
    return field


def effective_sampling_locations(
    model: nn.Layer,
    image: Tensor,
    position: Sequence[int],
    *,
    layer: str | None = None,
    data_format: str = "NCHW",
    axes: Axes | None = None,
) -> list[EffectiveSamples]:
    """How much a response depends on where each sample lies: effective sampling locations.

    The length of the gradient of the response with respect to the position of a sample, as section
    2.1 of the paper of v2 (arXiv 1811.11168) defines it. A sample has none where it contributes
    nothing, or where features around it are even.

    Args:
        model: As in `effective_receptive_field`, with deformable convolutions as in `trace`.
        image: As in `effective_receptive_field`.
        position: As in `effective_receptive_field`.
        layer: As in `effective_receptive_field`.
        data_format: As in `effective_receptive_field`.
        axes: Where to draw the samples over the image, in a colour for each call, size and opacity
            by their strength within it; not drawn where None.

    Returns:
        One `EffectiveSamples` for each call of a deformable convolution, in the order of the calls.
        Positions are scaled to the image by its size over that of the layer's input.

    Raises:
        ImportError: as `effective_receptive_field`, and so are the others.
        IndexError: a position outside the response.
        TypeError: the image or the response is no tensor.
        ValueError: no such layer, or an image, position or response of another number of axes.

    Examples:
        >>> import paddle
        >>> from paddle_dcn import DeformConv2DPack
        >>> from paddle_dcn.visualize import effective_sampling_locations
        >>> model = DeformConv2DPack(3, 8, 3)
        >>> (samples,) = effective_sampling_locations(model, paddle.rand([3, 9, 9]), (2, 4))
        >>> used = samples.strength[0].sum(axis=0)  # of the 9 taps together
        >>> used.nonzero()[0].tolist(), used.nonzero()[1].tolist()
        ([2], [4])
    """
    _check_image(image, data_format)
    calls: list[tuple[str, _checks.Call]] = []

    def record(name: str, call: _checks.Call) -> _checks.Call:
        # A tensor of this call alone: an offset may be a constant, or shared by several.
        offset = paddle.assign(call.offset)
        offset.stop_gradient = False
        calls.append((name, call._replace(offset=offset)))
        return calls[-1][1]

    with Watch(model, record), paddle.enable_grad():
        response = _respond(model, image.unsqueeze(0), position, layer, data_format)
        offsets = [call.offset for _, call in calls]
        gradients = paddle.grad(response.sum(), offsets, allow_unused=True) if offsets else []
    size = np.array(_planes(image, data_format).shape[1:])
    found = []
    for (name, call), gradient in zip(calls, gradients):
        sampling = _sampling(call)
        points = sampling_points(sampling.offset, *sampling.geometry)
        scale = size / np.array(sampling.input_size)
        if gradient is None:
            gradient = paddle.zeros_like(call.offset)
        along = _sampling(call._replace(offset=gradient)).offset
        along = along.reshape(*points.shape[:2], 2, *points.shape[2:4])
        found.append(
            EffectiveSamples(name, points * scale, np.hypot(along[:, :, 0], along[:, :, 1]))
        )
    if axes is not None:
        _show(_picture(image, data_format), axes)
        for number, samples in enumerate(found):
            strength = _share_of_largest(samples.strength)
            chosen = strength > _VISIBLE
            y, x = samples.points[chosen].T
            colour = _DEFORMED[number % len(_DEFORMED)]
            look = {**_disc(strength[chosen], (3, 40), 0.2), "lw": 0}
            axes.scatter([], [], color=colour, label=samples.layer or "samples")  # for a legend
            axes.scatter(x, y, color=colour, zorder=3, **look)
    return found


def error_bounded_saliency(
    model: nn.Layer,
    image: Tensor,
    position: Sequence[int],
    bound: float = 0.1,
    *,
    layer: str | None = None,
    data_format: str = "NCHW",
    fill: float = 0.0,
    cell: int | None = None,
    steps: int = 200,
    axes: Axes | None = None,
) -> tuple[np.ndarray, float]:
    """Find the smallest part of an image that alone gives the same response, within a bound.

    The error-bounded saliency region of the paper of v2 (arXiv 1811.11168, section 2.1 and its
    appendix): of everything outside of it, a node does not depend by more than the bound. Here
    the error is `|f(masked) - f(image)| / |f(image)|`, lengths of the vectors of all that
    `position` names. Soft masks, a factor for each cell, are found by Adam on `mean(mask) +
    multiplier * error ** 2 / bound ** 2`; the multiplier grows while the error is above the bound
    and shrinks while it is below. Cells are then ranked by their masks, and bisection takes as few
    of them as keep the error of the sharp region within the bound.

    The region is small, not proven smallest: the search is local. A progress bar is shown on a
    terminal that has tqdm.

    Args:
        model: As in `effective_receptive_field`. Its parameters stay as they are.
        image: As in `effective_receptive_field`.
        position: As in `effective_receptive_field`.
        bound: The largest error allowed, above 0.
        layer: As in `effective_receptive_field`.
        data_format: As in `effective_receptive_field`.
        fill: The value of pixels that are left out.
        cell: The side, in pixels, of the squares that are kept or left out as one; where None, a
            32nd of the longer side.
        steps: Steps of Adam, each a forward and a backward pass.
        axes: Where to draw the image with everything outside the region darkened; not drawn where
            None.

    Returns:
        The region, bool [H, W], and its error.

    Raises:
        ImportError: as `effective_receptive_field`, and so are the others.
        IndexError: a position outside the response.
        TypeError: the image or the response is no tensor, or an argument is no number.
        ValueError: a value out of its range, no such layer, an image, position or response of
            another number of axes, or a response of 0, to which no error is relative.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.visualize import error_bounded_saliency
        >>> model = paddle.nn.Conv2D(3, 8, 3)
        >>> region, error = error_bounded_saliency(model, paddle.rand([3, 9, 9]), (2, 4), 0.01)
        >>> error <= 0.01
        True
    """
    _check_image(image, data_format)
    _checks.check_number("bound", bound, positive=True)
    height, width = _planes(image, data_format).shape[1:]
    cell = -(-max(height, width) // _DIVISIONS) if cell is None else _checks.check_int("cell", cell)
    steps = _checks.check_int("steps", steps)
    x = image.unsqueeze(0).detach()
    with paddle.no_grad():
        wanted = _respond(model, x, position, layer, data_format).astype("float32")
        norm = float(wanted.norm())
    if not 0 < norm < math.inf:
        raise ValueError(f"position: expected a finite response other than 0, got one of {norm}")

    def error_squared(mask: Tensor) -> Tensor:
        """The square of the error where each cell is multiplied by its mask."""
        spread = mask.repeat_interleave(cell, 0).repeat_interleave(cell, 1)[:height, :width]
        spread = spread.astype(x.dtype).unsqueeze(-1 if data_format == "NHWC" else 0)
        found = _respond(model, fill + (x - fill) * spread, position, layer, data_format)
        return ((found.astype("float32") - wanted) / norm).square().sum()

    mask = paddle.create_parameter(
        [-(-height // cell), -(-width // cell)],
        "float32",
        default_initializer=nn.initializer.Constant(1.0),
    )
    rate, growth = 0.05, 1.05  # of Adam; of the multiplier in a step
    adam = paddle.optimizer.Adam(rate, parameters=[mask])
    multiplier, total = 1.0, np.zeros(mask.shape)
    for step in _progress(range(steps), "saliency"):
        with paddle.enable_grad():
            error = error_squared(mask)
            loss = mask.mean() + multiplier * error / bound**2
            # Of the mask alone, so that the model's parameters get no gradients.
            (mask.grad,) = paddle.grad(loss, mask)
        adam.step()
        mask.set_value(mask.detach().clip(0, 1))
        multiplier *= growth if float(error) > bound**2 else 1 / growth
        if 2 * step >= steps:  # it swings around the bound, so its mean tells more than its end
            total += mask.numpy()

    order = np.argsort(-total, axis=None, kind="stable")

    def keep(count: int) -> np.ndarray:
        kept = np.zeros(total.size, "float32")
        kept[order[:count]] = 1
        return kept.reshape(total.shape)

    @paddle.no_grad()
    def error_of(count: int) -> float:
        return math.sqrt(float(error_squared(paddle.to_tensor(keep(count)))))

    few, enough, error = -1, total.size, error_of(total.size)
    while enough - few > 1:
        middle = (few + enough) // 2
        found = error_of(middle)
        if found <= bound:
            enough, error = middle, found
        else:
            few = middle
    region = keep(enough).repeat(cell, 0).repeat(cell, 1)[:height, :width] > 0
    if axes is not None:
        _show(_picture(image, data_format), axes, strength=1.0)
        axes.imshow(np.full([height, width, 3], _OUTSIDE), alpha=0.75 * ~region)
    return region, error


def offset_field(
    sampling: Sampling,
    image: Tensor | np.ndarray | None = None,
    *,
    scale: float | Sequence[float] | None = None,
    axes: Axes | None = None,
) -> np.ndarray:
    """Where to the samples of each output pixel move together: the mean of their offsets.

    An object's motion or shape shows in it, as in the offsets that align the frames of a video
    (EDVR, arXiv 1905.02716); what the taps do against each other, such as growing apart, does not.

    Args:
        sampling: The layer's offsets and arguments, from `trace` or made by hand.
        image: [H, W], in grey, or [H, W, 3], drawn below; None draws on what the axes already
            show.
        scale: Pixels of the image for each pixel of the layer's input, or (height, width); by
            default the image's size over that of the input, or 1 where either is not known.
        axes: Where to draw an arrow for each output pixel (for every second, third, ... of large
            maps), from the middle of its regular grid to where it moves, coloured by its length;
            not drawn where None.

    Returns:
        float64 [Ho, Wo, 2] of y and x, in pixels of the layer's input: the mean over taps and
        deformable groups, weighted by the mask where there is one.

    Raises:
        ImportError: `axes` is given and matplotlib is not installed.
        TypeError: an argument of a wrong kind.
        ValueError: as `sampling_points`.

    Examples:
        >>> import numpy as np
        >>> from paddle_dcn.visualize import Sampling, offset_field
        >>> offset = np.zeros([18, 4, 4])
        >>> offset[0::2] = 1.5  # every tap moves down
        >>> offset_field(Sampling(offset, padding=1))[2, 3].tolist()
        [1.5, 0.0]
    """
    offset, mask = _arrays(sampling)
    regular = sampling_points(np.zeros_like(offset), *sampling.geometry)
    moved = sampling_points(offset, *sampling.geometry) - regular
    weight = np.abs(mask).reshape(*moved.shape[:4], 1)
    # Where all masks are 0 nothing is sampled, and nothing moves.
    field = (moved * weight).sum(axis=(0, 1)) / np.maximum(weight.sum(axis=(0, 1)), _TINY)
    if axes is not None:
        axes = _show(image, axes)
        scale = _scale(scale, axes, sampling.input_size)
        step = -(-max(field.shape[:2]) // _DIVISIONS)
        y, x = np.moveaxis(regular.mean(axis=(0, 1))[::step, ::step] * scale, -1, 0)
        down, right = np.moveaxis(field[::step, ::step] * scale, -1, 0)
        lengths = {"angles": "xy", "scale_units": "xy", "scale": 1, "cmap": "plasma"}
        arrows = axes.quiver(x, y, right, down, np.hypot(down, right), **lengths, width=0.004)
        axes.figure.colorbar(arrows, ax=axes, label="mean displacement, pixels", shrink=0.8)
    return field


def plot_sampling_points(
    image: Tensor | np.ndarray | None,
    sampling: Sampling,
    points: Iterable[tuple[int, int]],
    *,
    scale: float | Sequence[float] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw where chosen output pixels of one layer sample, over an image.

    Each output pixel has a colour of its own and a cross at the middle of its regular grid. Hollow
    squares are the grid of a plain convolution; a line leads from each to its deformed sample, a
    disc whose size and opacity follow the mask. `axes.legend()` names them.

    Args:
        image: [H, W], in grey, or [H, W, 3]; None draws on what the axes already show.
        sampling: The layer's offsets, mask and arguments, from `trace` or made by hand.
        points: Output pixels of the layer, (row, column).
        scale: Pixels of the image for each pixel of the layer's input, the product of the strides
            that lie in between, or (height, width) of them; by default the image's size over that
            of the input, or 1 where either is not known.
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
    scale = _scale(scale, axes, sampling.input_size)
    deformed = sampling_points(offset, *sampling.geometry) * scale
    regular = sampling_points(np.zeros_like(offset), *sampling.geometry) * scale
    for number, (row, column) in enumerate(points):
        colour = _DEFORMED[number % len(_DEFORMED)]
        start, end = (p[:, :, row, column].reshape(-1, 2) for p in (regular, deformed))
        strength = np.clip(mask[:, row, column], 0, 1)
        axes.plot(*np.stack([start, end]).T[::-1].swapaxes(1, 2), color=colour, lw=0.8, alpha=0.5)
        style = {**_disc(strength, (6, 40), 0.25), "color": colour}
        _draw(axes, start, end, style, number == 0)
    return axes


def plot_receptive_field(
    image: Tensor | np.ndarray | None,
    samplings: Sequence[Sampling],
    point: tuple[int, int],
    *,
    scale: float | Sequence[float] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw where an output pixel of a stack of layers finally samples, over an image.

    Hollow squares are the positions that plain convolutions would reach, discs those of the
    deformable ones, their size and opacity following their weight. See `receptive_field`.

    Args:
        image: [H, W], in grey, or [H, W, 3]; None draws on what the axes already show.
        samplings: The layers from the image to the output, each taking the previous one's output.
        point: The output pixel of the last layer, (row, column).
        scale: Pixels of the image for each pixel of the first layer's input, or (height, width);
            by default the image's size over that of the input, or 1 where either is not known.
        axes: Where to draw; the current axes where None.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: an argument of a wrong kind.
        ValueError: as `sampling_points`.
    """
    axes = _show(image, axes)
    deformed, weight = receptive_field(samplings, point)
    regular, _ = receptive_field([sampling.regular() for sampling in samplings], point)
    scale = _scale(scale, axes, samplings[0].input_size if samplings else None)
    regular = np.unique(regular, axis=0) * scale
    strength = np.clip(_share_of_largest(weight), 0, 1)
    style = {**_disc(strength, (3, 15), 0.15), "color": _DEFORMED[0]}
    _draw(axes, regular, deformed * scale, style, True)
    return axes


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    """A float64 array of a tensor of any dtype, or of anything NumPy understands."""
    if isinstance(values, Tensor):
        values = values.detach().astype("float64").numpy()
    return np.asarray(values, np.float64)


def _share_of_largest(values: np.ndarray) -> np.ndarray:
    """Values over the largest of them; 0 where all are 0."""
    return values / max(values.max(initial=0), _TINY)


def _disc(strength: np.ndarray, areas: tuple[float, float], faintest: float) -> dict[str, Any]:
    """How matplotlib draws samples by their strength: areas in square points, and opacity."""
    least, most = areas
    return {
        "s": least + (most - least) * strength,
        "alpha": faintest + (1 - faintest) * strength,
    }


def _arrays(sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """Offset and mask of a sampling as arrays, a mask of ones where it has none."""
    if not isinstance(sampling, Sampling):
        kind = type(sampling).__name__
        raise TypeError(f"sampling: expected a Sampling, as trace returns them, got {kind}")
    offset = _array(sampling.offset)
    if offset.ndim != 3:
        raise ValueError(f"offset: expected [channels, Ho, Wo], got {offset.ndim}-D")
    shape = (offset.shape[0] // 2, *offset.shape[1:])
    mask = np.ones(shape) if sampling.mask is None else _array(sampling.mask)
    if mask.shape != shape:
        raise ValueError(f"mask: expected {[*shape]} (half the offset), got {[*mask.shape]}")
    return offset, mask


def _scale(scale: Any, axes: Axes, input_size: Sequence[int] | None) -> np.ndarray | float:
    """Pixels of the image shown for each pixel of a layer's input: as given, or (y, x) by sizes."""
    if isinstance(scale, (list, tuple, np.ndarray)) and np.shape(scale) == (2,):
        return np.array([_checks.check_number("scale", each, positive=True) for each in scale])
    if scale is not None:
        return _checks.check_number("scale", scale, positive=True)
    if input_size is None or not axes.images:
        return 1.0
    return np.array(axes.images[-1].get_size()) / np.array(input_size)


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


def _leaf(tensor: Tensor) -> Tensor:
    """A tensor of the same values of which gradients can be asked."""
    tensor = tensor.detach()
    tensor.stop_gradient = False
    return tensor


def _respond(
    model: nn.Layer, x: Tensor, position: Sequence[int], layer: str | None, data_format: str
) -> Tensor:
    """What a model, or a layer inside of it, makes of one image at a position: [K]."""
    if layer is None:
        response = model(x)
    else:
        layers = dict(model.named_sublayers())
        if layer not in layers:
            close = ", ".join(difflib.get_close_matches(layer, layers)) or "none like it"
            raise ValueError(f"layer: expected the name of a sublayer, got {layer!r} ({close})")
        seen: list[Any] = []
        hook = layers[layer].register_forward_post_hook(lambda *io: seen.append(io[2]))
        try:
            model(x)
        finally:
            hook.remove()
        if not seen:
            raise ValueError(f"layer: expected one that runs, got {layer!r}, which does not")
        response = seen[-1]
    if not isinstance(response, Tensor):
        kind = type(response).__name__
        raise TypeError(f"model: expected a tensor as the response, got {kind}; name a layer")
    if response.ndim not in (2, 4) or response.shape[0] != 1:
        expected = "a response [1, C, Ho, Wo] or [1, K]"
        raise ValueError(f"model: expected {expected}, got {[*response.shape]}; name a layer")
    response = response[0]
    if data_format == "NHWC" and response.ndim == 3:
        response = response.transpose([2, 0, 1])
    where = [_checks.integer(index) for index in position]
    if None in where or response.ndim - len(where) not in (0, 1):
        expected = f"{response.ndim - 1} or {response.ndim} ints"
        raise ValueError(f"position: expected {expected}, got {position}")
    bounds = response.shape[response.ndim - len(where) :]
    if not all(0 <= index < size for index, size in zip(where, bounds)):
        raise IndexError(f"position: expected one inside {[*bounds]}, got {position}")
    return response[(slice(None), *where) if len(where) < response.ndim else tuple(where)].flatten()


def _check_image(image: Any, data_format: Any) -> None:
    """Check an image before a model gets it."""
    last = _checks.check_data_format(data_format) == "NHWC"
    _checks.check_shape("image", image, "[H, W, C]" if last else "[C, H, W]")


def _planes(image: Tensor, data_format: str) -> np.ndarray:
    """An image as a float64 array [C, H, W]."""
    planes = _array(image)
    return np.moveaxis(planes, -1, 0) if data_format == "NHWC" else planes


def _picture(image: Tensor, data_format: str) -> np.ndarray:
    """An image as matplotlib takes it: [H, W, 3] from 0 to 1, grey unless it has 3 channels."""
    planes = _planes(image, data_format)
    planes = planes - planes.min()
    planes = _share_of_largest(planes)
    if len(planes) != 3:
        planes = planes.mean(axis=0, keepdims=True).repeat(3, axis=0)
    return np.moveaxis(planes, 0, -1)


def _progress(steps: range, name: str) -> Iterable[int]:
    """Show a progress bar, on a terminal that has tqdm."""
    try:
        from tqdm import tqdm
    except ImportError:
        return steps
    return tqdm(steps, desc=name, unit="step", leave=False, disable=None)


def _show(image: Tensor | np.ndarray | None, axes: Axes | None, strength: float = 0.45) -> Axes:
    """Return the axes, with the image drawn and the view kept to it, or to what they show."""
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
        axes.imshow(image, cmap="gray", alpha=strength, interpolation="bilinear")
        axes.set(xticks=[], yticks=[])
    elif not axes.has_data():  # the view is that of what comes, laid as an image is
        axes.set(aspect="equal")
        axes.yaxis.set_inverted(True)
        return axes
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
