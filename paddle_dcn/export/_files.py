"""Checks paths, and puts files into place once all of them are complete."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def file_path(path: Any) -> Path:
    """Return a path, where it names a file; a folder beside it may have the same name."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"path: expected a str or os.PathLike, got {type(text).__name__}")
    if os.path.basename(text) in ("", ".", ".."):
        raise ValueError(f"path: expected the name of a file, got {text!r}")
    return Path(text)


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Give a folder that is removed with all it holds."""
    with tempfile.TemporaryDirectory(prefix=".paddle_dcn-", dir=parent) as folder:
        yield Path(folder)


@contextlib.contextmanager
def staged(targets: Sequence[Path]) -> Iterator[Path]:
    """Give a folder for files named as the targets; on success they take the targets' places.

    A target that the folder has no file for is removed: it belongs to an older model.
    """
    parent = targets[0].parent
    for target in targets:
        if target.is_dir():
            raise IsADirectoryError(f"path: expected a file, got the folder {target}")
    parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(parent) as folder:
        yield folder
        for target in targets:
            if (folder / target.name).exists():
                os.replace(folder / target.name, target)
            else:
                target.unlink(missing_ok=True)
