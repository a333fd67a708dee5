"""Running the branches of a plan: the base condition chooses at every decision but the first of each branch."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from robotest import interrupt
from robotest.branching import branches
from robotest.branching.branches import Branch, Place
from robotest.branching.plan import Plan, planned
from robotest.errors import InterruptedRunError
from robotest.randomness import EpisodeSeeds
from robotest.runtime.runner import EpisodeRunner
from robotest.runtime.selector import DecisionRequest, VerifierSelector
from robotest.specs import EnvSpec
from robotest.threads import one_thread
from robotest.types import Clock, Decision, Policy, Verifier

_BASE: Final = ""
"""Name of the base in the selector; no verifier has it, so the base can also be judged."""


class BranchPlanner:
    """A `Selector` that lets the base condition choose, and keeps every verifier's score of a branch's candidate.

    Args:
        policy: of the recorded episodes.
        base: verifier of the recorded episodes.
        verifiers: name -> verifier that is judged.
        n_candidates: M.
        clock: measures.
    """

    def __init__(
        self, policy: Policy, base: Verifier, verifiers: Mapping[str, Verifier], n_candidates: int, clock: Clock
    ) -> None:
        self._selector = VerifierSelector(policy, {**verifiers, _BASE: base}, n_candidates, clock)
        self._judged = tuple(verifiers)
        self._scores: dict[Place, Mapping[str, float]] = {}

    @property
    def concurrent(self) -> bool:
        """See `Selector.concurrent`."""
        return self._selector.concurrent

    def require_fits(self, env: EnvSpec) -> None:
        """See `Selector.require_fits`."""
        self._selector.require_fits(env)

    def decide(self, requests: Sequence[DecisionRequest]) -> list[Decision]:
        """See `Selector.decide`. The branched decision is the recorded one in every future."""
        recorded = [_as_recorded(r) if r.candidate is not None else r for r in requests]
        batch, sample_s = self._selector.sample(recorded)
        decisions = []
        for original, request, candidates in zip(requests, recorded, batch, strict=True):
            if request.candidate is not None:
                choices = {name: self._selector.choose(_under(name, request), candidates) for name in self._judged}
                scores = {name: float(choice.scores[request.candidate]) for name, choice in choices.items()}
                self._scores[_place(original.seeds, request.number, request.candidate)] = scores
            decisions.append(self._selector.choose(_under(_BASE, request), candidates, sample_s))
        return decisions

    def take_scores(self, place: Place) -> Mapping[str, float]:
        """Return verifier -> its score of a candidate, and forget it; empty if there was no decision."""
        return self._scores.pop(place, {})


def run(
    plan: Plan,
    planner: BranchPlanner,
    runner: EpisodeRunner,
    out: Path,
    done: Callable[[int, int], None] = lambda *_: None,
) -> list[Branch]:
    """Run the branches that are not in `out` yet and return all of the plan.

    Args:
        plan: what to branch.
        planner: decides.
        runner: runs.
        out: directory of `branches.jsonl`; one line a branch, synced to disk.
        done: called with how many are done, and of how many.

    Raises:
        RobotestError: episodes are missing or have no snapshots, or the file is damaged or of another plan.
        InterruptedRunError: Ctrl-C; what is finished is kept.
    """
    wanted = {branch.place: branch for branch in planned(plan)}
    file, subject = out / branches.FILE, plan.subject()
    finished = branches.read(file, subject)
    missing = [branch.job for place, branch in wanted.items() if place not in finished]
    n_before = len(wanted) - len(missing)
    done(n_before, len(wanted))
    if not missing:  # nothing is written then: the directory may be read-only
        return [finished[place] for place in wanted]
    try:
        with (
            one_thread(),
            interrupt.deferred(),
            branches.appending(file, subject) as append,
            contextlib.closing(runner.run(planner, missing)) as results,
        ):
            for count, result in enumerate(results, n_before + 1):
                job, episode = result.job, result.episode
                assert job.candidate is not None
                place = _place(job.seeds, job.first_decision, job.candidate)
                scores = planner.take_scores(place)
                branch = Branch(place, wanted[place].n_decisions, episode.outcome, episode.steps, scores)
                append(branch)
                finished[place] = branch
                done(count, len(wanted))
    except KeyboardInterrupt as pressed:
        raise InterruptedRunError(
            f"interrupted; the {len(finished)} finished branches are kept in {out}; the same command goes on"
        ) from pressed
    return [finished[place] for place in wanted]


def _place(seeds: EpisodeSeeds, decision: int, candidate: int) -> Place:
    return Place(seeds.task, seeds.episode, decision, candidate, seeds.continuation)


def _as_recorded(request: DecisionRequest) -> DecisionRequest:
    return dataclasses.replace(request, seeds=dataclasses.replace(request.seeds, continuation=0))


def _under(condition: str, request: DecisionRequest) -> DecisionRequest:
    return dataclasses.replace(request, condition=condition)
