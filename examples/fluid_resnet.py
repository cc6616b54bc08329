"""Trains a ResNet-50-vd with deformable stages, written for Paddle 1.x, on the digits.

The network is built, trained and saved as a detector's backbone of 2020 is: parameters are named as
pretrained weights are, the rate warms up and decays, the program for tests is a clone. What was
saved is read back into a new program, and converted for Paddle without this package.

    python examples/fluid_resnet.py [--quick]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from typing import Any

os.environ.setdefault("GLOG_minloglevel", "2")  # the executor's progress

import numpy as np
import paddle
from sklearn.datasets import load_digits

import paddle_dcn.fluid as fluid  # in Paddle 1.x: import paddle.fluid as fluid
from paddle_dcn import export
from paddle_dcn.fluid.initializer import Constant
from paddle_dcn.fluid.param_attr import ParamAttr
from paddle_dcn.fluid.regularizer import L2Decay

BATCH = 16
STAGES = (3, 4, 6, 3)  # blocks of ResNet-50
DEFORMABLE = (3, 4)  # stages counted from 1
HELD_OUT = 128


def conv_norm(
    x: Any,
    filters: int,
    size: int,
    stride: int,
    act: str | None,
    name: str,
    deformable: bool = False,
    scale: float = 1.0,
) -> Any:
    """Add a convolution, deformable or not, and its batch normalisation."""
    shape = {"filter_size": size, "stride": stride, "padding": (size - 1) // 2}
    weight = ParamAttr(name=name + "_weights")
    if deformable:
        planes = fluid.layers.conv2d(
            input=x,
            num_filters=3 * size * size,
            param_attr=ParamAttr(name=name + "_conv_offset.w_0", initializer=Constant(0.0)),
            bias_attr=ParamAttr(name=name + "_conv_offset.b_0", initializer=Constant(0.0)),
            **shape,
        )
        offset, mask = fluid.layers.split(planes, [2 * size * size, size * size], dim=1)
        x = fluid.layers.deformable_conv(
            input=x,
            offset=offset,
            mask=fluid.layers.sigmoid(mask),
            num_filters=filters,
            groups=1,
            deformable_groups=1,
            im2col_step=1,
            param_attr=weight,
            bias_attr=False,
            **shape,
        )
    else:
        x = fluid.layers.conv2d(
            input=x, num_filters=filters, param_attr=weight, bias_attr=False, **shape
        )
    return fluid.layers.batch_norm(
        input=x,
        act=act,
        param_attr=ParamAttr(
            name="bn_" + name + "_scale", initializer=Constant(scale), regularizer=L2Decay(0.0)
        ),
        bias_attr=ParamAttr(name="bn_" + name + "_offset", regularizer=L2Decay(0.0)),
        moving_mean_name="bn_" + name + "_mean",
        moving_variance_name="bn_" + name + "_variance",
    )


def bottleneck(x: Any, filters: int, stride: int, name: str, deformable: bool) -> Any:
    """Add a block: 1x1, 3x3 and 1x1 convolutions beside a shortcut, which vd pools.

    The scale behind them starts at 0, so that the network starts as a shallow one.
    """
    out = conv_norm(x, filters, 1, 1, "relu", name + "_branch2a")
    out = conv_norm(out, filters, 3, stride, "relu", name + "_branch2b", deformable)
    out = conv_norm(out, 4 * filters, 1, 1, None, name + "_branch2c", scale=0.0)
    if stride != 1:
        x = fluid.layers.pool2d(
            input=x, pool_size=2, pool_type="avg", pool_stride=2, ceil_mode=True
        )
    if stride != 1 or x.shape[1] != 4 * filters:
        x = conv_norm(x, 4 * filters, 1, 1, None, name + "_branch1")
    return fluid.layers.elementwise_add(x=x, y=out, act="relu")


def network(width: int, classes: int = 10) -> tuple[Any, Any]:
    """Add an input of images [N, 1, H, W] and the layers to their scores [N, classes]."""
    image = fluid.data(name="image", shape=[None, 1, None, None], dtype="float32")
    x = conv_norm(image, width // 2, 3, 2, "relu", "conv1_1")
    x = conv_norm(x, width // 2, 3, 1, "relu", "conv1_2")
    x = conv_norm(x, width, 3, 1, "relu", "conv1_3")
    x = fluid.layers.pool2d(input=x, pool_size=3, pool_stride=2, pool_padding=1, pool_type="max")
    for stage, blocks in enumerate(STAGES, 1):
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 1 else 1
            name = f"res{stage + 1}{chr(ord('a') + block)}"
            x = bottleneck(x, width << (stage - 1), stride, name, stage in DEFORMABLE)
    x = fluid.layers.pool2d(input=x, pool_type="avg", global_pooling=True)
    return image, fluid.layers.fc(input=x, size=classes, act=None)


def images(digits: Any, size: int) -> np.ndarray:
    """Return the digits, 8x8, as images [N, 1, size, size] from -1 to 1."""
    factor = size // 8
    larger = digits.images.repeat(factor, 1).repeat(factor, 2)[:, None]
    return (larger / 8 - 1).astype("float32")


def main() -> None:
    """Train, save, read back, export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a narrow network and few steps")
    quick = parser.parse_args().quick
    width, size, steps = (8, 32, 30) if quick else (32, 32, 60)

    paddle.enable_static()  # Paddle 1.x always was in this mode
    paddle.seed(0)
    digits = load_digits()
    pictures, labels = images(digits, size), digits.target[:, None]

    program, startup = fluid.Program(), fluid.Program()
    with fluid.program_guard(program, startup), fluid.unique_name.guard():
        _, scores = network(width)
        label = fluid.data(name="label", shape=[None, 1], dtype="int64")
        loss = fluid.layers.mean(fluid.layers.softmax_with_cross_entropy(scores, label))
        test = program.clone(for_test=True)
        rate = fluid.layers.linear_lr_warmup(
            fluid.layers.cosine_decay(0.05, step_each_epoch=1, epochs=steps), 5, 0.0, 0.05
        )
        fluid.optimizer.Momentum(
            learning_rate=rate,
            momentum=0.9,
            regularization=L2Decay(1e-4),
            grad_clip=fluid.clip.GradientClipByGlobalNorm(clip_norm=5.0),
        ).minimize(loss)
    count = len(program.all_parameters())
    print(f"{count} parameters, stages {DEFORMABLE} deformable")

    executor = fluid.Executor(fluid.CPUPlace())
    executor.run(startup)
    shuffle = np.random.default_rng(0)
    losses = []
    for step in range(steps):
        rows = shuffle.choice(len(pictures) - HELD_OUT, BATCH, replace=False)
        feed = {"image": pictures[rows], "label": labels[rows]}
        found, now = executor.run(program, feed=feed, fetch_list=[loss.name, rate])
        losses.append(float(found[0]))
        if step % 5 == 0:
            print(f"step {step}: rate {now[0]:.3f}, loss {losses[-1]:.3f}")
    first, last = np.mean(losses[:5]), np.mean(losses[-5:])
    print(f"the loss fell from {first:.2f} to {last:.2f}")
    assert last < 0.8 * first

    feed = {"image": pictures[-HELD_OUT:], "label": labels[-HELD_OUT:]}
    (wanted,) = executor.run(test, feed=feed, fetch_list=[scores.name])
    correct = np.mean(wanted.argmax(1) == labels[-HELD_OUT:, 0])
    print(f"{correct:.0%} of {HELD_OUT} other digits are classified correctly")
    with tempfile.TemporaryDirectory() as folder:
        fluid.io.save_params(executor, os.path.join(folder, "params"), program)
        fluid.io.save_inference_model(
            os.path.join(folder, "model"), ["image"], [scores], executor, program
        )
        with fluid.scope_guard(fluid.Scope()):
            again, start = fluid.Program(), fluid.Program()
            with fluid.program_guard(again, start), fluid.unique_name.guard():
                _, new_scores = network(width)
            again = again.clone(for_test=True)
            executor.run(start)
            fluid.io.load_params(executor, os.path.join(folder, "params"), again)
            (found,) = executor.run(again, feed=feed, fetch_list=[new_scores])
            np.testing.assert_array_equal(found, wanted)
        print(f"{count} parameters, read back by their names, give the same scores")
        with fluid.scope_guard(fluid.Scope()):
            loaded, names, targets = fluid.io.load_inference_model(
                os.path.join(folder, "model"), executor
            )
            (found,) = executor.run(loaded, feed={names[0]: feed["image"]}, fetch_list=targets)
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
        print("so does the model that was saved for inference")
        paddle.disable_static()
        model, stock = (
            os.path.join(folder, *path) for path in (("model", "__model__"), ("stock",))
        )
        done = export.convert(model, stock, "portable")
        print(
            f"{len(done.layers)} deformable convolutions are Paddle's own in {done.files[0].name}"
        )


if __name__ == "__main__":
    main()
