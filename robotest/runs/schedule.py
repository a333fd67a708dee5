"""Which episodes a run consists of: fixed, until the comparison is decided, or allocated to informative tasks.

Everything here is a function of the arguments and of finished episodes, so an interrupted run continues as if it had
never stopped, and reading a run again gives the same answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from robotest import success
from robotest.randomness import derive
from robotest.runs.directory import ROUND
from robotest.runs.merge import require_same_starts
from robotest.runs.spec import Arguments, Key, Start
from robotest.statistics import allocation, summary
from robotest.statistics.sequential import Monitor
from robotest.types import Episode, Outcome


def planned(tasks: Sequence[str], episodes: int) -> list[Start]:
    """Return every start in the order of running. Tasks take turns, so that a part of a run covers all of them."""
    return _in_turns({task: range(episodes) for task in tasks})


def starts(arguments: Arguments, episodes: Mapping[Key, Episode]) -> list[Start]:
    """Return the starts of a run in their order, as far as the finished episodes determine them."""
    if arguments.adaptive:
        return _adaptive(arguments, episodes)
    everything = planned(arguments.tasks, arguments.episodes)
    watched = monitor(arguments, episodes)
    return everything[: watched.decided_after] if watched else everything


def keys(arguments: Arguments, episodes: Mapping[Key, Episode]) -> list[Key]:
    """Return the episodes of a run; conditions are innermost, so that a part of a run is paired too."""
    return [(c, task, index) for task, index in starts(arguments, episodes) for c in arguments.verifiers]


def shuffled(keys: Sequence[Key], seed: int) -> list[Key]:
    """Return the episodes with the conditions of each start in an order drawn from the seed and the start alone."""
    order = {start: i for i, start in enumerate(dict.fromkeys((task, index) for _, task, index in keys))}
    return sorted(keys, key=lambda key: (order[key[1:]], derive(seed, "order", *key)))


def monitor(arguments: Arguments, episodes: Mapping[Key, Episode]) -> Monitor | None:
    """Return the state of the sequential comparison; None for a run that does not stop when decided."""
    if arguments.pair is None or arguments.alpha is None:
        return None
    watched = Monitor(*arguments.pair, arguments.alpha)
    watched.look(planned(arguments.tasks, arguments.episodes), outcomes(episodes))
    return watched


def outcomes(episodes: Mapping[Key, Episode]) -> dict[Key, Outcome]:
    """Return outcomes by key."""
    return {key: episode.outcome for key, episode in episodes.items()}


def summarise(
    arguments: Arguments,
    episodes: Mapping[Key, Episode],
    level: float = 0.95,
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    unpaired: bool = False,
) -> summary.Summary:
    """Summarise the finished episodes of a run, without those after the comparison was decided.

    Raises:
        UnpairedStartsError: conditions started an episode differently, and `unpaired` is false.
    """
    finished = [episodes[key] for key in keys(arguments, episodes) if key in episodes]
    if not unpaired:
        require_same_starts(finished)
    judged = arguments.identity.success != success.NONE
    whole = summary.summarise(
        finished, list(arguments.verifiers), arguments.tasks, level, pairs, judged=judged, unpaired=unpaired
    )
    estimate = None
    if arguments.adaptive:
        first, second = _passes(arguments, episodes)
        estimate = allocation.estimate(first, second, arguments.episodes, level)
    return dataclasses.replace(
        whole,
        sequential=monitor(arguments, episodes),
        adaptive=estimate,
        standin_assets=bool(arguments.identity.standin_assets),
        notes=arguments.identity.notes,
    )


def _adaptive(arguments: Arguments, episodes: Mapping[Key, Episode]) -> list[Start]:
    n_first = allocation.first_pass(arguments.episodes)
    first = planned(arguments.tasks, n_first)
    if any((condition, *start) not in episodes for start in first for condition in arguments.verifiers):
        return first
    more = allocation.second_pass(_passes(arguments, episodes)[0], arguments.episodes)
    return first + _in_turns({task: range(n_first, n_first + n) for task, n in more.items()})


def _passes(arguments: Arguments, episodes: Mapping[Key, Episode]) -> list[dict[str, list[int]]]:
    """Return for each pass: task -> its paired differences."""
    assert arguments.pair is not None
    a, b = arguments.pair
    n_first = allocation.first_pass(arguments.episodes)
    passes: list[dict[str, list[int]]] = [{task: [] for task in arguments.tasks} for _ in range(2)]
    for (condition, task, index), episode in episodes.items():
        other = episodes.get((b, task, index))
        if condition == a and task in arguments.tasks and other and "error" not in (episode.outcome, other.outcome):
            difference = (episode.outcome == "success") - (other.outcome == "success")
            passes[index >= n_first][task].append(difference)
    return passes


def _in_turns(indices: Mapping[str, Iterable[int]]) -> list[Start]:
    by_turn = [(n // ROUND, i, task, n) for i, (task, numbers) in enumerate(indices.items()) for n in numbers]
    return [(task, index) for _, _, task, index in sorted(by_turn, key=lambda entry: (entry[0], entry[1], entry[3]))]
