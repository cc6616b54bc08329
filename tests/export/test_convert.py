"""export.convert, and the command: saved models of Paddle 1, 2 and 3 to every target."""

import hashlib
import re
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

import paddle_dcn
from paddle_dcn import export
from tests.support.cases import pair
from tests.support.comparison import assert_close
from tests.support.export_models import run
from tests.support.process import run_python
from tests.support.programs import needs_paddle_3, static_program

pytestmark = needs_paddle_3

ARCHIVE = Path(__file__).with_name("paddle2.zip")
DEPTH = 400  # rounded terms of an output of these models, a few layers of up to 54 each


class Net(paddle.nn.Layer):
    """Has this package's operator and Paddle's, each with what the other's form lacks."""

    def __init__(self):
        super().__init__()
        self.v2 = paddle_dcn.ModulatedDeformConv2DPack(
            4, 8, 3, padding=(1, 0, 2, 1), stride=2, deformable_groups=2
        )
        self.act = paddle.nn.LeakyReLU(0.1)
        self.offset = paddle.nn.Conv2D(8, 18, 3, padding=1)
        self.v1 = paddle.vision.ops.DeformConv2D(8, 6, 3, padding=1, groups=2)

    def forward(self, image):
        out = self.act(self.v2(image))
        return self.v1(out, self.offset(out))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folder of models, with one of this Paddle, and of each feed and outputs."""
    folder = tmp_path_factory.mktemp("models")
    zipfile.ZipFile(ARCHIVE).extractall(folder)
    (folder / "two").mkdir()
    for name in "ab":
        (folder / "two" / f"{name}.pdiparams").touch()
    paddle.seed(4)
    net = Net()
    for parameter in net.parameters():
        parameter.set_value(paddle.uniform(parameter.shape, min=-0.3, max=0.3))
    net.eval()
    spec = [paddle.static.InputSpec([None, 4, None, None], "float32", "image")]
    paddle.jit.save(net, str(folder / "paddle3" / "inference"), spec)
    image = np.random.default_rng(5).standard_normal((2, 4, 9, 12)).astype("float32")
    with paddle.no_grad():
        np.savez(folder / "paddle3.npz", image=image, out=net(paddle.to_tensor(image)).numpy())
    return folder


def known(models, name):
    """A model's feed, and the outputs that the Paddle which it was made with gave."""
    stored = np.load(models / f"{'v1' if name == 'combined' else name}.npz")
    names = stored.files
    return {names[0]: stored[names[0]]}, [stored[each] for each in names[1:]]


def digests(folder):
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def check(found, wanted):
    assert len(found) == len(wanted)
    for index, (one, other) in enumerate(zip(found, wanted)):
        assert_close(one, other, "float32", DEPTH, f"output {index}")


# Routes of tests/scripts/run_exported.py, which all but the first must do without this package.
# With oneDNN no predictor of Paddle 3.3 runs an interpolation by a half, as one model has.
TARGETS = {
    "fast": ("", ["load", "predictor without oneDNN"]),
    "portable": ("", ["load", "static", "predictor without oneDNN"]),
    "onnx": (".onnx", ["onnx"]),
    "grid_sample": (".onnx", ["onnx"]),
    "openvino": (".xml", ["openvino"]),
}
NEEDS = {"onnx": "paddle2onnx", "grid_sample": "paddle2onnx", "openvino": "openvino"}


ROWS = [(name, to) for name in ("jit", "paddle3") for to in TARGETS]
# These differ in how they are read only.
ROWS += [("v1", "fast"), ("v1", "grid_sample"), ("combined", "portable")]


@pytest.mark.parametrize(("name", "to"), ROWS)
def test_every_model_to_every_target(models, tmp_path, name, to):
    if to in NEEDS and find_spec(NEEDS[to]) is None:
        pytest.skip(f"pip install {NEEDS[to]}")
    feed, wanted = known(models, name)
    before = digests(models)
    done = export.convert(models / name, tmp_path / "made", to, verify=[tuple(feed.values())])
    assert digests(models) == before
    assert sorted(done.files) == sorted(tmp_path.iterdir())
    assert len(done.layers) == (2 if name in ("jit", "paddle3") else 1)
    assert done.difference < 1e-5
    if name == "jit":
        again = export.convert(models / name, tmp_path / "again", to, verify=False)
        for file, other in zip(done.files, again.files):
            assert file.read_bytes() == other.read_bytes()
    if len(done.layers) == 2:
        suffix, routes = TARGETS[to]
        path = tmp_path / f"made{suffix}"
        for found in run(routes, path, [feed], blocked=to != "fast").values():
            check(found[0], wanted)


