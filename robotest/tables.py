"""A `Summary` as tables for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robotest.runs import Performance, Summary
from robotest.stats import Comparison, Interval, Rate


def report(summary: Summary) -> RenderableType:
    """Return everything a run says: rates, every pair of conditions, what it cost."""
    parts: list[RenderableType] = [rates(summary)]
    if summary.comparisons:
        parts.append(comparisons(summary))
    return Group(*parts, *performance(summary.performance))


def rates(summary: Summary) -> Table:
    """Return success rates by task and condition with Wilson's 95 % intervals; errors stand beside, never inside."""
    table = Table(title="Success rate, % [95 % interval], successes/episodes", title_justify="left")
    table.add_column("task")
    for name in summary.conditions:
        table.add_column(name, justify="right")
    tasks = next(iter(summary.conditions.values())).tasks if summary.conditions else {}
    for task in tasks:
        table.add_row(task, *(rate(c.tasks[task]) for c in summary.conditions.values()))
    table.add_section()
    table.add_row("all tasks", *(rate(c.overall) for c in summary.conditions.values()), style="bold")
    return table


def comparisons(summary: Summary) -> Table:
    """Return the paired comparison of every pair of conditions."""
    table = Table(
        title="Paired comparison: the same episodes under a and b; p is McNemar's, exact and two-sided",
        title_justify="left",
    )
    for column in ("a", "b"):
        table.add_column(column)
    for column in ("pairs", "both", "only a", "only b", "neither", "a - b, points [95 %]", "p"):
        table.add_column(column, justify="right")
    for c in summary.comparisons:
        table.add_row(c.a, c.b, _pairs(c), *map(str, (c.both, c.only_a, c.only_b, c.neither)), _difference(c), _p(c))
    return table


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
        return f"-{errors}"
    return f"{100 * r.rate:.1f} {_interval(r.interval)} {r.successes}/{r.successes + r.failures}{errors}"


def _pairs(c: Comparison) -> str:
    return f"{c.pairs} (-{c.excluded})" if c.excluded else str(c.pairs)


def _difference(c: Comparison) -> str:
    if c.difference is None or c.interval is None:
        return "-"
    return f"{100 * c.difference:+.1f} {_interval(c.interval, '+')}"


def _interval(interval: Interval, sign: str = "") -> str:
    low, high = (f"{100 * x:{sign}.1f}" for x in interval)
    return f"[{low}, {high}]"


def _p(c: Comparison) -> str:
    if c.p_value is None:
        return "-"
    return f"{c.p_value:.3f}" if c.p_value >= 0.001 else f"{c.p_value:.1e}"
