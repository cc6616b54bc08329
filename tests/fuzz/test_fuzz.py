"""The fuzzer: a few of its trials, its oracle, and that it finds faults that were put in."""

import random

import paddle
import pytest

import paddle_dcn
from paddle_dcn import _checks, _ops
from paddle_dcn.compat import detectron2, mmcv
from paddle_dcn.export import _fusing
from tests.fuzz import fakes, invalid, runner, trials
from tests.fuzz.entries import ENTRIES
from tests.support.cases import COMPACT, Case
from tests.support.comparison import assert_close
from tests.support.formula import formula
from tests.support.operators import expected
from tests.support.oracle import loop
from tests.support.problems import random_problem
from tests.support.programs import needs_paddle_3

hypothesis = pytest.importorskip("hypothesis", reason="pip install hypothesis")

SMALL = [case for case in COMPACT if case.products < 300_000]


@hypothesis.settings(max_examples=50, deadline=None, derandomize=True, database=None)
@hypothesis.given(rng=hypothesis.strategies.randoms(use_true_random=False))
def test_any_trial(rng):
    trials.draw(rng).check()


# --- the oracle ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_formula_is_the_loop(seed):
    case = trials.draw_case(random.Random(seed))
    arrays = random_problem(case, "float64")
    found = formula(case, arrays)["out"]
    assert_close(found, loop(case, arrays), "float64", case.depth["out"], "out")


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_formula_has_the_gradients_of_the_reference(case):
    found, arrays = formula(case, random_problem(case)), random_problem(case)
    for name, wanted in expected(case).items():
        assert_close(found[name], wanted, "float64", case.depth[name], name)
    absent = {name for name, array in arrays.items() if array is None}
    assert found.keys() - expected(case).keys() <= absent


# --- faults that it has to find ------------------------------------------------------------------

CASE = Case(1, 4, (5, 6), 6, padding=1, groups=2)


@pytest.mark.parametrize("name", ["out", "x", "offset", "mask", "weight", "bias"])
def test_finds_a_wrong_number(name):
    """One number, off by a hundredth of the terms that are summed in it."""
    arrays = random_problem(CASE)
    results, terms = formula(CASE, arrays), trials.absolute_terms(CASE, arrays)
    trials.check_results(CASE, arrays, results, ("float32", "float32"))
    place = terms[name].argmax()
    results[name].flat[place] += terms[name].flat[place] / 100
    with pytest.raises(AssertionError, match=f"^{name}: 1 of"):
        trials.check_results(CASE, arrays, results, ("float32", "float32"))


@pytest.mark.parametrize("entry", ENTRIES)
def test_finds_a_wrong_operator(entry, monkeypatch):
    original = _ops.deform_conv2d
    trial = trials.Call(entry, ENTRIES[entry].fit(CASE))
    trial.check()
    if entry == "deform_conv2d_reference":  # which is not the operator
        return
    monkeypatch.setattr(_ops, "deform_conv2d", lambda call: original(call) * 1.01)
    with pytest.raises(AssertionError, match="^out: "):
        trial.check()


BLOCK = trials.Network(
    Case(1, 18, (6, 5), 18, padding=1, modulated=False, offsets="zero"),
    True, "relu", True, False, (), 1, True, False,
)  # fmt: skip


@needs_paddle_3
@pytest.mark.parametrize("operator", ["batch_norm", "add"])
def test_finds_what_is_fused_wrongly(operator, monkeypatch):
    original = _fusing._AFFINE[operator]

    def wrong(*arguments):
        return original(*arguments)._replace(shift=original(*arguments).shift + 0.01)

    BLOCK.check()
    monkeypatch.setitem(_fusing._AFFINE, operator, wrong)
    with pytest.raises(AssertionError, match="differ, by up to 0.0"):
        BLOCK.check()


def test_finds_a_missing_check(monkeypatch):
    monkeypatch.setattr(_ops, "deform_conv2d", lambda call: call.x)  # unchecked is dangerous
    trial = trials.Invalid("deform_conv2d", CASE, "RESIZED", "bias", "axis 0: one more")
    trial.check()
    monkeypatch.setattr(_checks, "_check_size", lambda *arguments: None)
    with pytest.raises(AssertionError, match="accepted$"):
        trial.check()


