from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robotest.specs import PolicySpec
from robotest.types import Candidates, Context, Observation
from robotest.verifiers import coherence
from tests.doubles.fakes import HORIZON, PointPolicy

SPEC = PointPolicy().spec
HERE = Observation({}, np.array([0, 0, 0.3, 0], np.float32), "reach the target", 0.0)


def drawn(seed: int, n: int = 6) -> Candidates:
    return Candidates(np.random.default_rng(seed).standard_normal((n, HORIZON, 3)).astype(np.float32))


def score(candidates: Candidates, context: Context, policy: PolicySpec = SPEC) -> np.ndarray:
    return coherence.make(policy).score(dataclasses.replace(HERE, context=context), candidates, 0)


def after(seed: int, executed: int) -> Context:
    return Context(executed, drawn(seed, 1).actions[0], executed)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 9999), executed=st.integers(1, HORIZON), n=st.integers(1, 12))
def test_a_score_is_of_its_candidate_alone(seed: int, executed: int, n: int) -> None:
    candidates, context = drawn(seed, n), after(seed + 1, executed)
    moved = np.random.default_rng(seed).permutation(n)
    np.testing.assert_array_equal(
        score(Candidates(candidates.actions[moved]), context), score(candidates, context)[moved]
    )


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 9999), executed=st.integers(1, HORIZON - 1), factor=st.floats(1e-3, 1e3))
def test_the_unit_of_the_actions_does_not_matter(seed: int, executed: int, factor: float) -> None:
    candidates, context = drawn(seed), after(seed + 1, executed)
    scale = np.array([factor, 1, 1 / factor], np.float32)
    assert context.previous is not None
    scores = score(
        Candidates(candidates.actions * scale),
        dataclasses.replace(context, previous=context.previous * scale),
        dataclasses.replace(SPEC, action_scale=SPEC.action_scale * scale),
    )
    assert scores == pytest.approx(score(candidates, context), rel=1e-3)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 9999), executed=st.integers(1, HORIZON - 1), place=st.integers(0, 6))
def test_the_continuation_is_preferred(seed: int, executed: int, place: int) -> None:
    """The tip's offsets start anew from the last command; the gripper's openings do not."""
    context = after(seed, executed)
    assert context.previous is not None
    goes_on = np.random.default_rng(seed + 1).standard_normal((HORIZON, 3)).astype(np.float32)
    left = context.previous[executed:]
    goes_on[: len(left), :2] = left[:, :2] - context.previous[executed - 1, :2]
    goes_on[: len(left), 2] = left[:, 2]
    actions = np.insert(drawn(seed + 2).actions, place, goes_on, axis=0)
    scores = score(Candidates(actions), context)
    assert scores.argmax() == place
    assert scores[place] == pytest.approx(0, abs=1e-5)


def test_early_steps_count_more() -> None:
    """One action scale off at step j costs 0.5**j of the sum of all weights."""
    context = Context(4, np.zeros((HORIZON, 3), np.float32), 4)  # two steps are left
    chunks = np.zeros((4, HORIZON, 3), np.float32)
    chunks[1, 0, 2] = chunks[2, 1, 2] = chunks[3, 2, 2] = SPEC.action_scale[0, 2]
    assert score(Candidates(chunks), context) == pytest.approx([0, -1 / 1.5, -0.5 / 1.5, 0])


@pytest.mark.parametrize("context", [Context(), after(0, HORIZON)])
def test_without_a_plan_the_plain_sample_is_taken(context: Context) -> None:
    assert score(drawn(1), context).tolist() == [0.0] * 6
