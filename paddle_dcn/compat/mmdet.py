"""The interface of the deformable convolutions of mmdet 1.x (`mmdet.ops`), which moved to mmcv."""

from __future__ import annotations

from collections.abc import Sequence

from . import mmcv
from ._shared import BEFORE_MMCV, inverse_root
from .detectron2 import deform_conv, modulated_deform_conv  # which detectron2 has from there

__all__ = [
    "DeformConv",
    "DeformConvPack",
    "ModulatedDeformConv",
    "ModulatedDeformConvPack",
    "deform_conv",
    "modulated_deform_conv",
]


class DeformConv(mmcv.DeformConv2d):
    """Deformable convolution v1 with a weight, as `mmdet.ops.DeformConv` has it.

    The weight starts uniform between `-b` and `b`, `b = 1 / sqrt(C * kh * kw)`.

    Args:
        in_channels: C, the channels of the input.
        out_channels: M, the channels of the result.
        kernel_size: kh and kw: an int, or (kh, kw).
        stride: Step between output pixels: an int, or (height, width).
        padding: Rows and columns of zeros around the images: an int, or (height, width).
        dilation: Distance of neighbouring taps: an int, or (height, width).
        groups: Groups of channels as in a grouped convolution.
        deformable_groups: Groups of channels that have offsets of their own.
        bias: False; there is no bias.

    Raises:
        TypeError: an argument that is no int.
        ValueError: a value out of its range, or groups that do not divide the channels; also an
            AssertionError.

    Source: `mmdet.ops.DeformConv`, mmdet 1.2.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.mmdet import DeformConv
        >>> layer = DeformConv(4, 6, 3, padding=1, deformable_groups=2)
        >>> list(layer(paddle.rand([2, 4, 8, 8]), paddle.rand([2, 36, 8, 8])).shape)
        [2, 6, 8, 8]

    """

    _names = BEFORE_MMCV
    _bound = inverse_root

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = False,
    ) -> None:
        """Create the weight; see the class."""
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            deformable_groups,
            bias,
            im2col_step=64,
        )
        self.deformable_groups = self.deform_groups


class DeformConvPack(mmcv.DeformConv2dPack, DeformConv):
    """Deformable convolution v1 that predicts its offsets, as `mmdet.ops.DeformConvPack` does.

    Takes the arguments of `DeformConv` and raises what that raises. The offsets are those of
    `conv_offset`, a convolution of x that starts at zero.

    Source: `mmdet.ops.DeformConvPack`, mmdet 1.2.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.mmdet import DeformConvPack
        >>> layer = DeformConvPack(4, 6, kernel_size=3, padding=1)
        >>> list(layer(paddle.rand([2, 4, 8, 8])).shape)
        [2, 6, 8, 8]

    """


class ModulatedDeformConv(mmcv.ModulatedDeformConv2d):
    """Deformable convolution v2 with parameters, as `mmdet.ops.ModulatedDeformConv` has it.

    The weight starts uniform between `-b` and `b`, `b = 1 / sqrt(C * kh * kw)`, the bias at zero.

    Args:
        in_channels: C, the channels of the input.
        out_channels: M, the channels of the result.
        kernel_size: kh and kw: an int, or (kh, kw).
        stride: Step between output pixels: an int, or (height, width).
        padding: Rows and columns of zeros around the images: an int, or (height, width).
        dilation: Distance of neighbouring taps: an int, or (height, width).
        groups: Groups of channels as in a grouped convolution.
        deformable_groups: Groups of channels that have offsets and masks of their own.
        bias: Whether there is a bias.

    Raises:
        TypeError: an argument that is no int.
        ValueError: a value out of its range, or groups that do not divide the channels.

    Source: `mmdet.ops.ModulatedDeformConv`, mmdet 1.2.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.mmdet import ModulatedDeformConv
        >>> layer = ModulatedDeformConv(4, 6, 3, padding=1)
        >>> offset, mask = paddle.rand([2, 18, 8, 8]), paddle.rand([2, 9, 8, 8])
        >>> list(layer(paddle.rand([2, 4, 8, 8]), offset, mask).shape)
        [2, 6, 8, 8]

    """

    _names = BEFORE_MMCV

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = True,
    ) -> None:
        """Create the parameters; see the class."""
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            deformable_groups,
            bias,
        )
        self.deformable_groups = self.deform_groups


class ModulatedDeformConvPack(mmcv.ModulatedDeformConv2dPack, ModulatedDeformConv):
    """Deformable convolution v2 that predicts its sampling: `mmdet.ops.ModulatedDeformConvPack`.

    Takes the arguments of `ModulatedDeformConv` and raises what that raises. `conv_offset`, a
    convolution of x that starts at zero, gives two thirds offsets and one third masks, of which
    the sigmoid is taken.

    Source: `mmdet.ops.ModulatedDeformConvPack`, mmdet 1.2.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.mmdet import ModulatedDeformConvPack
        >>> layer = ModulatedDeformConvPack(4, 6, kernel_size=3, padding=1)
        >>> list(layer(paddle.rand([2, 4, 8, 8])).shape)
        [2, 6, 8, 8]

    """
