"""What a fuzzer tries: kernels and public entries on valid problems, and invalid calls of them.

A trial's `repr` is Python that makes it again; its `check` raises AssertionError where it fails.
"""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import paddle
from paddle.nn import functional as F

from benchmarks.kernel_library import Library
from paddle_dcn import _library, deform_conv2d, deform_conv2d_reference
from tests.fuzz import invalid, modes
from tests.fuzz.entries import ENTRIES
from tests.support import aggregation, kernel_jobs
from tests.support.cases import Case
from tests.support.comparison import EPSILON, assert_close, tolerance
from tests.support.formula import absolute_terms, formula
from tests.support.kernel_jobs import Inference
from tests.support.operators import to_array, to_tensor
from tests.support.problems import DTYPES, TENSORS, random_problem
from tests.support.programs import PADDLE_3_1
from tests.support.second_derivatives import DOUBLE, leaves, random_factors, second_derivatives
from tests.support.winograd import amplification, in_tiles

OFFSETS = ("zero", "random", "integer", "border", "huge", "nonfinite")
BATCHES = (1, 1, 1, 2, 2, 3, 0 if PADDLE_3_1 else 1)
LARGEST_STEP = 2**31 - 1
MOST_PRODUCTS = 100_000  # of a case; larger ones are drawn again
TRAINING = Inference()  # none of what forward does for inference
SHIPPED = Library(_library.PATH)
ENGINES = [name for name in SHIPPED.engines() if SHIPPED.runs(name)]
SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 2.0**-1074}

warnings.filterwarnings("ignore", category=DeprecationWarning)


def draw_case(rng: random.Random) -> Case:
    """Draw any valid problem of small sizes; rng may be one that hypothesis made."""
    while True:
        case = _draw_case(rng)
        if case.products <= MOST_PRODUCTS:
            return case


def _draw_case(rng: random.Random) -> Case:
    def two(low, high):
        return rng.randint(low, high), rng.randint(low, high)

    kernel, dilation, stride = two(1, 4), two(1, 3), two(1, 3)
    padding = (*two(0, 3), *two(0, 3))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    least = [max(1, r - sum(padding[2 * axis : 2 * axis + 2])) for axis, r in enumerate(reach)]
    size = tuple(n + rng.randint(0, 5) for n in least)
    channels = rng.randint(1, 9)
    if rng.randint(0, 3) == 0:  # more than a vector holds
        channels = rng.choice([16, 17, 32, 33, 40, 64])
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    groups = rng.choice(divisors)
    if rng.randint(0, 9) == 0:  # steps beyond the image
        stride = (rng.choice([1000, LARGEST_STEP]), stride[1])
    if rng.randint(0, 9) == 0:
        axis = rng.randint(0, 1)
        if kernel[axis] == 1:  # taps apart, of which there is one
            dilation = tuple(LARGEST_STEP if a == axis else d for a, d in enumerate(dilation))
    return Case(
        batch=rng.choice(BATCHES),
        channels=channels,
        size=size,
        outputs=groups * rng.randint(1, 5),
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        deformable_groups=rng.choice(divisors),
        modulated=rng.choice([True, False]),
        bias=rng.choice([True, False]),
        offsets=rng.choice(OFFSETS),
        im2col_step=rng.choice([None, 1, 2, 64]),
        data_format=rng.choice(["NCHW", "NHWC"]),
    )


def draw_wanted(rng: random.Random) -> tuple[str, ...]:
    """Draw whose gradients are asked for: mostly all, else any of them, or none."""
    return TENSORS if rng.randint(0, 1) else tuple(n for n in TENSORS if rng.randint(0, 1))


