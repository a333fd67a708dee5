"""What does the harness itself cost? `python benchmarks/harness.py [--json]`.

Processor time per control step, of all processes together, with an environment and a policy that do nothing: chunks of
10 actions, two pictures of 256 x 256 at every decision, states recorded at every step. That nothing crosses a process
border between decisions is counted in tests/test_fleet.py.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path

from null_suite import MAX_STEPS
from rich.console import Console
from rich.table import Table

from robotest.evaluate import EvalConfig, evaluate

EPISODES = 100


def processor_s() -> float:
    """Return the processor time of this process and of its children that have ended [s]."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def run(workers: int, episodes: int, record: bool) -> float:
    """Return the processor time of a run, starting included [s]."""
    with tempfile.TemporaryDirectory() as folder:
        start = processor_s()
        evaluate(
            EvalConfig(
                Path(folder) / "run",
                env="null_suite:suite",
                policy="null_suite:policy",
                verifiers=("first",),
                episodes=episodes,
                candidates=1,
                execute=None,
                workers=workers,
                record=record,
            )
        )
        return processor_s() - start


def per_step_ms(workers: int, record: bool) -> float:
    """Return processor time per step [ms]; what starting costs cancels between a long and a short run."""
    return 1e3 * (run(workers, EPISODES + 1, record) - run(workers, 1, record)) / (EPISODES * MAX_STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json: bool = parser.parse_args().json
    run(0, 1, False)  # imports
    numbers = {
        "in this process [ms]": per_step_ms(0, False),
        "in this process, episode files written [ms]": per_step_ms(0, True),
        "2 workers [ms]": per_step_ms(2, False),
        "2 workers, episode files written [ms]": per_step_ms(2, True),
    }
    if as_json:
        sys.stdout.write(json.dumps(numbers, indent=2) + "\n")
        return
    table = Table("what", "a step", title=f"harness, processor time over {EPISODES * MAX_STEPS} steps")
    for name, value in numbers.items():
        table.add_row(name, f"{value:.4f}")
    Console().print(table)


if __name__ == "__main__":
    main()
