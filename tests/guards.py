"""What the documentation promises, the guard behind it in the code, and the test that holds it.

``python -m tests.guards`` takes each guard out of a copy of the checkout, one at a time, and runs
its test there, which must fail. With words, only the guards whose promises have one of them. It
takes about half an hour: after a change of the C++ sources two of the CPU's engines are built.
``python -m tests.guards --table`` prints the table of docs/promises.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.support.process import ROOT


class Guard(NamedTuple):
    """A promise and what keeps it."""

    promise: str
    file: str  # of the checkout
    text: str  # of the guard, once in the file
    replacement: str  # without the guard
    test: str  # that fails without it, as pytest names it
    seen: str  # what happens then


CHECKS, BINDING = "paddle_dcn/_checks.py", "custom_ops/paddle/"
CPU = "custom_ops/kernels/cpu/"
PROCESSES = "tests/binding/test_processes.py::test_works_on"

GUARDS = [
    # Bad input.
    Guard(
        "Tensors that do not fit each other are an error, not read out of bounds.",
        CHECKS,
        "    if got != expected and UNKNOWN not in (got, expected):\n",
        "    if False:\n",
        "tests/test_checks.py::test_dynamic",
        "the operator's own terse error",
    ),
    Guard(
        "Sizes whose product leaves 64 bits are an error that names x.",
        CHECKS,
        "    if UNKNOWN not in output and math.prod(output) > _ELEMENTS_MAX:\n",
        "    if False:\n",
        "tests/test_checks.py::test_known_sizes_are_checked",
        "no error",
    ),
    Guard(
        "A tensor that was cleared is an error.",
        CHECKS,
        "    if not tensor._is_initialized() and 0 not in shape:\n",
        "    if False:\n",
        "tests/test_checks.py::test_tensors_without_dense_data",
        "the operator's own terse error",
    ),
    Guard(
        "Any int gets its error, one of thousands of digits too.",
        CHECKS,
        "    except ValueError:  # Python writes no int of more than 4300 digits\n",
        "    except ZeroDivisionError:\n",
        "tests/fuzz/test_fuzz.py::test_no_bias_of_any_kind",
        "an error of Python's, `Exceeds the limit (4300 digits)`",
    ),
    Guard(
        "Errors of a traced call reach the user as they are.",
        "paddle_dcn/_to_static.py",
        "    if SotExtraInfo is not None and not paddle.in_dynamic_mode():\n",
        "    if False:\n",
        "tests/test_checks.py::test_to_static_with_graph_breaks",
        "Paddle's words around it",
    ),
    Guard(
        "Packs look at their input before they predict from it, but at sizes that a program leaves "
        "open Paddle's convolution looks first.",
        "paddle_dcn/layers.py",
        "        check_input(x, self.weight, self._constant)\n",
        "",
        "tests/test_layers.py::test_packs_check_before_they_predict",
        "an error of Paddle's convolution",
    ),
    Guard(
        "The raw operators given None or a cleared tensor raise an error.",
        BINDING + "tensors.cc",
        "  require(dense.initialized() || dense.numel() == 0, name,",
        "  require(true, name,",
        "tests/binding/test_binding.py::test_missing_tensors",
        "an error of Paddle's that names no argument",
    ),
    Guard(
        "Building a program never ends the process, whatever the attributes.",
        BINDING + "operators.cc",
        "    return {{out.begin(), out.end()}};\n  } catch (const std::exception&) {\n",
        "    return {{out.begin(), out.end()}};\n  } catch (const std::exception&) {\n    throw;\n",
        "tests/binding/test_binding.py::test_building_a_program_never_aborts",
        "the process dies",
    ),
    Guard(
        "A backward pass through a graph that is gone is an error.",
        BINDING + "operators.cc",
        "  } catch (const std::out_of_range&) {  // which only Context::InputAt throws\n",
        "  } catch (const std::bad_typeid&) {\n",
        "tests/binding/test_binding.py::test_a_second_backward",
        "an error that does not tell the remedy",
    ),
    # Values.
    Guard(
        "A position that is NaN, infinite or far outside samples nothing, whatever the mask is.",
        CPU + "tile-inl.h",
        "    const T factor = s.y0 == -2 ? T(0) : m[t];\n",
        "    const T factor = m[t];\n",
        "tests/kernels/test_backward.py::test_nan_mask_at_a_nan_coordinate",
        "NaN",
    ),
    Guard(
        "What samples nothing has gradients of 0, whatever the weight and the output's gradient.",
        CPU + "backward-inl.h",
        "      const bool samples = plan.inside[t] != 0;\n",
        "      const bool samples = true;\n",
        "tests/kernels/test_backward.py::test_what_samples_nothing_has_no_gradient",
        "NaN",
    ),
    Guard(
        "An infinite mask value is a factor of its sample.",
        CPU + "tile-inl.h",
        "  const bool infinite = Product::kTerms == 1 && plan.infinite_masks;\n",
        "  const bool infinite = false;\n",
        "tests/kernels/test_engines.py::test_infinite_masks",
        "NaN in place of infinity",
    ),
    Guard(
        "Positions are exact however far padding and dilation go.",
        CPU + "tile-inl.h",
        "  if (__builtin_expect(has_far_origins<T>(p), 0)) {\n",
        "  if (false) {\n",
        "tests/kernels/test_forward.py::test_far_padding_and_dilation",
        "samples are off by a pixel",
    ),
    Guard(
        "im2col_step need not divide the batch.",
        CPU + "pass-inl.h",
        "      images = smaller(buffers.images, p.batch - first_image);\n",
        "      images = buffers.images;\n",
        "tests/kernels/test_forward.py::test_table[cpu-float32-5x8x7x9-10-p1-dg2-step2]",
        "the process dies or hangs",
    ),
    Guard(
        "Nothing of an earlier call is left in the workspace.",
        CPU + "backward-inl.h",
        "    __builtin_memset(own.grad_columns, 0,",
        "    __builtin_memset(own.grad_columns, 0, 0 *",
        "tests/kernels/test_backward.py::test_nothing_is_left_of_the_call_before",
        "NaN of the call before",
    ),
    # Processes.
    Guard(
        "Results have the same bits with any number of threads.",
        CPU + "backward-inl.h",
        "    tile = smaller(kMaxTile, larger(",
        "    tile = smaller(kMaxTile / threads, larger(",
        PROCESSES + "[other_numbers_of_threads]",
        "last bits of gradients differ",
    ),
    Guard(
        "The operator runs on the threads that Paddle has, beside another OpenMP too.",
        CPU + "threads.cc",
        "  if (library == nullptr) library = RTLD_DEFAULT;\n",
        "  library = RTLD_DEFAULT;\n",
        "tests/kernels/test_threads.py::test_beside_another_openmp_runtime",
        "the other runtime's number of threads",
    ),
    Guard(
        "Too little memory for the workspace is MemoryError, and the next call works.",
        BINDING + "operators.cc",
        "  } catch (const std::bad_alloc&) {\n"
        '    PADDLE_THROW(phi::errors::ResourceExhausted("paddle_dcn: out of memory"));\n',
        "",
        PROCESSES + "[out_of_memory]",
        "ValueError: paddle_dcn: std::bad_alloc",
    ),
    Guard(
        "Memory that is not there is never written to.",
        BINDING + "run_on_device.cc",
        "    if (block_.data == nullptr) throw std::bad_alloc();\n",
        "",
        PROCESSES + "[out_of_memory]",
        "the process dies",
    ),
    Guard(
        "Threads that share a layer of a fast model never read a half packed weight.",
        BINDING + "packed_weights.cc",
        "      if (entry.ready) memory_ = entry.memory;\n",
        "      memory_ = entry.memory;\n",
        "tests/binding/test_inference.py::test_threads_share_a_packed_weight",
        "wrong results in some threads",
    ),
    Guard(
        "patch() and unpatch() may be called by any thread.",
        "paddle_dcn/_patch.py",
        "        if _depth == 1:\n",
        "        if True:\n",
        "tests/test_patch.py::test_nests",
        "Paddle's function is lost",
    ),
    # Modes.
    Guard(
        "Second derivatives in programs are an error, never a gradient of 0.",
        "paddle_dcn/_to_static.py",
        '        if op.name() in ("custom_op.paddle_dcn_v1_grad",',
        '        if op.name() in ("", "",',
        "tests/binding/test_double_backward.py::test_refused_in_to_static",
        "another error",
    ),
    Guard(
        "Second derivatives of distributed tensors are an error, never a crash.",
        "custom_ops/paddle/operators.cc",
        "double_backward_dtype<true>) DCN_SPMD(binding::double_backward_spmd);",
        "double_backward_dtype<true>);",
        "tests/binding/test_data_parallel.py::test_two_processes_agree_with_one",
        "the process ends",
    ),
    Guard(
        "no_grad is heeded.",
        "paddle_dcn/functional.py",
        "    if paddle.is_grad_enabled() or not known:\n",
        "    if True:\n",
        "tests/test_functional.py::test_no_grad",
        "the result has a gradient",
    ),
    Guard(
        "A model for inference has no gradients, and says so.",
        BINDING + "operators.cc",
        "PD_BUILD_GRAD_OP(paddle_dcn_inference)\n"
        '    .Inputs({"x", Grad("out")})\n'
        '    .Outputs({Grad("x")})\n'
        "    .SetKernelFn(binding::inference_backward_kernel);\n",
        "",
        "tests/binding/test_inference.py::test_no_gradients",
        "no error, no gradient",
    ),
    Guard(
        "Predictors with oneDNN compute the same.",
        BINDING + "tensors.cc",
        "  if (dense.layout() != phi::DataLayout::ONEDNN) {\n",
        "  if (true) {\n",
        "tests/binding/test_binding.py::test_predictor_with_onednn",
        "results are off by about 1",
    ),
    Guard(
        "Of an image that may be one for all others, a sum is left to Paddle in fast models.",
        "paddle_dcn/export/_fusing.py",
        "same = one.shape[0] >= 0 or",
        "same = True or",
        "tests/export/test_fusing.py::test_a_sum_that_may_broadcast_images",
        "an error when the model runs",
    ),
    Guard(
        "What is added to an ordinary convolution of a fast model has its sizes, or is an error.",
        BINDING + "tensors.cc",
        '  if (in.addend.defined()) check_tensor("addend",',
        '  if (false) check_tensor("addend",',
        "tests/binding/test_inference.py::test_plain_convolution_that_does_not_fit",
        "no error, memory read that is not the tensor's",
    ),
    Guard(
        "Ordinary convolutions of fast models read nothing outside of their images.",
        CPU + "winograd-inl.h",
        "      if (y < 0 || y >= p.height || begin == end) {\n",
        "      if (begin == end) {\n",
        "tests/kernels/test_inference.py::test_plain_convolutions",
        "wrong results",
    ),
    Guard(
        "A packed weight is that of its own tensor, not of one that had the address before.",
        BINDING + "packed_weights.cc",
        "entry.weight.lock() == holder &&\n        packs_alike(entry.problem, problem)",
        "true",
        "tests/binding/test_inference.py::test_one_weight_in_two_geometries",
        "wrong results",
    ),
    Guard(
        "A second copy of the library is refused.",
        "paddle_dcn/_library.py",
        "\n_refuse_a_second(PATH)\n",
        "\n",
        PROCESSES + "[two_copies_of_the_library]",
        "the process dies",
    ),
    # Memory, files.
    Guard(
        "The reordered weight of groups with few outputs is not padded to a vector of outputs.",
        CPU + "forward-inl.h",
        "    packed_outputs = narrow ? p.group_outputs() : panel_outputs;\n",
        "    packed_outputs = panel_outputs;\n",
        "tests/kernels/test_engines.py::test_weights_of_few_outputs_are_packed_as_they_are",
        "eight times the weight with AVX2",
    ),
    Guard(
        "A library that another user can write to is not loaded.",
        "paddle_dcn/_library.py",
        "            if status.st_uid not in owners or open_to_all:\n",
        "            if False:\n",
        "tests/project/test_packaging.py::test_cache_is_private",
        "no error",
    ),
    Guard(
        "A wrong name in PADDLE_DCN_INSTRUCTION_SET is an error.",
        "paddle_dcn/_library.py",
        "\n\n_check_limit()\n",
        "\n",
        "tests/kernels/test_engines.py::test_wrong_name",
        "no error, no limit",
    ),
    Guard(
        "What export writes is compared with the model before anything is left.",
        "paddle_dcn/export/_verify.py",
        "        if not difference <= limit:\n            return (",
        "        if False:\n            return (",
        "tests/export/test_portable.py::test_what_is_saved_computes_what_the_model_does",
        "a model that computes something else",
    ),
    Guard(
        "Parameters that are cut off are refused.",
        "paddle_dcn/export/_programs.py",
        "    if at != len(content):\n",
        "    if False:\n",
        "tests/export/test_convert.py::test_damaged_files",
        "a model with whatever was in memory",
    ),
    Guard(
        "A checkpoint from which nothing would load is an error.",
        "paddle_dcn/compat/_checkpoints.py",
        "    if not converted:\n",
        "    if False:\n",
        "tests/compat/test_checkpoints.py::test_a_result_from_which_nothing_would_load_is_an_error",
        "an empty result",
    ),
]


def table() -> str:
    """Return the table of docs/promises.md."""
    rows = ["| promise | test | guard | without it |", "|---|---|---|---|"]
    for guard in GUARDS:
        path, _, test = guard.test.partition("::")
        rows.append(f"| {guard.promise} | `{path}`, `{test}` | `{guard.file}` | {guard.seen} |")
    return "\n".join(rows)


class Checkout:
    """A copy of this checkout, with a library of two engines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        files = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True)
        for name in files.stdout.splitlines():
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        engines = folder / CPU / "engine.h"  # the others take long to compile
        text = re.sub(r"#define DCN_HAS_AVX512\n", "", engines.read_text())
        engines.write_text(re.sub(r"__has_include\(<\w+\.h>\)", "0", text))

    def build(self) -> None:
        """Build the library in place, quickly."""
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        variables = {**os.environ, "CXXFLAGS": "-O1 -w"}
        subprocess.run(command, cwd=self.folder, env=variables, check=True, capture_output=True)

    def test(self, *tests: str) -> tuple[int, str]:
        """Return pytest's status, and the last line that says what failed."""
        variables = {**os.environ, "PYTHONPATH": str(self.folder)}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        patience = 300 * len(tests)
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=variables,
                capture_output=True,
                text=True,
                timeout=patience,
            )
        except subprocess.TimeoutExpired:
            return 1, "it hung"
        lines = [line for line in done.stdout.splitlines() if line.startswith(("E  ", "FAILED"))]
        return done.returncode, lines[0] if lines else f"exit status {done.returncode}"

    def without(self, guard: Guard) -> str:
        """Take a guard out; return how its test fails, or "" if it does not."""
        path = self.folder / guard.file
        before = path.read_text()
        assert before.count(guard.text) == 1, f"{guard.file} has changed: {guard.text!r}"
        compiled = guard.file.startswith("custom_ops")
        try:
            path.write_text(before.replace(guard.text, guard.replacement))
            if compiled:
                self.build()
            status, said = self.test(guard.test)
        finally:
            path.write_text(before)
        if status == 0:
            return ""
        # It found a failure, or died of one; it had a test to run.
        assert status == 1 or status < 0 or status > 128, f"pytest ended with status {status}"
        return said


def main() -> int:
    """Take guards out and print how tests fail; the status is the number of tests that do not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="parts of promises or files")
    parser.add_argument("--table", action="store_true", help="print the table of the promises")
    options = parser.parse_args()
    if options.table:
        print(table())
        return 0
    chosen = [
        guard
        for guard in GUARDS
        if not options.words or any(w in guard.promise + guard.file for w in options.words)
    ]
    chosen.sort(key=lambda guard: guard.file.startswith("custom_ops"))
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        checkout = Checkout(Path(folder))
        checkout.build()
        status, said = checkout.test(*sorted({guard.test for guard in chosen}))
        assert status == 0, f"with all guards in place: {said}"
        for guard in chosen:
            begin = time.monotonic()
            said = checkout.without(guard)
            missed += not said
            seconds = time.monotonic() - begin
            print(f"{guard.promise} {said or 'NOT FOUND'} ({seconds:.0f} s)", flush=True)
    print(f"{len(chosen)} guards, {missed} of which no test misses")
    return missed


if __name__ == "__main__":
    sys.exit(main())
