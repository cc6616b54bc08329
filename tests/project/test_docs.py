"""The examples in the docstrings of all public modules run, and every public name has one."""

import doctest
import importlib
import pkgutil

import paddle
import pytest

import paddle_dcn

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(paddle_dcn.__path__, "paddle_dcn.")
    if not name.rpartition(".")[2].startswith("_")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    if name == "paddle_dcn.export" and paddle.__version__.startswith("2."):
        pytest.skip("export needs Paddle 3")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name.startswith("paddle_dcn"):
            raise
        pytest.skip(f"{name} needs {missing.name}")
    try:
        assert doctest.testmod(module).failed == 0
        assert paddle.in_dynamic_mode(), "an example left static mode on"
    finally:
        paddle.disable_static()


@pytest.mark.parametrize("name", paddle_dcn.__all__)
def test_public_names_have_an_example(name):
    finder = doctest.DocTestFinder(recurse=False)
    examples = finder.find(getattr(paddle_dcn, name), name)[0].examples
    assert any(name in example.source for example in examples)
