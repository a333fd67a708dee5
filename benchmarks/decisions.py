"""What does a decision cost? `python benchmarks/decisions.py [--policy FOLDER] [--threads 1] [--json]`.

Time to sample M candidates from one prefix encode, against M whole passes one after the other, and to score them with
each verifier that lies beside the policy. The cases alternate, and medians are printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from robotest.envs.dual_arm import suite
from robotest.policies import mini_vla
from robotest.registry import resolve
from robotest.types import EnvOptions

CANDIDATES = (1, 8, 32)
ROUNDS = 40


def milliseconds(cases: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median time of each case [ms]; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS + 3):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(values[3:])) for name, values in times.items()}


def measure(folder: Path) -> dict[str, float]:
    """Return the median time of everything [ms]."""
    policy = mini_vla.load(folder)
    with closing(suite.make(suite.tasks[0], EnvOptions())) as env:
        env.reset(0)
        observation = env.observe()
    cases: dict[str, Callable[[], object]] = {}
    for m in CANDIDATES:
        cases[f"sample {m}"] = lambda m=m: policy.sample([observation], [0], m)
        cases[f"sample {m} in {m} passes"] = lambda m=m: [policy.sample([observation], [k], 1) for k in range(m)]
    candidates = policy.sample([observation], [0], 8)[0]
    for path in sorted(set(folder.glob("*.safetensors")) - {folder / mini_vla.FILE_NAME}):
        verifier = resolve("verifier", path.stem)(policy.spec, path)
        cases[f"{path.stem} scores 8"] = lambda verifier=verifier: verifier.score(observation, candidates, 0)
    return milliseconds(cases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, default=mini_vla.SHIPPED)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    times = measure(arguments.policy)
    if arguments.json:
        sys.stdout.write(json.dumps(times, indent=2) + "\n")
        return
    table = Table("what", "ms", "of sampling 1", title=f"one decision, {arguments.threads} thread(s), medians")
    for name, value in times.items():
        table.add_row(name, f"{value:.2f}", f"{value / times['sample 1']:.2f} x")
    Console().print(table)


if __name__ == "__main__":
    main()
