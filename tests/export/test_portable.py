"""export.save_portable: what stock Paddle makes of the saved models."""

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

import paddle_dcn
from paddle_dcn import export
from paddle_dcn.export import _tracing
from tests.support.cases import Case
from tests.support.comparison import assert_close
from tests.support.export_models import SPEC, Table, assert_same, detector, dynamic, images, run
from tests.support.problems import DTYPES
from tests.support.programs import needs_paddle_3, needs_paddle_3_1, static_program

pytestmark = needs_paddle_3

# What the builtin lacks, alone and together; and what it has.
CASES = [
    Case(2, 6, (7, 5), 12, padding=1, groups=2, deformable_groups=3),
    Case(2, 6, (7, 5), 12, padding=1, deformable_groups=2, modulated=False, bias=False),
    Case(2, 5, (9, 8), 4, padding=(2, 0, 1, 3), stride=(2, 3)),
    Case(1, 4, (9, 8), 4, kernel=(2, 3), padding=(0, 5, 4, 0), stride=(3, 2), offsets="border"),
    Case(1, 4, (9, 11), 3, padding=(4, 1, 3, 0), stride=(2, 3), dilation=2, modulated=False),
    Case(2, 8, (6, 7), 5, padding=1, deformable_groups=4),
    Case(2, 12, (6, 7), 10, padding=1, groups=2, deformable_groups=3, modulated=False),
    Case(2, 9, (6, 7), 6, padding=(1, 2, 2, 0), groups=3, deformable_groups=9, data_format="NHWC"),
    Case(2, 8, (6, 7), 6, padding=1, data_format="NHWC", modulated=False, im2col_step=2),
    Case(2, 6, (7, 5), 4, padding=1, offsets="nonfinite"),
    Case(1, 64, (8, 7), 16, padding=(1, 0, 1, 0), deformable_groups=2, offsets="huge"),
]
ROWS = [(case, ("float32", "float32")) for case in CASES]
ROWS += [
    (case, dtypes) for case in CASES if case.groups > 1 and case.modulated for dtypes in DTYPES[1:]
]
ROUTES = ["load", "predictor", "predictor without both"]
LAYER = paddle_dcn.DeformConv2DPack(3, 4, 3)


def test_detector(tmp_path):
    model = detector()
    files = export.save_portable(model, tmp_path / "detector", SPEC)
    assert sorted(tmp_path.iterdir()) == files
    found = run(ROUTES, tmp_path / "detector", images(), blocked=True)
    wanted = dynamic(model, images())
    for outputs in found.values():
        assert_same(outputs, wanted)


@pytest.mark.parametrize("open_sizes", [True, False], ids=["open", "fixed"])
def test_every_call_has_a_portable_form(tmp_path, open_sizes):
    table = Table(ROWS)
    feeds = [tuple(table.inputs().values())]
    export.save_portable(table, tmp_path / "table", table.spec(open_sizes), verify=feeds)
    for outputs in run(ROUTES[::2], tmp_path / "table", [table.inputs()], blocked=True).values():
        table.check(outputs[0])


@needs_paddle_3_1("its own operators end the process, as the README says")
def test_empty_batch(tmp_path):
    table = Table(ROWS)
    export.save_portable(table, tmp_path / "table", table.spec(True), verify=False)
    inputs = {name: array[:0] for name, array in table.inputs().items()}
    for (outputs,) in run(ROUTES[::2], tmp_path / "table", [inputs], blocked=True).values():
        for (case, _), out in zip(ROWS, outputs):
            assert out.shape == (0, case.outputs, *case.out_size)


