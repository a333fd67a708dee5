"""Two runs over the same starts, read as one: for policies that were evaluated apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from robotest import runs
from robotest.errors import RunDirectoryError
from robotest.runs import Arguments, Key
from robotest.types import Episode

SAME = ("env", "setting", "wording", "seed", "standin_assets")
"""What two runs must have in common for equal indices to be the same start and the same question. Policy, candidates,
execution and action mode may differ: they are what is compared."""


@dataclasses.dataclass(frozen=True)
class Paired:
    """Two runs as one.

    Attributes:
        arguments: conditions are called ``RUN/CONDITION``; tasks are those that both runs have.
        episodes: of both, under those names.
        pairs: what is to be compared: conditions of the same name, or all across if no two have the same.
    """

    arguments: Arguments
    episodes: Mapping[Key, Episode]
    pairs: tuple[tuple[str, str], ...]


def pair(a: Path, b: Path) -> Paired:
    """Read two runs as one.

    Raises:
        RunDirectoryError: one is missing or damaged, or they are not about the same starts; the message says why.
    """
    (first, one), (second, other) = runs.read(a), runs.read(b)
    differences = [
        f"{name} is {first.identity.get(name)!r} in one and {second.identity.get(name)!r} in the other"
        for name in SAME
        if first.identity.get(name) != second.identity.get(name)
    ]
    tasks = tuple(task for task in first.tasks if task in second.tasks)
    if not tasks:
        differences.append(f"they have no task in common: {', '.join(first.tasks)}; {', '.join(second.tasks)}")
    differences += _limits(one, other)
    if differences:
        raise RunDirectoryError(f"{a} and {b} cannot be paired: {'; '.join(differences)}")
    names = (a.name, b.name) if a.resolve().name != b.resolve().name else (str(a), str(b))
    if names[0] == names[1]:
        raise RunDirectoryError(f"{a} given twice; `robotest compare {a}` compares its conditions")
    asked = dict(zip(names, (first, second), strict=True))
    return Paired(
        arguments=dataclasses.replace(
            first,
            verifiers={f"{name}/{c}": None for name, own in asked.items() for c in own.verifiers},
            tasks=tasks,
            pair=None,
            alpha=None,
            adaptive=False,
        ),
        episodes=_named(names[0], one) | _named(names[1], other),
        pairs=tuple(
            (f"{names[0]}/{c}", f"{names[1]}/{d}")
            for c in first.verifiers
            for d in second.verifiers
            if c == d or not set(first.verifiers) & set(second.verifiers)
        ),
    )


def _limits(one: Mapping[Key, Episode], other: Mapping[Key, Episode]) -> list[str]:
    """Say which tasks have another step limit; episodes that broke before there was one have 0."""
    limits = [{key[1]: e.max_steps for key, e in own.items() if e.max_steps} for own in (one, other)]
    return [
        f"the step limit of {task} is {limits[0][task]} in one and {limits[1][task]} in the other"
        for task in sorted(set(limits[0]) & set(limits[1]))
        if limits[0][task] != limits[1][task]
    ]


def _named(run: str, episodes: Mapping[Key, Episode]) -> dict[Key, Episode]:
    return {
        (f"{run}/{condition}", task, index): dataclasses.replace(episode, condition=f"{run}/{condition}")
        for (condition, task, index), episode in episodes.items()
    }
