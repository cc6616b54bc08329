"""Networks and training scripts as Paddle 1.x wrote them, in both kinds of programs."""

import contextlib
import gc
import math
import struct

import numpy as np
import paddle
import pytest

import paddle_dcn
import paddle_dcn.fluid as fluid
from paddle_dcn.fluid import layers
from paddle_dcn.fluid.initializer import MSRA, Constant, Normal
from paddle_dcn.fluid.param_attr import ParamAttr
from paddle_dcn.fluid.regularizer import L2Decay
from tests.support.programs import KINDS, initialize, needs_paddle_3, programs_1x, value

pytestmark = needs_paddle_3

RNG = np.random.default_rng(11)
IMAGES = RNG.normal(0, 1, (4, 3, 32, 32)).astype("float32")
LABELS = np.array([[0], [1], [2], [1]], "int64")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


# --- a classifier: ResNet-vd with a deformable stage ---------------------------------------------


def conv_norm(input, filters, size, stride=1, act=None, name=None, deformable=False, norm="bn"):
    """A convolution and its normalisation, all parameters named as pretrained weights are."""
    if deformable:
        planes = layers.conv2d(
            input,
            num_filters=27,
            filter_size=size,
            stride=stride,
            padding=(size - 1) // 2,
            param_attr=ParamAttr(initializer=Constant(0.0), name=name + "_conv_offset.w_0"),
            bias_attr=ParamAttr(initializer=Constant(0.0), name=name + "_conv_offset.b_0"),
            name=name + "_conv_offset",
        )
        offset, mask = layers.split(input=planes, num_or_sections=[18, 9], dim=1)
        conv = layers.deformable_conv(
            input=input,
            offset=offset,
            mask=layers.sigmoid(mask),
            num_filters=filters,
            filter_size=size,
            stride=stride,
            padding=(size - 1) // 2,
            groups=1,
            deformable_groups=1,
            im2col_step=1,
            param_attr=ParamAttr(name=name + "_weights"),
            bias_attr=False,
            name=name + ".conv2d.output.1",
        )
    else:
        conv = layers.conv2d(
            input=input,
            num_filters=filters,
            filter_size=size,
            stride=stride,
            padding=(size - 1) // 2,
            param_attr=ParamAttr(name=name + "_weights", initializer=MSRA(uniform=False)),
            bias_attr=False,
            name=name + ".conv2d.output.1",
        )
    scale = ParamAttr(name="bn_" + name + "_scale", regularizer=L2Decay(0.0))
    shift = ParamAttr(name="bn_" + name + "_offset", regularizer=L2Decay(0.0))
    if norm == "affine_channel":
        create = layers.create_parameter
        one, zero = Constant(1.0), Constant(0.0)
        scale = create([conv.shape[1]], conv.dtype, attr=scale, default_initializer=one)
        shift = create([conv.shape[1]], conv.dtype, attr=shift, default_initializer=zero)
        scale.stop_gradient = shift.stop_gradient = True
        return layers.affine_channel(x=conv, scale=scale, bias=shift, act=act)
    return layers.batch_norm(
        input=conv,
        act=act,
        name="bn_" + name + ".output.1",
        param_attr=scale,
        bias_attr=shift,
        moving_mean_name="bn_" + name + "_mean",
        moving_variance_name="bn_" + name + "_variance",
    )


def bottleneck(input, filters, stride, name, deformable, norm):
    out = conv_norm(input, filters, 1, act="relu", name=name + "a", norm=norm)
    out = conv_norm(out, filters, 3, stride, "relu", name + "b", deformable, norm)
    out = conv_norm(out, 2 * filters, 1, name=name + "c", norm=norm)
    short = input
    if stride != 1:
        short = layers.pool2d(
            input=short, pool_size=2, pool_stride=2, pool_padding=0, ceil_mode=True, pool_type="avg"
        )
    short = conv_norm(short, 2 * filters, 1, name=name + "s", norm=norm)
    return layers.elementwise_add(x=short, y=out, act="relu", name=name + ".add.output.5")


def resnet(image, norm="bn"):
    out = conv_norm(image, 8, 3, 2, "relu", "conv1_1", norm=norm)
    out = conv_norm(out, 8, 3, 1, "relu", "conv1_2", norm=norm)
    out = layers.pool2d(input=out, pool_size=3, pool_stride=2, pool_padding=1, pool_type="max")
    out = bottleneck(out, 8, 1, "res2", False, norm)
    return bottleneck(out, 8, 2, "res3", True, norm)


def classifier(norm="bn"):
    image = fluid.data(name="image", shape=[None, 3, 32, 32], dtype="float32")
    label = fluid.data(name="label", shape=[None, 1], dtype="int64")
    features = layers.pool2d(resnet(image, norm), pool_type="avg", global_pooling=True)
    features = layers.dropout(features, dropout_prob=0.1, seed=3)
    deviation = 1.0 / math.sqrt(features.shape[1])
    scores = layers.fc(
        input=features,
        size=3,
        param_attr=ParamAttr(
            name="fc_weights", initializer=fluid.initializer.Uniform(-deviation, deviation)
        ),
        bias_attr=ParamAttr(name="fc_offset"),
    )
    loss, softmax = layers.softmax_with_cross_entropy(scores, label, return_softmax=True)
    return layers.mean(loss), softmax, layers.accuracy(input=softmax, label=label)


FEED = {"image": IMAGES, "label": LABELS}


