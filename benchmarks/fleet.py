"""How much faster are two workers than one? `python benchmarks/fleet.py [--episodes 20] [--rounds 5] [--json]`.

Episodes per second of the built-in suite with the shipped policy, 8 candidates, whole chunks: in one process, with 1
worker and with 2. The three take turns, so that their ratios hold on a machine whose speed drifts; starting (imports,
the policy, the workers) is not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from robotest.crew import Assignment, Crew, InProcess
from robotest.evaluate import load_condition, load_policy
from robotest.fleet import Fleet
from robotest.planner import Planner
from robotest.randomness import EpisodeSeeds
from robotest.rollout import WallClock
from robotest.types import EnvOptions

ENV, TASKS = "dual_arm", ("handover_block", "lift_tray")


def rate(crew: Crew, planner: Planner, work: Sequence[Assignment]) -> float:
    """Return episodes per second."""
    start = time.perf_counter()
    n = sum(1 for _ in crew.run(planner, work))
    return n / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    policy, folder = load_policy("mini_vla")
    verifier = load_condition("leverage", policy, folder).verifier
    planner = Planner(policy, {"leverage": verifier}, 8, WallClock())
    crews: dict[str, Crew] = {
        "this process alone": InProcess(ENV, WallClock()),
        "1 worker": Fleet(ENV, 1),
        "2 workers": Fleet(ENV, 2),
    }
    rates: dict[str, list[float]] = {name: [] for name in crews}
    with threadpool_limits(limits=1):
        for round_ in range(-1, arguments.rounds):  # the first warms up
            for name, crew in crews.items():
                work = [
                    Assignment("leverage", EpisodeSeeds(max(0, round_), task, i), EnvOptions(), policy.spec.horizon)
                    for task in TASKS
                    for i in range(arguments.episodes if round_ >= 0 else 2)
                ]
                measured = rate(crew, planner, work)
                if round_ >= 0:
                    rates[name].append(measured)
    for crew in crews.values():
        crew.close()
    ratios = {name: np.array(own) / np.array(rates["1 worker"]) for name, own in rates.items()}
    if arguments.json:
        sys.stdout.write(
            json.dumps({n: {"rates": r, "of 1 worker": ratios[n].tolist()} for n, r in rates.items()}) + "\n"
        )
        return
    table = Table("what", "episodes/s", "of 1 worker", title=f"{arguments.rounds} rounds: median [smallest, largest]")
    for name, own in rates.items():
        r = ratios[name]
        table.add_row(name, f"{np.median(own):.2f}", f"{np.median(r):.2f} [{r.min():.2f}, {r.max():.2f}]")
    Console().print(table)


if __name__ == "__main__":
    main()
