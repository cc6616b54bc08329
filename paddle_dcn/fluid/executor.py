"""`fluid.Executor` of Paddle 1.x: results by name, compiled programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from . import _programs
from ._flags import check_flags
from ._moved import MOVED, module_getattr

__all__ = [
    "CompiledProgram",
    "ExecutionStrategy",
    "Executor",
    "ParallelExecutor",
    *MOVED["fluid.executor"],
]

_ARRAYS = {"bfloat16": "uint16"}  # NumPy's dtypes of those that it does not have


class CompiledProgram:
    """A program, as Paddle 1.x compiled it; `Executor` runs it as it is."""

    def __init__(self, program_or_graph: Any, build_strategy: Any = None) -> None:
        """Take a program. `build_strategy` is not used."""
        self.program = program_or_graph

    def with_data_parallel(
        self,
        loss_name: str | None = None,
        build_strategy: Any = None,
        exec_strategy: Any = None,
        share_vars_from: Any = None,
        places: Any = None,
    ) -> CompiledProgram:
        """Return the program itself, for one device.

        Raises:
            ValueError: more than one of `places`. Current Paddle trains on several devices with a
                process each: `paddle.distributed.launch`.
        """
        if isinstance(places, (list, tuple)) and len(places) > 1:
            raise ValueError(f"places: expected one device, got {len(places)}")
        return self


class ExecutionStrategy:
    """Settings that Paddle 1.x gave to compiled programs; they can be set, and do nothing."""


class Executor(paddle.static.Executor):
    """`paddle.static.Executor` whose results may be given by name.

    A tensor of another program stands for the one of the same name in the program that is run, as
    in programs that were cloned with `for_test=True`.

    Examples:
        >>> import numpy as np
        >>> import paddle
        >>> import paddle_dcn.fluid as fluid
        >>> paddle.enable_static()
        >>> with fluid.program_guard(fluid.Program(), fluid.Program()):
        ...     x = fluid.layers.data("x", [2])
        ...     loss = fluid.layers.mean(x)
        ...     executor = fluid.Executor(fluid.CPUPlace())
        ...     feed = {"x": np.array([[1, 2]], "float32")}
        ...     executor.run(feed=feed, fetch_list=[loss.name])
        [array([1.5], dtype=float32)]
        >>> paddle.disable_static()
    """

    @check_flags
    def run(
        self,
        program: Any = None,
        feed: Any = None,
        fetch_list: Any = None,
        feed_var_name: str = "feed",
        fetch_var_name: str = "fetch",
        scope: Any = None,
        return_numpy: bool = True,
        use_program_cache: bool = False,
        return_merged: bool = True,
        use_prune: bool = False,
    ) -> Any:
        """Run a program.

        Args:
            program: The program; None is the default one.
            feed: Arrays by the names of inputs, or a list with them, as loaders give; None takes
                the next batches of the program's loaders that were started.
            fetch_list: The results that are wanted: tensors, or their names.
            feed_var_name: As in Paddle.
            fetch_var_name: As in Paddle.
            scope: Where variables are kept; None is the global scope.
            return_numpy: Return NumPy arrays.
            use_program_cache: As in Paddle.
            return_merged: Not used: there is one device.
            use_prune: As in Paddle.

        Returns:
            The results.

        Raises:
            ValueError: a name that no tensor of the program has; an input that is not fed, or of
                another shape or dtype than the program says.
            fluid.core.EOFException: a loader of the program has no batch left.
        """
        if isinstance(program, CompiledProgram):
            program = program.program
        target = paddle.static.default_main_program() if program is None else program
        if fetch_list is not None:
            wanted = fetch_list if isinstance(fetch_list, (list, tuple)) else [fetch_list]
            fetch_list = [_result(target, item) for item in wanted]
        if isinstance(feed, (list, tuple)):
            if len(feed) != 1:
                raise ValueError(f"feed: expected arrays for one device, got {len(feed)}")
            feed = feed[0]
        if not feed:
            for loader in getattr(target, "_loaders", ()):
                feed = {**(feed or {}), **loader.next_feed()}
        if isinstance(feed, dict) and _programs.is_pir(target):
            _check_feed(target, feed)
        return super().run(
            program,
            feed,
            fetch_list,
            feed_var_name,
            fetch_var_name,
            scope,
            return_numpy,
            use_program_cache,
            use_prune=use_prune,
        )


class ParallelExecutor:
    """Runs a program on one device; Paddle 1.x ran it on all of them."""

    @check_flags
    def __init__(
        self,
        use_cuda: bool,
        loss_name: str | None = None,
        main_program: Any = None,
        share_vars_from: Any = None,
        exec_strategy: Any = None,
        build_strategy: Any = None,
        num_trainers: int = 1,
        trainer_id: int = 0,
        scope: Any = None,
    ) -> None:
        """Take the program, None is the default one, and the scope, None is the global one.

        `use_cuda` chooses the first GPU, or the CPU. The other arguments are not used.

        Raises:
            ValueError: more than one trainer.
        """
        if num_trainers != 1:
            raise ValueError(f"num_trainers: expected 1, got {num_trainers}")
        self._executor = Executor(paddle.CUDAPlace(0) if use_cuda else paddle.CPUPlace())
        self._program = main_program or paddle.static.default_main_program()
        self._scope = scope

    @check_flags
    def run(
        self,
        fetch_list: Any,
        feed: Any = None,
        feed_dict: Any = None,
        return_numpy: bool = True,
    ) -> Any:
        """Run the program: see :meth:`Executor.run`. `feed_dict` is the older name of `feed`."""
        return self._executor.run(
            self._program,
            feed_dict if feed is None else feed,
            fetch_list,
            scope=self._scope,
            return_numpy=return_numpy,
        )


def _check_feed(program: Any, feed: dict[str, Any]) -> None:
    """Refuse what Paddle refuses itself in programs of its version 2, and only warns of in 3."""
    for name, tensor in _programs.inputs(program).items():
        if name not in feed:
            raise ValueError(f"feed: expected an array for {name!r}, got {sorted(feed)}")
        given, wanted = feed[name], [*tensor.shape]
        shape = (
            given.shape() if isinstance(given, paddle.base.core.DenseTensor) else np.shape(given)
        )
        if len(shape) != len(wanted) or any(w not in (-1, s) for s, w in zip(shape, wanted)):
            raise ValueError(f"feed: expected {name!r} of shape {wanted}, got {[*shape]}")
        dtype = paddle.base.data_feeder.convert_dtype(tensor.dtype)
        if isinstance(given, np.ndarray) and given.dtype != _ARRAYS.get(dtype, dtype):
            raise ValueError(f"feed: expected {name!r} of dtype {dtype}, got {given.dtype}")


def _result(program: Any, item: Any) -> Any:
    if isinstance(item, (list, tuple)):
        return [_result(program, part) for part in item]
    by_name = isinstance(item, str)
    found = (_programs.find if by_name else _programs.same_in)(program, item)
    if found is None:
        name = item if by_name else item.name
        raise ValueError(f"fetch_list: expected names of tensors of the program, got {name!r}")
    return found


__getattr__ = module_getattr(__name__)
