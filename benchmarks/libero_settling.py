"""Where do objects come to rest from the first starts? `python benchmarks/libero_settling.py [--out FILE]`.

    python benchmarks/libero_settling.py --out new.json                  # on the installed MuJoCo
    python benchmarks/libero_settling.py --compare old.json new.json     # prints the tasks that differ

The first fixed start of each of LIBERO's 40 tasks in four suites, after `STILL_STEPS` steps of 0.05 s without action:
positions [m] and quaternions of all free bodies. `--env robosuite` does the same for robosuite's tasks, from five
seeds. Nothing is rendered. tests/envs/test_libero_settling.py compares the stored files with the installed version.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from checked import require, require_finite, require_some, run

from robotest import registry
from robotest.envs.robosuite import suite as robosuite
from robotest.envs.robosuite.env import RobosuiteEnv
from robotest.types import EnvOptions

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
STILL_STEPS, SETTLED = 60, 10
"""Steps without action in total; those of them that are part of LIBERO's reset."""
APART_M, APART_DEG = 0.001, 1.0
"""Thresholds beyond which poses count as different."""
SEEDS = 5

Poses = Mapping[str, Sequence[float]]
"""Body -> x, y, z [m], w, x, y, z."""


def poses(env: RobosuiteEnv) -> Poses:
    """Return the current poses of all free bodies."""
    model, data = env.world.model, env.world.data
    free = [j for j in range(model.njnt) if model.jnt_type[j] == mujoco.mjtJoint.mjJNT_FREE]
    by_body = {}
    for joint in free:
        address = model.jnt_qposadr[joint]
        pose = data.qpos[address : address + 7]
        require_finite("a pose", pose)
        by_body[model.body(model.jnt_bodyid[joint]).name] = [round(float(x), 5) for x in pose]
    return by_body


def settle(env: RobosuiteEnv, seed: int, steps: int) -> Poses:
    """Reset to the first start, or that of a seed, and let objects come to rest."""
    env.reset(seed, 0)
    still = np.zeros(env.spec.action.size, np.float32)
    grippers = [i for i, component in enumerate(_components(env)) if component.endswith("gripper")]
    still[grippers] = -1.0
    for _ in range(steps):
        env.apply(still)
    require("steps", env.snapshot()[0], steps)
    return poses(env)


def _components(env: RobosuiteEnv) -> Iterator[str]:
    for component in env.spec.action.components:
        yield from [component.name] * component.size


def libero(starts: Sequence[str]) -> dict[str, Poses]:
    """Return suite:number -> poses."""
    settled = {}
    for start in starts:
        suite = registry.resolve("env", f"libero/{start}")
        options = EnvOptions("openpi", "osc_pose", cameras=(), env_args=("mujoco=any",))  # no rates are computed
        with closing(suite.make(suite.tasks[0], options)) as env:
            settled[start] = settle(env, 0, STILL_STEPS - SETTLED)
            print(start, suite.tasks[0], file=sys.stderr)
    return settled


def robosuites() -> dict[str, Poses]:
    """Return task:seed -> poses."""
    settled = {}
    for task in robosuite.TASKS:
        suite = registry.resolve("env", f"robosuite/{task}")
        options = EnvOptions("default", "osc_pose", cameras=())
        with closing(suite.make(task, options)) as env:
            for seed in range(SEEDS):
                settled[f"{task}:{seed}"] = settle(env, seed, STILL_STEPS)
    return settled


def apart(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Return the distance between two poses [m, deg]."""
    turn = 2 * np.degrees(np.arccos(np.clip(abs(np.dot(a[3:], b[3:])), 0.0, 1.0)))
    return float(np.linalg.norm(np.subtract(a[:3], b[:3]))), float(turn)


def compare(a: Mapping[str, Poses], b: Mapping[str, Poses]) -> list[tuple[str, str, float, float]]:
    """Return task, body, distance [m] and turn [deg] of every body whose rest pose differs, the farthest first."""
    common = [task for task in a if task in b]
    require_some("starts in both files", len(common))
    distances = [(task, body, *apart(a[task][body], b[task][body])) for task in common for body in a[task]]
    return sorted((f for f in distances if f[2] > APART_M or f[3] > APART_DEG), key=lambda f: -f[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=("libero", "robosuite"), default="libero")
    everything = ",".join(f"{suite}:{number}" for suite in SUITES for number in range(10))
    parser.add_argument("--starts", default=everything, help="SUITE:NUMBER, separated by commas; default: all 40")
    parser.add_argument("--out", type=Path, help="JSON file; default: standard output")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"))
    arguments = parser.parse_args()
    if arguments.compare:
        a, b = (json.loads(path.read_text(encoding="utf-8")) for path in arguments.compare)
        print(f"{a['mujoco']} against {b['mujoco']}, after {a['still_steps']} still steps, {len(a['poses'])} starts")
        for task, body, distance, turn in compare(a["poses"], b["poses"]):
            print(f"{task:<24} {body:<40} {1000 * distance:7.1f} mm {turn:6.1f} deg")
        return
    settled = libero(arguments.starts.split(",")) if arguments.env == "libero" else robosuites()
    require_some("free bodies", sum(map(len, settled.values())))
    lines = ",\n".join(f"{json.dumps(task)}: {json.dumps(settled[task])}" for task in settled)
    head: dict[str, Any] = {"mujoco": mujoco.__version__, "still_steps": STILL_STEPS}
    text = f'{json.dumps(head)[:-1]}, "poses": {{\n{lines}\n}}}}\n'
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    run(main)
