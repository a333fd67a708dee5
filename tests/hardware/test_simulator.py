"""The simulated robot as others see it: the vendor's SDK, sockets, and the bench."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from robotest.envs.dual_arm.suite import suite
from robotest.hardware.robot import RobotError
from robotest.hardware.simulated.faults import FAULTS, fault_arguments
from robotest.hardware.simulated.journal import Journal
from robotest.hardware.simulated.protocol import parse
from robotest.hardware.simulated.server import RobotSimulator
from robotest.runtime.wire import Channel
from robotest.types import EnvOptions

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a second loopback address")
slow = pytest.mark.slow
PATIENCE_S = 30.0
STOPPED = {"command": "set_arm_stop", "arm_stop": True}


class Process:
    """A simulator in a process of its own."""

    def __init__(self, *arguments: str, hosts: tuple[str, str] = ("127.0.0.31", "127.0.0.32")) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self.udp_port = probe.getsockname()[1]
        command = [sys.executable, "-m", "robotest", "simulate-robot", "--hosts", *hosts, "--tcp-port", "0"]
        command += ["--udp-port", str(self.udp_port), "--bench-port", "0", *arguments]
        self.process = subprocess.Popen(  # noqa: S603 - this interpreter
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        found = [(host, int(port)) for host, port in re.findall(r"(127[\d.]+):(\d+)", self.line)]
        assert len(found) == 4, self.line + self.process.stdout.read()
        self.arms, self.bench = found[:2], found[3]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Bench:
    """Requests to the bench."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.channel = Channel(socket.create_connection(address))

    def __call__(self, do: str, **rest: Any) -> Any:
        self.channel.send({"do": do, **rest})
        return self.channel.receive(PATIENCE_S)


class Arm:
    """A client of one controller that knows nothing but sockets."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.settimeout(PATIENCE_S)
        self.buffer = b""

    def send(self, **command: Any) -> None:
        self.socket.sendall(json.dumps(command).encode() + b"\r\n")

    def receive(self) -> Any:
        while b"\r\n" not in self.buffer:
            data = self.socket.recv(4096)
            assert data, "the connection was closed"
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return json.loads(line)

    def ask(self, **command: Any) -> Any:
        self.send(**command)
        while "state" in (reply := self.receive()) and reply["state"] == "current_trajectory_state":
            """Nobody waits for arrivals."""
        return reply

    def joints(self) -> Any:
        return self.ask(command="get_joint_degree")["joint"]


class States:
    """What is pushed, whether it can be read or not."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", port))
        self.socket.settimeout(PATIENCE_S)

    def drain(self) -> None:
        while select.select([self.socket], [], [], 0)[0]:
            self.socket.recv(8192)

    def packets(self, host: str, n: int) -> list[bytes]:
        """Return the next n packets of an arm; those that wait were sent before this was asked."""
        self.drain()
        found: list[bytes] = []
        while len(found) < n:
            data, (source, _) = self.socket.recvfrom(8192)
            if source == host:
                found.append(data)
        return found

    def state(self, host: str) -> Any:
        return json.loads(self.packets(host, 2)[-1])

    def silent(self, host: str, for_s: float) -> bool:
        self.drain()
        end = time.monotonic() + for_s
        while (left := end - time.monotonic()) > 0:
            if select.select([self.socket], [], [], left)[0] and self.socket.recvfrom(8192)[1][0] == host:
                return False
        return True


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    process = Process()
    yield process
    process.close()


@pytest.fixture
def bench(process: Process) -> Iterator[Bench]:
    bench = Bench(process.bench)
    yield bench
    bench("clear")
    bench.channel.close()


@pytest.fixture
def states(process: Process) -> Iterator[States]:
    states = States(process.udp_port)
    yield states
    states.socket.close()


