"""Rules for success in environments that do not define it, and invalid answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from robotest.errors import InvalidObservationError, RobotestError, SuccessError
from tests.doubles.scripted_gymnasium import playing

GO = np.zeros(1, np.float32)
NOTHING: Any = lambda _: {}  # noqa: E731


def after(step: int, late: Any, early: Any = None) -> Any:
    return lambda k: late if k >= step else ({} if early is None else early)


@pytest.mark.parametrize(
    ("info", "threshold", "rule"),
    [
        (lambda _: {"success": 0, "is_success": 1}, 5.0, "info:success"),
        (lambda _: {"is_success": 0}, 5.0, "info:is_success"),
        (lambda k: {"success": False} if k == 0 else {}, None, "info:success"),
        (lambda k: {"is_success": False} if k == 1 else {}, None, "info:is_success"),
        (NOTHING, -3.75, "return>=-3.75"),
        (NOTHING, 475.0, "return>=475"),
        (NOTHING, 0.1, "return>=0.1"),
    ],
)
def test_a_reset_and_a_step_tell_the_rule(info: Any, threshold: float | None, rule: str) -> None:
    with playing(info=info, threshold=threshold) as task:
        assert task.spec.success == rule


@pytest.mark.parametrize("threshold", [None, float("nan"), float("inf")])
def test_what_nothing_judges_is_refused(threshold: float | None) -> None:
    with pytest.raises(RobotestError, match="does not define success"), playing(info=NOTHING, threshold=threshold):
        pass


def test_the_rule_given_is_the_rule() -> None:
    with playing(info=lambda _: {"won": 1}, success="info:won") as task:
        task.reset(0)
        assert task.apply(GO).success
        assert task.spec.success == "info:won"


def test_probing_leaves_nothing_behind() -> None:
    with playing() as task:
        assert task._env.unwrapped.steps == 0  # type: ignore[attr-defined]


def test_a_return_is_judged_at_the_end_alone() -> None:
    with playing(info=NOTHING, threshold=3.0, reward=after(1, 5.0, 0.0), ended=lambda k: (False, k == 4)) as task:
        task.reset(0)
        status = [task.apply(GO) for _ in range(4)]
    assert [s.success for s in status] == [False, False, False, True]
    assert [s.done for s in status] == [False, False, False, True]


def test_a_return_is_that_of_one_episode_and_may_fall_again() -> None:
    rewards = {1: 5.0, 2: -4.0}
    with playing(info=NOTHING, threshold=3.0, reward=lambda k: rewards.get(k, 0), max_steps=2) as task:
        for _ in range(2):
            task.reset(0)
            assert [task.apply(GO).success for _ in range(2)] == [False, False]


def test_the_step_limit_finishes_an_episode_that_no_wrapper_cuts() -> None:
    with playing(info=NOTHING, success="return>=1", reward=lambda _: 0.001, max_steps=None) as task:
        task.reset(0)
        status = [task.apply(GO) for _ in range(1000)]
    assert not any(s.done for s in status[:-1])
    assert [s.success for s in status] == [*[False] * 999, True]


@pytest.mark.parametrize(("key", "info"), [("success", NOTHING), ("is_success", NOTHING)])
def test_a_word_that_comes_late_contradicts_the_threshold(key: str, info: Any) -> None:
    with playing(info=after(2, {key: True}), threshold=3.0) as task:
        task.reset(0)
        task.apply(GO)
        with pytest.raises(SuccessError, match=rf"'return>=3', but info now has '{key}'; .*--success"):
            task.apply(GO)


def test_a_better_word_that_comes_late_contradicts_too() -> None:
    with playing(info=after(2, {"success": True}, {"is_success": False})) as task:
        task.reset(0)
        task.apply(GO)
        with pytest.raises(SuccessError, match="the default rule was 'info:is_success'"):
            task.apply(GO)


def test_a_rule_that_was_chosen_is_not_contradicted() -> None:
    with playing(info=after(2, {"success": True}), threshold=3.0, success="return>=3") as task:
        task.reset(0)
        assert not any(task.apply(GO).success for _ in range(3))


@pytest.mark.parametrize("value", [{}, [], "yes", float("nan"), None, np.array([1, 1]), 2, [True]])
def test_an_answer_that_is_neither_yes_nor_no_is_an_error(value: Any) -> None:
    with playing(info=after(1, {"success": value}, {"success": False})) as task:
        task.reset(0)
        with pytest.raises(SuccessError):
            task.apply(GO)


@pytest.mark.parametrize("value", [True, np.bool_(True), 1, 1.0, np.array([1]), np.array(True)])
def test_a_yes_ends_the_episode(value: Any) -> None:
    with playing(info=after(1, {"success": value}, {"success": False})) as task:
        task.reset(0)
        status = task.apply(GO)
    assert status.success is True
    assert status.done is True


@pytest.mark.parametrize("ended", [("no", False), (None, False), (False, np.array([0, 1])), (False, 2)])
def test_an_end_that_is_neither_yes_nor_no_is_an_error(ended: Any) -> None:
    with playing(ended=lambda _: ended, success="none", max_steps=None) as task:
        task.reset(0)
        with pytest.raises(SuccessError, match=r"(terminated|truncated) after step 1 is"):
            task.apply(GO)


@pytest.mark.parametrize("reward", [{"a": 1}, None, float("nan"), np.inf, np.array([1.0, 2.0]), "1", [1.0], 10**400])
def test_a_reward_that_is_not_one_finite_number_is_an_error(reward: Any) -> None:
    with playing(reward=lambda _: reward, success="none") as task:
        task.reset(0)
        with pytest.raises(InvalidObservationError, match=r"reward is .* after step 1; it must be one finite number"):
            task.apply(GO)


@pytest.mark.parametrize("reward", [1, True, np.float32(1), np.array([1.0]), np.array(1)])
def test_rewards_are_numbers_of_any_kind(reward: Any) -> None:
    with playing(reward=lambda _: reward) as task:
        task.reset(0)
        assert type(task.apply(GO).reward) is float


@pytest.mark.parametrize("info", [None, [], "x"])
def test_info_that_is_no_dict_is_one_line(info: Any) -> None:
    with playing(info=after(1, info, {}), success="none") as task:
        task.reset(0)
        with pytest.raises(RobotestError, match=r"info of tests/Scripted-v0 is .* it must be a dict"):
            task.apply(GO)
