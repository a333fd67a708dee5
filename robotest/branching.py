"""What would each candidate have led to? Every candidate of a decision is executed and the episode finished from there.

Whole episodes judge a verifier by one bit each. From a recorded episode of a *base* condition one can go back to any
decision, execute each of its M candidates, and finish under the base with the same noises for all: the success of
candidate m is then known, and with it how well a verifier's scores order the candidates and what its pick is worth.
What is found is about one decision made by the verifier among decisions made by the base.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from robotest import interrupt
from robotest.errors import InterruptedRunError, RobotestError, RunDirectoryError
from robotest.randomness import EpisodeSeeds
from robotest.runs import directory, episode_file
from robotest.runtime.rollout import Origin
from robotest.runtime.runner import EpisodeJob, EpisodeResult, EpisodeRunner
from robotest.runtime.selector import DecisionRequest, Selector
from robotest.statistics import intervals
from robotest.threads import one_thread
from robotest.types import Candidates, Clock, Decision, EnvOptions, Outcome, Policy, Verifier

FILE = "branches.jsonl"
_BASE = "base"


@dataclasses.dataclass(frozen=True)
class Place:
    """A candidate of a decision of a recorded episode, and which of its futures.

    Attributes:
        task: of the episode.
        index: of the episode.
        decision: number of the decision within it.
        candidate: the one executed.
        continuation: number of the future; in future 0 the base's own choice leads to the recorded episode.
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


class BranchPlanner(Selector):
    """Executes a given candidate at a given decision, and elsewhere what the base condition chooses.

    Args:
        policy: of the recorded episodes.
        base: verifier of the recorded episodes.
        verifiers: name -> verifier that scores the candidates of the branched decision.
        n_candidates: M.
        clock: measures.
    """

    def __init__(
        self, policy: Policy, base: Verifier, verifiers: Mapping[str, Verifier], n_candidates: int, clock: Clock
    ) -> None:
        super().__init__(policy, {_BASE: base, **verifiers}, n_candidates, clock)
        self._names = list(verifiers)
        self.scores: dict[Place, dict[str, float]] = {}

    def _choose(self, request: DecisionRequest, candidates: Candidates, sample_s: float) -> Decision:
        place = _place(request.condition)
        if request.number != place.decision:
            return super()._choose(dataclasses.replace(request, condition=_BASE), candidates, sample_s)
        # The branched decision is the recorded one in every future.
        recorded = dataclasses.replace(request, seeds=dataclasses.replace(request.seeds, continuation=0))
        scored = {
            name: super(BranchPlanner, self)._choose(dataclasses.replace(recorded, condition=name), candidates, 0.0)
            for name in self._names
        }
        self.scores[place] = {name: float(d.scores[place.candidate]) for name, d in scored.items()}
        chosen = np.zeros(len(candidates.actions))
        chosen[place.candidate] = 1.0
        return Decision(candidates, chosen, place.candidate, sample_s, 0.0)

    def _sampling_seed(self, request: DecisionRequest) -> int:
        seeds = request.seeds
        if request.number == _place(request.condition).decision:
            seeds = dataclasses.replace(seeds, continuation=0)
        return seeds.noise(request.number)


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


def run(
    plan: Plan,
    selector: BranchPlanner,
    runner: EpisodeRunner,
    out: Path,
    done: Callable[[int, int], None] = lambda *_: None,
) -> list[Branch]:
    """Run the branches that are not in `out` yet and return all of the plan.

    Args:
        plan: what to branch.
        selector: decides.
        runner: runs.
        out: directory of `branches.jsonl`; one line a branch, flushed.
        done: told how many are done, and of how many.

    Raises:
        RobotestError: episodes are missing or have no snapshots, or the file is damaged or of another plan.
        InterruptedRunError: Ctrl-C; what is finished is kept.
    """
    jobs = {_place(a.condition): (a, n) for a, n in _jobs(plan)}
    found = _read(out / FILE, _identity(plan))
    missing = [a for place, (a, _) in jobs.items() if place not in found]
    total, there = len(jobs), len(jobs) - len(missing)
    done(there, total)
    if not missing:  # then nothing is written: the directory may be one that is only read
        return [found[place] for place in jobs]
    try:
        with (
            one_thread(),
            interrupt.deferred(),
            _lines(out / FILE, plan) as append,
            contextlib.closing(runner.run(selector, missing)) as ended,
        ):
            for count, finished in enumerate(ended, there + 1):
                branch = _branch(finished, jobs, selector)
                append(dataclasses.asdict(branch))
                found[branch.place] = branch
                done(count, total)
    except KeyboardInterrupt as pressed:
        raise InterruptedRunError(
            f"interrupted; the {len(found)} finished branches are kept in {out}; the same command goes on"
        ) from pressed
    return [found[place] for place in jobs]