@pytest.fixture
def arm(process: Process, bench: Bench) -> Iterator[Arm]:
    """The left arm, without faults, with power and at home."""
    bench("clear")
    arm = Arm(process.arms[0])
    assert arm.ask(command="set_arm_power", arm_power=1)["arm_power"]
    custom = {"arm_current_status": True, "joint_speed": True}
    assert arm.ask(command="set_realtime_push", enable=True, cycle=1, custom=custom)["state"]
    arm.socket.close()
    go_home(process, bench)
    arm = Arm(process.arms[0])  # a new connection: arrivals go to every client
    assert arm.ask(command="set_arm_stop") == STOPPED  # it has been accepted
    yield arm
    arm.socket.close()


def go_home(process: Process, bench: Bench) -> None:
    """Bring both arms to where an episode may begin, and begin one."""
    for address, home in zip(process.arms, np.rad2deg(bench("home_pose")["joints"]), strict=True):
        arm = Arm(address)
        arm.ask(command="set_gripper_position", position=1000, block=False)
        assert arm.ask(command="movej", joint=[round(1000 * q) for q in home], v=100, r=0)["receive_state"]
        while arm.receive().get("device") != 0:
            """Until it has arrived."""
        arm.socket.close()
    end = time.monotonic() + PATIENCE_S
    while "error" in (reply := bench("reset")):
        assert time.monotonic() < end, reply
        time.sleep(0.02)


def move(arm: Arm) -> None:
    """Let joint 1 move for seconds."""
    target = arm.joints()
    target[0] += 20_000
    assert arm.ask(command="movej", joint=target, v=3, r=0)["receive_state"]
    while target[0] - arm.joints()[0] > 18_000:
        time.sleep(0.02)


def position(packet: bytes) -> int:
    return int(json.loads(packet)["joint_status"]["joint_position"][0])


# -- without a process -------------------------------------------------------------------------------------------------


def test_the_journal_keeps_the_newest_and_numbers_them_through() -> None:
    journal = Journal(limit=30, chunk=10)
    for k in range(75):
        journal.frame(k % 2, float(k), [k, -k, 2**40, -(2**40), 0, 0, 0])
        journal.command(1, float(k), f"{k}".encode())
    rows: list[Any] = []
    next_ = 0
    while next_ < journal.n_frames:
        part = journal.read(next_, 0)
        rows.append(part["joints"])
        next_ = part["next"]
    joints = np.concatenate(rows)
    assert joints[:, 0].tolist() == list(range(40, 75))
    assert joints[0, 2:4].tolist() == [2**31 - 1, -(2**31)]
    assert journal.read(0, 0)["commands"] == [[1, float(k), f"{k}"] for k in (72, 73, 74)]
    assert journal.read(10**12, 10**12)["joints"].shape == (0, 7)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("estop", {"joint": 1}),
        ("joint_error", {"joint": 8}),
        ("joint_error", {"joint": 1.0}),
        ("tcp_slow", {"delay_s": -1}),
    ],
)
def test_arguments_of_faults_are_checked(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(RobotError, match=name):
        fault_arguments(name, given)


def test_faults_have_defaults_that_they_accept() -> None:
    for name, fault in FAULTS.items():
        assert fault_arguments(name, {}) == fault_arguments(name, dict(fault.arguments)) == fault.arguments


def test_the_bench_is_for_this_machine_alone() -> None:
    with pytest.raises(RobotError, match=r"127\.0\.0\.1"):
        RobotSimulator(bench=("0.0.0.0", 0))  # noqa: S104 - refused, which is the point


def test_a_host_of_another_machine_is_an_error() -> None:
    with pytest.raises(RobotError, match=r"192\.0\.2\.1"):
        RobotSimulator(("127.0.0.33", "192.0.2.1"), tcp_port=0, bench=("127.0.0.1", 0))


def test_it_can_be_closed_before_it_serves() -> None:
    robot = RobotSimulator(("127.0.0.33", "127.0.0.34"), tcp_port=0, bench=("127.0.0.1", 0))
    robot.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(robot.arms[0])


def test_an_address_in_use_is_an_error_and_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RobotError, match="in use"):
        RobotSimulator(("127.0.0.33", "127.0.0.34"), tcp_port=0, bench=taken.getsockname())


# -- the SDK -----------------------------------------------------------------------------------------------------------