@pytest.mark.parametrize("to", ["fast", "portable", "onnx"])
def test_bounded_packs(tmp_path, to):
    """The bound is part of the model: convert compares values. Nothing is joined across it."""
    if to in NEEDS and find_spec(NEEDS[to]) is None:
        pytest.skip(f"pip install {NEEDS[to]}")
    paddle.seed(0)
    model = nn.Sequential(
        paddle_dcn.ModulatedDeformConv2DPack(3, 4, 3, padding=1, max_offset=0.75),
        paddle_dcn.DeformConv2DPack(4, 4, 3, padding=1, max_offset=2),
    )
    for layer in model:
        layer.conv_offset.weight.set_value(paddle.randn(layer.conv_offset.weight.shape))
    spec = [paddle.static.InputSpec([None, 3, 9, 8], name="x")]
    done = export.convert(model, tmp_path / "made", to, spec)
    assert done.fused.get("joined", 0) == 0


def test_names_are_kept(models, tmp_path):
    """Those of inputs, outputs and parameters, and their order."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("paddle2onnx")
    (file,) = export.convert(models / "jit", tmp_path / "made", "onnx", verify=False).files
    graph = onnx.load(file).graph
    assert [each.name for each in graph.input] == ["image"]
    outputs = [f"save_infer_model/scale_{number}.tmp_0" for number in (0, 1)]
    assert [each.name for each in graph.output] == outputs
    names = {name for node in graph.node for name in node.output}
    names |= {each.name for each in graph.initializer}
    assert {"deform_conv2d_0.w_0", "deform_conv2d_0.b_0", "batch_norm2d_0.w_1"} <= names
    export.convert(models / "jit", tmp_path / "portable", "portable")
    text = (tmp_path / "portable.json").read_text()
    assert all(f'"{name}"' in text for name in ("image", "deform_conv2d_0.w_0", *outputs))


def test_there_and_back(models, tmp_path):
    """Of a fast model the portable one, and of that a fast one, computes the same."""
    feed, wanted = known(models, "jit")
    source = models / "jit"
    for to in ("fast", "portable", "fast"):
        assert export.convert(source, tmp_path / to, to).files[0] == tmp_path / f"{to}.json"
        source = tmp_path / to
        found = paddle.jit.load(str(source))(*map(paddle.to_tensor, feed.values()))
        check([each.numpy() for each in found], wanted)
        operator = "paddle_dcn" if to == "fast" else "1.deformable_conv"
        assert (tmp_path / f"{to}.json").read_text().count(operator) == 2


@pytest.mark.parametrize("inside", [False, True], ids=["loaded", "holds a loaded one"])
def test_loaded_models(models, tmp_path, inside):
    loaded = paddle.jit.load(str(models / "paddle3" / "inference"))
    feed, (wanted,) = known(models, "paddle3")
    spec = [paddle.static.InputSpec([None, 4, None, None], "float32", "image")]

    class Holder(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.inner = loaded

        def forward(self, image):
            return self.inner(image) + 1

    model = Holder() if inside else loaded
    export.save_portable(model, tmp_path / "portable", spec)
    assert "paddle_dcn" not in (tmp_path / "portable.json").read_text()
    found = paddle.jit.load(str(tmp_path / "portable"))(paddle.to_tensor(feed["image"]))
    found = found[0] if isinstance(found, (list, tuple)) else found
    check([found.numpy()], [wanted + inside])


@pytest.mark.parametrize("biased", [True, False])
def test_open_number_of_filters(tmp_path, biased):
    """A program that gets its weight as an input, and leaves open how many filters it has."""
    shapes = {"x": [-1, 4, -1, -1], "offset": [-1, 18, -1, -1], "weight": [-1, 4, 3, 3]}
    shapes |= {"bias": [-1]} if biased else {}
    rng = np.random.default_rng(9)
    sizes = {"x": (2, 4, 7, 6), "offset": (2, 18, 5, 4), "weight": (5, 4, 3, 3), "bias": (5,)}
    feed = {name: rng.standard_normal(sizes[name]).astype("float32") for name in shapes}
    with static_program():
        inputs = [paddle.static.data(name, shape) for name, shape in shapes.items()]
        out = paddle_dcn.deform_conv2d(*inputs)
        executor = paddle.static.Executor(paddle.CPUPlace())
        (found,) = executor.run(feed=feed, fetch_list=[out])
        paddle.static.save_inference_model(str(tmp_path / "open"), inputs, [out], executor)
    tensors = map(paddle.to_tensor, feed.values())
    wanted = paddle_dcn.deform_conv2d_reference(*tensors).numpy()
    assert_close(found, wanted, "float32", 36, "program")
    source = tmp_path / "open"
    for to in ("portable", "fast"):
        export.convert(source, tmp_path / to, to, verify=[tuple(feed.values())])
        source = tmp_path / to


DAMAGED = {  # the model, which of its files has what content, which is named
    "nothing": ("jit.pdmodel", b"", "jit.pdmodel"),
    "another format": ("jit.pdmodel", b"\x08\x08:\x02\x0a\x00", "jit.pdmodel"),
    "text": ("jit.pdmodel", b"no program", "jit.pdmodel"),
    "half a program": ("inference.json", 300, "inference.json"),
    "an empty program": ("inference.json", b"{}", "inference.json"),
    "half the parameters": ("inference.pdiparams", 900, "inference.pdiparams"),
    "the last parameter cut off": ("inference.pdiparams", -20, "inference.pdiparams"),
    "other parameters": ("inference.pdiparams", b"\xab" * 100, "inference.pdiparams"),
}


# Paddle is imported once, which takes seconds.
CONVERT_EACH = """
import os, sys
from paddle_dcn.__main__ import main
folders, sys.argv[1:] = sys.argv[1:], "convert model --to portable -o out".split()
for folder in folders:
    os.chdir(folder)
    print("status", main())
