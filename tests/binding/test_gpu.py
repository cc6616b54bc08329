"""The operators on GPUs: modes, device and stream, errors; on real ones, and on those of a fake."""

import ctypes
import dataclasses
import subprocess
from pathlib import Path

import paddle
import pytest
from paddle.utils.cpp_extension import CppExtension

from benchmarks.kernel_library import find_nvcc
from paddle_dcn import _build, _checks, _ops, deform_conv2d
from tests.support.cases import COMPACT, Case
from tests.support.comparison import assert_results_close
from tests.support.operators import expected, run
from tests.support.problems import DTYPE_IDS, DTYPES, random_problem

core = paddle.base.core
GPUS = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
CASE = Case(2, 40, (9, 8), 24, padding=1, groups=2)
FLOAT32 = ("float32", "float32")
NAMES = ("x", "offset", "mask", "weight", "bias")


def shapes(case):
    """Shapes of a modulated case's inputs."""
    arrays = random_problem(dataclasses.replace(case, batch=1))
    return {
        n: (case.batch if n in NAMES[:3] else len(arrays[n]), *arrays[n].shape[1:]) for n in NAMES
    }


@pytest.fixture
def gpu():
    """Make the last GPU the current device."""
    before = paddle.device.get_device()
    yield paddle.device.set_device(f"gpu:{GPUS - 1}")
    paddle.device.set_device(before)


@pytest.mark.skipif(GPUS == 0, reason="no GPU")
@pytest.mark.parametrize("switch", [True, False])
@pytest.mark.parametrize("override", [None, "0"])
def test_float32_is_multiplied_as_by_conv2d(gpu, monkeypatch, switch, override):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    if override is not None:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    before = core.get_cudnn_switch()
    core.set_cudnn_switch(switch)
    try:
        results = run(deform_conv2d, CASE, random_problem(CASE, "float32"), FLOAT32)
    finally:
        core.set_cudnn_switch(before)
    has_it = paddle.device.cuda.get_device_capability()[0] >= 8
    rounds = has_it and switch and override is None
    dtypes = ("tensor_float32" if rounds else "float32", "float32")
    assert_results_close(results, expected(CASE, "float32"), CASE, dtypes)
    if rounds:
        with pytest.raises(AssertionError, match="differ"):
            assert_results_close(results, expected(CASE, "float32"), CASE, FLOAT32)


@pytest.mark.skipif(GPUS == 0, reason="no GPU")
@pytest.mark.parametrize("case", COMPACT, ids=str)
@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
def test_gradients_by_atomics(gpu, case, dtypes):
    """As they are made by default, and not in the other tests."""
    paddle.set_flags({"FLAGS_cudnn_deterministic": False})
    try:
        results = run(deform_conv2d, case, random_problem(case, dtypes[0]), dtypes)
    finally:
        paddle.set_flags({"FLAGS_cudnn_deterministic": True})
    assert_results_close(results, expected(case, dtypes[0]), case, dtypes)


@pytest.mark.skipif(GPUS == 0, reason="no GPU")
def test_kernels_run_on_the_current_stream(gpu):
    case = Case(8, 256, (100, 100), 256, padding=1)
    tensors = {name: paddle.rand(shape) for name, shape in shapes(case).items()}
    streams = paddle.device.cuda.current_stream(), paddle.device.cuda.Stream()
    for used in streams:
        with paddle.device.cuda.stream_guard(used):
            paddle.device.cuda.synchronize()
            for _ in range(20):
                deform_conv2d(**tensors, **case.attributes())
            assert [stream.query() for stream in streams] == [used is not s for s in streams]


@pytest.mark.skipif(GPUS == 0, reason="no GPU")
def test_no_memory_is_kept(gpu):
    case = Case(2, 64, (56, 56), 64, padding=1)
    arrays = random_problem(case, "float16")
    held = []
    for _ in range(10):
        run(deform_conv2d, case, arrays, ("float16", "float16"))
        held.append(paddle.device.cuda.memory_allocated())
    assert held[-1] == held[2]


@pytest.mark.skipif(GPUS == 0, reason="no GPU")
@pytest.mark.parametrize("name", NAMES)
def test_tensors_of_several_places(gpu, name):
    """Past Python's checks."""
    tensors = {n: paddle.rand(shape) for n, shape in shapes(CASE).items()}
    tensors[name] = tensors[name].cpu()
    attributes = [1, 1], [1, 1, 1, 1], [1, 1], 2, 1, 0, "NCHW", 31
    wrong = "offset" if name == "x" else name
    with pytest.raises(ValueError, match=rf"{wrong}: expected float32 .* on Place.*, got float32 "):
        _ops.run_raw("paddle_dcn_v2", *tensors.values(), *attributes)


