"""The wheel, the library in it, and what an import does when no library fits."""

import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest

import paddle_dcn
from paddle_dcn import _build, _library
from tests.support.process import ROOT, run_python, start_python

LIBRARY = f"paddle_dcn/{_build.library_name()}"


def run(*command):
    """Run a command and return what it printed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return done.stdout


def import_package(site, code="import paddle_dcn", **environment):
    """Run code that imports the package from the folder `site`."""
    # Not from a checkout that is installed in place, whose finder comes after PYTHONPATH.
    return run_python("-c", code, cwd=site.parent, PYTHONPATH=site, **environment)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout; its objects are those that the checkout's library is made of."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-build-isolation", "--no-deps", "--wheel-dir", folder)
    process = run_python("-m", "pip", "wheel", *options, ROOT, cwd=folder)
    assert process.returncode == 0, process.stderr
    (path,) = folder.iterdir()
    return path


@pytest.fixture
def site(wheel, tmp_path):
    """A folder with the wheel's contents, as an installation leaves them."""
    folder = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.slow
def test_contents_of_the_wheel(wheel):
    """The modules, one library and its sources; nothing of tests, objects, earlier builds."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    version = paddle_dcn.__version__
    assert wheel.name.startswith(f"paddle_dcn-{version}-py3-none-")
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "paddle_dcn").rglob("*.py")}
    sources = {
        f"paddle_dcn/_sources/{path.relative_to(ROOT / 'custom_ops').as_posix()}"
        for path in (ROOT / "custom_ops").rglob("*")
        if path.is_file()
    }
    metadata = {name for name in names if name.startswith(f"paddle_dcn-{version}.dist-info/")}
    assert names - metadata == modules | sources | {"paddle_dcn/py.typed", LIBRARY}
    assert {name.rpartition("/")[2] for name in metadata} >= {"METADATA", "LICENSE", "RECORD"}


@pytest.mark.slow
def test_installed_wheel_works_in_any_folder(site):
    code = "import paddle_dcn as p; print(p.__version__, p._library.ORIGIN, p._library.PATH)"
    process = import_package(site, code, PATH="")
    assert process.stdout.split() == [paddle_dcn.__version__, "wheel", str(site / LIBRARY)]


@pytest.mark.slow
def test_source_distribution(tmp_path):
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    process = run_python("-c", code, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    (path,) = tmp_path.iterdir()
    listing = run("tar", "tzf", path).split()
    names = {name.partition("/")[2] for name in listing if not name.endswith("/")}
    # The sources, and what the Makefile runs.
    folders = ("benchmarks", "custom_ops", "docs", "examples", "paddle_dcn", "tests")
    needed = [p for folder in folders for p in (ROOT / folder).rglob("*.*")]
    needed = {p.relative_to(ROOT).as_posix() for p in needed if p.suffix not in {".so", ".pyc"}}
    files = {"setup.py", "pyproject.toml", "README.md", "LICENSE", "Makefile", ".clang-format"}
    assert names >= needed | files
    assert not [name for name in names if name.endswith((".so", ".o"))]


def test_library_shares_paddles_openmp():
    """A second OpenMP runtime in the process would not heed Paddle's number of threads."""
    needed = run("ldd", _library.PATH)
    assert "libpaddle.so" in needed
    assert "libgomp" not in needed


def test_library_carries_no_path_of_its_build():
    assert os.fsencode(ROOT) not in Path(_library.PATH).read_bytes()
    assert "RUNPATH" not in run("readelf", "-d", _library.PATH)


@pytest.mark.slow
def test_checkout_uses_what_is_installed(site, tmp_path):
    """Where its sources are the same; in the checkout's folder, Python imports the checkout."""
    for name in ("paddle_dcn", "custom_ops"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / name, tmp_path / "clone" / name, ignore=ignored)
    variables = {"cwd": tmp_path / "clone", "PYTHONPATH": site, "CXX": "none"}
    variables["PADDLE_DCN_CACHE"] = tmp_path / "cache"
    process = run_python("-m", "paddle_dcn", "info", **variables)
    assert f"library          {site / LIBRARY}\n" in process.stdout, process.stderr
    assert "building" not in process.stderr

    (tmp_path / "clone" / "custom_ops" / "kernels" / "other.h").touch()
    process = run_python("-m", "paddle_dcn", "info", **variables)
    assert "no library for Paddle" in process.stderr


