"""export.onnx: the nodes that it makes, and what ONNX Runtime makes of them."""

import sys
from importlib.util import find_spec

import numpy as np
import paddle
import pytest

import paddle_dcn
from paddle_dcn import export
from paddle_dcn.export import _standard
from tests.support.cases import Case
from tests.support.comparison import EPSILON, assert_close, tolerance
from tests.support.export_models import SPEC, Table, assert_same, detector, dynamic, images, run
from tests.support.operators import expected
from tests.support.process import run_python
from tests.support.programs import PADDLE_3_1_ITSELF, needs_paddle_3, needs_paddle_3_1

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = [
    needs_paddle_3,  # paddle2onnx cannot even be imported beside Paddle 2
    pytest.mark.skipif(find_spec("paddle2onnx") is None, reason="pip install paddle2onnx"),
]

GROUPED = Case(2, 6, (7, 5), 12, padding=1, groups=2, deformable_groups=3)
PADDED = Case(2, 5, (9, 8), 4, padding=(2, 0, 1, 3), stride=(2, 3), modulated=False)
CASES = [
    GROUPED,
    Case(2, 64, (7, 5), 4, padding=1, deformable_groups=2, modulated=False, bias=False),
    PADDED,
    Case(1, 4, (9, 8), 4, kernel=(2, 3), padding=(0, 5, 4, 0), stride=(3, 2), bias=False),
    Case(1, 4, (9, 11), 3, padding=(4, 3), stride=(2, 3), dilation=2, offsets="border"),
    Case(2, 9, (6, 7), 6, padding=(1, 2, 2, 0), groups=3, deformable_groups=9, data_format="NHWC"),
    Case(2, 8, (6, 7), 5, padding=1, deformable_groups=4),  # 5 filters, which 4 does not divide
]
ROWS = [(case, ("float32", "float32")) for case in CASES]
ROWS += [(GROUPED, ("float16", "float32")), (PADDED, ("float64", "float32"))]
ROWS += [(PADDED, ("bfloat16", "bfloat16"))]


def nodes(path):
    """The DeformConv nodes: (attributes, number of inputs)."""
    found = [node for node in onnx.load(path).graph.node if node.op_type == "DeformConv"]
    return [
        ({a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}, list(node.input))
        for node in found
    ]


def test_detector(tmp_path):
    model = detector()
    path = export.onnx(model, tmp_path / "detector", SPEC)
    assert [path] == list(tmp_path.iterdir())
    assert path.name == "detector.onnx"
    (found,) = run(["onnx"], path, images()).values()
    assert_same(found, dynamic(model, images()))
    attributes = [(a["offset_group"], a["group"], len(inputs)) for a, inputs in nodes(path)]
    assert attributes == [(2, 1, 5), (1, 2, 5), (1, 1, 5)]
    again = export.onnx(model, tmp_path / "again", SPEC)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("opset", "open_sizes"), [(19, True), (22, False)])
def test_every_call_has_a_node(tmp_path, opset, open_sizes):
    table = Table(ROWS)
    feeds = [tuple(table.inputs().values())]
    path = export.onnx(table, tmp_path / "table.onnx", table.spec(open_sizes), opset, verify=feeds)
    (model,) = onnx.load(path).opset_import
    assert model.version == opset
    (outputs,) = run(["onnx"], path, [table.inputs()])["onnx"]
    table.check(outputs)
    for (case, _), (attributes, inputs) in zip(ROWS, nodes(path)):
        top, left, bottom, right = attributes["pads"]  # as TensorRT's parser wants them
        assert (top, left) == (bottom, right)
        assert attributes["offset_group"] == case.deformable_groups
        assert attributes["group"] == case.groups
        assert len(inputs) == 5
        if case.outputs % case.deformable_groups == 0:
            assert inputs[3].startswith("helper.constant") != case.bias  # paddle2onnx's zeros