@pytest.mark.skipif(GPUS == 0, reason="no GPU")
def test_the_operator_for_inference_is_of_the_cpu(gpu):
    tensors = [paddle.rand(shape) for shape in shapes(CASE).values()]
    attributes = _checks.check_attributes(1, 1, 1, 2, 1, None, "NCHW")
    call = _checks.Call(*tensors, attributes)
    with pytest.raises(ValueError, match="x: expected a CPU tensor, for which the model was conv"):
        _ops.infer(call, _checks.Inference())


@pytest.mark.skipif(GPUS < 2, reason="fewer than two GPUs")
def test_tensors_of_another_gpu_than_the_current_one(gpu):
    tensors = {
        name: paddle.to_tensor(array, "float32", place=paddle.CUDAPlace(0))
        for name, array in random_problem(CASE, "float32").items()
        if name != "grad"
    }
    out = deform_conv2d(**tensors, **CASE.attributes())
    assert out.place.gpu_device_id() == 0
    assert paddle.device.get_device() == f"gpu:{GPUS - 1}"
    after = paddle.matmul(paddle.ones([2, 3]), paddle.ones([3, 2]))  # there Paddle goes on
    assert after.place.gpu_device_id() == GPUS - 1
    assert float(after.sum()) == 12
    wanted = {"out": expected(CASE, "float32")["out"]}
    assert_results_close({"out": out.astype("float64").numpy()}, wanted, CASE, FLOAT32)


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    """The binding with the CUDA of fake_cuda.cc."""
    if find_nvcc() is None:
        pytest.skip("the headers of CUDA were not found: set CUDA_HOME to a CUDA toolkit")
    if paddle.__version__.startswith(("2.", "3.0.")) and not paddle.is_compiled_with_cuda():
        pytest.skip("these Paddles for the CPU lack Tensor::stream")
    path = tmp_path_factory.mktemp("fake") / "fake.so"
    extension = CppExtension(["fake_cuda.cc"])
    cuda = find_nvcc().parent.parent / "include"
    folders = [*extension.include_dirs, cuda, cuda / "cccl"]
    command = ["g++", "-std=c++17", "-fPIC", "-shared", "-Wl,-Bsymbolic", *_build.PADDLE_FLAGS]
    command += [f"-DPADDLE_DCN_PADDLE_MAJOR={paddle.__version__.split('.')[0]}"]
    command += [flag for folder in folders for flag in ("-isystem", folder)]
    command += [Path(__file__).with_name("fake_cuda.cc"), "-o", path]
    command += [f"-L{folder}" for folder in extension.library_dirs]
    subprocess.run([*command, *extension.extra_link_args], check=True)
    library = ctypes.CDLL(str(path))
    library.fake_error.restype = library.fake_call.restype = ctypes.c_char_p
    library.fake_rule.restype = ctypes.c_bool
    return library


@pytest.mark.parametrize(
    "error, capability, message",
    [
        (2, 70, "paddle_dcn: the forward pass failed with cuda"),
        (
            209,
            70,
            "paddle_dcn: the forward pass failed with cudaErrorNoKernel...: Tesla V100-SXM2-16GB "
            "has compute capability 7.0, and this library was built for 8.0, 9.0+PTX; build it "
            "with PADDLE_CUDA_ARCH_LIST=7.0",
        ),
        (
            209,
            61,
            "paddle_dcn: the forward pass failed with cudaErrorNoKernel...: Tesla V100-SXM2-16GB "
            "has compute capability 6.1, and this library was built for 8.0, 9.0+PTX; its kernels "
            "need 7.0 or later",
        ),
    ],
)
def test_a_card_without_code_is_named(fake, error, capability, message):
    assert fake.fake_error(error, capability).decode() == message


def test_a_driver_that_is_too_old(fake):
    assert "the driver is older than CUDA" in fake.fake_error(35, 70).decode()


@pytest.mark.parametrize(
    "before, wanted, calls",
    [
        (0, 0, "cuda 0, call, paddle 0, "),
        (1, 1, "cuda 1, call, paddle 1, "),
        (1, 0, "cuda 0, paddle 0, call, paddle 1, "),
    ],
)
def test_the_device_of_the_tensors_is_current(fake, before, wanted, calls):
    assert fake.fake_call(before, wanted).decode() == calls


@pytest.mark.parametrize("capability, has_it", [(7, False), (8, True), (9, True), (12, True)])
@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("override", [None, "0", "1"])
def test_rule_of_tensor_float32(fake, monkeypatch, capability, has_it, allowed, override):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    if override is not None:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    assert fake.fake_rule(capability, allowed) == (has_it and allowed and override != "0")
