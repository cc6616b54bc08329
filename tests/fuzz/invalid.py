"""What is put in place of one argument of a valid call, so that it is none any more."""

from __future__ import annotations

import math

import numpy as np
import paddle

from tests.fuzz.entries import ATTRIBUTES, Entry
from tests.support.cases import Case, pair
from tests.support.problems import TENSORS


def _cleared(tensor):
    tensor = paddle.zeros([size or 1 for size in tensor.shape], tensor.dtype)
    tensor._clear_data()
    return tensor


def _sparse(tensor):
    shape = [size or 1 for size in tensor.shape]
    return paddle.sparse.sparse_coo_tensor([[0]] * len(shape), [1.0], shape)


# In place of a tensor, from it: what is no tensor, or none of a kind that is taken.
NO_TENSORS = {
    "None": lambda tensor: None,
    "a list": lambda tensor: [1.0],
    "an array": lambda tensor: np.zeros(tensor.shape, np.float32),
    "a number": lambda tensor: 1.0,
    "True": lambda tensor: True,
    "text": lambda tensor: "x",
    "a dtype": lambda tensor: paddle.float32,
    "sparse": _sparse,
    "cleared": _cleared,
    "complex": lambda tensor: paddle.zeros(tensor.shape, "complex64"),
    "no axes": lambda tensor: paddle.ones([], tensor.dtype),
    "an axis less": lambda tensor: paddle.zeros(tensor.shape[1:], tensor.dtype),
    "an axis more": lambda tensor: tensor.unsqueeze(0),
}
# The same, which some entries cast.
DTYPES = {
    name: lambda tensor, name=name: paddle.zeros(tensor.shape, name)
    for name in ("bool", "uint8", "int32", "int64")
}
OTHER_FLOAT = {"another float": lambda tensor: tensor.astype(_other(tensor))}


def _other(tensor):
    return "float64" if tensor.dtype != paddle.float64 else "float16"


def _resized(axis, size):
    def make(tensor):
        shape = list(tensor.shape)
        if size >= 2**31:  # of no elements
            shape = [0] * len(shape)
        shape[axis] = shape[axis] + 1 if size == 1 else size
        return paddle.zeros(shape, tensor.dtype)

    return make


SIZES = {"0": 0, "one more": 1, "2**31": 2**31, "2**62": 2**62}
RESIZED = {
    f"axis {axis}: {what}": _resized(axis, size)
    for axis in range(4)
    for what, size in SIZES.items()
}

NO_INTS = {
    "0": 0, "-1": -1, "-2**31": -(2**31), "2**31": 2**31, "2**32 + 1": 2**32 + 1, "2**63": 2**63,
    "thousands of digits": 10**5000, "1.0": 1.0, "0.5": 0.5, "nan": math.nan, "inf": math.inf,
    "complex": 1j, "True": True, "np.True_": np.True_, "float32": np.float32(1), "text": "1",
    "bytes": b"1", "None": None, "dict": {}, "set": {1}, "object": object(), "type": int,
    "floats": np.ones(2), "bools": np.ones(2, bool), "three": np.ones(3, int),
    "-1s": -np.ones(2, int), "rows": np.ones([1, 2], int), "a float": np.array(1.0),
    "a bool": np.array(True), "tensor": paddle.ones([1], "int32"), "float tensor": paddle.ones([]),
    "range": range(2),
}  # fmt: skip
NO_LISTS = {
    "()": (), "(1,)": (1,), "[1]": [1], "(1, 1, 1)": (1, 1, 1), "(1, 1, 1, 1, 1)": (1,) * 5,
    "(1, 1.0)": (1, 1.0), "(True, 1)": (True, 1), "(1, None)": (1, None), "('1', 1)": ("1", 1),
    "(nan, 1)": (math.nan, 1), "((1, 1), 1)": ((1, 1), 1), "(1, -1)": (1, -1),
    "[1, 2**31]": [1, 2**31], "[2**63, 1]": [2**63, 1], "[10**5000, 1]": [10**5000, 1],
    "[-(10**5000), 1]": [-(10**5000), 1], "(1, array)": (1, np.array([1, 1])),
}  # fmt: skip
NO_FOURS = {"(1, 1, 1, 1)": (1, 1, 1, 1)}  # where two are taken
NO_TEXTS = {
    "nchw": "nchw", "NCWH": "NCWH", "empty": "", "NUL": "NCHW\0", "None": None, "1": 1,
    "bytes": b"NCHW", "list": ["NCHW"], "True": True,
}  # fmt: skip
NO_NAMES = {"1": 1, "bytes": b"x", "True": True, "list": ["x"]}
NO_FALSE = {
    "True": True, "1": 1, "thousands of digits": 10**5000, "a list of it": [10**5000],
    "text": "no", "array": np.ones(2), "tensor": paddle.ones([2]),
}  # fmt: skip
NO_INDIVISIBLE = {"more than there are channels": lambda case: case.channels + 1}

