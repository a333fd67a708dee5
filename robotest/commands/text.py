"""Lists of names as they are typed: separated by commas."""

from __future__ import annotations

from robotest.errors import UnknownNameError


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
