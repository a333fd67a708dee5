r"""Comma-separated lists of names, as typed on the command line.

A comma within a name is written ``\,``; where the known names make it unambiguous, a plain comma will do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from robotest.errors import RobotestError, UnknownNameError

_COMMA = re.compile(r"(?<!\\),")


def split(text: str) -> tuple[str, ...]:
    """Return the non-empty parts of a comma-separated list, stripped of spaces."""
    return tuple(_name(part) for part in _COMMA.split(text) if part.strip())


def joined(names: Iterable[str]) -> str:
    """Return names as a comma-separated list, the inverse of `split`."""
    return ",".join(name.replace(",", "\\,") for name in names)


def among(kind: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of a comma-separated list, or all `known` names for ``all``; prefers the longest match.

    Raises:
        UnknownNameError: a name is not known.
    """
    if text == "all":
        return known
    parts, names = _COMMA.split(text), []
    while parts:
        lengths = (n for n in range(len(parts), 0, -1) if _name(",".join(parts[:n])) in known)
        length = next(lengths, 1)
        if name := _name(",".join(parts[:length])):
            if name not in known:
                raise UnknownNameError(kind, name, known)
            names.append(name)
        parts = parts[length:]
    return tuple(names)


def pair(text: str, known: tuple[str, ...]) -> tuple[str, str]:
    """Return the two names of ``A:B``; each may contain colons.

    Raises:
        RobotestError: they are not two different known names.
    """
    parts = text.split(":")
    for i in range(1, len(parts)):
        a, b = ":".join(parts[:i]), ":".join(parts[i:])
        if a in known and b in known and a != b:
            return a, b
    raise RobotestError(f"{text!r} given; name two different conditions as A:B, out of {', '.join(known)}")


def _name(text: str) -> str:
    return text.strip().replace("\\,", ",")
