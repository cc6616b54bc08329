"""The CUDA kernels on a GPU: correctness against float64, then time against peers and the floor.

    python -m benchmarks.gpu [--layers big rcnn_c3] [--types float16] [--rounds 20] [--check-only]

Needs nvcc, and PyTorch and torchvision for CUDA; no Paddle: the kernel library is compiled alone
and called through ctypes on PyTorch's tensors. Every layer is checked before anything is timed.
Times are medians of device events, contestants interleaved, inputs rotated past the L2 cache.
"conv" is the plain convolution of the same shape and type (cuDNN), which samples nothing.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

from benchmarks import kernel_library as kernels
from benchmarks.kernel_library import BackwardTensors, ForwardTensors, Library, Problem
from benchmarks.layers import LAYERS, Layer

TYPES = ("float16", "bfloat16", "tf32", "float32", "float64")
STORED = {"tf32": "float32"}
EPSILON = {"float16": 2**-10, "bfloat16": 2**-7, "tf32": 2**-10, "float32": 2**-23}
DIRECTIONS = ("forward", "backward")


def problem(layer: Layer, dtype: str, channels_last: bool = False) -> Problem:
    """The layer's sizes; ``dtype`` may be "tf32"."""
    return Problem.create(
        layer.x,
        layer.outputs,
        stride=(layer.stride, layer.stride),
        groups=layer.groups,
        deformable_groups=layer.deformable_groups,
        dtype=STORED.get(dtype, dtype),
        channels_last=channels_last,
        modulated=layer.modulated,
    )


# ---------------------------------------------------------------------------------- the floor

# H200, data sheet; the L1 caches together, at 128 bytes per clock and processor.
PEAK_FLOPS = {
    "float16": 989e12,
    "bfloat16": 989e12,
    "tf32": 495e12,
    "float32": 67e12,
    "float64": 34e12,
}
PEAK_MEMORY, PEAK_L1 = 4.8e12, 30.4e12  # bytes per second


def floor(layer: Layer, dtype: str, direction: str) -> dict[str, float]:
    """Milliseconds that each of the H200's limits takes at least.

    "product": the matrix products; "memory": every tensor read or written once; "corners": the
    four corners of every sample through L1, once per pass over the columns.
    """
    size = {"float64": 8, "float32": 4, "tf32": 4}.get(dtype, 2)
    passes = 1 if direction == "forward" else 2
    corners = 4 * layer.x[0] * math.prod(layer.out_size) * 9 * layer.x[1]
    return {
        "product": 1e3 * passes * layer.flop / PEAK_FLOPS[dtype],
        "memory": 1e3 * size * layer.elements(direction) / PEAK_MEMORY,
        "corners": 1e3 * size * passes * corners / PEAK_L1,
    }


# --------------------------------------------------------------------------------- contestants


