"""The GPU benchmark as far as it goes without a GPU: its table, processes and check."""

import ctypes
import itertools
import sys
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest

from benchmarks import gpu as bench
from benchmarks import gpu_model, gpu_rows
from benchmarks.kernel_library import Library
from benchmarks.layers import LAYERS, Layer
from tests.kernels.cuda_emulation.harness import build

# What an H200 reaches, roughly.
CEILINGS = {
    "copy": 4.3e12,
    "float16": 770e12,
    "bfloat16": 800e12,
    "tf32": 417e12,
    "float32": 51e12,
    "float64": 60e12,
}


@pytest.mark.parametrize(
    "dtype, product, memory",
    # 94.37 GFLOP; x and out have 20.48 million elements each, offset and mask 2.16, weight 0.59
    [("float32", 1.850, 0.0407), ("tf32", 0.2263, 0.0407), ("bfloat16", 0.1180, 0.02033)],
)
def test_floor_of_the_big_layer(dtype, product, memory):
    found = bench.floor(LAYERS["big"], dtype, "forward", CEILINGS)
    assert found["product"] == pytest.approx(product, rel=0.001)
    assert found["memory"] == pytest.approx(memory, rel=0.01)


def test_backward_floor():
    forward, backward = (
        bench.floor(LAYERS["edvr_m"], "float16", d, CEILINGS) for d in bench.DIRECTIONS
    )
    assert backward["product"] == 2 * forward["product"]
    assert forward["memory"] < backward["memory"] < 2 * forward["memory"]


def test_rows():
    """Everything in float16; types that are asked for, of every layer."""
    table = bench.rows(list(bench.LAYERS), None)
    assert {name for name, dtype, _ in table if dtype == "float16"} == bench.LAYERS.keys()
    assert {dtype for name, dtype, _ in table if name == "big"} == set(bench.TYPES[:4])
    assert bench.rows(["fairmot"], ["float64"]) == [
        ("fairmot", "float64", "forward"),
        ("fairmot", "float64", "backward"),
    ]
    assert LAYERS.keys() < bench.LAYERS.keys()


def test_arguments(tmp_path):
    assert bench.arguments([]).layers == list(bench.LAYERS)
    library = tmp_path / "k.so"
    library.touch()
    chosen = bench.arguments(
        ["--layers", "big", "--types", "tf32", "float64", "--rounds", "3", "--library"]
        + [str(library)]
    )
    assert (chosen.layers, chosen.types, chosen.rounds) == (["big"], ["tf32", "float64"], 3)
    assert bench.named([library, tmp_path / "old.so"]).keys() == {"ours", "old"}


@pytest.mark.parametrize(
    "values, message",
    [
        (["--layers", "small"], "invalid choice: 'small'"),
        (["--types", "int8"], "invalid choice: 'int8'"),
        (["--sanitize", "--layers", "big"], "--layers: --sanitize has small layers of its own"),
        (["--rounds", "0"], "--rounds: expected at least 1, got 0"),
        (["--library", "nowhere.so"], "nowhere.so is not a file"),
        (["--output", "nowhere/gpu"], "nowhere is not a folder"),
    ],
)
def test_bad_arguments(values, message, capsys):
    with pytest.raises(SystemExit):
        bench.arguments(values)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "others", [["a/old.so", "b/old.so"], ["ours.so"], ["conv.so"]], ids=lambda names: names[0]
)
def test_libraries_of_one_name(tmp_path, others):
    with pytest.raises(SystemExit, match="expected files that are named differently"):
        bench.named([tmp_path / "new.so", *(tmp_path / name for name in others)])


def test_says_that_the_sanitizer_is_missing():
    with pytest.raises(SystemExit, match="--sanitize needs no-sanitizer of the CUDA toolkit"):
        bench.sanitize({}, None, command=("no-sanitizer",))


ROW = {
    "layer": "big",
    "type": "float16",
    "pass": "forward",
    "wrong": {},
    "ms": {
        "ours": 0.5,
        "old": 1.0,
        "torchvision": 2.0,
        "conv": 0.25,
        "ours, NHWC": 0.4,
        "old, NHWC": 0.9,
        "conv, NHWC": 0.2,
    },
    "workspace": 40 << 20,
    "kernels": {"ours": {"forward_kernel": [470.0, 2], "pack_kernel": [25.5, 2]}},
}
BACKWARD = {**ROW, "pass": "backward", "ms": {**ROW["ms"], "deterministic": 0.6}}


