"""Compiles CUDA kernels with NVRTC of CUDA 12, for chips that no later compiler has code for."""

from __future__ import annotations

import ctypes
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PACKAGES = "nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12 nvidia-cuda-cccl-cu12"

# Headers of the C++ library, of which NVRTC has none, from CUDA's.
_HEADERS = {
    name: f"#include <cuda/std/{name}>\nnamespace std {{ using namespace cuda::std; }}\n"
    "using namespace cuda::std;\n"
    for name in ("cstddef", "cstdint", "limits", "numeric", "type_traits")
}
# Of the host's functions, which are not compiled, NVRTC wants declarations all the same.
_RUNTIME = """#include <cuda_runtime.h>
cudaError_t cudaGetDevice(int*);
cudaError_t cudaDeviceGetAttribute(int*, cudaDeviceAttr, int);
cudaError_t cudaGetLastError();
cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t);
"""
_HEADERS["algorithm"] = "#include <cuda/std/__algorithm_>\n"


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec("nvidia")
    for root in spec.submodule_search_locations if spec else ():
        if Path(root, package).is_dir():
            return Path(root, package)
    raise ModuleNotFoundError(f"pip install {PACKAGES}")


class Compiler:
    """NVRTC with the headers of the same CUDA. Raises ModuleNotFoundError without the PACKAGES."""

    def __init__(self) -> None:
        includes = [_folder(name) / "include" for name in ("cuda_runtime", "cuda_cccl")]
        self._options = [
            "-std=c++17",
            "-default-device",
            "-Ofc=max",  # how well they are optimised is not looked at
            "-diag-suppress=1097",
            *(f"-I{path}" for path in includes),
        ]
        self._library = ctypes.CDLL(str(_folder("cuda_nvrtc") / "lib" / "libnvrtc.so.12"))

    def compile(self, headers: list[Path], kernels: list[str], architecture: str) -> None:
        """Compile the kernels with these names, of templates or not, that the headers define.

        Raises RuntimeError with the compiler's words where it warns.
        """
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda part: self._compile(headers, part, architecture),
                          (kernels[::2], kernels[1::2])))  # fmt: skip

    def _compile(self, headers: list[Path], kernels: list[str], architecture: str) -> None:
        library, program = self._library, ctypes.c_void_p()

        def strings(values):
            return (ctypes.c_char_p * len(values))(*(value.encode() for value in values))

        def log() -> str:
            size = ctypes.c_size_t()
            library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            text = ctypes.create_string_buffer(size.value)
            library.nvrtcGetProgramLog(program, text)
            return text.value.decode()

        def require(error: int) -> None:
            if error:
                raise RuntimeError(f"NVRTC: error {error}\n{log() if program else ''}")

        source = _RUNTIME + "".join(f'#include "{header}"\n' for header in headers)
        options = [*self._options, f"-arch={architecture}"]
        names = list(_HEADERS)
        require(
            library.nvrtcCreateProgram(
                ctypes.byref(program),
                source.encode(),
                b"kernels.cu",
                len(names),
                strings([_HEADERS[name] for name in names]),
                strings(names),
            )
        )
        try:
            for name in kernels:
                require(library.nvrtcAddNameExpression(program, name.encode()))
            require(library.nvrtcCompileProgram(program, len(options), strings(options)))
            words = [line for line in log().splitlines() if "warning" in line]
            if any("Architectures prior to" not in line for line in words):
                raise RuntimeError(log())
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))
