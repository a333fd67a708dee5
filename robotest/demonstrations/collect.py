"""Collect demonstrations from scripted experts: seeds, styles, and the file of the successful ones.

Slowly varying noise is added to the executed actions but *not* to the labels, so that the policy learns to recover
(DART: Laskey et al. 2017, arXiv 1703.09327).
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import multiprocessing
import multiprocessing.util
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

import numpy as np

from robotest import interrupt, registry
from robotest.config import CollectConfig
from robotest.demonstrations.files import DatasetSpec, Demonstration, DemonstrationInfo, DemonstrationWriter
from robotest.errors import ArtifactError, RobotestError, UnknownNameError
from robotest.experts import CLEAN, experts_of, require_style
from robotest.randomness import derive, generator
from robotest.specs import EnvSpec
from robotest.types import EnvOptions, Experts, SimulatedEnv

T = TypeVar("T")

_NOISE_DECAY: Final = 0.8  # autocorrelation of the Ornstein-Uhlenbeck noise per control step


@dataclasses.dataclass(frozen=True)
class Tally:
    """Episodes of one task that were tried and that succeeded, per style."""

    tried: Mapping[str, int]
    succeeded: Mapping[str, int]


def demonstrate(
    env: SimulatedEnv, experts: Experts, seed: int, style: str = CLEAN, noise: float = 1.0, *, picture: bool = True
) -> Demonstration:
    """Run an expert for one episode and return the demonstration, successful or not.

    Args:
        env: an environment of the experts' suite.
        experts: of the suite.
        seed: of the start, the style's random choices and the noise.
        style: one of the experts' styles.
        noise: see `CollectConfig`.
        picture: whether to render the cameras.
    """
    try:
        return _demonstrate(env, experts, seed, style, noise, picture=picture)
    finally:
        env.stop()


def _demonstrate(
    env: SimulatedEnv, experts: Experts, seed: int, style: str, noise: float, *, picture: bool
) -> Demonstration:
    env.reset(seed, 0)
    rng = generator(derive(seed, "expert"))
    commands = experts.commands(env, style, rng)
    disturbed = np.flatnonzero(experts.noise)
    scale = noise * experts.noise[disturbed]
    drift = np.zeros(len(disturbed))
    images: list[Mapping[str, np.ndarray]] = []
    rows: list[tuple[np.ndarray, ...]] = []
    instruction, success = "", False
    for _ in range(env.spec.max_steps):
        observation = env.observe() if picture else None
        points, snapshot = experts.points(env), env.snapshot()
        command = next(commands)
        drift = _NOISE_DECAY * drift + np.sqrt(1 - _NOISE_DECAY**2) * scale * rng.standard_normal(len(scale))
        sent = command.action - command.anchor
        sent[disturbed] += drift
        action = sent.astype(np.float32)
        env.begin_chunk(action[None])
        status = env.apply(action)
        images.append(observation.images if observation else {})
        state = observation.state if observation else np.zeros(env.spec.state.size)
        instruction = observation.instruction if observation else ""
        rows.append((state, command.action, command.anchor, points, snapshot))
        if status.done:
            success = status.success
            break
    info = DemonstrationInfo(env.spec.task, env.spec.setting, style, seed, instruction, success)
    videos = {camera: np.stack([i[camera] for i in images]) for camera in images[0]}
    states, actions, anchors, marks, snapshots = (np.stack(column) for column in zip(*rows, strict=True))
    return Demonstration(
        info,
        videos,
        states.astype(np.float32),
        actions.astype(np.float32),
        anchors.astype(np.float32),
        marks.astype(np.float32),
        snapshots,
    )


def collect(config: CollectConfig, progress: Callable[[str, int, bool], None]) -> dict[str, Tally]:
    """Write `config.episodes` successful demonstrations of each task to `config.out`.

    Args:
        config: what to collect.
        progress: called with (task, successful demonstrations so far, whether the last one succeeded).

    Raises:
        RobotestError: an expert fails so often that the file cannot be filled.
    """
    for name in ("episodes", "workers"):
        if getattr(config, name) < 1:
            raise RobotestError(f"--{name} {getattr(config, name)} given; it must be at least 1")
    _require_free(config)
    experts = experts_of(config.env)
    tasks = config.tasks or experts.tasks
    for task in tasks:
        if task not in experts.tasks:
            raise UnknownNameError(f"task of {config.env} with an expert", task, experts.tasks)
    mixture = _mixture(config.style, experts)
    tallies = {}
    with interrupt.deferred(), _pool(config.workers) as pool:
        e = _result(pool.submit(_describe, config, tasks[0]), f"{config.env}:{tasks[0]}")
        spec = DatasetSpec(config.env, e.action, e.state, e.cameras, e.control_dt, mixture, experts.n_points)
        with DemonstrationWriter(config.out, spec) as writer:
            for task in tasks:
                tallies[task] = _collect_task(config, task, mixture, pool, writer, progress)
    return tallies


def _require_free(config: CollectConfig) -> None:
    """Raise `ArtifactError` if the output exists, before the long work begins."""
    if config.out.is_dir():
        raise ArtifactError(f"{config.out} is a folder; --out must name a file")
    if config.out.exists() and not config.overwrite:
        raise ArtifactError(f"{config.out} is there already; choose another --out, or give --overwrite to replace it")


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[concurrent.futures.Executor]:
    """Yield a pool of processes that close their environments at exit; on an error cancel the pending work."""
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_begin)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _result(future: concurrent.futures.Future[T], what: str) -> T:
    """Return a worker's result.

    Raises:
        RobotestError: raised by the worker; or it raised another error, or died.
    """
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, concurrent.futures.process.BrokenProcessPool):
        raise RobotestError(
            f"{what}: a worker process died or was killed (out of memory?); try fewer --workers"
        ) from error
    if isinstance(error, RobotestError):
        raise error
    raise RobotestError(f"{what} failed in a worker process: {type(error).__name__}: {error}") from error


def _mixture(style: str, experts: Experts) -> dict[str, float]:
    if style == "mixture":
        return dict(experts.mixture)
    require_style(experts, style)
    return {style: 1.0}


def _options(config: CollectConfig, experts: Experts) -> EnvOptions:
    overrides = {name: getattr(config, name) for name in ("setting", "image_size") if getattr(config, name) is not None}
    return dataclasses.replace(experts.options, **overrides)


def _collect_task(
    config: CollectConfig,
    task: str,
    mixture: Mapping[str, float],
    pool: concurrent.futures.Executor,
    writer: DemonstrationWriter,
    progress: Callable[[str, int, bool], None],
) -> Tally:
    tried, succeeded = dict.fromkeys(mixture, 0), dict.fromkeys(mixture, 0)
    n_successes = 0
    limit = 3 * config.episodes + 20
    for demonstration in _attempts(config, task, mixture, pool, limit):
        style = demonstration.info.style
        tried[style] += 1
        succeeded[style] += demonstration.info.success
        n_successes += demonstration.info.success
        if demonstration.info.success:
            writer.append(demonstration)
        progress(task, n_successes, demonstration.info.success)
        interrupt.check()
        if n_successes == config.episodes:
            return Tally(tried, succeeded)
    raise RobotestError(
        f"the expert of {task} succeeded {n_successes} times in {limit} episodes; {config.episodes} successes are"
        f" required; per style: {succeeded} of {tried}"
    )


def _attempts(
    config: CollectConfig, task: str, mixture: Mapping[str, float], pool: concurrent.futures.Executor, limit: int
) -> Iterator[Demonstration]:
    """Yield demonstrations in the order of their seeds, for any number of workers."""
    window: list[concurrent.futures.Future[Demonstration]] = []
    styles, shares = list(mixture), np.array(list(mixture.values()))
    for attempt in range(limit + 2 * config.workers):
        if attempt < limit:
            seed = derive(config.seed, "collect", task, attempt)
            style = styles[generator(derive(seed, "style")).choice(len(styles), p=shares / shares.sum())]
            window.append(pool.submit(_attempt, config, task, style, seed))
        if window and len(window) > min(2 * config.workers, limit - attempt):
            yield _result(window.pop(0), f"{config.env}:{task}")


_ENVS: dict[tuple[str, str, EnvOptions], SimulatedEnv] = {}  # of a worker process; building one costs ten resets


def _begin() -> None:
    """Initialise a worker process; have it close its environments before the interpreter exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all processes; the parent handles it
    multiprocessing.util.Finalize(None, _close, exitpriority=10)


def _close() -> None:
    for env in _ENVS.values():
        env.close()
    _ENVS.clear()


def _env(config: CollectConfig, task: str) -> SimulatedEnv:
    key = (config.env, task, _options(config, experts_of(config.env)))
    if key not in _ENVS:
        _close()
        _ENVS[key] = registry.resolve("env", config.env).make(*key[1:])
    return _ENVS[key]


def _describe(config: CollectConfig, task: str) -> EnvSpec:
    return _env(config, task).spec


def _attempt(config: CollectConfig, task: str, style: str, seed: int) -> Demonstration:
    return demonstrate(_env(config, task), experts_of(config.env), seed, style, config.noise)
