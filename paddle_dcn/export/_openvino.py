"""Makes an OpenVINO IR of a program, with its DeformableConvolution-8."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset8
from openvino.frontend.onnx import ConversionExtension

from . import _files, _forms, _onnx
from ._programs import Program
from ._words import Refusal, gist, refusing


def write(program: Program, path: Path) -> None:
    """Write `<path>.xml` and `<path>.bin`."""
    core = openvino.Core()
    core.add_extension(ConversionExtension("DeformConv", _convert))
    with _files.temporary_folder() as scratch:
        file = scratch / "model.onnx"
        file.write_bytes(_onnx.convert(program, _forms.deform_conv, 19))
        try:
            model = core.read_model(file)
        except RuntimeError as error:
            missing = re.search(r"No conversion rule found for operations: (.*)", str(error))
            why = f"it has no {missing[1]}" if missing else gist(error)
            raise Refusal("OpenVINO cannot convert", why) from error
        for number, operation in enumerate(model.get_ordered_ops()):
            # OpenVINO counts, in its names, all operations that the process has ever made.
            kind = operation.get_type_name()
            if re.fullmatch(rf"{kind}_\d+", operation.get_friendly_name()):
                operation.set_friendly_name(f"{kind}_{number}")
        openvino.save_model(model, f"{path}.xml", compress_to_fp16=False)


def load(path: Path) -> Callable[[dict], list]:
    """Return what runs a written IR, as OpenVINO without any extension reads it."""
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = refusing(
        "OpenVINO cannot load", openvino.Core().compile_model, f"{path}.xml", "CPU", precise
    )

    def run(feed: dict) -> list:
        results = refusing("OpenVINO cannot run", compiled, feed)
        return [results[output] for output in compiled.outputs]

    return run


def _convert(node: Any) -> list:
    """Build the operator for an ONNX DeformConv."""
    inputs = [node.get_input(index) for index in range(node.get_input_size())]
    images, weight, offset, bias, mask = inputs
    pads = node.get_attribute("pads")
    out = opset8.deformable_convolution(
        images,
        offset,
        weight,
        node.get_attribute("strides"),
        pads[:2],
        pads[2:],
        node.get_attribute("dilations"),
        mask,
        "EXPLICIT",
        node.get_attribute("group"),
        node.get_attribute("offset_group"),
        bilinear_interpolation_pad=True,
    )
    shape = opset8.constant([1, -1, 1, 1], np.int64)
    return opset8.add(out, opset8.reshape(bias, shape, False)).outputs()
