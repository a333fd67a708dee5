"""Do the statistics keep their promises, and how much do they save? `python benchmarks/comparisons.py [--json]`.

Simulated runs of six tasks: coverage of 95 % intervals, false positives of the sequential test, pairs saved by stopping
early, and variance saved by adaptive allocation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping

import numpy as np
from checked import SHORT, add_short, refuse, require, require_finite, require_some, run
from rich.console import Console
from rich.table import Table

from robotest.statistics import allocation, intervals, paired, sequential
from robotest.statistics.power import Question, pairs_needed

Cells = tuple[float, float]
N_TASKS = 6
DESIGNS: Mapping[str, list[Cells]] = {
    "tasks alike": [(0.25, 0.15)] * N_TASKS,
    "as measured on the built-in suite": [
        (0.37, 0.12), (0.22, 0.12), (0.32, 0.10), (0.28, 0.12), (0.20, 0.11), (0.25, 0.12),
    ],
    "two open tasks of six": [(0.35, 0.2), (0.3, 0.2), *[(0.02, 0.02)] * 4],
}  # fmt: skip


def pairs(rng: np.random.Generator, cells: Cells, n: int) -> np.ndarray:
    """Return n paired differences of +1, -1 or 0."""
    return rng.choice([1, -1, 0], size=n, p=[*cells, 1 - sum(cells)])


def coverage(rng: np.random.Generator, runs: int) -> dict[str, float]:
    """Return each interval's coverage of the true value, with 100 pairs of each of six tasks."""
    covered: dict[str, list[bool]] = {"Tango": [], "Wilson": [], "clustered": [], "clustered bootstrap": []}
    for _ in range(runs):
        means = np.clip(rng.normal(0.1, 0.08, N_TASKS), -0.15, 0.15)  # the tasks are a sample
        drawn = [pairs(rng, (0.2 + m / 2, 0.2 - m / 2), 100) for m in means]
        totals, sizes = [int(d.sum()) for d in drawn], [len(d) for d in drawn]
        a, b = (sum(int((d == side).sum()) for d in drawn) for side in (1, -1))
        wins = int(rng.binomial(600, 0.6))
        cases = {
            "Tango": (paired.tango(a, b, 600), float(means.mean())),
            "Wilson": (intervals.wilson(wins, 600), 0.6),
            "clustered": (intervals.clustered(totals, sizes), _TRUE_MEAN),
            "clustered bootstrap": (intervals.clustered_bootstrap(totals, sizes), _TRUE_MEAN),
        }
        for name, (interval, truth) in cases.items():
            if interval is None:
                refuse(f"{name} gave no interval")
            require_finite(f"interval of {name}", interval)
            covered[name].append(interval[0] <= truth <= interval[1])
    for name, hits in covered.items():
        require(f"intervals of {name}", len(hits), runs)
    return {name: float(np.mean(hits)) for name, hits in covered.items()}


_TRUE_MEAN = float(np.clip(np.random.default_rng(9).normal(0.1, 0.08, 10**6), -0.15, 0.15).mean())


def stopping(rng: np.random.Generator, runs: int, cells: Cells, most: int) -> tuple[float, float]:
    """Return the share of runs decided within `most` pairs, and the mean number of pairs."""
    taken = []
    for _ in range(runs):
        drawn = pairs(rng, cells, most)
        a, b = np.cumsum(drawn == 1), np.cumsum(drawn == -1)
        discordant = np.flatnonzero(drawn)
        decided = next((i + 1 for i in discordant if sequential.decided(int(a[i]), int(b[i]))), None)
        taken.append(decided)
    require("monitored runs", len(taken), runs)
    decisions = [t for t in taken if t is not None]
    return len(decisions) / runs, float(np.mean([t or most for t in taken]))


def adaptive(rng: np.random.Generator, runs: int, cells: list[Cells], episodes: int) -> tuple[float, float, float]:
    """Return the variance relative to equal allocation, the bias in standard errors, and the coverage."""
    named = {str(i): c for i, c in enumerate(cells)}
    truth = float(np.mean([a - b for a, b in cells]))
    estimates, equal, covered = [], [], []
    for _ in range(runs):
        first = {t: pairs(rng, c, allocation.first_pass(episodes)).tolist() for t, c in named.items()}
        more = allocation.second_pass(first, episodes)
        second = {t: pairs(rng, named[t], n).tolist() for t, n in more.items()}
        estimate = allocation.estimate(first, second, episodes)
        if estimate is None:
            refuse("adaptive allocation gave no estimate")
        require_finite("estimate", (estimate.difference, *estimate.interval))
        estimates.append(estimate.difference)
        covered.append(estimate.interval[0] <= truth <= estimate.interval[1])
        equal.append(np.mean([pairs(rng, c, episodes).mean() for c in cells]))
    require("estimates", len(estimates), runs)
    require_some("spread of the estimates", float(np.var(equal)))
    error = float((np.mean(estimates) - truth) / (np.std(estimates) / np.sqrt(runs)))
    return float(np.var(estimates) / np.var(equal)), error, float(np.mean(covered))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    add_short(parser)
    arguments = parser.parse_args()
    if arguments.runs < 2:
        parser.error(f"--runs {arguments.runs}: give at least 2")
    rng, runs = np.random.default_rng(0), 20 if arguments.short else arguments.runs
    table: dict[str, str] = {f"coverage of {name}": f"{x:.3f}" for name, x in coverage(rng, runs).items()}
    false_positives, _ = stopping(rng, runs, (0.19, 0.19), 2000)
    table["equal conditions called different, tested after each of 2,000 pairs"] = f"{false_positives:.3f}"
    for gain in (0.05, 0.10, 0.157):
        needed = pairs_needed(Question(0.55, gain, 0.38))
        enough = runs if arguments.short else max(200, runs // 4)
        decided, mean = stopping(rng, enough, (0.19 + gain / 2, 0.19 - gain / 2), 3 * needed)
        table[f"gain of {100 * gain:g} points: fixed number, 80 % power"] = f"{needed} pairs"
        table[f"gain of {100 * gain:g} points: sequential, at most 3 times that"] = (
            f"{mean:.0f} on average, {decided:.2f} decided"
        )
    for name, cells in DESIGNS.items():
        ratio, bias, covered = adaptive(rng, runs, cells, 100)
        table[f"adaptive, {name}"] = f"variance {ratio:.2f} of equal, bias {bias:+.1f} s.e., coverage {covered:.3f}"
    if arguments.json:
        sys.stdout.write(json.dumps(table, indent=2) + "\n")
        return
    summary = Table("what", "figure", title=SHORT if arguments.short else f"{runs} simulated runs")
    for row in table.items():
        summary.add_row(*row)
    Console(width=140).print(summary)


if __name__ == "__main__":
    run(main)
