"""The CUDA kernels compile for every architecture, without warnings and nearly without spills.

`make test` looks for warnings only, `make cuda-check` compiles.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest
from paddle.utils.cpp_extension import cpp_extension

from benchmarks.kernel_library import KERNELS, build_cuda, find_nvcc
from paddle_dcn import _build
from tests.support import nvrtc
from tests.support.process import ROOT, run_python

pytestmark = pytest.mark.skipif(
    find_nvcc() is None, reason="nvcc was not found: set CUDA_HOME to a CUDA toolkit"
)
compiles = pytest.mark.skipif(
    "PADDLE_DCN_CUDA_CHECK" not in os.environ, reason="takes minutes: run by make cuda-check"
)

# Bytes of spill stores that are accepted, by kernel and element type. The widest tiles hold half
# of all registers in sums; what is spilled is read again once per tap or slice, from the L1 cache.
# The 64-bit variants run on single images of more than 2^31 elements only.
ACCEPTED_SPILLS = {
    ("forward_kernel", "int"): 64,
    ("forward_kernel", "long"): 128,
    ("backward_weight_kernel", "int"): 112,
    ("backward_weight_kernel", "long"): 64,
    ("backward_data_kernel", "long"): 64,
    ("backward_data_kernel", "int"): 256,  # of float32, in two parts: outside the product's loop
    ("direct_forward_kernel", "int"): 16,
    ("direct_backward_kernel", "int"): 72,
}

ARCHITECTURES = (80, 90)
SOURCES = sorted(path.name for path in (KERNELS / "cuda").glob("*.cu"))

REPORT = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for '(?P<architecture>\S+)'.*?"
    r"(?P<spilled>\d+) bytes spill stores.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def nvcc_knows(option: str) -> bool:
    done = subprocess.run([find_nvcc(), "--help"], capture_output=True, text=True, check=True)
    return option in done.stdout


def compile_kernels(source: str, architecture: int, target: Path, *options: str) -> None:
    """The code of one file for one chip, without launchers; warnings are errors."""
    command = [find_nvcc(), *"-std=c++17 -cubin -Werror all-warnings".split(), *options]
    command += [*_build.gencode(architecture), KERNELS / "cuda" / source, "-o", target]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("source", "architecture"),
    [
        *((source, 90) for source in SOURCES),
        ("forward.cu", 75),  # volta.cuh
    ],
)
def test_no_warnings(source, architecture, tmp_path):
    """By the compiler's front end alone, which takes two seconds."""
    if not nvcc_knows("-fdevice-syntax-only"):
        pytest.skip("nvcc is older than -fdevice-syntax-only")
    compile_kernels(source, architecture, tmp_path / "none", "-fdevice-syntax-only")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """The library, and (architecture, name, registers, bytes spilled) of each of its kernels."""
    library = tmp_path_factory.mktemp("cuda") / "kernels.so"
    # How well the launchers are optimised is not looked at.
    report = build_cuda(library, ARCHITECTURES, options=())
    found = [match.groupdict() for match in REPORT.finditer(report)]
    names = subprocess.run(
        ["c++filt"],
        input="\n".join(kernel["name"] for kernel in found),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    rows = []
    for kernel, name in zip(found, names):
        name = name.split("(")[0].replace("void ", "")
        registers, spilled = int(kernel["registers"]), int(kernel["spilled"])
        rows.append((kernel["architecture"], name, registers, spilled))
    return library, sorted(rows)


@compiles
def test_registers_and_spills(kernels):
    _, rows = kernels
    names = {f"sm_{number}{'a' if number == 90 else ''}" for number in ARCHITECTURES}
    assert {row[0] for row in rows} == names
    excessive = []
    for architecture, full_name, registers, spilled in rows:
        name = full_name.replace("dcn::cuda::", "")
        print(f"{architecture} {registers:4d} registers {spilled:4d} bytes spilled  {name}")
        function, _, arguments = name.partition("<")
        index = "long" if re.search(r"\blong\b", arguments) else "int"
        if spilled > ACCEPTED_SPILLS.get((function, index), 0):
            excessive.append((architecture, name, spilled))
    assert not excessive


@compiles
@pytest.mark.parametrize(
    ("source", "architecture"),
    [
        *((source, 75) for source in SOURCES),
        ("forward.cu", 100),  # which lacks sm_90a's kernel; the rest is as for sm_90
    ],
)
def test_other_architectures(source, architecture, tmp_path):
    known = subprocess.run(
        [find_nvcc(), "--list-gpu-code"], capture_output=True, text=True, check=True
    ).stdout.split()
    if f"sm_{architecture}" not in known:
        pytest.skip(f"this nvcc does not know sm_{architecture}")
    # How well they are optimised is not looked at.
    fast = ["-Ofc", "max"] if nvcc_knows("-Ofc") else ["-Xcicc", "-O0", "-Xptxas", "-O0"]
    compile_kernels(source, architecture, tmp_path / "kernels.cubin", *fast)
    assert (tmp_path / "kernels.cubin").stat().st_size


@compiles
def test_volta(kernels):
    """CUDA 13 has no code for sm_70."""
    try:
        compiler = nvrtc.Compiler()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    includes = {
        name
        for source in (KERNELS / "cuda").glob("*.cu")
        for name in re.findall(r'#include "(\w+\.cuh)"', source.read_text())
    }
    headers = [KERNELS / "cuda" / name for name in sorted(includes - {"host.cuh"})]
    # The others differ from these in nothing that depends on the chip.
    names = {n for _, n, _, _ in kernels[1] if not re.search(r"\b(long|double|TensorFloat32)\b", n)}
    assert names
    compiler.compile(headers, sorted(names), "sm_70")


@compiles
def test_library_stands_alone(kernels):
    library, _ = kernels
    needed = subprocess.run(["ldd", library], capture_output=True, text=True, check=True).stdout
    assert "paddle" not in needed and "libcudart" not in needed
    symbols = subprocess.run(["nm", "-DC", library], capture_output=True, text=True, check=True)
    assert "paddle::" not in symbols.stdout and "phi::" not in symbols.stdout
    defined = re.findall(r" T (dcn_cuda_\w+)", symbols.stdout)
    assert set(defined) == {
        "dcn_cuda_forward",
        "dcn_cuda_backward",
        "dcn_cuda_forward_workspace",
        "dcn_cuda_struct_bytes",
        "dcn_cuda_backward_workspace",
        "dcn_cuda_error_name",
    }


# Loads a library in place of the package's own and runs an operator on the CPU.
RUN_ON_CPU = """
import sys
import paddle
from paddle.utils.cpp_extension import load_op_meta_info_and_register_op
load_op_meta_info_and_register_op(sys.argv[1])
x, weight = paddle.randn([1, 4, 5, 5]), paddle.randn([3, 4, 3, 3])
attributes = ([1, 1], [1, 1, 1, 1], [1, 1], 1, 1, 0, "NCHW", 0)
inputs = (x, paddle.zeros([1, 18, 5, 5]), weight, paddle.zeros([3]))
run = getattr(paddle._C_ops, "_run_custom_op", None) or paddle.base.core.eager._run_custom_op
out = run("paddle_dcn_v1", *inputs, *attributes)[0]
assert paddle.allclose(out, paddle.nn.functional.conv2d(x, weight, padding=1), atol=1e-4)
"""


@compiles
def test_whole_extension(tmp_path, monkeypatch):
    """The binding compiles and links with the kernels, and still runs where there is no GPU."""
    monkeypatch.setenv("PADDLE_DCN_WITH_CUDA", "1")
    monkeypatch.setenv("CUDA_HOME", str(find_nvcc().parent.parent))
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(find_nvcc().parent.parent))
    monkeypatch.setenv("PADDLE_CUDA_ARCH_LIST", "9.0")
    # Of the kernels for a GPU, which the tests above compile, only the launchers; a small problem
    # is all that runs on the CPU.
    syntax = "-fdevice-syntax-only"
    fast = [syntax] if nvcc_knows(syntax) else ["-Xcicc=-O0", "-Xptxas=-O0"]
    monkeypatch.setattr(_build, "NVCC_FLAGS", [*_build.NVCC_FLAGS[1:], *fast])
    monkeypatch.setenv("CXXFLAGS", "-O0")
    library = _build.build(ROOT / "custom_ops", tmp_path, tmp_path / "objects")
    done = run_python("-c", RUN_ON_CPU, library)
    assert done.returncode == 0, done.stderr
