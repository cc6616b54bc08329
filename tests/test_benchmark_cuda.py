"""What of the CUDA benchmark can be tested without a GPU: its arguments, floors and table."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import cuda as bench  # noqa: E402


@pytest.mark.parametrize(
    "dtype, product, memory, corners",
    [
        ("float32", 1.41, 0.036, 0.097),
        ("tf32", 0.19, 0.036, 0.097),
        ("bfloat16", 0.095, 0.018, 0.048),
    ],
)
def test_floor_of_the_big_row(dtype, product, memory, corners):
    problem = bench.ROWS["big"].problem(dtype)
    assert bench.flops(problem) == pytest.approx(94.4e9, rel=1e-3)
    found = bench.floor(problem, dtype, "forward")
    assert found["product"] == pytest.approx(product, rel=0.02)
    assert found["memory"] == pytest.approx(memory, rel=0.02)
    assert found["corners"] == pytest.approx(corners, rel=0.02)


def test_backward_floor():
    problem = bench.ROWS["edvr_m"].problem("float16")
    forward, backward = (bench.floor(problem, "float16", d) for d in bench.DIRECTIONS)
    for term in ("product", "corners"):
        assert backward[term] == 2 * forward[term]
    assert forward["memory"] < backward["memory"] < 2 * forward["memory"]


def test_grouped_rows_have_less_to_multiply():
    row = bench.ROWS["x101_c4"]
    assert bench.flops(row.problem("float32")) == 2 * 50 * 84 * 1024 * 16 * 9


def test_arguments():
    assert bench.arguments([]).rows == list(bench.ROWS)
    chosen = bench.arguments(["--rows", "big", "--types", "tf32", "float64", "--rounds", "3"])
    assert (chosen.rows, chosen.types, chosen.rounds) == (["big"], ["tf32", "float64"], 3)


@pytest.mark.parametrize(
    "values, message",
    [
        (["--rows", "small"], "invalid choice: 'small'"),
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
    text = bench.line(bench.ROWS["big"], "float16", "forward", times, 40 << 20, h200=True)
    assert len(text) == len(bench.HEADER)
    for part in ("0.500", "188.7", "40.0", "2.000  4.00x", "0.250  0.50x", "0.095 product, 5.2x"):
        assert part in text
    without = bench.line(bench.ROWS["big"], "bfloat16", "backward", {"ours": 1.0}, 0, h200=False)
    assert "188.7" in without and "x" not in without.replace("x1", "")


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_says_what_is_missing():
    with pytest.raises(SystemExit, match="needs PyTorch and torchvision"):
        bench.main(["--rows", "big"])
