"""The command line, ``python -m paddle_dcn <command>``: each command is a module."""

from __future__ import annotations

import argparse
import sys

from . import bench, info, migrate

_COMMANDS = (bench, info, migrate)


def main() -> int:
    """Parse the command line and run the command."""
    parser = argparse.ArgumentParser(prog="python -m paddle_dcn")
    commands = parser.add_subparsers(required=True, metavar="command")
    for module in _COMMANDS:
        summary = module.__doc__.splitlines()[0]
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(main=module.main)
    arguments = parser.parse_args()
    return arguments.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
