"""Makes tests/export/paddle2.zip, models and their outputs: run it under Paddle 2.6.2.

    make .venv-2.6.2/.paddle PADDLE=2.6.2
    .venv-2.6.2/bin/python tests/scripts/make_paddle2_models.py

`jit` is what paddle.jit.save writes: .pdmodel and one file of parameters. `v1` is a program with
operators of Paddle 1, deformable_conv_v1 and nearest_interp, as Paddle 1 saved it: `__model__` and
a file for each parameter. `combined` is the same with all parameters in `__params__`.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from paddle.vision.ops import DeformConv2D

ARCHIVE = Path(__file__).parents[1] / "data" / "paddle2"


class Net(nn.Layer):
    """Version 2 with two deformable groups, version 1 in two groups, and layers around them."""

    def __init__(self):
        super().__init__()
        self.field = nn.Conv2D(4, 54, 3, padding=1)
        self.v2 = DeformConv2D(4, 6, 3, padding=1, deformable_groups=2)
        self.norm = nn.BatchNorm2D(6)
        self.v1 = DeformConv2D(6, 4, 3, stride=2, padding=1, groups=2, bias_attr=False)

    def forward(self, image):
        field = self.field(image)
        mask = nn.functional.sigmoid(field[:, 36:])
        out = nn.functional.leaky_relu(self.norm(self.v2(image, field[:, :36], mask)), 0.1)
        small = self.v1(out, nn.functional.interpolate(field[:, :18], scale_factor=0.5))
        return small, nn.functional.interpolate(small, scale_factor=2.0, mode="bilinear")


def save_jit(folder):
    paddle.seed(1)
    net = Net()
    for name, tensor in net.state_dict().items():
        if len(tensor.shape) == 1:
            low = 0.5 if name.endswith(("norm.weight", "_variance")) else -0.5
            tensor.set_value(paddle.uniform(tensor.shape, min=low, max=low + 1))
    net.eval()
    spec = [paddle.static.InputSpec([None, 4, None, None], "float32", "image")]
    paddle.jit.save(net, str(folder / "jit"), spec)
    (folder / "jit.pdiparams.info").unlink()
    feed = np.random.default_rng(1).standard_normal((2, 4, 8, 10)).astype("float32")
    small, large = net(paddle.to_tensor(feed))
    np.savez(folder / "jit.npz", image=feed, small=small.numpy(), large=large.numpy())


def save_v1(folder):
    paddle.enable_static()
    paddle.seed(2)
    main, startup = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(main, startup):
        x = paddle.static.data("x", [-1, 4, -1, -1])
        offset = paddle.static.nn.conv2d(x, 18, 3, padding=1)
        weight = paddle.create_parameter([3, 4, 3, 3], "float32", name="filter")
        block = main.global_block()
        out = block.create_var(name="out", dtype="float32", shape=[-1, 3, -1, -1])
        block.append_op(
            type="deformable_conv_v1",
            inputs={"Input": x, "Filter": weight, "Offset": offset},
            outputs={"Output": out},
            attrs={
                "strides": [1, 1],
                "paddings": [1, 1],
                "dilations": [1, 1],
                "groups": 1,
                "deformable_groups": 1,
                "im2col_step": 1,
            },
        )
        larger = block.create_var(name="larger", dtype="float32", shape=[-1, 3, -1, -1])
        block.append_op(
            type="nearest_interp",
            inputs={"X": out},
            outputs={"Out": larger},
            attrs={"scale": 2.0, "align_corners": False, "interp_method": "nearest"},
        )
        result = paddle.nn.functional.relu(larger)
    executor = paddle.static.Executor(paddle.CPUPlace())
    executor.run(startup)
    feed = np.random.default_rng(2).standard_normal((2, 4, 7, 5)).astype("float32")
    (wanted,) = executor.run(main, feed={"x": feed}, fetch_list=[result])
    np.savez(folder / "v1.npz", x=feed, out=wanted)
    clean = paddle.static.normalize_program(main, [x], [result])
    model = paddle.static.serialize_program([x], [result], program=clean)
    for name, filename in (("v1", None), ("combined", "__params__")):
        (folder / name).mkdir()
        (folder / name / "__model__").write_bytes(model)
        paddle.static.io.save_vars(
            executor,
            str(folder / name),
            clean,
            predicate=lambda each: each.persistable and each.name not in ("feed", "fetch"),
            filename=filename,
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        save_jit(Path(made))
        save_v1(Path(made))
        shutil.make_archive(str(ARCHIVE), "zip", made)
