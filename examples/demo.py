"""Trains two small networks of equal size on warped digits, one plain, one deformable.

Then it saves the deformable one, runs it by paddle.inference in a new process, compares the
outputs, and draws where the network samples some test digits.

    python examples/demo.py [--quick] [--seed 0] [--output build/demo]

The digits are the 1797 handwritten ones that come with scikit-learn, enlarged and warped by random
affine maps. Test images are warps of digits that the networks were not trained on. Both networks
see the same images in the same order, under the same optimizer and learning-rate schedule; as in
the paper, arXiv 1811.11168, the convolutions that predict offsets learn at a tenth of the rate.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import warnings
from pathlib import Path

os.environ.setdefault("GLOG_minloglevel", "2")  # saving a softmax, Paddle warns of itself

import numpy as np
import paddle
from matplotlib import pyplot
from paddle import Tensor, inference, nn
from scipy import ndimage
from sklearn.datasets import load_digits
from tqdm import tqdm

from paddle_dcn import ModulatedDeformConv2DPack, visualize

CANVAS = 28  # pixels, both ways
TRAINING = 1297  # digits; the other 500 are for the test
WARPS_PER_TEST_DIGIT = 4
BATCH = 64
EPOCHS = 12
LEARNING_RATE = 0.02  # half and twice as much do the plain network no better
WIDTHS = {"plain": (20, 38, 48, 54, 58), "deformable": (16, 32, 40, 40, 48)}
STRIDES = (2, 1, 2, 1, 2)
FIRST_DEFORMABLE = 2  # the first layer of the deformable network that is one


def load() -> tuple[np.ndarray, np.ndarray]:
    """Return the digits [1797, 24, 24] in 0..1, shuffled, and their classes."""
    digits = load_digits()
    large = ndimage.zoom(digits.images / 16, (1, 3, 3), mode="grid-constant", grid_mode=True)
    order = np.random.default_rng(0).permutation(len(large))
    return large.clip(0, 1)[order].astype("float32"), digits.target[order]


def warp(digits: np.ndarray, random: np.random.Generator) -> Tensor:
    """Return each digit under a random affine map of its own, on the canvas."""
    count = len(digits)
    angle = np.deg2rad(random.uniform(-75, 75, count))
    size = random.uniform(0.35, 0.9, count)  # share of the canvas
    stretch = np.exp(random.uniform(-0.2, 0.2, (2, count)))
    shear = random.uniform(-0.6, 0.6, count)
    shift = random.uniform(-0.9, 0.9, (2, count)) * (1 - size)

    # grid_sample wants the map from the canvas to the digit, both in -1..1.
    cosine, sine = np.cos(angle), np.sin(angle)
    zero = np.zeros(count)
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    scaling = np.array([[1 / (size * stretch[0]), shear], [zero, 1 / (size * stretch[1])]])
    linear = np.einsum("ijn,jkn->nik", scaling, rotation)
    maps = np.concatenate([linear, -linear @ shift.T[:, :, None]], axis=2).astype("float32")
    grid = nn.functional.affine_grid(paddle.to_tensor(maps), [count, 1, CANVAS, CANVAS])
    return nn.functional.grid_sample(paddle.to_tensor(digits[:, None]), grid)


def network(kind: str) -> nn.Sequential:
    """Five 3x3 convolutions, the last three deformable ones in the deformable network."""
    layers: list[nn.Layer] = []
    channels = 1
    for depth, (width, stride) in enumerate(zip(WIDTHS[kind], STRIDES)):
        deformable = kind == "deformable" and depth >= FIRST_DEFORMABLE
        convolution = ModulatedDeformConv2DPack if deformable else nn.Conv2D
        layer = convolution(channels, width, 3, stride=stride, padding=1, bias_attr=False)
        if deformable:
            for parameter in layer.conv_offset.parameters():
                parameter.optimize_attr["learning_rate"] = 0.1
        layers += [layer, nn.BatchNorm2D(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(channels, 10))


def size_of(model: nn.Layer) -> int:
    """Return the number of trained parameters."""
    return sum(p.size for p in model.parameters() if not p.stop_gradient)


def train(
    model: nn.Layer, digits: np.ndarray, classes: np.ndarray, epochs: int, seed: int, bar: tqdm
) -> None:
    """Train on the digits, warped anew in every epoch."""
    random = np.random.default_rng(seed)
    steps = -(-len(digits) // BATCH)
    schedule = paddle.optimizer.lr.OneCycleLR(LEARNING_RATE, epochs * steps)
    optimizer = paddle.optimizer.AdamW(schedule, parameters=model.parameters(), weight_decay=0.01)
    model.train()
    for _ in range(epochs):
        order = random.permutation(len(digits))
        images, targets = warp(digits[order], random), paddle.to_tensor(classes[order])
        for start in range(0, len(digits), BATCH):
            rows = slice(start, start + BATCH)
            loss = nn.functional.cross_entropy(model(images[rows]), targets[rows])
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            schedule.step()
            bar.update()
        bar.set_postfix(loss=f"{loss.item():.2f}")
    model.eval()


@paddle.no_grad()
def predict(model: nn.Layer, images: Tensor) -> np.ndarray:
    """Return the scores [N, 10] of a trained model."""
    return model(images).numpy()


def draw(model: nn.Layer, images: Tensor, path: Path) -> None:
    """Draw where the deformable layers sample each of the images."""
    before = int(np.prod(STRIDES[:FIRST_DEFORMABLE]))

    def nearest(pixel: np.ndarray, sampling: visualize.Sampling, step: int) -> tuple[int, ...]:
        """Return the output pixel, `step` image pixels from the next, that lies nearest."""
        last = np.array(sampling.offset.shape[1:]) - 1
        return tuple(np.minimum(np.rint(pixel / step).astype(int), last))

    read = predict(model, images).argmax(axis=1)
    figure, axes = pyplot.subplots(2, len(images), figsize=(2 * len(images), 5), squeeze=False)
    for (above, below), image, digit in zip(axes.T, images, read):
        samplings = visualize.trace(model, image)
        pixels = image[0].numpy()
        ink = np.argwhere(pixels > 0.5)
        step = before * STRIDES[FIRST_DEFORMABLE]
        points = [
            nearest(end, samplings[0], step) for end in (ink[len(ink) // 8], ink[-len(ink) // 8])
        ]
        visualize.plot_sampling_points(1 - pixels, samplings[0], points, scale=before, axes=above)
        above.set_title(f"read as {digit}")
        point = nearest(ink.mean(axis=0), samplings[-1], int(np.prod(STRIDES)))
        visualize.plot_receptive_field(1 - pixels, samplings, point, scale=before, axes=below)
    axes[0, 0].set_ylabel("first deformable layer,\ntwo output pixels")
    axes[1, 0].set_ylabel("all three deformable layers,\none output pixel")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", ncols=3)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=120)


def run_saved(folder: Path) -> None:
    """Run the saved network on the saved images: what the new process does."""
    program, parameters = folder / "model.json", folder / "model.pdiparams"
    config = inference.Config(str(program), str(parameters))
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    (name,) = predictor.get_input_names()
    predictor.get_input_handle(name).copy_from_cpu(np.load(folder / "images.npy"))
    predictor.run()
    (name,) = predictor.get_output_names()
    np.save(folder / "probabilities.npy", predictor.get_output_handle(name).copy_to_cpu())


def main() -> int:
    """Train both, save, reload, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="train for seconds only")
    parser.add_argument("--seed", type=int, default=0, help="of the parameters and the warps")
    parser.add_argument("--output", type=Path, default=Path("build/demo"), help="folder of results")
    parser.add_argument("--run-saved", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.output
    if arguments.run_saved:
        run_saved(folder)
        return 0
    folder.mkdir(parents=True, exist_ok=True)

    # Batch normalisation warns whenever it trains.
    warnings.filterwarnings("ignore", "When training, we now always track global mean")
    digits, classes = load()
    training, epochs = (256, 1) if arguments.quick else (TRAINING, EPOCHS)
    warps = 1 if arguments.quick else WARPS_PER_TEST_DIGIT
    tests = np.tile(np.arange(TRAINING, len(digits)), warps)
    images, targets = warp(digits[tests], np.random.default_rng(1)), classes[tests]
    print(
        f"{training} digits for training, warped anew in each of {epochs} epochs; {len(tests)} "
        f"warps of {len(digits) - TRAINING} other digits for the test"
    )

    models = {}
    with tqdm(total=len(WIDTHS) * epochs * -(-training // BATCH), unit="step") as bar:
        for kind in WIDTHS:
            bar.set_description(f"{kind:10}")
            paddle.seed(arguments.seed)
            models[kind] = network(kind)
            train(models[kind], digits[:training], classes[:training], epochs, arguments.seed, bar)
    accuracy = {}
    for kind, model in models.items():
        accuracy[kind] = 100 * np.mean(predict(model, images).argmax(axis=1) == targets)
        print(f"{kind:10} {size_of(model)} parameters, test accuracy {accuracy[kind]:.1f} %")
    print(f"difference {accuracy['deformable'] - accuracy['plain']:+.1f} points")

    classifier = nn.Sequential(models["deformable"], nn.Softmax())
    image = paddle.static.InputSpec([None, *images.shape[1:]], "float32", "image")
    paddle.jit.save(classifier, str(folder / "model"), [image])
    np.save(folder / "images.npy", images.numpy())
    command = [sys.executable, __file__, "--run-saved", "--output", str(folder)]
    subprocess.run(command, check=True)
    found = np.load(folder / "probabilities.npy")
    difference = np.abs(found - predict(classifier, images)).max()
    agree = difference < 1e-5
    print(
        f"outputs {'agree' if agree else 'DIFFER'}: max difference {difference:.1e} between the "
        f"probabilities here and those of {folder / 'model.json'} under paddle.inference"
    )

    picture = folder / "sampling_points.png"
    by_size = images.sum(axis=[1, 2, 3]).numpy().argsort()
    chosen = by_size[(np.linspace(0.05, 0.95, 8) * len(by_size)).astype(int)]
    draw(models["deformable"], images[chosen], picture)
    print(f"picture of the sampling points: {picture}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
