"""The main job: tasks x episodes x conditions, paired, resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from threadpoolctl import threadpool_limits

import robotest.policies
from robotest import recording
from robotest.errors import InterruptedRunError, RobotestError, UnknownNameError
from robotest.planner import DecisionRequest, Planner
from robotest.randomness import EpisodeSeeds
from robotest.registry import resolve, table
from robotest.rollout import SimClock, Trace, WallClock, run_episode
from robotest.runs import Arguments, Key, RunDirectory, Summary, episode_path, summarise, writing
from robotest.specs import EnvSpec, PolicySpec
from robotest.types import Clock, Decision, Env, EnvOptions, Episode, Observation, Policy, Suite, Verifier


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """What to evaluate. The string under a field is its help on the command line."""

    out: Path
    """Run directory. The same command on it continues the run."""
    env: str = "dual_arm"
    """Environment suite: a registered name or module:attribute."""
    policy: str = "mini_vla"
    """Policy: a registered name, a folder that `robotest train` wrote, or module:attribute."""
    verifiers: tuple[str, ...] = ("random", "medoid", "cfn", "leverage")
    """Conditions to compare: NAME, NAME=FILE, lowest:NAME or module:attribute. With a FILE, its stem is the name."""
    tasks: tuple[str, ...] = ()
    """Tasks; all of the suite if none is given."""
    episodes: int = 20
    """Episodes per task and condition."""
    candidates: int = 8
    """Chunks sampled per decision."""
    execute: int | None = 8
    """Actions of a chunk executed before the next decision; None: all."""
    seed: int = 0
    """Run seed: start states and noises follow from it alone."""
    setting: str = "clean"
    """One of the suite's settings."""
    action_mode: str | None = None
    """One of the suite's action modes; None: the policy's."""
    wording: Literal["seen", "unseen"] = "seen"
    """Instruction templates."""
    image_size: int | None = None
    """Height and width of the policy's images [px]; None: what the policy needs."""
    record: bool = True
    """Write episode files; without them there are no videos."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        total: episodes asked for.
        done: finished, those found at the start included.
        found: finished before this process began.
        episode: the one that just ended; None in the first call, before any.
    """

    total: int
    done: int
    found: int
    episode: Episode | None


@dataclasses.dataclass(frozen=True)
class Condition:
    """A named verifier and the fingerprint of the file it came from, None if it has none."""

    name: str
    verifier: Verifier
    fingerprint: str | None


def evaluate(
    config: EvalConfig,
    progress: Callable[[Progress], None] = lambda _: None,
    timer: Clock | None = None,
    about: Mapping[str, Any] | None = None,
) -> Summary:
    """Run what is missing of `config` and return the summary, also written to ``summary.json``.

    An episode's result depends on its task, index and condition and on nothing else that is run with it.

    Args:
        config: what to run.
        progress: called once before the first episode and after each.
        timer: measures; does not influence results. Real time if None.
        about: what else `run.json` should tell, e.g. the command line.

    Raises:
        RobotestError: anything wrong with the arguments, before the first episode.
        InterruptedRunError: Ctrl-C; what is finished is kept.
    """
    job = _prepare(config, timer or WallClock())
    # One thread: sums are taken in the same order on every machine, and at this size two threads gain nothing.
    with threadpool_limits(limits=1), RunDirectory(config.out, job.arguments, about or {}) as run:
        try:
            _run_missing(job, run, progress)
        except KeyboardInterrupt as interrupt:
            raise InterruptedRunError(
                f"interrupted; the {len(run.episodes)} finished episodes are kept in {config.out};"
                " the same command goes on from there"
            ) from interrupt
        summary = summarise([run.episodes[key] for key in job.keys], list(job.arguments.verifiers), job.arguments.tasks)
        run.write_summary(summary)
    return summary


@dataclasses.dataclass(frozen=True)
class _Job:
    """A configuration with its names resolved and its parts found to fit each other."""

    config: EvalConfig
    suite: Suite
    options: EnvOptions
    planner: Planner
    execute: int
    arguments: Arguments
    timer: Clock

    @property
    def keys(self) -> list[Key]:
        """Every episode asked for. Conditions are innermost, so that a part of a run is paired too."""
        tasks, conditions = self.arguments.tasks, self.arguments.verifiers
        return [(c, t, i) for t in tasks for i in range(self.arguments.episodes) for c in conditions]


def _prepare(config: EvalConfig, timer: Clock) -> _Job:
    """Load everything and check it, the cheap things first."""
    suite: Suite = resolve("env", config.env)
    tasks = _check(config, suite)
    policy, folder = load_policy(config.policy)
    conditions = _load_conditions(config.verifiers, policy, folder)
    planner = Planner(policy, {c.name: c.verifier for c in conditions}, config.candidates, timer)
    execute, options = _execute(config.execute, policy), _options(config, policy)
    with contextlib.closing(suite.make(tasks[0], options)) as env:
        planner.require_fits(env.spec)
        identity = _identity(config, env.spec, policy.spec, options, execute)
    arguments = Arguments(identity, {c.name: c.fingerprint for c in conditions}, tasks, config.episodes)
    return _Job(config, suite, options, planner, execute, arguments, timer)


def _run_missing(job: _Job, run: RunDirectory, progress: Callable[[Progress], None]) -> None:
    """Run the episodes that are not in the directory yet, in order, with one environment a task."""
    keys = job.keys
    missing = [key for key in keys if key not in run.episodes]
    found = done = len(keys) - len(missing)
    progress(Progress(len(keys), done, found, None))
    for task, group in itertools.groupby(missing, key=lambda key: key[1]):
        with contextlib.closing(job.suite.make(task, job.options)) as env:
            job.planner.require_fits(env.spec)
            for key in group:
                episode = _run_one(job, run.path, env, key)
                run.append(episode)
                done += 1
                progress(Progress(len(keys), done, found, episode))


