"""Finds deformable convolutions in Python source, under whatever name, and rewrites them (libcst).

`migrate.py` is the command line around it. Three edits are enough for all spellings:

- an import that binds the operator itself is pointed at ours; its uses stay as they are;
- an import that binds a module is pointed at ours where ours has all that is used through it;
- otherwise each use gets its full new name, and `import paddle_dcn...` stands beside the old
  import, or in its place when nothing else needs that.

A static call, which creates its own parameters, stays one: a layer object would create them at
another time and under other names, and saved parameters would no longer fit.

`names` says what the names in a file stand for, `plan` decides on the edits, `edits` writes them;
`raw` lists what cannot be moved, `notebook` makes one source of a notebook's cells.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import libcst as cst

from .names import BY_STRING, MODULES, Names, Remark
from .plan import Plan
from .raw import list_raw

__all__ = ["Remark", "Rewritten", "concerns", "rewrite"]

_OPERATOR = re.compile(rb"deform(able)?_?conv|dcn|dfconv", re.IGNORECASE)
_BY_STRING = re.compile(rf"\b({'|'.join(BY_STRING)})\b".encode())


class Rewritten(NamedTuple):
    """The new source, and the remarks in the order of their lines."""

    code: str
    remarks: list[Remark]


def concerns(data: bytes) -> bool:
    """Whether `rewrite` may have to do with a file, by the words in it, which is quick to tell."""
    if _OPERATOR.search(data):
        return True
    modules = ["paddle.fluid", *(MODULES if _BY_STRING.search(data) else ())]
    return any(all(part.encode() in data for part in module.split(".")) for module in modules)


def rewrite(source: str, target: str = "modern", folder: Path | None = None) -> Rewritten:
    """Move every deformable convolution in `source` to paddle_dcn.

    Args:
        source: A Python file's text, line ends as they are in the file.
        target: What the user is heading for, `"modern"` or `"legacy"` code. The new source is the
            same; with `"modern"` each static call gets a note that names its counterpart.
        folder: Where the file is, to tell modules of its project from libraries.

    Raises:
        ValueError: libcst cannot parse the source, or would change its line ends or form feeds.

    """
    try:
        module = cst.parse_module(source)
    except cst.ParserSyntaxError as error:
        raise ValueError(f"libcst cannot parse it: {error.message}") from error
    if module.code != source:
        raise ValueError("it has form feeds or bare carriage returns, which would not survive")
    names = Names(module, folder)
    plan = Plan(names, note_static=target == "modern")
    list_raw(names)
    names.list_others()
    return Rewritten(plan.carried_out(), sorted(names.remarks))
