"""The CUDA kernels on a GPU: correctness against float64, then time against peers and the floor.

    python -m benchmarks.gpu [--layers big rcnn_c3] [--types float16] [--library NEW.so OLD.so]
    python -m benchmarks.gpu --sanitize

Needs PyTorch and torchvision for CUDA, and nvcc unless a library is given; no Paddle: the kernel
library is compiled alone and called through ctypes on PyTorch's tensors. Every row is checked
before it is timed, in a process of its own kind (`benchmarks/gpu_rows.py`); a fault costs one row.
Times are medians of device events, contestants in turn, the L2 cache emptied before each call.
"conv" is the plain convolution of the same shape and type (cuDNN), which samples nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TextIO

from benchmarks import contest
from benchmarks import kernel_library as kernels
from benchmarks.gpu_rows import (
    CONV,
    CONV_LAST,
    DETERMINISTIC,
    DIRECTIONS,
    LAYERS,
    OURS,
    OURS_LAST,
    SMALL,
    TORCHVISION,
    TYPES,
    Job,
)
from benchmarks.layers import Layer

WORKER = [sys.executable, "-m", "benchmarks.gpu_rows"]
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
ROW_SECONDS = 90  # without an answer a process hangs
TOTAL_SECONDS = 470
_TABLE_TYPES = ("float16", "tf32", "float32", "bfloat16")

# Layers that the table has in other types than float16 too.
_EVERY_TYPE = ("big", "edvr_m", "rcnn_c4", "depthwise")
_ALSO_TF32 = ("resnet_c4", "ppyolo_c5", "basicvsrpp_test", "groups_of_16")


def rows(layers: list[str], types: list[str] | None) -> list[tuple[str, str, str]]:
    """Layer, type and direction of each row; without types those that the table has."""
    chosen = []
    for dtype in types or _TABLE_TYPES:
        for name in layers:
            also = name in _EVERY_TYPE or dtype == "tf32" and name in _ALSO_TF32
            if types or dtype == "float16" or also:
                chosen += [(name, dtype, direction) for direction in DIRECTIONS]
    return chosen


# ---------------------------------------------------------------------------------- processes


def run_rows(
    command: list[str], job: Job, row_seconds: float = ROW_SECONDS, until: float = float("inf")
) -> Iterator[dict]:
    """Give what processes that do a job print, starting another where one ends before its time.

    The row that it had not finished becomes one with the key "failed", and so do those that are
    left at the time `until`.
    """
    left = [tuple(row) for row in job.rows]
    started = False
    while left:
        begun = False
        remaining = dataclasses.replace(job, rows=left, ceilings=job.ceilings and not started)
        request = json.dumps(dataclasses.asdict(remaining))
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(
                [*command, request], stdout=subprocess.PIPE, stderr=errors, text=True
            ) as child,
        ):
            while line := _read_line(child, min(row_seconds, until - time.time())):
                if not line.startswith("{"):
                    continue
                record = json.loads(line)
                if "machine" in record:
                    begun = True
                    if started:
                        continue
                    started = True
                elif left:
                    left.pop(0)
                yield record
            status = child.wait()
            errors.seek(0)
            said = errors.read().strip()
        if not begun:
            raise SystemExit(f"the benchmark's process did not start:\n{said[-2000:]}")
        late = time.time() >= until
        if late:
            why = "out of time"
        elif status == -9:
            why = f"killed: no answer in {row_seconds:g} s, or no memory"
        else:
            why = f"status {status}: {''.join(said.splitlines()[-1:])}"
        for name, dtype, direction in left if late else left[:1]:
            yield {"layer": name, "type": dtype, "pass": direction, "failed": why[-300:]}
        left = [] if late else left[1:]


def _read_line(child: subprocess.Popen, seconds: float) -> str:
    """A line of what a process prints, or "" when it has ended; after so many seconds it is."""
    watch = threading.Timer(max(seconds, 0), child.kill)
    watch.start()
    try:
        return child.stdout.readline()
    finally:
        watch.cancel()


def sanitize(
    libraries: dict[str, str],
    types: list[str] | None,
    until: float = float("inf"),
    command: Sequence[str] = ("compute-sanitizer",),
) -> int:
    """Check small layers under each of compute-sanitizer's tools, all at once."""
    if shutil.which(command[0]) is None:
        raise SystemExit(f"--sanitize needs {command[0]} of the CUDA toolkit on the search path")
    chosen = [(name, t, d) for t in types or TYPES for name in SMALL for d in DIRECTIONS]
    with contextlib.ExitStack() as outputs:
        runs = []
        for tool in TOOLS:
            # racecheck takes half a minute for each type of the layer that fills the machine.
            slow = tool == "racecheck"
            mine = [row for row in chosen if not slow or row[0] != "wide" or row[1] == chosen[0][1]]
            job = Job(libraries, mine, ceilings=False, only_check=True, values_on="cpu")
            # initcheck looks for reads of what nothing has written.
            job.poison = tool != "initcheck"
            output = outputs.enter_context(tempfile.TemporaryFile("w+"))
            process = subprocess.Popen(
                [*command, "--tool", tool, "--error-exitcode", "9", *WORKER]
                + [json.dumps(dataclasses.asdict(job))],
                stdout=output,
                stderr=subprocess.STDOUT,
                # One allocation a tensor, so that whatever is beyond one is seen.
                env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "OMP_NUM_THREADS": "2"},
            )
            runs.append((tool, len(mine), process, output, until))
        return int(not all([_sanitized(*run) for run in runs]))


