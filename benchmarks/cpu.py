"""The operator on a CPU, timed beside its peers.

    python -m benchmarks.cpu [--layers rcnn_c3 edvr_m] [--dtypes float32] [--threads 1] [--no-peers]

All contestants of a layer run in one process, in turn, on the same tensors, and their outputs are
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
import sys
import threading
import time
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import geometric_mean

import numpy as np

from benchmarks import contest
from benchmarks.contest import Call, seconds
from benchmarks.layers import LAYERS, Layer

OURS, BUILTIN, ORT, OPENVINO, CONV = "ours", "builtin", "onnxruntime", "openvino", "plain conv"
FLOAT32 = "ours, float32"
FORWARD, TRAINING = "forward", "forward+backward"

# All but one that Paddle's operator takes minutes for.
_DEFAULT = [name for name in LAYERS if name != "big"]


def _arrays(layer: Layer) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in layer.shapes.items()}
    arrays["offset"] *= layer.spread
    arrays["weight"] /= np.sqrt(math.prod(layer.shapes["weight"][1:]))
    if layer.modulated:
        arrays["mask"] = rng.random(layer.shapes["mask"], np.float32)
    return arrays


def _rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return the nearest values that the dtype has, as float32."""
    import paddle

    return paddle.to_tensor(array).astype(dtype).astype("float32").numpy()


# Each contestant: (layer, arrays, threads, training) -> a call that returns the outputs as arrays,
# or None where it cannot run the layer.


def _paddle_call(
    function: Callable, layer: Layer, arrays: dict, training: bool, dtype: str = "float32"
) -> Call:
    import paddle

    names = ["x", "offset", "weight", "bias"] + ["mask"] * layer.modulated
    tensors = {name: paddle.to_tensor(arrays[name]).astype(dtype) for name in names}
    grad = paddle.to_tensor(arrays["grad"]).astype(dtype)
    for tensor in tensors.values():
        tensor.stop_gradient = not training

    def call():
        out = function(
            *(tensors[name] for name in names[:4]),
            layer.stride,
            1,
            1,
            layer.deformable_groups,
            layer.groups,
            tensors.get("mask"),
        )
        if not training:
            return (out,)
        return (out, *paddle.grad([out], list(tensors.values()), [grad]))

    return call


def _ours(layer: Layer, arrays: dict, threads: int, training: bool, dtype: str = "float32") -> Call:
    from paddle_dcn import deform_conv2d

    return _paddle_call(deform_conv2d, layer, arrays, training, dtype)


def _builtin(layer: Layer, arrays: dict, threads: int, training: bool) -> Call:
    from paddle.vision.ops import deform_conv2d

    return _paddle_call(deform_conv2d, layer, arrays, training)


