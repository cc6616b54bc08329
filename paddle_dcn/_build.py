"""Compiles the operators' library against the installed Paddle, for setup.py and for _library.

setup.py runs this file by its path, before the package exists, so it imports nothing from it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# No -march: one library serves every processor of its architecture, because the kernels choose
# their instruction set when they run.
KERNEL_FLAGS = [
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-Wall",
    "-Wextra",
]
# The plain C++ interface of Paddle, without Python.h and pybind11.
PADDLE_FLAGS = ["-DPADDLE_NO_PYTHON", "-DPADDLE_WITH_CUSTOM_KERNEL"]
NVCC_FLAGS = ["-O3", "-std=c++17", "-Xcompiler=-fPIC,-fvisibility=hidden"]
# Ampere and Hopper; later chips compile the last one's PTX. PADDLE_CUDA_ARCH_LIST replaces it.
NVCC_ARCHITECTURES = [
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90,code=sm_90",
    "-gencode=arch=compute_90,code=compute_90",
]


class BuildError(ImportError):
    """The library cannot be built; the message says why and what to do."""


def require_paddle() -> None:
    """Refuse to go on without Paddle, in one sentence."""
    try:
        import paddle  # noqa: F401
    except ModuleNotFoundError:
        raise BuildError(
            "paddle_dcn needs PaddlePaddle: install paddlepaddle or paddlepaddle-gpu"
        ) from None


def paddle_version() -> str:
    """Return the installed Paddle's full version, for example ``3.3.1``."""
    require_paddle()
    import paddle

    return paddle.version.full_version


def library_name() -> str:
    """Return the file name of the library that fits the installed Paddle.

    A library belongs to one minor version of Paddle, with or without CUDA. The name says which, so
    that one that does not fit is told from its name and never loaded.
    """
    minor = ".".join(paddle_version().split(".")[:2])
    import paddle

    return f"_paddle_dcn.paddle{minor}{'-gpu' if paddle.is_compiled_with_cuda() else ''}.so"


def build(root: Path, target: Path, work: Path) -> Path:
    """Compile what changed and link the library into the folder ``target``.

    The compiler is the environment's ``CXX``, also with arguments (``ccache g++``), else ``g++``,
    with its ``CXXFLAGS`` added. CUDA kernels are compiled where Paddle has CUDA; the environment
    variable ``PADDLE_DCN_WITH_CUDA`` (0 or 1) decides otherwise.

    Args:
        root: The folder ``custom_ops``.
        target: The folder the library goes to. It appears there complete or not at all.
        work: A folder for object files, kept between builds.

    Returns:
        The library's path.

    Raises:
        BuildError: No compiler was found, or it failed.
    """
    name = library_name()
    import paddle
    from paddle.utils.cpp_extension import CppExtension, CUDAExtension, cpp_extension

    cxx = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    _require(cxx[0], "install g++, or name another C++ compiler in CXX")
    sources = sorted([*root.glob("kernels/cpu/*.cc"), *root.glob("paddle/*.cc")])
    cuda_sources = sorted(root.glob("kernels/cuda/*.cu"))
    with_cuda = os.environ.get("PADDLE_DCN_WITH_CUDA", str(int(paddle.is_compiled_with_cuda())))
    if with_cuda not in ("0", "1"):
        raise BuildError(f"PADDLE_DCN_WITH_CUDA: expected 0 or 1, got {with_cuda!r}")
    if with_cuda == "0":
        cuda_sources = []

    # Paddle says where its headers are and how to link with it.
    extension = (CUDAExtension if cuda_sources else CppExtension)(
        [str(path) for path in sources + cuda_sources],
        extra_compile_args={"cxx": [], "nvcc": []},
    )
    common = [
        f'-DPADDLE_DCN_BUILT_FOR="{paddle_version()}"',
        # A build of Paddle's development branch calls itself 0.0.0.
        f"-DPADDLE_DCN_PADDLE_MAJOR={int(paddle_version().split('.')[0]) or 3}",
        *(flag for folder in extension.include_dirs for flag in ("-isystem", folder)),
    ]
    # Paddle's error messages show the file they come from: in a checkout, not on this machine.
    compile_cxx = [*cxx, *KERNEL_FLAGS, *PADDLE_FLAGS, *common]
    compile_cxx.append(f"-fmacro-prefix-map={root.parent}/=")
    compile_cxx += shlex.split(os.environ.get("CXXFLAGS", ""))
    compile_cuda = []
    link = [*cxx, "-shared", "-Wl,-O1,--gc-sections"]
    libraries = [*(f"-L{folder}" for folder in extension.library_dirs), *extension.extra_link_args]
    if cuda_sources:
        nvcc = _require(
            str(Path(cpp_extension.CUDA_HOME or "/usr/local/cuda", "bin", "nvcc")),
            "install the CUDA toolkit and name its folder in CUDA_HOME, or set "
            "PADDLE_DCN_WITH_CUDA=0 to do without CUDA",
        )
        given = extension.extra_compile_args["nvcc"]
        architectures = given if "-gencode" in given else NVCC_ARCHITECTURES
        host = [word for word in cxx if not word.startswith("-")][-1]  # without ccache
        compile_cuda = [nvcc, f"-ccbin={host}", *NVCC_FLAGS, *architectures, *common]
        # Paddle 2's headers include Thrust's, which CUDA 13 has moved.
        thrust = Path(nvcc).parents[1] / "include" / "cccl"
        compile_cxx += ["-DPADDLE_DCN_WITH_CUDA", "-isystem", str(thrust)]
        # The static runtime, so that the library also loads where there is no CUDA.
        libraries = [flag for flag in libraries if flag != "-lcudart"]
        libraries += ["-lcudart_static", "-ldl", "-lrt", "-lpthread"]

    # Other flags, compilers or Paddles have other objects.
    signature = hashlib.sha256(repr((compile_cxx, compile_cuda)).encode()).hexdigest()[:12]
    folder = work / signature
    folder.mkdir(parents=True, exist_ok=True)
    target.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> Path:
        result = folder / ("_".join(source.relative_to(root).parts) + ".o")
        if _outdated(result):
            command = compile_cuda if source.suffix == ".cu" else compile_cxx
            _run([*command, "-MMD", "-c", str(source), "-o", str(result)])
        return result

    with open(folder / "lock", "w") as lock, tempfile.TemporaryDirectory(dir=target) as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may build at once
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
            objects = list(pool.map(compile_one, sources + cuda_sources))
        unfinished = Path(scratch) / name
        _run([*link, *map(str, objects), "-o", str(unfinished), *libraries, "-ldl"])
        return unfinished.replace(target / name)


def _require(command: str, remedy: str) -> str:
    if shutil.which(command) is None:
        raise BuildError(f"paddle_dcn: {command!r} is needed to build the operators: {remedy}")
    return command


def _outdated(result: Path) -> bool:
    """Say whether an object file is missing or older than a file it was compiled from."""
    dependencies = result.with_suffix(".d")
    if not result.exists() or not dependencies.exists():
        return True
    names = dependencies.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    built = result.stat().st_mtime
    return any(not Path(name).exists() or Path(name).stat().st_mtime >= built for name in names)


def _run(command: list[str]) -> None:
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode != 0:
        raise BuildError(f"paddle_dcn: the compiler failed\n{' '.join(command)}\n{process.stderr}")
    if process.stderr:
        print(process.stderr)
