"""Demonstrations from scripted experts: which seeds, which styles, and what is kept.

While an expert acts, slowly wandering noise is added to where the tips are sent and *not* to the labels, so that the
policy sees how to come back (DART: Laskey et al. 2017, arXiv 1703.09327).
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64

from robotest import interrupt, registry
from robotest.demonstrations import DatasetSpec, Demonstration, DemonstrationInfo, DemonstrationWriter
from robotest.envs.dual_arm import DualArmEnv
from robotest.envs.dual_arm_tasks import N_POINTS
from robotest.errors import RobotestError, UnknownNameError
from robotest.policies.scripted import MIXTURE, STYLES, Expert
from robotest.randomness import derive, generator
from robotest.types import EnvOptions

_NOISE_DECAY: Final = 0.8  # of the Ornstein-Uhlenbeck noise, per control step


@dataclasses.dataclass(frozen=True)
class CollectConfig:
    """What to collect."""

    out: Path
    """File to write (HDF5)."""
    env: str = "dual_arm"
    """Suite whose experts act."""
    tasks: tuple[str, ...] = ()
    """Tasks; all of the suite if none is named."""
    episodes: int = 400
    """Successful demonstrations of each task."""
    style: str = "mixture"
    """One style for all, or the stated mixture."""
    setting: str = "clean"
    """Setting of the environment."""
    noise_m: float = 0.003
    """Standard deviation of the noise on executed tip positions [m]."""
    seed: int = 0
    """Seed of the starts and styles; never shares a start with an evaluation."""
    workers: int = 2
    """Processes."""


@dataclasses.dataclass(frozen=True)
class Tally:
    """Of one task: episodes tried and succeeded, per style."""

    tried: Mapping[str, int]
    succeeded: Mapping[str, int]


def demonstrate(env: DualArmEnv, seed: int, style: str, noise_m: float, picture: bool = True) -> Demonstration:
    """Run the expert for one episode and return what it did, whether it succeeded or not.

    Args:
        env: in ``tip`` mode.
        seed: of the start; the style's draws and the noise follow from it.
        style: one of `STYLES`.
        noise_m: see `CollectConfig`.
        picture: whether to render the cameras.
    """
    env.reset(seed)
    rng = generator(derive(seed, "expert"))
    commands = Expert(env, style, rng).commands()
    noise = np.zeros((2, 3))
    images: list[Mapping[str, np.ndarray]] = []
    rows: list[tuple[np.ndarray, ...]] = []
    success = False
    for _ in range(env.spec.max_steps):
        seen, state = _see(env, picture)
        points = env.points()
        pose, opening = next(commands)
        anchor = env.commanded
        noise = _NOISE_DECAY * noise + np.sqrt(1 - _NOISE_DECAY**2) * noise_m * rng.standard_normal((2, 3))
        sent = pose - anchor
        sent[:, :3] += noise
        env.begin_chunk()
        status = env.apply(_pack(sent, opening))
        images.append(seen)
        rows.append((state, _pack(pose, opening), _pack(anchor, np.zeros(2)), points))
        if status.done:
            success = status.success
            break
    info = DemonstrationInfo(env.spec.task, env.spec.setting, style, seed, env.instruction, success)
    films = {camera: np.stack([i[camera] for i in images]) for camera in images[0]}
    return Demonstration(info, films, *(np.stack(column, dtype=np.float32) for column in zip(*rows, strict=True)))


def _see(env: DualArmEnv, picture: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    if not picture:
        return {}, np.zeros(env.spec.state.size, np.float32)
    observation = env.observe()
    return dict(observation.images), observation.state


def _pack(tips: Float64[np.ndarray, "2 4"], openings: Float64[np.ndarray, " 2"]) -> np.ndarray:
    return np.concatenate([tips, openings[:, None]], axis=1, dtype=np.float32).ravel()


def collect(config: CollectConfig, progress: Callable[[str, int, bool], None]) -> dict[str, Tally]:
    """Write `config.episodes` successful demonstrations of each task to `config.out`.

    Args:
        config: what to collect.
        progress: called with (task, demonstrations kept so far, whether the last one succeeded).

    Raises:
        RobotestError: an expert fails so often that the file cannot be filled.
    """
    for name in ("episodes", "workers"):
        if getattr(config, name) < 1:
            raise RobotestError(f"--{name} {getattr(config, name)} given; at least 1 is needed")
    suite = registry.resolve("env", config.env)
    tasks = config.tasks or suite.tasks
    for task in tasks:
        if task not in suite.tasks:
            raise UnknownNameError(f"task of {config.env}", task, suite.tasks)
    mixture = _mixture(config.style)
    env = suite.make(tasks[0], EnvOptions(setting=config.setting))
    if not isinstance(env, DualArmEnv):
        env.close()
        raise RobotestError(f"env {config.env!r} has no scripted experts; 'dual_arm' has")
    e = env.spec
    spec = DatasetSpec(config.env, e.action, e.state, e.cameras, e.control_dt, mixture, N_POINTS)
    env.close()
    tallies = {}
    context = multiprocessing.get_context("spawn")
    with (
        interrupt.deferred(),
        DemonstrationWriter(config.out, spec) as writer,
        concurrent.futures.ProcessPoolExecutor(config.workers, context) as pool,
    ):
        for task in tasks:
            tallies[task] = _collect_task(config, task, mixture, pool, writer, progress)
    return tallies


def _mixture(style: str) -> dict[str, float]:
    if style == "mixture":
        return dict(MIXTURE)
    if style not in STYLES:
        raise UnknownNameError("style", style, [*STYLES, "mixture"])
    return {style: 1.0}


def _collect_task(
    config: CollectConfig,
    task: str,
    mixture: Mapping[str, float],
    pool: concurrent.futures.Executor,
    writer: DemonstrationWriter,
    progress: Callable[[str, int, bool], None],
) -> Tally:
    tried, succeeded = dict.fromkeys(mixture, 0), dict.fromkeys(mixture, 0)
    kept = 0
    limit = 3 * config.episodes + 20
    for demonstration in _attempts(config, task, mixture, pool, limit):
        style = demonstration.info.style
        tried[style] += 1
        succeeded[style] += demonstration.info.success
        kept += demonstration.info.success
        if demonstration.info.success:
            writer.append(demonstration)
        progress(task, kept, demonstration.info.success)
        interrupt.check()
        if kept == config.episodes:
            return Tally(tried, succeeded)
    raise RobotestError(
        f"the expert of {task} succeeded {kept} times in {limit} episodes, {config.episodes} were asked for;"
        f" per style: {succeeded} of {tried}"
    )


def _attempts(
    config: CollectConfig, task: str, mixture: Mapping[str, float], pool: concurrent.futures.Executor, limit: int
) -> Iterator[Demonstration]:
    """Yield demonstrations in the order of their attempts, which does not depend on the number of workers."""
    window: list[concurrent.futures.Future[Demonstration]] = []
    styles, shares = list(mixture), np.array(list(mixture.values()))
    for attempt in range(limit + 4 * config.workers):
        if attempt < limit:
            seed = derive(config.seed, "collect", task, attempt)
            style = styles[generator(derive(seed, "style")).choice(len(styles), p=shares / shares.sum())]
            window.append(pool.submit(_attempt, config, task, style, seed))
        if window and len(window) > min(4 * config.workers, limit - attempt):
            yield window.pop(0).result()


_ENVS: dict[tuple[str, str, str], DualArmEnv] = {}  # of a worker process: building one costs as much as ten resets


def _attempt(config: CollectConfig, task: str, style: str, seed: int) -> Demonstration:
    key = (config.env, task, config.setting)
    if key not in _ENVS:
        _ENVS[key] = registry.resolve("env", config.env).make(task, EnvOptions(setting=config.setting))
    return demonstrate(_ENVS[key], seed, style, config.noise_m)