class Data:
    """One layer's random tensors, for all contestants; values are exact in every type.

    Offsets are odd multiples of 1/8 pixel: no sample lies on an integer coordinate, where the
    peers' offset gradients are free to differ.
    """

    def __init__(
        self,
        torch: ModuleType,
        layer: Layer,
        dtype: str,
        channels_last: bool = False,
        device: str = "cuda",  # tests have an emulated one, "cpu"
    ) -> None:
        self.torch, self.layer, self.dtype, self.device = torch, layer, dtype, device
        self.problem = problem(layer, dtype, channels_last)
        self.type = getattr(torch, STORED.get(dtype, dtype))
        shapes = problem(layer, dtype).shapes()
        depth = math.prod(shapes["weight"][1:])
        values = {
            name: torch.randn(shape, device=device, dtype=torch.float64)
            for name, shape in shapes.items()
        }
        values["offset"] = (
            (values["offset"] * 4 * layer.spread).floor().clamp(-100, 100) + 0.5
        ) / 4
        values["mask"] = values["mask"].sigmoid()
        values["weight"] /= math.sqrt(depth)
        values["grad_out"] = values.pop("out")
        if not layer.modulated:
            values["mask"] = None
        self.tensors = {n: None if v is None else v.to(self.type) for n, v in values.items()}

    def bytes(self) -> int:
        """Memory of the inputs."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values() if t is not None)

    def peer(self, function: Callable, names: tuple[str, ...], direction: str, dtype: Any = None):
        """A call of a differentiable function of the named tensors, or of its backward pass."""
        inputs = {n: t for n, t in self.tensors.items() if n in names and t is not None}
        inputs = {n: t.detach().to(dtype or self.type) for n, t in inputs.items()}
        if direction == "forward":
            return lambda: {"out": function(**inputs)}
        inputs = {n: t.requires_grad_() for n, t in inputs.items()}
        out = function(**inputs)
        grad_out = self.tensors["grad_out"].to(out.dtype)

        def backward() -> dict:
            found = self.torch.autograd.grad(
                out, list(inputs.values()), grad_out, retain_graph=True
            )
            return dict(zip(inputs, found))

        return backward

    def torchvision(self, direction: str, dtype: Any = None) -> Callable:
        """torchvision.ops.deform_conv2d, optionally in another type."""
        from torchvision.ops import deform_conv2d

        def call(x, offset, weight, bias, mask=None):
            stride = (self.layer.stride,) * 2
            return deform_conv2d(x, offset, weight, bias, stride=stride, padding=(1, 1), mask=mask)

        return self.peer(call, ("x", "offset", "mask", "weight", "bias"), direction, dtype)

    def convolution(self, direction: str) -> Callable:
        """The plain convolution."""

        def call(x, weight, bias):
            return self.torch.nn.functional.conv2d(
                x, weight, bias, stride=self.layer.stride, padding=1, groups=self.layer.groups
            )

        return self.peer(call, ("x", "weight", "bias"), direction)

    def ours(self, library: Library, direction: str, flags: int = 0) -> tuple[Callable, int]:
        """The kernel library's call, and the bytes of its workspace."""
        torch, p = self.torch, self.problem
        flags |= kernels.TENSOR_FLOAT32 if self.dtype == "tf32" else 0

        def in_memory(name: str, tensor: Any) -> Any:
            images = p.channels_last and name in ("x", "grad_out", "out")
            return (tensor.permute(0, 2, 3, 1) if images else tensor).contiguous()

        inputs = {n: in_memory(n, t) for n, t in self.tensors.items() if t is not None}
        shapes = p.shapes()
        if direction == "forward":
            del inputs["grad_out"]
            kind, names, prefix = ForwardTensors, ("out",), ""
        else:
            names = tuple(n for n in inputs if n != "grad_out")
            kind, prefix = BackwardTensors, "grad_"
        outputs = {n: torch.empty(shapes[n], device=self.device, dtype=self.type) for n in names}
        pointers = {n: t.data_ptr() for n, t in inputs.items()}
        pointers |= {prefix + n: t.data_ptr() for n, t in outputs.items()}
        tensors = kind(pointers)
        size = library.cuda(flags).workspace(p, tensors)
        workspace = torch.empty(size + 256, device=self.device, dtype=torch.uint8)
        address = workspace.data_ptr() + -workspace.data_ptr() % 256

        def call() -> dict:
            on_gpu = self.device == "cuda"
            stream = torch.cuda.current_stream().cuda_stream if on_gpu else 0
            library.cuda(flags, stream).run(p, tensors, address)
            return {
                n: t.permute(0, 3, 1, 2) if p.channels_last and n in ("x", "out") else t
                for n, t in outputs.items()
            }

        call.memory = inputs, workspace  # lives as long as the call
        return call, size


def check(
    torch: ModuleType, library: Library, layer: Layer, dtype: str, device: str = "cuda"
) -> list[str]:
    """What is wrong with our results, against torchvision in float64."""
    problems = []
    for channels_last in (False, True):
        data = Data(torch, layer, dtype, channels_last, device)
        for direction in DIRECTIONS:
            expected = data.torchvision(direction, torch.float64)()
            for flags in (0, kernels.DETERMINISTIC, kernels.WIDE_INDEX):
                actual = data.ours(library, direction, flags)[0]()
                for name, wanted in expected.items():
                    depth = max(layer.x[0] * wanted[0].numel(), layer.x[1] * 9, layer.outputs * 9)
                    epsilon = EPSILON.get(dtype, 2**-52)
                    summed = 2**-52 if dtype == "float64" else 2**-23
                    limit = 4 * summed * math.sqrt(depth) + 2 * epsilon * (epsilon > summed)
                    error = (actual[name].double() - wanted).abs().max() / wanted.abs().max()
                    if not error <= limit:
                        layout = "NHWC" if channels_last else "NCHW"
                        problems.append(
                            f"{layer.name} {dtype} {layout} flags {flags} {direction} {name}: "
                            f"error {error:.2e} of the largest value, expected {limit:.2e}"
                        )
    return problems


