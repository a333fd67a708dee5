"""Steps per second of one LIBERO task: pictures once per chunk, compared with pictures at every step.

    python benchmarks/libero_steps.py [--env libero/libero_object:7] [--steps 200] [--chunk 10] [--rounds 3] [--short]

`LIBERO` is LIBERO's own wrapper, which renders both cameras at every step, as common evaluation scripts do. The cases
alternate in one process, and ratios are within a round: this is a comparison, not the speed of a machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from checked import SHORT, add_short, refuse, require, require_pictures, run

from robotest import registry
from robotest.envs.libero import files
from robotest.types import EnvOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="libero/libero_object:7")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--chunk", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    add_short(parser)
    arguments = parser.parse_args()
    if arguments.short:
        arguments.steps, arguments.rounds = 2, 1
        print(SHORT)
    suite = registry.resolve("env", arguments.env)
    task = suite.tasks[0]
    env = suite.make(task, EnvOptions(setting="openpi", action_mode="osc_pose", image_size=224))
    libero = _libero(arguments.env.split("/")[1].split(":")[0], task)
    actions = np.random.default_rng(0).uniform(-1, 1, (arguments.steps, 7)).astype(np.float32)

    def ours(every: int) -> None:
        env.reset(0, 0)
        start, looks = env.snapshot(), 0
        for step, action in enumerate(actions):
            if step % every == 0:
                observation = env.observe()
                looks += 1
            env.apply(action)
        require("looks", looks, -(-arguments.steps // every))
        require("our steps", env.snapshot()[0], arguments.steps)
        require_pictures(observation, env.spec.cameras)
        if np.array_equal(start[1:], env.snapshot()[1:]):
            refuse("nothing moved")

    def rendered() -> None:
        libero.seed(7)
        libero.reset()
        for action in actions:
            seen = libero.step(action.astype(np.float64))[0]
            if any(np.ptp(seen[f"{camera}_image"]) == 0 for camera in env.spec.cameras):
                refuse("a picture of LIBERO is empty")
        require("LIBERO's steps", libero.env.timestep, arguments.steps)

    kinds: dict[str, Callable[[], None]] = {
        f"ours, a chunk of {arguments.chunk}": lambda: ours(arguments.chunk),
        "ours, pictures at every step": lambda: ours(1),
        "LIBERO": rendered,
    }
    if not arguments.short:
        env.reset(0, 0)
        env.observe()  # uploads the textures
        libero.reset()
    for number in range(arguments.rounds):
        speeds = {name: _speed(run, arguments.steps) for name, run in kinds.items()}
        best = next(iter(speeds.values()))
        print(
            f"round {number}:", *(f"{name} {s:.1f} steps/s ({best / s:.2f} x)" for name, s in speeds.items()), sep="  "
        )
    libero.close()
    env.close()


def _libero(suite: str, task: str) -> Any:
    from libero.libero.envs import OffScreenRenderEnv

    file = str(files.bddl_file(suite, task))
    return OffScreenRenderEnv(bddl_file_name=file, camera_heights=256, camera_widths=256)


def _speed(run: Callable[[], None], steps: int) -> float:
    """Return steps per second of an episode, including its reset."""
    start = time.perf_counter()
    run()
    return steps / (time.perf_counter() - start)


if __name__ == "__main__":
    run(main)