def test_portable_model_trains_as_the_original(tmp_path):
    """Padding differs between the sides, and the first samples lie on the border, at -1."""
    paddle.seed(5)
    model = paddle_dcn.ModulatedDeformConv2DPack(4, 6, 3, stride=2, padding=(2, 1, 0, 1))
    export.save_portable(model, tmp_path / "model", [InputSpec([None, 4, None, None])])
    loaded = paddle.jit.load(str(tmp_path / "model"))
    loaded.train()
    x = paddle.randn([2, 4, 9, 8])
    gradients = []
    for layer in (model, loaded):
        (layer(x) - 1).square().sum().backward()
        gradients.append({tuple(p.shape): p.grad.numpy() for p in layer.parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for shape, wanted in gradients[0].items():
        assert_close(gradients[1][shape], wanted, "float32", 9 * 4 * 40, str(shape))


class Modes(paddle.nn.Layer):
    """Has layers, and code of its own, that differ between train and eval mode."""

    def __init__(self):
        super().__init__()
        layers = LAYER, paddle.nn.BatchNorm2D(4), paddle.nn.Dropout()
        self.layers = paddle.nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x) + (100 if self.training else 0)


def test_mode(tmp_path):
    model, x = Modes(), paddle.randn([2, 3, 6, 5])
    export.save_portable(model, tmp_path / "model", [x])
    found = paddle.jit.load(str(tmp_path / "model"))(x)
    model.eval()
    np.testing.assert_allclose(found.numpy(), model(x).numpy() + 100, rtol=1e-6)


class Returns(paddle.nn.Layer):
    """Returns what a function makes of a deformable layer's output and of both inputs."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.function = LAYER, function

    def forward(self, x, i):
        return self.function(self.layer(x), x, i)


X_AND_I = [InputSpec([None, 3, None, None], "float32"), InputSpec([None], "int64")]
OUTPUTS = {
    "an input plus a constant": lambda y, x, i: [y, x + 1, i + 7, i - 1],
    "some twice": lambda y, x, i: [y, i, y * 2, y, x, i],
    "of a dict": lambda y, x, i: {"z": y * 3, "a": [y, y * 2], "c": y, "b": i + 1},
    "None at the end": lambda y, x, i: (y, i, None),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", OUTPUTS)
def test_all_outputs_are_saved(tmp_path, name, training):
    """Paddle's jit.save drops the second of two, and the operator that adds to an input."""
    model = Returns(OUTPUTS[name])
    model.train() if training else model.eval()
    export.save_portable(model, tmp_path / "model", X_AND_I)
    inputs = [paddle.randn([2, 3, 6, 5]), paddle.to_tensor([2**40 + 1, 5])]
    found = paddle.utils.flatten(paddle.jit.load(str(tmp_path / "model"))(*inputs))
    wanted = [each for each in paddle.utils.flatten(model(*inputs)) if each is not None]
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)


class Unlike(paddle.nn.Layer):
    """Computes in its trace something else than in either mode."""

    def forward(self, x):
        return x * (2 if paddle.in_dynamic_mode() else 3)


class Noisy(paddle.nn.Layer):
    """Computes in training mode, beside what its trace asks for, what a trace drops."""

    def forward(self, x):
        return paddle.nn.functional.dropout(x, training=self.training) + self.training


class OtherDtype(paddle.nn.Layer):
    """Gives in its trace another dtype."""

    def forward(self, x):
        return x * 2 if paddle.in_dynamic_mode() else (x * 2).astype("bfloat16")


UNLIKE = [
    (OtherDtype, False, "^model: output 0 of what paddle.jit.save makes of it has another dtype$"),
    (Unlike, True, "^model: output 0 of what .* is off by 0.5 .*: call its eval"),
    (Unlike, False, "^model: output 0 of what .* is off by 0.5 of its largest value$"),
    (Noisy, True, "^model: output 0 of what .*; it is in training mode: call its eval"),
]


@pytest.mark.parametrize(("model", "training", "message"), UNLIKE)
def test_what_is_saved_computes_what_the_model_does(tmp_path, model, training, message):
    model = model()
    model.train() if training else model.eval()
    with pytest.raises(ValueError, match=message):
        export.save_portable(model, tmp_path / "model", SPEC)
    assert model.training is training
    assert not list(tmp_path.iterdir())
    export.save_portable(model, tmp_path / "model", SPEC, verify=False)


def test_example_without_a_name_gets_that_of_the_argument(tmp_path):
    """Paddle names a tensor by a counter."""
    for example in (
        paddle.zeros([1, 3, 8, 8]),
        paddle.to_tensor(np.zeros((1, 3, 8, 8), "float32")),
    ):
        path, _ = export.save_portable(LAYER, tmp_path / "model", [example])
        assert f'"{example.name}"' not in path.read_text()
        assert '"x"' in path.read_text()


@pytest.mark.parametrize("suffix", ["", ".json", ".pdiparams", ".pdmodel"])
def test_same_bytes_with_any_suffix(tmp_path, suffix):
    """Paddle names the layers by a counter."""
    wanted = [each.read_bytes() for each in export.save_portable(LAYER, tmp_path / "model", SPEC)]
    files = export.save_portable(LAYER, tmp_path / f"again{suffix}", SPEC)
    assert [each.name for each in files] == ["again.json", "again.pdiparams"]
    assert [each.read_bytes() for each in files] == wanted


def used(program):
    """Names of the program's deformable convolutions."""
    names = {op.name() for op in program.global_block().ops}
    return names & {"pd_op.deformable_conv", "custom_op.paddle_dcn_v1", "custom_op.paddle_dcn_v2"}


def test_traced_layer_keeps_its_own_trace(tmp_path):
    layer = paddle.jit.to_static(paddle_dcn.DeformConv2DPack(3, 4, 3), full_graph=True)
    x = paddle.randn([1, 3, 6, 5])
    wanted = layer(x).numpy()
    for model in (layer, layer.forward):
        export.save_portable(model, tmp_path / "model", [x])
        program = paddle.jit.load(str(tmp_path / "model")).program()
        assert used(program) == {"pd_op.deformable_conv"}
    assert used(layer.forward.concrete_program.main_program) == {"custom_op.paddle_dcn_v1"}
    np.testing.assert_array_equal(layer(x).numpy(), wanted)


