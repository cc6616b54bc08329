"""DCNv3 and DCNv4 on a CPU, timed beside the form that the original has for PyTorch.

    python -m benchmarks.aggregation [--layers t1 t4_16] [--threads 1] [--no-peers]

The layers are the four stages of InternImage-T for images of 224 pixels, one of them or 16. The
original computes on GPUs only, besides by PyTorch's `grid_sample`, which is what is timed here, in
the same process and in turn, once its results agree. Only ratios mean anything.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Callable
from statistics import geometric_mean
from typing import Any, NamedTuple

import numpy as np

from benchmarks import contest, cpu
from benchmarks.contest import Call

V3, V4, V3_BFLOAT16, PYTORCH = "dcnv3", "dcnv4", "dcnv3, bfloat16", "grid_sample"
FORWARD, TRAINING = "forward", "forward+backward"


class Layer(NamedTuple):
    """A layer with 3x3 kernels that keep the size of its square images."""

    batch: int
    size: int
    channels: int
    group: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the tensors of a call, and of the gradient of the output."""
        pixels, samples = (self.batch, self.size, self.size), 9 * self.group
        widths = {"input": self.channels, "offset": 2 * samples, "mask": samples}
        return {
            name: (*pixels, width) for name, width in (widths | {"grad": self.channels}).items()
        }

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What follows the tensors in a call."""
        return (3, 3, 1, 1, 1, 1, 1, 1, self.group, self.channels // self.group, 1.0)


# The stages of InternImage-T.
LAYERS = {
    f"t{stage + 1}{'_16' if batch > 1 else ''}": Layer(batch, 56 >> stage, 64 << stage, 4 << stage)
    for batch in (1, 16)
    for stage in range(4)
}


def pytorch_form(
    input: Any,
    offset: Any,
    mask: Any,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    group_channels: int,
    offset_scale: float,
    im2col_step: int = 0,
    remove_center: bool = False,
) -> Any:
    """DCNv3 of PyTorch tensors by one `grid_sample`, each group as an image.

    A pixel p of a padded image of n pixels lies at (2 * p + 1) / n - 1.
    """
    import torch

    images, rows, columns = offset.shape[:3]
    taps = kernel_h * kernel_w - remove_center
    padded = torch.nn.functional.pad(input, (0, 0, pad_w, pad_w, pad_h, pad_h))
    height, width = padded.shape[1:3]

    def axis(kernel: int, stride: int, dilation: int, count: int) -> tuple[Any, Any]:
        center = dilation * (kernel - 1) // 2
        options = {"dtype": input.dtype, "device": input.device}
        taps = (torch.arange(kernel, **options) * dilation - center) * offset_scale
        return taps, torch.arange(count, **options) * stride + center

    tap_y, start_y = axis(kernel_h, stride_h, dilation_h, rows)
    tap_x, start_x = axis(kernel_w, stride_w, dilation_w, columns)
    tap = torch.stack(torch.meshgrid(tap_x, tap_y, indexing="ij"), -1).reshape(-1, 2)
    if remove_center:
        middle = len(tap) // 2
        tap = torch.cat([tap[:middle], tap[middle + 1 :]])
    start = torch.stack(torch.meshgrid(start_x, start_y, indexing="xy"), -1)  # [Ho, Wo, 2]
    moves = offset.reshape(images, rows, columns, group, taps, 2) * offset_scale
    at = start[:, :, None, None] + tap + moves
    grid = (2 * at + 1) / torch.tensor([width, height], dtype=input.dtype) - 1
    grid = grid.permute(0, 3, 1, 2, 4, 5).reshape(images * group, rows * columns, taps, 2)
    planes = padded.permute(0, 3, 1, 2).reshape(images * group, group_channels, height, width)
    samples = torch.nn.functional.grid_sample(planes, grid, align_corners=False)
    factors = mask.reshape(images, rows, columns, group, taps).permute(0, 3, 1, 2, 4)
    factors = factors.reshape(images * group, 1, rows * columns, taps)
    sums = (samples * factors).sum(-1).reshape(images, group * group_channels, rows, columns)
    return sums.permute(0, 2, 3, 1).contiguous()


def _arrays(layer: Layer) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in layer.shapes.items()}
    logits = np.exp(arrays["mask"].reshape(*arrays["mask"].shape[:3], -1, 9))
    arrays["mask"] = (logits / logits.sum(-1, keepdims=True)).reshape(arrays["mask"].shape)
    # No sample lies on an integer coordinate, where rounding decides on which side it is.
    arrays["offset"] = (np.floor(4 * arrays["offset"]) + np.float32(0.5)) / 4
    return arrays


def _packed(arrays: dict[str, np.ndarray], group: int) -> np.ndarray:
    """Return the offset_mask of DCNv4."""
    pixels = arrays["mask"].shape[:3]
    parts = [arrays[name].reshape(*pixels, group, -1) for name in ("offset", "mask")]
    packed = np.concatenate(parts, -1).reshape(*pixels, -1)
    return np.pad(packed, [(0, 0)] * 3 + [(0, -packed.shape[-1] % 8)])


def _ours(
    function: Callable, layer: Layer, arrays: list[np.ndarray], training: bool, dtype: str
) -> Call:
    import paddle

    *tensors, grad = (paddle.to_tensor(array).astype(dtype) for array in arrays)
    for tensor in tensors:
        tensor.stop_gradient = not training

    def call() -> tuple:
        out = function(*tensors, *layer.arguments)
        return (out, *paddle.grad([out], tensors, [grad])) if training else (out,)

    return call


def _pytorch(layer: Layer, arrays: list[np.ndarray], threads: int, training: bool) -> Call | None:
    if not importlib.util.find_spec("torch"):
        return None
    import torch

    torch.set_num_threads(threads)
    *tensors, grad = map(torch.from_numpy, arrays)
    for tensor in tensors:
        tensor.requires_grad_(training)

    def call() -> tuple:
        with torch.set_grad_enabled(training):
            out = pytorch_form(*tensors, *layer.arguments)
        results = (out.detach(),)
        if training:
            results += torch.autograd.grad(out, tensors, grad)
        return tuple(result.numpy() for result in results)

    return call


def measure(layer: Layer, threads: int, training: bool, peers: bool = True) -> dict[str, float]:
    """Return the median milliseconds of each contestant, once their outputs agree."""
    import paddle_dcn

    arrays = _arrays(layer)
    apart = [arrays[name] for name in ("input", "offset", "mask", "grad")]
    packed = [arrays["input"], _packed(arrays, layer.group), arrays["grad"]]
    calls = {
        V3: _ours(paddle_dcn.dcnv3, layer, apart, training, "float32"),
        V4: _ours(paddle_dcn.dcnv4, layer, packed, training, "float32"),
        V3_BFLOAT16: _ours(paddle_dcn.dcnv3, layer, apart, training, "bfloat16"),
    }
    if peers:
        calls[PYTORCH] = _pytorch(layer, apart, threads, training)
    wanted = calls[V3]()

    def check(name: str, results: tuple) -> None:
        compared = results if name == PYTORCH else results[:1]
        # bfloat16 rounds positions, too.
        tolerance = 0.1 if name == V3_BFLOAT16 else 1e-3
        contest.compare(str(layer), name, V3, wanted, compared, tolerance)

    calls = {name: call for name, call in calls.items() if call is not None}
    return contest.time_in_turn(calls, check)


def floor(layer: Layer, training: bool, gbytes: float) -> float:
    """Milliseconds that every tensor takes once at a bandwidth, and its gradient."""
    sizes = {name: math.prod(shape) for name, shape in layer.shapes.items()}
    forward = sum(sizes.values())
    backward = sum(sizes.values()) + sum(sizes[name] for name in ("input", "offset", "mask"))
    return (forward + (backward if training else 0)) * 4 / gbytes * 1e-6


def _child(options: argparse.Namespace, threads: int) -> None:
    import paddle

    paddle.base.core.set_num_threads(threads)
    gbytes = cpu.peak_bandwidth(threads)
    for training in (False, True):
        for name in options.layers:
            row = {"layer": name, "threads": threads, "training": training}
            row["floor"] = floor(LAYERS[name], training, gbytes)
            row["ms"] = measure(LAYERS[name], threads, training, not options.no_peers)
            print(json.dumps(row), flush=True)


def line(row: dict) -> str:
    """One line of the table."""
    layer, times = LAYERS[row["layer"]], row["ms"]
    ours = times[V3]
    shape = f"[{layer.batch},{layer.size},{layer.size},{layer.channels}]"
    cells = [f"{row['layer']:6} {shape:15} {layer.group:5} {ours:9.3f}"]
    for name in (V4, V3_BFLOAT16, PYTORCH):
        cells.append(f"{times[name] / ours:15.2f}x" if name in times else f"{'-':>16}")
    return " ".join([*cells, f"{row['floor'] / ours:8.2f}x"])


def arguments(values: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.aggregation", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=[*LAYERS], metavar="LAYER")
    contest.add_arguments(parser)
    return parser.parse_args(values)


def main(values: list[str] | None = None) -> int:
    """Print the tables, and write them if asked for."""
    options = arguments(values)
    threads = contest.threads_of_child()
    if threads is not None:
        _child(options, threads)
        return 0
    report, rows = contest.Report(), []
    for count in options.threads:
        for row in contest.run_child("benchmarks.aggregation", sys.argv[1:], count):
            tables = [each for each in rows if each["threads"] == count]
            if not any(each["training"] == row["training"] for each in tables):
                columns = " ".join(f"{name:>16}" for name in (V4, V3_BFLOAT16, PYTORCH))
                report.show(
                    f"\n{TRAINING if row['training'] else FORWARD}, {count} thread(s); ms, and the "
                    "time of others, and of moving every tensor once, as multiples\n"
                    f"{'layer':6} {'input':15} group {V3:>9} {columns} {'memory':>9}"
                )
            rows.append(row)
            report.show(line(row))
    ratios = [row["ms"][PYTORCH] / row["ms"][V3] for row in rows if PYTORCH in row["ms"]]
    if ratios:
        mean = geometric_mean(ratios)
        report.show(f"\n{PYTORCH} over {V3}: {mean:.2f}x, at least {min(ratios):.2f}x")
    if options.output:
        report.write(options.output, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