def _onnxruntime(layer: Layer, arrays: dict, threads: int, training: bool) -> Call | None:
    if training or not all(importlib.util.find_spec(m) for m in ("onnx", "onnxruntime")):
        return None
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    names = ["x", "weight", "offset", "bias"] + ["mask"] * layer.modulated
    node = helper.make_node(
        "DeformConv",
        names,
        ["out"],
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
        strides=[layer.stride] * 2,
        group=layer.groups,
        offset_group=layer.deformable_groups,
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


def _openvino(layer: Layer, arrays: dict, threads: int, training: bool) -> Call | None:
    if training or not importlib.util.find_spec("openvino"):
        return None
    import openvino
    from openvino import opset8

    def parameter(name):
        return opset8.parameter(list(arrays[name].shape), np.float32, name=name)

    inputs = [parameter("x"), parameter("offset")]
    if layer.modulated:
        inputs.append(parameter("mask"))
    weight = arrays["weight"]
    if layer.groups > 1:  # OpenVINO's filters carry all groups in the first axis, as ours do
        weight = weight.reshape(layer.outputs, -1, 3, 3)
    out = opset8.deformable_convolution(
        inputs[0],
        inputs[1],
        opset8.constant(weight),
        [layer.stride] * 2,
        [1, 1],
        [1, 1],
        [1, 1],
        mask=inputs[2] if layer.modulated else None,
        group=layer.groups,
        deformable_group=layer.deformable_groups,
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
    layer: Layer, arrays: dict, threads: int, training: bool, dtype: str = "float32"
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
            out = torch.nn.functional.conv2d(x, weight, bias, layer.stride, 1, 1, layer.groups)
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


def measure(
    layer: Layer, threads: int, training: bool, peers: bool = True, dtype: str = "float32"
) -> dict[str, float]:
    """Return the median milliseconds of each contestant that can run the layer.

    Args:
        layer: The layer.
        threads: Threads of every contestant. Paddle's must have been set before, by
            OMP_NUM_THREADS or `paddle.base.core.set_num_threads`.
        training: Forward and backward, with all gradients, instead of forward only.
        peers: Also time the peers that are installed.
        dtype: "float32", or "bfloat16" to time this operator in it beside itself in float32.

    """
    arrays = {name: _rounded(array, dtype) for name, array in _arrays(layer).items()}
    calls = {}
    for name, contestant in CONTESTANTS[dtype].items():
        call = contestant(layer, arrays, threads, training) if peers or name == OURS else None
        if call is not None:
            calls[name] = call
    ours = calls[OURS]()

    def check(name: str, results: tuple) -> None:
        contest.compare(layer.name, name, "ours", ours, results, _TOLERANCE[dtype])

    return contest.time_in_turn(calls, check)


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
            fastest = min(seconds(call) for _ in range(5))
            best = max(best, 2 * size[0] * size[1] * size[2] / fastest * 1e-9)
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


def smallest_calls() -> dict[str, float]:
    """Return microseconds of calls with next to nothing to compute.

    They are the least of many, since other processes only add.
    """
    import paddle

    from paddle_dcn import deform_conv2d

    x, weight, bias = (paddle.ones(shape) for shape in ([1, 1, 3, 3], [1, 1, 3, 3], [1]))
    offset, mask = paddle.zeros([1, 18, 3, 3]), paddle.ones([1, 9, 3, 3])
    calls = {
        OURS: lambda: deform_conv2d(x, offset, weight, bias, padding=1, mask=mask),
        "ours without a bias": lambda: deform_conv2d(x, offset, weight, padding=1, mask=mask),
        "Paddle's conv2d": lambda: paddle.nn.functional.conv2d(x, weight, bias, padding=1),
    }
    count = 50
    return {
        name: 1e6 / count * min(timeit.repeat(call, number=count, repeat=100))
        for name, call in calls.items()
    }


def floors(
    layer: Layer, dtype: str, training: bool, gflops: float, gbytes: float
) -> dict[str, float]:
    """Milliseconds that the products take at a rate, and every tensor once at a bandwidth."""
    directions = ("forward", "backward") if training else ("forward",)
    size = 2 if dtype == "bfloat16" else 4
    return {
        "product": layer.flop * (3 if training else 1) / gflops * 1e-6,
        "memory": sum(map(layer.elements, directions)) * size / gbytes * 1e-6,
    }


def _child(options: argparse.Namespace, threads: int) -> None:
    """Measure with one number of threads; print one JSON line per result."""
    import paddle

    paddle.base.core.set_num_threads(threads)
    peak = {"gflops": peak_gflops(), "gbytes": peak_bandwidth(threads)}
    begin = {"threads": threads, "peak": peak, "calls": smallest_calls()}
    print(json.dumps(begin), flush=True)
    for dtype in options.dtypes:
        for training in (False, True):
            for name in options.layers:
                row = {"layer": name, "dtype": dtype, "threads": threads, "training": training}
                row["ms"] = measure(LAYERS[name], threads, training, not options.no_peers, dtype)
                print(json.dumps(row), flush=True)


def _results(options: argparse.Namespace) -> Iterator[dict]:
    for threads in options.threads:
        yield from contest.run_child("benchmarks.cpu", sys.argv[1:], threads)


def line(result: dict, peak: dict[str, float]) -> str:
    """One line of a table."""
    layer = LAYERS[result["layer"]]
    times = result["ms"]
    ours = times[OURS]
    flop = layer.flop * (3 if result["training"] else 1)
    rate = flop / ours * 1e-6
    cells = [f"{layer.name:16} {ours:9.2f}"]
    for name in list(CONTESTANTS[result["dtype"]])[1:]:
        cells.append(
            f"{times[name]:9.2f} {times[name] / ours:6.2f}x" if name in times else f"{'-':>17}"
        )
    cells.append(f"{rate:7.0f} {100 * rate / peak['gflops']:5.0f}%")
    limits = floors(layer, result["dtype"], result["training"], **peak)
    cells.append(f"{limits['product']:8.2f} {limits['memory']:7.2f}")
    return " ".join(cells)


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
        f"{'layer':16} {OURS:>9} {columns}GFLOP/s share  product  memory"
    )


def arguments(values: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=_DEFAULT, metavar="LAYER")
    parser.add_argument(
        "--dtypes", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="DTYPE"
    )
    contest.add_arguments(parser)
    return parser.parse_args(values)


def main(values: list[str] | None = None) -> int:
    """Print the tables, and write them if asked for."""
    options = arguments(values)
    threads = contest.threads_of_child()
    if threads is not None:
        _child(options, threads)
        return 0
    report = contest.Report()
    tables, peaks, calls = {}, {}, {}
    for result in _results(options):
        threads = result["threads"]
        if "peak" in result:
            peaks[threads], calls[threads] = result["peak"], result["calls"]
            times = ", ".join(f"{name} {time:.1f}" for name, time in calls[threads].items())
            report.show(f"\nthe smallest calls, {threads} thread(s), microseconds: {times}")
            continue
        part = (threads, result["dtype"], result["training"])
        table = tables.setdefault(part, [])
        if not table:
            report.show(_header(*part, peaks[threads]))
        table.append(result)
        report.show(line(result, peaks[threads]))
        if len(table) == len(options.layers) and not options.no_peers:
            report.show(_means(table))
    if options.output:
        results = [result for table in tables.values() for result in table]
        report.write(options.output, {"peaks": peaks, "calls": calls, "results": results})
        if not options.no_peers:
            draw(results, Path(f"{options.output}.png"))
    return 0


def draw(results: list[dict], path: Path) -> None:
    """Draw what the peers take as a multiple of ours: geometric means over the layers.

    Of float32 if there is any, with the most threads; the tables have the rest.
    """
    pyplot = contest.pyplot()
    dtype = min((each["dtype"] for each in results), key=lambda dtype: dtype != "float32")
    threads = max(each["threads"] for each in results)
    bars, message = [], []
    for training, mode in ((False, "forward"), (True, "training")):
        times = [
            each["ms"]
            for each in results
            if (each["dtype"], each["threads"], each["training"]) == (dtype, threads, training)
        ]
        # A plain convolution samples nothing: no peer of a whole operator, but its floor.
        names = {BUILTIN: "Paddle", OPENVINO: "OpenVINO", ORT: "ONNX Runtime", FLOAT32: FLOAT32}
        for name, shown in names.items():
            ratios = [each[name] / each[OURS] for each in times if name in each]
            if ratios:
                bars.append((mode, shown, geometric_mean(ratios)))
                if name == BUILTIN:
                    message.append(f"{mode} {bars[-1][2]:.3g}")
        if times:
            bars.append((mode, "paddle_dcn", 1.0))
    figure, axis = pyplot.subplots(figsize=(9, 0.6 + 0.5 * len(bars)), layout="constrained")
    for place, (mode, name, value) in enumerate(bars):
        place += 0.6 * (mode == "training")
        axis.barh(place, value, 0.75, color="#e4572e" if name == "paddle_dcn" else "#9aa7b5")
        axis.text(value, place, f" {value:.1f}", va="center", fontsize=13, fontweight="bold")
    places = [place + 0.6 * (mode == "training") for place, (mode, *_) in enumerate(bars)]
    axis.set_yticks(places, [f"{name}, {mode}" for mode, name, _ in bars], fontsize=13)
    axis.invert_yaxis()
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.set_xticks([])
    axis.margins(x=0.1)
    count = len({each.get("layer", each.get("case")) for each in results})
    plural = "s" * (threads > 1)
    note = f"time as a multiple of ours, mean of {count} layers, {dtype}, {threads} thread{plural}"
    axis.set_xlabel(note, fontsize=11)
    if message:
        headline = f"{', '.join(message)} times as fast as Paddle's operator".capitalize()
        figure.suptitle(headline.replace("paddle", "Paddle"), x=0.01, ha="left", fontsize=15)
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    sys.exit(main())
