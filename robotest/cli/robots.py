"""``deploy``, ``simulate-robot``: a robot, and one to talk to where there is none."""

from __future__ import annotations

import dataclasses
import json as json_format
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from robotest.errors import RobotestError
from robotest.names import split

if TYPE_CHECKING:
    from robotest.config import EvalConfig
    from robotest.hardware.deployment.runner import RobotRunner


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
        from robotest.hardware import realtime
        from robotest.hardware.simulated.physics import Start
        from robotest.hardware.simulated.server import RobotSimulator

        robot = RobotSimulator(
            self.hosts,
            self.tcp_port,
            self.udp_port,
            self.push_target,
            ("127.0.0.1", self.bench_port),
            Start(self.task, self.setting, seed=self.seed),
        )
        if self.real_time:
            realtime.request_priority(realtime.SIMULATOR_PRIORITY)
        (left, left_port), (right, right_port) = robot.arms
        host, port = robot.bench
        sys.stdout.write(
            f"{self.robot} ready: left arm {left}:{left_port}, right arm {right}:{right_port}, "
            f"state to {self.push_target}:{self.udp_port}, bench {host}:{port}\n"
        )
        sys.stdout.flush()
        robot.serve()
        return 0


@dataclasses.dataclass(frozen=True)
class Deploy:
    """Run a policy on a robot, paired over verifiers, into a run directory like any other."""

    robot: str = "rm75-dual"
    """Robot: a registered name or module:attribute."""
    config: Path | None = None
    """robot.toml: addresses, limits, cameras, tasks. Not needed with --simulate."""
    policy: str = "mini_vla"
    """Policy: a registered name, a folder of `robotest train`, or module:attribute."""
    verifiers: str = "leverage"
    """Conditions, separated by commas, as for `robotest eval --verifiers`."""
    tasks: str = "all"
    r"""Tasks, separated by commas; one that has a comma itself: \,."""
    episodes: int = 10
    """Episodes per task and condition."""
    candidates: int = 8
    """Chunks sampled per decision."""
    execute: Literal["all"] | int = "all"
    """Actions of a chunk executed before the next decision."""
    seed: int = 0
    """Run seed: noises, the order of conditions, and with --simulate the start states follow from it."""
    simulate: bool = False
    """Start simulated controllers on this machine and use them; nobody is asked anything."""
    shadow: bool = False
    """Only look: the policy runs beside the arms, nothing is sent, differences go to OUT/shadow.jsonl."""
    blind: bool = False
    """Do not tell the operator which condition runs; their order within a start is random in any case."""
    film: bool = True
    """Film every episode."""
    setting: str | None = None
    """With --simulate: one of the suite's settings."""
    wording: Literal["seen", "unseen"] = "seen"
    """With --simulate: instruction templates."""
    out: Path | None = None
    """Run directory; None: runs/ROBOT-POLICY-seedSEED."""
    json: bool = False
    """Print the summary as JSON."""

    def run(self) -> int:
        """Open everything, look at it, run what is missing, print the tables; 1 if an episode ended in an error."""
        import contextlib

        from robotest.cli.evaluation import print_summary
        from robotest.config import EvalConfig
        from robotest.evaluation import evaluate
        from robotest.hardware.deployment.config import Rig
        from robotest.hardware.deployment.console import Terminal, Unattended
        from robotest.hardware.deployment.runner import RobotRunner
        from robotest.hardware.simulated.launcher import simulated_robot

        if self.config is None and not self.simulate:
            raise RobotestError("no --config given; a robot needs its robot.toml, or try --simulate")
        name = f"{self.robot}{'-simulated' if self.simulate else ''}"
        evaluation = EvalConfig(
            out=self.out or Path("runs") / f"{name}-{Path(self.policy).name}-seed{self.seed}",
            env=name,
            policy=self.policy,
            verifiers=split(self.verifiers),
            tasks=() if self.tasks == "all" else split(self.tasks),
            episodes=self.episodes,
            candidates=self.candidates,
            execute=self.execute,
            seed=self.seed,
            setting=self.setting,
            wording=self.wording,
            shuffle=True,
        )
        with contextlib.ExitStack() as opened:
            console = Unattended() if self.simulate or self.shadow else Terminal()
            if self.simulate:
                opened.enter_context(simulated_robot(self.robot))
                rig = Rig.simulated(self.robot)
            else:
                assert self.config is not None
                rig = Rig.read(self.robot, self.config)
            runner = RobotRunner(rig, evaluation.directory, console, blind=self.blind, film=self.film)
            if self.shadow:
                return _shadow(runner, evaluation)
            summary = evaluate(evaluation, runner=runner)
        print_summary(summary, as_json=self.json)
        sys.stderr.write(f"run directory: {evaluation.directory}\n")
        return 1 if any(c.overall.errors for c in summary.conditions.values()) else 0


def _shadow(runner: RobotRunner, evaluation: EvalConfig) -> int:
    """Run beside the arms and print what came of it."""
    import contextlib

    from robotest import interrupt
    from robotest.clock import WallClock
    from robotest.evaluation import prepare
    from robotest.hardware.deployment import shadow

    log = evaluation.directory / "shadow.jsonl"
    with contextlib.closing(runner), interrupt.deferred():
        runner.shadow(*prepare(evaluation, runner, WallClock()), log)
    sys.stdout.write(json_format.dumps(shadow.summary(log)) + "\n")
    return 0
