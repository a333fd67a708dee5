"""Which branches: every candidate of chosen decisions of recorded episodes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

from robotest.branching.branches import Place, Subject
from robotest.errors import RobotestError
from robotest.randomness import EpisodeSeeds
from robotest.runs import directory, episode_file
from robotest.runtime.rollout import Origin
from robotest.runtime.runner import EpisodeJob


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to branch.

    Attributes:
        run: directory of the recorded episodes.
        condition: the base.
        tasks: of them.
        episodes: of each task, from index 0.
        verifiers: name -> fingerprint of each verifier that is judged, None if it has no file.
        continuations: futures of every candidate.
        every: branch every so many decisions of an episode.
    """

    run: Path
    condition: str
    tasks: tuple[str, ...]
    episodes: int
    verifiers: Mapping[str, str | None]
    continuations: int = 1
    every: int = 1

    def subject(self) -> Subject:
        """Return what its branches have in common."""
        return Subject(directory.read_arguments(self.run).identity, self.condition, dict(self.verifiers))


@dataclasses.dataclass(frozen=True)
class PlannedBranch:
    """A branch to run.

    Attributes:
        place: where it branches.
        job: runs it.
        n_decisions: how many decisions the recorded episode has.
    """

    place: Place
    job: EpisodeJob
    n_decisions: int


def planned(plan: Plan) -> Iterator[PlannedBranch]:
    """Yield every branch of a plan, in its order.

    Raises:
        RobotestError: an episode is missing or has no snapshots.
    """
    identity = directory.read_arguments(plan.run).identity
    for task, index in itertools.product(plan.tasks, range(plan.episodes)):
        recorded = episode_file.read(directory.episode_path(plan.run, (plan.condition, task, index)))
        if recorded.snapshots is None:
            raise RobotestError(f"{plan.condition} {task} {index} of {plan.run} has no states to go back to")
        n_decisions, n_candidates = recorded.candidates.shape[:2]
        for decision, candidate, continuation in itertools.product(
            range(0, n_decisions, plan.every), range(n_candidates), range(plan.continuations)
        ):
            context = recorded.context(decision)
            job = EpisodeJob(
                condition=plan.condition,
                seeds=EpisodeSeeds(identity.seed, task, index, continuation),
                options=recorded.scene.options,
                execute=identity.execute,
                origin=Origin(recorded.snapshots[context.step], decision, context),
                candidate=candidate,
            )
            yield PlannedBranch(Place(task, index, decision, candidate, continuation), job, n_decisions)
