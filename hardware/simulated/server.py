"""A dual RM75 robot that is not there: two controllers on the network, the physics of the dual-arm suite behind them.

The vendor's SDK, unmodified, runs against it. Each arm has an address of its own, on which its controller speaks JSON
over TCP and from which it pushes its state over UDP. One process, one thread, one loop with absolute deadlines:
physics every `PHYSICS_DT`, judgement of the task every `CONTROL_DT`, state at n x 5 ms.

Beside the robot there is a bench: a loopback connection of `robotest.runtime.wire` frames for what no robot can do by
protocol: placing objects, judging success, reading what arrived at the sockets, and injecting faults. A request is
a map with ``do``; the reply is a map, with ``error`` if it was refused:

=============== ============================================== =======================================================
``do``          further keys                                   reply
=============== ============================================== =======================================================
``hello``                                                      ``robot hosts tcp_ports pid stamp``
``reset``       ``task setting wording seed episode``          ``instruction``
``home_pose``                                                  ``joints`` (2, 7) [rad]
``scene``                                                      ``snapshot stamp instruction success done`` and how it
                                                               was reset
``journal``     ``since``, ``commands_since``                  ``arm stamp joints`` of frames, ``commands``, and the
                                                               numbers to go on with: ``next``, ``commands_next``
``counts``                                                     ``left``, ``right``: what became of the frames;
                                                               ``slips``, ``worst_lateness_s`` of the loop
``fault``       ``name``, ``arm`` (0, 1; none: both), others   ``active``
``faults``                                                     ``faults``: name -> description and arguments
``clear``
``quit``
=============== ============================================== =======================================================

Stamps are those of `time.perf_counter`, on Linux one clock for all processes; those of the journal tell when the
system, not this program, received something.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import gc
import ipaddress
import math
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

import numpy as np
from jaxtyping import Float64

from robotest.embodiment import workcell
from robotest.envs.dual_arm.suite import DualArmEnv, suite
from robotest.envs.dual_arm.world import CONTROL_DT, PHYSICS_DT
from robotest.errors import RobotestError
from robotest.hardware.robot import RobotError
from robotest.hardware.simulated.controller import Controller, Measured, PushConfig, joint_units, parse
from robotest.hardware.simulated.faults import FAULTS, fault_arguments
from robotest.hardware.simulated.journal import Journal
from robotest.runtime.wire import WireError, pack, unpack
from robotest.types import EnvOptions

Address = tuple[str, int]
PUSH_DT: Final = 0.005  # [s]
HOME_TOLERANCE_RAD: Final = 0.02
AMPERE_PER_NEWTON_METRE: Final = 0.1
"""Joint currents are the servos' torques times this: assumed, of the size that real arms report."""

_OPEN_ENOUGH = 0.9
_STEPS_PER_CONTROL = round(CONTROL_DT / PHYSICS_DT)
_MAX_CATCH_UP = 25  # physics steps in one go; what is late beyond that is given up
_MAX_PENDING = 2**22  # bytes that a client may leave unread
_MAX_LINE = 2**16
_MAX_REQUEST = 2**20
_LENGTH = struct.Struct("<Q")  # of a frame, as `robotest.runtime.wire` has it
_READ_BYTES = 2**16
_SO_TIMESTAMPNS = 35  # of Linux's socket.h; Python 3.11 has no name for it
_TIMESPEC = struct.Struct("@qq")


