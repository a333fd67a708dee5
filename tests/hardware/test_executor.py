"""The executor tick by tick, on a virtual clock: who may move the arms, what stops them, and that they stay stopped."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robotest.clock import SimClock
from robotest.embodiment import workcell
from robotest.embodiment.collision import Twin
from robotest.hardware.control import messages as module
from robotest.hardware.control.black_box import BlackBox, Entry, read
from robotest.hardware.control.executor import Executor, Watchdogs
from robotest.hardware.control.governor import Governor, JointTrajectory
from robotest.hardware.control.messages import PACKET_BYTES, request_from_message
from robotest.hardware.control.status import Fault, Mode, Status
from robotest.hardware.limits import DEFAULT_LIMITS
from robotest.hardware.robot import Capabilities, RobotError, RobotState, Setpoint, Stop
from robotest.runtime import wire

TICK = 0.01
UNIT = float(np.deg2rad(0.001))
REST = workcell.DOWN_REST_RAD
BEAT = {"do": "beat"}
ENABLE = {"do": "enable"}
RESET = {"do": "reset"}


class Raw(JointTrajectory):
    """A chunk as it comes over the wire: nothing looked at its types, as in use but not under the tests' checks."""

    def __init__(self, number: Any, joints: Any, openings: Any, dt: Any, observed: Any) -> None:
        fields = {"number": number, "joints": joints, "openings": openings, "dt": dt, "observed": observed}
        for name, value in fields.items():
            object.__setattr__(self, name, value)


class Arms:
    """A robot whose joints come nearer to their set-points by a third every tick."""

    limits = DEFAULT_LIMITS
    capabilities = Capabilities("arms", UNIT)

    def __init__(self) -> None:
        self.now = 0.0
        self.joints: np.ndarray = REST.copy()
        self.target: np.ndarray | None = None
        self.powered = np.zeros((2, 7), bool)
        self.currents, self.temperatures = np.ones((2, 7)), np.full((2, 7), 30.0)
        self.stopped = False
        self.errors: tuple[str, ...] = ()
        self.pushing = [True, True]
        self.stamps = np.zeros(2)
        self.stuck = False
        self.sent: list[tuple[float, Setpoint]] = []
        self.stops: list[tuple[float, Stop]] = []
        self.enabled = 0
        self.on_enable: Callable[[], object] = lambda: None
        self.on_state: Callable[[], object] = lambda: None
        self.on_command: Callable[[], object] = lambda: None

    def advance(self, now: float) -> None:
        self.now = now
        self.stamps[self.pushing] = now
        if self.target is not None and self.powered.all() and not self.stuck:
            self.joints = self.joints + (self.target - self.joints) / 3

    def connect(self) -> None:
        pass

    def enable(self) -> None:
        self.enabled += 1
        self.powered[:] = True
        self.on_enable()

    def state(self) -> RobotState:
        self.on_state()
        return RobotState(
            self.joints.copy(),
            np.ones(2),
            self.currents,
            self.temperatures,
            self.powered.copy(),
            self.stopped,
            self.errors,
            self.stamps.copy(),
        )

    def command(self, setpoint: Setpoint) -> Setpoint:
        self.sent.append((self.now, setpoint))
        self.on_command()
        self.target = setpoint.joints
        return setpoint

    def stop(self, kind: Stop) -> None:
        self.stops.append((self.now, kind))
        if kind is not Stop.HOLD:
            self.powered[:] = False

    def disconnect(self) -> None:
        pass


class FullBox(BlackBox):
    """Has no room left once `full` is set."""

    full = False

    def write(self, entry: Entry) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().write(entry)


