"""Trains a deformable network on one process or on several, which share every batch.

    python examples/distributed.py
    python -m paddle.distributed.launch --nproc_per_node 2 examples/distributed.py

The processes average their gradients (`paddle.DataParallel`), over gloo on CPUs and over NCCL on
GPUs, so the parameters are the same but for rounding, however many there are. A checkpoint is
written every few steps; the same command goes on from there after a process was killed, and ends
with the bits of a run that was not. A run that comes to its end keeps the parameters alone, and
the next one begins anew.

    python examples/distributed.py --check

holds it to that: it trains on one process, on two, and on two of which one is killed, and compares.
It does so in float64. What float32 rounds differently, this training magnifies: after 120 steps
parameters have been apart by a seventh of how far they had moved, at the same loss.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("GLOG_minloglevel", "2")

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn
from sklearn.datasets import load_digits

from paddle_dcn import ModulatedDeformConv2DPack

BATCH = 64  # digits a step, of all processes together
STEPS = 120
STEPS_PER_CHECKPOINT = 20
CHECKPOINT, RESULT = "checkpoint.pdparams", "result.pdparams"


def network() -> nn.Sequential:
    """Build three convolutions, two of them deformable, normalised image by image."""
    return nn.Sequential(
        nn.Conv2D(1, 16, 3, padding=1),
        nn.ReLU(),
        ModulatedDeformConv2DPack(16, 32, 3, padding=1, bias_attr=False),
        nn.GroupNorm(4, 32),  # of a batch, each process has but a part
        nn.ReLU(),
        ModulatedDeformConv2DPack(32, 32, 3, stride=2, padding=1, bias_attr=False),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2D(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def save(state: dict, path: Path) -> None:
    """Write a file that is there whole or not at all, whenever the process is killed."""
    unfinished = path.with_suffix(".unfinished")
    paddle.save(state, str(unfinished))
    unfinished.replace(path)


def train(steps: int, folder: Path) -> None:
    """Train, from the last checkpoint in the folder if there is one."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    if processes > 1:
        dist.init_parallel_env()
    paddle.seed(0)
    model = network()
    schedule = paddle.optimizer.lr.CosineAnnealingDecay(0.1, steps)
    optimizer = paddle.optimizer.Momentum(schedule, parameters=model.parameters())
    first = 0
    if (folder / CHECKPOINT).exists():
        state = paddle.load(str(folder / CHECKPOINT))
        model.set_state_dict(state["model"])
        optimizer.set_state_dict(state["optimizer"])
        first = state["step"]
    parallel = paddle.DataParallel(model) if processes > 1 else model

    digits = load_digits()
    images = digits.images[:, None].astype(paddle.get_default_dtype()) / 16
    share = slice(rank * BATCH // processes, (rank + 1) * BATCH // processes)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"rank {rank} of {processes}: process {os.getpid()}, from step {first}", flush=True)
    times = []
    for step in range(first, steps):
        start = time.perf_counter()
        # Of the step alone, so that a run that goes on sees what it would have seen.
        rows = np.random.default_rng(step).choice(len(images), BATCH, replace=False)[share]
        scores = parallel(paddle.to_tensor(images[rows]))
        loss = nn.functional.cross_entropy(scores, paddle.to_tensor(digits.target[rows]))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
        times.append(time.perf_counter() - start)
        if rank == 0 and (step + 1) % STEPS_PER_CHECKPOINT == 0 and step + 1 < steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save({**state, "step": step + 1}, folder / CHECKPOINT)
    if rank == 0:
        save(model.state_dict(), folder / RESULT)
        (folder / CHECKPOINT).unlink(missing_ok=True)
        cost = f"{1e3 * np.median(times):.1f} ms a step of {BATCH} digits in {loss.dtype}"
        print(f"loss {loss.item():.3f}, {cost}, {processes} process(es)", flush=True)


def launch(processes: int, arguments: list[str], folder: Path, kill: bool = False) -> str:
    """Run this script on one or more processes, and return what they printed.

    Args:
        processes: How many.
        arguments: The script's arguments.
        folder: Where checkpoints and the processes' output go.
        kill: Kill the last process as soon as there is a checkpoint, which ends the others too.
    """
    logs = folder / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    command = [sys.executable, __file__, *arguments, "--output", str(folder)]
    if processes > 1:
        launcher = ["-m", "paddle.distributed.launch", "--log_dir", str(logs)]
        command[1:1] = [*launcher, "--nproc_per_node", str(processes)]
    log = logs / f"workerlog.{processes - 1}"
    with open(logs / "launcher" if processes > 1 else log, "w") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while kill and child.poll() is None:
            time.sleep(0.005)
            if (folder / CHECKPOINT).exists():
                os.kill(int(re.search(r"process (\d+)", log.read_text())[1]), signal.SIGKILL)
                kill = False
                child.wait()
                if (folder / RESULT).exists():
                    sys.exit("the run was over before a process was killed")
                return ""
        child.wait()
    printed = "".join(path.read_text() for path in sorted(logs.glob("workerlog.*")))
    if child.returncode != 0:
        sys.exit(printed + (logs / "launcher").read_text())
    return printed


def difference(one: Path, other: Path) -> float:
    """Return how far two results' parameters are apart, over how far training moved them."""
    paddle.seed(0)
    start = network().state_dict()
    ends = [paddle.load(str(folder / RESULT)) for folder in (one, other)]
    moved = max(abs((ends[0][name] - start[name]).numpy()).max() for name in start)
    return max(abs((ends[0][name] - ends[1][name]).numpy()).max() for name in start) / moved


def check(output: Path) -> None:
    """Compare one process, two, and two that were interrupted."""
    shutil.rmtree(output, ignore_errors=True)
    arguments = ["--dtype", "float64"]
    for processes, name in ((1, "one"), (2, "two")):
        print(re.search("loss .*", launch(processes, arguments, output / name))[0])
    apart = difference(output / "one", output / "two")
    print(f"parameters of one process and of two differ by {apart:.1e} of their changes")
    launch(2, arguments, output / "killed", kill=True)
    step = re.search("from step (.*)", launch(2, arguments, output / "killed"))[1]
    print(f"one of two processes was killed; the same command went on from step {step}")
    same = difference(output / "two", output / "killed")
    print(f"its parameters differ by {same:.1e} from those of the run that was not killed")
    if not (apart < 1e-9 and same == 0 and int(step) > 0):
        sys.exit("that is more than rounding")


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    parser.add_argument("--dtype", default="float32", help="of the parameters")
    parser.add_argument("--output", type=Path, default=Path("build/distributed"))
    parser.add_argument("--check", action="store_true", help="compare one process, two, and killed")
    arguments = parser.parse_args()
    paddle.set_default_dtype(arguments.dtype)
    if arguments.check:
        check(arguments.output)
    else:
        train(STEPS // 10 if arguments.quick else STEPS, arguments.output)


if __name__ == "__main__":
    main()
