"""Compiles the operators' library against the installed Paddle, for setup.py and for _ops.

setup.py runs this file by its path, before the package exists, so it imports nothing from it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# No -march: one library serves every processor of its architecture, because the kernels choose
# their instruction set when they run.
CXX_FLAGS = [
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-fopenmp",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-Wall",
    "-Wextra",
    # The plain C++ interface of Paddle, without Python.h and pybind11.
    "-DPADDLE_NO_PYTHON",
    "-DPADDLE_WITH_CUSTOM_KERNEL",
]


class BuildError(RuntimeError):
    """The library cannot be built; the message is one sentence for the user."""


def paddle_version() -> str:
    """Return the installed Paddle's full version, for example ``3.3.1``."""
    import paddle

    return paddle.version.full_version


def library_name() -> str:
    """Return the file name of the library that fits the installed Paddle.

    A library belongs to one minor version of Paddle, and the name says which, so that a library
    that does not fit is told from its name and never loaded.
    """
    minor = ".".join(paddle_version().split(".")[:2])
    return f"_paddle_dcn.paddle{minor}.so"


def sources(root: Path) -> list[Path]:
    """Return the C++ sources below ``root``, the folder ``custom_ops``."""
    found = [*root.glob("kernels/cpu/*.cc"), *root.glob("paddle/*.cc")]
    if not found:
        raise BuildError(f"paddle_dcn: there are no C++ sources in {root}")
    return sorted(found)


def compiler() -> str:
    """Return the C++ compiler: the environment's ``CXX``, or ``g++``."""
    command = os.environ.get("CXX", "g++")
    if shutil.which(command) is None:
        raise BuildError(
            f"paddle_dcn: building the operators needs a C++ compiler, and {command!r} was not "
            "found: install g++, or name another one in the environment variable CXX"
        )
    return command


def build(root: Path, target: Path, work: Path) -> Path:
    """Compile what changed and link the library into the folder ``target``.

    Args:
        root: The folder ``custom_ops``.
        target: The folder the library goes to. It appears there complete or not at all.
        work: A folder for object files, kept between builds.

    Returns:
        The library's path.

    Raises:
        BuildError: No compiler was found, or it failed.
    """
    from paddle.utils.cpp_extension import CppExtension

    cxx = compiler()
    paths = sources(root)
    # Paddle says where its headers are and how to link with it.
    extension = CppExtension([str(path) for path in paths], extra_compile_args={"cxx": []})
    flags = [
        *CXX_FLAGS,
        f'-DPADDLE_DCN_BUILT_FOR="{paddle_version()}"',
        f"-DPADDLE_DCN_PADDLE_MAJOR={paddle_version().split('.')[0]}",
        # Paddle's error messages show where they were thrown: not where this machine builds.
        f"-fmacro-prefix-map={root.parent}/=",
        *(flag for folder in extension.include_dirs for flag in ("-isystem", folder)),
    ]
    # Other flags, compilers or Paddles have other objects.
    signature = hashlib.sha256(repr((cxx, flags)).encode()).hexdigest()[:12]
    folder = work / signature
    folder.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> Path:
        result = folder / ("_".join(source.relative_to(root).parts) + ".o")
        if _outdated(result):
            _run([cxx, *flags, "-MMD", "-c", str(source), "-o", str(result)])
        return result

    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
        objects = list(pool.map(compile_one, paths))

    target.mkdir(parents=True, exist_ok=True)
    library = target / library_name()
    with tempfile.TemporaryDirectory(dir=target, prefix=".build-") as scratch:
        unfinished = Path(scratch) / library.name
        # Not linked with -fopenmp: the symbols come from the OpenMP runtime that Paddle loads. A
        # second runtime in the process would ignore Paddle's thread setting.
        _run(
            [cxx, "-shared", "-Wl,-O1,--gc-sections", *map(str, objects), "-o", str(unfinished)]
            + [f"-L{folder}" for folder in extension.library_dirs]
            + list(extension.extra_link_args)
        )
        os.replace(unfinished, library)
    return library


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
        raise BuildError(
            f"paddle_dcn: the C++ compiler failed\n{' '.join(command)}\n{process.stderr}"
        )
    if process.stderr:
        print(process.stderr)
