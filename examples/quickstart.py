"""Trains a network with a deformable convolution in ten lines, on images of random numbers."""

import paddle
from paddle import nn

from paddle_dcn import ModulatedDeformConv2DPack

layers = [ModulatedDeformConv2DPack(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2D(1)]
model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 10))
optimizer = paddle.optimizer.Adam(parameters=model.parameters())
images, classes = paddle.rand([8, 3, 32, 32]), paddle.randint(0, 10, [8])
for step in range(5):
    loss = nn.functional.cross_entropy(model(images), classes)
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()
    print(f"step {step}: loss {float(loss):.3f}")
