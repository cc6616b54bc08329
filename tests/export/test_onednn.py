"""What `convert --to fast` makes of operators that end a predictor of Paddle 3.3 with oneDNN."""

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F
from paddle.static import InputSpec

import paddle_dcn
from paddle_dcn import export
from paddle_dcn.export import _programs
from tests.support.comparison import assert_close
from tests.support.export_models import run
from tests.support.process import SCRIPTS, run_python
from tests.support.programs import needs_paddle_3

pytestmark = needs_paddle_3


def grow(mode, *factors, **more):
    return lambda x: F.interpolate(x, scale_factor=list(factors), mode=mode, **more)


def repeated(x):
    """Pixels, as networks write it that know of interpolate's failure."""
    x = x.reshape([-1, 6, 6, 1, 5, 1]).expand([-1, 6, 6, 3, 5, 2])
    return x.reshape([-1, 6, 18, 10])


class Number(nn.Layer):
    """Adds a parameter of one element."""

    def __init__(self):
        super().__init__()
        self.number = self.create_parameter([1], default_initializer=nn.initializer.Constant(0.5))

    def forward(self, x):
        return x + self.number


REWRITTEN = [
    lambda x: F.leaky_relu(x, 0.1),
    lambda x: F.leaky_relu(x, -1.5),
    grow("nearest", 2, 2),
    grow("nearest", 1, 8),
    grow("bilinear", 2, 2),
    grow("bilinear", 1.5, 3, align_corners=True),
    grow("bilinear", 2, 4, align_mode=1),
]
# Layers, which have parameters of their own.
REWRITTEN_LAYERS = [
    lambda: nn.BatchNorm2D(6, weight_attr=False, bias_attr=False),
    lambda: nn.BatchNorm2D(6, bias_attr=False),
    lambda: nn.Sequential(nn.Conv2D(6, 6, 1, bias_attr=False), Number()),
]
# Here the last two sizes are known.
REWRITTEN_STATIC = [
    lambda x: F.interpolate(x, size=[12, 20], mode="nearest"),
    lambda x: F.interpolate(x, size=[11, 7], mode="bilinear"),
    repeated,
]
LEFT = [
    grow("nearest", 3, 2),
    grow("nearest", 2, 2, data_format="NHWC"),
    lambda x: F.interpolate(x, size=[paddle.shape(x)[2] * 2, 8], mode="bilinear"),
]