def test_every_call_has_a_grid_sample(tmp_path):
    """In the oldest opset that has the operator, and with nothing that came after it."""
    table = Table(ROWS)
    feeds = [tuple(table.inputs().values())]
    spec = table.spec(dynamic=True)
    path = export.onnx(table, tmp_path / "table", spec, 16, "grid_sample", verify=feeds)
    (model,) = onnx.load(path).opset_import
    assert model.version == 16
    assert not nodes(path)
    (outputs,) = run(["onnx"], path, [table.inputs()])["onnx"]
    for (case, dtypes), out in zip(ROWS, outputs):
        wanted = expected(case)["out"]
        coarsest = max((dtypes[0], "float32"), key=EPSILON.__getitem__)
        # Positions are rounded as shares of the image, up to 12 pixels wide: 2**-24 * 12 pixels off
        # at most, three times, of samples that change by twice the largest value in a pixel.
        limit = tolerance(coarsest, case.depth["out"], np.abs(wanted).max())
        limit += 3 * 12 * 2.0**-24 * 2 * 4 * np.abs(wanted).max()
        np.testing.assert_allclose(out, wanted, rtol=0, atol=limit, err_msg=str(case))


@pytest.mark.parametrize("open_sizes", [True, False])
def test_grid_sample_far_outside(tmp_path, open_sizes):
    """Finite offsets of any size, of which a position times 2 may be infinite."""
    model = paddle_dcn.DeformConv2D(4, 4, 3, padding=1)
    rng = np.random.default_rng(8)
    x, offset = (rng.standard_normal((2, n, 6, 5)).astype("float32") for n in (4, 18))
    far = rng.choice([1e3, 1e9, 1e20, 3e38], offset.shape) * np.sign(offset)
    offset = np.where(rng.random(offset.shape) < 0.3, far, offset).astype("float32")
    sizes = [None, None] if open_sizes else [6, 5]
    spec = [
        paddle.static.InputSpec([None, n, *sizes], "float32", name)
        for n, name in ((4, "x"), (18, "offset"))
    ]
    feed = {"x": x, "offset": offset}
    path = export.onnx(model, tmp_path / "far", spec, form="grid_sample", verify=[(x, offset)])
    ((found,),) = run(["onnx"], path, [feed])["onnx"]
    with paddle.no_grad():
        wanted = model(paddle.to_tensor(x), paddle.to_tensor(offset)).numpy()
    assert_close(found, wanted, "float32", 36, "out")


