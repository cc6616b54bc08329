"""Lets `paddle.onnx.export` take models with deformable convolutions.

paddle2onnx, to which it hands a model, ends the process at this package's operator, and at Paddle's
where that has no mask.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import paddle

from . import _files

# The first version of ONNX's operators that has DeformConv.
_DEFORM_CONV = 19

# Of the configs those that choose what is saved.
_SAVING = ("output_spec", "with_hook", "input_names_after_prune", "skip_prune_program")


def install(convert: Callable) -> None:
    """Put `convert` under Paddle's name for the models that it is needed for."""
    original = paddle.onnx.export

    @functools.wraps(original)
    def export(
        layer: Any, path: str, input_spec: Any = None, opset_version: int = 9, **configs: Any
    ) -> None:
        with _files.temporary_folder() as scratch:
            model = scratch / "model"
            try:
                chosen = {name: configs[name] for name in _SAVING if name in configs}
                paddle.jit.save(layer, str(model), input_spec, **chosen)
            except Exception:
                deformable = False  # the original will say what is wrong
            else:
                programs = [*scratch.glob("model.json"), *scratch.glob("model.pdmodel")]
                deformable = any(
                    name in program.read_bytes()
                    for program in programs
                    for name in (b"paddle_dcn_v", b"deformable_conv")
                )
            if deformable:
                convert(model, path, "onnx", opset=max(opset_version, _DEFORM_CONV))
                return
        original(layer, path, input_spec, opset_version, **configs)

    paddle.onnx.export = export
