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
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import Tensor, nn

from . import _checks, _to_static
from ._watch import Closing, Watch

_to_static.skip(__file__)

_IMAGES, _PIXELS = 8, 1024  # of a batch and of all its maps, that are looked at for each call
_NEAR = 0.05  # to 0 or 1


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
        self._seen: dict[str, list[Tensor]] = {}  # since the last step
        self._centres: dict[Any, tuple[Tensor, Tensor]] = {}
        self._warned: set[str] = set()
        self._steps = 0
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
        self.statistics = {}
        if self._seen:
            # One copy from the device for all layers.
            found = paddle.stack([each for calls in self._seen.values() for each in calls]).numpy()
            ends = np.cumsum([len(calls) for calls in self._seen.values()])
            for name, calls in zip(self._seen, np.split(found, ends[:-1])):
                values = [*map(float, calls.mean(axis=0))]
                values[1] = float(calls[:, 1].max())
                self.statistics[name] = Statistics(*values)
        for write in self._writers:
            write(self._steps, self.statistics)
        for name, found in self.statistics.items():
            self._warn(name, found)
        self._steps += 1
        self._seen.clear()
        return self.statistics

    def discard(self) -> None:
        """Forget the calls since the last step, such as those of an evaluation."""
        self._seen.clear()

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
            "of what predicts its offsets, or bound them by max_offset",
            stacklevel=3,
        )

    @paddle.no_grad()
    def _see(self, name: str, call: _checks.Call) -> None:
        if not call.offset.size:
            return
        images = -(-call.offset.shape[0] // _IMAGES)
        height, width = call.offset.shape[2:]
        looked_at = -(-call.offset.shape[0] // images) * height * width
        apart = math.ceil(math.sqrt(looked_at / _PIXELS))

        def thin(planes: Tensor) -> Tensor:
            """Planes of the images and pixels that are looked at."""
            planes = planes.detach()
            if images > 1 or apart > 1:
                planes = planes[::images, :, ::apart, ::apart]
            return planes.astype("float32")

        planes = thin(call.offset)
        scale, shift = self._to_edges(call, planes.shape[2:], apart)
        offset = planes.reshape([planes.shape[0], -1, *shift.shape[2:]])
        lengths = offset.square().sum(axis=3).sqrt()
        # From -1 to 1 lies what has a neighbour inside the input.
        outside = (offset * scale + shift).abs().max(axis=3) >= 1
        values = [lengths.mean(), lengths.max(), outside.astype("float32").mean()]
        if call.mask is None:
            values += [paddle.full([], math.nan, "float32")] * 2
        else:
            mask = thin(call.mask)
            near = paddle.stack([mask < _NEAR, mask > 1 - _NEAR]).astype("float32")
            values += [*near.mean(axis=[1, 2, 3, 4])]
        self._seen.setdefault(name, []).append(paddle.stack(values))

    def _to_edges(self, call: _checks.Call, size: list[int], apart: int) -> tuple[Tensor, Tensor]:
        """What maps the offsets of pixels `apart` from each other to -1 .. 1 inside the input.

        Returns:
            A factor [1, 1, 1, 2, 1, 1] and what is added then, [1, 1, taps, 2, h, w].
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
            shift = np.moveaxis((regular + 1) / half - 1, -1, 1)[None, None]
            factor = (1 / half).reshape(1, 1, 1, 2, 1, 1)
            self._centres[key] = tuple(
                paddle.to_tensor(each.astype("float32"), place=call.offset.place)
                for each in (factor, shift)
            )
        return self._centres[key]


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
    a program in their place. Of each call, up to some 1000 evenly spaced output pixels are looked
    at, so that a step takes little longer.

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
    file = stack.enter_context(open(path, "w", newline="", buffering=1, encoding="utf-8"))
    writer = csv.writer(file)
    writer.writerow(["step", "layer", *Statistics._fields])

    def write(step: int, statistics: dict[str, Statistics]) -> None:
        writer.writerows([step, name, *values] for name, values in statistics.items())

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
