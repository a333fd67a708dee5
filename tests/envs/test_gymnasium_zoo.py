"""Any gymnasium environment: the run ends as its description says it must, and with nothing but one-line errors.

``ROBOTEST_THOROUGH=1`` tries ten thousand of them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from robotest.config import EvalConfig
from robotest.errors import RobotestError, UnpairedStartsError
from robotest.evaluation import evaluate
from robotest.runs import directory, provenance
from robotest.statistics.summary import Summary
from tests.doubles.gymnasium_zoo import BEASTS, RULES, Beast, Expected, Fate, foretell
from tests.doubles.thorough import THOROUGH

EXAMPLES = 10_000 if THOROUGH else 120
CONDITIONS = ("first", "random")
EPISODES = 2


def run(beast: Beast, success: str | None, seed: int, out: Path) -> tuple[Fate, Summary | None, str]:
    """Evaluate a described environment; return how it ended."""
    beast.register()
    config = EvalConfig(
        out=out,
        env=f"gymnasium:{beast.id}",
        policy="random",
        verifiers=CONDITIONS,
        episodes=EPISODES,
        candidates=2,
        seed=seed,
        success=success,
        record="none",
        workers=0,
    )
    try:
        return "complete", evaluate(config), ""
    except UnpairedStartsError as error:
        return "unpaired", None, str(error)
    except RobotestError as error:
        return "refused", None, str(error)


def require(expected: Expected, summary: Summary, out: Path) -> None:
    """Compare every episode, and the summary, with what was foretold."""
    episodes = directory.read_episodes(out)
    assert len(episodes) == len(CONDITIONS) * EPISODES
    for episode in episodes.values():
        assert episode.outcome == expected.outcome, episode.error
        if expected.outcome != "error":
            assert episode.steps == expected.steps
            assert episode.episode_return == expected.total
        else:
            assert episode.error
            assert "\n" not in episode.error
    starts = {index: [e.start for e in episodes.values() if e.index == index] for index in range(EPISODES)}
    assert all(one == other for one, other in starts.values())
    for name in CONDITIONS:
        rate = summary.conditions[name].overall
        counted = {"success": rate.successes, "failure": rate.failures, "error": rate.errors, "unjudged": rate.unjudged}
        assert counted.pop(expected.outcome) == EPISODES
        assert not any(counted.values())
    assert not summary.unpaired


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out, or do once, what is the same for all examples and takes longer than they do."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr("robotest.evaluation.one_thread", contextlib.nullcontext)
    monkeypatch.setattr(provenance, "versions", functools.cache(provenance.versions))
    monkeypatch.setattr(provenance, "digest", lambda _: None)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],
)
@given(BEASTS, RULES, st.integers(0, 3))
def test_every_environment_ends_as_it_must(beast: Beast, success: str | None, seed: int) -> None:
    expected = foretell(beast, success)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        fate, summary, message = run(beast, success, seed, out)
        assert fate == expected.fate, message
        assert "\n" not in message
        if summary is not None:
            require(expected, summary, out)
