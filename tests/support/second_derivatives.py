"""Second derivatives of a deform_conv2d: gradients of sums of gradients times factors."""

import numpy as np
import paddle

from tests.support.operators import to_array, to_tensor
from tests.support.problems import TENSORS

DOUBLE = ("float64", "float64")


def leaves(case, arrays, dtypes, wanted=TENSORS):
    nhwc = case.data_format == "NHWC"
    arrays = {n: a for n, a in arrays.items() if a is not None}
    for name in ("x", "grad"):
        arrays[name] = arrays[name].transpose(0, 2, 3, 1) if nhwc else arrays[name]
    return {
        name: to_tensor(a, dtypes[name in ("offset", "mask")], name in wanted)
        for name, a in arrays.items()
    }


def gradients(function, case, tensors, create_graph=False):
    inputs = {name: tensor for name, tensor in tensors.items() if name != "grad"}
    wanted = [name for name, tensor in inputs.items() if not tensor.stop_gradient]
    out = function(**inputs, **case.attributes())
    found = paddle.grad(
        [out], [inputs[n] for n in wanted], [tensors["grad"]], create_graph=create_graph
    )
    return dict(zip(wanted, found))


def second_derivatives(function, case, tensors, factors):
    """Gradients of the sum of the gradients times factors, of everything that it depends on."""
    tensors["grad"].stop_gradient = False
    first = gradients(function, case, tensors, create_graph=True)
    # Paddle has no arithmetic of half types on the CPU.
    total = sum(
        (first[name].astype("float64") * factor.astype("float64")).sum()
        for name, factor in factors.items()
    )
    wanted = [name for name, tensor in tensors.items() if not tensor.stop_gradient]
    found = paddle.grad([total], [tensors[n] for n in wanted], allow_unused=True)
    return {n: to_array(g) for n, g in zip(wanted, found) if g is not None}


def random_factors(tensors, names=TENSORS):
    rng = np.random.default_rng(7)
    return {
        name: paddle.to_tensor(rng.standard_normal(tensors[name].shape)).astype(tensors[name].dtype)
        for name in names
        if name in tensors and not tensors[name].stop_gradient
    }