@dataclasses.dataclass
class Rig:
    """An executor with everything around it."""

    executor: Executor
    arms: Arms
    governor: Governor
    box: FullBox
    clock: SimClock
    number: int = 0

    @property
    def now(self) -> float:
        return self.clock.now()

    def tick(self, *messages: object, after: float = TICK) -> Status:
        self.clock.sleep_until(self.now + after)
        self.arms.advance(self.now)
        status = self.executor.tick(self.now, [request_from_message(message) for message in messages])
        assert len(wire.pack(status.to_message())) < PACKET_BYTES
        return status

    def ticks(self, n: int, *messages: object) -> Status:
        return [self.tick(*(messages or (BEAT,))) for _ in range(n)][-1]

    def chunk(self, turn: float = 1.5, steps: int = 10, **fields: Any) -> dict[str, Any]:
        """A chunk that turns both wrists."""
        self.number += 1
        ends = np.arange(1, steps + 1)[:, None, None] / steps * np.array([0, 0, 0, 0, 0, 0, turn])
        joints = self.governor.commanded.joints + ends
        chunk = {"do": "chunk", "number": self.number, "joints": joints, "openings": np.ones((steps, 2))}
        return chunk | {"dt": 0.1, "observed": self.now} | fields

    def moving(self) -> Rig:
        """Enabled, and in the middle of a chunk."""
        self.tick(ENABLE)
        self.tick(self.chunk())
        self.ticks(30)
        assert not self.governor.at_rest
        return self

    def positions(self) -> np.ndarray:
        positions: np.ndarray = np.rint([s.joints / UNIT for _, s in self.arms.sent]).astype(np.int64)
        return positions

    def require_smooth(self) -> None:
        """What was sent, in all: within 180 deg/s and 600 deg/s^2, tick by tick."""
        speed = np.diff(self.positions(), axis=0)
        assert np.abs(speed).max(initial=0) <= 1800
        assert np.abs(np.diff(speed, axis=0, prepend=np.zeros((1, 2, 7), np.int64))).max(initial=0) <= 60


def fault_of(status: Status) -> Fault:
    assert status.fault is not None
    return status.fault


@pytest.fixture(autouse=True)
def as_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JointTrajectory", Raw)


@pytest.fixture(scope="module")
def twin() -> Twin:
    return Twin()


def rig_of(twin: Twin, folder: Path) -> Rig:
    arms = Arms()
    governor = Governor(arms.limits, twin, TICK, UNIT)
    box = FullBox(folder / "black_box", 1000)
    clock = SimClock()
    return Rig(Executor(arms, governor, box, clock, Watchdogs(heartbeat=0.12)), arms, governor, box, clock)


@pytest.fixture
def rig(twin: Twin, tmp_path: Path) -> Iterator[Rig]:
    rig = rig_of(twin, tmp_path)
    yield rig
    rig.box.close()


# --- modes ------------------------------------------------------------------------------------------------------------


def test_nothing_is_sent_before_the_arms_are_enabled(rig: Rig) -> None:
    status = rig.ticks(50)
    assert (status.mode, status.fault) == (Mode.DISABLED, None)
    assert not rig.executor.powered
    assert not rig.arms.sent


def test_enabled_arms_are_held_where_they_are(rig: Rig) -> None:
    status = rig.tick(ENABLE)
    assert (status.mode, status.fault) == (Mode.HOLDING, None)
    rig.ticks(20)
    assert len(rig.arms.sent) == 21
    assert np.ptp(rig.positions(), axis=0).max() == 0
    np.testing.assert_allclose(rig.arms.sent[0][1].joints, REST, atol=UNIT)
    rig.tick(ENABLE)
    assert rig.arms.enabled == 1


def test_a_chunk_is_followed_and_when_it_runs_out_the_arms_are_held_without_a_fault(rig: Rig) -> None:
    rig.tick(ENABLE)
    sent = rig.chunk()
    statuses = [rig.tick(sent), *(rig.tick(BEAT) for _ in range(130))]
    assert {s.mode for s in statuses[:95]} == {Mode.FOLLOWING}
    assert [s.step for s in statuses[4:100:10]] == list(range(10))
    assert (statuses[-1].mode, statuses[-1].fault, statuses[-1].chunk) == (Mode.HOLDING, None, 1)
    np.testing.assert_allclose(statuses[-1].commanded.joints, sent["joints"][-1], atol=UNIT)
    assert statuses[-1].at_rest
    rig.require_smooth()


def test_the_next_chunk_takes_over_in_mid_motion(rig: Rig) -> None:
    rig.moving()
    status = rig.tick(rig.chunk(-1.0))
    assert (status.mode, status.chunk, status.fault) == (Mode.FOLLOWING, 2, None)
    rig.ticks(150)
    rig.require_smooth()


def test_clipping_is_noted_in_the_status_once(rig: Rig) -> None:
    rig.tick(ENABLE)
    status = rig.tick(rig.chunk(openings=np.full((10, 2), 1.1)))
    assert status.notes == ("step 0: opening of the left gripper clipped by 0.100",)
    assert rig.tick(BEAT).notes == ()


