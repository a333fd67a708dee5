"""Timing and limits of the robot bridge, judged at the sockets of simulated controllers behind the vendor's SDK.

    python benchmarks/robot.py [--what sleeper,ticks,reactions,fuzz] [--trials 20] [--seconds 60] [--frames 5000]
                               [--normal-priority] [--load N] [--short]

sleeper: lateness of a process that only sleeps at the executor's priority, with and without the executor's request to
keep idle processors awake. ticks: error of the executor's ticks against absolute deadlines, drift, and the time between
both arms' frames. reactions: time from an event to the first braking set-point on the wire. fuzz: bad chunks of every
kind, with violations of every limit counted in the frames that arrive. `--load N` keeps N other processes busy. Times
are differences of one machine's clock. The exit code is 1 for a violation, and if a measurement is incomplete.
`--short` runs ticks and fuzz for a few seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from checked import SHORT, add_short, refuse, require, require_some, run

from robotest.clock import WallClock
from robotest.embodiment.collision import Twin
from robotest.hardware.control import black_box
from robotest.hardware.control.client import ExecutorClient, RobotFaultError
from robotest.hardware.control.governor import TICK_S, JointTrajectory
from robotest.hardware.control.status import Mode, Status
from robotest.hardware.limits import DEFAULT_LIMITS
from robotest.hardware.realman import RESOLUTION_RAD
from robotest.hardware.realtime import EXECUTOR_PRIORITY, disable_cpu_idle, request_priority
from robotest.hardware.robot import RobotError, Stop
from robotest.runtime import wire

HOSTS = ["127.0.3.11", "127.0.3.12"]
TCP, UDP, BENCH = 18080, 18089, 18090
CONFIG = {"hosts": HOSTS, "tcp_port": TCP, "udp_port": UDP, "local_ip": "127.0.0.1"}
RATE = 0.3  # of the sweep [rad/s]
DT = 0.1
KINDS = ("sleeper", "ticks", "reactions", "fuzz")
MISSED = 0.1  # share of ticks that may be missing in a measurement of them
LIMITS_MS = {"rollout killed": 170, "rollout stopped": 170, "state push frozen": 70, "operator": 20}


class Bench:
    """The simulated controllers' side channel."""

    def __init__(self) -> None:
        import socket

        self._channel = wire.Channel(socket.create_connection(("127.0.0.1", BENCH), 5.0))

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return the answer to a request."""
        self._channel.send(request)
        answer: dict[str, Any] = self._channel.receive(10.0)
        if "error" in answer:
            raise RobotError(answer["error"])
        return answer

    def frames(self, since: int) -> tuple[dict[str, np.ndarray[Any, Any]], int]:
        """Return every frame from number `since` on, and the number that follows."""
        parts = []
        while True:
            part = self.ask(do="journal", since=since, commands_since=2**40)
            parts.append(part)
            since = part["next"]
            if since == part["total"]:
                return {key: np.concatenate([p[key] for p in parts]) for key in ("arm", "stamp", "joints")}, since


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default=",".join(KINDS))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--frames", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--normal-priority", action="store_true")
    parser.add_argument("--load", type=int, default=0)
    parser.add_argument("--rollout", type=Path, help=argparse.SUPPRESS)
    add_short(parser)
    args = parser.parse_args()
    if unknown := set(args.what.split(",")) - set(KINDS):
        parser.error(f"--what {','.join(sorted(unknown))}: known are {', '.join(KINDS)}")
    if args.short:
        args.what, args.seconds, args.frames = "ticks,fuzz", 3.0, 300
        print(SHORT)
    if args.rollout:
        _rollout(args.rollout, realtime=not args.normal_priority)
        return
    with _simulator(args), _load(args.load), tempfile.TemporaryDirectory() as folder:
        bench = Bench()
        for what in args.what.split(","):
            measure = {"sleeper": _sleeper, "ticks": _ticks, "reactions": _reactions, "fuzz": _fuzz}[what]
            measure(args, bench, Path(folder))


def require_share(what: str, n: int, expected: float) -> None:
    """Refuse a measurement with too few samples."""
    if n < (1 - MISSED) * expected:
        refuse(f"{what}: {n:,} of {expected:,.0f}")


def _sleeper(args: argparse.Namespace, bench: Bench, folder: Path) -> None:
    del bench, folder
    for awake in (False, True):
        process = multiprocessing.Process(target=_sleep, args=(args.seconds / 2, not args.normal_priority, awake))
        process.start()
        process.join()
        require("exit code of the sleeper", process.exitcode or 0, 0)


def _sleep(seconds: float, realtime: bool, awake: bool) -> None:
    priority = "real-time" if realtime and request_priority(EXECUTOR_PRIORITY) else "normal"
    if awake:
        disable_cpu_idle()
    start = time.perf_counter()
    late = []
    for number in range(1, int(seconds / TICK_S)):
        time.sleep(max(0.0, start + number * TICK_S - time.perf_counter()))
        late.append(time.perf_counter() - start - number * TICK_S)
    print(
        f"sleeper: {priority} priority, idle processors {'kept awake' if awake else 'as they like'}:"
        f" late p50 {_ms(late, 50)} p99 {_ms(late, 99)} max {_ms(late, 100)} ms",
        flush=True,
    )


def _ticks(args: argparse.Namespace, bench: Bench, folder: Path) -> None:
    _, since = bench.frames(0)
    with contextlib.closing(_link(folder, args)) as link:
        link.enable()
        start = link.status.commanded.joints
        end, number = time.monotonic() + args.seconds, 0
        while time.monotonic() < end:
            for sign in (1, -1):
                number += 1
                _sweep(link, number, start, 1.0, sign)
                link.wait(functools.partial(_is_held, number), 30, "the sweep")
    ticks = black_box.read(folder / "box")
    times = ticks["time"][ticks["mode"] != b"disabled"][5:]
    require_share("ticks", len(times), args.seconds / TICK_S)
    phase = np.median((times - times[0] + TICK_S / 2) % TICK_S) - TICK_S / 2  # of the deadlines, from the first tick
    due = (times - times[0] - phase) / TICK_S
    numbers = np.maximum.accumulate(np.floor(due + 0.05).astype(int))  # a tick may be late, not early
    error = TICK_S * (due - numbers)
    missed = np.setdiff1d(np.arange(numbers[-1]), numbers)
    error_of_missed = TICK_S * (due[np.searchsorted(numbers, missed)] - missed)
    drift = float(np.median(error[-100:]) - np.median(error[:100]))
    late = np.abs(np.concatenate([error, error_of_missed]))
    frames, _ = bench.frames(since)
    left, right = (frames["stamp"][frames["arm"] == arm] for arm in (0, 1))
    n = min(len(left), len(right))
    require_share("frames of each arm", n, args.seconds / TICK_S)
    skew = np.abs(left[:n] - right[:n])
    kind = "real-time" if link.greeting.realtime else "normal"
    print(
        f"ticks: {len(times)} in {times[-1] - times[0]:.1f} s, {kind} priority, load {args.load}:"
        f" error p50 {_ms(late, 50)} p99 {_ms(late, 99)} max {_ms(late, 100)} ms, drift {1000 * drift:.3f} ms,"
        f" {len(missed)} missed\n"
        f"both arms' frames apart: p50 {_ms(skew, 50)} p99 {_ms(skew, 99)} max {_ms(skew, 100)} ms"
    )


def _is_held(number: int, status: Status) -> bool:
    return status.chunk == number and status.mode is Mode.HOLDING


def _reactions(args: argparse.Namespace, bench: Bench, folder: Path) -> None:
    for what, limit in LIMITS_MS.items():
        delays = [_trial(what, args, bench, folder) for _ in range(args.trials)]
        require(f"trials of {what}", len(delays), args.trials)
        within = sum(t <= limit / 1000 for t in delays)
        print(
            f"{what:<18} first braking set-point after p50 {_ms(delays, 50)} max {_ms(delays, 100)} ms;"
            f" {within} of {len(delays)} within {limit} ms, load {args.load}",
            flush=True,
        )


def _trial(what: str, args: argparse.Namespace, bench: Bench, folder: Path) -> float:
    """Let something happen in the middle of a sweep and return the time to the first braking set-point [s]."""
    bench.ask(do="clear")
    _, since = bench.frames(0)
    if what.startswith("rollout"):
        event = _lose_the_rollout(what, args, folder)
    else:
        with contextlib.closing(_link(folder, args)) as link:
            link.enable()
            _sweep(link, 1, link.status.commanded.joints, 3.0, 1)
            time.sleep(0.6 + 0.2 * np.random.default_rng().random())
            event = time.perf_counter()
            if what == "operator":
                link.stop(Stop.DECEL_THEN_DISABLE, "benchmark")
            else:
                bench.ask(do="fault", name="udp_stop", arm=1)
            time.sleep(0.6)
    frames, _ = bench.frames(since)
    bench.ask(do="clear")
    _send_home()
    return min(_braking_after(frames, arm, event) for arm in (0, 1))


def _lose_the_rollout(what: str, args: argparse.Namespace, folder: Path) -> float:
    command = [
        sys.executable,
        __file__,
        "--rollout",
        str(folder),
        *(["--normal-priority"] if args.normal_priority else []),
    ]
    rollout = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
    assert rollout.stdout is not None
    executor = json.loads(rollout.stdout.readline())["executor"]
    time.sleep(0.6 + 0.2 * np.random.default_rng().random())
    event = time.perf_counter()
    rollout.send_signal(signal.SIGKILL if what == "rollout killed" else signal.SIGSTOP)
    time.sleep(1.0)
    rollout.kill()
    rollout.wait()
    rollout.stdout.close()
    while Path(f"/proc/{executor}").exists():
        time.sleep(0.02)
    return event


def _braking_after(frames: dict[str, np.ndarray[Any, Any]], arm: int, event: float) -> float:
    """Return how long after an event the first set-point came that is slower than the sweep."""
    mine = frames["arm"] == arm
    steps = np.abs(np.diff(frames["joints"][mine][:, 0]))
    stamps = frames["stamp"][mine][1:]
    usual = RATE * TICK_S / RESOLUTION_RAD
    slower = stamps[(stamps > event) & (steps < 0.95 * usual)]
    if not len(slower):
        refuse("no braking set-point arrived at all")
    return float(slower[0] - event)


def _fuzz(args: argparse.Namespace, bench: Bench, folder: Path) -> None:
    rng = np.random.default_rng(args.seed)
    _, since = bench.frames(0)
    home = np.asarray(bench.ask(do="home_pose")["joints"])
    n_chunks = rejected = arrived = 0
    faults: dict[str, int] = {}
    with contextlib.closing(_link(folder, args)) as link:
        while arrived < args.frames:
            if link.status.mode is Mode.DISABLED:
                link.enable()
            n_chunks += 1
            link.follow(_bad_chunk(rng, link.status.commanded.joints, home, n_chunks))
            time.sleep(rng.uniform(0.02, 0.8))
            if fault := link.status.fault:
                rejected += 1
                faults[fault.name] = faults.get(fault.name, 0) + 1
                with contextlib.suppress(RobotFaultError):
                    link.wait(lambda s: s.at_rest, 5, "rest")
                link.reset()
            arrived = bench.ask(do="journal", since=2**40, commands_since=2**40)["total"] - since
    frames, _ = bench.frames(since)
    counted = _violations(frames)
    moving = sum(int(np.diff(frames["joints"][frames["arm"] == arm], axis=0).any(axis=1).sum()) for arm in (0, 1))
    print(
        f"fuzz: {n_chunks} chunks ({rejected} stopped: {faults}), {len(frames['arm'])} frames on the wire, {moving} of"
        f" them another set-point than the one before; violations:"
        f" {', '.join(f'{name} {n}' for name, n in counted.items())}"
    )
    require_some("set-points that moved", moving)
    require_some("chunks that were stopped", rejected)
    require("frames on the wire, at least", min(len(frames["arm"]), args.frames), args.frames)
    if any(counted.values()):
        raise SystemExit("robot.py: limits were violated")


def _violations(frames: dict[str, np.ndarray[Any, Any]]) -> dict[str, int]:
    """Count violations of limits in the frames, with arithmetic independent of the governor's."""
    counted = dict.fromkeys(("not finite", "position", "speed", "acceleration", "workspace", "contact"), 0)
    units = [frames["joints"][frames["arm"] == arm].astype(np.int64) for arm in (0, 1)]
    n = min(map(len, units))
    for arm, joints in enumerate(units):
        limits = DEFAULT_LIMITS
        degrees = joints / 1000
        counted["not finite"] += int((np.abs(joints) > 10**6).sum())
        counted["position"] += int((degrees < np.rad2deg(limits.joint_low[arm])).sum())
        counted["position"] += int((degrees > np.rad2deg(limits.joint_high[arm])).sum())
        speed = np.diff(degrees, axis=0) / TICK_S
        counted["speed"] += int((np.abs(speed) > np.rad2deg(limits.speed[arm]) + 1e-6).sum())
        gain = np.diff(speed, axis=0) / TICK_S
        counted["acceleration"] += int((np.abs(gain) > np.rad2deg(limits.acceleration[arm]) + 1e-6).sum())
    twin = Twin()
    for both in np.stack([u[:n] for u in units], axis=1):
        counted["contact"] += twin.contact(np.deg2rad(both / 1000)) is not None
        tips = twin.tips()
        outside = (tips < DEFAULT_LIMITS.workspace_low) | (tips > DEFAULT_LIMITS.workspace_high)
        counted["workspace"] += int(outside.any())
    return counted


