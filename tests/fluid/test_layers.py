"""Every function of `fluid.layers`, in both kinds of programs, against NumPy and `paddle.nn`."""

import itertools
import math

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

import paddle_dcn
import paddle_dcn.fluid as fluid
from paddle_dcn.fluid import layers
from paddle_dcn.fluid.layers import detection, learning_rate_scheduler
from tests.support.programs import (
    KINDS,
    initialize,
    needs_paddle_3,
    parameters,
    programs_1x,
    value,
)

pytestmark = needs_paddle_3

RNG = np.random.default_rng(7)
X = RNG.normal(0, 1, (2, 4, 6, 5)).astype("float32")
Y = RNG.normal(0, 1, (2, 4, 6, 5)).astype("float32")
C = RNG.normal(0, 1, 4).astype("float32")
P = RNG.uniform(0.1, 0.9, (2, 4, 6, 5)).astype("float32")
R = RNG.normal(0, 1, (3, 5)).astype("float32")
S = RNG.normal(0, 1, (3, 5)).astype("float32")
V = RNG.normal(0, 1, (2, 3, 4, 6, 5)).astype("float32")  # volumes
LABEL = np.array([[1], [4], [0]], "int64")
INTS = np.array([[-7, 7, -8], [9, 5, 6]], "int64")
BOOLS = np.array([[True, False, True], [True, True, True]])
LOW = RNG.uniform(0, 9, (2, 10, 2))
BOXES = np.concatenate([LOW, LOW + RNG.uniform(1, 8, (2, 10, 2))], 2).astype("float32")
SCORES = RNG.uniform(0, 1, (2, 3, 10)).astype("float32")
ROIS = np.array([[0, 0, 3, 4], [1.5, 0.5, 4, 5], [2, 2, 2, 2]], "float32")
ROIS_NUM = np.array([2, 1], "int32")
PRIORS = BOXES[0] / 20
DELTAS = np.random.default_rng(8).normal(0, 0.3, (1, 8, 3, 2)).astype("float32")
ANCHORS = np.random.default_rng(9).uniform(0, 9, (3, 2, 2, 2))
ANCHORS = np.concatenate([ANCHORS, ANCHORS + RNG.uniform(3, 8, (3, 2, 2, 2))], 3).astype("float32")
VARIANCES = np.full_like(ANCHORS, 0.5)
PROB = (np.exp(R) / np.exp(R).sum(1, keepdims=True)).astype("float32")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def nn(layer, weights):
    """Return a function of arrays: a layer of paddle.nn with these weights, in dynamic mode."""

    def compute(*arrays):
        for name, array in weights.items():
            getattr(layer, name).set_value(array)
        return layer(*map(paddle.to_tensor, arrays)).numpy()

    return compute


def dynamic(function):
    """Return a function of arrays: one of tensors in dynamic mode."""

    def compute(*arrays):
        found = function(*map(paddle.to_tensor, arrays))
        return [f.numpy() for f in found] if isinstance(found, (list, tuple)) else found.numpy()

    return compute


def normalized(x, axes, epsilon=1e-5):
    spread = np.sqrt(x.var(axis=axes, keepdims=True) + epsilon)
    return (x - x.mean(axis=axes, keepdims=True)) / spread


def along(c, rank=4):
    return c.reshape([1, -1] + [1] * (rank - 2))


def resized(x, size, positions):
    """Interpolate the last two axes at positions(axis size, new size), bilinearly."""
    for axis, new in zip((2, 3), size):
        old = x.shape[axis]
        at = np.clip(positions(old, new), 0, old - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, old - 1)
        share = (at - low).reshape([-1 if i == axis else 1 for i in range(4)])
        x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
    return x


def alignments(logits, label, blank):
    """The CTC loss: -log of the probability of all paths that collapse to the label."""
    likely = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    total = 0
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        collapsed = [c for c, _ in itertools.groupby(path) if c != blank]
        if collapsed == label:
            total += math.prod(likely[t, c] for t, c in enumerate(path))
    return -math.log(total)