def test_holding_leaves_the_chunk_without_a_fault(rig: Rig) -> None:
    rig.moving()
    status = rig.tick({"do": "hold"})
    assert (status.mode, status.fault) == (Mode.HOLDING, None)
    status = rig.ticks(40)
    assert status.at_rest
    rig.require_smooth()
    assert rig.tick(rig.chunk()).mode == Mode.FOLLOWING


def test_a_chunk_for_arms_that_are_not_enabled_is_refused(rig: Rig) -> None:
    status = rig.tick(rig.chunk())
    assert fault_of(status).text == "chunk refused: the arms are not enabled"
    assert not rig.arms.sent


def test_a_hold_of_disabled_arms_does_nothing(rig: Rig) -> None:
    status = rig.tick({"do": "hold"}, RESET)
    assert (status.mode, status.fault) == (Mode.DISABLED, None)
    assert not rig.arms.stops


# --- enabling ---------------------------------------------------------------------------------------------------------


def test_arms_at_an_unsafe_pose_get_no_power_and_the_message_has_a_remedy(rig: Rig) -> None:
    rig.arms.joints = np.zeros((2, 7))
    status = rig.tick(ENABLE)
    assert status.mode == Mode.DISABLED
    assert fault_of(status).name == "refused"
    assert "outside the workspace. Move them by hand, then try again" in fault_of(status).text
    assert rig.arms.enabled == 0
    rig.arms.joints = REST.copy()
    assert rig.tick(ENABLE).mode == Mode.DISABLED
    assert rig.tick(RESET, ENABLE).mode == Mode.HOLDING


def test_set_points_begin_where_the_arms_are_after_switching_on(rig: Rig) -> None:
    """Brakes open, and the arms sag a little."""

    def sag() -> None:
        rig.arms.joints = REST + 0.02

    rig.arms.on_enable = sag
    rig.tick(ENABLE)
    np.testing.assert_allclose(rig.arms.sent[0][1].joints, REST + 0.02, atol=UNIT)


def test_arms_that_sag_to_an_unsafe_pose_lose_power_again(rig: Rig) -> None:
    def sag() -> None:
        rig.arms.joints = np.zeros((2, 7))

    rig.arms.on_enable = sag
    status = rig.tick(ENABLE)
    assert (status.mode, fault_of(status).name) == (Mode.DISABLED, "refused")
    assert len(rig.arms.stops) == 1
    assert not rig.arms.powered.any()


@pytest.mark.parametrize("error", [RobotError("the right arm refuses"), OSError("no route to host")])
def test_an_arm_that_cannot_be_switched_on_leaves_neither_with_power(rig: Rig, error: Exception) -> None:
    rig.arms.on_enable = raising(error)
    status = rig.tick(ENABLE)
    assert status.mode == Mode.DISABLED
    assert str(error) in fault_of(status).text
    assert len(rig.arms.stops) == 1
    assert not rig.arms.sent


def test_switching_on_may_take_its_time(rig: Rig) -> None:
    def wait() -> None:
        rig.clock.sleep_until(rig.now + 6.0)
        rig.arms.advance(rig.now)

    rig.arms.on_enable = wait
    assert rig.tick(ENABLE).mode == Mode.HOLDING
    status = rig.tick(BEAT)
    assert (status.mode, status.fault) == (Mode.HOLDING, None)