def _sanitized(
    tool: str, rows: int, process: subprocess.Popen, output: TextIO, until: float
) -> bool:
    """Whether a tool has found nothing; what it found is printed."""
    try:
        status = process.wait(max(until - time.time(), 0))
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    output.seek(0)
    lines = output.read().splitlines()
    records = [json.loads(text) for text in lines if text.startswith("{")]
    done = [record for record in records if "layer" in record]
    wrong = [record for record in done if record["wrong"]]
    print(f"{tool}: {len(done)} of {rows} rows, {len(wrong)} wrong, status {status}", flush=True)
    if status == 0 and len(done) == rows and not wrong:
        return True
    said = [text for text in lines if not text.startswith("{")]
    print("\n".join([*map(json.dumps, wrong[:5]), *said[:20], *said[20:][-3:]]), flush=True)
    return False


# ------------------------------------------------------------------------------------ the table


def floor(layer: Layer, dtype: str, direction: str, ceilings: dict[str, float]) -> dict[str, float]:
    """Milliseconds that the products, and each tensor read or written once, take at least."""
    size = {"float64": 8, "float32": 4, "tf32": 4}.get(dtype, 2)
    passes = 1 if direction == "forward" else 2
    return {
        "product": 1e3 * passes * layer.flop / ceilings[dtype],
        "memory": 1e3 * size * layer.elements(direction) / ceilings["copy"],
    }


def header(others: list[str]) -> str:
    """The names of the columns; "x" says how many times as long as ours something takes."""
    peers = [*others, TORCHVISION, CONV, OURS_LAST, CONV_LAST]
    return (
        f"{'layer':16}{'type':9}{'pass':9}{'ours, ms':>9}{'TFLOP/s':>9}{'MiB':>6}"
        f"{DETERMINISTIC:>14}{''.join(f'{name:>17.16}' for name in peers)}   floor"
    )


def line(result: dict, ceilings: dict[str, float], others: list[str]) -> str:
    """One line of the table. "conv, NHWC" is compared with "ours, NHWC"."""
    start = f"{result['layer']:16}{result['type']:9}{result['pass']:9}"
    if "failed" in result:
        return f"{start} FAILED: {result['failed']}"
    wrong = "".join(f"\n  WRONG, {n}: {what}" for n, s in result["wrong"].items() for what in s)
    if "ms" not in result:
        return f"{start} {'not timed' if wrong else 'correct'}{wrong}"
    times, layer = result["ms"], LAYERS[result["layer"]]
    ours = times[OURS]
    passes = 1 if result["pass"] == "forward" else 2

    def other(name: str) -> str:
        if name not in times:
            return f"{'-':>17}"
        base = times[OURS_LAST if name == CONV_LAST else OURS]
        return f"{times[name]:9.3f} {times[name] / base:6.2f}x"

    known = "workspace" in result
    memory = f"{result['workspace'] / 2**20:6.1f}" if known else f"{'-':>6}"
    alone = f"{times[DETERMINISTIC]:14.3f}" if DETERMINISTIC in times else f"{'-':>14}"
    limits = floor(layer, result["type"], result["pass"], ceilings)
    binding = max(limits, key=limits.__getitem__)
    return (
        f"{start}{ours:9.3f}{passes * layer.flop / ours / 1e9:9.1f}"
        f"{memory}{alone}"
        f"{''.join(map(other, [*others, TORCHVISION, CONV, OURS_LAST, CONV_LAST]))}"
        f"   {limits[binding]:.4f} {binding}, ours {ours / limits[binding]:.1f}x{wrong}"
    )


def kernel_lines(result: dict) -> Iterator[str]:
    """The kernels of a row, of each library: microseconds, and launches of one call."""
    for library, found in result.get("kernels", {}).items():
        parts = [f"{name} {time:.1f} x{launches}" for name, (time, launches) in found.items()]
        row = " ".join(result[key] for key in ("layer", "type", "pass"))
        yield f"{row}, {library}: {'; '.join(parts)}"


def heading(run: dict) -> str:
    """When, where and with what, and the ceilings."""
    machine = ", ".join(f"{name} {value}" for name, value in run["machine"].items())
    reached = ", ".join(f"{name} {1e-12 * run['ceilings'][name]:.0f}" for name in TYPES)
    libraries = ", ".join(f"{name} = {path}" for name, path in run["libraries"].items())
    return (
        f"{run['date']}; {machine}; {libraries}\n"
        f"ceilings: copy {1e-12 * run['ceilings']['copy']:.2f} TB/s; products {reached} TFLOP/s\n"
        "ms; x: how many times as long as ours it takes (conv, NHWC: as ours, NHWC); MiB: "
        "workspace; floor: products, or each tensor once, at the ceilings"
    )