def _bad_chunk(
    rng: np.random.Generator, here: np.ndarray[Any, Any], home: np.ndarray[Any, Any], number: int
) -> JointTrajectory:
    """Return a chunk of a random kind; two of three are what a policy might really send."""
    n = int(rng.integers(1, 17))
    there = home + rng.choice([0.15, 0.3, 0.7]) * rng.uniform(-1, 1, (2, 7))
    rate = min(1.0, 0.25 / np.abs(there - here).max())
    joints = here + np.minimum(rate * np.arange(1, n + 1), 1.0)[:, None, None] * (there - here)
    joints = joints + np.cumsum(rng.normal(0, rng.choice([0.0, 0.01, 0.03, 0.25]), (n, 2, 7)), axis=0)
    openings = rng.uniform(0, 1, (n, 2))
    dt, observed = DT, time.perf_counter() - 0.02
    match int(rng.integers(24)):
        case 0:
            joints[rng.integers(n), 0, 0] = rng.choice([np.nan, np.inf, -np.inf, 1e9, -2147483648.0])
        case 1:
            joints = np.rad2deg(joints)
        case 2:
            joints = joints[:, :, :6]
        case 3:
            dt = float(rng.choice([0.0, -0.1, np.nan, 1e-9, 1e9]))
        case 4:
            observed -= 10.0
        case 5:
            joints[:] = rng.uniform(-3.2, 3.2, (1, 2, 7))
        case 6:
            joints = np.repeat(here[None], n, 0)
            joints[:, :, 1] += np.linspace(0, 0.2 * (n - 1), n)[:, None]  # forward and down, into the table
        case 7:
            joints = np.repeat(here[None], n, 0)
            joints[:, :, 0] += np.outer(np.linspace(0, 0.2 * (n - 1), n), [-1, 1])  # towards each other
    return JointTrajectory(number, joints, openings, dt, observed)


