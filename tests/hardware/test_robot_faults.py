"""Faults between a policy and the motors, injected while the arms move and judged on the wire.

The SDK is the vendor's, the executor runs in its own process, and the commands to the arms are read at the simulated
controllers' sockets.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32

import robotest.hardware
from robotest.embodiment.kinematics import DualArmKinematics
from robotest.hardware.cameras.rendered import RenderedCamera
from robotest.hardware.cameras.watch import WatchedCamera
from robotest.hardware.control import black_box
from robotest.hardware.control.client import ExecutorClient, RobotFaultError
from robotest.hardware.control.messages import Beat, Enable, Hold
from robotest.hardware.control.status import Fault, Mode
from robotest.hardware.deployment.arms import ExecutorArms
from robotest.hardware.deployment.env import RobotEnv
from robotest.hardware.deployment.supervisor import BenchSupervisor
from robotest.hardware.robot import RobotError, Stop
from robotest.randomness import EpisodeSeeds
from robotest.runtime import wire
from robotest.runtime.rollout import Trace, attempt
from robotest.types import EnvOptions, Observation
from tests.doubles.faulty_camera import Faults, FaultyCamera
from tests.doubles.robots import (
    PATIENCE_S,
    ROOT,
    SWEEP_TICK,
    UNITS_PER_DEG,
    Bridge,
    Rollout,
    Simulator,
    alive,
    assert_braked,
    assert_switched_off,
    require_sdk,
    simulated,
    until,
)

pytestmark = pytest.mark.realtime

require_sdk()
slow = pytest.mark.slow
LEFT, RIGHT = 0, 1
HOLD, DECEL, NOW = Stop.HOLD, Stop.DECEL_THEN_DISABLE, Stop.DISABLE_NOW


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def shared(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    bridge = Bridge(simulator, tmp_path_factory.mktemp("bridge") / "box.bin")
    yield bridge
    simulator.clear()
    bridge.close()


@pytest.fixture
def bridge(shared: Bridge) -> Bridge:
    """Arms that are held, with power and without faults."""
    shared.ready()
    return shared


def assert_latched(bridge: Bridge, stop: Stop, *, then_moves: bool = True) -> None:
    """Nothing moves, whatever is asked for, until the fault is reset and the arms are enabled; then they do."""
    process = bridge.client.process.pid
    name = bridge.require_fault().name
    bridge.simulator.forget()
    bridge.client.follow(bridge.chunk())
    bridge.client.send(Enable())
    bridge.client.send(Hold())
    bridge.client.follow(bridge.chunk())
    heard = bridge.status.time
    until(lambda: bridge.status.time > heard + 0.1, "ten ticks")
    assert bridge.require_fault().name == name
    sent = bridge.simulator.wire()
    for arm in (LEFT, RIGHT):
        assert len(sent.frames(arm)) == 0 or stop == HOLD
        assert not np.diff(sent.frames(arm), axis=0).any()
        assert {"command": "set_arm_power", "arm_power": 1} not in sent.said(arm)
    bridge.client.reset()
    if stop != HOLD:
        assert bridge.status.mode is Mode.DISABLED
        with pytest.raises(RobotFaultError, match="not enabled"):
            bridge.finish(follow(bridge))
        bridge.client.reset()
        bridge.client.enable()
    if then_moves:
        bridge.finish(follow(bridge))
    assert bridge.client.process.pid == process
    assert alive(process)


def follow(bridge: Bridge) -> Any:
    chunk = bridge.chunk(3)
    bridge.client.follow(chunk)
    return chunk


# -- what the arms and the network do ----------------------------------------------------------------------------------


@slow
@pytest.mark.parametrize(
    ("fault", "name", "stop", "words"),
    [
        ({"name": "udp_stop", "arm": LEFT}, "state", DECEL, r"the arms' state is \d+ ms old"),
        ({"name": "udp_garbage", "arm": RIGHT}, "state", DECEL, r"the arms' state is \d+ ms old"),
        ({"name": "freeze", "arm": RIGHT}, "state", DECEL, r"the arms' state is \d+ ms old"),
        ({"name": "udp_frozen", "arm": LEFT}, "following", DECEL, r"a joint is 0\.3\d rad behind its set-point"),
        ({"name": "tcp_half_open", "arm": RIGHT}, "following", DECEL, r"a joint is 0\.3\d rad behind its set-point"),
        ({"name": "error_code", "arm": RIGHT}, "error", DECEL, r"the right arm reports a collision \(0x100d\)"),
        (
            {"name": "error_code", "arm": LEFT, "code": 0x5003},
            "error",
            DECEL,
            r"the left arm reports that the controller is too hot \(0x5003\)",
        ),
        (
            {"name": "joint_error", "arm": LEFT, "joint": 4},
            "error",
            DECEL,
            r"joint 4 of the left arm reports that it does not follow \(0x0800\)",
        ),
        (
            {"name": "joint_disabled", "arm": RIGHT, "joint": 7},
            "error",
            DECEL,
            "the right arm reports a joint that lost",
        ),
        ({"name": "current_spike", "arm": LEFT}, "current", DECEL, r"a joint draws 12\.0 A; 8 A are allowed"),
        (
            {"name": "over_temperature", "arm": RIGHT},
            "temperature",
            DECEL,
            "a joint is at 95 deg C; 70 are allowed",
        ),
        ({"name": "estop", "arm": LEFT}, "emergency_stop", NOW, "the emergency stop is pressed"),
        ({"name": "estop"}, "emergency_stop", NOW, "the emergency stop is pressed"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_a_fault_of_one_arm_stops_both(
    bridge: Bridge, fault: dict[str, Any], name: str, stop: Stop, words: str
) -> None:
    bridge.sweep()
    bridge.simulator.fault(**fault)
    latched = bridge.settled()
    assert (latched.name, latched.stop) == (name, stop)
    assert_text(latched, words)
    bridge.simulator.clear()
    until(lambda: all(switched_off(bridge, arm) for arm in (LEFT, RIGHT)), "both arms switched off")
    sent = bridge.simulator.wire()
    for arm in (LEFT, RIGHT):
        assert_switched_off(sent.said(arm))
        if stop == DECEL:
            assert_braked(sent.frames(arm))
    assert_latched(bridge, stop)


def switched_off(bridge: Bridge, arm: int) -> bool:
    return {"command": "set_arm_power", "arm_power": 0} in bridge.simulator.wire().said(arm)


def assert_text(fault: Fault, words: str) -> None:
    """One line for the operator."""
    assert re.search(words, fault.text), fault
    assert "\n" not in fault.text


@slow
@pytest.mark.parametrize("fault", ["tcp_half_open", "udp_stop"])
def test_an_arm_that_may_still_have_power_is_named(bridge: Bridge, fault: str) -> None:
    assert bridge.client.powered_sides(0.0) == ["left", "right"]
    bridge.sweep()
    bridge.simulator.fault(fault, arm=RIGHT)
    assert bridge.settled().stop == DECEL
    assert bridge.client.powered_sides() == ["right"]
    bridge.simulator.clear()
    until(lambda: bridge.client.powered_sides() == [], "both arms without power")
    assert_latched(bridge, DECEL)


@slow
@pytest.mark.parametrize("name", ["tcp_close", "tcp_reset"])
@pytest.mark.parametrize("arm", [LEFT, RIGHT])
def test_a_lost_connection_stops_the_other_arm_and_needs_a_new_link(bridge: Bridge, name: str, arm: int) -> None:
    bridge.sweep()
    bridge.simulator.fault(name, arm=arm)
    latched = bridge.settled()
    assert (latched.name, latched.stop) == ("link", DECEL)
    assert_text(latched, f"the link to the {('left', 'right')[arm]} arm is gone")
    until(lambda: switched_off(bridge, 1 - arm), "the other arm switched off")
    sent = bridge.simulator.wire()
    assert_braked(sent.frames(1 - arm))
    assert_switched_off(sent.said(1 - arm))
    assert sent.said(arm) == []  # it stays where it is, with power: nothing can reach it
    bridge.simulator.clear()
    bridge.client.reset()
    with pytest.raises(RobotFaultError, match="refuses to be switched on"):
        bridge.client.enable()
    assert alive(bridge.client.process.pid)
    bridge.open()
    bridge.client.enable()
    bridge.finish(follow(bridge))


@slow
@pytest.mark.parametrize(
    "fault",
    [
        {"name": "tcp_slow", "delay_s": 0.2},
        {"name": "tcp_slow", "delay_s": 1.5},
        {"name": "tcp_split"},
        {"name": "tcp_merge"},
        {"name": "udp_reorder"},
        {"name": "udp_duplicate"},
        {"name": "udp_garbage", "every": 2},
    ],
    ids=lambda fault: "-".join(map(str, fault.values())),
)
def test_harmless_disturbances_stop_nothing(bridge: Bridge, fault: dict[str, Any]) -> None:
    chunk = bridge.sweep(15)
    bridge.simulator.fault(**fault)
    bridge.finish(chunk)
    assert bridge.client.require_well().mode is Mode.HOLDING
    sent = bridge.simulator.wire()
    for arm in (LEFT, RIGHT):
        assert_braked(sent.frames(arm))
        assert len(sent.frames(arm)) > 150
        assert sent.said(arm) == []


@slow
def test_a_fault_that_is_still_there_is_found_again_before_the_arms_get_power(bridge: Bridge) -> None:
    bridge.simulator.fault("current_spike", arm=RIGHT)
    assert bridge.settled().name == "current"
    bridge.client.reset()
    bridge.simulator.forget()
    with pytest.raises(RobotFaultError, match="a joint draws"):
        bridge.client.enable()
    assert bridge.status.mode is Mode.DISABLED
    sent = bridge.simulator.wire()
    assert {"command": "set_arm_power", "arm_power": 1} not in sent.said(LEFT) + sent.said(RIGHT)


# -- what a policy does ------------------------------------------------------------------------------------------------


def with_joint(chunk: Any, step: int, arm: int, joint: int, value: float) -> np.ndarray:
    joints: np.ndarray = chunk.joints.copy()
    joints[step, arm, joint] = value
    return joints


@slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c, now: {"joints": with_joint(c, 5, 1, 2, np.nan)}, "joints contain values that are not finite"),
        (lambda c, now: {"joints": with_joint(c, 5, 0, 0, -np.inf)}, "joints contain values that are not finite"),
        (lambda c, now: {"openings": np.full((60, 2), np.nan)}, "openings contain values that are not finite"),
        (lambda c, now: {"joints": c.joints[:, :, :6]}, r"joints of shape \(60, 2, 6\)"),
        (lambda c, now: {"joints": c.joints[:, :1]}, r"joints of shape \(60, 1, 7\)"),
        (lambda c, now: {"joints": c.joints[:0], "openings": c.openings[:0]}, r"joints of shape \(0, 2, 7\)"),
        (lambda c, now: {"joints": c.joints.tolist()[0]}, r"joints of shape"),
        (lambda c, now: {"joints": c.joints > 0}, "joints contain values that are not finite numbers"),
        (lambda c, now: {"joints": None}, r"joints of shape \(\)"),
        (lambda c, now: {"joints": np.rad2deg(c.joints)}, r"beyond its limits.*\(are these degrees\?\)"),
        (lambda c, now: {"openings": np.full((60, 2), 1000.0)}, r"opening 1000\.000 of the left gripper; 0 to 1"),
        (lambda c, now: {"observed": now - 3.0}, r"decided on a state 3\.\d\d s old; 0 to 2 s are allowed"),
        (lambda c, now: {"observed": now + 60.0}, "decided on a state -"),
        (lambda c, now: {"observed": float("nan")}, "decided on a state nan s old"),
        (lambda c, now: {"dt": 0.0}, r"steps of 0\.0 s"),
        (lambda c, now: {"dt": -0.1}, r"steps of -0\.1 s"),
        (lambda c, now: {"dt": float("nan")}, "steps of nan s"),
        (lambda c, now: {"dt": float("inf")}, "steps of inf s"),
        (lambda c, now: {"dt": "0.1"}, "dt = '0.1'; seconds are needed"),
        (lambda c, now: {"number": 0}, "chunk 0 after chunk"),
        (lambda c, now: {"number": -1}, "number -1"),
        (lambda c, now: {"number": 2**63}, "an integer of 0 or more is needed"),
        (lambda c, now: {"number": float("nan")}, "number nan; an integer"),
        (lambda c, now: {"joints": c.joints + 0.5}, r"step 0: joint \d of the (left|right) arm jumps by 0\.5\d+ rad"),
        (lambda c, now: {"joints": with_joint(c, 30, 1, 3, 0.0)}, "step 30: joint 4 of the right arm jumps"),
        (lambda c, now: {"joints": led(c, z=-0.01)}, r"step \d+: .*(table|z = -)"),
        (
            lambda c, now: {"joints": led(c, x=-0.01)},
            r"step \d+: the (left|right) tip at x = -?0\.\d+ m, outside",
        ),
        (lambda c, now: {"joints": led(c, x=+0.01)}, r"step \d+: left .* and right .* (mm apart|meet)"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_an_implausible_chunk_is_rejected_whole(bridge: Bridge, change: Any, words: str) -> None:
    bridge.sweep()
    now = bridge.clock.now()
    chunk = bridge.chunk()
    bridge.client._socket.send(wire.pack({"do": "chunk", **vars(chunk), **change(chunk, now)}))
    latched = bridge.settled()
    assert (latched.name, latched.stop) == ("rejected", HOLD)
    assert_text(latched, f"chunk rejected: .*{words}")
    sent = bridge.simulator.wire()
    for arm in (LEFT, RIGHT):
        assert_braked(sent.frames(arm))
        assert sent.said(arm) == []
    assert bridge.status.mode is Mode.STOPPING
    assert_latched(bridge, HOLD, then_moves=False)


KINEMATICS = DualArmKinematics()  # made here: while it is made the arms would go on, and the chunk would be a jump


def led(chunk: Any, x: float = 0.0, z: float = 0.0) -> np.ndarray:
    """Lead both tips towards each other by `x`, and up by `z`, at every step [m].

    Only every tenth step is solved: the arms go on meanwhile.
    """
    way = [chunk.joints[0]]
    tips = KINEMATICS.tips(way[0])
    for _ in range(0, len(chunk.joints), 10):
        tips[:, 0] += (10 * x, -10 * x)
        tips[:, 2] += 10 * z
        way.append(KINEMATICS.solve(way[-1], tips, np.full(7, 1.0)))
    fractions = np.arange(10)[:, None, None] / 10
    return np.concatenate([start + fractions * (end - start) for start, end in itertools.pairwise(way)])


@slow
def test_a_jump_at_a_seam_within_tolerance_passes_the_rate_limiter(bridge: Bridge) -> None:
    bridge.sweep()
    chunk = bridge.chunk(12)
    chunk.joints[:, :, 6] += 0.2
    bridge.client.follow(chunk)
    bridge.finish(chunk)
    for arm in (LEFT, RIGHT):
        assert_braked(bridge.simulator.wire().frames(arm))


# -- what arrives at the executor --------------------------------------------------------------------------------------


@slow
@pytest.mark.parametrize(
    "packet",
    [
        b"garbage that is no message",
        b"\xff" * 70_000,
        b"\x83\xa2do\xa5chunk",  # cut off
        b"\x93\x01\x02\x03",
        b"\x81\xa2do\xa7explode",
        b"\x81\xa2do\xa5chunk",
        b"\x82\xa2do\xa4stop\xa4kind\xa5never",
        b"\x83\xa2do\xa4stop\xa4kind\xa5never\xa4text\xa1x",
    ],
    ids=range(8),
)
def test_a_malformed_packet_holds_the_arms(bridge: Bridge, packet: bytes) -> None:
    bridge.sweep()
    bridge.client._socket.send(packet)
    latched = bridge.settled()
    assert (latched.name, latched.stop) == ("message", HOLD)
    assert_text(latched, "^unknown message: ")
    for arm in (LEFT, RIGHT):
        assert_braked(bridge.simulator.wire().frames(arm))
    assert_latched(bridge, HOLD)


@slow
def test_an_empty_packet_is_not_taken_for_the_rollout_s_end(bridge: Bridge) -> None:
    bridge.sweep()
    bridge.client._socket.send(b"")
    assert bridge.settled().name == "message"
    assert alive(bridge.client.process.pid)


@slow
def test_the_executor_outlives_a_storm_of_noise(bridge: Bridge) -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        with contextlib.suppress(BlockingIOError):
            bridge.client._socket.send(rng.bytes(int(rng.integers(1, 300))))
    assert bridge.settled().name == "message"
    assert_latched(bridge, HOLD)


# -- what people and processes do --------------------------------------------------------------------------------------


@slow
@pytest.mark.parametrize("kind", list(Stop))
def test_the_operator_stops_the_arms(bridge: Bridge, kind: Stop) -> None:
    bridge.sweep()
    bridge.client.stop(kind, "the operator pressed a key")
    latched = bridge.settled()
    assert latched == Fault("operator", "the operator pressed a key", kind)
    if kind is not Stop.HOLD:
        until(lambda: all(switched_off(bridge, arm) for arm in (LEFT, RIGHT)), "both arms switched off")
    sent = bridge.simulator.wire()
    for arm in (LEFT, RIGHT):
        if kind is not Stop.DISABLE_NOW:
            assert_braked(sent.frames(arm))
        if kind is not Stop.HOLD:
            assert_switched_off(sent.said(arm))
        else:
            assert sent.said(arm) == []
    assert_latched(bridge, kind)


@slow
def test_a_policy_half_a_second_late_leaves_the_arms_held(bridge: Bridge) -> None:
    chunk = bridge.sweep(5)
    bridge.finish(chunk)
    bridge.simulator.forget()
    observed = bridge.clock.now()
    bridge.clock.sleep_until(observed + 0.5)
    assert bridge.client.require_well().mode is Mode.HOLDING
    for arm in (LEFT, RIGHT):
        frames = bridge.simulator.wire().frames(arm)
        assert len(frames) > 20
        assert not np.diff(frames, axis=0).any()
    late = bridge.chunk(5, observed=observed)
    bridge.client.follow(late)
    bridge.finish(late)


@slow
def test_a_policy_three_seconds_late_is_not_followed_any_more(bridge: Bridge) -> None:
    bridge.finish(bridge.sweep(5))
    observed = bridge.clock.now()
    bridge.clock.sleep_until(observed + 3.0)
    bridge.client.require_well()
    bridge.simulator.forget()
    bridge.client.follow(bridge.chunk(5, observed=observed))
    latched = bridge.settled()
    assert (latched.name, latched.stop) == ("rejected", HOLD)
    assert_text(latched, r"decided on a state 3\.\d\d s old; 0 to 2 s are allowed")
    for arm in (LEFT, RIGHT):
        assert not np.diff(bridge.simulator.wire().frames(arm), axis=0).any()


@pytest.fixture
def rollout(simulator: Simulator, shared: Bridge, tmp_path: Path) -> Iterator[Rollout]:
    """A rollout in the midst of a sweep, in place of this process's own."""
    shared.close()
    simulator.clear()
    simulator.forget()
    rollout = Rollout(simulator, tmp_path / "box.bin")
    yield rollout
    rollout.close()


