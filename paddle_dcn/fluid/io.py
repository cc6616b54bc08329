"""`fluid.io` of Paddle 1.x: models and parameters in files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import paddle

from ._moved import module_getattr

__all__ = [
    "load_inference_model",
    "load_params",
    "save_inference_model",
    "save_params",
]


def save_inference_model(
    dirname: str,
    feeded_var_names: str | Sequence[str],
    target_vars: Any,
    executor: Any,
    main_program: Any = None,
    model_filename: str | None = None,
    params_filename: str | None = None,
    export_for_deployment: bool = True,
    program_only: bool = False,
) -> None:
    """Write the part of a program that computes `target_vars`, and its parameters, to a folder.

    The files are current Paddle's: `<model_filename>.json` (Paddle 2: `.pdmodel`) and
    `<model_filename>.pdiparams`, which `paddle.static.load_inference_model` and `paddle.inference`
    read too (after `import paddle_dcn`, where the program has a deformable convolution). Paddle 1.x
    returned the names of the results, which in Paddle 3 have none.

    Args:
        dirname: The folder; it is created if need be.
        feeded_var_names: Name or names of the inputs.
        target_vars: Result or results.
        executor: The executor that ran the startup program.
        main_program: The program; None for the default one.
        model_filename: Name of both files; None is `__model__`.
        params_filename: For the sake of Paddle 1.x's scripts; the parameters lie by the program.
        export_for_deployment: For the sake of Paddle 1.x's scripts.
        program_only: For the sake of Paddle 1.x's scripts.

    Raises:
        ValueError: a name that no input of the program has.
    """
    program = main_program or paddle.static.default_main_program()
    names = [feeded_var_names] if isinstance(feeded_var_names, str) else feeded_var_names
    paddle.static.save_inference_model(
        _prefix(dirname, model_filename),
        [_input(program, name) for name in names],
        target_vars,
        executor,
        program=program,
    )


def load_inference_model(
    dirname: str,
    executor: Any,
    model_filename: str | None = None,
    params_filename: str | None = None,
) -> list[Any]:
    """Read what :func:`save_inference_model` wrote.

    Args:
        dirname: The folder.
        executor: An executor of the device that the parameters are read to.
        model_filename: As it was given when the model was saved.
        params_filename: For the sake of Paddle 1.x's scripts; the parameters lie by the program.

    Returns:
        The program, the names of its inputs, and its results.

    Raises:
        ValueError: there is no program that this Paddle can read. Of what older ones wrote, the
            parameters alone can be read, by :func:`load_params`.
    """
    prefix = _prefix(dirname, model_filename)
    if os.path.exists(prefix):  # Paddle 1.x wrote the program under its bare name
        raise ValueError(
            f"dirname: expected a model of current Paddle, got one of Paddle 1.x in {dirname!r}; "
            "build its program and read the parameters by paddle_dcn.fluid.io.load_params"
        )
    try:
        return paddle.static.load_inference_model(prefix, executor)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            "dirname: expected a model of current Paddle, got none that it can read in "
            f"{dirname!r} under the name {os.path.basename(prefix)!r}; parameters of older models "
            "are read by paddle_dcn.fluid.io.load_params"
        ) from error


def save_params(
    executor: Any, dirname: str, main_program: Any = None, filename: str | None = None
) -> None:
    """Write a program's parameters to a folder, in the format that every Paddle reads.

    Args:
        executor: The executor that ran the startup program.
        dirname: The folder; it is created if need be.
        main_program: The program; None for the default one.
        filename: A file for all parameters; None for a file each, called as the parameter is.
    """
    program = main_program or paddle.static.default_main_program()
    parameters = program.global_block().all_parameters()
    paddle.static.save_vars(executor, dirname, program, vars=parameters, filename=filename)


def load_params(
    executor: Any, dirname: str, main_program: Any = None, filename: str | None = None
) -> None:
    """Read a program's parameters from a folder.

    Reads what :func:`save_params` writes, and the parameters that `save_params`,
    `save_persistables` and `save_inference_model` of Paddle 1.x and 2.x wrote.

    Args:
        executor: The executor that ran the startup program.
        dirname: The folder.
        main_program: The program; None for the default one.
        filename: The file of all parameters; None if there is a file each, called as the parameter
            is. Other files in the folder do not matter.

    Raises:
        RuntimeError: the startup program has not run, or there is no file for a parameter.
        ValueError: a parameter has another shape in the file than in the program.
    """
    program = main_program or paddle.static.default_main_program()
    parameters = program.global_block().all_parameters()
    variables = {p.name: paddle.static.global_scope().find_var(p.name) for p in parameters}
    for name, variable in variables.items():
        if variable is None:
            raise RuntimeError(f"{name}: there is no such variable yet, run the startup program")
    paddle.static.load_vars(executor, dirname, program, vars=parameters, filename=filename)
    for parameter in parameters:  # Paddle takes over whatever shape the file has
        shape = variables[parameter.name].get_tensor().shape()
        if shape != [*parameter.shape]:
            raise ValueError(
                f"{parameter.name}: expected shape {[*parameter.shape]}, got {shape} in {dirname!r}"
            )


def _prefix(dirname: str, model_filename: str | None) -> str:
    return os.path.join(dirname, model_filename or "__model__")


def _input(program: Any, name: str) -> Any:
    """Return the input of a program that has this name."""
    if hasattr(program, "get_output_value_by_name"):
        found = program.get_output_value_by_name(name)
        found = found if found.initialized() else None
    else:  # Paddle 2.6
        found = program.global_block().vars.get(name)
    if found is None:
        raise ValueError(f"feeded_var_names: expected inputs of the program, got {name!r}")
    return found


__getattr__ = module_getattr(__name__)
