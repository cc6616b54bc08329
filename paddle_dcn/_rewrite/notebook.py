"""Jupyter notebooks as one Python source and back: the code cells, one after another.

What one cell imports the next ones use, so that cells cannot be rewritten one by one. Lines for
IPython (`%magic`, `x = !command`), and those of cells with other magics, stand as statements with
a comment that keeps them: names in them are uses, which cannot be rewritten.
"""

from __future__ import annotations

import ast
import json
import re
import warnings

_CELL = '"-*- cell {} -*-"'
_CELL_LINE = re.compile(r'"-\*- cell (\d+) -\*-"\n')
_MAGIC = re.compile(
    r"^([ \t]*)([\w.,*\[\] \t]+=[ \t]*(?=[%!]))?([%!?](?:.*\\\n)*.*|[\w.]+\?\??)$",
    re.MULTILINE,
)
_COMMENT = "# -*- line: "
_CODE_COMMENT = "# -*- code: "
_TEXT_COMMENT = "# -*- text: "
_KEPT = re.compile(
    r"^([ \t]*)(?:pass|(\S.*=[ \t]*)\.\.\.)  # -\*- line: (.*)$"
    r"|^[ \t]*pass  # -\*- (?:code|text): (.*)$",
    re.MULTILINE,
)
_PYTHON_CELLS = ("%%time", "%%timeit", "%%capture", "%%prun")
_RUNS_PYTHON = "%%?(?:time|timeit|memit|prun|lprun|mprun|debug|pinfo2?|pdoc|psource)\\b"
_CODE = re.compile(rf"{_RUNS_PYTHON}|(?=[^!%])")
_EXPANDED = re.compile(r"\{.*\}|\$[\w.]+")
# Cells with the code of another Python: a file, or a program that runs at once.
_OTHER_PYTHON = re.compile(
    r"(%%(?:writefile|file)(?=[ \t].*\.py['\"]?[ \t]*\n)|%%(?:python3?|pypy)\b).*\n"
)
_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


def names_kept(comment: str) -> list[str]:
    """List the names, with their attributes, in the line for IPython that a comment keeps."""
    kind, line = comment[: len(_COMMENT)], comment[len(_COMMENT) :]
    if kind not in (_COMMENT, _CODE_COMMENT, _TEXT_COMMENT):
        return []
    magic = _CODE.match(line) if kind == _COMMENT else None
    code = line[magic.end() :] if magic else line
    parts = [code] if magic or kind == _CODE_COMMENT else _EXPANDED.findall(line)
    return [name for part in parts for name in _NAME.findall(part)]


class Notebook:
    """A notebook's text, and its code as one source."""

    def __init__(self, text: str) -> None:
        """Read a notebook.

        Raises:
            ValueError: the text is no notebook of version 4, or has lines like our comments.

        """
        self._text = text
        try:
            self._book = json.loads(text)
            self._cells = {
                index: cell
                for index, cell in enumerate(self._book["cells"], 1)
                if cell["cell_type"] == "code"
            }
            sources = {index: "".join(cell["source"]) for index, cell in self._cells.items()}
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"no notebook of version 4: {error!r}") from error
        self.source = ""
        self.others: list[tuple[int, str, str]] = []  # line, magic and code of another Python
        for index, source in sources.items():
            if found := _OTHER_PYTHON.match(source):
                line = self.source.count("\n") + 2
                self.others.append((line, found[1], source[found.end() :]))
            if source.startswith("%%") and not source.startswith(_PYTHON_CELLS):
                comment = _COMMENT if re.match(_RUNS_PYTHON, source) else _TEXT_COMMENT
                code = re.sub("(?m)^", f"pass  {comment}", source)
            else:
                code = source if _is_python(source) else _MAGIC.sub(_statement, source)
            self.source += f"{_CELL.format(index)}\n{code}\n"
        if _sources(self.source) != sources:
            raise ValueError("it has lines that would not survive")

    def with_source(self, source: str) -> str:
        """Return the notebook's text with other code in its cells, formatted as it was."""
        for index, code in _sources(source).items():
            cell = self._cells[index]
            if code != "".join(cell["source"]):
                as_lines = isinstance(cell["source"], list)
                cell["source"] = code.splitlines(keepends=True) if as_lines else code
        lines = re.match(r"\s*\{(\r?\n)([ \t]*)", self._text)
        separators = (",", ": ") if lines else (", ", ": ")
        text = json.dumps(
            self._book,
            ensure_ascii=self._text.isascii(),
            indent=lines[2] if lines else None,
            separators=separators,
        )
        text = text.replace("\n", lines[1]) if lines else text  # those in strings are escaped
        return text + self._text[len(self._text.rstrip()) :]

    @staticmethod
    def locate(source: str, line: int) -> str:
        """Say which cell and line of it a line of the source is."""
        before = source.split("\n")[:line]
        start = max(i for i, text in enumerate(before) if _CELL_LINE.match(text + "\n"))
        return f"cell {_CELL_LINE.match(before[start] + chr(10))[1]}, line {line - start - 1}"


def _sources(source: str) -> dict[int, str]:
    """Return the cells of one source as they are in the notebook."""
    parts = _CELL_LINE.split(source)
    return {
        int(index): _KEPT.sub(r"\1\2\3\4", code[:-1])
        for index, code in zip(parts[1::2], parts[2::2])
    }


def _is_python(source: str) -> bool:
    """Whether a cell has no lines for IPython: some of Python look like those, ` % 3)`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(source)
        except SyntaxError:
            return False
    return True


def _statement(magic: re.Match) -> str:
    """Return the statements that keep a line for IPython, and the lines it goes on in."""
    indent, assigned, text = magic.groups()
    line, *more = text.split("\n")
    comment = _CODE_COMMENT if re.match(_RUNS_PYTHON, text) else _TEXT_COMMENT
    kept = [f"{indent}{assigned + '...' if assigned else 'pass'}  {_COMMENT}{line}"]
    return "\n".join(kept + [f"{indent}pass  {comment}{line}" for line in more])