def assert_stopped_and_switched_off(simulator: Simulator) -> None:
    def both() -> bool:
        sent = simulator.wire()
        return all({"command": "set_arm_power", "arm_power": 0} in sent.said(arm) for arm in (LEFT, RIGHT))

    until(both, "both arms switched off")
    sent = simulator.wire()
    for arm in (LEFT, RIGHT):
        assert_braked(sent.frames(arm))
        assert_switched_off(sent.said(arm))


@slow
def test_a_killed_rollout_stops_the_arms_and_then_the_executor_ends(
    simulator: Simulator, rollout: Rollout, tmp_path: Path
) -> None:
    os.kill(rollout.process.pid, signal.SIGKILL)
    assert_stopped_and_switched_off(simulator)
    until(lambda: not alive(rollout.executor), "the executor's end")
    assert black_box.read(tmp_path / "box.bin")["fault"][-1] == b"heartbeat"


@slow
def test_a_killed_rollout_s_arms_lose_their_power_on_a_slow_network_too(simulator: Simulator, rollout: Rollout) -> None:
    simulator.fault("tcp_slow", delay_s=0.2)
    os.kill(rollout.process.pid, signal.SIGKILL)
    until(lambda: not alive(rollout.executor), "the executor's end")
    sent = simulator.wire()
    for arm in (LEFT, RIGHT):
        assert_switched_off(sent.said(arm))


