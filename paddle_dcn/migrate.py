"""Moves deformable convolutions in source files here: `python -m paddle_dcn migrate`."""

from __future__ import annotations

import argparse
import ast
import codecs
import difflib
import io
import os
import re
import shutil
import stat
import sys
import tempfile
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ._rewrite import Remark
    from ._rewrite.notebook import Notebook

_DESCRIPTION = """\
Find the deformable convolutions of paddle.fluid, paddle.static, paddle.vision, mmcv, torchvision
and torch_npu in Python files and notebooks, under any import or alias, and move them to paddle_dcn.
Prints a unified diff; what cannot be decided or moved, such as raw operators and layers that a
registry builds, is listed with its line and left as it is. Calls keep their arguments and
what they do: static calls, which create their own parameters, move to paddle_dcn.fluid and
paddle_dcn.static and still need static mode. Of the code around them, only what paddle_dcn.fluid
has of paddle.fluid moves along; the rest of it, and torch code, is not ported.
"""

_EPILOG = """\
Exit status: 0 if all is done or there is nothing to do (notes do not count); 1 if something was
left undecided, or could not be read or written, or with --check would be rewritten; 2 if the usage
is wrong or libcst is missing.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `migrate`, its description and its exit status."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a file, or a folder: all *.py and *.ipynb below it but what is hidden and virtual "
        "environments",
    )
    parser.add_argument(
        "--target",
        choices=["modern", "legacy"],
        default="modern",
        help="the code to head for; files are rewritten in the same way, but modern (the default) "
        "also notes for each static call why it stays one and what its dynamic counterpart is, "
        "and legacy takes it as it is",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="change the files, print their names")
    action.add_argument("--check", action="store_true", help="only print what would be rewritten")


def main(args: argparse.Namespace) -> int:
    """Run `migrate` on parsed arguments and return its exit status."""
    try:
        import libcst  # noqa: F401
    except ModuleNotFoundError:
        print('migrate needs libcst: pip install "paddle_dcn[migrate]"', file=sys.stderr)
        return 2
    files, errors, notes = _find(map(Path, args.paths))
    outcomes = {path: _migrate(path, args, named) for path, named in _with_progress(files)}
    for path, outcome in outcomes.items():
        outcomes[path] = _finish(path, outcome, args.write)
    errors += [f"{path}{outcome.error}" for path, outcome in outcomes.items() if outcome.error]
    for text in notes + errors:
        print(text, file=sys.stderr)
    changed = sum(bool(outcome.shown) for outcome in outcomes.values())
    left = sum(remark.kind == "left" for o in outcomes.values() for remark in o.remarks)
    print(
        f"{len(files)} files, {changed} {'rewritten' if args.write else 'to be rewritten'}, "
        f"{left} places left undecided, {len(errors)} errors",
        file=sys.stderr,
    )
    return int(bool(left or errors or (args.check and changed)))


class _Outcome(NamedTuple):
    """What comes of a file: a diff or its name if it changes, remarks, why it failed, its bytes."""

    shown: bytes = b""
    remarks: tuple[Remark, ...] = ()
    error: str = ""
    old: bytes = b""
    new: bytes = b""


def _finish(path: Path, outcome: _Outcome, write: bool) -> _Outcome:
    """Write a file if it is to be, and tell at once: what comes next may be stopped."""
    write = write and outcome.new != outcome.old
    if write:
        try:
            _write(path, outcome.old, outcome.new)
        except OSError as error:
            return _Outcome(error=f": error: {error}")
    try:
        for line, kind, text in outcome.remarks:
            print(f"{path}:{line}: {kind}: {text}", file=sys.stderr)
        sys.stdout.buffer.write(outcome.shown)  # bytes: a diff holds the file's own encoding
        sys.stdout.buffer.flush()
    except BaseException:
        if write:
            print(f"{path}: rewritten", file=sys.stderr)
        raise
    return outcome


def _find(paths: Iterable[Path]) -> tuple[dict[Path, bool], list[str], list[str]]:
    """List the files, with whether the user named them, the errors and the notes on the way."""
    files: dict[Path, bool] = {}
    errors, notes = [], []
    seen: dict[Path, Path] = {}
    for path in paths:
        found = [path] if path.is_file() else []
        if path.is_dir():
            found = list(_walk(path, errors))
            if not found:
                notes.append(f"{path}: note: no Python files in it")
        elif not found:
            what = "not a regular file" if path.exists() else "no such file or folder"
            errors.append(f"{path}: error: {what}")
        for file in found:
            if file.is_symlink() and file != path:
                notes.append(f"{file}: note: a symbolic link, not followed")
            elif not file.is_file():  # a named pipe would be waited for
                notes.append(f"{file}: note: not a regular file, not read")
            else:
                first = seen.setdefault(file.resolve(), file)
                files[first] = files.get(first, False) or file == path
    return files, errors, notes


def _walk(root: Path, errors: list[str]) -> Iterator[Path]:
    """List the Python files and notebooks below a folder, and the symbolic links."""
    for folder, folders, names in os.walk(
        root, onerror=lambda error: errors.append(f"{error.filename}: error: {error.strerror}")
    ):
        here = Path(folder)
        links = [name for name in folders if (here / name).is_symlink()]
        folders[:] = [
            name
            for name in sorted(folders)
            if not name.startswith(".")
            and name != "__pycache__"
            and not (here / name / "pyvenv.cfg").exists()
        ]
        for name in sorted(links + names):
            if not name.startswith(".") and (name.endswith((".py", ".ipynb")) or name in links):
                yield here / name


def _with_progress(files: dict[Path, bool]) -> Iterable[tuple[Path, bool]]:
    """Show a progress bar for many files, on a terminal that has tqdm."""
    if len(files) > 100:
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            return files.items()
        return tqdm(files.items(), unit="file", leave=False, disable=None)
    return files.items()


def _migrate(path: Path, args: argparse.Namespace, named: bool) -> _Outcome:
    """Find out what becomes of one file, as the arguments have it."""
    from ._rewrite import concerns, rewrite
    from ._rewrite.notebook import Notebook

    book, old = None, ""
    try:
        data = path.read_bytes()
        if not named and not concerns(data):  # parsing is the slow part
            return _Outcome()
        if path.suffix == ".ipynb":
            encoding = "utf-8-sig" if data.startswith(codecs.BOM_UTF8) else "utf-8"
            book = Notebook(data.decode(encoding))
            old = code = book.source
        else:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
            old, code = data.decode(encoding), data
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(code)  # its messages are better, and libcst's parser can overflow its stack
        folder = path.resolve().parent
        text, remarks = rewrite(old, args.target, folder)
        remarks = sorted([*remarks, *_elsewhere(book, folder)]) if book else remarks
        new = data
        if text != old:
            new = (book.with_source(text) if book else text).encode(encoding)
            if args.write:
                remarks = _moved(remarks, old.split("\n"), text.split("\n"))
        if book:
            shown = text if args.write else old
            remarks = [r._replace(line=book.locate(shown, r.line)) for r in remarks]
        if new == data:
            return _Outcome(remarks=tuple(remarks))
    except SyntaxError as error:
        version = ".".join(map(str, sys.version_info[:2]))
        at, what = (f":{error.lineno}", f"not Python {version}: ") if error.lineno else ("", "")
        if book and error.lineno:
            at = f":{book.locate(old, error.lineno)}"
        return _Outcome(error=f"{at}: error: {what}{error.msg}")
    except UnicodeDecodeError as error:
        text = f"not {error.encoding} text: {error.reason} at byte {error.start}"
        return _Outcome(error=f": error: {text}")
    except (RecursionError, MemoryError):
        return _Outcome(error=": error: nested too deeply")
    except (OSError, ValueError) as error:
        return _Outcome(error=f": error: {error}")
    except ImportError as error:  # what paddle_dcn.fluid has is asked of itself
        return _Outcome(error=f": error: paddle.fluid is moved where Paddle is installed: {error}")
    if args.write or args.check:
        shown = f"{path}\n".encode(errors="surrogateescape")
    else:
        shown = _diff(path, data, new)
    return _Outcome(shown, tuple(remarks), old=data, new=new)


def _elsewhere(book: Notebook, folder: Path) -> Iterator[Remark]:
    """List the cells with code of another file or program in which something is to be moved."""
    from ._rewrite import Remark, concerns, rewrite

    for line, magic, code in book.others:
        if not concerns(code.encode()):
            continue
        try:
            text, remarks = rewrite(code, folder=folder)
        except ValueError:
            text, remarks = "", []
        if text != code or any(remark.kind == "left" for remark in remarks):
            yield Remark(line, "left", f"deformable convolutions in a cell for {magic}")


def _moved(remarks: list[Remark], old: list[str], new: list[str]) -> list[Remark]:
    """Count the lines of remarks in the new text."""
    lines = {}
    for _, i, i_end, j, j_end in difflib.SequenceMatcher(None, old, new, False).get_opcodes():
        for k in range(i, i_end):
            lines[k + 1] = min(j + k - i, max(j, j_end - 1)) + 1
    return [remark._replace(line=lines[remark.line]) for remark in remarks]


def _write(path: Path, old: bytes, data: bytes) -> None:
    """Replace a file's content, keeping its mode: in one step where it has no other name."""
    path = path.resolve()
    status = path.stat()
    mode = status.st_mode
    if not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) or not os.access(path, os.W_OK):
        raise PermissionError("read-only, not rewritten")
    if path.read_bytes() not in (old, data):  # data: through another name of it
        raise OSError("changed in the meantime, not rewritten")
    if status.st_nlink > 1:  # hard links, which a new file would part
        path.write_bytes(data)
        return
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _diff(path: Path, old: bytes, new: bytes) -> bytes:
    """Return a unified diff that `patch -p1` and `git apply` take."""
    name = path.as_posix().lstrip("/").encode(errors="surrogateescape")
    name += b"\t" * (b" " in name)  # or `patch` takes a space for the end
    lines = [re.findall(rb"[^\n]*\n|[^\n]+", data) for data in (old, new)]
    diff = difflib.diff_bytes(difflib.unified_diff, *lines, b"a/" + name, b"b/" + name)
    end = b"\n\\ No newline at end of file\n"
    return b"".join(line if line.endswith(b"\n") else line + end for line in diff)
