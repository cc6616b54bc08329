"""What the package's layers and all adapters share: half types, open widths, refused inputs."""

import copy
import functools

import numpy as np
import paddle
import pytest

import paddle_dcn
from paddle_dcn.compat import dcn_v2, detectron2, mmcv, mmdet, npu, torchvision
from tests.support.comparison import assert_close
from tests.support.operators import to_array, to_tensor
from tests.support.process import SCRIPTS, run_python
from tests.support.programs import needs_paddle_3, static_program


def _ours(kind):
    return lambda c, m, bias, size=1: kind(
        c, m, 2 * size + 1, size, size, bias_attr=None if bias else False
    )


def _theirs(kind):
    return lambda c, m, bias, size=1: kind(c, m, 2 * size + 1, size, size, bias=bias)


def _without_bias(kind):
    return lambda c, m, bias, size=1: kind(c, m, 2 * size + 1, size, size)


# A layer of c channels and m outputs, with a bias where it can have one, and for a kernel of
# 2 * size + 1 stride and padding of `size`.
PACKS = {
    "DeformConv2DPack": _ours(paddle_dcn.DeformConv2DPack),
    "ModulatedDeformConv2DPack": _ours(paddle_dcn.ModulatedDeformConv2DPack),
    "mmcv.DeformConv2dPack": _without_bias(mmcv.DeformConv2dPack),
    "mmcv.ModulatedDeformConv2dPack": _theirs(mmcv.ModulatedDeformConv2dPack),
    "mmdet.DeformConvPack": _without_bias(mmdet.DeformConvPack),
    "mmdet.ModulatedDeformConvPack": _theirs(mmdet.ModulatedDeformConvPack),
    "dcn_v2.DCN": _without_bias(dcn_v2.DCN),
}
V1_LAYERS = {
    "DeformConv2D v1": _ours(paddle_dcn.DeformConv2D),
    "torchvision.DeformConv2d v1": _theirs(torchvision.DeformConv2d),
    "mmcv.DeformConv2d": _without_bias(mmcv.DeformConv2d),
    "mmdet.DeformConv": _without_bias(mmdet.DeformConv),
    "detectron2.DeformConv": _without_bias(detectron2.DeformConv),
}
V2_LAYERS = {
    "DeformConv2D": _ours(paddle_dcn.DeformConv2D),
    "torchvision.DeformConv2d": _theirs(torchvision.DeformConv2d),
    "mmcv.ModulatedDeformConv2d": _theirs(mmcv.ModulatedDeformConv2d),
    "mmdet.ModulatedDeformConv": _theirs(mmdet.ModulatedDeformConv),
    "detectron2.ModulatedDeformConv": _theirs(detectron2.ModulatedDeformConv),
    "dcn_v2.DCNv2": _without_bias(dcn_v2.DCNv2),
}
LAYERS = PACKS | V1_LAYERS | V2_LAYERS


@pytest.mark.parametrize("kind", [detectron2.DeformConv, detectron2.ModulatedDeformConv])
@pytest.mark.parametrize("name", ["norm", "activation"])
@pytest.mark.parametrize("value", ["BN", paddle.nn.ReLU, 0, False])
def test_what_follows_a_layer_is_a_function(kind, name, value):
    with pytest.raises(TypeError, match=f"^{name}: expected a layer or another function of a ten"):
        kind(4, 6, 3, **{name: value})


def random(*shape):
    rng = np.random.default_rng(sum(shape))
    return paddle.to_tensor(rng.normal(0, 1, shape).astype("float32"))


def randomize(layer):
    for parameter in layer.parameters():
        parameter.set_value(0.3 * random(*parameter.shape))
    return layer


