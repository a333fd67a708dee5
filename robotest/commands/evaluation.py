"""``eval``, ``compare``, ``video``: the main job and what can be read off its directory afterwards."""

from __future__ import annotations

import dataclasses
import json as json_format
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from robotest.commands.text import among, split
from robotest.errors import InterruptedRunError

if TYPE_CHECKING:
    from robotest.evaluate import EvalConfig
    from robotest.runs import Key, Summary
    from robotest.video import Selection


@dataclasses.dataclass(frozen=True)
class Eval:
    """Run a policy under several verifiers on paired episodes and compare them. Continues a run that is there."""

    env: str = "dual_arm"
    """Suite: a registered name or module:attribute."""
    policy: str = "mini_vla"
    """Policy: a registered name, a folder that `robotest train` wrote, or module:attribute."""
    verifiers: str = "random,medoid,cfn,leverage"
    """Conditions to compare, separated by commas: NAME, NAME=FILE, lowest, lowest:NAME or module:attribute."""
    tasks: str = "all"
    """Tasks, separated by commas."""
    episodes: int = 20
    """Episodes per task and condition."""
    candidates: int = 8
    """Chunks sampled per decision."""
    execute: Literal["all"] | int = "all"
    """Actions of a chunk executed before the next decision."""
    seed: int = 0
    """Run seed: start states and noises follow from it alone."""
    setting: str = "clean"
    """One of the suite's settings."""
    action_mode: str | None = None
    """One of the suite's action modes; None: the policy's."""
    wording: Literal["seen", "unseen"] = "seen"
    """Instruction templates."""
    image_size: int | None = None
    """Height of the policy's images [px], the suite settles their width; None: what the policy needs."""
    out: Path | None = None
    """Run directory; None: runs/ENV-POLICY-seedSEED."""
    workers: Literal["auto"] | int = "auto"
    """Environment processes; auto: one for each core; 0: none but this one. Changes nothing but speed."""
    env_python: Path | None = None
    """Interpreter of the workers, for simulators that need another Python environment; None: this one."""
    batch_window_s: float = 0.0
    """How long a batch waits for more requests before it is sampled [s]."""
    videos: Literal["none", "default", "all"] = "default"
    """Episodes to render afterwards; default: up to 2 failures and 1 success per task and condition."""
    json: bool = False
    """Print the summary as JSON."""

    def run(self) -> int:
        """Run what is missing, print the tables, render the videos; 1 if an episode ended in an error."""
        from robotest import completion

        config = self._config()
        summary = completion.read(config)
        if summary is None:
            summary = _evaluate(config)
            completion.write(config, summary)
        else:
            sys.stderr.write(f"already complete: {summary.performance.episodes} episodes read from {config.out}\n")
        _print(summary, as_json=self.json)
        tasks = list(next(iter(summary.conditions.values())).tasks)
        if self.videos != "none":
            _render(config.out, _selected(config.out, self.videos, list(summary.conditions), tasks, config.episodes))
        sys.stderr.write(f"run directory: {config.out}\n")
        return 1 if any(c.overall.errors for c in summary.conditions.values()) else 0

    def _config(self) -> EvalConfig:
        """Turn what was typed into what is meant."""
        from robotest import fleet
        from robotest.evaluate import EvalConfig

        name = re.sub(r"[^\w.-]+", "-", f"{self.env}-{Path(self.policy).name}-seed{self.seed}")
        return EvalConfig(
            out=self.out or Path("runs") / name,
            env=self.env,
            policy=self.policy,
            verifiers=split(self.verifiers),
            tasks=() if self.tasks == "all" else split(self.tasks),
            episodes=self.episodes,
            candidates=self.candidates,
            execute=None if self.execute == "all" else self.execute,
            seed=self.seed,
            setting=self.setting,
            action_mode=self.action_mode,
            wording=self.wording,
            image_size=self.image_size,
            workers=fleet.usable_cores() if self.workers == "auto" else self.workers,
            env_python=self.env_python,
            batch_window_s=self.batch_window_s,
        )


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare the conditions of a run, paired by episode."""

    run_directory: Positional[Path]
    """What `robotest eval --out` wrote; it may still be growing."""
    conditions: str = "all"
    """Conditions to compare, separated by commas."""
    tasks: str = "all"
    """Tasks to count, separated by commas."""
    json: bool = False
    """Print the summary as JSON."""

    def run(self) -> int:
        """Print the tables of what is in the directory; 1 if an episode ended in an error."""
        from robotest import runs

        asked = runs.read_arguments(self.run_directory)
        conditions = among("condition", self.conditions, tuple(asked.verifiers))
        tasks = among("task", self.tasks, asked.tasks)
        summary = runs.summarise(list(runs.read_episodes(self.run_directory).values()), conditions, tasks)
        _print(summary, as_json=self.json)
        return 1 if any(c.overall.errors for c in summary.conditions.values()) else 0


@dataclasses.dataclass(frozen=True)
class Video:
    """Render recorded episodes of a run to mp4 files beside their episode files."""

    run_directory: Positional[Path]
    """What `robotest eval --out` wrote."""
    episodes: Literal["default", "failed", "succeeded", "errors", "all"] = "default"
    """Which; default: up to 2 failures and 1 success per task and condition."""
    conditions: str = "all"
    """Conditions, separated by commas."""
    tasks: str = "all"
    """Tasks, separated by commas."""
    camera: str | None = None
    """Camera of the large picture; None: the policy's first."""

    def run(self) -> int:
        """Render what is not there yet and print the paths."""
        from robotest import runs

        asked = runs.read_arguments(self.run_directory)
        conditions = among("condition", self.conditions, tuple(asked.verifiers))
        tasks = among("task", self.tasks, asked.tasks)
        keys = _selected(self.run_directory, self.episodes, conditions, tasks)
        _render(self.run_directory, keys, self.camera)
        for key in keys:
            sys.stdout.write(f"{runs.episode_path(self.run_directory, key).with_suffix('.mp4')}\n")
        return 0


def _evaluate(config: EvalConfig) -> Summary:
    from robotest import progress
    from robotest.evaluate import evaluate

    with progress.evaluation() as update:
        return evaluate(config, update, about={"command": sys.argv[1:]})


def _selected(
    run: Path, selection: Selection, conditions: Sequence[str], tasks: Sequence[str], episodes: int | None = None
) -> list[Key]:
    from robotest import runs, video

    within = [
        e
        for e in runs.read_episodes(run).values()
        if e.condition in conditions and e.task in tasks and (episodes is None or e.index < episodes)
    ]
    return video.select(within, selection)


def _render(run: Path, keys: Sequence[Key], camera: str | None = None) -> None:
    """Render the videos that are missing, with a bar."""
    from robotest import progress, runs, video

    missing = [key for key in keys if not runs.episode_path(run, key).with_suffix(".mp4").exists()]
    if not missing:
        return
    try:
        with progress.bar("videos", len(missing)) as advance:
            video.render_run(run, missing, video.VideoStyle(camera=camera), done=lambda _: advance())
    except KeyboardInterrupt as interrupt:
        raise InterruptedRunError(
            f"interrupted; the results are complete, `robotest video {run}` renders the remaining videos"
        ) from interrupt


def _print(summary: Summary, *, as_json: bool) -> None:
    from robotest import progress, tables

    if as_json:
        sys.stdout.write(json_format.dumps(summary.to_json(), indent=2) + "\n")
    else:
        progress.console().print(tables.report(summary))