def check_results(
    case: Case,
    arrays: dict,
    results: dict,
    dtypes: tuple[str, str],
    inference: Inference = TRAINING,
) -> None:
    """Hold output and gradients against the formula, by the size of the terms of each number."""
    arrays = kernel_jobs.prepared(case, arrays, inference)
    wanted, terms = formula(case, arrays), absolute_terms(case, arrays)
    out, slope = wanted["out"], inference.negative_slope
    out = out + arrays.get("addend", 0.0)
    wanted["out"] = np.minimum(np.where(out < 0, slope * out, out), inference.upper_bound)
    depth = case.depth
    if inference.plain:  # whose errors are those of the largest terms nearby
        terms["out"] = terms["out"].max((2, 3), keepdims=True, initial=0.0)
        terms["out"] = terms["out"] + np.abs(arrays.get("addend", 0.0))
        depth = {"out": depth["out"] * amplification()}
    if inference.offset_bound:  # samples beside an edge change by as much as any other
        weights = np.abs(arrays["weight"]).sum((1, 2, 3)).reshape(1, -1, 1, 1)
        mask = 1.0 if arrays["mask"] is None else np.abs(arrays["mask"]).max(initial=0)
        terms["out"] = terms["out"] + np.abs(arrays["x"]).max(initial=0) * mask * weights
        depth = {"out": depth["out"] * kernel_jobs.rounded_positions(case, inference)}
    largest = max(1.0, *(np.abs(arrays[n]).max(initial=0) for n in ("x", "weight", "grad")))
    for name, result in results.items():
        among = dtypes if name in ("offset", "mask") else dtypes[:1]
        dtype = max(among, key=EPSILON.__getitem__)
        # Each term has a factor that may have been rounded to a multiple of the smallest number.
        underflow = depth[name] * SMALLEST[dtype] * largest
        scale = terms[name] + underflow / EPSILON[dtype]
        assert_close(result, wanted[name], dtype, depth[name], name, scale)


@dataclass(frozen=True)
class Kernels:
    """A case for an engine of the kernel library, without Paddle."""

    case: Case
    dtypes: tuple[str, str]
    engine: str
    threads: int
    wanted: tuple[str, ...]
    aligned: bool
    inference: Inference = TRAINING
    added: bool = False  # an addend to a plain convolution

    @property
    def kind(self) -> str:
        """What the table counts it as."""
        sort = " for inference" if self.inference != TRAINING else ""
        sort = " for plain convolutions" if self.inference.plain else sort
        return f"kernels{sort}, {self.engine}"

    def check(self) -> None:
        """Compare with the formula."""
        sizes = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
        shift = 0 if self.aligned else max(sizes[dtype] for dtype in self.dtypes)
        device = ("cpu", self.engine, self.threads)
        arrays = kernel_jobs.remembered_problem(self.case, self.dtypes[0])
        added = {"addend": arrays["grad"]} if self.added else {}
        if self.inference.flows:
            added["flow"] = kernel_jobs.random_flow(self.case, self.inference.flows)
        job = kernel_jobs.Job(
            self.case,
            self.dtypes,
            device,
            self.wanted,
            shift=shift,
            arrays=added,
            inference=self.inference,
        )
        results = kernel_jobs.run(SHIPPED, job)
        check_results(self.case, arrays | added, results, self.dtypes, self.inference)


def _to_leaf(array: np.ndarray, dtype: str, wanted: bool, strided: bool):
    """Return a leaf and what is passed: itself, or a transposed view of it."""
    if not strided:
        leaf = to_tensor(array, dtype, wanted)
        return leaf, leaf
    leaf = to_tensor(np.ascontiguousarray(array.T), dtype, wanted)
    return leaf, leaf.transpose(list(range(array.ndim))[::-1])


def _images(array: np.ndarray, case: Case, back: bool = False) -> np.ndarray:
    if case.data_format == "NCHW":
        return array
    return array.transpose((0, 3, 1, 2) if back else (0, 2, 3, 1))


