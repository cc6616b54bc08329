"""Jupyter notebooks as one Python source and back: the code cells, one after another.

What one cell imports the next ones use, so that cells cannot be rewritten one by one. Lines for
IPython (`%magic`, `x = !command`), and those of cells with other magics, stand as statements with
a comment that keeps them: names in them are uses, which cannot be rewritten.
"""

from __future__ import annotations

import ast
import functools
import json
import re
import warnings

_JSON, _SPACE = json.JSONDecoder(), re.compile(r"[ \t\r\n]*")
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
    r"(%%(?:writefile|file)(?=[ \t].*\.py['\"]?[ \t\r]*\n)|%%(?:python3?|pypy)\b).*\n"
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
            cells = enumerate(json.loads(text)["cells"], 1)
            sources = {
                index: "".join(cell["source"])
                for index, cell in cells
                if cell["cell_type"] == "code"
            }
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
        """Return the notebook's text with other code in its cells; all else is as it was."""
        text, cells = self._text, list(self._parts(self._parts(0)["cells"][0]).values())
        before, after = _sources(self.source), _sources(source)
        for index in sorted(after, reverse=True):  # from the end: the places before it stay
            if after[index] != before[index]:
                begin, end = self._parts(cells[index - 1][0])["source"]
                text = text[:begin] + self._literal(begin, end, after[index]) + text[end:]
        return text

    def _literal(self, begin: int, end: int, code: str) -> str:
        """Return code as JSON, a text or a list of lines like that at a place."""
        dumps = functools.partial(json.dumps, ensure_ascii=self._text.isascii())
        if self._text[begin] == '"':
            return dumps(code)
        places = list(self._parts(begin).values())
        old = [self._text[start:stop] for start, stop in places]
        known = dict(zip(map(json.loads, old), old))
        lines = [known.get(line) or dumps(line) for line in code.splitlines(keepends=True)]
        lead, tail = self._text[begin + 1 : places[0][0]], self._text[places[-1][1] : end]
        between = self._text[places[0][1] : places[1][0]] if places[1:] else f",{lead or ' '}"
        return f"[{lead}{between.join(lines)}{tail}"

    def _parts(self, begin: int) -> dict[str | int, tuple[int, int]]:
        """Return where the values in the object or list are that begins at a place of the text."""
        begin, found = self._next(begin), {}
        named, at = self._text[begin] == "{", self._next(begin + 1)
        while self._text[at] not in "]}":
            key: str | int = len(found)
            if named:
                key, at = _JSON.raw_decode(self._text, at)
                at = self._next(self._next(at) + 1)  # behind the colon
            _, end = _JSON.raw_decode(self._text, at)
            found[key] = at, end
            at = self._next(end)
            if self._text[at] == ",":
                at = self._next(at + 1)
        return found

    def _next(self, place: int) -> int:
        """Return where the text goes on behind white space."""
        return _SPACE.match(self._text, place).end()

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