@needs_paddle_3_1("its convolution refuses open channels in programs")
@pytest.mark.skipif(PADDLE_3_1_ITSELF, reason="its deformable_conv refuses open channels")
@pytest.mark.parametrize("form", ["deform_conv", "grid_sample"])
def test_channels_that_only_the_weight_tells(tmp_path, form):
    class Unknown(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.layer = paddle_dcn.DeformConv2D(3, 8, 3)

        def forward(self, x, offset):
            shape = paddle.shape(x)
            return self.layer(x.reshape([shape[0], -1, shape[2], shape[3]]), offset)

    model = Unknown()
    x, offset = (
        np.random.default_rng(2).random((2, n, s, s), "float32") for n, s in ((3, 8), (18, 6))
    )
    spec = [
        paddle.static.InputSpec([None, n, None, None], "float32", name)
        for n, name in ((3, "x"), (18, "offset"))
    ]
    path = export.onnx(model, tmp_path / "model", spec, form=form, verify=[(x, offset)])
    ((found,),) = run(["onnx"], path, [{"x": x, "offset": offset}])["onnx"]
    with paddle.no_grad():
        wanted = model(paddle.to_tensor(x), paddle.to_tensor(offset)).numpy()
    assert_close(found, wanted, "float32", 27, "out")


def test_form(tmp_path):
    with pytest.raises(ValueError, match="form: expected 'deform_conv' or 'grid_sample', got 'x'"):
        export.onnx(paddle.nn.ReLU(), tmp_path / "model", SPEC, form="x")


def test_stale_weights_are_refused(tmp_path):
    """paddle.jit.save saves the weights that weight_norm had before the last step of training."""
    layers = (
        paddle_dcn.DeformConv2DPack(3, 4, 3),
        paddle.nn.utils.weight_norm(paddle.nn.Conv2D(4, 4, 3)),
    )
    model = paddle.nn.Sequential(*layers)
    model[1].weight_g.set_value(model[1].weight_g * 3)
    model.eval()
    with pytest.raises(
        ValueError, match="what paddle.jit.save makes of it is off by .*weight_norm"
    ):
        export.onnx(model, tmp_path / "model", SPEC)
    assert not list(tmp_path.iterdir())
    model(paddle.rand([1, 3, 9, 9]))
    export.onnx(model, tmp_path / "model", SPEC)


@pytest.mark.parametrize("modulated", [True, False])
def test_builtin_layers_keep_their_attributes(tmp_path, modulated):
    """Also Paddle's own layer, whose deformable groups and missing mask paddle2onnx forgets."""

    class Both(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.ours = paddle_dcn.DeformConv2D(4, 4, 3, padding=1, deformable_groups=4)
            self.builtin = paddle.vision.ops.DeformConv2D(4, 4, 3, padding=1, deformable_groups=2)

        def forward(self, x, offset, mask):
            out = self.builtin(x, offset[:, :36], mask[:, :18] if modulated else None)
            return [self.ours(out, offset, mask)]

    model = Both()
    shapes = {"x": (2, 4, 6, 5), "offset": (2, 72, 6, 5), "mask": (2, 36, 6, 5)}
    rng = np.random.default_rng(4)
    feed = {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}
    spec = [
        paddle.static.InputSpec([None, shape[1], None, None], "float32", name)
        for name, shape in shapes.items()
    ]
    path = export.onnx(model, tmp_path / "both", spec)
    found = [(attributes["offset_group"], len(inputs)) for attributes, inputs in nodes(path)]
    assert found == [(2, 5), (4, 5)]
    ((found,),) = run(["onnx"], path, [feed])["onnx"]
    ((wanted,),) = dynamic(model, [feed])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


class Boxes(paddle.nn.Layer):
    """A detector's end: boxes and scores of a deformable layer, and what is kept of them."""

    def __init__(self, keep):
        super().__init__()
        self.layer = paddle_dcn.ModulatedDeformConv2DPack(3, 7, 3, 2, 1)
        self.keep = keep

    def forward(self, image):
        out = self.layer(image).flatten(2)
        corner, size = out[:, :2].abs() * 20, out[:, 2:4].abs() * 20 + 5
        boxes = paddle.concat([corner, corner + size], 1).transpose([0, 2, 1])
        return self.keep(boxes, paddle.nn.functional.sigmoid(out[:, 4:]))


def multiclass_nms(boxes, scores):
    kept, _, number = paddle._C_ops.multiclass_nms3(
        boxes, scores, None, 0.4, 50, 20, 0.5, True, 1.0, -1
    )
    return [kept, number]


def matrix_nms(boxes, scores):
    return paddle.vision.ops.matrix_nms(boxes, scores, 0.4, 0.1, 50, 20)[0]


def test_non_maximum_suppression(tmp_path):
    paddle.seed(3)
    spec = [paddle.static.InputSpec([1, 3, 24, 24], "float32", "image")]
    model = Boxes(multiclass_nms)
    path = export.onnx(model, tmp_path / "model", spec)
    feed = {"image": np.random.default_rng(4).standard_normal((1, 3, 24, 24)).astype("float32")}
    (found,), (wanted,) = run(["onnx"], path, [feed])["onnx"], dynamic(model, [feed])
    assert 1 < wanted[1][0] <= 20
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5, atol=1e-4)
    message = "^model: paddle2onnx cannot convert the operator matrix_nms$"
    with pytest.raises(NotImplementedError, match=message):
        export.onnx(Boxes(matrix_nms), tmp_path / "other", spec)


class Branches(paddle.nn.Layer):
    """Takes one of two deformable layers, depending on the image."""

    def __init__(self):
        super().__init__()
        self.bright = paddle_dcn.DeformConv2DPack(3, 4, 3, padding=(1, 0, 2, 0))
        self.dark = paddle_dcn.ModulatedDeformConv2DPack(
            3, 4, 3, padding=(1, 0, 2, 0), deformable_groups=3
        )

    def forward(self, image):
        if image.sum() > 0:
            out = self.bright(image)
        else:
            out = self.dark(image)
        return [out]


def test_control_flow(tmp_path):
    model = Branches()
    path = export.onnx(model, tmp_path / "branches", SPEC)
    image = np.random.default_rng(6).random((2, 3, 8, 7)).astype("float32")
    feeds = [{"image": image}, {"image": -image}]
    found, wanted = run(["onnx"], path, feeds)["onnx"], dynamic(model, feeds)
    for (one,), (other,) in zip(found, wanted):
        assert_close(one, other, "float32", 27, "out")


class Integers(paddle.nn.Layer):
    """Computes with integers that float32 does not have."""

    def forward(self, i):
        return [i * 3 + 1, (i + 1) * 2, i - 7, -i, i // 3, i // -4, 2 * i % 1000]


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_integers_are_exact(tmp_path, dtype):
    largest = {"int32": 123456789, "int64": 2**60 + 12345}[dtype]
    values = np.array([largest, -largest, 2**24 + 1, -(2**24) - 3, 5, 0], dtype)
    spec = [paddle.static.InputSpec([None], dtype, "i")]
    path = export.onnx(Integers(), tmp_path / "integers", spec)
    (found,) = run(["onnx"], path, [{"i": values}])["onnx"]
    wanted = [
        *(values * 3 + 1, (values + 1) * 2, values - 7, -values),
        *(values // 3, values // -4, 2 * values % 1000),
    ]
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted):
        assert one.dtype == dtype
        np.testing.assert_array_equal(one, other)


def test_verify_uses_large_integers(tmp_path, monkeypatch):
    """As float32 computes them, where no operator may take them as indices."""
    monkeypatch.delitem(_standard._RULES, "pd_op.scale")
    spec = [paddle.static.InputSpec([None], "int64", "i")]
    with pytest.raises(ValueError, match="off by .* first operator that differs is scale"):
        export.onnx(Integers(), tmp_path / "integers", spec)


class Scalars(paddle.nn.Layer):
    """Has outputs without axes."""

    def forward(self, x):
        return [x.sum(), x.max(), paddle.nn.functional.relu(x).mean() * 2]


def test_outputs_without_axes(tmp_path):
    path = export.onnx(Scalars(), tmp_path / "scalars", SPEC)
    x = np.random.default_rng(2).random((2, 3, 4, 5)).astype("float32")
    (found,) = run(["onnx"], path, [{"image": x}])["onnx"]
    for one, other in zip(found, (x.sum(), x.max(), x.mean() * 2)):
        assert one.shape == ()
        np.testing.assert_allclose(one, other, rtol=120 * 2.0**-24)


class Unknown(paddle.nn.Layer):
    """Uses an operator that ONNX has no counterpart of."""

    def forward(self, x):
        return paddle.lgamma(x)


def test_unknown_operator_is_named(tmp_path):
    head = paddle.nn.Sequential(paddle.nn.ReLU(), Unknown())
    model = paddle.nn.Sequential(paddle_dcn.DeformConv2DPack(3, 4, 3), head)
    with pytest.raises(NotImplementedError) as caught:
        export.onnx(model, tmp_path / "model.onnx", SPEC)
    assert str(caught.value) == (
        "model: paddle2onnx cannot convert the operator lgamma of layer 1.1 (Unknown)"
    )
    assert not list(tmp_path.iterdir())


class Converted(paddle.nn.Layer):
    """Computes in a dtype of its own."""

    def __init__(self, layer, dtype):
        super().__init__()
        self.layer = layer.to(dtype=dtype)
        self.dtype = dtype

    def forward(self, x):
        return self.layer(x.astype(self.dtype)).astype("float32")


class Half(paddle.nn.Layer):
    """Has a convolution in bfloat16, which ONNX has from opset 22."""

    def __init__(self):
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 4, 3)

    def forward(self, x):
        with paddle.amp.auto_cast(dtype="bfloat16"):
            return self.conv(x).astype("float32")


class Sequence(paddle.nn.Layer):
    """Gives what a recurrent layer returns of rows of pixels."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        out, state = self.layer(x.flatten(2).transpose([0, 2, 1]))
        return [out, state]


REFUSED = [
    (
        Half,
        "model: paddle2onnx writes wrongly, or opset 19 of ONNX lacks, the operator conv2d of "
        r"layer conv \(Conv2D\) in bfloat16, so export the float32 model: ",
    ),
    (
        lambda: Converted(paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3)), "float64"),
        r"model: ONNX Runtime cannot load the operator conv2d of layer layer.0 \(Conv2D\) in "
        "float64, so export the float32 model: ",
    ),
    (
        lambda: Sequence(paddle.nn.SimpleRNN(3, 4)),
        r"model: paddle2onnx writes wrongly.* the operator rnn of layer layer \(SimpleRNN\): ",
    ),
]


@pytest.mark.parametrize(("model", "message"), REFUSED)
def test_refusals_in_one_line(tmp_path, model, message):
    with pytest.raises(NotImplementedError, match=f"^{message}") as caught:
        export.onnx(model(), tmp_path / "model.onnx", [paddle.zeros([1, 3, 8, 8])])
    assert str(caught.value).isprintable()
    assert not list(tmp_path.iterdir())


BFLOAT16 = [
    (lambda x: x.astype("float32"), "bfloat16", "input image"),
    (lambda x: x.astype("bfloat16"), "float32", "output fetch_name_0"),
]


@pytest.mark.parametrize("call", [export.onnx, export.openvino])
@pytest.mark.parametrize(("function", "dtype", "which"), BFLOAT16)
def test_borders_in_bfloat16_are_refused(tmp_path, call, function, dtype, which):
    """OpenVINO, for one, took the bits for numbers."""
    spec = [paddle.static.InputSpec([None, 3, None, None], dtype, "image")]
    message = f"^model: its {which} is in bfloat16, which NumPy lacks: export the float32 model"
    with pytest.raises(NotImplementedError, match=message):
        call(function, tmp_path / "model", spec)
    assert not list(tmp_path.iterdir())


def test_float64_is_verified_as_such(tmp_path):
    """OpenVINO computes it in float32."""
    model = paddle_dcn.DeformConv2D(3, 4, 3).to(dtype="float64")
    spec = [
        paddle.static.InputSpec([None, channels, None, None], "float64", name)
        for channels, name in ((3, "x"), (18, "offset"))
    ]
    feed = [np.random.default_rng(3).standard_normal((1, c, 8, 8)) for c in (3, 18)]
    feed[1] = feed[1][:, :, :6, :6]
    with pytest.raises(ValueError, match="is off by .* in float64, so export the float32 model$"):
        export.openvino(model, tmp_path / "model", spec, verify=[feed])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["deform_conv", "grid_sample"])
def test_empty_batch(tmp_path, form):
    """Also with filters that the deformable groups do not divide, and unequal padding."""
    rows = [row for row in ROWS if row[0].channels != 64]
    table = Table(rows)
    path = export.onnx(table, tmp_path / "table", table.spec(True), form=form, verify=False)
    feed = {name: array[:0] for name, array in table.inputs().items()}
    (outputs,) = run(["onnx"], path, [feed])["onnx"]
    for (case, _), out in zip(rows, outputs):
        assert out.shape == (0, case.outputs, *case.out_size)


def test_recurrent_layer_in_training_mode(tmp_path):
    """Has a buffer without memory."""
    model = Sequence(paddle.nn.GRU(3, 4))
    assert model.training
    path = export.onnx(model, tmp_path / "model", SPEC)
    model.eval()
    x = np.random.default_rng(2).standard_normal((2, 3, 4, 5)).astype("float32")
    ((found, state),) = run(["onnx"], path, [{"image": x}])["onnx"]
    for one, other in zip((found, state), model(paddle.to_tensor(x))):
        assert_close(one, other.numpy(), "float32", 20 * 7, "out")


def test_verify_uses_large_inputs(tmp_path, monkeypatch):
    """Of which paddle2onnx's exponential overflows."""
    monkeypatch.delitem(_standard._RULES, "pd_op.logsigmoid")
    model = paddle.nn.Sequential(paddle.nn.LogSigmoid())
    with pytest.raises(ValueError, match=r"differs is logsigmoid of layer 0 \(LogSigmoid\)$"):
        export.onnx(model, tmp_path / "model", SPEC)


OPSETS = [(opset, ValueError) for opset in (18, 23)]
OPSETS += [(opset, TypeError) for opset in ("19", 19.0, True, None)]


@pytest.mark.parametrize(("opset", "error"), OPSETS)
def test_opset(tmp_path, opset, error):
    with pytest.raises(error, match=f"^opset: expected an int from 19 to 22, got {opset!r}"):
        export.onnx(paddle.nn.ReLU(), tmp_path / "model.onnx", SPEC, opset)


def test_missing_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "paddle2onnx", None)
    message = r"^export.onnx needs paddle2onnx: run pip install 'paddle_dcn\[export\]'$"
    with pytest.raises(ImportError, match=message):
        export.onnx(paddle.nn.ReLU(), tmp_path / "model.onnx", SPEC)