@dataclass(frozen=True)
class Call:
    """A case for a public function or layer."""

    entry: str
    case: Case
    dtypes: tuple[str, str] = ("float32", "float32")
    wanted: tuple[str, ...] = ()
    threads: int = 1
    strided: tuple[str, ...] = ()  # tensors that are views, not contiguous
    mode: str = "dynamic"  # see modes.run_dynamic

    @property
    def kind(self) -> str:
        """What the table counts it as."""
        return self.entry if self.mode == "dynamic" else f"in {self.mode}"

    @property
    def computed(self) -> tuple[str, str]:
        """The dtypes of x and offset that the operator computes with."""
        cast = self.mode.startswith("auto_cast")
        return (self.mode.partition(" ")[2], "float32") if cast else self.dtypes

    def arrays(self) -> dict:
        """The problem; with the sampling that a pack predicts, the same at every pixel."""
        arrays = random_problem(self.case, self.computed[0])
        if ENTRIES[self.entry].pack:
            for name in ("offset", "mask"):
                if arrays[name] is not None:
                    planes = arrays[name][:1, :, :1, :1]
                    if name == "mask":
                        planes = np.where(planes > 0.5, 1.0, 0.5)  # the sigmoids of 100 and 0
                    arrays[name] = np.broadcast_to(planes, arrays[name].shape) + 0.0
        return arrays

    def tensors(self, arrays: dict) -> tuple[dict, dict]:
        """Return leaves by name, and the tensors that are passed."""
        leaves, passed = {}, {}
        for name in TENSORS:
            if arrays[name] is None:
                continue
            array = _images(arrays[name], self.case) if name == "x" else arrays[name]
            dtype = self.dtypes[name in ("offset", "mask")]
            parameter = ENTRIES[self.entry].layer and name in ("weight", "bias")
            leaves[name], passed[name] = _to_leaf(
                array, dtype, name in self.wanted, name in self.strided and not parameter
            )
        return leaves, passed

    def build(self, passed: dict, constructor: dict, arrays: dict):
        """Return the function or layer, which predicts the case's sampling if it is a pack."""
        entry = ENTRIES[self.entry]
        function = entry.build(self.case, constructor, passed)
        if entry.pack and self.case.batch:
            convolution = getattr(function, "conv_offset", None) or function.conv_offset_mask
            planes = [arrays["offset"][0, :, 0, 0]]
            if arrays["mask"] is not None:
                planes.append(np.where(arrays["mask"][0, :, 0, 0] == 1.0, 100.0, 0.0))
            value = to_tensor(np.concatenate(planes), convolution.bias.dtype)
            convolution.bias.set_value(value)
        return function

    def check(self) -> None:
        """Compare with the formula."""
        entry = ENTRIES[self.entry]
        paddle.base.core.set_num_threads(self.threads)
        arrays = self.arrays()
        leaves, passed = self.tensors(arrays)
        constructor, call = entry.arguments(self.case, passed)
        function = self.build(passed, constructor, arrays)
        out = modes.run_dynamic(function, call, self.mode)
        out = out[0] if isinstance(out, (tuple, list)) else out
        dtype = str(out.dtype).rpartition(".")[2]
        assert dtype == self.computed[0], f"out: {dtype}, expected {self.computed[0]}"
        results = {"out": _images(to_array(out), self.case, back=True)}
        wanted = [name for name in self.wanted if name in leaves]
        if entry.pack:
            wanted = [name for name in wanted if name not in ("offset", "mask")]
        if wanted:
            _, grad = _to_leaf(
                _images(arrays["grad"], self.case), dtype, False, "grad" in self.strided
            )
            out.backward(grad)
            if entry.layer:
                leaves |= {n: getattr(function, n) for n in ("weight", "bias") if n in leaves}
            for name, leaf in leaves.items():
                assert (leaf.grad is not None) == (name in wanted), f"{name}: gradient {leaf.grad}"
            for name in wanted:
                assert leaves[name].grad.dtype == leaves[name].dtype, name
                array = to_array(leaves[name].grad)
                if name in self.strided and not (entry.layer and name in ("weight", "bias")):
                    array = array.T
                results[name] = _images(array, self.case, back=True) if name == "x" else array
        check_results(self.case, arrays, results, self.computed)


@dataclass(frozen=True)
class Program:
    """A case for a public function in a static program, or for a layer in a predictor."""

    entry: str
    case: Case
    dtype: str
    wanted: tuple[str, ...]  # of a function
    opened: tuple[str, ...]  # of "batch" and "images": sizes that are known only when it runs
    fast: bool = False  # whether a layer is converted for inference first

    @property
    def kind(self) -> str:
        """What the table counts it as."""
        if ENTRIES[self.entry].layer:
            return f"in a predictor{', converted' if self.fast else ''}"
        return "in a static program"

    def axes(self) -> dict:
        """The axes that are left open, by tensor, in a Case's words."""
        return {n: modes.open_axes(n, self.case.data_format, self.opened) for n in TENSORS}

    def check(self) -> None:
        """Compare with the formula."""
        entry, dtypes = ENTRIES[self.entry], (self.dtype, self.dtype)
        valid = Call(self.entry, self.case, dtypes)
        arrays = valid.arrays()
        if entry.layer:
            _, passed = valid.tensors(arrays)
            constructor, call = entry.arguments(self.case, passed)
            layer = valid.build(passed, constructor, arrays)
            layer.eval()
            axes = {entry.call[n].name: a for n, a in self.axes().items() if n in entry.call}
            out, _ = modes.run_predictor(layer, call, axes, fast=self.fast)
            results = {"out": _images(out, self.case, back=True)}
        else:
            feed = {
                name: (_images(arrays[name], self.case) if name == "x" else arrays[name])
                for name in TENSORS
                if arrays[name] is not None
            }
            feed = {name: np.ascontiguousarray(a.astype(self.dtype)) for name, a in feed.items()}
            grad = np.ascontiguousarray(_images(arrays["grad"], self.case).astype(self.dtype))
            wanted = [name for name in self.wanted if name in feed]

            def make_call(inputs):
                return entry.make, entry.arguments(self.case, inputs)[1]

            found = modes.run_program(make_call, feed, self.axes(), grad, wanted)
            results = dict(zip(["out", *wanted], found))
            for name in {"out", "x"} & results.keys():
                results[name] = _images(results[name], self.case, back=True)
        results = {name: array.astype("float64") for name, array in results.items()}
        check_results(self.case, arrays, results, dtypes)


