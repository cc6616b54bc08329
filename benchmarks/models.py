"""Whole networks on a CPU: Paddle's predictor with this operator, beside its peers.

    python -m benchmarks.models [--networks detector_320] [--threads 1] [--tables inference shares]

Networks have random parameters and are saved with Paddle's own operator; all else is converted from
that file. All contestants of a network run in one process, in turn, on the same inputs, and their
outputs are compared with the network's own before anything is timed. Only ratios between them mean
anything. The process keeps freed memory, as `paddle_dcn.keep_memory` has it, which makes all of
Paddle's contestants faster, unless `--return-memory` asks for the C library's own way. Peers that
are not installed are left out: `pip install "paddle_dcn[bench]"` brings them.

Tables: "inference"; and, with the last of the numbers of threads, "shares" of this operator's model
by kind of operator; "training", one step; and, if asked for, "savings", what each thing that
`convert` fuses brings, by leaving it out (without "fold" no activation is behind a convolution that
has a BatchNorm).
"""

from __future__ import annotations

import argparse
import collections
import functools
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np

from benchmarks import contest
from benchmarks.contest import Call

OURS = "ours"
STOCK = "stock"  # Paddle's predictor with Paddle's operator, in its default settings
PLAIN = "plain"  # the same, with ordinary convolutions: a floor and not a rival
ORT, ORT_GRID = "ort", "ort grid"  # ONNX Runtime on DeformConv, and on GridSample
OPENVINO, OPENVINO_GRID = "openvino", "openvino grid"
RUNTIMES = (ORT, ORT_GRID, OPENVINO, OPENVINO_GRID)
NOTHING_FUSED = "nothing fused"

TABLES = ("inference", "shares", "training", "savings")

# How far outputs may be apart, as a share of the largest: enough to tell a mistake from rounding,
# which these networks, whose positions depend on values, enlarge.
_TOLERANCE = 2e-3
# The least, because memory that a process keeps settles in a predictor's second run, and whoever
# else uses the machine only makes a run longer.
_time_in_turn = functools.partial(contest.time_in_turn, rounds=3, slow=0.8, choose=min)
_STEPS = 3  # that shares are averaged over, once two runs have settled the memory


_DEFAULT = ["detector_608", "text_736", "edvr_m_64x64", "basicvsrpp_180x320"]
# Of the others one takes minutes, one is a small test.
NAMES = [*_DEFAULT, "detector_320", "edvr_m_180x320", "basicvsrpp_16x16"]


# --- files ---------------------------------------------------------------------------------------


def prepare(name: str, folder: Path, tables: list[str], peers: bool) -> None:
    """Write all that the contestants of a network load."""
    import paddle

    from benchmarks import networks
    from paddle_dcn import export
    from paddle_dcn.export import _forms, _fusing, _onednn, _programs

    network = networks.NETWORKS[name]
    spec = [
        paddle.static.InputSpec(shape, "float32", f"input{i}")
        for i, shape in enumerate(network.inputs)
    ]
    model = network.build(networks.OURS)
    paddle.jit.save(network.like(model, networks.BUILTIN), str(folder / STOCK), spec)
    arrays = network.arrays(network.inputs)
    with paddle.no_grad():
        outputs = model(*map(paddle.to_tensor, arrays))
    np.savez(folder / "inputs.npz", *arrays)
    np.savez(folder / "outputs.npz", *(output.numpy() for output in outputs))
    convert = functools.partial(export.convert, folder / STOCK, verify=False)
    convert(folder / OURS, "fast")
    if "savings" in tables:
        convert(folder / NOTHING_FUSED, "fast", fuse=False)
        for saving in _fusing.SAVINGS:
            program = _programs.read(*_programs.find(folder / STOCK))
            _fusing.fuse(program, [each for each in _fusing.SAVINGS if each != saving])
            _onednn.rewrite(program)
            _forms.rewrite(program, _forms.fast)
            program.write(folder / f"without {saving}")
    if not peers or "inference" not in tables:
        return
    paddle.jit.save(network.build(networks.PLAIN), str(folder / PLAIN), spec)
    if _installed("onnx", "paddle2onnx"):
        convert(folder / ORT, "onnx")
        convert(folder / ORT_GRID, "grid_sample")
        if _installed("openvino"):
            convert(folder / OPENVINO, "openvino")


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