@pytest.mark.parametrize("norm", ["bn", "affine_channel"])
def test_classifier(kind, norm, tmp_path):
    """It is built, trained, saved in three ways, and reloaded to the same scores."""
    paddle.seed(1)
    with programs_1x(kind) as executor:
        main, startup = fluid.default_main_program(), fluid.default_startup_program()
        loss, softmax, accuracy = classifier(norm)
        test = main.clone(for_test=True)
        rate = layers.piecewise_decay([8, 16], [0.1, 0.05, 0.01])
        rate = layers.linear_lr_warmup(rate, 4, 0.0, 0.1)
        fluid.clip.set_gradient_clip(fluid.clip.GradientClipByGlobalNorm(clip_norm=10.0))
        optimizer = fluid.optimizer.Momentum(
            learning_rate=rate, momentum=0.9, regularization=L2Decay(1e-4)
        )
        optimizer.minimize(loss)
        executor.run(startup)
        compiled = fluid.CompiledProgram(main).with_data_parallel(loss_name=loss.name)
        losses = [
            executor.run(compiled, feed=FEED, fetch_list=[loss.name, accuracy])[0]
            for _ in range(20)
        ]
        assert losses[0].shape == (1,)
        assert losses[-1] < losses[0] / 2

        statistics = [p.name for p in main.all_parameters() if p.name.endswith("_variance")]
        assert len(statistics) == (10 if norm == "bn" else 0)
        before = {name: value(name) for name in statistics}
        assert all((array != 1).any() for array in before.values())
        wanted, _ = executor.run(test, feed=FEED, fetch_list=[softmax.name, accuracy.name])
        again = executor.run(test, feed=FEED, fetch_list=[softmax])[0]
        np.testing.assert_array_equal(wanted, again)  # no dropout, no statistics that move
        for name, array in before.items():
            np.testing.assert_array_equal(value(name), array)

        fluid.io.save_params(executor, str(tmp_path / "params"), main)
        fluid.io.save_params(executor, str(tmp_path / "one"), main, filename="all")
        fluid.io.save_persistables(executor, str(tmp_path / "persistables"), main)
        for name, program in (("model", main), ("test", test)):
            folder = str(tmp_path / name)
            saved = fluid.io.save_inference_model(folder, ["image"], [softmax], executor, program)
            assert saved == [softmax.name]
        names = {parameter.name for parameter in main.all_parameters()}
        assert {path.name for path in (tmp_path / "params").iterdir()} == names
        kept = {path.name for path in (tmp_path / "persistables").iterdir()}
        assert kept > names and "@LR_DECAY_COUNTER@" in kept

        momentum = next(name for name in sorted(kept) if "fc_weights" in name and name not in names)
        moved, counter = value(momentum), value("@LR_DECAY_COUNTER@")
        for load in (
            lambda: fluid.io.load_params(executor, str(tmp_path / "params"), main),
            lambda: fluid.io.load_params(executor, str(tmp_path / "one"), main, filename="all"),
            lambda: fluid.io.load_persistables(executor, str(tmp_path / "persistables"), main),
        ):
            with fluid.scope_guard(fluid.Scope()):
                executor.run(startup)
                load()
                (found,) = executor.run(test, feed=FEED, fetch_list=[softmax])
                last = value(momentum), value("@LR_DECAY_COUNTER@")
            np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(last[0], moved)
        assert last[1] == counter == 19
        for name in ("model", "test"):
            with fluid.scope_guard(fluid.Scope()):
                program, inputs, targets = fluid.io.load_inference_model(
                    str(tmp_path / name), executor
                )
                assert inputs == ["image"]
                (found,) = executor.run(program, feed={"image": IMAGES[:3]}, fetch_list=targets)
            np.testing.assert_allclose(found, wanted[:3], rtol=1e-5, atol=1e-6)


def test_classifier_of_current_paddle(kind):
    """The deformable block gives what `paddle.nn` gives with the same parameters."""
    with programs_1x(kind) as executor:
        image = fluid.data("image", [None, 3, 32, 32])
        out = conv_norm(image, 8, 3, 2, "relu", "block", deformable=True)
        fluid.default_main_program().clone(for_test=True)
        initialize(executor)
        weights = {}
        for parameter in fluid.default_main_program().all_parameters():
            tensor = fluid.global_scope().find_var(parameter.name).get_tensor()
            array = RNG.uniform(0.1, 0.3, parameter.shape).astype("float32")
            tensor.set(array, fluid.CPUPlace())
            weights[parameter.name] = array
        (found,) = executor.run(feed={"image": IMAGES}, fetch_list=[out])
        moved = value("bn_block_mean")
    conv_offset = paddle.nn.Conv2D(3, 27, 3, stride=2, padding=1)
    norm = paddle.nn.BatchNorm2D(8)
    for tensor, name in (
        (conv_offset.weight, "block_conv_offset.w_0"),
        (conv_offset.bias, "block_conv_offset.b_0"),
        (norm.weight, "bn_block_scale"),
        (norm.bias, "bn_block_offset"),
        (norm._mean, "bn_block_mean"),
        (norm._variance, "bn_block_variance"),
    ):
        tensor.set_value(weights[name])
    x = paddle.to_tensor(IMAGES)
    planes = conv_offset(x)
    conv = paddle_dcn.deform_conv2d_reference(
        x,
        planes[:, :18],
        paddle.to_tensor(weights["block_weights"]),
        stride=2,
        padding=1,
        mask=paddle.nn.functional.sigmoid(planes[:, 18:]),
    )
    wanted = paddle.nn.functional.relu(norm(conv)).numpy()
    # Rounding of the batch statistics, in units of the result.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())
    np.testing.assert_allclose(moved, norm._mean.numpy(), rtol=1e-5)


# --- a detector: feature pyramid, heads, losses --------------------------------------------------


