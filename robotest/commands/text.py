"""Lists of names as they are typed: separated by commas."""

from __future__ import annotations

from robotest.errors import RobotestError, UnknownNameError


def split(text: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated list, without spaces and empty ones."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def among(kind: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of a comma-separated list, or all `known` ones for ``all``.

    Raises:
        UnknownNameError: a name is not known.
    """
    names = known if text == "all" else split(text)
    for name in names:
        if name not in known:
            raise UnknownNameError(kind, name, known)
    return names


def pair(text: str, known: tuple[str, ...]) -> tuple[str, str]:
    """Return the two names of ``A:B``, each of which may have colons itself.

    Raises:
        RobotestError: these are not two known names.
    """
    parts = text.split(":")
    for i in range(1, len(parts)):
        a, b = ":".join(parts[:i]), ":".join(parts[i:])
        if a in known and b in known and a != b:
            return a, b
    raise RobotestError(f"{text!r} given; two different conditions are needed as A:B, out of {', '.join(known)}")
