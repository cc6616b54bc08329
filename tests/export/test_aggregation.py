"""DCNv3 and DCNv4 for every runtime: what is written is run beside the model by the export."""

import numpy as np
import paddle
import pytest

from paddle_dcn import DCNv3, DCNv4, export
from tests.support.programs import needs_paddle_3

pytestmark = needs_paddle_3

SPEC = [paddle.static.InputSpec([None, None, None, 12], "float32", "image")]


class Model(paddle.nn.Layer):
    """Both, of images [N, H, W, 12] of any size, at random."""

    def __init__(self):
        super().__init__()
        self.v3 = DCNv3(12, group=3, center_feature_scale=True, offset_scale=2.0)
        self.centerless = DCNv3(12, group=2, remove_center=True)
        self.v4 = DCNv4(12, group=3, dw_kernel_size=3)
        rng = np.random.default_rng(0)
        for parameter in self.parameters():
            value = 0.3 * rng.normal(0, 1, parameter.shape)
            parameter.set_value(paddle.to_tensor(value.astype("float32")))

    def forward(self, image):
        image = image + self.centerless(self.v3(image))
        height, width = image.shape[1:3]
        return self.v4(image.flatten(1, 2), (height, width))


@pytest.mark.parametrize("target", export.TARGETS)
def test_targets(target, tmp_path):
    packages = {"onnx": "onnxruntime", "grid_sample": "onnxruntime", "openvino": "openvino"}
    if target in packages:
        pytest.importorskip("paddle2onnx")
        pytest.importorskip(packages[target])
    model = Model()
    model.eval()
    paddle.jit.save(model, str(tmp_path / "saved"), SPEC)
    done = export.convert(tmp_path / "saved", tmp_path / "out", target)
    assert len(done.layers) == 3 and done.difference is not None
    assert done.refused_by_onednn == []
