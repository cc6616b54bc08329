"""Calls every public entry with bad tensors while no kernel of Paddle's may run.

Prints the entry, the argument with what is wrong with it, and "refused" or what happened instead.
"""

import warnings

import paddle

import paddle_dcn
from paddle_dcn.compat import dcn_v2, detectron2, mmcv, mmdet, npu, torchvision

warnings.filterwarnings("ignore")

K = 9  # of which Paddle's convolution writes out of bounds where an image is smaller
SHAPES = {
    "x": [2, 4, 12, 12],
    "offset": [2, 2 * K * K, 4, 4],
    "mask": [2, K * K, 4, 4],
    "weight": [6, 4, K, K],
    "bias": [6],
}
SHAPES_OF_NPU = SHAPES | {"offset": [2, 3 * K * K, 4, 4]}
LAST = {"input": [2, 12, 12, 4], "offset": [2, 12, 12, 36], "mask": [2, 12, 12, 18]}
LAST |= {"offset_mask": [2, 12, 12, 56], "image": [2, 12, 12, 4], "pixels": [2, 144, 4]}


def cleared(shape):
    tensor = paddle.zeros(shape)
    tensor._clear_data()
    return tensor


def sparse(shape):
    return paddle.sparse.sparse_coo_tensor([[0]] * len(shape), [1.0], shape)


# What is put in place of a tensor, from its shape.
BAD = {
    "None": lambda shape: None,
    "a list": lambda shape: [1.0],
    "an array": lambda shape: paddle.zeros(shape).numpy(),
    "int32": lambda shape: paddle.zeros(shape, "int32"),
    "complex": lambda shape: paddle.zeros(shape, "complex64"),
    "rank": lambda shape: paddle.zeros(shape[1:] or [1, 6]),
    "empty": lambda shape: paddle.zeros([*shape[:-1], 0]),
    "one pixel": lambda shape: paddle.zeros([*shape[:-2], 1, 1]),
    "one more": lambda shape: paddle.zeros([n + (i == 0) for i, n in enumerate(shape)]),
    "wider": lambda shape: paddle.zeros([n + (i == 1) for i, n in enumerate(shape)]),
    "cleared": cleared,
    "sparse": sparse,
}
# Another batch of x is found in offset, other numbers of outputs in bias; [M] has one axis.
NOT_BAD = {("x", "one more"), ("weight", "one more"), ("bias", "None")} | {
    ("bias", kind) for kind in ("wider", "empty", "one pixel")
}
NOT_BAD |= {("image", "one more"), ("image", "wider"), ("pixels", "one more")}


def v1(call):
    return SHAPES, ("x", "offset"), call


def v2(call):
    return SHAPES, ("x", "offset", "mask"), call


def pack(call):
    return SHAPES, ("x",), call


