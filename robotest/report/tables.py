"""A `Summary` as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.table import Table
from rich.text import Text

from robotest.branching.report import Report
from robotest.statistics.allocation import Estimate
from robotest.statistics.intervals import Interval
from robotest.statistics.paired import Comparison, TaskDifference
from robotest.statistics.rates import Rate
from robotest.statistics.sequential import Monitor
from robotest.statistics.summary import Failure, Performance, Summary
from robotest.statistics.unpaired import UnpairedComparison

_MOST_ERRORS = 5


def report(summary: Summary, *, detail: bool = False, mid_p: bool = False) -> list[Table | Text]:
    """Return everything a run says: rates, every pair of conditions, what it cost.

    Args:
        summary: of the run.
        detail: whether to show every pair by task as well, and intervals for other tasks.
        mid_p: whether to show mid-p values in place of exact ones.
    """
    parts: list[Table | Text] = [rates(summary)]
    if summary.comparisons:
        parts.append(comparisons(summary, mid_p=mid_p))
    if summary.unpaired:
        parts.append(unpaired(summary))
    if summary.returns:
        parts.append(returns(summary))
    if summary.return_comparisons:
        parts.append(return_comparisons(summary))
    if detail and summary.comparisons:
        parts += [other_tasks(summary), by_task(summary)]
    if summary.sequential:
        parts.append(sequential(summary.sequential))
    if summary.adaptive:
        parts.append(adaptive(summary.adaptive))
    parts += [*errors(summary.errors), *performance(summary.performance)]
    return _marked(parts, standin_assets=summary.standin_assets, notes=summary.notes)


def markdown(parts: Iterable[Table | Text]) -> str:
    """Return a report as Markdown."""
    return "\n\n".join(_markdown(part) if isinstance(part, Table) else part.plain for part in parts) + "\n"


def _marked(parts: list[Table | Text], *, standin_assets: bool, notes: Iterable[str] = ()) -> list[Table | Text]:
    """Say in every title what a reader must know: the notes, and if the simulator's assets were not the original's."""
    marks = [*notes, *(["STAND-IN ASSETS, not comparable with published rates"] if standin_assets else [])]
    for part in parts:
        if isinstance(part, Table):
            part.title = " | ".join([str(part.title), *marks])
    return parts


def branches(found: Report, *, standin_assets: bool = False, notes: Iterable[str] = ()) -> list[Table | Text]:
    """Return what `robotest branch` found.

    Args:
        found: by branching.
        standin_assets: whether the run was made with them.
        notes: of the run, see `robotest.statistics.summary.Summary`.
    """
    table = Table(
        title="Verifiers judged by what every candidate led to; 95 % intervals over episodes", title_justify="left"
    )
    table.add_column("verifier")
    for column in ("AUC", "rank correlation", "pick - mean candidate, points"):
        table.add_column(column, justify="right")
    for name, q in found.verifiers.items():
        auc = "-" if q.auc is None else f"{q.auc:.3f}"
        if q.auc_interval:
            auc += f" [{q.auc_interval[0]:.3f}, {q.auc_interval[1]:.3f}]"
        gain = f"{100 * q.gain:+.1f}" + (f" {_interval(q.gain_interval, '+')}" if q.gain_interval else "")
        table.add_row(name, auc, "-" if q.correlation is None else f"{q.correlation:+.3f}", gain)
    along = Table(title="Where decisions matter", title_justify="left")
    for column in ("part of the episode", "decisions", "candidates differ, %", "best - mean candidate, points"):
        along.add_column(column, justify="right")
    for fifth, (n, differ, headroom) in enumerate(found.along):
        along.add_row(f"{20 * fifth}-{20 * fifth + 20} %", str(n), f"{100 * differ:.0f}", f"{100 * headroom:+.1f}")
    parts: list[Table | Text] = [
        table,
        along,
        Text(
            f"{found.decisions} decisions of {found.episodes} episodes ({found.excluded} left out for errors),"
            f" {found.steps} control steps: a random candidate succeeds in {100 * found.mean:.1f} %,"
            f" candidates differ in {100 * found.contested:.0f} % of the decisions,"
            f" the best is {100 * found.headroom:+.1f} points above the mean"
        ),
    ]
    return _marked(parts, standin_assets=standin_assets, notes=notes)


def rates(summary: Summary) -> Table:
    """Return success rates by task and condition with Wilson's intervals; errors stand beside, never inside."""
    what = f"Success rate, % [{_percent(summary)} interval], successes/episodes"
    table = Table(title=what if summary.judged else "Episodes, not judged", title_justify="left")
    table.add_column("task")
    for name in summary.conditions:
        table.add_column(name, justify="right")
    tasks = next(iter(summary.conditions.values())).tasks if summary.conditions else {}
    for task in tasks:
        table.add_row(task, *(rate(c.tasks[task]) for c in summary.conditions.values()))
    table.add_section()
    table.add_row("all tasks", *(rate(c.overall) for c in summary.conditions.values()), style="bold")
    return table


