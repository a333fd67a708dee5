"""Environments of a robot without a robot: what reaches the arms, and what shadow mode logs instead."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest

from robotest.clock import SimClock
from robotest.embodiment.actions import HOME_TIP, home_joints
from robotest.embodiment.collision import Twin
from robotest.embodiment.kinematics import DualArmKinematics
from robotest.envs.dual_arm.world import CONTROL_DT
from robotest.errors import InvalidActionError
from robotest.hardware.control.client import ExecutorClient, RobotFaultError
from robotest.hardware.control.governor import TICK_S, Governor, JointTrajectory
from robotest.hardware.control.messages import Follow, Greeting, Hold, Request
from robotest.hardware.control.status import Fault, Measured, Mode, Status
from robotest.hardware.deployment.arms import HOMING_RAD_S, Arms, ExecutorArms
from robotest.hardware.deployment.env import RobotEnv
from robotest.hardware.deployment.shadow import ShadowArms, summary
from robotest.hardware.deployment.supervisor import Verdict
from robotest.hardware.limits import DEFAULT_LIMITS
from robotest.hardware.robot import Capabilities, RobotError, Setpoint, Stop
from robotest.types import EnvOptions, Outcome

UNIT = float(np.deg2rad(0.001))
HOME = home_joints(DualArmKinematics())
CHUNK = np.zeros((4, 10), np.float32)
CHUNK[:, [2, 7]] = 0.01 * np.arange(1, 5)[:, None]  # both tips up
CHUNK[:, [4, 9]] = 1.0


class Client(ExecutorClient):
    """An executor that executes every chunk at once."""

    def __init__(self, joints: np.ndarray = HOME) -> None:
        self.greeting = Greeting(True, Capabilities("arms", UNIT))  # type: ignore[misc]
        self.sent: list[Request] = []
        measured = Measured(joints, np.ones(2), np.full(2, 0.25), np.ones((2, 7), bool))
        self.now = Status(0.3, Mode.HOLDING, None, 6, 1, True, Setpoint(joints, np.ones(2)), measured)

    @property
    def status(self) -> Status:
        return self.now

    def send(self, request: Request) -> None:
        self.sent.append(request)
        match request:
            case Follow(chunk):
                where = Setpoint(chunk.joints[-1], chunk.openings[-1])
                assert self.now.measured is not None
                measured = dataclasses.replace(self.now.measured, joints=where.joints, openings=where.openings)
                self.now = dataclasses.replace(
                    self.now, chunk=chunk.number, mode=Mode.HOLDING, commanded=where, measured=measured
                )
            case Hold():
                self.now = dataclasses.replace(self.now, mode=Mode.HOLDING, at_rest=True)

    def wait(self, until: Callable[[Status], bool], limit_s: float, what: str) -> Status:
        assert until(self.require_well()), what
        return self.now

    def chunks(self) -> list[JointTrajectory]:
        return [request.chunk for request in self.sent if isinstance(request, Follow)]


class Nobody:
    """Lays out and judges nothing."""

    tasks: Mapping[str, int] = {"wave": 10}
    settings = ("real",)

    def prepare(self, task: str, seed: int, episode: int) -> str:
        return f"{task} {episode}"

    def judge(self) -> Verdict:
        return Verdict(success=False, done=False)

    def label(self, outcome: Outcome, why: str) -> Outcome | None:
        return outcome


def env_of(client: Client, arms: Arms) -> RobotEnv:
    return RobotEnv(client, arms, {}, Nobody(), "wave", 10, EnvOptions(setting="real"))


def shadow_of(client: Client, log: TextIO, clock: SimClock) -> ShadowArms:
    return ShadowArms(client, Governor(DEFAULT_LIMITS, Twin(), TICK_S, UNIT), log, clock)


def test_an_episode_begins_at_home_and_its_chunks_go_to_the_executor() -> None:
    client = Client(HOME + 0.1)
    env = env_of(client, ExecutorArms(client, SimClock()))
    env.reset(0, 3)
    np.testing.assert_allclose(client.now.commanded.joints, HOME)
    for chunk in client.chunks():
        assert np.abs(np.diff(chunk.joints, axis=0)).max() <= HOMING_RAD_S * CONTROL_DT + 1e-9
    observation = env.observe()
    assert (observation.instruction, observation.time) == ("wave 3", 0.0)
    env.begin_chunk(CHUNK)
    chunk = client.chunks()[-1]
    assert (len(chunk.joints), chunk.dt, chunk.observed) == (4, CONTROL_DT, 0.25)
    tips = np.stack([DualArmKinematics().tips(joints)[:, 2] for joints in chunk.joints])
    np.testing.assert_allclose(np.diff(tips, axis=0), 0.01, atol=1e-3)
    for action in CHUNK:
        np.testing.assert_array_equal(env.apply(action).sent, action)
    assert env.observe().time == pytest.approx(4 * CONTROL_DT)


def test_chunks_are_numbered_from_the_executor_s_last_one_over_all_environments() -> None:
    client = Client()
    arms = ExecutorArms(client, SimClock())
    for env in (env_of(client, arms), env_of(client, arms)):
        env.observe()
        env.begin_chunk(CHUNK)
    assert [chunk.number for chunk in client.chunks()] == [7, 8]


def test_only_announced_actions_are_applied() -> None:
    client = Client()
    env = env_of(client, ExecutorArms(client, SimClock()))
    with pytest.raises(InvalidActionError, match="call begin_chunk first"):
        env.apply(CHUNK[0])
    env.begin_chunk(CHUNK)
    with pytest.raises(InvalidActionError, match="action 0 of the chunk is not the announced one"):
        env.apply(CHUNK[1])
    env.apply(CHUNK[0])
    env.reset(0, 0)
    with pytest.raises(InvalidActionError, match="call begin_chunk first"):
        env.apply(CHUNK[0])


def test_arms_that_follow_a_chunk_come_to_rest_before_they_go_home() -> None:
    client = Client(HOME + 0.1)
    client.now = dataclasses.replace(client.now, mode=Mode.FOLLOWING, at_rest=False)
    ExecutorArms(client, SimClock()).home()
    assert client.sent[0] == Hold()
    np.testing.assert_allclose(client.now.commanded.joints, HOME)


def test_arms_far_from_home_are_not_moved() -> None:
    joints = HOME.copy()
    joints[0, 6] += 30.0
    client = Client(joints)
    with pytest.raises(RobotError, match="too far from home; move them nearer by hand"):
        ExecutorArms(client, SimClock()).home()


def test_a_fault_ends_the_observations_and_a_hold_never_raises() -> None:
    client = Client()
    env = env_of(client, ExecutorArms(client, SimClock()))
    client.now = dataclasses.replace(client.now, fault=Fault("error", "collision", Stop.DECEL_THEN_DISABLE))
    with pytest.raises(RobotFaultError, match=r"^collision \[error, decel_then_disable\]$"):
        env.observe()

    def gone(request: Request) -> None:
        raise RobotError(f"the executor is gone: {request}")

    client.send = gone  # type: ignore[method-assign]
    env.stop()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TextIO]:
    with (tmp_path / "shadow.jsonl").open("w", encoding="utf-8", buffering=1) as log:
        yield log


def lines_of(log: TextIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(log.name).read_text(encoding="utf-8").splitlines()]


def test_a_shadow_logs_its_chunks_and_sends_nothing(log: TextIO) -> None:
    client, clock = Client(), SimClock()
    clock.sleep_until(0.5)
    env = env_of(client, shadow_of(client, log, clock))
    env.reset(0, 0)
    env.observe()
    env.begin_chunk(CHUNK)
    for action in CHUNK:
        env.apply(action)
    env.stop()
    assert client.sent == []
    chunk, *steps = lines_of(log)
    assert chunk == {"time": 0.5, "chunk": 1, "steps": 4, "notes": []}
    assert [(line["chunk"], line["step"]) for line in steps] == [(1, k) for k in range(4)]
    np.testing.assert_allclose([line["time"] for line in steps], 0.5 + CONTROL_DT * np.arange(1, 5))
    away = np.array([line["difference_rad"] for line in steps])
    assert (np.diff(away, axis=0) > 0).all(), "the arms stay, the chunk goes on"
    counts = summary(Path(log.name))
    assert (counts["chunks"], counts["rejected"]) == (1, 0)


def test_a_shadow_s_chunks_start_where_others_brought_the_arms(log: TextIO) -> None:
    client = Client()
    env = env_of(client, shadow_of(client, log, SimClock()))
    env.reset(0, 0)
    assert client.now.measured is not None
    kinematics, joints = DualArmKinematics(), HOME
    for _ in range(30):
        joints = kinematics.solve(joints, HOME_TIP + np.array([0.0, 0.0, 0.05, 0.0]), np.full(7, 0.1))
    assert np.abs(joints - HOME).max() > 0.05
    client.now = dataclasses.replace(client.now, measured=dataclasses.replace(client.now.measured, joints=joints))
    env.begin_chunk(np.where(CHUNK == 1.0, CHUNK, 0.0).astype(np.float32))
    env.apply(np.where(CHUNK[0] == 1.0, CHUNK[0], 0.0).astype(np.float32))
    assert max(lines_of(log)[-1]["difference_rad"]) < 1e-3


def test_a_shadow_logs_rejections_and_joints_that_are_not_measured(log: TextIO) -> None:
    client, clock = Client(np.zeros((2, 7))), SimClock()
    arms = shadow_of(client, log, clock)
    arms.follow(np.zeros((1, 2, 7)), np.ones((1, 2)), 0.0)
    assert client.now.measured is not None
    joints = np.zeros((2, 7))
    joints[1, 3] = np.nan
    client.now = dataclasses.replace(client.now, measured=dataclasses.replace(client.now.measured, joints=joints))
    arms.wait(0)
    chunk, step = lines_of(log)
    assert "the arms cannot start from here" in chunk["rejected"]
    assert "notes" not in chunk
    assert step["difference_rad"] == [0.0, None]
    client.now = dataclasses.replace(client.now, measured=None)
    with pytest.raises(RobotError, match="the arms' state could not be read"):
        arms.wait(0)
