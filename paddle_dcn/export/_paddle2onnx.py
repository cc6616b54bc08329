"""Runs paddle2onnx: a script for a process of its own, which paddle2onnx may end.

    python _paddle2onnx.py OPSET PREFIX...

For each PREFIX it makes `PREFIX.onnx` of `PREFIX.json` and `PREFIX.pdiparams`, in a fork that says
why not in `PREFIX.log`.
"""

import os
import sys

import paddle2onnx
import paddle2onnx.utils


def convert(prefix: str, opset: int) -> None:
    """Write one ONNX file."""
    model = paddle2onnx.export(
        f"{prefix}.json",
        f"{prefix}.pdiparams",
        opset_version=opset,
        optimize_tool="none",  # the default installs packages
    )
    with open(f"{prefix}.onnx", "wb") as file:
        file.write(model)


def main(opset: str, *prefixes: str) -> None:
    """Convert each model in a fork, so that one that ends its process ends no other."""
    for prefix in prefixes:
        child = os.fork()
        if child == 0:
            log = os.open(f"{prefix}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            print("known:", *paddle2onnx.utils.get_all_supported_operators_pir(), flush=True)
            try:
                convert(prefix, int(opset))
            finally:
                sys.stdout.flush()
                os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
