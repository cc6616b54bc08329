"""`fluid.reader` of Paddle 1.x: batches of generators, as feeds of programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import paddle

from ..static._parameters import require_static
from ._flags import check_flags
from ._moved import module_getattr
from .data_feeder import DataFeeder

__all__ = ["DataLoader", "PyReader"]


class GeneratorLoader:
    """Batches for the inputs of a program, from a function that returns a generator of them.

    If it is iterable, it gives feeds for `Executor.run`. If not, the executor takes a batch from it
    in each run without a feed, from `start()` on; when there is none left it raises
    `fluid.core.EOFException`, after which `reset()` and `start()` begin again. Programs that are
    cloned from this one take their batches from it too.
    """

    @check_flags
    def __init__(self, feed_list: Sequence[Any] | None, iterable: bool, return_list: bool) -> None:
        """Take the inputs; :meth:`DataLoader.from_generator` documents the arguments."""
        require_static("paddle_dcn.fluid.io.DataLoader.from_generator", "paddle.io.DataLoader")
        if not feed_list:
            raise ValueError(f"feed_list: expected inputs of the program, got {feed_list!r}")
        self._inputs, self._names = list(feed_list), [tensor.name for tensor in feed_list]
        self._iterable, self._return_list = iterable, return_list
        self._batches: Callable[[], Iterator[dict[str, Any]]] | None = None
        self._running: Iterator[dict[str, Any]] | None = None
        program = feed_list[0].block.program
        if not iterable:
            program._loaders = [*getattr(program, "_loaders", ()), self]

    @check_flags
    def set_sample_generator(
        self, reader: Callable, batch_size: int, drop_last: bool = True, places: Any = None
    ) -> GeneratorLoader:
        """Take batches of so many samples, tuples with an array for each input, that it yields.

        `drop_last` drops the last ones where they do not fill a batch.
        """
        return self.set_sample_list_generator(paddle.batch(reader, batch_size, drop_last))

    def set_sample_list_generator(self, reader: Callable, places: Any = None) -> GeneratorLoader:
        """Take the lists of samples that it yields for batches."""
        feeder = DataFeeder(self._inputs, paddle.CPUPlace(), self._inputs[0].block.program)
        self._batches = lambda: (feeder.feed(samples) for samples in reader())
        return self

    def set_batch_generator(self, reader: Callable, places: Any = None) -> GeneratorLoader:
        """Take the batches, tuples with an array for each input, that it yields."""
        self._batches = lambda: (dict(zip(self._names, self._arrays(item))) for item in reader())
        return self

    # What PyReader called them.
    decorate_sample_generator = set_sample_generator
    decorate_sample_list_generator = set_sample_list_generator
    decorate_batch_generator = set_batch_generator

    def _arrays(self, batch: Any) -> list[Any]:
        arrays = list(batch) if isinstance(batch, (list, tuple)) else [batch]
        if len(arrays) != len(self._names):
            raise ValueError(
                f"reader: expected batches with an array for each of {self._names}, got "
                f"{len(arrays)} arrays"
            )
        return arrays

    def _begin(self) -> Iterator[dict[str, Any]]:
        if self._batches is None:
            raise RuntimeError(
                "the loader has no batches: call set_sample_generator, set_sample_list_generator "
                "or set_batch_generator first"
            )
        return self._batches()

    def __iter__(self) -> Iterator[Any]:
        """Give each batch as a list with a feed, or with `return_list` as a list of arrays.

        Raises:
            RuntimeError: the loader is not iterable, or has no batches.
        """
        if not self._iterable:
            raise RuntimeError("the loader is not iterable: call start() and run the program")
        for feed in self._begin():
            yield [np.array(feed[name]) for name in self._names] if self._return_list else [feed]

    def __call__(self) -> Iterator[Any]:
        """Return an iterator."""
        return iter(self)

    def start(self) -> None:
        """Let the executor take batches, from the first one on.

        Raises:
            RuntimeError: the loader is iterable, or has no batches.
        """
        if self._iterable:
            raise RuntimeError("the loader is iterable: feed what it gives to the executor")
        self._running = self._begin()

    def reset(self) -> None:
        """Let the executor take no more batches."""
        self._running = None

    def next_feed(self) -> dict[str, Any]:
        """Return the next batch as a feed; none before `start()`.

        Raises:
            fluid.core.EOFException: there is no batch left.
        """
        if self._running is None:
            return {}
        feed = next(self._running, None)
        if feed is None:
            raise paddle.base.core.EOFException("there is no batch left: reset() the loader")
        return feed


class DataLoader(paddle.io.DataLoader):
    """`paddle.io.DataLoader` with `from_generator`, which current Paddle has no more."""

    @staticmethod
    @check_flags
    def from_generator(
        feed_list: Sequence[Any] | None = None,
        capacity: int | None = None,
        use_double_buffer: bool = True,
        iterable: bool = True,
        return_list: bool = False,
        use_multiprocess: bool = False,
        drop_last: bool = True,
    ) -> GeneratorLoader:
        """Return a loader of batches for inputs of the current static program.

        Args:
            feed_list: The inputs.
            capacity: Not used: a batch is made when it is wanted.
            use_double_buffer: Not used.
            iterable: Whether the loader gives feeds for `Executor.run`, or the executor takes
                batches by itself, between `start()` and `reset()`.
            return_list: Give lists of arrays in place of feeds, if it is iterable.
            use_multiprocess: Not used.
            drop_last: Not used: there is one device.

        Raises:
            RuntimeError: a call in dynamic mode or inside `to_static`.
            ValueError: no inputs.

        Examples:
            >>> import numpy as np
            >>> import paddle
            >>> import paddle_dcn.fluid as fluid
            >>> paddle.enable_static()
            >>> with fluid.program_guard(fluid.Program(), fluid.Program()):
            ...     x = fluid.data("x", [None, 2], "float32")
            ...     loader = fluid.io.DataLoader.from_generator([x], iterable=False)
            ...     total = fluid.layers.reduce_sum(x)
            ...     ones = np.ones([3, 2], "float32")
            ...     _ = loader.set_batch_generator(lambda: ((ones * i,) for i in range(2)))
            ...     executor = fluid.Executor(fluid.CPUPlace())
            ...     loader.start()
            ...     try:
            ...         while True:
            ...             print(executor.run(fetch_list=[total])[0])
            ...     except fluid.core.EOFException:
            ...         loader.reset()
            [0.]
            [6.]
            >>> paddle.disable_static()
        """
        return GeneratorLoader(feed_list, iterable, return_list)


class PyReader(GeneratorLoader):
    """The loader of :meth:`DataLoader.from_generator` by its older name."""

    @check_flags
    def __init__(
        self,
        feed_list: Sequence[Any] | None = None,
        capacity: int | None = None,
        use_double_buffer: bool = True,
        iterable: bool = True,
        return_list: bool = False,
    ) -> None:
        """Take the arguments of :meth:`DataLoader.from_generator`."""
        super().__init__(feed_list, iterable, return_list)


__getattr__ = module_getattr(__name__)
