"""A policy on a robot: the loop, the selector and the run directory of `robotest eval`, with arms at the other end."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
import statistics
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from robotest import interrupt
from robotest.clock import WallClock
from robotest.envs.dual_arm.suite import ACTIONS, ASPECT
from robotest.envs.dual_arm.world import CAMERAS
from robotest.errors import UnknownNameError, VideoError
from robotest.files import replacing
from robotest.hardware.cameras.config import camera_from
from robotest.hardware.cameras.rendered import RenderedCamera
from robotest.hardware.cameras.watch import WatchedCamera, open_all
from robotest.hardware.control.client import ExecutorClient
from robotest.hardware.deployment.config import Rig
from robotest.hardware.deployment.console import CONTROL_C, Console
from robotest.hardware.deployment.env import RobotEnv
from robotest.hardware.deployment.shadow import ShadowEnv
from robotest.hardware.deployment.supervisor import BenchSupervisor, OperatorSupervisor, Supervisor
from robotest.hardware.robot import RobotError, Stop
from robotest.report.video import Film
from robotest.runs.directory import episode_path
from robotest.runtime.rollout import Decide, Trace, attempt, result
from robotest.runtime.runner import EpisodeJob, EpisodeResult, SuiteInfo
from robotest.runtime.selector import Selector
from robotest.specs import EnvSpec
from robotest.types import Clock, Decision, EnvOptions, Observation

_RENDERED_S: Final = 1.0
_FILM_SIZE: Final = (240, 320)
_LATENCY_DECISIONS: Final = 10
_GRIPPER_TOLERANCE: Final = 0.15


class RobotRunner:
    """A `robotest.runtime.runner.EpisodeRunner` that is one robot.

    Args:
        rig: what to run on.
        out: run directory: films and the black box lie there too.
        console: the operator's.
        blind: the operator is not told the condition.
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
            self._open = opened.pop_all()
        if not client.about["realtime"]:
            console.tell("the executor has no real-time priority; ticks may come late (see docs/safety.md)")

    def suite(self) -> SuiteInfo:
        """The tasks that can be laid out."""
        return SuiteInfo(tuple(self._supervisor.tasks), self._supervisor.settings, tuple(ACTIONS))

    def spec(self, task: str, options: EnvOptions) -> EnvSpec:
        """See `EpisodeRunner.spec`."""
        return self._environment(task, options).spec

    def run(self, selector: Selector, jobs: Iterable[EpisodeJob]) -> Generator[EpisodeResult, None, None]:
        """Check everything, power the arms, run the episodes, and bring the arms home; any key stops them."""
        with self._console.watched(self._pressed):
            yield from self._run(selector, jobs)

    def _run(self, selector: Selector, jobs: Iterable[EpisodeJob]) -> Iterator[EpisodeResult]:
        checked = False
        for job in jobs:
            env = self._environment(job.seeds.task, job.options)
            selector.require_fits(env.spec)
            self._power()
            if not checked:
                self._preflight(selector, job, env)
                checked = True
            while (finished := self._episode(selector, job, env)) is None:
                self._console.tell("again")
            yield finished
        if checked and self._env is not None:
            self._power()
            self._env.home()

    def close(self) -> None:
        """Stop the arms, take their power, and close cameras and links."""
        self._open.close()

    def _episode(self, selector: Selector, job: EpisodeJob, env: RobotEnv) -> EpisodeResult | None:
        """Run one episode; None if it is to be done again."""
        seeds, trace, decisions = job.seeds, Trace(), dict[int, Decision]()
        name = "" if self._blind else f" [{job.condition}]"
        self._console.tell(f"{seeds.task}, episode {seeds.episode}{name}: any key stops the arms")
        self._power()

        decide = self._decides(selector, job, decisions)
        path = episode_path(self._out, (job.condition, seeds.task, seeds.episode)).with_suffix(".mp4")
        with self._filming(env, path):
            ended = attempt(env, decide, seeds, trace, self._clock, self._clock, job.execute)
        interrupt.check()
        fault = self._client.status.get("fault")
        if ended.outcome != "error" or (fault and fault["name"] == "operator"):
            why = fault["text"] if fault else "the episode is over"
            label = self._supervisor.label("failure" if ended.outcome == "error" else ended.outcome, why)
            if label is None:
                return None
            ended = dataclasses.replace(ended, outcome=label, error=None, traceback="")
        episode = result(job.condition, seeds, env.spec.max_steps, ended, trace, decisions)
        return EpisodeResult(job, episode, trace, decisions, env.spec.control_dt, ended.traceback, bool(trace.actions))

    def _power(self) -> None:
        """Reset a fault and power the arms, both only after the operator agreed."""
        status = self._client.status
        if fault := status.get("fault"):
            text = f"stopped: {fault['text']}"
            if fault["stop"] != Stop.HOLD.value and (arms := self._client.with_power()):
                text += f". KEEP AWAY: the {' and the '.join(arms)} arm was not seen to lose its power"
            self._console.confirm(f"{text}. When that is mended, Enter resets it")
            self._client.reset()
        if self._client.status["mode"] == "disabled":
            self._console.confirm("the arms will be powered and move home slowly; keep clear. Enter to go on")
            self._client.enable()

    def _preflight(self, selector: Selector, job: EpisodeJob, env: RobotEnv) -> None:
        """Look at everything once before the first episode; `RobotError` names what is wrong."""
        env.reset(job.seeds.reset, job.seeds.episode)
        for opening in (0.7, 1.0):
            measured = env.open_gripper(np.full(2, opening))
            if np.abs(measured - opening).max() > _GRIPPER_TOLERANCE:
                raise RobotError(f"the grippers were sent to {opening:g} and are at {measured.round(2).tolist()}")
        taken = []
        for number in range(_LATENCY_DECISIONS):
            observation = env.observe()
            start = self._clock.now()
            selector.decide([job.request(number, observation)])
            taken.append(self._clock.now() - start)
            self._clock.sleep_until(start + env.spec.control_dt)
        duration = job.execute * env.spec.control_dt
        if statistics.median(taken) > duration:
            raise RobotError(
                f"a decision takes {statistics.median(taken):.2f} s and its chunk {duration:.2f} s; the arms would"
                " stand still most of the time. Fewer candidates, or more actions executed of each chunk"
            )
        self._console.tell(
            f"preflight: {len(self._cameras)} cameras live, grippers move, a decision takes"
            f" {1000 * statistics.median(taken):.0f} ms (at most {1000 * max(taken):.0f}) for {1000 * duration:.0f} ms"
        )

    def _pressed(self, key: bytes) -> None:
        """Stop the arms, if any key was pressed or there is nobody left to press one."""
        self._client.stop(Stop.HOLD, "the operator pressed a key" if key else "the terminal is gone")
        if CONTROL_C in key:
            os.kill(os.getpid(), signal.SIGINT)

    @contextlib.contextmanager
    def _filming(self, env: RobotEnv, path: Path) -> Iterator[None]:
        """Write what one camera sees at every action."""
        if not self._film:
            yield
            return
        picture: Callable[[], Any]
        if isinstance(self._supervisor, BenchSupervisor):
            picture = functools.partial(self._supervisor.look, "front", *_FILM_SIZE)
        else:
            picture = next(iter(self._cameras.values())).newest
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial, Film(partial, 1 / env.spec.control_dt) as film:
                env.filmed = lambda: film.append(picture())
                try:
                    yield
                finally:
                    env.filmed = None
        except (VideoError, OSError) as error:  # no reason to lose the episode; and paths name the condition
            self._console.tell("this episode has no film" + ("" if self._blind else f": {error}"))

    def _environment(self, task: str, options: EnvOptions) -> RobotEnv:
        if self._env is None or self._made != (task, options):
            if isinstance(self._supervisor, BenchSupervisor):
                self._supervisor.options = options
            if not self._cameras:
                self._cameras = self._watched(options)
                self._open.enter_context(open_all(list(self._cameras.values())))
            limit = self._supervisor.tasks[task]
            self._env = RobotEnv(
                self._client, self._cameras, self._supervisor, task, limit, options, self._clock, self._rig.table_z
            )
            self._made = (task, options)
        return self._env

    def _watched(self, options: EnvOptions) -> Mapping[str, WatchedCamera]:
        size = (options.image_size, ASPECT * options.image_size)
        names = options.cameras or CAMERAS
        if isinstance(self._supervisor, BenchSupervisor):
            rendered = {n: RenderedCamera(n, size, self._supervisor.picture(n, *size), self._clock) for n in names}
            # Rendering shares the machine with the simulation: being late is no fault of a camera here.
            return {n: WatchedCamera(camera, size, self._clock, _RENDERED_S) for n, camera in rendered.items()}
        for name in names:
            if name not in self._rig.cameras:
                raise UnknownNameError("camera in robot.toml", name, self._rig.cameras)
        return {
            name: WatchedCamera(camera_from(self._rig.cameras[name], name, self._clock), size, self._clock)
            for name in names
        }

    def shadow(self, selector: Selector, jobs: Iterable[EpisodeJob], log: Path) -> None:
        """Let the policy run beside the arms without sending anything; see `robotest.hardware.deployment.shadow`."""
        with log.open("a", encoding="utf-8", buffering=1) as lines:
            for job in jobs:
                task, options = job.seeds.task, job.options
                made = self._environment(task, options)
                selector.require_fits(made.spec)
                env = ShadowEnv(
                    lines,
                    self._rig.robot_config.get("limits", {}),
                    self._clock,
                    self._client.about["capabilities"]["resolution"],
                    self._rig.table_z,
                    client=self._client,
                    cameras=self._cameras,
                    supervisor=self._supervisor,
                    task=task,
                    max_steps=made.spec.max_steps,
                    options=options,
                )
                decide = self._decides(selector, job, {})
                ended = attempt(env, decide, job.seeds, Trace(), self._clock, self._clock, job.execute)
                interrupt.check()
                if ended.outcome == "error":
                    raise RobotError(ended.error or "the shadow's episode ended in an error")

    def _decides(self, selector: Selector, job: EpisodeJob, decisions: dict[int, Decision]) -> Decide:
        def decide(observation: Observation, number: int) -> Float32[np.ndarray, "H A"]:
            interrupt.check()
            decisions[number] = selector.decide([job.request(number, observation)])[0]
            interrupt.check()  # before anything of it is sent
            return decisions[number].chunk

        return decide
