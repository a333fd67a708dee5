"""The driver of the RealMan arms: what the vendor's SDK does that one would not expect, and nobody at the other end.

The driver runs in a process of its own with the SDK as it is; what it sent is read at the simulated controllers.
"""

from __future__ import annotations

import ast
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import robotest.hardware
from robotest.clock import WallClock
from robotest.errors import RobotestError
from robotest.hardware.control.client import ExecutorClient
from robotest.hardware.limits import DEFAULT_LIMITS
from robotest.hardware.realman import RESOLUTION_RAD, rm75_dual
from robotest.hardware.robot import RobotError, Stop
from robotest.hardware.simulated import protocol
from tests.doubles.robots import (
    ROOT,
    Answer,
    Driver,
    FakeController,
    Impostor,
    Place,
    Simulator,
    assert_switched_off,
    require_sdk,
    simulated,
    until,
)

require_sdk()
pytestmark = pytest.mark.slow
LEFT, RIGHT = 0, 1
OPEN = np.ones(2)
SIX_JOINTS: dict[str, Any] = {
    str(command): {
        key: "RM65-6F" if key == "Product_version" else value[:6] if isinstance(value, list) else value
        for key, value in json.loads(reply).items()
        if key != "joint_7"
    }
    for command, reply in protocol.FIXED.items()
} | {"get_arm_current_trajectory": {"state": "arm_current_trajectory", "type": "none", "data": [0] * 6}}
SOON_S = 3.0
"""By when somebody at the terminal has to know that there is no robot."""


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def connected(simulator: Simulator) -> Iterator[list[Driver]]:
    """The driver in use; it is made anew where a test cut its connections."""
    drivers: list[Driver] = []
    yield drivers
    for driver in drivers:
        driver.close()


@pytest.fixture
def arms(simulator: Simulator, connected: list[Driver]) -> Iterator[Driver]:
    """The driver of arms with power and without faults."""
    simulator.clear()
    if not connected or connected[-1].ask("enable").error is not None:
        connected.append(Driver(simulator.place.config))
        connected[-1]("connect")
        connected[-1]("enable")
    simulator.forget()
    yield connected[-1]
    simulator.clear()


def assert_error(answer: Answer, *words: str, soon: bool = True) -> None:
    """It is refused in one line that says what is wrong and what to do, while somebody still watches."""
    assert answer.error is not None
    assert "\n" not in answer.error
    for word in words:
        assert word in answer.error, answer.error
    assert answer.seconds < SOON_S or not soon


# -- what leaves -------------------------------------------------------------------------------------------------------


def test_set_points_are_sent_to_a_thousandth_of_a_degree(simulator: Simulator, arms: Driver) -> None:
    """The SDK cuts off what it should round, and passes angles through 32-bit floats."""
    rng = np.random.default_rng(0)
    low, high = np.rint(DEFAULT_LIMITS.joint_low / RESOLUTION_RAD), np.rint(DEFAULT_LIMITS.joint_high / RESOLUTION_RAD)
    units = rng.integers(low, high, (2000, 2, 7))
    units[0], units[1], units[2], units[3], units[4] = low, high, 0, -1, 1
    sent = arms("stream", units * RESOLUTION_RAD, OPEN)
    np.testing.assert_allclose(sent, units * RESOLUTION_RAD, atol=1e-12)
    until(lambda: len(simulator.wire().arm) == 4000, "all frames")
    for arm in (LEFT, RIGHT):
        np.testing.assert_array_equal(simulator.wire().frames(arm), units[:, arm])


def test_set_points_are_rounded_to_the_nearer_unit_and_returned(simulator: Simulator, arms: Driver) -> None:
    rng = np.random.default_rng(1)
    asked = rng.uniform(DEFAULT_LIMITS.joint_low, DEFAULT_LIMITS.joint_high, (500, 2, 7))
    sent = arms("stream", asked, OPEN)
    assert np.abs(sent - asked).max() <= 0.5001 * RESOLUTION_RAD
    until(lambda: len(simulator.wire().arm) == 1000, "all frames")
    for arm in (LEFT, RIGHT):
        np.testing.assert_array_equal(simulator.wire().frames(arm), np.rint(sent[:, arm] / RESOLUTION_RAD))


