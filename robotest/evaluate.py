"""The main job: tasks x episodes x conditions, paired, resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import robotest.policies
from robotest import experts, interrupt, success
from robotest.errors import (
    BrokenRunError,
    InterruptedRunError,
    RobotestError,
    SpecMismatchError,
    UnknownNameError,
    building,
)
from robotest.randomness import EpisodeSeeds
from robotest.registry import resolve, table
from robotest.runs import episode_file, merge, provenance, schedule
from robotest.runs.directory import Arguments, GoingOn, Key, RunDirectory, Summary, episode_path, key_of, writing
from robotest.runtime.pool import Fleet
from robotest.runtime.rollout import WallClock
from robotest.runtime.runner import Assignment, Crew, Finished, InProcess, SuiteInfo
from robotest.runtime.selector import Planner
from robotest.specs import EnvSpec, PolicySpec
from robotest.statistics.sequential import decided
from robotest.threads import one_thread
from robotest.types import Clock, EnvOptions, Episode, Policy, Verifier

DEFAULT_VERIFIERS: Final = ("random", "medoid", "cfn", "leverage")
"""What is compared if nothing is said, as far as it was fitted to the policy."""
TOO_MANY: Final = 3
"""Episodes of a condition that fail before they begin, after which a run is not worth going on with."""


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """What to evaluate. The string under a field is its help on the command line."""

    out: Path
    """Run directory. The same command on it continues the run."""
    env: str = "dual_arm"
    """Environment suite: a registered name or module:attribute."""
    policy: str = "mini_vla"
    """Policy: a registered name, a folder of `robotest train`, module:attribute, or expert[:STYLE] of the suite."""
    verifiers: tuple[str, ...] | None = None
    """Conditions to compare: NAME, NAME=FILE, lowest:NAME or module:attribute. With a FILE, its stem is the name.
    None: random, medoid, and of cfn and leverage those that were fitted to the policy."""
    tasks: tuple[str, ...] = ()
    """Tasks; all of the suite if none is given."""
    episodes: int = 20
    """Episodes per task and condition."""
    candidates: int = 8
    """Chunks sampled per decision."""
    execute: int | None = None
    """Actions of a chunk executed before the next decision; None: all."""
    seed: int = 0
    """Run seed: start states and noises follow from it alone."""
    setting: str | None = None
    """One of the suite's settings; None: its first."""
    action_mode: str | None = None
    """One of the suite's action modes; None: the policy's."""
    wording: Literal["seen", "unseen"] = "seen"
    """Instruction templates."""
    image_size: int | None = None
    """Height and width of the policy's images [px]; None: what the policy needs."""
    success: str | None = None
    """When an episode has succeeded, as `robotest.success` has it; None: as the environment says itself."""
    env_args: tuple[str, ...] = ()
    """KEY=VALUE for the environment, e.g. for `gymnasium.make`."""
    record: Literal["none", "states", "images"] = "states"
    """What episode files hold: states, from which pictures are made afterwards; or also the frames that were rendered
    during the run, for environments without states. none: no files, and so no videos."""
    unpaired: bool = False
    """Compare conditions as independent samples, where equal indices are not equal starts."""
    retry: Literal["none", "errors"] = "none"
    """errors: run again what ended in an error."""
    allow_code_changes: bool = False
    """Continue although the code behind a module:attribute was edited; episodes of the code before are kept."""
    pair: tuple[str, str] | None = None
    """The two conditions that the next three are about; None: the only two."""
    stop_when_decided: bool = False
    """Stop as soon as the pair is told apart, at an error rate of alpha however often it is looked at."""
    alpha: float = 0.05
    """Error rate of stopping."""
    allocate: Literal["equal", "adaptive"] = "equal"
    """adaptive: after a first pass give more episodes to the tasks that tell more about the pair."""
    workers: int = 0
    """Environment processes; 0: none but this one. Changes nothing but speed."""
    env_python: Path | None = None
    """Interpreter of the workers, for simulators that need another Python environment; None: this one."""
    batch_window_s: float = 0.0
    """How long a batch waits for more requests before it is sampled [s]."""
    shuffle: bool = False
    """Run the conditions of a start in an order drawn from the seed, where people could get used to one."""


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
    crew: Crew | None = None,
) -> Summary:
    """Run what is missing of `config` and return the summary, also written to ``summary.json``.

    An episode's result depends on its task, index and condition and on nothing else that is run with it.

    Args:
        config: what to run.
        progress: called once before the first episode and after each.
        timer: measures; does not influence results. Real time if None.
        about: what else `run.json` should tell, e.g. the command line.
        crew: who runs the episodes, closed at the end; None: as `config` says.

    Raises:
        RobotestError: anything wrong with the arguments, before the first episode.
        InterruptedRunError: Ctrl-C; what is finished is kept.
    """
    # One thread: sums are taken in the same order on every machine, and at this size two threads gain nothing.
    with one_thread(), contextlib.closing(crew or _crew(config, timer or WallClock())) as crew:
        job = _prepare(config, crew, timer or WallClock())
        going_on = GoingOn(retry_errors=config.retry == "errors", allow_code_changes=config.allow_code_changes)
        told = {**(about or {}), "precision": job.precision}
        with RunDirectory(config.out, job.arguments, told, going_on) as run:
            try:
                with interrupt.deferred():
                    _run_missing(job, crew, run, progress)
            except KeyboardInterrupt as pressed:
                raise InterruptedRunError(
                    f"interrupted; the {len(run.episodes)} finished episodes are kept in {config.out};"
                    " the same command goes on from there"
                ) from pressed
            summary = schedule.summarise(job.arguments, run.episodes, unpaired=config.unpaired)
            run.finish(summary)
    return summary


