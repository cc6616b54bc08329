"""Runs a saved model in a process of its own: run_exported.py ROUTE PATH FEEDS OUTPUTS."""

import os
import sys
import threading

if "BLOCK_PADDLE_DCN" in os.environ:
    sys.modules["paddle_dcn"] = None  # importing it is an ImportError
elif sys.argv[1] not in ("onnx", "openvino"):
    import paddle_dcn  # noqa: F401  (registers the operators)

import numpy as np


def loaded(path):
    import paddle

    layer = paddle.jit.load(path)

    def run(feed):
        outputs = layer(*map(paddle.to_tensor, feed.values()))
        return [t.numpy() for t in (outputs if isinstance(outputs, list) else [outputs])]

    return run


def static(path):
    import paddle

    paddle.enable_static()
    executor = paddle.static.Executor(paddle.CPUPlace())
    program, names, targets = paddle.static.load_inference_model(path, executor)
    return lambda feed: executor.run(
        program, feed={name: feed[name] for name in names}, fetch_list=targets
    )


def predictor(path, onednn=True, optimize=True):
    from paddle import inference

    config = inference.Config(f"{path}.json", f"{path}.pdiparams")
    config.disable_glog_info()
    config.switch_ir_optim(optimize)
    config.enable_mkldnn() if onednn else config.disable_mkldnn()
    return inference.create_predictor(config)


def predict(handle, feed):
    for name in handle.get_input_names():
        handle.get_input_handle(name).copy_from_cpu(feed[name])
    handle.run()
    return [handle.get_output_handle(n).copy_to_cpu() for n in handle.get_output_names()]


def clones(path):
    """Two clones of a predictor in two threads, three times each; they must agree."""
    first = predictor(path)
    handles = [first.clone(), first.clone()]

    def run(feed):
        results = [[], []]

        def work(index):
            for _ in range(3):
                results[index].append(predict(handles[index], feed))

        threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for other in [*results[0], *results[1]]:
            for one, two in zip(results[0][0], other):
                np.testing.assert_array_equal(one, two)
        return results[0][0]

    return run


def onnx(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options)
    return lambda feed: session.run(None, feed)


def openvino(path):
    import openvino

    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", precise)
    return lambda feed: [compiled(feed)[output] for output in compiled.outputs]


def fixed(**settings):
    return lambda path: (lambda handle: lambda feed: predict(handle, feed))(
        predictor(path, **settings)
    )


ROUTES = {
    "load": loaded,
    "static": static,
    "predictor": fixed(),
    "predictor without optimisation": fixed(optimize=False),
    "predictor without oneDNN": fixed(onednn=False),
    "predictor without both": fixed(onednn=False, optimize=False),
    "clones": clones,
    "onnx": onnx,
    "openvino": openvino,
}


def main(routes, path, feeds, outputs):
    with np.load(feeds) as stored:
        arrays = {key: stored[key] for key in stored.files}
    count = 1 + max(int(key.split("/")[0]) for key in arrays)
    results = {}
    for route in routes.split(","):
        model = ROUTES[route](path)
        for index in range(count):
            feed = {k.split("/")[1]: a for k, a in arrays.items() if k.startswith(f"{index}/")}
            for level, out in enumerate(model(feed)):
                results[f"{route}/{index}/{level}"] = out
    np.savez(outputs, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
