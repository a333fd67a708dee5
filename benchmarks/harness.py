"""What does the harness itself cost? `python benchmarks/harness.py [--json]`.

Processor time per control step, summed over all processes, with an environment and a policy that do nothing: chunks of
10 actions, two pictures of 256 x 256 at every decision, states recorded at every step. tests/runtime/test_pool.py
checks that no messages cross a process boundary between decisions.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path

from checked import SHORT, add_short, refuse, require, require_episodes, run
from null_suite import HORIZON, MAX_STEPS
from rich.console import Console
from rich.table import Table

from robotest.config import EvalConfig
from robotest.evaluation import evaluate
from robotest.runs import episode_file
from robotest.runs.directory import episode_path, read_episodes

EPISODES = 100


def processor_s() -> float:
    """Return the processor time of this process and of its children that have ended [s]."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def whole_run_s(workers: int, episodes: int, record: bool) -> float:
    """Return the processor time of a run, including its startup [s]."""
    with tempfile.TemporaryDirectory() as folder:
        start, out = processor_s(), Path(folder) / "run"
        evaluate(
            EvalConfig(
                out,
                env="null_suite:suite",
                policy="null_suite:policy",
                verifiers=("first",),
                episodes=episodes,
                candidates=1,
                execute="all",
                workers=workers,
                record="states" if record else "none",
            )
        )
        used = processor_s() - start
        require_all_of(out, episodes, record)
    return used


def require_all_of(out: Path, episodes: int, record: bool) -> None:
    """Refuse a run with missing decisions, steps or recorded states."""
    recorded = read_episodes(out)
    require_episodes(recorded.values(), episodes, MAX_STEPS)
    for key, episode in recorded.items():
        require("decisions", episode.decisions, MAX_STEPS // HORIZON)
        if record:
            states = episode_file.read(episode_path(out, key)).snapshots
            require("states written", 0 if states is None else len(states), MAX_STEPS + 1)


def per_step_ms(workers: int, record: bool, episodes: int) -> float:
    """Return processor time per step [ms]; the startup cost cancels between a long and a short run."""
    return 1e3 * (whole_run_s(workers, episodes + 1, record) - whole_run_s(workers, 1, record)) / (episodes * MAX_STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    add_short(parser)
    arguments = parser.parse_args()
    episodes = 2 if arguments.short else EPISODES
    whole_run_s(0, 1, False)  # imports
    numbers = {
        "in this process [ms]": per_step_ms(0, False, episodes),
        "in this process, episode files written [ms]": per_step_ms(0, True, episodes),
        "2 workers [ms]": per_step_ms(2, False, episodes),
        "2 workers, episode files written [ms]": per_step_ms(2, True, episodes),
    }
    if not arguments.short and min(numbers.values()) <= 0:
        refuse("a run of many steps took no more processor time than one of few")
    if arguments.json:
        sys.stdout.write(json.dumps(numbers, indent=2) + "\n")
        return
    title = f"harness, processor time over {episodes * MAX_STEPS:,} steps"
    table = Table("what", "a step", title=SHORT if arguments.short else title)
    for name, value in numbers.items():
        table.add_row(name, f"{value:.4f}")
    Console().print(table)


if __name__ == "__main__":
    run(main)
