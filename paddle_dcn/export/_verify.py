"""Runs a written model beside the program that it was made of, and finds where they part."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from .._checks import dtype_name
from . import _locate, _tracing
from ._locate import Arrays, Load, Write
from ._programs import Program
from ._words import advice, gist

# Operators whose integers are numbers; those of others may be indices or sizes.
_ARITHMETIC = {
    f"pd_op.{name}"
    for name in ("add assign scale subtract multiply floor_divide remainder abs fetch").split()
}

# Two sizes for a batch, and for each further open size, in order: odd ones, multiples of 32 for
# networks that halve the image and add what they scale up again, small and large ones.
_BATCHES = (1, 2)
_SIZES = (
    ((67, 94), (90, 71)),
    ((64, 96), (96, 64)),
    ((17, 22), (22, 13)),
    ((224, 256), (256, 224)),
)

# PaddleDetection's inputs beside the image: its size, and by how much it was scaled.
_DETECTION = ("im_shape", "scale_factor")

# How many times larger than random inputs those are that may overflow or be cut off.
_LARGE = 30.0

# Operators with which large inputs tell nothing: what Paddle cuts off on the CPU, at -64, and no
# other runtime does; and choices by scores, which a sigmoid of large inputs makes equal.
_NORMAL_ONLY = {
    f"pd_op.{name}"
    for name in ("log_softmax argmax argmin argsort topk nms multiclass_nms3 matrix_nms").split()
}

# The largest difference that counts as rounding, as a share of the largest value, by the coarsest
# dtype that a network computes in.
_ROUNDING = {"float16": 2e-2, "bfloat16": 2e-2, "float32": 1e-4, "float64": 1e-9}


def verify(
    program: Program, write: Write, load: Load, path: Path, feeds: Sequence[Arrays]
) -> float:
    """Return the largest difference between a program and what `write` has written to a path.

    It is relative to the largest value of an output. Without feeds random ones are made. A warning
    tells of outputs that have only NaN or infinite values, with which nothing can be compared.

    Raises:
        ValueError: the difference is not rounding. Names the first operator and layer that differ.
        NotImplementedError: it does not run. Names the operator and layer.

    """
    with _locate.explained(program, write, load):
        run = load(path)
    worst = 0.0
    told = set()
    for feed, wanted, limits in _expectations(program, feeds):
        with _locate.explained(program, write, load, feed):
            found = run(feed)
        for name, limit, one, other in zip(program.outputs, limits, found, wanted):
            difference = _difference(one, other)
            if not difference <= limit:
                operator = _locate.first_differing(program, write, load, feed, _differ)
                first = (
                    ""
                    if operator is None
                    else f"; the first operator that differs is {_locate.named(operator)}"
                )
                raise ValueError(
                    f"model: output {name} of what was written is off by {difference:.2g} of its "
                    f"largest value{first}"
                )
            worst = max(worst, difference)
            if not other.size or np.isfinite(_numbers_of(other)).any():
                told.add(name)
    blind = [name for name in program.outputs if name not in told]
    if blind:
        warnings.warn(
            f"model: nothing was compared of {', '.join(blind)}, as all its values were NaN or "
            "infinite with the inputs tried; give others, as verify=[(array, ...), ...]",
            stacklevel=4,
        )
    return worst


def _differ(program: Program, feed: Arrays, found: Sequence[np.ndarray]) -> Iterator[bool]:
    """Give for each output whether what was found differs."""
    ((_, wanted, limits),) = _expectations(program, [feed])
    for limit, one, other in zip(limits, found, wanted):
        yield not _difference(one, other) <= limit


def verify_traced(program: Program, model: Callable, input_spec: Sequence, feed: Arrays) -> None:
    """Raise ValueError where what `paddle.jit.save` made of a model does not compute the same.

    It saves, for one, the weights that weight_norm and spectral_norm had when the model last ran.
    """
    ((_, found, limits),) = _expectations(program, [feed])
    with paddle.base.dygraph.guard(), paddle.no_grad(), _tracing.modes_saved(model) as modes:
        tensors = paddle.utils.pack_sequence_as(
            list(input_spec), [paddle.to_tensor(array) for array in feed.values()]
        )
        reasons = []
        for put in modes:
            put()
            try:
                outputs = paddle.utils.flatten(model(*tensors))
            except Exception as error:
                reasons.append(
                    f"cannot be compared with, as it does not run: {gist(error)}"
                    f"{advice(_dtypes(program), '; it is ')}"
                )
                continue
            wanted = [each.numpy() for each in outputs if isinstance(each, paddle.Tensor)]
            reasons.append(_reason(found, wanted, limits))
            if not reasons[-1]:
                return
    reason = f"model: {reasons[0]}"
    if _tracing.has_stale_weights(model):
        reason += "; it has weight_norm or spectral_norm, so run it once before"
    elif len(reasons) > 1:
        reason += "; it is in training mode: call its eval() before"
    raise ValueError(reason)


def _reason(found: list[np.ndarray], wanted: list[np.ndarray], limits: list[float]) -> str:
    """Return where what `paddle.jit.save` made of a model differs from the model, or ''."""
    if len(found) != len(wanted):
        return f"what paddle.jit.save makes of it has {len(found)} outputs, it has {len(wanted)}"
    for index, (limit, one, other) in enumerate(zip(limits, found, wanted)):
        if one.dtype != other.dtype:
            return f"output {index} of what paddle.jit.save makes of it has another dtype"
        difference = _difference(one, other)
        if not difference <= limit:
            return (
                f"output {index} of what paddle.jit.save makes of it is off by {difference:.2g} of "
                "its largest value"
            )
    return ""


def random_feed(program: Program) -> Arrays:
    """Return one random input that the program runs with."""
    return _random(program, np.random.default_rng(0))[0][0]


def _expectations(
    program: Program, feeds: Sequence[Arrays]
) -> Iterator[tuple[Arrays, list[np.ndarray], list[float]]]:
    """Give feeds with the program's outputs, and for each output the difference to allow."""
    rounding = max((_ROUNDING.get(dtype, 0.0) for dtype in _dtypes(program)), default=0.0)
    rng = np.random.default_rng(0)
    for feed, wanted in _given(program, feeds) or _random(program, rng):
        # How a change of the input's last bits spreads tells what rounding may do.
        nudged = {
            name: array * (1 + rng.choice([-1, 1], array.shape) * _nudge(array)).astype(array.dtype)
            if array.dtype.kind == "f"
            else array
            for name, array in feed.items()
        }
        spread = map(_difference, program.run(nudged), wanted)
        limits = [
            4 * each + (0 if array.dtype.kind == "i" else rounding)
            for each, array in zip(spread, wanted)
        ]
        yield feed, wanted, limits


