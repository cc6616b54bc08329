"""`fluid.metrics`, `fluid.nets` and `fluid.ParallelExecutor`."""

import numpy as np
import pytest

import paddle_dcn.fluid as fluid
from paddle_dcn.fluid import layers, metrics, nets
from tests.support.programs import KINDS, initialize, needs_paddle_3, programs_1x, value

pytestmark = needs_paddle_3

RNG = np.random.default_rng(13)
PREDICTED = np.array([[0.9], [0.8], [0.4], [0.3], [0.6]], "float32")
LABELS = np.array([[1], [0], [1], [0], [1]])

# A metric, the batches that it is updated with, and its value.
METRICS = {
    "Precision": ([(PREDICTED[:2], LABELS[:2]), (PREDICTED[2:], LABELS[2:])], 2 / 3),
    "Recall": ([(PREDICTED[:3], LABELS[:3]), (PREDICTED[3:], LABELS[3:])], 2 / 3),
    "Accuracy": ([(np.array([0.5], "float32"), 10), (0.75, 30)], (5 + 22.5) / 40),
    "Auc": ([(np.hstack([1 - PREDICTED, PREDICTED])[:4], LABELS[:4])], 3 / 4),
}


@pytest.mark.parametrize("name", METRICS)
def test_metric(name):
    batches, wanted = METRICS[name]
    metric = getattr(metrics, name)()
    for _ in range(2):
        for batch in batches:
            metric.update(*batch)
        assert metric.eval() == pytest.approx(wanted, abs=1e-6)
        metric.reset()


@pytest.mark.parametrize("kind", KINDS)
def test_area_of_runs(kind):
    """Of all runs, and of the last one: three of four pairs are in order, then four of four."""
    scores = np.hstack([1 - PREDICTED, PREDICTED])[:4]
    with programs_1x(kind) as executor:
        inputs = fluid.data("p", [None, 2]), fluid.data("y", [None, 1], "int64")
        total, last, counts = layers.auc(*inputs)
        initialize(executor)
        found = [
            executor.run(feed={"p": scores, "y": labels}, fetch_list=[total, last])
            for labels in (LABELS[:4], np.sort(LABELS[:4], 0)[::-1].copy())
        ]
        sums = [value(count.name)[..., : 2 * 4096].sum() for count in counts]
    assert found[0] == [[0.75], [0.75]]
    area = np.mean([(p > n) + (p == n) / 2 for p in HITS for n in MISSES])
    np.testing.assert_allclose(np.ravel(found[1]), [area, 1], atol=1e-12)
    assert sums == [4, 4, 4, 4]


HITS, MISSES = [0.9, 0.4, 0.9, 0.8], [0.8, 0.3, 0.4, 0.3]  # of both runs of the test above


def test_several_metrics():
    both = metrics.CompositeMetric()
    both.add_metric(metrics.Precision("p"))
    both.add_metric(metrics.Recall("r"))
    both.update(PREDICTED[:3], LABELS[:3])
    assert both.eval() == [0.5, 0.5]
    both.reset()
    assert both.eval() == [0, 0]
    with pytest.raises(TypeError, match="^metric: expected a MetricBase, got int$"):
        both.add_metric(1)


def test_metric_of_nothing():
    with pytest.raises(ValueError, match="^there is nothing to evaluate: call update first$"):
        metrics.Accuracy().eval()