def tail(results: list[dict]) -> str:
    """The kernels of all rows."""
    found = [line for result in results for line in kernel_lines(result)]
    return "\nkernels, microseconds x launches, caches warm\n" + "\n".join(found)


def draw(run: dict, path: Path) -> None:
    """Draw the times of all contestants over ours: float16 in both layouts, then other types."""
    colors = {TORCHVISION: "#b0413e", CONV: "#999999"}
    colors |= dict(zip(list(run["libraries"])[1:], ("#4c72b0", "#55a868", "#8172b3")))
    panels: dict[str, dict] = {}
    results = run["results"]
    for result in sorted(results, key=lambda r: (r["type"] != "float16", r["pass"] != "forward")):
        if "ms" not in result:
            continue
        times, half = result["ms"], result["type"] == "float16"
        name = result["layer"] if half else f"{result['layer']} {result['type']}"
        title = f"{result['pass']}, {'float16' if half else 'other types'}"
        panels.setdefault(f"{title}, NCHW", {})[name] = times
        if half:
            last = {n.removesuffix(", NHWC"): t for n, t in times.items() if n.endswith(", NHWC")}
            panels.setdefault(f"{title}, NHWC", {})[name] = last
    if panels:
        contest.draw(panels, OURS, colors, path)


# ---------------------------------------------------------------------------------- the command


def arguments(values: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--layers", nargs="+", choices=LAYERS, metavar="LAYER", help="default: all of the table"
    )
    parser.add_argument(
        "--types", nargs="+", choices=TYPES, help="default: float16, and some layers in others"
    )
    parser.add_argument("--rounds", type=int, default=20, help="timed calls per contestant")
    parser.add_argument(
        "--seconds",
        type=float,
        default=TOTAL_SECONDS,
        help="after which rows that are left count as failed (%(default)s)",
    )
    parser.add_argument("--check-only", action="store_true", help="compare, time nothing")
    parser.add_argument("--sanitize", action="store_true", help="check under compute-sanitizer")
    parser.add_argument(
        "--library",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="kernel libraries that are built already: ours, then others to time beside it",
    )
    contest.add_output(parser)
    parsed = parser.parse_args(values)
    if parsed.sanitize and parsed.layers:
        parser.error("--layers: --sanitize has small layers of its own")
    parsed.layers = parsed.layers or list(LAYERS)
    if parsed.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {parsed.rounds}")
    for path in parsed.library:
        if not path.is_file():
            parser.error(f"--library: {path} is not a file")
    return parsed


def named(paths: list[Path]) -> dict[str, str]:
    """The libraries by name: the first is ours, others are called as their files are."""
    names = [OURS, *(path.stem for path in paths[1:])]
    if len({*names, "torchvision", "conv"}) < len(names) + 2:
        raise SystemExit(
            "--library: expected files that are named differently from each other, from "
            f"{OURS}, torchvision and conv, got {names[1:]}"
        )
    return {name: str(path) for name, path in zip(names, paths)}


def main(values: list[str] | None = None) -> int:
    """Check and time; the status is 1 when a result is wrong or a row failed."""
    options = arguments(values)
    until = time.time() + options.seconds
    try:
        import torch
        import torchvision  # noqa: F401
    except ModuleNotFoundError as error:
        raise SystemExit(f"benchmarks.gpu needs PyTorch and torchvision: {error}") from None
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu needs a CUDA device, and PyTorch sees none")
    with tempfile.TemporaryDirectory() as folder:
        paths, report = options.library, None
        if not paths:
            major, minor = torch.cuda.get_device_capability()
            paths = [Path(folder) / "kernels.so"]
            report = kernels.build_cuda(paths[0], (10 * major + minor,))
        libraries = named(paths)
        if options.sanitize:
            return sanitize(libraries, options.types, until)
        job = Job(
            libraries,
            rows(options.layers, options.types),
            rounds=options.rounds,
            only_check=options.check_only,
        )
        text: list[str] = []

        def show(words: str) -> None:
            print(words, flush=True)
            text.append(words + "\n")

        files = {name: Path(path).name for name, path in libraries.items()}
        run = {"date": str(date.today()), "libraries": files, "results": []}
        others = list(libraries)[1:]
        for record in run_rows(WORKER, job, until=until):
            if "machine" in record:
                run |= record
                show(f"{heading(run)}\n\n{header(others)}")
            else:
                run["results"].append(record)
                show(line(record, run["ceilings"], others))
    text.append(tail(run["results"]))
    if options.output:
        stem = options.output
        Path(f"{stem}.txt").write_text("".join(text) + "\n")
        Path(f"{stem}.json").write_text(json.dumps(run, indent=1) + "\n")
        if report:
            Path(f"{stem}.ptxas").write_text(report)
        draw(run, Path(f"{stem}.png"))
    return int(any(r.get("wrong") or "failed" in r for r in run["results"]))


if __name__ == "__main__":
    sys.exit(main())