@pytest.mark.parametrize(
    ("joints", "words"),
    [
        (np.full((2, 7), np.nan), "not 2 x 7 finite numbers"),
        (np.where(np.arange(14).reshape(2, 7) == 13, np.inf, 0.0), "not 2 x 7 finite numbers"),
        (np.where(np.arange(14).reshape(2, 7) == 0, -np.inf, 0.0), "not 2 x 7 finite numbers"),
        (np.zeros((2, 6)), "shape (2, 6)"),
        (np.zeros((2, 8)), "shape (2, 8)"),
        (np.zeros((1, 7)), "shape (1, 7)"),
        (np.zeros(14), "shape (14,)"),
        (np.full((2, 7), 1e9), "beyond the joint limits"),
        (np.where(np.arange(14).reshape(2, 7) == 3, 2.5, 0.0), "beyond the joint limits"),
        (np.where(np.arange(14).reshape(2, 7) == 3, -90.0, 0.0), "beyond the joint limits"),
    ],
    ids=range(10),
)
def test_invalid_set_points_that_the_sdk_would_send_are_not_sent(
    simulator: Simulator, arms: Driver, joints: np.ndarray, words: str
) -> None:
    assert_error(arms.ask("command", joints, OPEN), words, "was not sent")
    time.sleep(0.05)
    assert len(simulator.wire().arm) == 0


def test_every_set_point_goes_to_both_arms_left_first(simulator: Simulator, arms: Driver) -> None:
    home = arms("state")["joints"]
    arms("stream", np.repeat(home[None], 50, 0), OPEN)
    until(lambda: len(simulator.wire().arm) == 100, "all frames")
    sent = simulator.wire()
    assert (sent.arm == LEFT).sum() == (sent.arm == RIGHT).sum() == 50
    assert sent.arm[0] == LEFT


# -- a controller that does not answer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["freeze", "tcp_half_open"])
def test_streaming_does_not_wait_for_a_controller_that_does_nothing(
    simulator: Simulator, arms: Driver, fault: str
) -> None:
    """Every question would cost half a second: 500 of them are not asked here."""
    home = arms("state")["joints"]
    simulator.fault(fault, arm=LEFT)
    answer = arms.ask("stream", np.repeat(home[None], 500, 0), OPEN)
    assert answer.error is None
    assert answer.seconds < 30
    assert arms.ask("states", 500).seconds < 30


def test_only_the_age_of_the_state_tells_of_a_frozen_controller(simulator: Simulator, arms: Driver) -> None:
    home = arms("state")["joints"]
    simulator.fault("freeze", arm=RIGHT)
    time.sleep(0.3)
    assert arms.ask("command", home, OPEN).error is None  # as the SDK has it
    left, right = arms("state")["stamps"]
    assert left - right > 0.2
    simulator.clear()
    until(lambda: bool(np.ptp(arms("state")["stamps"]) < 0.1), "fresh states")


def test_a_stop_returns_at_once_and_reaches_the_other_arm(simulator: Simulator, arms: Driver) -> None:
    simulator.fault("freeze", arm=LEFT)
    assert arms.ask("stop", Stop.DISABLE_NOW.value).error is None
    until(lambda: len(simulator.wire().said(RIGHT)) >= 2, "the right arm's stop")
    assert_switched_off(simulator.wire().said(RIGHT))
    assert simulator.wire().said(LEFT) == []
    simulator.clear()
    until(lambda: len(simulator.wire().said(LEFT)) >= 2, "what waited in the left arm's connection")
    assert_switched_off(simulator.wire().said(LEFT))