def detector():
    """A pyramid over open sizes, a head with group normalisation, the losses of detectors."""
    image = fluid.data(name="image", shape=[None, 3, None, None], dtype="float32")
    box = fluid.data(name="box", shape=[None, 4, None, None], dtype="float32")
    weight = fluid.data(name="weight", shape=[None, 1, None, None], dtype="float32")
    low = conv_norm(image, 8, 3, 2, "relu", "low", norm="affine_channel")
    high = conv_norm(low, 8, 3, 2, "relu", "high", deformable=True, norm="affine_channel")
    top = layers.resize_nearest(layers.conv2d(high, 8, 1, name="lateral"), scale=2.0)
    features = layers.elementwise_add(x=layers.conv2d(low, 8, 1, name="side"), y=top)
    features = layers.group_norm(
        input=layers.conv2d(features, 8, 3, padding=1, bias_attr=False),
        groups=4,
        act="relu",
        param_attr=ParamAttr(name="gn_scale"),
        bias_attr=ParamAttr(name="gn_offset"),
    )
    heat = layers.conv2d(
        features,
        1,
        1,
        param_attr=ParamAttr(initializer=Normal(0, 0.01)),
        bias_attr=ParamAttr(initializer=Constant(-2.0), learning_rate=2.0),
    )
    found = layers.relu(layers.conv2d(features, 4, 1, name="box_head")) * 4.0

    target = layers.cast(weight > 0.5, "float32")
    target.stop_gradient = True
    count = layers.reduce_sum(target) + 1e-4
    focal = layers.sigmoid_cross_entropy_with_logits(heat, target)
    focal = layers.reduce_sum(focal * layers.pow(1.0 - layers.exp(0 - focal), factor=2.0)) / count
    index = layers.where(layers.squeeze(weight, [1]) > 0.5)
    index.stop_gradient = True
    chosen = layers.gather_nd(layers.transpose(found, [0, 2, 3, 1]), index)
    truth = layers.gather_nd(layers.transpose(box, [0, 2, 3, 1]), index)
    sides = layers.reduce_sum(layers.smooth_l1(chosen, truth, sigma=3.0)) / count
    shape = layers.shape(found)
    row = layers.range(0, layers.cast(shape[3], "float32"), 1.0, "float32")
    row = layers.expand(layers.reshape(row, [1, 1, 1, -1]), [shape[0], 1, shape[2], 1])
    coordinates = layers.concat([found, row / layers.cast(shape[3], "float32")], axis=1)
    kept = layers.cast(layers.pool2d(heat, 3, "max", pool_padding=1) == heat, "float32")
    scores = layers.reshape(layers.sigmoid(heat) * kept, [0, -1])
    best, place = layers.topk(scores, 2)
    return layers.sum([focal, sides]), best, place, coordinates


def test_detector(kind):
    weight = np.zeros((4, 1, 16, 16), "float32")
    weight[:, :, 4:7, 5:8] = 1
    box = np.full((4, 4, 16, 16), 3, "float32")
    feed = {"image": IMAGES, "box": box, "weight": weight}
    paddle.seed(2)
    with programs_1x(kind) as executor:
        main = fluid.default_main_program()
        loss, best, place, coordinates = detector()
        test = main.clone(for_test=True)
        fluid.optimizer.Adam(
            learning_rate=layers.cosine_decay(0.02, 10, 10),
            grad_clip=fluid.clip.GradientClipByValue(max=1.0),
        ).minimize(loss)
        after = main.clone(for_test=True)  # without the backward pass and the optimizer
        initialize(executor)
        losses = [executor.run(feed=feed, fetch_list=[loss])[0] for _ in range(15)]
        assert losses[-1] < losses[0] / 2
        results = executor.run(test, feed=feed, fetch_list=[best, place, coordinates])
        again = executor.run(after, feed=feed, fetch_list=[best.name, place.name, loss.name])
        last = executor.run(test, feed=feed, fetch_list=[loss])
    assert [array.shape for array in results] == [(4, 2), (4, 2), (4, 5, 16, 16)]
    np.testing.assert_array_equal(results[0], again[0])
    np.testing.assert_array_equal(results[1], again[1])
    np.testing.assert_array_equal(again[2], last[0])  # nothing was trained in between
    np.testing.assert_allclose(results[2][1, 4, 3], np.arange(16) / 16, rtol=1e-6)


# --- other kinds of networks ---------------------------------------------------------------------


def video():
    """Frames in the batch, shifted between the layers of a network (as TSM does)."""
    frames = fluid.data("image", [None, 3, 32, 32])
    label = fluid.data("label", [None, 1], "int64")
    out = layers.conv2d(frames, 8, 3, stride=4, padding=1, act="relu", bias_attr=False)
    out = layers.temporal_shift(out, seg_num=2, shift_ratio=0.25)
    out = layers.batch_norm(layers.conv2d(out, 8, 3, padding=1), act="leaky_relu")
    out = layers.pool2d(out, pool_size=8, pool_type="avg", pool_stride=1)
    out = layers.reduce_mean(layers.reshape(out, shape=[-1, 2, 8]), dim=1)
    probability = layers.fc(out, 3, act="softmax")
    truth = layers.slice(label, axes=[0], starts=[0], ends=[2])
    return layers.mean(layers.cross_entropy(input=probability, label=truth))


def generator():
    """Transposed convolutions, instance normalisation, prelu, pixel shuffle (as GANs use)."""
    image = fluid.data("image", [None, 3, 32, 32])
    out = layers.pad2d(image, [1, 1, 1, 1], mode="reflect")
    out = layers.instance_norm(layers.conv2d(out, 8, 3, stride=2), name="in")
    out = layers.prelu(out, mode="channel", param_attr="slope")
    out = layers.conv2d_transpose(out, 12, filter_size=3, padding=1, act="hard_swish")
    out = layers.pixel_shuffle(out, upscale_factor=2)
    out = layers.resize_bilinear(out, out_shape=[32, 32], align_corners=False)
    return layers.reduce_mean(layers.abs(layers.elementwise_sub(layers.tanh(out), image)))