def normalized_by_neighbours(x, n, k, alpha, beta):
    """Over a power of k and the sum of squares of n channels around each."""
    squares = np.pad(x * x, ((0, 0), (n // 2, n // 2), (0, 0), (0, 0)))
    total = sum(squares[:, i : i + x.shape[1]] for i in range(n))
    return x / (k + alpha * total) ** beta


def spread(x, weight, bias, dilation):
    """Add each voxel's multiples of a depthwise kernel, two filters a channel."""
    volumes, taps = x.shape[2:], weight.shape[2:]
    sizes = [n + d * (k - 1) for n, k, d in zip(volumes, taps, dilation)]
    out = np.zeros((len(x), 2 * x.shape[1], *sizes))
    for tap in np.ndindex(*taps):
        at = tuple(slice(d * t, d * t + n) for d, t, n in zip(dilation, tap, volumes))
        for channel, f in np.ndindex(x.shape[1], 2):
            out[:, 2 * channel + f][(slice(None), *at)] += x[:, channel] * weight[channel, f][tap]
    return out + along(bias, 5)


def by_spectral_norm(weight, u):
    """A matrix over its largest singular value, after two power iterations from u."""
    for _ in range(2):
        v = weight.T @ u / np.linalg.norm(weight.T @ u)
        u = weight @ v / np.linalg.norm(weight @ v)
    return weight / (u @ weight @ v)


def corners(old, new):
    return np.arange(new) * ((old - 1) / max(new - 1, 1))


def edges(old, new):
    return np.arange(new) * (old / new)


def middles(old, new):
    return (np.arange(new) + 0.5) * (old / new) - 0.5


def picked(x, size, positions):
    for axis, new in zip((2, 3), size):
        x = np.take(x, np.floor(positions(x.shape[axis], new)).astype(int), axis)
    return x


def windows(x, size, stride, pads, ceil, reduce, exclusive=True):
    """Pool images by hand; pads are (top, bottom, left, right)."""
    sides = (x.shape[2] + sum(pads[:2]), x.shape[3] + sum(pads[2:]))
    rounded = [stride - 1 if ceil else 0] * 2
    out = [(n - k + up) // stride + 1 for n, k, up in zip(sides, size, rounded)]
    result = np.zeros((*x.shape[:2], *out), x.dtype)
    for i, j in np.ndindex(*out):
        top, left = i * stride - pads[0], j * stride - pads[2]
        part = x[:, :, max(top, 0) : top + size[0], max(left, 0) : left + size[1]]
        total = part.shape[2] * part.shape[3] if exclusive else size[0] * size[1]
        result[:, :, i, j] = part.max((2, 3)) if reduce == "max" else part.sum((2, 3)) / total
    return result


def suppressed(boxes, scores, least, top, keep, threshold, edge, eta, background):
    """Keep boxes of each class that overlap no better one, and the best of each image."""

    def overlap(a, b):
        sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + edge, 0)
        areas = [(box[2] - box[0] + edge) * (box[3] - box[1] + edge) for box in (a, b)]
        return sides.prod() / (sum(areas) - sides.prod())

    rows = []
    for image, classes in zip(boxes, scores):
        kept = []
        for label, row in enumerate(classes):
            chosen, limit = [], threshold
            for i in np.argsort(-row)[:top] if label != background else ():
                if row[i] > least and all(overlap(image[i], image[j]) <= limit for j in chosen):
                    chosen.append(i)
                    limit *= eta if limit > 0.5 else 1
            kept += [[label, row[i], *image[i]] for i in chosen]
        best = sorted(kept, key=lambda row: -row[1])[:keep]
        rows += [row for row in kept if row in best]
    return np.array(rows)


def anchors(x, sizes, ratios, stride, offset):
    """Anchors of Faster R-CNN, whose corners are pixels: sides are rounded at the first ratio."""
    found = np.zeros((*x.shape[2:], len(sizes) * len(ratios), 4))
    for i, j in np.ndindex(*x.shape[2:]):
        middle = [at * step + offset * (step - 1) for at, step in zip((j, i), stride)]
        for k, (ratio, size) in enumerate(itertools.product(ratios, sizes)):
            width = round((stride[0] * stride[1] / ratio) ** 0.5)
            sides = np.array([size / stride[0] * width, size / stride[1] * round(width * ratio)])
            found[i, j, k] = [*(middle - (sides - 1) / 2), *(middle + (sides - 1) / 2)]
    return found


def dense_anchors(x, image, densities, sizes, ratio, offset):
    """Anchors of FaceBoxes: density^2 of each size in a step, sides from 0 to 1."""
    (rows, columns), (height, width) = x.shape[2:], image.shape[2:]
    step = np.array([width / columns, height / rows])
    average = int(step.mean())
    found = np.zeros((rows, columns, sum(d * d for d in densities), 4))
    for i, j in np.ndindex(rows, columns):
        boxes = []
        for density, size in zip(densities, sizes):
            shift = average // density
            half = np.array([size * ratio**0.5, size / ratio**0.5]) / 2
            for down, right in np.ndindex(density, density):
                first = (np.array([j, i]) + offset) * step - average / 2 + shift / 2
                middle = first + np.array([right, down]) * shift
                boxes.append([*(middle - half), *(middle + half)])
        found[i, j] = np.clip(np.array(boxes) / [width, height, width, height], 0, 1)
    return found


def decoded(priors, variances, codes):
    """Boxes [N, M, 4] of codes: shifts of the middle in sides, logarithms of the sides."""
    sides = priors[:, 2:] - priors[:, :2]
    middles = priors[:, :2] + sides / 2 + variances[:, :2] * codes[..., :2] * sides
    sides = np.exp(variances[:, 2:] * codes[..., 2:]) * sides
    return np.concatenate([middles - sides / 2, middles + sides / 2], 2)


def switched(x):
    """Assign in the cases of a switch."""
    y = layers.create_global_var([1], 0.0, "float32", persistable=True)
    size = layers.reduce_sum(layers.square(x))
    with layers.Switch() as switch:
        for limit, factor in ((1e-3, 1.0), (1e3, 2.0), (1e4, 3.0)):
            with switch.case(size < layers.fill_constant([1], "float32", limit)):
                layers.assign(size * factor, y)
        with switch.default():
            layers.assign(size * 4.0, y)
    return y * 1.0


def looped(x):
    """Add x three times in a loop."""
    i, end = (layers.fill_constant([1], "int64", number) for number in (0, 3))
    total = layers.fill_constant([4], "float32", 0.0)
    going = layers.less_than(i, end)
    with layers.While(cond=going).block():
        layers.assign(total + x, total)
        layers.increment(i, 1, in_place=True)
        layers.less_than(i, end, cond=going)
    return total


def unary(name, formula, x=X):
    return (lambda x: getattr(layers, name)(x), [x], formula)


# The function's case: how it is called, on which arrays, and what it is to give for them. Arrays
# before the call's `PARAMETERS` are inputs with an open batch.
CASES = {
    # --- of each element
    "abs": unary("abs", np.abs),
    "acos": unary("acos", np.arccos, P),
    "asin": unary("asin", np.arcsin, P),
    "atan": unary("atan", np.arctan),
    "ceil": unary("ceil", np.ceil),
    "cos": unary("cos", np.cos),
    "cosh": unary("cosh", np.cosh),
    "exp": unary("exp", np.exp),
    "floor": unary("floor", np.floor),
    "log": unary("log", np.log, P),
    "logsigmoid": unary("logsigmoid", lambda x: np.log(sigmoid(x))),
    "reciprocal": unary("reciprocal", lambda x: 1 / x, P),
    "relu": unary("relu", lambda x: np.maximum(x, 0)),
    "round": unary(
        "round",
        lambda x: np.array([-3, -2, -1, 0, 1, 2, 3], "float32"),
        np.array([-2.5, -1.5, -0.75, 0.25, 0.5, 1.5, 2.5], "float32"),
    ),
    "rsqrt": unary("rsqrt", lambda x: x**-0.5, P),
    "sigmoid": unary("sigmoid", sigmoid),
    "sin": unary("sin", np.sin),
    "sinh": unary("sinh", np.sinh),
    "softplus": unary("softplus", lambda x: np.log1p(np.exp(x))),
    "softsign": unary("softsign", lambda x: x / (1 + np.abs(x))),
    "sqrt": unary("sqrt", np.sqrt, P),
    "square": unary("square", np.square),
    "tanh": unary("tanh", np.tanh),
    "tanh_shrink": unary("tanh_shrink", lambda x: x - np.tanh(x)),
    "sign": unary("sign", np.sign),
    "erf": unary("erf", np.vectorize(math.erf, otypes="f")),
    "gelu": unary("gelu", lambda x: x * (1 + np.vectorize(math.erf)(x / 2**0.5)) / 2),
    "gelu, approximate": (
        lambda x: layers.gelu(x, approximate=True),
        [X],
        lambda x: x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,
    ),
    "brelu": (lambda x: layers.brelu(x, -0.5, 0.75), [X], lambda x: np.clip(x, -0.5, 0.75)),
    "elu": (lambda x: layers.elu(x, 0.5), [X], lambda x: np.where(x > 0, x, 0.5 * np.expm1(x))),
    "hard_shrink": (layers.hard_shrink, [X], lambda x: np.where(np.abs(x) > 0.5, x, 0)),
    "hard_sigmoid": (layers.hard_sigmoid, [X], lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
    "hard_swish": (layers.hard_swish, [X], lambda x: x * np.clip(x + 3, 0, 6) / 6),
    "leaky_relu": (layers.leaky_relu, [X], lambda x: np.where(x > 0, x, 0.02 * x)),
    "pow": (lambda x: layers.pow(x, factor=2.5), [P], lambda x: x**2.5),
    "relu6": (lambda x: layers.relu6(x, 1.0), [X], lambda x: np.clip(x, 0, 1)),
    "selu": (
        lambda x: layers.selu(x, 2.0, 0.5),
        [X],
        lambda x: 2 * np.where(x > 0, x, 0.5 * np.expm1(x)),
    ),
    "soft_relu": (
        lambda x: layers.soft_relu(x, 0.5),
        [X],
        lambda x: np.log1p(np.exp(np.clip(x, -0.5, 0.5))),
    ),
    "softshrink": (
        layers.softshrink,
        [X],
        lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
    ),
    "stanh": (layers.stanh, [X], lambda x: 1.7159 * np.tanh(0.67 * x)),
    "swish": (lambda x: layers.swish(x, 2.0), [X], lambda x: x * sigmoid(2 * x)),
    "thresholded_relu": (layers.thresholded_relu, [X], lambda x: np.where(x > 1, x, 0)),
    # --- of pairs
    "elementwise_add": (
        lambda x, c: layers.elementwise_add(x, c, axis=1, act="relu"),
        [X, C],
        lambda x, c: np.maximum(x + along(c), 0),
    ),
    "elementwise_sub": (
        lambda x, y: layers.elementwise_sub(x, y, 0),
        [X, X[:, :, 0, 0]],
        lambda x, y: x - y[:, :, None, None],
    ),
    "elementwise_mul": (layers.elementwise_mul, [X, Y], lambda x, y: x * y),
    "elementwise_div": (
        lambda x, y: layers.elementwise_div(x, y, act="sigmoid"),
        [X, P],
        lambda x, y: sigmoid(x / y),
    ),
    "elementwise_max": (layers.elementwise_max, [X, Y], np.maximum),
    "elementwise_min": (layers.elementwise_min, [X, Y[:, :, :, :1]], np.minimum),
    "elementwise_pow": (layers.elementwise_pow, [P, Y], np.power),
    "elementwise_mod": (layers.elementwise_mod, [INTS, np.full_like(INTS, 4)], np.mod),
    "elementwise_floordiv": (
        layers.elementwise_floordiv,
        [INTS, np.full_like(INTS, 4)],
        lambda x, y: np.trunc(x / y).astype("int64"),
    ),
    "equal": (layers.equal, [INTS, INTS[::-1].copy()], np.equal),
    "not_equal": (layers.not_equal, [INTS, INTS[::-1].copy()], np.not_equal),
    "greater_than": (layers.greater_than, [X, Y], np.greater),
    "greater_equal": (layers.greater_equal, [INTS, INTS], np.greater_equal),
    "less_than": (layers.less_than, [X, Y], np.less),
    "less_equal": (layers.less_equal, [X, Y], np.less_equal),
    "logical_and": (layers.logical_and, [BOOLS, ~BOOLS], np.logical_and),
    "logical_or": (layers.logical_or, [BOOLS, ~BOOLS], np.logical_or),
    "logical_xor": (layers.logical_xor, [BOOLS, BOOLS[::-1].copy()], np.logical_xor),
    "logical_not": (layers.logical_not, [BOOLS], np.logical_not),
    # --- reductions
    "reduce_sum": (layers.reduce_sum, [X], lambda x: x.sum().reshape(1)),
    "reduce_mean": (
        lambda x: layers.reduce_mean(x, [2, 3], True),
        [X],
        lambda x: x.mean((2, 3), keepdims=True),
    ),
    "reduce_max": (lambda x: layers.reduce_max(x, dim=-1), [X], lambda x: x.max(-1)),
    "reduce_min": (lambda x: layers.reduce_min(x, dim=1), [X], lambda x: x.min(1)),
    "reduce_prod": (lambda x: layers.reduce_prod(x), [INTS], lambda x: x.prod().reshape(1)),
    "reduce_all": (lambda x: layers.reduce_all(x, 1), [BOOLS], lambda x: x.all(1)),
    "reduce_any": (layers.reduce_any, [BOOLS], lambda x: x.any().reshape(1)),
    "mean": (layers.mean, [X], lambda x: x.mean().reshape(1)),
    # --- tensors
    "argmax": (lambda x: layers.argmax(x, 1), [R], lambda x: x.argmax(1)),
    "argmin": (layers.argmin, [R], lambda x: x.argmin(0)),
    "argsort": (
        lambda x: layers.argsort(x, descending=True),
        [R],
        lambda x: [-np.sort(-x), np.argsort(-x)],
    ),
    "assign": (lambda x: layers.assign(X) + layers.assign(x), [X], lambda x: x + X),
    "cast": (lambda x: layers.cast(x, "int32"), [X], lambda x: x.astype("int32")),
    "clip": (lambda x: layers.clip(x, -0.5, 0.5), [X], lambda x: np.clip(x, -0.5, 0.5)),
    "clip_by_norm": (
        lambda x: layers.clip_by_norm(x, 1.0),
        [X],
        lambda x: x / np.sqrt((x * x).sum()),
    ),
    "concat": (
        lambda x, y: layers.concat([x, y], axis=1),
        [X, Y],
        lambda x, y: np.concatenate([x, y], 1),
    ),
    "create_tensor": (
        lambda x: layers.assign(x, layers.create_tensor("float32")),
        [X[0, 0, 0, :1]],
        lambda x: x,
    ),
    "crop": (
        lambda x, y: layers.crop(x, shape=y, offsets=[0, 1, 2, 1]),
        [X, X[:, :2, :3, :2]],
        lambda x, y: x[:, 1:3, 2:5, 1:3],
    ),
    "crop_tensor": (
        lambda x: layers.crop_tensor(x, [2, 2, 3, 2], [0, 1, 2, 1]),
        [X],
        lambda x: x[:, 1:3, 2:5, 1:3],
    ),
    "cumsum": (
        lambda x: layers.cumsum(x, 1, exclusive=True, reverse=True),
        [R],
        lambda x: np.cumsum(x[:, ::-1], 1)[:, ::-1] - x,
    ),
    "diag": (layers.diag, [C], np.diag),
    "diag, arrays": (
        lambda x: layers.diag(C) * x + layers.sign(C),
        [np.ones(C.size, "float32")],
        lambda x: np.diag(C) + np.sign(C),
    ),
    "expand": (lambda x: layers.expand(x, [1, 2, 1, 3]), [X], lambda x: np.tile(x, (1, 2, 1, 3))),
    "expand_as": (
        layers.expand_as,
        [X[:, :2, :1], Y],
        lambda x, y: np.tile(x, (1, 2, 6, 1)),
    ),
    "eye": (
        lambda x: layers.eye(2, 3, [2]) + x,
        [np.zeros((2, 3), "float32")],
        lambda x: np.stack([np.eye(2, 3, dtype="float32")] * 2),
    ),
    "fill_constant": (
        lambda x: layers.fill_constant([layers.shape(x)[0], 2], "float32", 1.5),
        [X],
        lambda x: np.full((2, 2), 1.5, "float32"),
    ),
    "fill_constant_batch_size_like": (
        lambda x: layers.fill_constant_batch_size_like(x, [-1, 3], "float32", 2.0),
        [X],
        lambda x: np.full((2, 3), 2, "float32"),
    ),
    "flatten": (lambda x: layers.flatten(x, 2), [X], lambda x: x.reshape(8, 30)),
    "gather": (
        lambda x, i: layers.gather(x, layers.cast(i, "int32")),
        [R, LABEL[[0, 2]]],
        lambda x, i: x[i[:, 0]],
    ),
    "gather_nd": (
        layers.gather_nd,
        [R, np.array([[0, 1], [2, 4]])],
        lambda x, i: x[i[:, 0], i[:, 1]],
    ),
    "has_inf": (layers.has_inf, [np.array([1, np.inf], "float32")], lambda x: [True]),
    "has_nan": (layers.has_nan, [np.array([1, np.inf], "float32")], lambda x: [False]),
    "isfinite": (layers.isfinite, [np.array([1, np.inf], "float32")], lambda x: [False]),
    "linspace": (
        lambda x: layers.linspace(-1.0, 1.0, 5, "float32") + x,
        [np.zeros(5, "float32")],
        lambda x: np.linspace(-1, 1, 5, dtype="float32"),
    ),
    "matmul": (
        lambda x, y: layers.matmul(x, y, transpose_y=True, alpha=0.5),
        [R, S],
        lambda x, y: x @ y.T * np.float32(0.5),
    ),
    "matmul, both vectors transposed": (
        lambda x, y: layers.matmul(x, y, True, True),
        [R[0], S[0]],
        np.multiply.outer,
    ),
    "matmul, a vector as a column": (
        lambda x, y: layers.matmul(x, y, transpose_x=True),
        [R[0], S[:1]],
        lambda x, y: x[:, None] * y,
    ),
    "mul": (
        lambda x: layers.mul(x, layers.assign(R[:, :4].reshape(3, 2, 2).repeat(10, 0)), 2, 1),
        [X],
        lambda x: np.tensordot(
            x.reshape(2, 4, 30), R[:, :4].reshape(3, 2, 2).repeat(10, 0), (2, 0)
        ),
    ),
    "one_hot": (lambda i: layers.one_hot(i, 5), [LABEL], lambda i: np.eye(5)[i[:, 0]]),
    "ones": (lambda x: layers.ones([2], "int64") + x, [np.zeros(2, int)], lambda x: x + 1),
    "ones_like": (layers.ones_like, [X], np.ones_like),
    "pad": (
        lambda x: layers.pad(x, [0, 0, 1, 2, 0, 1, 3, 0], 0.5),
        [X],
        lambda x: np.pad(x, ((0, 0), (1, 2), (0, 1), (3, 0)), constant_values=0.5),
    ),
    "pad2d": (
        lambda x: layers.pad2d(x, [1, 2, 3, 0], "edge"),
        [X],
        lambda x: np.pad(x, ((0, 0), (0, 0), (1, 2), (3, 0)), "edge"),
    ),
    "pad2d, tensor": (
        lambda x: layers.pad2d(x, layers.assign(np.array([1, 2, 3, 0], "int32")), pad_value=0.5),
        [X],
        lambda x: np.pad(x, ((0, 0), (0, 0), (1, 2), (3, 0)), constant_values=0.5),
    ),
    "range": (
        lambda x: layers.range(0, 6, 2, "int64") + x,
        [np.zeros(3, int)],
        lambda x: np.arange(0, 6, 2),
    ),
    "rank": (layers.rank, [X], lambda x: np.array([4], "int32")),
    "reshape": (
        lambda x: layers.reshape(x, [0, -1, 10], act="tanh"),
        [X],
        lambda x: np.tanh(x.reshape(2, -1, 10)),
    ),
    "reverse": (lambda x: layers.reverse(x, [1, 3]), [X], lambda x: x[:, ::-1, :, ::-1]),
    "scale": (
        lambda x: layers.scale(x, 2.0, 0.5, bias_after_scale=False, act="relu"),
        [X],
        lambda x: np.maximum(2 * (x + 0.5), 0),
    ),
    "scatter": (
        lambda x, u: layers.scatter(x, layers.assign(np.array([2, 0])), u, overwrite=False),
        [R, S[:2]],
        lambda x, u: np.stack([u[1], x[1], u[0]]),
    ),
    "scatter_nd": (
        lambda i, u: layers.scatter_nd(i, u, [4, 5]),
        [LABEL[[0, 2, 0]], R],
        lambda i, u: np.stack([u[1], u[0] + u[2], 0 * u[0], 0 * u[0]]),
    ),
    "scatter_nd_add": (
        layers.scatter_nd_add,
        [R, np.array([[0, 1], [2, 4], [0, 1]]), C[:3]],
        lambda x, i, u: x + [[0, u[0] + u[2], 0, 0, 0], [0] * 5, [0, 0, 0, 0, u[1]]],
    ),
    "sequence_mask": (
        lambda n: layers.sequence_mask(n, 4, "float32"),
        [LABEL[:, 0]],
        lambda n: (np.arange(4) < n[:, None]).astype("float32"),
    ),
    "sequence_mask, maxlen": (
        layers.sequence_mask,
        [LABEL[:, 0]],
        lambda n: (np.arange(4) < n[:, None]).astype("int64"),
    ),
    "shape": (layers.shape, [X], lambda x: np.array(x.shape, "int32")),
    "size": (layers.size, [X], lambda x: np.array([x.size])),
    "slice": (
        lambda x: layers.slice(x, [1, 3], [1, -3], [3, 5]),
        [X],
        lambda x: x[:, 1:3, :, -3:5],
    ),
    "split": (
        lambda x: layers.split(x, [1, 3], dim=1),
        [X],
        lambda x: [x[:, :1], x[:, 1:]],
    ),
    "squeeze": (lambda x: layers.squeeze(x, [1]), [X[:, :1]], lambda x: x[:, 0]),
    "stack": (lambda x, y: layers.stack([x, y], 1), [X, Y], lambda x, y: np.stack([x, y], 1)),
    "strided_slice": (
        lambda x: layers.strided_slice(x, [2], [1], [6], [2]),
        [X],
        lambda x: x[:, :, 1:6:2],
    ),
    "sum": (lambda x, y: layers.sum([x, y, x]), [X, Y], lambda x, y: x + y + x),
    "sums": (lambda x, y: layers.sums([x, y]), [X, Y], lambda x, y: x + y),
    "topk": (
        lambda x: layers.topk(x, 2),
        [R],
        lambda x: [-np.sort(-x)[:, :2], np.argsort(-x)[:, :2]],
    ),
    "transpose": (
        lambda x: layers.transpose(x, perm=[0, 2, 3, 1]),
        [X],
        lambda x: x.transpose(0, 2, 3, 1),
    ),
    "unsqueeze": (lambda x: layers.unsqueeze(x, axes=[1]), [X], lambda x: x[:, None]),
    "unstack": (lambda x: layers.unstack(x, 1), [R], lambda x: list(x.T)),
    "where": (layers.where, [BOOLS], lambda x: np.argwhere(x)),
    "zeros": (lambda x: layers.zeros([3, 5], "float32") + x, [R], lambda x: x),
    "zeros_like": (layers.zeros_like, [X], np.zeros_like),
    # --- losses
    "cross_entropy": (
        lambda p, i: layers.cross_entropy(p, i, ignore_index=4),
        [PROB, LABEL],
        lambda p, i: np.array([[-np.log(p[0, 1])], [0], [-np.log(p[2, 0])]]),
    ),
    "softmax_with_cross_entropy": (
        lambda x, i: layers.softmax_with_cross_entropy(x, i, return_softmax=True),
        [R, LABEL],
        lambda x, i: [-np.log(np.take_along_axis(PROB, i, 1)), PROB],
    ),
    "sigmoid_cross_entropy_with_logits": (
        lambda x, y: layers.sigmoid_cross_entropy_with_logits(x, y, -1, normalize=True),
        [R, np.array([[1, 0, -1, 1, 0]] * 3, "float32")],
        lambda x, y: (
            np.where(y == -1, 0, -y * np.log(sigmoid(x)) - (1 - y) * np.log(1 - sigmoid(x))) / 12
        ),
    ),
    "sigmoid_cross_entropy_with_logits, -100": (
        lambda x, y: layers.sigmoid_cross_entropy_with_logits(x, y, ignore_index=255),
        [R, np.array([[1, 0, -100, 255, 0]] * 3, "float32")],
        lambda x, y: np.where(
            y == 255, 0, -y * np.log(sigmoid(x)) - (1 - y) * np.log(1 - sigmoid(x))
        ),
    ),
    "square_error_cost": (layers.square_error_cost, [X, Y], lambda x, y: (x - y) ** 2),
    "mse_loss": (layers.mse_loss, [X, Y], lambda x, y: ((x - y) ** 2).mean().reshape(1)),
    "smooth_l1": (
        lambda x, y, i, o: layers.smooth_l1(x, y, i, o, sigma=2.0),
        [R, S, np.abs(R), np.abs(S)],
        lambda x, y, i, o: (
            o
            * np.where(
                np.abs(i * (x - y)) < 0.25,
                2 * (i * (x - y)) ** 2,
                np.abs(i * (x - y)) - 0.125,
            )
        ).sum(1, keepdims=True),
    ),
    "huber_loss": (
        lambda x, y: layers.huber_loss(x, y, 0.5),
        [R, S],
        lambda x, y: np.where(np.abs(x - y) <= 0.5, (x - y) ** 2 / 2, 0.5 * (np.abs(x - y) - 0.25)),
    ),
    "log_loss": (
        layers.log_loss,
        [PROB, np.round(PROB)],
        lambda p, y: -y * np.log(p + 1e-4) - (1 - y) * np.log(1 - p + 1e-4),
    ),
    "kldiv_loss": (
        lambda x, y: layers.kldiv_loss(x, y, "sum"),
        [np.log(PROB), PROB[::-1].copy()],
        lambda x, y: (y * (np.log(y) - x)).sum().reshape(1),
    ),
    "dice_loss": (
        layers.dice_loss,
        [PROB, LABEL],
        lambda p, i: (
            (1 - 2 * np.take_along_axis(p, i, 1)[:, 0] / (p.sum(1) + 1 + 1e-5)).mean().reshape(1)
        ),
    ),
    "rank_loss": (
        layers.rank_loss,
        [np.round(PROB), R, S],
        lambda t, x, y: np.log1p(np.exp(x - y)) - t * (x - y),
    ),
    "margin_rank_loss": (
        layers.margin_rank_loss,
        [np.sign(PROB - 0.5), R, S],
        lambda t, x, y: np.maximum(0, 0.1 - t * (x - y)),
    ),
    "warpctc": (
        lambda x, y: layers.warpctc(
            x, y, 2, False, layers.assign(np.array([3, 2])), layers.assign(np.array([2, 1]))
        ),
        [V[0, :, :2, 0, :3], np.array([[0, 1], [1, 0]], "int32")],
        lambda x, y: np.array(
            [[alignments(x[:3, 0], [0, 1], 2)], [alignments(x[:2, 1], [1], 2)]], "float32"
        ),
    ),
    # --- pooling and resizing
    "pool2d": (
        lambda x: layers.pool2d(x, 3, "avg", 2, [0, 1], ceil_mode=True, exclusive=False),
        [X],
        lambda x: windows(x, (3, 3), 2, (0, 0, 1, 1), True, "avg", False),
    ),
    "pool2d, ceil_mode": (
        lambda x: layers.pool2d(x, [3, 2], "max", 2, [1, 0, 1, 0], ceil_mode=True),
        [X],
        lambda x: windows(x, (3, 2), 2, (1, 0, 1, 0), True, "max"),
    ),
    "pool2d, exclusive": (
        lambda x: layers.pool2d(x, 2, "avg", 2, [1, 0], ceil_mode=True),
        [X],
        lambda x: windows(x, (2, 2), 2, (1, 1, 0, 0), True, "avg"),
    ),
    "pool2d, global_pooling": (
        lambda x: layers.pool2d(x, pool_type="avg", global_pooling=True),
        [X],
        lambda x: x.mean((2, 3), keepdims=True),
    ),
    "resize_nearest, align_corners": (
        lambda x: layers.resize_nearest(x, [9, 4], align_corners=False),
        [X],
        lambda x: picked(x, (9, 4), edges),
    ),
    "resize_nearest, tensors": (
        lambda x: layers.resize_nearest(x, [layers.shape(x)[2] * 2, layers.shape(x)[3]]),
        [X],
        lambda x: picked(x, (12, 5), lambda old, new: corners(old, new) + 0.5),
    ),
    "adaptive_pool2d": (
        lambda x: layers.adaptive_pool2d(x, [3, 5], "avg"),
        [X],
        lambda x: x.reshape(2, 4, 3, 2, 5).mean(3),
    ),
    "pool3d": (
        lambda x: layers.pool3d(x, 2, "max", 2),
        [V],
        lambda x: x[..., :4].reshape(2, 3, 2, 2, 3, 2, 2, 2).max((3, 5, 7)),
    ),
    "adaptive_pool3d": (
        lambda x: layers.adaptive_pool3d(x, [2, 3, 5]),
        [V],
        lambda x: x.reshape(2, 3, 2, 2, 3, 2, 5).max((3, 5)),
    ),
    "image_resize": (
        lambda x: layers.image_resize(x, [9, 4], align_corners=False, align_mode=0),
        [X],
        lambda x: resized(x, (9, 4), middles),
    ),
    "resize_bilinear": (
        lambda x: layers.resize_bilinear(x, scale=1.5),
        [X],
        lambda x: resized(x, (9, 7), corners),
    ),
    "resize_bilinear, rounded": (  # 100 * 0.29 is 28.999... in float64, and 29 in float32
        lambda x: layers.resize_bilinear(x, scale=0.29),
        [np.repeat(np.repeat(X, 20, 3), 17, 2)[:, :, :100]],
        lambda x: resized(x, (29, 29), corners),
    ),
    "resize_nearest": (
        lambda x: layers.resize_nearest(x, scale=2.0),
        [X],
        lambda x: picked(x, (12, 10), lambda old, new: corners(old, new) + 0.5),
    ),
    "resize_trilinear": (
        lambda x: layers.resize_trilinear(x, [4, 6, 10], align_corners=False),
        [V],
        lambda x: np.stack([resized(x[:, :, i], (6, 10), edges) for i in range(4)], 2),
    ),
    "image_resize_short": (
        lambda x: layers.image_resize_short(layers.slice(x, [0], [0], [1]), 10),
        [X],
        lambda x: resized(x[:1], (12, 10), corners),
    ),
    "pixel_shuffle": (
        lambda x: layers.pixel_shuffle(x, 2),
        [X],
        lambda x: x.reshape(2, 1, 2, 2, 6, 5).transpose(0, 1, 4, 2, 5, 3).reshape(2, 1, 12, 10),
    ),
    "shuffle_channel": (
        lambda x: layers.shuffle_channel(x, group=2),
        [X],
        lambda x: x[:, [0, 2, 1, 3]],
    ),
    "temporal_shift": (
        lambda x: layers.temporal_shift(x, 2, 0.25),
        [X],
        lambda x: np.stack(
            [
                np.stack([np.zeros_like(x[0, 0]), x[1, 1], *x[0, 2:]]),
                np.stack([x[0, 0], np.zeros_like(x[0, 0]), *x[1, 2:]]),
            ]
        ),
    ),
    "unfold": (
        lambda x: layers.unfold(x, [1, 2], strides=1),
        [X],
        lambda x: np.stack([x[..., :-1], x[..., 1:]], 2).reshape(2, 8, 24),
    ),
    "affine_grid": (
        lambda t: layers.affine_grid(t, [2, 1, 2, 3]),
        [np.tile(np.eye(2, 3, dtype="float32"), (2, 1, 1))],
        lambda t: np.tile(
            np.stack(np.meshgrid([-1, 0, 1], [-1, 1]), -1).astype("float32"), (2, 1, 1, 1)
        ),
    ),
    "grid_sampler": (
        layers.grid_sampler,
        [X, np.tile(np.stack(np.meshgrid([-1, 1], [-1, 1]), -1).astype("float32"), (2, 1, 1, 1))],
        lambda x, g: x[:, :, ::5, ::4],
    ),
    # --- the rest
    "affine_channel": (
        lambda x, s: layers.affine_channel(x, s, s, act="relu"),
        [X, C],
        lambda x, s: np.maximum(x * along(s) + along(s), 0),
    ),
    "l2_normalize": (
        lambda x: layers.l2_normalize(x, axis=1),
        [X],
        lambda x: x / np.sqrt((x * x).sum(1, keepdims=True)),
    ),
    "softmax": (
        lambda x: layers.softmax(x, axis=1),
        [X],
        lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True),
    ),
    "maxout": (lambda x: layers.maxout(x, 2), [X], lambda x: x.reshape(2, 2, 2, 6, 5).max(2)),
    "label_smooth": (
        lambda y: layers.label_smooth(y, epsilon=0.2),
        [np.eye(5, dtype="float32")],
        lambda y: 0.8 * y + 0.04,
    ),
    "dropout": (
        lambda x: layers.dropout(x, 0.25, is_test=True),
        [X],
        lambda x: 0.75 * x,
    ),
    "accuracy": (layers.accuracy, [PROB, LABEL], lambda p, i: [np.mean(p.argmax(1) == i[:, 0])]),
    "lrn": (
        lambda x: layers.lrn(x, 3, 2.0, 0.5, 0.75),
        [X],
        lambda x: normalized_by_neighbours(x, 3, 2.0, 0.5, 0.75),
    ),
    "lrn, NHWC": (
        lambda x: layers.lrn(x, alpha=0.5, data_format="NHWC"),
        [X.transpose(0, 2, 3, 1)],
        lambda x: normalized_by_neighbours(x.transpose(0, 3, 1, 2), 5, 1.0, 0.5, 0.75).transpose(
            0, 2, 3, 1
        ),
    ),
    "cond": (
        lambda x: layers.cond(layers.mean(x) > 1e3, lambda: x, lambda: x * 2.0),
        [X],
        lambda x: 2 * x,
    ),
    "case": (
        lambda x: layers.case([(layers.mean(x) > 1e3, lambda: x)], lambda: x * 2.0),
        [X],
        lambda x: 2 * x,
    ),
    "switch_case": (
        lambda x: layers.switch_case(
            layers.fill_constant([1], "int32", 1), {1: lambda: x * 3.0, 2: lambda: x * 2.0}
        ),
        [X],
        lambda x: 3 * x,
    ),
    "while_loop": (
        lambda x: layers.while_loop(
            lambda i, y: i < layers.fill_constant([1], "int64", 3),
            lambda i, y: [i + 1, y * 2.0],
            [layers.fill_constant([1], "int64", 0), x],
        )[1],
        [X],
        lambda x: 8 * x,
    ),
    "Switch": (switched, [X], lambda x: [2 * (x * x).sum()]),
    "While": (looped, [C], lambda x: 3 * x),
    "increment": (
        lambda x: layers.increment(layers.fill_constant([1], "float32", 1.0), 0.5) + x,
        [C],
        lambda x: 1.5 + x,
    ),
    "is_empty": (layers.is_empty, [X], lambda x: [False]),
    "Print": (lambda x: layers.Print(x, message="x"), [C], lambda x: x),
    # --- detection
    "yolo_box": (
        lambda x, s: layers.yolo_box(
            x, layers.cast(s, "int32"), [10, 13], 2, 0.01, 32, scale_x_y=1.5
        ),
        [V[:, 0, :1].repeat(7, 1), np.array([[192, 160]] * 2)],
        dynamic(
            lambda x, s: paddle.vision.ops.yolo_box(
                x, s.astype("int32"), [10, 13], 2, 0.01, 32, scale_x_y=1.5
            )
        ),
    ),
    "yolov3_loss": (
        lambda x, b, t: layers.yolov3_loss(
            x, b, layers.cast(t, "int32"), [10, 13], [0], 2, 0.5, 32, use_label_smooth=False
        ),
        [V[:, 0, :1, :5].repeat(7, 1), P[:, 0, :1, :4], np.array([[1], [0]])],
        dynamic(
            lambda x, b, t: paddle.vision.ops.yolo_loss(
                x, b, t.astype("int32"), [10, 13], [0], 2, 0.5, 32, use_label_smooth=False
            )
        ),
    ),
    "sigmoid_focal_loss": (
        lambda x, t, n: layers.sigmoid_focal_loss(
            x, layers.cast(t, "int32"), layers.cast(n, "int32"), 2.0, 0.3
        ),
        [R, np.array([[0], [3], [-1]]), np.array([2])],
        lambda x, t, n: (
            np.where(
                t == np.arange(1, 6),
                -0.3 * (1 - sigmoid(x)) ** 2 * np.log(sigmoid(x)),
                -0.7 * sigmoid(x) ** 2 * np.log(1 - sigmoid(x)),
            )
            * (t != -1)
            / 2
        ),
    ),
    "iou_similarity": (
        layers.iou_similarity,
        [np.array([[0, 0, 2, 2], [0, 0, 1, 1]], "float32"), np.array([[1, 0, 3, 2]], "float32")],
        lambda x, y: np.array([[1 / 3], [0]]),
    ),
    "box_coder": (
        lambda p, t: layers.box_coder(p, [0.1, 0.1, 0.2, 0.2], t),
        [np.array([[0, 0, 2, 2]], "float32"), np.array([[1, 0, 3, 2]], "float32")],
        lambda p, t: np.array([[[5.0, 0, 0, 0]]]),
    ),
    "prior_box": (
        lambda x, i: layers.prior_box(x, i, [2.0])[0],
        [X, np.zeros((2, 3, 12, 10), "float32")],
        dynamic(lambda x, i: paddle.vision.ops.prior_box(x, i, [2.0])[0]),
    ),
    "multiclass_nms": (
        lambda b, s: layers.multiclass_nms(b, s, 0.2, 5, 4, 0.3),
        [BOXES, SCORES],
        lambda b, s: suppressed(b, s, 0.2, 5, 4, 0.3, 0.0, 1.0, 0),
    ),
    "multiclass_nms, pixels": (
        lambda b, s: layers.multiclass_nms(b, s, 0.1, -1, -1, 0.7, False, 0.6, -1),
        [BOXES, SCORES],
        lambda b, s: suppressed(b, s, 0.1, 10, 99, 0.7, 1.0, 0.6, -1),
    ),
    "multiclass_nms, none": (
        lambda b, s: layers.multiclass_nms(b, s, 2.0, 5, 4),
        [BOXES, SCORES],
        lambda b, s: np.zeros((0, 6), "float32"),
    ),
    "detection_output": (
        lambda c, s, p, v: layers.detection_output(c, s, p, v, keep_top_k=4, score_threshold=0.3),
        [P[:, 0, :, :4].repeat(2, 1)[:, :10], SCORES.transpose(0, 2, 1), PRIORS, PRIORS],
        lambda c, s, p, v: suppressed(
            decoded(p, v, c),
            (np.exp(s) / np.exp(s).sum(2, keepdims=True)).transpose(0, 2, 1),
            0.3,
            400,
            4,
            0.3,
            0.0,
            1.0,
            0,
        ),
    ),
    "roi_align": (
        lambda x, b: layers.roi_align(x, b, 2, 3, 0.5, 2),
        [X[:1], ROIS],
        dynamic(
            lambda x, b: paddle.vision.ops.roi_align(
                x, b, paddle.to_tensor([3], "int32"), (2, 3), 0.5, 2, aligned=False
            )
        ),
    ),
    "roi_align, rois_num": (
        lambda x, b, n: layers.roi_align(x, b, rois_num=n),
        [X, ROIS, ROIS_NUM],
        dynamic(lambda x, b, n: paddle.vision.ops.roi_align(x, b, n, 1, 1.0, -1, aligned=False)),
    ),
    "roi_pool": (
        lambda x, b: layers.roi_pool(x, b, 2, 2, 0.5),
        [X[:1], ROIS],
        dynamic(
            lambda x, b: paddle.vision.ops.roi_pool(x, b, paddle.to_tensor([3], "int32"), 2, 0.5)
        ),
    ),
    "psroi_pool": (
        lambda x, b: layers.psroi_pool(x, b, 2, 0.5, 1, 2),
        [X[:1], ROIS],
        dynamic(
            lambda x, b: paddle.vision.ops.psroi_pool(
                x, b, paddle.to_tensor([3], "int32"), (1, 2), 0.5
            )
        ),
    ),
    "anchor_generator": (
        lambda x: layers.anchor_generator(x, [8.0, 20.0], [0.5, 1.0, 2.0], stride=[16.0, 8.0])[0],
        [X],
        lambda x: anchors(x, [8, 20], [0.5, 1, 2], [16, 8], 0.5),
    ),
    "density_prior_box": (
        lambda x, i: layers.density_prior_box(x, i, [2, 1], [16.0, 9.0], [2.0], offset=0.25)[0],
        [X, np.zeros((2, 3, 48, 60), "float32")],
        lambda x, i: dense_anchors(x, i, [2, 1], [16, 9], 2.0, 0.25),
    ),
    "generate_proposals": (
        lambda s, d, i, a, v: layers.generate_proposals(s, d, i, a, v, 8, 4, 0.6, 2.0)[0],
        [P[:1, :2, :3, :2], DELTAS, np.array([[14, 12, 1]], "float32"), ANCHORS, VARIANCES],
        dynamic(
            lambda s, d, i, a, v: paddle.vision.ops.generate_proposals(
                s, d, i[:, :2], a, v, 8, 4, 0.6, 2.0, pixel_offset=True, return_rois_num=True
            )[0]
        ),
    ),
    "distribute_fpn_proposals": (
        lambda b: [*(found := layers.distribute_fpn_proposals(b, 2, 3, 2, 2))[0], found[1]],
        [ROIS],
        # The level is 2 + log2(side / 2), rounded down, from 2 on; sides are 4.5, 4.4 and 1 pixels.
        lambda b: [b[2:], b[:2], np.array([[1], [2], [0]], "int32")],
    ),
    "collect_fpn_proposals": (
        lambda b, s: layers.collect_fpn_proposals([b[:1], b[1:]], [s[:1], s[1:]], 2, 3, 2),
        [ROIS, np.array([[0.2], [0.9], [0.5]], "float32")],
        lambda b, s: b[[1, 2]],
    ),
    "box_clip": (
        layers.box_clip,
        [np.array([[-2, 3, 90, 12]], "float32"), np.array([[20, 100, 2]], "float32")],
        lambda b, i: [[0.0, 3, 49, 9]],
    ),
    "bipartite_match": (
        lambda d: layers.bipartite_match(d, "per_prediction", 0.3),
        [np.array([[0.9, 0.8, 0.4, 0.1], [0.85, 0.7, 0.2, 0.2]], "float32")],
        lambda d: [np.array([[0, 1, 0, -1]], "int32"), np.array([[0.9, 0.7, 0.4, 0]], "float32")],
    ),
    "polygon_box_transform": (
        layers.polygon_box_transform,
        [X],
        lambda x: np.stack(
            [4 * np.indices((6, 5))[1 - c % 2] - x[:, c] for c in range(4)], 1
        ).astype("float32"),
    ),
    "matrix_nms": (
        lambda b, s: layers.matrix_nms(b, s, 0.1, 0.1, 3, 3, background_label=-1),
        [np.array([[[0, 0, 1, 1], [2, 2, 3, 3]]], "float32"), np.array([[[0.9, 0.8]]], "float32")],
        lambda b, s: np.array([[0, 0.9, 0, 0, 1, 1], [0, 0.8, 2, 2, 3, 3]]),
    ),
}


def tolerance(wanted):
    return 1e-5 * max(1.0, np.abs(wanted).max(initial=0))


def compare(found, wanted):
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert (found.dtype.kind, wanted.dtype.kind) not in {("f", "i"), ("i", "f"), ("f", "b")}
    assert not np.isnan(wanted.astype("float64")).any()
    if wanted.dtype.kind != "f":
        np.testing.assert_array_equal(found, wanted)
    else:
        # A few roundings of float32, and those of its elementary functions.
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance(wanted))


def declared(arrays):
    """Declare inputs x0, x1, ... with an open first dimension."""
    return [
        fluid.data(f"x{i}", [None, *array.shape[1:]], str(array.dtype))
        for i, array in enumerate(arrays)
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_function(name, kind):
    call, arrays, formula = CASES[name]
    with programs_1x(kind) as executor:
        out = call(*declared(arrays))
        outs = list(out) if isinstance(out, (list, tuple)) else [out]
        feed = {f"x{i}": array for i, array in enumerate(arrays)}
        # Not as arrays: Paddle refuses to make some of what still holds level of detail.
        found = executor.run(feed=feed, fetch_list=outs, return_numpy=False)
    wanted = formula(*arrays)
    wanted = wanted if isinstance(out, (list, tuple)) else [wanted]
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted):
        compare(one, other)


# --- layers with parameters ----------------------------------------------------------------------

WEIGHT = RNG.normal(0, 0.2, (6, 2, 3, 3)).astype("float32")
CUBE = RNG.normal(0, 0.2, (6, 3, 2, 2, 2)).astype("float32")
TURNED = RNG.normal(0, 0.2, (4, 3, 3, 2)).astype("float32")
BIAS = RNG.normal(0, 1, 6).astype("float32")
D = RNG.uniform(0.5, 2, 4).astype("float32")
OFFSET = RNG.normal(0, 1, (2, 18, 6, 5)).astype("float32")
NORMAL = 0.02 * RNG.normal(size=(1, 1)).astype("float32")


def conv(x, weight, bias=None, **settings):
    tensors = [None if array is None else paddle.to_tensor(array) for array in (x, weight, bias)]
    return F.conv2d(*tensors, **settings).numpy()


# The call, its arrays, the values that its parameters get, by name, and what it is to give then.
LAYERS = {
    "conv2d": (
        lambda x: layers.conv2d(x, 6, 3, 2, 1, groups=2, act="relu"),
        [X],
        {"conv2d_0.w_0": WEIGHT, "conv2d_0.b_0": BIAS},
        lambda x, w, b: np.maximum(conv(x, w, b, stride=2, padding=1, groups=2), 0),
    ),
    "conv2d, depthwise": (
        lambda x: layers.conv2d(x, 4, 3, groups=4, bias_attr=False, use_cudnn=False, name=None),
        [X],
        {"depthwise_conv2d_0.w_0": WEIGHT[:4, :1]},
        lambda x, w: conv(x, w, groups=4),
    ),
    "conv2d, NHWC": (
        lambda x: layers.conv2d(
            layers.transpose(x, [0, 2, 3, 1]),
            6,
            3,
            padding="SAME",
            groups=2,
            param_attr=fluid.ParamAttr(name="w"),
            bias_attr="b",
            data_format="NHWC",
        ),
        [X],
        {"w": WEIGHT, "b": BIAS},
        lambda x, w, b: conv(x, w, b, padding=1, groups=2).transpose(0, 2, 3, 1),
    ),
    "conv3d": (
        lambda x: layers.conv3d(x, 6, 2, name="volume"),
        [V],
        {"volume.w_0": CUBE, "volume.b_0": BIAS},
        lambda x, w, b: nn(paddle.nn.Conv3D(3, 6, 2), {"weight": w, "bias": b})(x),
    ),
    "conv2d_transpose": (
        lambda x: layers.conv2d_transpose(x, 3, filter_size=[3, 2], stride=2, padding=[1, 0]),
        [X],
        {"conv2d_transpose_0.w_0": TURNED, "conv2d_transpose_0.b_0": BIAS[:3]},
        lambda x, w, b: nn(
            paddle.nn.Conv2DTranspose(4, 3, (3, 2), 2, (1, 0)), {"weight": w, "bias": b}
        )(x),
    ),
    "conv2d_transpose, output_size": (
        # (H - 1) * 2 - 2 * 1 + 3 = 11 and (W - 1) * 2 + 2 = 10 come from a kernel of 3x2
        lambda x: layers.conv2d_transpose(
            layers.crop(x, [-1, 4, 6, 5], [0, 0, 0, 0]), 3, [11, 10], None, [1, 0], 2
        ),
        [X],
        {"conv2d_transpose_0.w_0": TURNED, "conv2d_transpose_0.b_0": BIAS[:3]},
        lambda x, w, b: nn(
            paddle.nn.Conv2DTranspose(4, 3, (3, 2), 2, (1, 0)), {"weight": w, "bias": b}
        )(x),
    ),
    "conv3d_transpose": (
        lambda x: layers.conv3d_transpose(x, 6, None, 2, dilation=[1, 2, 1], groups=3),
        [V],
        {"conv3d_transpose_0.w_0": CUBE[:3, :2], "conv3d_transpose_0.b_0": BIAS},
        lambda x, w, b: spread(x, w, b, [1, 2, 1]),
    ),
    "conv3d_transpose, output_size": (  # 3 + 2 * (2 - 1) - 2 * 0 and so on
        lambda x: layers.conv3d_transpose(
            layers.crop(x, [-1, 3, 4, 6, 5], [0] * 5), 6, [5, 8, 6], dilation=[1, 2, 1], groups=3
        ),
        [V],
        {"conv3d_transpose_0.w_0": CUBE[:3, :2], "conv3d_transpose_0.b_0": BIAS},
        lambda x, w, b: spread(x, w, b, [1, 2, 1]),
    ),
    "spectral_norm": (
        lambda: layers.spectral_norm(layers.create_parameter([3, 5], "float32", "own"), 1, 2),
        [],
        {"own": R, "spectral_norm_0.w_0": S[0], "spectral_norm_0.w_1": C[:3]},
        lambda w, u, v: by_spectral_norm(w.T, u).T,
    ),
    "deformable_conv": (
        lambda x, o: layers.deformable_conv(x, o, None, 6, 3, padding=1, groups=2, modulated=False),
        [X, OFFSET],
        {"deformable_conv_0.w_0": WEIGHT, "deformable_conv_0.b_0": BIAS},
        dynamic(
            lambda x, o, w, b: paddle_dcn.deform_conv2d_reference(x, o, w, b, padding=1, groups=2)
        ),
    ),
    "fc": (
        lambda x, r: layers.fc([x, x], 3, param_attr=["a", "b"], bias_attr="c", act="tanh"),
        [X, R],
        {
            "a": NORMAL.repeat(120, 0).repeat(3, 1),
            "b": WEIGHT.reshape(-1, 3)[:36].repeat(4, 0)[:120],
            "c": BIAS[:3],
        },
        lambda x, r, a, b, c: np.tanh(x.reshape(2, -1) @ a + x.reshape(2, -1) @ b + c),
    ),
    "fc, num_flatten_dims": (
        lambda x: layers.fc(x, 6, num_flatten_dims=3),
        [X],
        {"fc_0.w_0": WEIGHT.reshape(-1, 6)[:5], "fc_0.b_0": BIAS},
        lambda x, w, b: x @ w + b,
    ),
    "embedding": (
        lambda i: layers.embedding(i, [5, 4], padding_idx=-1),
        [LABEL],
        {"embedding_0.w_0": R.repeat(2, 0)[:5, :4]},
        lambda i, w: np.where(i == 4, 0, w[i[:, 0]]),
    ),
    "prelu": (
        lambda x: layers.prelu(x, "channel"),
        [X],
        {"prelu_0.w_0": along(D)},
        lambda x, a: np.where(x > 0, x, a * x),
    ),
    "prelu, all": (
        lambda x: layers.prelu(x, "all", param_attr="alpha"),
        [X],
        {"alpha": D[:1]},
        lambda x, a: np.where(x > 0, x, a * x),
    ),
    "prelu, element": (
        lambda x: layers.prelu(layers.crop(x, [-1, 4, 6, 5], [0, 0, 0, 0]), "element"),
        [X],
        {"prelu_0.w_0": P[:1]},
        lambda x, a: np.where(x > 0, x, a * x),
    ),
    "batch_norm": (
        lambda x: layers.batch_norm(x, act="relu", name="bn"),
        [X],
        {"bn.w_0": C, "bn.b_0": D, "bn.w_1": C, "bn.w_2": D},
        lambda x, s, b, m, v: np.maximum(normalized(x, (0, 2, 3)) * along(s) + along(b), 0),
    ),
    "batch_norm, use_global_stats": (
        lambda x: layers.batch_norm(
            x, param_attr="s", moving_mean_name="m", moving_variance_name="v", use_global_stats=True
        ),
        [X],
        {"s": C, "batch_norm_0.b_0": D, "m": C, "v": D},
        lambda x, s, b, m, v: (x - along(m)) / np.sqrt(along(v) + 1e-5) * along(s) + along(b),
    ),
    "group_norm": (
        lambda x: layers.group_norm(x, 2, param_attr=fluid.ParamAttr(), bias_attr="b", act="relu"),
        [X],
        {"group_norm_0.w_0": C, "b": D},
        lambda x, s, b: np.maximum(
            normalized(x.reshape(2, 2, 2, 6, 5), (2, 3, 4)).reshape(x.shape) * along(s) + along(b),
            0,
        ),
    ),
    "group_norm, None": (
        lambda x: layers.group_norm(x, 4),
        [X],
        {},
        lambda x: normalized(x, (2, 3)),
    ),
    "instance_norm": (
        layers.instance_norm,
        [X],
        {"instance_norm_0.w_0": C, "instance_norm_0.b_0": D},
        lambda x, s, b: normalized(x, (2, 3)) * along(s) + along(b),
    ),
    "layer_norm": (
        lambda x: layers.layer_norm(x, begin_norm_axis=3),
        [X],
        {"layer_norm_0.w_0": R[0], "layer_norm_0.b_0": R[1]},
        lambda x, s, b: normalized(x, 3) * s + b,
    ),
    "create_parameter": (
        lambda x: x * layers.create_parameter([5], "float32", name="own"),
        [X],
        {"own": R[0]},
        lambda x, w: x * w,
    ),
    "create_global_var": (
        lambda x: x * layers.create_global_var([1], 2.0, "float32", persistable=True, name="g"),
        [X],
        {},
        lambda x: 2 * x,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, kind):
    """Its parameters have the names and shapes of 1.x, and with their values it computes this."""
    call, arrays, weights, formula = LAYERS[name]
    with programs_1x(kind) as executor:
        out = call(*declared(arrays))
        loss = layers.mean(layers.square(out))
        fluid.optimizer.SGD(0.0).minimize(loss)
        initialize(executor)
        assert parameters() == {name: [*array.shape] for name, array in weights.items()}
        for name, array in weights.items():
            tensor = fluid.global_scope().find_var(name).get_tensor()
            tensor.set(np.ascontiguousarray(array), fluid.CPUPlace())
        feed = {f"x{i}": array for i, array in enumerate(arrays)}
        (found,) = executor.run(feed=feed, fetch_list=[out])
    compare(found, formula(*arrays, *weights.values()))


# A normalisation, the shape of its input, and what it normalises: a view's shape and axes.
NORMS = {
    "group_norm": (lambda x: layers.group_norm(x, 2), (2, 4, 3, 2), (2, 2, 2, 3, 2), (2, 3, 4)),
    "group_norm, False": (
        lambda x: layers.group_norm(x, 2, param_attr=False, bias_attr=False),
        (2, 4, 3, 2),
        (2, 2, 2, 3, 2),
        (2, 3, 4),
    ),
    "group_norm, bias": (
        lambda x: layers.group_norm(x, 2, bias_attr="b"),
        (2, 4, 3, 2),
        (2, 2, 2, 3, 2),
        (2, 3, 4),
    ),
    "group_norm, scale": (
        lambda x: layers.group_norm(x, 4, param_attr="s"),
        (2, 4, 3, 2),
        (2, 4, 3, 2),
        (2, 3),
    ),
    "group_norm, NHWC": (
        lambda x: layers.group_norm(x, 2, data_layout="NHWC"),
        (2, 3, 2, 4),
        (2, 3, 2, 2, 2),
        (1, 2, 4),
    ),
    "instance_norm": (
        lambda x: layers.instance_norm(x, param_attr=False, bias_attr=False),
        (2, 4, 3, 2),
        (2, 4, 3, 2),
        (2, 3),
    ),
    "layer_norm": (
        lambda x: layers.layer_norm(x, scale=False, shift=False, begin_norm_axis=2),
        (2, 4, 3, 2),
        (2, 4, 3, 2),
        (2, 3),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NORMS)
def test_gradient_of_norm(name, kind):
    """With a scale and a shift that are left out or at their first values, 1 and 0."""
    call, shape, view, axes = NORMS[name]
    x, factors = np.random.default_rng(5).normal(size=(2, *shape)).astype("float32")
    with programs_1x(kind) as executor:
        image = fluid.data("x", shape)
        image.stop_gradient = False
        loss = layers.reduce_sum(call(image) * layers.assign(factors))
        gradients = fluid.gradients(loss, image)
        initialize(executor)
        (found,) = executor.run(feed={"x": x}, fetch_list=gradients)

    def total(point):
        return (normalized(point.reshape(view), axes).reshape(shape) * factors).sum()

    wanted = np.empty(shape)
    for index in np.ndindex(*shape):
        step = np.zeros(shape)
        step[index] = 1e-5
        wanted[index] = (total(x + step) - total(x - step)) / 2e-5
    compare(found, wanted)


def test_every_function_has_a_case():
    tested = {name.partition(",")[0] for name in CASES} | {
        name.partition(",")[0] for name in LAYERS
    }
    elsewhere = {"auc", "autoincreased_step_counter", "data", "gaussian_random", "py_func"}
    elsewhere |= {"uniform_random"}
    schedules = set(learning_rate_scheduler.__all__)
    assert set(layers.__all__) - set(detection.GONE) == tested | elsewhere | schedules


# Standard deviation of the first values, in terms of the weight's shape, or their value.
INITIAL = {
    "conv2d": ([64, 32, 3, 3], lambda x: layers.conv2d(x, 64, 3), math.sqrt(2 / (9 * 32)), None),
    "conv2d_transpose": (
        [32, 64, 3, 3],
        lambda x: layers.conv2d_transpose(x, 64, filter_size=3),
        math.sqrt(2 / (9 * (32 + 64))),  # of a uniform distribution up to sqrt(3) of it
        math.sqrt(6 / (9 * (32 + 64))),
    ),
    "fc": ([32 * 64, 100], lambda x: layers.fc(x, 100), math.sqrt(2 / (2048 + 100)), None),
}


@pytest.mark.parametrize("name", INITIAL)
def test_initial_values(name):
    shape, call, deviation, most = INITIAL[name]
    with programs_1x("pir") as executor:
        paddle.seed(3)
        call(fluid.data("x", [None, 32, 8, 8]))
        initialize(executor)
        weight, bias = value(f"{name}_0.w_0"), value(f"{name}_0.b_0")
    assert [*weight.shape] == shape
    assert not bias.any()
    # The deviation of n values is off by 1 / sqrt(2 n) of it; five times that.
    assert weight.std() == pytest.approx(deviation, rel=5 / math.sqrt(2 * weight.size))
    assert most is None or np.abs(weight).max() <= most


@pytest.mark.parametrize("kind", KINDS)
def test_random_values(kind):
    with programs_1x(kind) as executor:
        uniform = layers.uniform_random([100, 100], min=0.0, max=2.0)
        normal = layers.gaussian_random([100, 100], 1.0, 0.5)
        dropped = layers.dropout(
            layers.ones([100, 100], "float32"),
            0.25,
            seed=5,
            dropout_implementation="upscale_in_train",
        )
        first = executor.run(fetch_list=[uniform, normal, dropped])
        again = executor.run(fetch_list=[dropped])
    # Five times the deviation of a mean of 10000 values.
    assert first[0].mean() == pytest.approx(1, abs=5 * 0.58 / 100)
    assert first[1].mean() == pytest.approx(1, abs=5 * 0.5 / 100)
    assert 0 <= first[0].min() and first[0].max() <= 2
    assert (first[2] == 0).mean() == pytest.approx(0.25, abs=5 * 0.44 / 100)
    np.testing.assert_allclose(np.unique(first[2]), [0, 4 / 3], rtol=1e-6)
    np.testing.assert_array_equal(first[2], again[0])  # the seed is fixed


MISTAKES = {
    "input: expected 4-D, got 2-D [-1, 8]": lambda x: layers.conv2d(layers.flatten(x), 2, 3),
    "groups: expected a divisor of 2 (channels of input), got 3": (
        lambda x: layers.conv2d(x, 3, 3, groups=3)
    ),
    "data_format: expected 'NCHW' or 'NHWC', got 'CHWN'": (
        lambda x: layers.conv2d(x, 3, 3, data_format="CHWN")
    ),
    "pool_type: expected 'max' or 'avg', got 'sum'": lambda x: layers.pool2d(x, 2, "sum"),
    "pool_size: expected positive sizes where global_pooling is False, got -1": layers.pool2d,
    "mode: expected 'all', 'channel' or 'element', got 'none'": lambda x: layers.prelu(x, "none"),
    "resample: expected one of LINEAR, BILINEAR, TRILINEAR, NEAREST, BICUBIC, got 'AREA'": (
        lambda x: layers.image_resize(x, [2, 2], resample="AREA")
    ),
    "out_shape: expected a size where scale is None, got None": layers.image_resize,
    "axis: expected -1 or at most 3 for tensors of shape [-1, 2, 2, 2] and [2], got 4": (
        lambda x: layers.elementwise_add(x, layers.ones([2], "float32"), axis=4)
    ),
    "input: expected a last dimension of 1, got shape [-1, 2, 2, 2]": (
        lambda x: layers.embedding(x, [2, 2])
    ),
    "values: expected 2 of them, got 1": lambda x: layers.piecewise_decay([5], [0.1]),
    "filter_size: expected a size where output_size is None, got None": (
        lambda x: layers.conv2d_transpose(x, 2)
    ),
    "input: expected known, positive sizes from dimension 0 on, got [-1, 2, 2, 2]": (
        lambda x: layers.fc(x, 2, num_flatten_dims=0)
    ),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes(message):
    with programs_1x("pir"), pytest.raises(ValueError) as caught:
        MISTAKES[message](fluid.data("x", [None, 2, 2, 2]))
    assert str(caught.value) == message


def test_activation_that_is_none():
    with programs_1x("pir"):
        x = fluid.data("x", [None, 2])
        with pytest.raises(ValueError, match=r"^act: expected one of abs, .*, got 'relu7'$"):
            layers.fc(x, 2, act="relu7")
        with pytest.raises(TypeError, match="^act: expected a str or None, got function$"):
            layers.fc(x, 2, act=layers.relu)
        with pytest.raises(AssertionError, match="^param_attr: expected None, a ParamAttr, init"):
            layers.fc(x, 2, param_attr=False)


# What adds parameters refuses dynamic mode, and names what to use there; it exists.
@pytest.mark.parametrize("name", [n for n in LAYERS if "," not in n and n != "create_parameter"])
def test_dynamic_mode(name):
    call, arrays, _, _ = LAYERS[name]
    with pytest.raises(RuntimeError, match="first, or use (paddle[.A-Za-z0-9_]+) in") as caught:
        call(*map(paddle.to_tensor, arrays))
    path = str(caught.value).partition("or use ")[2].partition(" ")[0]
    assert callable(eval(path))


def test_dynamic_mode_without_parameters():
    """As in the versions 1.8 and 2.0, where scripts called them in both modes."""
    x = paddle.to_tensor(X)
    compare(layers.sigmoid(x).numpy(), sigmoid(X))
    three = fluid.initializer.Constant(3.0)
    weight = layers.create_parameter([2], "float32", default_initializer=three)
    compare(weight.numpy(), np.full(2, 3, "float32"))
    compare(layers.reduce_sum(x).numpy(), X.sum().reshape(1))
    compare(layers.elementwise_add(x, paddle.to_tensor(C), axis=1).numpy(), X + along(C))


@pytest.mark.parametrize("name", detection.GONE)
def test_what_is_gone(name):
    function = getattr(layers, name)
    with pytest.raises(NotImplementedError, match=f"layers.{name}: .* (gone|not here)"):
        function(1, nothing=2)


# Where there is no gradient to speak of, or a float32 constant beside the float64 input.
NO_GRADIENT = """
argmax argmin assign cast create_tensor diag equal expand_as eye fill_constant has_inf has_nan
fill_constant_batch_size_like greater_equal greater_than increment is_empty isfinite less_equal
less_than linspace matrix_nms mul multiclass_nms not_equal ones_like prior_box rank round shape
size where yolo_box zeros zeros_like accuracy box_coder iou_similarity yolov3_loss Print
Switch While anchor_generator bipartite_match box_clip collect_fpn_proposals density_prior_box
detection_output distribute_fpn_proposals generate_proposals
""".split()
GRADIENTS = [
    name
    for name, (_, arrays, _) in CASES.items()
    if arrays[0].dtype == np.float32 and name.partition(",")[0] not in NO_GRADIENT
]


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient(name):
    """The change along a random direction is the gradient's, in dynamic mode and float64."""
    call, arrays, _ = CASES[name]
    floats = [a.astype("float64") if a.dtype == np.float32 else a for a in arrays]
    step = 1e-6 * np.random.default_rng(3).normal(size=floats[0].shape)

    def total(first):
        tensors = [paddle.to_tensor(array) for array in (first, *floats[1:])]
        tensors[0].stop_gradient = False
        out = call(*tensors)
        outs = out if isinstance(out, (list, tuple)) else [out]
        weights = np.random.default_rng(4)
        parts = [
            (o * paddle.to_tensor(weights.normal(size=o.shape))).sum()
            for o in outs
            if o.dtype == paddle.float64
        ]
        return tensors[0], sum(parts[1:], parts[0])

    x, out = total(floats[0])
    out.backward()
    change = (float(total(floats[0] + step)[1]) - float(total(floats[0] - step)[1])) / 2e-6
    wanted = (x.grad.numpy() * step / 1e-6).sum()
    # Errors of the step's square, and of float64's 16 digits over the step.
    assert change == pytest.approx(wanted, rel=1e-6, abs=1e-6)
