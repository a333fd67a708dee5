from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from robotest.errors import SpecMismatchError
from robotest.specs import Component, VectorSpec, VerifierSpec
from tests.doubles.fakes import ACTION, STATE, PointPolicy


def changed(**changes: Any) -> VectorSpec:
    return VectorSpec("tip", (dataclasses.replace(ACTION.components[0], **changes), ACTION.components[1]))


def test_a_vector_knows_its_layout() -> None:
    assert ACTION.size == 3
    assert ACTION.slice("tip") == slice(0, 2)
    assert ACTION.slice("gripper") == slice(2, 3)
    assert ACTION.low.tolist() == [-0.5, -0.5, 0.0]
    assert ACTION.high.tolist() == [0.5, 0.5, 1.0]


def test_an_unknown_component_names_those_there_are() -> None:
    with pytest.raises(KeyError, match=r"no component 'elbow' in \['tip', 'gripper'\]"):
        ACTION.slice("elbow")


def test_json_and_back() -> None:
    assert VectorSpec.from_json(json.loads(json.dumps(ACTION.to_json()))) == ACTION


def test_equal_specs_fit() -> None:
    ACTION.require_equal(VectorSpec.from_json(ACTION.to_json()), "actions")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "hand"},
        {"size": 3},
        {"unit": "mm"},
        {"convention": "position_xy_base"},
        {"low": -0.4},
        {"high": 0.4},
        {"reference": "absolute"},
    ],
)
def test_every_convention_counts(changes: dict[str, Any]) -> None:
    (value,) = changes.values()
    with pytest.raises(SpecMismatchError, match=f"{value}.* given"):
        ACTION.require_equal(changed(**changes), "actions")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (VectorSpec("joint", ACTION.components), "mode 'tip' is needed, 'joint' given"),
        (VectorSpec("tip", ACTION.components[:1]), "2 components needed, 1 given"),
        (VectorSpec("tip", (*ACTION.components, Component("x", 1, "m", "x", 0, 1))), "2 components needed, 3 given"),
    ],
)
def test_modes_and_numbers_count(other: VectorSpec, message: str) -> None:
    with pytest.raises(SpecMismatchError, match=message):
        ACTION.require_equal(other, "actions")


def test_a_verifier_for_any_policy_fits() -> None:
    VerifierSpec("v", "hidden").require_fits(PointPolicy().spec)
    VerifierSpec("v", "hidden", policy_fingerprint="fake-weights").require_fits(PointPolicy().spec)


def test_states_differ_from_actions() -> None:
    with pytest.raises(SpecMismatchError, match=r"^state of the robot: mode 'point'"):
        STATE.require_equal(ACTION, "state of the robot")
