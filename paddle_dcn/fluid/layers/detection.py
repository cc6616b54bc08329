"""`fluid.layers` of Paddle 1.x: what detectors use, as far as current Paddle computes the same.

Paddle 1.x kept the boxes of a batch in one tensor and their numbers beside it (level of detail),
which current Paddle does not. The functions that need it, or that current Paddle does not have, are
here so that files which name them can be imported; a call raises an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import paddle
import paddle.nn.functional as F

from ...static import _operators

__all__ = [
    "box_coder",
    "iou_similarity",
    "matrix_nms",
    "multiclass_nms",
    "prior_box",
    "sigmoid_focal_loss",
    "yolo_box",
    "yolov3_loss",
]


def yolo_box(
    x: Any,
    img_size: Any,
    anchors: Sequence[int],
    class_num: int,
    conf_thresh: float,
    downsample_ratio: int,
    clip_bbox: bool = True,
    name: str | None = None,
    scale_x_y: float = 1.0,
) -> tuple[Any, Any]:
    """Return boxes and scores of a head of YOLO; see `paddle.vision.ops.yolo_box`."""
    return paddle.vision.ops.yolo_box(
        x,
        img_size,
        list(anchors),
        class_num,
        conf_thresh,
        downsample_ratio,
        clip_bbox,
        scale_x_y=scale_x_y,
    )


def yolov3_loss(
    x: Any,
    gt_box: Any,
    gt_label: Any,
    anchors: Sequence[int],
    anchor_mask: Sequence[int],
    class_num: int,
    ignore_thresh: float,
    downsample_ratio: int,
    gt_score: Any = None,
    use_label_smooth: bool = True,
    name: str | None = None,
    scale_x_y: float = 1.0,
) -> Any:
    """Return the loss [N] of a head of YOLOv3; see `paddle.vision.ops.yolo_loss`."""
    return paddle.vision.ops.yolo_loss(
        x,
        gt_box,
        gt_label,
        list(anchors),
        list(anchor_mask),
        class_num,
        ignore_thresh,
        downsample_ratio,
        gt_score,
        use_label_smooth,
        scale_x_y=scale_x_y,
    )


def sigmoid_focal_loss(
    x: Any, label: Any, fg_num: Any, gamma: float = 2.0, alpha: float = 0.25
) -> Any:
    """Return the focal loss (arXiv 1708.02002) of each class, divided by `fg_num`.

    Args:
        x: Logits [N, C].
        label: Classes [N, 1], int32, from 1 on; 0 is background, -1 has no loss.
        fg_num: Number of examples that are not background, int32 [1].
        gamma: How little easy examples count.
        alpha: Weight of the right class; the others have 1 - alpha.

    Returns:
        [N, C].
    """
    classes = paddle.arange(1, x.shape[1] + 1, 1, label.dtype)
    hot = paddle.equal(label, classes).astype(x.dtype)
    kept = paddle.not_equal(label, paddle.full_like(label, -1)).astype(x.dtype)
    probability = _operators.sigmoid(x)
    # The probability of the wrong answer, and the weight, for each class and example.
    wrong = hot + probability - _operators.multiply(hot, probability) * 2.0
    weight = hot * (2.0 * alpha - 1.0) + (1.0 - alpha)
    loss = F.binary_cross_entropy_with_logits(x, hot, reduction="none")
    loss = _operators.multiply(loss, _operators.multiply(paddle.pow(wrong, gamma), weight))
    return paddle.divide(_operators.multiply(loss, kept), fg_num.astype(x.dtype))


def iou_similarity(x: Any, y: Any, box_normalized: bool = True, name: str | None = None) -> Any:
    """Return the intersection over union [n, m] of boxes [n, 4] and [m, 4], x and y of two corners.

    Corners that are pixels (`box_normalized=False`) belong to their box.
    """
    edge = 0.0 if box_normalized else 1.0
    x, y = paddle.unsqueeze(x, 1), paddle.unsqueeze(y, 0)

    def area(low: Any, high: Any) -> Any:
        sides = paddle.clip(high - low + edge, min=0.0)
        return _operators.multiply(sides[:, :, 0], sides[:, :, 1])

    both = area(
        _operators.maximum(x[:, :, :2], y[:, :, :2]), _operators.minimum(x[:, :, 2:], y[:, :, 2:])
    )
    total = area(x[:, :, :2], x[:, :, 2:]) + area(y[:, :, :2], y[:, :, 2:]) - both
    return paddle.divide(both, _operators.maximum(total, paddle.full_like(total, 1e-10)))


def box_coder(
    prior_box: Any,
    prior_box_var: Any,
    target_box: Any,
    code_type: str = "encode_center_size",
    box_normalized: bool = True,
    name: str | None = None,
    axis: int = 0,
) -> Any:
    """Encode boxes relative to others, or decode them; see `paddle.vision.ops.box_coder`."""
    return paddle.vision.ops.box_coder(
        prior_box, prior_box_var, target_box, code_type, box_normalized, axis
    )


def prior_box(
    input: Any,
    image: Any,
    min_sizes: Sequence[float],
    max_sizes: Sequence[float] | None = None,
    aspect_ratios: Sequence[float] = (1.0,),
    variance: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
    flip: bool = False,
    clip: bool = False,
    steps: Sequence[float] = (0.0, 0.0),
    offset: float = 0.5,
    name: str | None = None,
    min_max_aspect_ratios_order: bool = False,
) -> tuple[Any, Any]:
    """Return the anchors of SSD and their variances; see `paddle.vision.ops.prior_box`."""
    return paddle.vision.ops.prior_box(
        input,
        image,
        list(min_sizes),
        max_sizes,
        list(aspect_ratios),
        list(variance),
        flip,
        clip,
        list(steps),
        offset,
        min_max_aspect_ratios_order,
    )


def matrix_nms(
    bboxes: Any,
    scores: Any,
    score_threshold: float,
    post_threshold: float,
    nms_top_k: int,
    keep_top_k: int,
    use_gaussian: bool = False,
    gaussian_sigma: float = 2.0,
    background_label: int = 0,
    normalized: bool = True,
    return_index: bool = False,
    name: str | None = None,
) -> Any:
    """Suppress boxes as SOLOv2 does; see `paddle.vision.ops.matrix_nms`."""
    found = paddle.vision.ops.matrix_nms(
        bboxes,
        scores,
        score_threshold,
        post_threshold,
        nms_top_k,
        keep_top_k,
        use_gaussian,
        gaussian_sigma,
        background_label,
        normalized,
        return_index,
        return_rois_num=False,
    )
    return found[:2] if return_index else found[0]


def multiclass_nms(
    bboxes: Any,
    scores: Any,
    score_threshold: float,
    nms_top_k: int,
    keep_top_k: int,
    nms_threshold: float = 0.3,
    normalized: bool = True,
    nms_eta: float = 1.0,
    background_label: int = 0,
    name: str | None = None,
) -> Any:
    """Keep the best boxes of each class that do not overlap, and the best of these of each image.

    Args:
        bboxes: Two corners [N, M, 4].
        scores: [N, classes, M].
        score_threshold: Only boxes with greater scores count.
        nms_top_k: Boxes of a class that count, the best ones; -1 for all.
        keep_top_k: Boxes of an image that are kept; -1 for all.
        nms_threshold: A greater intersection over union with a better box of the class drops a box.
        normalized: False for corners that are pixels and belong to their box.
        nms_eta: Below 1, what the threshold is multiplied by after each box, while above 0.5.
        background_label: A class to leave out; -1 for none.
        name: Not used.

    Returns:
        [n, 6], in each row class, score and corners, image after image. Where there is none, n is
        0; Paddle 1.x returned [[-1]].

    Raises:
        ValueError: other than three dimensions: the boxes of Paddle 1.x with level of detail.
    """
    for argument, tensor in (("bboxes", bboxes), ("scores", scores)):
        if len(tensor.shape) != 3:
            raise ValueError(f"{argument}: expected 3-D, got {len(tensor.shape)}-D")
    return _operators.multiclass_nms(
        bboxes,
        scores,
        {
            "score_threshold": score_threshold,
            "nms_top_k": nms_top_k,
            "keep_top_k": keep_top_k,
            "nms_threshold": nms_threshold,
            "normalized": normalized,
            "nms_eta": nms_eta,
            "background_label": background_label,
        },
    )


# What is gone, and what comes nearest to it in current Paddle.
GONE = {
    "anchor_generator": "paddle.vision.ops.prior_box",
    "bipartite_match": None,
    "box_clip": "paddle.clip",
    "box_decoder_and_assign": "paddle.vision.ops.box_coder",
    "collect_fpn_proposals": None,
    "density_prior_box": "paddle.vision.ops.prior_box",
    "detection_output": "paddle.vision.ops.nms",
    "distribute_fpn_proposals": "paddle.vision.ops.distribute_fpn_proposals",
    "generate_mask_labels": None,
    "generate_proposal_labels": None,
    "generate_proposals": "paddle.vision.ops.generate_proposals",
    "locality_aware_nms": "paddle.vision.ops.nms",
    "multi_box_head": "paddle.vision.ops.prior_box",
    "polygon_box_transform": None,
    "psroi_pool": "paddle.vision.ops.psroi_pool",
    "retinanet_detection_output": "paddle.vision.ops.nms",
    "retinanet_target_assign": None,
    "roi_align": "paddle.vision.ops.roi_align",
    "roi_perspective_transform": None,
    "roi_pool": "paddle.vision.ops.roi_pool",
    "rpn_target_assign": None,
    "ssd_loss": None,
    "target_assign": None,
}


def _gone(name: str, counterpart: str | None) -> Callable:
    hint = f"; {counterpart} of current Paddle comes nearest to it" if counterpart else ""

    def function(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            f"paddle_dcn.fluid.layers.{name}: current Paddle does not compute it{hint}"
        )

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Raise NotImplementedError: current Paddle does not compute it{hint}."
    return function


globals().update({name: _gone(name, counterpart) for name, counterpart in GONE.items()})
__all__ += GONE
