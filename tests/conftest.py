"""The fixtures of all tests."""

import paddle
import pytest

import paddle_dcn

pytest.register_assert_rewrite("tests.support")

DEVICES = ["cpu"]
if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0:
    DEVICES.append("gpu")


@pytest.fixture(params=DEVICES)
def device(request):
    """Make each device there is the current one."""
    before = paddle.device.get_device()
    paddle.device.set_device(request.param)
    yield request.param
    paddle.device.set_device(before)


@pytest.fixture(params=["deform_conv2d", "deform_conv2d_reference"])
def implementation(request):
    """Return the operator, then the reference: for the rules that both must obey."""
    return getattr(paddle_dcn, request.param)