@slow
def test_a_halted_rollout_stops_the_arms_and_finds_out_when_it_goes_on(simulator: Simulator, rollout: Rollout) -> None:
    os.kill(rollout.process.pid, signal.SIGSTOP)
    assert_stopped_and_switched_off(simulator)
    assert alive(rollout.executor)
    simulator.forget()
    os.kill(rollout.process.pid, signal.SIGCONT)
    assert rollout.line() == "the rollout's process is stopped [heartbeat, decel_then_disable]"
    assert rollout.process.wait(PATIENCE_S) == 0
    assert len(simulator.wire().arm) == 0


@slow
def test_a_rollout_that_runs_and_says_nothing_stops_the_arms(bridge: Bridge) -> None:
    bridge.sweep()
    bridge.client._ended.set()  # of its heartbeat
    assert_stopped_and_switched_off(bridge.simulator)
    assert alive(bridge.client.process.pid)
    bridge.client._socket.close()
    until(lambda: not alive(bridge.client.process.pid), "the executor's end")
    assert black_box.read(bridge.box)["fault"][-1] == b"heartbeat"
    bridge.drop()


@slow
def test_an_executor_that_is_terminated_stops_the_arms_first(simulator: Simulator, rollout: Rollout) -> None:
    os.kill(rollout.executor, signal.SIGTERM)
    assert_stopped_and_switched_off(simulator)
    until(lambda: not alive(rollout.executor), "its end")


