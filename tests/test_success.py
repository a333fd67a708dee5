from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robotest.errors import RobotestError, SuccessError
from robotest.success import Judged, Rule, truth

STEP = Judged({}, terminated=False, truncated=False, finished=False, episode_return=0.0, steps=1)


@pytest.mark.parametrize(
    "value", [True, 1, 1.0, np.True_, np.float32(1), np.array(1), np.array([True]), np.ones((1, 1))]
)
def test_yes(value: object) -> None:
    assert truth(value) is True


@pytest.mark.parametrize("value", [False, 0, 0.0, np.False_, np.int64(0), np.array([0.0]), np.array([[False]])])
def test_no(value: object) -> None:
    assert truth(value) is False


@pytest.mark.parametrize(
    "value",
    [
        {"success": False},
        {},
        [False],
        [],
        "false",
        b"0",
        math.nan,
        np.float32("nan"),
        math.inf,
        0.5,
        2,
        -1,
        None,
        np.array([True, False]),
        np.array([], bool),
        np.array(["yes"]),
        object(),
        1j,
    ],
)
def test_neither_yes_nor_no_is_an_error_that_shows_it(value: object) -> None:
    with pytest.raises(SuccessError, match="a bool is needed"):
        truth(value)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.integers(), lambda x: st.lists(x)))
def test_only_the_two_bools_and_the_two_numbers_are_answers(value: Any) -> None:
    try:
        assert truth(value) == value
    except SuccessError:
        assert not isinstance(value, bool)
        assert value not in (0, 1)


def test_a_torch_tensor_is_an_array_too() -> None:
    torch = pytest.importorskip("torch")
    assert truth(torch.tensor([True])) is True
    with pytest.raises(SuccessError):
        truth(torch.tensor([1.0, 1.0]))


def test_a_threshold_is_judged_on_the_finished_episode() -> None:
    rule = Rule("return>=-5")
    rule.begin()
    assert not rule(dataclasses.replace(STEP, episode_return=-1.0))  # above it, but nothing is finished
    assert not rule(dataclasses.replace(STEP, finished=True, episode_return=-6.0))
    assert rule(dataclasses.replace(STEP, finished=True, episode_return=-5.0))


def test_termination_is_success_only_where_asked_for() -> None:
    end = dataclasses.replace(STEP, terminated=True, finished=True)
    assert Rule("terminated")(end)
    assert not Rule("none")(end)


def test_a_key_of_info_may_come_late_but_must_come() -> None:
    rule = Rule("info:won")
    rule.begin()
    assert not rule(STEP)
    assert rule(dataclasses.replace(STEP, info={"won": np.array([1])}, finished=True))
    rule.begin()
    with pytest.raises(SuccessError, match="ended without 'won' in any info; its last has 'lost'"):
        rule(dataclasses.replace(STEP, info={"lost": True}, finished=True))


def test_an_answer_of_info_that_is_none_is_an_error() -> None:
    with pytest.raises(SuccessError, match=r"success by 'info:won' is \{'a': 1\}"):
        Rule("info:won")(dataclasses.replace(STEP, info={"won": {"a": 1}}))


def won_late(judged: Judged) -> bool:
    return judged.steps > 3


def unsure(judged: Judged) -> str:
    return "perhaps"


def test_a_function_judges() -> None:
    rule = Rule("tests.test_success:won_late")
    assert not rule(STEP)
    assert rule(dataclasses.replace(STEP, steps=4))
    with pytest.raises(SuccessError, match="perhaps"):
        Rule("tests.test_success:unsure")(STEP)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "info",
        "info:",
        "return",
        "return>=",
        "return>=nan",
        "return>=inf",
        "return>5",
        "no_such_module:f",
        "math:nothing",
        "math:pi",
    ],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(RobotestError, match="--success"):
        Rule(text)
