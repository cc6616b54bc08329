"""Builds the operators' library into the package; everything else is in pyproject.toml."""

import runpy
import shutil
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

try:
    if int(setuptools.__version__.split(".")[0]) < 64:
        raise ModuleNotFoundError
    from setuptools.command.build import build

    try:
        from setuptools.command.bdist_wheel import bdist_wheel
    except ModuleNotFoundError:  # before setuptools 70.1
        from wheel.bdist_wheel import bdist_wheel
except ModuleNotFoundError:  # without build isolation, which reads pyproject.toml
    raise SystemExit(
        "paddle_dcn: setuptools 64 or later and wheel are needed to build it, found setuptools "
        f"{setuptools.__version__} or no wheel: pip install --upgrade setuptools wheel"
    ) from None

ROOT = Path(__file__).resolve().parent
# The package itself cannot be imported yet: it would load the library.
BUILD = runpy.run_path(str(ROOT / "paddle_dcn" / "_build.py"))


class Build(build):
    """Starts from nothing, so that no file of an earlier build gets into a wheel."""

    def run(self):
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildLibrary(build_ext):
    """Compiles what changed and puts the library in place in one step."""

    def run(self):
        sources = ROOT / "custom_ops"
        package = (ROOT if self.inplace else Path(self.build_lib)) / "paddle_dcn"
        try:
            BUILD["build"](sources, package, ROOT / "build" / "objects")
        except BUILD["BuildError"] as error:
            raise SystemExit(str(error)) from None
        if not self.inplace:  # an installed package can build for another Paddle on import
            shutil.copytree(sources, package / "_sources", dirs_exist_ok=True)

    def get_ext_filename(self, fullname):
        return str(Path("paddle_dcn", BUILD["library_name"]()))


class Wheel(bdist_wheel):
    """Says that the library depends on the platform and not on Python's version."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(
    license="Apache-2.0",  # here, because setuptools has no one form for it in pyproject.toml
    ext_modules=[Extension("paddle_dcn._paddle_dcn", sources=[])],
    cmdclass={"build": Build, "build_ext": BuildLibrary, "bdist_wheel": Wheel},
)
