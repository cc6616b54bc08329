"""Trains a critic with deformable convolutions under a gradient penalty, as WGAN-GP does.

    python examples/gradient_penalty.py

The critic learns to tell blurred noise from noise; the penalty (arXiv 1704.00028) draws the length
of its gradient in x towards 1, so its own gradient is made of second derivatives of the operator.
The distance that it puts between the two kinds grows until the penalty balances it: at some 20,
with a slope of about 1.5. Without the penalty both would grow on.
"""

import argparse

import paddle
from paddle import nn
from paddle.nn import functional

from paddle_dcn import ModulatedDeformConv2DPack


def images(count):
    """Noise, and as much blurred noise: [count, 1, 16, 16] of each."""
    noise = paddle.randn([count, 1, 16, 16])
    blurred = functional.avg_pool2d(paddle.randn([count, 1, 16, 16]), 3, stride=1, padding=1)
    return noise, 3 * blurred


def slopes(critic, x):
    """The length of the critic's gradient at each image, itself differentiable."""
    x.stop_gradient = False
    (gradient,) = paddle.grad([critic(x).sum()], [x], create_graph=True)
    return gradient.square().sum([1, 2, 3]).sqrt()


def main():
    """Train; print how far apart the critic puts the two kinds, and its slope."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    options = parser.parse_args()
    paddle.seed(0)
    critic = nn.Sequential(
        ModulatedDeformConv2DPack(1, 16, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        ModulatedDeformConv2DPack(16, 32, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2D(32, 1, 4),
    )
    optimizer = paddle.optimizer.Adam(1e-3, parameters=critic.parameters(), beta1=0.5)
    steps = 30 if options.quick else 600
    for step in range(steps + 1):
        noise, blurred = images(32)
        distance = critic(blurred).mean() - critic(noise).mean()
        share = paddle.rand([32, 1, 1, 1])
        slope = slopes(critic, share * noise + (1 - share) * blurred)
        loss = 10 * (slope - 1).square().mean() - distance
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        if step % (steps // 6) == 0:
            mean = float(slope.mean())
            print(f"step {step:4}: distance {float(distance):6.3f}, slope {mean:.3f}")


if __name__ == "__main__":
    main()