def prepare(config: EvalConfig, crew: Crew, timer: Clock) -> tuple[Planner, list[Assignment]]:
    """Return a configuration's planner and all its episodes, in their order, without running or filing any.

    Args:
        config: what would be run.
        crew: of its environment.
        timer: measures.

    Raises:
        RobotestError: anything wrong with the arguments.
    """
    job = _prepare(config, crew, timer)
    keys = schedule.keys(job.arguments, {})
    return job.planner, [
        Assignment(condition, EpisodeSeeds(config.seed, task, index), job.options, job.execute)
        for condition, task, index in keys
    ]


@dataclasses.dataclass(frozen=True)
class _Job:
    """A configuration with its names resolved and its parts found to fit each other."""

    config: EvalConfig
    options: EnvOptions
    planner: Planner
    execute: int
    arguments: Arguments
    precision: str


def _crew(config: EvalConfig, timer: Clock) -> Crew:
    if config.workers < 0:
        raise RobotestError(f"--workers {config.workers} given; at least 1 is needed, or 0 for none but this process")
    if config.workers == 0 and config.env_python is None:
        return InProcess(config.env, timer)
    return Fleet(config.env, max(1, config.workers), config.env_python, config.batch_window_s)


def _prepare(config: EvalConfig, crew: Crew, timer: Clock) -> _Job:
    """Load everything and check it, the cheap things first."""
    suite, style = crew.suite(), experts.style_of(config.policy)
    if style is not None:
        config = _for_expert(config, style)
    tasks = _check(config, suite)
    if style is None:
        policy, folder = load_policy(config.policy, lambda: crew.spec(tasks[0], _plain_options(config, suite)))
    else:
        policy, folder = _expert(config, crew, style), None
    verifiers = default_verifiers(folder) if config.verifiers is None else config.verifiers
    conditions = _load_conditions(verifiers, policy, folder)
    planner = Planner(policy, {c.name: c.verifier for c in conditions}, config.candidates, timer)
    execute, options = _execute(config.execute, policy), _options(config, suite, policy, style)
    spec = crew.spec(tasks[0], options)
    planner.require_fits(spec)
    _require_comparable(config, spec)
    identity = _identity(config, spec, policy.spec, options, execute)
    identity["env_code"] = provenance.digest(provenance.environment_files(config.env, config.success, config.env_args))
    identity["code"] = provenance.digest(provenance.decision_files(config.policy, kinds(verifiers)))
    names = [c.name for c in conditions]
    arguments = Arguments(
        identity=identity,
        verifiers={c.name: c.fingerprint for c in conditions},
        tasks=tasks,
        episodes=config.episodes,
        pair=_pair(config, names) if config.stop_when_decided or config.allocate == "adaptive" else None,
        alpha=config.alpha if config.stop_when_decided else None,
        adaptive=config.allocate == "adaptive",
    )
    return _Job(config, options, planner, execute, arguments, policy.spec.precision)