def run(executor, out, **arrays):
    initialize(executor)
    (found,) = executor.run(feed=arrays, fetch_list=[out])
    return found


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("kind", KINDS)
def test_convolution_and_pool(kind):
    """They are conv2d and pool2d with the arguments in their places."""
    x = RNG.normal(0, 1, (2, 2, 9, 8)).astype("float32")
    with programs_1x(kind) as executor:
        image = fluid.data("x", [None, 2, 9, 8])
        out = nets.simple_img_conv_pool(
            image, 4, 3, [2, 3], [1, 2], [1, 0], "avg", False, 2, 1, [1, 2], 2, "w", False, "relu"
        )
        same = layers.conv2d(image, 4, 3, 2, 1, [1, 2], 2, "w", False, act="relu")
        same = layers.pool2d(same, [2, 3], "avg", [1, 2], [1, 0])
        initialize(executor)
        one, other = executor.run(feed={"x": x}, fetch_list=[out, same])
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_convolution_group(kind):
    """Two convolutions, the second with a normalisation, and a pool."""
    x = RNG.normal(0, 1, (2, 2, 6, 6)).astype("float32")
    with programs_1x(kind) as executor:
        image = fluid.data("x", [None, 2, 6, 6])
        out = nets.img_conv_group(
            image, [4, 3], 2, [1, 0], [3, 1], "relu", ["a", "b"], [False, True], 0.0, 2, "avg"
        )
        first = layers.conv2d(image, 4, 3, padding=1, param_attr="a", bias_attr="c", act="relu")
        second = layers.conv2d(first, 3, 1, param_attr="b", bias_attr="d")
        normalized = layers.batch_norm(second, act="relu")
        same = layers.pool2d(normalized, 2, "avg", 2)
        initialize(executor)
        one, other = executor.run(feed={"x": x}, fetch_list=[out, same])
        with pytest.raises(ValueError, match="^conv_padding: expected 2 of them, got 1$"):
            nets.img_conv_group(image, [4, 3], 2, [1])
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_gated_unit(kind):
    x = RNG.normal(0, 1, (2, 6, 3)).astype("float32")
    with programs_1x(kind) as executor:
        found = run(executor, nets.glu(fluid.data("x", [None, 6, 3]), 1), x=x)
    np.testing.assert_allclose(found, x[:, :3] / (1 + np.exp(-x[:, 3:])), atol=1e-6)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_attention(kind, heads):
    q, k, v = (RNG.normal(0, 1, (2, n, 4)).astype("float32") for n in (3, 5, 5))
    with programs_1x(kind) as executor:
        inputs = [fluid.data(name, [None, n, 4]) for name, n in (("q", 3), ("k", 5), ("v", 5))]
        out = nets.scaled_dot_product_attention(*inputs, num_heads=heads)
        found = run(executor, out, q=q, k=k, v=v)
        if heads > 1:
            q, k, v = (
                a @ value(f"fc_{i}.w_0") + value(f"fc_{i}.b_0") for i, a in enumerate((q, k, v))
            )
        with pytest.raises(ValueError, match="^num_heads: expected a divisor .*, got 3$"):
            nets.scaled_dot_product_attention(*inputs, num_heads=3)
        with pytest.raises(ValueError, match="^keys: expected the queries' last size"):
            nets.scaled_dot_product_attention(inputs[0], inputs[1], inputs[0])
    wanted = []
    for a, b, c in zip(*(np.split(tensor, heads, 2) for tensor in (q, k, v))):
        weights = softmax(a @ b.transpose(0, 2, 1) / (4 // heads) ** 0.5)
        wanted.append(weights @ c)
    np.testing.assert_allclose(found, np.concatenate(wanted, 2), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_parallel_executor(kind):
    x = np.ones((2, 3), "float32")
    with programs_1x(kind) as executor:
        loss = layers.mean(layers.fc(fluid.data("x", [None, 3]), 1, param_attr="w"))
        fluid.optimizer.SGD(0.5).minimize(loss)
        initialize(executor)
        before = value("w")
        train = fluid.ParallelExecutor(use_cuda=False, loss_name=loss.name)
        train.run([loss.name], feed={"x": x})
        train.run(fetch_list=[loss], feed_dict=[{"x": x}])
        np.testing.assert_allclose(value("w"), before - 1, atol=1e-6)
        with pytest.raises(ValueError, match="^feed: expected arrays for one device, got 2$"):
            train.run([loss.name], feed=[{"x": x}, {"x": x}])
    with pytest.raises(ValueError, match="^num_trainers: expected 1, got 2$"):
        fluid.ParallelExecutor(False, num_trainers=2)
