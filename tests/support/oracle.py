"""Deformable convolution as loops in numpy, straight from the formula: the oracle's oracle."""

import math

import numpy as np

from tests.support.cases import Case, pair
from tests.support.problems import TENSORS


def _bilinear(image, y, x):
    """Sample image [C, H, W] at (y, x), all channels; zero padding."""
    channels, height, width = image.shape
    total = np.zeros(channels)
    if not (-1 < y < height and -1 < x < width):
        return total
    top, left = math.floor(y), math.floor(x)
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < height and 0 <= column < width:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[:, row, column]
    return total


def deform_conv2d_loop(
    x, offset, mask, weight, bias, *, stride, padding, dilation, groups, deformable_groups
):
    """Return y [N, M, Ho, Wo] in float64; tensors are NCHW, padding (top, bottom, left, right)."""
    batch, channels, _, _ = x.shape
    out_channels, _, kernel_h, kernel_w = weight.shape
    out_h, out_w = offset.shape[2:]
    per_deformable_group = channels // deformable_groups
    per_group, outputs_per_group = channels // groups, out_channels // groups
    out = np.zeros((batch, out_channels, out_h, out_w))
    for n, i, j, tap_y, tap_x in np.ndindex(batch, out_h, out_w, kernel_h, kernel_w):
        tap = tap_y * kernel_w + tap_x
        samples = []
        for d in range(deformable_groups):
            dy, dx = offset[n, 2 * (d * kernel_h * kernel_w + tap) :, i, j][:2]
            sample = _bilinear(
                x[n, d * per_deformable_group : (d + 1) * per_deformable_group],
                i * stride[0] - padding[0] + tap_y * dilation[0] + dy,
                j * stride[1] - padding[2] + tap_x * dilation[1] + dx,
            )
            if mask is not None:
                sample = sample * mask[n, d * kernel_h * kernel_w + tap, i, j]
            samples.append(sample)
        sampled = np.concatenate(samples)
        for g in range(groups):
            rows = slice(g * outputs_per_group, (g + 1) * outputs_per_group)
            out[n, rows, i, j] += (
                weight[rows, :, tap_y, tap_x] @ sampled[g * per_group : (g + 1) * per_group]
            )
    return out if bias is None else out + bias.reshape(1, -1, 1, 1)


def loop(case: Case, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return the output by the numpy loop."""
    return deform_conv2d_loop(
        *(arrays[name] for name in TENSORS),
        stride=pair(case.stride),
        padding=case.pads,
        dilation=pair(case.dilation),
        groups=case.groups,
        deformable_groups=case.deformable_groups,
    )
