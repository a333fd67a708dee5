"""A simulated dual RM75 robot: two controllers on the network, and the physics of the dual-arm suite behind them.

The vendor's unmodified SDK runs against it. Each arm has an address of its own, on which its controller speaks JSON
over TCP and from which it pushes its state over UDP. One process, one thread, one loop with absolute deadlines:
physics every `PHYSICS_DT`, judgement of the task every `CONTROL_DT`, state at n x 5 ms. What the robot's protocol
cannot do is done over the bench (`robotest.hardware.simulated.bench`).
"""

from __future__ import annotations

import contextlib
import gc
import math
import selectors
import time
from typing import Final

import numpy as np

from robotest.envs.dual_arm.world import PHYSICS_DT
from robotest.hardware.robot import Setpoint
from robotest.hardware.simulated.arm import NetworkArm
from robotest.hardware.simulated.bench import Bench, Timing
from robotest.hardware.simulated.controller import Controller
from robotest.hardware.simulated.journal import Journal
from robotest.hardware.simulated.physics import Physics, Start
from robotest.hardware.simulated.protocol import PushConfig
from robotest.hardware.simulated.streams import Address

_MAX_CATCH_UP: Final = 25  # physics steps at once; later ones are left out


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
        self._next_physics = math.inf
        self._timing = Timing()
        self._serving = self._closing = False
        self._arms: list[NetworkArm] = []
        with contextlib.ExitStack() as opened:
            self._selector = selectors.SelectSelector()  # the timeouts of epoll are whole milliseconds
            opened.callback(self._selector.close)
            self._physics = Physics(start or Start(), time.perf_counter())
            opened.callback(self._physics.close)
            journal = Journal()
            self._bench = Bench(bench, self._selector, self._physics, self._arms, journal, self._timing, self.close)
            opened.callback(self._bench.close)
            for i, host in enumerate(hosts):
                controller = Controller(self._physics.home[i], PushConfig(push_target, udp_port))
                self._arms.append(NetworkArm(i, (host, tcp_port), controller, self._selector, journal))
                opened.callback(self._arms[i].close)
            self._opened = opened.pop_all()

    @property
    def arms(self) -> tuple[Address, Address]:
        """Where the left and the right controller listen."""
        left, right = (arm.address for arm in self._arms)
        return left, right

    @property
    def bench(self) -> Address:
        """Where the bench listens."""
        return self._bench.address

    def serve(self) -> None:
        """Run until `close` or the bench's ``quit``, then free everything."""
        gc.freeze()  # the models live to the end; scanning them takes longer than a push may be late
        self._next_physics = time.perf_counter() + PHYSICS_DT
        self._serving = True
        try:
            while not self._closing:
                self._turn()
        finally:
            self._opened.close()

    def close(self) -> None:
        """End `serve` within milliseconds; may be called from a signal handler or another thread.

        Without `serve` it frees everything itself.
        """
        self._closing = True
        if not self._serving:
            self._opened.close()

    def _turn(self) -> None:
        deadline = min(self._next_physics, self._bench.due, *(arm.due for arm in self._arms))
        for key, events in self._selector.select(max(0.0, deadline - time.perf_counter())):
            watched = self._selector.get_map().get(key.fd)
            if watched is not None and watched.fileobj is key.fileobj:  # an earlier event may have closed it
                key.data(events & watched.events)
        now = time.perf_counter()
        self._catch_up(now)
        for arm in self._arms:
            arm.work(now)
        self._bench.work(now)

    def _catch_up(self, now: float) -> None:
        if now < self._next_physics:
            return
        self._timing.worst_lateness_s = max(self._timing.worst_lateness_s, now - self._next_physics)
        for _ in range(_MAX_CATCH_UP):
            self._step(self._next_physics)
            self._next_physics += PHYSICS_DT
            if now < self._next_physics:
                return
        self._timing.slips += 1
        self._next_physics = now + PHYSICS_DT

    def _step(self, stamp: float) -> None:
        left, right = (arm.controller for arm in self._arms)
        joints = np.stack([left.joints.setpoint, right.joints.setpoint])
        openings = np.array([left.gripper.setpoint, right.gripper.setpoint])
        for arm, measured in zip(self._arms, self._physics.step(Setpoint(joints, openings), stamp), strict=True):
            arm.advance(measured, stamp)
