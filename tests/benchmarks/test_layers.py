"""What the benchmarks' layers take, where it is easily multiplied."""

from benchmarks.layers import LAYERS, Layer


def test_sizes():
    layer = Layer("", (2, 10, 10, 10), 20, stride=2, modulated=False)
    assert layer.out_size == (5, 5)
    assert layer.flop == 2 * (2 * 5 * 5) * (9 * 10) * 20
    inputs, out = 2000 + 900 + 1800 + 20, 1000
    assert layer.elements("forward") == inputs + out
    assert layer.elements("backward") == 2 * inputs + out


def test_groups_have_less_to_multiply():
    assert LAYERS["x101_c4"].flop == 2 * 50 * 84 * 1024 * 16 * 9
    assert LAYERS["big"].flop == 94_371_840_000
