"""The ways to run a call: traced, in a static program, saved and in a predictor."""

from __future__ import annotations

import ctypes
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle

import paddle_dcn
from paddle_dcn import _memory, export
from paddle_dcn.export import _onednn, _programs
from tests.support.amp import auto_cast
from tests.support.programs import static_program

TRACED = ("full graph", "graph breaks")
_numbers = itertools.count()


def run_dynamic(function: Callable, call: dict[str, Any], mode: str) -> Any:
    """Call a function or layer; its result is a tensor of dynamic mode."""
    if mode == "dynamic":
        return function(**call)
    if mode.startswith("auto_cast"):
        with auto_cast(dtype=mode.partition(" ")[2]):
            return function(**call)
    full_graph = mode == "full graph"
    if isinstance(function, paddle.nn.Layer):
        return paddle.jit.to_static(function, full_graph=full_graph)(**call)
    tensors = {name: v for name, v in call.items() if isinstance(v, paddle.Tensor)}
    others = {name: v for name, v in call.items() if name not in tensors}
    # By its place: Paddle's translator has an argument of this name itself.
    first = [tensors.pop("self")] if "self" in tensors else []

    def traced(first, tensors):
        return function(*first, **tensors, **others)

    if not full_graph:  # which finds what it has translated by the code
        traced.__code__ = traced.__code__.replace(co_name=f"traced_{next(_numbers)}")
    return paddle.jit.to_static(traced, full_graph=full_graph)(first, tensors)


def _open(shape: list[int], axes: tuple[int, ...]) -> list[int | None]:
    return [None if axis in axes else size for axis, size in enumerate(shape)]


def open_axes(name: str, data_format: str, which: tuple[str, ...]) -> tuple[int, ...]:
    """Return which axes of a tensor a program leaves open: of the batch, and of the images."""
    if name in ("weight", "bias"):
        return ()
    images = (1, 2) if name == "x" and data_format == "NHWC" else (2, 3)
    return (0,) * ("batch" in which) + images * ("images" in which)


def run_program(
    make_call: Callable[[dict], tuple[Callable, dict]],
    arrays: dict[str, np.ndarray],
    axes: dict[str, tuple[int, ...]],
    grad: np.ndarray,
    wanted: list[str],
) -> list[np.ndarray]:
    """Build a program around a call on inputs of these dtypes; return output and gradients."""
    with static_program() as program:
        inputs = {
            name: paddle.static.data(name, _open(array.shape, axes[name]), str(array.dtype))
            for name, array in arrays.items()
        }
        for name, tensor in inputs.items():
            tensor.stop_gradient = name not in wanted
        function, call = make_call(inputs)
        out = function(**call)
        out = out[0] if isinstance(out, tuple) else out
        fetched = [out]
        if wanted:
            factor = paddle.static.data("grad", list(grad.shape), str(grad.dtype))
            loss = (out * factor).sum()
            fetched += paddle.static.gradients([loss], [inputs[name] for name in wanted])
        feed = {**arrays, "grad": grad} if wanted else arrays
        return paddle.static.Executor(paddle.CPUPlace()).run(program, feed, fetched)


def keep_memory(kept: bool) -> None:
    """Keep freed memory in this process, or return it to the system as is the C library's way."""
    if kept:
        paddle_dcn.keep_memory()
    else:  # what mallopt's manual has for these two
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_memory.MMAP_MAX, 65536)
        mallopt(_memory.TRIM_THRESHOLD, 128 << 10)


def run_predictor(
    layer: paddle.nn.Layer,
    call: dict[str, paddle.Tensor],
    axes: dict[str, tuple[int, ...]],
    *,
    fast: bool = False,
    onednn: bool = True,
    threads: int = 1,
) -> tuple[np.ndarray, dict[str, int]]:
    """Save a layer, load it into a predictor, and run that; `fast` models are converted first.

    Without oneDNN if `convert` tells that the model needs that. Also returns what was fused.
    """
    from paddle import inference

    spec = [
        paddle.static.InputSpec(_open(t.shape, axes[name]), str(t.dtype).rpartition(".")[2], name)
        for name, t in call.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        paddle.jit.save(layer, f"{folder}/model", input_spec=spec)
        fused = {}
        if fast:
            fused = export.convert(f"{folder}/model", f"{folder}/fast", "fast", verify=False).fused
        files = _programs.find(Path(folder) / ("fast" if fast else "model"))
        config = inference.Config(*map(str, files))
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(threads)
        if not onednn or _onednn.refused(_programs.read(*files)):
            config.disable_mkldnn()
        predictor = inference.create_predictor(config)
    for name, tensor in call.items():
        predictor.get_input_handle(name).copy_from_cpu(tensor.contiguous().numpy())
    predictor.run()
    out = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
    return out, fused