def comparisons(summary: Summary, *, mid_p: bool = False) -> Table:
    """Return the paired comparison of every pair of conditions."""
    test = "McNemar's mid-p" if mid_p else "McNemar's, exact"
    table = Table(
        title=f"Paired comparison: the same episodes under a and b; p is {test} and two-sided", title_justify="left"
    )
    for column in ("a", "b"):
        table.add_column(column)
    for column in ("pairs", "both", "only a", "only b", "neither", f"a - b, points [{_percent(summary)}]", "p"):
        table.add_column(column, justify="right")
    for c in summary.comparisons:
        p_value = c.mid_p_value if mid_p else c.p_value
        counts = map(str, (c.both, c.only_a, c.only_b, c.neither))
        table.add_row(c.a, c.b, _pairs(c), *counts, difference(c), _p(p_value))
    return table


def unpaired(summary: Summary) -> Table:
    """Return the comparison of every pair of conditions as independent samples."""
    table = Table(
        title="UNPAIRED comparison: starts differ, samples are independent; p is Fisher's, exact and two-sided",
        title_justify="left",
    )
    for column in ("a", "b"):
        table.add_column(column)
    for column in ("a succeeds", "b succeeds", f"a - b, points [{_percent(summary)}]", "p"):
        table.add_column(column, justify="right")
    for c in summary.unpaired:
        counts = (f"{r.successes}/{r.successes + r.failures}" for r in (c.rate_a, c.rate_b))
        table.add_row(c.a, c.b, *counts, difference(c), _p(c.p_value))
    return table


def returns(summary: Summary) -> Table:
    """Return the mean return of every condition."""
    table = Table(title=f"Mean return [{_percent(summary)} interval], errors left out", title_justify="left")
    table.add_column("condition")
    for column in ("episodes", "mean return"):
        table.add_column(column, justify="right")
    for name, r in summary.returns.items():
        table.add_row(name, str(r.episodes), _number(r.mean, r.interval))
    return table


def return_comparisons(summary: Summary) -> Table:
    """Return the difference of mean returns of every pair of conditions."""
    how = "the same episodes under a and b" if summary.return_comparisons[0].paired else "UNPAIRED, independent samples"
    table = Table(title=f"Returns compared: {how}; p is of a permutation test, two-sided", title_justify="left")
    for column in ("a", "b"):
        table.add_column(column)
    n = "pairs" if summary.return_comparisons[0].paired else "episodes"
    for column in (n, f"a - b [{_percent(summary)}]", "p"):
        table.add_column(column, justify="right")
    for c in summary.return_comparisons:
        table.add_row(c.a, c.b, str(c.episodes), _number(c.difference, c.interval, "+"), _p(c.p_value))
    return table


def errors(found: Iterable[Failure]) -> Iterator[Text]:
    """Yield a line for each kind of error, the most frequent first, and then how to run them again."""
    lines = [
        f"{e.episodes} error{'s' * (e.episodes > 1)} of {e.condition}, e.g. {e.first[0]} #{e.first[1]}: {e.error}"
        for e in found
    ]
    yield from map(Text, lines[:_MOST_ERRORS])
    if len(lines) > _MOST_ERRORS:
        yield Text(f"... and {len(lines) - _MOST_ERRORS} other errors, in episodes.jsonl")
    if lines:
        yield Text("tracebacks stand beside the episode files; the same command with --retry errors runs these again")


def other_tasks(summary: Summary) -> Table:
    """Return what the run says about other tasks like these, which is less than what it says about these."""
    table = Table(
        title=f"For other tasks like these: {_percent(summary)} intervals that take the tasks as a sample",
        title_justify="left",
    )
    for column in ("a", "b"):
        table.add_column(column)
    for column in ("a - b, points", "clustered", "bootstrap"):
        table.add_column(column, justify="right")
    for c in summary.comparisons:
        points = "-" if c.difference is None else f"{100 * c.difference:+.1f}"
        table.add_row(c.a, c.b, points, *(_interval(i, "+") if i else "-" for i in (c.clustered, c.bootstrap)))
    return table