def words():
    """A table of embeddings, layer normalisation and attention."""
    label = fluid.data("label", [None, 1], "int64")
    x = layers.embedding(label, size=[4, 8], param_attr=ParamAttr(name="table"))
    x = layers.layer_norm(x, begin_norm_axis=1)
    weights = layers.softmax(layers.matmul(x, x, transpose_y=True, alpha=8**-0.5))
    x = layers.fc(layers.matmul(weights, x), 4, act="swish")
    hot = layers.label_smooth(layers.one_hot(label, depth=4), epsilon=0.1)
    return layers.mean(layers.softmax_with_cross_entropy(x, hot, soft_label=True))


@pytest.mark.parametrize("network", [video, generator, words])
def test_other_networks(kind, network, tmp_path):
    """They train, and start again where they were saved."""
    paddle.seed(4)
    with programs_1x(kind) as executor:
        loss = network()
        fluid.optimizer.AdamOptimizer(learning_rate=0.02).minimize(loss)
        initialize(executor)
        feed = {
            name: array
            for name, array in FEED.items()
            if fluid.default_main_program().global_block().has_var(name)
        }
        losses = [executor.run(feed=feed, fetch_list=[loss])[0] for _ in range(12)]
        fluid.io.save_persistables(executor, str(tmp_path))
        further = executor.run(feed=feed, fetch_list=[loss])[0]
        with fluid.scope_guard(fluid.Scope()):
            initialize(executor)
            fluid.io.load_persistables(executor, str(tmp_path))
            again = executor.run(feed=feed, fetch_list=[loss])[0]
    assert losses[-1] < 0.9 * losses[0]
    np.testing.assert_allclose(again, further, rtol=1e-5)


# --- parameters of 1.x ---------------------------------------------------------------------------


def stored(array):
    """Return a float32 array as the `save` operator of every Paddle writes it."""
    message = b"\x08\x05" + b"".join(b"\x10" + bytes([size]) for size in array.shape)
    return struct.pack("<IQIi", 0, 0, 0, len(message)) + message + array.tobytes()


@pytest.mark.parametrize("filename", [None, "__params__"])
def test_parameters_of_the_original(kind, filename, tmp_path):
    """Files as 1.x wrote them, one for each parameter or one for all, ordered by name."""
    with programs_1x(kind) as executor:
        classifier()
        fluid.optimizer.SGD(layers.exponential_decay(0.1, 10, 0.5)).minimize(
            layers.mean(fluid.default_main_program().all_parameters()[0])
        )
        initialize(executor)
        shapes = {p.name: p.shape for p in fluid.default_main_program().all_parameters()}
        arrays = {n: RNG.normal(size=s).astype("float32") for n, s in sorted(shapes.items())}
        if filename is None:
            for name, array in arrays.items():
                (tmp_path / name).write_bytes(stored(array))
        else:
            (tmp_path / filename).write_bytes(b"".join(map(stored, arrays.values())))
        fluid.io.load_params(executor, str(tmp_path), filename=filename)
        for name, array in arrays.items():
            np.testing.assert_array_equal(value(name), array)


# --- schedules -----------------------------------------------------------------------------------


def half_cosine(epoch, epochs):
    return (1 + math.cos(math.pi * epoch / epochs)) / 2


