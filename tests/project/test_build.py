"""Which GPUs the library is built for."""

import re

import paddle
import pytest

from paddle_dcn import _build

CUDA_11_8 = {50, 52, 60, 61, 70, 75, 80, 86, 87, 89, 90}
CUDA_13_0 = {75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121}

# Compute capabilities as they are listed, as they are built, and the codes in the library.
LISTS = [
    ("7.0", "7.0+PTX", "sm_70 compute_70"),
    ("8.0;9.0", "8.0 9.0+PTX", "sm_80 sm_90a compute_90"),
    ("90a, 86 80", "8.0 8.6 9.0+PTX", "sm_80 sm_86 sm_90a compute_90"),
    ("120 10.0", "10.0 12.0+PTX", "sm_100 sm_120 compute_120"),
    ("8.0+PTX 8.0 9.0 12.0", "8.0+PTX 9.0 12.0", "sm_80 compute_80 sm_90a sm_120"),
    ("; 8.0 ;", "8.0+PTX", "sm_80 compute_80"),
]


def codes(capabilities: list[str]) -> str:
    return " ".join(re.findall(r"code=(\w+)", " ".join(_build.cuda_flags(capabilities))))


@pytest.mark.parametrize("listed, chosen, code", LISTS, ids=[row[0] for row in LISTS])
def test_listed_capabilities(listed, chosen, code):
    capabilities = _build.choose_capabilities(listed, CUDA_13_0 | {70}, "nvcc")
    assert " ".join(capabilities) == chosen
    assert codes(capabilities) == code


def test_what_cannot_be_built_is_left_out():
    message = (
        "not built for compute capability 6.1, 7.0, 99.0: nvcc 13.0 builds the kernels for 7.5, "
    )
    with pytest.warns(UserWarning, match=message):
        chosen = _build.choose_capabilities("6.1;7.0;8.0;99.0", CUDA_13_0, "nvcc 13.0")
    assert chosen == ["8.0+PTX"]


@pytest.mark.parametrize(
    "listed, message",
    [
        ("6.1", "nothing can be built for 6.1: nvcc 13.0 builds the kernels for 7.5, 8.0"),
        ("8.0;Hopper", "expected compute capabilities such as 8.0 or 9.0.PTX, got 'Hopper'"),
        ("8.0 12", "got '12'"),
        (";", "got ''"),
    ],
)
def test_refused_lists(listed, message):
    with pytest.raises(_build.BuildError, match=message):
        _build.choose_capabilities(listed, CUDA_13_0, "nvcc 13.0")


@pytest.fixture
def nvcc(tmp_path):
    """Return a function that makes a file that answers like nvcc of a release."""

    def write(release: str, known: set[int]) -> str:
        path = tmp_path / "nvcc"
        listed = " ".join(f"sm_{each}" for each in sorted(known))
        path.write_text(f"#!/bin/sh\necho 'release {release}, V{release}.1' {listed}\n")
        path.chmod(0o755)
        return str(path)

    return write


@pytest.mark.parametrize(
    "release, known, expected",
    [
        ("11.8", CUDA_11_8, "sm_70 sm_75 sm_80 compute_80"),
        ("13.0", CUDA_13_0, "sm_75 sm_80 sm_90a compute_90 sm_100 sm_120"),
    ],
)
def test_default_follows_nvcc(nvcc, monkeypatch, release, known, expected):
    monkeypatch.delenv("PADDLE_CUDA_ARCH_LIST", raising=False)
    assert codes(_build.cuda_capabilities(nvcc(release, known))) == expected


@pytest.mark.parametrize("release, warns", [("12.9", False), ("13.0", True)])
def test_toolkit_newer_than_that_of_paddle(nvcc, monkeypatch, recwarn, release, warns):
    monkeypatch.setattr(paddle.version, "cuda", lambda: "12.6")
    _build.cuda_capabilities(nvcc(release, CUDA_13_0))
    messages = [str(warning.message) for warning in recwarn]
    assert any("nvcc is of CUDA 13 and Paddle of CUDA 12.6" in each for each in messages) == warns


@pytest.mark.parametrize(
    "script, message",
    [
        ("#!/bin/sh\necho broken >&2\nexit 1\n", "--list-gpu-code failed\nbroken"),
        ("#!/bin/sh\n", "does not tell its release"),
        ("", "cannot be run: Exec format error"),
        ("#!/bin/sh\necho release 8.0 sm_35 sm_62\n", "compiles for none of 7.0, 7.5, 8.0"),
    ],
)
def test_nvcc_that_does_not_answer(tmp_path, monkeypatch, script, message):
    monkeypatch.delenv("PADDLE_CUDA_ARCH_LIST", raising=False)
    path = tmp_path / "nvcc"
    path.write_text(script)
    path.chmod(0o755)
    with pytest.raises(_build.BuildError, match=message):
        _build.cuda_capabilities(str(path))
