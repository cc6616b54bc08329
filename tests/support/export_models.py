"""The models that the tests of export save, the processes that run them, and how to compare."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

import paddle_dcn
from tests.support.comparison import EPSILON, assert_close
from tests.support.operators import expected, to_tensor
from tests.support.problems import random_problem
from tests.support.process import SCRIPTS, run_python

SIZES = [(1, 32, 32), (2, 40, 33), (3, 17, 50)]  # images, height, width
SPEC = [InputSpec([None, 3, None, None], "float32", "image")]

# Rounded terms of one output of the detector: the sums of its longest path, 7 * 7 * 3 in the stem,
# 9 * 64, 9 * 128 (of 256, in two groups of 64: 9 * 64) and 9 * 256 in the stages, 512 in the top.
DEPTH = 147 + 576 + 576 + 2304 + 512


class Deformable(nn.Layer):
    """A convolution that predicts the field, the deformable one that takes it, BatchNorm."""

    def __init__(self, channels, outputs, modulated=True, **attributes):
        super().__init__()
        self.fields = attributes.get("deformable_groups", 1) * 9
        self.modulated = modulated
        self.field = nn.Conv2D(channels, (3 if modulated else 2) * self.fields, 3, 2, 1)
        self.conv = paddle_dcn.DeformConv2D(channels, outputs, 3, 2, 1, **attributes)
        self.norm = nn.BatchNorm2D(outputs)

    def forward(self, x):
        field, mask = self.field(x), None
        offset = field[:, : 2 * self.fields]
        if self.modulated:
            mask = nn.functional.sigmoid(field[:, 2 * self.fields :])
        return nn.functional.relu(self.norm(self.conv(x, offset, mask)))


class Detector(nn.Layer):
    """ResNet's stem, three deformable stages, and a feature pyramid."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2D(3, 64, 7, 2, 3), nn.BatchNorm2D(64), nn.ReLU(), nn.MaxPool2D(3, 2, 1)
        )
        self.stage1 = Deformable(64, 128, deformable_groups=2)
        self.stage2 = Deformable(128, 256, groups=2, bias_attr=False)
        self.stage3 = Deformable(256, 512, modulated=False)
        self.upsample = nn.Conv2DTranspose(32, 32, 2, 2)
        self.lateral = nn.LayerList([nn.Conv2D(width, 32, 1) for width in (128, 256, 512)])

    def forward(self, image):
        levels = [self.stem(image)]
        for stage in (self.stage1, self.stage2, self.stage3):
            levels.append(stage(levels[-1]))
        top = self.lateral[2](levels[3])
        pyramid = [top]
        for level, lateral in ((levels[2], self.lateral[1]), (levels[1], self.lateral[0])):
            side = lateral(level)
            # Not by interpolate, which a predictor with oneDNN cannot run.
            larger = self.upsample(top)
            top = larger[:, :, : side.shape[2], : side.shape[3]] + side
            pyramid.append(top)
        return pyramid


def detector():
    """Return a detector as it may be after training: every parameter and statistic random."""
    paddle.seed(7)
    model = Detector()
    for name, tensor in model.state_dict().items():
        if len(tensor.shape) == 1:
            positive = name.endswith(("_variance", "norm.weight"))
            low, high = (0.5, 1.5) if positive else (-0.2, 0.2)
            tensor.set_value(paddle.uniform(tensor.shape, min=low, max=high))
    model.eval()
    return model


def images():
    """Return one input of the detector for each size."""
    rng = np.random.default_rng(1)
    return [{"image": rng.standard_normal((n, 3, h, w)).astype("float32")} for n, h, w in SIZES]


class Table(nn.Layer):
    """One deformable convolution for each (case, dtypes), each with inputs of its own."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        self.arrays = [random_problem(case) for case, _ in rows]
        self.weights = nn.ParameterList()
        for arrays in self.arrays:
            for name in ("weight", "bias"):
                array = arrays[name] if arrays[name] is not None else np.zeros(1)
                self.weights.append(
                    paddle.create_parameter(
                        array.shape, "float64", default_initializer=nn.initializer.Assign(array)
                    )
                )

    def inputs(self):
        """Return the arrays to feed, by name."""
        return {
            f"{name}{row}": arrays[name].astype("float32")
            for row, arrays in enumerate(self.arrays)
            for name in ("x", "offset", "mask")
            if arrays[name] is not None
        }

    def spec(self, dynamic):
        """Return the input_spec, with every batch and size open or none."""
        return [
            [
                InputSpec([None, a.shape[1], None, None] if dynamic else a.shape, "float32", name)
                for name, a in self.inputs().items()
            ]
        ]

    def forward(self, tensors):
        tensors, results = list(tensors), []
        for row, (case, dtypes) in enumerate(self.rows):
            x, offset = (tensors.pop(0).astype(dtype) for dtype in dtypes)
            mask = tensors.pop(0).astype(dtypes[1]) if case.modulated else None
            weight, bias = (
                self.weights[2 * row + i].astype(dtypes[0]) if wanted else None
                for i, wanted in enumerate((True, case.bias))
            )
            nhwc = case.data_format == "NHWC"
            out = paddle_dcn.deform_conv2d(
                x.transpose([0, 2, 3, 1]) if nhwc else x,
                offset,
                weight,
                bias,
                mask=mask,
                **case.attributes(),
            ).astype("float32")
            results.append(out.transpose([0, 3, 1, 2]) if nhwc else out)
        return results

    def check(self, outputs):
        """Assert each output to be what the reference gives in float64."""
        assert len(outputs) == len(self.rows)
        for (case, dtypes), out in zip(self.rows, outputs):
            # Results leave as float32.
            coarsest = max((dtypes[0], "float32"), key=EPSILON.__getitem__)
            wanted = expected(case)["out"]
            assert_close(out, wanted, coarsest, case.depth["out"], f"{case} {dtypes}")


def run(routes, path, feeds, blocked=False):
    """Run a saved model in a new process; return, by route, its outputs for each feed.

    With `blocked` the process cannot import paddle_dcn.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "feeds.npz", Path(folder) / "outputs.npz"
        np.savez(
            files[0],
            **{f"{i}/{name}": a for i, feed in enumerate(feeds) for name, a in feed.items()},
        )
        script = SCRIPTS / "run_exported.py"
        variables = {"BLOCK_PADDLE_DCN": "1" if blocked else None}
        done = run_python(script, ",".join(routes), path, *files, **variables)
        assert done.returncode == 0, done.stderr[-3000:]
        with np.load(files[1]) as stored:
            results = {route: [[] for _ in feeds] for route in routes}
            for key in stored.files:  # in the order of their making
                route, feed, _ = key.split("/")
                results[route][int(feed)].append(stored[key])
    return results


def dynamic(model, feeds):
    """Return what dynamic mode gives for each feed."""
    with paddle.no_grad():
        return [
            [out.numpy() for out in model(*(to_tensor(a, "float32") for a in feed.values()))]
            for feed in feeds
        ]


def assert_same(found, wanted):
    """Assert the detector's outputs to agree within rounding of float32."""
    for size, outputs, others in zip(SIZES, found, wanted):
        assert len(outputs) == len(others) == 3
        for level, (out, other) in enumerate(zip(outputs, others)):
            assert_close(out, other, "float32", DEPTH, f"{size}, level {level}")
