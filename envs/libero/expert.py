"""Experts of LIBERO's pick-and-place tasks, whose goals are objects in or on others.

The list holds the tasks on which the script was measured to succeed: `tests/envs/test_libero_expert.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from robotest.envs.expert_styles import STYLES
from robotest.envs.libero import files
from robotest.envs.libero.suite import CAMERAS, LiberoEnv
from robotest.envs.robosuite.osc_expert import CLEARANCE_M, N_POINTS, Arm, OscExperts, Shape
from robotest.envs.robosuite.world import RobosuiteWorld
from robotest.errors import RobotestError
from robotest.types import Command, Env, EnvOptions

TASKS: Final[Mapping[str, tuple[int, ...]]] = {
    "libero_object": tuple(range(10)),
    "libero_spatial": (0, 1, 2, 3),
}
"""Suite -> numbers of the tasks with an expert."""
_OPTIONS: Final = EnvOptions(setting="sampled", action_mode="osc_pose", image_size=128)
_SINK_M: Final = 0.02  # release height: below the rim of a basket, above the ground of a plate


class LiberoExperts(OscExperts):
    """Implements `robotest.types.Experts`."""

    def commands(self, env: Env, style: str, rng: np.random.Generator) -> Iterator[Command]:
        """Yield OSC_POSE actions: carry one object after the other to its target, then stay."""
        world = _world(env)
        arm = Arm(world, STYLES[style], rng)
        nowhere = np.zeros(env.spec.action.size)
        for action in _script(world, arm):
            yield Command(action.astype(np.float64), nowhere)

    def points(self, env: Env) -> Float32[np.ndarray, "K 2"]:
        """Return the projections of the next object to move and its target."""
        world = _world(env)
        camera = world.data.camera(CAMERAS[0])
        height = np.tan(np.deg2rad(world.model.camera(CAMERAS[0]).fovy[0]) / 2)
        projections = np.full((N_POINTS, 2), np.nan, np.float32)
        goals = world.env.parsed_problem["goal_state"]
        # `observe` updates positions, so a goal reached in the last substep may hold before the step that ends the
        # episode. Fall back to the last goal: the points must not depend on whether pictures are rendered.
        remaining = [goal for goal in goals if not world.holds(goal)] or goals[-1:]
        for row, name in zip(projections, remaining[0][1:], strict=False):
            x, y, z = camera.xmat.reshape(3, 3).T @ (_shape(world, name).middle - camera.xpos)
            row[:] = np.array([x, y]) / (z * height)  # mirrored, as the policy's pictures are
        return projections


def _script(world: RobosuiteWorld, arm: Arm) -> Iterator[Float32[np.ndarray, " 7"]]:
    for relation, name, target in world.env.parsed_problem["goal_state"]:
        thing, there = _shape(world, name), _shape(world, target)
        yield from arm.pick(thing, there.top + CLEARANCE_M)
        height = there.top - _SINK_M if relation == "in" else there.bottom + _SINK_M
        yield from arm.put(thing, np.array([*there.middle[:2], height]), there.top)
    yield from arm.wait()


def _shape(world: RobosuiteWorld, name: str) -> Shape:
    name = name.removesuffix("_contain_region")
    thing: Any = world.env.objects_dict.get(name) or world.env.fixtures_dict[name]
    return Shape(world, thing.root_body)


def _world(env: Env) -> RobosuiteWorld:
    if not isinstance(env, LiberoEnv):
        raise RobotestError(f"these experts act in LIBERO, not in {env.spec.name}")
    world: RobosuiteWorld = env.world
    return world


def experts(member: str) -> LiberoExperts:
    """Return the experts of ``SUITE``, ``SUITE:NUMBER`` or ``SUITE:TASK``.

    Raises:
        RobotestError: none of the tasks has an expert.
    """
    name, _, task = member.partition(":")
    names = files.tasks().get(name, ())
    known = tuple(names[i] for i in TASKS.get(name, ()))
    name_or_all = names[int(task)] if task.isdecimal() and int(task) < len(names) else task
    tasks = tuple(t for t in known if name_or_all in ("", t))
    if not tasks:
        have = "; ".join(f"{suite}: {', '.join(map(str, numbers))}" for suite, numbers in TASKS.items())
        raise RobotestError(f"libero/{member} has no scripted expert; tasks with one: {have}")
    return LiberoExperts(tasks, _OPTIONS)
