"""Networks with deformable convolutions, of the size of published ones, for the benchmarks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

import paddle_dcn

# What stands in a network for a deformable convolution: Paddle's layer, this package's, or an
# ordinary convolution of the same shape.
BUILTIN, OURS, PLAIN = "builtin", "ours", "plain"

# How offsets vary from pixel to pixel, as a standard deviation, and how far they reach everywhere.
# With random features a network whose offsets vary by pixels would be chaotic.
_SPREAD, _REACH = 0.1, 4.0


def _split(planes: Tensor, fields: int) -> tuple[Tensor, Tensor]:
    """Cut predicted planes into offset and mask as PaddleDetection does."""
    offset, mask = paddle.split(planes, [2 * fields, fields], axis=1)
    return offset, F.sigmoid(mask)


def _slice(planes: Tensor, fields: int) -> tuple[Tensor, Tensor]:
    """As DB does."""
    return planes[:, : 2 * fields], F.sigmoid(planes[:, -fields:])


def _chunk(planes: Tensor, fields: int) -> tuple[Tensor, Tensor]:
    """As EDVR and mmcv do."""
    first, second, mask = paddle.chunk(planes, 3, axis=1)
    return paddle.concat([first, second], axis=1), F.sigmoid(mask)


class Deformable(nn.Layer):
    """A modulated 3x3 deformable convolution, and the convolution that predicts its sampling.

    The prediction is made of x, or of other features. `PLAIN` makes none of x. Of other features it
    does, and adds a mean of it to the output, so that what leads to it is computed all the same.
    """

    def __init__(
        self,
        kind: str,
        channels: int,
        outputs: int,
        cut: Callable,
        stride: int = 1,
        deformable_groups: int = 1,
        bias: bool = True,
        features: int | None = None,
        spread: float = _SPREAD,
        reach: float = _REACH,
    ) -> None:
        super().__init__()
        self.kind, self.cut, self.fields = kind, cut, 9 * deformable_groups
        self.spread, self.reach = spread, reach
        self.own = features is None
        if kind != PLAIN or not self.own:
            self.conv_offset = nn.Conv2D(features or channels, 3 * self.fields, 3, stride, 1)
        bias_attr = None if bias else False
        if kind == PLAIN:
            self.conv = nn.Conv2D(channels, outputs, 3, stride, 1, bias_attr=bias_attr)
        else:
            layers = {BUILTIN: paddle.vision.ops.DeformConv2D, OURS: paddle_dcn.DeformConv2D}
            self.conv = layers[kind](
                channels,
                outputs,
                3,
                stride,
                1,
                deformable_groups=deformable_groups,
                bias_attr=bias_attr,
            )
        self.calibrating = False

    def forward(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        if self.kind == PLAIN and self.own:
            return self.conv(x)
        planes = self.conv_offset(x if features is None else features)
        if self.calibrating:
            factor = self.spread / planes.std()
            self.conv_offset.weight.set_value(self.conv_offset.weight * factor)
            self.conv_offset.bias.set_value(
                paddle.uniform([3 * self.fields], min=-1, max=1) * self.reach
            )
            planes = self.conv_offset(x if features is None else features)
        if self.kind == PLAIN:
            return self.conv(x) + planes[:, :1].mean()
        return self.conv(x, *self.cut(planes, self.fields))


class ConvNorm(nn.Sequential):
    """A convolution, or deformable one, and BatchNorm."""

    def __init__(self, conv: nn.Layer, outputs: int) -> None:
        super().__init__(conv, nn.BatchNorm2D(outputs))


def _conv_norm(channels: int, outputs: int, size: int, stride: int = 1) -> ConvNorm:
    conv = nn.Conv2D(channels, outputs, size, stride, size // 2, bias_attr=False)
    return ConvNorm(conv, outputs)


class Bottleneck(nn.Layer):
    """ResNet's block of three convolutions, with the stride in the second."""

    def __init__(
        self, channels: int, width: int, stride: int, vd: bool, deformable: Callable | None
    ) -> None:
        super().__init__()
        outputs = 4 * width
        self.first = _conv_norm(channels, width, 1)
        if deformable is None:
            self.second = _conv_norm(width, width, 3, stride)
        else:
            self.second = ConvNorm(deformable(width, width, stride=stride, bias=False), width)
        self.third = _conv_norm(width, outputs, 1)
        self.shortcut = None
        if channels != outputs and vd and stride > 1:
            pool = nn.AvgPool2D(2, 2, ceil_mode=True)
            self.shortcut = nn.Sequential(pool, _conv_norm(channels, outputs, 1))
        elif channels != outputs:
            self.shortcut = _conv_norm(channels, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.second(F.relu(self.first(x))))
        side = x if self.shortcut is None else self.shortcut(x)
        return F.relu(self.third(out) + side)