SDK_SESSION = """
    import json, math, sys, time
    from Robotic_Arm.rm_robot_interface import (
        RoboticArm, rm_realtime_arm_state_callback_ptr, rm_realtime_push_config_t, rm_thread_mode_e,
        rm_udp_custom_config_t,
    )

    out, udp_port, *addresses = sys.argv[1:]
    arms = [RoboticArm(rm_thread_mode_e.RM_TRIPLE_MODE_E), RoboticArm()]
    seen, done = [], {}

    def take(state):
        joints = state.joint_status
        seen.append((bytes(state.arm_ip).decode(), state.errCode, list(joints.joint_position),
                     list(joints.joint_en_flag), list(joints.joint_speed), state.err.err_len))

    def latest(host):
        return next(s for s in reversed(seen) if s[0] == host)

    def wait(condition):
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)

    hosts = [a.split(":")[0] for a in addresses]
    ports = [int(a.split(":")[1]) for a in addresses]
    done["handles"] = [arm.rm_create_robot_arm(h, p, 3).id for arm, h, p in zip(arms, hosts, ports)]
    done["info"] = arms[0].rm_get_robot_info()
    done["dh"] = arms[0].rm_get_DH_data()
    callback = rm_realtime_arm_state_callback_ptr(take)
    arms[0].rm_realtime_arm_state_call_back(callback)
    custom = rm_udp_custom_config_t(joint_speed=1, arm_current_status=1)
    config = rm_realtime_push_config_t(1, True, int(udp_port), 0, "127.0.0.1", custom)
    done["push"] = [arm.rm_set_realtime_push(config) for arm in arms]
    wait(lambda: all(sum(s[0] == h for s in seen) > 20 for h in hosts))

    start = [arm.rm_get_joint_degree()[1] for arm in arms]
    tick = time.monotonic()
    for k in range(1, 101):
        for arm, joints in zip(arms, start):
            arm.rm_movej_canfd([joints[0] + 0.1 * k, *joints[1:6], joints[6] - 0.1 * k], True)
        time.sleep(max(0.0, tick + 0.01 * k - time.monotonic()))
    goals = [[q[0] + 10, *q[1:6], q[6] - 10] for q in start]
    wait(lambda: all(abs(a - b) < 0.05 for h, g in zip(hosts, goals) for a, b in zip(latest(h)[2], g)))
    speeds = sorted(s[4][0] for s in seen if s[4][0] > 0.1)
    done["speed"] = speeds[len(speeds) // 2]
    done["nan"] = arms[0].rm_movej_canfd([math.nan] * 7, True)
    done["stops"] = [arms[0].rm_set_arm_slow_stop(), arms[0].rm_set_arm_stop()]
    time.sleep(0.3)
    done["moved"] = max(abs(a - b) for a, b in zip(latest(hosts[0])[2], goals[0]))

    done["gripper"] = arms[0].rm_set_gripper_position(500, False, 1)
    wait(lambda: abs(arms[0].rm_get_gripper_state()[1]["actpos"] - 500) < 20)
    done["blocking"] = arms[0].rm_set_gripper_position(1000, True, 10)
    done["power"] = [arms[0].rm_set_arm_power(0), arms[0].rm_get_arm_power_state()]
    wait(lambda: not any(latest(hosts[0])[3]) and all(latest(hosts[1])[3]))
    done["refused"] = arms[0].rm_set_joint_en_state(1, 1)
    done["enable"] = [arms[0].rm_set_arm_power(1), arms[0].rm_set_joint_en_state(1, 1)]
    wait(lambda: all(latest(hosts[0])[3]))
    done["clear"] = [arms[0].rm_clear_system_err(), arms[0].rm_set_joint_clear_err(1)]
    done["state"] = [arms[0].rm_get_current_arm_state(), arms[0].rm_get_arm_all_state()]
    done["controller"] = arms[0].rm_get_controller_state()
    done["movej"] = [arms[0].rm_movej(start[0], 50, 0, 0, 1), arms[0].rm_movej([400.0] * 7, 50, 0, 0, 0)]
    done["home"] = max(abs(a - b) for a, b in zip(arms[0].rm_get_joint_degree()[1], start[0]))
    done["faulty"] = sum(s[1] != 0 for s in seen)
    with open(out, "w") as file:
        json.dump(done, file)
    for arm in arms:
        arm.rm_delete_robot_arm()
"""


