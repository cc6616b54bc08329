"""Trains a small network of DCNv3 layers, after InternImage, on digits, and exports it.

The network is InternImage's in small: a stem of strided convolutions, two stages of blocks (DCNv3
and an MLP, each normalised and added to its input) with a strided convolution between them, and a
mean over pixels. It reads the 1797 handwritten digits that come with scikit-learn, enlarged to 16
pixels and moved about, is saved for Paddle and, as standard operators, for ONNX Runtime, which run
what was trained.

    python examples/internimage.py [--quick] [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("GLOG_minloglevel", "2")  # the executor's progress

import numpy as np
import onnxruntime
import paddle
from paddle import Tensor, nn
from sklearn.datasets import load_digits

from paddle_dcn import DCNv3, export

TRAINING = 1297  # digits; the other 500 are for the test
WIDTHS, GROUPS, DEPTHS = (24, 48), (3, 6), (2, 2)
BATCH, EPOCHS, LEARNING_RATE = 64, 8, 4e-3
SPEC = [paddle.static.InputSpec([None, 1, 16, 16], "float32", "image")]


class ChannelsLast(nn.Layer):
    """Turns [N, C, H, W] into [N, H, W, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose([0, 2, 3, 1])


class Block(nn.Layer):
    """DCNv3 and an MLP, each added to its input."""

    def __init__(self, channels: int, group: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.dcn = DCNv3(channels, group=group)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dcn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Network(nn.Layer):
    """The classifier: [N, 1, 16, 16] to scores [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2D(1, WIDTHS[0], 3, 2, 1), nn.BatchNorm2D(WIDTHS[0]))
        self.first = self._stage(0)
        self.down = nn.Sequential(nn.Conv2D(*WIDTHS, 3, 2, 1), nn.BatchNorm2D(WIDTHS[1]))
        self.second = self._stage(1)
        self.norm, self.head = nn.LayerNorm(WIDTHS[1]), nn.Linear(WIDTHS[1], 10)

    @staticmethod
    def _stage(stage: int) -> nn.Sequential:
        blocks = (Block(WIDTHS[stage], GROUPS[stage]) for _ in range(DEPTHS[stage]))
        return nn.Sequential(ChannelsLast(), *blocks)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(self.stem(image))
        x = self.second(self.down(x.transpose([0, 3, 1, 2])))
        return self.head(self.norm(x).mean([1, 2]))


def load() -> tuple[np.ndarray, np.ndarray]:
    """Return the digits [1797, 1, 16, 16] in 0..1, shuffled, and their classes."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    large = digits.images.repeat(2, 1).repeat(2, 2)[order, None] / 16
    return large.astype("float32"), digits.target[order]


def moved(digits: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return each digit moved by up to 2 pixels."""
    steps = random.integers(-2, 3, (len(digits), 2))
    return np.stack([np.roll(digit, step, (1, 2)) for digit, step in zip(digits, steps)])


def train(model: nn.Layer, digits: np.ndarray, classes: np.ndarray, epochs: int, seed: int) -> None:
    """Train on the digits, moved anew in every epoch."""
    random = np.random.default_rng(seed)
    schedule = paddle.optimizer.lr.OneCycleLR(LEARNING_RATE, epochs * -(-len(digits) // BATCH))
    optimizer = paddle.optimizer.AdamW(schedule, parameters=model.parameters(), weight_decay=0.05)
    model.train()
    for epoch in range(epochs):
        order, losses = random.permutation(len(digits)), []
        images = paddle.to_tensor(moved(digits[order], random))
        targets = paddle.to_tensor(classes[order])
        for start in range(0, len(digits), BATCH):
            rows = slice(start, start + BATCH)
            loss = nn.functional.cross_entropy(model(images[rows]), targets[rows])
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}")
    model.eval()


def main() -> None:
    """Train, test, export, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one epoch on a part of the digits")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    paddle.seed(options.seed)
    digits, classes = load()
    count = 128 if options.quick else TRAINING
    model = Network()
    size = sum(parameter.size for parameter in model.parameters())
    print(f"{size} parameters")
    train(model, digits[:count], classes[:count], 1 if options.quick else EPOCHS, options.seed)

    images = moved(digits[TRAINING:], np.random.default_rng(1))
    with paddle.no_grad():
        wanted = model(paddle.to_tensor(images)).numpy()
    right = (wanted.argmax(1) == classes[TRAINING:]).mean()
    print(f"test accuracy {right:.1%}")

    with tempfile.TemporaryDirectory() as folder:
        native = str(Path(folder) / "native")
        paddle.jit.save(model, native, SPEC)
        path = export.onnx(model, Path(folder) / "model.onnx", SPEC, form="grid_sample")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        results = {
            "saved for Paddle": paddle.jit.load(native)(paddle.to_tensor(images)).numpy(),
            "ONNX Runtime": session.run(None, {"image": images})[0],
        }
    for name, found in results.items():
        difference = np.abs(found - wanted).max() / np.abs(wanted).max()
        print(f"{name}: outputs differ by {difference:.1e} of the largest")
        assert difference < 1e-4


if __name__ == "__main__":
    main()
