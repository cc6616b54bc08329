"""Watches offsets and masks while a model trains: `monitor`, and its callback for `paddle.Model`.

Offsets that explode are the most common trouble of training with deformable convolutions: samples
leave the image, where they are 0 and have no gradient that could bring them back.
"""

from __future__ import annotations

import contextlib
import csv
import math
import os
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import Tensor, nn

from . import _checks, _to_static
from ._watch import Closing, Watch

_to_static.skip(__file__)

_IMAGES, _PIXELS = 8, 512  # of a batch and of all its maps, that are looked at for each call
_NEAR = 0.05  # to 0 or 1
_WAITING = 64  # calls whose numbers are not made yet: on a GPU each would wait for the device


class Statistics(NamedTuple):
    """How one layer sampled in one step.

    Attributes:
        mean: The mean length of the displacements, in pixels of the layer's input.
        largest: The largest of them.
        outside: The share of the samples so far outside of the layer's input that they are 0.
        closed: The share of the mask's factors below 0.05; NaN without a mask.
        opened: The share of the mask's factors above 0.95; NaN without a mask.
    """

    mean: float
    largest: float
    outside: float
    closed: float
    opened: float


class _Seen(NamedTuple):
    """What is looked at of a call: offset and mask of some of its pixels, and what to make of it.

    `to_edges` is what `Monitor._to_edges` returns.
    """

    offset: np.ndarray | Tensor
    mask: np.ndarray | Tensor | None
    to_edges: tuple[np.ndarray, np.ndarray]


