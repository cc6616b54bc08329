"""One of two processes that train a deformable layer together; run by test_data_parallel."""

import numpy as np
import paddle
import paddle.distributed as dist

from paddle_dcn import ModulatedDeformConv2DPack


def main():
    dist.init_parallel_env()
    paddle.seed(0)
    layer = ModulatedDeformConv2DPack(3, 4, 3, padding=1)
    layer.conv_offset.weight.set_value(paddle.randn(layer.conv_offset.weight.shape) * 0.1)
    images = paddle.to_tensor(np.random.default_rng(0).normal(0, 1, (2, 3, 6, 7)).astype("float32"))

    (layer(images) ** 2).mean().backward()
    alone = {name: parameter.grad.numpy() for name, parameter in layer.named_parameters()}
    layer.clear_gradients()

    rank = dist.get_rank()
    parallel = paddle.DataParallel(layer)
    (parallel(images[rank : rank + 1]) ** 2).mean().backward()
    for name, parameter in layer.named_parameters():
        np.testing.assert_allclose(
            parameter.grad.numpy(), alone[name], rtol=1e-4, atol=1e-6, err_msg=name
        )
    print(f"rank {rank} of {dist.get_world_size()} agrees")


if __name__ == "__main__":
    main()