def _sweep(link: ExecutorClient, number: int, start: np.ndarray[Any, Any], seconds: float, sign: int) -> None:
    """Turn both arms' first joints at a constant rate: out from `start`, or back to it."""
    n = round(seconds / DT)
    way = np.repeat(start[None], n, 0)
    done = RATE * DT * np.arange(1, n + 1)
    way[:, :, 0] += (done if sign > 0 else done[-1] - done)[:, None]
    openings = np.repeat(link.status.commanded.openings[None], n, 0)
    link.follow(JointTrajectory(number, way, openings, DT, time.perf_counter()))


def _send_home() -> None:
    """Bring the arms back with a motion of the controllers, so that every trial starts from the same pose."""
    import socket

    home = Bench().ask(do="home_pose")["joints"]
    for host, joints in zip(HOSTS, home, strict=True):
        with socket.create_connection((host, TCP), 5.0) as connection:
            power = {"command": "set_arm_power", "arm_power": 1}
            degrees = [round(float(d) * 1000) for d in np.rad2deg(joints)]
            move = {"command": "movej", "v": 50, "joint": degrees, "trajectory_connect": 0, "r": 0}
            for command in (power, move):
                connection.sendall(json.dumps(command).encode() + b"\r\n")
            connection.settimeout(20.0)
            reply = b""
            while b"trajectory_state" not in reply:
                reply += connection.recv(4096)
    time.sleep(0.2)


