"""Prints how far a predictor with oneDNN is from dynamic mode; run by test_binding."""

import sys

import paddle
from paddle import inference

import paddle_dcn


class Net(paddle.nn.Layer):
    """Plain convolutions, which make blocked tensors, around both operators."""

    def __init__(self):
        super().__init__()
        self.first = paddle.nn.Conv2D(3, 8, 3, padding=1)
        self.field = paddle.nn.Conv2D(8, 27, 3, padding=1)
        self.v1 = paddle_dcn.DeformConv2D(8, 16, 3, padding=1)
        self.v2 = paddle_dcn.DeformConv2D(8, 16, 3, padding=1)
        self.last = paddle.nn.Conv2D(16, 4, 3)

    def forward(self, x):
        features = paddle.nn.functional.relu(self.first(x))
        field = self.field(features)
        offset, mask = field[:, :18], paddle.nn.functional.sigmoid(field[:, 18:])
        return self.last(self.v1(features, offset) + self.v2(features, offset, mask))


def main(path):
    paddle.seed(0)
    net, x = Net(), paddle.randn([2, 3, 10, 11])
    net.eval()
    expected = net(x).numpy()
    paddle.jit.save(net, path, input_spec=[paddle.static.InputSpec([None, 3, None, None])])

    config = inference.Config(f"{path}.json", f"{path}.pdiparams")
    config.enable_mkldnn()
    predictor = inference.create_predictor(config)
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(x.numpy())
    predictor.run()
    out = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
    print(abs(out - expected).max() / abs(expected).max())


if __name__ == "__main__":
    main(sys.argv[1])
