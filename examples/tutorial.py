"""What versions 1 and 2 of deformable convolution learn, told with digits and pictures.

Three networks of the same shape read handwritten digits under random affine maps: with plain
convolutions, with v1 (arXiv 1703.06211), whose layers move their samples, and with v2
(arXiv 1811.11168), whose layers can also switch them off. Then it draws, for the same digits,

- samples.png: where the last deformable layer of v1 and of v2 samples, and with which masks;
- fields.png: which pixels matter to a prediction, in the effective receptive field and in the
  error-bounded saliency region, for all three.

    python examples/tutorial.py [--quick] [--output build/tutorial]
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import paddle
from demo import load, predict, train, warp
from matplotlib import pyplot
from paddle import nn
from tqdm import tqdm

from paddle_dcn import DeformConv2DPack, ModulatedDeformConv2DPack, monitor, visualize

KINDS = {"plain": nn.Conv2D, "v1": DeformConv2DPack, "v2": ModulatedDeformConv2DPack}
WIDTHS, STRIDES = (16, 32, 40, 40), (2, 1, 2, 1)
FIRST_DEFORMABLE = 1
DIGITS, EPOCHS = 1297, 6
SHOWN = 4


def network(kind: str) -> nn.Sequential:
    """Four 3x3 convolutions, from the second on of the kind; then the mean over all pixels."""
    layers: list[nn.Layer] = []
    channels = 1
    for depth, (width, stride) in enumerate(zip(WIDTHS, STRIDES)):
        convolution = KINDS[kind] if depth >= FIRST_DEFORMABLE else nn.Conv2D
        layer = convolution(channels, width, 3, stride=stride, padding=1, bias_attr=False)
        if hasattr(layer, "conv_offset"):  # as in the paper of v2
            for parameter in layer.conv_offset.parameters():
                parameter.optimize_attr["learning_rate"] = 0.1
        layers += [layer, nn.BatchNorm2D(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(channels, 10))


def draw_samples(models: dict[str, nn.Layer], images: paddle.Tensor, path: Path) -> None:
    """A row for v1 and one for v2: the samples of an output pixel on each digit."""
    kinds = ("v1", "v2")
    figure, axes = pyplot.subplots(2, len(images), figsize=(2.4 * len(images), 5.4), squeeze=False)
    for row, kind in zip(axes, kinds):
        row[0].set_ylabel(f"{kind}, last layer", fontsize=12)
        for axis, image in zip(row, images):
            pixels = image[0].numpy()
            sampling = visualize.trace(models[kind], image)[-1]
            ink = np.argwhere(pixels > 0.5)
            point = tuple(np.minimum(ink[len(ink) // 2] // 4, 6))
            visualize.plot_sampling_points(1 - pixels, sampling, [point], scale=4, axes=axis)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", ncols=3)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=110)


def draw_fields(
    models: dict[str, nn.Layer], images: paddle.Tensor, path: Path, quick: bool
) -> None:
    """A row for each network: receptive field and saliency region of its score for the digit."""
    figure, axes = pyplot.subplots(
        len(models), 2 * len(images), figsize=(4 * len(images), 2.2 * len(models)), squeeze=False
    )
    for row, (kind, model) in zip(axes, models.items()):
        row[0].set_ylabel(kind, fontsize=12)
        for number, image in enumerate(images):
            left, right = row[2 * number : 2 * number + 2]
            digit = int(predict(model, image.unsqueeze(0)).argmax())
            visualize.effective_receptive_field(model, image, (digit,), axes=left)
            region, _ = visualize.error_bounded_saliency(
                model, image, (), bound=0.2, steps=5 if quick else 100, axes=right
            )
            left.set_title(f"read as {digit}", fontsize=10)
            right.set_title(f"{region.mean():.0%} of the pixels", fontsize=10)
    figure.suptitle("effective receptive field of the score, and the region that keeps all scores")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train, tell, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="train for seconds only")
    parser.add_argument("--output", type=Path, default=Path("build/tutorial"))
    arguments = parser.parse_args()
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", "When training, we now always track global mean")

    digits, classes = load()
    count, epochs, shown = (64, 1, 1) if arguments.quick else (DIGITS, EPOCHS, SHOWN)
    others = slice(-64, None) if arguments.quick else slice(DIGITS, None)
    images = warp(digits[others], np.random.default_rng(1))
    models: dict[str, nn.Layer] = {}
    correct = np.ones(len(images), bool)
    with tqdm(total=len(KINDS) * epochs * -(-count // 64), unit="step") as bar:
        for kind in KINDS:
            bar.set_description(f"{kind:5}")
            paddle.seed(0)
            models[kind] = network(kind)
            train(models[kind], digits[:count], classes[:count], epochs, 0, bar)
            with monitor(models[kind]) as watch:
                right = predict(models[kind], images).argmax(axis=1) == classes[others]
                moved = watch.step()
            correct &= right
            bar.write(f"{kind}: {right.mean():.1%} of {len(images)} other digits are read right")
            for name, found in moved.items():
                bar.write(f"  layer {name} moved its samples by {found.mean:.1f} pixels on average")

    # Digits that all three read right, from small to large.
    by_size = images.sum(axis=[1, 2, 3]).numpy().argsort()
    known = [each for each in by_size if correct[each]] or by_size
    chosen = images[
        [int(known[int(share * len(known))]) for share in np.linspace(0.3, 0.95, shown)]
    ]
    draw_samples(models, chosen, folder / "samples.png")
    draw_fields(models, chosen, folder / "fields.png", arguments.quick)
    print(f"pictures: {folder / 'samples.png'}, {folder / 'fields.png'}")


if __name__ == "__main__":
    main()
