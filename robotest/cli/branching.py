"""``branch``: judge verifiers by what every candidate leads to."""

from __future__ import annotations

import contextlib
import dataclasses
import json as json_format
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from robotest.errors import RobotestError, UnknownNameError
from robotest.names import among, split

if TYPE_CHECKING:
    from robotest.branching.run import BranchPlanner
    from robotest.runs.spec import Arguments


@dataclasses.dataclass(frozen=True)
class Branch:
    """Execute every candidate of recorded decisions, finish each episode under the same noises, and judge verifiers."""

    run_directory: Positional[Path]
    """Directory that `robotest eval --out` wrote, with episode files."""
    condition: str = "random"
    """Condition whose episodes are branched, and which finishes them."""
    policy: str | None = None
    """The run's policy if it has no registered name: a folder or module:attribute."""
    verifiers: str = "random,medoid,leverage,cfn,knn,inverted"
    """Verifiers to judge, as for `robotest eval`."""
    tasks: str = "all"
    r"""Tasks, separated by commas; one that has a comma itself: \,."""
    episodes: int = 10
    """Episodes of each task, from the first."""
    continuations: int = 1
    """Futures of every candidate."""
    every: int = 1
    """Branch every n-th decision."""
    workers: Literal["auto"] | int = "auto"
    """Environment processes; auto: one for each core; 0: run in this process. Changes nothing but speed."""
    env_python: Path | None = None
    """Interpreter of the workers; None: this one."""
    out: Path | None = None
    """Directory of `branches.jsonl`, which is continued; None: RUN/branches-CONDITION."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Run what is missing and print the tables; 1 if a branch ended in an error."""
        from robotest.branching import branches
        from robotest.branching.plan import Plan
        from robotest.branching.report import report
        from robotest.branching.run import run
        from robotest.clock import WallClock
        from robotest.report import progress, tables
        from robotest.runs import directory
        from robotest.runtime import pool
        from robotest.runtime.runner import EpisodeRunner, InProcessRunner
        from robotest.success import NONE

        for name in ("episodes", "continuations", "every"):
            if getattr(self, name) < 1:
                raise RobotestError(f"--{name} {getattr(self, name)} given; at least 1 is needed")
        arguments, recorded = directory.read(self.run_directory)
        if arguments.identity.success == NONE:
            raise RobotestError(f"{self.run_directory} was run without a rule of success, which branches need")
        if self.condition not in arguments.verifiers:
            raise UnknownNameError("condition", self.condition, arguments.verifiers)
        tasks = among("task", self.tasks, arguments.tasks)
        for task in tasks:
            there = sum((self.condition, task, index) in recorded for index in range(self.episodes))
            if there < self.episodes:
                raise RobotestError(
                    f"{self.run_directory} has {there} of {self.episodes} episodes of {self.condition} in {task};"
                    f" run more with `robotest eval --episodes`, or give --episodes {there}"
                )
        planner, judged = self._planner(arguments)
        plan = Plan(self.run_directory, self.condition, tasks, self.episodes, judged, self.continuations, self.every)
        workers = pool.usable_cores() if self.workers == "auto" else self.workers
        env = arguments.identity.env
        runner: EpisodeRunner
        if workers == 0 and self.env_python is None:
            runner = InProcessRunner(env, WallClock())
        else:
            runner = pool.WorkerPool(env, workers or 1, self.env_python)
        out = self.out or self.run_directory / f"branches-{self.condition}"
        with contextlib.closing(runner), progress.counter("branches") as update:
            ended = run(plan, planner, runner, out, update)
        judgement = report(ended)
        if self.json:
            sys.stdout.write(json_format.dumps(dataclasses.asdict(judgement), indent=2, allow_nan=False) + "\n")
        else:
            standin_assets = bool(arguments.identity.standin_assets)
            for part in tables.branches(judgement, standin_assets=standin_assets, notes=arguments.identity.notes):
                progress.console().print(part)
            sys.stderr.write(f"branches: {out / branches.FILE}\n")
        return 1 if any(b.outcome == "error" for b in ended) else 0

    def _planner(self, arguments: Arguments) -> tuple[BranchPlanner, dict[str, str | None]]:
        """Load the run's policy and the verifiers to judge; return the verifiers' fingerprints too."""
        from robotest.branching.run import BranchPlanner
        from robotest.clock import WallClock
        from robotest.loading import load_condition, policy_and_folder

        policy, folder = policy_and_folder(self.policy or arguments.identity.policy)
        if policy.spec.fingerprint != arguments.identity.policy_fingerprint:
            raise RobotestError(
                f"{self.run_directory} was run with policy {arguments.identity.policy_fingerprint};"
                f" {policy.spec.name!r} is {policy.spec.fingerprint}; give the run's with --policy"
            )
        judged = [load_condition(text, policy, folder) for text in split(self.verifiers)]
        base = load_condition(self.condition, policy, folder)
        verifiers = {c.name: c.verifier for c in judged}
        planner = BranchPlanner(policy, base.verifier, verifiers, arguments.identity.candidates, WallClock())
        return planner, {c.name: c.fingerprint for c in judged}