class _Watch:
    """Ends a run that is broken from the start: one in which all episodes of a condition fail before they begin.

    Args:
        run: to continue.
        unpaired: conditions need not start alike.
    """

    def __init__(self, run: RunDirectory, *, unpaired: bool) -> None:
        self._run, self._unpaired = run, unpaired
        self._sound = {e.condition for e in run.episodes.values() if e.outcome != "error" or e.steps}
        self._stillborn: dict[str, int] = {}
        self._starts: dict[tuple[str, int], list[Episode]] = {}
        for episode in run.episodes.values():
            self._starts.setdefault((episode.task, episode.index), []).append(episode)

    def look(self, finished: Finished) -> None:
        """Look at an episode that was just filed.

        Raises:
            UnpairedStartsError: it started differently than its partners did.
            BrokenRunError: it is the last of `TOO_MANY` that failed before they began.
        """
        episode = finished.episode
        partners = self._starts.setdefault((episode.task, episode.index), [])
        partners.append(episode)
        if not self._unpaired:
            merge.require_same_starts(partners)
        if finished.began or episode.outcome != "error":
            self._sound.add(episode.condition)
        if episode.condition in self._sound:
            return
        self._stillborn[episode.condition] = self._stillborn.get(episode.condition, 0) + 1
        if self._stillborn[episode.condition] == TOO_MANY:
            where = episode_path(self._run.path, key_of(episode)).with_suffix(".txt")
            raise BrokenRunError(
                f"stopped: {TOO_MANY} episodes of {episode.condition!r} failed before their first action, and none"
                f" began: {episode.error} (see {where}). Mend the cause; the same command with --retry errors runs"
                " them again"
            )


def _run_missing(job: _Job, crew: Crew, run: RunDirectory, progress: Callable[[Progress], None]) -> None:
    """Run what is not in the directory yet; an adaptive run's second pass is known when its first is done."""
    watch = _Watch(run, unpaired=job.config.unpaired)
    found = sum(key in run.episodes for key in schedule.keys(job.arguments, run.episodes))
    total = len(job.arguments.verifiers) * len(job.arguments.tasks) * job.arguments.episodes
    done = found
    progress(Progress(total, found, found, None))
    while missing := [key for key in schedule.keys(job.arguments, run.episodes) if key not in run.episodes]:
        if job.config.shuffle:
            missing = schedule.shuffled(missing, job.config.seed)
        with contextlib.closing(crew.run(job.planner, _until_decided(job, run, missing))) as ended:
            for finished in ended:
                _file(job, run, finished)
                done += 1
                progress(Progress(total, done, found, finished.episode))
                watch.look(finished)


def _until_decided(job: _Job, run: RunDirectory, missing: Sequence[Key]) -> Iterator[Assignment]:
    """Yield what is missing, but nothing that a decision has made superfluous in the meantime."""
    arguments = job.arguments
    watched = schedule.monitor(arguments, run.episodes)
    planned = schedule.planned(arguments.tasks, arguments.episodes)
    position = {start: i for i, start in enumerate(planned)}
    for condition, task, index in missing:
        if watched is not None:
            watched.look(planned, schedule.outcomes(run.episodes))
            if watched.decided_after is not None and position[task, index] >= watched.decided_after:
                return
        seeds = EpisodeSeeds(job.config.seed, task, index)
        film = job.config.record == "images"
        yield Assignment(condition, seeds, job.options, job.execute, film=film)


def _file(job: _Job, run: RunDirectory, finished: Finished) -> None:
    """Write an episode's files, then its line, which makes it count."""
    path = episode_path(run.path, key_of(finished.episode))
    seeds = EpisodeSeeds(job.config.seed, finished.episode.task, finished.episode.index)
    scene = episode_file.Scene(job.config.env, seeds.task, job.options, seeds.reset, finished.control_dt)
    with writing(run.path):
        if job.config.record != "none":
            episode_file.write(path, episode_file.from_trace(finished.episode, scene, finished.trace))
        if finished.traceback:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".txt").write_text(finished.traceback, encoding="utf-8")
    run.append(finished.episode)


def _check(config: EvalConfig, suite: SuiteInfo) -> tuple[str, ...]:
    """Check what can be checked without loading a policy; return the tasks to run."""
    if config.episodes < 1:
        raise RobotestError(f"--episodes {config.episodes} given; at least 1 is needed")
    if config.candidates < 1:
        raise RobotestError(f"--candidates {config.candidates} given; at least 1 is needed")
    if config.verifiers is not None and not config.verifiers:
        raise RobotestError("no verifiers given; give at least one, e.g. --verifiers random")
    tasks = _whole(config.tasks, suite.tasks)
    for task in tasks:
        if task not in suite.tasks:
            raise UnknownNameError(f"task of {config.env}", task, suite.tasks)
    _require_distinct("task", tasks)
    return tasks or tuple(suite.tasks)


