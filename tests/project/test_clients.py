"""Published Paddle models run on this operator: EDVR of PaddleGAN, DCN ResNet of PaddleDetection.

Their code comes from the package index as it is. Importing either package as a whole takes OpenCV,
COCO tools and more, so the modules of the models are imported without the packages' `__init__`
files. Nothing else stands in their way in Paddle 3.3. `make clients` installs and tests them.
"""

import importlib
import importlib.util
import math
import pathlib
import statistics
import sys
import time
import types

import numpy as np
import paddle
import pytest

import paddle_dcn
from tests.support.comparison import EPSILON


def import_alone(name):
    """Import a module, with empty packages in place of those that it is in."""
    parents = name.split(".")[:-1]
    if not all(map(importlib.util.find_spec, (parents[0], "yaml"))):
        pytest.skip("make clients installs and tests them")
    root = pathlib.Path(importlib.util.find_spec(parents[0]).origin).parents[1]
    for depth in range(1, len(parents) + 1):
        package = types.ModuleType(".".join(parents[:depth]))
        package.__path__ = [str(root.joinpath(*parents[:depth]))]
        sys.modules[package.__name__] = package
    return importlib.import_module(name)


@pytest.fixture(autouse=True)
def forget_the_packages():
    yield
    for name in list(sys.modules):
        if name.partition(".")[0] in ("ppgan", "ppdet"):
            del sys.modules[name]


def edvr():
    """Build EDVR's alignment by a pyramid and a cascade; its two inputs have three levels each."""
    model = import_alone("ppgan.models.generators.edvr").PCDAlign(nf=64, groups=8)
    levels = [paddle.rand([1, 64, size, size]) for size in (32, 16, 8) * 2]
    return model, (levels[:3], levels[3:]), levels


def resnet():
    """Build ResNet50-vd with deformable convolutions in its last three stages."""
    module = import_alone("ppdet.modeling.backbones.resnet")
    model = module.ResNet(50, variant="d", dcn_v2_stages=[1, 2, 3], freeze_at=-1)
    image = paddle.rand([1, 3, 64, 64])
    return model, ({"image": image},), [image]


def build_client(build, dtype):
    """Build a model in a dtype, with offsets, which start at zero, of about a pixel."""
    paddle.seed(0)
    paddle.set_default_dtype(dtype)
    try:
        client = build()
        for name, parameter in client[0].named_parameters():
            if "conv_offset" in name and not parameter.numpy().any():
                scale = 0.7 if parameter.ndim == 1 else 1e-3
                parameter.set_value(paddle.randn(parameter.shape) * scale)
    finally:
        paddle.set_default_dtype("float32")
    return client


def step(model, arguments, inputs):
    """Return outputs and gradients by name, and the seconds that forward and backward took."""
    for tensor in inputs:
        tensor.stop_gradient = False
        tensor.clear_gradient()
    model.clear_gradients()
    start = time.perf_counter()
    outputs = model(*arguments)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    sum((out * out).mean() for out in outputs).backward()
    seconds = time.perf_counter() - start
    found = {f"output {i}": out for i, out in enumerate(outputs)}
    found |= {f"gradient of input {i}": tensor.grad for i, tensor in enumerate(inputs)}
    found |= {n: p.grad for n, p in model.named_parameters() if not p.stop_gradient}
    return {name: tensor.numpy() for name, tensor in found.items()}, seconds


def patched_step(*client):
    with paddle_dcn.patched():
        return step(*client)


# In float64 what the longest sum, of 512 channels and 3x3 taps, may be off by. In float32 a layer's
# rounding may carry a later sample across an integer coordinate, where the gradient jumps.
LIMITS = {"float64": 4 * EPSILON["float64"] * math.sqrt(512 * 9), "float32": 1e-3}


@pytest.mark.parametrize("dtype, limit", LIMITS.items(), ids=LIMITS)
@pytest.mark.parametrize("build", [edvr, resnet])
def test_same_patched_and_unpatched(build, dtype, limit, capsys):
    client = build_client(build, dtype)
    (wanted, _), (found, _) = step(*client), patched_step(*client)
    assert len(found) > 10
    for name, array in wanted.items():
        error, norm = np.linalg.norm(found[name] - array), np.linalg.norm(array)
        assert error <= limit * norm, f"{name}: off by {error}, its norm is {norm}"
    if dtype == "float32":
        times = [(step(*client)[1], patched_step(*client)[1]) for _ in range(3)]
        before, after = (statistics.median(column) for column in zip(*times))
        with capsys.disabled():
            print(f"\n{build.__name__}: forward and backward take {after / before:.2f} of the time")