"""


def test_damaged_files(models, tmp_path):
    """In another process, which Paddle ended for some of them."""
    for name, (file, content, _) in DAMAGED.items():
        folder = tmp_path / name / "model"
        folder.mkdir(parents=True)
        whole = models.glob("jit.*") if file.startswith("jit") else (models / "paddle3").iterdir()
        for each in whole:
            (folder / each.name).write_bytes(each.read_bytes())
        content = (folder / file).read_bytes()[:content] if isinstance(content, int) else content
        (folder / file).write_bytes(content)
    done = run_python("-c", CONVERT_EACH, *(tmp_path / name for name in DAMAGED))
    assert done.returncode == 0, done.stdout + done.stderr[-1000:]
    *said, rest = done.stdout.split("status 1\n")
    assert len(said) == len(DAMAGED) and not rest, done.stdout
    for (name, (_, _, named)), words in zip(DAMAGED.items(), said):
        assert re.fullmatch(
            rf"not converted: model: Paddle [\d.]+ cannot read .*{named}: .+",
            words.splitlines()[-1],
        ), name
        assert [each.name for each in (tmp_path / name).iterdir()] == ["model"], name


def test_layers_are_told_by_attributes(tmp_path):
    """Of a model in Python; what Paddle saves has only their kinds."""
    model = paddle.nn.Sequential(
        ("body", paddle.nn.Sequential(paddle_dcn.DeformConv2DPack(3, 4, 3)))
    )
    spec = [paddle.static.InputSpec([None, 3, None, None])]
    done = export.convert(model, tmp_path / "made", "portable", spec)
    assert done.layers[0].startswith("body.0 (DeformConv2DPack): v1, ")


class Pyramid(paddle.nn.Layer):
    """What a predictor with oneDNN cannot run, and what is like it and runs there."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = paddle.nn.Conv2D(3, 3, 3), paddle.nn.BatchNorm2D(3)
        self.act, self.pointwise = paddle.nn.LeakyReLU(), paddle.nn.Conv2D(3, 3, 1)
        self.nearest = paddle.nn.Upsample(scale_factor=2)
        self.bilinear = paddle.nn.Upsample(size=[9, 8], mode="bilinear")
        self.bicubic = paddle.nn.Upsample(scale_factor=2, mode="bicubic")
        self.last = paddle_dcn.DeformConv2DPack(3, 3, 3)
        self.channels_last = paddle_dcn.DeformConv2DPack(3, 3, 3, data_format="NHWC")

    def forward(self, x):
        x = self.act(self.conv(x))
        x = self.act(self.norm(self.pointwise(x)))
        x = self.act(x + 1)
        x = self.last(self.bicubic(self.bilinear(self.nearest(x))))
        return self.channels_last(x.transpose([0, 2, 3, 1]))


