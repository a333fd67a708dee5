r"""Lists of names as they are typed: separated by commas, or in an option that is repeated.

A comma within a name is written ``\,``, or just so where the names that there are tell.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from robotest.errors import RobotestError, UnknownNameError

LISTS = frozenset({"conditions", "tasks", "verifiers"})
"""Fields of commands that hold such a list, where they are strings."""
REPEATED = frozenset({"env_arg"})
"""Fields whose option is repeated, once for each value."""
FORMER = {"verifier": "verifiers"}
"""Options as they were spelt before, where a command has only the present one."""
_COMMA = re.compile(r"(?<!\\),")


def split(text: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated list, without spaces and empty ones."""
    return tuple(_name(part) for part in _COMMA.split(text) if part.strip())


def among(kind: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of a comma-separated list, or all `known` ones for ``all``; of names with commas the longest.

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


def once_each(command: type, words: Sequence[str]) -> list[str]:
    """Return a command's words with lists that are given in parts put together.

    Raises:
        RobotestError: another option is given twice, of which one would count and the other not.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(command)}
    kept: list[str] = []
    seen: dict[str, int] = {}  # where in `kept` each option stands
    rest = iter(_present(kinds, word) for word in words)
    for word in rest:
        kept.append(word)
        option, assigned, value = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        name = name if name in kinds else name.removeprefix("no_")
        if not option.startswith("--") or name not in kinds or name in REPEATED:
            continue
        if name not in seen:
            seen[name] = len(kept) - 1
            continue
        if name not in LISTS or not str(kinds[name]).startswith("str"):
            raise RobotestError(f"--{name.replace('_', '-')} given twice; give it once")
        del kept[-1]
        more = value if assigned else next(rest, "")
        first = seen[name]
        if "=" in kept[first]:
            kept[first] += f",{more}"
        elif first + 1 < len(kept) and not kept[first + 1].startswith("--"):  # its value is a word of its own
            kept[first + 1] += f",{more}"
    return kept


def _present(kinds: Mapping[str, object], word: str) -> str:
    """Return an option as it is spelt now."""
    option, assigned, value = word.partition("=")
    former = option.removeprefix("--")
    if not option.startswith("--") or former in kinds or FORMER.get(former) not in kinds:
        return word
    return f"--{FORMER[former]}{assigned}{value}"


def _name(text: str) -> str:
    return text.strip().replace("\\,", ",")
