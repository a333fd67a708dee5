"""What a run was asked for, and what an episode of it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from robotest.success import PREDICATE
from robotest.types import Episode

Key = tuple[str, str, int]
"""(condition, task, index): what identifies an episode within a run."""
Start = tuple[str, int]
"""(task, index): what the conditions share."""
CODE = ("code", "env_code")
"""Parts of an identity that change with source files: of policy and verifiers, and of the environment."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What a run was asked for.

    Attributes:
        identity: everything that changes what an episode *is*; must be equal for a run to continue.
        verifiers: condition -> fingerprint of its verifier's file, None if it has no file; must be equal for the
            conditions that are already in the run. New conditions may come.
        tasks: may change.
        episodes: per task and condition, on average if the run is adaptive; may change.
        pair: the two conditions that `alpha` and `adaptive` are about; None if neither is asked for. May change.
        alpha: error rate at which the run stops as soon as the pair is told apart; None: it does not. May change.
        adaptive: whether tasks get episodes by how much they tell about the pair. May change.
    """

    identity: Mapping[str, Any]
    verifiers: Mapping[str, str | None]
    tasks: tuple[str, ...]
    episodes: int
    pair: tuple[str, str] | None = None
    alpha: float | None = None
    adaptive: bool = False


def key_of(episode: Episode) -> Key:
    """Return what identifies an episode within a run."""
    return (episode.condition, episode.task, episode.index)


def notes(identity: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what every table of a run must say, beside that its assets are stand-ins."""
    rule = identity.get("success", PREDICATE)
    told = [] if rule == PREDICATE else [f"success: {rule}"]
    told += [text for text in (identity.get("simulator"), *identity.get("caveats", ())) if text]
    if not identity.get("repeatable", True):
        told.append("starts laid out by people, not compared")
    return tuple(told)
