"""What exports say of a program that they cannot write, and of the errors of what they call."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any


class Refusal(NotImplementedError):
    """What a converter or runtime says of a program, before it is known of which operator."""

    def __init__(self, verb: str, reason: str) -> None:
        super().__init__(f"model: {verb} it: {reason}")
        self.verb = verb
        self.reason = reason


def refusing(verb: str, call: Callable, *arguments: Any, **named: Any) -> Any:
    """Call a converter or runtime, such as one that is to say "ONNX Runtime cannot load"."""
    try:
        return call(*arguments, **named)
    except Exception as error:
        raise Refusal(verb, gist(error)) from error


def advice(dtypes: Iterable[str], before: str = " ") -> str:
    """Return what to do, where a dtype is one that kernels often lack, or ''."""
    rare = sorted({"bfloat16", "float16", "float64"}.intersection(dtypes))
    return f"{before}in {' and '.join(rare)}, so export the float32 model" if rare else ""


def gist(error: Exception) -> str:
    """Return the sentence of an error that Paddle wraps into pages of traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"(\w*Error: |\(\w+\) )", line)]
    sentence = re.sub(r"^\w*Error: ", "", (telling or lines or [type(error).__name__])[-1])
    return re.sub(r"[\s,]*\(at /[^)]*\)$", "", sentence)  # where it stands in Paddle's sources
