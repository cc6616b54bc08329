"""Finds or builds the operators' library, loads it, and registers what it holds with Paddle."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import stat
import sys
import warnings
from pathlib import Path

from . import _build

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "No ccache found")  # nothing need be compiled
    from paddle.utils.cpp_extension import load_op_meta_info_and_register_op

PACKAGE = Path(__file__).resolve().parent
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def sources() -> Path:
    """Return the C++ sources' folder: inside an installed package, beside it in a checkout."""
    inside = PACKAGE / "_sources"
    return inside if inside.is_dir() else PACKAGE.parent / "custom_ops"


def _state(code: Path) -> str:
    """Return a digest of the C++ sources in a folder, and of how they are built."""
    digest = hashlib.sha256(_build.source_digest(code).encode())
    for variable in ("PADDLE_DCN_WITH_CUDA", "PADDLE_CUDA_ARCH_LIST", "CUDA_HOME"):
        digest.update(f"{variable}={os.environ.get(variable, '')}\n".encode())
    return digest.hexdigest()[:12]


def _cache() -> Path:
    """Return the folder for libraries built on import, one for each state of the sources."""
    variable = "PADDLE_DCN_CACHE"
    root = Path(os.environ.get(variable) or "~/.cache/paddle_dcn").expanduser()
    if not root.is_absolute():
        raise ValueError(f"{variable}: expected the absolute path of a folder, got {str(root)!r}")
    folder = root / _state(sources())
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for each, owners in ((root, (0, os.geteuid())), (folder, (os.geteuid(),))):
            status = each.stat()
            open_to_all = status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX
            if status.st_uid not in owners or open_to_all:
                raise _build.BuildError(
                    f"paddle_dcn: another user can write to {each}, and what is built there would "
                    f"be run: name a folder of your own in the environment variable {variable}"
                )
    except OSError as error:
        raise _build.BuildError(
            f"paddle_dcn: cannot build in {folder} ({error.strerror}): name another folder in "
            f"the environment variable {variable}"
        ) from None
    return folder


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_sound(path: Path, checksum: Path) -> bool:
    """Say whether a built library is there, nobody else's work, and whole."""
    if not path.is_file() or not checksum.is_file():
        return False
    status = path.lstat()
    private = status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_WRITE
    return private and checksum.read_text() == _digest(path)


def _find() -> tuple[Path, str]:
    """Return the library that fits the installed Paddle, built if need be, and its origin."""
    name = _build.library_name()
    if (PACKAGE / name).exists():
        if sources().parent == PACKAGE:
            return PACKAGE / name, "wheel"
        _warn_of_others(PACKAGE / name)
        return PACKAGE / name, "tree"
    if not sources().is_dir():
        raise _build.BuildError(
            f"paddle_dcn: {PACKAGE} has neither a library for Paddle {_build.paddle_version()} nor "
            "the sources of one: install the package into a folder; it cannot run from a zip file"
        )
    for folder in sys.path:  # an installed package whose sources those of this checkout are
        installed = Path(folder, PACKAGE.name)
        if (installed / name).exists() and _state(installed / "_sources") == _state(sources()):
            return installed / name, "wheel"
    folder = _cache()
    path, checksum = folder / name, folder / f"{name}.sha256"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may ask at once
        if not _is_sound(path, checksum):
            others = ", ".join(each.name for each in sorted(PACKAGE.glob("_paddle_dcn.*.so")))
            print(
                f"paddle_dcn: no library for Paddle {_build.paddle_version()} (found: "
                f"{others or 'none'}); building it in {folder}, once, which takes about a minute, "
                "with CUDA several ...",
                file=sys.stderr,
                flush=True,
            )
            _build.build(sources(), folder, folder / "objects")
            path.chmod(0o700)
            checksum.write_text(_digest(path))
    return path, "cache"


def _warn_of_others(path: Path) -> None:
    """Say that a checkout's library was not built from its sources, if any, as they are now."""
    if not sources().is_dir():
        return
    if bytes.fromhex(_build.source_digest(sources())) not in path.read_bytes():
        warnings.warn(
            f"paddle_dcn: {path} was built from other sources than {sources()} holds now: run "
            "`python setup.py build_ext --inplace` to build it anew",
            RuntimeWarning,
            stacklevel=2,
        )


def _refuse_a_second(path: Path) -> None:
    """Refuse to load a copy beside one that is loaded: Paddle would end the process."""
    try:
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        mapped = line[line.find("/") :]
        if Path(mapped).name.startswith("_paddle_dcn.") and mapped != str(path.resolve()):
            raise ImportError(
                f"paddle_dcn: cannot load {path}, as this process has the operators already, "
                f"loaded from {mapped}"
            )


PATH, ORIGIN = _find()
_refuse_a_second(PATH)
load_op_meta_info_and_register_op(str(PATH))

# For `custom_ops/paddle/info.cc` and `kernels/dcn.h`.
HANDLE = ctypes.CDLL(str(PATH))
for _name in (
    "dcn_cpu_engine_name",
    "paddle_dcn_built_for",
    "paddle_dcn_instruction_set",
    "paddle_dcn_bfloat16_instruction_set",
):
    getattr(HANDLE, _name).restype = ctypes.c_char_p
HANDLE.dcn_cpu_bfloat16_time.restype = ctypes.c_double


def engines() -> list[str]:
    """Return the names of the CPU kernels' instruction sets; each includes those before it."""
    return [HANDLE.dcn_cpu_engine_name(i).decode() for i in range(HANDLE.dcn_cpu_engines())]


def _check_limit() -> None:
    """Refuse a wrong name here: the kernels would take it for no limit at all."""
    variable = "PADDLE_DCN_INSTRUCTION_SET"
    name = os.environ.get(variable)
    if name and name not in engines():
        raise ValueError(f"{variable}: expected one of {', '.join(engines())}, got {name!r}")


_check_limit()
