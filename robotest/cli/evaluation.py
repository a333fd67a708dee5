"""``eval``, ``compare``, ``plan``, ``video``: running an evaluation, and reading its directory."""

from __future__ import annotations

import dataclasses
import json as json_format
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from robotest.config import EvalConfig
from robotest.errors import InterruptedRunError, RobotestError
from robotest.names import among, pair

if TYPE_CHECKING:
    from robotest.report.video import Selection
    from robotest.runs.spec import Arguments, Key
    from robotest.statistics.power import Measured, Question
    from robotest.statistics.summary import Summary
    from robotest.types import Episode


@dataclasses.dataclass(frozen=True)
class Eval:
    """Run a policy under several verifiers on paired episodes and compare them. Continues an interrupted run."""

    config: OmitArgPrefixes[EvalConfig] = dataclasses.field(default_factory=EvalConfig)
    """What to evaluate."""
    videos: Literal["none", "default", "all"] = "default"
    """Episodes to render afterwards; default: up to 2 failures and 1 success per task and condition."""
    json: bool = False
    """Print the summary as JSON."""

    def run(self) -> int:
        """Run missing episodes, print the tables, render the videos; 1 if an episode ended in an error."""
        from robotest.runs import up_to_date

        config = self.config
        summary = up_to_date.read(config)
        if summary is None:
            summary = _evaluate(config)
            up_to_date.write(config, summary)
        else:
            sys.stderr.write(
                f"already complete: {summary.performance.episodes} episodes read from {config.directory}\n"
            )
        print_summary(summary, as_json=self.json)
        tasks = list(next(iter(summary.conditions.values())).tasks)
        if self.videos != "none" and config.record != "none":
            keys = _selected(config.directory, self.videos, list(summary.conditions), tasks, config.episodes)
            if self.videos == "all" or _can_be_filmed(config.directory, keys):
                _render(config.directory, keys)
        sys.stderr.write(f"run directory: {config.directory}\n")
        return 1 if any(c.overall.errors for c in summary.conditions.values()) else 0


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare the conditions of a run, or of two runs over the same starts, paired by episode."""

    run_directory: Positional[Path]
    """Directory that `robotest eval --out` wrote; the run may still be going on."""
    other: Positional[Path | None] = None
    """A second run, e.g. of another policy: same environment, tasks, seed and step limits."""
    conditions: str = "all"
    """Conditions to compare, separated by commas; those of two runs are called RUN/CONDITION."""
    tasks: str = "all"
    r"""Tasks to count, separated by commas; one that has a comma itself: \,."""
    level: float = 0.95
    """Confidence level of every interval."""
    mid_p: bool = False
    """Show mid-p values: less conservative, not guaranteed."""
    fail_if_worse: str | None = None
    """A:B: exit with 3 if condition A succeeds less often than B with a p-value below alpha."""
    alpha: float = 0.05
    """Significance level of --fail-if-worse."""
    unpaired: bool = False
    """Compare conditions as independent samples: for starts that differ, or runs of two seeds."""
    allow_code_changes: bool = False
    """Compare two runs although the code of the environment, or of its rule of success, was edited in between."""
    json: bool = False
    """Print the summary as JSON."""
    markdown: bool = False
    """Print the tables as Markdown."""

    def run(self) -> int:
        """Print the tables; 1 if an episode ended in an error, 3 if --fail-if-worse finds A worse."""
        from robotest.runs import merge, schedule

        read = merge.read(
            self.run_directory, self.other, unpaired=self.unpaired, allow_code_changes=self.allow_code_changes
        )
        conditions = among("condition", self.conditions, tuple(read.arguments.verifiers))
        read = read.only(conditions, among("task", self.tasks, read.arguments.tasks))
        arguments, episodes = read.arguments, read.episodes
        summary = schedule.summarise(arguments, episodes, self.level, read.pairs, unpaired=self.unpaired)
        print_summary(summary, as_json=self.json, as_markdown=self.markdown, detail=True, mid_p=self.mid_p)
        if self.fail_if_worse and self._worse(pair(self.fail_if_worse, conditions), arguments, episodes):
            return 3
        return 1 if any(c.overall.errors for c in summary.conditions.values()) else 0

    def _worse(self, sides: tuple[str, str], arguments: Arguments, episodes: Mapping[Key, Episode]) -> bool:
        """Return whether the first of the pair is worse, and print the verdict."""
        from robotest.statistics.paired import Comparison, compare
        from robotest.statistics.returns import ReturnComparison, compare_returns
        from robotest.statistics.unpaired import UnpairedComparison, compare_unpaired
        from robotest.success import NONE

        if not 0 < self.alpha < 1:
            raise RobotestError(f"--alpha {self.alpha} given; it lies between 0 and 1, e.g. 0.05")
        within = [e for e in episodes.values() if e.task in arguments.tasks]
        comparison: Comparison | UnpairedComparison | ReturnComparison
        scale, unit = 100.0, " points"
        if arguments.identity.success == NONE:
            comparison, scale, unit = compare_returns(*sides, within, self.level, paired=not self.unpaired), 1.0, ""
        elif self.unpaired:
            comparison = compare_unpaired(*sides, within, self.level)
        else:
            comparison = compare(*sides, within, self.level)
        p_value = comparison.mid_p_value if self.mid_p and isinstance(comparison, Comparison) else comparison.p_value
        if comparison.difference is None or p_value is None:
            raise RobotestError(
                f"not enough data: {sides[0]} and {sides[1]} have no episodes without errors to compare"
            )
        worse = comparison.difference < 0 and p_value < self.alpha
        how = f" over {comparison.pairs} pairs" if isinstance(comparison, Comparison) else ""
        sys.stderr.write(
            f"{sides[0]} is {'' if worse else 'not '}worse than {sides[1]}:"
            f" {scale * comparison.difference:+.4g}{unit}, p = {p_value:.2g}{how}\n"
        )
        return worse


_FEW_PAIRS = 200
"""Below, the share of discordant pairs is uncertain by a third and more."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Say how many episodes a question needs, paired and unpaired."""

    rate: float | None = None
    """Success rate of the base condition; None: measured in --run-directory."""
    gain: float = 0.05
    """Smallest difference to detect."""
    power: float = 0.8
    """Probability of detecting it."""
    alpha: float = 0.05
    """Probability of a false positive."""
    discordance: float | None = None
    """Share of pairs in which exactly one side succeeds; None: as measured."""
    run_directory: Annotated[Path | None, arg(aliases=("--run",))] = None
    """Run to measure in; None: numbers of the built-in suite."""
    pair: str | None = None
    """A:B, the conditions of the run to measure; None: its first two."""
    base: str | None = None
    """The base condition of the two; None: random or first if one of them is, else the second."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Print the numbers and their source."""
        from robotest.statistics import power as planning

        measured, where = planning.MEASURED, "random and leverage on the built-in suite, 1,200 pairs (docs/evidence.md)"
        if self.run_directory is not None:
            measured, where = self._measured(self.run_directory)
        for name in ("pair", "base") if self.run_directory is None else ():
            if getattr(self, name) is not None:
                raise RobotestError(f"--{name} given without --run-directory; give the run that has these conditions")
        rate = measured.rate if self.rate is None else self.rate
        discordance = self.discordance
        if discordance is None:
            discordance = measured.discordance_at(rate, rate + self.gain)
        question = planning.Question(rate, self.gain, discordance, self.power, self.alpha)
        paired, unpaired = planning.pairs_needed(question), planning.episodes_needed_unpaired(question)
        self._warn(question, measured)
        if self.json:
            numbers = {"question": dataclasses.asdict(question), "paired": paired, "unpaired": unpaired}
            sys.stdout.write(json_format.dumps(numbers, indent=2, allow_nan=False) + "\n")
            return 0
        sys.stdout.write(
            f"to tell {100 * rate:.1f} % from {100 * (rate + self.gain):.1f} % with a chance of {100 * self.power:g} %"
            f" at alpha {self.alpha:g}:\n"
            f"  paired    {paired:>7} episodes of each condition\n"
            f"  unpaired  {unpaired:>7} episodes of each condition\n"
            f"with one of both sides succeeding alone in {100 * discordance:.1f} % of the pairs"
            f" ({f'measured: {where}' if self.discordance is None else 'as given'})\n"
        )
        return 0

    def _measured(self, run: Path) -> tuple[Measured, str]:
        """Measure two conditions of a run; return also which."""
        from robotest.runs import directory, merge, schedule
        from robotest.statistics import paired as stats
        from robotest.statistics import power as planning

        arguments, episodes = directory.read(run)
        names = tuple(arguments.verifiers)
        sides = pair(self.pair, names) if self.pair else names[:2]
        if len(sides) < 2:
            raise RobotestError(f"{run} has one condition, {names[0]}; two are needed")
        if self.base is not None and self.base not in sides:
            raise RobotestError(f"--base {self.base} given; the conditions compared are {sides[0]} and {sides[1]}")
        base = self.base or next((name for name in ("random", "first") if name in sides), sides[1])
        counted = [episodes[key] for key in schedule.keys(arguments, episodes) if key in episodes]
        merge.require_same_starts(counted)
        measured = planning.measure(stats.compare(sides[0], sides[1], counted), base)
        return measured, (
            f"{sides[0]} and {sides[1]} of {run}, {measured.pairs} pairs; the base is {base}, which succeeds in"
            f" {100 * measured.rate:.1f} %"
        )

    def _warn(self, question: Question, measured: Measured) -> None:
        """Say how uncertain a measurement with few pairs is."""
        from robotest.statistics import power as planning

        if self.discordance is not None or measured.pairs >= _FEW_PAIRS:
            return
        low, high = measured.discordances_at(question.rate, question.rate + question.gain)
        fewest, most = planning.pairs_needed_between(question, (low, high))
        sys.stderr.write(
            f"only {measured.pairs} pairs were measured: one side succeeds alone in {100 * low:.0f} to"
            f" {100 * high:.0f} % of all pairs, and {fewest} to {most or 'more than a million'} paired episodes are"
            " needed\n"
        )


