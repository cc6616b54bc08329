"""Programs with this package's operator: saved, loaded, predicted with and trained on."""

import numpy as np
import paddle
import pytest

import paddle_dcn
from tests.support.comparison import assert_close
from tests.support.export_models import SPEC, assert_same, detector, dynamic, images, run
from tests.support.programs import needs_paddle_3, static_program

pytestmark = needs_paddle_3

ROUTES = [
    "load",
    "static",
    "predictor",
    "predictor without optimisation",
    "predictor without oneDNN",
    "predictor without both",
    "clones",
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Outputs of dynamic mode, and of each route in one new process."""
    path = tmp_path_factory.mktemp("native") / "detector"
    model = detector()
    paddle.jit.save(model, str(path), SPEC)
    return dynamic(model, images()), run(ROUTES, path, images())


@pytest.mark.parametrize("route", ROUTES)
def test_saved_detector(outputs, route):
    assert_same(outputs[1][route], outputs[0])


def test_saved_static_program(tmp_path):
    """save_inference_model of a program built in static mode."""
    path = tmp_path / "static"
    with static_program():
        x = paddle.static.data("x", [None, 64, None, None])
        offset = paddle.static.data("offset", [None, 18, None, None])
        layer = paddle_dcn.DeformConv2D(64, 32, 3, padding=1)
        out = layer(x, offset)
        executor = paddle.static.Executor(paddle.CPUPlace())
        executor.run(paddle.static.default_startup_program())
        rng = np.random.default_rng(2)
        feeds = [
            {
                "x": rng.standard_normal((n, 64, h, w)).astype("float32"),
                "offset": rng.standard_normal((n, 18, h, w)).astype("float32"),
            }
            for n, h, w in ((1, 9, 8), (3, 5, 12))
        ]
        program = paddle.static.default_main_program()
        wanted = [executor.run(program, feed=feed, fetch_list=[out])[0] for feed in feeds]
        paddle.static.save_inference_model(str(path), [x, offset], [out], executor)
    for found in run(["static", "predictor"], path, feeds).values():
        for (one,), other in zip(found, wanted):
            assert_close(one, other, "float32", 576, "out")


def test_training_goes_on_after_load(tmp_path):
    """A loaded layer trains to the same weights as the one that was saved."""
    paddle.seed(3)
    model = paddle.nn.Sequential(
        paddle_dcn.ModulatedDeformConv2DPack(4, 8, 3, padding=1, deformable_groups=2),
        paddle.nn.ReLU(),
        paddle_dcn.DeformConv2DPack(8, 2, 3),
    )
    path = str(tmp_path / "model")
    paddle.jit.save(model, path, [paddle.static.InputSpec([None, 4, None, None])])
    loaded = paddle.jit.load(path)
    loaded.train()
    x = paddle.randn([2, 4, 9, 8])
    losses = []
    for layer in (model, loaded):
        optimizer = paddle.optimizer.Momentum(0.05, parameters=layer.parameters())
        losses.append([])
        for _ in range(4):
            loss = (layer(x) - 1).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            losses[-1].append(float(loss))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert losses[0][-1] < losses[0][0]
