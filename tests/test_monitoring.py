"""Tests of monitor: numbers against NumPy, what is written and warned of, and what it watches."""

from __future__ import annotations

import copy
import csv
import math
import sys
import threading
import types
import warnings

import numpy as np
import paddle
import pytest
from paddle import nn

import paddle_dcn
from paddle_dcn import DeformConv2D, DeformConv2DPack, ModulatedDeformConv2DPack, compat, monitor
from paddle_dcn.monitoring import MonitorCallback, Statistics


class Given(nn.Layer):
    """A deformable layer whose offset and mask are given to the model."""

    def __init__(self, **arguments):
        super().__init__()
        self.inner = DeformConv2D(2, 3, 3, **arguments)

    def forward(self, x, offset, mask=None):
        return self.inner(x, offset, mask)


def expected(offset, mask, size, stride, padding, dilation, pick):
    """The statistics, a sample at a time, of the output pixels that are looked at."""
    images, channels, height, width = offset.shape
    lengths, outside = [], []
    for n, pair, i, j in np.ndindex(images, channels // 2, height, width):
        if n % pick[0] or i % pick[1] or j % pick[1]:
            continue
        dy, dx = offset[n, 2 * pair : 2 * pair + 2, i, j]
        tap = pair % 9
        y = i * stride - padding[0] + tap // 3 * dilation + dy
        x = j * stride - padding[2] + tap % 3 * dilation + dx
        lengths.append(math.hypot(dy, dx))
        outside.append(not (-1 < y < size[0] and -1 < x < size[1]))
    seen = mask[:: pick[0], :, :: pick[1], :: pick[1]] if mask is not None else np.float32(math.nan)
    shares = [(seen < 0.05).mean(), (seen > 0.95).mean()] if mask is not None else [math.nan] * 2
    return Statistics(np.mean(lengths), max(lengths), np.mean(outside), *shares)


@pytest.mark.parametrize(
    ("arguments", "batch", "size", "out", "pick"),
    [
        ({}, 1, (7, 9), (5, 7), (1, 1)),
        ({"stride": 2, "padding": (2, 1, 0, 3), "dilation": 2}, 3, (9, 8), (4, 4), (1, 1)),
        ({"data_format": "NHWC", "deformable_groups": 2}, 2, (6, 5), (4, 3), (1, 1)),
        ({"padding": 1}, 17, (20, 24), (20, 24), (3, 3)),
    ],
    ids=["plain", "attributes", "NHWC", "thinned"],
)
def test_numbers(arguments, batch, size, out, pick):
    rng = np.random.default_rng(0)
    groups = arguments.get("deformable_groups", 1)
    offset = rng.normal(0, 3, (batch, groups * 18, *out)).astype("float32")
    mask = rng.random((batch, groups * 9, *out)).astype("float32")
    last = "data_format" in arguments
    x = paddle.rand([batch, *size, 2] if last else [batch, 2, *size])
    model = Given(**arguments)
    attributes = [arguments.get(name, default) for name, default in (("stride", 1), ("padding", 0))]
    padding = attributes[1] if isinstance(attributes[1], tuple) else (attributes[1],) * 4
    common = (size, attributes[0], padding, arguments.get("dilation", 1), pick)
    with monitor(model) as watched:
        for given in (mask, None):
            model(x, paddle.to_tensor(offset), None if given is None else paddle.to_tensor(given))
            (found,) = watched.step().values()
            np.testing.assert_allclose(found, expected(offset, given, *common), rtol=1e-5)
    assert watched.statistics == {"inner": found}


def test_calls_of_a_step_are_joined():
    model, x = Given(), paddle.rand([1, 2, 5, 5])
    near, far = (paddle.full([1, 18, 3, 3], value) for value in (3.0, 4.0))
    with monitor(model) as watched:
        model(x, near)
        model(x, far)
        found = watched.step()["inner"]
        assert found.mean == pytest.approx(3.5 * math.sqrt(2))
        assert found.largest == pytest.approx(4 * math.sqrt(2))
        assert watched.step() == {}
        model(x, near)
        watched.discard()
        assert watched.step() == {}
    model(x, near)
    assert watched.step() == {} and not paddle_dcn.functional.watchers


def test_every_way_to_the_operator_is_watched():
    class Mixed(nn.Layer):
        def __init__(self):
            super().__init__()
            self.ours = ModulatedDeformConv2DPack(2, 2, 3, padding=1)
            self.mmcv = compat.mmcv.DeformConv2dPack(2, 2, 3, padding=1)
            self.paddle = paddle.vision.ops.DeformConv2D(2, 2, 3, padding=1)
            self.weight = self.create_parameter([2, 2, 3, 3])

        def forward(self, x):
            x = self.mmcv(self.ours(x))
            offset = paddle.zeros([1, 18, *x.shape[2:]])
            with paddle_dcn.patched():
                x = self.paddle(x, offset)
            return paddle_dcn.deform_conv2d(x, offset, self.weight, padding=1)

    model, x = Mixed(), paddle.rand([1, 2, 8, 8])
    stranger = DeformConv2DPack(2, 2, 3)
    gradients = []
    for watched in (False, True):
        model.clear_gradients()
        with monitor(model) if watched else monitor(nn.ReLU()) as watch:
            model(x).sum().backward()
            stranger(x)
            names = list(watch.step())
        gradients.append([parameter.grad.numpy() for parameter in model.parameters()])
    assert names == ["ours", "mmcv", "paddle", ""]
    for before, after in zip(*gradients):
        np.testing.assert_array_equal(before, after)


def test_after_an_exception_calls_have_their_names():
    class Fails(Given):
        def forward(self, x, offset):
            out = self.inner(x, offset)
            if self.training_fails:
                raise RuntimeError
            return out

    model, arguments = Fails(), (paddle.rand([1, 2, 5, 5]), paddle.zeros([1, 18, 3, 3]))
    stranger = DeformConv2DPack(2, 2, 3)
    with monitor(model) as watched:
        model.training_fails = True
        with pytest.raises(RuntimeError):
            model(*arguments)
        model.training_fails = False
        model(*arguments)
        stranger(arguments[0])
        assert list(watched.step()) == ["inner"]


def test_calls_of_other_threads_are_not_the_models():
    stranger = DeformConv2DPack(2, 2, 3)

    class Meanwhile(Given):
        def forward(self, x, offset):
            other = threading.Thread(target=stranger, args=(x,))
            other.start()
            other.join()
            return super().forward(x, offset)

    model = Meanwhile()
    with monitor(model) as watched:
        model(paddle.rand([1, 2, 5, 5]), paddle.zeros([1, 18, 3, 3]))
        assert list(watched.step()) == ["inner"]


def test_a_watched_model_is_copied_and_saved(tmp_path):
    model, x = nn.Sequential(DeformConv2DPack(1, 1, 3)), paddle.rand([1, 1, 6, 6])
    with monitor(model, csv=tmp_path / "steps.csv") as watched:
        twin = copy.deepcopy(model)
        np.testing.assert_array_equal(twin(x), model(x))
        assert list(watched.step()) == ["0"]
        twin(x)
        paddle.jit.save(model, str(tmp_path / "model"), [paddle.static.InputSpec([1, 1, 6, 6])])
        compiled = paddle.jit.to_static(twin)
        np.testing.assert_allclose(compiled(x), model(x), rtol=1e-6)
        assert list(watched.step()) == ["0"]
    np.testing.assert_allclose(paddle.jit.load(str(tmp_path / "model"))(x), model(x), rtol=1e-6)


@pytest.mark.parametrize("offset", [40.0, math.nan])
def test_warns_once_in_one_sentence(offset):
    model, arguments = Given(), (paddle.rand([1, 2, 5, 5]), paddle.full([1, 18, 3, 3], offset))
    with monitor(model) as watched, pytest.warns(UserWarning) as warned:
        for _ in range(3):
            model(*arguments)
            watched.step()
    (message,) = [str(each.message) for each in warned if "monitor" in str(each.message)]
    assert "in step 0 the samples of layer 'inner' are displaced by" in message
    assert ("56.6 pixels" if offset == 40 else "nan pixels") in message and "max_offset" in message
    with monitor(model, limit=57) as watched, warnings.catch_warnings():
        warnings.simplefilter("error")
        if offset == 40:
            model(*arguments)
            watched.step()


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_any_default_dtype(dtype):
    model, arguments = Given(), (paddle.rand([1, 2, 5, 5]), paddle.ones([1, 18, 3, 3]))
    paddle.set_default_dtype(dtype)
    try:
        with monitor(model) as watched:
            model(*arguments)
            assert watched.step()["inner"].mean == pytest.approx(math.sqrt(2))
    finally:
        paddle.set_default_dtype("float32")


def test_csv(tmp_path):
    model = nn.Sequential(DeformConv2DPack(1, 1, 3), ModulatedDeformConv2DPack(1, 1, 3))
    with monitor(model, csv=tmp_path / "steps.csv") as watched:
        for _ in range(2):
            model(paddle.rand([1, 1, 6, 6]))
            watched.step()
        rows = list(csv.DictReader((tmp_path / "steps.csv").open()))  # written at once
    assert [(row["step"], row["layer"]) for row in rows] == [
        (step, layer) for step in "01" for layer in "01"
    ]
    found = watched.statistics["1"]
    assert [float(rows[-1][name]) for name in Statistics._fields] == pytest.approx([*found])


def test_visualdl(monkeypatch, tmp_path):
    written = []

    class LogWriter:
        def __init__(self, logdir):
            written.append(logdir)

        def add_scalar(self, tag, value, step):
            written.append((tag, value, step))

        def close(self):
            written.append("closed")

    model = nn.Sequential(DeformConv2DPack(1, 1, 3, padding=1))
    monkeypatch.setitem(sys.modules, "visualdl", types.SimpleNamespace(LogWriter=LogWriter))
    with monitor(model, visualdl=str(tmp_path)) as watched:
        model(paddle.rand([1, 1, 6, 6]))
        watched.step()
    outside = pytest.approx(17 / 81)  # of 6 x 6 pixels' 9 taps, those of the border
    scalars = [("mean/0", 0, 0), ("largest/0", 0, 0), ("outside/0", outside, 0)]
    assert written == [str(tmp_path), *scalars, "closed"]
    monkeypatch.setitem(sys.modules, "visualdl", None)
    (tmp_path / "steps.csv").write_text("those of an earlier run")
    with pytest.raises(ImportError, match="pip install visualdl"):
        monitor(model, csv=tmp_path / "steps.csv", visualdl=str(tmp_path))
    assert (tmp_path / "steps.csv").read_text() == "those of an earlier run"
    assert len(paddle_dcn.functional.watchers) == 0


def test_bad_limit():
    with pytest.raises(ValueError, match="limit: expected a finite number above 0, got -1"):
        monitor(nn.ReLU(), limit=-1)


def test_callback(tmp_path):
    network = nn.Sequential(DeformConv2DPack(1, 2, 3), nn.Flatten(), nn.Linear(18, 2))
    model = paddle.Model(network)
    model.prepare(paddle.optimizer.SGD(0.1, parameters=model.parameters()), nn.MSELoss())
    data = paddle.io.TensorDataset([paddle.rand([6, 1, 5, 5]), paddle.ones([6, 2])])
    callback = MonitorCallback(csv=tmp_path / "steps.csv")
    model.fit(data, data, batch_size=2, epochs=2, verbose=0, callbacks=[callback])
    rows = list(csv.DictReader((tmp_path / "steps.csv").open()))
    assert [row["step"] for row in rows] == [*"012345"]
    assert float(rows[0]["mean"]) == 0 < float(rows[-1]["mean"])
    assert not paddle_dcn.functional.watchers