@dataclass(frozen=True)
class SecondDerivatives:
    """A case whose gradients are differentiated, in float64."""

    case: Case
    wanted: tuple[str, ...]
    factors: tuple[str, ...]  # whose gradients are multiplied by factors and summed

    @property
    def kind(self) -> str:
        """What the table counts it as."""
        return "second derivatives"

    def check(self) -> None:
        """Compare with the reference, which Paddle differentiates twice."""
        tensors = leaves(self.case, random_problem(self.case), DOUBLE, self.wanted)
        factors = random_factors(tensors, self.factors)
        if not factors:
            return
        found, wanted = (
            second_derivatives(function, self.case, tensors, factors)
            for function in (deform_conv2d, deform_conv2d_reference)
        )
        for name, array in wanted.items():
            depth = 16 * self.case.depth["out" if name == "grad" else name]
            largest = max(1.0, np.abs(array).max(initial=0.0))
            assert_close(found.pop(name), array, "float64", depth, name, largest)
        assert not any(array.any() for array in found.values()), f"more than 0: {list(found)}"


@dataclass(frozen=True)
class Aggregation:
    """A problem for DCNv3 or DCNv4."""

    version: str
    case: aggregation.Case
    dtypes: tuple[str, str]

    @property
    def kind(self) -> str:
        """What the table counts it as."""
        return self.version

    def check(self) -> None:
        """Compare with the formula."""
        results = aggregation.run(self.case, self.version, self.dtypes)
        aggregation.check(self.case, results, self.dtypes)


def plain(case: Case) -> Case:
    """Return a plain convolution like a case: what Winograd's minimal filtering is for."""
    least = [
        max(size, 3 - sum(pads)) for size, pads in zip(case.size, (case.pads[:2], case.pads[2:]))
    ]
    change = {"stride": 1, "dilation": 1, "groups": 1, "deformable_groups": 1, "kernel": 3}
    return replace(case, **change, size=tuple(least), modulated=False, offsets="zero")


