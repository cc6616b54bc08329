"""Finds, builds or loads the operators' library, and makes the one call of the raw operators."""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from pathlib import Path

import paddle
from paddle import Tensor
from paddle.base import core
from paddle.base.framework import OpProtoHolder
from paddle.base.layer_helper import LayerHelper
from paddle.utils.cpp_extension import load_op_meta_info_and_register_op

from . import _build
from ._checks import Call, Inference

PACKAGE = Path(__file__).resolve().parent

# What the kernels choose from when they run: each includes those before it.
INSTRUCTION_SETS = ("baseline", "avx2", "avx512", "avx512_bf16", "amx")


def _sources() -> Path:
    """Return the C++ sources' folder: inside an installed package, beside it in a checkout."""
    inside = PACKAGE / "_sources"
    return inside if inside.is_dir() else PACKAGE.parent / "custom_ops"


def _cache() -> Path:
    """Return the folder for libraries built on import, one for each state of the sources."""
    folder = Path(os.environ.get("PADDLE_DCN_CACHE", "~/.cache/paddle_dcn")).expanduser()
    digest = hashlib.sha256()
    root = _sources()
    for path in sorted(p for p in root.rglob("*") if p.suffix in {".h", ".cc", ".cu", ".cuh"}):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return folder / digest.hexdigest()[:12]


def _find() -> tuple[Path, str]:
    """Return the library that fits the installed Paddle, built if need be, and its origin."""
    name = _build.library_name()
    if (PACKAGE / name).exists():
        return PACKAGE / name, "wheel" if _sources().parent == PACKAGE else "tree"
    folder = _cache()
    if not (folder / name).exists():
        others = ", ".join(path.name for path in sorted(PACKAGE.glob("_paddle_dcn.*.so")))
        print(
            f"paddle_dcn: no library for Paddle {_build.paddle_version()} (found: "
            f"{others or 'none'}); building it in {folder}, once, which takes about a minute ...",
            file=sys.stderr,
            flush=True,
        )
        try:
            _build.build(_sources(), folder, folder / "objects")
        except OSError as error:
            raise _build.BuildError(
                f"paddle_dcn: cannot build in {folder} ({error.strerror}): name another folder in "
                "the environment variable PADDLE_DCN_CACHE"
            ) from None
    return folder / name, "cache"


def _check_instruction_set() -> None:
    """Refuse a wrong name here: the library would take it for no limit at all."""
    variable = "PADDLE_DCN_INSTRUCTION_SET"
    name = os.environ.get(variable)
    if name and name not in INSTRUCTION_SETS:
        raise ValueError(f"{variable}: expected one of {', '.join(INSTRUCTION_SETS)}, got {name!r}")


_check_instruction_set()
PATH, ORIGIN = _find()
load_op_meta_info_and_register_op(str(PATH))
_HANDLE = ctypes.CDLL(str(PATH))


def library() -> ctypes.CDLL:
    """Return the loaded library, for ``custom_ops/paddle/info.cc`` and ``kernels/dcn.h``."""
    for name in ("built_for", "instruction_set", "bfloat16_instruction_set"):
        getattr(_HANDLE, f"paddle_dcn_{name}").restype = ctypes.c_char_p
    _HANDLE.dcn_cpu_bfloat16_time.restype = ctypes.c_double
    return _HANDLE


def _append(name: str, *arguments):
    """Add the operator to a program of Paddle 2's kind, whose operators are called by names."""
    proto = OpProtoHolder.instance().get_op_proto(name)
    helper = LayerHelper(name)
    out = helper.create_variable_for_type_inference(arguments[0].dtype)
    inputs = {}
    for key, tensor in zip(proto.inputs, arguments):
        # Paddle 2 cannot build the backward of a custom operator with an input that stops the
        # gradient, so it gets a copy that does not.
        inputs[key.name] = paddle.assign(tensor) if tensor.stop_gradient else tensor
        inputs[key.name].stop_gradient = False
    attributes = zip(proto.attrs, arguments[len(inputs) :])
    attrs = {key.name: value for key, value in attributes}
    helper.append_op(type=name, inputs=inputs, outputs={"out": out}, attrs=attrs)
    return out


# Paddle 2 has the function elsewhere.
_run_custom_op = getattr(paddle._C_ops, "_run_custom_op", None) or core.eager._run_custom_op


def run_raw(name: str, *arguments):
    """Call an operator with its inputs and attributes in order, in whatever mode Paddle is."""
    if paddle.in_dynamic_mode() or paddle.framework.in_pir_mode():
        return _run_custom_op(name, *arguments)[0]
    return _append(name, *arguments)  # where Paddle 3's function would end the process


def deform_conv2d(call: Call) -> Tensor:
    """Run the operator, or add it to the program that is being built."""
    dynamic = paddle.in_dynamic_mode()
    x, offset, mask, weight, bias, attributes = call
    # Which gradients backward computes: a bit for each tensor of the call, by its place in it.
    gradient_mask = 0
    for bit, tensor in zip((1, 2, 4, 8, 16), call):
        # A program may change stop_gradient after this call, so there every gradient is computed.
        if tensor is not None and not (dynamic and tensor.stop_gradient):
            gradient_mask |= bit
    bias = _no_bias(weight) if bias is None else bias
    if mask is None:
        return run_raw("paddle_dcn_v1", x, offset, weight, bias, *attributes, gradient_mask)
    return run_raw("paddle_dcn_v2", x, offset, mask, weight, bias, *attributes, gradient_mask)


def infer(call: Call, inference: Inference) -> Tensor:
    """Add the operator for inference, which has no gradients, to the program, or run it."""
    x, offset, mask, weight, bias, attributes = call
    bias = _no_bias(weight) if bias is None else bias
    inputs = (x, offset, mask, weight, bias)
    return run_raw("paddle_dcn_inference", *inputs, *attributes, 0, *inference)


def _no_bias(weight: Tensor) -> Tensor:
    if paddle.in_dynamic_mode():  # several times faster than paddle.zeros
        return paddle._C_ops.full([weight.shape[0]], 0.0, weight.dtype, weight.place)
    filters = weight.shape[0]  # a program may leave it open
    shape = [filters] if filters >= 0 else paddle.shape(weight)[:1]
    return paddle.zeros(shape, weight.dtype)