@slow
def test_control_c_is_not_for_the_executor(rollout: Rollout) -> None:
    os.kill(rollout.executor, signal.SIGINT)
    time.sleep(0.2)
    assert alive(rollout.executor)


@slow
def test_an_executor_that_did_not_run_for_a_while_says_so_and_does_not_catch_up(bridge: Bridge) -> None:
    bridge.sweep()
    process = bridge.client.process.pid
    os.kill(process, signal.SIGSTOP)
    try:
        until(lambda: raises(lambda: bridge.status, "the executor is silent: press the hardware's emergency stop"))
    finally:
        os.kill(process, signal.SIGCONT)
    until(lambda: not raises(lambda: bridge.status, "silent"), "a status")
    assert_starved(bridge)


@slow
def test_the_executor_asks_idle_processors_to_stay_awake(bridge: Bridge) -> None:
    device = Path("/dev/cpu_dma_latency")
    if not os.access(device, os.W_OK):
        pytest.skip(f"this user may not write to {device}")
    held = Path(f"/proc/{bridge.client.process.pid}/fd").iterdir()
    assert device in [descriptor.readlink() for descriptor in held]


HOG = """
    import os, sys, time
    os.sched_setaffinity(0, {int(sys.argv[1])})
    time.sleep(float(sys.argv[2]) - time.monotonic())
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(80))
    while time.monotonic() < float(sys.argv[2]) + 0.3:
        pass
"""


