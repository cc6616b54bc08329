"""The CPU benchmark: what it measures, prints, writes and refuses."""

import json
import math
import re

import pytest

from benchmarks import cpu as bench
from benchmarks.layers import LAYERS
from tests.support.process import ROOT, run_python

SMALL = LAYERS["c2_small"]


def test_tables(tmp_path):
    """A table for each dtype and mode, and all figures in the file."""
    arguments = ("--layers", SMALL.name, "--no-peers", "--threads", 1)
    stem = tmp_path / "figures"
    done = run_python("-m", "benchmarks.cpu", *arguments, "--output", stem, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert stem.with_suffix(".txt").read_text() == done.stdout
    assert not stem.with_suffix(".png").exists()
    written = json.loads(stem.with_suffix(".json").read_text())
    assert written["peaks"]["1"]["gflops"] > 0 and written["peaks"]["1"]["gbytes"] > 0
    assert written["calls"]["1"]["ours"] > 0 and "the smallest calls, 1 thread(s)" in done.stdout
    parts = [(d, t) for d in ("float32", "bfloat16") for t in (False, True)]
    assert [(r["dtype"], r["training"]) for r in written["results"]] == parts
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(SMALL.name)]
    times = [result["ms"]["ours"] for result in written["results"]]
    assert [float(row[1]) for row in rows] == pytest.approx(times, abs=0.01)


@pytest.mark.parametrize(
    ("training", "figures"),
    [
        # 2 * 56 * 56 pixels * 64 * 64 * 9 products are 231.2 MFLOP. x and out have 200 704
        # elements each, offset and mask 56 448 and 28 224, weight and bias 36 864 and 64: 2.092 MB
        # in forward, 3.381 MB in backward.
        (False, "2.00 | 5.00 2.50x | - | - | 1.00 0.50x | 116 58% | 1.16 0.10"),
        (True, "2.00 | 5.00 2.50x | - | - | 1.00 0.50x | 347 173% | 3.47 0.27"),
    ],
)
def test_line(training, figures):
    times = {bench.OURS: 2.0, bench.BUILTIN: 5.0, bench.CONV: 1.0}
    result = {"layer": SMALL.name, "dtype": "float32", "training": training, "ms": times}
    text = bench.line(result, {"gflops": 200.0, "gbytes": 20.0})
    assert text.split() == [SMALL.name, *figures.replace("|", "").split()]


def test_picture(tmp_path):
    """A bar for each peer and mode: geometric means in float32 with the most threads."""
    picture = tmp_path / "bars.svg"
    row = {"layer": SMALL.name, "dtype": "float32", "threads": 2, "training": False}
    rows = [
        {**row, "ms": {bench.OURS: 1.0, bench.BUILTIN: 4.0, bench.ORT: 3.0, bench.CONV: 0.5}},
        {**row, "layer": "another", "ms": {bench.OURS: 2.0, bench.BUILTIN: 18.0}},
        {**row, "training": True, "ms": {bench.OURS: 1.0, bench.BUILTIN: 40.0}},
        {**row, "threads": 1, "ms": {bench.OURS: 1.0, bench.BUILTIN: 77.0}},
        {**row, "dtype": "bfloat16", "ms": {bench.OURS: 1.0, bench.BUILTIN: 77.0}},
    ]
    bench.draw(rows, picture)
    found = re.findall("<!-- (.*?) -->", picture.read_text())
    bars = ["Paddle, forward", "ONNX Runtime, forward", "paddle_dcn, forward"]
    bars += ["Paddle, training", "paddle_dcn, training"]
    assert [text for text in found if text.endswith((", forward", ", training"))] == bars
    assert [text for text in found if text.strip().replace(".", "").isdigit()] == [
        " 6.0", " 3.0", " 1.0", " 40.0", " 1.0"
    ]  # fmt: skip
    assert "Forward 6, training 40 times as fast as Paddle's operator" in found


@pytest.mark.parametrize("training", [False, True])
def test_peers_agree(training):
    """Whichever are installed; all are timed."""
    times = bench.measure(SMALL, 1, training)
    assert {bench.OURS, bench.BUILTIN} <= times.keys()
    assert all(math.isfinite(ms) and ms > 0 for ms in times.values())


def test_a_peer_that_differs(monkeypatch):
    """Ends the benchmark before anything is timed."""

    def wrong(layer, arrays, threads, training):
        return lambda: tuple(2 * out for out in bench._ours(layer, arrays, threads, training)())

    monkeypatch.setitem(bench.CONTESTANTS["float32"], bench.BUILTIN, wrong)
    with pytest.raises(SystemExit, match="c2_small: result 0 of builtin differs from ours"):
        bench.measure(SMALL, 1, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "small"], "invalid choice: 'small'"),
        (["--threads", "0"], "expected at least 1, got 0"),
        (["--output", "nowhere/figures"], "nowhere is not a folder"),
        (["--dtypes", "float16"], "invalid choice: 'float16'"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        bench.arguments(arguments)
    assert message in capsys.readouterr().err
