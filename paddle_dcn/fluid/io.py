"""`fluid.io` of Paddle 1.x: models and parameters in files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import paddle

from ..static import _operators
from . import _programs
from ._flags import check_flags
from ._moved import module_getattr
from .executor import CompiledProgram
from .reader import DataLoader, PyReader

__all__ = [
    "DataLoader",
    "PyReader",
    "is_parameter",
    "is_persistable",
    "load",
    "load_inference_model",
    "load_params",
    "load_persistables",
    "load_program_state",
    "load_vars",
    "save_inference_model",
    "save_params",
    "save_persistables",
    "save_vars",
]


@check_flags
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
) -> list[str]:
    """Write the part of a program that computes `target_vars`, and its parameters, to a folder.

    The files are current Paddle's: `<model_filename>.json` (Paddle 2: `.pdmodel`) and
    `<model_filename>.pdiparams`, which `paddle.static.load_inference_model` and `paddle.inference`
    read too (after `import paddle_dcn`, where the program has a deformable convolution).

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

    Returns:
        The names of the results in the program that was saved.

    Raises:
        ValueError: a name that no input of the program has.
    """
    program, _ = _chosen(main_program, (), None)
    names = [feeded_var_names] if isinstance(feeded_var_names, str) else feeded_var_names
    targets = target_vars if isinstance(target_vars, (list, tuple)) else [target_vars]
    targets = [_programs.same_in(program, target) for target in targets]
    paddle.static.save_inference_model(
        _prefix(dirname, model_filename),
        [_input(program, name) for name in names],
        targets,
        executor,
        program=program,
    )
    return [target.name for target in targets]


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
            "convert it by paddle_dcn.export.convert, or build its program and read the parameters "
            "by paddle_dcn.fluid.io.load_params"
        )
    try:
        return paddle.static.load_inference_model(prefix, executor)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            "dirname: expected a model of current Paddle, got none that it can read in "
            f"{dirname!r} under the name {os.path.basename(prefix)!r}; parameters of older models "
            "are read by paddle_dcn.fluid.io.load_params"
        ) from error


def save_vars(
    executor: Any,
    dirname: str,
    main_program: Any = None,
    vars: Any = None,
    predicate: Callable[[Any], bool] | None = None,
    filename: str | None = None,
) -> None:
    """Write variables of a program to a folder, in the format that every Paddle reads.

    Args:
        executor: The executor that ran the startup program.
        dirname: The folder; it is created if need be.
        main_program: The program; None for the default one.
        vars: The variables; None for those that persist between runs.
        predicate: A function that chooses among these, where `vars` is None.
        filename: A file for all variables; None for a file each, called as the variable is.
    """
    program, variables = _chosen(main_program, vars, predicate)
    paddle.static.save_vars(executor, dirname, program, vars=variables, filename=filename)


def load_vars(
    executor: Any,
    dirname: str,
    main_program: Any = None,
    vars: Any = None,
    predicate: Callable[[Any], bool] | None = None,
    filename: str | None = None,
) -> None:
    """Read variables of a program from a folder.

    Reads what :func:`save_vars` writes, and what the functions of this name, `save_params`,
    `save_persistables` and `save_inference_model` of Paddle 1.x and 2.x wrote.

    Args:
        executor: The executor that ran the startup program.
        dirname: The folder.
        main_program: The program; None for the default one.
        vars: The variables; None for those that persist between runs.
        predicate: A function that chooses among these, where `vars` is None.
        filename: The file of all variables; None if there is a file each, called as the variable
            is. Other files in the folder do not matter.

    Raises:
        RuntimeError: the startup program has not run, or there is no file for a variable.
        ValueError: a variable has another shape in the file than in the program.
    """
    program, variables = _chosen(main_program, vars, predicate)
    found = {v.name: paddle.static.global_scope().find_var(v.name) for v in variables}
    for name, variable in found.items():
        if variable is None:
            raise RuntimeError(f"{name}: there is no such variable yet, run the startup program")
    paddle.static.load_vars(executor, dirname, program, vars=variables, filename=filename)
    for variable in variables:  # Paddle takes over whatever shape the file has
        shape = found[variable.name].get_tensor().shape()
        if shape != [*variable.shape]:
            raise ValueError(
                f"{variable.name}: expected shape {[*variable.shape]}, got {shape} in {dirname!r}"
            )


def save_params(
    executor: Any, dirname: str, main_program: Any = None, filename: str | None = None
) -> None:
    """Write a program's parameters to a folder; see :func:`save_vars`."""
    save_vars(executor, dirname, main_program, filename=filename, predicate=is_parameter)


