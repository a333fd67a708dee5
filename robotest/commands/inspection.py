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

from tyro.conf import Positional

from robotest import registry
from robotest.commands.text import among
from robotest.errors import ConformanceError

if TYPE_CHECKING:
    from robotest.types import EnvOptions, Policy, Suite


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
    config: Path | None = None
    """robot.toml of a robot, which is powered but not moved; None: controllers simulated on this machine."""

    def run(self) -> int:
        """Run the conformance checks; exit 2 at the first broken promise, saying which."""
        from robotest import progress

        checks = list(getattr(self, f"_{self.kind}")())
        with progress.bar(f"check {self.kind} {self.name}", len(checks)) as advance:
            for what, check in checks:
                try:
                    check()
                except ConformanceError as error:
                    raise ConformanceError(f"{self.kind} {what}: {error}") from error
                advance()
        sys.stdout.write(f"{self.kind} {self.name} keeps its contract ({len(checks)} checks)\n")
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
            options = EnvOptions(setting=setting, action_mode=mode)
            yield f"{self.name}:{task} ({setting}, {mode})", check(task, options)

    def _policy(self) -> Iterator[tuple[str, Callable[[], None]]]:
        from robotest import evaluate, testing

        policy, _ = evaluate.load_policy(self.name)
        suite: Suite = registry.resolve("env", self.env)

        def check() -> None:
            with closing(suite.make(suite.tasks[0], _options(policy))) as env:
                testing.check_policy(policy, env)

        yield f"{self.name} in {self.env}", check

    def _verifier(self) -> Iterator[tuple[str, Callable[[], None]]]:
        from robotest import evaluate, testing

        policy, folder = evaluate.load_policy(self.policy)
        verifier = evaluate.load_condition(self.name, policy, folder).verifier
        suite: Suite = registry.resolve("env", self.env)

        def check() -> None:
            with closing(suite.make(suite.tasks[0], _options(policy))) as env:
                testing.check_verifier(verifier, policy, env)

        yield f"{self.name} on {self.policy}", check

    def _robot(self) -> Iterator[tuple[str, Callable[[], None]]]:
        from robotest import deploy, testing

        def check() -> None:
            with ExitStack() as opened:
                if self.config is None:
                    opened.enter_context(deploy.simulated_robot(self.name))
                    rig = deploy.Rig.simulated(self.name)
                else:
                    rig = deploy.Rig.read(self.name, self.config)
                testing.check_robot(registry.resolve("robot", self.name)(rig.robot_config))

        yield self.name, check


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Say what this installation has, what it lacks and what to do about it."""

    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Print the findings; exit 1 if anything is missing."""
        from robotest import doctor

        findings = doctor.examine()
        if self.json:
            sys.stdout.write(json.dumps([dataclasses.asdict(f) for f in findings], indent=2) + "\n")
        else:
            for finding in findings:
                sys.stdout.write(f"{'ok' if finding.ok else 'PROBLEM':<8} {finding.what:<20} {finding.detail}\n")
        return 0 if all(f.ok for f in findings) else 1


def _options(policy: Policy) -> EnvOptions:
    """Return the options under which an environment fits a policy."""
    from robotest.types import EnvOptions

    size = next(iter(policy.spec.cameras.values()), (EnvOptions.image_size, 0))[0]
    return EnvOptions(action_mode=policy.spec.action.mode, image_size=size)
