"""One of two processes that each hold half of the images of sharded tensors."""

import numpy as np
import paddle
import paddle.distributed as dist

from paddle_dcn import deform_conv2d

SHARD, WHOLE = dist.Shard(0), dist.Replicate()
INPUTS = {
    "x": ([4, 3, 6, 7], SHARD),
    "offset": ([4, 18, 6, 7], SHARD),
    "mask": ([4, 9, 6, 7], WHOLE),  # the operator takes its share
    "weight": ([5, 3, 3, 3], WHOLE),
    "bias": ([5], WHOLE),
}


def run(tensors):
    for tensor in tensors.values():
        tensor.stop_gradient = False
    out = deform_conv2d(**tensors, padding=1)
    (out**2).mean().backward()
    return out


def main():
    dist.init_parallel_env()
    rank, mesh = dist.get_rank(), dist.ProcessMesh([0, 1], dim_names=["images"])
    rng = np.random.default_rng(0)
    arrays = {n: rng.normal(0, 1, shape).astype("float32") for n, (shape, _) in INPUTS.items()}

    alone = {name: paddle.to_tensor(array) for name, array in arrays.items()}
    expected = run(alone)
    sharded = {
        name: dist.shard_tensor(paddle.to_tensor(array), mesh, [INPUTS[name][1]])
        for name, array in arrays.items()
    }
    out = run(sharded)

    assert out.placements == [SHARD]
    assert out._local_shape == [2, 5, 6, 7]
    results = {"out": (out, expected)}
    results |= {name: (sharded[name].grad, alone[name].grad) for name in INPUTS}
    for name, (actual, wanted) in results.items():
        whole = dist.reshard(actual, mesh, [WHOLE])._local_value()
        np.testing.assert_allclose(
            whole.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-6, err_msg=name
        )
    print(f"rank {rank} of {dist.get_world_size()} agrees")


if __name__ == "__main__":
    main()