@dataclasses.dataclass(frozen=True)
class Video:
    """Render recorded episodes of a run to mp4 files beside their episode files."""

    run_directory: Positional[Path]
    """Directory that `robotest eval --out` wrote."""
    episodes: Literal["default", "failed", "succeeded", "errors", "all"] = "default"
    """Which episodes; default: up to 2 failures and 1 success per task and condition."""
    conditions: str = "all"
    """Conditions, separated by commas."""
    tasks: str = "all"
    r"""Tasks, separated by commas; one that has a comma itself: \,."""
    camera: str | None = None
    """Camera of the large picture; None: the policy's first."""

    def run(self) -> int:
        """Render missing videos and print the paths of all."""
        from robotest.runs import directory

        arguments = directory.read_arguments(self.run_directory)
        conditions = among("condition", self.conditions, tuple(arguments.verifiers))
        tasks = among("task", self.tasks, arguments.tasks)
        keys = _selected(self.run_directory, self.episodes, conditions, tasks)
        _render(self.run_directory, keys, self.camera)
        for key in keys:
            sys.stdout.write(f"{directory.episode_path(self.run_directory, key).with_suffix('.mp4')}\n")
        return 0


def _evaluate(config: EvalConfig) -> Summary:
    from robotest.evaluation import evaluate
    from robotest.report import progress

    with progress.evaluation() as update:
        return evaluate(config, update, about={"command": sys.argv[1:]})


