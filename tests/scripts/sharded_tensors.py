"""One of two processes that each hold a part of sharded tensors; run by test_data_parallel."""

import numpy as np
import paddle
import paddle.distributed as dist

from paddle_dcn import dcnv3, dcnv4, deform_conv2d, deform_conv2d_reference
from tests.support.cases import Case
from tests.support.comparison import assert_close

# How a tensor is placed: on an axis (of NCHW), or like this.
WHOLE, SUM = "whole", "sum"

# What is spread over a mesh dimension, and how that leaves the output and the gradients of INPUTS.
RESULTS = {
    "images": (0, 0, 0, 0, SUM, SUM),
    "filters": (1, SUM, SUM, SUM, 0, 0),
    "deformable groups": (SUM, 1, 1, 1, 1, WHOLE),
    "nothing": (WHOLE,) * 6,
}
INPUTS = ("x", "offset", "mask", "weight", "bias")

# For each dimension of the mesh its processes, how the inputs are placed on it, and what is then
# spread over it: everything else has to be gathered.
ROWS = [
    [(2, (WHOLE, WHOLE, WHOLE, WHOLE, WHOLE), "nothing")],
    [(2, (0, 0, 0, WHOLE, WHOLE), "images")],
    [(2, (0, 0, WHOLE, 1, 0), "images")],
    [(2, (WHOLE, 0, WHOLE, WHOLE, WHOLE), "images")],
    [(2, (WHOLE, WHOLE, WHOLE, 0, 0), "filters")],
    [(2, (1, WHOLE, WHOLE, 0, WHOLE), "filters")],
    [(2, (1, 1, 1, 1, WHOLE), "deformable groups")],
    [(2, (1, 1, 1, WHOLE, 0), "deformable groups")],
    [(2, (1, 1, 1, 0, 0), "filters")],
    [(2, (1, WHOLE, WHOLE, WHOLE, WHOLE), "nothing")],
    [(2, (2, 2, 2, 2, WHOLE), "nothing")],
    [(2, (SUM, WHOLE, WHOLE, WHOLE, WHOLE), "nothing")],
    [(1, (0, 0, 0, WHOLE, WHOLE), "images"), (2, (WHOLE, WHOLE, WHOLE, 0, 0), "filters")],
    [(1, (0, 0, 0, WHOLE, WHOLE), "images"), (2, (1, 1, 1, 1, WHOLE), "deformable groups")],
]
# Arguments beside the tensors, absent tensors, and what cannot be spread.
KINDS = [
    ({"deformable_groups": 2}, (), ()),
    ({"deformable_groups": 2}, ("mask", "bias"), ()),
    ({"deformable_groups": 2, "data_format": "NHWC"}, (), ()),
    ({}, (), ("deformable groups",)),
    ({"deformable_groups": 2, "groups": 2}, (), ("deformable groups", "filters")),
]


def placement(place, last):
    if place in (WHOLE, SUM):
        return dist.Replicate() if place == WHOLE else dist.Partial()
    return dist.Shard((0, 3, 1, 2)[place] if last else place)


