"""Every public function and layer that computes, and how a case is said in its words."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import paddle

import paddle_dcn
from paddle_dcn.compat import dcn_v2, detectron2, mmcv, mmdet, npu, torchvision
from tests.support.cases import Case, pair

# What arguments are called in a Case, where an entry calls them otherwise.
OURS = {"input": "x", "self": "x", "deform_groups": "deformable_groups", "bias_attr": "bias"}
SIZES = ("in_channels", "out_channels", "kernel_size")
ATTRIBUTES = ("stride", "padding", "dilation", "groups", "deformable_groups")
ATTRIBUTES += ("im2col_step", "data_format")


def parameters(function: Callable, method: bool = False) -> dict[str, inspect.Parameter]:
    """The parameters of a function, by the name that a Case has for them."""
    found: dict[str, inspect.Parameter] = {}
    for name, parameter in list(inspect.signature(function).parameters.items())[method:]:
        found.setdefault(OURS.get(name, name), parameter)  # an old name comes after the new one
    return found


@dataclass(frozen=True)
class Entry:
    """A function, or a class of layers: with parameters of its own, constructed and then called."""

    make: Callable
    mask: str = "either"  # "none", "needed"
    bias: bool = True  # whether there can be one
    inferred: tuple[str, ...] = ()  # attributes that it reads off the shapes
    casts: bool = False  # other tensors to the dtype of offset
    pack: bool = False  # a layer that predicts offset (and mask)
    lenient: bool = False  # takes whatever numbers Paddle's function takes

    @property
    def layer(self) -> bool:
        """Whether it is constructed."""
        return isinstance(self.make, type)

    @functools.cached_property
    def constructor(self) -> dict[str, inspect.Parameter]:
        """The parameters that a layer is constructed with."""
        if not self.layer:
            return {}
        initialisers = (parameters(each.__init__, True) for each in self.make.__mro__)
        return next(found for found in initialisers if "in_channels" in found)

    @functools.cached_property
    def call(self) -> dict[str, inspect.Parameter]:
        """The parameters of the call."""
        return parameters(self.make.forward, True) if self.layer else parameters(self.make)

    def fit(self, case: Case) -> Case:
        """Return the nearest case that the entry can compute."""
        known = {**self.constructor, **self.call}
        change: dict[str, Any] = {"bias": case.bias and self.bias}
        if self.layer and "bias" not in self.constructor:
            change["bias"] = self.bias
        if self.mask != "either":
            change["modulated"] = self.mask == "needed"
        for name in ATTRIBUTES:
            if name not in known and name not in self.inferred:
                change[name] = Case.__dataclass_fields__[name].default
        if "data_format" not in known:
            change["padding"] = case.pads[::2]
        if "im2col_step" in known and known["im2col_step"].default is not None:
            change["im2col_step"] = max(1, case.batch)  # which must divide the batch
        fitted = replace(case, **change)
        reach = [d * (k - 1) + 1 for d, k in zip(pair(case.dilation), pair(case.kernel))]
        pads = (sum(fitted.pads[:2]), sum(fitted.pads[2:]))
        least = [max(size, r - p) for size, r, p in zip(case.size, reach, pads)]
        return replace(fitted, size=tuple(least))

    def arguments(self, case: Case, tensors: dict[str, Any]) -> tuple[dict, dict]:
        """Return the keyword arguments of the constructor and of the call, in its words."""
        values = {name: getattr(case, name) for name in ATTRIBUTES}
        values |= dict(zip(SIZES, (case.channels, case.outputs, case.kernel)))
        if self.make is npu.npu_deformable_conv2d:
            return {}, _npu_arguments(case, tensors, values)

        def chosen(wanted, values):
            return {
                parameter.name: values[name]
                for name, parameter in wanted.items()
                if values.get(name) is not None
                or (name in values and parameter.default is parameter.empty)
            }

        flag = None if "weight_attr" in self.constructor and case.bias else case.bias
        return (
            chosen(self.constructor, values | {"bias": flag}),
            chosen(self.call, values | {"mask": None, "bias": None} | tensors),
        )

    def build(self, case: Case, constructor: dict, tensors: dict[str, Any]) -> Callable:
        """Return what is called: the function, or the layer with the case's parameters."""
        if not self.layer:
            return self.make
        layer = self.make(**constructor)
        weight = tensors["weight"]
        if weight.dtype != layer.weight.dtype:
            layer.to(dtype=str(weight.dtype).rpartition(".")[2])
        for name in ("weight", "bias"):
            parameter = getattr(layer, name, None)  # those of v1 in mmcv have no bias
            if parameter is not None:
                parameter.set_value(tensors[name])
                parameter.stop_gradient = tensors[name].stop_gradient
        return layer


