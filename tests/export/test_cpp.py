"""examples/cpp: a C++ program runs a fast model on the wheel's library, with ours as a plugin."""

import shutil
import subprocess
import sys

import numpy as np
import paddle
import pytest

import paddle_dcn
from paddle_dcn import _library
from tests.support.process import ROOT
from tests.support.programs import PADDLE_3_1_ITSELF, needs_paddle_3

pytestmark = [
    needs_paddle_3,
    pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake"),
    pytest.mark.skipif(PADDLE_3_1_ITSELF, reason="its library has no DisableMKLDNN"),
]


def test_program(tmp_path):
    source, build = ROOT / "examples" / "cpp", tmp_path / "build"
    python = f"-DPython3_EXECUTABLE={sys.executable}"
    for command in (["-S", source, "-B", build, python], ["--build", build]):
        subprocess.run(["cmake", *map(str, command)], check=True, capture_output=True)
    paddle.seed(6)
    model = paddle.nn.Sequential(
        paddle_dcn.ModulatedDeformConv2DPack(3, 8, 3, padding=1),
        paddle.nn.LeakyReLU(0.1),
        paddle_dcn.DeformConv2DPack(8, 4, 3, stride=2),
    )
    model.eval()
    paddle.jit.save(
        model, str(tmp_path / "model"), [paddle.static.InputSpec([None, 3, None, None])]
    )
    shape = (2, 3, 13, 17)
    x = np.random.default_rng(7).standard_normal(shape).astype("float32")
    x.tofile(tmp_path / "input")
    with paddle.no_grad():
        model(paddle.to_tensor(x)).numpy().tofile(tmp_path / "expected")
    files = tmp_path / "model", _library.PATH, tmp_path / "input", tmp_path / "expected"
    done = subprocess.run(
        [build / "run_model", *files, *map(str, shape)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "largest difference" in done.stdout
