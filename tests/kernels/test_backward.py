"""The operator's gradients against the float64 reference, and the rules for them."""

import numpy as np
import pytest

from paddle_dcn import deform_conv2d, deform_conv2d_reference
from tests.support.cases import COMPACT, TABLE, Case
from tests.support.comparison import assert_results_close
from tests.support.operators import expected, loss, require_precision, run
from tests.support.problems import DTYPE_IDS, DTYPES, TENSORS, grid, inside_problem, random_problem
from tests.support.programs import PADDLE_3_1, needs_paddle_3_1

DOUBLE = ("float64", "float64")


@pytest.mark.parametrize("case", TABLE, ids=str)
@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
def test_table(case, dtypes, device):
    arrays = random_problem(case, dtypes[0])
    results = run(deform_conv2d, case, arrays, dtypes)
    if case.batch == 0:
        for name in TENSORS:
            if arrays[name] is not None:
                assert results[name].shape == arrays[name].shape
                assert not results[name].any()
    else:
        assert_results_close(results, expected(case, dtypes[0]), case, dtypes)


def test_more_images_than_are_copied_at_a_time():
    """By default, of a MiB each: of few channels a group a thread copies no more."""
    case = Case(3, 72, (61, 62), 72, padding=1, groups=72, deformable_groups=2)
    dtypes = ("float32", "float32")
    results = run(deform_conv2d, case, random_problem(case, dtypes[0]), dtypes)
    assert_results_close(results, expected(case, dtypes[0]), case, dtypes)


@pytest.mark.parametrize("offsets", ["zero", "integer", "border"])
def test_offset_gradient_at_kinks_is_right_hand(offsets, implementation, device):
    """Differences to the right where the sample is inside, exactly 0 at or beyond -1, H and W."""
    case = Case(1, 4, (5, 6), 4, kernel=2, padding=2, deformable_groups=2, offsets=offsets)
    arrays = random_problem(case)
    gradient = run(implementation, case, arrays, DOUBLE)["offset"]
    at = arrays["offset"].reshape(1, 2, -1, 2, *case.out_size) + grid(case)
    y_at, x_at = at[:, :, :, 0], at[:, :, :, 1]
    inside = (y_at > -1) & (y_at < case.size[0]) & (x_at > -1) & (x_at < case.size[1])
    inside = np.stack([inside, inside], 3).reshape(gradient.shape)
    assert 0 < inside.sum() < inside.size
    assert not gradient[~inside].any()

    step = 2.0**-8  # stays in the cell, where the loss is linear in each coordinate
    start = loss(implementation, case, arrays)
    for index in map(tuple, np.argwhere(inside)):
        moved = arrays["offset"].copy()
        moved[index] += step
        numeric = (loss(implementation, case, {**arrays, "offset": moved}) - start) / step
        assert numeric == pytest.approx(gradient[index], rel=1e-10, abs=1e-10), index


@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
@pytest.mark.parametrize("modulated", [True, False])
def test_nonfinite_coordinates_are_far_away(modulated, data_format, implementation, device):
    """Bitwise what samples far outside give, with 0 as their own gradients."""
    case = Case(2, 6, (7, 5), 4, padding=1, groups=2, deformable_groups=3, offsets="nonfinite",
                modulated=modulated, data_format=data_format)  # fmt: skip
    arrays = random_problem(case)
    odd = ~np.isfinite(arrays["offset"])
    assert odd.any()
    far = {**arrays, "offset": np.where(odd, 1000.0, arrays["offset"])}
    results = run(implementation, case, arrays, ("float32", "float32"))
    wanted = run(implementation, case, far, ("float32", "float32"))
    assert not results["offset"][odd].any()
    for name, array in wanted.items():
        assert np.array_equal(results[name], array), name


@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
def test_nan_mask_at_a_nan_coordinate(dtypes, implementation, device):
    """It samples nothing whatever the mask is: one layer often predicts both, both NaN."""
    case = Case(2, 6, (7, 5), 4, padding=1, groups=2, deformable_groups=3)
    arrays = random_problem(case)
    arrays["offset"][:, 4::18, 2], arrays["mask"][:, 2::9, 2] = np.nan, 0.0
    wanted = run(implementation, case, arrays, dtypes)
    arrays["mask"][:, 2::9, 2] = np.nan
    results = run(implementation, case, arrays, dtypes)
    for name, array in wanted.items():
        assert np.array_equal(results[name], array), name


