"""paddle_dcn_inference in Paddle: against the operator it comes from and Paddle's own sigmoid."""

import threading

import numpy as np
import paddle
import pytest
from paddle.nn import functional

from paddle_dcn import _checks, _ops
from tests.support.comparison import EPSILON, assert_close
from tests.support.operators import to_array
from tests.support.problems import DTYPE_IDS, DTYPES

pytestmark = pytest.mark.usefixtures("cpu")

SHAPES = [  # x (NCHW), outputs, groups, deformable groups, data_format
    ((2, 64, 13, 17), 32, 1, 2, "NCHW"),
    ((1, 12, 9, 9), 8, 4, 3, "NHWC"),
    ((0, 8, 9, 9), 8, 1, 1, "NCHW"),
]
FORMS = [
    _checks.Inference(),
    _checks.Inference(joined=True, negative_slope=0.0),
    _checks.Inference(joined=True, negative_slope=0.0, upper_bound=6.0, constant=True),
    _checks.Inference(negative_slope=0.25, constant=True),
]


def make_call(shape, outputs, groups, deformable_groups, data_format, dtypes, joined):
    """A call of the operator for inference, and the same one of the operator it comes from."""
    rng = np.random.default_rng(0)
    batch, channels, *size = shape
    planes = 9 * deformable_groups

    def tensor(*sizes, scale=1.0, dtype=dtypes[0]):
        return paddle.to_tensor(rng.standard_normal(sizes) * scale).astype(dtype)

    x = tensor(*shape)
    x = x.transpose([0, 2, 3, 1]).contiguous() if data_format == "NHWC" else x
    offset = tensor(batch, 3 * planes, *size, scale=3.0, dtype=dtypes[1])
    weight = tensor(outputs, channels // groups, 3, 3, scale=(channels // groups * 9) ** -0.5)
    attributes = _checks.check_attributes(1, 1, 1, groups, deformable_groups, None, data_format)
    apart = offset[:, : 2 * planes].contiguous()
    # Paddle has no sigmoid of half types on the CPU.
    mask = functional.sigmoid(offset[:, 2 * planes :].astype("float64")).astype(dtypes[1])
    call = _checks.Call(x, apart, mask, weight, tensor(outputs), attributes)
    return call._replace(offset=offset, mask=None) if joined else call, call


@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_values(form, shape, dtypes):
    call, apart = make_call(*shape, dtypes, form.joined)
    out = to_array(_ops.deform_conv2d(apart))
    wanted = np.where(out < 0, form.negative_slope * out, out)
    wanted = np.minimum(wanted, form.upper_bound or np.inf)
    depth = call.weight[0].size
    if form.joined:  # the other mask was rounded
        summed = "float64" if dtypes[0] == "float64" else "float32"
        depth = max(depth, (EPSILON[dtypes[1]] / EPSILON[summed]) ** 2)
    for _ in range(2):  # the second reads the packed weight
        assert_close(to_array(_ops.infer(call, form)), wanted, dtypes[0], depth, "out")


def test_a_constant_weight_is_packed_once():
    """So a change in place is not seen: that is the promise. Another tensor is another weight."""
    form = _checks.Inference(constant=True)
    call, _ = make_call(*SHAPES[0], DTYPES[0], False)
    before = _ops.infer(call, form).numpy()
    kept = call.weight.numpy()
    call.weight.set_value(2 * kept)
    if not paddle.__version__.startswith("2."):  # which makes another tensor of it
        assert np.array_equal(_ops.infer(call, form).numpy(), before)
    another = call._replace(weight=paddle.to_tensor(2 * kept))
    wanted = _ops.deform_conv2d(another).numpy()
    assert np.array_equal(_ops.infer(another, form).numpy(), wanted)
    del another
    for factor in (3, 4, 5, 6):  # whose memory may be that of the one before
        again = call._replace(weight=paddle.to_tensor(factor * kept))
        wanted = _ops.deform_conv2d(again).numpy()
        assert np.array_equal(_ops.infer(again, form).numpy(), wanted)


def test_one_weight_in_two_geometries():
    form = _checks.Inference(constant=True)
    call, _ = make_call((2, 32, 9, 9), 42, 1, 1, "NCHW", DTYPES[0], False)  # 42, or twice 21
    grouped = call._replace(
        x=paddle.randn([2, 64, 9, 9]), attributes=call.attributes._replace(groups=2)
    )
    for each in (call, grouped, call):
        assert np.array_equal(_ops.infer(each, form).numpy(), _ops.deform_conv2d(each).numpy())


def test_threads_share_a_packed_weight():
    """One of them packs it, which takes some time; the others do not wait."""
    form = _checks.Inference(constant=True)
    call, _ = make_call((1, 256, 2, 2), 512, 1, 1, "NCHW", DTYPES[0], False)
    wanted, rounds, threads = _ops.deform_conv2d(call).numpy(), 6, 6
    calls = [call._replace(weight=call.weight.clone()) for _ in range(rounds)]
    start, results = threading.Barrier(threads), [[] for _ in range(threads)]

    def work(found):
        for each in calls:
            start.wait()
            found.append(_ops.infer(each, form).numpy())

    workers = [threading.Thread(target=work, args=(found,)) for found in results]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [len(found) for found in results] == [rounds] * threads
    assert all(np.array_equal(out, wanted) for found in results for out in found)


def test_no_gradients():
    call, _ = make_call(*SHAPES[0], DTYPES[0], False)
    call.x.stop_gradient = False
    out = _ops.infer(call, _checks.Inference())
    with pytest.raises(NotImplementedError, match="converted for inference has no gradients"):
        out.backward()


@pytest.mark.parametrize(
    ("changed", "form", "message"),
    [
        (
            {"offset": [2, 36, 13, 17]},
            {"joined": True, "mask": None},
            r"offset: expected float32 \[2, 54, 13, 17\]",
        ),
        ({}, {"joined": True}, "mask: expected none beside joined offsets"),
        ({}, {"flow": [2, 3, 13, 17]}, r"flow: expected float32 \[2, 2, 13, 17\]"),
        ({}, {"flow": [2, 8, 13, 17]}, "flow: expected 4 sizes, the second twice a divisor of 2"),
        ({}, {"flow": [2, 1, 13, 17]}, "flow: expected 4 sizes"),
        ({}, {"flow": [2, 2]}, "flow: expected 4 sizes"),
        ({}, {"flow": [1, 2, 13, 17]}, r"flow: expected float32 \[2, 2, 13, 17\]"),
        ({}, {"offset_bound": -1.0}, "offset_bound: expected 0 or more, got -1"),
        ({}, {"upper_bound": -1.0}, "upper_bound: expected 0 or more, got -1"),
        ({}, {"upper_bound": float("nan")}, "upper_bound: expected 0 or more, got nan"),
    ],
)
def test_errors(changed, form, message):
    call, _ = make_call(*SHAPES[0], DTYPES[0], False)
    changed = {name: paddle.zeros(shape) for name, shape in changed.items()}
    changed |= {name: form.pop(name) for name in ("mask",) if name in form}
    flow = paddle.zeros(form.pop("flow")) if "flow" in form else None
    with pytest.raises(ValueError, match=message):
        _ops.infer(call._replace(**changed), _checks.Inference(**form), flow)


WRONG = {  # sizes of x, weight, bias and addend, and what is said
    "x: expected 4 sizes": ((2, 16, 5), (16, 16, 3, 3), (16,), None),
    r"weight: expected float32 \[M, C, 3, 3\]": ((2, 16, 5, 6), (16, 16, 1, 1), (16,), None),
    r"weight: expected float32 \[16, 16, 3, 3\]": ((2, 16, 5, 6), (16, 8, 3, 3), (16,), None),
    "bias: expected": ((2, 16, 5, 6), (16, 16, 3, 3), (15,), None),
    "addend: expected": ((2, 16, 5, 6), (16, 16, 3, 3), (16,), (1, 16, 5, 6)),
}


@pytest.mark.parametrize("message", WRONG)
def test_plain_convolution_that_does_not_fit(message):
    """What a program may only tell when it runs."""
    tensors = [None if shape is None else paddle.ones(shape) for shape in WRONG[message]]
    with pytest.raises(ValueError, match=message):
        _ops.run_raw("paddle_dcn_plain", *tensors, [1, 1, 1, 1], 1.0, 0.0, False)


def test_plain_convolution_is_for_float32():
    tensors = [paddle.ones(shape, "float64") for shape in ((1, 16, 5, 6), (16, 16, 3, 3), (16,))]
    with pytest.raises(ValueError, match="expected float32"):
        _ops.run_raw("paddle_dcn_plain", *tensors, None, [1, 1, 1, 1], 1.0, 0.0, False)