def test_what_onednn_refuses(tmp_path):
    spec = [paddle.static.InputSpec([None, 3, None, None])]
    done = export.convert(Pyramid(), tmp_path / "made", "fast", spec, verify=False, fuse=False)
    assert [each.partition(" of layer ")[::2] for each in done.refused_by_onednn] == [
        ("leaky_relu", "act (LeakyReLU)"),
        ("leaky_relu", "act (LeakyReLU)"),
        ("nearest_interp", "nearest (Upsample)"),
        ("bilinear_interp", "bilinear (Upsample)"),
        ("paddle_dcn_v1", "channels_last (DeformConv2DPack)"),
    ]
    done = export.convert(Pyramid(), tmp_path / "made", "fast", spec, verify=False)
    refused = ["paddle_dcn_inference of layer channels_last (DeformConv2DPack)"]
    assert done.refused_by_onednn == refused
    double = paddle.nn.Sequential(paddle_dcn.DeformConv2DPack(3, 3, 3)).to(dtype="float64")
    spec = [paddle.static.InputSpec([None, 3, None, None], "float64")]
    done = export.convert(double, tmp_path / "double", "fast", spec, verify=False)
    assert done.refused_by_onednn == ["conv2d of layer 0.conv_offset (OffsetConv2D)"]


# Convolutions that end a predictor with oneDNN: x, then outputs, kernel, stride, padding, dilation.
# Each was run with it, in a process that died, or did not.
CRASHING = [
    ([1, 5, 6, 1], 30, (3, 1), (2, 2), (0, 1), (2, 2)),
    ([1, 5, -1, -1], 30, (3, 1), (2, 2), (0, 1), (2, 2)),
    ([1, 4, 7, 1], 12, (3, 1), (3, 3), (3, 2), (2, 3)),
    ([1, 16, 5, 2], 5, (3, 1), (3, 3), (1, 1), (2, 3)),
    ([1, 2, 9, 1], 2, (3, 1), (1, 4), (0, 9), (1, 3)),
    ([1, 8, 3, 1], 40, (1, 2), (1, 2), (3, 2), (2**31 - 1, 2)),
    ([1, 3, 6, 10], 27, (3, 4), (2, 2**31 - 1), (1, 2), (2, 3)),
]
RUNNING = [
    ([1, 5, 6, 1], 30, (3, 2), (2, 2), (0, 1), (2, 2)),
    ([1, 5, 6, 1], 30, (3, 1), (2, 2), (0, 1), (2, 1)),
    ([1, 5, 6, 1], 30, (3, 1), (2, 3), (0, 1), (2, 2)),
    ([1, 5, 6, 2], 30, (3, 1), (2, 2), (0, 1), (2, 2)),
    ([1, 5, 1, 6], 30, (1, 3), (2, 2), (1, 0), (2, 2)),
    ([1, 5, 6, 1], 30, (3, 1), (2, 2), (0, (1, 0)), (2, 2)),
    ([1, 5, 3, 3], 30, (1, 1), (2, 2), (1, 1), (2**30, 2**30)),
]


class Convolutions(paddle.nn.Layer):
    """Some of the rows, each of an input of its own."""

    def __init__(self, rows):
        super().__init__()
        self.spec = [
            paddle.static.InputSpec([None if n < 0 else n for n in shape], name=f"x{index}")
            for index, (shape, *_) in enumerate(rows)
        ]
        self.layers = paddle.nn.LayerList(
            paddle.nn.Conv2D(
                shape[1], outputs, kernel, stride, [*pair(pads[0]), *pair(pads[1])], dilation
            )
            for shape, outputs, kernel, stride, pads, dilation in rows
        )

    def forward(self, tensors):
        return [layer(x) for layer, x in zip(self.layers, tensors)]


def test_convolutions_that_onednn_crashes_at(tmp_path):
    model = Convolutions(CRASHING)
    told = ", ".join(f"conv2d of layer layers.{i} (Conv2D)" for i in range(len(CRASHING)))
    with pytest.warns(UserWarning, match=re.escape(f"it may fail at {told}") + "$"):
        export.save_portable(model, tmp_path / "made", [model.spec], verify=False)


