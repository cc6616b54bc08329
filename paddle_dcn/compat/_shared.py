"""What the adapters share: the attributes of PyTorch's layers, and the call of mmcv's kin."""

from __future__ import annotations

import math
from typing import Any

from paddle import Tensor, nn

from .. import _checks
from .._checks import Names, check_attributes, check_layer, reject
from .._to_static import Constant, opaque
from ..functional import amp_dtype, convolve

MMCV = Names(x="input", deformable_groups="deform_groups")
BEFORE_MMCV = Names(x="input")  # in the libraries that mmcv took its operators from


class ArgumentError(AssertionError, ValueError):
    """What mmcv asserts is a ValueError here; code written for either catches it."""


def refuse_bias(bias: Any, only_false: bool = False) -> None:
    """Say that deformable convolution v1 has no bias in these libraries.

    Whatever is false will do, unless it must be False itself.
    """
    try:
        refused = bias is not False if only_false else bool(bias)
    except Exception:  # of an array or a tensor
        refused = True
    if refused:
        got = _checks.shown(bias, repr)
        _checks.reject(ArgumentError, "bias", "False, as there is no bias here", got)


@opaque
def check_step(input: Any, attributes: Constant) -> None:
    """Check that im2col_step divides the batch, unless that is smaller."""
    batch = _checks.check_shape("input", input, "[N, C, H, W]")[0]
    _checks.check_step("input", batch, attributes.value.im2col_step, ArgumentError)


@opaque
def like_offset(offset: Any, **tensors: Any) -> list[Any]:
    """Cast tensors to the dtype of offset, in which mmcv computes; it is what autocast sets.

    Every tensor is looked at before the first is cast. Complex ones stay, to be refused.
    """
    found = [
        _checks.inspect(*named)[1] if named[1] is not None else "" for named in tensors.items()
    ]
    dtype = _checks.inspect("offset", offset)[1]
    if dtype not in _checks.DTYPES:
        return [*tensors.values()]
    stay = ("", dtype, "complex64", "complex128")
    return [t if had in stay else t.astype(dtype) for t, had in zip(tensors.values(), found)]


@opaque
def missing_pixels(input: Any, spans: list[int], padding: tuple[int, int]) -> list[int]:
    """Return by how many rows and columns a padded input is smaller than what a kernel spans.

    0 for a side that a program leaves open. to_static would look inside and find a tensor there.
    """
    sizes = _checks.inspect("input", input)[0][2:]
    return [
        0 if size == _checks.UNKNOWN else max(0, span - size - 2 * pad)
        for span, size, pad in zip(spans, sizes, padding)
    ]


@opaque
def check_padded(
    input: Any, offset: Any, weight: Any, grown: list[list[int]], attributes: Constant, names: Names
) -> None:
    """Check a call whose input and offset are to grow by rows and columns, before they do."""
    found = []
    for name, tensor, (rows, columns) in zip(("input", "offset"), (input, offset), grown):
        shape = _checks.check_shape(name, tensor, "[N, C, H, W]")
        sizes = [
            size if size == _checks.UNKNOWN else size + more
            for size, more in zip(shape[2:], (rows, columns))
        ]
        found.append(((*shape[:2], *sizes), _checks.inspect(name, tensor)[1]))
    filters = _checks.inspect("weight", weight)
    _checks.check_found(*found, None, filters, None, attributes.value, amp_dtype(), Names(*names))


@opaque
def convolve_v1(
    input: Tensor, offset: Tensor, weight: Tensor, attributes: Constant, names: Names
) -> Tensor:
    """Run deformable convolution v1, which has no bias."""
    return convolve(input, offset, None, weight, None, attributes.value, Names(*names))


@opaque
def convolve_v2(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    attributes: Constant,
    names: Names,
) -> Tensor:
    """Run deformable convolution v2, which needs a mask."""
    names = Names(*names)  # to_static makes a plain tuple of a named one
    _checks.check_shape("mask", mask, f"[N, {names.deformable_groups} * kh * kw, Ho, Wo]")
    return convolve(input, offset, mask, weight, bias, attributes.value, names)


class Convolution(nn.Layer):
    """The attributes that a convolution of PyTorch has, checked; parameters are its heirs'."""

    _names = MMCV

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        deform_groups: int = 1,
        im2col_step: int | None = None,
    ) -> None:
        super().__init__()
        attributes = check_attributes(
            stride, padding, dilation, groups, deform_groups, im2col_step, names=self._names
        )
        checked = check_layer(in_channels, out_channels, kernel_size, attributes, names=self._names)
        self._arguments, self._attributes = checked, attributes
        self._constant = Constant(attributes)
        top, bottom, left, right = attributes.padding
        if (top, left) != (bottom, right):
            reject(ValueError, "padding", "an int or 2 ints", padding)
        self.in_channels = checked.in_channels
        self.out_channels = checked.out_channels
        self.kernel_size = checked.kernel_size
        self.stride = attributes.stride
        self.padding = (top, left)
        self.dilation = attributes.dilation
        self.groups = attributes.groups
        self.transposed = False
        self.output_padding = (0,)

    def extra_repr(self) -> str:
        """Return the constructor's arguments as torchvision shows them."""
        shown = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        shown.append(f"stride={self.stride}")
        defaults = {"padding": (0, 0), "dilation": (1, 1), "groups": 1, "deform_groups": 1}
        for name, default in defaults.items():
            value = getattr(self, name, default)
            if value != default:
                shown.append(f"{name}={value}")
        if getattr(self, "bias", True) is None:
            shown.append("bias=False")
        return ", ".join(shown)

    def _uniform(self, shape: list[int], bound: float) -> Tensor:
        """Create a parameter with values from -bound to bound."""
        return self.create_parameter(
            shape, default_initializer=nn.initializer.Uniform(-bound, bound)
        )

    def _zeros_if(self, bias: Any) -> Tensor | None:
        """Create a bias that starts at zero, if the flag says so."""
        bias = _checks.check_flag("bias", bias, optional=True)
        return self.create_parameter([self.out_channels], is_bias=True) if bias else None

    def _weight(self, bound: float) -> Tensor:
        channels = self.in_channels // self.groups
        return self._uniform([self.out_channels, channels, *self.kernel_size], bound)


def kaiming(layer: Convolution) -> float:
    """Return the bound of Kaiming's uniform values for a weight in front of a ReLU."""
    return math.sqrt(6 / (layer.in_channels // layer.groups * math.prod(layer.kernel_size)))


def inverse_root(layer: Convolution) -> float:
    """Return the bound of the uniform values that these libraries started with."""
    return 1 / math.sqrt(layer.in_channels * math.prod(layer.kernel_size))


class ModulatedConvolution(Convolution):
    """Deformable convolution v2 with parameters: a weight, and a bias that starts at zero."""

    def __init__(self, *arguments: Any, bias: Any = True) -> None:
        super().__init__(*arguments)
        self.weight = self._weight(inverse_root(self))
        self.bias = self._zeros_if(bias)
