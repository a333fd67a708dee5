"""``simulate-robot``: a robot to talk to where there is none."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class SimulateRobot:
    """Simulate a robot at the level of its network protocol, until Ctrl-C. The vendor's SDK can talk to it."""

    robot: Annotated[Literal["rm75-dual"], tyro.conf.Positional] = "rm75-dual"
    """Which robot."""
    task: str = "place_block_pad"
    """Task of the dual-arm suite whose objects are on the table."""
    setting: str = "clean"
    """The suite's setting."""
    seed: int = 0
    """Seed of the first episode's start."""
    hosts: tuple[str, str] = ("127.0.0.11", "127.0.0.12")
    """Addresses of the left and of the right arm."""
    tcp_port: int = 8080
    """Where both controllers take commands; 0: any."""
    udp_port: int = 8089
    """Where states go until a client says otherwise."""
    push_target: str = "127.0.0.1"
    """Address where states go until a client says otherwise."""
    bench_port: int = 8090
    """Where the bench takes requests on 127.0.0.1: resets, scenes, faults; 0: any."""
    real_time: bool = True
    """Ask for real-time scheduling, and go on without where it is not permitted."""

    def run(self) -> int:
        """Print the addresses when ready, and serve."""
        from robotest.hardware import simulator

        robot = simulator.RobotSimulator(
            self.hosts,
            self.tcp_port,
            self.udp_port,
            self.push_target,
            ("127.0.0.1", self.bench_port),
            simulator.Start(self.task, self.setting, seed=self.seed),
        )
        if self.real_time:
            simulator.prefer_real_time()
        (left, left_port), (right, right_port) = robot.arms
        host, port = robot.bench
        sys.stdout.write(
            f"{self.robot} ready: left arm {left}:{left_port}, right arm {right}:{right_port}, "
            f"state to {self.push_target}:{self.udp_port}, bench {host}:{port}\n"
        )
        sys.stdout.flush()
        robot.serve()
        return 0
