"""What only GPUs show: the rule of TF32, the device and stream of the tensors."""

import paddle
import pytest

from paddle_dcn import deform_conv2d
from tests.support.cases import Case
from tests.support.comparison import assert_results_close
from tests.support.operators import expected, run
from tests.support.problems import random_problem

core = paddle.base.core
GPUS = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
CASE = Case(2, 40, (9, 8), 24, padding=1, groups=2)
FLOAT32 = ("float32", "float32")


@pytest.fixture
def gpu():
    """Make the last GPU the current device."""
    before = paddle.device.get_device()
    yield paddle.device.set_device(f"gpu:{GPUS - 1}")
    paddle.device.set_device(before)


@pytest.mark.skipif(GPUS == 0, reason="no GPU")
@pytest.mark.parametrize("switch", [True, False])
@pytest.mark.parametrize("override", [None, "0"])
def test_float32_is_multiplied_as_by_conv2d(gpu, monkeypatch, switch, override):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    if override is not None:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    before = core.get_cudnn_switch()
    core.set_cudnn_switch(switch)
    try:
        results = run(deform_conv2d, CASE, random_problem(CASE, "float32"), FLOAT32)
    finally:
        core.set_cudnn_switch(before)
    has_it = paddle.device.cuda.get_device_capability()[0] >= 8
    rounds = has_it and switch and override is None
    dtypes = ("tensor_float32" if rounds else "float32", "float32")
    assert_results_close(results, expected(CASE, "float32"), CASE, dtypes)
    if rounds:
        with pytest.raises(AssertionError, match="differ"):
            assert_results_close(results, expected(CASE, "float32"), CASE, FLOAT32)


@pytest.mark.skipif(GPUS < 2, reason="fewer than two GPUs")
def test_tensors_of_another_gpu_than_the_current_one(gpu):
    tensors = {
        name: paddle.to_tensor(array, "float32", place=paddle.CUDAPlace(0))
        for name, array in random_problem(CASE, "float32").items()
        if name != "grad"
    }
    out = deform_conv2d(**tensors, **CASE.attributes())
    assert out.place.gpu_device_id() == 0
    assert paddle.device.get_device() == f"gpu:{GPUS - 1}"
    after = paddle.matmul(paddle.ones([2, 3]), paddle.ones([3, 2]))  # there Paddle goes on
    assert after.place.gpu_device_id() == GPUS - 1
    assert float(after.sum()) == 12
    wanted = {"out": expected(CASE, "float32")["out"]}
    assert_results_close({"out": out.astype("float64").numpy()}, wanted, CASE, FLOAT32)