MMCV = mmcv.modulated_deform_conv2d
FOUR = [1, 1, 1, 1]
ENTRIES = {
    "deform_conv2d": (
        SHAPES, tuple(SHAPES),
        lambda x, offset, mask, weight, bias: paddle_dcn.deform_conv2d(
            x, offset, weight, bias, mask=mask
        ),
    ),
    "deform_conv2d_reference": (
        SHAPES, tuple(SHAPES),
        lambda x, offset, mask, weight, bias: paddle_dcn.deform_conv2d_reference(
            x, offset, weight, bias, mask=mask
        ),
    ),
    "patched": (
        SHAPES, tuple(SHAPES),
        paddle_dcn.patched()(
            lambda x, offset, mask, weight, bias: paddle.vision.ops.deform_conv2d(
                x, offset, weight, bias, mask=mask
            )
        ),
    ),
    "torchvision": (
        SHAPES, tuple(SHAPES),
        lambda x, offset, mask, weight, bias: torchvision.deform_conv2d(
            x, offset, weight, bias, mask=mask
        ),
    ),
    "mmcv v1": (
        SHAPES, ("x", "offset", "weight"),
        lambda x, offset, weight: mmcv.deform_conv2d(x, offset, weight),
    ),
    "mmcv v2": (SHAPES, tuple(SHAPES), lambda x, o, m, w, b: MMCV(x, o, m, w, b)),
    "detectron2 v1": (
        SHAPES, ("x", "offset", "weight"),
        lambda x, offset, weight: detectron2.deform_conv(x, offset, weight),
    ),
    "detectron2 v2": (
        SHAPES, tuple(SHAPES),
        lambda x, o, m, w, b: detectron2.modulated_deform_conv(x, o, m, w, b),
    ),
    "dcn_v2": (
        SHAPES, tuple(SHAPES),
        lambda x, o, m, w, b: dcn_v2.dcn_v2_conv(x, o, m, w, b, 1, 0, 1, 1),
    ),
    "npu": (
        SHAPES_OF_NPU, ("x", "offset", "weight", "bias"),
        lambda x, o, w, b: npu.npu_deformable_conv2d(x, w, o, b, [K, K], FOUR, [0] * 4),
    ),
    "DeformConv2D": v2(paddle_dcn.DeformConv2D(4, 6, K)),
    "DeformConv2DPack": pack(paddle_dcn.DeformConv2DPack(4, 6, K)),
    "ModulatedDeformConv2DPack": pack(paddle_dcn.ModulatedDeformConv2DPack(4, 6, K)),
    "torchvision layer": v2(torchvision.DeformConv2d(4, 6, K)),
    "mmcv v1 layer": v1(mmcv.DeformConv2d(4, 6, K)),
    "mmcv v2 layer": v2(mmcv.ModulatedDeformConv2d(4, 6, K)),
    "mmcv v1 pack": pack(mmcv.DeformConv2dPack(4, 6, K)),
    "mmcv v2 pack": pack(mmcv.ModulatedDeformConv2dPack(4, 6, K)),
    "mmdet v1 layer": v1(mmdet.DeformConv(4, 6, K)),
    "mmdet v2 layer": v2(mmdet.ModulatedDeformConv(4, 6, K)),
    "mmdet v1 pack": pack(mmdet.DeformConvPack(4, 6, K)),
    "mmdet v2 pack": pack(mmdet.ModulatedDeformConvPack(4, 6, K)),
    "detectron2 v1 layer": v1(detectron2.DeformConv(4, 6, K)),
    "detectron2 v2 layer": v2(detectron2.ModulatedDeformConv(4, 6, K)),
    "DCNv2": v2(dcn_v2.DCNv2(4, 6, K, 1, 0)),
    "DCN": pack(dcn_v2.DCN(4, 6, K, 1, 0)),
    "dcnv3": (
        LAST, ("input", "offset", "mask"), lambda *tensors: paddle_dcn.dcnv3(*tensors, group=2)
    ),
    "dcnv4": (
        LAST, ("input", "offset_mask"), lambda *tensors: paddle_dcn.dcnv4(*tensors, group=2)
    ),
    "DCNv3": (LAST, ("image",), paddle_dcn.DCNv3(4, group=2)),
    "DCNv4": (LAST, ("pixels",), paddle_dcn.DCNv4(4, group=2)),
}  # fmt: skip


V1_AND_V2 = (
    "deform_conv2d", "deform_conv2d_reference", "patched", "torchvision", "DeformConv2D",
    "torchvision layer",
)  # fmt: skip


class KernelRan(Exception):
    """Raised in place of a kernel."""


def refuse_kernels():
    """Let every operator of Paddle raise its name; gives the function that undoes it."""
    kept = {name: getattr(paddle._C_ops, name) for name in dir(paddle._C_ops)}
    kept = {n: f for n, f in kept.items() if callable(f) and not n.startswith("__")}

    def raising(name):
        def kernel(*arguments, **keywords):
            raise KernelRan(name)

        return kernel

    for name in kept:
        setattr(paddle._C_ops, name, raising(name))

    def restore():
        for name, function in kept.items():
            setattr(paddle._C_ops, name, function)

    return restore


def outcome(entry, arguments):
    try:
        entry(*arguments)
    except (ValueError, TypeError):
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}".replace("\t", " ").splitlines()[0]
    return "accepted"


for title, (shapes, names, entry) in ENTRIES.items():
    good = {name: paddle.zeros(shapes[name]) for name in names}
    entry(*good.values())  # which is valid
    for name in names:
        for kind, make in BAD.items():
            if (name, kind) in NOT_BAD or title in V1_AND_V2 and (name, kind) == ("mask", "None"):
                continue
            if title == "patched" and (name, kind) == ("bias", "complex"):
                continue  # Paddle adds it, and the result is complex
            casts = title.startswith(("mmcv", "mmdet")) and "pack" not in title
            if casts and kind == "int32" and name != "offset":
                continue  # to the dtype of offset, as mmcv does
            arguments = {**good, name: make(shapes[name])}
            restore = refuse_kernels()
            try:
                found = outcome(entry, arguments.values())
            finally:
                restore()
            print(title, f"{name} {kind}", found, sep="\t")
