"""Runs episodes on a robot: the same loop, selector and run directory as `robotest eval`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from robotest import interrupt
from robotest.clock import WallClock
from robotest.embodiment.collision import Twin
from robotest.envs.dual_arm.suite import ACTIONS, ASPECT
from robotest.envs.dual_arm.world import CAMERAS
from robotest.errors import UnknownNameError
from robotest.hardware.cameras.config import camera_from
from robotest.hardware.cameras.rendered import RenderedCamera
from robotest.hardware.cameras.watch import WatchedCamera, open_all
from robotest.hardware.control.client import ExecutorClient
from robotest.hardware.control.governor import TICK_S, Governor
from robotest.hardware.control.status import Mode
from robotest.hardware.deployment.arms import Arms, ExecutorArms
from robotest.hardware.deployment.config import Rig
from robotest.hardware.deployment.console import CONTROL_C, Console
from robotest.hardware.deployment.env import RobotEnv
from robotest.hardware.deployment.filming import filming
from robotest.hardware.deployment.preflight import preflight
from robotest.hardware.deployment.shadow import ShadowArms
from robotest.hardware.deployment.supervisor import BenchSupervisor, OperatorSupervisor, Supervisor
from robotest.hardware.limits import arm_limits
from robotest.hardware.robot import RobotError, Stop
from robotest.runs.directory import episode_path
from robotest.runtime.rollout import Decide, Trace, attempt, result
from robotest.runtime.runner import EpisodeJob, EpisodeResult, SuiteInfo
from robotest.runtime.selector import Selector
from robotest.specs import EnvSpec
from robotest.types import Clock, Decision, EnvOptions, Observation

_RENDERED_S: Final = 1.0
_FILM_SIZE: Final = (240, 320)


class RobotRunner:
    """Runs episodes on one robot. Implements `robotest.runtime.runner.EpisodeRunner`.

    Args:
        rig: the robot and its surroundings.
        out: run directory, also for films and the black box.
        console: the operator's.
        blind: do not show the operator the condition.
        film: film every episode.
    """

    def __init__(self, rig: Rig, out: Path, console: Console, *, blind: bool = False, film: bool = True) -> None:
        self._rig, self._out, self._console, self._blind, self._film = rig, out, console, blind, film
        self._clock: Clock = WallClock()
        self._open = contextlib.ExitStack()
        self._env: RobotEnv | None = None
        self._made: tuple[str, EnvOptions] | None = None
        self._cameras: Mapping[str, WatchedCamera] = {}
        out.mkdir(parents=True, exist_ok=True)
        box = out / f"black-box-{time.strftime('%Y%m%d-%H%M%S')}.bin"
        with contextlib.ExitStack() as opened:
            self._supervisor: Supervisor
            if rig.bench:
                self._supervisor = opened.enter_context(contextlib.closing(BenchSupervisor(rig.bench, EnvOptions())))
            else:
                self._supervisor = OperatorSupervisor(console, rig.tasks)
            client = ExecutorClient(rig.robot, rig.robot_config, box, self._clock, rig.table_z)
            self._client = opened.enter_context(contextlib.closing(client))
            self._arms = ExecutorArms(client, self._clock)
            self._open = opened.pop_all()
        if not client.greeting.realtime:
            console.tell("the executor has no real-time priority; ticks may come late (see docs/safety.md)")

    def suite(self) -> SuiteInfo:
        """Return the tasks that the supervisor can lay out."""
        return SuiteInfo(tuple(self._supervisor.tasks), self._supervisor.settings, tuple(ACTIONS))

    def spec(self, task: str, options: EnvOptions) -> EnvSpec:
        """See `EpisodeRunner.spec`."""
        return self._environment(task, options).spec

    def run(self, selector: Selector, jobs: Iterable[EpisodeJob]) -> Generator[EpisodeResult, None, None]:
        """Power the arms, run the preflight and the episodes, and bring the arms home. Any key stops them."""
        with self._console.watched(self._pressed):
            yield from self._run(selector, jobs)

    def _run(self, selector: Selector, jobs: Iterable[EpisodeJob]) -> Iterator[EpisodeResult]:
        checked = False
        for job in jobs:
            env = self._environment(job.seeds.task, job.options)
            selector.require_fits(env.spec)
            self._power()
            if not checked:
                self._console.tell(preflight(env, self._arms, selector, job, self._clock))
                checked = True
            while (finished := self._episode(selector, job, env)) is None:
                self._console.tell("repeating the episode")
            yield finished
        if checked:
            self._power()
            self._arms.home()

    def close(self) -> None:
        """Stop the arms, remove power, and close cameras and links."""
        self._open.close()

    def _episode(self, selector: Selector, job: EpisodeJob, env: RobotEnv) -> EpisodeResult | None:
        """Run one episode; return None if the operator wants it repeated."""
        seeds, trace, decisions = job.seeds, Trace(), dict[int, Decision]()
        name = "" if self._blind else f" [{job.condition}]"
        self._console.tell(f"{seeds.task}, episode {seeds.episode}{name}: any key stops the arms")
        self._power()

        decide = self._decides(selector, job, decisions)
        path = episode_path(self._out, (job.condition, seeds.task, seeds.episode)).with_suffix(".mp4")
        with self._filming(env, path):
            ended = attempt(env, decide, seeds, trace, self._clock, self._clock, job.execute)
        interrupt.check()
        fault = self._client.status.fault
        if ended.outcome != "error" or (fault and fault.name == "operator"):
            why = fault.text if fault else "the episode is over"
            label = self._supervisor.label("failure" if ended.outcome == "error" else ended.outcome, why)
            if label is None:
                return None
            ended = dataclasses.replace(ended, outcome=label, error=None, traceback="")
        episode = result(job.condition, seeds, env.spec.max_steps, ended, trace, decisions)
        return EpisodeResult(job, episode, trace, decisions, env.spec.control_dt, ended.traceback, bool(trace.actions))

    def _power(self) -> None:
        """Reset a fault and power the arms, both only after the operator agreed."""
        if fault := self._client.status.fault:
            text = f"stopped: {fault.text}"
            if fault.stop is not Stop.HOLD and (powered := self._client.powered_sides()):
                text += f". KEEP AWAY: the {' and the '.join(powered)} arm was not seen to lose its power"
            self._console.confirm(f"{text}. When that is mended, Enter resets it")
            self._client.reset()
        if self._client.status.mode is Mode.DISABLED:
            self._console.confirm("the arms will be powered and move home slowly; keep clear. Enter to go on")
            self._client.enable()

    def _pressed(self, key: bytes) -> None:
        """Stop the arms for a key, or when the terminal is closed."""
        self._client.stop(Stop.HOLD, "the operator pressed a key" if key else "the terminal is gone")
        if CONTROL_C in key:
            os.kill(os.getpid(), signal.SIGINT)

    def _filming(self, env: RobotEnv, path: Path) -> contextlib.AbstractContextManager[None]:
        if not self._film:
            return contextlib.nullcontext()
        picture: Callable[[], Any]
        if isinstance(self._supervisor, BenchSupervisor):
            picture = functools.partial(self._supervisor.look, "front", *_FILM_SIZE)
        else:
            picture = next(iter(self._cameras.values())).newest
        return filming(env, path, picture, self._no_film)

    def _no_film(self, error: Exception) -> None:
        # The error may hold a path, which names the condition.
        self._console.tell("this episode has no film" + ("" if self._blind else f": {error}"))

    def _environment(self, task: str, options: EnvOptions) -> RobotEnv:
        if self._env is None or self._made != (task, options):
            if isinstance(self._supervisor, BenchSupervisor):
                self._supervisor.options = options
            if not self._cameras:
                self._cameras = self._watched(options)
                self._open.enter_context(open_all(list(self._cameras.values())))
            self._env = self._env_with(self._arms, task, options)
            self._made = (task, options)
        return self._env

    def _env_with(self, arms: Arms, task: str, options: EnvOptions) -> RobotEnv:
        limit = self._supervisor.tasks[task]
        return RobotEnv(self._client, arms, self._cameras, self._supervisor, task, limit, options, self._rig.table_z)

    def _watched(self, options: EnvOptions) -> Mapping[str, WatchedCamera]:
        size = (options.image_size, ASPECT * options.image_size)
        names = options.cameras or CAMERAS
        if isinstance(self._supervisor, BenchSupervisor):
            rendered = {n: RenderedCamera(n, size, self._supervisor.picture(n, *size), self._clock) for n in names}
            # Rendering competes with the simulation for the processors, so late pictures are normal here.
            return {n: WatchedCamera(camera, size, self._clock, _RENDERED_S) for n, camera in rendered.items()}
        for name in names:
            if name not in self._rig.cameras:
                raise UnknownNameError("camera in robot.toml", name, self._rig.cameras)
        return {
            name: WatchedCamera(camera_from(self._rig.cameras[name], name, self._clock), size, self._clock)
            for name in names
        }

    def shadow(self, selector: Selector, jobs: Iterable[EpisodeJob], log: Path) -> None:
        """Run the policy without sending anything to the arms; see `robotest.hardware.deployment.shadow`."""
        limits = arm_limits(self._rig.robot_config.get("limits", {}))
        resolution = self._client.greeting.capabilities.resolution
        governor = Governor(limits, Twin(self._rig.table_z), TICK_S, resolution)
        with log.open("a", encoding="utf-8", buffering=1) as lines:
            arms = ShadowArms(self._client, governor, lines, self._clock)
            for job in jobs:
                task, options = job.seeds.task, job.options
                selector.require_fits(self._environment(task, options).spec)
                env, decide = self._env_with(arms, task, options), self._decides(selector, job, {})
                ended = attempt(env, decide, job.seeds, Trace(), self._clock, self._clock, job.execute)
                interrupt.check()
                if ended.outcome == "error":
                    raise RobotError(ended.error or "the episode ended in an error")

    def _decides(self, selector: Selector, job: EpisodeJob, decisions: dict[int, Decision]) -> Decide:
        def decide(observation: Observation, number: int) -> Float32[np.ndarray, "H A"]:
            interrupt.check()
            decisions[number] = selector.decide([job.request(number, observation)])[0]
            interrupt.check()  # before anything of it is sent
            return decisions[number].chunk

        return decide