class ResNet50(nn.Layer):
    """ResNet-50 (arXiv 1512.03385), or -vd (1812.01187), with 13 deformable convolutions."""

    def __init__(self, deformable: Callable, vd: bool) -> None:
        super().__init__()
        if vd:
            stem = [(3, 32, 3, 2), (32, 32, 3, 1), (32, 64, 3, 1)]
        else:
            stem = [(3, 64, 7, 2)]
        layers = [layer for each in stem for layer in (_conv_norm(*each), nn.ReLU())]
        self.stem = nn.Sequential(*layers, nn.MaxPool2D(3, 2, 1))
        self.stages = nn.LayerList()
        channels = 64
        for stage, blocks in enumerate((3, 4, 6, 3)):
            width = 64 << stage
            made = []
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                made.append(Bottleneck(channels, width, stride, vd, deformable if stage else None))
                channels = 4 * width
            self.stages.append(nn.Sequential(*made))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


def _grow(x: Tensor, factor: int = 2) -> Tensor:
    """Repeat pixels. Paddle 3.3's predictors with oneDNN, the default, cannot interpolate."""
    batch, channels, height, width = x.shape
    x = x.reshape([batch, channels, height, 1, width, 1])
    x = x.expand([batch, channels, height, factor, width, factor])
    return x.reshape([batch, channels, factor * height, factor * width])


