"""Compiles the operators' library against the installed Paddle, for setup.py and for _library.

setup.py runs this file by its path, before the package exists, so it imports nothing from it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import warnings
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
# Compute capabilities that have code of their own, where nvcc knows them; +PTX is what the driver
# compiles for all later ones. PADDLE_CUDA_ARCH_LIST replaces them.
CUDA_CAPABILITIES = "7.0 7.5 8.0 9.0+PTX 10.0 12.0"
LOWEST_CAPABILITY = 70


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


def source_digest(root: Path) -> str:
    """Return what tells the C++ sources in a folder, and how they are built, from others.

    It is the build id of the library that they give.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(p for p in root.rglob("*") if p.suffix in {".h", ".cc", ".cu", ".cuh"}):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:40]


def gencode(capability: int) -> list[str]:
    """Return nvcc's flags for code of a compute capability, such as 80 for 8.0."""
    name = "90a" if capability == 90 else str(capability)  # wgmma is of the target for Hopper only
    return ["-gencode", f"arch=compute_{name},code=sm_{name}"]


def cuda_flags(capabilities: list[str]) -> list[str]:
    """Return nvcc's flags for what `choose_capabilities` returned."""
    flags = []
    for each in capabilities:
        number = int(re.sub(r"\D", "", each))
        flags += gencode(number)
        if each.endswith("+PTX"):
            flags += ["-gencode", f"arch=compute_{number},code=compute_{number}"]
    return flags


def choose_capabilities(listed: str, known: set[int], nvcc: str) -> list[str]:
    """Return those of the listed compute capabilities that can be built.

    The others are left out with a warning. One is marked +PTX at least: the highest.

    Args:
        listed: Capabilities as Paddle lists them, such as ``8.0;9.0+PTX``.
        known: Those that nvcc knows, times ten.
        nvcc: Its name in messages.

    Raises:
        BuildError: An entry is none, or nothing is left.
    """
    chosen, left_out = {}, []
    for entry in re.split(r"[;,\s]+", listed.strip(";, \t\n") or listed):
        # Without a dot 12 is no 1.2.
        match = re.fullmatch(r"(\d{1,2}\.\d|[5-9]\d|1\d\d)[af]?(\+PTX)?", entry)
        if match is None:
            raise BuildError(
                "PADDLE_CUDA_ARCH_LIST: expected compute capabilities such as 8.0 or 9.0+PTX, got "
                f"{entry!r}"
            )
        capability = int(match[1].replace(".", ""))
        if capability < LOWEST_CAPABILITY or capability not in known:
            left_out.append(entry)
        else:
            chosen[capability] = match[2] or chosen.get(capability, "")
    can = ", ".join(f"{each / 10:.1f}" for each in sorted(known) if each >= LOWEST_CAPABILITY)
    reason = f"{nvcc} builds the kernels for {can}"
    if not chosen:
        raise BuildError(f"PADDLE_CUDA_ARCH_LIST: nothing can be built for {listed}: {reason}")
    if left_out:
        warnings.warn(
            f"paddle_dcn: not built for compute capability {', '.join(left_out)}: {reason}",
            stacklevel=2,
        )
    if "+PTX" not in chosen.values():
        chosen[max(chosen)] = "+PTX"
    return [f"{each / 10:.1f}{ptx}" for each, ptx in sorted(chosen.items())]


