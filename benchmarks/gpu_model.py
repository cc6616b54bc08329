"""What the CUDA kernels should take, from bytes, products and waits, beside what they took.

    python -m benchmarks.gpu_model benchmarks/results/gpu.json [--library NAME]

A kernel is so many blocks, of which a few run on each processor at a time. Those that run together
take as long as their bytes need through the L2 cache, their products on the processors, or one
block's chain of loads that wait for each other, whichever is longest. Bandwidth of memory and rates
of products come from the run; the constants below were fitted to the profiles of a9475a2 and
51c1f5e. It does not know what later kernels do, which start early above all. What is off by more
than a third nobody has understood yet.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

from benchmarks.gpu_rows import LAYERS, OURS
from benchmarks.layers import Layer

PROCESSORS = 132
L2 = 4.3e12  # bytes per second; Nsight Compute showed 4.2 in forward and 4.4 in backward of a9475a2
LAUNCH = 1.5e-6  # between two kernels
FIRST = 4e-6  # before the first of a call
SHORTEST = 2e-6  # a kernel that has nothing to do
# Of the rate of a large product by cuBLAS: mma.sync reaches less than wgmma. float32 is three
# products in TF32, float64 is read from shared memory by scalars.
SHARE = {"float16": 0.6, "bfloat16": 0.6, "tf32": 0.6, "float32": 0.62, "float64": 0.15}
COPIES = 0.65  # of the bandwidth of a copy, by what also changes the layout
INSIDE = 0.8  # of the corners, those inside the image and not in the L1 cache already
# Seconds that a block waits: before its first product, in a slice of 64 bytes of the reduction, and
# for the offsets of another tap or deformable group. The weight gradient reads offsets ahead, but
# has new ones in every slice.
START, SLICE, PLAN, WEIGHT_SLICE = 4e-6, 0.5e-6, 1.8e-6, 1.85e-6
# The same of the forward kernel for Hopper, in steps of 128 bytes of a tap's channels; and of the
# corners, those that its order leaves to L2.
HOPPER_START, HOPPER_STEP, HOPPER_PLAN, HOPPER_OUTSIDE = 11e-6, 1.2e-6, 2.9e-6, 0.12
# Seconds of a processor for a channel and tap of a pixel, in layers with few channels per group.
DIRECT_FORWARD, DIRECT_BACKWARD, DIRECT_GATHER = 0.21e-9, 0.5e-9, 0.4e-9
BINNED = 12e9  # samples per second
IMAGE_BUDGET, PARTIAL_BUDGET = 28 << 20, 20 << 20


@dataclass(frozen=True)
class Chip:
    """What a type reaches on the GPU of the run."""

    memory: float  # bytes per second
    rate: float  # FLOP per second of a product of this kind


@dataclass(frozen=True)
class Kernel:
    """Launches of a kernel that are alike."""

    name: str
    launches: int
    blocks: int
    resident: int  # blocks on a processor
    bytes: float  # of a block, through L2
    flop: float  # of a block
    wait: float  # seconds, of a block alone

    def seconds(self, chip: Chip) -> float:
        """Of all launches, wave by wave."""

        def wave(blocks: int) -> float:
            product = math.ceil(blocks / PROCESSORS) * self.flop * PROCESSORS / chip.rate
            return max(blocks * self.bytes / L2, product, self.wait) if blocks else 0.0

        slots = PROCESSORS * self.resident
        return self.launches * (self.blocks // slots * wave(slots) + wave(self.blocks % slots))


@dataclass(frozen=True)
class Stream:
    """Launches of a kernel that reads and writes memory in order, or has a rate of its own."""

    name: str
    launches: int
    bytes: float  # of all launches
    rated: float = 0.0  # seconds of all launches, at its rate

    def seconds(self, chip: Chip) -> float:
        """Of all launches."""
        return max(self.bytes / chip.memory / COPIES, self.rated, self.launches * SHORTEST)


def fewest_slices(tiles: int, slots: int, slices: int, most: int) -> int:
    """Into how many ranges backward.cu splits the reduction of the weight gradient."""
    times = {
        splits: math.ceil(tiles * splits / slots) * (math.ceil(slices / splits) + 6)
        for splits in range(1, max(min(most, 64), 1) + 1)
    }
    return min(times, key=times.__getitem__)


class Model:
    """The kernels of one layer, type and layout."""

    def __init__(self, layer: Layer, dtype: str, channels_last: bool = False) -> None:
        self.layer, self.channels_last = layer, channels_last
        self.tensor = dtype not in ("float32", "float64")
        self.size = {"float16": 2, "bfloat16": 2, "float64": 8}.get(dtype, 4)
        self.sum = max(self.size, 4)
        self.slice = 64 // self.size  # elements of the reduction
        vector = 16 // self.size
        n, channels, height, width = layer.x
        self.outputs = layer.outputs // layer.groups
        segment = channels // layer.deformable_groups
        if not self.direct():
            segment = math.gcd(segment, channels // layer.groups)
        padded = -(-segment // vector) * vector
        self.channels = channels // segment * padded  # packed
        self.group_channels = self.channels // layer.groups
        self.padded_outputs = self.outputs
        if not self.direct():
            self.padded_outputs = -(-self.outputs // vector) * vector
        self.pixels, self.in_pixels = math.prod(layer.out_size), height * width
        self.packs_x = not channels_last or padded != segment
        self.packs_out = not channels_last or self.padded_outputs != self.outputs or dtype == "tf32"
        self.weights = layer.outputs * 9 * self.group_channels

    def batches(self, image_bytes: int) -> tuple[int, int]:
        """Images at a time, and how often."""
        n = self.layer.x[0]
        images = max(min(n, IMAGE_BUDGET // image_bytes), 1) if image_bytes else n
        return images, math.ceil(n / images)

    def pack(self, name: str, times: int, elements: int, size: int = 0) -> Stream:
        """A change of layout of all images."""
        return Stream(name, times, self.layer.x[0] * elements * (self.size + (size or self.size)))

    def direct(self) -> bool:
        """Whether the kernels for few channels per group are used."""
        channels = self.layer.x[1] // self.layer.groups
        return (
            channels == 1 and self.outputs <= 4 or channels in (2, 4) and self.outputs == channels
        )

    def direct_samples(self, seconds: float) -> float:
        """Seconds of all processors for every sample, from those of one."""
        channels = max(self.layer.x[1], self.layer.outputs)
        return self.layer.x[0] * self.pixels * 9 * channels * seconds / PROCESSORS

    def hopper(self) -> tuple[int, int] | None:
        """Steps of the forward kernel for Hopper, and how often it needs offsets; or None."""
        layer, chunk = self.layer, 128 // self.size
        if not self.tensor or self.group_channels < chunk // 2 or self.outputs < 32:
            return None
        deformable = self.channels // layer.deformable_groups
        groups = max(chunk // deformable, 1)  # in a chunk
        if groups > 9:
            return None
        chunks = math.ceil(self.group_channels / chunk)
        blocks = math.ceil(9 / (9 // groups))  # of taps that are placed together
        return 9 * chunks, blocks * (chunks if layer.deformable_groups > layer.groups else 1)

    def forward(self) -> Iterator[Kernel | Stream]:
        """Blocks of outputs and pixels; all of the reduction in turn."""
        layer, image = self.layer, self.in_pixels * self.channels
        images, times = self.batches(image * self.size if self.packs_x else 0)
        if self.packs_x:
            yield self.pack("pack_kernel", times, image)
        if self.direct():
            yield Stream("pack_kernel", 1, 2 * self.size * self.weights)
            yield Stream("direct_forward_kernel", times, 0, self.direct_samples(DIRECT_FORWARD))
            return
        found = self.hopper()
        if found:
            yield Stream("pack_staged_weight_kernel", 1, 2 * self.size * self.weights)
            yield from self.hopper_forward(images, times, *found)
            return
        yield Stream("pack_kernel", 1, 2 * self.size * self.weights)
        pixel_tiles = math.ceil(images * self.pixels / 64)
        tiles = [(256, 2 if self.tensor else 1), (128, 3 if self.tensor else 2), (64, 3)]
        rows, resident = tiles[-1]
        for height, blocks in reversed(tiles):
            row_tiles = math.ceil(self.outputs / height)
            if 4 * self.outputs > 3 * (row_tiles - 1) * height + height:
                if row_tiles * layer.groups * pixel_tiles >= PROCESSORS:
                    rows, resident = height, blocks
        if self.outputs <= 32:
            rows, resident = 16, 4
        slices = math.ceil(9 * self.group_channels / self.slice)
        plans = 9 * math.ceil(layer.deformable_groups / layer.groups)
        yield Kernel(
            "forward_kernel",
            times,
            math.ceil(self.outputs / rows) * layer.groups * pixel_tiles,
            resident,
            slices * 64 * (min(rows, self.outputs) + 64 * 4 * INSIDE),
            slices * 2 * rows * 64 * self.slice,
            START + slices * SLICE + min(plans, slices) * PLAN,
        )

    def hopper_forward(self, images: int, times: int, steps: int, plans: int) -> Iterator:
        """One block on each processor; parts of the reduction where blocks are too few."""
        rows, height = next(
            (r, h) for r, h in ((64, 192), (128, 128), (256, 128)) if self.outputs <= r or r == 256
        )
        pixels, row_tiles = images * self.pixels, math.ceil(self.outputs / rows)
        tiles = math.ceil(pixels / height) * row_tiles * self.layer.groups
        most = (24 << 20) // (4 * pixels * self.layer.groups * row_tiles * rows)
        splits = max(min(PROCESSORS // tiles, steps // 4, most), 1)
        each = math.ceil(steps / splits)
        splits = math.ceil(steps / each)
        yield Kernel(
            "forward_hopper_kernel",
            times,
            tiles * splits,
            1,
            each * 128 * (rows + height * 4 * HOPPER_OUTSIDE),
            each * 2 * rows * height * 128 // self.size,
            HOPPER_START + each * HOPPER_STEP + (plans / splits - 1) * HOPPER_PLAN,
        )
        if splits > 1:
            sums = pixels * self.layer.groups * row_tiles * rows
            yield Stream("sum_splits_kernel", times, sums * (4 * splits + self.size))

    def backward(self) -> Iterator[Kernel | Stream]:
        """Blocks of pixels of a tap and deformable group; then of the weight gradient."""
        layer = self.layer
        image, out_image = self.in_pixels * self.channels, self.pixels * self.padded_outputs
        out_image *= layer.groups
        needed = image * self.size * self.packs_x + out_image * self.size * self.packs_out
        own_sum = self.packs_x or self.size < self.sum
        images, times = self.batches(needed + image * self.sum * own_sum)
        yield Stream("pack_kernel", 1, 2 * self.size * self.weights)
        if self.packs_x:
            yield self.pack("pack_kernel", times, image)
        if self.packs_out:
            yield self.pack("pack_kernel", times, out_image)
        grad = layer.x[0] * self.pixels * layer.outputs
        yield Stream("backward_bias_kernel", 1, self.size * grad)
        if self.direct():
            yield Stream("direct_backward_kernel", times, 0, self.direct_samples(DIRECT_BACKWARD))
            yield Stream("direct_gather_kernel", times, 0, self.direct_samples(DIRECT_GATHER))
            samples = layer.x[0] * self.pixels * 9 * layer.deformable_groups
            yield Stream("bins", 4 * times, 0, samples / BINNED)
            return
        yield Stream("Memset (Device)", times, layer.x[0] * image * self.sum * COPIES)

        # A pixel has its products in tiles of channels, then its corners and what they get.
        narrow = self.channels // max(layer.groups, layer.deformable_groups) <= 32
        rows, columns, resident = (128, 16, 4) if narrow else (64, 128 if self.tensor else 64, 2)
        channels = self.channels // layer.deformable_groups
        part = min(columns, channels, self.group_channels)
        tiles, slices = channels // part, math.ceil(self.padded_outputs / self.slice)
        corners = rows * 4 * channels * INSIDE
        yield Kernel(
            "backward_data_kernel",
            times,
            math.ceil(images * self.pixels / rows) * 9 * layer.deformable_groups,
            resident,
            tiles * slices * 64 * (rows + part) + corners * (self.size + self.sum),
            2 * rows * columns * tiles * slices * self.slice,
            START + tiles * (START + slices * SLICE),
        )
        if own_sum:
            yield self.pack("unpack_kernel", times, image, self.sum)

        rows, columns, resident = (256, 128, 1) if self.outputs > 128 else (64, 64, 3)
        if self.outputs <= 32:
            rows, columns, resident = 16, 128, 3
        tiles = layer.groups * math.ceil(self.outputs / rows)
        tiles *= math.ceil(9 * self.group_channels / columns)
        slices = math.ceil(images * self.pixels / self.slice)
        most = PARTIAL_BUDGET // (self.weights * self.sum)
        splits = fewest_slices(tiles, PROCESSORS * resident, slices, most)
        each = math.ceil(slices / splits)
        yield Kernel(
            "backward_weight_kernel",
            times,
            tiles * splits,
            resident,
            each * 64 * (min(rows, self.outputs) + columns * 4 * INSIDE),
            each * 2 * rows * columns * self.slice,
            START + each * WEIGHT_SLICE,
        )
        yield Stream("unpack_kernel", 1, (self.sum * splits + self.size) * self.weights)


def predict(layer: Layer, dtype: str, direction: str, ceilings: dict[str, float]) -> dict:
    """Milliseconds of each kernel, and of a call."""
    chip = Chip(ceilings["copy"], SHARE[dtype] * ceilings[dtype])
    found: dict[str, float] = {}
    launches = 0
    for part in getattr(Model(layer, dtype), direction)():
        found[part.name] = found.get(part.name, 0.0) + 1e3 * part.seconds(chip)
        launches += part.launches
    found["call"] = sum(found.values()) + 1e3 * (FIRST + LAUNCH * launches)
    return found


def lines(run: dict, library: str = OURS) -> Iterator[str]:
    """Predicted and measured milliseconds of every row, and what is off by more than a third.

    Then by how much rows of a kind are off, in geometric means.
    """
    yield f"{'layer':16}{'type':9}{'pass':9}{'predicted':>10}{'measured':>10}{'ratio':>7}  off"
    ratios: dict[str, list[float]] = {}
    for row in run["results"]:
        if library not in row.get("ms", ()):
            continue
        layer, dtype, direction = LAYERS[row["layer"]], row["type"], row["pass"]
        found = predict(layer, dtype, direction, run["ceilings"])
        kernels: dict[str, float] = {}
        for name, (took, _) in row["kernels"].get(library, {}).items():
            name = "bins" if name.endswith("_bins_kernel") else name
            kernels[name] = kernels.get(name, 0.0) + 1e-3 * took
        measured = row["ms"][library]
        ratio = found["call"] / measured
        kind = {"float16": "half types", "bfloat16": "half types"}.get(dtype, dtype)
        kind = "few channels per group" if Model(layer, dtype).direct() else kind
        for rows in (f"{kind}, {direction}", "all"):
            ratios.setdefault(rows, []).append(ratio)
        off = [
            f"{name} {found.get(name, 0):.3f} for {took:.3f}"
            for name, took in kernels.items()
            if took > 0.1 * measured and not 0.75 < found.get(name, 0) / took < 1.33
        ]
        yield (
            f"{row['layer']:16}{dtype:9}{direction:9}{found['call']:10.3f}{measured:10.3f}"
            f"{ratio:7.2f}  {'; '.join(off)}"
        )
    for rows, found in sorted(ratios.items(), key=lambda item: item[0] == "all"):
        spread = geometric_mean(max(ratio, 1 / ratio) for ratio in found)
        yield (
            f"predicted over measured, {rows}: mean {geometric_mean(found):.2f} of {len(found)}, "
            f"{min(found):.2f} to {max(found):.2f}, off by {spread:.2f}x"
        )


def main() -> None:
    """Print the rows of a file that `benchmarks.gpu --output` wrote."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_model")
    parser.add_argument("results", type=Path, metavar="JSON")
    parser.add_argument("--library", default=OURS, help="of several in the file")
    options = parser.parse_args()
    try:
        results = json.loads(options.results.read_text())
        names = results["libraries"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{options.results}: expected a file that benchmarks.gpu wrote: {error}")
    if options.library not in names:
        parser.error(f"--library: expected one of {', '.join(names)}, got {options.library}")
    print("\n".join(lines(results, options.library)))


if __name__ == "__main__":
    main()