class DetectorWithPyramid(nn.Layer):
    """PaddleDetection's ResNet-50-vd with deformable stages 3 to 5, and a pyramid (1612.03144)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.backbone = ResNet50(functools.partial(Deformable, kind, cut=_split), vd=True)
        widths = (256, 512, 1024, 2048)
        self.lateral = nn.LayerList([nn.Conv2D(width, 256, 1) for width in widths])
        self.smooth = nn.LayerList([nn.Conv2D(256, 256, 3, padding=1) for _ in widths])

    def forward(self, image: Tensor) -> list[Tensor]:
        levels = [lateral(x) for lateral, x in zip(self.lateral, self.backbone(image))]
        for i in (2, 1, 0):
            levels[i] = levels[i] + _grow(levels[i + 1])
        return [smooth(x) for smooth, x in zip(self.smooth, levels)]


class TextDetector(nn.Layer):
    """DB++ (2202.10304): ResNet-50, pyramid with adaptive scale fusion, probability head."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.backbone = ResNet50(functools.partial(Deformable, kind, cut=_slice), vd=False)
        widths = (256, 512, 1024, 2048)
        self.lateral = nn.LayerList([nn.Conv2D(w, 256, 1, bias_attr=False) for w in widths])
        self.smooth = nn.LayerList(
            [nn.Conv2D(256, 64, 3, padding=1, bias_attr=False) for _ in widths]
        )
        self.fuse = nn.Conv2D(256, 64, 3, padding=1)
        self.channel_attention = nn.Sequential(
            nn.AdaptiveAvgPool2D(1),
            nn.Conv2D(64, 16, 1, bias_attr=False),
            nn.ReLU(),
            nn.Conv2D(16, 64, 1, bias_attr=False),
            nn.Sigmoid(),
        )
        self.spatial_attention = nn.Sequential(
            nn.Conv2D(1, 1, 3, padding=1, bias_attr=False),
            nn.ReLU(),
            nn.Conv2D(1, 1, 1, bias_attr=False),
            nn.Sigmoid(),
        )
        self.scale_attention = nn.Sequential(nn.Conv2D(64, 4, 1, bias_attr=False), nn.Sigmoid())
        self.head = nn.Sequential(
            _conv_norm(256, 64, 3),
            nn.ReLU(),
            nn.Conv2DTranspose(64, 64, 2, 2),
            nn.BatchNorm2D(64),
            nn.ReLU(),
            nn.Conv2DTranspose(64, 1, 2, 2),
            nn.Sigmoid(),
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        levels = [lateral(x) for lateral, x in zip(self.lateral, self.backbone(image))]
        for i in (2, 1, 0):
            levels[i] = levels[i] + _grow(levels[i + 1])
        levels = [smooth(x) for smooth, x in zip(self.smooth, levels)]
        levels = [levels[0], *(_grow(x, 2 << i) for i, x in enumerate(levels[1:]))]
        fused = self.fuse(paddle.concat(levels, axis=1))
        attended = self.channel_attention(fused) + fused
        attended = self.spatial_attention(attended.mean(1, keepdim=True)) + attended
        scores = paddle.split(self.scale_attention(attended), 4, axis=1)
        return [self.head(paddle.concat([s * x for s, x in zip(scores, levels)], axis=1))]


def _conv(channels: int, outputs: int, stride: int = 1) -> nn.Conv2D:
    return nn.Conv2D(channels, outputs, 3, stride, 1)


class Residual(nn.Layer):
    """Two convolutions around a relu, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _conv(channels, channels), _conv(channels, channels)
        self.second.weight.set_value(0.1 * self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class Alignment(nn.Layer):
    """EDVR's pyramid, cascading and deformable alignment of one frame to another."""

    def __init__(self, deformable: Callable, width: int) -> None:
        super().__init__()
        self.compare = nn.LayerList([_conv(2 * width, width) for _ in range(3)])
        self.combine = nn.LayerList([_conv(2 * width, width) for _ in range(2)])
        self.refine = nn.LayerList([_conv(width, width) for _ in range(3)])
        self.align = nn.LayerList([deformable(width, width) for _ in range(3)])
        self.merge = nn.LayerList([_conv(2 * width, width) for _ in range(2)])
        self.cascade = nn.Sequential(
            _conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU()
        )
        self.last = deformable(width, width)

    def forward(self, frame: list[Tensor], reference: list[Tensor]) -> Tensor:
        offset = feature = None
        for level in (2, 1, 0):
            pair = paddle.concat([frame[level], reference[level]], axis=1)
            now = F.relu(self.compare[level](pair))
            if offset is not None:
                larger = _grow(offset) * 2
                now = F.relu(self.combine[level](paddle.concat([now, larger], axis=1)))
            offset = F.relu(self.refine[level](now))
            aligned = self.align[level](frame[level], offset)
            if feature is not None:
                aligned = self.merge[level](paddle.concat([aligned, _grow(feature)], axis=1))
            feature = F.relu(aligned) if level else aligned
        offset = self.cascade(paddle.concat([feature, reference[0]], axis=1))
        return F.relu(self.last(feature, offset))


class VideoRestorer(nn.Layer):
    """EDVR-M (1905.02716): five frames to one of four times the size.

    With relu for leaky_relu: behind a conv2d, Paddle 3.3's predictors with oneDNN crash at that.
    """

    def __init__(self, kind: str, width: int = 64, frames: int = 5, blocks: int = 10) -> None:
        super().__init__()
        self.frames = frames
        deformable = functools.partial(
            Deformable, kind, cut=_chunk, deformable_groups=8, features=width
        )
        self.first = _conv(3, width)
        self.extract = nn.Sequential(*(Residual(width) for _ in range(5)))
        self.shrink = nn.LayerList(
            [
                nn.Sequential(
                    _conv(width, width, 2),
                    nn.ReLU(),
                    _conv(width, width),
                    nn.ReLU(),
                )
                for _ in range(2)
            ]
        )
        self.align = Alignment(deformable, width)
        self.embed, self.embed_reference = _conv(width, width), _conv(width, width)
        self.fuse = nn.Conv2D(frames * width, width, 1)
        self.attend = nn.Conv2D(frames * width, width, 1)
        self.attend_small = nn.Conv2D(2 * width, width, 1)
        self.attend_more = nn.Sequential(_conv(width, width), nn.ReLU(), nn.Conv2D(width, width, 1))
        self.restore = nn.Sequential(*(Residual(width) for _ in range(blocks)))
        self.enlarge = nn.Sequential(
            _conv(width, 4 * width),
            nn.PixelShuffle(2),
            nn.ReLU(),
            _conv(width, 4 * width),
            nn.PixelShuffle(2),
            nn.ReLU(),
            _conv(width, width),
            nn.ReLU(),
            _conv(width, 3),
        )

    def _fuse(self, aligned: list[Tensor]) -> Tensor:
        """Weigh frames by how like the reference they are, and pixels by what they hold."""
        reference = self.embed_reference(aligned[self.frames // 2])
        weighed = [x * F.sigmoid((self.embed(x) * reference).sum(1, keepdim=True)) for x in aligned]
        stacked = paddle.concat(weighed, axis=1)
        feature = F.relu(self.fuse(stacked))
        attention = F.relu(self.attend(stacked))
        pooled = [F.max_pool2d(attention, 3, 2, 1), F.avg_pool2d(attention, 3, 2, 1)]
        attention = F.relu(self.attend_small(paddle.concat(pooled, axis=1)))
        attention = _grow(self.attend_more(attention))
        return feature * F.sigmoid(attention) * 2 + attention

    def forward(self, frames: Tensor) -> list[Tensor]:
        levels = [self.extract(F.relu(self.first(frames)))]
        for shrink in self.shrink:
            levels.append(shrink(levels[-1]))
        each = [[x[i : i + 1] for x in levels] for i in range(self.frames)]
        reference = each[self.frames // 2]
        aligned = [self.align(frame, reference) for frame in each]
        out = self.enlarge(self.restore(self._fuse(aligned)))
        middle = self.frames // 2
        return [out + _grow(frames[middle : middle + 1], 4)]


class SecondOrderAlignment(nn.Layer):
    """BasicVSR++'s alignment (2104.13371) of features of two frames, by flow and what refines it.

    Inputs are the features, the condition, which holds features that the flow has warped, and the
    two flows, x before y. With relu, as EDVR.
    """

    def __init__(self, kind: str, width: int = 64) -> None:
        super().__init__()
        self.refine = nn.Sequential(
            *(_conv(3 * width + 4, width), nn.ReLU(), _conv(width, width), nn.ReLU()),
            *(_conv(width, width), nn.ReLU()),
        )
        self.flow = None
        self.align = Deformable(
            *(kind, 2 * width, width, self._cut),
            deformable_groups=16,
            features=width,
            spread=_SPREAD / 10,  # the tangent is worth ten pixels
            reach=_REACH / 10,
        )

    def _cut(self, planes: Tensor, fields: int) -> tuple[Tensor, Tensor]:
        """Add the flows to what refines them by up to ten pixels."""
        first, second, mask = paddle.chunk(planes, 3, axis=1)
        offset = 10 * paddle.tanh(paddle.concat([first, second], axis=1))
        halves = paddle.chunk(offset, 2, axis=1)
        flows = [flow.flip(1).tile([1, fields // 2, 1, 1]) for flow in self.flow]
        return paddle.concat([h + f for h, f in zip(halves, flows)], axis=1), F.sigmoid(mask)

    def forward(self, features: Tensor, condition: Tensor, flow: Tensor) -> list[Tensor]:
        self.flow = paddle.chunk(flow, 2, axis=1)
        refined = self.refine(paddle.concat([condition, flow], axis=1))
        return [self.align(features, refined)]


@dataclass(frozen=True)
class Network:
    """A network with the shapes of its inputs, for inference and for a training step."""

    name: str
    make: Callable[[str], nn.Layer]
    inputs: tuple[tuple[int, ...], ...]
    training_inputs: tuple[tuple[int, ...], ...]

    def build(self, kind: str) -> nn.Layer:
        """Return the network of a kind, in eval mode, as it may be after training.

        Statistics are those of its inputs, and offsets are of a few pixels.
        """
        paddle.seed(0)
        model = self.make(kind)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.set_value(paddle.uniform(parameter.shape, min=-0.1, max=0.1))
        _calibrate(model, [paddle.to_tensor(array) for array in self.arrays(self.inputs)])
        model.eval()
        return model

    def like(self, model: nn.Layer, kind: str) -> nn.Layer:
        """Return the network of another kind with the parameters of one."""
        other = self.make(kind)
        other.set_state_dict(model.state_dict())
        other.eval()
        return other

    def arrays(self, shapes: tuple[tuple[int, ...], ...]) -> list[np.ndarray]:
        """Return an input for each shape."""
        rng = np.random.default_rng(0)
        return [rng.standard_normal(shape, np.float32) for shape in shapes]


def _calibrate(model: nn.Layer, inputs: list[Tensor]) -> None:
    """Make statistics those of the inputs, and offsets of the size that they have in networks."""
    layers = model.sublayers()
    momenta = {layer: layer._momentum for layer in layers if isinstance(layer, nn.BatchNorm2D)}
    deformable = [layer for layer in layers if isinstance(layer, Deformable)]
    for layer in momenta:
        layer._momentum = 0.0
    for layer in deformable:
        layer.calibrating = True
    model.train()
    with paddle.no_grad():
        model(*inputs)
    for layer, momentum in momenta.items():
        layer._momentum = momentum
    for layer in deformable:
        layer.calibrating = False


def _video_inputs(height: int, width: int) -> tuple[tuple[int, ...], ...]:
    return (1, 128, height, width), (1, 192, height, width), (1, 4, height, width)


NETWORKS = {
    network.name: network
    for network in (
        Network("detector_320", DetectorWithPyramid, ((1, 3, 320, 320),), ((1, 3, 160, 160),)),
        Network("detector_608", DetectorWithPyramid, ((1, 3, 608, 608),), ((2, 3, 160, 160),)),
        Network("text_736", TextDetector, ((1, 3, 736, 736),), ((1, 3, 160, 160),)),
        Network("edvr_m_64x64", VideoRestorer, ((5, 3, 64, 64),), ((5, 3, 32, 32),)),
        Network("edvr_m_180x320", VideoRestorer, ((5, 3, 180, 320),), ((5, 3, 32, 32),)),
        Network(
            "basicvsrpp_180x320",
            SecondOrderAlignment,
            _video_inputs(180, 320),
            _video_inputs(64, 64),
        ),
        Network(
            "basicvsrpp_16x16", SecondOrderAlignment, _video_inputs(16, 16), _video_inputs(8, 8)
        ),
    )
}
