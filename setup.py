"""Builds the operators' library into the package; everything else is in pyproject.toml."""

import runpy
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# The package itself cannot be imported yet: it would load the library.
BUILD = runpy.run_path(str(ROOT / "paddle_dcn" / "_build.py"))


class BuildLibrary(build_ext):
    """Compiles incrementally and puts the library in place in one step."""

    def run(self):
        package = (ROOT if self.inplace else Path(self.build_lib)) / "paddle_dcn"
        try:
            BUILD["build"](ROOT / "custom_ops", package, ROOT / "build" / "objects")
        except BUILD["BuildError"] as error:
            raise SystemExit(str(error)) from None

    def get_ext_filename(self, fullname):
        return str(Path("paddle_dcn", BUILD["library_name"]()))


setup(
    ext_modules=[Extension("paddle_dcn._paddle_dcn", sources=[])],
    cmdclass={"build_ext": BuildLibrary},
)
