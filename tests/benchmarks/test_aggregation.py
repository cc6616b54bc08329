"""The benchmark of DCNv3 and DCNv4: what it measures, prints and compares."""

import json
import math

import pytest

from benchmarks import aggregation as bench
from tests.support.process import ROOT, run_python

NAME = "t4"
SMALL = bench.LAYERS[NAME]


def test_layers_are_those_of_internimage_t():
    found = [tuple(layer) for layer in bench.LAYERS.values()]
    stages = [(56, 64, 4), (28, 128, 8), (14, 256, 16), (7, 512, 32)]
    assert found == [(batch, *stage) for batch in (1, 16) for stage in stages]


def test_floor():
    """Input and output have 49 * 512 elements, offset 49 * 576, mask 49 * 288."""
    forward = 49 * (512 + 512 + 576 + 288) * 4e-6 / 20
    backward = forward + 49 * (512 + 576 + 288) * 4e-6 / 20
    assert bench.floor(SMALL, False, 20.0) == pytest.approx(forward)
    assert bench.floor(SMALL, True, 20.0) == pytest.approx(forward + backward)


def test_tables(tmp_path):
    stem = tmp_path / "figures"
    arguments = ("--layers", NAME, "--threads", 1, "--output", stem)
    done = run_python("-m", "benchmarks.aggregation", *arguments, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert stem.with_suffix(".txt").read_text() == done.stdout
    rows = json.loads(stem.with_suffix(".json").read_text())
    assert [row["training"] for row in rows] == [False, True]
    for row in rows:
        assert {bench.V3, bench.V4, bench.V3_BFLOAT16} <= row["ms"].keys()
        assert all(math.isfinite(ms) and ms > 0 for ms in row["ms"].values())
        assert bench.line(row) in done.stdout


def test_a_peer_that_differs(monkeypatch):
    """Ends the benchmark before anything is timed."""

    def wrong(layer, arrays, threads, training):
        return lambda: tuple(2 * array for array in arrays[:1])

    monkeypatch.setattr(bench, "_pytorch", wrong)
    with pytest.raises(SystemExit, match="result 0 of grid_sample differs from dcnv3"):
        bench.measure(SMALL, 1, False)