def _whole(given: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Put names together again that have commas, which on a command line separate names."""
    parts, names = list(given), list[str]()
    while parts:
        found = [
            (n, name)
            for n in range(len(parts), 1, -1)
            for name in (",".join(parts[:n]), ", ".join(parts[:n]))
            if name in known
        ]
        n, name = found[0] if found and parts[0] not in known else (1, parts[0])
        names.append(name)
        parts = parts[n:]
    return tuple(names)


def _pair(config: EvalConfig, conditions: Sequence[str]) -> tuple[str, str]:
    """Return the conditions that stopping or allocating is about."""
    if config.stop_when_decided and config.allocate == "adaptive":
        raise RobotestError("stopping when decided and adaptive allocation given; a run can do one of the two")
    decided(0, 0, config.alpha)  # refuses an alpha that is none
    if config.pair is None:
        if len(conditions) != 2:
            raise RobotestError(
                f"{len(conditions)} conditions given; say which two are to be told apart, e.g. --pair leverage:random"
            )
        return conditions[0], conditions[1]
    for name in config.pair:
        if name not in conditions:
            raise UnknownNameError("condition", name, conditions)
    _require_distinct("condition", config.pair)
    return config.pair


def _execute(given: int | None, policy: Policy) -> int:
    horizon = policy.spec.horizon
    execute = horizon if given is None else given
    if not 1 <= execute <= horizon:
        raise RobotestError(
            f"--execute {given} given; policy {policy.spec.name!r} has chunks of 1 to {horizon} actions"
        )
    return execute


def _for_expert(config: EvalConfig, style: str) -> EvalConfig:
    """Fill in what goes without saying: it knows some tasks, and proposes one action, so there is nothing to choose."""
    asked = experts.experts_of(config.env)
    experts.require_style(asked, style)
    for task in config.tasks:
        if task not in asked.tasks:
            raise UnknownNameError(f"task of {config.env} with an expert", task, asked.tasks)
    verifiers = ("first",) if config.verifiers is None else config.verifiers
    return dataclasses.replace(config, tasks=config.tasks or asked.tasks, verifiers=verifiers, candidates=1, execute=1)


def _expert(config: EvalConfig, crew: Crew, style: str) -> Policy:
    """Return the policy that does what the suite's expert proposes."""
    options = dataclasses.replace(experts.experts_of(config.env).options, cameras=())
    return experts.ExpertPolicy(crew.spec(config.tasks[0], options), style)


def _require_comparable(config: EvalConfig, spec: EnvSpec) -> None:
    """Refuse what needs pairs of outcomes where there are none."""
    for given, why in ((config.unpaired, "--unpaired"), (spec.success == success.NONE, "--success none")):
        if given and (config.stop_when_decided or config.allocate == "adaptive"):
            raise RobotestError(f"{why} given with stopping or adaptive allocation, which need pairs of outcomes")


def _plain_options(config: EvalConfig, suite: SuiteInfo) -> EnvOptions:
    """Return how to build an environment for a policy that is to be made for it."""
    return EnvOptions(
        setting=config.setting or suite.settings[0],
        action_mode=config.action_mode or suite.action_modes[0],
        wording=config.wording,
        image_size=config.image_size or EnvOptions.image_size,
        success=config.success,
        env_args=config.env_args,
    )


def _options(config: EvalConfig, suite: SuiteInfo, policy: Policy, style: str | None) -> EnvOptions:
    """Fill in what the policy settles."""
    mode = policy.spec.action.mode
    if config.action_mode is None and mode not in suite.action_modes:
        raise SpecMismatchError(
            f"policy {policy.spec.name!r} gives actions of mode {mode!r}; {config.env} takes"
            f" {', '.join(suite.action_modes)}: give another --policy, e.g. random"
        )
    sizes = [height for height, _ in policy.spec.cameras.values()] or [EnvOptions.image_size]
    return EnvOptions(
        setting=config.setting or suite.settings[0],
        action_mode=config.action_mode or policy.spec.action.mode,
        wording=config.wording,
        image_size=config.image_size or sizes[0],
        cameras=tuple(policy.spec.cameras),
        expert=style,
        success=config.success,
        env_args=config.env_args,
    )


def _identity(
    config: EvalConfig, env: EnvSpec, policy: PolicySpec, options: EnvOptions, execute: int
) -> dict[str, Any]:
    """Everything that changes what an episode is; file names do not."""
    return {
        "env": config.env,
        **{name: getattr(options, name) for name in ("setting", "action_mode", "wording", "image_size")},
        "env_args": list(options.env_args),
        "success": env.success,
        "simulator": env.simulator,
        "caveats": list(env.caveats),
        "repeatable": env.repeatable,
        "standin_assets": env.standin_assets,
        "policy": policy.name,
        "policy_fingerprint": policy.fingerprint,
        "candidates": config.candidates,
        "execute": execute,
        "seed": config.seed,
    }


def default_verifiers(folder: Path | None) -> tuple[str, ...]:
    """Return what is compared if nothing is said: the controls, and what was fitted to the policy.

    Args:
        folder: where the policy's fitted verifiers lie, if anywhere.
    """
    *controls, cfn, leverage = DEFAULT_VERIFIERS
    return (*controls, *(v for v in (cfn, leverage) if folder and (folder / f"{v}.safetensors").is_file()))


def kinds(verifiers: Iterable[str]) -> Iterator[str]:
    """Yield the registered name or module:attribute in each verifier, as `load_condition` reads it."""
    for text in verifiers:
        name, _, inner = text.partition("=")[0].partition(":")
        yield (inner or "leverage") if name == "lowest" else text.partition("=")[0]


def _load_conditions(texts: Sequence[str], policy: Policy, folder: Path | None) -> list[Condition]:
    conditions = [load_condition(text, policy, folder) for text in texts]
    _require_distinct("verifier", [c.name for c in conditions])
    return conditions


def _require_distinct(kind: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise RobotestError(f"{kind} {name!r} given {names.count(name)} times; names must differ")


def load_policy(text: str, env: Callable[[], EnvSpec] | None = None) -> tuple[Policy, Path | None]:
    """Load a policy by name, folder or module:attribute; return it with the folder its verifiers lie in, if any.

    Args:
        text: as given.
        env: says what the policy is for; called if its factory has a parameter ``env``.

    Raises:
        UnknownNameError: it is none of the three.
        ArtifactError: its weights are missing or damaged.
        RobotestError: whatever else its factory raises.
    """
    if experts.style_of(text) is not None:
        raise RobotestError(
            f"policy {text!r} acts beside its environment and has no weights; use `robotest eval --policy expert`"
        )
    known, folder = table("policy"), Path(text)
    if text not in known and folder.is_dir():
        with one_thread(), building(f"policy {text!r}"):
            policy: Policy = resolve("policy", "mini_vla")(folder)
        return policy, folder
    if text not in known and ("/" in text or ":" not in text):
        raise UnknownNameError("policy", text, [*known, experts.POLICY, "a folder that `robotest train` wrote"])
    factory = resolve("policy", text)
    given: dict[str, Any] = {}
    if takes_env(factory):
        if env is None:
            raise RobotestError(f"policy {text!r} is made for an environment; name one")
        given["env"] = env()
    with one_thread(), building(f"policy {text!r}"):
        policy = factory(None, **given)
    _require_made(text, policy, Policy)
    shipped = Path(robotest.policies.__path__[0]) / "weights" / text
    return policy, shipped if shipped.is_dir() else None


def takes_env(factory: Callable[..., object]) -> bool:
    """Return whether a policy's factory wants to know the `EnvSpec`."""
    try:
        return "env" in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a callable that does not tell
        return False


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
            condition_name(text),
            resolve("verifier", "robotest.verifiers.controls:Lowest")(condition.verifier),
            condition.fingerprint,
        )
    path = Path(file) if given else folder / f"{name}.safetensors" if folder else None
    factory = resolve("verifier", name)
    with building(f"verifier {name!r}"):
        verifier: Verifier = factory(policy.spec, path)
    _require_made(name, verifier, Verifier)
    return Condition(condition_name(text), verifier, _fingerprint(path))


def condition_name(text: str) -> str:
    """Return what the condition of a verifier is called, given as to `load_condition`."""
    name, given, file = text.partition("=")
    inverted, _, inner = name.partition(":")
    if inverted == "lowest" and (inner or given):
        return f"lowest:{Path(file).stem if given else inner}"
    return Path(file).stem if given else name


def _require_made(name: str, made: object, protocol: type) -> None:
    if not isinstance(made, protocol):
        needed = protocol.__name__
        raise RobotestError(f"{name!r} made a {type(made).__name__}; a {needed} is needed (robotest.types.{needed})")


def _fingerprint(path: Path | None) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path and path.is_file() else None
