"""The function `deform_conv2d`: argument checks, automatic casts, one call of the operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import paddle
from paddle import Tensor
from paddle.base import core

from . import _checks, _ops, _to_static

_to_static.skip(__file__, _checks.__file__, _ops.__file__)

# Names under which auto_cast's custom lists may give this operator, besides that of conv2d.
_AMP_NAMES = {"deform_conv2d", "deformable_conv"}

# Are shown every call before it is made, and give back the one to make; see `_watch`.
watchers: list[Callable[[_checks.Call], _checks.Call]] = []


def amp_dtype() -> str | None:
    """Return the dtype that the surrounding auto_cast asks for, None where there is none.

    Paddle casts the inputs of its own operators only. This one is treated as conv2d is: computed
    in the low precision, or in float32 where a custom black list holds it or conv2d.
    """
    if hasattr(core, "_get_amp_attrs"):  # one state for dynamic mode and static programs
        state, lists = core._get_amp_attrs(), core._get_amp_op_list
    else:  # Paddle 2.6: programs are cast by a later pass, which leaves custom operators alone
        state = paddle.base.framework._dygraph_tracer()
        if state is None:
            return None
        lists = state._get_amp_op_list
    dtype = state._amp_dtype
    if dtype == "float32" or state._amp_level == core.AmpLevel.O0:
        return None
    white, black = lists()
    if _AMP_NAMES & black or ("conv2d" in black and not _AMP_NAMES & white):
        return "float32"
    return dtype


def _heed_no_grad(out: Tensor) -> Tensor:
    """Cut the result off from gradients inside `paddle.no_grad`, which misses custom operators."""
    dynamic = paddle.in_dynamic_mode()
    known = dynamic or hasattr(core, "_has_grad")  # Paddle 2 has no such state in programs
    if paddle.is_grad_enabled() or not known:
        return out
    if dynamic:
        return out.detach()  # lets go of the inputs, too
    out.stop_gradient = True
    return out


def convolve(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    attributes: _checks.Attributes,
    names: _checks.Names = _checks.OUR_NAMES,
) -> Tensor:
    """Check, cast and run one call: where all public functions and layers come together.

    `attributes` come from `_checks.check_attributes`. `names` are the words of the caller, for
    errors. Whoever calls this is `_to_static.opaque`.
    """
    if type(attributes) is tuple:  # which to_static makes of a named one after a graph break
        attributes, names = _checks.Attributes(*attributes), _checks.Names(*names)
    call = _checks.check_call(x, offset, mask, weight, bias, attributes, amp_dtype(), names)
    for watcher in watchers:
        call = watcher(call)
    return _heed_no_grad(_ops.deform_conv2d(call))


@_to_static.opaque
def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    deformable_groups: int = 1,
    groups: int = 1,
    mask: Tensor | None = None,
    name: str | None = None,
    *,
    im2col_step: int | None = None,
    data_format: str = "NCHW",
) -> Tensor:
    """Deformable convolution, v1 without a mask and v2 with one.

    Up to the `*` a drop-in for `paddle.vision.ops.deform_conv2d`. Output pixel (i, j) of a 3x3
    kernel with stride 1 and padding 1 sums, over taps (kh, kw), the weight times the bilinear
    sample of x at `(i - 1 + kh + dy, j - 1 + kw + dx)`, times the mask. A sample outside the image
    is 0. v1 is arXiv 1703.06211, v2 is arXiv 1811.11168.

    Works in dynamic mode, static programs and `paddle.jit.to_static`. Inside `paddle.amp.auto_cast`
    x, weight and bias are cast as those of conv2d are (custom lists may name `deform_conv2d`); a
    float32 offset or mask stays float32, so that positions keep their accuracy.

    On GPUs float32 is multiplied as conv2d does it: in TF32, factors rounded to 10 bits of mantissa
    and summed in float32, where the chip has that; `paddle.base.core.set_cudnn_switch(False)` or
    the environment variable `NVIDIA_TF32_OVERRIDE=0` makes it float32 throughout.

    In dynamic mode it has second derivatives (`paddle.grad` with `create_graph=True`), but none of
    distributed tensors, and no third ones: what depends on inputs through second derivatives counts
    as constant.

    Args:
        x: The images, [N, C, H, W], or [N, H, W, C] with `data_format="NHWC"`; float16, bfloat16,
            float32 or float64. N may be 0.
        offset: How far each tap is moved, in pixels of x: [N, deformable_groups * 2 * kh * kw, Ho,
            Wo] in either data format; per deformable group and tap first dy, then dx. The dtype of
            x, or float32.
        weight: [M, C / groups, kh, kw], the dtype of x.
        bias: [M], the dtype of x; None for no bias.
        stride: Step between output pixels in pixels of x: an int, or (height, width).
        padding: Rows and columns of zeros around x: an int, (height, width), or (top, bottom,
            left, right).
        dilation: Distance of neighbouring taps in pixels of x: an int, or (height, width).
        deformable_groups: Groups of channels of x that have offsets (and masks) of their own.
        groups: Groups of channels as in a grouped convolution.
        mask: Factor of each sample, [N, deformable_groups * kh * kw, Ho, Wo] in either data
            format, the dtype of x or float32; no sigmoid is applied to it. None for v1.
        name: Accepted for Paddle's sake and not used.
        im2col_step: At most so many images are sampled into the workspace at a time. Bounds
            memory, never changes results beyond rounding, need not divide N. None: chosen by the
            implementation.
        data_format: `"NCHW"` or `"NHWC"`, the layout of x and of the result.

    Returns:
        [N, M, Ho, Wo], or [N, Ho, Wo, M], in the dtype of x, where along each axis
        `Ho = (H + pad_top + pad_bottom - (dilation * (kh - 1) + 1)) // stride + 1`.

    Raises:
        TypeError: an argument that is no tensor or int, a sparse tensor, or dtypes that do not go
            together.
        ValueError: shapes that do not fit each other, a value out of its range, tensors on
            different devices. Both name the argument, its value and what was expected.

    Examples:
        >>> import paddle
        >>> from paddle_dcn import deform_conv2d
        >>> x = paddle.rand([8, 1, 28, 28])
        >>> weight = paddle.rand([16, 1, 3, 3])
        >>> offset = paddle.rand([8, 2 * 3 * 3, 26, 26])
        >>> mask = paddle.rand([8, 3 * 3, 26, 26])
        >>> list(deform_conv2d(x, offset, weight, mask=mask).shape)
        [8, 16, 26, 26]

        Without offsets and mask it is a convolution:

        >>> out = deform_conv2d(x, paddle.zeros([8, 18, 26, 26]), weight)
        >>> bool(paddle.allclose(out, paddle.nn.functional.conv2d(x, weight), atol=1e-4))
        True

    """
    _checks.check_name(name)
    attributes = _checks.check_attributes(
        stride, padding, dilation, groups, deformable_groups, im2col_step, data_format
    )
    return convolve(x, offset, mask, weight, bias, attributes)