def _dtypes(program: Program) -> set[str]:
    """Return the dtypes that a program computes in."""
    return {
        dtype_name(value.dtype)
        for operator in program.operators
        for value in operator.results()
        if value.initialized() and value.is_dense_tensor_type()
    }


def _nudge(array: np.ndarray) -> float:
    return 2.0**-49 if array.dtype == np.float64 else 2.0**-20


def _given(program: Program, feeds: Sequence[Arrays]) -> list[tuple[Arrays, list[np.ndarray]]]:
    """Return feeds and the outputs of each."""
    given = []
    for index, feed in enumerate(feeds):
        try:
            given.append((feed, program.run(feed)))
        except Exception as error:
            raise ValueError(
                f"verify[{index}]: Paddle does not run the saved model with it: {gist(error)}"
            ) from error
    return given


def _random(program: Program, rng: Any) -> list[tuple[Arrays, list[np.ndarray]]]:
    """Return random feeds, with two sizes for each open one, and the outputs of each."""
    reason = ""
    for sizes in _SIZES:
        try:
            feeds = [_feed(program, rng, *pair) for pair in zip(_BATCHES, sizes)]
            made = [(feed, program.run(feed)) for feed in feeds]
        except Exception as error:
            reason = reason or gist(error)
        else:
            return made + _enlarged(program, feeds[0])
    raise ValueError(
        "verify: Paddle runs the saved model with none of the inputs tried; give some that it "
        f"runs with, as verify=[(array, ...), ...], or verify=False: {reason}"
        f"{advice(_dtypes(program), '; the model is ')}"
    )


def _enlarged(program: Program, feed: Arrays) -> list[tuple[Arrays, list[np.ndarray]]]:
    """Return a feed made larger and its outputs, unless these are nothing to compare with."""
    if any(operator.name() in _NORMAL_ONLY for operator in program.operators):
        return []
    large = {
        name: array * array.dtype.type(_LARGE)
        if array.dtype.kind == "f" and name not in _DETECTION
        else array
        for name, array in feed.items()
    }
    with contextlib.suppress(Exception):  # such as a size that an input tells
        outputs = program.run(large)
        if all(np.isfinite(_numbers_of(each)).all() for each in outputs):
            return [(large, outputs)]
    return []


def _feed(program: Program, rng: Any, batch: int, sizes: tuple[int, int]) -> Arrays:
    feed = {}
    numbers = _numbers(program)
    for name, shape, dtype in program.inputs:
        rest = iter(sizes * len(shape))
        filled = [
            size if size >= 0 else batch if axis == 0 else next(rest)
            for axis, size in enumerate(shape)
        ]
        if dtype.startswith("float"):
            feed[name] = rng.standard_normal(filled).astype(dtype)
        elif dtype == "bfloat16":  # which NumPy lacks: Paddle takes its bits
            bits = rng.standard_normal(filled).astype("float32").view(np.uint32)
            feed[name] = (bits >> 16).astype(np.uint16)
        elif name in numbers and dtype in ("int32", "int64"):
            feed[name] = rng.integers(2**24, 2**28, filled).astype(dtype)
        else:
            feed[name] = rng.integers(0, 2, filled).astype(dtype)
    images = [array for array in feed.values() if array.ndim == 4]
    for name, shape in zip(_DETECTION, (images[0].shape[2:] if images else (), 1)):
        if images and name in feed:
            feed[name] = np.broadcast_to(shape, feed[name].shape).astype(feed[name].dtype)
    return feed


def _numbers(program: Program) -> set[str]:
    """Return the inputs that only arithmetic reads, not as indices or sizes."""
    read = {}
    for operator in program.pir.global_block().ops:
        if operator.name() == "pd_op.data":
            reached, values = True, operator.results()
            while values and reached:
                users = [user for value in values for user in value.all_used_ops()]
                reached = all(user.name() in _ARITHMETIC for user in users)
                values = [value for user in users for value in user.results()]
            read[operator.attrs()["name"]] = reached
    return {name for name, only in read.items() if only}


def _difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference as a share of the largest finite value; inf for other kinds."""
    if found.shape != wanted.shape:
        return float("inf")
    found, wanted = map(_numbers_of, (found, wanted))
    finite = np.isfinite(wanted)
    if not np.array_equal(found[~finite], wanted[~finite], equal_nan=True):
        return float("inf")
    largest = np.abs(wanted[finite]).max(initial=0.0)
    difference = np.abs(found[finite] - wanted[finite]).max(initial=0.0)
    return float(difference / largest) if difference else 0.0


def _numbers_of(array: np.ndarray) -> np.ndarray:
    """Return an array in float64; Paddle gives bfloat16, which NumPy lacks, as its bits."""
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)
