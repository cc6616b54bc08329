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
        self.v3 = DCNv3(
            12, group=3, center_feature_scale=True, offset_scale=2.0, remove_center=True
        )
        self.v4 = DCNv4(12, group=2, dw_kernel_size=3)
        rng = np.random.default_rng(0)
        for parameter in self.parameters():
            value = 0.3 * rng.normal(0, 1, parameter.shape)
            parameter.set_value(paddle.to_tensor(value.astype("float32")))

    def forward(self, image):
        image = image + self.v3(image)
        height, width = image.shape[1:3]
        return self.v4(image.flatten(1, 2), (height, width))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "saved"
    model = Model()
    model.eval()
    paddle.jit.save(model, str(path), SPEC)
    return path


# An example exports DCNv3 with grid_sample; stock Paddle's operator is as that of ONNX.
@pytest.mark.parametrize("target", ["fast", "onnx", "openvino"])
def test_targets(saved, target, tmp_path):
    for package in {"onnx": ["paddle2onnx", "onnxruntime"], "openvino": ["openvino"]}.get(
        target, ()
    ):
        pytest.importorskip(package)
    done = export.convert(saved, tmp_path / "out", target)
    assert len(done.layers) == 2 and done.difference is not None
    assert done.refused_by_onednn == []


def test_empty_batch(saved):
    """Where the batch is open."""
    assert paddle.jit.load(str(saved))(paddle.rand([0, 5, 7, 12])).shape == [0, 35, 12]
