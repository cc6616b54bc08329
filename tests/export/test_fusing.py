"""What `convert --to fast` takes into the operator, what it must leave, and that values stay."""

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F
from paddle.static import InputSpec

import paddle_dcn
from paddle_dcn import export
from paddle_dcn.__main__ import main
from paddle_dcn._checks import check_attributes
from paddle_dcn._to_static import opaque
from paddle_dcn.export import _fusing, _programs
from paddle_dcn.functional import convolve
from tests.support.comparison import assert_close
from tests.support.export_models import run
from tests.support.programs import PADDLE_3_1, needs_paddle_3

pytestmark = needs_paddle_3

FIELDS = 9 * 2  # taps of both deformable groups
SIZE = 4, 3 * FIELDS, 6  # as many rows as a prediction has channels, columns as a layer has outputs
DEPTH = 3 * 4 * 9 + 9 * 4  # rounded terms: predicted offsets, then the convolution
# Of bounded offsets and flow, up to 14 pixels, which are rounded: a sample changes by up to twice
# the largest pixel from one pixel to the next.
FLOW_DEPTH = DEPTH * (2 * 14) ** 2


class Net(nn.Layer):
    """A convolution that predicts, a deformable one, and what a row puts around it."""

    def __init__(self, forward, builtin=True, bias=True, data_format="NCHW"):
        super().__init__()
        kind = paddle.vision.ops.DeformConv2D if builtin else paddle_dcn.DeformConv2D
        more = {} if builtin else {"data_format": data_format}
        attr = None if bias else False
        self.predict = nn.Conv2D(4, 3 * FIELDS, 3, padding=1)
        self.predict_more = nn.Conv2D(4, 3 * FIELDS + 1, 3, padding=1)
        self.conv = kind(4, 6, 3, padding=1, deformable_groups=2, bias_attr=attr, **more)
        self.norm = nn.BatchNorm2D(6, data_format=data_format)
        self.plain_norm = nn.BatchNorm2D(6, weight_attr=False, bias_attr=False)
        self.called = forward

    def forward(self, x):
        return self.called(self, x)

    def convolve(self, x):
        """What most rows start with: offsets and mask that are not parts of one tensor."""
        planes = self.predict(x)
        return self.conv(x, 0.5 * planes[:, : 2 * FIELDS], F.sigmoid(planes[:, 2 * FIELDS :]))


def twice(net, x):
    y = net.convolve(x)
    return net.norm(y) + y


def channels_last(net, x):
    planes = net.predict(x)
    out = net.conv(x.transpose([0, 2, 3, 1]), 0.5 * planes[:, : 2 * FIELDS])
    return F.relu(net.norm(out))


def shared(net, x):
    return net.norm(net.convolve(x)) + F.relu(net.plain_norm(net.convolve(0.5 * x)))


def planes_of(cut):
    def forward(net, x):
        planes = net.predict(x)
        offset, mask = cut(planes)
        return net.conv(x, offset, mask)

    return forward


def split(planes):
    offset, mask = paddle.split(planes, [2 * FIELDS, FIELDS], axis=1)
    return offset, F.sigmoid(mask)


def chunk(planes):
    first, second, mask = paddle.chunk(planes, 3, axis=1)
    return paddle.concat([first, second], axis=1), F.sigmoid(mask)


def pieces(planes):
    """Every field of the offsets on its own, out of two halves."""
    offset, rest = paddle.split(planes, [FIELDS, -1], axis=-3)
    more, mask = rest[:, :FIELDS], rest[:, FIELDS:]
    return paddle.concat([*paddle.split(offset, FIELDS, axis=1), more], axis=1), F.sigmoid(mask)


def swapped(planes):
    first, second, mask = paddle.chunk(planes, 3, axis=1)
    return paddle.concat([second, first], axis=1), F.sigmoid(mask)