TABLES = {
    "NO_TENSORS": NO_TENSORS, "DTYPES": DTYPES, "OTHER_FLOAT": OTHER_FLOAT, "RESIZED": RESIZED,
    "NO_INTS": NO_INTS, "NO_LISTS": NO_LISTS, "NO_FOURS": NO_FOURS, "NO_TEXTS": NO_TEXTS,
    "NO_NAMES": NO_NAMES, "NO_FALSE": NO_FALSE, "NO_INDIVISIBLE": NO_INDIVISIBLE,
}  # fmt: skip


def options(entry: Entry, case: Case) -> list[tuple[str, str, str]]:
    """All (table, argument in a Case's words, key in the table) that make this call invalid."""
    constructor, call = entry.constructor, entry.call
    found = []
    for name in (n for n in TENSORS if n in call):
        optional = name == "bias" or call[name].default is None
        if (name == "mask" and not case.modulated) or (name == "bias" and not case.bias):
            continue
        if entry.lenient and name == "bias":
            continue
        tables = ["NO_TENSORS"]
        if not (entry.casts and name != "offset"):
            tables.append("DTYPES")
            if not entry.casts and name != "x" and not entry.lenient:
                tables.append("OTHER_FLOAT")
        for table in tables:
            for key in TABLES[table]:
                if not (key == "None" and optional):
                    found.append((table, name, key))
        found += [
            ("RESIZED", name, key)
            for key in RESIZED
            if _makes_invalid(entry, case, name, *key[5:].split(": "))
        ]
    if entry.lenient:
        return found
    if not entry.bias and ("bias" in constructor or "bias" in call):
        found += [("NO_FALSE", "bias", key) for key in NO_FALSE]
    npu = "modulated" in call
    for name in (*ATTRIBUTES, "in_channels", "out_channels", "kernel_size", "data_format", "name"):
        parameter = constructor.get(name) or call.get(name)
        if parameter is None:
            continue
        for table in _tables_of(name, npu):
            for key in TABLES[table]:
                zero = key == "0" and name == "padding" and not npu
                default = key == "None" and parameter.default is None
                if not zero and not default:
                    found.append((table, name, key))
    return found


def _tables_of(name: str, npu: bool) -> list[str]:
    """The tables for an argument that is no tensor."""
    if name in ("data_format", "name"):
        return ["NO_TEXTS"] if name == "data_format" else ["NO_NAMES"]
    tables = ["NO_INTS"]
    if name != "im2col_step":
        tables.append("NO_LISTS")
    if name in ("stride", "dilation", "kernel_size") and not npu:
        tables.append("NO_FOURS")
    if name in ("groups", "deformable_groups"):
        tables.append("NO_INDIVISIBLE")
    return tables


def _makes_invalid(entry: Entry, case: Case, name: str, axis: str, what: str) -> bool:
    """Whether a tensor of another size cannot fit the others, by the rules of shapes."""
    axis = int(axis)
    if name == "bias":
        return axis == 0 and not what.startswith("2**")  # of which nothing else makes it empty
    if what.startswith("2**"):
        return True  # all other axes are 0
    batch = axis == 0 and name in ("x", "offset", "mask")
    if batch:
        return not entry.pack and not (what == "0" and case.batch == 0)
    if what == "0" or name in ("offset", "mask"):
        return True
    # What follows is one more.
    if name == "weight":
        hwcn = "modulated" in entry.call and case.data_format == "NHWC"
        outputs = axis == (3 if hwcn else 0)
        broadcast = entry.lenient and case.outputs == 1  # a bias of one value
        fits = outputs and case.groups == 1 and (broadcast or not case.bias)
        return not entry.inferred and not fits
    channels = axis == (3 if case.data_format == "NHWC" else 1)
    if channels:
        return not entry.inferred
    spatial = axis - (1 if case.data_format == "NHWC" else 2)
    return not entry.pack and pair(case.stride)[spatial] == 1


def replacement(table: str, key: str, case: Case, tensor):
    """Return the value that stands in place of an argument, of a tensor where it is one."""
    value = TABLES[table][key]
    if table == "NO_INDIVISIBLE":
        return value(case)
    return value(tensor) if callable(value) and not isinstance(value, type) else value


# Any of them may be named where sizes do not go together.
OF_SIZES = (*TENSORS, "groups", "deformable_groups", "kernel_size", "im2col_step")


def culprits(entry: Entry, table: str, name: str) -> tuple[str, ...]:
    """Which arguments an error may name, in the entry's words."""
    known = {**entry.constructor, **entry.call}
    names = OF_SIZES if table in ("RESIZED", "NO_INDIVISIBLE") else (name,)
    own = tuple(known[n].name if n in known else n for n in names)
    # Layers of other libraries have an x, and errors with its name in their functions.
    return (*own, "input") if entry.layer and "x" in own else own
