"""Preprocess a command's arguments: join repeated list options, accept former spellings."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Sequence, Set

from tyro.conf import UseAppendAction

from robotest.errors import RobotestError

LISTS = frozenset({"conditions", "tasks", "verifiers"})
"""Fields of commands that hold comma-separated names."""
FORMER = {"verifier": "verifiers"}
"""Former spelling -> present one; used only where a command lacks the former as an option of its own."""


def once_each(command: type, words: Sequence[str]) -> list[str]:
    """Return a command's arguments with repeated list options joined into one.

    Raises:
        RobotestError: an option that is not a list is given twice; one of them would be ignored.
    """
    kinds = set(_options(command))
    joined: list[str] = []
    seen: dict[str, int] = {}  # option -> its index in `joined`
    rest = iter(_present(kinds, word) for word in words)
    for word in rest:
        joined.append(word)
        option, assigned, value = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        name = name if name in kinds else name.removeprefix("no_")
        if not option.startswith("--") or name not in kinds:
            continue
        if name not in seen:
            seen[name] = len(joined) - 1
            continue
        if name not in LISTS:
            raise RobotestError(f"--{name.replace('_', '-')} given twice; give it once")
        del joined[-1]
        more = value if assigned else next(rest, "")
        first = seen[name]
        if "=" in joined[first]:
            joined[first] += f",{more}"
        elif first + 1 < len(joined) and not joined[first + 1].startswith("--"):  # the value is a separate argument
            joined[first + 1] += f",{more}"
    return joined


def _options(command: type) -> Iterator[str]:
    """Yield the names of a command's options that are given once, including those of nested configurations."""
    hints = typing.get_type_hints(command, include_extras=True)
    for field in dataclasses.fields(command):
        hint = hints[field.name]
        kind, *marks = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield from _options(kind)
        elif UseAppendAction not in marks:
            yield field.name


def _present(kinds: Set[str], word: str) -> str:
    """Return an argument with a former spelling replaced by the present one."""
    option, assigned, value = word.partition("=")
    former = option.removeprefix("--")
    if not option.startswith("--") or former in kinds or FORMER.get(former) not in kinds:
        return word
    return f"--{FORMER[former]}{assigned}{value}"
