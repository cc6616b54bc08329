"""What may happen to a process that uses the operator, one thing after the other.

Each prints its name and "ok"; an error or a death leaves its line out. Run by test_processes.
"""

import gc
import importlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import paddle

import paddle_dcn
from paddle_dcn import _library
from tests.support.cases import Case
from tests.support.comparison import assert_close
from tests.support.formula import formula
from tests.support.operators import to_array, to_tensor
from tests.support.problems import TENSORS, random_problem

CASE = Case(3, 8, (20, 21), 12, padding=1, groups=2, deformable_groups=4, im2col_step=2)
ARRAYS = random_problem(CASE, "float32")
WANTED = formula(CASE, ARRAYS)
set_threads = paddle.base.core.set_num_threads


def compute():
    """Output and gradients of the case."""
    tensors = {name: to_tensor(ARRAYS[name], "float32", True) for name in TENSORS}
    out = paddle_dcn.deform_conv2d(**tensors, **CASE.attributes())
    out.backward(to_tensor(ARRAYS["grad"], "float32"))  # paddle.grad in several threads crashes
    return {"out": to_array(out)} | {name: to_array(t.grad) for name, t in tensors.items()}


def check(results=None):
    for name, array in (results or compute()).items():
        assert_close(array, WANTED[name], "float32", CASE.depth[name], name)


