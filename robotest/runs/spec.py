"""What a run consists of: its arguments, and the identity of its episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final

from robotest.success import PREDICATE
from robotest.types import Episode

Key = tuple[str, str, int]
"""(condition, task, index): identifies an episode within a run."""
Start = tuple[str, int]
"""(task, index): the conditions share it."""
CODE: Final = ("code", "env_code")
"""Fields of an `Identity` that change with source files."""
_OTHERS: Final = "others"


@dataclasses.dataclass(frozen=True)
class Difference:
    """A field in which two identities differ, with both values as in JSON; None where one does not have it."""

    name: str
    a: object
    b: object


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """What an episode of a run *is*: everything but its condition, task and index that can change its result.

    A field that can be None was not recorded by an earlier version; for `code` and `env_code` it may also say that no
    source file stands behind the names.

    Attributes:
        env: name of the suite.
        setting: see `EnvOptions.setting`.
        action_mode: see `EnvOptions.action_mode`.
        wording: see `EnvOptions.wording`.
        image_size: see `EnvOptions.image_size` [px].
        env_args: see `EnvOptions.env_args`.
        success: see `EnvSpec.success`.
        simulator: see `EnvSpec.simulator`.
        caveats: see `EnvSpec.caveats`.
        repeatable: see `EnvSpec.repeatable`.
        standin_assets: see `EnvSpec.standin_assets`.
        policy: name of the policy.
        policy_fingerprint: see `PolicySpec.fingerprint`.
        candidates: M.
        execute: actions of a chunk executed before the next decision.
        seed: of the run.
        env_code: hash of the source behind the environment and its rule of success.
        code: hash of the source behind the policy and the verifiers.
        others: fields of another version that this one does not know; compared like the rest.
    """

    env: str
    setting: str
    action_mode: str
    wording: str
    image_size: int
    env_args: tuple[str, ...] | None = None
    success: str | None = None
    simulator: str | None = None
    caveats: tuple[str, ...] | None = None
    repeatable: bool | None = None
    standin_assets: bool | None = None
    policy: str
    policy_fingerprint: str
    candidates: int
    execute: int
    seed: int
    env_code: str | None = None
    code: str | None = None
    others: Mapping[str, object] = dataclasses.field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """What every table of the run must say, beside that its assets are stand-ins."""
        said = [] if self.success in (None, PREDICATE) else [f"success: {self.success}"]
        said += [text for text in (self.simulator, *(self.caveats or ())) if text]
        if self.repeatable is False:
            said.append("starts laid out by people, not compared")
        return tuple(said)

    def differences(self, other: Identity) -> Iterator[Difference]:
        """Yield every field in which two identities differ."""
        mine, theirs = self.to_json(), other.to_json()
        for name in {**mine, **theirs}:
            if mine.get(name) != theirs.get(name):
                yield Difference(name, mine.get(name), theirs.get(name))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form without the fields that were not recorded, read back by `from_json`."""
        fields = dataclasses.asdict(self)
        others: dict[str, Any] = fields.pop(_OTHERS)
        recorded = {name: value for name, value in fields.items() if value is not None or name in CODE}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in recorded.items()} | others

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Identity:
        """Inverse of `to_json`.

        Raises:
            TypeError: a field that every version records is missing.
        """
        known = {field.name for field in dataclasses.fields(cls)} - {_OTHERS}
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items() if name in known
        }
        return cls(**fields, others={name: value for name, value in data.items() if name not in known})


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of a run.

    Attributes:
        identity: must be equal for a run to continue.
        verifiers: condition -> fingerprint of its verifier's file, None if it has no file; must be equal for the
            conditions that are already in the run. Conditions may be added.
        tasks: may change.
        episodes: per task and condition, on average if the run is adaptive; may change.
        pair: the two conditions for `alpha` and `adaptive`; None if neither is used. May change.
        alpha: error rate at which the run stops as soon as the pair is decided; None: it does not stop. May change.
        adaptive: whether tasks get episodes by how much they say about the pair. May change.
    """

    identity: Identity
    verifiers: Mapping[str, str | None]
    tasks: tuple[str, ...]
    episodes: int
    pair: tuple[str, str] | None = None
    alpha: float | None = None
    adaptive: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form, read back by `from_json`."""
        return {**dataclasses.asdict(self), "identity": self.identity.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Arguments:
        """Inverse of `to_json`.

        Raises:
            KeyError: a field is missing.
            TypeError: a field of the identity is missing, or something has another type.
        """
        return cls(
            identity=Identity.from_json(data["identity"]),
            verifiers=data["verifiers"],
            tasks=tuple(data["tasks"]),
            episodes=data["episodes"],
            pair=tuple(data["pair"]) if data["pair"] else None,
            alpha=data["alpha"],
            adaptive=data["adaptive"],
        )


def key_of(episode: Episode) -> Key:
    """Return the key of an episode."""
    return (episode.condition, episode.task, episode.index)
