"""The command line, ``python -m paddle_dcn <command>``: each command is a module."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

_COMMANDS = {
    "convert": "Convert a saved model to a form for another runtime: Paddle, ONNX, OpenVINO.",
    "info": "Print versions, the instruction set and threads in use, and the library's origin.",
    "migrate": "Move the deformable convolutions in source files to this package.",
}


def main() -> int:
    """Parse the command line and run the command."""
    parser = argparse.ArgumentParser(prog="python -m paddle_dcn")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, summary in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name not in sys.argv[1:2]:
            continue  # not imported, as it may need what is missing
        try:
            module = import_module(f".{name}", __package__)
        except ModuleNotFoundError as error:
            command.error(f"{name} needs {error.name}, which is not installed")
        module.add_arguments(command)
        command.set_defaults(main=module.main)
    arguments = parser.parse_args()
    return arguments.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