def _rollout(folder: Path, *, realtime: bool) -> None:
    """Be a rollout that gets killed."""
    link = ExecutorClient("rm75-dual", CONFIG, folder / "box", WallClock(), realtime=realtime)
    link.enable()
    _sweep(link, 1, link.status.commanded.joints, 3.0, 1)
    print(json.dumps({"executor": link.process.pid}), flush=True)
    time.sleep(60)


def _link(folder: Path, args: argparse.Namespace) -> ExecutorClient:
    return ExecutorClient("rm75-dual", CONFIG, folder / "box", WallClock(), realtime=not args.normal_priority)


@contextlib.contextmanager
def _simulator(args: argparse.Namespace) -> Iterator[None]:
    command = [sys.executable, "-m", "robotest", "simulate-robot", "--hosts", *HOSTS]
    command += ["--tcp-port", str(TCP), "--udp-port", str(UDP), "--bench-port", str(BENCH)]
    if args.normal_priority:  # real controllers do not take the executor's processor as soon as one frame has come
        command.append("--no-real-time")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
    assert process.stdout is not None
    try:
        if "ready" not in process.stdout.readline():
            refuse("the simulated controllers did not start")
        yield
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def _load(n: int) -> Iterator[None]:
    busy = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(n)]
    for process in busy:
        process.start()
    try:
        yield
    finally:
        for process in busy:
            process.terminate()


def _spin() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        sum(range(100_000))


def _ms(values: Any, percentile: float) -> str:
    return f"{1000 * float(np.percentile(values, percentile)):.2f}"


if __name__ == "__main__":
    run(main)