def _selected(
    run: Path, selection: Selection, conditions: Sequence[str], tasks: Sequence[str], episodes: int | None = None
) -> list[Key]:
    from robotest.report import video
    from robotest.runs import directory

    within = [
        e
        for e in directory.read_episodes(run).values()
        if e.condition in conditions and e.task in tasks and (episodes is None or e.index < episodes)
    ]
    return video.select(within, selection)


def _can_be_filmed(run: Path, keys: Sequence[Key]) -> bool:
    """Return whether states or frames were recorded, and print a note if not."""
    from robotest.report import video
    from robotest.runs import directory, episode_file

    filmed = all(video.can_be_filmed(episode_file.read(directory.episode_path(run, key))) for key in keys[:1])
    if not filmed:
        sys.stderr.write("no videos: this environment records no states; --record images keeps frames instead\n")
    return filmed


def _render(run: Path, keys: Sequence[Key], camera: str | None = None) -> None:
    """Render missing videos, with a progress bar."""
    from robotest.report import progress, video
    from robotest.runs import directory

    missing = [key for key in keys if not directory.episode_path(run, key).with_suffix(".mp4").exists()]
    if not missing:
        return
    try:
        with progress.bar("videos", len(missing)) as advance:
            video.render_run(run, missing, video.VideoStyle(camera=camera), done=lambda _: advance())
    except KeyboardInterrupt as pressed:
        raise InterruptedRunError(
            f"interrupted; the results are complete, `robotest video {run}` renders the remaining videos"
        ) from pressed


def print_summary(
    summary: Summary, *, as_json: bool, as_markdown: bool = False, detail: bool = False, mid_p: bool = False
) -> None:
    """Print the tables of a run, or its summary as JSON."""
    from robotest.report import progress, tables

    if as_json:
        sys.stdout.write(json_format.dumps(summary.to_json(), indent=2, allow_nan=False) + "\n")
        return
    parts = tables.report(summary, detail=detail, mid_p=mid_p)
    if as_markdown:
        sys.stdout.write(tables.markdown(parts))
        return
    for part in parts:
        progress.console().print(part)