def test_table():
    text = bench.line(ROW, CEILINGS, ["old"])
    for part in ("0.500", "188.7", "40.0", "1.000   2.00x", "2.000   4.00x", "0.250   0.50x"):
        assert part in text
    assert "0.400   0.80x" in text and "0.200   0.50x" in text  # the latter of ours, NHWC
    assert text.endswith("0.1226 product, ours 4.1x")
    assert bench.header(["old"]).index("floor") == text.index("0.1226 product")
    other = bench.line(BACKWARD, CEILINGS, [])
    assert "377.5" in other and "0.600" in other
    assert bench.header([]).index("floor") == other.index("0.2451 product")
    assert list(bench.kernel_lines(ROW)) == [
        "big float16 forward, ours: forward_kernel 470.0 x2; pack_kernel 25.5 x2"
    ]


def test_table_of_what_went_wrong():
    row = {key: ROW[key] for key in ("layer", "type", "pass")}
    wrong = {**row, "wrong": {"ours": ["NCHW, default, out: off by 1, expected at most 0"]}}
    assert "not timed\n  WRONG, ours: NCHW, default, out: off by 1" in bench.line(wrong, {}, [])
    assert "FAILED: status -11" in bench.line({**row, "failed": "status -11"}, {}, [])
    assert bench.line({**row, "wrong": {}}, {}, []).endswith("correct")


def test_picture(tmp_path):
    picture = tmp_path / "bars.svg"
    failed = {"layer": "big", "type": "tf32", "pass": "forward", "failed": "status 1"}
    rows = [ROW, BACKWARD, {**ROW, "type": "tf32"}, failed]
    bench.draw({"libraries": {"ours": "", "old": ""}, "results": rows}, picture)
    text = picture.read_text()
    for words in ("backward, float16, NHWC", "forward, other types, NCHW", "big tf32", "old"):
        assert text.count(f"<!-- {words}") >= 1


# A process that answers, dies at "fairmot" and hangs at "edvr_m".
WORKER = """
import json, sys, time
job = json.loads(sys.argv[1])
print("what a library says")
print(json.dumps({"machine": {}, "ceilings": {}} if job["ceilings"] else {"machine": {}}))
for layer, dtype, direction in job["rows"]:
    sys.stdout.flush()
    if layer == "fairmot":
        sys.exit("an illegal memory access")
    if layer == "edvr_m":
        time.sleep(60)
    print(json.dumps({"layer": layer, "type": dtype, "pass": direction, "wrong": {}}))
"""


def run(layers: list[str], **how) -> list[dict]:
    """What is given when the process above has to do these layers."""
    job = gpu_rows.Job({}, bench.rows(layers, ["float32"]))
    return list(bench.run_rows([sys.executable, "-c", WORKER], job, **how))


def test_a_fault_costs_one_row():
    first, *found = run(["big", "fairmot", "c2_small"])
    assert first == {"machine": {}, "ceilings": {}}
    assert [r["layer"] for r in found] == ["big"] * 2 + ["fairmot"] * 2 + ["c2_small"] * 2
    assert ["failed" in r for r in found] == [False, False, True, True, False, False]
    assert found[2]["failed"] == "status 1: an illegal memory access"


def test_a_process_that_hangs():
    _, *found = run(["edvr_m"], row_seconds=2)
    assert [r["failed"] for r in found] == ["killed: no answer in 2 s, or no memory"] * 2


def test_out_of_time():
    start = time.time()
    _, *found = run(["big", "edvr_m", "c2_small"], until=start + 3)
    assert time.time() < start + 10
    assert [r.get("failed") for r in found] == [None, None] + ["out of time"] * 4


def test_a_process_that_does_not_start():
    job = gpu_rows.Job({}, bench.rows(["big"], None))
    with pytest.raises(SystemExit, match="did not start:\nno device"):
        list(bench.run_rows([sys.executable, "-c", "raise SystemExit('no device')"], job))


# In the place of compute-sanitizer, which finds something with racecheck.
SANITIZER = """
import json, sys
tool, job = sys.argv[2], json.loads(sys.argv[-1])
assert job["poison"] == (tool != "initcheck")
for layer, dtype, direction in job["rows"]:
    print(json.dumps({"layer": layer, "type": dtype, "pass": direction, "wrong": {}}))
print("========= what", tool, "says")
sys.exit(9 if tool == FAILS else 0)
"""


@pytest.mark.parametrize("fails", ["racecheck", "none"])
def test_sanitize(fails, capfd):
    command = [sys.executable, "-c", SANITIZER.replace("FAILS", repr(fails))]
    status = bench.sanitize({"ours": "k.so"}, ["float16", "tf32"], time.time() + 60, command)
    said = capfd.readouterr().out
    assert "memcheck: 24 of 24 rows, 0 wrong, status 0" in said
    assert ("========= what racecheck says" in said) == (status == 1) == (fails == "racecheck")
    assert "what memcheck says" not in said


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