@pytest.mark.parametrize("name", ["weight", "grad"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("coordinate", [np.nan, 100.0, -1e9])
def test_what_samples_nothing_has_no_gradient(coordinate, value, name, implementation, device):
    """Not even where the gradient of its column is NaN."""
    if implementation is deform_conv2d_reference and not PADDLE_3_1:
        pytest.skip("where() of Paddle before 3.1 spreads NaN backward")
    case = Case(1, 4, (5, 6), 4, padding=1, deformable_groups=2)
    arrays = random_problem(case)
    arrays["offset"][:, :18] = coordinate
    arrays[name][:] = value
    results = run(implementation, case, arrays)
    assert not results["offset"][:, :18].any()
    assert not results["mask"][:, :9].any()
    assert np.isnan(results["offset"][:, 18:]).any()


@needs_paddle_3_1("where() spreads NaN backward")
@pytest.mark.parametrize("name", ["x", "mask", "weight", "grad"])
@pytest.mark.parametrize("outputs", [6, 40])
@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
def test_nan_spreads_as_in_a_convolution(name, outputs, dtypes, device):
    """To the gradients that use the value, and to no other."""
    case = Case(2, 6, (9, 8), outputs, groups=2, deformable_groups=3)
    arrays = inside_problem(case)
    arrays[name][tuple(size // 2 for size in arrays[name].shape)] = np.nan
    wanted = run(deform_conv2d_reference, case, arrays)
    results = run(deform_conv2d, case, arrays, dtypes)
    assert_results_close(results, wanted, case, dtypes)


@needs_paddle_3_1("where() spreads NaN backward")
@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("name", ["x", "mask", "weight", "grad"])
@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
def test_infinities_spread_as_in_a_convolution(name, value, dtypes):
    """The same, infinite or, where sums are subtracted from each other, NaN."""
    case = Case(2, 6, (9, 8), 6, groups=2, deformable_groups=3)
    arrays = inside_problem(case)
    arrays[name][tuple(size // 2 for size in arrays[name].shape)] = value
    wanted = run(deform_conv2d_reference, case, arrays)
    results = run(deform_conv2d, case, arrays, dtypes)
    for name, array in results.items():
        finite = np.isfinite(wanted[name])
        np.testing.assert_array_equal(np.isfinite(array), finite, err_msg=name)
        results[name], wanted[name] = np.where(finite, array, 0), np.where(finite, wanted[name], 0)
    assert_results_close(results, wanted, case, dtypes)


@pytest.mark.parametrize(
    ("x", "mask", "weight", "grad"),
    [(1, 1, 1, 1e-33), (1e-25, 1, 1, 1e-8), (1e20, 1, 1, 1e15), (1e-3, 1, 1e-30, 1e25),
     (1e30, 1, 1e-30, 1e-5), (1e-30, 1, 1e30, 1e-5), (1, 1, 1, 1e36), (1e-5, 1e-32, 1e5, 1e5)],
)  # fmt: skip
def test_magnitudes(x, mask, weight, grad, device):
    """All that float32 can hold."""
    require_precision(device, x * mask, weight, grad, weight * grad)
    case = Case(2, 64, (9, 10), 24, padding=1, deformable_groups=2)
    arrays = random_problem(case)
    for name, scale in (("x", x), ("mask", mask), ("weight", weight), ("grad", grad)):
        arrays[name] = (arrays[name] * scale).astype("float32").astype("float64")
    wanted = run(deform_conv2d_reference, case, arrays)
    results = run(deform_conv2d, case, arrays, ("float32", "float32"))
    assert_results_close(results, wanted, case, ("float32", "float32"))


@pytest.mark.parametrize("case", COMPACT, ids=str)
@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
def test_nothing_is_left_of_the_call_before(case, dtypes):
    """The workspace is kept between calls: full of NaN here, which must reach no result."""
    before = Case(2, 64, (24, 24), 96, padding=1, offsets="zero")
    arrays = {name: np.full_like(array, np.nan) for name, array in random_problem(before).items()}
    arrays["offset"][:] = 0.5
    run(deform_conv2d, before, arrays, dtypes)
    assert_results_close(
        run(deform_conv2d, case, random_problem(case), dtypes), expected(case), case, dtypes
    )