@pytest.mark.parametrize("kind", [Stop.DECEL_THEN_DISABLE, Stop.DISABLE_NOW])
def test_power_is_taken_by_a_stop_and_never_by_the_function_called_emergency_stop(
    simulator: Simulator, arms: Driver, kind: Stop
) -> None:
    """That function is not there on third-generation controllers, and the SDK is locked after it was called."""
    for _ in range(3):
        arms("stop", kind.value)
    until(lambda: all(len(simulator.wire().said(arm)) >= 6 for arm in (LEFT, RIGHT)), "stops")
    for arm in (LEFT, RIGHT):
        assert_switched_off(simulator.wire().said(arm))
        assert {c["command"] for c in simulator.wire().said(arm)} == {"set_arm_stop", "set_arm_power"}
    until(lambda: not arms("state")["enabled"].any(), "no power")


def test_no_module_calls_the_function_called_emergency_stop() -> None:
    files = list(Path(robotest.hardware.__path__[0]).rglob("*.py"))
    assert len(files) > 10
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            assert named != "rm_set_arm_emergency_stop", f"{path}:{getattr(node, 'lineno', 0)}"


def test_a_hold_sends_nothing(simulator: Simulator, arms: Driver) -> None:
    arms("stop", Stop.HOLD.value)
    time.sleep(0.2)
    assert simulator.wire().commands == []
    assert arms("state")["enabled"].all()


# -- grippers ----------------------------------------------------------------------------------------------------------


def test_nothing_is_moved_by_connecting(simulator: Simulator) -> None:
    simulator.clear()
    simulator.forget()
    with Driver(simulator.place.config) as driver:
        driver("connect")
        driver("state")
        time.sleep(0.3)
        driver("disconnect")
    sent = simulator.wire()
    assert {c["command"] for _, c in sent.commands} == {"set_realtime_push"}
    assert len(sent.arm) == 0


@pytest.mark.parametrize(
    ("openings", "positions"),
    [((0.5, 0.7), (500, 700)), ((0.0, -3.0), (1, 1)), ((2.0, 1.0), (1000, 1000))],
)
def test_grippers_follow_without_keeping_anybody_waiting(
    simulator: Simulator, arms: Driver, openings: tuple[float, float], positions: tuple[int, int]
) -> None:
    home = arms("state")["joints"]
    answer = arms.ask("stream", np.repeat(home[None], 100, 0), np.array(openings))
    assert answer.error is None
    assert answer.seconds < 30  # with the SDK's waiting it would be 100 s and more
    wanted = np.clip(openings, 0.0, 1.0)
    until(lambda: bool(np.abs(arms("state")["openings"] - wanted).max() < 0.05), "the grippers")
    for arm in (LEFT, RIGHT):
        said = simulator.wire().said(arm)
        assert said[-1] == {"command": "set_gripper_position", "position": positions[arm], "block": False}
        assert len(said) < 20  # said once, not at every tick


def test_grippers_still_follow_after_a_controller_was_silent(simulator: Simulator, arms: Driver) -> None:
    home = arms("state")["joints"]
    simulator.fault("tcp_half_open", arm=RIGHT)
    time.sleep(1.0)
    simulator.clear()
    for opening in (0.4, 0.9):
        arms("command", home, np.full(2, opening))
        until(lambda: bool(np.abs(arms("state")["openings"] - opening).max() < 0.05), "the grippers")  # noqa: B023


# -- a lost connection -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "arm", "lost"),
    [("tcp_close", LEFT, "left"), ("tcp_reset", RIGHT, "right"), ("tcp_close", None, "left and the right")],
)
def test_a_lost_connection_is_an_error_until_connecting_anew(
    simulator: Simulator, fault: str, arm: int | None, lost: str
) -> None:
    simulator.clear()
    with Driver(simulator.place.config) as driver:
        driver("connect")
        driver("enable")
        home = driver("state")["joints"]
        simulator.fault(fault, **({} if arm is None else {"arm": arm}))
        until(lambda: driver.ask("command", home, OPEN).error is not None, "an error")  # the first still returns 0
        simulator.clear()
        for _ in range(3):
            assert_error(driver.ask("command", home, OPEN), f"the link to the {lost} arm is gone")
        assert_error(driver.ask("enable"), "refuses to be switched on")
        driver("stop", Stop.DISABLE_NOW.value)
        driver("disconnect")
        driver("disconnect")
    with Driver(simulator.place.config) as driver:
        driver("connect")
        driver("enable")
        driver("command", home, OPEN)