def check(rng, row, arguments, absent, gathered):
    """Hold output and gradients of a sharded call, and their metadata, against a whole call's."""
    sizes, inputs, spread = zip(*row)
    spread = ["nothing" if each in gathered else each for each in spread]
    mesh = dist.ProcessMesh(np.arange(2).reshape(sizes), [f"d{i}" for i in range(len(sizes))])
    last = arguments.get("data_format") == "NHWC"
    case = Case(4, 4, (6, 7), 6, padding=1, **arguments)
    planes = 9 * case.deformable_groups
    image = [4, 6, 7, 4] if last else [4, 4, 6, 7]
    shapes = [image, [4, 2 * planes, 6, 7], [4, planes, 6, 7]]
    shapes += [[6, case.group_channels, 3, 3], [6]]

    def places(name, of_dimensions):
        return [placement(each, last and name in ("x", "out")) for each in of_dimensions]

    alone, sharded = {}, {}
    for name, shape, on in zip(INPUTS, shapes, zip(*inputs)):
        if name in absent:
            continue
        array = paddle.to_tensor(rng.normal(0, 1, shape).astype("float32"))
        alone[name] = array
        sharded[name] = dist.shard_tensor(array, mesh, places(name, [WHOLE] * len(row)))
        sharded[name] = dist.reshard(sharded[name], mesh, places(name, on)).detach()
    results = []
    for function, tensors in ((deform_conv2d_reference, alone), (deform_conv2d, sharded)):
        for tensor in tensors.values():
            tensor.stop_gradient = False
        out = function(**tensors, **arguments, padding=1)
        (out**2).mean().backward()
        results.append([("out", out), *((name, each.grad) for name, each in tensors.items())])

    for (name, wanted), (_, actual) in zip(*results):
        index = 0 if name == "out" else 1 + INPUTS.index(name)
        on = [RESULTS[each][index] for each in spread]
        assert actual.placements == places(name, on), (name, actual.placements)
        shape = list(wanted.shape)
        for size, place in zip(sizes, places(name, on)):
            if place.is_shard():
                shape[place.get_dim()] //= size
        assert actual._local_shape == list(actual._local_value().shape) == shape, name
        dist.reshard(actual, mesh, actual.placements)  # fails where the metadata are not its own
        if set(on) == {WHOLE}:  # from others, Paddle cannot do it on the CPU, whoever made them
            dist.reshard(actual, mesh, places(name, [0] + [WHOLE] * (len(row) - 1)))
        whole = dist.reshard(actual, mesh, places(name, [WHOLE] * len(row)))._local_value()
        # The output, rounded itself, is a factor of its gradient.
        depth = case.depth[name] + case.depth["out"]
        assert_close(whole.numpy(), wanted.numpy(), "float32", depth, name)


def check_aggregation(rng, function, widths):
    """Of images that each process has some of, each computes its own."""
    mesh, images = dist.ProcessMesh([0, 1], ["d0"]), [dist.Shard(0)]
    alone, sharded, results = [], [], []
    for width in widths:
        alone.append(paddle.to_tensor(rng.normal(0, 1, [4, 6, 7, width]).astype("float32")))
        sharded.append(dist.shard_tensor(alone[-1], mesh, images))
    for tensors in (alone, sharded):
        for tensor in tensors:
            tensor.stop_gradient = False
        out = function(*tensors, group=2, offset_scale=2.0)
        (out**2).mean().backward()
        results.append([out, *(tensor.grad for tensor in tensors)])
    for wanted, actual in zip(*results):
        assert actual.placements == images and actual._local_shape[0] == 2, actual.placements
        whole = dist.reshard(actual, mesh, [dist.Replicate()])._local_value()
        np.testing.assert_allclose(whole.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-6)


def check_second_derivatives():
    """They are refused: over a gradient that nobody differentiates, Paddle ends the process."""
    mesh = dist.ProcessMesh([0, 1], ["d0"])
    shapes = ([4, 4, 6, 7], [4, 18, 6, 7], [6, 4, 3, 3])
    tensors = [dist.shard_tensor(paddle.ones(each), mesh, [dist.Replicate()]) for each in shapes]
    mask = dist.shard_tensor(paddle.ones([4, 9, 6, 7]), mesh, [dist.Replicate()])
    tensors[0].stop_gradient = False
    for each in (None, mask):
        out = deform_conv2d(*tensors, padding=1, mask=each)
        (gradient,) = paddle.grad(out.sum(), tensors[:1], create_graph=True)
        try:
            (gradient**2).sum().backward()
        except NotImplementedError as error:
            assert "no second derivatives of distributed tensors" in str(error), error
        else:
            raise AssertionError("second derivatives of distributed tensors were not refused")


def main():
    dist.init_parallel_env()
    rng = np.random.default_rng(0)
    check_aggregation(rng, dcnv3, (8, 36, 18))
    check_aggregation(rng, dcnv4, (8, 56))
    for row in ROWS:
        for kind in KINDS:
            try:
                check(rng, row, *kind)
            except Exception as error:
                raise AssertionError(f"{row} {kind}") from error
    check_second_derivatives()
    print(f"rank {dist.get_rank()} of {dist.get_world_size()} agrees")


if __name__ == "__main__":
    main()
