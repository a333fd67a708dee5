"""Policies that fit every environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from robotest.loading import policy_and_folder
from robotest.policies import baselines
from robotest.specs import Component, EnvSpec, VectorSpec
from robotest.testing import check_policy
from robotest.types import EnvOptions, Observation
from tests.doubles.fakes import PointEnv
from tests.doubles.scripted_gymnasium import playing

BLIND = Observation({}, np.zeros(0, np.float32), "go", 0.0)


def environment(*components: Component) -> EnvSpec:
    return EnvSpec("e", "t", "clean", VectorSpec("m", components), VectorSpec("m", ()), {}, 0.1, 5)


def number(low: float, high: float, convention: str = "any", reference: Any = "absolute") -> Component:
    return Component("x", 1, "m", convention, low, high, reference)


def drawn(env: EnvSpec, n: int = 600) -> np.ndarray:
    actions: np.ndarray = baselines.random(None, env).sample([BLIND], [3], n)[0].actions
    return actions.reshape(-1, env.action.size)


@pytest.mark.parametrize("name", ["random", "zero"])
def test_they_conform_wherever_they_are_made_for(name: str) -> None:
    actions = spaces.Dict(a=spaces.Discrete(3, start=4), b=spaces.Box(-np.inf, np.inf, (2,)), c=spaces.MultiBinary(2))
    with playing(actions=actions) as task:
        policy, folder = policy_and_folder(name, lambda: task.spec)
        check_policy(policy, task)
    env = PointEnv("near", EnvOptions(image_size=16))
    check_policy(policy_and_folder(name, lambda: env.spec)[0], env)
    assert folder is None
    assert (policy.spec.cameras, policy.spec.feature_shapes, policy.spec.horizon) == ({}, {}, 8)


def test_random_fills_the_bounds_evenly() -> None:
    found = drawn(environment(number(-2, 6), number(0, 1, reference="chunk_start")))
    assert found.dtype == np.float32
    for values, low, high in zip(found.T, (-2, 0), (6, 1), strict=True):
        assert values.min() >= low
        assert values.max() <= high
        np.testing.assert_allclose(np.quantile(values, [0.25, 0.5, 0.75]), np.linspace(low, high, 5)[1:4], atol=0.3)


@pytest.mark.parametrize("convention", ["discrete", "integer"])
def test_all_choices_are_alike(convention: str) -> None:
    found, counts = np.unique(drawn(environment(number(-1, 2, convention))), return_counts=True)
    assert found.tolist() == [-1, 0, 1, 2]
    assert (abs(counts / counts.sum() - 0.25) < 0.03).all()


def test_random_without_bounds_is_normal() -> None:
    found = drawn(environment(number(-1e6, 1e6), number(-np.inf, 5), number(3, 1e6), number(-1e6, 1e6, "integer")))
    assert abs(found[:, 0].mean()) < 0.1
    assert abs(found[:, 0].std() - 1) < 0.1
    assert found[:, 1].max() <= 5
    assert found[:, 2].min() == 3
    assert (found[:, 3] == np.rint(found[:, 3])).all()


def test_a_candidate_is_its_seeds_and_its_numbers() -> None:
    env = environment(number(-1, 1))
    policy = baselines.random(None, env)
    one, other = policy.sample([BLIND, BLIND], [1, 2], 4)
    np.testing.assert_array_equal(policy.sample([BLIND], [2], 2)[0].actions, other.actions[:2])
    assert not np.array_equal(one.actions, other.actions)
    assert len(np.unique(one.actions[:, 0])) == 4


def test_zero_stays_within_the_bounds() -> None:
    policy = baselines.zero(None, environment(number(-1, 1), number(2, 3), number(-3, -2)))
    assert (policy.sample([BLIND], [1], 2)[0].actions == np.array([0, 2, -2])).all()


def test_a_single_choice_is_a_choice() -> None:
    assert (drawn(environment(number(4, 4, "discrete")), 2) == 4).all()
