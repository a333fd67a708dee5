"""Laying out and judging episodes on a robot: by an operator, or by the simulated controllers' bench."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from robotest.envs.dual_arm.suite import DualArmEnv, suite
from robotest.envs.dual_arm.tasks import TASKS
from robotest.hardware.deployment.console import Console
from robotest.hardware.robot import RobotError
from robotest.runtime import wire
from robotest.types import EnvOptions, Outcome


@dataclasses.dataclass(frozen=True)
class Verdict:
    """State of an episode.

    Attributes:
        success: the goal is reached.
        done: nothing more can follow.
    """

    success: bool
    done: bool


@runtime_checkable
class Supervisor(Protocol):
    """Lays out and judges episodes."""

    @property
    def tasks(self) -> Mapping[str, int]:
        """Name -> step limit of an episode."""
        ...

    @property
    def settings(self) -> tuple[str, ...]:
        """The plainest first."""
        ...

    def prepare(self, task: str, seed: int, episode: int) -> str:
        """Lay out an episode while the arms are at home, and return its instruction."""
        ...

    def judge(self) -> Verdict:
        """Judge the episode as it is now, without waiting."""
        ...

    def label(self, outcome: Outcome, why: str) -> Outcome | None:
        """Return how the finished episode counts; None to repeat it.

        Args:
            outcome: as far as it is known.
            why: reason for its end.
        """
        ...


@dataclasses.dataclass(frozen=True)
class RealTask:
    """A table ``[tasks.NAME]`` of ``robot.toml``.

    Attributes:
        instruction: the task in words, for the policy.
        setup: what the operator lays out; ``{episode}`` stands for the episode's number.
        max_steps: step limit of an episode.
    """

    instruction: str
    setup: str = "lay out episode {episode}"
    max_steps: int = 300

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise RobotError(f"max_steps = {self.max_steps} in robot.toml; at least 1 is needed")
        try:
            self.setup.format(episode=0)
        except (KeyError, IndexError, ValueError) as error:
            raise RobotError(f"setup = {self.setup!r} in robot.toml; only {{episode}} can stand in it") from error


class OperatorSupervisor:
    """A person at the console.

    Args:
        console: the operator's.
        tasks: by name.
    """

    def __init__(self, console: Console, tasks: Mapping[str, RealTask]) -> None:
        self._console, self._known = console, tasks
        self.tasks = {name: task.max_steps for name, task in tasks.items()}
        self.settings = ("real",)

    def prepare(self, task: str, seed: int, episode: int) -> str:  # noqa: ARG002 - a person needs no seed
        """Tell the operator what to lay out, and wait until it is done."""
        known = self._known[task]
        self._console.confirm(f"{task}, episode {episode}: {known.setup.format(episode=episode)}. Enter when ready")
        return known.instruction

    def judge(self) -> Verdict:
        """Return no success: only the operator knows, after the end."""
        return Verdict(success=False, done=False)

    def label(self, outcome: Outcome, why: str) -> Outcome | None:  # noqa: ARG002 - the person saw the outcome
        """Ask the operator."""
        answer = self._console.choose(f"{why}. Did it succeed?", {"y": "yes", "n": "no", "r": "redo"})
        labels: dict[str, Outcome | None] = {"y": "success", "n": "failure", "r": None}
        return labels[answer]


class BenchSupervisor:
    """The bench of `robotest.hardware.simulated.bench`: starts, judgement and pictures are those of the suite.

    Args:
        address: of the bench.
        options: of the dual-arm suite.
    """

    def __init__(self, address: tuple[str, int], options: EnvOptions) -> None:
        try:
            self._channel = wire.Channel(socket.create_connection(address, timeout=2.0))
        except OSError as error:
            raise RobotError(
                f"cannot connect to the simulated controllers' bench at {address[0]}:{address[1]} ({error})"
            ) from error
        self.options = options
        self.tasks = {name: task.max_steps for name, task in TASKS.items()}
        self.settings = suite.settings
        self._env: DualArmEnv | None = None
        self._views: set[tuple[str, int, int]] = set()

    def prepare(self, task: str, seed: int, episode: int) -> str:
        """Place the objects as the suite's reset does."""
        options = {"task": task, "setting": self.options.setting, "wording": self.options.wording}
        instruction: str = self._ask({"do": "reset", "seed": seed, "episode": episode, **options})["instruction"]
        if self._env is None or self._env.spec.task != task:
            self.close_pictures()
            self._env = suite.make(task, self.options)
            for view in self._views:  # the first picture is too slow for a policy
                self._env.render(*view)
        self._env.reset(seed, episode)
        return instruction

    def judge(self) -> Verdict:
        """Return the suite's judgement."""
        scene = self._ask({"do": "scene"})
        return Verdict(bool(scene["success"]), bool(scene["done"]))

    def label(self, outcome: Outcome, why: str) -> Outcome | None:  # noqa: ARG002 - the suite judges
        """Return the suite's judgement."""
        return outcome

    def picture(
        self, camera: str, height: int, width: int
    ) -> Callable[[], tuple[UInt8[np.ndarray, "height width 3"], float]]:
        """Return a function that renders a camera in the current scene, and gives the time of that scene [s]."""
        self._views.add((camera, height, width))

        def render() -> tuple[UInt8[np.ndarray, "height width 3"], float]:
            if self._env is None:
                raise RobotError("no episode is laid out yet")
            scene = self._ask({"do": "scene"})
            self._env.restore(scene["snapshot"])
            return self._env.render(camera, height, width), float(scene["stamp"])

        return render

    def look(self, camera: str, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return the current picture of a camera, for people."""
        return self.picture(camera, height, width)()[0]

    def close_pictures(self) -> None:
        """Free the renderers."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def close(self) -> None:
        """Free the renderers and close the connection."""
        self.close_pictures()
        self._channel.close()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._channel.send(request)
        answer: dict[str, Any] = self._channel.receive(2.0)
        if "error" in answer:
            raise RobotError(f"the bench refuses: {answer['error']}")
        return answer