@pytest.fixture(scope="module")
def sdk(process: Process, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a session of the vendor's SDK returned. Its library has global state and prints: it gets a process."""
    if importlib.util.find_spec("Robotic_Arm") is None:
        pytest.skip("the vendor's SDK is not installed: pip install Robotic_Arm")
    out = tmp_path_factory.mktemp("sdk") / "done.json"
    arguments = [str(out), str(process.udp_port), *(f"{host}:{port}" for host, port in process.arms)]
    command = [sys.executable, "-c", textwrap.dedent(SDK_SESSION), *arguments]
    ended = subprocess.run(  # noqa: S603 - this interpreter
        command, capture_output=True, text=True, timeout=120, check=False
    )
    assert out.exists(), ended.stdout + ended.stderr
    done: dict[str, Any] = json.loads(out.read_text())
    return done


@slow
def test_the_sdk_reaches_both_arms_and_knows_them(sdk: dict[str, Any]) -> None:
    assert min(sdk["handles"]) > 0
    code, info = sdk["info"]
    assert (code, info["arm_dof"], info["arm_model"], info["force_type"]) == (0, 7, "RM_75", "6F")
    assert info["robot_controller_version"] == 3
    np.testing.assert_allclose(sdk["dh"][1]["d"], [0.2405, 0, 0.256, 0, 0.21, 0, 0.1725], atol=1e-6)
    assert sdk["push"] == [0, 0]


@slow
def test_the_sdk_follows_a_ramp_and_reads_every_state(sdk: dict[str, Any]) -> None:
    assert sdk["faulty"] == 0
    assert sdk["speed"] == pytest.approx(10 / 6, rel=0.5)  # 10 deg/s in rpm; the machine may be busy


@slow
def test_the_sdk_says_that_nan_was_sent_and_the_arm_stays(sdk: dict[str, Any]) -> None:
    assert sdk["nan"] == 0
    assert sdk["stops"] == [0, 0]
    assert sdk["moved"] < 0.05


@slow
def test_the_sdk_moves_the_gripper(sdk: dict[str, Any]) -> None:
    assert (sdk["gripper"], sdk["blocking"]) == (0, 0)


@slow
def test_the_sdk_takes_and_gives_power(sdk: dict[str, Any]) -> None:
    assert sdk["power"] == [0, [0, 0]]
    assert sdk["refused"] == 1
    assert (sdk["enable"], sdk["clear"]) == ([0, 0], [0, 0])


@slow
def test_the_sdk_understands_every_answer(sdk: dict[str, Any]) -> None:
    assert [code for code, _ in sdk["state"]] == [0, 0]
    assert sdk["controller"]["return_code"] == 0
    assert sdk["movej"] == [0, 1]
    assert sdk["home"] < 0.051  # it arrives within 0.05 degrees and is reported to a thousandth


# -- faults, as sockets see them ---------------------------------------------------------------------------------------


@slow
@pytest.mark.parametrize("name", ["tcp_close", "tcp_reset"])
def test_lost_connections(process: Process, bench: Bench, arm: Arm, name: str) -> None:
    bench("fault", name=name, arm=0, refuse=True)
    with contextlib.ExitStack() as stack:
        if name == "tcp_reset":
            stack.enter_context(pytest.raises(ConnectionResetError))
        assert arm.socket.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        Arm(process.arms[0])
    bench("clear")
    again = Arm(process.arms[0])
    assert again.ask(command="set_arm_stop") == STOPPED
    again.socket.close()


@slow
def test_data_that_arrives_with_the_end_of_its_socket_ends_nothing_else(process: Process, bench: Bench) -> None:
    faults: list[dict[str, Any]] = [{"name": "tcp_close", "refuse": True}, {"name": "tcp_half_open"}]
    with contextlib.ExitStack() as held:
        for fault in faults * 8:  # each time the bench's socket has another number, and so another turn
            arm = Arm(process.arms[0])
            held.callback(arm.socket.close)
            assert arm.ask(command="set_arm_stop") == STOPPED
            other = Bench(process.bench)
            held.callback(other.channel.close)
            assert other("hello")["robot"] == "rm75-dual"
            process.process.send_signal(signal.SIGSTOP)  # so that all of these arrive at once
            arm.send(command="set_arm_stop")
            held.callback(Arm(process.arms[0]).socket.close)
            other.channel.send({"do": "fault", "arm": 0, **fault})
            process.process.send_signal(signal.SIGCONT)
            assert other.channel.receive(PATIENCE_S)["active"][0] == [fault["name"]]
            bench("clear")


@slow
def test_half_open_connections(process: Process, bench: Bench, arm: Arm, states: States) -> None:
    bench("fault", name="tcp_half_open", arm=0)
    arm.send(command="set_arm_stop")
    arm.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        arm.receive()
    assert states.packets(process.arms[0][0], 3)
    bench("clear")
    arm.socket.settimeout(PATIENCE_S)
    assert arm.receive() == STOPPED


@slow
def test_slow_replies(bench: Bench, arm: Arm) -> None:
    bench("fault", name="tcp_slow", arm=0, delay_s=0.2)
    before = time.perf_counter()
    assert arm.ask(command="set_arm_stop") == STOPPED
    assert time.perf_counter() - before >= 0.19


@slow
def test_split_replies(bench: Bench, arm: Arm) -> None:
    bench("fault", name="tcp_split", arm=0, gap_s=0.005)
    arm.send(command="set_arm_stop")
    parts = [arm.socket.recv(4096)]
    while not parts[-1].endswith(b"\n"):
        parts.append(arm.socket.recv(4096))
    assert len(parts) > 3
    assert json.loads(b"".join(parts)) == STOPPED


@slow
def test_merged_replies(bench: Bench, arm: Arm) -> None:
    bench("fault", name="tcp_merge", arm=0, hold_s=0.5)
    arm.socket.sendall(b'{"command":"set_arm_stop"}\r\n{"command":"get_arm_power_state"}\r\n')
    assert arm.socket.recv(4096).count(b"\r\n") == 2


@slow
def test_commands_arrive_in_pieces_and_in_bunches(arm: Arm) -> None:
    for byte in b'{"command":"set_arm_stop"}\r\n':
        arm.socket.sendall(bytes([byte]))
    assert arm.receive() == STOPPED
    arm.socket.sendall(b'\r\n{"command":\r\n{"command":"set_arm_stop"}\n{"command":"set_arm_stop"}\n')
    assert [arm.receive(), arm.receive()] == [STOPPED, STOPPED]


@slow
def test_no_states(process: Process, bench: Bench, arm: Arm, states: States) -> None:
    left, right = (host for host, _ in process.arms)
    bench("fault", name="udp_stop", arm=0)
    time.sleep(0.05)
    assert states.silent(left, 0.3)
    assert not states.silent(right, 2.0)
    assert arm.ask(command="set_arm_stop") == STOPPED
    bench("clear")
    assert not states.silent(left, 2.0)


@slow
def test_states_out_of_order(process: Process, bench: Bench, arm: Arm, states: States) -> None:
    host = process.arms[0][0]
    move(arm)
    assert (np.diff([position(p) for p in states.packets(host, 60)]) >= 0).all()
    bench("fault", name="udp_reorder", arm=0)
    changes = np.diff([position(p) for p in states.packets(host, 60)])
    assert (changes < 0).sum() > 10
    assert (changes > 0).sum() > 10


@slow
def test_states_twice(process: Process, bench: Bench, arm: Arm, states: States) -> None:
    bench("fault", name="udp_duplicate", arm=0)
    move(arm)
    packets = states.packets(process.arms[0][0], 60)
    repeats = sum(a == b for a, b in itertools.pairwise(packets))
    assert repeats >= 29


@slow
def test_frozen_states(process: Process, bench: Bench, arm: Arm, states: States) -> None:
    bench("fault", name="udp_frozen", arm=0)
    before = arm.joints()
    move(arm)
    assert len(set(states.packets(process.arms[0][0], 20))) == 1
    assert arm.joints()[0] > before[0] + 100


@slow
def test_states_that_are_none(process: Process, bench: Bench, arm: Arm, states: States) -> None:
    bench("fault", name="udp_garbage", arm=0)
    time.sleep(0.05)
    for packet in states.packets(process.arms[0][0], 10):
        assert parse(packet.replace(b'"state"', b'"command"')) is None


@slow
def test_errors_and_false_readings(process: Process, bench: Bench, arm: Arm, states: States) -> None:
    host = process.arms[0][0]
    bench("fault", name="error_code", arm=0, code=0x100D)
    bench("fault", name="current_spike", arm=0, joint=2, ampere=15.0)
    bench("fault", name="over_temperature", arm=0, joint=7, celsius=99.0)
    state = states.state(host)
    assert (state["sys_err"], state["err"]) == (0x100D, [0x100D])
    assert state["joint_status"]["joint_current"][1] == 15_000_000
    assert state["joint_status"]["joint_temperature"][6] == 99_000
    assert not arm.ask(command="movej", joint=arm.joints(), v=10)["receive_state"]
    assert arm.ask(command="clear_system_err")["clear_state"]
    assert arm.ask(command="movej", joint=arm.joints(), v=10)["receive_state"]
    assert states.state(process.arms[1][0])["err"] == [0]


@slow
def test_joints_that_fail(process: Process, bench: Bench, arm: Arm, states: States) -> None:
    host = process.arms[0][0]
    bench("fault", name="joint_error", arm=0, joint=3, code=0x20)
    bench("fault", name="joint_disabled", arm=0, joint=5)
    state = states.state(host)
    assert state["joint_status"]["joint_err_code"] == [0, 0, 0x20, 0, 0, 0, 0]
    assert state["joint_status"]["joint_en_flag"] == [1, 1, 0, 1, 0, 1, 1]
    assert state["sys_err"] == 0x1010


@slow
def test_an_emergency_stop(process: Process, bench: Bench, arm: Arm, states: States) -> None:
    host = process.arms[0][0]
    move(arm)
    bench("fault", name="estop", arm=0)
    state = states.state(host)
    assert state["arm_current_status"] == "stop"
    assert state["joint_status"]["joint_en_flag"] == [0] * 7
    assert not arm.ask(command="set_arm_power", arm_power=1)["arm_power"]
    bench("clear")
    assert states.state(host)["joint_status"]["joint_en_flag"] == [0] * 7
    assert arm.ask(command="set_arm_power", arm_power=1)["arm_power"]


@slow
def test_a_frozen_controller(process: Process, bench: Bench, arm: Arm, states: States) -> None:
    host = process.arms[0][0]
    bench("fault", name="freeze", arm=0)
    arm.send(command="get_arm_power_state")
    arm.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        arm.receive()
    assert states.silent(host, 0.3)
    bench("clear")
    arm.socket.settimeout(PATIENCE_S)
    assert arm.receive() == {"state": "arm_power_state", "power_state": 1}
    assert states.state(host)


@slow
def test_several_clients_at_once(process: Process, arm: Arm) -> None:
    others = [Arm(process.arms[0]) for _ in range(5)]
    for other in (*others, arm):
        other.send(command="set_arm_stop")
    assert [other.receive() for other in (arm, *others)] == [STOPPED] * 6
    for other in others:
        other.socket.close()


# -- the bench ---------------------------------------------------------------------------------------------------------


@slow
def test_every_frame_is_in_the_journal_as_it_was_sent(bench: Bench, arm: Arm) -> None:
    since = bench("journal", since=0)["total"]
    sent = [[k, -k, 0, 0, 0, 0, -(2**31)] for k in range(300)]
    for joints in sent:
        arm.send(command="movej_canfd", joint=joints, follow=True)
    arm.ask(command="set_arm_stop")
    journal = bench("journal", since=since)
    np.testing.assert_array_equal(journal["joints"], sent)
    assert (journal["arm"] == 0).all()
    assert (np.diff(journal["stamp"]) >= 0).all()
    assert "set_arm_stop" in bench("journal", since=0)["commands"][-1][2]
    assert bench("counts")["left"]["limit"] >= 300


@slow
def test_an_episode_begins_where_the_arms_are(process: Process, bench: Bench, arm: Arm, states: States) -> None:
    assert "instruction" in bench("reset", task="stack_blocks_two", setting="randomized", seed=2**63, episode=4)
    scene = bench("scene")
    assert (scene["task"], scene["setting"], scene["seed"]) == ("stack_blocks_two", "randomized", 2**63)
    assert not scene["success"]
    env = suite.make("stack_blocks_two", EnvOptions(setting="randomized"))
    env.reset(2**63, 4)
    blocks = env.world.position("block_a"), env.world.position("block_b")
    env.restore(np.array(scene["snapshot"]))
    assert scene["instruction"] == env.instruction
    for block, place in zip(("block_a", "block_b"), blocks, strict=True):
        np.testing.assert_allclose(env.world.position(block), place, atol=2e-3)
    units = states.state(process.arms[0][0])["joint_status"]["joint_position"]
    np.testing.assert_allclose(np.rad2deg(env.world.joints()[0]), np.array(units) / 1000, atol=0.05)


@slow
def test_an_episode_needs_the_arms_at_home_and_open(process: Process, bench: Bench, arm: Arm) -> None:
    move(arm)
    assert "joint 1" in bench("reset")["error"]
    go_home(process, bench)
    arm.ask(command="set_gripper_position", position=1, block=False)
    assert "gripper" in bench("reset")["error"]
    go_home(process, bench)


@slow
def test_the_scene_moves_with_the_arms_and_time_goes_on(bench: Bench, arm: Arm) -> None:
    before = bench("scene")
    move(arm)
    after = bench("scene")
    assert after["stamp"] > before["stamp"]
    assert np.abs(after["snapshot"] - before["snapshot"])[18:].max() > 0.01


@slow
@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"do": "dance"}, "hello"),
        ({}, "do"),
        ({"do": "fault", "name": "estopp"}, "estop"),
        ({"do": "fault", "name": "estop", "arm": 2}, "left"),
        ({"do": "reset", "task": "juggle"}, "juggle"),
        ({"do": "reset", "wording": "rude"}, "unseen"),
        ({"do": "reset", "seed": "1"}, "seed"),
        ({"do": "journal", "since": -1}, "since"),
    ],
)
def test_malformed_requests_are_refused_in_words(bench: Bench, arm: Arm, request_: dict[str, Any], said: str) -> None:
    bench.channel.send(request_)
    assert said in bench.channel.receive(PATIENCE_S)["error"]


