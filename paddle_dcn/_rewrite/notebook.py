"""Jupyter notebooks as one Python source and back: the code cells, one after another.

What one cell imports the next ones use, so that cells cannot be rewritten one by one. Lines for
IPython (`%magic`, `x = !command`), and those of cells with other magics, stand as statements with
a comment that keeps them: names in them are uses, which cannot be rewritten.
"""

from __future__ import annotations

import json
import re

_CELL = '"-*- cell {} -*-"'
_CELL_LINE = re.compile(r'"-\*- cell (\d+) -\*-"\n')
_MAGIC = re.compile(
    r"^([ \t]*)([\w.,*\[\] \t]+=[ \t]*(?=[%!]))?([%!?].*|[\w.]+\?\??)$", re.MULTILINE
)
_COMMENT = "# -*- line: "
_TEXT_COMMENT = "# -*- text: "
_KEPT = re.compile(
    r"^([ \t]*)(?:pass|(\S.*=[ \t]*)\.\.\.)  # -\*- (?:line|text): (.*)$", re.MULTILINE
)
_PYTHON_CELLS = ("%%time", "%%timeit", "%%capture", "%%prun")
_RUNS_PYTHON = "%%?(?:time|timeit|memit|prun|lprun|mprun|debug|pinfo2?|pdoc|psource)\\b"
_CODE = re.compile(rf"{_RUNS_PYTHON}|(?=[^!%])")
_EXPANDED = re.compile(r"\{.*\}|\$[\w.]+")
_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


def names_kept(comment: str) -> list[str]:
    """List the names, with their attributes, in the line for IPython that a comment keeps."""
    if not comment.startswith((_COMMENT, _TEXT_COMMENT)):
        return []
    line = comment[len(_COMMENT) :]
    code = comment.startswith(_COMMENT) and _CODE.match(line)
    parts = [line[code.end() :]] if code else _EXPANDED.findall(line)
    return [name for part in parts for name in _NAME.findall(part)]


class Notebook:
    """A notebook's text, and its code as one source."""

    def __init__(self, text: str) -> None:
        """Read a notebook.

        Raises:
            ValueError: the text is no notebook of version 4.

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
        for index, source in sources.items():
            if source.startswith("%%") and not source.startswith(_PYTHON_CELLS):
                comment = _COMMENT if re.match(_RUNS_PYTHON, source) else _TEXT_COMMENT
                code = re.sub("(?m)^", f"pass  {comment}", source)
            else:
                code = _MAGIC.sub(_statement, source)
            self.source += f"{_CELL.format(index)}\n{code}\n"

    def with_source(self, source: str) -> str:
        """Return the notebook's text with other code in its cells, formatted as it was."""
        parts = _CELL_LINE.split(source)
        for index, code in zip(parts[1::2], parts[2::2]):
            cell = self._cells[int(index)]
            code = _KEPT.sub(r"\1\2\3", code[:-1])
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


def _statement(line: re.Match) -> str:
    """Return the statement that keeps a line for IPython."""
    indent, assigned, text = line.groups()
    return f"{indent}{assigned + '...' if assigned else 'pass'}  {_COMMENT}{text}"