def mask_first(planes):
    mask, offset = paddle.split(planes, [FIELDS, 2 * FIELDS], axis=1)
    return offset, F.sigmoid(mask)


def overlapping(planes):
    return planes[:, : 2 * FIELDS], F.sigmoid(planes[:, FIELDS : 2 * FIELDS])


def doubled(planes):
    return planes[:, : 2 * FIELDS], 2 * F.sigmoid(planes[:, 2 * FIELDS :])


def no_sigmoid(planes):
    return planes[:, : 2 * FIELDS], planes[:, 2 * FIELDS :]


def other_axis(planes):
    planes = planes.transpose([0, 2, 1, 3])
    offset, mask = planes[:, :, : 2 * FIELDS], planes[:, :, 2 * FIELDS :]
    return offset.transpose([0, 2, 1, 3]), F.sigmoid(mask.transpose([0, 2, 1, 3]))


def aligned(net, x, turns=lambda flow: flow, bound=lambda offset: 10 * paddle.tanh(offset)):
    """Offsets of at most ten pixels, added to one flow for each deformable group: BasicVSR++."""
    first, second, mask = paddle.chunk(net.predict(x), 3, axis=1)
    offset = bound(paddle.concat([first, second], axis=1))
    halves = paddle.chunk(offset, 2, axis=1)
    flows = [turns(x[:, :2].flip(1)), turns(x[:, 2:].flip(1))]
    repeated = [flow.tile([1, FIELDS // 2, 1, 1]) for flow in flows]
    offset = paddle.concat([half + flow for half, flow in zip(halves, repeated)], axis=1)
    return net.conv(x, offset, F.sigmoid(mask))


def one_flow(net, x):
    offset, mask = split(net.predict(x))
    return net.conv(x, x[:, 1:3].tile([1, FIELDS, 1, 1]) + paddle.tanh(offset), mask)


def shifted_flow(net, x):
    """Its parts are no deformable groups."""
    offset, mask = split(net.predict(x))
    parts = paddle.split(offset, 3, axis=1)
    parts = [part + x[:, :2].tile([1, FIELDS // 3, 1, 1]) for part in parts]
    return net.conv(x, paddle.concat(parts, axis=1), mask)


def more_planes(net, x):
    planes = net.predict_more(x)
    offset, mask = planes[:, : 2 * FIELDS], planes[:, 2 * FIELDS : 3 * FIELDS]
    return net.conv(x, offset, F.sigmoid(mask))


def unmodulated(net, x):
    return net.conv(x, net.predict(x)[:, : 2 * FIELDS])


@opaque
def without_weights(x, offset, weight):
    how = check_attributes(1, 1, 1, 6, 2)._replace(weighted=False)
    return convolve(x, offset, None, weight, None, how)


def unit_weight(net, x):
    six = paddle.concat([x, 2 * x[:, :2]], axis=1)
    ones = paddle.ones([6, 1, 3, 3])
    return net.norm(without_weights(six, net.predict(x)[:, : 2 * FIELDS], ones))


# What is taken in, of how many convolutions; all weights are constant.
ROWS = {
    "bias": (Net.convolve, {}, {"fold": 1}),
    "no bias": (Net.convolve, {"bias": False}, {}),
    "norm": (lambda n, x: n.norm(n.convolve(x)), {"bias": False}, {"fold": 1}),
    "norm without parameters": (lambda n, x: n.plain_norm(n.convolve(x)), {}, {"fold": 1}),
    "two norms": (lambda n, x: n.plain_norm(n.norm(n.convolve(x))), {}, {"fold": 1}),
    "ours, bias and norm": (lambda n, x: n.norm(n.convolve(x)), {"builtin": False}, {"fold": 1}),
    "norm in NHWC": (
        channels_last,
        {"builtin": False, "data_format": "NHWC"},
        {"fold": 1, "activation": 1},
    ),
    "shared weight": (shared, {"bias": False}, {"fold": 2, "activation": 1}),
    "a scalar": (lambda n, x: n.convolve(x) + 2.0, {"bias": False}, {}),
    "relu": (lambda n, x: F.relu(n.convolve(x)), {"bias": False}, {"activation": 1}),
    "relu6": (lambda n, x: F.relu6(n.norm(n.convolve(x))), {}, {"fold": 1, "activation": 1}),
    "leaky relu": (lambda n, x: F.leaky_relu(n.convolve(x), 0.3), {}, {"fold": 1, "activation": 1}),
    "norm behind relu": (
        lambda n, x: n.norm(F.relu(n.convolve(x))),
        {},
        {"fold": 1, "activation": 1},
    ),
    "two activations": (
        lambda n, x: F.relu(F.leaky_relu(n.convolve(x), -0.5)),
        {},
        {"fold": 1, "activation": 1},
    ),
    "other activation": (lambda n, x: F.silu(n.convolve(x)), {}, {"fold": 1}),
    "two users": (twice, {"bias": False}, {}),
    "two users of a biased one": (twice, {}, {"fold": 1}),
    "also an output": (
        lambda n, x: (lambda y: [y, F.relu(y)])(n.convolve(x)),
        {"bias": False},
        {},
    ),
    "sum of two": (lambda n, x: F.relu(n.convolve(x) + x.mean()), {"bias": False}, {}),
    "by column": (
        lambda n, x: n.convolve(x) + n.norm.bias.reshape([1, 1, 1, 6]),
        {"bias": False},
        {},
    ),
    "split": (planes_of(split), {}, {"fold": 1, "joined": 1}),
    "chunk": (planes_of(chunk), {}, {"fold": 1, "joined": 1}),
    "pieces": (planes_of(pieces), {}, {"fold": 1, "joined": 1}),
    "flows and bound": (aligned, {}, {"fold": 1, "joined": 1}),
    "one flow": (one_flow, {}, {"fold": 1, "joined": 1}),
    "bound": (
        planes_of(lambda p: (lambda o, m: (2.5 * paddle.tanh(o), m))(*split(p))),
        {},
        {"fold": 1, "joined": 1},
    ),
    "flow that may broadcast": (
        lambda n, x: aligned(n, x, lambda flow: flow.mean([2, 3], keepdim=True)),
        {},
        {"fold": 1},
    ),
    "flow of parts": (shifted_flow, {}, {"fold": 1}),
    "no bound": (lambda n, x: aligned(n, x, bound=lambda o: 2 * o), {}, {"fold": 1}),
    "negative bound": (
        lambda n, x: aligned(n, x, bound=lambda o: -paddle.tanh(o)),
        {},
        {"fold": 1},
    ),
    "bound and more": (
        lambda n, x: aligned(n, x, bound=lambda o: paddle.tanh(o) * 3 + 0.5),
        {},
        {"fold": 1},
    ),
    "swapped": (planes_of(swapped), {}, {"fold": 1}),
    "mask first": (planes_of(mask_first), {}, {"fold": 1}),
    "overlapping": (planes_of(overlapping), {}, {"fold": 1}),
    "doubled": (planes_of(doubled), {}, {"fold": 1}),
    "no sigmoid": (planes_of(no_sigmoid), {}, {"fold": 1}),
    "more planes": (more_planes, {}, {"fold": 1}),
    "other axis": (planes_of(other_axis), {}, {"fold": 1}),
    "no mask": (unmodulated, {}, {"fold": 1}),
    "computed weight": (
        lambda n, x: paddle.vision.ops.deform_conv2d(
            x, n.predict(x)[:, : 2 * FIELDS], 2 * n.conv.weight, n.conv.bias, 1, 1, 1, 2
        ),
        {},
        {"fold": 0, "constant": 0},
    ),
    "unit weight": (unit_weight, {}, {"fold": 1}),
}


# What flow is made of.
FLOW = {"flows and bound": ["slice", "concat"], "one flow": ["slice"]}


def model_of(name):
    """Return a row's model as it may be after training: every parameter and statistic random."""
    paddle.seed(3)
    forward, options, _ = ROWS[name]
    model = Net(forward, **options)
    for key, tensor in model.state_dict().items():
        if len(tensor.shape) == 1:
            low = 0.5 if key.endswith(("_variance", "norm.weight")) else -0.5
            tensor.set_value(paddle.uniform(tensor.shape, min=low, max=low + 1))
    model.eval()
    return model


def operators(path):
    program = _programs.read(*_programs.find(path))
    return [operator.name().partition(".")[2] for operator in program.operators]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folder of the saved models, and by name inputs and what stock Paddle makes of them."""
    folder = tmp_path_factory.mktemp("fusing")
    x = paddle.randn([2, *SIZE])
    wanted = {}
    for name in ROWS:
        model = model_of(name)
        paddle.jit.save(model, str(folder / name), [InputSpec([None, *SIZE], name="x")])
        with paddle.no_grad():
            wanted[name] = [each.numpy() for each in paddle.utils.flatten(model(x))]
    return folder, {"x": x.numpy()}, wanted


@pytest.mark.parametrize("name", ROWS)
def test_what_is_taken_in(models, tmp_path, name):
    folder, feed, wanted = models
    done = export.convert(folder / name, tmp_path / "fast", "fast")
    count = 2 if name == "shared weight" else 1
    expected = {"fold": 0, "activation": 0, "joined": 0, "constant": count, "plain": 0}
    expected |= ROWS[name][2]
    assert done.fused == expected
    left = operators(tmp_path / "fast")
    assert left.count("paddle_dcn_inference") == (count if any(expected.values()) else 0)
    if expected["joined"]:
        gone = {"sigmoid", "tanh", "tile"} | ({"slice", "split", "concat"} - {*FLOW.get(name, ())})
        assert not gone & set(left)
    found = _programs.read(*_programs.find(tmp_path / "fast")).run(feed)
    for one, other in zip(found, wanted[name]):
        assert_close(one, other, "float32", FLOW_DEPTH if name in FLOW else DEPTH, name)


# With all that can be taken in, and with weights that are shared.
CHOSEN = ["norm in NHWC", "shared weight", "relu6", "flows and bound"]
ROUTES = ["load", "static", "predictor without oneDNN", "clones"]


@pytest.mark.parametrize("name", CHOSEN)
def test_where_it_runs(models, tmp_path, name):
    """As the operator that can be trained: also with oneDNN, except in NHWC."""
    folder, feed, wanted = models
    export.convert(folder / name, tmp_path / "fast", "fast", verify=False)
    routes = ROUTES[:3] if "NHWC" in name else ROUTES
    for route, found in run(routes, tmp_path / "fast", [feed]).items():
        for one, other in zip(found[0], wanted[name]):
            depth = FLOW_DEPTH if name in FLOW else DEPTH
            assert_close(one, other, "float32", depth, f"{name}, {route}")


AGAIN = [("chunk", to) for to in ("fast", "portable", "onnx", "grid_sample", "openvino")]
AGAIN += [("flows and bound", to) for to in ("fast", "portable", "onnx")]
AGAIN += [("relu6", "portable"), ("leaky relu", "onnx"), ("norm in NHWC", "grid_sample")]


@pytest.mark.parametrize(("name", "to"), AGAIN)
def test_conversion_of_what_was_converted(models, tmp_path, name, to):
    folder, _, _ = models
    first = export.convert(folder / name, tmp_path / "fast", "fast", verify=False)
    done = export.convert(tmp_path / "fast", tmp_path / "made", to)
    # GridSample rounds positions by up to 2**-22 of the size, and x has steps of up to some 4.
    limit = 4 * SIZE[1] * 2.0**-22 if to == "grid_sample" else 1e-5
    assert done.difference < limit * (FLOW_DEPTH / DEPTH if name in FLOW else 1) ** 0.5
    assert [line.rpartition(", ")[0] for line in done.layers] == [
        line.rpartition(", ")[0] for line in first.layers
    ]
    if to == "fast":
        assert not any(done.fused.values())


@pytest.mark.parametrize("function", [F.relu, F.relu6, F.leaky_relu])
def test_values_that_are_not_finite(tmp_path, function):
    """As in Paddle, except that its relu makes 0 of NaN."""
    model = Net(lambda net, x: function(net.convolve(x)))
    model.conv.bias.set_value(np.array([np.nan, np.inf, -np.inf, 1e38, -1e38, 0], "float32"))
    model.eval()
    x = paddle.randn([1, 4, 5, 6])
    export.convert(model, tmp_path / "fast", "fast", [x], verify=False)
    (found,) = _programs.read(*_programs.find(tmp_path / "fast")).run({"x": x.numpy()})
    with paddle.no_grad():
        wanted = model(x).numpy()
    assert np.isnan(found[:, 0]).all()
    assert_close(found[:, 1:], wanted[:, 1:], "float32", DEPTH, function.__name__)


def parameters(path):
    program = _programs.read(*_programs.find(path))
    return {value.name for value in _programs._parameters(program.pir)}


def test_names_of_parameters(models, tmp_path):
    """Those of what is as it was stay; what a BatchNorm was made of is gone."""
    folder, _, _ = models
    export.convert(folder / "shared weight", tmp_path / "fast", "fast", verify=False)
    before, after = parameters(folder / "shared weight"), parameters(tmp_path / "fast")
    (weight,) = (name for name in before if name.startswith("deform_conv2d") and ".w_" in name)
    made = {f"{weight}_scaled", f"{weight}_scaled_", f"{weight}_bias", f"{weight}_bias_"}
    assert after - before == made
    assert {name.partition("_")[0] for name in before - after} == {"batch", "deform"}


ALONE = {"fold": "two norms", "activation": "relu", "joined": "chunk", "constant": "no bias"}


@pytest.mark.parametrize("saving", ALONE)
def test_one_saving_alone(models, saving):
    folder, feed, wanted = models
    program = _programs.read(*_programs.find(folder / ALONE[saving]))
    assert _fusing.fuse(program, [saving]) == {saving: 1}
    for one, other in zip(program.run(feed), wanted[ALONE[saving]]):
        assert_close(one, other, "float32", DEPTH, saving)


def test_without_fusing(models, tmp_path):
    """The operator that can be trained; the other one says that it cannot be."""
    folder, feed, wanted = models
    assert export.convert(folder / "relu6", tmp_path / "kept", "fast", fuse=False).fused == {}
    assert "paddle_dcn_v2" in operators(tmp_path / "kept")
    export.convert(folder / "relu6", tmp_path / "fast", "fast", verify=False)
    x = paddle.to_tensor(feed["x"])
    for name in ("kept", "fast"):
        layer = paddle.jit.load(str(tmp_path / name))
        layer.train()
        if name == "fast":
            with pytest.raises(NotImplementedError, match="converted for inference has no grad"):
                layer(x).sum().backward()
            continue
        layer(x).sum().backward()
        trained = [each for each in layer.parameters() if not each.stop_gradient]
        # Of three layers. Paddle 3.0 saves those that are not called, too.
        assert sum(parameter.grad is not None for parameter in trained) == 6


class Plain(nn.Layer):
    """Ordinary convolutions; what is computed of them is `forward`."""

    def __init__(self, forward):
        super().__init__()
        self.first = nn.Conv2D(18, 24, 3, padding=1)
        self.second = nn.Conv2D(24, 24, 3, padding=[0, 2], bias_attr=False)
        self.third = nn.Conv2D(24, 24, 3, padding=1)
        self.norm = nn.BatchNorm2D(24)
        self.strided = nn.Conv2D(18, 24, 3, stride=2, padding=1)
        self.dilated = nn.Conv2D(18, 24, 3, padding=2, dilation=2)
        self.grouped = nn.Conv2D(18, 24, 3, padding=1, groups=2)
        self.single = nn.Conv2D(18, 24, 1)
        self.thin = nn.Conv2D(18, 17, 3, padding=1)
        self.same = nn.Conv2D(18, 24, 3, padding="SAME")
        self.last = nn.Conv2D(18, 24, 3, padding=1, data_format="NHWC")
        self.called = forward

    def forward(self, x):
        return self.called(self, x)


def block(net, x):
    """Two convolutions and what they are added to, as in residual networks."""
    y = F.relu(net.first(x))
    return F.relu(net.norm(net.third(y)) + y)


# How many plain convolutions are replaced, and what is left of the operators around them.
PLAIN_ROWS = {
    "bias": (lambda n, x: n.first(x), 1, set()),
    "no bias, padding": (lambda n, x: n.second(n.first(x)), 2, set()),
    "block": (block, 2, set()),
    "added first": (lambda n, x: (lambda y: y + n.norm(n.third(y)))(n.first(x)), 2, set()),
    "leaky relu": (lambda n, x: F.leaky_relu(n.norm(n.first(x)), 0.2), 1, set()),
    "sum with itself": (lambda n, x: (lambda y: F.relu(y + y))(n.first(x)), 1, {"add", "relu"}),
    "sum of two": (lambda n, x: n.first(x) + n.first(2 * x), 2, {"scale"}),
    "broadcast": (lambda n, x: n.first(x) + x.mean([1, 2, 3], keepdim=True), 1, {"add", "mean"}),
    "a number": (lambda n, x: n.first(x) + x.mean(), 1, {"add", "mean"}),
    "two users": (lambda n, x: (lambda y: [F.relu(y), y])(n.first(x)), 1, {"relu"}),
    "pooled": (lambda n, x: F.max_pool2d(F.relu(n.first(x)), 2), 0, {"conv2d", "relu", "pool2d"}),
    "mean": (lambda n, x: F.relu(F.adaptive_avg_pool2d(n.first(x), 1)), 1, {"mean", "relu"}),
    "computed weight": (lambda n, x: F.conv2d(x, 2 * n.first.weight), 0, {"conv2d", "scale"}),
    **{
        kind: (lambda n, x, kind=kind: getattr(n, kind)(x), 0, {"conv2d"})
        for kind in ("strided", "dilated", "grouped", "single", "thin", "same")
    },
    "NHWC": (lambda n, x: n.last(x.transpose([0, 2, 3, 1])), 0, {"conv2d", "transpose"}),
}
# What holds convolutions' weights, biases and shapes.
HOLDING = {"parameter", "data", "fetch", "full", "full_int_array", "reshape", "add", "constant"}


@pytest.fixture(scope="module")
def plain_model():
    paddle.seed(5)
    model = Plain(None)
    model.norm._mean.set_value(paddle.uniform([24]))
    model.norm._variance.set_value(paddle.uniform([24], min=0.5, max=1.5))
    model.eval()
    return model


@pytest.mark.parametrize("name", PLAIN_ROWS)
def test_plain_convolutions(plain_model, tmp_path, name):
    """Verified against the model by `convert`, also with oneDNN, and when converted back."""
    plain_model.called, count, left = PLAIN_ROWS[name]
    spec = [InputSpec([None, 18, 14, 11], name="x")]
    done = export.convert(plain_model, tmp_path / "fast", "fast", spec)
    assert done.fused["plain"] == count and done.difference < 1e-5
    kinds = operators(tmp_path / "fast")
    assert kinds.count("paddle_dcn_plain") == count
    if name == "pooled" and PADDLE_3_1:  # nothing is left of a trial, nor of other layers
        assert kinds.count("parameter") == 2
    if count:
        assert {kind.rstrip("_") for kind in kinds} - HOLDING - {"paddle_dcn_plain"} <= left
    if name in ("block", "no bias, padding", "leaky relu"):
        x = paddle.randn([2, 18, 14, 11])
        with paddle.no_grad():
            wanted = plain_model(x).numpy()
        (found,) = run(["predictor"], tmp_path / "fast", [{"x": x.numpy()}]).values()
        assert_close(found[0][0], wanted, "float32", 9 * 24, name)
        again = export.convert(tmp_path / "fast", tmp_path / "back", "portable")
        assert again.difference < 1e-5
        assert "paddle_dcn_plain" not in operators(tmp_path / "back")


def test_sizes_that_change(tmp_path):
    """Weights that were packed for one size are those of every other."""
    paddle.seed(7)
    pack = paddle_dcn.ModulatedDeformConv2DPack
    model = nn.Sequential(
        nn.Conv2D(3, 18, 3, padding=1),
        nn.Conv2D(18, 32, 3),
        nn.LeakyReLU(0.1),
        pack(32, 18, 3, padding=1, deformable_groups=2),
        nn.BatchNorm2D(18),
        nn.ReLU(),
        pack(18, 18, 3, padding=1, groups=18),
    )
    for name, tensor in model.state_dict().items():
        if "conv_offset" in name:
            tensor.set_value(0.1 * paddle.randn(tensor.shape))
    model.eval()
    spec = [InputSpec([None, 3, None, None], name="x")]
    done = export.convert(model, tmp_path / "fast", "fast", spec, verify=False)
    assert done.fused == {"fold": 1, "activation": 1, "joined": 2, "constant": 2, "plain": 3}
    feeds = [paddle.randn(shape) for shape in ([2, 3, 9, 12], [1, 3, 23, 7], [3, 3, 3, 3])]
    with paddle.no_grad():
        wanted = [model(x).numpy() for x in feeds]
    depth = 9 * (3 + 18 + 2 * 32 + 2 * 18)
    found = run(ROUTES[2:], tmp_path / "fast", [{"x": x.numpy()} for x in feeds])
    for route, outputs in found.items():
        for (one,), other in zip(outputs, wanted):
            assert_close(one, other, "float32", depth, f"{route}, {other.shape}")


def test_a_sum_that_may_broadcast_images(tmp_path):
    class Sum(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2D(18, 18, 3, padding=1)

        def forward(self, x, y):
            return self.conv(x) + y

    spec = [InputSpec([None, 18, 6, 7], name=name) for name in "xy"]
    arrays = [np.ones((batch, 18, 6, 7), "float32") for batch in (2, 1)]
    done = export.convert(Sum(), tmp_path / "fast", "fast", spec, verify=[tuple(arrays)])
    assert done.fused["plain"] == 1 and "add" in operators(tmp_path / "fast")


def test_command(models, tmp_path, capsys, monkeypatch):
    folder, _, _ = models
    for flags, said in (([], "fold 1, activation 1, constant 1"), (["--no-fuse"], None)):
        arguments = ["convert", str(folder / "relu6"), "--to", "fast", "-o", str(tmp_path / "made")]
        monkeypatch.setattr("sys.argv", ["paddle_dcn", *arguments, "--no-verify", *flags])
        assert main() == 0
        out = capsys.readouterr().out
        assert (f"fused for inference: {said}" in out) if said else ("fused" not in out)


def test_slopes_in_float64_stay(tmp_path):
    model = paddle.nn.Sequential(
        paddle_dcn.DeformConv2DPack(3, 4, 3, padding=1), paddle.nn.LeakyReLU(0.1)
    ).to(dtype="float64")
    spec = [paddle.static.InputSpec([None, 3, None, None], "float64")]
    done = export.convert(model, tmp_path / "made", "fast", spec)
    assert done.difference < 1e-12
    assert done.fused["activation"] == 0