def cuda_capabilities(nvcc: str) -> list[str]:
    """Ask nvcc what it knows and return the compute capabilities that the library is built for."""

    def ask(option: str) -> str:
        try:
            done = subprocess.run([nvcc, option], capture_output=True, text=True)
        except OSError as error:
            raise BuildError(f"paddle_dcn: {nvcc} cannot be run: {error.strerror}") from None
        if done.returncode:
            raise BuildError(f"paddle_dcn: {nvcc} {option} failed\n{done.stdout}{done.stderr}")
        return done.stdout

    known = {int(each) for each in re.findall(r"\bsm_(\d+)\b", ask("--list-gpu-code"))}
    release = re.search(r"release (\d+)\.(\d+)", ask("--version"))
    if release is None or not known:
        raise BuildError(f"paddle_dcn: {nvcc} does not tell its release and what it compiles for")
    major = int(release[1])
    if major < 12:
        known.discard(90)  # it has no sm_90a; Hopper compiles the PTX of what is before it
    import paddle

    of_paddle = str(paddle.version.cuda()).split(".")[0]
    if of_paddle.isdigit() and int(of_paddle) < major:
        warnings.warn(
            f"paddle_dcn: nvcc is of CUDA {major} and Paddle of CUDA {paddle.version.cuda()}: with "
            f"a driver before CUDA {major} the operators fail on GPUs; name a toolkit of CUDA "
            f"{of_paddle} in CUDA_HOME to build for every driver that Paddle runs with",
            stacklevel=2,
        )
    listed = os.environ.get("PADDLE_CUDA_ARCH_LIST", "").strip()
    if not listed:
        default = CUDA_CAPABILITIES.split()
        listed = " ".join(each for each in default if int(re.sub(r"\D", "", each)) in known)
        if not listed:
            raise BuildError(
                f"paddle_dcn: {nvcc} compiles for none of {', '.join(default)}: name a newer CUDA "
                "toolkit in CUDA_HOME"
            )
    return choose_capabilities(listed, known, f"nvcc {release[1]}.{release[2]}")


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

    # Paddle says where its headers are and how to link with it. It would stumble over entries of
    # PADDLE_CUDA_ARCH_LIST that it documents, such as 9.0+PTX.
    architectures = os.environ.pop("PADDLE_CUDA_ARCH_LIST", None)
    try:
        extension = (CUDAExtension if cuda_sources else CppExtension)(
            [str(path) for path in sources + cuda_sources],
            extra_compile_args={"cxx": [], "nvcc": []},
        )
    finally:
        if architectures is not None:
            os.environ["PADDLE_CUDA_ARCH_LIST"] = architectures
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
    link = [*cxx, "-shared", f"-Wl,-O1,--gc-sections,--build-id=0x{source_digest(root)}"]
    libraries = [*(f"-L{folder}" for folder in extension.library_dirs), *extension.extra_link_args]
    if cuda_sources:
        nvcc = _require(
            str(Path(cpp_extension.CUDA_HOME or "/usr/local/cuda", "bin", "nvcc")),
            "install the CUDA toolkit and name its folder in CUDA_HOME, or set "
            "PADDLE_DCN_WITH_CUDA=0 to do without CUDA",
        )
        host = [word for word in cxx if not word.startswith("-")][-1]  # without ccache
        capabilities = cuda_capabilities(nvcc)
        compile_cuda = [nvcc, f"-ccbin={host}", *NVCC_FLAGS, *cuda_flags(capabilities), *common]
        # Paddle 2's headers include Thrust's, which CUDA 13 has moved.
        thrust = Path(nvcc).parents[1] / "include" / "cccl"
        compile_cxx += ["-DPADDLE_DCN_WITH_CUDA", "-isystem", str(thrust)]
        compile_cxx.append(f'-DPADDLE_DCN_CUDA_CAPABILITIES="{", ".join(capabilities)}"')
        # The static runtime, so that the library also loads where there is no CUDA.
        libraries = [flag for flag in libraries if flag != "-lcudart"]
        libraries += ["-lcudart_static", "-ldl", "-lrt", "-lpthread"]

    # Other flags, compilers or Paddles have other objects.
    signature = hashlib.sha256(repr((compile_cxx, compile_cuda)).encode()).hexdigest()[:12]
    folder = work / signature
    folder.mkdir(parents=True, exist_ok=True)
    target.mkdir(parents=True, exist_ok=True)

    jobs = int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))
    threads = [f"--threads={max(1, jobs // max(1, len(cuda_sources)))}"]  # of each nvcc

    def compile_one(source: Path) -> Path:
        result = folder / ("_".join(source.relative_to(root).parts) + ".o")
        if _outdated(result):
            command = [*compile_cuda, *threads] if source.suffix == ".cu" else compile_cxx
            _run([*command, "-MMD", "-c", str(source), "-o", str(result)])
        return result

    with open(folder / "lock", "w") as lock, tempfile.TemporaryDirectory(dir=target) as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may build at once
        with ThreadPoolExecutor(jobs) as pool:
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
