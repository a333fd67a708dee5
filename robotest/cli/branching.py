"""``branch``: judge verifiers by what each candidate would have led to."""

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
    """Execute every candidate of recorded decisions, finish each under the same noises, and judge verifiers by it."""

    run_directory: Positional[Path]
    """What `robotest eval --out` wrote, with episode files."""
    condition: str = "random"
    """Whose episodes are branched; it also finishes them."""
    policy: str | None = None
    """The run's policy, where it has no registered name: a folder or module:attribute."""
    verifiers: str = "random,medoid,leverage,cfn,knn,inverted"
    """What to judge, given as to `robotest eval`."""
    tasks: str = "all"
    r"""Tasks, separated by commas; one that has a comma itself: \,."""
    episodes: int = 10
    """Episodes of each task, from the first."""
    continuations: int = 1
    """Futures of every candidate."""
    every: int = 1
    """Branch every so many decisions."""
    workers: Literal["auto"] | int = "auto"
    """Environment processes; auto: one for each core; 0: none but this one. Changes nothing but speed."""
    env_python: Path | None = None
    """Interpreter of the workers; None: this one."""
    out: Path | None = None
    """Where `branches.jsonl` goes, and is continued from; None: RUN/branches-CONDITION."""
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
        asked, recorded = directory.read(self.run_directory)
        if asked.identity.success == NONE:
            raise RobotestError(f"{self.run_directory} judges no success; branches are judged by nothing else")
        if self.condition not in asked.verifiers:
            raise UnknownNameError("condition", self.condition, asked.verifiers)
        tasks = among("task", self.tasks, asked.tasks)
        for task in tasks:
            there = sum((self.condition, task, index) in recorded for index in range(self.episodes))
            if there < self.episodes:
                raise RobotestError(
                    f"{self.run_directory} has {there} of {self.episodes} episodes of {self.condition} in {task};"
                    f" run more with `robotest eval --episodes`, or give --episodes {there}"
                )
        planner, judged = self._planner(asked)
        plan = Plan(self.run_directory, self.condition, tasks, self.episodes, judged, self.continuations, self.every)
        workers = pool.usable_cores() if self.workers == "auto" else self.workers
        env = asked.identity.env
        runner: EpisodeRunner
        if workers == 0 and self.env_python is None:
            runner = InProcessRunner(env, WallClock())
        else:
            runner = pool.WorkerPool(env, workers or 1, self.env_python)
        out = self.out or self.run_directory / f"branches-{self.condition}"
        with contextlib.closing(runner), progress.counter("branches") as update:
            ended = run(plan, planner, runner, out, update)
        found = report(ended)
        if self.json:
            sys.stdout.write(json_format.dumps(dataclasses.asdict(found), indent=2, allow_nan=False) + "\n")
        else:
            standin_assets = bool(asked.identity.standin_assets)
            for part in tables.branches(found, standin_assets=standin_assets, notes=asked.identity.notes):
                progress.console().print(part)
            sys.stderr.write(f"branches: {out / branches.FILE}\n")
        return 1 if any(b.outcome == "error" for b in ended) else 0

    def _planner(self, asked: Arguments) -> tuple[BranchPlanner, dict[str, str | None]]:
        """Load the run's policy and everything that is to be judged; return its fingerprints too."""
        from robotest.branching.run import BranchPlanner
        from robotest.clock import WallClock
        from robotest.loading import load_condition, policy_and_folder

        policy, folder = policy_and_folder(self.policy or asked.identity.policy)
        if policy.spec.fingerprint != asked.identity.policy_fingerprint:
            raise RobotestError(
                f"{self.run_directory} was run with policy {asked.identity.policy_fingerprint};"
                f" {policy.spec.name!r} is {policy.spec.fingerprint}; give the run's with --policy"
            )
        judged = [load_condition(text, policy, folder) for text in split(self.verifiers)]
        base = load_condition(self.condition, policy, folder)
        verifiers = {c.name: c.verifier for c in judged}
        planner = BranchPlanner(policy, base.verifier, verifiers, asked.identity.candidates, WallClock())
        return planner, {c.name: c.fingerprint for c in judged}
