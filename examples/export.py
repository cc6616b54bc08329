"""Saves one deformable network in every form and runs each where it is meant to run.

Paddle's own format needs this package wherever it is loaded; the portable form runs in stock
Paddle, here in a process that cannot import this package; both forms of ONNX run in ONNX Runtime,
and OpenVINO runs its own, where it is installed. Nothing is trained: the weights are random, and
every form must compute what the network computes.

    python examples/export.py [--quick]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GLOG_minloglevel", "2")  # the executor's progress

import numpy as np
import onnxruntime
import paddle
from paddle import inference, nn

import paddle_dcn
from paddle_dcn import export

SPEC = [paddle.static.InputSpec([None, 3, None, None], "float32", "image")]

STOCK = """
import sys, time
sys.modules["paddle_dcn"] = None  # importing it is an error
import numpy as np, paddle
model, image = paddle.jit.load(sys.argv[1]), paddle.to_tensor(np.load(sys.argv[2]))
model(image)
start = time.perf_counter()
out = model(image).numpy()
print(time.perf_counter() - start)
np.save(sys.argv[3], out)
"""


def network() -> nn.Layer:
    """Return a small backbone with both versions, strides, and groups of either kind."""
    model = nn.Sequential(
        nn.Conv2D(3, 64, 7, 4, 3),
        nn.BatchNorm2D(64),
        nn.ReLU(),
        paddle_dcn.ModulatedDeformConv2DPack(64, 128, 3, 2, 1, deformable_groups=2),
        nn.BatchNorm2D(128),
        nn.ReLU(),
        paddle_dcn.DeformConv2DPack(128, 128, 3, padding=(2, 1, 0, 1), groups=4),
        nn.BatchNorm2D(128),
    )
    for name, parameter in model.named_parameters():
        if "conv_offset" in name:  # these start at zero
            parameter.set_value(paddle.randn(parameter.shape) * 0.05)
    model.eval()
    return model


def timed(run: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """Return the result of the second run, and the seconds that it took."""
    run()
    start = time.perf_counter()
    return run(), time.perf_counter() - start


def with_predictor(path: Path, image: np.ndarray) -> tuple[np.ndarray, float]:
    """Run the native form in paddle.inference."""
    config = inference.Config(f"{path}.json", f"{path}.pdiparams")
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    source = predictor.get_input_handle(predictor.get_input_names()[0])
    result = predictor.get_output_handle(predictor.get_output_names()[0])

    def run() -> np.ndarray:
        source.copy_from_cpu(image)
        predictor.run()
        return result.copy_to_cpu()

    return timed(run)


def with_stock_paddle(path: Path, image: np.ndarray) -> tuple[np.ndarray, float]:
    """Run the portable form in a process without this package."""
    files = path.with_name("image.npy"), path.with_name("out.npy")
    np.save(files[0], image)
    command = [sys.executable, "-c", STOCK, str(path), *map(str, files)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return np.load(files[1]), float(done.stdout.split()[-1])


def with_onnx_runtime(path: Path, image: np.ndarray) -> tuple[np.ndarray, float]:
    """Run the ONNX form."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options)
    return timed(lambda: session.run(None, {"image": image})[0])


def with_openvino(path: Path, image: np.ndarray) -> tuple[np.ndarray, float]:
    """Run OpenVINO's form."""
    import openvino

    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(f"{path}.xml", "CPU", precise)
    return timed(lambda: model({"image": image})[0])


def main() -> None:
    """Save, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller images")
    size = 64 if parser.parse_args().quick else 256
    paddle.seed(0)
    model, image = network(), paddle.randn([2, 3, size, size])

    def run() -> np.ndarray:
        with paddle.no_grad():
            return model(image).numpy()

    wanted, seconds = timed(run)
    rows = [("dynamic mode", "", 0, wanted, seconds)]
    with tempfile.TemporaryDirectory() as folder:
        native, portable = Path(folder) / "native", Path(folder) / "portable"
        paddle.jit.save(model, str(native), SPEC)
        export.save_portable(model, portable, SPEC)
        graph = export.onnx(model, Path(folder) / "model.onnx", SPEC)
        standard = export.onnx(model, Path(folder) / "standard.onnx", SPEC, form="grid_sample")
        routes = [
            ("Predictor", native, with_predictor),
            ("stock Paddle", portable, with_stock_paddle),
            ("ONNX Runtime", graph, with_onnx_runtime),
            ("the same", standard, with_onnx_runtime),
        ]
        if importlib.util.find_spec("openvino"):
            ir = Path(folder) / "openvino"
            export.openvino(model, ir, SPEC)
            routes.append(("OpenVINO", ir, with_openvino))
        for route, path, execute in routes:
            files = sorted(path.parent.glob(f"{path.name}*"))
            out, seconds = execute(path, image.numpy())
            names = ", ".join(file.name for file in files)
            rows.append((route, names, sum(file.stat().st_size for file in files), out, seconds))

    print(f"{'route':13} {'files':33} {'KiB':>6} {'max difference':>15} {'ms':>7}")
    for route, names, size, out, seconds in rows:
        difference = np.abs(out - wanted).max() / np.abs(wanted).max()
        print(f"{route:13} {names:33} {size / 1024:6.0f} {difference:15.1e} {seconds * 1e3:7.1f}")
        # Rounding of the three convolutions' sums, and of those that predict offsets and mask.
        depth = 3 * 7 * 7 + 64 * 9 + 128 // 4 * 9 + 64 * 9 + 128 * 9
        assert out.shape == wanted.shape
        assert difference < 4 * 2**-23 * depth**0.5
    print("differences are relative to the largest output; images may have any size and number")


if __name__ == "__main__":
    main()
