"""How fast is a suite on one core? `OMP_NUM_THREADS=1 LP_NUM_THREADS=1 python benchmarks/environment.py [--env NAME]`.

Control steps per second of each task under small random motions: physics alone, with the policy's pictures at every
8th step, and with pictures at every step. The three alternate in short rounds, so that their ratios are valid on a
machine whose speed drifts. Pictures are of all of the suite's cameras, in the size of --image-size.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import closing

import numpy as np
from checked import SHORT, add_short, refuse, require, require_pictures, require_some, run
from rich.console import Console
from rich.table import Table

from robotest import registry
from robotest.types import Env, EnvOptions, Observation

EVERY = {"no pictures": 0, "every 8 steps": 8, "every step": 1}
ROUNDS, STEPS = 8, 40


def measure(env: Env, rounds: int) -> dict[str, float]:
    """Return steps per second, keyed as `EVERY`: the median over rounds."""
    rng = np.random.default_rng(0)
    rates: dict[str, list[float]] = {name: [] for name in EVERY}
    env.reset(0, 0)
    require_some("cameras", len(env.spec.cameras))
    require_pictures(env.observe(), env.spec.cameras)  # builds the renderer
    for _ in range(rounds):
        for name, every in EVERY.items():
            env.reset(int(rng.integers(1000)), 0)
            before = env.observe()
            actions = rng.uniform(-0.03, 0.03, (STEPS, env.spec.action.size)).astype(np.float32)
            looks = 0
            start = time.perf_counter()
            for step, action in enumerate(actions):
                if every and step % every == 0:
                    env.observe()
                    looks += 1
                env.apply(action)
            rates[name].append(STEPS / (time.perf_counter() - start))
            require("looks", looks, -(-STEPS // every) if every else 0)
            _require_moved(before, env.observe(), STEPS * env.spec.control_dt)
    return {name: float(np.median(values)) for name, values in rates.items()}


def _require_moved(before: Observation, after: Observation, seconds: float) -> None:
    """Refuse a round in which the simulation did not advance: check time, pictures and state."""
    if abs(after.time - before.time - seconds) > 1e-6:
        refuse(f"{after.time - before.time:g} s of {seconds:g} s were simulated")
    require_pictures(after, after.images)
    if np.array_equal(before.state, after.state):
        refuse("nothing moved")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="dual_arm")
    parser.add_argument("--tasks", default="", help="separated by commas; default: all")
    parser.add_argument("--image-size", type=int, default=EnvOptions.image_size)
    parser.add_argument("--json", action="store_true")
    add_short(parser)
    arguments = parser.parse_args()
    suite = registry.resolve("env", arguments.env)
    options = EnvOptions(suite.settings[0], suite.action_modes[0], image_size=arguments.image_size)
    if arguments.env == "dual_arm":
        options = EnvOptions(image_size=arguments.image_size)  # in the mode of the shipped policy
    results: dict[str, dict[str, float]] = {}
    for task in (arguments.tasks.split(",") if arguments.tasks else suite.tasks)[: 1 if arguments.short else None]:
        with closing(suite.make(task, options)) as env:
            results[task] = measure(env, 1 if arguments.short else ROUNDS)
    if arguments.json:
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
        return
    title = SHORT if arguments.short else "control steps per second, one core"
    table = Table("task", *EVERY, "saved by looking every 8", title=title)
    for task, rates in results.items():
        ratio = rates["every 8 steps"] / rates["every step"]
        table.add_row(task, *(f"{rates[name]:.0f}" for name in EVERY), f"{ratio:.1f} x")
    Console().print(table)


if __name__ == "__main__":
    run(main)