class Monitor(Closing):
    """What `monitor` returns.

    Attributes:
        statistics: The `Statistics` of the last step, by the layers' names.
    """

    def __init__(
        self, model: nn.Layer, limit: float, csv: str | os.PathLike | None, visualdl: str | None
    ) -> None:
        self.statistics: dict[str, Statistics] = {}
        self._limit = _checks.check_number("limit", limit, positive=True)
        self._seen: dict[str, list[_Seen | Statistics]] = {}  # since the last step
        self._centres: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
        self._warned: set[str] = set()
        self._steps = self._waiting = 0
        self._writers = []
        with contextlib.ExitStack() as opened:  # closes all if one of them cannot be opened
            if visualdl is not None:
                self._writers.append(_to_visualdl(opened, visualdl))
            if csv is not None:  # last, as it replaces a file
                self._writers.append(_to_csv(opened, csv))
            opened.enter_context(Watch(model, self._see))
            self._open = opened.pop_all()

    def step(self) -> dict[str, Statistics]:
        """End a step: return and write the statistics of the calls since the last one.

        A layer that was called more than once has the means over its calls, and the largest of its
        displacements.
        """
        self._count()
        self.statistics = {}
        for name, calls in self._seen.items():
            mean = Statistics(*[sum(values) / len(calls) for values in zip(*calls)])
            self.statistics[name] = mean._replace(largest=max(call.largest for call in calls))
        for write in self._writers:
            write(self._steps, self.statistics)
        for name, found in self.statistics.items():
            self._warn(name, found)
        self._steps += 1
        self.discard()
        return self.statistics

    def discard(self) -> None:
        """Forget the calls since the last step, such as those of an evaluation."""
        self._seen.clear()
        self._waiting = 0

    def close(self) -> None:
        """Watch no longer, and close what is written to."""
        self._open.close()

    def _warn(self, name: str, found: Statistics) -> None:
        if name in self._warned or found.mean <= self._limit:  # NaN is not
            return
        self._warned.add(name)
        warnings.warn(
            f"paddle_dcn.monitor: in step {self._steps} the samples of layer {name!r} are "
            f"displaced by {found.mean:.3g} pixels on average (limit {self._limit:g}), and "
            f"{100 * found.outside:.0f} % of them lie outside its input: lower the learning rate "
            "of what predicts its offsets, or bound them, as max_offset does in the packs",
            stacklevel=3,
        )

    def _see(self, name: str, call: _checks.Call) -> None:
        batch, _, *size = call.offset.shape
        if batch * math.prod(size) == 0:
            return
        images = -(-batch // _IMAGES)
        apart = math.ceil(math.sqrt(-(-batch // images) * math.prod(size) / _PIXELS))
        offset, mask = (
            None if planes is None else _thin(planes, images, apart)
            for planes in (call.offset, call.mask)
        )
        seen = _Seen(offset, mask, self._to_edges(call, offset.shape[2:], apart))
        self._seen.setdefault(name, []).append(seen)
        self._waiting += 1
        if self._waiting == _WAITING:
            self._count()

    def _count(self) -> None:
        """Make numbers of all calls that still wait for that."""
        self._waiting = 0
        for calls in self._seen.values():
            calls[:] = [_count(call) if isinstance(call, _Seen) else call for call in calls]

    def _to_edges(
        self, call: _checks.Call, size: Sequence[int], apart: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What maps the offsets of pixels `apart` from each other to -1 .. 1 inside the input.

        Returns:
            A factor [2, 1, 1], and what is added then, [taps, 2, h, w].
        """
        attributes = call.attributes
        last = attributes.data_format == "NHWC"
        extent = tuple(call.x.shape[1:3] if last else call.x.shape[2:])
        kernel = tuple(call.weight.shape[2:])
        key = (extent, kernel, *size, apart, attributes)
        if key not in self._centres:
            half = (np.array(extent) + 1) / 2
            at = np.indices(size).transpose(1, 2, 0) * apart * attributes.stride
            taps = np.array([*np.ndindex(*kernel)]) * attributes.dilation
            regular = at - np.array(attributes.padding[::2]) + taps[:, None, None]
            shift = np.moveaxis((regular + 1) / half - 1, -1, 1)
            factor = (1 / half).reshape(2, 1, 1)
            self._centres[key] = factor.astype("float32"), shift.astype("float32")
        return self._centres[key]


def _thin(planes: Tensor, images: int, apart: int) -> np.ndarray | Tensor:
    """A copy of the images and pixels that are looked at; on a GPU it stays there.

    NumPy makes it on the CPU: an operator of Paddle on some thousand values takes longer than that
    and all that follows.
    """
    planes = planes.detach()
    every = (slice(None, None, images), slice(None), *[slice(None, None, apart)] * 2)
    if not planes.place.is_cpu_place():
        return planes[every].clone()  # a slice of everything is no copy
    if planes.dtype == paddle.bfloat16:  # which NumPy does not have
        return planes[every].astype("float32").numpy()
    # Without a copy of it all, where Paddle can show it to NumPy.
    whole = np.from_dlpack(planes) if hasattr(planes, "__dlpack__") else planes.numpy()
    return whole[every].astype("float32")


def _count(seen: _Seen) -> Statistics:
    """Make numbers of a call."""
    offset, mask = (
        each.astype("float32").numpy() if isinstance(each, Tensor) else each
        for each in (seen.offset, seen.mask)
    )
    factor, shift = seen.to_edges
    with np.errstate(over="ignore", invalid="ignore"):
        offset = offset.reshape(len(offset), -1, *shift.shape)  # [N, groups, taps, 2, h, w]
        y, x = offset[:, :, :, 0], offset[:, :, :, 1]
        lengths = np.sqrt(y * y + x * x)
        # From -1 to 1 lies what has a neighbour inside the input.
        near = np.abs(offset * factor + shift) < 1
        inside = near[:, :, :, 0] & near[:, :, :, 1]
    closed = opened = math.nan
    if mask is not None:
        closed, opened = _share(mask < _NEAR), _share(mask > 1 - _NEAR)
    return Statistics(
        float(lengths.mean()), float(lengths.max()), 1 - _share(inside), closed, opened
    )


def _share(of: np.ndarray) -> float:
    """The share of True."""
    return int(np.count_nonzero(of)) / of.size


def monitor(
    model: nn.Layer,
    *,
    limit: float = 50.0,
    csv: str | os.PathLike | None = None,
    visualdl: str | None = None,
) -> Monitor:
    """Watch how far the deformable convolutions of a model displace their samples in training.

    Call `step()` of what is returned after each training step. All deformable convolutions in the
    model's forward are watched: layers and functions of this package, its adapters
    (`paddle_dcn.compat`), and Paddle's own under `paddle_dcn.patch()`; not while `to_static` runs
    a program in their place. Of each call, up to some 500 evenly spaced output pixels are looked
    at, so that a step takes little longer: about 0.6 ms for each layer.

    Args:
        model: The model, in dynamic mode.
        limit: Pixels of a layer's input. A layer whose mean displacement is above it, or not
            finite, is warned of, once. 50 is where BasicSR's EDVR warns, by the mean of `|dy|`
            and `|dx|`.
        csv: A file to write, with a line for each step and layer; one that is there is replaced.
        visualdl: A folder for VisualDL's logs, with a curve for each layer and number.

    Returns:
        A `Monitor`. `statistics` holds the numbers of the last step; `close()`, or the end of a
        `with` block, ends it.

    Raises:
        ImportError: `visualdl` is given and VisualDL is not installed.
        OSError: `csv` cannot be written.
        TypeError: limit is no number.
        ValueError: limit is not above 0.

    Examples:
        >>> import paddle, paddle_dcn
        >>> model = paddle.nn.Sequential(paddle_dcn.DeformConv2DPack(3, 8, 3, padding=1))
        >>> with paddle_dcn.monitor(model) as monitor:
        ...     out = model(paddle.rand([2, 3, 16, 16]))
        ...     found = monitor.step()
        >>> found["0"].mean, round(found["0"].outside, 3)
        (0.0, 0.082)
    """
    return Monitor(model, limit, csv, visualdl)


class MonitorCallback(paddle.callbacks.Callback):
    """A callback that monitors a `paddle.Model` while `fit` trains it.

    Takes the keyword arguments of `paddle_dcn.monitor`; every `fit` begins anew, its file too.

    Attributes:
        monitor: The `Monitor`, from the beginning of the training on.

    Examples:
        >>> import paddle
        >>> from paddle_dcn import DeformConv2DPack
        >>> from paddle_dcn.monitoring import MonitorCallback
        >>> network = paddle.nn.Sequential(DeformConv2DPack(1, 2, 3), paddle.nn.Flatten())
        >>> model = paddle.Model(network)
        >>> model.prepare(paddle.optimizer.SGD(parameters=model.parameters()), paddle.nn.MSELoss())
        >>> data = paddle.io.TensorDataset([paddle.rand([4, 1, 5, 5]), paddle.rand([4, 18])])
        >>> callback = MonitorCallback(limit=20)
        >>> model.fit(data, batch_size=2, epochs=1, verbose=0, callbacks=[callback])
        >>> sorted(callback.monitor.statistics)
        ['0']
    """

    def __init__(self, **options: Any) -> None:
        """Keep the arguments of `monitor`."""
        super().__init__()
        self.monitor: Monitor | None = None
        self._options = options

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Begin to watch."""
        self.monitor = monitor(self.model.network, **self._options)

    def on_train_batch_begin(self, step: int, logs: dict | None = None) -> None:
        """Leave out what ran between the steps."""
        self.monitor.discard()

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        """End a step."""
        self.monitor.step()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Watch no longer."""
        self.monitor.close()


def _to_csv(stack: contextlib.ExitStack, path: str | os.PathLike) -> Any:
    """Return what writes the lines of one step; files are closed with the stack."""
    file = stack.enter_context(open(path, "w", newline="", encoding="utf-8"))
    writer = csv.writer(file)
    writer.writerow(["step", "layer", *Statistics._fields])

    def write(step: int, statistics: dict[str, Statistics]) -> None:
        writer.writerows([step, name, *values] for name, values in statistics.items())
        file.flush()  # a step's lines are there when it has ended

    return write


def _to_visualdl(stack: contextlib.ExitStack, folder: str) -> Any:
    """Return what writes the curves of one step."""
    try:
        from visualdl import LogWriter
    except ImportError:
        raise ImportError(
            "paddle_dcn.monitor(visualdl=...) needs VisualDL: pip install visualdl"
        ) from None
    writer = LogWriter(logdir=folder)
    stack.callback(writer.close)

    def write(step: int, statistics: dict[str, Statistics]) -> None:
        for name, values in statistics.items():
            for field, value in values._asdict().items():
                if not math.isnan(value):
                    writer.add_scalar(f"{field}/{name or 'model'}", value, step)

    return write
