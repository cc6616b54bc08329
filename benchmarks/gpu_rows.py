"""The rows of the GPU benchmark: contestants, checked against float64, then timed.

`python -m benchmarks.gpu_rows JOB` does row after row of a :class:`Job` in JSON and prints a line
of JSON for what it runs on and for each row. It is a process of its own because a fault on a GPU
ends the process: `benchmarks.gpu` then starts another one for the rows that are left.
"""

from __future__ import annotations

import functools
import json
import math
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Callable

from benchmarks import kernel_library as kernels
from benchmarks import layers
from benchmarks.kernel_library import BackwardTensors, ForwardTensors, Library, Problem
from benchmarks.layers import Layer
from tests.support.comparison import tolerance

# Beside the layers of real networks: groups of one, four and 16 channels, of the weight or of the
# offsets.
LAYERS = {
    **layers.LAYERS,
    **{
        layer.name: layer
        for layer in (
            Layer("depthwise", (8, 256, 100, 100), 256, groups=256),
            Layer("depthwise_dg16", (4, 256, 64, 64), 256, groups=256, deformable_groups=16),
            Layer("groups_of_4", (4, 256, 64, 64), 256, groups=64),
            Layer("groups_of_16", (4, 256, 64, 64), 256, groups=16, deformable_groups=16),
            Layer("deformable_64", (4, 256, 64, 64), 256, deformable_groups=64),
        )
    },
}

# Small enough to run under compute-sanitizer; by their sizes the kernels choose different tiles.
SMALL = {
    layer.name: layer
    for layer in (
        Layer("wide", (2, 32, 48, 96), 256),
        Layer("odd", (2, 20, 15, 17), 21, stride=2, modulated=False),
        Layer("grouped", (1, 48, 20, 20), 48, groups=4, deformable_groups=2),
        Layer("single", (1, 40, 17, 19), 40, groups=40),
        Layer("few", (1, 32, 17, 19), 32, groups=8),
        Layer("deformable", (1, 64, 16, 16), 64, deformable_groups=16),
    )
}

TYPES = ("float16", "bfloat16", "tf32", "float32", "float64")
STORED = {"tf32": "float32"}
DIRECTIONS = ("forward", "backward")
MODES = {"default": 0, "deterministic": kernels.DETERMINISTIC, "64-bit indices": kernels.WIDE_INDEX}

# Contestants; other libraries go by their names.
OURS, OURS_LAST, DETERMINISTIC = "ours", "ours, NHWC", "deterministic"
TORCHVISION, CONV, CONV_LAST = "torchvision", "conv", "conv, NHWC"


@dataclass
class Job:
    """What one process does."""

    libraries: dict[str, str]  # paths by name, ours first
    rows: list[tuple[str, str, str]]  # layer, type, direction
    rounds: int = 20  # timed calls per contestant, fewer of slow ones
    ceilings: bool = True  # measure what the machine reaches at best
    only_check: bool = False
    # Under a sanitizer: values and what is expected are made on the CPU.
    values_on: str = "cuda"
    poison: bool = True


# --------------------------------------------------------------------------------- contestants


