"""Experts of `tabletop`'s tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64

from robotest.envs.expert_styles import STYLES
from robotest.envs.robosuite.osc_expert import N_POINTS, Arm, OscExperts, Shape
from robotest.envs.tabletop.scene import root_body
from robotest.envs.tabletop.suite import CAMERAS, TabletopEnv
from robotest.envs.tabletop.tasks import TASKS, Goal
from robotest.errors import RobotestError
from robotest.types import Command, Env, EnvOptions

_OPTIONS: Final = EnvOptions(setting="sampled", action_mode="osc_pose", image_size=64)
_APART_M: Final = 0.05  # distance of each of two objects in a tray from its middle, along its longer side
_DROP_M: Final = 0.008  # release height above the supporting surface
_CLEAR_M: Final = 0.02  # between a carried object and the highest one that it may pass over


class TabletopExperts(OscExperts):
    """Implements `robotest.types.Experts`."""

    def commands(self, env: Env, style: str, rng: np.random.Generator) -> Iterator[Command]:
        """Yield OSC_POSE actions: carry one object after the other to its target, then stay."""
        table = _tabletop(env)
        nowhere = np.zeros(env.spec.action.size)
        for action in _script(table, Arm(table.world, STYLES[style], rng)):
            yield Command(action.astype(np.float64), nowhere)

    def points(self, env: Env) -> Float32[np.ndarray, "K 2"]:
        """Return the projections of the next object to move and its target."""
        table = _tabletop(env)
        camera = table.world.data.camera(CAMERAS[0])
        height = np.tan(np.deg2rad(table.world.model.camera(CAMERAS[0]).fovy[0]) / 2)
        projections = np.full((N_POINTS, 2), np.nan, np.float32)
        goals = table.task.goals
        # As for LIBERO: a goal may hold after `observe`, before the step that ends the episode.
        remaining = [goal for goal in goals if not table.table.reached(goal)] or goals[-1:]
        for row, name in zip(projections, (remaining[0].thing, remaining[0].target), strict=False):
            place = table.world.data.body(root_body(name)).xpos
            x, y, z = camera.xmat.reshape(3, 3).T @ (place - camera.xpos)
            row[:] = np.array([-x, y]) / (z * height)
        return projections


def _script(env: TabletopEnv, arm: Arm) -> Iterator[Float32[np.ndarray, " 7"]]:
    goals = env.task.goals
    for goal in goals:
        thing, target = (Shape(env.world, root_body(name)) for name in (goal.thing, goal.target))
        over = max(Shape(env.world, root_body(name)).top for name in env.task.scene.things if name != goal.thing)
        yield from arm.pick(thing, over + _CLEAR_M)
        yield from arm.put(thing, _place(goal, goals, target), over)
    yield from arm.wait()


def _place(goal: Goal, goals: tuple[Goal, ...], target: Shape) -> Float64[np.ndarray, " 3"]:
    """Return the position at which to release an object's lowest point [m]."""
    sharing = [other for other in goals if other.target == goal.target]
    along = _APART_M * (2 * sharing.index(goal) - len(sharing) + 1)
    ground = target.top if goal.relation == "on" else target.bottom
    return np.array([target.middle[0] + along, target.middle[1], ground + _DROP_M])


def _tabletop(env: Env) -> TabletopEnv:
    if not isinstance(env, TabletopEnv):
        raise RobotestError(f"these experts act in tabletop, not in {env.spec.name}")
    return env


experts: Final = TabletopExperts(tuple(TASKS), _OPTIONS)
