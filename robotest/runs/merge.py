"""Two runs over the same starts, read as one: for policies that were evaluated apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from robotest.errors import RunDirectoryError, UnpairedStartsError
from robotest.runs import directory
from robotest.runs.spec import Arguments, Key
from robotest.runtime.rollout import SNAPSHOT
from robotest.types import Episode

COMPARED = ("policy", "policy_fingerprint", "code", "candidates", "execute", "action_mode", "image_size")
"""Fields of an identity in which two runs may differ. All others, also those that a later version adds, must be equal,
so that equal indices are the same start of the same task."""


@dataclasses.dataclass(frozen=True)
class Paired:
    """One run, or two as one.

    Attributes:
        arguments: conditions of two runs are called ``RUN/CONDITION``; tasks are those that both have.
        episodes: under those names.
        pairs: of two runs, the pairs to compare: conditions of the same name, or all across if no name is in both.
            None: every pair.
    """

    arguments: Arguments
    episodes: Mapping[Key, Episode]
    pairs: tuple[tuple[str, str], ...] | None

    def only(self, conditions: Sequence[str], tasks: Sequence[str]) -> Paired:
        """Return some conditions and tasks, in this order."""
        verifiers = {c: self.arguments.verifiers[c] for c in conditions}
        return Paired(
            dataclasses.replace(self.arguments, verifiers=verifiers, tasks=tuple(tasks)),
            self.episodes,
            self.pairs and tuple((a, b) for a, b in self.pairs if a in conditions and b in conditions),
        )


def read(run: Path, other: Path | None = None, *, unpaired: bool = False, allow_code_changes: bool = False) -> Paired:
    """Read one run, or two as one; see `pair`."""
    if other is not None:
        return pair(run, other, unpaired=unpaired, allow_code_changes=allow_code_changes)
    return Paired(*directory.read(run), pairs=None)


def pair(a: Path, b: Path, *, unpaired: bool = False, allow_code_changes: bool = False) -> Paired:
    """Read two runs as one.

    Args:
        a: one run.
        b: the other.
        unpaired: compare them as independent samples, so that their seeds may differ.
        allow_code_changes: accept that the source of the environment or of its rule of success was edited in between.

    Raises:
        RunDirectoryError: one is missing or damaged, or they do not share their starts; the message says why.
    """
    (first, one), (second, other) = directory.read(a), directory.read(b)
    differences = [
        f"{d.name} is {d.a!r} in one and {d.b!r} in the other"
        for d in first.identity.differences(second.identity)
        if d.name not in COMPARED
        and not (unpaired and d.name == "seed")
        and not (allow_code_changes and d.name == "env_code")
    ]
    if any(text.startswith("env_code") for text in differences):
        differences.append(
            "the environment's code was edited in between; if that changes nothing, compare with --allow-code-changes"
        )
    if not unpaired and first.identity.action_mode != second.identity.action_mode:
        one, other = _without_snapshots(one), _without_snapshots(other)
    tasks = tuple(task for task in first.tasks if task in second.tasks)
    if not tasks:
        differences.append(f"they have no task in common: {', '.join(first.tasks)}; {', '.join(second.tasks)}")
    differences += _limits(one, other)
    if differences:
        raise RunDirectoryError(f"{a} and {b} cannot be paired: {'; '.join(differences)}")
    names = (a.name, b.name) if a.resolve().name != b.resolve().name else (str(a), str(b))
    if names[0] == names[1]:
        raise RunDirectoryError(f"{a} given twice; `robotest compare {a}` compares its conditions")
    both = dict(zip(names, (first, second), strict=True))
    return Paired(
        arguments=dataclasses.replace(
            first,
            verifiers={f"{name}/{c}": None for name, run in both.items() for c in run.verifiers},
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


def require_same_starts(episodes: Iterable[Episode]) -> None:
    """Compare the digests of equal starts.

    Raises:
        UnpairedStartsError: two conditions started an episode differently.
    """
    seen: dict[tuple[str, int], list[Episode]] = {}
    for episode in episodes:
        for other in seen.setdefault((episode.task, episode.index), []):
            parts = [name for name, digest in episode.start.items() if other.start.get(name, digest) != digest]
            if parts and other.condition != episode.condition:
                raise UnpairedStartsError(
                    f"episode {episode.index} of {episode.task!r} starts differently under {other.condition!r} and"
                    f" {episode.condition!r} ({', '.join(parts)}): the environment does not start from its seed alone,"
                    " or was changed in between, so these are no pairs. Have `reset` draw everything from its seed, or"
                    " compare independent samples with --unpaired"
                )
        seen[episode.task, episode.index].append(episode)


def _without_snapshots(episodes: Mapping[Key, Episode]) -> dict[Key, Episode]:
    """Take the simulator's state, which depends on the action mode, out of the digests of starts."""

    def observed(episode: Episode) -> Episode:
        start = {name: digest for name, digest in episode.start.items() if not name.startswith(SNAPSHOT)}
        return dataclasses.replace(episode, start=start)

    return {key: observed(episode) for key, episode in episodes.items()}


def _limits(one: Mapping[Key, Episode], other: Mapping[Key, Episode]) -> list[str]:
    """Return which tasks have another step limit; it is 0 for an episode that failed before it was known."""
    limits = [{key[1]: e.max_steps for key, e in run.items() if e.max_steps} for run in (one, other)]
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
