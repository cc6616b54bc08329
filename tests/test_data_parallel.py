"""paddle.DataParallel over two CPU processes, with gloo."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import paddle_dcn

WORKER = Path(__file__).with_name("data_parallel.py")


def free_endpoint():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.slow
def test_two_processes_agree_with_one():
    """Each process trains on one image; the mean gradients are those of both images at once.

    The processes are started here because Paddle's launcher waits ten seconds before it ends.
    """
    endpoints = [free_endpoint(), free_endpoint()]
    processes = []
    try:
        for rank, endpoint in enumerate(endpoints):
            environment = os.environ | {
                "PYTHONPATH": str(Path(paddle_dcn.__file__).parents[1]),
                "PADDLE_DISTRI_BACKEND": "gloo",
                "PADDLE_TRAINERS_NUM": "2",
                "PADDLE_TRAINER_ID": str(rank),
                "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
                "PADDLE_CURRENT_ENDPOINT": endpoint,
                "FLAGS_selected_cpus": "0",
            }
            processes.append(
                subprocess.Popen(
                    [sys.executable, str(WORKER)],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        for rank, process in enumerate(processes):
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output
            assert f"rank {rank} of 2 agrees" in output
    finally:
        for process in processes:
            process.kill()
            process.wait()