def load_params(
    executor: Any, dirname: str, main_program: Any = None, filename: str | None = None
) -> None:
    """Read a program's parameters from a folder; see :func:`load_vars`."""
    load_vars(executor, dirname, main_program, filename=filename, predicate=is_parameter)


def save_persistables(
    executor: Any, dirname: str, main_program: Any = None, filename: str | None = None
) -> None:
    """Write a program's parameters and what its optimizer keeps to a folder.

    See :func:`save_vars`.
    """
    save_vars(executor, dirname, main_program, filename=filename)


def load_persistables(
    executor: Any, dirname: str, main_program: Any = None, filename: str | None = None
) -> None:
    """Read a program's parameters and what its optimizer keeps from a folder.

    See :func:`load_vars`.
    """
    load_vars(executor, dirname, main_program, filename=filename)


def load(program: Any, model_path: str, executor: Any = None, var_list: Any = None) -> None:
    """Read what `save` wrote, or the files that :func:`load_vars` reads.

    Args:
        program: The program.
        model_path: What `save` was given; else a folder with a file for each variable, or one file
            with those of `var_list`.
        executor: The executor that ran the startup program.
        var_list: The variables; None is all that persist between runs and, in a folder, have a
            file.

    Raises:
        RuntimeError: as :func:`load_vars`.
        ValueError: one file without `var_list`, or as :func:`load_vars`.
    """
    if _is_saved_state(model_path):
        paddle.static.load(program, model_path, executor, var_list)
    elif os.path.isdir(model_path):
        names = os.listdir(model_path)
        variables = var_list or [v for v in _programs.persistables(program) if v.name in names]
        load_vars(executor, model_path, program, variables)
    else:
        if var_list is None:
            raise ValueError(f"var_list: expected the variables in {model_path!r}, got None")
        folder, name = os.path.split(model_path)
        load_vars(executor, folder, program, var_list, filename=name)


def load_program_state(model_path: str, var_list: Any = None) -> dict[str, Any]:
    """Return the arrays, by the variables' names, that :func:`load` reads; for `set_program_state`.

    Without `var_list` those of all files in a folder.
    """
    if _is_saved_state(model_path) or _operators.in_old_program():
        return paddle.static.load_program_state(model_path, var_list)
    with paddle.pir_utils.OldIrGuard():  # in other programs Paddle's function reads nothing
        if var_list is not None:
            block, convert = paddle.static.Program().global_block(), paddle.base.data_feeder
            var_list = [
                block.create_var(
                    name=item.name, shape=[*item.shape], dtype=convert.convert_dtype(item.dtype)
                )
                for item in var_list
            ]
        return paddle.static.load_program_state(model_path, var_list)


def _is_saved_state(path: str) -> bool:
    """Tell whether this is the path of a state, as `paddle.static.save` wrote it."""
    prefix = path[: -len(".pdparams")] if path.endswith(".pdparams") else path
    return os.path.exists(f"{prefix}.pdparams") or not os.path.exists(path)


def is_parameter(var: Any) -> bool:
    """Tell whether a variable is a parameter."""
    return isinstance(var, paddle.base.framework.Parameter) or getattr(var, "is_parameter", False)


def is_persistable(var: Any) -> bool:
    """Tell whether a variable persists between runs."""
    return bool(var.persistable)


def _chosen(main_program: Any, variables: Any, predicate: Any) -> tuple[Any, list[Any]]:
    """Return the program, and its variables that were chosen."""
    program = main_program or paddle.static.default_main_program()
    if isinstance(program, CompiledProgram):
        program = program.program
    if variables is None:
        kept = _programs.persistables(program)
        variables = kept if predicate is None else filter(predicate, kept)
    return program, list(variables)


def _prefix(dirname: str, model_filename: str | None) -> str:
    return os.path.join(dirname, model_filename or "__model__")


def _input(program: Any, name: str) -> Any:
    """Return the input of a program that has this name."""
    pir = _programs.is_pir(program)
    found = (_programs.inputs(program) if pir else program.global_block().vars).get(name)
    if found is None:
        raise ValueError(f"feeded_var_names: expected inputs of the program, got {name!r}")
    return found


__getattr__ = module_getattr(__name__)
