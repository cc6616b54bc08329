"""Documentation is true: its code runs, what it names is there, translations keep step."""

import doctest
import functools
import importlib
import os
import pkgutil
import re
import textwrap
from pathlib import Path

import paddle
import pytest

import paddle_dcn

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# Each page and the same in Chinese.
TRANSLATIONS = [("README.md", "README.zh.md"), ("docs/quickstart.md", "docs/zh/quickstart.md")]
HOMES = {getattr(paddle_dcn, name).__module__ for name in paddle_dcn.__all__}
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(paddle_dcn.__path__, "paddle_dcn.")
    if name in HOMES or not name.rpartition(".")[2].startswith("_")
]


@pytest.fixture
def malloc_as_it_is(monkeypatch):
    """Keep `keep_memory` from changing how this process allocates for all tests that follow."""
    monkeypatch.setattr(paddle_dcn, "keep_memory", lambda: True)


@pytest.mark.usefixtures("malloc_as_it_is")
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


def _name(page):
    return str(page.relative_to(ROOT))


by_page = pytest.mark.parametrize("page", PAGES, ids=_name)


@functools.cache
def _files():
    """The paths of all files of the checkout, but those of what is installed or built."""
    found = []
    for folder, inner, files in os.walk(ROOT):
        inner[:] = [name for name in inner if not name.startswith((".", "build"))]
        found += [f"{folder}/{name}" for name in files]
    return found


@by_page
def test_files_that_pages_name_exist(page):
    text = page.read_text()
    names = re.findall(r"`([\w./-]+\.(?:py|h|cc|cu|cuh))`", text)
    assert not [name for name in names if not any(f.endswith(f"/{name}") for f in _files())]
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.usefixtures("malloc_as_it_is")
@pytest.mark.parametrize("page", [page for page in PAGES if "zh" not in str(page)], ids=_name)
def test_code_of_pages_runs(page, tmp_path, monkeypatch):
    """The blocks of a page one after the other; comments that begin with "python" are run too."""
    blocks = re.findall(
        r"^ *(?:```python|<!-- python)\n(.*?)^ *(?:```|-->)$", page.read_text(), re.M | re.S
    )
    if not blocks:
        pytest.skip("no code")
    if paddle.__version__.startswith("2."):
        pytest.skip("some of it needs Paddle 3")
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)
    names = {}
    try:
        for block in blocks:
            exec(compile(textwrap.dedent(block), page.name, "exec"), names)
    finally:
        while paddle.vision.ops.deform_conv2d.__module__ != "paddle.vision.ops":
            paddle_dcn.unpatch()
        paddle.disable_static()


@by_page
def test_commands_of_pages_exist(page):
    text = page.read_text()
    commands = set(re.findall(r"python -m paddle_dcn (\w+)", text))
    assert commands <= {"convert", "info", "migrate"}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:`|^ +)make (?!-)([\w-]+)", text, re.M)) <= targets


def _code(text):
    """The code of a page, without comments, which are words."""
    blocks = re.findall(r"^```\w+\n.*?^```$|^ {4}.*?$", text, re.M | re.S)
    return [re.sub(r" *#.*", "", block) for block in blocks]


@pytest.mark.parametrize(("page", "translation"), TRANSLATIONS)
def test_translations_keep_step(page, translation):
    """As many headings of the same levels, the same code and pictures, and as many table rows."""
    one, other = ((ROOT / name).read_text() for name in (page, translation))
    for pattern in (r"^(#+) ", r"^(\|)", r"^(- )", r"!\[.*?\]\((.*?)\)"):
        found = [
            re.findall(pattern, re.sub(r"(?ms)^```.*?^```$", "", text), re.M)
            for text in (one, other)
        ]
        assert found[0] == found[1], pattern
    assert _code(one) == _code(other)