# -- nobody there, or somebody else ------------------------------------------------------------------------------------


@pytest.fixture
def place() -> Place:
    return Place.free()


def connecting(config: dict[str, Any], **environment: str) -> Answer:
    with Driver(config, **environment) as driver:
        return driver.ask("connect")


def test_without_the_sdk_the_error_names_the_package(place: Place, tmp_path: Path) -> None:
    (tmp_path / "Robotic_Arm.py").write_text("raise ImportError('there is no such package')")
    answer = connecting(place.config, PYTHONPATH=str(tmp_path))
    assert_error(answer, "SDK is missing", "pip install 'robotest[realman]'")


def test_an_sdk_whose_library_cannot_be_loaded_is_an_error_in_one_line(place: Place, tmp_path: Path) -> None:
    (tmp_path / "Robotic_Arm").mkdir()
    (tmp_path / "Robotic_Arm" / "__init__.py").touch()
    (tmp_path / "Robotic_Arm" / "rm_robot_interface.py").write_text("raise ImportError('Could not load libapi_c.so')")
    answer = connecting(place.config, PYTHONPATH=str(tmp_path))
    assert_error(answer, "libapi_c.so")


def test_an_address_without_a_controller(place: Place) -> None:
    assert_error(
        connecting(place.config), f"left arm at {place.hosts[0]}:{place.tcp_port}", "Is it switched on", "robot.toml"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_does_not_exist(place: Place, host: str) -> None:
    config = {**place.config, "hosts": [host, place.hosts[1]]}
    assert_error(connecting(config), f"left arm at {host}", "Is it switched on", "robot.toml")


@pytest.mark.parametrize(
    "reply",
    [
        lambda line: [],
        lambda line: [b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"],
        lambda line: [b'{"command":"nonsense"}\r\n', b"\x00\xff\xfe" * 100 + b"\r\n"],
        lambda line: [b"[" * 10_000 + b"\r\n"],
    ],
    ids=["silent", "web", "nonsense", "nested"],
)
def test_something_else_at_the_address(place: Place, reply: Callable[[bytes], list[bytes]]) -> None:
    with (
        closing(Impostor((place.hosts[0], place.tcp_port), reply)),
        closing(Impostor((place.hosts[1], place.tcp_port), reply)),
    ):
        answer = connecting(place.config)
    assert_error(answer, f"the left arm at {place.hosts[0]} does not answer like a RealMan controller")


def test_one_arm_missing(place: Place) -> None:
    with closing(FakeController(place.hosts[0], place, {})):
        answer = connecting(place.config)
    assert_error(answer, f"cannot connect to the right arm at {place.hosts[1]}:{place.tcp_port}")


def test_another_arm_of_the_same_make(place: Place) -> None:
    with closing(FakeController(place.hosts[0], place, {})), closing(FakeController(place.hosts[1], place, SIX_JOINTS)):
        answer = connecting(place.config)
    assert_error(answer, f"the right arm at {place.hosts[1]} has 6 joints; an RM75 has 7")


def test_an_arm_of_other_lengths(place: Place) -> None:
    longer = json.loads(protocol.FIXED["get_DH_data"])
    longer["joint_3"][2] += 50_000
    with (
        closing(FakeController(place.hosts[0], place, {"get_DH_data": longer})),
        closing(FakeController(place.hosts[1], place, {})),
    ):
        answer = connecting(place.config)
    assert_error(answer, f"the left arm at {place.hosts[0]} is not an RM75: its DH parameters d are")


def test_a_gripper_that_does_not_answer_is_an_error_and_not_moved(place: Place) -> None:
    left = FakeController(place.hosts[0], place, {"get_gripper_state": None})
    with closing(left), closing(FakeController(place.hosts[1], place, {})), Driver(place.config) as driver:
        answer = driver.ask("connect")
        time.sleep(0.3)
    assert_error(answer, "the left gripper does not answer")
    assert "set_gripper_position" not in left.commands()


def test_an_arm_that_answers_and_pushes_nothing(simulator: Simulator) -> None:
    simulator.clear()
    simulator.fault("udp_stop", arm=RIGHT)
    answer = connecting(simulator.place.config)
    simulator.clear()
    port = simulator.place.udp_port
    assert_error(answer, f"the right arm pushes no state to UDP port {port}", "firewall")


def test_a_port_for_states_that_is_taken(simulator: Simulator) -> None:
    simulator.clear()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 0))
        port = other.getsockname()[1]
        answer = connecting({**simulator.place.config, "udp_port": port})
    assert_error(answer, f"no state to UDP port {port}", "another program use that port")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hosts": ["127.0.1.1"]}, "hosts"),
        ({"hosts": "127.0.1.1"}, "hosts"),
        ({"hosts": ["127.0.1.1", 5]}, "hosts"),
        ({"hosts": ["127.0.1.1", "127.0.1.1"]}, "hosts"),
        ({"tcp_port": "8080"}, "tcp_port"),
        ({"tcp_port": 99_999}, "tcp_port"),
        ({"udp_port": 0}, "udp_port"),
        ({"local_ip": 7}, "local_ip"),
        ({"limits": 3}, "limits"),
        ({"limits": {"speed": "fast"}}, "limit speed"),
        ({"hots": ["127.0.1.1", "127.0.1.2"]}, "Did you mean 'hosts'"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_by_the_name_of_its_key(
    place: Place, change: dict[str, Any], word: str
) -> None:
    """Otherwise the executor's process could only say that it ended."""
    with pytest.raises(RobotestError, match=word):
        rm75_dual({**place.config, **change})


def test_the_executor_passes_on_why_it_did_not_open(place: Place, tmp_path: Path) -> None:
    with pytest.raises(RobotError, match=f"cannot connect to the left arm at {place.hosts[0]}:{place.tcp_port}"):
        ExecutorClient("rm75-dual", place.config, tmp_path / "box.bin", WallClock())


# -- when power is asked for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"name": "error_code", "arm": RIGHT}, ("the right arm reports a collision (0x100d)", "Clear it")),
        ({"name": "joint_error", "arm": LEFT, "joint": 2}, ("joint 2 of the left arm", "(0x0800)", "Clear it")),
        ({"name": "estop", "arm": LEFT}, ("the emergency stop is pressed", "release it")),
        ({"name": "udp_stop", "arm": LEFT}, ("the left arm pushes no state to UDP port",)),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_an_arm_that_must_not_have_power_gets_none(
    simulator: Simulator, arms: Driver, fault: dict[str, Any], words: tuple[str, ...]
) -> None:
    simulator.fault(**fault)
    time.sleep(0.1)
    answer = arms.ask("enable")
    assert_error(answer, *words)
    assert simulator.wire().commands == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"name": "error_code", "arm": RIGHT}, "the right arm reports a collision"),
        ({"name": "estop"}, "the emergency stop is pressed"),
    ],
    ids=["error", "estop"],
)
def test_the_operator_sees_the_reason_too(
    simulator: Simulator, tmp_path: Path, fault: dict[str, Any], words: str
) -> None:
    simulator.clear()
    simulator.fault(**fault)
    simulator.forget()
    client = ExecutorClient("rm75-dual", simulator.place.config, tmp_path / "box.bin", WallClock())
    start = time.monotonic()
    with closing(client), pytest.raises(RobotError, match=words):
        client.enable()
    assert time.monotonic() - start < SOON_S
    assert {"command": "set_arm_power", "arm_power": 1} not in [c for _, c in simulator.wire().commands]
    simulator.clear()


def test_standard_output_is_not_the_sdk_s(simulator: Simulator) -> None:
    """It prints its version, which would be in the midst of a table or of JSON."""
    simulator.clear()
    code = (
        "import json, sys; from tests.doubles.robots import CALLS, rm75_dual;"
        " robot = rm75_dual(json.loads(sys.argv[1])); robot.connect(); robot.disconnect(); print('mine')"
    )
    ended = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-c", code, json.dumps(simulator.place.config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert ended.stdout == "mine\n", ended