@pytest.mark.slow
def test_import_from_a_zip_file(wheel, tmp_path):
    process = import_package(wheel, PADDLE_DCN_CACHE=tmp_path)
    assert process.stderr.splitlines()[-1] == (
        f"paddle_dcn._build.BuildError: paddle_dcn: {wheel}/paddle_dcn has neither a library for "
        f"Paddle {_build.paddle_version()} nor the sources of one: install the package into a "
        "folder; it cannot run from a zip file"
    )


@pytest.mark.slow
def test_what_cannot_be_built(site, tmp_path):
    """The library of another Paddle is not loaded, and one sentence says what there is to do."""
    (site / LIBRARY).rename(site / "paddle_dcn" / "_paddle_dcn.paddle1.8.so")
    process = import_package(site, CXX=None, PADDLE_DCN_CACHE=tmp_path / "cache", PATH="")
    progress, *_, last = process.stderr[process.stderr.index("paddle_dcn:") :].splitlines()
    assert f"no library for Paddle {_build.paddle_version()}" in progress
    assert "(found: _paddle_dcn.paddle1.8.so)" in progress
    assert last == (
        "paddle_dcn._build.BuildError: paddle_dcn: 'g++' is needed to build the operators: install "
        "g++, or name another C++ compiler in CXX"
    )


def test_library_of_other_sources(tmp_path, monkeypatch):
    """A checkout's library is loaded with a word where its sources have changed since."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _library._warn_of_others(_library.PATH)
        with monkeypatch.context() as patch:
            patch.setattr(_library, "sources", lambda: tmp_path / "none")
            _library._warn_of_others(_library.PATH)
    shutil.copytree(_library.sources(), tmp_path, dirs_exist_ok=True)
    (tmp_path / "kernels" / "problem.h").write_text("// other")
    monkeypatch.setattr(_library, "sources", lambda: tmp_path)
    with pytest.warns(RuntimeWarning, match="was built from other sources than"):
        _library._warn_of_others(_library.PATH)


@pytest.mark.parametrize("which", ["the root", "the folder"])
def test_cache_is_private(which, tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLE_DCN_CACHE", str(tmp_path / "cache"))
    folder = _library._cache()
    assert folder.stat().st_mode & 0o777 == 0o700
    changed = folder if which == "the folder" else folder.parent
    changed.chmod(0o1777)  # where others can add files, but not replace any
    assert _library._cache() == folder
    changed.chmod(0o777)
    with pytest.raises(_build.BuildError, match=f"another user can write to {changed}, "):
        _library._cache()
    changed.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(_build.BuildError, match="another user can write to"):
        _library._cache()


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ("cache", "PADDLE_DCN_CACHE: expected the absolute path of a folder, got 'cache'"),
        (".", "PADDLE_DCN_CACHE: expected the absolute path of a folder, got '.'"),
        (zipfile.__file__, f"cannot build in {zipfile.__file__}/.* .Not a directory.: name"),
    ],
)
def test_wrong_cache(cache, message, monkeypatch):
    monkeypatch.setenv("PADDLE_DCN_CACHE", cache)
    with pytest.raises((_build.BuildError, ValueError), match=message):
        _library._cache()


def test_empty_cache_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLE_DCN_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _library._cache().parent == tmp_path / ".cache" / "paddle_dcn"


@pytest.fixture
def no_paddle(tmp_path):
    """The environment of a Python that has no Paddle."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['paddle'] = None")
    return {"PYTHONPATH": tmp_path, "cwd": ROOT}


@pytest.mark.parametrize("name", [*paddle_dcn.__all__, "compat", "export"])
def test_no_paddle(name, no_paddle):
    """What needs Paddle says so when it is used; the rest can be imported."""
    code = f"import paddle_dcn; from paddle_dcn import _rewrite, migrate; paddle_dcn.{name}"
    process = run_python("-c", code, **no_paddle)
    assert process.stderr.splitlines()[-1] == (
        "paddle_dcn._build.BuildError: paddle_dcn needs PaddlePaddle: install paddlepaddle or "
        "paddlepaddle-gpu"
    )


