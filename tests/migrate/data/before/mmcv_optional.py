"""Optional imports: each alternative is moved by itself."""
try:
    from mmcv.ops import DeformConv2d, deform_conv2d
    HAS_MMCV = True
except (ImportError, ModuleNotFoundError):
    from torchvision.ops import DeformConv2d, deform_conv2d  # the next best
    HAS_MMCV = False
try:
    import torchvision.ops as fallback
except ImportError:
    fallback = None

__all__ = ["DeformConv2d", "run"]


def run(x, offset, mask, weight):
    if HAS_MMCV:
        deform_conv2d(x, offset, weight, 1, 1)
    return fallback.deform_conv2d(x, offset, weight, padding=1, mask=mask)