def by_task(summary: Summary) -> Table:
    """Return every pair of conditions within every task."""
    table = Table(title="By task; the last column is Holm's, over the tasks of a pair", title_justify="left")
    for column in ("a", "b", "task"):
        table.add_column(column)
    for column in ("pairs", "only a", "only b", f"a - b, points [{_percent(summary)}]", "p", "p adjusted"):
        table.add_column(column, justify="right")
    for c in summary.comparisons:
        for task, d in c.tasks.items():
            counts = map(str, (d.pairs, d.only_a, d.only_b))
            table.add_row(c.a, c.b, task, *counts, difference(d), _p(d.p_value), _p(d.adjusted_p_value))
        table.add_section()
    return table


def sequential(found: Monitor) -> Text:
    """Return the verdict of a run that stops when it is decided; the p-value is the one that may be looked at."""
    verdict = "told apart" if found.decided_after is not None else "not told apart"
    return Text(
        f"{found.a} and {found.b} {verdict} at alpha {found.alpha:g} after {found.pairs} pairs (only {found.a}"
        f" {found.only_a}, only {found.b} {found.only_b}): p = {found.p_value:.2g} at any time; the p-values in the"
        " table hold for numbers of episodes that were fixed beforehand"
    )


def adaptive(found: Estimate) -> Text:
    """Return the difference of a run that spent episodes where they inform."""
    return Text(
        f"tasks weighed alike, whatever episodes each had: {100 * found.difference:+.1f}"
        f" {_interval(found.interval, '+')} points; rates and differences over all tasks in the tables weigh episodes"
        " alike"
    )


def performance(cost: Performance) -> Iterator[Text]:
    """Yield one line on speed, and one for each condition's decisions."""
    if not cost.wall_s:
        return
    yield Text(
        f"{cost.episodes} episodes, {cost.steps} control steps in {cost.wall_s:.1f} s of episodes:"
        f" {cost.steps / cost.wall_s:.0f} steps/s, {cost.decisions} decisions"
    )
    times = [f"{name} {t[0] * 1e3:.1f} + {t[1] * 1e3:.2f}" for name, t in cost.decision_s.items() if t]
    if times:
        yield Text(f"a decision takes (policy + verifier) [ms]: {', '.join(times)}")


def rate(r: Rate) -> str:
    """Return a rate as text, e.g. ``71.7 [59.2, 81.5] 43/60 +2 errors``."""
    errors = f" +{r.errors} error{'s' * (r.errors > 1)}" if r.errors else ""
    if r.rate is None or r.interval is None:
        return f"{r.unjudged}{errors}" if r.unjudged else f"-{errors}"
    return f"{100 * r.rate:.1f} {_interval(r.interval)} {r.successes}/{r.successes + r.failures}{errors}"


def _percent(summary: Summary) -> str:
    return f"{100 * summary.level:g} %"


def _pairs(c: Comparison) -> str:
    return f"{c.pairs} (-{c.excluded})" if c.excluded else str(c.pairs)


def difference(c: Comparison | TaskDifference | UnpairedComparison) -> str:
    """Return a difference as text, e.g. ``+15.7 [+12.3, +19.1]``."""
    if c.difference is None or c.interval is None:
        return "-"
    return f"{100 * c.difference:+.1f} {_interval(c.interval, '+')}"


def _number(value: float | None, interval: Interval | None, sign: str = "") -> str:
    """Return a return as text, with as many digits as a person reads."""
    if value is None:
        return "-"
    return f"{value:{sign}.4g}" + (f" [{interval[0]:{sign}.4g}, {interval[1]:{sign}.4g}]" if interval else "")


def _interval(interval: Interval, sign: str = "") -> str:
    low, high = (f"{100 * x:{sign}.1f}" for x in interval)
    return f"[{low}, {high}]"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _markdown(table: Table) -> str:
    """Return a rich table as a Markdown table under its title."""
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    rows = [[str(column.header) for column in table.columns], *map(list, zip(*cells, strict=True))]
    rule = ["---:" if column.justify == "right" else "---" for column in table.columns]
    lines = ["| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]]]
    return "\n".join([str(table.title), "", *lines])