def test_convolutions_that_onednn_runs(tmp_path):
    model = Convolutions(RUNNING)
    done = export.convert(model, tmp_path / "made", "portable", [model.spec], verify=False)
    assert not done.refused_by_onednn
    feed = {f"x{index}": paddle.randn(shape).numpy() for index, (shape, *_) in enumerate(RUNNING)}
    found = run(["predictor"], tmp_path / "made", [feed])["predictor"][0]
    with paddle.no_grad():
        wanted = [each.numpy() for each in model([*map(paddle.to_tensor, feed.values())])]
    for row, one, other in zip(RUNNING, found, wanted):
        assert_close(one, other, "float32", 45, f"{row}")


def test_command(models, tmp_path):
    before = digests(models)
    command = ("-m", "paddle_dcn", "convert", models / "jit.pdmodel")
    done = run_python(*command, "--check", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "input image: [-1, 4, -1, -1] float32" in done.stdout
    assert "2 deformable convolutions" in done.stdout
    assert "v2, 3x3, x [-1, 4, -1, -1] float32, weight [6, 4, 3, 3]" in done.stdout
    assert "needs config.disable_mkldnn()" in done.stdout
    assert "  bilinear_interp\n" in done.stdout
    assert not list(tmp_path.iterdir())
    done = run_python(*command, "--to", "portable", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "wrote jit_portable.json" in done.stdout
    assert "verified: outputs differ by" in done.stdout
    assert "needs config.disable_mkldnn()" in done.stdout
    names = ["jit_portable.json", "jit_portable.pdiparams"]
    assert sorted(each.name for each in tmp_path.iterdir()) == names
    assert digests(models) == before


@pytest.mark.parametrize(
    ("model", "to", "error", "message"),
    [
        ("paddle3/inference", "portable", ValueError, "out: .*inference.json is the model itself"),
        ("nothing", "fast", FileNotFoundError, "model: found no .*nothing.json and no .*pdmodel"),
        ("two", "fast", ValueError, "model: expected one saved model in the folder .*, got a, b"),
        ("jit.npz", "fast", ValueError, "model: Paddle .* cannot read .*jit.npz"),
        ("jit", "torch", ValueError, "to: expected one of fast, portable, onnx, .*, got 'torch'"),
    ],
)
def test_refusals(models, model, to, error, message):
    before = digests(models)
    with pytest.raises(error, match=f"^{message}"):
        export.convert(models / model, models / "paddle3" / "inference", to)
    assert digests(models) == before


def test_outputs_that_tell_nothing(tmp_path):
    """Where all values are NaN, right and wrong ones look alike; a warning names the output."""

    class Two(nn.Layer):
        def __init__(self):
            super().__init__()
            self.layer = paddle_dcn.DeformConv2DPack(2, 3, 1)

        def forward(self, x):
            nothing = 0 * self.layer(x)
            return self.layer(x), nothing / nothing

    spec = [paddle.static.InputSpec([1, 2, 5, 6], "float32", "x")]
    with pytest.warns(UserWarning, match="nothing was compared of [^,]+, as all its values"):
        export.convert(Two(), tmp_path / "two", "portable", spec)


@pytest.mark.skipif(
    paddle.__version__ < "3.3", reason="its programs have the slope of LeakyReLU as float32"
)
def test_a_wrong_file_is_refused_by_name(tmp_path, monkeypatch):
    """Without the rewriting of float64 attributes paddle2onnx loses the slope of LeakyReLU."""
    pytest.importorskip("paddle2onnx")
    _onnx = pytest.importorskip("paddle_dcn.export._onnx")
    monkeypatch.setattr(_onnx, "_narrow_attributes", lambda program: None)
    layers = paddle_dcn.DeformConv2DPack(3, 4, 3), paddle.nn.LeakyReLU(0.3)
    spec = [paddle.static.InputSpec([None, 3, None, None])]
    with pytest.raises(
        ValueError, match="first operator that differs is leaky_relu of layer 1 .LeakyReLU"
    ):
        export.onnx(paddle.nn.Sequential(*layers), tmp_path / "made", spec)
    assert not list(tmp_path.iterdir())


def test_parameters_are_missing(models, tmp_path):
    (tmp_path / "alone.pdmodel").write_bytes((models / "jit.pdmodel").read_bytes())
    with pytest.raises(ValueError, match="alone.pdmodel has parameters, whose file is missing"):
        export.convert(tmp_path / "alone", tmp_path / "made", "fast")
    assert [each.name for each in tmp_path.iterdir()] == ["alone.pdmodel"]