def _npu_arguments(case: Case, tensors: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    last = case.data_format == "NHWC"
    offset = tensors["offset"]
    planes = [offset[:, 1::2], offset[:, ::2]]  # all of x, then all of y
    planes += [tensors["mask"]] if case.modulated else []
    # On the CPU Paddle has no gradient of `concat` in bfloat16.
    planes = paddle.concat([plane.astype("float64") for plane in planes], 1)
    offset = planes.astype(offset.dtype)

    def four(value):
        height, width = pair(value)
        return [1, height, width, 1] if last else [1, 1, height, width]

    weight = tensors["weight"]
    return {
        "self": tensors["x"],
        "weight": weight.transpose([2, 3, 1, 0]) if last else weight,
        "offset": offset.transpose([0, 2, 3, 1]) if last else offset,
        "bias": tensors.get("bias"),
        "kernel_size": list(pair(case.kernel)),
        "stride": four(case.stride),
        "padding": list(case.pads),
        "dilation": four(case.dilation),
        "groups": case.groups,
        "deformable_groups": case.deformable_groups,
        "modulated": case.modulated,
        "data_format": values["data_format"],
        "with_deformable_offset": False,
    }


@paddle_dcn.patched()
def patched_deform_conv2d(
    x, offset, weight, bias=None, stride=1, padding=0, dilation=1, deformable_groups=1, groups=1,
    mask=None, name=None,
):  # fmt: skip
    """Paddle's function, under which `paddle_dcn.patch` puts the operator."""
    return paddle.vision.ops.deform_conv2d(
        x, offset, weight, bias, stride, padding, dilation, deformable_groups, groups, mask, name
    )


V1, V2 = {"mask": "none", "bias": False}, {"mask": "needed"}
ENTRIES = {
    "deform_conv2d": Entry(paddle_dcn.deform_conv2d),
    "deform_conv2d_reference": Entry(paddle_dcn.deform_conv2d_reference),
    "patched deform_conv2d": Entry(patched_deform_conv2d, lenient=True),
    "DeformConv2D": Entry(paddle_dcn.DeformConv2D),
    "DeformConv2DPack": Entry(paddle_dcn.DeformConv2DPack, mask="none", pack=True),
    "ModulatedDeformConv2DPack": Entry(paddle_dcn.ModulatedDeformConv2DPack, **V2, pack=True),
    "torchvision.deform_conv2d": Entry(
        torchvision.deform_conv2d, inferred=("groups", "deformable_groups")
    ),
    "torchvision.DeformConv2d": Entry(torchvision.DeformConv2d, inferred=("deformable_groups",)),
    "mmcv.deform_conv2d": Entry(mmcv.deform_conv2d, **V1, casts=True),
    "mmcv.modulated_deform_conv2d": Entry(mmcv.modulated_deform_conv2d, **V2, casts=True),
    "mmcv.DeformConv2d": Entry(mmcv.DeformConv2d, **V1, casts=True),
    "mmcv.DeformConv2dPack": Entry(mmcv.DeformConv2dPack, **V1, pack=True),
    "mmcv.ModulatedDeformConv2d": Entry(mmcv.ModulatedDeformConv2d, **V2, casts=True),
    "mmcv.ModulatedDeformConv2dPack": Entry(mmcv.ModulatedDeformConv2dPack, **V2, pack=True),
    "mmdet.DeformConv": Entry(mmdet.DeformConv, **V1, casts=True),
    "mmdet.DeformConvPack": Entry(mmdet.DeformConvPack, **V1, pack=True),
    "mmdet.ModulatedDeformConv": Entry(mmdet.ModulatedDeformConv, **V2, casts=True),
    "mmdet.ModulatedDeformConvPack": Entry(mmdet.ModulatedDeformConvPack, **V2, pack=True),
    "detectron2.deform_conv": Entry(detectron2.deform_conv, **V1),
    "detectron2.modulated_deform_conv": Entry(detectron2.modulated_deform_conv, **V2),
    "detectron2.DeformConv": Entry(detectron2.DeformConv, **V1),
    "detectron2.ModulatedDeformConv": Entry(detectron2.ModulatedDeformConv, **V2),
    "dcn_v2.dcn_v2_conv": Entry(dcn_v2.dcn_v2_conv, **V2),
    "dcn_v2.DCNv2": Entry(dcn_v2.DCNv2, **V2),
    "dcn_v2.DCN": Entry(dcn_v2.DCN, **V2, pack=True),
    "npu.npu_deformable_conv2d": Entry(npu.npu_deformable_conv2d),
}
