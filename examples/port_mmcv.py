"""Ports a network of mmcv's layers with its checkpoint: the names stay, the values are checked.

A real port begins with a checkpoint of mmdetection or mmediting. This script has to do without a
download, so it writes one: a ResNet stage with DCNv2, under PyTorch's names and wrapped as mmcv's
runner does, with an old name of the offsets and a head that the port does not have.

    python examples/port_mmcv.py [--quick] [--output build/port_mmcv]

What changes in the source of such a network is its imports; `python -m paddle_dcn migrate` changes
those of mmcv's operators. Here is what it was:

    from torch import nn
    from mmcv.ops import ModulatedDeformConv2dPack
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_dcn import deform_conv2d_reference
from paddle_dcn.compat.mmcv import ModulatedDeformConv2dPack, convert_state_dict


class Bottleneck(nn.Layer):
    """A block of a ResNet whose middle convolution is deformable."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(channels, width, 1, bias_attr=False)
        self.bn1 = nn.BatchNorm2D(width)
        self.conv2 = ModulatedDeformConv2dPack(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2D(width)
        self.conv3 = nn.Conv2D(width, channels, 1, bias_attr=False)
        self.bn3 = nn.BatchNorm2D(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = nn.functional.relu(self.bn1(self.conv1(x)))
        out = nn.functional.relu(self.bn2(self.conv2(out)))
        return nn.functional.relu(self.bn3(self.conv3(out)) + x)


class Backbone(nn.Layer):
    """One stage of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.layer3 = nn.Sequential(Bottleneck(64, 32), Bottleneck(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer3(x)


class Network(nn.Layer):
    """A backbone, of what was a detector."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x)


def write_checkpoint(path: Path) -> None:
    """Write what training would have left: PyTorch's names, with random values."""
    random = np.random.default_rng(0)
    state = {}
    for name, tensor in Network().state_dict().items():
        value = random.normal(0, 0.1, tensor.shape)
        if name.endswith("_variance") or (name.endswith("weight") and value.ndim == 1):
            value = 1 + np.abs(value)
        name = name.replace("._mean", ".running_mean").replace("._variance", ".running_var")
        # As in checkpoints from before mmcv 1.
        state[name.replace("conv2.conv_offset", "conv2_offset")] = value.astype("float32")
    np.savez(path, **state, **{"head.fc.weight": np.zeros((10, 64), "float32")})


def reference(state: dict[str, np.ndarray], x: Tensor) -> Tensor:
    """Compute the stage from the checkpoint's own names and plain operations of Paddle."""
    for block in ("backbone.layer3.0.", "backbone.layer3.1."):
        values = {
            name[len(block) :]: paddle.to_tensor(value)
            for name, value in state.items()
            if name.startswith(block)
        }

        def norm(y: Tensor, name: str, values: dict[str, Tensor] = values) -> Tensor:
            statistics = (values[f"{name}.running_mean"], values[f"{name}.running_var"])
            affine = (values[f"{name}.weight"], values[f"{name}.bias"])
            return nn.functional.batch_norm(y, *statistics, *affine)

        out = nn.functional.conv2d(x, values["conv1.weight"])
        out = nn.functional.relu(norm(out, "bn1"))
        field = nn.functional.conv2d(
            out, values["conv2_offset.weight"], values["conv2_offset.bias"], padding=1
        )
        offset, mask = field[:, :18], nn.functional.sigmoid(field[:, 18:])
        out = deform_conv2d_reference(out, offset, values["conv2.weight"], padding=1, mask=mask)
        out = nn.functional.relu(norm(out, "bn2"))
        out = norm(nn.functional.conv2d(out, values["conv3.weight"]), "bn3")
        x = nn.functional.relu(out + x)
    return x


def main() -> None:
    """Write a checkpoint, load it into the ported network, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="changes nothing: it takes seconds")
    parser.add_argument("--output", type=Path, default=Path("build/port_mmcv"))
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "epoch_12.npz"
    write_checkpoint(path)

    model = Network()
    # With PyTorch: checkpoint = torch.load(path, map_location="cpu")
    state = dict(np.load(path))
    checkpoint = {"meta": {"epoch": 12}, "state_dict": state}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        converted = convert_state_dict(checkpoint, model)
    print("told:", *(str(warning.message) for warning in told))
    print(f"renamed {len(converted.renamed)}, left over {converted.left_over}")
    assert not converted.missing
    model.set_state_dict(converted)
    model.eval()

    x = paddle.to_tensor(np.random.default_rng(1).normal(size=(2, 64, 14, 14)).astype("float32"))
    with paddle.no_grad():
        found, wanted = model(x), reference(state, x)
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    print(f"difference from the same computed by hand: {difference:.1e} of the largest value")
    assert difference < 1e-5


if __name__ == "__main__":
    main()
