"""Builds the CPU kernels alone: for this processor or emulated, plain or under a sanitizer."""

from __future__ import annotations

from pathlib import Path

from benchmarks.kernel_library import KERNELS, compile_cached, cpu_flags, cpu_sources
from tests.support.kernel_jobs import SANITIZERS
from tests.support.process import ROOT

HERE = Path(__file__).resolve().parent
BUILDS = ROOT / "build" / "cpu_kernels"


def flags_and_headers(emulated: bool, kernels: Path) -> tuple[list[str], list[Path]]:
    """What every source is compiled with, and all that it may include."""
    flags = [*cpu_flags(), "-O1", "-g1", "-pthread", f"-I{kernels}"]
    headers = [*kernels.glob("*.h"), *kernels.glob("cpu/*.h")]
    if emulated:
        flags.append(f'-DDCN_CPU_EMULATION="{HERE / "instructions.h"}"')
        headers.append(HERE / "instructions.h")
    return flags, headers


def build(
    emulated: bool, sanitizer: str = "", engines: tuple[str, ...] = (), kernels: Path = KERNELS
) -> Path:
    """Compile the CPU kernels of the folder `kernels`, of which `engines` under the sanitizer.

    Emulated, every engine runs on any x86 processor: what only some have is plain C++, see
    instructions.h.
    """
    flags, headers = flags_and_headers(emulated, kernels)
    extra = SANITIZERS[sanitizer].flags if sanitizer else []

    def unit(source: Path) -> tuple[Path, list[str]]:
        engine = source.stem.removeprefix("engine_")
        return source, flags + (extra if engine == source.stem or engine in engines else [])

    units = [unit(source) for source in sorted(kernels.glob("cpu/*.cc"))]
    if sanitizer:
        units.append(unit(HERE / "openmp.cc"))
    return compile_cached(BUILDS, "kernels", units, headers, ["-shared", *extra, "-ldl"])


def build_parts(
    engine: str,
    emulated: bool,
    sanitizer: str = "",
    kernels: Path = KERNELS,
    folder: Path = BUILDS,
) -> Path:
    """Compile the tests of an engine's parts, with threads on a runtime of their own."""
    flags, headers = flags_and_headers(emulated, kernels)
    extra = SANITIZERS[sanitizer].flags if sanitizer else []
    # What the engine's own file defines before it includes the kernels.
    text = (kernels / "cpu" / f"engine_{engine}.cc").read_text()
    lines = [line.split() for line in text.splitlines() if line.startswith("#define ")]
    defines = [f"-D{name}={''.join(value)}" for _, name, *value in lines]
    sources = [kernels / "cpu" / "threads.cc", HERE / "openmp.cc"]
    units = [(HERE / "parts.cc", [*flags, *extra, *defines])]
    units += [(source, [*flags, *extra]) for source in sources]
    return compile_cached(
        folder, f"parts_{engine}", units, headers, ["-rdynamic", "-pthread", *extra, "-ldl"]
    )


def build_program(source: Path) -> Path:
    """Compile a program that uses the kernel library, with all its engines emulated."""
    flags, headers = flags_and_headers(True, KERNELS)
    units = [(path, flags) for path in cpu_sources()]
    units.append((source, [*flags, f"-I{KERNELS.parent}"]))
    return compile_cached(BUILDS, source.stem, units, headers, ["-pthread", "-ldl"])