class Net(nn.Layer):
    """Functions of a convolution, each followed by one."""

    def __init__(self, functions, layers=()):
        super().__init__()
        self.conv = nn.Conv2D(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2D(6)
        self.after = nn.Conv2D(6, 4, 1)
        self.layers = nn.LayerList([make() for make in layers])
        self.functions = [*functions, *self.layers]

    def forward(self, x):
        return [self.after(function(self.norm(self.conv(x)))) for function in self.functions]


ENDING = {"leaky_relu", "nearest_interp", "bilinear_interp"}


@pytest.mark.parametrize(
    ("functions", "layers", "size"),
    [(REWRITTEN, REWRITTEN_LAYERS, [None, None]), (REWRITTEN_STATIC, [], [6, 5])],
)
def test_predictor(tmp_path, functions, layers, size):
    paddle.seed(6)
    model, x = Net(functions, layers), paddle.randn([2, 3, 6, 5])
    model.eval()
    spec = [InputSpec([None, 3, *size], "float32", "x")]
    export.convert(model, tmp_path / "fast", "fast", spec)
    program = _programs.read(*_programs.find(tmp_path / "fast"))
    assert not ENDING & {op.name().partition(".")[2].rstrip("_") for op in program.operators}
    found = run(["predictor"], tmp_path / "fast", [{"x": x.numpy()}])["predictor"][0]
    with paddle.no_grad():
        wanted = [each.numpy() for each in model(x)]
    for index, (one, other) in enumerate(zip(found, wanted)):
        assert_close(one, other, "float32", 27 + 6, f"function {index}")


@pytest.mark.parametrize("fuse", [False, True])
def test_what_is_left(tmp_path, fuse):
    """What would not be the same, and all of it where nothing is fused."""
    functions = LEFT if fuse else [*REWRITTEN, *LEFT]
    spec = [InputSpec([None, 3, None, None], "float32", "x")]
    names = {}
    paddle.seed(6)
    model = Net([lambda x, f=f: f(x[:, :, :6, :6]) for f in functions])
    model.eval()
    paddle.jit.save(model, str(tmp_path / "model"), spec)
    export.convert(tmp_path / "model", tmp_path / "fast", "fast", verify=False, fuse=fuse)
    for name in ("model", "fast"):
        program = _programs.read(*_programs.find(tmp_path / name))
        names[name] = sorted(op.name() for op in program.operators if "interp" in op.name())
    assert names["fast"] == names["model"]


def test_what_fails_is_told(tmp_path):
    """Where nothing is fused; norms without parameters, and sums with one number."""
    spec = [InputSpec([None, 3, None, None], "float32", "x")]
    done = export.convert(
        Net([], REWRITTEN_LAYERS), tmp_path / "kept", "fast", spec, verify=False, fuse=False
    )
    told = [each.partition(" ")[0] for each in done.refused_by_onednn]
    assert sorted(told) == ["add", "batch_norm_", "batch_norm_"]


def test_sums_in_a_loop(tmp_path):
    """Of what no operator makes."""

    class Loop(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2D(3, 3, 1)

        def forward(self, x):
            def more(i, y):
                return [i + 1, self.conv(y) + y + y]

            return paddle.static.nn.while_loop(lambda i, y: i < 2, more, [paddle.zeros([1]), x])[1]

    export.convert(Loop(), tmp_path / "fast", "fast", [InputSpec([2, 3, 5, 4], name="x")])


def test_images_in_the_layout_of_onednn_are_read_as_they_are(tmp_path):
    """By the convolution that predicts and by the deformable one."""
    pack = paddle_dcn.ModulatedDeformConv2DPack(18, 18, 3, padding=1)
    pack.conv_offset.weight.set_value(0.1 * paddle.randn(pack.conv_offset.weight.shape))
    model, x = (
        nn.Sequential(nn.Conv2D(3, 18, 1), pack, nn.Conv2D(18, 2, 1)),
        paddle.randn([2, 3, 9, 8]),
    )
    export.convert(model, tmp_path / "fast", "fast", [InputSpec(x.shape, name="x")], verify=False)
    np.savez(tmp_path / "feeds.npz", **{"0/x": x.numpy()})
    files = tmp_path / "fast", tmp_path / "feeds.npz", tmp_path / "outputs.npz"
    done = run_python(SCRIPTS / "run_exported.py", "predictor", *files, ONEDNN_VERBOSE="1")
    with np.load(files[2]) as stored, paddle.no_grad():
        assert_close(stored["predictor/0/0"], model(x).numpy(), "float32", 3 + 324, "out")
    lines = [line for line in done.stdout.splitlines() if ",exec," in line]
    if not any("convolution" in line and "dst:f32:a:blocked:acdb" in line for line in lines):
        pytest.skip("oneDNN has another layout on this processor")
    undone = ":acdb::f0 dst:f32::blocked:abcd"
    assert not any(undone in line and ",2x18x9x8," in line for line in lines)


def test_values_of_leaky_relu(tmp_path):
    """NaN, infinities and zeros too."""
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e38, -1e38, -3.0], "float32")
    export.convert(
        lambda x: F.leaky_relu(x, 0.3), tmp_path / "fast", "fast", [InputSpec([None], name="x")]
    )
    (found,) = _programs.read(*_programs.find(tmp_path / "fast")).run({"x": x})
    np.testing.assert_array_equal(found, F.leaky_relu(paddle.to_tensor(x), 0.3).numpy())