@slow
@pytest.mark.alone
def test_a_starved_executor_stops_the_arms(bridge: Bridge) -> None:
    """Processes of a higher priority take every processor, for less than the system allows them."""
    if not bridge.client.greeting.realtime:
        pytest.skip("no real-time priorities for this user, so nothing can take the processors away")
    start = time.monotonic() + 2.0
    hogs = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(HOG), str(cpu), str(start)])  # noqa: S603 - our own
        for cpu in os.sched_getaffinity(0)
    ]
    bridge.sweep()
    assert [hog.wait(PATIENCE_S) for hog in hogs] == [0] * len(hogs)
    assert_starved(bridge)


def assert_starved(bridge: Bridge) -> None:
    """The executor found that it had not run: no set-point further but one that was on its way, then no power."""
    latched = bridge.settled()
    assert (latched.name, latched.stop) == ("starved", DECEL)
    assert_text(latched, r"the executor did not run for \d+ ms")
    until(lambda: all(switched_off(bridge, arm) for arm in (LEFT, RIGHT)), "both arms switched off")
    sent = bridge.simulator.wire()
    for arm in (LEFT, RIGHT):
        gap = int(np.argmax(np.diff(sent.stamp[sent.arm == arm])))
        frames = sent.frames(arm)
        assert not np.diff(frames[gap + 1 :], axis=0).any()
        assert np.abs(frames[gap + 1 :] - frames[gap]).max(initial=0) <= SWEEP_TICK
        assert_switched_off(sent.said(arm))
    assert_latched(bridge, DECEL)


