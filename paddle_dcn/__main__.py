"""The command line, ``python -m paddle_dcn <command>``: each command is a module."""

from __future__ import annotations

import argparse
import os
import signal
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
        command.set_defaults(main=module.main, error=command.error)
    arguments = parser.parse_args()
    for name, value in vars(arguments).items():
        if "" in (value if isinstance(value, list) else [value]):  # a shell's unset variable
            arguments.error(f"{name}: expected some text, got none")
    if sys.stdout is None:
        arguments.error("standard output is closed")
    try:
        status = arguments.main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as behind `| head`
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):  # what they still hold is written at exit
            os.dup2(nowhere, stream.fileno())
        return 128 + signal.SIGPIPE
    return status


if __name__ == "__main__":
    sys.exit(main())
