"""Branches and their file: the first line says what they are branches of, every other line is one branch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from robotest.errors import RunDirectoryError
from robotest.runs import directory
from robotest.runs.spec import Identity
from robotest.types import Outcome

FILE = "branches.jsonl"


@dataclasses.dataclass(frozen=True)
class Place:
    """A candidate of a decision of a recorded episode, and which of its futures.

    Attributes:
        task: of the episode.
        index: of the episode.
        decision: number of the decision within it.
        candidate: the one executed.
        continuation: number of the future; in future 0 the candidate that the base chose leads to the recorded episode.
    """

    task: str
    index: int
    decision: int
    candidate: int
    continuation: int


@dataclasses.dataclass(frozen=True)
class Branch:
    """How an episode ended that was branched: one line of `branches.jsonl`.

    Attributes:
        place: where it was branched.
        n_decisions: how many decisions the recorded episode has.
        outcome: of the branch.
        steps: actions executed in it.
        scores: verifier -> its score of the candidate.
    """

    place: Place
    n_decisions: int
    outcome: Outcome
    steps: int
    scores: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Subject:
    """What the branches of one file have in common.

    Attributes:
        run: identity of the run that recorded the episodes.
        condition: the base.
        verifiers: name -> fingerprint of each verifier whose scores are kept, None if it has no file.
    """

    run: Identity
    condition: str
    verifiers: Mapping[str, str | None]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form, read back by `from_json`."""
        return {"run": self.run.to_json(), "condition": self.condition, "verifiers": dict(self.verifiers)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Subject:
        """Inverse of `to_json`."""
        return cls(Identity.from_json(data["run"]), data["condition"], data["verifiers"])


def read(file: Path, subject: Subject) -> dict[Place, Branch]:
    """Read finished branches; a last line that an interruption tore is cut off.

    Raises:
        RunDirectoryError: the branches are of another subject, or a line is damaged.
    """
    if not file.exists():
        return {}
    whole = file.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    if kept != whole:
        with directory.writing(file.parent):
            os.truncate(file, len(kept))
    branches: dict[Place, Branch] = {}
    for number, line in enumerate(kept.splitlines(), 1):
        try:
            data = json.loads(line)
            if number == 1:
                _require_same(file, data, subject)
                continue
            branch = Branch(**{**data, "place": Place(**data["place"])})
        except (ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(
                f"{file} line {number} is damaged ({error!r}); delete the line to run it again"
            ) from error
        branches[branch.place] = branch
    return branches


@contextlib.contextmanager
def appending(file: Path, subject: Subject) -> Iterator[Callable[[Branch], None]]:
    """Open a file of branches; the function yielded puts one more branch on disk."""
    with directory.writing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.open("a", encoding="utf-8")

    def append(line: Mapping[str, Any]) -> None:
        with directory.writing(file.parent):
            lines.write(json.dumps(line, allow_nan=False) + "\n")
            lines.flush()
            os.fsync(lines.fileno())

    try:
        if lines.tell() == 0:
            append(subject.to_json())
        yield lambda branch: append(dataclasses.asdict(branch))
    finally:
        with directory.writing(file.parent):
            lines.close()  # writes what an interrupted `append` left in the buffer


def _require_same(file: Path, there: Mapping[str, Any], subject: Subject) -> None:
    try:
        same = Subject.from_json(there) == subject
    except (KeyError, TypeError, AttributeError):
        same = False
    if not same:
        raise RunDirectoryError(
            f"{file} has branches of {there}, not of {subject.to_json()}; give these or another --out"
        )
