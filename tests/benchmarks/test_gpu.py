"""What of the CUDA benchmark can be tested without a GPU: its arguments, floors and table."""

import sys
from functools import partial
from types import SimpleNamespace

import pytest

from benchmarks import gpu as bench
from benchmarks.layers import LAYERS, Layer
from tests.kernels.cuda_emulation.harness import build


@pytest.mark.parametrize(
    "dtype, product, memory, corners",
    [
        ("float32", 1.41, 0.036, 0.097),
        ("tf32", 0.19, 0.036, 0.097),
        ("bfloat16", 0.095, 0.018, 0.048),
    ],
)
def test_floor_of_the_big_layer(dtype, product, memory, corners):
    found = bench.floor(LAYERS["big"], dtype, "forward")
    assert found["product"] == pytest.approx(product, rel=0.02)
    assert found["memory"] == pytest.approx(memory, rel=0.02)
    assert found["corners"] == pytest.approx(corners, rel=0.02)


def test_backward_floor():
    forward, backward = (bench.floor(LAYERS["edvr_m"], "float16", d) for d in bench.DIRECTIONS)
    for term in ("product", "corners"):
        assert backward[term] == 2 * forward[term]
    assert forward["memory"] < backward["memory"] < 2 * forward["memory"]


def test_arguments():
    assert bench.arguments([]).layers == list(LAYERS)
    chosen = bench.arguments(["--layers", "big", "--types", "tf32", "float64", "--rounds", "3"])
    assert (chosen.layers, chosen.types, chosen.rounds) == (["big"], ["tf32", "float64"], 3)


@pytest.mark.parametrize(
    "values, message",
    [
        (["--layers", "small"], "invalid choice: 'small'"),
        (["--types", "int8"], "invalid choice: 'int8'"),
        (["--rounds", "0"], "--rounds: expected at least 1, got 0"),
    ],
)
def test_bad_arguments(values, message, capsys):
    with pytest.raises(SystemExit):
        bench.arguments(values)
    assert message in capsys.readouterr().err


def test_line():
    times = {"ours": 0.5, "torchvision": 2.0, "conv": 0.25}
    text = bench.line(LAYERS["big"], "float16", "forward", times, 40 << 20, h200=True)
    assert len(text) == len(bench.HEADER)
    for part in ("0.500", "188.7", "40.0", "2.000  4.00x", "0.250  0.50x", "0.095 product, 5.2x"):
        assert part in text
    without = bench.line(LAYERS["big"], "bfloat16", "backward", {"ours": 1.0}, 0, h200=False)
    assert "188.7" in without and "x" not in without.replace("x1", "")


def test_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match="needs PyTorch and torchvision"):
        bench.main(["--layers", "big"])


def grid_sample_convolution(torch, x, offset, weight, bias, stride, padding, mask):
    """torchvision.ops.deform_conv2d's arguments and result, by grid_sample."""
    n, channels, height, width = x.shape
    taps, (out_h, out_w) = weight.shape[2] * weight.shape[3], offset.shape[2:]
    dgs, groups = offset.shape[1] // (2 * taps), channels // weight.shape[1]
    offset = offset.reshape(n, dgs, taps, 2, out_h, out_w)
    rows = torch.arange(out_h)[:, None] * stride[0] - padding[0]
    columns = torch.arange(out_w) * stride[1] - padding[1]
    samples = []
    for d, images in enumerate(x.chunk(dgs, 1)):
        for tap in range(taps):
            y = rows + tap // weight.shape[3] + offset[:, d, tap, 0]
            z = columns + tap % weight.shape[3] + offset[:, d, tap, 1]
            grid = torch.stack([2 * z / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
            sample = torch.nn.functional.grid_sample(images, grid, align_corners=True)
            samples.append(sample if mask is None else sample * mask[:, d * taps + tap, None])
    samples = torch.stack(samples).reshape(dgs, taps, n, channels // dgs, out_h, out_w)
    samples = samples.permute(2, 0, 3, 1, 4, 5).reshape(n, groups, -1, taps, out_h, out_w)
    weight = weight.reshape(groups, -1, channels // groups, taps)
    out = torch.einsum("gmct,ngcthw->ngmhw", weight, samples)
    return out.reshape(n, -1, out_h, out_w) + bias[:, None, None]


@pytest.mark.parametrize("dtype", bench.TYPES)
@pytest.mark.parametrize(
    "layer",
    [
        Layer("modulated", (2, 8, 5, 6), 6, groups=2, deformable_groups=2),
        Layer("plain", (1, 6, 5, 6), 5, stride=2, modulated=False),
    ],
    ids=lambda layer: layer.name,
)
def test_check_on_the_emulated_device(layer, dtype, monkeypatch):
    torch = pytest.importorskip("torch")
    stand_in = SimpleNamespace(deform_conv2d=partial(grid_sample_convolution, torch))
    monkeypatch.setitem(sys.modules, "torchvision.ops", stand_in)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(ops=stand_in))
    torch.manual_seed(0)
    library = bench.Library(build("fibers"))
    assert bench.check(torch, library, layer, dtype, device="cpu") == []