class _Stream:
    """A connection that never waits: what arrives goes to `take`, what is sent leaves when it is due."""

    def __init__(
        self, selector: selectors.BaseSelector, connection: socket.socket, take: Callable[[_Stream], None]
    ) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # elsewhere than on Linux, what is read has arrived when it is read
            connection.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.received = bytearray()
        self.arrived = time.perf_counter()
        self.open = True
        self._selector, self._socket, self._take = selector, connection, take
        self._outgoing: collections.deque[tuple[float, bytes]] = collections.deque()
        self._pending = 0
        self._blocked = self._paused = False
        self._watched = 0
        self._watch()

    @property
    def due(self) -> float:
        """When something is to be sent next."""
        return math.inf if self._blocked or not self._outgoing else self._outgoing[0][0]

    def send(self, data: bytes, due: float = -math.inf) -> None:
        """Send when `due`, in order."""
        self._pending += len(data)
        if self._outgoing:
            due = max(due, self._outgoing[-1][0])
            if due == self._outgoing[-1][0]:  # leaves as one
                data = self._outgoing.pop()[1] + data
        self._outgoing.append((due, data))
        if self._pending > _MAX_PENDING:
            self.close()

    def flush(self, now: float) -> None:
        """Send what is due."""
        while self.open and not self._blocked and self._outgoing and self._outgoing[0][0] <= now:
            due, data = self._outgoing.popleft()
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return
            self._pending -= sent
            if sent < len(data):
                self._outgoing.appendleft((due, data[sent:]))
                self._blocked = True
                self._watch()

    def pause(self, *, paused: bool) -> None:
        """Stop or go on reading."""
        self._paused = paused
        self._watch()

    def close(self, *, reset: bool = False) -> None:
        """Close the connection, with RST if `reset`."""
        if not self.open:
            return
        self.open = False
        self._watch()
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def _ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._blocked = False
            self._watch()
        if events & selectors.EVENT_READ:
            self._read()

    def _read(self) -> None:
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_READ_BYTES, socket.CMSG_SPACE(_TIMESPEC.size))
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        self.arrived = time.perf_counter() - _waited(ancillary)
        if not data:
            self.close()
            return
        self.received += data
        self._take(self)

    def _watch(self) -> None:
        wanted = 0
        if self.open:
            wanted = selectors.EVENT_READ * (not self._paused) | selectors.EVENT_WRITE * self._blocked
        if wanted == self._watched:
            return
        if not self._watched:
            self._selector.register(self._socket, wanted, self._ready)
        elif not wanted:
            self._selector.unregister(self._socket)
        else:
            self._selector.modify(self._socket, wanted, self._ready)
        self._watched = wanted


def _waited(ancillary: list[tuple[int, int, bytes]]) -> float:
    """Return how long ago the system received what was just read [s]; 0 if it does not say."""
    for level, kind, data in ancillary:
        if (level, kind, len(data)) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS, _TIMESPEC.size):
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return float(max(0, time.time_ns() - seconds * 10**9 - nanoseconds)) / 1e9
    return 0.0