def raises(what: Any, words: str) -> bool:
    try:
        what()
    except RobotError as error:
        return words in str(error)
    return False


@slow
def test_a_killed_executor_is_noticed_and_leaves_its_black_box(bridge: Bridge) -> None:
    bridge.open()
    bridge.client.enable()
    bridge.simulator.forget()
    bridge.sweep()
    os.kill(bridge.client.process.pid, signal.SIGKILL)
    until(lambda: raises(lambda: bridge.status, "press the hardware's emergency stop"), "silence")
    assert raises(lambda: bridge.client.send(Beat()), "the executor is gone")
    ticks = black_box.read(bridge.box)
    np.testing.assert_array_equal(np.diff(ticks["index"]), 1)
    assert ticks["mode"][-1] == b"following"
    sent = bridge.simulator.wire()
    for arm in (LEFT, RIGHT):
        boxed = np.rint(np.rad2deg(ticks["sent"][np.isfinite(ticks["sent"][:, 0, 0]), arm]) * UNITS_PER_DEG)
        tail = sent.frames(arm)[-62:-2]  # killed on the way from one to the other: the last one may be in one alone
        ends = range(len(boxed) - 4, len(boxed) + 1)
        assert any(np.array_equal(tail, boxed[end - len(tail) : end]) for end in ends)


