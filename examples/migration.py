"""Moves a training script of Paddle 1.x to this package, and runs it before and after.

The script asks for `paddle.fluid`, which Paddle no longer has. `python -m paddle_dcn migrate`
changes its import; nothing else in it has to change. Needs libcst: pip install
'paddle_dcn[migrate]'.

    python examples/migration.py [--quick] [--output build/migration]
"""

from __future__ import annotations

import argparse
import difflib
import subprocess
import sys
from pathlib import Path

SCRIPT = '''\
"""Learns which half of an image is brighter, as one wrote it for Paddle 1.8."""
import numpy as np
import paddle
import paddle.fluid as fluid

paddle.enable_static()
image = fluid.data(name="image", shape=[None, 1, 12, 12], dtype="float32")
label = fluid.data(name="label", shape=[None, 1], dtype="int64")
zero = fluid.initializer.Constant(0.0)
field = fluid.layers.conv2d(image, num_filters=27, filter_size=3, padding=1, param_attr=zero)
offset, mask = fluid.layers.split(field, num_or_sections=[18, 9], dim=1)
features = fluid.layers.deformable_conv(
    input=image, offset=offset, mask=fluid.layers.sigmoid(mask),
    num_filters=8, filter_size=3, padding=1,
)
scores = fluid.layers.fc(fluid.layers.relu(features), size=2)
loss = fluid.layers.mean(fluid.layers.softmax_with_cross_entropy(scores, label))
fluid.optimizer.AdamOptimizer(learning_rate=0.01).minimize(loss)

executor = fluid.Executor(fluid.CPUPlace())
executor.run(fluid.default_startup_program())
random = np.random.RandomState(0)
for step in range(30):
    images = random.rand(32, 1, 12, 12).astype("float32")
    classes = random.randint(0, 2, (32, 1))
    images[np.arange(32), 0, :, :6] += classes[:, :, None]
    images[np.arange(32), 0, :, 6:] += 1 - classes[:, :, None]
    feed = {"image": images, "label": classes.astype("int64")}
    (value,) = executor.run(feed=feed, fetch_list=[loss])
print("last loss: %.3f" % np.mean(value))
'''


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def main() -> None:
    """Run, move, run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="changes nothing: it takes seconds")
    parser.add_argument("--output", type=Path, default=Path("build/migration"))
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "train.py"
    script.write_text(SCRIPT)

    before = run(script)
    print(f"before: {before.stderr.strip().splitlines()[-1]}")
    done = run("-m", "paddle_dcn", "migrate", "--write", script)
    assert done.returncode == 0, done.stdout + done.stderr
    changed = difflib.unified_diff(SCRIPT.splitlines(), script.read_text().splitlines(), n=0)
    print("\n".join(changed))
    after = run(script)
    assert after.returncode == 0, after.stderr
    print(f"after: {after.stdout.strip()}")


if __name__ == "__main__":
    main()
