"""Converts a saved model to a form for another runtime: this operator, Paddle's, ONNX, OpenVINO."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import export
from ._checks import dtype_name
from .export import _forms, _onednn, _programs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to the parser."""
    parser.add_argument("model", help="a folder with a saved model, or its path or prefix")
    parser.add_argument("--to", choices=export.TARGETS, help="what to make of it")
    parser.add_argument(
        "-o",
        "--out",
        help="the files to write, without suffix (default: the model's name and the target, such "
        "as model_onnx, in this folder)",
    )
    parser.add_argument("--opset", type=int, default=19, help="version of ONNX's operators")
    parser.add_argument(
        "--no-verify", action="store_true", help="do not run what is written beside the model"
    )
    parser.add_argument(
        "--no-fuse", action="store_true", help="for fast: keep to the operator that can be trained"
    )
    parser.add_argument(
        "--check", action="store_true", help="only tell what the model has; write nothing"
    )


def main(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if arguments.to is None and not arguments.check:
        arguments.error("--to is required without --check")
    model = Path(arguments.model)
    try:
        program_file, parameters = _programs.find(model)
        print(f"model: {program_file}, parameters: {parameters or 'none'}")
        if arguments.check:
            _check(_programs.read(program_file, parameters))
            return 0
        name = program_file.parent.resolve().name if model.is_dir() else program_file.stem
        out = arguments.out or f"{name}_{arguments.to}"
        done = export.convert(
            model,
            out,
            arguments.to,
            opset=arguments.opset,
            verify=not arguments.no_verify,
            fuse=not arguments.no_fuse,
        )
    except (ImportError, NotImplementedError, OSError, TypeError, ValueError) as error:
        print(f"not converted: {error}")
        return 1
    _list(done.layers)
    if any(done.fused.values()):
        parts = [f"{name} {count}" for name, count in done.fused.items() if count]
        print(f"fused for inference: {', '.join(parts)}")
    for file in done.files:
        print(f"wrote {file}, {file.stat().st_size / 1024:.0f} KiB")
    if done.difference is None:
        print("not verified")
    else:
        print(f"verified: outputs differ by {done.difference:.1e} of their largest value")
    _advise(done.refused_by_onednn)
    return 0


def _check(program: _programs.Program) -> None:
    for name, shape, dtype in program.inputs:
        print(f"input {name}: {[*shape]} {dtype}")
    for name, value in program.outputs.items():
        print(f"output {name}: {[*value.shape]} {dtype_name(value.dtype)}")
    _list(_forms.describe(program))
    _advise(_onednn.refused(program))


def _advise(refused: list[str]) -> None:
    if refused:
        print(_onednn.ADVICE)
    for operator in refused:
        print(f"  {operator}")


def _list(layers: list[str]) -> None:
    print(f"{len(layers)} deformable convolution{'s' * (len(layers) != 1)}")
    for layer in layers:
        print(f"  {layer}")