@pytest.fixture
def torch(monkeypatch):
    """PyTorch on a CPU, and of torchvision what the benchmark needs."""
    torch = pytest.importorskip("torch")
    stand_in = SimpleNamespace(deform_conv2d=partial(grid_sample_convolution, torch))
    monkeypatch.setitem(sys.modules, "torchvision.ops", stand_in)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(ops=stand_in))
    torch.manual_seed(0)
    return torch


MODULATED = Layer("modulated", (2, 8, 5, 6), 6, groups=2, deformable_groups=2)
PLAIN = Layer("plain", (1, 6, 5, 6), 5, stride=2, modulated=False)


@pytest.mark.parametrize("direction", bench.DIRECTIONS)
@pytest.mark.parametrize("dtype", bench.TYPES)
@pytest.mark.parametrize("layer", [MODULATED, PLAIN], ids=lambda layer: layer.name)
def test_check_on_the_emulated_device(torch, layer, dtype, direction):
    data = gpu_rows.Data(torch, layer, dtype, "cpu")
    assert gpu_rows.check(data, Library(build("fibers")), direction, "cpu") == []


class Broken(Library):
    """A library that leaves out the gradient of the bias or, with `damage`, changes its bits."""

    def __init__(self, damage: Callable | None) -> None:
        super().__init__(build("fibers"))
        self.damage = damage

    def cuda(self, flags: int = 0, stream: int = 0):
        device = super().cuda(flags, stream)

        def run(problem, tensors, workspace):
            address = tensors.grad_bias
            if self.damage is None:
                tensors.grad_bias = None
            device.run(problem, tensors, workspace)
            tensors.grad_bias = address
            if self.damage is not None:
                self.damage((ctypes.c_uint32 * problem.out_channels).from_address(address))

        return SimpleNamespace(workspace=device.workspace, run=run)


def with_nan(bits) -> None:
    bits[1] = 0x7FC00000


def with_error(bits) -> None:
    bits[5] ^= 1 << 12  # 2**-11 of the value


@pytest.mark.parametrize("damage", [None, with_nan, with_error])
def test_check_finds(torch, damage):
    """An element that is not written, NaN or wrong, in every layout and mode."""
    data = gpu_rows.Data(torch, MODULATED, "float32", "cpu")
    found = gpu_rows.check(data, Broken(damage), "backward", "cpu")
    assert len(found) == 2 * len(gpu_rows.MODES)
    assert all(", bias: off by " in words for words in found)


def test_check_finds_what_changes_from_run_to_run(torch):
    """However small the change."""
    data = gpu_rows.Data(torch, MODULATED, "float32", "cpu")
    runs = itertools.count()

    def damage(bits) -> None:
        bits[0] ^= next(runs) % 2

    found = gpu_rows.check(data, Broken(damage), "backward", "cpu")
    assert found == [
        f"{layout}, deterministic, bias: two runs differ" for layout in ("NCHW", "NHWC")
    ]


def test_model_of_a_kernel():
    """300 blocks on 132 processors with one each: two full waves, and one of 36 blocks."""
    chip = gpu_model.Chip(memory=4e12, rate=132e12)
    by_wait = gpu_model.Kernel("", 2, 300, 1, bytes=0, flop=0, wait=1e-6)
    assert by_wait.seconds(chip) == pytest.approx(2 * 3e-6)
    by_product = gpu_model.Kernel("", 1, 300, 1, bytes=0, flop=1e6, wait=0)
    assert by_product.seconds(chip) == pytest.approx(3e-6)
    by_bytes = gpu_model.Kernel("", 1, 300, 1, bytes=gpu_model.L2, flop=0, wait=0)
    assert by_bytes.seconds(chip) == pytest.approx(300)


@pytest.mark.parametrize("direction", bench.DIRECTIONS)
@pytest.mark.parametrize("dtype", bench.TYPES)
def test_model_is_not_below_the_floor(dtype, direction):
    for layer in bench.LAYERS.values():
        found = gpu_model.predict(layer, dtype, direction, CEILINGS)
        assert found["call"] > max(bench.floor(layer, dtype, direction, CEILINGS).values())


def test_model_beside_a_run():
    """What is off is named, with both times; rows of a kind are put together."""
    few = {**ROW, "layer": "depthwise"}
    run = {"ceilings": CEILINGS, "results": [ROW, few, {"layer": "big", "failed": "status 1"}]}
    _, row, _, half, direct, mean = gpu_model.lines(run)
    assert row.startswith("big             float16  forward")
    assert row.split()[4] == "0.500" and "forward_kernel" in row
    assert half.startswith("predicted over measured, half types, forward: mean")
    assert direct.startswith("predicted over measured, few channels per group, forward: mean")
    assert mean.startswith("predicted over measured, all: mean") and " of 2, " in mean
    assert len(list(gpu_model.lines(run, "another"))) == 1