TROUBLE: dict[str, tuple[Callable[[Arms], object], Stop]] = {
    "emergency_stop": (lambda arms: setattr(arms, "stopped", True), Stop.DISABLE_NOW),
    "state": (lambda arms: arms.pushing.__setitem__(1, False), Stop.DECEL_THEN_DISABLE),
    "error": (
        lambda arms: setattr(arms, "errors", ("the left arm reports a collision (0x100d)",)),
        Stop.DECEL_THEN_DISABLE,
    ),
    "current": (lambda arms: arms.currents.__setitem__((0, 3), 8.1), Stop.DECEL_THEN_DISABLE),
    "temperature": (lambda arms: arms.temperatures.__setitem__((1, 6), 70.5), Stop.DECEL_THEN_DISABLE),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_arms_in_trouble_get_no_power(rig: Rig, name: str) -> None:
    make, stop = TROUBLE[name]
    rig.ticks(3)
    make(rig.arms)
    rig.ticks(10)
    assert rig.executor.fault is None, "nothing moves: nothing to stop"
    status = rig.tick(ENABLE)
    assert (status.mode, fault_of(status).name, fault_of(status).stop) == (Mode.DISABLED, name, stop)
    assert rig.arms.enabled == 0


# --- faults -----------------------------------------------------------------------------------------------------------


def raising(error: Exception) -> Callable[[], object]:
    def raise_() -> object:
        raise error

    return raise_


def beat(rig: Rig) -> object:
    return rig.tick(BEAT)


def silence(rig: Rig) -> object:
    return [rig.tick() for _ in range(13)]


def frozen(arm: int) -> Callable[[Rig], object]:
    def freeze(rig: Rig) -> object:
        rig.arms.pushing[arm] = False
        return rig.ticks(6)

    return freeze


def with_arms(**fields: Any) -> Callable[[Rig], object]:
    def change(rig: Rig) -> object:
        for name, value in fields.items():
            setattr(rig.arms, name, value)
        return rig.tick(BEAT)

    return change


def element(field: str, value: Any) -> Callable[[Rig], object]:
    def change(rig: Rig) -> object:
        getattr(rig.arms, field)[1, 4] = value
        return rig.tick(BEAT)

    return change


def message(make: Callable[[Rig], object]) -> Callable[[Rig], object]:
    return lambda rig: rig.tick(make(rig))


def stuck(rig: Rig) -> object:
    rig.arms.stuck = True
    return rig.ticks(25)


def no_room(rig: Rig) -> object:
    rig.box.full = True
    return rig.tick(BEAT)


def into_the_way(rig: Rig) -> object:
    """Waypoints that are allowed, with the other arm between them."""
    here = rig.governor.commanded.joints
    rig.governor.halt(rig.governor.commanded)
    joints = here.copy()
    joints[1, 0] = 0.55
    joints[0, 0] = -0.45
    rig.governor.start_at(joints, np.ones(2))
    rig.arms.joints = joints
    rig.arms.sent.clear()
    rig.tick(BEAT)
    joints = joints.copy()
    joints[0, 0] = -1.2
    rig.tick(rig.chunk(joints=joints[None], openings=np.ones((1, 2)), dt=0.5))
    return rig.ticks(60)


FAULTS: dict[str, tuple[Callable[[Rig], object], str, Stop, str]] = {
    "rollout silent": (silence, "heartbeat", Stop.DECEL_THEN_DISABLE, r"no message from the rollout for 1[23]0 ms"),
    "left state stale": (frozen(0), "state", Stop.DECEL_THEN_DISABLE, r"the arms' state is [56]0 ms old"),
    "right state stale": (frozen(1), "state", Stop.DECEL_THEN_DISABLE, r"the arms' state is [56]0 ms old"),
    "error code": (with_arms(errors=("joint 3", "joint 4")), "error", Stop.DECEL_THEN_DISABLE, "^joint 3; joint 4$"),
    "power lost": (element("powered", False), "power", Stop.DECEL_THEN_DISABLE, "a joint lost power"),
    "current": (element("currents", 9.25), "current", Stop.DECEL_THEN_DISABLE, r"draws 9\.2 A; 8 A are allowed"),
    "temperature": (element("temperatures", 71.0), "temperature", Stop.DECEL_THEN_DISABLE, "71 deg C; 70 are allowed"),
    "NaN current": (element("currents", np.nan), "state", Stop.DECEL_THEN_DISABLE, "not finite"),
    "NaN temperature": (element("temperatures", np.nan), "state", Stop.DECEL_THEN_DISABLE, "not finite"),
    "NaN position": (element("joints", np.nan), "state", Stop.DECEL_THEN_DISABLE, "not finite"),
    "arms stuck": (stuck, "following", Stop.DECEL_THEN_DISABLE, r"a joint is 0\.\d\d rad behind its set-point"),
    "emergency stop": (with_arms(stopped=True), "emergency_stop", Stop.DISABLE_NOW, "the emergency stop is pressed"),
    "link gone": (with_arms(on_command=raising(RobotError("gone"))), "link", Stop.DECEL_THEN_DISABLE, "^gone$"),
    "no state": (with_arms(on_state=raising(RobotError("not connected"))), "link", Stop.DECEL_THEN_DISABLE, "not conn"),
    "driver breaks": (with_arms(on_state=raising(IndexError("pop"))), "internal", Stop.DECEL_THEN_DISABLE, "^pop$"),
    "send breaks": (with_arms(on_command=raising(KeyError())), "internal", Stop.DECEL_THEN_DISABLE, "^KeyError$"),
    "chunk rejected": (message(lambda rig: rig.chunk(dt=9.0)), "rejected", Stop.HOLD, "^chunk rejected: steps of 9"),
    "chunk of nonsense": (message(lambda _: {"do": "chunk", "number": 1}), "message", Stop.HOLD, "missing 4 required"),
    "ragged chunk": (message(lambda rig: rig.chunk(joints=[[1.0], []])), "message", Stop.HOLD, "^request failed: "),
    "unsafe path": (into_the_way, "unsafe", Stop.HOLD, "^chunk abandoned: .* and .* mm apart"),
    "nonsense": (message(lambda _: {"do": "dance"}), "message", Stop.HOLD, "^unknown message: {'do': 'dance'}"),
    "no map": (message(lambda _: 7), "message", Stop.HOLD, "^unknown message: 7"),
    "full disk": (no_room, "black_box", Stop.HOLD, "the black box cannot be written: No space left on device"),
    "operator holds": (
        message(lambda _: {"do": "stop", "kind": "hold", "text": "enough"}), "operator", Stop.HOLD, "^enough$",
    ),
    "operator ends": (
        message(lambda _: {"do": "stop", "kind": "decel_then_disable", "text": "end"}),
        "operator", Stop.DECEL_THEN_DISABLE, "^end$",
    ),
    "operator switches off": (
        message(lambda _: {"do": "stop", "kind": "disable_now", "text": "off"}), "operator", Stop.DISABLE_NOW, "^off$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_stops_the_arms_as_it_should_and_they_stay_stopped(rig: Rig, name: str) -> None:
    make, expected, stop, text = FAULTS[name]
    rig.moving()
    make(rig)
    fault = rig.executor.fault
    assert fault is not None
    assert (fault.name, fault.stop) == (expected, stop)

    assert re.search(text, fault.text), fault.text
    last = rig.ticks(60)
    rig.require_smooth()
    assert rig.governor.at_rest or stop is Stop.DISABLE_NOW
    assert rig.executor.fault == fault
    if stop is Stop.HOLD:
        assert last.mode == Mode.STOPPING
        assert not rig.arms.stops
        assert len(rig.arms.sent) > 60
    else:
        assert last.mode == Mode.DISABLED
        assert [kind for _, kind in rig.arms.stops] == [stop]
        when = rig.arms.stops[0][0]
        assert all(sent <= when for sent, _ in rig.arms.sent)
        speed = np.diff(rig.positions()[-2:], axis=0)
        assert bool(speed.any()) == (stop is Stop.DISABLE_NOW), "power goes at standstill, or at once"
    require_latched(rig, fault)


def require_latched(rig: Rig, fault: Fault) -> None:
    """The cause is gone; nothing resumes by itself, only by a reset and, where power went, by enabling."""
    well = Arms()
    for name in ("currents", "temperatures", "stopped", "errors", "pushing", "stuck"):
        setattr(rig.arms, name, getattr(well, name))
    rig.arms.on_command = rig.arms.on_state = lambda: None
    rig.arms.joints = rig.governor.commanded.joints
    rig.box.full = False
    mode = rig.ticks(20).mode
    sent = rig.positions()
    for said in (BEAT, rig.chunk(), {"do": "hold"}, ENABLE, rig.chunk()):
        status = rig.tick(said)
        assert (status.mode, fault_of(status).name) == (mode, fault.name)
    assert np.all(rig.positions()[len(sent) :] == rig.positions()[-1])
    status = rig.tick(RESET)
    assert (status.mode, status.fault) == (Mode.HOLDING if fault.stop is Stop.HOLD else Mode.DISABLED, None)
    rig.ticks(20)
    assert np.all(rig.positions()[len(sent) :] == rig.positions()[-1])
    if fault.stop is not Stop.HOLD:
        assert fault_of(rig.tick(rig.chunk())).name == "refused"
        assert rig.tick(RESET, ENABLE).mode == Mode.HOLDING
    assert rig.tick(rig.chunk(0.0, 3)).mode == Mode.FOLLOWING
    assert rig.ticks(40).mode == Mode.HOLDING


def test_power_is_removed_in_the_same_tick_and_nothing_more_is_sent(rig: Rig) -> None:
    rig.moving()
    sent = len(rig.arms.sent)
    status = rig.tick({"do": "stop", "kind": "disable_now", "text": "off"}, rig.chunk())
    assert status.mode == Mode.DISABLED
    assert rig.arms.stops == [(rig.now, Stop.DISABLE_NOW)]
    assert len(rig.arms.sent) == sent


def test_faults_do_not_wait_for_the_next_tick(rig: Rig) -> None:
    """The tick that sees a fault already brakes."""
    rig.moving()
    rig.arms.errors = ("collision",)
    rig.tick(BEAT)
    speed = np.abs(np.diff(rig.positions()[-3:], axis=0)).max(axis=(1, 2))
    assert speed[1] == speed[0] - 60


KINDS = [Stop.HOLD, Stop.DECEL_THEN_DISABLE, Stop.DISABLE_NOW]


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("ticks", [0, 5, 60])
def test_a_worse_stop_takes_the_place_of_a_lesser_one_and_not_the_other_way_round(
    rig: Rig, first: Stop, second: Stop, ticks: int
) -> None:
    rig.moving()
    rig.tick({"do": "stop", "kind": first.value, "text": "first"})
    if ticks:
        rig.ticks(ticks)
    rig.tick({"do": "stop", "kind": second.value, "text": "second"})
    rig.ticks(60)
    worse = KINDS.index(second) > KINDS.index(first)
    assert rig.executor.fault == Fault("operator", "second" if worse else "first", second if worse else first)
    kinds = [kind for _, kind in rig.arms.stops]
    if (first, second) == (Stop.DECEL_THEN_DISABLE, Stop.DISABLE_NOW) and ticks == 60:
        assert kinds == [first, second], "whoever presses again has a reason to"
    else:
        assert kinds == [k for k in [second if worse else first] if k is not Stop.HOLD]
    rig.require_smooth()


def test_a_fault_of_disabled_arms_latches_too(rig: Rig) -> None:
    status = rig.tick({"do": "stop", "kind": "disable_now", "text": "never"})
    assert fault_of(status).text == "never"
    assert rig.arms.stops == [(rig.now, Stop.DISABLE_NOW)]
    assert rig.tick(ENABLE).mode == Mode.DISABLED
    assert rig.arms.enabled == 0
    assert rig.tick(RESET, ENABLE).mode == Mode.HOLDING


def test_category_0_reaches_arms_that_should_have_lost_their_power_before(rig: Rig) -> None:
    rig.tick(ENABLE)
    rig.tick({"do": "stop", "kind": "decel_then_disable", "text": "end"})
    assert rig.arms.stops == [(rig.now, Stop.DECEL_THEN_DISABLE)]
    rig.tick({"do": "stop", "kind": "disable_now", "text": "it still hums"})
    assert rig.arms.stops[-1] == (rig.now, Stop.DISABLE_NOW)


def test_reset_is_refused_while_the_arms_still_brake(rig: Rig) -> None:
    rig.moving()
    rig.tick({"do": "stop", "kind": "hold", "text": "first"})
    status = rig.tick(RESET)
    assert (status.mode, fault_of(status).text) == (Mode.STOPPING, "first")
    rig.ticks(60)
    assert rig.tick(RESET).fault is None


@pytest.mark.parametrize("moving", [False, True])
def test_a_reset_in_the_same_tick_does_not_undo_a_stop(rig: Rig, moving: bool) -> None:
    rig.moving() if moving else rig.tick(ENABLE)
    rig.tick({"do": "stop", "kind": "decel_then_disable", "text": "stop"}, RESET, ENABLE)
    status = rig.ticks(60)
    assert (status.mode, fault_of(status).text) == (Mode.DISABLED, "stop")
    assert [kind for _, kind in rig.arms.stops] == [Stop.DECEL_THEN_DISABLE]


def test_the_cause_of_a_fault_is_checked_again_when_the_arms_are_enabled(rig: Rig) -> None:
    rig.moving()
    rig.arms.errors = ("collision",)
    rig.ticks(60)
    status = rig.tick(RESET, ENABLE)
    assert (status.mode, fault_of(status).name) == (Mode.DISABLED, "error")


def test_any_message_says_that_the_rollout_lives(rig: Rig) -> None:
    rig.tick(ENABLE)
    for _ in range(5):
        for _ in range(11):
            rig.tick()
        rig.tick({"do": "hold"})
    assert rig.executor.fault is None


def test_the_heartbeat_is_not_missed_before_the_arms_are_enabled(rig: Rig) -> None:
    for _ in range(100):
        rig.tick()
    assert rig.executor.fault is None
    assert rig.tick(ENABLE).mode == Mode.HOLDING


def test_held_by_a_fault_the_arms_are_still_watched(rig: Rig) -> None:
    rig.moving()
    rig.tick({"do": "stop", "kind": "hold", "text": "wait"})
    rig.ticks(60)
    for _ in range(14):
        status = rig.tick()
    assert (status.mode, fault_of(status).name) == (Mode.DISABLED, "heartbeat")


def test_the_text_of_a_fault_is_one_line_of_a_bounded_length(rig: Rig) -> None:
    status = rig.tick({"do": "stop", "kind": "hold", "text": "a\nb\r\n" + "x" * 10**5})
    assert fault_of(status).text.startswith("a b x")
    assert len(fault_of(status).text) <= 300


# --- late ticks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [0.11, 0.5, 30.0])
def test_a_process_that_did_not_run_takes_the_power_away_without_moving_further(rig: Rig, gap: float) -> None:
    """Stopped and continued: the arms came to rest at the last set-point, and going on at speed would be a jump."""
    rig.moving()
    status = rig.tick(BEAT, after=gap)
    assert (status.mode, fault_of(status).name, fault_of(status).stop) == (
        Mode.DISABLED,
        "starved",
        Stop.DECEL_THEN_DISABLE,
    )
    assert f"{1000 * gap:.0f} ms" in fault_of(status).text
    positions = rig.positions()
    np.testing.assert_array_equal(positions[-1], positions[-2])
    assert [kind for _, kind in rig.arms.stops] == [Stop.DECEL_THEN_DISABLE]
    fault = rig.executor.fault
    assert fault is not None
    require_latched(rig, fault)


def test_a_process_stopped_within_a_tick_does_not_send_what_it_had_computed(rig: Rig) -> None:
    rig.moving()
    before = rig.positions()
    rig.arms.on_state = lambda: rig.clock.sleep_until(rig.now + 0.5)
    status = rig.tick(BEAT)
    rig.arms.on_state = lambda: None
    assert (status.mode, fault_of(status).name) == (Mode.DISABLED, "starved")
    assert "500 ms" in fault_of(status).text
    np.testing.assert_array_equal(rig.positions(), before)
    assert [kind for _, kind in rig.arms.stops] == [Stop.DECEL_THEN_DISABLE]
    rig.ticks(5)
    np.testing.assert_array_equal(rig.positions(), before)


def test_a_tick_that_is_a_little_late_is_no_fault(rig: Rig) -> None:
    rig.moving()
    assert rig.tick(BEAT, after=0.09).fault is None


def test_a_state_that_could_not_be_read_is_old_only_at_the_next_tick(rig: Rig) -> None:
    rig.moving()
    rig.arms.pushing = [False, False]
    assert rig.tick(BEAT, after=0.07).fault is None
    status = rig.tick(BEAT)
    assert fault_of(status).name == "state"
    assert "80 ms old" in fault_of(status).text


def test_a_state_that_was_old_before_a_late_tick_is_old_in_it(rig: Rig) -> None:
    rig.moving()
    rig.arms.pushing = [False, False]
    rig.ticks(4, BEAT)
    assert rig.tick(BEAT, after=0.005).fault is None
    assert fault_of(rig.tick(BEAT, after=0.03)).name == "state"


def test_disabled_arms_may_wait(rig: Rig) -> None:
    rig.tick()
    assert rig.tick(after=100.0).fault is None
    assert rig.tick(ENABLE, after=100.0).mode == Mode.HOLDING
    assert rig.tick(BEAT).fault is None


def test_a_late_tick_while_braking_ends_the_braking(rig: Rig) -> None:
    rig.moving()
    rig.tick({"do": "stop", "kind": "decel_then_disable", "text": "stop"})
    status = rig.tick(BEAT, after=1.0)
    assert (status.mode, fault_of(status).text) == (Mode.DISABLED, "stop")
    np.testing.assert_array_equal(rig.positions()[-1], rig.positions()[-2])


# --- whatever arrives -------------------------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    hnp.arrays(
        st.one_of(hnp.boolean_dtypes(), hnp.integer_dtypes(), hnp.floating_dtypes()),
        hnp.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=7),
    ),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
ACTS = st.sampled_from(["beat", "chunk", "stop", "hold", "reset", "quit", ""])
CHUNKS = st.fixed_dictionaries(
    {"do": st.just("chunk")},
    optional={
        "number": st.one_of(VALUES, st.integers(0, 5)),
        "joints": st.one_of(VALUES, hnp.arrays(np.float64, (2, 2, 7))),
        "openings": st.one_of(VALUES, hnp.arrays(np.float64, (2, 2))),
        "dt": st.one_of(VALUES, st.just(0.1)),
        "observed": st.one_of(VALUES, st.just(0.0)),
        "more": VALUES,
    },
)
STOPS = st.fixed_dictionaries(
    {"do": st.just("stop")},
    optional={
        "kind": st.one_of(VALUES, st.sampled_from([k.value for k in Stop])),
        "text": st.one_of(VALUES, st.text()),
    },
)
MESSAGES = st.one_of(
    VALUES, CHUNKS, STOPS, st.fixed_dictionaries({"do": st.one_of(ACTS, VALUES)}, optional={"kind": VALUES})
)
GARBAGE = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def is_enable(said: object) -> bool:
    return isinstance(said, dict) and isinstance(said.get("do"), str) and said["do"] == "enable"


@GARBAGE
@given(st.lists(MESSAGES.filter(lambda m: not is_enable(m)), max_size=5))
def test_nothing_that_arrives_raises_or_moves_arms_that_are_not_enabled(
    twin: Twin, tmp_path: Path, messages: list[object]
) -> None:
    rig = rig_of(twin, tmp_path)
    status = rig.tick(*messages)
    assert status.mode == Mode.DISABLED
    assert not rig.arms.sent
    assert rig.arms.enabled == 0
    rig.box.close()


@GARBAGE
@given(st.lists(MESSAGES, max_size=5))
def test_nothing_that_arrives_makes_held_arms_jump(twin: Twin, tmp_path: Path, messages: list[object]) -> None:
    rig = rig_of(twin, tmp_path)
    rig.tick(ENABLE)
    for said in messages:
        rig.tick(said, *messages)
    rig.ticks(3)
    rig.require_smooth()
    rig.box.close()
    assert len(read(tmp_path / "black_box")) == 1 + len(messages) + 3


@pytest.mark.parametrize("depth", [100, 1000, 5000])
def test_messages_may_be_nested_deeply(rig: Rig, depth: int) -> None:
    nested: Any = 1
    for _ in range(depth):
        nested = [nested]
    rig.tick(ENABLE)
    status = rig.tick(nested, {"do": nested})
    assert status.mode == Mode.STOPPING


@pytest.mark.parametrize(
    "number", [float("nan"), float("inf"), 2**63, 2**64 - 1, -1, True, "3", None, np.array([3]), np.array([1, 2]), 1.5]
)
def test_a_chunks_number_cannot_break_later_ticks(rig: Rig, number: Any) -> None:
    rig.tick(ENABLE)
    status = rig.tick(rig.chunk(number=number))
    assert fault_of(status).name in ("rejected", "message")
    rig.ticks(3)
    rig.tick(RESET)
    assert rig.tick(rig.chunk()).mode == Mode.FOLLOWING


# --- status and log ---------------------------------------------------------------------------------------------------


def test_every_tick_is_in_the_black_box(rig: Rig, tmp_path: Path) -> None:
    rig.ticks(2)
    rig.moving()
    rig.tick({"do": "stop", "kind": "decel_then_disable", "text": "end"})
    rig.ticks(60)
    ticks = read(tmp_path / "black_box")
    assert len(ticks) == 2 + 1 + 1 + 30 + 1 + 60
    modes = [mode.decode() for mode in ticks["mode"]]
    assert list(dict.fromkeys(modes)) == ["disabled", "holding", "following", "stopping"]
    assert modes[-1] == "disabled"
    assert set(ticks["fault"][-60:]) == {b"operator"}
    sent = ticks["sent"][~np.isnan(ticks["sent"]).any(axis=(1, 2))]
    np.testing.assert_array_equal(sent, [s.joints for _, s in rig.arms.sent])
    assert ticks["chunk"].max() == 1
    assert np.all(np.diff(ticks["time"]) > 0)


def test_without_a_state_the_status_has_no_measurements(rig: Rig) -> None:
    rig.tick(ENABLE)
    rig.arms.on_state = raising(RobotError("not connected"))
    status = rig.tick(BEAT)
    assert status.measured is None
    with pytest.raises(RobotError, match="the arms' state could not be read"):
        status.require_measured()
    assert fault_of(status).text == "not connected"
