"""Runs contestants in turn in one process, compared before they are timed; a process a count."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

Call = Callable[[], Any]

_THREADS_VARIABLE = "PADDLE_DCN_BENCH_THREADS"


def seconds(call: Call) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(where: str, what: str, whose: str, wanted: Any, found: Any, tolerance: float) -> None:
    """End the benchmark where results differ by more than a share of the largest value."""
    for i, (a, b) in enumerate(zip(wanted, found)):
        a, b = (np.asarray(v.astype("float32")) for v in (a, b))
        scale = np.abs(b).max()
        difference = np.abs(a - b).max()
        if not difference <= tolerance * scale:
            raise SystemExit(
                f"{where}: result {i} of {what} differs from {whose} by {difference:.3g} "
                f"(largest value {scale:.3g}); nothing was timed"
            )


def time_in_turn(
    calls: dict[str, Call],
    check: Callable[[str, Any], None],
    rounds: int = 7,
    slow: float = 1.0,
    choose: Callable[[list[float]], float] = median,
) -> dict[str, float]:
    """Return the milliseconds of each call, chosen among those of its rounds.

    Before that each is called once; `check` gets the name and the results. Who takes longer than
    `slow` seconds is timed in two rounds at most; eight times as long, in one.
    """
    plans, times, brief = {}, {}, set()
    for name, call in calls.items():
        start = time.perf_counter()
        results = call()
        first = time.perf_counter() - start
        check(name, results)
        plans[name] = rounds
        if first > slow:
            plans[name] = min(rounds, 2) if first <= 8 * slow else 1
        times[name] = []
        if first < slow / 5:
            brief.add(name)
    for i in range(rounds):
        for name, call in calls.items():
            if i < plans[name]:
                if name in brief:
                    call()  # wakes its thread pool, puts those of the others to sleep
                times[name].append(seconds(call))
    return {name: 1000 * choose(each) for name, each in times.items()}


def threads_of_child() -> int | None:
    """Return with how many threads this process shall measure; None: it shall start others."""
    value = os.environ.get(_THREADS_VARIABLE)
    return None if value is None else int(value)


def run_child(module: str, arguments: list[str], threads: int) -> Iterator[dict]:
    """Run a benchmark's module with a number of threads; give the JSON lines that it prints."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "KMP_BLOCKTIME": "0",
        "OMP_WAIT_POLICY": "PASSIVE",
        _THREADS_VARIABLE: str(threads),
    }
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        other = ""  # what libraries say, such as a crash's traceback
        for line in child.stdout:
            if line.startswith("{"):
                yield json.loads(line)
            else:
                other += line
        errors = child.stderr.read() + other
    if child.returncode:
        raise SystemExit(f"the benchmark with {threads} threads failed:\n{errors[-2000:]}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all benchmarks on CPUs have."""
    cores = os.cpu_count() or 1
    parser.add_argument(
        "--threads", type=_count, nargs="+", default=sorted({1, min(2, cores)}), metavar="N"
    )
    parser.add_argument("--no-peers", action="store_true", help="time this operator only")
    add_output(parser)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the argument that says where figures go."""
    parser.add_argument(
        "--output",
        type=_stem,
        metavar="STEM",
        help="also write STEM.txt, .json and, of peers, .png",
    )


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def _stem(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is not a folder")
    return path


class Report:
    """Prints lines, under a heading of their own, and keeps them for a file."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self.show(heading())

    def show(self, line: str) -> None:
        """Print and keep a line."""
        print(line, flush=True)
        self._lines.append(line + "\n")

    def write(self, stem: Path, figures: Any) -> None:
        """Write STEM.txt with the lines and STEM.json with figures."""
        Path(f"{stem}.txt").write_text("".join(self._lines))
        Path(f"{stem}.json").write_text(json.dumps(figures, indent=1))


def heading() -> str:
    """Return a line on when, where and with what something is measured."""
    import paddle

    import paddle_dcn

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        f"{date.today()}, {names[0] if names else platform.processor()}, {platform.system()}, "
        f"Python {platform.python_version()}, paddle_dcn {paddle_dcn.__version__}, "
        f"Paddle {paddle.__version__}, NumPy {np.__version__}"
    )


def pyplot() -> Any:
    """Return matplotlib's pyplot, which needs no screen."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit('the picture needs matplotlib: pip install "paddle_dcn[bench]"') from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw(
    panels: dict[str, dict[str, dict[str, float]]], ours: str, colors: dict[str, str], path: Path
) -> None:
    """Draw times over ours: by title of the panel, name of the row, and contestant."""
    plots = pyplot()
    from matplotlib import ticker

    figure, axes = plots.subplots(
        len(panels), 1, figsize=(11, 3.2 * len(panels)), squeeze=False, layout="constrained"
    )
    for axis, (title, rows) in zip(axes[:, 0], panels.items()):
        names = [name for name in colors if any(name in times for times in rows.values())]
        width = 0.8 / max(len(names), 1)
        for i, name in enumerate(names):
            positions = np.arange(len(rows)) + (i - (len(names) - 1) / 2) * width
            # from 1, where both are equally fast
            heights = [times.get(name, np.nan) / times[ours] - 1 for times in rows.values()]
            axis.bar(positions, heights, width, 1, label=name, color=colors[name])
        axis.axhline(1, color="black", linewidth=1)
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(ticker.NullLocator())
        axis.set_xticks(range(len(rows)), list(rows), rotation=20, ha="right")
        axis.set_ylabel("time over ours")
        axis.set_title(title, loc="left")
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
        axis.legend(ncols=4, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(path, dpi=120)
