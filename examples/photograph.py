"""Where a network looks on a photograph, before and after it has learnt to point at a flower.

The photograph comes with scikit-learn. Two networks of the same shape, one with plain, one with
deformable convolutions, see it in grey, turned, shifted and scaled, and tell for each pixel of the
flower where its middle lies. For that they have to see its edge. Pictures:

- samples.png: where two output pixels finally sample, before and after training;
- fields.png: for one of them, in both networks, the effective receptive field and the
  error-bounded saliency region;
- offsets.png: the mean offsets of the last deformable layer, which point at the middle, and which
  samples of which layer matter for that pixel.

    python examples/photograph.py [--quick] [--output build/photograph]
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import paddle
from matplotlib import pyplot
from paddle import Tensor, nn
from sklearn.datasets import load_sample_image
from tqdm import tqdm

from paddle_dcn import ModulatedDeformConv2DPack, visualize

SHRINK = 4  # pixels of the photograph, both ways, for one that the networks see
MIDDLE, RADIUS = np.array([55.0, 77.0]), 34.0  # of the flower, in these pixels
SIDE = 64  # of what they are trained on
STRIDE = 4
STEPS, BATCH = 300, 8
POINTS = ((11, 21), (17, 14))  # output pixels on the flower


def load() -> np.ndarray:
    """Return the photograph in 0..1, [H, W, 3]."""
    photograph = load_sample_image("flower.jpg") / 255
    height, width = (side // SHRINK * SHRINK for side in photograph.shape[:2])
    blocks = photograph[:height, :width].reshape(height // SHRINK, SHRINK, -1, SHRINK, 3)
    return blocks.mean(axis=(1, 3)).astype("float32")


def grey(photograph: np.ndarray) -> Tensor:
    """Return the brightness [1, H, W], about 0."""
    return paddle.to_tensor(photograph.mean(axis=2)[None] * 4 - 1)


def batch(image: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return turned, shifted, scaled images, the vectors to the middle in radii, and a weight.

    The weight is 1 on the flower and 0 elsewhere.
    """
    angle, scale = random.uniform(0, 2 * np.pi, BATCH), random.uniform(0.9, 1.8, BATCH)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    around = MIDDLE + random.uniform(-16, 16, (BATCH, 2))
    pixels = np.moveaxis(np.indices((SIDE, SIDE)), 0, -1) - (SIDE - 1) / 2
    # Where each pixel lies in the photograph, y before x.
    places = np.einsum("jkb,yxk->byxj", turn, pixels) + around[:, None, None]
    size = np.array(image.shape[1:])
    grid = ((2 * places + 1) / size - 1)[..., ::-1].astype("float32")
    images = nn.functional.grid_sample(
        image.unsqueeze(0).expand([BATCH, *image.shape]), paddle.to_tensor(grid.copy())
    )
    away = MIDDLE - places[:, ::STRIDE, ::STRIDE]
    back = np.einsum("kjb,byxk->bjyx", turn, away) / (scale * RADIUS)[:, None, None, None]
    inside = (np.linalg.norm(away, axis=-1) < RADIUS)[:, None]
    return images, *(paddle.to_tensor(each.astype("float32")) for each in (back, inside))


def network(deformable: bool) -> nn.Sequential:
    """Six convolutions, the third to the fifth of them deformable ones, or not."""
    layers: list[nn.Layer] = []
    channels = 1
    for depth, (width, stride) in enumerate(zip((16, 24, 32, 32, 32), (2, 1, 2, 1, 1))):
        kind = ModulatedDeformConv2DPack if deformable and depth >= 2 else nn.Conv2D
        layers.append(kind(channels, width, 3, stride=stride, padding=1, bias_attr=False))
        layers += [nn.BatchNorm2D(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.Conv2D(channels, 2, 1))


def train(model: nn.Layer, image: Tensor, steps: int, name: str) -> float:
    """Train a network; return its mean error of the last tenth of the steps, in radii."""
    random = np.random.default_rng(0)
    schedule = paddle.optimizer.lr.OneCycleLR(0.01, steps)
    optimizer = paddle.optimizer.Adam(schedule, parameters=model.parameters())
    losses = []
    model.train()
    for _ in tqdm(range(steps), desc=name, unit="step"):
        images, vectors, weight = batch(image, random)
        errors = (model(images) - vectors).square().sum(axis=1, keepdim=True)
        loss = (weight * (errors + 1e-6).sqrt()).sum() / weight.sum()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
        losses.append(float(loss))
    model.eval()
    return float(np.mean(losses[-max(1, steps // 10) :]))


def draw_samples(axis: pyplot.Axes, model: nn.Layer, photograph: np.ndarray, title: str) -> None:
    """Draw where the output pixels finally sample what the deformable layers take."""
    model.eval()
    samplings = visualize.trace(model, grey(photograph))
    for number, point in enumerate(POINTS):
        shown = photograph if number == 0 else None
        visualize.plot_receptive_field(shown, samplings, point, scale=2, axes=axis)
    axis.set_title(title)


def main() -> None:
    """Draw, train, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="train for seconds only")
    parser.add_argument("--output", type=Path, default=Path("build/photograph"))
    arguments = parser.parse_args()
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", "When training, we now always track global mean")
    steps = 3 if arguments.quick else STEPS
    photograph = load()
    image = grey(photograph)

    models = {}
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2))
    for name in ("plain", "deformable"):
        paddle.seed(0)
        models[name] = network(name == "deformable")
        if name == "deformable":
            draw_samples(axes[0], models[name], photograph, "before training")
        error = train(models[name], image, steps, name)
        print(f"{name}: the middle is missed by {error:.2f} of the flower's radius")
    draw_samples(axes[1], models["deformable"], photograph, "after training")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[:3], labels[:3], loc="lower center", ncols=3)
    figure.tight_layout(rect=(0, 0.07, 1, 0.98))
    figure.savefig(folder / "samples.png", dpi=80)

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
    optimisation = 5 if arguments.quick else 150
    for row, (name, model) in zip(axes, models.items()):
        row[0].set_ylabel(name, fontsize=13)
        visualize.effective_receptive_field(model, image, POINTS[0], axes=row[0])
        row[0].set_title("effective receptive field")
        region, _ = visualize.error_bounded_saliency(
            model, image, POINTS[0], 0.1, steps=optimisation, axes=row[1]
        )
        row[1].set_title(f"{region.mean():.1%} of the pixels keep the answer within 10 %")
        for axis in row:
            axis.plot(*(STRIDE * index for index in POINTS[0][::-1]), "wo", mec="k", ms=8)
    figure.savefig(folder / "fields.png", dpi=72)

    model = models["deformable"]
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
    visualize.offset_field(
        visualize.trace(model, image)[-1], photograph, scale=STRIDE, axes=axes[0]
    )
    axes[0].set_title("mean offsets of the last layer")
    visualize.effective_sampling_locations(model, image, POINTS[0], axes=axes[1])
    axes[1].set_title("effective sampling locations, by layer")
    axes[1].legend(loc="lower right", title="layer")
    figure.savefig(folder / "offsets.png", dpi=72)
    print(f"pictures: {', '.join(str(path) for path in sorted(folder.glob('*.png')))}")


if __name__ == "__main__":
    main()
