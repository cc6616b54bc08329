"""What `python -m paddle_dcn migrate` made of the fixtures runs, and gives what it gave before."""

import runpy
import sys
import types
from pathlib import Path

import numpy as np
import paddle
import pytest

import paddle_dcn.fluid
from tests.support.comparison import assert_close
from tests.support.programs import fresh_program, needs_paddle_3, value

DATA = Path(__file__).parent / "data"

# The names of the parameters behind the result: those that the original gives them.
STATIC = {
    "fluid_script": ("deformable_conv_0.w_0", "deformable_conv_0.b_0"),
    "fluid_aliases": ("shared", None),
    "fluid_star": ("deformable_conv_0.w_0", "deformable_conv_0.b_0"),
    "fluid_dotted": ("weight", "deformable_conv_0.b_0"),
    "fluid_named": ("dcn_weights", "dcn_bias"),
    "fluid_rest": ("deformable_conv_0.w_0", "bias"),
    "static_calls": ("weight", "bias"),
}
DYNAMIC = sorted({path.stem for path in (DATA / "after").iterdir()} - STATIC.keys())


def inputs():
    """Return arrays x, offset and mask for a 3x3 kernel with padding 1."""
    rng = np.random.default_rng(5)
    arrays = {
        "x": rng.normal(0, 1, (2, 4, 6, 7)),
        "offset": rng.normal(0, 2, (2, 18, 6, 7)),
        "mask": rng.uniform(0, 1, (2, 9, 6, 7)),
    }
    return {name: array.astype("float32") for name, array in arrays.items()}


def reference(arrays, weight, bias=None):
    """Return the float64 result of the reference."""
    arrays = arrays | {"weight": weight, "bias": bias}
    tensors = {k: paddle.to_tensor(v, "float64") for k, v in arrays.items() if v is not None}
    return paddle_dcn.deform_conv2d_reference(padding=1, **tensors).numpy()


@pytest.fixture
def stand_ins(monkeypatch):
    """Provide what the fixtures use of torch, torchvision and the rest of fluid, from Paddle."""
    fluid = types.SimpleNamespace(**{name: getattr(paddle_dcn.fluid, name) for name in FLUID})
    layers = {"data": paddle_dcn.fluid.layers.data, "roll": paddle.roll}
    fluid.layers = types.SimpleNamespace(**layers, nan_to_num=paddle.nan_to_num)
    ops = types.SimpleNamespace(nms=len, roi_align=len, roi_pool=len)
    modules = {
        "paddle.fluid": fluid,
        "paddle.fluid.dygraph": types.SimpleNamespace(Conv2D=paddle.nn.Conv2D),
        "torch": types.SimpleNamespace(nn=types.SimpleNamespace(Module=paddle.nn.Layer)),
        "torchvision": types.SimpleNamespace(ops=ops),
        "torchvision.ops": ops,
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


FLUID = ("CPUPlace", "Executor", "ParamAttr", "default_startup_program")


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("name", DYNAMIC)
def test_rewritten_module_runs(name):
    arrays = inputs()
    weight = np.random.default_rng(6).normal(0, 0.2, (5, 4, 3, 3)).astype("float32")
    tensors = {k: paddle.to_tensor(v) for k, v in (arrays | {"weight": weight}).items()}
    out = runpy.run_path(str(DATA / "after" / f"{name}.py"))["run"](**tensors)
    assert_close(out.numpy().astype("float64"), reference(arrays, weight), "float32", 4 * 9, name)


@needs_paddle_3
@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("name", STATIC)
def test_rewritten_program_runs(name):
    arrays = inputs()
    with fresh_program():
        executor, out = runpy.run_path(str(DATA / "after" / f"{name}.py"))["build"]()
        (result,) = executor.run(feed=arrays, fetch_list=[out])
        weight, bias = (value(parameter) if parameter else None for parameter in STATIC[name])
    if bias is not None:
        assert not bias.any()
    assert_close(result.astype("float64"), reference(arrays, weight, bias), "float32", 4 * 9, name)