def test_nothing_depends_on_the_time_of_day() -> None:
    """The wall clock may jump: only names of files may come from it."""
    allowed = {"perf_counter", "monotonic", "sleep"}
    apart = {
        "streams.py": {"time_ns"},  # the system's stamps are in it; only a difference of a moment is taken
        "runner.py": {"strftime"},  # names the black box
    }
    files = sorted(Path(robotest.hardware.__path__[0]).rglob("*.py"))
    assert {path.name for path in files} >= apart.keys()
    assert len(files) > 10
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time":
                assert node.attr in allowed | apart.get(path.name, set()), (
                    f"{path.name}:{node.lineno} uses time.{node.attr}"
                )
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
                assert "datetime" not in names, f"{path.name}:{node.lineno}"
                assert not (isinstance(node, ast.ImportFrom) and node.module == "time"), f"{path.name}:{node.lineno}"


FULL_DISK = """
    import resource, sys, json
    from pathlib import Path
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
    from robotest.hardware.control.client import ExecutorClient
    from robotest.hardware.robot import RobotError
    from robotest.clock import WallClock
    try:
        ExecutorClient("rm75-dual", json.loads(sys.argv[1]), Path(sys.argv[2]), WallClock())
    except RobotError as error:
        print(error)
"""


@slow
def test_a_full_disk_is_found_before_anything_moves(simulator: Simulator, tmp_path: Path) -> None:
    simulator.clear()
    simulator.forget()
    box = tmp_path / "box.bin"
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), json.dumps(simulator.place.config), str(box)]
    ended = subprocess.run(  # noqa: S603 - this interpreter
        command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert ended.stdout.startswith(f"the black box {box} needs "), ended
    assert ended.stdout.count("\n") == 1
    assert len(simulator.wire().arm) == 0
    assert simulator.wire().commands == []


@slow
@pytest.mark.parametrize("where", ["/proc/none/box.bin", "/proc/version/box.bin"])
def test_a_black_box_that_cannot_be_created_is_an_error(simulator: Simulator, where: str) -> None:
    with pytest.raises(RobotError, match="the black box"):
        ExecutorClient("rm75-dual", simulator.place.config, Path(where), Bridge(simulator, Path(where)).clock)


# -- what cameras do ---------------------------------------------------------------------------------------------------

OPTIONS = EnvOptions(image_size=48)
SEEDS = EpisodeSeeds(0, "place_block_pad", 0)


@slow
@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (Faults(freeze=True), "has given no frame for|has nothing newer than frame"),
        (Faults(repeat=True), "is frozen: new frames keep its stamp"),
        (Faults(drop=True), "gave no frame within 3 s"),
        (Faults(clock_jump_s=-5.0), r"has a clock that went back by 4\.\d+ s"),
        (Faults(clock_jump_s=5.0), r"has a clock that jumped ahead by \d\.\d+ s"),
        (Faults(late_s=0.3), "has given no frame for 0.3"),
        (Faults(unplug=True), "was unplugged"),
    ],
    ids=["freeze", "repeat", "drop", "clock-back", "clock-ahead", "late", "unplug"],
)
def test_a_failing_camera_makes_the_episode_an_error_and_holds_the_arms(
    bridge: Bridge, faults: Faults, words: str
) -> None:
    clock = bridge.clock
    with contextlib.closing(BenchSupervisor(bridge.simulator.bench, OPTIONS)) as scene:
        camera = FaultyCamera(RenderedCamera("front", (48, 64), scene.picture("front", 48, 64), clock), clock)
        watched = WatchedCamera(camera, (48, 64), clock, max_age_s=0.25)
        watched.open()
        env = RobotEnv(
            bridge.client, ExecutorArms(bridge.client, clock), {"front": watched}, scene, SEEDS.task, 100, OPTIONS
        )

        def decide(observation: Observation, number: int) -> Float32[np.ndarray, "H A"]:
            camera.faults = faults if number == 2 else Faults()
            bridge.simulator.forget()
            return chunk(np.full(4, 0.01 * (number + 1), np.float32))

        ended = attempt(env, decide, SEEDS, Trace(), clock, clock)
    assert ended.outcome == "error"
    assert ended.error is not None
    assert re.search(f"CameraError: camera 'front' ({words})", ended.error), ended.error
    until(lambda: bridge.client.require_well().mode is Mode.HOLDING and bridge.status.at_rest, "arms at rest")
    sent = bridge.simulator.wire()
    for arm in (LEFT, RIGHT):
        assert_braked(sent.frames(arm))
        assert sent.said(arm) == []


def chunk(way: Float32[np.ndarray, " H"]) -> Float32[np.ndarray, "H A"]:
    """Both tips up by these distances [m], grippers open."""
    actions = np.zeros((len(way), 10), np.float32)
    actions[:, 2] = actions[:, 7] = way
    actions[:, 4] = actions[:, 9] = 1.0
    return actions
