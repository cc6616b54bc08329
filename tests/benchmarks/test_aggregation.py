"""The benchmark of DCNv3 and DCNv4: what it measures, prints and compares."""

import json
import math

import pytest

from benchmarks import aggregation as bench

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


@pytest.mark.parametrize("training", [False, True])
def test_contestants_agree(training):
    times = bench.measure(SMALL, 1, training)
    assert {bench.V3, bench.V4, bench.V3_BFLOAT16} <= times.keys()
    assert all(math.isfinite(ms) and ms > 0 for ms in times.values())


def test_tables(tmp_path, monkeypatch, capsys):
    times = {bench.V3: 2.0, bench.V4: 3.0, bench.V3_BFLOAT16: 1.0, bench.PYTORCH: 11.0}
    row = {"layer": NAME, "threads": 2, "floor": 0.5, "ms": times}
    rows = [row | {"training": training} for training in (False, True)]
    monkeypatch.setattr(bench.contest, "run_child", lambda *_: rows)
    stem = tmp_path / "figures"
    assert bench.main(["--threads", "2", "--output", str(stem)]) == 0
    text = stem.with_suffix(".txt").read_text()
    assert text == capsys.readouterr().out
    assert json.loads(stem.with_suffix(".json").read_text()) == rows
    cells = [NAME, "[1,7,7,512]", "32", "2.000", "1.50x", "0.50x", "5.50x", "0.25x"]
    assert [line.split() for line in text.splitlines() if line.startswith(NAME)] == [cells] * 2
    assert text.endswith("grid_sample over dcnv3: 5.50x, at least 5.50x\n")


def test_a_peer_that_differs(monkeypatch):
    """Ends the benchmark before anything is timed."""

    def wrong(layer, arrays, threads, training):
        return lambda: tuple(2 * array for array in arrays[:1])

    monkeypatch.setattr(bench, "_pytorch", wrong)
    with pytest.raises(SystemExit, match="result 0 of grid_sample differs from dcnv3"):
        bench.measure(SMALL, 1, False)