@dataclass(frozen=True)
class Network:
    """A plain convolution and what stands behind it, in a predictor of a model made `fast`.

    A block has another one behind, to which what went in is added.
    """

    case: Case
    norm: bool
    activation: str  # of ACTIVATIONS
    block: bool
    broken: bool  # whether pixels are NaN or infinite
    opened: tuple[str, ...]
    threads: int
    onednn: bool
    keep_memory: bool

    kind = "networks of plain convolutions"

    @property
    def replaced(self) -> tuple[bool, ...]:
        """Whether each of the convolutions has to be computed by this package."""
        return tuple(
            (case.kernel, case.stride, case.dilation, case.groups) == (3, 1, 1, 1)
            and min(case.channels, case.outputs) >= 18
            for case in self.cases()
        )

    def cases(self) -> list[Case]:
        """The convolutions."""
        second = Case(
            self.case.batch, self.case.outputs, self.case.out_size, self.case.outputs, 3,
            padding=1, modulated=False, offsets="zero", bias=self.case.bias,
        )  # fmt: skip
        return [self.case, second] if self.block else [self.case]

    def layers(self) -> list[Row]:
        """Their parameters, and those of the normalisations behind them."""
        rng, rows = np.random.default_rng(0), []
        for case in self.cases():
            arrays = random_problem(case, "float32")
            statistics = rng.uniform(0.5, 1.5, (4, case.outputs)).astype("float32")
            rows.append(Row(case, arrays, statistics if self.norm else None))
        return rows

    def check(self) -> None:
        """Compare with the formula, whose results have a bound of their rounding errors each."""
        paddle.base.core.set_num_threads(self.threads)
        modes.keep_memory(self.keep_memory)
        rows, activate = self.layers(), ACTIVATIONS[self.activation]
        x = rows[0].arrays["x"]
        bad = np.zeros(x.shape, bool)
        if self.broken:
            bad.flat[:: max(1, x.size // 3)] = True
        layer = PlainNetwork(rows, activate[0])
        layer.eval()
        broken = np.where(bad, np.resize([np.nan, np.inf], x.shape), x)
        call = {"x": to_tensor(broken, "float32")}
        axes = {"x": modes.open_axes("x", "NCHW", self.opened)}
        out, fused = modes.run_predictor(
            layer, call, axes, fast=True, onednn=self.onednn, threads=self.threads
        )
        assert fused["plain"] == sum(self.replaced), fused
        assert out.shape == (self.case.batch, self.case.outputs, *self.case.out_size), out.shape
        wanted, limit = np.where(bad, 0.0, x), np.zeros(x.shape)
        for index, row in enumerate(rows):
            before = (wanted, limit) if index else (0.0, 0.0)
            wanted, limit = row.compute(wanted, limit, *before)
            wanted = activate[1](wanted)  # which enlarges no error
        if self.broken:
            reached = in_tiles(bad.any(1, keepdims=True), self.case.pads, self.case.out_size)
            out = np.where(reached, wanted, out)
        wrong = ~(np.abs(out - wanted) <= limit)
        assert not wrong.any(), (
            f"{wrong.sum()} of {wrong.size} differ, by up to {np.abs(out - wanted)[wrong].max()}"
        )


@dataclass(frozen=True)
class Row:
    """A plain convolution's problem, and mean, variance, scale and shift behind it."""

    case: Case
    arrays: dict[str, np.ndarray]
    statistics: np.ndarray | None

    def compute(self, x, error, addend, addend_error) -> tuple[np.ndarray, np.ndarray]:
        """Return what comes of x, and how far it may be off where x is by `error`."""
        arrays = self.arrays | {"x": x}
        out, terms = formula(self.case, arrays)["out"], absolute_terms(self.case, arrays)["out"]
        moved = absolute_terms(self.case, arrays | {"x": error, "bias": None})["out"]
        if self.statistics is not None:
            mean, variance, scale, shift = self.statistics[:, :, None, None].astype("float64")
            factor = scale / np.sqrt(variance + NORM_EPSILON)
            out, moved = (out - mean) * factor + shift, moved * factor
            terms = (terms + mean) * factor + shift
        terms = terms.max((2, 3), keepdims=True, initial=0.0) + np.abs(addend)
        # Winograd's, or the direct sum's, which is smaller; and the few of what is behind it.
        depth = self.case.depth["out"] * amplification() + 4
        return out + addend, moved + addend_error + tolerance("float32", depth, terms)


class PlainNetwork(paddle.nn.Layer):
    """The layers of rows, with an activation behind each; all but the first add what goes in."""

    def __init__(self, rows: list[Row], activation) -> None:
        super().__init__()
        self.activation = activation
        self.convolutions, self.norms = paddle.nn.LayerList(), paddle.nn.LayerList()
        for row in rows:
            case = row.case
            self.convolutions.append(
                paddle.nn.Conv2D(
                    case.channels,
                    case.outputs,
                    case.kernel,
                    case.stride,
                    list(case.pads),
                    case.dilation,
                    case.groups,
                    bias_attr=None if case.bias else False,
                )  # fmt: skip
            )
            for name in ("weight", "bias")[: 1 + case.bias]:
                getattr(self.convolutions[-1], name).set_value(row.arrays[name].astype("float32"))
            if row.statistics is not None:
                norm = paddle.nn.BatchNorm2D(case.outputs, epsilon=NORM_EPSILON)
                for name, value in zip(("_mean", "_variance", "weight", "bias"), row.statistics):
                    getattr(norm, name).set_value(value)
                self.norms.append(norm)

    def forward(self, x):
        """Compute."""
        for index, convolution in enumerate(self.convolutions):
            out = convolution(x)
            out = self.norms[index](out) if len(self.norms) else out
            x = self.activation(out + x if index else out)
        return x


NORM_EPSILON = 1e-5
# For Paddle and for numpy.
ACTIVATIONS = {
    "none": (lambda x: x, lambda x: x),
    "relu": (F.relu, lambda x: np.maximum(x, 0)),
    "relu6": (F.relu6, lambda x: np.clip(x, 0, 6)),
    "leaky_relu": (F.leaky_relu, lambda x: np.where(x < 0, 0.01 * x, x)),
}


def draw_network(rng: random.Random) -> Network:
    """Draw one, mostly of convolutions that are replaced."""
    while True:
        case = _draw_case(rng)
        case = replace(case, deformable_groups=1, modulated=False, offsets="zero")
        case = replace(case, data_format="NCHW", im2col_step=None)
        if rng.randint(0, 4):
            case = plain(replace(case, channels=rng.choice([17, 18, 24, 33])))
            case = replace(case, outputs=rng.choice([16, 18, 27, 40]))
            case = replace(case, size=(case.size[0] + rng.randint(0, 9), case.size[1]))
        if case.products <= MOST_PRODUCTS_OF_NETWORKS:
            break
    activation = rng.choice(list(ACTIVATIONS))
    block = rng.randint(0, 2) == 0
    opened = tuple(which for which in ("batch", "images") if rng.randint(0, 1))
    network = Network(
        case, rng.choice([True, False]), activation, block, False, opened,
        rng.choice([1, 1, 2, 3]), rng.choice([True, False]), rng.choice([True, False]),
    )  # fmt: skip
    if not all(network.replaced):  # Paddle's convolutions take no empty batch
        network = replace(network, case=replace(case, batch=max(1, case.batch)))
    if network.case.batch == 0:
        network = replace(network, opened=tuple(dict.fromkeys(("batch", *opened))))
    return replace(network, broken=network.replaced == (True,) and rng.randint(0, 5) == 0)


def draw_aggregation(rng: random.Random) -> Aggregation:
    """Draw any problem of small sizes; scales are sums of few powers of two."""

    def two(low, high):
        return rng.randint(low, high), rng.randint(low, high)

    center = rng.randint(0, 2) == 0
    kernel = (rng.choice([3, 3, 5]),) * 2 if center else two(1, 4)
    dilation, stride, pad = two(1, 3), two(1, 3), two(0, 3)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    size = tuple(max(1, r - 2 * p) + rng.randint(0, 4) for r, p in zip(reach, pad))
    group = rng.choice([1, 1, 2, 3, 5])
    case = aggregation.Case(
        size,
        group * rng.choice([1, 2, 3, 4, 8, 17]),
        group,
        kernel,
        stride,
        pad,
        dilation,
        rng.choice([1.0, 1.0, 0.5, 2.0, 1.25, -1.0, 0.0]),
        center,
        rng.choice(BATCHES),
        rng.randint(0, 3) == 0,
    )
    return Aggregation(rng.choice(["dcnv3", "dcnv4"]), case, rng.choice(DTYPES))


@dataclass(frozen=True)
class Invalid:
    """A call of an entry with one argument made invalid."""

    entry: str
    case: Case
    table: str  # of tests.fuzz.invalid
    argument: str  # in the words of a Case
    value: str  # its key in the table

    @property
    def kind(self) -> str:
        """What the table counts it as."""
        return f"invalid {self.table}"

    def check(self) -> None:
        """Expect the error that the interface promises, which names the argument."""
        entry = ENTRIES[self.entry]
        valid = Call(self.entry, self.case)
        arrays = valid.arrays()
        _, passed = valid.tensors(arrays)
        constructor, call = entry.arguments(self.case, passed)
        known = {**entry.constructor, **entry.call}
        own = known[self.argument].name
        tensor = call.get(own) if self.argument in TENSORS else None
        value = invalid.replacement(self.table, self.value, self.case, tensor)
        expected = invalid.culprits(entry, self.table, self.argument)
        try:
            if self.argument in entry.constructor and entry.layer:
                entry.make(**constructor | {own: value})
            else:
                valid.build(passed, constructor, arrays)(**call | {own: value})
        except (ValueError, TypeError) as error:
            text = str(error)
            named = text.partition(":")[0]
            assert named in expected, f"expected an error that names {expected}, got {text[:300]!r}"
        except Exception as error:
            raise AssertionError(f"{own}: {type(error).__name__}: {str(error)[:300]}") from error
        else:
            raise AssertionError(f"{own}: {self.value} ({self.table}) was accepted")


# What is drawn for the modes other than the dynamic one.
CASTING = [n for n, e in ENTRIES.items() if not (e.casts or e.pack or e.lenient or "npu" in n)]
CASTING.remove("deform_conv2d_reference")
FUNCTIONS = [n for n, e in ENTRIES.items() if not e.layer and not e.lenient]
LAYERS = [n for n, e in ENTRIES.items() if e.layer]
MOST_PRODUCTS_TWICE = 20_000
MOST_PRODUCTS_OF_NETWORKS = 2_000_000


def draw_mode(rng: random.Random, case: Case) -> Call | Program | SecondDerivatives:
    """Draw a trial of what a call can be besides one of dynamic mode."""
    sort, wanted = rng.randint(0, 19), draw_wanted(rng)
    if sort < 7:
        dtype = rng.choice(["float16", "bfloat16"])
        title = rng.choice(CASTING)
        dtypes = ("float32", "float32")
        return Call(title, ENTRIES[title].fit(case), dtypes, wanted, mode=f"auto_cast {dtype}")
    if sort < 14 and PADDLE_3_1:  # before, Paddle does not differentiate the reference twice
        while case.products > MOST_PRODUCTS_TWICE or case.batch == 0:
            case = draw_case(rng)
        wanted = wanted or TENSORS
        factors = tuple(name for name in wanted if rng.randint(0, 2)) or wanted
        return SecondDerivatives(case, wanted, factors)
    case = replace(case, batch=max(1, case.batch))
    if sort < 17:
        title, mode = rng.choice(FUNCTIONS + LAYERS), rng.choice(modes.TRACED)
        return Call(title, ENTRIES[title].fit(case), wanted=wanted, mode=mode)
    opened = tuple(which for which in ("batch", "images") if rng.randint(0, 1))
    if sort < 19:
        title, dtype = rng.choice(FUNCTIONS), rng.choice(["float32", "float64"])
        return Program(title, ENTRIES[title].fit(case), dtype, wanted, opened)
    title = rng.choice(LAYERS)
    fast = rng.choice([True, False])
    return Program(title, ENTRIES[title].fit(case), "float32", (), opened, fast)


def draw(
    rng: random.Random,
) -> Kernels | Call | Program | SecondDerivatives | Invalid | Aggregation | Network:
    """Draw a trial."""
    case = draw_case(rng)
    if rng.randint(0, 14) == 0:
        return draw_aggregation(rng)
    if rng.randint(0, 149) == 0:
        return draw_network(rng)
    if rng.randint(0, 9) == 0:
        return draw_mode(rng, case)
    dtypes, wanted = rng.choice(DTYPES), draw_wanted(rng)
    threads = rng.choice([1, 1, 2, 3])
    sort = rng.randint(0, 9)
    if sort < 3:
        engine, aligned = rng.choice(ENGINES), rng.choice([True, False])
        if sort:
            return Kernels(case, dtypes, engine, threads, wanted, aligned)
        joined, packed = case.modulated and rng.choice([True, False]), rng.choice([True, False])
        slope, bound = rng.choice([1.0, 0.1, 0.0]), rng.choice([inf, 6.0, 0.5])
        if rng.choice([True, False]):
            last = rng.choice([True, False])
            form = Inference(False, slope, bound, plain=True, x_channels_last=last, packed=packed)
            added = rng.choice([True, False])
            return Kernels(plain(case), DTYPES[0], engine, threads, (), aligned, form, added)
        reach, flows = rng.choice([0.0, 0.0, 2.5]), rng.choice([0, 0, 1, case.deformable_groups])
        last = rng.choice([True, False])
        form = Inference(joined, slope, bound, False, reach, flows, last, packed)
        return Kernels(case, dtypes, engine, threads, (), aligned, form)
    title = "deform_conv2d" if sort < 5 else rng.choice(list(ENTRIES))
    entry = ENTRIES[title]
    case = entry.fit(case)
    if sort < 7:
        if entry.casts or entry.pack or entry.layer:
            dtypes = (dtypes[0], dtypes[0])
        if title == "deform_conv2d_reference" and case.batch == 0:
            wanted = TENSORS  # without x's, Paddle fails at the weight's of a product without rows
        strided = tuple(n for n in (*TENSORS, "grad") if rng.randint(0, 3) == 0)
        return Call(title, case, dtypes, wanted, threads, strided)
    return Invalid(title, case, *rng.choice(invalid.options(entry, case)))
