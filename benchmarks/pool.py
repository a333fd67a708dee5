"""How much faster are two workers than one? `python benchmarks/pool.py [--episodes 20] [--rounds 5] [--json]`.

Episodes per second of the built-in suite with the shipped policy, 8 candidates, whole chunks: in one process, with 1
worker and with 2. The three alternate, so that their ratios are valid on a machine whose speed drifts; startup
(imports, policy, workers) is not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

import numpy as np
from checked import SHORT, add_short, require_episodes, run
from rich.console import Console
from rich.table import Table

from robotest.clock import WallClock
from robotest.loading import load_condition, policy_and_folder
from robotest.randomness import EpisodeSeeds
from robotest.runtime.pool import WorkerPool
from robotest.runtime.runner import EpisodeJob, EpisodeRunner, InProcessRunner
from robotest.runtime.selector import Selector, VerifierSelector
from robotest.threads import one_thread
from robotest.types import EnvOptions

ENV, TASKS = "dual_arm", ("handover_block", "lift_tray")


def rate(runner: EpisodeRunner, selector: Selector, work: Sequence[EpisodeJob]) -> float:
    """Return episodes per second."""
    start = time.perf_counter()
    episodes = [finished.episode for finished in runner.run(selector, work)]
    duration = time.perf_counter() - start
    require_episodes(episodes, len(work))
    return len(episodes) / duration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    add_short(parser)
    arguments = parser.parse_args()
    tasks: tuple[str, ...] = TASKS
    if arguments.short:
        arguments.episodes, arguments.rounds, tasks = 1, 1, TASKS[1:]
    policy, folder = policy_and_folder("mini_vla")
    verifier = load_condition("leverage", policy, folder).verifier
    selector = VerifierSelector(policy, {"leverage": verifier}, 8, WallClock())
    runners: dict[str, EpisodeRunner] = {
        "this process alone": InProcessRunner(ENV, WallClock()),
        "1 worker": WorkerPool(ENV, 1),
        "2 workers": WorkerPool(ENV, 2),
    }
    rates: dict[str, list[float]] = {name: [] for name in runners}
    with one_thread():
        for round_ in range(-1, arguments.rounds):  # the first warms up
            for name, runner in runners.items():
                work = [
                    EpisodeJob("leverage", EpisodeSeeds(max(0, round_), task, i), EnvOptions(), policy.spec.horizon)
                    for task in tasks
                    for i in range(arguments.episodes if round_ >= 0 else len(tasks))
                ]
                measured = rate(runner, selector, work)
                if round_ >= 0:
                    rates[name].append(measured)
    for runner in runners.values():
        runner.close()
    ratios = {name: np.array(values) / np.array(rates["1 worker"]) for name, values in rates.items()}
    if arguments.json:
        sys.stdout.write(
            json.dumps({n: {"rates": r, "of 1 worker": ratios[n].tolist()} for n, r in rates.items()}) + "\n"
        )
        return
    title = SHORT if arguments.short else f"{arguments.rounds} rounds: median [smallest, largest]"
    table = Table("what", "episodes/s", "of 1 worker", title=title)
    for name, values in rates.items():
        r = ratios[name]
        table.add_row(name, f"{np.median(values):.2f}", f"{np.median(r):.2f} [{r.min():.2f}, {r.max():.2f}]")
    Console().print(table)


if __name__ == "__main__":
    run(main)
