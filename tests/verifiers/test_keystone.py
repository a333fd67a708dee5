from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robotest.types import Candidates, Context, Observation
from robotest.verifiers import controls, keystone
from tests.doubles.fakes import HORIZON, PointPolicy

SPEC = PointPolicy().spec
HERE = Observation({}, np.array([0, 0, 0.3, 0], np.float32), "reach the target", 0.0)


def drawn(seed: int, n: int, n_right: int = 0, apart: float = 0.0) -> Candidates:
    """Chunks of spread 0.1 around one point, the last `n_right` of them around another."""
    rng = np.random.default_rng(seed)
    actions = 0.1 * rng.standard_normal((n, HORIZON, 3))
    actions[n - n_right :] += apart
    return Candidates(actions.astype(np.float32))


def line(*ends: float) -> Candidates:
    """Every number of a chunk is its end."""
    return Candidates((np.array(ends)[:, None, None] * np.ones((1, HORIZON, 3))).astype(np.float32))


def score(candidates: Candidates, executed: int = 0) -> np.ndarray:
    context = Context(executed, candidates.actions[0], executed) if executed else Context()
    return keystone.make(SPEC).score(dataclasses.replace(HERE, context=context), candidates, 0)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 9999), n=st.integers(1, 12), right=st.integers(0, 4))
def test_the_order_of_the_candidates_does_not_matter(seed: int, n: int, right: int) -> None:
    candidates = drawn(seed, n + right, right, apart=2.0)
    moved = np.random.default_rng(seed).permutation(n + right)
    assert score(Candidates(candidates.actions[moved])) == pytest.approx(score(candidates)[moved])


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 9999), factor=st.floats(1e-3, 1e3))
def test_the_unit_of_the_actions_does_not_matter(seed: int, factor: float) -> None:
    candidates, scale = drawn(seed, 8, 3, apart=0.5), np.array([factor, 1, 1 / factor], np.float32)
    other = keystone.make(dataclasses.replace(SPEC, action_scale=SPEC.action_scale * scale))
    scores = other.score(HERE, Candidates(candidates.actions * scale), 0)
    assert scores == pytest.approx(score(candidates), rel=1e-4)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 9999), small=st.integers(1, 5), more=st.integers(1, 5))
def test_it_takes_the_medoid_of_the_larger_cluster(seed: int, small: int, more: int) -> None:
    large = small + more
    candidates = drawn(seed, large + small, small, apart=5.0)
    scores = score(candidates)
    alone = controls.medoid(SPEC).score(HERE, Candidates(candidates.actions[:large]), 0)
    assert scores[:large] == pytest.approx(alone)
    assert scores.argmax() == alone.argmax()
    assert scores[large:].max() < scores[:large].min()  # all of the smaller cluster come last


def test_a_mode_wins_over_the_middle() -> None:
    """The medoid of all candidates is the single one between two modes."""
    candidates = line(0.0, 0.01, 0.02, 0.03, 0.04, 0.2, 1.0, 1.01, 1.02, 1.03, 1.04)
    assert controls.medoid(SPEC).score(HERE, candidates, 0).argmax() == 5
    assert score(candidates).argmax() in (2, 3)


def test_one_mode_has_the_scores_of_the_medoid() -> None:
    candidates = line(*np.linspace(-1, 1, 9) ** 3)  # dense in the middle
    np.testing.assert_array_equal(score(candidates), controls.medoid(SPEC).score(HERE, candidates, 0))


def test_of_clusters_of_one_size_the_tighter_wins() -> None:
    assert score(line(0, 0.01, 1, 1.1)).argmax() in (0, 1)
    assert score(line(0, 0.1, 1, 1.01)).argmax() in (2, 3)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_equal_candidates_have_equal_scores(n: int) -> None:
    assert score(Candidates(np.ones((n, HORIZON, 3), np.float32))).tolist() == [0.0] * n


def test_only_the_steps_that_are_executed_count() -> None:
    """At the first decision all of them do; later as many as were executed of the chunk before."""
    candidates = drawn(0, 7)
    candidates.actions[:4, 2:] += 9.0  # the larger cluster, but only in what is not executed
    candidates.actions[:2, :2] -= 2.0  # the smaller cluster, in what is
    assert score(candidates).argmax() in (0, 1, 2, 3)
    assert score(candidates, executed=2).argmax() in (2, 3, 4, 5, 6)
    assert score(candidates, executed=2)[:2].max() < score(candidates, executed=2)[2:].min()