def inputs(name, channels, image, size):
    """Return what the layer of this name is called with."""
    taps, out = (2 * size + 1) ** 2, [(side - 1) // size + 1 for side in image]
    x = random(2, channels, *image)
    sampling = random(2, 2 * taps, *out), random(2, taps, *out)
    return [x, *sampling[: 0 if name in PACKS else 1 if name in V1_LAYERS else 2]]


# --- half types ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", PACKS)
def test_packs_in_half_types(name, dtype):
    """Positions are those of float32, so that results differ by the rounding of sums, no more."""
    narrow = randomize(PACKS[name](4, 6, True)).to(dtype=dtype)
    wide = copy.deepcopy(narrow).to(dtype="float32")
    image, grad = (to_array(random(2, n, 9, 8).astype(dtype)) for n in (4, 6))
    results = []
    for layer, precision in ((narrow, dtype), (wide, "float32")):
        x = to_tensor(image, precision, wanted=True)
        out = layer(x)
        out.backward(to_tensor(grad, precision))
        found = {"out": out, "x": x.grad} | {n: p.grad for n, p in layer.named_parameters()}
        assert {str(tensor.dtype) for tensor in found.values()} == {f"paddle.{precision}"}
        results.append({key: to_array(tensor) for key, tensor in found.items()})
    for key, wanted in results[1].items():
        # The gradients through conv_offset have been rounded by the operator first.
        assert_close(results[0][key] / 2, wanted / 2, dtype, 2 * 9 * 8 * 9, key)


# --- sizes that a program leaves open ------------------------------------------------------------


ONE_FORM = {
    *("mmcv.DeformConv2dPack", "mmdet.DeformConvPack", "dcn_v2.DCN", "dcn_v2.DCNv2"),
    *("mmcv.DeformConv2d", "mmdet.DeformConv", "detectron2.DeformConv"),
}
TRACED = [(name, bias) for name in LAYERS for bias in (True, False) if bias or name not in ONE_FORM]
WIDTHS = [(4, 6, (6, 7), 2), (6, 9, (8, 5), 3)]


@needs_paddle_3
@pytest.mark.parametrize("full_graph", [True, False])
@pytest.mark.parametrize("name, bias", TRACED)
def test_traced_with_several_widths(name, bias, full_graph):
    """From the second one on to_static leaves open the shapes of weights and images, and ints."""
    for channels, outputs, image, size in WIDTHS:
        layer = randomize(LAYERS[name](channels, outputs, bias, size))
        arguments = inputs(name, channels, image, size)
        wanted = layer(*arguments).numpy()
        found = paddle.jit.to_static(layer, full_graph=full_graph)(*arguments)
        np.testing.assert_array_equal(found.numpy(), wanted)


@needs_paddle_3
@pytest.mark.parametrize("kind", [mmcv.DeformConv2d, paddle_dcn.DeformConv2DPack])
def test_traced_with_several_steps(kind):
    """An open attribute of an operator would end the process."""
    for step in (2, 4, 8):
        layer = randomize(kind(4, 6, 3, 1, 1, im2col_step=step))
        arguments = [random(2, n, 6, 7) for n in (4, 18)[: 1 + (kind is mmcv.DeformConv2d)]]
        found = paddle.jit.to_static(layer, full_graph=False)(*arguments)
        np.testing.assert_array_equal(found.numpy(), layer(*arguments).numpy())


@needs_paddle_3
@pytest.mark.parametrize("modulated", [True, False], ids=["v2", "v1"])
def test_open_number_of_outputs(modulated):
    """Without a bias the operator needs zeros of a number that only the run tells."""
    arrays = dict(zip("xowm", (random(2, 4, 6, 7), random(2, 18, 6, 7), random(5, 4, 3, 3),
                               random(2, 9, 6, 7))))  # fmt: skip
    x, o, w, m = arrays.values()
    wanted = paddle_dcn.deform_conv2d(x, o, w, padding=1, mask=m if modulated else None).numpy()
    with static_program() as program:
        x, o, w, m = (paddle.static.data(n, [None] * 4) for n in arrays)
        out = paddle_dcn.deform_conv2d(x, o, w, padding=1, mask=m if modulated else None)
        feed = {name: tensor.numpy() for name, tensor in arrays.items()}
        found = paddle.static.Executor().run(program, feed=feed, fetch_list=[out])[0]
    np.testing.assert_array_equal(found, wanted)


@needs_paddle_3
@pytest.mark.parametrize("kind", [mmcv.DeformConv2d, mmdet.DeformConv])
def test_one_open_side_of_a_small_image(kind):
    """Only the side that is known to be too small for the kernel is padded and cropped."""
    layer = kind(4, 6, 3, padding=(0, 1))
    with static_program() as program:
        x = paddle.static.data("x", [None, 4, 2, None])
        out = kind(4, 6, 3, padding=(0, 1))(x, paddle.static.data("o", [None, 18, 0, None]))
        executor = paddle.static.Executor()
        executor.run(paddle.static.default_startup_program())
        feed = {"x": np.ones([1, 4, 2, 7], "float32"), "o": np.ones([1, 18, 0, 7], "float32")}
        (found,) = executor.run(program, feed=feed, fetch_list=[out])
    assert found.shape == tuple(layer(random(1, 4, 2, 7), random(1, 18, 0, 7)).shape)


@needs_paddle_3
@pytest.mark.parametrize("kind", [mmcv.DeformConv2d, mmdet.DeformConv])
def test_saved_with_open_sizes(kind, tmp_path):
    layer = kind(4, 6, 3, padding=1)
    spec = [paddle.static.InputSpec([None, size, None, None], name=f"n{size}") for size in (4, 18)]
    paddle.jit.save(layer, str(tmp_path / "model"), input_spec=spec)
    loaded = paddle.jit.load(str(tmp_path / "model"))
    arguments = random(2, 4, 5, 6), random(2, 18, 5, 6)
    np.testing.assert_array_equal(loaded(*arguments), layer(*arguments))


# --- inputs that are refused ---------------------------------------------------------------------


@functools.cache
def refusals():
    """Return what a process of its own prints: a name, and an argument, what became of it."""
    result = run_python(SCRIPTS / "bad_inputs.py")
    assert result.returncode == 0, result.stderr[-2000:]
    return [line.split("\t") for line in result.stdout.splitlines() if "\t" in line]


def test_nothing_unchecked_reaches_a_kernel():
    """Paddle's own kernels corrupt memory or end the process on some bad input."""
    assert len(refusals()) > 300
    assert not [line for line in refusals() if line[-1] != "refused"]


COMPLEX = [
    lambda x, o, m, w: mmcv.deform_conv2d(x, o, w, padding=1),
    lambda x, o, m, w: mmcv.modulated_deform_conv2d(x, o, m, w, padding=1),
]


@pytest.mark.parametrize("call", COMPLEX, ids=["v1", "v2"])
@pytest.mark.parametrize("which, name", [(0, "input"), (3, "weight")])
def test_complex_numbers_are_not_cast(call, which, name):
    """A cast to the dtype of offset would drop the imaginary part."""
    arguments = [random(1, 4, 5, 5), random(1, 18, 5, 5), random(1, 9, 5, 5), random(6, 4, 3, 3)]
    arguments[which] = arguments[which].astype("complex64")
    with pytest.raises(TypeError, match=f"^{name}: expected dtype .*, got complex64$"):
        call(*arguments)


def test_npu_in_half_types():
    """Both results, whose operations Paddle has in float32 only on the CPU."""
    for dtype in ("float16", "bfloat16"):
        x, offset, w = random(2, 4, 6, 7), random(2, 27, 6, 7), random(6, 4, 3, 3)
        call = functools.partial(
            npu.npu_deformable_conv2d, bias=None, kernel_size=[3, 3], stride=[1] * 4,
            padding=[1] * 4,
        )  # fmt: skip
        narrow = [tensor.astype(dtype) for tensor in (x, w, offset)]
        wanted = call(*(tensor.astype("float32") for tensor in narrow))
        for found, exact in zip(call(*narrow), wanted):
            assert str(found.dtype) == f"paddle.{dtype}"
            assert_close(to_array(found), to_array(exact), dtype, 36, "result")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_small_images_in_half_types(dtype):
    layer = mmcv.DeformConv2d(4, 6, 3, padding=1).to(dtype=dtype)
    x, offset = random(1, 4, 1, 6).astype(dtype), random(1, 18, 1, 6).astype(dtype)
    wide = copy.deepcopy(layer).to(dtype="float32")
    wanted = wide(x.astype("float32"), offset.astype("float32"))
    found = layer(x, offset)
    assert_close(to_array(found), to_array(wanted), dtype, 36, "out")
    small = layer(random(1, 4, 1, 0 + 1).astype(dtype), random(1, 18, 1, 1).astype(dtype))
    assert list(small.shape) == [1, 6, 1, 1]