def _stored(path: Path) -> list[np.ndarray]:
    with np.load(path) as stored:
        return [stored[key] for key in stored.files]


# --- contestants ---------------------------------------------------------------------------------
# Each: (path without suffix, inputs, threads) -> a call that runs the network and returns what
# gives the outputs; or None where it cannot run.


def _predictor(path: Path, inputs: list[np.ndarray], threads: int) -> Call:
    from paddle import inference

    import paddle_dcn  # noqa: F401  (registers the operators)

    config = inference.Config(f"{path}.json", f"{path}.pdiparams")
    config.disable_glog_info()
    config.enable_mkldnn()
    config.set_cpu_math_library_num_threads(threads)
    predictor = inference.create_predictor(config)
    handles = [predictor.get_input_handle(name) for name in predictor.get_input_names()]

    def outputs() -> list[np.ndarray]:
        names = predictor.get_output_names()
        return [predictor.get_output_handle(name).copy_to_cpu() for name in names]

    def call() -> Callable:
        for handle, array in zip(handles, inputs):
            handle.copy_from_cpu(array)
        predictor.run()
        return outputs

    return call


def _onnxruntime(path: Path, inputs: list[np.ndarray], threads: int) -> Call | None:
    file = Path(f"{path}.onnx")
    if not _installed("onnxruntime") or not file.exists():
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    feed = {each.name: array for each, array in zip(session.get_inputs(), inputs)}

    def call() -> Callable:
        outputs = session.run(None, feed)
        return lambda: outputs

    return call


def _openvino(path: Path, inputs: list[np.ndarray], threads: int) -> Call | None:
    if not _installed("openvino") or not path.exists():
        return None
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()

    def outputs() -> list[np.ndarray]:
        return [request.get_tensor(each).data.copy() for each in compiled.outputs]

    def call() -> Callable:
        request.infer(inputs, share_inputs=True)
        return outputs

    return call


def contestants(folder: Path, peers: bool, threads: int) -> dict[str, Call]:
    """Return the contestants of the table of inference that can run a network."""
    inputs = _stored(folder / "inputs.npz")
    loaded = {OURS: _predictor(folder / OURS, inputs, threads)}
    if peers:
        loaded[STOCK] = _predictor(folder / STOCK, inputs, threads)
        loaded[ORT] = _onnxruntime(folder / ORT, inputs, threads)
        loaded[ORT_GRID] = _onnxruntime(folder / ORT_GRID, inputs, threads)
        loaded[OPENVINO] = _openvino(folder / f"{OPENVINO}.xml", inputs, threads)
        loaded[OPENVINO_GRID] = _openvino(folder / f"{ORT_GRID}.onnx", inputs, threads)
        loaded[PLAIN] = _predictor(folder / PLAIN, inputs, threads)
    return {name: call for name, call in loaded.items() if call is not None}


def _checks(name: str, folder: Path) -> Callable[[str, Callable], None]:
    wanted = _stored(folder / "outputs.npz")

    def check(contestant: str, outputs: Callable) -> None:
        if contestant != PLAIN:
            contest.compare(name, contestant, "the network", wanted, outputs(), _TOLERANCE)

    return check


def measure_inference(name: str, folder: Path, threads: int, peers: bool) -> dict[str, float]:
    """Return the milliseconds of each contestant."""
    return _time_in_turn(contestants(folder, peers, threads), _checks(name, folder))


def measure_savings(name: str, folder: Path, threads: int, peers: bool) -> dict[str, float]:
    """Return the median milliseconds with everything fused, without each part, and with nothing."""
    from paddle_dcn.export._fusing import SAVINGS

    inputs = _stored(folder / "inputs.npz")
    names = [OURS, *(f"without {saving}" for saving in SAVINGS), NOTHING_FUSED]
    calls = {each: _predictor(folder / each, inputs, threads) for each in names}
    # Differences are small, and no contestant takes minutes.
    return _time_in_turn(calls, _checks(name, folder), rounds=6, slow=60.0)