# The schedule, and its value in run t, from 0.
SCHEDULES = {
    "exponential_decay": (
        lambda: layers.exponential_decay(0.1, 2, 0.5, staircase=True),
        lambda t: 0.1 * 0.5 ** (t // 2),
    ),
    "natural_exp_decay": (
        lambda: layers.natural_exp_decay(0.1, 4, 0.5),
        lambda t: 0.1 * math.exp(-0.5 * t / 4),
    ),
    "inverse_time_decay": (
        lambda: layers.inverse_time_decay(0.1, 4, 0.5),
        lambda t: 0.1 / (1 + 0.5 * t / 4),
    ),
    "polynomial_decay": (
        lambda: layers.polynomial_decay(0.1, 4, 0.01, power=2.0),
        lambda t: 0.09 * (1 - min(t, 4) / 4) ** 2 + 0.01,
    ),
    "polynomial_decay, cycle": (
        lambda: layers.polynomial_decay(0.1, 4, 0.01, cycle=True),
        lambda t: 0.09 * (1 - t / (4 * max(1, math.ceil(t / 4)))) + 0.01,
    ),
    "piecewise_decay": (
        lambda: layers.piecewise_decay([2, 5], [0.1, 0.01, 0.001]),
        lambda t: 0.1 if t < 2 else 0.01 if t < 5 else 0.001,
    ),
    "cosine_decay": (
        lambda: layers.cosine_decay(0.1, step_each_epoch=2, epochs=4),
        lambda t: 0.1 * half_cosine(t // 2, 4),
    ),
    "noam_decay": (
        lambda: layers.noam_decay(16, 3),
        lambda t: 16**-0.5 * min((t + 1) ** -0.5, (t + 1) * 3**-1.5),
    ),
    "linear_lr_warmup": (
        lambda: layers.linear_lr_warmup(layers.cosine_decay(0.1, 2, 4), 3, 0.0, 0.3),
        lambda t: 0.1 * t if t < 3 else 0.1 * half_cosine(t // 2, 4),
    ),
    "linear_lr_warmup, number": (
        lambda: layers.linear_lr_warmup(0.5, 2, 0.1, 0.3),
        lambda t: 0.1 + 0.1 * t if t < 2 else 0.5,
    ),
}


@pytest.mark.parametrize(
    ("name", "minimized"),
    [*((name, True) for name in SCHEDULES), ("piecewise_decay", False)],
)
def test_schedule(kind, name, minimized):
    """Every run moves the parameter by the rate of that run, its gradient being 1."""
    build, formula = SCHEDULES[name]
    with programs_1x(kind) as executor:
        weight = layers.create_parameter([1], "float32", name="w", default_initializer=Constant(0))
        rate = build()
        before = fluid.default_main_program().clone(for_test=True)
        fluid.optimizer.SGD(learning_rate=rate).minimize(layers.reduce_sum(weight))
        test = fluid.default_main_program().clone(for_test=True) if minimized else before
        initialize(executor)
        total = 0
        for t in range(8):
            (found,) = executor.run(fetch_list=[rate])
            executor.run(test, fetch_list=["w"])  # no run of the schedule
            total += formula(t)
            assert found == pytest.approx([formula(t)], rel=1e-5, abs=1e-8)
            assert value("w") == pytest.approx([-total], rel=1e-5, abs=1e-8)


def test_counter(kind):
    with programs_1x(kind) as executor:
        counters = [layers.autoincreased_step_counter("mine", begin=5, step=2) for _ in range(2)]
        initialize(executor)
        runs = [executor.run(fetch_list=counters) for _ in range(3)]
    assert [[int(c[0]) for c in run] for run in runs] == [[5, 5], [7, 7], [9, 9]]


# --- clipping ------------------------------------------------------------------------------------

# The clip, and the gradients (3, 4) and (0, 12) after it.
CLIPS = {
    "global norm": (
        lambda: fluid.clip.GradientClipByGlobalNorm(6.5),
        ([1.5, 2], [0, 6]),
    ),
    "norm": (lambda: fluid.clip.GradientClipByNorm(6.0), ([3, 4], [0, 6])),
    "value": (lambda: fluid.clip.GradientClipByValue(3.5), ([3, 3.5], [0, 3.5])),
    "value, ends": (lambda: fluid.clip.GradientClipByValue(12.0, 3.5), ([3.5, 4], [3.5, 12])),
    "chosen": (
        lambda: fluid.clip.GradientClipByNorm(1.0, need_clip=lambda p: p.name == "b"),
        ([3, 4], [0, 1]),
    ),
}


@pytest.mark.parametrize("where", ["optimizer", "program"])
@pytest.mark.parametrize("name", CLIPS)
def test_clip(kind, name, where):
    build, wanted = CLIPS[name]
    gradients = np.array([[3, 4], [0, 12]], "float32")
    with programs_1x(kind) as executor:
        loss = 0
        for name, gradient in zip("ab", gradients):
            parameter = layers.create_parameter(
                [2], "float32", name=name, default_initializer=Constant(0)
            )
            loss = layers.reduce_sum(parameter * layers.assign(gradient)) + loss
        if where == "program":
            fluid.clip.set_gradient_clip(build())
        clip = build() if where == "optimizer" else None
        fluid.optimizer.SGD(1.0, grad_clip=clip).minimize(loss)
        initialize(executor)
        executor.run()
        found = [value("a"), value("b")]
    np.testing.assert_allclose(found, -np.array(wanted), rtol=1e-5, atol=1e-6)


def test_clip_of_some_parameters(kind):
    with programs_1x(kind) as executor:
        weights = [
            layers.create_parameter([1], "float32", name=name, default_initializer=Constant(0))
            for name in "ab"
        ]
        loss = layers.reduce_sum(weights[0] * 9.0) + layers.reduce_sum(weights[1] * 9.0)
        fluid.clip.set_gradient_clip(fluid.clip.GradientClipByNorm(1.0), param_list=["b"])
        fluid.optimizer.SGD(1.0).minimize(loss)
        initialize(executor)
        executor.run()
        assert (value("a"), value("b")) == (-9, -1)
        with pytest.raises(TypeError, match="^clip: expected one of paddle_dcn.fluid.clip, got i"):
            fluid.clip.set_gradient_clip(5)


# --- programs ------------------------------------------------------------------------------------


def test_names(kind):
    """Results, inputs and parameters are found and fetched by their names, in clones as well."""
    with programs_1x(kind) as executor:
        main = fluid.default_main_program()
        x = fluid.data("x", [None, 2])
        hidden = layers.fc(x, 2, param_attr=ParamAttr(name="w", initializer=Constant(2.0)))
        first, second = layers.split(hidden, 2, dim=1)
        loss = layers.mean(first + second)
        test = main.clone(for_test=True)
        initialize(executor)
        names = [first.name, second.name, loss.name, "w", "x"]
        assert len(set(names)) == 5
        feed = {"x": np.array([[1, 2]], "float32")}
        for program in (main, test):
            found = executor.run(program, feed=feed, fetch_list=names)
            assert [array.tolist() for array in found] == [
                [[6]],
                [[6]],
                [12],
                [[2, 2], [2, 2]],
                [[1, 2]],
            ]
            assert [executor.run(program, feed=feed, fetch_list=loss.name)[0]] == [12]
            assert [*program.global_block().var("w").shape] == [2, 2]
            assert program.global_block().var(second.name).name == second.name
            assert not program.global_block().has_var("y")
            with pytest.raises(ValueError, match="y"):
                program.global_block().var("y")
        assert [p.name for p in main.all_parameters()] == ["w", "fc_0.b_0"]
        assert {"w", "x", "fc_0.b_0"} <= {variable.name for variable in main.list_vars()}
        assert fluid.framework._get_var("w").name == "w"
        assert isinstance(loss, fluid.framework.Variable)
        assert fluid.Variable is fluid.framework.Variable
        assert not isinstance(1.0, fluid.Variable)
        kinds = [isinstance(main.global_block().var(n), fluid.framework.Parameter) for n in names]
        assert kinds == [False, False, False, True, False]
        with pytest.raises(ValueError, match="y"):
            executor.run(feed=feed, fetch_list=["y"])
        with pytest.raises(ValueError, match="^name: expected the name of a tensor of the pro"):
            fluid.framework._get_var("y")
    assert isinstance(paddle.ones([1]), fluid.Variable)
    assert isinstance(paddle.nn.Linear(1, 1).weight, fluid.framework.Parameter)
    assert not isinstance(paddle.ones([1]), fluid.framework.Parameter)


FEEDS = [
    ({}, "feed: expected an array for 'x', got []"),
    ({"x": np.zeros((2, 5), "float32")}, "feed: expected 'x' of shape [-1, 3], got [2, 5]"),
    ({"x": np.zeros(3, "float32")}, "feed: expected 'x' of shape [-1, 3], got [3]"),
    ({"x": np.zeros((2, 3))}, "feed: expected 'x' of dtype float32, got float64"),
]


@pytest.mark.parametrize(("feed", "message"), FEEDS)
def test_wrong_feed(feed, message):
    with programs_1x("pir") as executor:
        out = layers.mean(layers.data("x", [3]))
        with pytest.raises(ValueError) as caught:
            executor.run(feed=feed, fetch_list=[out])
        tensor = paddle.base.create_lod_tensor(np.ones((2, 3), "float32"), [], fluid.CPUPlace())
        for right in ([[1, 1, 1]], np.ones((1, 3), "float32"), tensor):
            assert executor.run(feed={"x": right}, fetch_list=[out])[0] == 1
    assert str(caught.value) == message


def test_gradients_by_name(kind):
    """Those of parameters are fetched, and tensors that get none are given by their names."""
    with programs_1x(kind) as executor:
        a, b = (
            layers.create_parameter([2], "float32", name=name, default_initializer=Constant(3))
            for name in "ab"
        )
        loss = layers.reduce_sum(layers.elementwise_mul(a * a, b))
        _, pairs = fluid.optimizer.SGD(0.5).minimize(loss, no_grad_set={"b"})
        assert [(one.name, other.name) for one, other in pairs] == [("a", "a@GRAD")]
        initialize(executor)
        (found,) = executor.run(fetch_list=["a@GRAD"])
        np.testing.assert_array_equal(found, [18, 18])
        np.testing.assert_array_equal(value("a"), [-6, -6])
        np.testing.assert_array_equal(value("b"), [3, 3])


def test_append_backward(kind):
    with programs_1x(kind) as executor:
        a, b, c = (
            layers.create_parameter([2], "float32", name=name, default_initializer=Constant(3))
            for name in "abc"
        )
        loss = layers.reduce_sum(layers.elementwise_mul(a * a, b) + c)
        pairs = fluid.backward.append_backward(loss, parameter_list=["a", "b"], no_grad_set={"b"})
        assert [(one.name, other.name) for one, other in pairs] == [("a", "a@GRAD")]
        test = fluid.default_main_program().clone(for_test=True)
        initialize(executor)
        np.testing.assert_array_equal(executor.run(fetch_list=["a@GRAD"])[0], [18, 18])
        assert executor.run(test, fetch_list=[loss])[0] == 60
        with pytest.raises(ValueError, match="a@GRAD"):
            executor.run(test, fetch_list=["a@GRAD"])


def test_py_func():
    def write(out):
        found = fluid.LoDTensor()
        found.set(np.array(out) * 2, fluid.CPUPlace())
        return found

    with programs_1x("old") as executor:
        x = fluid.data("x", [2])
        out = fluid.default_main_program().current_block().create_var(dtype="float32", shape=[2])
        layers.py_func(write, x, out)
        found = executor.run(feed={"x": np.ones(2, "float32")}, fetch_list=[out])[0]
        np.testing.assert_array_equal(found, [2, 2])
    with programs_1x("pir"), pytest.raises(RuntimeError, match="py_func needs FLAGS_enable_pir"):
        layers.py_func(write, None, None)


def test_operators_on_two_dtypes(kind):
    """The second tensor takes the dtype of the first, as in 1.x."""
    with programs_1x(kind) as executor:
        x, n = fluid.data("x", [None]), fluid.data("n", [None], "int32")
        results = [x + n, x * n, x > n, x - layers.cast(n, "int64")]
        found = executor.run(
            feed={"x": np.array([0.5, 2.5], "float32"), "n": np.array([1, 2], "int32")},
            fetch_list=results,
        )
    assert [array.tolist() for array in found] == [[1.5, 4.5], [0.5, 5], [False, True], [-0.5, 0.5]]
    assert [str(array.dtype) for array in found] == ["float32", "float32", "bool", "float32"]


def test_clone_for_training():
    """It goes on training the same parameters; names are those of the original."""
    with programs_1x("pir") as executor:
        main = fluid.default_main_program()
        weight = layers.create_parameter([1], "float32", name="w", default_initializer=Constant(0))
        loss = layers.reduce_sum(weight * 2.0)
        fluid.optimizer.SGD(1.0).minimize(loss)
        copy = main.clone(for_test=False)
        initialize(executor)
        assert executor.run(copy, fetch_list=[loss.name])[0] == 0
        assert value("w") == -2
        assert len(main.clone().global_block().ops) == len(main.global_block().ops)


def test_clone_in_place_of_the_program(kind):
    """`program = program.clone(for_test=True)`: tensors of what was there can still be fetched."""
    with programs_1x(kind) as executor:
        program, startup = fluid.Program(), fluid.Program()
        with fluid.program_guard(program, startup):
            loss = layers.mean(layers.fc(fluid.data("x", [None, 2]), 2))
        program = program.clone(for_test=True)
        gc.collect()
        executor.run(startup)
        feed = {"x": np.zeros((1, 2), "float32")}
        assert executor.run(program, feed=feed, fetch_list=[loss])[0] == 0


def test_clone_of_a_program_that_others_train():
    with programs_1x("pir"):
        weight = layers.create_parameter([1], "float32", name="w", default_initializer=Constant(0))
        paddle.optimizer.SGD(1.0).minimize(layers.reduce_sum(layers.square(weight)))
        with pytest.raises(ValueError, match="^for_test: expected a program whose backward pass w"):
            fluid.default_main_program().clone(for_test=True)


def test_several_devices():
    with pytest.raises(ValueError, match="^places: expected one device, got 2$"):
        fluid.CompiledProgram(None).with_data_parallel(places=[fluid.CPUPlace()] * 2)


def test_tensors_are_true(kind):
    """As any object is: networks ask whether there is one, and `min` of Python gives the second."""
    with programs_1x(kind) as executor:
        x = fluid.data("x", [1, 2])
        assert x
        expected = contextlib.nullcontext() if kind == "old" else pytest.warns(match="taken for Tr")
        with expected:
            least = min(x, x * 2.0)
        np.testing.assert_array_equal(
            executor.run(feed={"x": np.ones([1, 2], "float32")}, fetch_list=[least])[0], [[2, 2]]
        )


def test_created_tensors_take_any_shape(kind):
    with programs_1x(kind) as executor:
        x = fluid.data("x", [None, 3, 2])
        left, right = (fluid.layers.create_tensor("float32") for _ in range(2))
        fluid.layers.assign(np.ones([5, 3], "float32"), left)
        fluid.layers.assign(x, right)
        product = fluid.layers.matmul(left, right)
        assert [*product.shape] == [-1, 5, 2]
        (found,) = executor.run(feed={"x": np.ones([4, 3, 2], "float32")}, fetch_list=[product])
    np.testing.assert_array_equal(found, np.full([4, 5, 2], 3))


def test_parameters_are_looked_up_once(monkeypatch):
    """Not in all operations for each layer, which would make long networks slow to build."""
    looked = []
    plain = paddle.pir.Block.all_parameters
    monkeypatch.setattr(
        paddle.pir.Block, "all_parameters", lambda block: looked.append(block) or plain(block)
    )
    with programs_1x("pir"):
        x = fluid.data("x", [None, 4])
        first = paddle.static.create_parameter([4, 4], "float32", name="of_paddle")
        for i in range(20):
            x = fluid.layers.fc(x, 4, param_attr=f"w{i}")
        assert fluid.layers.create_parameter([4, 4], "float32", name="of_paddle").is_same(first)
        assert fluid.framework._get_var("w3").shape == [4, 4]
        assert len(looked) <= 2


# --- programs ------------------------------------------------------------------------------------


def test_parameters_are_shared(kind):
    """By name, by a helper of one's own, and by names that count anew; one step moves them once."""
    from paddle_dcn.fluid.layer_helper import LayerHelper

    def own(x):
        helper = LayerHelper("own", param_attr=ParamAttr(name="w"))
        return layers.mean(x * helper.create_parameter(helper.param_attr, [3], "float32"))

    def again(x):
        with fluid.unique_name.guard():
            return layers.mean(layers.fc(x, 1, bias_attr=False))

    with programs_1x(kind) as executor:
        x = fluid.data("x", [None, 3])
        loss = own(x) + own(x) * 2.0 + again(x) + again(x) * 2.0
        fluid.optimizer.Adam(0.125).minimize(loss)
        parameters = fluid.default_main_program().global_block().all_parameters()
        names = [parameter.name for parameter in parameters]
        assert names == ["w", "fc_0.w_0"]  # in the order of their creation
        initialize(executor)
        before = [value(name) for name in names]
        executor.run(feed={"x": np.ones((4, 3), "float32")})
        for name, array in zip(names, before):
            # Adam's first step is the rate, but for epsilon over the gradient, which is 1.
            np.testing.assert_allclose(array - value(name), 0.125, rtol=1e-5)


def test_default_names_count_by_guard(kind):
    """A second program of the process goes on counting; a guard's prefix comes before each part."""
    with programs_1x(kind):
        found = []
        for _ in range(2):
            with fluid.program_guard(fluid.Program(), fluid.Program()):
                layers.fc(fluid.data("x", [None, 3]), 2, name="foo", bias_attr=False)
                found += [p.name for p in fluid.default_main_program().all_parameters()]
        with fluid.unique_name.guard("g_"):
            layers.fc(fluid.data("x", [None, 3]), 2, bias_attr=False)
            found += [p.name for p in fluid.default_main_program().all_parameters()]
        assert found == ["foo.w_0", "foo.w_1", "g_g_fc_0.w_0"]


@pytest.mark.parametrize("way", ["folder", "one file", "load"])
def test_program_state_of_files(kind, way, tmp_path):
    with programs_1x(kind) as executor:
        layers.fc(fluid.data("x", [None, 3]), 2, param_attr="w", bias_attr="b")
        program = fluid.default_main_program()
        initialize(executor)
        saved = value("w")
        filename = "all" if way == "one file" else None
        fluid.io.save_params(executor, str(tmp_path), program, filename)
        tensor = fluid.global_scope().find_var("w").get_tensor()
        tensor.set(np.zeros((3, 2), "float32"), fluid.CPUPlace())
        if way == "load":
            fluid.load(program, str(tmp_path), executor)
        else:
            parameters = program.all_parameters() if filename else None
            path = tmp_path / filename if filename else tmp_path
            state = fluid.io.load_program_state(str(path), parameters)
            assert sorted(state) == ["b", "w"]
            fluid.io.set_program_state(program, state)
        np.testing.assert_array_equal(value("w"), saved)


def test_counts_of_accuracy(kind):
    with programs_1x(kind) as executor:
        scores, labels = fluid.data("p", [None, 4]), fluid.data("l", [None, 1], "int64")
        correct, total = (layers.create_tensor("int64") for _ in range(2))
        share = layers.accuracy(scores, labels, correct=correct, total=total)
        feed = {"p": np.eye(4, dtype="float32"), "l": np.array([[0], [1], [2], [0]])}
        assert executor.run(feed=feed, fetch_list=[share, correct, total]) == [0.75, 3, 4]


def test_constant_rate_has_a_dimension(kind):
    """As in the files that 1.x saved."""
    with programs_1x(kind) as executor:
        fluid.optimizer.SGD(0.5).minimize(layers.mean(layers.fc(fluid.data("x", [None, 3]), 2)))
        initialize(executor)
        feed = {"x": np.ones((1, 3), "float32")}
        (rate,) = executor.run(feed=feed, fetch_list=["learning_rate_0"])
        np.testing.assert_array_equal(rate, np.array([0.5], "float32"))


def test_results_of_plain_clones(kind):
    with programs_1x(kind) as executor:
        out = layers.fc(fluid.data("x", [None, 3]), 5)
        copy = fluid.default_main_program().clone()
        fluid.optimizer.SGD(0.1).minimize(layers.mean(out))
        initialize(executor)
        (found,) = executor.run(copy, feed={"x": np.ones((2, 3), "float32")}, fetch_list=[out])
        assert found.shape == (2, 5)


def test_backward_and_apply_gradients(kind):
    with programs_1x(kind) as executor:
        x = fluid.data("x", [None, 3])
        optimizer = fluid.optimizer.SGD(0.5)
        loss = layers.mean(layers.fc(x, 1, param_attr=ParamAttr("w", Constant(0.0))))
        optimizer.apply_gradients(optimizer.backward(loss))
        initialize(executor)
        feed = fluid.DataFeeder(["x"], fluid.CPUPlace(), fluid.default_main_program())
        feed = feed.feed([([1, 2, 3],)])
        (gradient,) = executor.run(feed=feed, fetch_list=["w@GRAD"])
        np.testing.assert_array_equal(gradient, [[1], [2], [3]])
        np.testing.assert_array_equal(value("w"), [[-0.5], [-1], [-1.5]])


@pytest.mark.parametrize("frozen", ["scale", "shift"])
@pytest.mark.parametrize("norm", ["batch_norm", "instance_norm"])
def test_half_frozen_norm(norm, frozen, kind):
    """The other one learns: with ones and zeros, the mean of squares is 1, its gradient 2 and 0."""
    with programs_1x(kind) as executor:
        x = fluid.data("x", [None, 3, 5, 5])
        x.stop_gradient = False
        attrs = [ParamAttr(n, trainable=n != frozen) for n in ("scale", "shift")]
        out = getattr(layers, norm)(x, param_attr=attrs[0], bias_attr=attrs[1])
        moved = out + layers.assign(np.ones([1, 3, 1, 1], "float32"))
        loss = layers.reduce_sum(layers.reduce_mean(layers.square(moved), [0, 2, 3]))
        fluid.optimizer.SGD(0.25).minimize(loss)
        initialize(executor)
        executor.run(feed={"x": RNG.normal(size=(2, 3, 5, 5)).astype("float32")})
        # Variances are divided by themselves and epsilon, 1e-5.
        wanted = [1, -0.5] if frozen == "scale" else [0.5, 0]
        np.testing.assert_allclose(value("scale"), np.full(3, wanted[0]), atol=1e-4)
        np.testing.assert_allclose(value("shift"), np.full(3, wanted[1]), atol=1e-4)


@pytest.mark.parametrize("settings", [{"groups": 4}, {"dilation": [1, 2]}], ids=str)
def test_groups_and_dilation_of_conv2d_transpose(settings, kind):
    x = RNG.normal(size=(2, 4, 5, 6)).astype("float32")
    with programs_1x(kind) as executor:
        image = fluid.data("x", x.shape)
        out = layers.conv2d_transpose(
            image, 4, filter_size=3, stride=2, bias_attr=False, **settings
        )
        initialize(executor)
        weight = value("conv2d_transpose_0.w_0")
        (found,) = executor.run(feed={"x": x}, fetch_list=[out])
    layer = paddle.nn.Conv2DTranspose(4, 4, 3, 2, bias_attr=False, **settings)
    layer.weight.set_value(weight)
    np.testing.assert_allclose(found, layer(paddle.to_tensor(x)).numpy(), atol=1e-5)


@pytest.mark.parametrize("need_restore", [True, False])
def test_exponential_moving_average(need_restore, kind):
    """Of 0.5, 0 and -0.5 with decay 0.5, over 1 - 0.5^3."""
    with programs_1x(kind) as executor:
        w = layers.create_parameter([2], "float32", "w", default_initializer=Constant(1.0))
        fluid.optimizer.SGD(0.5).minimize(layers.reduce_sum(w))
        average = fluid.optimizer.ExponentialMovingAverage(0.5)
        average.update()
        test = fluid.default_main_program().clone(for_test=True)
        initialize(executor)
        for _ in range(3):
            executor.run(fetch_list=[w])
        executor.run(test, fetch_list=["w"])
        with average.apply(executor, need_restore):
            inside = value("w")
        np.testing.assert_allclose(inside, (0.5 * 0.125 - 0.5 * 0.5) / 0.875, rtol=1e-6)
        if not need_restore:
            np.testing.assert_array_equal(value("w"), inside)
            average.restore(executor)
        np.testing.assert_array_equal(value("w"), [-0.5, -0.5])


def test_model_average(kind):
    with programs_1x(kind) as executor:
        w = layers.create_parameter([2], "float32", "w", default_initializer=Constant(1.0))
        fluid.optimizer.SGD(0.5).minimize(layers.reduce_sum(w))
        average = fluid.optimizer.ModelAverage(1.0, 10, 10)
        initialize(executor)
        for _ in range(3):
            executor.run(fetch_list=[w])
        with average.apply(executor):
            np.testing.assert_array_equal(value("w"), [0, 0])
        np.testing.assert_array_equal(value("w"), [-0.5, -0.5])