def test_missing_openvino(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    message = r"^export.openvino needs openvino: run pip install 'paddle_dcn\[openvino\]'$"
    with pytest.raises(ImportError, match=message):
        export.openvino(paddle.nn.ReLU(), tmp_path / "model", SPEC)


@pytest.mark.parametrize("training", [True, False])
def test_mode(tmp_path, training):
    """In training mode a model is saved as in eval mode, and need not compute what is saved."""
    layers = paddle_dcn.DeformConv2DPack(3, 4, 3), paddle.nn.BatchNorm2D(4), paddle.nn.Dropout()
    model = paddle.nn.Sequential(*layers)
    model.train() if training else model.eval()
    for number, each in enumerate((model, model.forward)):
        export.onnx(each, tmp_path / str(number), SPEC)
    assert model.training == training
    model.eval()
    x = np.random.default_rng(2).standard_normal((2, 3, 9, 8)).astype("float32")
    feed = {"image": x}
    ((found,),) = run(["onnx"], tmp_path / "0.onnx", [feed])["onnx"]
    assert_close(found, model(paddle.to_tensor(x)).numpy(), "float32", 60, "out")


def test_programs_of_paddle_2_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(paddle, "get_flags", lambda name: {name: False})
    with pytest.raises(NotImplementedError, match="Paddle 3: unset FLAGS_enable_pir_api$"):
        export.save_portable(paddle.nn.ReLU(), tmp_path / "model", SPEC)


@pytest.mark.parametrize(
    ("verify", "error", "message"),
    [
        ("yes", TypeError, "verify: expected a bool or a list of inputs, got str"),
        ([], ValueError, "verify: expected a bool or a list of inputs, got an empty one"),
        ([(1, 2)], ValueError, r"verify\[0\]: expected 1 arrays, got 2$"),
        (
            [np.zeros((1, 3, 8, 8))],
            ValueError,
            r"verify\[0\]: expected a tuple of 1 arrays, got nd",
        ),
        (
            [(np.zeros(3),)],
            ValueError,
            r"verify\[0\]: expected float32 for the input image, got fl",
        ),
        (
            [(np.zeros((1, 4, 8, 8), "float32"),)],
            ValueError,
            r"verify\[0\]: Paddle does not run the saved model with it: ",
        ),
    ],
)
def test_bad_verify(tmp_path, verify, error, message):
    with pytest.raises(error, match=f"^{message}"):
        export.onnx(paddle.nn.Conv2D(3, 4, 3), tmp_path / "model", SPEC, verify=verify)
    assert not list(tmp_path.iterdir())


def test_import_needs_no_extra():
    """The package, export included, loads where onnx and paddle2onnx are missing."""
    missing = "onnx=None, openvino=None, paddle2onnx=None"
    code = f"import sys; sys.modules.update({missing}); import paddle_dcn.export"
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


class Builtin(paddle.nn.Layer):
    """Calls Paddle's function, which `patch` moves to this package."""

    def __init__(self):
        super().__init__()
        self.conv = paddle.vision.ops.DeformConv2D(3, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x, paddle.concat([x] * 6, axis=1), paddle.concat([x] * 3, axis=1))


@pytest.mark.parametrize("layer", ["ours", "builtin", "patched", "without"])
def test_paddles_own_export(tmp_path, monkeypatch, layer):
    """`paddle.onnx.export`, which would end the process, converts models with this operator."""
    if layer == "patched":
        with paddle_dcn.patched():
            paddle.onnx.export(Builtin(), str(tmp_path / "model"), SPEC, opset_version=11)
    elif layer == "builtin":  # with no mask
        model = paddle.vision.ops.DeformConv2D(3, 4, 3, padding=1)
        spec = [*SPEC, paddle.static.InputSpec([None, 18, None, None], "float32", "offset")]
        paddle.onnx.export(model, str(tmp_path / "model"), spec, verbose=False)
    elif layer == "ours":
        pack = paddle_dcn.DeformConv2DPack(3, 4, 3, padding=1)
        paddle.onnx.export(pack, str(tmp_path / "model"), input_spec=SPEC)
    else:
        monkeypatch.setitem(sys.modules, "polygraphy", None)  # which would install packages
        paddle.onnx.export(paddle.nn.ReLU(), str(tmp_path / "model"), SPEC)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert len(nodes(tmp_path / "model.onnx")) == (layer != "without")


def test_a_converter_that_does_not_start_is_told(tmp_path, monkeypatch):
    """As where a package is missing that paddle2onnx imports."""
    (tmp_path / "paddle2onnx.py").write_text("import missing_here")
    monkeypatch.syspath_prepend(tmp_path)
    message = r"^paddle2onnx does not start \(.*No module named 'missing_here'\): pip install"
    with pytest.raises(ImportError, match=message):
        export.onnx(paddle_dcn.DeformConv2DPack(3, 4, 3), str(tmp_path / "model"), SPEC)