def measure_shares(name: str, folder: Path, threads: int, peers: bool) -> dict[str, float]:
    """Return the milliseconds that the kinds of operators take in a run, and the whole run."""
    import paddle.profiler

    call = _predictor(folder / OURS, _stored(folder / "inputs.npz"), threads)
    call()
    call()
    profiler = paddle.profiler.Profiler(
        targets=[paddle.profiler.ProfilerTarget.CPU], on_trace_ready=lambda _: None
    )
    with profiler:
        start = time.perf_counter()
        for _ in range(_STEPS):
            call()
        whole = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch) / "trace.json"
        profiler.export(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    times = collections.Counter({OURS: 1000 * whole / _STEPS})
    for event in events:
        if event.get("ph") == "X" and event.get("cat") == "Operator":
            kind = event["name"].partition("[")[0].partition(".")[2]
            times[kind] += event["dur"] / 1000 / _STEPS
    return dict(times.most_common())


def measure_training(name: str, folder: Path, threads: int, peers: bool) -> dict[str, float]:
    """Return the milliseconds of a step: forward, backward, and all gradients."""
    import paddle

    from benchmarks import networks

    network = networks.NETWORKS[name]
    inputs = [paddle.to_tensor(array) for array in network.arrays(network.training_inputs)]
    models = {OURS: network.build(networks.OURS)}
    if peers:
        models[STOCK] = network.like(models[OURS], networks.BUILTIN)
        models[PLAIN] = network.build(networks.PLAIN)

    def contestant(model: Any) -> Call:
        model.train()

        def call() -> Callable:
            loss = sum((output * output).mean() for output in model(*inputs))
            loss.backward()
            gradient = model.sublayers()[1].parameters()[0].grad
            results = [loss.detach().reshape([1]).numpy(), gradient.numpy()]
            for parameter in model.parameters():
                parameter.clear_grad()
            return lambda: results

        return call

    calls = {each: contestant(model) for each, model in models.items()}
    wanted = []

    def check(contestant: str, results: Callable) -> None:
        wanted.extend(results() if contestant == OURS else [])
        if contestant != PLAIN:
            contest.compare(name, contestant, OURS, wanted, results(), 10 * _TOLERANCE)

    return _time_in_turn(calls, check)


_MEASURES = {
    "inference": measure_inference,
    "savings": measure_savings,
    "shares": measure_shares,
    "training": measure_training,
}


# --- tables --------------------------------------------------------------------------------------


def line(result: dict) -> str:
    """One line of a table: ours in milliseconds; of the others that, and as a multiple of ours."""
    times = result["ms"]
    ours = times[OURS]
    cells = [f"{result['network']:20} {ours:9.1f}"]
    if result["table"] == "shares":
        others = sorted((k for k in times if k != OURS), key=times.__getitem__, reverse=True)
        cells += [f"{each} {times[each]:.1f} ({100 * times[each] / ours:.0f} %)" for each in others]
    else:
        for name in columns(result["table"]):
            if name in times:
                cells.append(f"{times[name]:10.1f} {times[name] / ours:5.2f}x")
            else:
                cells.append(f"{'-':>17}")
    return " ".join(cells)


def columns(table: str) -> list[str]:
    """Return whom a table has beside ours."""
    if table == "savings":
        from paddle_dcn.export._fusing import SAVINGS

        return [*(f"without {saving}" for saving in SAVINGS), NOTHING_FUSED]
    return {"inference": [STOCK, *RUNTIMES, PLAIN], "training": [STOCK, PLAIN], "shares": []}[table]


def header(table: str, threads: int) -> str:
    """Return the lines above a table."""
    names = " ".join(f"{name:>17}" for name in columns(table))
    return (
        f"\n{table}, float32, {threads} thread(s); ms, and how many times ours\n"
        f"{'network':20} {OURS:>9} {names}".rstrip()
    )


def means(results: list[dict]) -> str:
    """Return the line below a table: geometric means over its networks."""
    parts = []
    for name in columns(results[0]["table"]):
        ratios = [r["ms"][name] / r["ms"][OURS] for r in results if name in r["ms"]]
        if ratios:
            parts.append(f"{name} {geometric_mean(ratios):.2f}x")
    best = [
        min(r["ms"][name] for name in RUNTIMES if name in r["ms"]) / r["ms"][OURS]
        for r in results
        if any(name in r["ms"] for name in RUNTIMES)
    ]
    if best:
        parts.append(f"best of the runtimes {geometric_mean(best):.2f}x")
        parts.append(f"of these at least {min(best):.2f}x")
    return "geometric mean of their time over ours: " + ", ".join(parts) if parts else ""


def draw(results: list[dict], path: Path) -> None:
    """Draw the tables of inference and training, a panel for each and each number of threads."""
    colors = {
        STOCK: "#b0413e",
        ORT: "#4c72b0",
        ORT_GRID: "#9db4d6",
        OPENVINO: "#55a868",
        OPENVINO_GRID: "#a5d0b0",
        PLAIN: "#999999",
    }
    panels: dict[str, dict] = {}
    for each in results:
        if each["table"] in ("inference", "training"):
            threads = each["threads"]
            title = f"{each['table']}, {threads} thread{'s' * (threads > 1)}"
            panels.setdefault(title, {})[each["network"]] = each["ms"]
    if panels:
        contest.draw(panels, OURS, colors, path)


# --- command -------------------------------------------------------------------------------------


def arguments(values: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=_DEFAULT, metavar="NETWORK")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES[:-1], metavar="TABLE")
    contest.add_arguments(parser)
    parser.add_argument(
        "--folder", type=Path, help="keep the models in this folder; networks that it has are taken"
    )
    parser.add_argument(
        "--return-memory", action="store_true", help="let the C library return memory to the system"
    )
    return parser.parse_args(values)


