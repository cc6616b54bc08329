"""paddle.DataParallel and sharded tensors over two CPU processes, with gloo."""

import socket

import pytest

from tests.support.process import SCRIPTS, start_python
from tests.support.programs import needs_paddle_3


def free_endpoint():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "worker", ["data_parallel.py", pytest.param("sharded_tensors.py", marks=needs_paddle_3)]
)
def test_two_processes_agree_with_one(worker):
    """Each process has a part of the tensors; results are those of whole ones.

    The processes are started here because Paddle's launcher waits ten seconds before it ends.
    """
    endpoints = [free_endpoint(), free_endpoint()]
    processes = []
    try:
        for rank, endpoint in enumerate(endpoints):
            variables = {
                "PADDLE_DISTRI_BACKEND": "gloo",
                "PADDLE_TRAINERS_NUM": 2,
                "PADDLE_TRAINER_ID": rank,
                "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
                "PADDLE_CURRENT_ENDPOINT": endpoint,
                "FLAGS_selected_cpus": 0,
            }
            processes.append(start_python(SCRIPTS / worker, **variables))
        for rank, process in enumerate(processes):
            output, errors = process.communicate(timeout=120)
            assert process.returncode == 0, output + errors
            assert f"rank {rank} of 2 agrees" in output
    finally:
        for process in processes:
            process.kill()
            process.wait()