@contextlib.contextmanager
def _lines(file: Path, plan: Plan) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Open a file of branches; what is yielded puts one more line on disk."""
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
            append(_identity(plan))
        yield append
    finally:
        with directory.writing(file.parent):
            lines.close()  # writes what an interrupted `append` left in the buffer


def _jobs(plan: Plan) -> Iterator[tuple[EpisodeJob, int]]:
    """Yield every branch of the plan, with the number of decisions of its episode."""
    asked = directory.read_arguments(plan.run)
    for task, index in itertools.product(plan.tasks, range(plan.episodes)):
        recorded = episode_file.read(directory.episode_path(plan.run, (plan.condition, task, index)))
        if recorded.snapshots is None:
            raise RobotestError(f"{plan.condition} {task} {index} of {plan.run} has no states to go back to")
        n_decisions, n_candidates = recorded.candidates.shape[:2]
        options: EnvOptions = recorded.scene.options
        for decision, candidate, continuation in itertools.product(
            range(0, n_decisions, plan.every), range(n_candidates), range(plan.continuations)
        ):
            step = int(recorded.decision_steps[decision])
            yield (
                EpisodeJob(
                    condition=_name(Place(task, index, decision, candidate, continuation)),
                    seeds=EpisodeSeeds(asked.identity["seed"], task, index, continuation),
                    options=options,
                    execute=asked.identity["execute"],
                    origin=Origin(recorded.snapshots[step], step, decision),
                ),
                n_decisions,
            )


def _branch(finished: EpisodeResult, jobs: Mapping[Place, tuple[EpisodeJob, int]], selector: BranchPlanner) -> Branch:
    episode = finished.episode
    place = _place(episode.condition)
    return Branch(place, jobs[place][1], episode.outcome, episode.steps, selector.scores.pop(place, {}))


def _name(place: Place) -> str:
    return json.dumps(dataclasses.astuple(place))


def _place(name: str) -> Place:
    return Place(*json.loads(name))


def _identity(plan: Plan) -> dict[str, Any]:
    """What branches in one file have in common: the recorded episodes, the base, and whose scores are kept."""
    recorded = directory.read_arguments(plan.run).identity
    return {"run": recorded, "condition": plan.condition, "verifiers": dict(plan.verifiers)}


def _read(file: Path, identity: Mapping[str, Any]) -> dict[Place, Branch]:
    """Read what is finished; a torn last line is cut off."""
    if not file.exists():
        return {}
    whole = file.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    if kept != whole:
        with directory.writing(file.parent):
            os.truncate(file, len(kept))
    found = {}
    for number, line in enumerate(kept.splitlines(), 1):
        try:
            data = json.loads(line)
            if number == 1:
                if data != identity:
                    raise RunDirectoryError(
                        f"{file} has branches of {data}, not of {identity}; give these or another --out"
                    )
                continue
            branch = Branch(**{**data, "place": Place(**data["place"])})
        except (ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(
                f"{file} line {number} is damaged ({error!r}); delete the line to run it again"
            ) from error
        found[branch.place] = branch
    return found


@dataclasses.dataclass(frozen=True)
class Group:
    """One branched decision.

    Attributes:
        task: of the episode.
        index: of the episode.
        decision: its number.
        n_decisions: of the episode.
        success: [M] share of each candidate's futures that succeeded.
        scores: verifier -> [M] scores.
    """

    task: str
    index: int
    decision: int
    n_decisions: int
    success: np.ndarray
    scores: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Quality:
    """How good a verifier's scores are. Intervals take episodes as the unit.

    Attributes:
        auc: chance that of two candidates of a decision, one of which leads to success more often, that one has the
            higher score; ties count half. None if there are no such two.
        auc_interval: of it.
        correlation: mean over decisions of Spearman's rank correlation with the success of candidates; None if no
            decision has both unequal scores and unequal successes.
        gain: success of its pick minus the mean success of the candidates.
        gain_interval: of it.
    """

    auc: float | None
    auc_interval: intervals.Interval | None
    correlation: float | None
    gain: float
    gain_interval: intervals.Interval | None


@dataclasses.dataclass(frozen=True)
class Report:
    """What branches say.

    Attributes:
        decisions: branched without an error.
        excluded: decisions left out because a branch of theirs ended in an error.
        episodes: they come from.
        steps: simulated for them.
        mean: success of a random candidate.
        headroom: success of the best candidate minus the mean. With few futures the best is partly luck.
        contested: share of decisions at which candidates differ at all.
        verifiers: name -> quality.
        along: by fifths of an episode, (decisions, share at which candidates differ, headroom).
    """

    decisions: int
    excluded: int
    episodes: int
    steps: int
    mean: float
    headroom: float
    contested: float
    verifiers: Mapping[str, Quality]
    along: tuple[tuple[int, float, float], ...]


def report(branches: Sequence[Branch], level: float = 0.95) -> Report:
    """Summarise branches.

    Raises:
        RobotestError: there is no decision without an error.
    """
    groups, excluded = _groups(branches)
    if not groups:
        raise RobotestError(f"not enough data: {len(branches)} branches, no decision without an error")
    episodes = list(dict.fromkeys((g.task, g.index) for g in groups))
    spans = [[g for g in groups if 5 * g.decision // g.n_decisions == fifth] for fifth in range(5)]
    return Report(
        decisions=len(groups),
        excluded=excluded,
        episodes=len(episodes),
        steps=sum(b.steps for b in branches),
        mean=_mean(g.success.mean() for g in groups),
        headroom=_headroom(groups),
        contested=_contested(groups),
        verifiers={name: _quality(name, groups, level) for name in groups[0].scores},
        along=tuple(
            (
                len(own),
                _mean(np.ptp(g.success) > 0 for g in own),
                _mean(g.success.max() - g.success.mean() for g in own),
            )
            for own in spans
        ),
    )


def _headroom(groups: Sequence[Group]) -> float:
    return _mean(g.success.max() - g.success.mean() for g in groups)


def _contested(groups: Sequence[Group]) -> float:
    return _mean(np.ptp(g.success) > 0 for g in groups)


def _groups(branches: Iterable[Branch]) -> tuple[list[Group], int]:
    """Return the decisions and how many were left out."""
    by_decision: dict[tuple[str, int, int], list[Branch]] = {}
    for b in branches:
        by_decision.setdefault((b.place.task, b.place.index, b.place.decision), []).append(b)
    groups, excluded = [], 0
    for (task, index, decision), own in by_decision.items():
        if any(b.outcome == "error" for b in own):
            excluded += 1
            continue
        numbers = sorted({b.place.candidate for b in own})
        success = [_mean(b.outcome == "success" for b in own if b.place.candidate == m) for m in numbers]
        first = [next(b for b in own if b.place.candidate == m) for m in numbers]
        scores = {name: np.array([b.scores[name] for b in first]) for name in first[0].scores}
        groups.append(Group(task, index, decision, own[0].n_decisions, np.array(success), scores))
    return groups, excluded


def _quality(name: str, groups: Sequence[Group], level: float) -> Quality:
    gains: dict[tuple[str, int], list[float]] = {}
    wins: dict[tuple[str, int], list[float]] = {}
    correlations = []
    for g in groups:
        scores, success = g.scores[name], g.success
        gains.setdefault((g.task, g.index), []).append(float(success[int(np.argmax(scores))] - success.mean()))
        better = success[:, None] > success[None, :]
        ordered = (scores[:, None] > scores[None, :]) + 0.5 * (scores[:, None] == scores[None, :])
        wins.setdefault((g.task, g.index), []).extend(ordered[better].tolist())
        if np.ptp(scores) > 0 and np.ptp(success) > 0:
            correlations.append(float(np.corrcoef(rankdata(scores), rankdata(success))[0, 1]))
    auc, auc_interval = _clustered(list(wins.values()), level)
    auc_interval = intervals.within(auc_interval, 0.0, 1.0)
    gain, gain_interval = _clustered(list(gains.values()), level)
    assert gain is not None
    return Quality(auc, auc_interval, _mean(correlations) if correlations else None, gain, gain_interval)


def _clustered(clusters: Sequence[Sequence[float]], level: float) -> tuple[float | None, intervals.Interval | None]:
    totals, sizes = [sum(c) for c in clusters if c], [len(c) for c in clusters if c]
    return (sum(totals) / sum(sizes), intervals.clustered(totals, sizes, level)) if sizes else (None, None)


def _mean(values: Iterable[Any]) -> float:
    with contextlib.suppress(ZeroDivisionError):
        found = [float(v) for v in values]
        return sum(found) / len(found)
    return 0.0
