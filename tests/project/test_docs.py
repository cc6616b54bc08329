"""Documentation is true: examples run, every public name has one, files it names are there."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import paddle
import pytest

import paddle_dcn

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_pages_name_exist(page):
    files = {path for path in ROOT.rglob("*") if ".venv" not in str(path) and path.is_file()}
    names = re.findall(r"`([\w./-]+\.(?:py|h|cc|cu|cuh))`", page.read_text())
    assert names or page.name == "README.md"
    missing = [n for n in names if not any(str(f).endswith(f"/{n}") for f in files)]
    assert not missing