def test_functions(tmp_path):
    def function(x, weight):
        offset = paddle.zeros([x.shape[0], 18, *x.shape[2:]])
        return paddle_dcn.deform_conv2d(x, offset, weight, padding=1)

    tensors = [paddle.randn([2, 3, 6, 5]), paddle.randn([4, 3, 3, 3])]
    (tmp_path / "model.pdiparams").write_text("parameters of an older model")
    for model in (function, paddle.jit.to_static(function, full_graph=True)):
        files = export.save_portable(model, tmp_path / "model", tensors)
        assert files == [*tmp_path.iterdir()] == [tmp_path / "model.json"]
    found = paddle.jit.load(str(tmp_path / "model"))(*tensors)
    assert_close(found.numpy(), function(*tensors).numpy(), "float32", 27, "out")


NESTED = paddle.nn.Sequential(paddle.nn.ReLU(), paddle.nn.Sequential(LAYER))
CHANNELS = [InputSpec([None, 5, None, None])]


def uses_layer(x):
    return LAYER(x)


BAD = [
    (LAYER, "model", [[None, 3, 8, 8]], TypeError, r"input_spec\[0\]: expected InputSpec or a"),
    (LAYER, "model", InputSpec([1, 3, 8, 8]), TypeError, "input_spec: expected a list of Input"),
    (LAYER, "model", CHANNELS, ValueError, r"input_spec \(\[-1, 5, -1, -1\] float32\): weight"),
    (NESTED, "model", CHANNELS, ValueError, r"at layer 1.0 \(DeformConv2DPack\): weight: expected"),
    (
        LAYER,
        "model",
        [*CHANNELS, *CHANNELS],
        ValueError,
        "model: DeformConv2DPack cannot be traced",
    ),
    (lambda x: LAYER(x), "model", SPEC, ValueError, "model: <lambda> uses the parameters of a"),
    (uses_layer, "model", SPEC, ValueError, "model: uses_layer uses the parameters of a layer"),
    (Returns(lambda y, x, i: [y, 3.0, i]), "model", X_AND_I, ValueError, "output 1 is 3.0, not a"),
    (Returns(lambda y, x, i: [y, None, i]), "model", X_AND_I, ValueError, "output 1 is None, not"),
    (Returns(lambda y, x, i: y), "model", X_AND_I, ValueError, "the input i contributes to no"),
    (3, "model", CHANNELS, TypeError, "model: expected a layer or a function, got int"),
    (LAYER, "file/model", [paddle.zeros([1, 3, 8, 8])], OSError, "file"),
]


@pytest.mark.parametrize("call", [export.save_portable, export.onnx])
@pytest.mark.parametrize(("model", "path", "spec", "error", "message"), BAD)
def test_refusals_leave_no_file(tmp_path, call, model, path, spec, error, message):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(error, match=message) as caught:
        call(model, tmp_path / path, spec)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert paddle.in_dynamic_mode()
    assert not LAYER.conv_offset._forward_pre_hooks


class Fails(paddle.nn.Layer):
    """Records a parameter and an in-place write, then cannot be traced."""

    def __init__(self):
        super().__init__()
        self.layer = LAYER

    def forward(self, x):
        out = self.layer(x)
        out[0] = 0.0
        raise ValueError("no")


def test_failed_traces_leave_no_records(tmp_path):
    """They would crash a later program at the same address."""
    before = [dict(record) for record in _tracing._records()]
    assert len(before) == 3
    with pytest.raises(ValueError, match="cannot be traced"):
        export.save_portable(Fails(), tmp_path / "model", SPEC)
    assert [*_tracing._records()] == before


BAD_PATHS = [
    (".", ValueError, "expected the name of a file, got '.'"),
    ("sub/..", ValueError, "expected the name of a file, got 'sub/..'"),
    ("", ValueError, "expected the name of a file, got ''"),
    ("new/", ValueError, "expected the name of a file, got 'new/'"),
    (None, TypeError, "expected a str or os.PathLike, got NoneType"),
    (b"model", TypeError, "expected a str or os.PathLike, got bytes"),
]


@pytest.mark.parametrize("call", [export.save_portable, export.onnx])
@pytest.mark.parametrize(("path", "error", "message"), BAD_PATHS)
def test_bad_paths(tmp_path, monkeypatch, call, path, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=f"^path: .*{message}$"):
        call(LAYER, path, SPEC)


@pytest.mark.parametrize("call", [export.save_portable, export.onnx])
def test_static_mode(tmp_path, call):
    with static_program():
        call(LAYER, tmp_path / "model.onnx", SPEC)
    assert [*tmp_path.iterdir()]


def test_folder_in_the_way(tmp_path):
    (tmp_path / "model.pdiparams").mkdir()
    with pytest.raises(IsADirectoryError, match="expected a file, got the folder .*pdiparams"):
        export.save_portable(LAYER, tmp_path / "model", [paddle.zeros([1, 3, 8, 8])])
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pdiparams"]
