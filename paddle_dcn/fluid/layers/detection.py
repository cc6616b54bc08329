"""`fluid.layers` of Paddle 1.x: what detectors use, as far as current Paddle computes the same.

Paddle 1.x kept the boxes of a batch in one tensor and their numbers beside it (level of detail),
which current Paddle does not. Here functions of boxes take them to be those of one image, which the
program checks when it runs, or take how many each image has as `rois_num`, int32 [N], their last
argument. The functions that need more of it, or that current Paddle does not have, are here so that
files which name them can be imported; a call raises an error that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from ...static import _operators

__all__ = [
    "anchor_generator",
    "bipartite_match",
    "box_clip",
    "box_coder",
    "collect_fpn_proposals",
    "density_prior_box",
    "detection_output",
    "distribute_fpn_proposals",
    "generate_proposals",
    "iou_similarity",
    "matrix_nms",
    "multiclass_nms",
    "polygon_box_transform",
    "prior_box",
    "psroi_pool",
    "roi_align",
    "roi_pool",
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
    limits = score_threshold, nms_top_k, keep_top_k, nms_threshold
    return _operators.multiclass_nms(
        bboxes, scores, *limits, normalized, nms_eta, background_label
    )[0]


def detection_output(
    loc: Any,
    scores: Any,
    prior_box: Any,
    prior_box_var: Any,
    background_label: int = 0,
    nms_threshold: float = 0.3,
    nms_top_k: int = 400,
    keep_top_k: int = 200,
    score_threshold: float = 0.01,
    nms_eta: float = 1.0,
    return_index: bool = False,
) -> Any:
    """Decode the boxes of SSD and keep the best ones, as :func:`multiclass_nms` does.

    Args:
        loc: Codes of boxes [N, M, 4].
        scores: [N, M, classes], before the softmax.
        prior_box: Anchors [M, 4].
        prior_box_var: Their variances [M, 4].
        background_label: As in :func:`multiclass_nms`; so are the next five.
        nms_threshold: See there.
        nms_top_k: See there.
        keep_top_k: See there.
        score_threshold: See there.
        nms_eta: See there.
        return_index: Return the places of the boxes [n, 1] among all N * M, too.

    Returns:
        [n, 6], in each row class, score and corners, image after image.
    """
    boxes = box_coder(prior_box, prior_box_var, loc, "decode_center_size")
    limits = score_threshold, nms_top_k, keep_top_k, nms_threshold
    scores = paddle.transpose(F.softmax(scores), [0, 2, 1])
    out, index, _ = _operators.multiclass_nms(
        boxes, scores, *limits, True, nms_eta, background_label
    )
    out.stop_gradient = index.stop_gradient = True
    return (out, index) if return_index else out


# --- boxes of regions ----------------------------------------------------------------------------


def _numbers(rois: Any, images: Any, rois_num: Any) -> Any:
    """Return how many boxes each image has; all of them belong to one where that is not given."""
    if rois_num is not None:
        return rois_num
    batch = images.shape[0]
    if batch > 1:
        raise ValueError(
            "rois_num: expected how many boxes each image has, as a batch has more than one image "
            f"and current Paddle has no level of detail, got None for {batch} images"
        )
    if batch < 0:
        _operators.check_when_run(
            paddle.shape(images)[0] == 1,
            "rois_num: expected how many boxes each image has, got None for more than one image",
        )
    return paddle.shape(rois)[:1].astype("int32")


def roi_align(
    input: Any,
    rois: Any,
    pooled_height: int = 1,
    pooled_width: int = 1,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    name: str | None = None,
    rois_num: Any = None,
) -> Any:
    """Return the means of samples in boxes; see `paddle.vision.ops.roi_align`.

    Args:
        input: Images [N, C, H, W].
        rois: Two corners [n, 4] in pixels of the network's input.
        pooled_height: Rows of the result.
        pooled_width: Columns of the result.
        spatial_scale: The size of the images over that of the network's input.
        sampling_ratio: Samples of an element along each axis; -1 adapts them to the box.
        name: Not used.
        rois_num: How many boxes each image has, int32 [N]; None where there is one image.

    Returns:
        [n, C, pooled_height, pooled_width].

    Raises:
        ValueError: no `rois_num` for more than one image; so does the program when it runs.
    """
    return paddle.vision.ops.roi_align(
        input,
        rois,
        _numbers(rois, input, rois_num),
        (pooled_height, pooled_width),
        spatial_scale,
        sampling_ratio,
        aligned=False,
    )


def roi_pool(
    input: Any,
    rois: Any,
    pooled_height: int = 1,
    pooled_width: int = 1,
    spatial_scale: float = 1.0,
    rois_num: Any = None,
) -> Any:
    """Return the maxima of parts of boxes; the arguments are those of :func:`roi_align`."""
    numbers = _numbers(rois, input, rois_num)
    size = (pooled_height, pooled_width)
    return paddle.vision.ops.roi_pool(input, rois, numbers, size, spatial_scale)


def psroi_pool(
    input: Any,
    rois: Any,
    output_channels: int,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    name: str | None = None,
    rois_num: Any = None,
) -> Any:
    """Return the means of parts of boxes, each part from channels of its own.

    The input has `output_channels * pooled_height * pooled_width` channels; the other arguments are
    those of :func:`roi_align`.
    """
    channels = output_channels * pooled_height * pooled_width
    if input.shape[1] != channels:
        raise ValueError(f"input: expected {channels} channels, got {input.shape[1]}")
    numbers = _numbers(rois, input, rois_num)
    size = (pooled_height, pooled_width)
    return _operators.psroi_pool(input, rois, numbers, size, output_channels, spatial_scale)


def anchor_generator(
    input: Any,
    anchor_sizes: Any = None,
    aspect_ratios: Any = None,
    variance: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
    stride: Sequence[float] | None = None,
    offset: float = 0.5,
    name: str | None = None,
) -> tuple[Any, Any]:
    """Return the anchors of each pixel of images, two corners, and their variances.

    Args:
        input: Images [N, C, H, W].
        anchor_sizes: Widths of square anchors, in pixels of the network's input.
        aspect_ratios: Height over width of the anchors of each size.
        variance: Four numbers for each anchor.
        stride: Distance of neighbouring pixels, (width, height), in those of the network's input.
        offset: Where in a pixel its anchors have their middle.
        name: Not used.

    Returns:
        Both [H, W, ratios * sizes, 4].
    """
    sizes, ratios = (
        [float(number) for number in (value if isinstance(value, (list, tuple)) else [value])]
        for value in (anchor_sizes, aspect_ratios)
    )
    settings = {
        "anchor_sizes": sizes,
        "aspect_ratios": ratios,
        "variances": [float(number) for number in variance],
        "stride": [float(number) for number in stride],
        "offset": offset,
    }
    anchors, variances = _operators.anchor_generator(input, settings)
    anchors.stop_gradient = variances.stop_gradient = True
    return anchors, variances


def density_prior_box(
    input: Any,
    image: Any,
    densities: Sequence[int] | None = None,
    fixed_sizes: Sequence[float] | None = None,
    fixed_ratios: Sequence[float] | None = None,
    variance: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
    clip: bool = False,
    steps: Sequence[float] = (0.0, 0.0),
    offset: float = 0.5,
    flatten_to_2d: bool = False,
    name: str | None = None,
) -> tuple[Any, Any]:
    """Return the anchors of FaceBoxes (arXiv 1708.05234), from 0 to 1, and their variances.

    Args:
        input: Features [N, C, H, W] of known size.
        image: Images of known size.
        densities: For each size, how many anchors a step has along each axis.
        fixed_sizes: Sizes of the anchors in pixels of the images.
        fixed_ratios: Widths over heights.
        variance: Four numbers for each anchor.
        clip: Not used: they always end at the border of the image.
        steps: Distance of neighbouring pixels, (width, height); 0 is the images' over the
            features' size.
        offset: Where in a step its anchors have their middle.
        flatten_to_2d: Return matrices.
        name: Not used.

    Returns:
        Both [H, W, anchors of a pixel, 4], or [H * W * anchors of a pixel, 4].

    Raises:
        ValueError: an unknown size.
    """
    (rows, columns), (height, width) = (
        [int(size) for size in tensor.shape[2:]] for tensor in (input, image)
    )
    for argument, tensor in (("input", input), ("image", image)):
        if min(tensor.shape[2:]) < 1:
            raise ValueError(f"{argument}: expected a known size, got shape {[*tensor.shape]}")
    step_x, step_y = steps if min(steps) > 0 else (width / columns, height / rows)
    average = int((step_x + step_y) * 0.5)
    boxes = []  # of a pixel at 0, the middle and half the sides of each
    for size, density in zip(fixed_sizes, densities):
        shift = average // density
        for root in np.sqrt(fixed_ratios):
            for y, x in np.ndindex(density, density):
                middle = [number * shift + shift / 2.0 - average / 2.0 for number in (x, y)]
                boxes.append([*middle, size * root / 2, size / root / 2])
    boxes = np.array(boxes)
    centers = np.stack(
        [
            np.broadcast_to((np.arange(columns) + offset) * step_x, (rows, columns)),
            np.broadcast_to(((np.arange(rows) + offset) * step_y)[:, None], (rows, columns)),
        ],
        2,
    )[:, :, None]
    middles = centers + boxes[:, :2]
    corners = np.concatenate([middles - boxes[:, 2:], middles + boxes[:, 2:]], 3)
    corners = np.clip(corners / [width, height, width, height], 0, 1).astype("float32")
    pair = corners, np.broadcast_to(np.array(variance, "float32"), corners.shape).copy()
    return tuple(paddle.assign(x.reshape(-1, 4) if flatten_to_2d else x) for x in pair)


def generate_proposals(
    scores: Any,
    bbox_deltas: Any,
    im_info: Any,
    anchors: Any,
    variances: Any,
    pre_nms_top_n: int = 6000,
    post_nms_top_n: int = 1000,
    nms_thresh: float = 0.5,
    min_size: float = 0.1,
    eta: float = 1.0,
    name: str | None = None,
    return_rois_num: bool = False,
) -> Any:
    """Return the boxes that a region proposal network proposes, and their scores.

    See `paddle.vision.ops.generate_proposals`. Corners are pixels that belong to their box.

    Args:
        scores: [N, A, H, W].
        bbox_deltas: [N, 4 * A, H, W].
        im_info: Height, width and scale of each image, [N, 3].
        anchors: [H, W, A, 4], of :func:`anchor_generator`.
        variances: [H, W, A, 4].
        pre_nms_top_n: Boxes of an image before the suppression.
        post_nms_top_n: Boxes of an image after it.
        nms_thresh: A greater intersection over union with a better box drops a box.
        min_size: Narrower boxes are dropped. It counts in pixels of the network's input, in Paddle
            1.x in those of the image before it was scaled.
        eta: Below 1, what the threshold is multiplied by after each box, while above 0.5.
        name: Not used.
        return_rois_num: Return how many boxes each image has, int32 [N], too.

    Returns:
        Boxes [n, 4] and scores [n, 1], image after image.
    """
    found = paddle.vision.ops.generate_proposals(
        scores,
        bbox_deltas,
        im_info[:, :2],
        anchors,
        variances,
        pre_nms_top_n,
        post_nms_top_n,
        nms_thresh,
        min_size,
        eta,
        pixel_offset=True,
        return_rois_num=True,
    )
    return found if return_rois_num else found[:2]


def distribute_fpn_proposals(
    fpn_rois: Any,
    min_level: int,
    max_level: int,
    refer_level: int,
    refer_scale: int,
    name: str | None = None,
    rois_num: Any = None,
) -> Any:
    """Assign boxes [n, 4] to the levels of a pyramid by their size.

    See `paddle.vision.ops.distribute_fpn_proposals`. Corners are pixels that belong to their box.

    Returns:
        A list with the boxes of each level, and where the boxes are in it, int32 [n, 1]; where
        `rois_num` is given, also how many boxes of a level each image has.
    """
    numbers = paddle.shape(fpn_rois)[:1].astype("int32") if rois_num is None else rois_num
    found = paddle.vision.ops.distribute_fpn_proposals(
        fpn_rois,
        min_level,
        max_level,
        refer_level,
        refer_scale,
        pixel_offset=True,
        rois_num=numbers,
    )
    return tuple(found[:2] if rois_num is None else found)


def collect_fpn_proposals(
    multi_rois: Sequence[Any],
    multi_scores: Sequence[Any],
    min_level: int,
    max_level: int,
    post_nms_top_n: int,
    name: str | None = None,
    rois_num_per_level: Sequence[Any] | None = None,
) -> Any:
    """Return the best boxes of all levels of a pyramid.

    Args:
        multi_rois: Boxes [n, 4] of each level.
        multi_scores: Their scores [n, 1].
        min_level: The first level.
        max_level: The last level.
        post_nms_top_n: How many boxes are kept.
        name: Not used.
        rois_num_per_level: How many boxes of a level each image has, int32 [N]; None for one image.

    Returns:
        Boxes [n, 4]; where `rois_num_per_level` is given, also how many each image has.
    """
    levels = max_level - min_level + 1
    rois, scores = list(multi_rois)[:levels], list(multi_scores)[:levels]
    numbers = rois_num_per_level
    if numbers is None:
        numbers = [paddle.shape(boxes)[:1].astype("int32") for boxes in rois]
    found = _operators.collect_fpn_proposals(rois, scores, list(numbers), post_nms_top_n)
    return found[0] if rois_num_per_level is None else tuple(found)


def box_clip(input: Any, im_info: Any, name: str | None = None) -> Any:
    """Move corners [..., 4] into an image, whose height, width and scale are `im_info` [1, 3].

    They are pixels of the image before it was scaled.
    """
    if im_info.shape[0] != 1:
        if im_info.shape[0] > 1:
            raise ValueError(f"im_info: expected one image, got {im_info.shape[0]}")
        _operators.check_when_run(
            paddle.shape(im_info)[0] == 1, "im_info: expected one image, got more"
        )
    sizes = paddle.divide(im_info[0, :2], im_info[0, 2])
    sizes = _operators.floor(sizes + 0.5) - 1.0
    last = paddle.concat([sizes[1:2], sizes[0:1]] * 2)
    return _operators.maximum(_operators.minimum(input, last), paddle.zeros_like(input))


def bipartite_match(
    dist_matrix: Any,
    match_type: str | None = None,
    dist_threshold: float | None = None,
    name: str | None = None,
) -> tuple[Any, Any]:
    """Match rows with columns, the greatest distances first, each at most once.

    Args:
        dist_matrix: Distances [K, M] of one image, as :func:`iou_similarity` gives.
        match_type: `"per_prediction"` matches the columns that are left with their greatest row
            where it is above the threshold, too; None is `"bipartite"`.
        dist_threshold: None is 0.5.
        name: Not used.

    Returns:
        For each column its row, int32 [1, M], -1 for none, and their distances [1, M].

    Raises:
        ValueError: another `match_type`, or not a matrix.
    """
    match_type = match_type or "bipartite"
    if match_type not in ("bipartite", "per_prediction"):
        raise ValueError(
            f"match_type: expected 'bipartite' or 'per_prediction', got {match_type!r}"
        )
    if len(dist_matrix.shape) != 2:
        raise ValueError(f"dist_matrix: expected 2-D, got {len(dist_matrix.shape)}-D")
    threshold = 0.5 if dist_threshold is None else dist_threshold
    indices, distances = _operators.bipartite_match(dist_matrix, match_type, threshold)
    indices.stop_gradient = distances.stop_gradient = True
    return indices, distances


def polygon_box_transform(input: Any, name: str | None = None) -> Any:
    """Return 4 * x - input in even channels, 4 * y - input in odd ones, of pixels (x, y).

    So offsets [N, C, H, W] from corners of text to pixels become places, as in EAST.
    """
    channels = input.shape[1]
    if channels < 1 or channels % 2:
        raise ValueError(f"input: expected an even number of channels, got {channels}")
    height, width = (paddle.shape(input)[axis] for axis in (2, 3))
    x = paddle.unsqueeze(paddle.arange(0, width, 1, "int32"), [0, 1, 2])
    y = paddle.unsqueeze(paddle.arange(0, height, 1, "int32"), [0, 1, 3])
    even = paddle.assign(np.arange(channels).reshape(1, -1, 1, 1) % 2 == 0).astype(input.dtype)
    places = _operators.multiply(even, x.astype(input.dtype))
    places = places + _operators.multiply(1.0 - even, y.astype(input.dtype))
    return places * 4.0 - input


# What is gone, and why.
_SAMPLES = "it samples boxes for a loss, image by image, by level of detail, which is gone"
GONE = {
    "box_decoder_and_assign": "its operator is gone; box_coder decodes the boxes of each class",
    "generate_mask_labels": _SAMPLES,
    "generate_proposal_labels": _SAMPLES,
    "locality_aware_nms": "its operator is gone; multiclass_nms comes nearest to it",
    "multi_box_head": "it is not here; add conv2d and prior_box for each of its inputs",
    "prroi_pool": "its operator is gone; roi_align comes nearest to it",
    "retinanet_detection_output": "its operator is gone; use box_coder and multiclass_nms",
    "retinanet_target_assign": _SAMPLES,
    "roi_perspective_transform": "its operator is gone; paddle.nn.functional.grid_sample samples",
    "rpn_target_assign": _SAMPLES,
    "ssd_loss": _SAMPLES,
    "target_assign": "it takes boxes by level of detail, which is gone; use gather and where",
}


def _gone(name: str, reason: str) -> Callable:
    def function(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"paddle_dcn.fluid.layers.{name}: {reason}")

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Raise NotImplementedError: {reason}."
    return function


globals().update({name: _gone(name, reason) for name, reason in GONE.items()})
__all__ += GONE
