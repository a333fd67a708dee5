"""What branches say about verifiers: how their scores order candidates, and what their picks are worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.stats import rankdata

from robotest.branching.branches import Branch
from robotest.errors import RobotestError
from robotest.statistics import intervals


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
    success: Float64[np.ndarray, " M"]
    scores: Mapping[str, Float64[np.ndarray, " M"]]


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


class Part(NamedTuple):
    """A fifth of all episodes.

    Attributes:
        decisions: branched in it.
        contested: share of them at which candidates differ.
        headroom: see `Report.headroom`.
    """

    decisions: int
    contested: float
    headroom: float


@dataclasses.dataclass(frozen=True)
class Report:
    """Summary of branches.

    Attributes:
        decisions: number of decisions branched without an error.
        excluded: number of decisions left out because one of their branches ended in an error.
        episodes: number of episodes they come from.
        steps: control steps simulated for all branches.
        mean: success of a random candidate.
        headroom: success of the best candidate minus the mean. With few futures the best is partly luck.
        contested: share of decisions at which candidates differ at all.
        verifiers: name -> quality.
        along: the same by fifths of an episode.
    """

    decisions: int
    excluded: int
    episodes: int
    steps: int
    mean: float
    headroom: float
    contested: float
    verifiers: Mapping[str, Quality]
    along: tuple[Part, ...]


def report(branches: Sequence[Branch], level: float = 0.95) -> Report:
    """Summarise branches.

    Raises:
        RobotestError: there is no decision without an error.
    """
    groups, excluded = _groups(branches)
    if not groups:
        raise RobotestError(f"not enough data: {len(branches)} branches, no decision without an error")
    episodes = list(dict.fromkeys((g.task, g.index) for g in groups))
    parts = [[g for g in groups if 5 * g.decision // g.n_decisions == fifth] for fifth in range(5)]
    return Report(
        decisions=len(groups),
        excluded=excluded,
        episodes=len(episodes),
        steps=sum(b.steps for b in branches),
        mean=_mean(g.success.mean() for g in groups),
        headroom=_headroom(groups),
        contested=_contested(groups),
        verifiers={name: _quality(name, groups, level) for name in groups[0].scores},
        along=tuple(Part(len(part), _contested(part), _headroom(part)) for part in parts),
    )


def _headroom(groups: Sequence[Group]) -> float:
    return _mean(g.success.max() - g.success.mean() for g in groups)


def _contested(groups: Sequence[Group]) -> float:
    return _mean(np.ptp(g.success) > 0 for g in groups)


def _groups(branches: Iterable[Branch]) -> tuple[list[Group], int]:
    """Return the decisions without errors, and the number of the others."""
    by_decision: dict[tuple[str, int, int], list[Branch]] = {}
    for b in branches:
        by_decision.setdefault((b.place.task, b.place.index, b.place.decision), []).append(b)
    groups, excluded = [], 0
    for (task, index, decision), futures in by_decision.items():
        if any(b.outcome == "error" for b in futures):
            excluded += 1
            continue
        numbers = sorted({b.place.candidate for b in futures})
        success = [_mean(b.outcome == "success" for b in futures if b.place.candidate == m) for m in numbers]
        first = [next(b for b in futures if b.place.candidate == m) for m in numbers]
        scores = {name: np.array([b.scores[name] for b in first]) for name in first[0].scores}
        groups.append(Group(task, index, decision, futures[0].n_decisions, np.array(success), scores))
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


def _mean(values: Iterable[float]) -> float:
    """Return the mean; 0 of nothing."""
    numbers = [float(v) for v in values]
    return sum(numbers) / len(numbers) if numbers else 0.0