@pytest.mark.parametrize(
    ("source", "status", "message"),
    [
        ("from paddle.vision.ops import deform_conv2d", 0, "1 to be rewritten"),
        ("import paddle.fluid as f; f.layers.deformable_conv()", 1, "where Paddle is installed"),
    ],
)
def test_migrate_without_paddle(source, status, message, no_paddle, tmp_path):
    (tmp_path / "old.py").write_text(f"{source}\n")
    process = run_python("-m", "paddle_dcn", "migrate", tmp_path / "old.py", **no_paddle)
    assert (process.returncode, message in process.stderr) == (status, True)


def test_info_without_paddle(no_paddle):
    process = run_python("-m", "paddle_dcn", "info", **no_paddle)
    assert process.returncode == 2
    assert process.stderr.endswith("info needs paddle, which is not installed\n")


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 10), reason="does not say what -m is to run")
def test_migrate_builds_nothing(site):
    (site / LIBRARY).unlink()
    command = ("-m", "paddle_dcn", "migrate", "--help")
    process = run_python(*command, cwd=site.parent, PYTHONPATH=site, CXX="none")
    assert (process.returncode, process.stderr) == (0, "")


# Stands for a compiler: "compiles" to files that say what they depend on, "links" by a copy.
COMPILER = """#!{python}
import pathlib, shutil, sys, time
result = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
if "-shared" in sys.argv:
    shutil.copy({library!r}, result)
else:
    time.sleep(0.1)
    result.touch()
    result.with_suffix(".d").write_text("x.o: " + sys.argv[sys.argv.index("-c") + 1])
with open({log!r}, "a") as log:
    log.write(result.name + "\\n")
"""


@pytest.mark.slow
def test_import_builds_what_is_missing(site, tmp_path):
    """Once, also when two processes ask at the same time; then it comes from the cache."""
    library = (site / LIBRARY).rename(tmp_path / "library")
    compiler, log, cache = tmp_path / "compiler", tmp_path / "log", tmp_path / "cache"
    compiler.write_text(COMPILER.format(python=sys.executable, library=str(library), log=str(log)))
    compiler.chmod(0o755)
    code = "import paddle_dcn as p; print(p._library.ORIGIN, p._library.PATH)"
    variables = {"PYTHONPATH": site, "CXX": f"'{compiler}' -m64", "PADDLE_DCN_CACHE": cache}
    both = [start_python("-c", code, cwd=tmp_path, **variables) for _ in range(2)]
    for process in both:
        output, messages = process.communicate(timeout=60)
        assert process.returncode == 0, messages
        assert output.split()[0] == "cache"
        assert Path(output.split()[1]).is_relative_to(cache)
    compiled = [name for name in log.read_text().split() if name.endswith(".o")]
    sources = [*site.glob("paddle_dcn/_sources/*/cpu/*.cc"), *site.glob("**/_sources/paddle/*.cc")]
    assert len(compiled) == len(set(compiled)) == len(sources)

    again = import_package(site, code, CXX="none", PADDLE_DCN_CACHE=cache)
    assert again.stdout == output
    assert "building" not in again.stderr

    # What is not what was built there is not loaded, but built again.
    built = Path(output.split()[1])
    whole = built.read_bytes()
    for spoil in (
        lambda: built.write_bytes(whole[: len(whole) // 2]),
        lambda: built.with_name(f"{built.name}.sha256").unlink(),
        lambda: built.chmod(0o777),
    ):
        spoil()
        again = import_package(site, code, CXX=compiler, PADDLE_DCN_CACHE=cache)
        assert again.stdout == output
        assert "building" in again.stderr
        assert built.read_bytes() == whole


def test_compiler_that_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(_build.BuildError, match="the compiler failed"):
        _build.build(_library.sources(), tmp_path / "target", tmp_path / "work")
    assert list((tmp_path / "target").iterdir()) == []


def test_info():
    process = run_python("-m", "paddle_dcn", "info")
    rows = dict(line.strip().split(maxsplit=1) for line in process.stdout.splitlines())
    assert rows["paddle_dcn"] == paddle_dcn.__version__
    assert rows["library"] == str(_library.PATH)