@slow
def test_the_bench_lists_its_faults(bench: Bench) -> None:
    assert set(bench("faults")["faults"]) == set(FAULTS)
    assert bench("fault", name="udp_stop")["active"] == [["udp_stop"], ["udp_stop"]]


@slow
def test_noise_on_every_port_harms_nobody(process: Process, bench: Bench, arm: Arm) -> None:
    rng = np.random.default_rng(0)
    for address in (*process.arms, process.bench):
        with socket.create_connection(address) as noise, contextlib.suppress(OSError):
            for _ in range(20):
                noise.sendall(rng.bytes(5000) + b"\n")
    assert arm.ask(command="set_arm_stop") == STOPPED
    assert bench("hello")["pid"] == process.process.pid


@slow
@pytest.mark.parametrize(("how", "code"), [("quit", 0), ("interrupt", 130)])
def test_it_ends_on_request(how: str, code: int) -> None:
    process = Process(hosts=("127.0.0.35", "127.0.0.36"))
    try:
        if how == "quit":
            bench = Bench(process.bench)
            bench("quit")
            bench.channel.close()
        else:
            os.kill(process.process.pid, signal.SIGINT)
        assert process.process.wait(PATIENCE_S) == code
        assert process.process.stdout is not None
        assert "Traceback" not in process.process.stdout.read()
    finally:
        process.close()
