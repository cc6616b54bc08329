"""Trains a deformable network as a script of Paddle 1.x does, on the digits of scikit-learn.

It builds a program, minimises a loss and feeds an executor. The network learns from the digits
where to sample them; its other layers are current Paddle's. Its loss falls tenfold; then it is
saved as an inference model, read back, and classifies digits that it was not trained on.

    python examples/fluid_digits.py [--quick]
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

BATCH = 64
EPOCHS = 10
HELD_OUT = 256


def deformable_block(features: Any, channels: int, num_filters: int) -> Any:
    """Add a deformable convolution whose offset and mask a convolution reads off its input."""
    zero = fluid.initializer.Constant(0.0)
    planes = paddle.nn.Conv2D(channels, 27, 3, padding=1, weight_attr=zero)(features)
    offset, mask = paddle.split(planes, [18, 9], axis=1)
    out = fluid.layers.deformable_conv(
        input=features,
        offset=offset,
        mask=paddle.nn.functional.sigmoid(mask),
        num_filters=num_filters,
        filter_size=3,
        padding=1,
    )
    return paddle.nn.functional.relu(out)


def network() -> tuple[Any, Any]:
    """Add an input of images [N, 1, 8, 8] and the layers to their scores [N, 10]."""
    image = fluid.layers.data(name="image", shape=[1, 8, 8], dtype="float32")
    features = deformable_block(image, 1, 16)
    features = deformable_block(features, 16, 32)
    return image, paddle.nn.Linear(32 * 8 * 8, 10)(paddle.flatten(features, 1))


def main() -> None:
    """Train, save, read back, classify."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="train on a third of the digits")
    quick = parser.parse_args().quick

    paddle.enable_static()  # Paddle 1.x always was in this mode
    paddle.seed(0)
    program, startup, inference = fluid.Program(), fluid.Program(), fluid.Program()
    with fluid.program_guard(program, startup), fluid.unique_name.guard():
        image, scores = network()
        label = fluid.layers.data(name="label", shape=[1], dtype="int64")
        loss = paddle.nn.functional.cross_entropy(scores, label)
        fluid.optimizer.AdamOptimizer(
            learning_rate=1e-3, regularization=fluid.regularizer.L2Decay(1e-5)
        ).minimize(loss)
        feeder = fluid.DataFeeder(feed_list=[image, label], place=fluid.CPUPlace())
    # Under a fresh guard the layers get the same names, and so the same parameters.
    with fluid.program_guard(inference, fluid.Program()), fluid.unique_name.guard():
        _, inference_scores = network()

    digits = load_digits()
    images = (digits.images[:, None] / 16).astype("float32")
    labels = digits.target[:, None]
    count = 512 if quick else len(images) - HELD_OUT

    executor = fluid.Executor(fluid.CPUPlace())
    executor.run(startup)
    shuffle = np.random.default_rng(0)
    history = []
    for epoch in range(EPOCHS):
        order = shuffle.permutation(count)
        losses = []
        for start in range(0, count - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            feed = feeder.feed(list(zip(images[rows], labels[rows])))
            losses += executor.run(program, feed=feed, fetch_list=[loss])
        history.append(float(np.mean(losses)))
        print(f"epoch {epoch}: loss {history[-1]:.4f}")
    print(f"the loss fell by a factor of {history[0] / history[-1]:.0f}")
    assert history[-1] < history[0] / 10

    held_out, truth = images[-HELD_OUT:], labels[-HELD_OUT:, 0]
    with tempfile.TemporaryDirectory() as folder:
        fluid.io.save_inference_model(folder, ["image"], [inference_scores], executor, inference)
        with fluid.scope_guard(paddle.static.Scope()):
            loaded, names, targets = fluid.io.load_inference_model(folder, executor)
            (found,) = executor.run(loaded, feed={names[0]: held_out}, fetch_list=targets)
    (wanted,) = executor.run(inference, feed={"image": held_out}, fetch_list=[inference_scores])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    correct = np.mean(found.argmax(axis=1) == truth)
    print(f"read back, it classifies {correct:.1%} of {HELD_OUT} other digits correctly")


if __name__ == "__main__":
    main()
