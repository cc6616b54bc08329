"""The benchmark of whole networks: what it measures, prints, writes and refuses."""

import json
import math

import numpy as np
import pytest

from benchmarks import models as bench
from tests.support.process import ROOT
from tests.support.programs import needs_paddle_3

pytestmark = needs_paddle_3

SMALL = "basicvsrpp_16x16"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the contestants load, as the command prepares it."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.contest, "run_child", lambda *_: iter(()))
        values = ["--networks", SMALL, "--tables", *bench.TABLES]
        assert list(bench._results(bench.arguments(values), folder)) == []
    return folder / SMALL


def test_names():
    from benchmarks.networks import NETWORKS

    assert sorted(bench.NAMES) == sorted(NETWORKS)


@pytest.mark.parametrize("table", bench.TABLES)
def test_measures(folder, table):
    """Whichever peers are installed; their outputs are compared."""
    times = bench._MEASURES[table](SMALL, folder, 1, True)
    assert all(math.isfinite(ms) and ms > 0 for ms in times.values())
    assert bench.OURS in times
    if table == "shares":
        shares = [ms for name, ms in times.items() if name != bench.OURS]
        assert "paddle_dcn_inference" in times and sum(shares) <= times[bench.OURS]
    elif table != "inference":
        assert {bench.OURS, *bench.columns(table)} == times.keys()
    else:
        assert {bench.STOCK, bench.PLAIN} <= times.keys()


def test_a_contestant_that_differs(folder, tmp_path):
    """Ends the benchmark before anything is timed."""
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    outputs = bench._stored(folder / "outputs.npz")
    (tmp_path / "outputs.npz").unlink()
    np.savez(tmp_path / "outputs.npz", *(1.01 * output for output in outputs))
    with pytest.raises(SystemExit, match="result 0 of ours differs from the network by"):
        bench.measure_inference(SMALL, tmp_path, 1, False)


def test_command(folder, tmp_path, monkeypatch, capsys):
    """A table for each number of threads, and all figures in the file."""
    monkeypatch.chdir(ROOT)
    stem = tmp_path / "figures"
    arguments = f"--networks {SMALL} --tables inference --no-peers --threads 1 2".split()
    arguments += ["--folder", str(folder.parent), "--output", str(stem)]
    assert bench.main(arguments) == 0
    printed = capsys.readouterr().out
    assert stem.with_suffix(".txt").read_text() == printed
    assert not stem.with_suffix(".png").exists()
    results = json.loads(stem.with_suffix(".json").read_text())["results"]
    assert [(r["network"], r["threads"]) for r in results] == [(SMALL, 1), (SMALL, 2)]
    rows = [line.split() for line in printed.splitlines() if line.startswith(SMALL)]
    assert [float(row[1]) for row in rows] == pytest.approx(
        [r["ms"][bench.OURS] for r in results], abs=0.1
    )


ROW = {"table": "inference", "network": SMALL, "threads": 1}
TIMES = {bench.OURS: 2.0, bench.STOCK: 8.0, bench.ORT: 3.0, bench.OPENVINO_GRID: 2.5}


@pytest.mark.parametrize("measured", [0, 1])
def test_interrupted(measured, tmp_path, monkeypatch):
    """What was measured is written; if that is nothing, older files stay as they are."""

    def interrupt(*_):
        yield from [{**ROW, "ms": TIMES}][:measured]
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "_results", interrupt)
    stem = tmp_path / "figures"
    stem.with_suffix(".json").write_text("older")
    arguments = ["--networks", SMALL, "--tables", "inference", "--threads", "1"]
    assert bench.main([*arguments, "--output", str(stem)]) == 130
    assert (stem.with_suffix(".json").read_text() == "older") == (not measured)
    assert stem.with_suffix(".png").exists() == bool(measured)


def test_lines():
    found = bench.line({**ROW, "ms": TIMES}).split()
    assert found == [SMALL, *"2.0 8.0 4.00x 3.0 1.50x - - 2.5 1.25x -".split()]
    shares = {**ROW, "table": "shares", "ms": {bench.OURS: 2.0, "slice": 0.5, "conv2d": 1.0}}
    assert bench.line(shares).split(maxsplit=2)[2] == "conv2d 1.0 (50 %) slice 0.5 (25 %)"


def test_means():
    """Over both rows: stock 4 and 9, the better runtime 1.25 and 5."""
    other = {bench.OURS: 1.0, bench.STOCK: 9.0, bench.ORT: 5.0}
    text = bench.means([{**ROW, "ms": TIMES}, {**ROW, "ms": other}])
    assert "stock 6.00x" in text
    assert "best of the runtimes 2.50x, of these at least 1.25x" in text


def test_picture(tmp_path):
    picture = tmp_path / "bars.svg"
    rows = [{**ROW, "ms": TIMES}, {**ROW, "table": "training", "ms": TIMES}]
    bench.draw([*rows, {**ROW, "table": "shares", "ms": TIMES}], picture)
    text = picture.read_text()
    for words in ("inference, 1 thread", "training, 1 thread", bench.STOCK, bench.OPENVINO_GRID):
        assert f"<!-- {words}" in text
    assert "<!-- shares" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "small"], "invalid choice: 'small'"),
        (["--tables", "memory"], "invalid choice: 'memory'"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        bench.arguments(arguments)
    assert message in capsys.readouterr().err