class Data:
    """One layer's random tensors, for all contestants; values are exact in every type.

    Offsets are odd multiples of 1/8 pixel: no sample lies on an integer coordinate, where the
    peers' offset gradients are free to differ.
    """

    def __init__(self, torch: ModuleType, layer: Layer, dtype: str, device: str = "cuda") -> None:
        self.torch, self.layer, self.dtype = torch, layer, dtype
        self.type = getattr(torch, STORED.get(dtype, dtype))
        values = {
            name: torch.randn(shape, device=device, dtype=torch.float64)
            for name, shape in layer.shapes.items()
        }
        values["offset"] = (
            (values["offset"] * 4 * layer.spread).floor().clamp(-100, 100) + 0.5
        ) / 4
        if layer.modulated:
            values["mask"] = values["mask"].sigmoid()
        values["weight"] /= math.sqrt(math.prod(layer.shapes["weight"][1:]))
        self.tensors = {name: value.to(self.type) for name, value in values.items()}

    def problem(self, channels_last: bool) -> Problem:
        """The layer as the kernels take it."""
        layer = self.layer
        return Problem.create(
            layer.x,
            layer.outputs,
            stride=(layer.stride, layer.stride),
            groups=layer.groups,
            deformable_groups=layer.deformable_groups,
            dtype=STORED.get(self.dtype, self.dtype),
            channels_last=channels_last,
            modulated=layer.modulated,
        )

    def depth(self) -> dict[str, int]:
        """How many rounded terms are summed into an element of the output and of each gradient.

        Of x it is what a pixel that is sampled once for each tap gets: four corners of as many.
        """
        layer = self.layer
        outputs, channels = layer.outputs // layer.groups, layer.x[1] // layer.groups
        coordinate = 4 * outputs * layer.x[1] // layer.deformable_groups
        pixels = layer.x[0] * math.prod(layer.out_size)
        return {
            "out": 9 * channels,
            "x": 4 * 9 * outputs,
            "offset": coordinate,
            "mask": coordinate,
            "weight": pixels,
            "bias": pixels,
        }

    def torchvision(self, direction: str, dtype: Any = None) -> Callable[[], dict]:
        """torchvision.ops.deform_conv2d, optionally in another type."""
        from torchvision.ops import deform_conv2d

        def call(x, offset, weight, bias, mask=None):
            stride = (self.layer.stride,) * 2
            return deform_conv2d(x, offset, weight, bias, stride=stride, padding=(1, 1), mask=mask)

        names = ("x", "offset", "mask", "weight", "bias")
        return self._peer(call, {n: self.tensors.get(n) for n in names}, direction, dtype)

    def convolution(self, direction: str, channels_last: bool = False) -> Callable[[], dict]:
        """The plain convolution."""
        torch = self.torch

        def call(x, weight, bias):
            return torch.nn.functional.conv2d(
                x, weight, bias, stride=self.layer.stride, padding=1, groups=self.layer.groups
            )

        layout = torch.channels_last if channels_last else torch.contiguous_format
        inputs = {n: self.tensors[n].contiguous(memory_format=layout) for n in ("x", "weight")}
        return self._peer(call, {**inputs, "bias": self.tensors["bias"]}, direction, None, layout)

    def _peer(self, function, inputs, direction, dtype=None, layout=None) -> Callable[[], dict]:
        """A call of a differentiable function, or of its backward pass."""
        inputs = {n: t.detach().to(dtype or self.type) for n, t in inputs.items() if t is not None}
        if direction == "forward":
            return lambda: {"out": function(**inputs)}
        inputs = {n: t.requires_grad_() for n, t in inputs.items()}
        out = function(**inputs)
        grad = self.tensors["grad"].to(out.dtype)
        if layout is not None:
            grad = grad.contiguous(memory_format=layout)

        def backward() -> dict:
            found = self.torch.autograd.grad(out, list(inputs.values()), grad, retain_graph=True)
            return dict(zip(inputs, found))

        return backward


class Ours:
    """The kernel library's call for some data, with outputs and workspace of its own."""

    def __init__(
        self,
        data: Data,
        library: Library,
        direction: str,
        flags: int = 0,
        channels_last: bool = False,
        device: str = "cuda",  # tests have an emulated one, "cpu"
    ) -> None:
        torch = data.torch
        self.torch, self.library, self.on_gpu = torch, library, device == "cuda"
        self.channels_last, self.problem = channels_last, data.problem(channels_last)
        self.flags = flags | (kernels.TENSOR_FLOAT32 if data.dtype == "tf32" else 0)

        def in_memory(name: str, tensor: Any) -> Any:
            images = channels_last and name in ("x", "grad")
            return (tensor.permute(0, 2, 3, 1) if images else tensor).contiguous().to(device)

        names = [n for n in data.tensors if n != "grad" or direction == "backward"]
        self.inputs = {n: in_memory(n, data.tensors[n]) for n in names}
        if direction == "forward":
            kind, outputs, prefix = ForwardTensors, ["out"], ""
        else:
            kind, outputs, prefix = BackwardTensors, [n for n in names if n != "grad"], "grad_"
        shapes = self.problem.shapes()
        self.outputs = {n: torch.empty(shapes[n], device=device, dtype=data.type) for n in outputs}
        pointers = {n: t.data_ptr() for n, t in self.inputs.items()}
        pointers["grad_out"] = pointers.pop("grad", None)
        pointers |= {prefix + n: t.data_ptr() for n, t in self.outputs.items()}
        self.tensors = kind(pointers)
        self.workspace_bytes = library.cuda(self.flags).workspace(self.problem, self.tensors)
        # The CPU's allocator aligns less well than a GPU's.
        slack = 0 if self.on_gpu else 256
        self.workspace = torch.empty(self.workspace_bytes + slack, device=device, dtype=torch.uint8)

    def __call__(self) -> None:
        """Run, or on a GPU enqueue."""
        stream = self.torch.cuda.current_stream().cuda_stream if self.on_gpu else 0
        address = self.workspace.data_ptr()
        self.library.cuda(self.flags, stream).run(
            self.problem, self.tensors, address + -address % 256
        )

    def poison(self) -> None:
        """Fill outputs and workspace with bits that are NaN in every type."""
        for tensor in (*self.outputs.values(), self.workspace):
            tensor.view(self.torch.uint8).fill_(0xFF)

    def results(self) -> dict:
        """Copies of the outputs, NCHW."""
        return {
            n: (t.permute(0, 3, 1, 2) if self.channels_last and n in ("x", "out") else t).clone()
            for n, t in self.outputs.items()
        }