class _Arm:
    """One arm on the network: its controller, its sockets, and what is wrong with them."""

    def __init__(
        self, number: int, address: Address, controller: Controller, selector: selectors.BaseSelector, journal: Journal
    ) -> None:
        self.controller = controller
        self.faults: dict[str, dict[str, Any]] = {}
        self._number, self._address = number, address
        self._selector, self._journal = selector, journal
        self._streams: list[_Stream] = []
        self._listener: socket.socket | None = None
        self._next_push = -math.inf
        self._held = self._frozen = b""
        self._pushes = 0
        self.listen()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.setblocking(False)
        self._udp.bind((address[0], 0))  # the SDK tells arms apart by where their state comes from

    @property
    def address(self) -> Address:
        """Where the controller listens."""
        return self._address

    @property
    def due(self) -> float:
        """When there is something to do next."""
        return min([self._next_push, *(s.due for s in self._streams)])

    def listen(self) -> None:
        """Take connections."""
        if self._listener is not None:
            return
        self._listener = listening(self._address)
        self._address = self._listener.getsockname()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        """Close all sockets."""
        self.refuse()
        self.hang_up(reset=False)
        self._udp.close()

    def refuse(self) -> None:
        """Take no more connections."""
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def hang_up(self, *, reset: bool) -> None:
        """Close every connection."""
        for stream in self._streams:
            stream.close(reset=reset)
        self._streams.clear()

    def work(self, now: float) -> None:
        """Send what is due: replies and states."""
        if any(not s.open for s in self._streams):
            self._streams = [s for s in self._streams if s.open]
        if self._is_deaf:
            self._next_push = now + PUSH_DT if "freeze" in self.faults else self._next_push
        else:
            for stream in self._streams:
                stream.flush(now)
        if now < self._next_push:
            return
        period = PUSH_DT * self.controller.push_config.cycle
        # A beat that was missed is left out: states that come in bunches are of no use.
        behind = (now - self._next_push) // period if math.isfinite(self._next_push) else 0
        self._next_push = (self._next_push if math.isfinite(self._next_push) else now) + period * (behind + 1)
        self._push(now)

    def advance(self, measured: Measured, now: float) -> None:
        """Take new measurements."""
        if "freeze" in self.faults:
            return
        for event in self.controller.advance(measured, now):
            for stream in self._streams:
                self._send(stream, event, now)

    def fault(self, name: str, arguments: dict[str, Any]) -> None:
        """Let a fault begin."""
        self.faults[name] = arguments
        joint, code = arguments.get("joint", 1), arguments.get("code", 0)
        match name:
            case "tcp_close" | "tcp_reset":
                if arguments["refuse"]:
                    self.refuse()
                self.hang_up(reset=name == "tcp_reset")
            case "tcp_half_open" | "freeze":
                self._pause(paused=True)
            case "udp_frozen":
                self._frozen = self.controller.push(time.perf_counter())
            case "error_code":
                self.controller.fail(code)
            case "joint_error":
                self.controller.fail_joint(joint, code)
            case "joint_disabled":
                self.controller.drop_joint(joint)
            case "current_spike":
                self.controller.reported["joint_current"] = {joint - 1: round(1e6 * arguments["ampere"])}
            case "over_temperature":
                self.controller.reported["joint_temperature"] = {joint - 1: round(1000 * arguments["celsius"])}
            case "estop":
                self.controller.press_stop(pressed=True)

    def clear(self) -> None:
        """End all faults."""
        self.faults.clear()
        self._held = self._frozen = b""
        self.controller.recover()
        self.listen()
        self._pause(paused=False)

    @property
    def _is_deaf(self) -> bool:
        return "freeze" in self.faults or "tcp_half_open" in self.faults

    def _pause(self, *, paused: bool) -> None:
        for stream in self._streams:
            stream.pause(paused=paused)

    def _accept(self, events: int) -> None:
        del events
        assert self._listener is not None
        with contextlib.suppress(OSError):  # it may have gone again
            connection, _ = self._listener.accept()
            stream = _Stream(self._selector, connection, self._lines)
            stream.pause(paused=self._is_deaf)
            self._streams.append(stream)

    def _lines(self, stream: _Stream) -> None:
        now = time.perf_counter()
        *lines, rest = stream.received.split(b"\n")
        stream.received = bytearray() if len(rest) > _MAX_LINE else rest
        for line in lines:
            if stripped := bytes(line.strip()):
                self._note(stripped, stream.arrived)
                for reply in self.controller.handle(stripped, now):
                    self._send(stream, reply, now)
        stream.flush(now)

    def _note(self, line: bytes, arrived: float) -> None:
        joints = None
        if b"movej_canfd" in line:
            command = parse(line)
            if command is not None and command["command"] == "movej_canfd":
                joints = joint_units(command.get("joint"))
        if joints is None:
            self._journal.command(self._number, arrived, line)
        else:
            self._journal.frame(self._number, arrived, joints)

    def _send(self, stream: _Stream, reply: bytes, now: float) -> None:
        due = now + self.faults["tcp_slow"]["delay_s"] if "tcp_slow" in self.faults else now
        if "tcp_merge" in self.faults:
            hold = self.faults["tcp_merge"]["hold_s"]
            due = max(due, (now // hold + 1) * hold)
        if "tcp_split" not in self.faults:
            stream.send(reply, due)
            return
        for i in range(len(reply)):
            stream.send(reply[i : i + 1], due + i * self.faults["tcp_split"]["gap_s"])

    def _push(self, now: float) -> None:
        config = self.controller.push_config
        if not config.enable or "udp_stop" in self.faults or "freeze" in self.faults:
            return
        self._pushes += 1
        for packet in self._disturbed(self._frozen or self.controller.push(now)):
            with contextlib.suppress(OSError):  # nobody has to listen
                self._udp.sendto(packet, (config.ip, config.port))

    def _disturbed(self, packet: bytes) -> list[bytes]:
        if "udp_garbage" in self.faults and self._pushes % self.faults["udp_garbage"]["every"] == 0:
            packet = packet[: len(packet) // 2] if self._pushes % 2 else b"\xff\x00 not a state"
        packets = [packet]
        if "udp_reorder" in self.faults:
            packets, self._held = ([packet, self._held], b"") if self._held else ([], packet)
        return packets * 2 if "udp_duplicate" in self.faults else packets


def listening(address: Address) -> socket.socket:
    """Return a socket that takes connections at an address and never waits for them.

    Raises:
        RobotError: somebody else is there, or the address is not this machine's.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise RobotError(f"cannot listen at {address[0]}:{address[1]} ({error.strerror}); is it in use?") from error
    listener.setblocking(False)
    return listener


@dataclasses.dataclass(frozen=True)
class Start:
    """What an episode was reset with: the arguments of `DualArmEnv.reset` and what the environment was built with."""

    task: str = "place_block_pad"
    setting: str = "clean"
    wording: str = "seen"
    seed: int = 0
    episode: int = 0


class RobotSimulator:
    """Both arms, their scene, and the bench. The sockets are open once this is constructed.

    Args:
        hosts: addresses of the left and of the right arm; on Linux the machine has all of 127.0.0.0/8.
        tcp_port: of both controllers; 0 chooses one for each.
        udp_port: where states go until a client says otherwise.
        push_target: address where they go.
        bench: loopback address of the bench; port 0 chooses one.
        start: the first episode.

    Raises:
        RobotError: an address is taken, or the bench is not on a loopback address.
        UnknownNameError: there is no such task or setting.
    """

    def __init__(
        self,
        hosts: tuple[str, str] = ("127.0.0.11", "127.0.0.12"),
        tcp_port: int = 8080,
        udp_port: int = 8089,
        push_target: str = "127.0.0.1",
        bench: Address = ("127.0.0.1", 8090),
        start: Start | None = None,
    ) -> None:
        if not _is_loopback(bench[0]):
            raise RobotError(f"the bench would be at {bench[0]}; it is for this machine alone: use 127.0.0.1")
        self._envs: dict[tuple[str, str, str], DualArmEnv] = {}
        self._start = start or Start()
        self._env = self._environment(self._start)
        self._env.reset(self._start.seed, self._start.episode)
        self._locate()
        self._success = self._done = False
        self._stamp = time.perf_counter()
        self._next_physics = math.inf
        self._steps = self._slips = 0
        self._worst = 0.0
        self._serving = self._closing = False
        self._selector = selectors.SelectSelector()  # epoll's timeouts are whole milliseconds in Python
        self._journal = Journal()
        self._arms: list[_Arm] = []
        self._benches: list[_Stream] = []
        self._bench = listening(bench)
        self._selector.register(self._bench, selectors.EVENT_READ, self._accept)
        with contextlib.ExitStack() as undo:
            undo.callback(self._release)
            for i, host in enumerate(hosts):
                push = PushConfig(push_target, udp_port)
                controller = Controller(self._env.home[i], push)
                self._arms.append(_Arm(i, (host, tcp_port), controller, self._selector, self._journal))
            undo.pop_all()
        self._requests: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "hello": self._hello,
            "reset": self._reset,
            "home_pose": lambda _: {"joints": self._env.home},
            "scene": self._scene,
            "journal": lambda r: self._journal.read(_number(r, "since", 0), _number(r, "commands_since", 0)),
            "counts": self._counts,
            "fault": self._fault,
            "faults": lambda _: {"faults": {name: dataclasses.asdict(f) for name, f in FAULTS.items()}},
            "clear": self._clear,
            "quit": self._quit,
        }

    @property
    def arms(self) -> tuple[Address, Address]:
        """Where the left and the right controller listen."""
        left, right = (arm.address for arm in self._arms)
        return left, right

    @property
    def bench(self) -> Address:
        """Where the bench listens."""
        address: Address = self._bench.getsockname()
        return address

    def serve(self) -> None:
        """Run until `close` or the bench's ``quit``, then free everything."""
        gc.freeze()  # the models are here to stay; looking through them takes longer than a push may be late
        self._next_physics = time.perf_counter() + PHYSICS_DT
        self._serving = True
        try:
            while not self._closing:
                self._turn()
        finally:
            self._release()

    def close(self) -> None:
        """End `serve` within milliseconds; may be called from a signal handler or another thread.

        Without `serve` it frees everything itself.
        """
        self._closing = True
        if not self._serving:
            self._release()

    # -- the loop --------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        deadline = min(self._next_physics, *(arm.due for arm in self._arms), *(s.due for s in self._benches))
        for key, events in self._selector.select(max(0.0, deadline - time.perf_counter())):
            watched = self._selector.get_map().get(key.fd)
            if watched is not None and watched.fileobj is key.fileobj:  # what came before may have closed it
                key.data(events & watched.events)
        now = time.perf_counter()
        self._catch_up(now)
        for arm in self._arms:
            arm.work(now)
        for stream in self._benches:
            stream.flush(now)

    def _catch_up(self, now: float) -> None:
        if now < self._next_physics:
            return
        self._worst = max(self._worst, now - self._next_physics)
        for _ in range(_MAX_CATCH_UP):
            self._step(self._next_physics)
            self._next_physics += PHYSICS_DT
            if now < self._next_physics:
                return
        self._slips += 1
        self._next_physics = now + PHYSICS_DT

    def _step(self, stamp: float) -> None:
        world = self._env.world
        left, right = (arm.controller for arm in self._arms)
        world.servo(np.stack([left.setpoint, right.setpoint]), np.array([left.opening, right.opening]))
        world.advance()
        self._stamp = stamp
        for arm, measured in zip(self._arms, self._measure(), strict=True):
            arm.advance(measured, stamp)
        self._steps += 1
        if self._steps % _STEPS_PER_CONTROL == 0:
            self._judge()

    def _judge(self) -> None:
        self._env.world.refresh()
        success, done = self._env.judge()
        if not self._done:
            self._success, self._done = success, done

    def _measure(self) -> Iterable[Measured]:
        world = self._env.world
        joints, speeds, openings = world.joints(), world.joint_speeds(), world.openings()
        currents = AMPERE_PER_NEWTON_METRE * world.joint_torques()
        for i in (0, 1):
            yield Measured(joints[i], speeds[i], currents[i], float(openings[i]), *self._flange(i))

    def _flange(self, arm: int) -> tuple[tuple[float, float, float], tuple[float, float, float, float]]:
        """Pose of a flange in its arm's base frame, which is turned about the vertical only."""
        data, body = self._env.world.data, self._flanges[arm]
        x, y, z = (data.xpos[body] - workcell.BASE_POSITION_M[arm]).tolist()
        qw, qx, qy, qz = data.xquat[body].tolist()
        c, s = math.cos(workcell.BASE_YAW_RAD), math.sin(workcell.BASE_YAW_RAD)
        h, k = math.cos(workcell.BASE_YAW_RAD / 2), math.sin(workcell.BASE_YAW_RAD / 2)
        turned = (h * qw + k * qz, h * qx + k * qy, h * qy - k * qx, h * qz - k * qw)
        return (c * x + s * y, c * y - s * x, z), turned

    def _locate(self) -> None:
        self._flanges = [self._env.world.model.body(f"{side}_hand").id for side in workcell.SIDES]

    def _release(self) -> None:
        for stream in self._benches:
            stream.close()
        for arm in self._arms:
            arm.close()
        self._bench.close()
        self._selector.close()
        for env in self._envs.values():
            env.close()

    # -- the bench -------------------------------------------------------------------------------------------------

    def _accept(self, events: int) -> None:
        del events
        self._benches = [s for s in self._benches if s.open]
        with contextlib.suppress(OSError):
            connection, _ = self._bench.accept()
            self._benches.append(_Stream(self._selector, connection, self._frames))

    def _frames(self, stream: _Stream) -> None:
        while len(stream.received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(stream.received)
            end = _LENGTH.size + length
            if length > _MAX_REQUEST:
                stream.close()
                return
            if len(stream.received) < end:
                return
            request = bytes(stream.received[_LENGTH.size : end])
            del stream.received[:end]
            reply = pack(self._answer(request))
            stream.send(_LENGTH.pack(len(reply)) + reply)
            stream.flush(time.perf_counter())

    def _answer(self, request: bytes) -> dict[str, Any]:
        try:
            message = unpack(request)
            if not isinstance(message, dict) or not isinstance(message.get("do"), str):
                raise WireError("a request is a map with 'do'")
            act = self._requests.get(message["do"])
            if act is None:
                raise WireError(f"nothing is known of {message['do']!r}; known: {', '.join(self._requests)}")
            return act(message)
        except RobotestError as error:
            return {"error": str(error)}

    def _hello(self, request: dict[str, Any]) -> dict[str, Any]:
        del request
        return {
            "robot": "rm75-dual",
            "hosts": [arm.address[0] for arm in self._arms],
            "tcp_ports": [arm.address[1] for arm in self._arms],
            "pid": os.getpid(),
            "stamp": time.perf_counter(),
        }

    def _reset(self, request: dict[str, Any]) -> dict[str, Any]:
        fields = {f.name: type(f.default) for f in dataclasses.fields(Start)}
        given = {k: v for k, v in request.items() if k != "do"}
        for name, value in given.items():
            if name not in fields or type(value) is not fields[name]:
                raise RobotError(
                    f"reset takes {', '.join(fields)}; {name}={value!r} is none of them or of another kind"
                )
        start = dataclasses.replace(self._start, **given)
        self._require_home()
        env = self._environment(start)
        arms = self._env.world.arms()
        env.reset(start.seed, start.episode)
        env.world.put_arms(arms)
        self._start, self._env = start, env
        self._locate()
        self._success = self._done = False
        self._steps = 0
        return {"instruction": env.instruction}

    def _require_home(self) -> None:
        world = self._env.world
        away = np.abs(world.joints() - self._env.home)
        for arm, side in enumerate(workcell.SIDES):
            worst = int(np.argmax(away[arm]))
            if away[arm, worst] > HOME_TOLERANCE_RAD:
                raise RobotError(
                    f"the {side} arm's joint {worst + 1} is {away[arm, worst]:.3f} rad from home; at most"
                    f" {HOME_TOLERANCE_RAD} are allowed: bring both arms to the joints of 'home_pose' first"
                )
            if min(world.openings()[arm], self._arms[arm].controller.opening) < _OPEN_ENOUGH:
                raise RobotError(f"the {side} gripper is not open; open both first")

    def _environment(self, start: Start) -> DualArmEnv:
        key = (start.task, start.setting, start.wording)
        if key not in self._envs:
            if start.wording not in ("seen", "unseen"):
                raise RobotError(f"wording {start.wording!r}; known: seen, unseen")
            options = EnvOptions(setting=start.setting, wording=cast("Any", start.wording))
            self._envs[key] = suite.make(start.task, options)
        return self._envs[key]

    def _scene(self, request: dict[str, Any]) -> dict[str, Any]:
        del request
        snapshot: Float64[np.ndarray, " N"] = self._env.snapshot()
        return {
            "snapshot": snapshot,
            "stamp": self._stamp,
            "instruction": self._env.instruction,
            "success": self._success,
            "done": self._done,
            **dataclasses.asdict(self._start),
        }

    def _counts(self, request: dict[str, Any]) -> dict[str, Any]:
        del request
        counts = {side: dict(arm.controller.counts) for side, arm in zip(workcell.SIDES, self._arms, strict=True)}
        return {**counts, "slips": self._slips, "worst_lateness_s": self._worst}

    def _fault(self, request: dict[str, Any]) -> dict[str, Any]:
        name, arms = request.get("name"), request.get("arm")
        if not isinstance(name, str) or name not in FAULTS:
            raise RobotError(f"fault {name!r}; known: {', '.join(FAULTS)}")
        if arms not in (None, 0, 1):
            raise RobotError(f"arm {arms!r}; 0 is the left one, 1 the right one, none is both")
        given = {k: v for k, v in request.items() if k not in ("do", "name", "arm")}
        arguments = fault_arguments(name, given)
        for arm in self._arms if arms is None else [self._arms[arms]]:
            arm.fault(name, arguments)
        return {"active": [sorted(arm.faults) for arm in self._arms]}

    def _clear(self, request: dict[str, Any]) -> dict[str, Any]:
        del request
        for arm in self._arms:
            arm.clear()
        return {}

    def _quit(self, request: dict[str, Any]) -> dict[str, Any]:
        del request
        self.close()
        return {}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _number(request: dict[str, Any], key: str, default: int) -> int:
    value = request.get(key, default)
    if type(value) is not int or value < 0:
        raise RobotError(f"{key}={value!r}; a number of 0 or more is wanted")
    return value


def request_realtime_priority(priority: int = 10) -> bool:
    """Ask for SCHED_FIFO, so that states go out in time on a busy machine; return whether it was granted."""
    if sys.platform != "linux":
        return False
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError:
        return False
    return True