def _child(options: argparse.Namespace, threads: int) -> None:
    """Measure what the parent has prepared, with one number of threads; print JSON lines."""
    import paddle

    import paddle_dcn

    if not options.return_memory:
        paddle_dcn.keep_memory()
    paddle.base.core.set_num_threads(threads)
    for name in options.networks:
        for table in options.tables:
            row = {"table": table, "network": name, "threads": threads}
            peers = not options.no_peers
            row["ms"] = _MEASURES[table](name, options.folder / name, threads, peers)
            print(json.dumps(row), flush=True)


def _tables(options: argparse.Namespace, threads: int) -> list[str]:
    last = threads == options.threads[-1]
    return [table for table in options.tables if table == "inference" or last]


def _prepare_once(name: str, folder: Path, tables: list[str], peers: bool) -> None:
    start = time.perf_counter()
    made = folder / name
    complete = made / "complete.json"  # for these tables, and peers
    wanted = [*tables, *["peers"] * peers]
    if not (complete.exists() and set(wanted) <= set(json.loads(complete.read_text()))):
        made.mkdir(parents=True, exist_ok=True)
        prepare(name, made, tables, peers)
        complete.write_text(json.dumps(wanted))
    print(f"{name}: prepared in {time.perf_counter() - start:.0f} s", file=sys.stderr)


def _results(options: argparse.Namespace, folder: Path) -> Iterator[dict]:
    """Prepare all networks, then measure them, each table in a process of its own."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        peers = not options.no_peers
        made = [
            pool.submit(_prepare_once, name, folder, options.tables, peers)
            for name in options.networks
        ]
        for each in made:
            each.result()
    for name in options.networks:
        for threads in options.threads:
            for table in _tables(options, threads):
                start = time.perf_counter()
                again = ["--networks", name, "--tables", table, "--folder", str(folder)]
                again += ["--no-peers"] * options.no_peers
                again += ["--return-memory"] * options.return_memory
                yield from contest.run_child("benchmarks.models", again, threads)
                spent = time.perf_counter() - start
                print(f"{name}, {threads} threads, {table}: {spent:.0f} s", file=sys.stderr)


def main(values: list[str] | None = None) -> int:
    """Print the tables, and write them if asked for; the status of an interrupted run is 130."""
    options = arguments(values)
    threads = contest.threads_of_child()
    if threads is not None:
        _child(options, threads)
        return 0
    results, status = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for result in _results(options, options.folder or Path(scratch)):
                results.append(result)
        except KeyboardInterrupt:
            status = 130  # as shells have it
            print("interrupted: of the tables there is what was measured", file=sys.stderr)
    report = contest.Report()
    for table in options.tables:
        for threads in options.threads:
            rows = [r for r in results if (r["table"], r["threads"]) == (table, threads)]
            for text in [header(table, threads), *map(line, rows), means(rows)] if rows else []:
                report.show(text)
    if options.output and results:
        report.write(options.output, {"results": results})
        if not options.no_peers:
            draw(results, Path(f"{options.output}.png"))
    return status


if __name__ == "__main__":
    sys.exit(main())
