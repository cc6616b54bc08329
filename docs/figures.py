"""Makes the pictures in docs/figures: of the examples, of the benchmark's figures, and a sketch.

    python docs/figures.py [--no-training]

It trains the networks of `examples/photograph.py`, in about a minute; without, their pictures stay.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"


def save(source: Path, name: str) -> None:
    """Write a picture with 256 colours, dithered, which makes it small."""
    picture = Image.open(source).convert("RGB")
    # This method keeps rare colours; what dithers takes the colours of another picture.
    colours = picture.quantize(method=Image.Quantize.FASTOCTREE)
    picture = picture.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG)
    picture.save(FIGURES / name, optimize=True)
    print(f"{name}: {(FIGURES / name).stat().st_size / 1000:.0f} kB")


def draw_grids(path: Path) -> None:
    """Draw nine samples of a plain convolution, of v1 and of v2, on a leaning bar."""
    rows, columns = np.indices((90, 90)) / 10
    bar = np.clip(3 - 2 * np.abs(rows + 0.8 * columns - 8), 0, 1)
    regular = np.array([(y, x) for y in (3, 4.5, 6) for x in (3, 4.5, 6)])
    # Towards the bar along its normal, and apart along it.
    distance = regular[:, 0] + 0.8 * regular[:, 1] - 8.1
    moved = regular - 0.85 * distance[:, None] * np.array([1, 0.8]) / 1.64
    moved[[0, 8]] += [[1.2, -1.6], [-1.1, 1.4]]
    stray = moved.copy()
    stray[[1, 7]] = [[1.6, 5.6], [7.4, 3.1]]
    masks = np.ones(9)
    masks[[1, 7]] = 0.08
    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3.7), layout="constrained")
    for axis, title, points, weight in zip(
        axes,
        ("plain: a fixed grid", "v1: each sample has an offset", "v2: and a mask"),
        (regular, stray, stray),
        (np.ones(9), np.ones(9), masks),
    ):
        axis.imshow(bar, cmap="Greys", alpha=0.35, extent=(0, 9, 9, 0))
        if points is not regular:
            axis.scatter(*regular.T[::-1], s=45, facecolors="none", edgecolors="#4c78a8")
            for start, end in zip(regular, points):
                axis.annotate(
                    "", end[::-1], start[::-1], arrowprops={"arrowstyle": "->", "color": "#777777"}
                )
        look = {"color": "#e4572e", "alpha": 0.25 + 0.75 * weight, "zorder": 3, "lw": 0}
        axis.scatter(*points.T[::-1], s=20 + 100 * weight, **look)
        axis.plot(4.5, 4.5, "k+", ms=12, mew=2, zorder=4)
        axis.set(xticks=[], yticks=[], xlim=(0, 9), ylim=(9, 0))
        axis.set_title(title, fontsize=13)
    figure.savefig(path, dpi=80)


def main() -> None:
    """Make all of them."""
    sys.path.insert(0, str(ROOT))
    from benchmarks import cpu

    FIGURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        draw_grids(made / "grids.png")
        figures = json.loads((ROOT / "benchmarks" / "results" / "cpu.json").read_text())
        cpu.draw(figures["results"], made / "speed.png")
        if "--no-training" not in sys.argv:
            script = ROOT / "examples" / "photograph.py"
            subprocess.run([sys.executable, str(script), "--output", folder], check=True)
        for path in sorted(made.glob("*.png")):
            save(path, path.name)


if __name__ == "__main__":
    main()