# ----------------------------------------------------------------------------------- the check


def check(
    data: Data, library: Library, direction: str, device: str = "cuda", poison: bool = True
) -> list[str]:
    """What is wrong with our results in every layout and mode, against torchvision in float64.

    What must not depend on the order of events is computed twice and has to have the same bits.
    """
    torch, depth = data.torch, data.depth()
    expected = data.torchvision(direction, torch.float64)()
    # TF32 has the mantissa of float16.
    rounded = "float16" if data.dtype == "tf32" else data.dtype
    wrong = []
    for layout in ("NCHW", "NHWC"):
        for mode, flags in MODES.items():
            ours = Ours(data, library, direction, flags, layout == "NHWC", device)
            runs = []
            for _ in range(2 if direction == "forward" or mode == "deterministic" else 1):
                if poison:
                    ours.poison()
                ours()
                runs.append(ours.results())
            for name, wanted in expected.items():
                where = f"{layout}, {mode}, {name}"
                found = runs[0][name].to(wanted.device, torch.float64)
                scale = float(wanted.abs().max())
                limit = tolerance(rounded, depth[name], scale)
                error = float((found - wanted).abs().max())
                if not error <= limit:  # or NaN
                    wrong.append(f"{where}: off by {error:.2e}, expected at most {limit:.2e}")
                if not all(torch.equal(_bits(run[name]), _bits(runs[0][name])) for run in runs):
                    wrong.append(f"{where}: two runs differ")
    return wrong


def _bits(tensor: Any) -> Any:
    """The tensor's bytes, which are equal to themselves even where they are NaN."""
    import torch

    return tensor.contiguous().view(torch.uint8)


# ------------------------------------------------------------------------------------ the times