def check_in_a_child():
    """Fork, and let the child compute."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(60)  # ends it if it hangs
            check()
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"the child ended with status {status}"


def in_threads(count, work):
    """Call work(index) in so many threads at once; raise what they raised."""
    errors, start = [], threading.Barrier(count)

    def run(index):
        try:
            start.wait()
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def fork_before_first_use():
    check_in_a_child()


def first_use_in_8_threads():
    set_threads(2)
    in_threads(8, lambda index: [check() for _ in range(3)])


def one_layer_in_8_threads():
    layer = paddle_dcn.ModulatedDeformConv2DPack(8, 12, 3, padding=1)
    inputs = [paddle.randn([1 + index % 2, 8, 9 + index, 12]) for index in range(8)]
    wanted = [layer(x).numpy() for x in inputs]

    def work(index):
        for _ in range(10):
            assert np.array_equal(layer(inputs[index]).numpy(), wanted[index])

    in_threads(8, work)


def other_numbers_of_threads():
    set_threads(1)
    wanted = compute()
    for threads in (2, 1, 3, 8, 2, 1):
        set_threads(threads)
        for name, array in compute().items():
            assert np.array_equal(array, wanted[name]), name
    set_threads(2)


def fork_after_use():
    check()
    for _ in range(3):
        check_in_a_child()
    check()


def workers_of_a_data_loader():
    class Data(paddle.io.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            check()
            return (np.float32(index),)

    loader = paddle.io.DataLoader(Data(), batch_size=2, num_workers=2, timeout=60)
    found = [float(value) for batch in loader for value in batch[0].numpy().ravel()]
    assert sorted(found) == [*range(8)], found


def cloned_predictors():
    from paddle import inference

    layer = paddle_dcn.ModulatedDeformConv2DPack(8, 12, 3, padding=1)
    inputs = [np.random.default_rng(i).normal(0, 1, (1, 8, 9 + i, 12)) for i in range(4)]
    inputs = [array.astype("float32") for array in inputs]
    with tempfile.TemporaryDirectory() as folder:
        spec = [paddle.static.InputSpec([None, 8, None, None])]
        paddle.jit.save(layer, f"{folder}/model", input_spec=spec)
        files = sorted(str(path) for path in Path(folder).glob("model.*"))
        config = inference.Config(*(f for f in files if f.endswith((".json", ".pdiparams"))))
        config.disable_glog_info()
        first = inference.create_predictor(config)
        predictors = [first, *(first.clone() for _ in inputs[1:])]

    def work(index):
        handle = predictors[index]
        wanted = layer(paddle.to_tensor(inputs[index])).numpy()
        for _ in range(10):
            handle.get_input_handle(handle.get_input_names()[0]).copy_from_cpu(inputs[index])
            handle.run()
            out = handle.get_output_handle(handle.get_output_names()[0]).copy_to_cpu()
            np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)

    in_threads(4, work)


def two_copies_of_the_library():
    """The same one may be imported again; of another, Paddle would end the process."""
    importlib.reload(_library)
    check()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(_library.PACKAGE, f"{folder}/paddle_dcn")
        ours = {name: sys.modules.pop(name) for name in [*sys.modules] if "paddle_dcn" in name}
        sys.path.insert(0, folder)
        try:
            importlib.import_module("paddle_dcn")
        except ImportError as error:
            assert f"loaded from {_library.PATH}" in str(error), error
        else:
            raise AssertionError("expected ImportError")
        finally:
            sys.path.remove(folder)
            sys.modules.update(ours)
    check()


def interrupt():
    """Control-C, while a kernel runs as a rule; nothing is left half done."""
    x, offset, weight = map(paddle.rand, ([1, 64, 96, 96], [1, 18, 96, 96], [64, 64, 3, 3]))
    for _ in range(5):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            for _ in range(1000):
                paddle_dcn.deform_conv2d(x, offset, weight, padding=1)
        except KeyboardInterrupt:
            check()
        else:
            raise AssertionError("expected KeyboardInterrupt")


def address_space():
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[0]) * resource.getpagesize()


def out_of_memory():
    """However little memory there is: MemoryError or the right result, and the next call works.

    Workspace of backward is of more than the 64 MiB that are kept for the next call.
    """
    shapes = {"x": [1, 36, 512, 512], "offset": [1, 2, 512, 512], "weight": [2, 36, 1, 1]}
    tensors = {name: paddle.rand(shape) for name, shape in shapes.items()}
    for tensor in tensors.values():
        tensor.stop_gradient = False
    before = {name: tensor.numpy().copy() for name, tensor in tensors.items()}

    def run():
        out = paddle_dcn.deform_conv2d(**tensors)
        gradients = paddle.grad([out], list(tensors.values()), [paddle.ones_like(out)])
        return [tensor.numpy() for tensor in (out, *gradients)]

    wanted, failed = run(), 0
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    for mebibytes in (1, 20, 60, 90, 130, 400):
        gc.collect()
        limit = address_space() + (mebibytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, unlimited[1]))
        try:
            results = run()
        except MemoryError:
            failed += 1
        else:
            assert all(map(np.array_equal, results, wanted))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, unlimited)
        for name, tensor in tensors.items():
            assert np.array_equal(tensor.numpy(), before[name]), name
        assert all(map(np.array_equal, run(), wanted))
    assert 0 < failed < 6, failed


def end_while_a_call_runs():
    """The process ends after this; its status is the test.

    Of threads that go on to call operators after its end, Paddle's own too, the process dies.
    """
    x, offset, weight = map(paddle.rand, ([1, 256, 400, 400], [1, 98, 400, 400], [256, 256, 7, 7]))
    call = (x, offset, weight, None, 1, 3)
    threading.Thread(target=paddle_dcn.deform_conv2d, args=call, daemon=True).start()
    time.sleep(0.3)


SCENARIOS = [
    fork_before_first_use,
    first_use_in_8_threads,
    one_layer_in_8_threads,
    other_numbers_of_threads,
    fork_after_use,
    workers_of_a_data_loader,
    cloned_predictors,
    two_copies_of_the_library,
    interrupt,
    out_of_memory,
    end_while_a_call_runs,
]


def main(names):
    for scenario in SCENARIOS:
        if names and scenario.__name__ not in names:
            continue
        try:
            begin = time.monotonic()
            scenario()
        except Exception as error:
            print(f"{scenario.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
        else:
            print(f"{scenario.__name__}: ok in {time.monotonic() - begin:.2f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
