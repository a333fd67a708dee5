"""``list``, ``check``, ``doctor``: look without running anything long."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from tyro.conf import Positional, UseAppendAction

from robotest import registry
from robotest.errors import ConformanceError, RobotestError, SpecMismatchError, place
from robotest.names import among

if TYPE_CHECKING:
    from robotest.specs import EnvSpec
    from robotest.types import Env, EnvOptions, Policy, Suite


@dataclasses.dataclass(frozen=True)
class List:
    """List everything that has a name: environments, policies, verifiers, robots."""

    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Print the registry without importing what it names."""
        tables = {kind: registry.table(kind) for kind in get_args(registry.Kind)}
        if self.json:
            sys.stdout.write(json.dumps(tables, indent=2) + "\n")
            return 0
        width = max(len(name) for names in tables.values() for name in names)
        for kind, names in tables.items():
            for name, target in sorted(names.items()):
                sys.stdout.write(f"{kind:<9} {name:<{width}}  {target}\n")
        return 0


@dataclasses.dataclass(frozen=True)
class Check:
    """Check that an environment, policy, verifier or robot keeps its contract."""

    kind: Positional[Literal["env", "policy", "verifier", "robot"]]
    """What it is."""
    name: Positional[str]
    """Registered name, module:attribute, or for a policy its folder."""
    env: str = "dual_arm"
    """Environment in which a policy or verifier is checked."""
    policy: str = "mini_vla"
    """Policy whose candidates a verifier is checked on."""
    tasks: str = "all"
    r"""Tasks of an environment to check, separated by commas; one that has a comma itself: \,."""
    success: str | None = None
    """When an episode has succeeded, as for `eval`."""
    env_arg: UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE for the environment, as for `eval`; once for each."""
    config: Path | None = None
    """robot.toml of a robot, which is powered but not moved; None: controllers simulated on this machine."""

    def run(self) -> int:
        """Run the conformance checks; exit 2 at the first broken promise, saying which."""
        from robotest.report import progress

        checks = list(getattr(self, f"_{self.kind}")())
        with progress.bar(f"check {self.kind} {self.name}", len(checks)) as advance:
            for what, check in checks:
                try:
                    check()
                except RobotestError as error:
                    raise RobotestError(f"{self.kind} {what}: {' '.join(str(error).split())}") from error
                except (Exception, SystemExit) as error:
                    raise ConformanceError(f"{self.kind} {what} fails with {place(error)}") from error
                advance()
        sys.stdout.write(
            f"{self.kind} {self.name} keeps its contract ({len(checks)} check{'s' * (len(checks) != 1)})\n"
        )
        return 0

    def _env(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Every task in every setting and action mode."""
        from robotest import testing
        from robotest.types import EnvOptions

        suite: Suite = registry.resolve("env", self.name)
        tasks = among(f"task of {self.name}", self.tasks, suite.tasks)

        def check(task: str, options: EnvOptions) -> Callable[[], None]:
            return lambda: testing.check_env(suite, task, options)

        for task, setting, mode in itertools.product(tasks, suite.settings, suite.action_modes):
            options = EnvOptions(setting=setting, action_mode=mode, success=self.success, env_args=self.env_arg)
            yield f"{self.name}:{task} ({setting}, {mode})", check(task, options)

    def _policy(self) -> Iterator[tuple[str, Callable[[], None]]]:
        from robotest import testing

        suite: Suite = registry.resolve("env", self.env)
        policy, _ = self._loaded(self.name, suite)

        def check() -> None:
            with self._environment(suite, policy, self.name) as env:
                testing.check_policy(policy, env)

        yield f"{self.name} in {self.env}", check

    def _verifier(self) -> Iterator[tuple[str, Callable[[], None]]]:
        from robotest import loading, testing

        suite: Suite = registry.resolve("env", self.env)
        policy, folder = self._loaded(self.policy, suite)
        verifier = loading.load_condition(self.name, policy, folder).verifier

        def check() -> None:
            with self._environment(suite, policy, self.policy) as env:
                testing.check_verifier(verifier, policy, env)

        yield f"{self.name} on {self.policy}", check

    def _loaded(self, name: str, suite: Suite) -> tuple[Policy, Path | None]:
        """Load a policy, or make the expert that acts beside the environment; return it with its folder, if any."""
        from robotest import experts, loading

        style = experts.style_of(name)
        if style is None:
            return loading.policy_and_folder(name, lambda: self._spec(suite))
        asked = experts.experts_of(self.env)
        experts.require_style(asked, style)
        options = dataclasses.replace(asked.options, cameras=())
        with closing(experts.make(self.env, suite, asked.tasks[0], options)) as env:
            return experts.ExpertPolicy(env.spec, style), None

    def _spec(self, suite: Suite) -> EnvSpec:
        """Return what a policy is told that is made for an environment."""
        from robotest import experts
        from robotest.types import EnvOptions

        options = EnvOptions(suite.settings[0], suite.action_modes[0], success=self.success, env_args=self.env_arg)
        with closing(experts.make(self.env, suite, suite.tasks[0], options)) as env:
            return env.spec

    def _environment(self, suite: Suite, policy: Policy, name: str) -> closing[Env]:
        """Build the first task as `eval` would for a policy of that name."""
        from robotest import experts
        from robotest.types import EnvOptions

        style = experts.style_of(name)
        task = suite.tasks[0] if style is None else experts.experts_of(self.env).tasks[0]
        mode, cameras = policy.spec.action.mode, policy.spec.cameras
        if mode not in suite.action_modes:
            raise SpecMismatchError(
                f"policy {policy.spec.name!r} gives actions of mode {mode!r}; {self.env} takes"
                f" {', '.join(suite.action_modes)}: give another --env"
            )
        options = EnvOptions(
            setting=suite.settings[0],
            action_mode=mode,
            image_size=next(iter(cameras.values()), (EnvOptions.image_size, 0))[0],
            cameras=tuple(cameras),
            expert=style,
            success=self.success,
            env_args=self.env_arg,
        )
        return closing(experts.make(self.env, suite, task, options))

    def _robot(self) -> Iterator[tuple[str, Callable[[], None]]]:
        from robotest.hardware.conformance import check_robot
        from robotest.hardware.deployment.config import Rig
        from robotest.hardware.simulated.launcher import simulated_robot

        def check() -> None:
            with ExitStack() as opened:
                if self.config is None:
                    opened.enter_context(simulated_robot(self.name))
                    rig = Rig.simulated(self.name)
                else:
                    rig = Rig.read(self.name, self.config)
                check_robot(registry.resolve("robot", self.name)(rig.robot_config))

        yield self.name, check


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Say what this installation has, what it lacks and what to do about it."""

    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Print the findings; exit 1 if anything is missing."""
        from robotest.cli import doctor

        findings = doctor.examine()
        if self.json:
            sys.stdout.write(json.dumps([dataclasses.asdict(f) for f in findings], indent=2) + "\n")
        else:
            for finding in findings:
                sys.stdout.write(f"{'ok' if finding.ok else 'PROBLEM':<8} {finding.what:<20} {finding.detail}\n")
        return 0 if all(f.ok for f in findings) else 1
