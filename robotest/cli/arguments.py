"""The words of a command: lists that are given in parts add up, former spellings are understood."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Sequence, Set

from robotest.errors import RobotestError

LISTS = frozenset({"conditions", "tasks", "verifiers"})
"""Fields of commands that hold names, separated by commas."""
FORMER = {"verifier": "verifiers"}
"""Options as they were spelt before, where a command has only the present one."""


def once_each(command: type, words: Sequence[str]) -> list[str]:
    """Return a command's words with lists that are given in parts put together.

    Raises:
        RobotestError: another option is given twice, of which one would count and the other not.
    """
    kinds = set(_options(command))
    kept: list[str] = []
    seen: dict[str, int] = {}  # where in `kept` each option stands
    rest = iter(_present(kinds, word) for word in words)
    for word in rest:
        kept.append(word)
        option, assigned, value = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        name = name if name in kinds else name.removeprefix("no_")
        if not option.startswith("--") or name not in kinds:
            continue
        if name not in seen:
            seen[name] = len(kept) - 1
            continue
        if name not in LISTS:
            raise RobotestError(f"--{name.replace('_', '-')} given twice; give it once")
        del kept[-1]
        more = value if assigned else next(rest, "")
        first = seen[name]
        if "=" in kept[first]:
            kept[first] += f",{more}"
        elif first + 1 < len(kept) and not kept[first + 1].startswith("--"):  # its value is a word of its own
            kept[first + 1] += f",{more}"
    return kept


def _options(command: type) -> Iterator[str]:
    """Yield the names of a command's options, those of the configuration within it too."""
    hints = typing.get_type_hints(command)
    for field in dataclasses.fields(command):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _options(hints[field.name])
        else:
            yield field.name


def _present(kinds: Set[str], word: str) -> str:
    """Return an option as it is spelt now."""
    option, assigned, value = word.partition("=")
    former = option.removeprefix("--")
    if not option.startswith("--") or former in kinds or FORMER.get(former) not in kinds:
        return word
    return f"--{FORMER[former]}{assigned}{value}"
