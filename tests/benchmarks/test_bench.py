"""`python -m paddle_dcn bench`: what it prints, writes and refuses."""

import json
import math
import subprocess
import sys

import pytest

from paddle_dcn import bench

CASE = next(case for case in bench.CASES if case.name == "c2_small")


def command(*arguments):
    """Run the command and return the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "paddle_dcn", "bench", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def test_tables(tmp_path):
    """A table for each dtype and mode, and all figures in the file."""
    figures = tmp_path / "figures.json"
    done = command(CASE.name, "--no-peers", "--threads", 1, "--json", figures)
    assert done.returncode == 0, done.stderr
    written = json.loads(figures.read_text())
    peak = written["peaks"]["1"]
    assert peak["gflops"] > 0 and peak["gbytes"] > 0
    parts = [(d, t) for d in ("float32", "bfloat16") for t in (False, True)]
    assert [(r["dtype"], r["training"]) for r in written["results"]] == parts
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(CASE.name)]
    assert len(rows) == len(parts)
    for row, result in zip(rows, written["results"]):
        assert float(row[1]) == pytest.approx(result["ms"]["ours"], abs=0.01)
        rate = CASE.flop * (3 if result["training"] else 1) / result["ms"]["ours"] * 1e-6
        assert float(row[-4]) == pytest.approx(rate, abs=1)
        assert row[-3] == f"{100 * rate / peak['gflops']:.0f}%"


def test_picture(tmp_path):
    """A bar for each peer, case and panel."""
    picture = tmp_path / "bars.svg"
    times = {bench.OURS: 1.0, bench.BUILTIN: 7.0, bench.CONV: 0.5}
    row = {"case": CASE.name, "dtype": "float32", "threads": 1, "training": False, "ms": times}
    bench.draw([row, {**row, "training": True}], picture)
    text = picture.read_text()
    for words in ("forward, float32, 1 thread", "forward+backward", bench.BUILTIN, bench.CONV):
        assert text.count(f"<!-- {words}") >= 1


def test_floors():
    """Of a layer whose sizes are easily multiplied."""
    case = bench.Case("", (2, 10, 10, 10), 20, stride=2, modulated=False)
    assert case.flop == 2 * (2 * 5 * 5) * (9 * 10) * 20
    inputs, out = 2000 + 900 + 1800 + 20, 1000
    floors = case.floors("float32", False, gflops=0.001, gbytes=0.001)
    assert floors == pytest.approx({"product": case.flop * 1e-3, "memory": 4e-3 * (inputs + out)})
    floors = case.floors("bfloat16", True, gflops=1.0, gbytes=1.0)
    assert floors == pytest.approx(
        {"product": 3 * case.flop * 1e-6, "memory": 2e-6 * (3 * inputs + 2 * out)}
    )


@pytest.mark.parametrize("training", [False, True])
def test_peers_agree(training):
    """Whichever are installed; all are timed."""
    times = bench.measure(CASE, 1, training)
    assert {bench.OURS, bench.BUILTIN} <= times.keys()
    assert all(math.isfinite(ms) and ms > 0 for ms in times.values())


def test_a_peer_that_differs(monkeypatch):
    """Ends the benchmark before anything is timed."""

    def wrong(case, arrays, threads, training):
        return lambda: tuple(2 * out for out in bench._ours(case, arrays, threads, training)())

    monkeypatch.setitem(bench.CONTESTANTS["float32"], bench.BUILTIN, wrong)
    with pytest.raises(SystemExit, match="c2_small: result 0 of builtin differs from ours"):
        bench.measure(CASE, 1, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["big"], "no case big"),
        (["--threads", "0"], "expected at least 1, got 0"),
        (["--picture", "bars.txt"], "expected a .png, .svg or .pdf file, got bars.txt"),
        (["--json", "nowhere/figures.json"], "nowhere is not a folder"),
        (["--json", "/"], "expected a file, got the folder /"),
        (["--dtypes", "float16"], "invalid choice: 'float16'"),
        (["--no-peers", "--picture", "bars.png"], "draws the peers, which --no-peers leaves out"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments, message):
    done = command(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
