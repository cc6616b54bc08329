"""export.onnx of what stands beside deformable layers in networks: right, or refused by its name.

The layers are those of PaddleDetection's, PaddleOCR's, PaddleSeg's and PaddleGAN's networks that
use deformable convolution, in the argument forms that are found there, and some more.
"""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

import paddle_dcn
from paddle_dcn import export
from paddle_dcn.export import _files, _forms, _programs, _tracing

if paddle.__version__.startswith("2."):  # beside which paddle2onnx cannot even be imported
    pytest.skip("Paddle 2 is supported in dynamic mode", allow_module_level=True)
pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("paddle2onnx")
_onnx = pytest.importorskip("paddle_dcn.export._onnx")


class Call(nn.Layer):
    """A layer that calls a function, with an inner layer if there is one."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function = function
        self.layers = nn.LayerList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


def interpolate(**arguments):
    return lambda: Call(lambda x: F.interpolate(x, **arguments))


def sequence(x):
    return x.flatten(2).transpose([0, 2, 1])


def grid_of(x):
    return paddle.transpose(x[:, :2] * 0.3, [0, 2, 3, 1])


RIGHT = {
    # Activations
    "LeakyReLU": lambda: nn.LeakyReLU(0.1),
    "ReLU6": nn.ReLU6,
    "PReLU of channels": lambda: nn.PReLU(8),
    "PReLU": nn.PReLU,
    "RReLU": nn.RReLU,
    "ELU": lambda: nn.ELU(0.3),
    "CELU": lambda: nn.CELU(0.4),
    "SELU": nn.SELU,
    "Silu": nn.Silu,
    "Swish": nn.Swish,
    "Mish": nn.Mish,
    "GELU": nn.GELU,
    "GELU by tanh": lambda: nn.GELU(True),
    "Hardtanh": lambda: nn.Hardtanh(-0.5, 0.7),
    "Hardsigmoid": nn.Hardsigmoid,
    "Hardswish": nn.Hardswish,
    "Hardshrink": lambda: nn.Hardshrink(0.3),
    "Softshrink": lambda: nn.Softshrink(0.3),
    "Softplus": nn.Softplus,
    "Softplus(2, 5)": lambda: nn.Softplus(2.0, 5.0),
    "Softsign": nn.Softsign,
    "Tanhshrink": nn.Tanhshrink,
    "ThresholdedReLU": lambda: nn.ThresholdedReLU(0.3),
    "LogSigmoid": nn.LogSigmoid,
    "LogSigmoid of large values": lambda: Call(lambda x: F.log_sigmoid(x * 1000)),
    "Maxout": lambda: nn.Maxout(2),
    "GLU": lambda: nn.GLU(1),
    "Softmax": lambda: nn.Softmax(1),
    "LogSoftmax": lambda: nn.LogSoftmax(1),
    # Normalisations
    "GroupNorm": lambda: nn.GroupNorm(4, 8),
    "BatchNorm2D": lambda: nn.BatchNorm2D(8),
    "InstanceNorm2D": lambda: nn.InstanceNorm2D(8),
    "LayerNorm": lambda: Call(lambda x, norm: norm(sequence(x)), nn.LayerNorm(8)),
    "normalize": lambda: Call(lambda x: F.normalize(x)),
    # Resizing
    "Upsample nearest": lambda: nn.Upsample(scale_factor=2.0),
    "Upsample bilinear": lambda: nn.Upsample(scale_factor=2.0, mode="bilinear"),
    "Upsample align_corners": lambda: nn.Upsample(
        scale_factor=2, mode="bilinear", align_corners=True
    ),
    "Upsample align_mode": lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_mode=1),
    "Upsample bicubic": lambda: nn.Upsample(scale_factor=2, mode="bicubic"),
    "Upsample to a size": lambda: nn.Upsample(size=[20, 24]),
    "interpolate nearest to an odd size": interpolate(size=[21, 9]),
    "interpolate nearest to another odd size": lambda: Call(
        lambda x: F.interpolate(x[:, :, 1:, 3:], size=paddle.shape(x)[2:])
    ),
    "interpolate by a tensor": lambda: Call(
        lambda x: F.interpolate(x, scale_factor=paddle.to_tensor([2.0, 2.0]), mode="bilinear")
    ),
    "interpolate nearest by half": interpolate(scale_factor=0.5, mode="nearest"),
    "interpolate bilinear by half": interpolate(scale_factor=0.5, mode="bilinear"),
    "interpolate by two factors": interpolate(scale_factor=[2.0, 1.5], mode="bilinear"),
    "interpolate bilinear to a size": interpolate(size=[20, 24], mode="bilinear"),
    "interpolate bicubic to a size": interpolate(size=[20, 24], mode="bicubic"),
    "interpolate area": interpolate(size=[5, 4], mode="area"),
    "interpolate nearest to another": lambda: Call(
        lambda x: F.interpolate(x[:, :, ::2, ::2], size=paddle.shape(x)[2:], mode="nearest")
    ),
    "interpolate bilinear to another": lambda: Call(
        lambda x: F.interpolate(x[:, :, ::2, ::2], size=paddle.shape(x)[2:], mode="bilinear")
    ),
    "PixelShuffle": lambda: nn.PixelShuffle(2),
    "grid_sample": lambda: Call(lambda x: F.grid_sample(x, grid_of(x))),
    "grid_sample to the border": lambda: Call(
        lambda x: F.grid_sample(x, grid_of(x), padding_mode="border", align_corners=False)
    ),
    # Pooling
    "MaxPool2D": lambda: nn.MaxPool2D(3, 2, 1),
    "MaxPool2D ceil": lambda: nn.MaxPool2D(2, 2, ceil_mode=True),
    "AvgPool2D": lambda: nn.AvgPool2D(3, 2, 1),
    "AvgPool2D inclusive": lambda: nn.AvgPool2D(3, 2, 1, exclusive=False),
    "AdaptiveAvgPool2D(1)": lambda: nn.AdaptiveAvgPool2D(1),
    "AdaptiveAvgPool2D(3)": lambda: nn.AdaptiveAvgPool2D(3),
    "AdaptiveAvgPool2D(4)": lambda: nn.AdaptiveAvgPool2D(4),
    "AdaptiveAvgPool2D((5, 2))": lambda: nn.AdaptiveAvgPool2D((5, 2)),
    "AdaptiveMaxPool2D(1)": lambda: nn.AdaptiveMaxPool2D(1),
    # Convolutions and products
    "Conv2D depthwise": lambda: nn.Conv2D(8, 8, 3, padding=1, groups=8),
    "Conv2D same": lambda: nn.Conv2D(8, 8, 3, 2, padding="SAME"),
    "Conv2D dilated": lambda: nn.Conv2D(8, 4, 3, padding=2, dilation=2),
    "Conv2D reflect": lambda: nn.Conv2D(8, 4, 3, padding=1, padding_mode="reflect"),
    "Conv2DTranspose": lambda: nn.Conv2DTranspose(8, 4, 4, 2, 1),
    "Conv2DTranspose output_padding": lambda: nn.Conv2DTranspose(8, 4, 3, 2, 1, output_padding=1),
    "Conv2DTranspose groups": lambda: nn.Conv2DTranspose(8, 8, 4, 2, 1, groups=8),
    "Linear": lambda: nn.Sequential(nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(8, 5)),
    "MultiHeadAttention": lambda: Call(
        lambda x, layer: layer(sequence(x)), nn.MultiHeadAttention(8, 2)
    ),
    "LSTM": lambda: Call(lambda x, layer: layer(sequence(x))[0], nn.LSTM(8, 4)),
    "GRU": lambda: Call(lambda x, layer: layer(sequence(x))[0], nn.GRU(8, 4)),
    "einsum": lambda: Call(lambda x: paddle.einsum("nchw,ndhw->ncd", x, x)),
    "Unfold": lambda: nn.Unfold(3, 1, 1),
    # Padding and moving
    "pad with a value": lambda: Call(lambda x: F.pad(x, [1, 2, 0, 1], value=0.5)),
    "pad reflect": lambda: Call(lambda x: F.pad(x, [1, 2, 0, 1], mode="reflect")),
    "pad replicate": lambda: Call(lambda x: F.pad(x, [1, 2, 0, 1], mode="replicate")),
    "pad circular": lambda: Call(lambda x: F.pad(x, [1, 2, 0, 1], mode="circular")),
    "ChannelShuffle": lambda: nn.ChannelShuffle(2),
    "flip": lambda: Call(lambda x: x.flip([3])),
    "roll": lambda: Call(lambda x: paddle.roll(x, [1, 2], [2, 3])),
    "tile": lambda: Call(lambda x: x.tile([1, 1, 2, 1])),
    "split and concat": lambda: Call(lambda x: paddle.concat(x.split([3, 5], 1)[::-1], 1)),
    "gather": lambda: Call(lambda x: paddle.gather(x, paddle.to_tensor([1, 3]), axis=1)),
    "where": lambda: Call(lambda x: paddle.where(x > 0.1, x, x * 0.2)),
    "topk": lambda: Call(lambda x: x.flatten(1).topk(5)[0]),
    "arange of an open size": lambda: Call(
        lambda x: x + paddle.arange(paddle.shape(x)[3]).astype("float32")
    ),
    # Arithmetic
    "scale": lambda: Call(lambda x: x * 1.7 + 0.3),
    "number before a tensor": lambda: Call(lambda x: 1 / (2 + x * x) + 2**x),
    "clip": lambda: Call(lambda x: paddle.clip(x, -0.5, 0.7)),
    "clip one side": lambda: Call(lambda x: x.clip(min=0.1)),
    "pow": lambda: Call(lambda x: x.abs() ** 1.5),
    "rsqrt": lambda: Call(lambda x: (x * x + 0.1).rsqrt()),
    "std": lambda: Call(lambda x: x.std(axis=1)),
    "amax": lambda: Call(lambda x: paddle.amax(x, axis=1)),
    "lerp": lambda: Call(lambda x: paddle.lerp(x, x * 2, 0.3)),
    "logit": lambda: Call(lambda x: paddle.logit(F.sigmoid(x), 1e-3)),
    "label_smooth": lambda: Call(lambda x: F.label_smooth(x, epsilon=0.2)),
    "trunc": lambda: Call(lambda x: (x * 3).trunc()),
    "cumsum": lambda: Call(lambda x: x.cumsum(axis=2)),
    "Dropout": lambda: nn.Dropout(0.3),
}

# What the refusal says. paddle2onnx does not know the first, and gets the others wrong.
REFUSED = {
    "lgamma": (lambda: Call(paddle.lgamma), r"the operator lgamma of layer 1 \(Call\)$"),
    "AdaptiveMaxPool2D(3)": (
        lambda: nn.AdaptiveMaxPool2D(3),
        r"the operator max_pool2d_with_index of layer 1 \(AdaptiveMaxPool2D\): ",
    ),
    "temporal_shift": (
        lambda: Call(lambda x: F.temporal_shift(x, 2)),
        r"gets the operator temporal_shift of layer 1 \(Call\) wrong$",
    ),
    "fft2": (
        lambda: Call(lambda x: paddle.fft.fft2(x).abs()),
        r"gets the operator fft_r2c of layer 1 \(Call\) wrong$",
    ),
    "repeat_interleave": (
        lambda: Call(lambda x: paddle.repeat_interleave(x, 2, axis=2)),
        r"cannot run the operator repeat_interleave of layer 1 \(Call\): ",
    ),
}
if paddle.__version__.startswith("3.0."):
    del REFUSED["fft2"]  # which it cannot trace with an open size
SIZES = [(2, 4, 16, 20), (4, 4, 24, 14)]


def network(layer):
    """Return a deformable layer with a layer after it."""
    return trained(nn.Sequential(paddle_dcn.ModulatedDeformConv2DPack(4, 8, 3, padding=1), layer))


def trained(model):
    """Return a model with parameters as after training."""
    for parameter in model.parameters():
        low, high = (0.3, 0.9) if len(parameter.shape) == 1 else (-0.2, 0.2)
        parameter.set_value(paddle.uniform(parameter.shape, min=low, max=high))
    model.eval()
    return model


@pytest.fixture(scope="module")
def exported():
    """Each network, its program, and its ONNX or why there is none: paddle2onnx starts once."""
    paddle.seed(0)
    factories = {**RIGHT, **{name: make for name, (make, _) in REFUSED.items()}}
    models = {name: network(make()) for name, make in factories.items()}
    programs = []
    with _files.temporary_folder() as folder:
        for number, model in enumerate(models.values()):
            path = folder / str(number)
            _tracing.save(model, path, [paddle.static.InputSpec([None, 4, None, None])])
            programs.append(_programs.read(*_programs.find(path)))
    files = _onnx.convert_all(programs, _forms.deform_conv, 19)
    return dict(zip(models, zip(models.values(), programs, files)))


def check(found, wanted, name):
    assert found.shape == wanted.shape, name
    # 4 * 9 products and a few dozen roundings after them, each of half a unit of 2**-23.
    limit = 100 * 2.0**-24 * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize("name", RIGHT)
def test_right(exported, tmp_path, name):
    model, _, content = exported[name]
    assert isinstance(content, bytes), content
    (tmp_path / "model.onnx").write_bytes(content)
    run = _onnx.load(tmp_path / "model")
    rng = np.random.default_rng(3)
    for shape in SIZES:
        x = rng.standard_normal(shape).astype("float32")
        with paddle.no_grad():
            wanted = model(paddle.to_tensor(x)).numpy()
        (found,) = run({"input": x})
        check(found, wanted, name)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(exported, tmp_path, name):
    _, program, _ = exported[name]
    with pytest.raises((ValueError, NotImplementedError), match=REFUSED[name][1]):
        export._write(program, tmp_path / "model", "onnx", 19, [])
    assert not list(tmp_path.iterdir())


class Side(nn.Layer):
    """Gives what each of many layers makes of one deformable layer's output."""

    def __init__(self, layers):
        super().__init__()
        self.first = paddle_dcn.ModulatedDeformConv2DPack(4, 8, 3, padding=1)
        self.layers = nn.LayerList(layers)

    def forward(self, x):
        x = self.first(x)
        return [layer(x) for layer in self.layers]


# Which layers in which opset. Paddle's nearest pixel depends on how a quotient is rounded.
TARGETS = {
    "grid_sample": (16, [*RIGHT]),
    "openvino": (19, [name for name in RIGHT if "nearest" in name]),
}


@pytest.mark.parametrize("to", TARGETS)
def test_all_in_one_file(tmp_path, to):
    """In the other forms: a file for each layer would take a minute."""
    if to == "openvino":
        pytest.importorskip("openvino")
    opset, names = TARGETS[to]
    model = trained(Side([RIGHT[name]() for name in names]))
    spec = [paddle.static.InputSpec([None, 4, None, None])]
    export.convert(model, tmp_path / "model", to, spec, opset=opset, verify=False)
    _, load = export._runtime(to, opset)
    run = load(tmp_path / "model")
    rng = np.random.default_rng(3)
    for shape in SIZES:
        x = rng.standard_normal(shape).astype("float32")
        with paddle.no_grad():
            wanted = model(paddle.to_tensor(x))
        found = run({"x": x})
        assert len(found) == len(names)
        for name, one, other in zip(names, found, wanted):
            check(one, other.numpy(), name)