def test_finds_an_error_that_names_nothing(monkeypatch):
    trial = trials.Invalid("deform_conv2d", CASE, "NO_INTS", "stride", "0")
    trial.check()

    def reject(*arguments):
        raise ValueError("wrong")

    monkeypatch.setattr(_checks, "reject", reject)
    with pytest.raises(AssertionError, match="^expected an error that names"):
        trial.check()


def test_every_kind_of_invalid_argument_is_drawn():
    drawn = {
        table for entry in ENTRIES.values() for table, *_ in invalid.options(entry, entry.fit(CASE))
    }
    assert drawn == invalid.TABLES.keys()


def test_a_process_that_dies_is_a_failure_and_is_replaced(monkeypatch):
    monkeypatch.setattr(runner, "MOST", 4)
    outcome = runner.run(fakes.load, "0", 60.0, [{"ENGINE": "fast"}])
    failures = {failure.reason: str(failure) for failure in outcome.failures}
    assert failures.keys() == {"the process died, exit status 9", "wrong"}
    assert "Fake(number=3, kind='fake').check()" in failures["the process died, exit status 9"]
    assert ", fake, with ENGINE=fast:" in failures["wrong"]
    assert "Fake(number=5, kind='fake').check()" in failures["wrong"]


# --- what it has found ---------------------------------------------------------------------------

SHAPES = [[4, 4, 5, 5], [4, 18, 5, 5], [6, 4, 3, 3]]  # of x, offset and weight


@pytest.mark.parametrize(
    "call",
    [
        lambda: mmcv.deform_conv2d(*map(paddle.zeros, SHAPES), padding=1, im2col_step=None),
        lambda: detectron2.deform_conv(*map(paddle.zeros, SHAPES), padding=1, im2col_step=None),
        lambda: mmcv.DeformConv2d(4, 6, 3, im2col_step=None),
        lambda: mmcv.DeformConv2dPack(4, 6, 3, im2col_step=None),
    ],
)
def test_other_libraries_have_no_step_of_none(call):
    """It was a ZeroDivisionError in mmcv's, of a layer only when it was called."""
    with pytest.raises(TypeError, match="^im2col_step: expected an int, got None$"):
        call()


@pytest.mark.parametrize("name", ["x", "offset", "weight"])
def test_errors_of_patched_functions_name_the_argument(name):
    """Of a tensor without data, the name was empty."""
    tensors = dict(zip(("x", "offset", "weight"), map(paddle.zeros, SHAPES)))
    tensors[name]._clear_data()
    with paddle_dcn.patched(), pytest.raises(ValueError, match=f"^{name}: expected a tensor that"):
        paddle.vision.ops.deform_conv2d(**tensors, padding=1)


def test_a_patched_function_refuses_a_weight_without_axes():
    """With a bias it was an IndexError."""
    x, offset, _ = map(paddle.zeros, SHAPES)
    with paddle_dcn.patched(), pytest.raises(ValueError, match="^weight: expected 4-D"):
        paddle.vision.ops.deform_conv2d(x, offset, paddle.ones([]), paddle.zeros([6]), padding=1)


@pytest.mark.parametrize("bias", [10**5000, [10**5000], paddle.ones([2])], ids=type)
@pytest.mark.parametrize(
    "call",
    [
        lambda bias: mmcv.deform_conv2d(*map(paddle.zeros, SHAPES), padding=1, bias=bias),
        lambda bias: mmcv.DeformConv2d(4, 6, 3, bias=bias),
        lambda bias: detectron2.DeformConv(4, 6, 3, bias=bias),
    ],
)
def test_no_bias_of_any_kind(call, bias):
    """Python does not write so many digits, and an array is neither true nor false."""
    with pytest.raises(ValueError, match="^bias: expected False, as there is no bias here, got"):
        call(bias)
