from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robotest.types import Candidates, Observation
from robotest.verifiers import controls
from tests.doubles.fakes import PointPolicy, TowardsVerifier

SPEC = PointPolicy().spec
HERE = Observation({}, np.array([0, 0, 0.3, 0], np.float32), "reach the target", 0.0)


def chunks(*ends: float) -> Candidates:
    """Return one-parameter chunks: every number of a chunk is its value."""
    return Candidates(np.array(ends, np.float32)[:, None, None] * np.ones((1, 6, 3), np.float32))


def test_first_takes_candidate_0() -> None:
    assert controls.first(SPEC).score(HERE, chunks(3, 1, 2), 0).argmax() == 0


def test_random_depends_on_the_seed_alone_and_is_nested() -> None:
    random = controls.random(SPEC)
    few, many = random.score(HERE, chunks(0, 1, 2), 7), random.score(HERE, chunks(5, 6, 7, 8, 9), 7)
    assert np.array_equal(few, many[:3])
    assert not np.array_equal(few, random.score(HERE, chunks(0, 1, 2), 8))


def test_random_takes_every_candidate_equally_often() -> None:
    random = controls.random(SPEC)
    picks = np.bincount([random.score(HERE, chunks(0, 1, 2, 3), s).argmax() for s in range(2000)], minlength=4)
    assert (abs(picks - 500) < 5 * np.sqrt(2000 * 0.25 * 0.75)).all()


def test_the_medoid_is_the_candidate_in_the_middle() -> None:
    scores = controls.medoid(SPEC).score(HERE, chunks(0, 5, 6, 7, 30), 0)
    assert scores.argmax() == 2
    # L2 over 18 equal numbers, each divided by the scale 0.1
    distance = np.sqrt(18) / 0.1
    assert scores[2] == pytest.approx(-distance * (6 + 1 + 1 + 24) / 4, rel=1e-5)


def test_the_medoid_measures_every_number_in_its_own_scale() -> None:
    wide = PointPolicy()
    wide.spec.action_scale[:, 0] = 100.0  # the first number says nothing any more
    candidates = chunks(0, 1, 2)
    candidates.actions[:, :, 0] = np.array([50, 90, 70])[:, None]
    assert controls.medoid(wide.spec).score(HERE, candidates, 0).argmax() == 1
    assert controls.medoid(SPEC).score(HERE, candidates, 0).argmax() == 2


@given(st.permutations(range(6)))
def test_the_medoid_does_not_mind_the_order(order: list[int]) -> None:
    candidates = np.random.Generator(np.random.Philox(1)).standard_normal((6, 6, 3)).astype(np.float32)
    scores = controls.medoid(SPEC).score(HERE, Candidates(candidates), 0)
    assert controls.medoid(SPEC).score(HERE, Candidates(candidates[order]), 0) == pytest.approx(scores[order])


def test_one_candidate_is_its_own_medoid() -> None:
    assert controls.medoid(SPEC).score(HERE, chunks(3), 0).tolist() == [0.0]


def test_inverted_takes_what_the_other_verifier_likes_least() -> None:
    towards = TowardsVerifier(SPEC)
    candidates = PointPolicy().sample([HERE], [5], 8)[0]
    inverted = controls.Inverted(towards)
    assert inverted.score(HERE, candidates, 0).argmax() == towards.score(HERE, candidates, 0).argmin()
    assert inverted.spec.name == "inverted:towards"
    assert (inverted.spec.feature, inverted.spec.policy_fingerprint) == ("hidden", SPEC.fingerprint)


def test_the_inverted_factory_inverts_leverage(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved: list[tuple[str, str]] = []

    def resolve(kind: str, name: str) -> object:
        resolved.append((kind, name))
        return lambda policy, path: TowardsVerifier(policy)

    monkeypatch.setattr(controls, "resolve", resolve)
    assert controls.inverted(SPEC, Path("leverage.safetensors")).spec.name == "inverted:towards"
    assert resolved == [("verifier", "leverage")]