def median_times(
    torch: ModuleType, calls: dict[str, Callable], rounds: int
) -> dict[str, tuple[float, float]]:
    """The median milliseconds of each call and the range of the middle half of them.

    The calls take turns. Before each, reading other memory empties the L2 cache, and a kernel
    that only waits lets the CPU run ahead: time does not count until everything is enqueued.
    """
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    other = torch.zeros(max(4 * l2, 1 << 26) // 4, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in calls}
    ahead, wanted = dict.fromkeys(calls, 0.0), dict.fromkeys(calls, rounds)
    for i in range(-2, rounds):
        for name, call in calls.items():
            if i >= wanted[name]:
                continue
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            other.sum()
            torch.cuda._sleep(int(2e9 * ahead[name]))  # cycles, at 2 GHz or less
            start.record()
            before = time.perf_counter()
            call()
            enqueued = time.perf_counter() - before
            end.record()
            end.synchronize()
            took = start.elapsed_time(end)
            if i >= 0:
                times[name].append(took)
            else:  # a slow call is enqueued while it runs
                ahead[name] = min(1.5 * enqueued, 0.005) + 50e-6
                wanted[name] = max(min(rounds, round(250 / took)), 3)
    return {name: (statistics.median(t), _middle(t)) for name, t in times.items()}


def _middle(times: list[float]) -> float:
    if len(times) < 2:
        return 0.0
    first, _, third = statistics.quantiles(times, n=4)
    return third - first


def kernel_times(torch: ModuleType, call: Callable, calls: int = 3) -> dict[str, list[float]]:
    """Microseconds and launches in one call of each kernel, from PyTorch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as found:
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
    kernels: dict[str, list[float]] = {}
    for event in found.key_averages():
        if event.self_device_time_total > 0:
            match = re.search(r"dcn::cuda::(?:\(anonymous namespace\)::)?(\w+)", event.key)
            total = kernels.setdefault(match[1] if match else event.key, [0.0, 0])
            total[0] = round(total[0] + event.self_device_time_total / calls, 1)
            total[1] += event.count // calls
    return dict(sorted(kernels.items(), key=lambda item: -item[1][0]))


def use_tensor_float32(torch: ModuleType, dtype: str) -> None:
    """Let PyTorch round float32 operands where the type is "tf32", and not elsewhere."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"


def ceilings(torch: ModuleType) -> dict[str, float]:
    """Bytes per second that a copy reads and writes, and FLOP per second of large products."""
    source = torch.empty(1 << 30, device="cuda")
    target = torch.empty_like(source)
    calls = {"copy": lambda: target.copy_(source)}
    found = {"copy": 2 * 4 * 2**30 / median_times(torch, calls, 7)["copy"][0] * 1e3}
    for dtype in TYPES:
        use_tensor_float32(torch, dtype)
        n = 4096 if dtype == "float64" else 8192
        a, b = (
            torch.randn(n, n, device="cuda").to(getattr(torch, STORED.get(dtype, dtype)))
            for _ in range(2)
        )
        times = median_times(torch, {dtype: functools.partial(torch.matmul, a, b)}, 5)
        found[dtype] = 2 * n**3 / times[dtype][0] * 1e3
    return found


def measure(
    data: Data, libraries: dict[str, Library], direction: str, rounds: int
) -> dict[str, Any]:
    """Times of all contestants, and kernel by kernel of the libraries."""
    torch = data.torch
    use_tensor_float32(torch, data.dtype)
    torch.backends.cudnn.benchmark = True
    calls: dict[str, Callable] = {}
    for name, library in libraries.items():
        calls[name] = Ours(data, library, direction)
        calls[f"{name}, NHWC"] = Ours(data, library, direction, channels_last=True)
    ours = calls[OURS]
    if direction == "backward":
        calls[DETERMINISTIC] = Ours(data, libraries[OURS], direction, kernels.DETERMINISTIC)
    if data.dtype != "bfloat16":  # torchvision has none
        calls[TORCHVISION] = data.torchvision(direction)
    calls[CONV] = data.convolution(direction)
    calls[CONV_LAST] = data.convolution(direction, channels_last=True)
    times = median_times(torch, calls, rounds)
    return {
        "ms": {name: round(median, 5) for name, (median, _) in times.items()},
        "middle half": {name: round(middle, 5) for name, (_, middle) in times.items()},
        "workspace": ours.workspace_bytes,
        "kernels": {name: kernel_times(torch, calls[name]) for name in libraries},
    }


# ----------------------------------------------------------------------------------- the process


def machine(torch: ModuleType) -> dict[str, str]:
    """What the results depend on."""
    import torchvision

    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "unknown"
    return {
        "chip": torch.cuda.get_device_name(),
        "driver": driver,
        "CUDA": torch.version.cuda,
        "cuDNN": str(torch.backends.cudnn.version()),
        "PyTorch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def do_row(torch: ModuleType, job: Job, libraries: dict, data: Data, direction: str) -> dict:
    """Check, then time; a library whose results are wrong is not timed."""
    start = time.perf_counter()
    wrong = {
        name: check(data, library, direction, poison=job.poison)
        for name, library in libraries.items()
    }
    row: dict[str, Any] = {"wrong": {name: found for name, found in wrong.items() if found}}
    right = {name: library for name, library in libraries.items() if not wrong[name]}
    if OURS in right and not job.only_check:
        row |= measure(data, right, direction, job.rounds)
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    """Do the job of the command line."""
    values = json.loads(sys.argv[1])
    job = Job(**values)
    import torch

    torch.manual_seed(0)
    libraries = {name: Library(path) for name, path in job.libraries.items()}
    begin = {"machine": machine(torch)}
    if job.ceilings:
        begin["ceilings"] = ceilings(torch)
    print(json.dumps(begin), flush=True)
    known = {**LAYERS, **SMALL}
    made: dict[tuple, Data] = {}
    for name, dtype, direction in job.rows:
        if (name, dtype) not in made:
            made.clear()
            torch.cuda.empty_cache()
            made[name, dtype] = Data(torch, known[name], dtype, job.values_on)
        row = do_row(torch, job, libraries, made[name, dtype], direction)
        print(json.dumps({"layer": name, "type": dtype, "pass": direction, **row}), flush=True)


if __name__ == "__main__":
    main()
