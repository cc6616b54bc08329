"""Times the operator beside its peers: `python -m paddle_dcn bench`.

All contestants of a case run in one process, in turn, on the same tensors, and their outputs are
compared before anything is timed. Only ratios between them mean anything: a shared machine drifts.
Peers that are not installed are left out: `pip install "paddle_dcn[bench]"` brings them.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import importlib.util
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One layer of a real network; kernels are 3x3, padding is 1."""

    name: str
    x: tuple[int, int, int, int]
    outputs: int
    stride: int = 1
    groups: int = 1
    deformable_groups: int = 1
    modulated: bool = True
    spread: float = 2.0  # standard deviation of the offsets, in pixels

    @property
    def out_size(self) -> tuple[int, int]:
        """Output height and width."""
        return tuple((size - 1) // self.stride + 1 for size in self.x[2:])

    @property
    def flop(self) -> int:
        """Floating-point operations of the forward product."""
        n, c, _, _ = self.x
        height, width = self.out_size
        return 2 * n * height * width * 9 * c // self.groups * self.outputs

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every input, and of the gradient of the output."""
        n, c, _, _ = self.x
        taps = 9 * self.deformable_groups
        shapes = {
            "x": self.x,
            "offset": (n, 2 * taps, *self.out_size),
            "mask": (n, taps, *self.out_size),
            "weight": (self.outputs, c // self.groups, 3, 3),
            "bias": (self.outputs,),
            "grad": (n, self.outputs, *self.out_size),
        }
        return {name: shape for name, shape in shapes.items() if name != "mask" or self.modulated}

    def floors(self, dtype: str, training: bool, gflops: float, gbytes: float) -> dict[str, float]:
        """Milliseconds that the products take at a rate, and every tensor once at a bandwidth.

        In training every product is there three times, and backward reads all inputs and the
        gradient of the output and writes the gradients of the inputs.
        """
        out = math.prod(self.shapes["grad"])
        inputs = sum(map(math.prod, self.shapes.values())) - out
        elements = 3 * inputs + 2 * out if training else inputs + out
        size = 2 if dtype == "bfloat16" else 4
        return {
            "product": self.flop * (3 if training else 1) / gflops * 1e-6,
            "memory": elements * size / gbytes * 1e-6,
        }


CASES = (
    Case("resnet_c4", (1, 256, 64, 64), 256),
    Case("ppyolo_c5", (1, 512, 19, 19), 512),
    Case("ppyolo_c5_s2", (1, 512, 38, 38), 512, stride=2),
    Case("rcnn_c3", (1, 128, 100, 168), 128),
    Case("rcnn_c4", (1, 256, 50, 84), 256),
    Case("rcnn_c4_still", (1, 256, 50, 84), 256, spread=0.0),
    Case("rcnn_c4_far", (1, 256, 50, 84), 256, spread=16.0),
    Case("fairmot", (6, 512, 19, 34), 256),
    Case("s2anet_align", (1, 256, 128, 128), 256, modulated=False),
    Case("dbpp_c3", (4, 128, 80, 80), 128, deformable_groups=2),
    Case("x101_c4", (1, 1024, 50, 84), 1024, groups=64),
    Case("edvr_m", (4, 64, 64, 64), 64, deformable_groups=8),
    Case("basicvsrpp", (2, 128, 64, 64), 64, deformable_groups=16),
    Case("basicvsrpp_test", (1, 128, 180, 320), 64, deformable_groups=16),
    Case("c2_small", (1, 64, 56, 56), 64),
)

OURS, BUILTIN, ORT, OPENVINO, CONV = "ours", "builtin", "onnxruntime", "openvino", "plain conv"
FLOAT32 = "ours, float32"
FORWARD, TRAINING = "forward", "forward+backward"

_ROUNDS = 7
_SLOW_SECONDS = 1.0  # who takes longer is timed once; three times as long, by the compared call
_THREADS_VARIABLE = "PADDLE_DCN_BENCH_THREADS"


def _arrays(case: Case) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in case.shapes.items()}
    arrays["offset"] *= case.spread
    arrays["weight"] /= np.sqrt(math.prod(case.shapes["weight"][1:]))
    if case.modulated:
        arrays["mask"] = rng.random(case.shapes["mask"], np.float32)
    return arrays


def _rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return the nearest values that the dtype has, as float32."""
    import paddle

    return paddle.to_tensor(array).astype(dtype).astype("float32").numpy()


# Each contestant: (case, arrays, threads, training) -> a call that returns the outputs as arrays,
# or None where it cannot run the case.
Call = Callable[[], Any]


def _paddle_call(
    function: Callable, case: Case, arrays: dict, training: bool, dtype: str = "float32"
) -> Call:
    import paddle

    names = ["x", "offset", "weight", "bias"] + ["mask"] * case.modulated
    tensors = {name: paddle.to_tensor(arrays[name]).astype(dtype) for name in names}
    grad = paddle.to_tensor(arrays["grad"]).astype(dtype)
    for tensor in tensors.values():
        tensor.stop_gradient = not training

    def call():
        out = function(
            *(tensors[name] for name in names[:4]),
            case.stride,
            1,
            1,
            case.deformable_groups,
            case.groups,
            tensors.get("mask"),
        )
        if not training:
            return (out,)
        return (out, *paddle.grad([out], list(tensors.values()), [grad]))

    return call


def _ours(case: Case, arrays: dict, threads: int, training: bool, dtype: str = "float32") -> Call:
    from .functional import deform_conv2d

    return _paddle_call(deform_conv2d, case, arrays, training, dtype)


def _builtin(case: Case, arrays: dict, threads: int, training: bool) -> Call:
    from paddle.vision.ops import deform_conv2d

    return _paddle_call(deform_conv2d, case, arrays, training)


def _onnxruntime(case: Case, arrays: dict, threads: int, training: bool) -> Call | None:
    if training or not all(importlib.util.find_spec(m) for m in ("onnx", "onnxruntime")):
        return None
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    names = ["x", "weight", "offset", "bias"] + ["mask"] * case.modulated
    node = helper.make_node(
        "DeformConv",
        names,
        ["out"],
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
        strides=[case.stride] * 2,
        group=case.groups,
        offset_group=case.deformable_groups,
    )
    inputs = [n for n in names if n not in ("weight", "bias")]
    graph = helper.make_graph(
        [node],
        "deform_conv",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, arrays[n].shape) for n in inputs],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, arrays["grad"].shape)],
        [onnx.numpy_helper.from_array(arrays[n], n) for n in ("weight", "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {n: arrays[n] for n in inputs}
    return lambda: session.run(None, feed)


def _openvino(case: Case, arrays: dict, threads: int, training: bool) -> Call | None:
    if training or not importlib.util.find_spec("openvino"):
        return None
    import openvino
    from openvino import opset8

    def parameter(name):
        return opset8.parameter(list(arrays[name].shape), np.float32, name=name)

    inputs = [parameter("x"), parameter("offset")]
    if case.modulated:
        inputs.append(parameter("mask"))
    weight = arrays["weight"]
    if case.groups > 1:  # OpenVINO's filters carry all groups in the first axis, as ours do
        weight = weight.reshape(case.outputs, -1, 3, 3)
    out = opset8.deformable_convolution(
        inputs[0],
        inputs[1],
        opset8.constant(weight),
        [case.stride] * 2,
        [1, 1],
        [1, 1],
        [1, 1],
        mask=inputs[2] if case.modulated else None,
        group=case.groups,
        deformable_group=case.deformable_groups,
        bilinear_interpolation_pad=True,
    )
    out = opset8.add(out, opset8.constant(arrays["bias"].reshape(1, -1, 1, 1)))
    compiled = openvino.Core().compile_model(
        openvino.Model([out], inputs),
        "CPU",
        {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"},
    )
    request = compiled.create_infer_request()
    feed = [arrays[n.get_friendly_name()] for n in inputs]

    def call():
        request.infer(feed, share_inputs=True)
        return (request.get_output_tensor(0).data,)

    return call


def _plain_conv(
    case: Case, arrays: dict, threads: int, training: bool, dtype: str = "float32"
) -> Call | None:
    """PyTorch's plain convolution of the same shape: no sampling, so a floor and not a rival."""
    if not importlib.util.find_spec("torch"):
        return None
    import torch

    torch.set_num_threads(threads)
    names = ("x", "weight", "bias", "grad")
    dtype = getattr(torch, dtype)
    x, weight, bias, grad = (torch.from_numpy(arrays[n]).to(dtype) for n in names)
    for tensor in (x, weight, bias):
        tensor.requires_grad_(training)

    def call():
        with torch.set_grad_enabled(training):
            out = torch.nn.functional.conv2d(x, weight, bias, case.stride, 1, 1, case.groups)
        if training:
            torch.autograd.grad(out, (x, weight, bias), grad)
        return ()

    return call


CONTESTANTS = {
    "float32": {
        OURS: _ours,
        BUILTIN: _builtin,
        ORT: _onnxruntime,
        OPENVINO: _openvino,
        CONV: _plain_conv,
    },
    "bfloat16": {
        OURS: functools.partial(_ours, dtype="bfloat16"),
        FLOAT32: _ours,
        CONV: functools.partial(_plain_conv, dtype="bfloat16"),
    },
}

# How far outputs may be apart, as a share of the largest: enough to tell a mistake from rounding.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _compare(case: Case, name: str, ours: tuple, theirs: tuple, tolerance: float) -> None:
    for i, (a, b) in enumerate(zip(ours, theirs)):
        a, b = (np.asarray(v.astype("float32")) for v in (a, b))
        scale = np.abs(b).max()
        difference = np.abs(a - b).max()
        if not difference <= tolerance * scale:
            raise SystemExit(
                f"{case.name}: result {i} of {name} differs from ours by {difference:.3g} "
                f"(largest value {scale:.3g}); nothing was timed"
            )


def measure(
    case: Case, threads: int, training: bool, peers: bool = True, dtype: str = "float32"
) -> dict[str, float]:
    """Return the median milliseconds of each contestant that can run the case.

    Args:
        case: The layer.
        threads: Threads of every contestant. Paddle's must have been set before, by
            OMP_NUM_THREADS or `paddle.base.core.set_num_threads`.
        training: Forward and backward, with all gradients, instead of forward only.
        peers: Also time the peers that are installed.
        dtype: "float32", or "bfloat16" to time this operator in it beside itself in float32.

    """
    arrays = {name: _rounded(array, dtype) for name, array in _arrays(case).items()}
    calls = {}
    for name, contestant in CONTESTANTS[dtype].items():
        call = contestant(case, arrays, threads, training) if peers or name == OURS else None
        if call is not None:
            calls[name] = call
    ours = calls[OURS]()
    times, first = {}, {}
    for name, call in calls.items():
        start = time.perf_counter()
        results = call()
        first[name] = time.perf_counter() - start
        _compare(case, name, ours, results, _TOLERANCE[dtype])
        times[name] = [first[name]] if first[name] > 3 * _SLOW_SECONDS else []
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            if first[name] > _SLOW_SECONDS and times[name]:
                continue
            if first[name] < _SLOW_SECONDS / 5:
                call()  # wakes its thread pool, puts those of the others to sleep
            times[name].append(_seconds(call))
    return {name: 1000 * median(seconds) for name, seconds in times.items()}


def _gemm_contestants(m: int, n: int, k: int) -> Iterator[Call]:
    """Yield calls that multiply [m, k] by [k, n] with each library at hand."""
    import paddle

    a, b, c = (np.ones(shape, np.float32) for shape in ((m, k), (k, n), (m, n)))
    mkl = Path(paddle.__file__).parent / "libs" / "libmklml_intel.so"
    if mkl.exists():
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (a, b, c)]
        one, zero = ctypes.c_float(1), ctypes.c_float(0)
        row_major, plain = 101, 111
        arguments = [row_major, plain, plain, m, n, k, one, pointers[0], k, pointers[1], n]
        arguments += [zero, pointers[2], n]
        yield functools.partial(ctypes.CDLL(str(mkl)).cblas_sgemm, *arguments)
    if importlib.util.find_spec("torch"):
        import torch

        yield functools.partial(torch.matmul, torch.from_numpy(a), torch.from_numpy(b))


def peak_gflops() -> float:
    """Return the best rate of a large float32 matrix product by the libraries at hand."""
    best = 0.0
    for size in ((256, 9984, 2304), (1024, 1024, 1024)):
        for call in _gemm_contestants(*size):
            call()
            seconds = min(_seconds(call) for _ in range(5))
            best = max(best, 2 * size[0] * size[1] * size[2] / seconds * 1e-9)
    return best


def peak_bandwidth(threads: int) -> float:
    """Return the best rate in GB/s, read and written, at which this many threads copy."""
    source = np.ones((threads, (16 << 20) // threads), np.float32)
    target = np.ones_like(source)
    best = 0.0
    for _ in range(7):
        workers = [
            threading.Thread(target=np.copyto, args=(target[i], source[i])) for i in range(threads)
        ]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, 2e-9 * source.nbytes / (time.perf_counter() - start))
    return best


def _child(arguments: argparse.Namespace, threads: int) -> None:
    """Measure with one number of threads; print one JSON line per result."""
    import paddle

    paddle.base.core.set_num_threads(threads)
    peers = not arguments.no_peers
    peak = {"gflops": peak_gflops(), "gbytes": peak_bandwidth(threads)}
    print(json.dumps({"threads": threads, "peak": peak}), flush=True)
    for dtype in arguments.dtypes:
        for training in (False, True):
            for case in _chosen(arguments.cases):
                row = {"case": case.name, "dtype": dtype, "threads": threads, "training": training}
                row["ms"] = measure(case, threads, training, peers, dtype)
                print(json.dumps(row), flush=True)


def _chosen(names: list[str]) -> list[Case]:
    return [case for case in CASES if not names or case.name in names]


def _run_children(arguments: argparse.Namespace) -> Iterator[dict]:
    for threads in arguments.threads:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "KMP_BLOCKTIME": "0",
            "OMP_WAIT_POLICY": "PASSIVE",
            _THREADS_VARIABLE: str(threads),
        }
        command = [sys.executable, "-m", "paddle_dcn", "bench", *sys.argv[2:]]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            for line in child.stdout:
                yield json.loads(line)
            errors = child.stderr.read()
        if child.returncode:
            raise SystemExit(f"the benchmark with {threads} threads failed:\n{errors[-2000:]}")


def _row(result: dict, peak: dict[str, float]) -> str:
    case = next(case for case in CASES if case.name == result["case"])
    times = result["ms"]
    ours = times[OURS]
    flop = case.flop * (3 if result["training"] else 1)
    rate = flop / ours * 1e-6
    cells = [f"{case.name:16} {ours:9.2f}"]
    for name in list(CONTESTANTS[result["dtype"]])[1:]:
        cells.append(
            f"{times[name]:9.2f} {times[name] / ours:6.2f}x" if name in times else f"{'-':>17}"
        )
    cells.append(f"{rate:7.0f} {100 * rate / peak['gflops']:5.0f}%")
    floors = case.floors(result["dtype"], result["training"], **peak)
    cells.append(f"{floors['product']:8.2f} {floors['memory']:7.2f}")
    return " ".join(cells)


def _print_means(tables: dict[tuple, list[dict]]) -> None:
    """Print the summary of the last table, if there is one and it has peers."""
    means = _means(list(tables.values())[-1]) if tables else ""
    if means:
        print(means)


def _means(results: list[dict]) -> str:
    parts = []
    for name in (BUILTIN, ORT, OPENVINO, FLOAT32, CONV):
        ratios = [r["ms"][name] / r["ms"][OURS] for r in results if name in r["ms"]]
        if ratios:
            parts.append(f"{name} {geometric_mean(ratios):.2f}x")
    better = [
        min(r["ms"][n] for n in (ORT, OPENVINO) if n in r["ms"]) / r["ms"][OURS]
        for r in results
        if ORT in r["ms"] or OPENVINO in r["ms"]
    ]
    if better:
        parts.append(f"better of the two runtimes {geometric_mean(better):.2f}x")
        parts.append(f"of these at least {min(better):.2f}x")
    return "geometric mean of their time over ours: " + ", ".join(parts) if parts else ""


def _header(threads: int, dtype: str, training: bool, peak: dict[str, float]) -> str:
    columns = " ".join(f"{name:>16} " for name in list(CONTESTANTS[dtype])[1:])
    return (
        f"\n{TRAINING if training else FORWARD}, {dtype}, {threads} thread(s); ms, and how many "
        "times ours; GFLOP/s and share of the best float32 matrix product "
        f"({peak['gflops']:.0f} GFLOP/s); what the products take at that rate, and all tensors at "
        f"{peak['gbytes']:.0f} GB/s\n"
        f"{'case':16} {OURS:>9} {columns}GFLOP/s share  product  memory"
    )


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def _new_file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is not a folder")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file, got the folder {path}")
    return path


def _picture(text: str) -> Path:
    path = _new_file(text)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise argparse.ArgumentTypeError(f"expected a .png, .svg or .pdf file, got {text}")
    return path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m paddle_dcn bench`."""
    cores = os.cpu_count() or 1
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"of {', '.join(c.name for c in CASES)}; all"
    )
    parser.add_argument(
        "--threads", type=_count, nargs="+", default=sorted({1, min(2, cores)}), metavar="N"
    )
    parser.add_argument(
        "--dtypes", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="DTYPE"
    )
    parser.add_argument("--no-peers", action="store_true", help="time this operator only")
    parser.add_argument(
        "--json", type=_new_file, metavar="FILE", help="also write all figures to FILE"
    )
    parser.add_argument("--picture", type=_picture, metavar="FILE", help="also draw them into FILE")


def main(arguments: argparse.Namespace) -> int:
    """Run the benchmark and print its tables."""
    unknown = set(arguments.cases) - {case.name for case in CASES}
    if unknown:
        names = ", ".join(case.name for case in CASES)
        print(f"bench: no case {', '.join(sorted(unknown))}, expected of {names}", file=sys.stderr)
        return 2
    if arguments.no_peers and arguments.picture:
        print("bench: --picture draws the peers, which --no-peers leaves out", file=sys.stderr)
        return 2
    if _THREADS_VARIABLE in os.environ:
        _child(arguments, int(os.environ[_THREADS_VARIABLE]))
        return 0
    tables, peaks = {}, {}
    for result in _run_children(arguments):
        threads = result["threads"]
        if "peak" in result:
            peaks[threads] = result["peak"]
            continue
        part = (threads, result["dtype"], result["training"])
        if part not in tables:
            _print_means(tables)
            print(_header(*part, peaks[threads]))
        tables.setdefault(part, []).append(result)
        print(_row(result, peaks[threads]), flush=True)
    _print_means(tables)
    results = [result for table in tables.values() for result in table]
    if arguments.json:
        arguments.json.write_text(json.dumps({"peaks": peaks, "results": results}, indent=1))
    if arguments.picture:
        draw(results, arguments.picture)
    return 0


def draw(results: list[dict], path: Path) -> None:
    """Draw the times of all contestants over ours, a panel for each mode and thread count."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit('the picture needs matplotlib: pip install "paddle_dcn[demo]"') from None
    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    parts = {}
    for result in results:
        key = (result["dtype"] == "bfloat16", result["training"], result["threads"])
        parts.setdefault(key, []).append(result)
    figure, axes = pyplot.subplots(
        len(parts), 1, figsize=(11, 3.2 * len(parts)), squeeze=False, layout="constrained"
    )
    colors = {
        BUILTIN: "#b0413e",
        ORT: "#4c72b0",
        OPENVINO: "#55a868",
        FLOAT32: "#8172b3",
        CONV: "#999999",
    }
    for axis, (_, rows) in zip(axes[:, 0], sorted(parts.items())):
        names = [name for name in colors if any(name in r["ms"] for r in rows)]
        width = 0.8 / max(len(names), 1)
        for i, name in enumerate(names):
            ratios = [r["ms"].get(name, np.nan) / r["ms"][OURS] for r in rows]
            positions = np.arange(len(rows)) + (i - (len(names) - 1) / 2) * width
            heights = [ratio - 1 for ratio in ratios]  # from 1, where both are equally fast
            axis.bar(positions, heights, width, 1, label=name, color=colors[name])
        axis.axhline(1, color="black", linewidth=1)
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(ticker.NullLocator())
        axis.set_xticks(range(len(rows)), [r["case"] for r in rows], rotation=20, ha="right")
        axis.set_ylabel("time over ours")
        mode = TRAINING if rows[0]["training"] else FORWARD
        threads = rows[0]["threads"]
        plural = "s" if threads > 1 else ""
        axis.set_title(f"{mode}, {rows[0]['dtype']}, {threads} thread{plural}", loc="left")
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
        axis.legend(ncols=4, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
