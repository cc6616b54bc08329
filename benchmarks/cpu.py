"""Runs the CPU benchmark with all peers and keeps the figures in benchmarks/results/."""

import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy
import paddle

import paddle_dcn


def processor() -> str:
    """Return the processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> int:
    """Print the tables and write them, the figures and the picture."""
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    stem = folder / "cpu"
    command = [sys.executable, "-m", "paddle_dcn", "bench", *sys.argv[1:]]
    command += ["--json", f"{stem}.json", "--picture", f"{stem}.png"]
    heading = (
        f"{date.today()}, {processor()}, {platform.system()}, Python {platform.python_version()}, "
        f"paddle_dcn {paddle_dcn.__version__}, Paddle {paddle.__version__}, "
        f"NumPy {numpy.__version__}"
    )
    print(heading, flush=True)
    lines = [heading + "\n"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as bench:
        for line in bench.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if bench.returncode == 0:
        Path(f"{stem}.txt").write_text("".join(lines))
    return bench.returncode


if __name__ == "__main__":
    sys.exit(main())