def _run_one(job: _Job, directory: Path, env: Env, key: Key) -> Episode:
    """Run one episode and write its file."""
    condition, task, index = key
    seeds, trace = EpisodeSeeds(job.config.seed, task, index), Trace()

    def decide(observation: Observation, number: int) -> Decision:
        return job.planner.decide([DecisionRequest(condition, seeds, number, observation)])[0]

    episode = run_episode(env, decide, condition, seeds, trace, SimClock(), job.timer, job.execute)
    if job.config.record:
        scene = recording.Scene(job.config.env, task, job.options, seeds.reset, env.spec.control_dt)
        with writing(directory):
            recording.write(episode_path(directory, key), recording.from_trace(episode, scene, trace))
    return episode


def _check(config: EvalConfig, suite: Suite) -> tuple[str, ...]:
    """Check what can be checked without loading a policy; return the tasks to run."""
    if config.episodes < 1:
        raise RobotestError(f"--episodes {config.episodes} given; at least 1 is needed")
    if config.candidates < 1:
        raise RobotestError(f"--candidates {config.candidates} given; at least 1 is needed")
    if not config.verifiers:
        raise RobotestError("no verifiers given; give at least one, e.g. --verifiers random")
    for task in config.tasks:
        if task not in suite.tasks:
            raise UnknownNameError(f"task of {config.env}", task, suite.tasks)
    _require_distinct("task", config.tasks)
    return config.tasks or suite.tasks


def _execute(given: int | None, policy: Policy) -> int:
    horizon = policy.spec.horizon
    execute = horizon if given is None else given
    if not 1 <= execute <= horizon:
        raise RobotestError(
            f"--execute {given} given; policy {policy.spec.name!r} has chunks of 1 to {horizon} actions"
        )
    return execute


def _options(config: EvalConfig, policy: Policy) -> EnvOptions:
    """Fill in what the policy settles."""
    sizes = [height for height, _ in policy.spec.cameras.values()] or [EnvOptions.image_size]
    return EnvOptions(
        setting=config.setting,
        action_mode=config.action_mode or policy.spec.action.mode,
        wording=config.wording,
        image_size=config.image_size or sizes[0],
    )


def _identity(
    config: EvalConfig, env: EnvSpec, policy: PolicySpec, options: EnvOptions, execute: int
) -> dict[str, Any]:
    """Everything that changes what an episode is; file names do not."""
    return {
        "env": config.env,
        **dataclasses.asdict(options),
        "standin_assets": env.standin_assets,
        "policy": policy.name,
        "policy_fingerprint": policy.fingerprint,
        "candidates": config.candidates,
        "execute": execute,
        "seed": config.seed,
    }


def _load_conditions(texts: Sequence[str], policy: Policy, folder: Path | None) -> list[Condition]:
    conditions = [load_condition(text, policy, folder) for text in texts]
    _require_distinct("verifier", [c.name for c in conditions])
    return conditions


def _require_distinct(kind: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise RobotestError(f"{kind} {name!r} given {names.count(name)} times; names must differ")


def load_policy(text: str) -> tuple[Policy, Path | None]:
    """Load a policy by name, folder or module:attribute; return it with the folder its verifiers lie in, if any.

    Raises:
        UnknownNameError: it is none of the three.
        ArtifactError: its weights are missing or damaged.
    """
    known, folder = table("policy"), Path(text)
    if text not in known and folder.is_dir():
        policy: Policy = resolve("policy", "mini_vla")(folder)
        return policy, folder
    if text not in known and ("/" in text or ":" not in text):
        raise UnknownNameError("policy", text, [*known, "a folder that `robotest train` wrote"])
    policy = resolve("policy", text)(None)
    _require_made(text, policy, Policy)
    shipped = Path(robotest.policies.__path__[0]) / "weights" / text
    return policy, shipped if shipped.is_dir() else None


def load_condition(text: str, policy: Policy, folder: Path | None) -> Condition:
    """Make the verifier of ``NAME``, ``NAME=FILE``, ``lowest:NAME`` or ``module:attribute``.

    Args:
        text: as given; with a FILE the condition is called after its stem, so that one kind can be compared with
            itself.
        policy: what the verifier must fit.
        folder: where the policy's fitted verifiers lie, as ``NAME.safetensors``.

    Raises:
        UnknownNameError: no such verifier.
        ArtifactError: its file is missing, damaged or another's.
    """
    name, given, file = text.partition("=")
    inverted, _, inner = name.partition(":")
    if inverted == "lowest":
        kind = inner or "leverage"
        condition = load_condition(f"{kind}{given}{file}", policy, folder)
        return Condition(
            f"lowest:{condition.name}" if inner or given else "lowest",
            resolve("verifier", "robotest.verifiers.controls:Lowest")(condition.verifier),
            condition.fingerprint,
        )
    path = Path(file) if given else folder / f"{name}.safetensors" if folder else None
    verifier: Verifier = resolve("verifier", name)(policy.spec, path)
    _require_made(name, verifier, Verifier)
    return Condition(Path(file).stem if given else name, verifier, _fingerprint(path))


def _require_made(name: str, made: object, protocol: type) -> None:
    if not isinstance(made, protocol):
        needed = protocol.__name__
        raise RobotestError(f"{name!r} made a {type(made).__name__}; a {needed} is needed (robotest.types.{needed})")


def _fingerprint(path: Path | None) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path and path.is_file() else None
