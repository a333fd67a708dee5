"""Command lines that differ in an option from a usual one; an option that is given twice is refused."""

from __future__ import annotations

from collections.abc import Sequence


def changed(usual: Sequence[str], more: Sequence[str]) -> list[str]:
    """Return options with a value each, and in the place of those that are also in `more` its own."""
    pairs = zip(usual[::2], usual[1::2], strict=True)
    return [*(word for option, value in pairs if option not in more for word in (option, value)), *more]
