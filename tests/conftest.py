"""The fixtures of all tests. Paddle is imported by those that ask for it: others do without."""

import os

import pytest

# On GPUs float32 is multiplied in float32, by Paddle's operators and by ours, also in processes
# that tests start: tolerances are those of float32.
os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
# And gradients repeat bit by bit, since tests compare two calls; test_gpu.py runs without it.
os.environ["FLAGS_cudnn_deterministic"] = "1"

pytest.register_assert_rewrite("tests.support")


def pytest_generate_tests(metafunc):
    """Run tests of `device` on each device there is."""
    if "device" in metafunc.fixturenames:
        import paddle

        has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
        metafunc.parametrize("device", ["cpu", "gpu"] if has_gpu else ["cpu"], indirect=True)


def _current(device):
    import paddle

    before = paddle.device.get_device()
    paddle.device.set_device(device)
    yield device
    paddle.device.set_device(before)


@pytest.fixture
def device(request):
    """Make a device the current one."""
    yield from _current(request.param)


@pytest.fixture
def cpu():
    """Make the CPU the current device, also where Paddle prefers a GPU."""
    yield from _current("cpu")


@pytest.fixture(params=["deform_conv2d", "deform_conv2d_reference"])
def implementation(request):
    """Return the operator, then the reference: for the rules that both must obey."""
    import paddle_dcn

    return getattr(paddle_dcn, request.param)
