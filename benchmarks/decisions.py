"""What does a decision cost? `python benchmarks/decisions.py [--policy FOLDER] [--threads 1] [--json]`.

Time to sample M candidates from one prefix encode, compared with M separate passes, and to score them with each
verifier in the policy's folder. The cases alternate, and medians are printed.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from checked import SHORT, add_short, require, require_finite, require_pictures, require_some, run
from rich.console import Console
from rich.table import Table

from robotest.envs.dual_arm.suite import suite
from robotest.policies import mini_vla
from robotest.registry import resolve
from robotest.types import Candidates, EnvOptions, Observation, Verifier

CANDIDATES = (1, 8, 32)
ROUNDS = 40


def milliseconds(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median time of each case [ms]; the cases alternate."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds + 3):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(values[3:])) for name, values in times.items()}


def measure(folder: Path, rounds: int, candidate_numbers: Sequence[int]) -> dict[str, float]:
    """Return the median time of every case [ms]."""
    policy = mini_vla.load(folder)
    with closing(suite.make(suite.tasks[0], EnvOptions())) as env:
        env.reset(0)
        observation = env.observe()
    require_pictures(observation, policy.spec.cameras)
    cases: dict[str, Callable[[], object]] = {}

    def one_by_one(m: int) -> None:
        for k in range(m):
            policy.sample([observation], [k], 1)

    for m in candidate_numbers:
        cases[f"sample {m}"] = functools.partial(policy.sample, [observation], [0], m)
        cases[f"sample {m} in {m} passes"] = functools.partial(one_by_one, m)
        require_candidates(policy.sample([observation], [0], m)[0], m, policy.spec.horizon)
    candidates = policy.sample([observation], [0], 8)[0]
    for path in sorted(set(folder.glob("*.safetensors")) - {folder / mini_vla.FILE_NAME}):
        verifier = resolve("verifier", path.stem)(policy.spec, path)
        require_scores(verifier, observation, candidates)
        cases[f"{path.stem} scores 8"] = functools.partial(verifier.score, observation, candidates, 0)
    require_some("verifiers in the policy's folder", len(cases) - 2 * len(candidate_numbers))
    return milliseconds(cases, rounds)


def require_candidates(candidates: Candidates, m: int, horizon: int) -> None:
    """Refuse candidates that are too few, too short, not finite, or duplicates."""
    require("candidates", len(candidates.actions), m)
    require("actions of a candidate", candidates.actions.shape[1], horizon)
    require_finite("candidates", candidates.actions)
    require("different candidates", len(np.unique(candidates.actions.reshape(m, -1), axis=0)), m)


def require_scores(verifier: Verifier, observation: Observation, candidates: Candidates) -> None:
    """Refuse scores that are too few or not finite."""
    scores = verifier.score(observation, candidates, 0)
    require(f"scores of {verifier.spec.name}", scores.size, len(candidates.actions))
    require_finite(f"scores of {verifier.spec.name}", scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, default=mini_vla.SHIPPED)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    add_short(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    times = measure(arguments.policy, *((1, CANDIDATES[:2]) if arguments.short else (ROUNDS, CANDIDATES)))
    if arguments.json:
        sys.stdout.write(json.dumps(times, indent=2) + "\n")
        return
    title = f"one decision, {arguments.threads} thread(s), medians"
    table = Table("what", "ms", "of sampling 1", title=SHORT if arguments.short else title)
    for name, value in times.items():
        table.add_row(name, f"{value:.2f}", f"{value / times['sample 1']:.2f} x")
    Console().print(table)


if __name__ == "__main__":
    run(main)
