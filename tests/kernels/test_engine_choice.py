"""Which of the CPU's engines run on this processor, and which is chosen."""

import ctypes
from pathlib import Path

import pytest

from paddle_dcn import _library

AVX2 = {"avx2", "fma"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
# What Linux calls the instructions that each engine needs.
NEEDED = {
    "baseline": set(),
    "avx2": AVX2,
    "avx512": AVX512,
    "avx512_bf16": AVX512 | {"avx512_bf16"},
    "amx": AVX512 | {"avx512_bf16", "amx_bf16", "amx_tile"},
}
FLOAT16, BFLOAT16, FLOAT32, FLOAT64 = range(4)  # in the order of dcn::DataType


@pytest.fixture(scope="module")
def library():
    """The loaded library; fewer engines than NEEDED has if the compiler is old."""
    library = _library.HANDLE
    library.dcn_cpu_bfloat16_pays.argtypes = [ctypes.c_double]
    return library


def test_engines(library):
    names = _library.engines()
    assert names == [name for name in NEEDED if name in names]
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    for engine, name in enumerate(names):
        assert bool(library.dcn_cpu_engine_runs(engine)) == NEEDED[name].issubset(flags), name


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16, FLOAT32, FLOAT64])
def test_default_engine(library, dtype):
    running = [e for e in range(library.dcn_cpu_engines()) if library.dcn_cpu_engine_runs(e)]
    names = [library.dcn_cpu_engine_name(engine).decode() for engine in running]
    fast = {"avx512_bf16": set(), "amx": {FLOAT16, BFLOAT16, FLOAT32}}
    if library.dcn_cpu_bfloat16_pays(library.dcn_cpu_bfloat16_time()):
        fast["avx512_bf16"] = {BFLOAT16}
    wanted = [e for e, name in zip(running, names) if name not in fast or dtype in fast[name]]
    assert library.dcn_cpu_default_engine(dtype, -1) == wanted[-1]
    for limit in range(library.dcn_cpu_engines()):
        best = limit if limit in running else [e for e in wanted if e < limit][-1]
        assert library.dcn_cpu_default_engine(dtype, limit) == best


# Zen 4 runs the two instructions at the same rate, Zen 5 and Intel's processors one at half of it.
@pytest.mark.parametrize(
    ("time", "pays"),
    [(0.0, False), (0.8, True), (1.0, True), (1.3, True), (1.5, False), (2.0, False), (2.5, False)],
)
def test_rule_for_bfloat16(library, time, pays):
    assert bool(library.dcn_cpu_bfloat16_pays(time)) == pays


def test_bfloat16_is_measured_once(library):
    time = library.dcn_cpu_bfloat16_time()
    assert time == library.dcn_cpu_bfloat16_time()
    names = _library.engines()
    has = "avx512_bf16" in names and library.dcn_cpu_engine_runs(names.index("avx512_bf16"))
    assert 0.5 < time < 4 if has else time == 0