def median_times(torch: ModuleType, contestants: dict[str, list[Callable]], rounds: int) -> dict:
    """Milliseconds of each contestant, given as calls on distinct copies of the data."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(-3, rounds):
        for name, calls in contestants.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            calls[i % len(calls)]()
            end.record()
            torch.cuda.synchronize()
            if i >= 0:
                times[name].append(start.elapsed_time(end))
    return {name: statistics.median(found) for name, found in times.items()}


HEADER = (
    f"{'layer':16}{'type':9}{'pass':9}{'ms':>8}{'TFLOP/s':>9}{'MiB':>6}"
    f"{'torchvision':>14}{'conv':>14}   {'floor':24}"
)


def line(
    layer: Layer, dtype: str, direction: str, times: dict[str, float], workspace: int, h200: bool
) -> str:
    """One line of the table; "x" columns say how many times as long as ours the other takes."""
    ours = times["ours"]
    passes = 1 if direction == "forward" else 2

    def peer(name: str) -> str:
        return f"{times[name]:7.3f} {times[name] / ours:5.2f}x" if name in times else f"{'-':>14}"

    limits = floor(layer, dtype, direction)
    binding = max(limits, key=limits.__getitem__)
    bound = f"{limits[binding]:7.3f} {binding}, {ours / limits[binding]:.1f}x it" if h200 else "-"
    return (
        f"{layer.name:16}{dtype:9}{direction:9}{ours:8.3f}"
        f"{passes * layer.flop / ours / 1e9:9.1f}{workspace / 2**20:6.1f}"
        f"{peer('torchvision'):>14}{peer('conv'):>14}   {bound:24}"
    )


def measure(
    torch: ModuleType, library: Library, layer: Layer, dtype: str, rounds: int
) -> list[str]:
    """The lines of one layer and type."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    first = Data(torch, layer, dtype)
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    copies = [first] + [
        Data(torch, layer, dtype) for _ in range(min(math.ceil(2 * l2 / first.bytes()), 16))
    ]
    lines = []
    for direction in DIRECTIONS:
        ours = [data.ours(library, direction) for data in copies]
        contestants = {"ours": [call for call, _ in ours]}
        if dtype != "bfloat16":  # torchvision has none
            contestants["torchvision"] = [data.torchvision(direction) for data in copies]
        contestants["conv"] = [data.convolution(direction) for data in copies]
        times = median_times(torch, contestants, rounds)
        h200 = "H200" in torch.cuda.get_device_name()
        lines.append(line(layer, dtype, direction, times, ours[0][1], h200))
    return lines


def arguments(values: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--layers", nargs="+", choices=LAYERS, default=list(LAYERS), metavar="LAYER"
    )
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES[:4]))
    parser.add_argument("--rounds", type=int, default=20, help="timed calls per contestant")
    parser.add_argument("--check-only", action="store_true", help="compare, time nothing")
    parser.add_argument("--library", type=Path, help="a kernel library that is built already")
    parsed = parser.parse_args(values)
    if parsed.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {parsed.rounds}")
    return parsed


def main(values: list[str] | None = None) -> int:
    """Check, then time; the status is 1 when a result is wrong."""
    options = arguments(values)
    try:
        import torch
        import torchvision
    except ModuleNotFoundError as error:
        raise SystemExit(f"benchmarks.gpu needs PyTorch and torchvision: {error}") from None
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu needs a CUDA device, and PyTorch sees none")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = options.library
        if path is None:
            major, minor = torch.cuda.get_device_capability()
            path = Path(folder) / "kernels.so"
            kernels.build_cuda(path, (10 * major + minor,))
        library = Library(path)
        print(
            f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, torchvision "
            f"{torchvision.__version__}, CUDA {torch.version.cuda}, cuDNN "
            f"{torch.backends.cudnn.version()}"
        )
        wrong = []
        for name in options.layers:
            for dtype in options.types:
                wrong += check(torch, library, LAYERS[name], dtype)
        print(
            "\n".join(wrong)
            or f"{len(options.layers) * len(options.types)} layers checked: correct"
        )
        if not wrong and not options.check_only:
            print(HEADER)
            for name in options.layers:
                for dtype in options.types:
                    for text in measure(torch, library, LAYERS[name], dtype, options.rounds):
                        print(text, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
