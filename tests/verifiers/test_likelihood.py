from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robotest.errors import SpecMismatchError
from robotest.loading import load_condition
from robotest.types import Candidates, Observation
from robotest.verifiers import likelihood
from tests.doubles.fakes import HORIZON, KnowingPolicy, PointPolicy

SPEC = KnowingPolicy().spec
HERE = Observation({}, np.array([0, 0, 0.3, 0], np.float32), "reach the target", 0.0)


@given(st.lists(st.floats(-1e6, 0, width=32), min_size=1, max_size=12))
def test_the_scores_are_the_log_probabilities(log_probs: list[float]) -> None:
    candidates = Candidates(
        np.zeros((len(log_probs), HORIZON, 3), np.float32), log_probs=np.array(log_probs, np.float32)
    )
    scores = likelihood.make(SPEC).score(HERE, candidates, 0)
    assert scores.dtype == np.float64
    assert scores.tolist() == log_probs


@pytest.mark.parametrize("name", ["likelihood", "inverted:likelihood"])
def test_a_policy_without_log_probabilities_is_refused_when_it_is_loaded(name: str) -> None:
    load_condition(name, KnowingPolicy(), None)
    message = "'likelihood' needs log-probabilities; policy 'fake' gives none"
    with pytest.raises(SpecMismatchError, match=message) as caught:
        load_condition(name, PointPolicy(), None)
    assert "\n" not in str(caught.value)


def test_the_inverted_likelihood_needs_the_same() -> None:
    inverted = load_condition("inverted:likelihood", KnowingPolicy(), None).verifier
    with pytest.raises(SpecMismatchError, match="'inverted:likelihood' needs log-probabilities"):
        inverted.spec.require_fits(PointPolicy().spec)


def test_candidates_without_them_are_refused() -> None:
    with pytest.raises(SpecMismatchError, match="the candidates have none"):
        likelihood.make(SPEC).score(HERE, Candidates(np.zeros((1, HORIZON, 3), np.float32)), 0)
