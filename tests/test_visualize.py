"""Tests of visualize: positions against loops, fields of models whose answer is known, pictures."""

from __future__ import annotations

import sys

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_dcn import (
    DeformConv2D,
    DeformConv2DPack,
    ModulatedDeformConv2DPack,
    compat,
    dcnv3,
    deform_conv2d,
    patched,
)
from paddle_dcn.visualize import (
    Sampling,
    effective_receptive_field,
    effective_sampling_locations,
    error_bounded_saliency,
    offset_field,
    plot_receptive_field,
    plot_sampling_points,
    receptive_field,
    sampling_points,
    trace,
)

# kernel (kh, kw), stride, padding (top, bottom, left, right), dilation, deformable groups
LAYERS = [
    ((3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ((3, 3), (2, 1), (1, 1, 1, 1), (1, 2), 2),
    ((2, 5), (1, 3), (2, 0, 1, 3), (3, 1), 1),
    ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 3),
]
OUT = (4, 5)


def offsets(rng, kernel, deformable_groups, batch=()):
    channels = deformable_groups * 2 * kernel[0] * kernel[1]
    return rng.normal(0, 2, (*batch, channels, *OUT))


def by_loop(offset, kernel, stride, padding, dilation, deformable_groups):
    """Positions of one image [dg, kh * kw, Ho, Wo, 2], an element at a time."""
    points = np.empty((deformable_groups, kernel[0] * kernel[1], *OUT, 2))
    for d, kh, kw, i, j in np.ndindex(deformable_groups, *kernel, *OUT):
        tap = kh * kernel[1] + kw
        channel = 2 * (d * kernel[0] * kernel[1] + tap)
        y = i * stride[0] - padding[0] + kh * dilation[0] + offset[channel, i, j]
        x = j * stride[1] - padding[2] + kw * dilation[1] + offset[channel + 1, i, j]
        points[d, tap, i, j] = y, x
    return points


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_sampling_points_follow_the_formula(layer):
    kernel, *arguments, deformable_groups = layer
    offset = offsets(np.random.default_rng(0), kernel, deformable_groups, (2,))
    points = sampling_points(offset, kernel, *arguments)
    for image in range(2):
        expected = by_loop(offset[image], *layer)
        np.testing.assert_allclose(points[image], expected, rtol=0, atol=1e-12)
        single = sampling_points(paddle.to_tensor(offset[image]), kernel, *arguments)
        np.testing.assert_array_equal(single, points[image])


def test_the_operator_samples_at_these_points():
    # Samples of an image whose values are the coordinates are the positions.
    kernel, deformable_groups, taps = 3, 2, 9
    arguments = {"stride": 2, "padding": (1, 0, 0, 1), "dilation": 1}
    size = (8, 9)
    rng = np.random.default_rng(0)
    offset = rng.uniform(-0.9, 0.9, (1, deformable_groups * 2 * taps, 4, 4))
    x = np.tile(np.indices(size), (deformable_groups, 1, 1))[None].astype("float64")
    weight = np.eye(2 * deformable_groups * taps).reshape(-1, 2 * deformable_groups, kernel, kernel)
    out = deform_conv2d(
        *map(paddle.to_tensor, (x, offset, weight)),
        deformable_groups=deformable_groups,
        **arguments,
    )
    sampled = out.numpy().reshape(deformable_groups, 2, taps, 4, 4).transpose(0, 2, 3, 4, 1)
    points = sampling_points(offset[0], kernel, **arguments)
    inside = ((points >= 0) & (points <= np.array(size) - 1)).all(axis=-1)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(sampled[inside], points[inside], rtol=0, atol=1e-12)


def test_receptive_field_of_one_layer_is_its_sampling():
    kernel, *arguments, deformable_groups = LAYERS[1]
    rng = np.random.default_rng(0)
    offset = offsets(rng, kernel, deformable_groups)
    mask = rng.random((offset.shape[0] // 2, *OUT))
    positions, weight = receptive_field([Sampling(offset, mask, kernel, *arguments)], (2, 3))
    expected = by_loop(offset, *LAYERS[1])[:, :, 2, 3].reshape(-1, 2)
    np.testing.assert_allclose(positions, expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(weight, mask[:, 2, 3])


def test_receptive_field_follows_two_layers():
    rng = np.random.default_rng(0)
    shape = (18, 7, 7)
    # Integer offsets: every sample of the second layer is an output pixel of the first, or none.
    lower = Sampling(rng.integers(-1, 2, shape), rng.random((9, 7, 7)), padding=1)
    upper = Sampling(rng.integers(-2, 3, shape), rng.random((9, 7, 7)), padding=1)
    point = (0, 3)
    expected = {}
    for tap in range(9):
        y = point[0] - 1 + tap // 3 + int(upper.offset[2 * tap][point])
        x = point[1] - 1 + tap % 3 + int(upper.offset[2 * tap + 1][point])
        if not (0 <= y < 7 and 0 <= x < 7):
            continue
        for inner in range(9):
            position = (
                y - 1 + inner // 3 + lower.offset[2 * inner, y, x],
                x - 1 + inner % 3 + lower.offset[2 * inner + 1, y, x],
            )
            weight = upper.mask[tap][point] * lower.mask[inner, y, x]
            expected.setdefault(position, []).append(weight)
    positions, weights = receptive_field([lower, upper], point)
    found = {}
    for position, weight in zip(positions.tolist(), weights):
        found.setdefault(tuple(position), []).append(weight)
    assert found.keys() == expected.keys()
    for position, weight in expected.items():
        assert sorted(found[position]) == pytest.approx(sorted(weight), rel=1e-12)


def test_receptive_field_interpolates_between_pixels():
    # In between the pixels of a linear field, interpolation gives the field itself.
    row, column = np.indices((5, 5))
    linear = np.stack([0.25 * row - 0.5 * column, 0.125 * column])
    lower = Sampling(linear, (row / 8)[None], kernel_size=1)
    upper = Sampling(np.full((2, 5, 5), 0.75), kernel_size=1)
    positions, weight = receptive_field([lower, upper], (2, 1))
    y, x = 2.75, 1.75
    assert positions.tolist() == [[y + 0.25 * y - 0.5 * x, x + 0.125 * x]]
    assert weight.tolist() == [y / 8]


def test_receptive_field_weighs_samples_on_the_zero_border():
    ones = Sampling(np.zeros((2, 4, 4)), kernel_size=1)
    for shift, share in ((-0.25, 0.75), (-1.0, None), (3.5, 0.5), (4.0, None)):
        upper = Sampling(np.full((2, 4, 4), [[[shift]], [[1.0]]]), kernel_size=1)
        _, weight = receptive_field([ones, upper], (0, 0))
        assert weight.tolist() == ([] if share is None else [share])


class Net(nn.Layer):
    """Every kind of deformable layer, one of them called twice."""

    def __init__(self):
        super().__init__()
        self.first = ModulatedDeformConv2DPack(3, 4, 3, padding=1, deformable_groups=1)
        self.second = DeformConv2DPack(4, 4, 3, stride=2, padding=1, deformable_groups=2)
        self.third = DeformConv2D(4, 4, (1, 3), padding=(0, 1), dilation=1)
        for layer in (self.first, self.second):
            layer.conv_offset.weight.set_value(paddle.randn(layer.conv_offset.weight.shape))

    def forward(self, x):
        x = self.second(self.first(x))
        offset = paddle.full([1, 6, *x.shape[2:]], 0.5)
        x = self.third(x, offset)
        return self.third(x, offset=offset, mask=paddle.full([1, 3, *x.shape[2:]], 0.25))


def test_trace_records_every_call_in_order():
    model, image = Net(), paddle.rand([3, 6, 6])
    stranger = DeformConv2DPack(3, 3, 3)
    before = model(image.unsqueeze(0))
    samplings = trace(model, image)
    planes = model.first.conv_offset(image.unsqueeze(0))[0]
    np.testing.assert_array_equal(samplings[0].offset, planes[:18].numpy())
    np.testing.assert_allclose(samplings[0].mask, 1 / (1 + np.exp(-planes[18:].numpy())), 1e-6)
    assert [s.offset.shape for s in samplings] == [(18, 6, 6), (36, 3, 3), (6, 3, 3), (6, 3, 3)]
    assert [s.mask is None for s in samplings] == [False, True, True, False]
    assert samplings[1].geometry == ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    assert samplings[3].geometry == ((1, 3), (1, 1), (0, 0, 1, 1), (1, 1))
    assert (samplings[3].mask == 0.25).all()
    assert trace(nn.Sequential(nn.Conv2D(3, 3, 3)), image) == []
    assert len(trace(stranger, image)) == 1
    np.testing.assert_array_equal(model(image.unsqueeze(0)).numpy(), before.numpy())


class Aggregated(nn.Layer):
    """DCNv3 of a channels-last image, every sample 2 pixels down and 1 to the left."""

    def forward(self, image):
        pixels = [image.shape[0], 7, 4]
        offset = paddle.tile(paddle.to_tensor([-1.0, 2.0]), [*pixels, 8])
        mask = paddle.arange(8, dtype="float32") * paddle.ones([*pixels, 1])
        arguments = {"stride_h": 1, "stride_w": 2, "remove_center": True, "dilation_w": 3}
        return dcnv3(image, offset, mask, **arguments, pad_w=2)


def test_trace_of_dcnv3_lies_as_its_image_does():
    """Although its samples count x before y, down the columns, and have no middle."""
    (sampling,) = trace(Aggregated(), paddle.rand([7, 9, 2]))
    points = sampling_points(sampling.offset, *sampling.geometry)
    assert points.shape == (1, 8, 7, 4, 2)
    taps = {}
    for column, row in [(c, r) for c in range(3) for r in range(3) if (c, r) != (1, 1)]:
        taps[(-1 + row + 2, -2 + 3 * column - 1)] = len(taps)  # its mask, down the columns
    found = [tuple(tap) for tap in points[0, :, 0, 0].astype(int).tolist()]
    assert sorted(found) == sorted(taps)
    assert sampling.mask[:, 0, 0].tolist() == [taps[tap] for tap in found]
    np.testing.assert_array_equal(points[0, 0, 5, 3] - points[0, 0, 0, 0], [5, 6])
    (samples,) = effective_sampling_locations(
        Aggregated(), paddle.rand([7, 9, 2]), (5, 3), data_format="NHWC"
    )
    np.testing.assert_array_equal(samples.points, points)
    used = samples.strength[0].sum(axis=0)
    assert [each.tolist() for each in used.nonzero()] == [[5], [3]]


def test_trace_reads_channels_last():
    layer = ModulatedDeformConv2DPack(2, 2, 3, data_format="NHWC")
    (sampling,) = trace(layer, paddle.rand([5, 7, 2]))
    assert sampling.offset.shape == (18, 3, 5) and (sampling.mask == 0.5).all()


class Shifted(nn.Layer):
    """An identity kernel of one tap that samples (dy, dx) aside, made in the way of `kind`."""

    def __init__(self, kind, shift=(1.0, -2.0)):
        super().__init__()
        self.kind, self.shift = kind, shift
        if kind == "function":
            self.weight = self.create_parameter([1, 1, 1, 1])
            weight = self.weight
        else:
            self.layer = {
                "layer": lambda: DeformConv2D(1, 1, 1, bias_attr=False),
                "pack": lambda: DeformConv2DPack(1, 1, 1, bias_attr=False),
                "modulated pack": lambda: ModulatedDeformConv2DPack(1, 1, 1, bias_attr=False),
                "mmcv": lambda: compat.mmcv.DeformConv2dPack(1, 1, 1),
                "mmcv v2": lambda: compat.mmcv.ModulatedDeformConv2dPack(1, 1, 1),
                "paddle": lambda: paddle.vision.ops.DeformConv2D(1, 1, 1, bias_attr=False),
            }[kind]()
            weight = self.layer.weight
            if hasattr(self.layer, "conv_offset"):
                bias = self.layer.conv_offset.bias
                bias.set_value(np.float32([*shift, 40][: len(bias)]))  # the mask is 1
        weight.set_value(paddle.ones([1, 1, 1, 1]))

    def forward(self, x):
        if "pack" in self.kind or "mmcv" in self.kind:
            return self.layer(x)
        offset = paddle.to_tensor(self.shift).reshape([1, 2, 1, 1]).expand([1, 2, *x.shape[2:]])
        if self.kind == "function":
            return deform_conv2d(x, offset, self.weight)
        with patched():
            return self.layer(x, offset)


KINDS = ["function", "layer", "pack", "modulated pack", "mmcv", "mmcv v2", "paddle"]


def one(position, size=(6, 7)):
    """A map that is 1 at one pixel."""
    out = np.zeros(size)
    out[position] = 1
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_a_shifted_identity_looks_where_it_is_shifted_to(kind):
    model, image = Shifted(kind), paddle.rand([1, 6, 7]) + 1
    at, seen = (2, 3), one((3, 1))
    np.testing.assert_array_equal(effective_receptive_field(model, image, at), seen)
    region, error = error_bounded_saliency(model, image, at, 0.5, steps=10)
    np.testing.assert_array_equal(region, seen)
    assert error == 0
    (sampling,) = trace(model, image)
    np.testing.assert_array_equal(offset_field(sampling)[at], [1, -2])
    (samples,) = effective_sampling_locations(model, image, at)
    assert samples.layer == ("" if kind == "function" else "layer")
    np.testing.assert_array_equal(samples.points[0, 0, 2, 3], [3, 1])
    # Where the operator has the kink of a whole position, it takes the side of larger coordinates.
    plane = image[0].numpy()
    slope = np.hypot(plane[4, 1] - plane[3, 1], plane[3, 2] - plane[3, 1])
    np.testing.assert_allclose(samples.strength[0, 0], slope * one(at), rtol=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_between_pixels_fields_are_shares_and_slopes():
    row, column = np.indices((6, 7))
    image = paddle.to_tensor((3.0 * row + 4.0 * column)[None], "float32")
    model = Shifted("layer", (1.25, -1.5))
    field = effective_receptive_field(model, image, (0, 2, 3))
    expected = np.zeros((6, 7))
    expected[3:5, 1:3] = np.outer([0.75, 0.25], [0.5, 0.5])
    np.testing.assert_allclose(field, expected, rtol=1e-6)
    (samples,) = effective_sampling_locations(model, image, (2, 3))
    np.testing.assert_allclose(samples.strength[0, 0], 5 * one((2, 3)), rtol=1e-5)


def test_receptive_field_of_plain_convolutions():
    model = nn.Sequential(
        nn.Conv2D(1, 1, 3, stride=2, padding=1), nn.Conv2D(1, 1, 3), nn.Flatten(), nn.Linear(4, 3)
    )
    for layer in model[:2]:
        layer.weight.set_value(paddle.ones_like(layer.weight))
    model[3].weight.set_value(np.float32([[0, 1, 0]] * 4))
    image = paddle.rand([1, 8, 8])
    # Two steps of 2 apart the second layer sees windows of 3: each end 1, what is shared 2.
    along = np.array([1, 1, 2, 1, 2, 1, 1])
    expected = np.zeros((8, 8))
    expected[1:, 1:] = np.outer(along, along)
    np.testing.assert_array_equal(
        effective_receptive_field(model, image, (1, 1), layer="1"), expected
    )
    np.testing.assert_array_equal(
        effective_receptive_field(model, image, (0, 1, 1), layer="1"), expected
    )
    assert effective_receptive_field(model, image, (0,)).sum() == 0
    # Both outputs have 9 ways a side, of which one of the first ends in the zeros.
    assert effective_receptive_field(model, image, (1,)).sum() == (8 + 9) ** 2
    assert effective_receptive_field(model, image, ()).sum() == (8 + 9) ** 2
    assert effective_sampling_locations(model, image, (1,)) == []


@pytest.mark.parametrize("bound", [0.01, 0.15, 0.4])
def test_saliency_of_a_convolution_is_its_heaviest_taps(bound):
    model, image = nn.Conv2D(1, 1, 3, padding=1, bias_attr=False), paddle.ones([1, 8, 9])
    taps = np.random.default_rng(0).permutation(np.arange(1, 10)).reshape(3, 3)
    model.weight.set_value(taps[None, None].astype("float32"))
    lost = np.cumsum(np.sort(taps, axis=None)) / taps.sum()
    expected = np.zeros((8, 9), bool)
    expected[3:6, 4:7] = taps > (lost <= bound).sum()
    region, error = error_bounded_saliency(model, image, (4, 5), bound)
    np.testing.assert_array_equal(region, expected)
    assert error == pytest.approx(max([0, *lost[lost <= bound]]), abs=1e-6)


def test_saliency_in_cells_and_channels_last():
    model = nn.Conv2D(2, 3, 1, data_format="NHWC")
    image = paddle.rand([6, 9, 2])
    region, error = error_bounded_saliency(
        model, image, (4, 5), 1e-3, data_format="NHWC", cell=4, fill=0.5, steps=20
    )
    expected = np.zeros((6, 9), bool)
    expected[4:, 4:8] = True
    np.testing.assert_array_equal(region, expected)
    assert error < 1e-5


def test_fields_of_channels_last_are_those_of_channels_first():
    first, last = (
        ModulatedDeformConv2DPack(2, 3, 3, stride=2, padding=1, data_format=layout)
        for layout in ("NCHW", "NHWC")
    )
    weight = paddle.randn(first.conv_offset.weight.shape)
    first.conv_offset.weight.set_value(weight)
    last.set_state_dict(first.state_dict())
    image = paddle.rand([2, 8, 10])
    across = image.transpose([1, 2, 0])
    fields = [
        effective_receptive_field(first, image, (1, 2)),
        effective_receptive_field(last, across, (1, 2), data_format="NHWC"),
    ]
    np.testing.assert_allclose(*fields, rtol=1e-4, atol=1e-5)
    (mine,), (other,) = (
        effective_sampling_locations(first, image, (1, 2)),
        effective_sampling_locations(last, across, (1, 2), data_format="NHWC"),
    )
    np.testing.assert_allclose(mine.points, other.points, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mine.strength, other.strength, rtol=1e-4, atol=1e-5)


def test_sampling_locations_are_scaled_to_the_image():
    model = nn.Sequential(nn.AvgPool2D(2), Shifted("pack", (1.0, 0.0)))
    (samples,) = effective_sampling_locations(model, paddle.rand([1, 6, 8]), (1, 2))
    np.testing.assert_array_equal(samples.points[0, 0, 1, 2], [4, 4])


def test_offset_field_weighs_by_the_mask():
    offset = np.zeros((4, 2, 2))
    offset[0], offset[2] = 1.0, 5.0
    mask = np.zeros((2, 2, 2))
    mask[0, 0, 0], mask[1, 0] = 3.0, 1.0
    field = offset_field(Sampling(offset, mask, kernel_size=(1, 2)))
    np.testing.assert_array_equal(field[..., 0], [[2, 5], [0, 0]])
    assert not field[..., 1].any()


class Pair(nn.Layer):
    """Returns two tensors, and has a layer that never runs."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Conv2D(1, 2, 1), nn.Conv2D(1, 1, 1)

    def forward(self, x):
        return self.used(x), x


def of_pair(*arguments, **named):
    return lambda: effective_receptive_field(Pair(), paddle.rand([1, 4, 5]), *arguments, **named)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (of_pair((0, 0)), TypeError, "expected a tensor as the response, got tuple"),
        (of_pair((0, 0), layer="use"), ValueError, r"layer: expected .* got 'use' \(used"),
        (of_pair((0, 0), layer="idle"), ValueError, "layer: expected one that runs, got 'idle'"),
        (of_pair((0,), layer="used"), ValueError, r"position: expected 2 or 3 ints, got \(0,\)"),
        (of_pair((0, 1.5), layer="used"), ValueError, "position: expected 2 or 3 ints"),
        (of_pair((4, 0), layer="used"), IndexError, r"inside \[4, 5\], got \(4, 0\)"),
        (of_pair((0, -1), layer="used"), IndexError, r"inside \[4, 5\], got \(0, -1\)"),
        (of_pair((2, 0, 0), layer="used"), IndexError, r"inside \[2, 4, 5\]"),
        (of_pair((0, 0), data_format="CHW"), ValueError, "data_format: expected"),
        (
            lambda: effective_receptive_field(nn.ReLU(), np.ones([1, 4, 5]), (0, 0)),
            TypeError,
            "image: expected a paddle.Tensor, got numpy.ndarray",
        ),
        *(
            (
                lambda field=field: field(nn.ReLU(), paddle.ones([1, 1, 4, 5]), (0, 0)),
                ValueError,
                r"image: expected 3-D \[C, H, W\], got 4-D \[1, 1, 4, 5\]",
            )
            for field in (effective_sampling_locations, error_bounded_saliency)
        ),
        (
            lambda: effective_receptive_field(nn.Flatten(0), paddle.rand([1, 4, 5]), (0,)),
            ValueError,
            r"expected a response \[1, C, Ho, Wo\] or \[1, K\], got \[20\]",
        ),
        (
            lambda: error_bounded_saliency(nn.ReLU(), -paddle.ones([1, 4, 5]), (0, 0)),
            ValueError,
            "expected a finite response other than 0",
        ),
        (
            lambda: error_bounded_saliency(nn.ReLU(), paddle.ones([1, 4, 5]), (0, 0), 0),
            ValueError,
            "bound: expected a finite number above 0, got 0",
        ),
        (
            lambda: error_bounded_saliency(nn.ReLU(), paddle.ones([1, 4, 5]), (0, 0), "a"),
            TypeError,
            "bound: expected a number",
        ),
    ],
)
def test_wrong_responses_are_told(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_pictures_of_fields(axes):
    model, image = Shifted("modulated pack"), paddle.rand([3, 6, 7])[:1]
    field = effective_receptive_field(model, image, (2, 3), axes=axes)
    below, above = axes.images
    assert below.get_array().shape == (6, 7, 3)
    assert np.argmax(above.get_array()) == np.argmax(field)
    effective_sampling_locations(model, image, (2, 3), axes=axes)
    np.testing.assert_allclose(drawn(axes)[-1], [[1, 3]])  # x, y
    region, _ = error_bounded_saliency(model, image, (2, 3), steps=10, axes=axes)
    np.testing.assert_array_equal(axes.images[-1].get_alpha() == 0, region)
    offset_field(trace(model, image)[0], scale=2, axes=axes)
    arrows = axes.collections[-1]
    np.testing.assert_allclose(arrows.get_offsets()[8], [2, 2])
    assert (arrows.U == -4).all() and (arrows.V == 2).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sampling_points(np.zeros((17, 4, 4))), r"offset: expected a multiple of 18"),
        (lambda: sampling_points(np.zeros((0, 4, 4))), r"offset: expected a multiple of 18"),
        (lambda: sampling_points(np.zeros((4, 4))), r"offset: expected .* got 2-D"),
        (lambda: sampling_points(np.zeros((18, 4, 4)), stride=0), r"stride: expected positive"),
        (
            lambda: receptive_field([Sampling(np.zeros((1, 18, 4, 4)))], (0, 0)),
            r"offset: expected \[channels, Ho, Wo\], got 4-D",
        ),
        (
            lambda: receptive_field([Sampling(np.zeros((18, 4, 4)), np.ones((9, 4, 5)))], (0, 0)),
            r"mask: expected \[9, 4, 4\] .* got \[9, 4, 5\]",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture
def axes():
    """Axes that need no display."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    yield axes
    pyplot.close(figure)


def drawn(axes):
    """(x, y) of each scatter, in drawing order."""
    return [np.asarray(collection.get_offsets()) for collection in axes.collections]


def test_plot_sampling_points_draws_both_grids(axes):
    rng = np.random.default_rng(0)
    offset, mask = rng.normal(0, 1, (18, 4, 4)), rng.random((9, 4, 4))
    sampling = Sampling(offset, mask, padding=1)
    image = paddle.rand([12, 12])
    assert plot_sampling_points(image, sampling, [(1, 2), (3, 3)], scale=3, axes=axes) is axes
    regular, deformed, centre, *second = drawn(axes)
    expected = sampling_points(offset, padding=1)[0, :, 1, 2] * 3
    np.testing.assert_allclose(deformed, expected[:, ::-1])
    np.testing.assert_allclose(centre, [[6, 3]])
    assert sorted(map(tuple, regular)) == [(x, y) for x in (3, 6, 9) for y in (0, 3, 6)]
    assert len(second) == 3
    sizes = axes.collections[1].get_sizes()
    assert (np.argsort(sizes) == np.argsort(mask[:, 1, 2])).all()
    assert len(axes.images) == 1


def test_plot_receptive_field_draws_both_clouds(axes):
    rng = np.random.default_rng(0)
    samplings = [Sampling(rng.normal(0, 1, (18, 8, 8)), padding=1) for _ in range(2)]
    plot_receptive_field(None, samplings, (4, 4), axes=axes)
    regular, deformed, centre = drawn(axes)
    assert len(regular) == 25 and len(deformed) == 81
    np.testing.assert_allclose(deformed[:, ::-1], receptive_field(samplings, (4, 4))[0])
    np.testing.assert_allclose(centre, [[4, 4]])
    assert not axes.images


@pytest.mark.parametrize("draw", ["samples", "fields", "arrows"])
def test_the_scale_is_that_of_the_image_unless_given(draw):
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    model = paddle.nn.Sequential(
        paddle.nn.Conv2D(1, 2, (3, 2), stride=(3, 2)), DeformConv2DPack(2, 2, 3, padding=1)
    )
    image = paddle.rand([1, 24, 12])
    samplings = trace(model, image)
    assert samplings[0].input_size == (8, 6)
    found = []
    for scale in ({}, {"scale": np.array([3, 2])}, {"scale": 1}):
        figure, axes = pyplot.subplots()
        if draw == "samples":
            plot_sampling_points(image[0], samplings[0], [(2, 3)], axes=axes, **scale)
        elif draw == "fields":
            plot_receptive_field(image[0], samplings, (2, 3), axes=axes, **scale)
        else:
            offset_field(samplings[0], image[0], axes=axes, **scale)
        found.append(np.concatenate(drawn(axes)))
        pyplot.close(figure)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2] * [2, 3])


@pytest.mark.parametrize("draw", [plot_sampling_points, plot_receptive_field, offset_field])
@pytest.mark.parametrize("scale", ["2", [1, 2, 3], 0.0, (2, float("nan"))], ids=str)
def test_what_no_scale_is(draw, scale, axes):
    sampling = Sampling(np.zeros((18, 4, 4)), padding=1)
    arguments = {
        plot_sampling_points: (None, sampling, [(1, 1)]),
        plot_receptive_field: (None, [sampling], (1, 1)),
        offset_field: (sampling,),
    }
    with pytest.raises((TypeError, ValueError), match="^scale: expected a (finite )?number"):
        draw(*arguments[draw], scale=scale, axes=axes)


def test_no_layers_see_the_point_itself(axes):
    plot_receptive_field(None, [], (3, 2), axes=axes)
    assert all((points == [2, 3]).all() for points in drawn(axes))


def test_without_an_image_all_arrows_are_in_view(axes):
    offset_field(Sampling(np.ones((18, 9, 7)), padding=1), axes=axes)
    (arrows,) = (each for each in axes.collections if hasattr(each, "U"))
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert left <= 0 < 6 <= right and top <= 0 < 8 <= bottom  # rows go down
    assert len(arrows.get_offsets()) == 63 and axes.get_aspect() == 1


@pytest.mark.parametrize("call", [offset_field, lambda s: receptive_field(s, (0, 0))])
def test_many_samplings_are_not_one(call):
    samplings = [Sampling(np.zeros((18, 4, 4)))]
    with pytest.raises(TypeError, match="sampling: expected a Sampling, .* got list"):
        call(samplings if call is offset_field else [samplings])


def test_missing_matplotlib_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plot_receptive_field(None, [Sampling(np.zeros((18, 4, 4)))], (1, 1))
