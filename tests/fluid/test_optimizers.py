"""Optimizers of Paddle 1.8 that current Paddle has no operator for, against their formulas."""

import numpy as np
import pytest

import paddle_dcn.fluid as fluid
from paddle_dcn.fluid import layers
from paddle_dcn.fluid.initializer import Constant
from tests.support.programs import KINDS, initialize, needs_paddle_3, programs_1x, value

pytestmark = [needs_paddle_3, pytest.mark.parametrize("kind", KINDS)]

START, RATES = np.array([1.0, -2.0], "float32"), (0.5, 0.25, 0.25, 0.25)


def lars(p, rates, momentum=0.5, coefficient=0.1, decay=0.25):
    velocity = np.zeros_like(p)
    for rate in rates:
        g, size = 2 * p, np.linalg.norm(p)
        rate *= coefficient * size / (np.linalg.norm(g) + decay * size)
        velocity = momentum * velocity + rate * (g + decay * p)
        p = p - velocity
    return p


def ftrl(p, rates, l1=0.1, l2=0.25, power=-0.5):
    squared, linear = np.zeros_like(p), np.zeros_like(p)
    for rate in rates:
        g, before = 2 * p, squared**-power
        squared = squared + g * g
        linear = linear + g - (squared**-power - before) / rate * p
        moved = (np.sign(linear) * l1 - linear) / (squared**-power / rate + 2 * l2)
        p = np.where(np.abs(linear) > l1, moved, 0)
    return p


# How the optimizer is made with a rate, and where it takes the parameter.
COMPOSED = {
    "LarsMomentum": (lambda r: fluid.optimizer.LarsMomentum(r, 0.5, 0.1, 0.25), lars),
    "LarsMomentum, no decay": (
        lambda r: fluid.optimizer.LarsMomentumOptimizer(r, 0.5, 0.1, 0.0),
        lambda p, rates: _momentum(p, rates),
    ),
    "Ftrl": (lambda r: fluid.optimizer.Ftrl(r, 0.1, 0.25), ftrl),
    "Ftrl, lr_power": (
        lambda r: fluid.optimizer.FtrlOptimizer(r, 5.0, 0.25, lr_power=-0.75),
        lambda p, rates: ftrl(p, rates, 5.0, 0.25, -0.75),
    ),
}


def _momentum(p, rates):
    velocity = np.zeros_like(p)
    for rate in rates:
        velocity = 0.5 * velocity + rate * 2 * p
        p = p - velocity
    return p


def squares():
    """Build a parameter w, ones at first, and the loss sum(w * w)."""
    w = layers.create_parameter([2], "float32", "w", default_initializer=Constant(1.0))
    return w, layers.reduce_sum(layers.square(w))


def squares_elsewhere():
    """Build them in a program of their own, which is returned with its startup program."""
    main, startup = fluid.Program(), fluid.Program()
    with fluid.program_guard(main, startup):
        return main, startup, *squares()


def minimized(optimizer):
    """Build the loss, and the optimizer's update."""
    optimizer.minimize(squares()[1])


def check_step_elsewhere(executor, main, startup):
    """Check one step from 1 to 1/2 of what was added to another program, and to that only."""
    assert len(fluid.default_main_program().global_block().ops) == 0
    executor.run(startup)
    executor.run(fluid.default_startup_program())
    executor.run(main)
    np.testing.assert_array_equal(value("w"), [0.5, 0.5])


@pytest.mark.parametrize("name", COMPOSED)
def test_composed(name, kind):
    """Four steps with a schedule are those of the formula; a clone for tests has none of them."""
    make, formula = COMPOSED[name]
    with programs_1x(kind) as executor:
        minimized(make(layers.piecewise_decay([1], [*RATES[:2]])))
        test = fluid.default_main_program().clone(for_test=True)
        initialize(executor)
        fluid.global_scope().find_var("w").get_tensor().set(START, fluid.CPUPlace())
        for _ in RATES:
            executor.run()
        executor.run(test)
        np.testing.assert_allclose(value("w"), formula(START, RATES), rtol=0, atol=2e-6)


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_minimize_elsewhere(given, lookahead, kind):
    """A loss is minimized in its own program: 1 - (1.5 + 1/2) / 4 with a gradient of 2, clipped."""
    with programs_1x(kind) as executor:
        main, startup, _, loss = squares_elsewhere()
        optimizer = fluid.optimizer.SGD(
            0.25,
            regularization=fluid.regularizer.L2Decay(0.5),
            grad_clip=fluid.clip.GradientClipByValue(1.5),
        )
        if lookahead:
            optimizer = fluid.optimizer.LookaheadOptimizer(optimizer, k=2)
        optimizer.minimize(loss, startup if given else None)
        check_step_elsewhere(executor, main, startup)


def test_apply_gradients_elsewhere(kind):
    """Gradients are applied in the program of their parameters: 1 - 2 / 4."""
    with programs_1x(kind) as executor:
        main, startup, _, loss = squares_elsewhere()
        optimizer = fluid.optimizer.SGD(0.25)
        optimizer.apply_gradients(optimizer.backward(loss))
        check_step_elsewhere(executor, main, startup)


def test_schedule_of_another_program(kind):
    """It is refused: the rate would be 0."""
    with programs_1x(kind):
        optimizer = fluid.optimizer.SGD(layers.piecewise_decay([1], [0.5, 0.25]))
        with fluid.program_guard(fluid.Program(), fluid.Program()):
            with pytest.raises(ValueError, match="^learning_rate: expected a tensor of the loss"):
                minimized(optimizer)


def test_gradients_elsewhere(kind):
    """Gradients are added to the program of their targets."""
    with programs_1x(kind) as executor:
        main, startup, w, loss = squares_elsewhere()
        (gradient,) = fluid.gradients([loss], w)
        executor.run(startup)
        np.testing.assert_array_equal(executor.run(main, fetch_list=[gradient])[0], [2, 2])
        with pytest.raises(TypeError, match="'targets'"):
            fluid.gradients(None, w)


def test_zero_gradient(kind):
    """LARS keeps the rate where a norm is 0, and does not divide by it."""
    with programs_1x(kind) as executor:
        minimized(fluid.optimizer.LarsMomentum(0.5, 0.5))
        initialize(executor)
        zeros = np.zeros(2, "float32")
        fluid.global_scope().find_var("w").get_tensor().set(zeros, fluid.CPUPlace())
        executor.run()
        np.testing.assert_array_equal(value("w"), zeros)


def test_lookahead(kind):
    """Steps of 1 / 2 from 1 with k = 2 and alpha = 1 / 4: 1/2, 3/4 = 0/4 + 1 * 3/4, 1/4, 1/2."""
    with programs_1x(kind) as executor:
        w = layers.create_parameter([2], "float32", "w", default_initializer=Constant(1.0))
        inner = fluid.optimizer.SGD(0.5)
        fluid.optimizer.LookaheadOptimizer(inner, alpha=0.25, k=2).minimize(layers.reduce_sum(w))
        test = fluid.default_main_program().clone(for_test=True)
        initialize(executor)
        found = []
        for _ in range(4):
            executor.run()
            executor.run(test)
            found.append(value("w")[0])
        assert found == [0.5, 0.75, 0.25, 0.5]
        np.testing.assert_array_equal(value("w@SLOW"), [0.5, 0.5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((None,), "inner_optimizer: "), ((1, 2.0), "alpha: "), ((1, 0.5, 0), "k: ")],
)
def test_lookahead_that_cannot(arguments, message, kind):
    with pytest.raises(ValueError, match=f"^{message}expected"):
        fluid.optimizer.LookaheadOptimizer(*arguments)
