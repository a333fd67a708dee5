"""The built-in dual-arm suite: RoboTwin-style tasks for two RealMan RM75 arms, in MuJoCo.

Actions have two modes. ``joint``: absolute joint positions of both arms and gripper openings, RoboTwin's layout
[left 7, left gripper, right 7, right gripper]. ``tip``: per arm the offset of the tip's position and yaw from those
commanded when the chunk started, and the gripper's opening; differential kinematics converts it to joint positions.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from robotest.embodiment import workcell
from robotest.embodiment.actions import HOME_TIP, ArmCommands, arm_state, home_joints
from robotest.embodiment.kinematics import DualArmKinematics
from robotest.envs.dual_arm.randomize import randomize
from robotest.envs.dual_arm.tasks import N_POINTS, TASKS, Scene, Task
from robotest.envs.dual_arm.world import CAMERAS, CONTROL_DT, World
from robotest.envs.options import require_known
from robotest.envs.physics import SIMULATOR
from robotest.errors import InvalidActionError
from robotest.randomness import derive, generator
from robotest.specs import Component, EnvSpec, VectorSpec
from robotest.types import EnvOptions, Observation, StepStatus

WORKSPACE_LOW_M: Final = np.array([-0.45, -0.20, -0.02])
WORKSPACE_HIGH_M: Final = np.array([0.45, 0.28, 0.40])
ASPECT: Final = 2
"""Width of the policy's images over their height: the table's work area is wide and shallow."""
_SETTLE_STEPS = 50

_ARM_STATE = (
    ("joints", 7, "rad", "joint_position", 6.2832),
    ("tip", 3, "m", "commanded_position_xyz_world", 1.0),
    ("yaw", 1, "rad", "commanded_turn_about_z_world", 3.1416),
)
STATE: Final = VectorSpec(
    "dual_rm75",
    tuple(
        c
        for side in workcell.SIDES
        for c in (
            *(Component(f"{side}_{n}", k, unit, what, -b, b) for n, k, unit, what, b in _ARM_STATE),
            Component(f"{side}_gripper", 1, "fraction", "measured_opening_0_closed_1_open", 0.0, 1.1),
        )
    ),
)
ACTIONS: Final = {
    "tip": VectorSpec(
        "tip",
        tuple(
            c
            for side in workcell.SIDES
            for c in (
                Component(f"{side}_tip", 3, "m", "position_xyz_world", -0.6, 0.6, "chunk_start"),
                Component(f"{side}_yaw", 1, "rad", "turn_about_z_world", -3.1416, 3.1416, "chunk_start"),
                Component(f"{side}_gripper", 1, "fraction", "opening_0_closed_1_open", 0.0, 1.0),
            )
        ),
    ),
    "joint": VectorSpec(
        "joint",
        tuple(
            c
            for side in workcell.SIDES
            for c in (
                Component(f"{side}_joints", 7, "rad", "joint_position", -6.2832, 6.2832),
                Component(f"{side}_gripper", 1, "fraction", "opening_0_closed_1_open", 0.0, 1.0),
            )
        ),
    ),
}


class DualArmEnv:
    """One task of the suite. Deterministic: an episode is a function of the reset seed and the actions."""

    def __init__(self, task: Task, options: EnvOptions) -> None:
        self._task = task
        self._options = options
        self._world = World(task.objects)
        kinematics = DualArmKinematics()
        self._commands = ArmCommands(options.action_mode, CONTROL_DT, WORKSPACE_LOW_M, WORKSPACE_HIGH_M, kinematics)
        self._home = home_joints(kinematics)
        self._size = (options.image_size, ASPECT * options.image_size)
        self._cameras = CAMERAS if options.cameras is None else options.cameras
        self.spec: Final = EnvSpec(
            name="dual_arm",
            task=task.name,
            setting=options.setting,
            action=ACTIONS[options.action_mode],
            state=STATE,
            cameras=dict.fromkeys(self._cameras, self._size),
            control_dt=CONTROL_DT,
            max_steps=task.max_steps,
            simulator=SIMULATOR,
        )
        self._low, self._high = self.spec.action.low, self.spec.action.high
        self.scene: Scene
        self.instruction = ""
        self._steps = 0
        self._progress = 0
        self._commands.start(HOME_TIP)

    @property
    def world(self) -> World:
        """The simulated world, for scripted experts."""
        return self._world

    @property
    def home(self) -> Float64[np.ndarray, "2 7"]:
        """Joint positions at the start of every episode [rad]."""
        home: Float64[np.ndarray, "2 7"] = self._home.copy()
        return home

    @property
    def commanded(self) -> Float64[np.ndarray, "2 4"]:
        """Tips commanded last: x, y, z [m], yaw [rad]."""
        tips: Float64[np.ndarray, "2 4"] = self._commands.tips.copy()
        return tips

    @property
    def progress(self) -> int:
        """Sub-goals reached so far; -1 after a wrong one."""
        return self._progress

    def reset(self, seed: int, episode: int = 0) -> None:  # noqa: ARG002 - starts are drawn, not numbered
        """Start an episode drawn from `seed`."""
        rng = generator(derive(seed, self.spec.task))
        self._world.reset(self._home)
        if self._options.setting == "randomized":
            randomize(self._world, generator(derive(seed, "randomize")))
        self.scene = self._task.start(self._world, rng)
        templates = self._task.seen if self._options.wording == "seen" else self._task.unseen
        self.instruction = templates[int(rng.integers(len(templates)))].format(**self.scene.words)
        self._world.settle(_SETTLE_STEPS)
        self._world.data.time = 0.0
        self._steps = self._progress = 0
        self._commands.start(HOME_TIP)

    def observe(self) -> Observation:
        """Render the policy's cameras and read the arms."""
        images = {camera: self._world.render(camera, *self._size) for camera in self._cameras}
        joints, openings = self._world.joints(), self._world.openings()
        state = arm_state(joints, self._commands.tips, openings)
        return Observation(images, state, self.instruction, self._steps * CONTROL_DT)

    def points(self) -> Float32[np.ndarray, "K 2"]:
        """Return the head camera's projections of the points to act on, occluded or not; NaN for unused rows.

        For training only; policies do not receive it.
        """
        projections = np.full((N_POINTS, 2), np.nan, np.float32)
        for row, point in zip(projections, self._task.points(self._world, self.scene, self._progress), strict=False):
            row[:] = self._world.project(CAMERAS[0], ASPECT, point)
        return projections

    def begin_chunk(self, actions: Float32[np.ndarray, "h A"]) -> None:  # noqa: ARG002 - no check is needed
        """Measure tip offsets from the tips commanded now."""
        self._commands.begin_chunk()

    def apply(self, action: Float32[np.ndarray, " A"]) -> StepStatus:
        """Execute one action for 0.1 s; numbers outside the spec's bounds are clipped to them."""
        if np.shape(action) != self._low.shape:
            raise InvalidActionError(
                f"action has shape {np.shape(action)}; {self.spec.action.mode} takes {self._low.shape}"
            )
        if not np.all(np.isfinite(action)):
            raise InvalidActionError(f"action is not finite: {np.asarray(action).tolist()}")
        sent = np.clip(np.asarray(action, np.float32), self._low, self._high)
        self._world.move(*self._commands.next(sent, self._world.commanded_joints()))
        success, done = self.judge()
        return StepStatus(success=success, done=done, sent=sent)

    def judge(self) -> tuple[bool, bool]:
        """Count a simulated control step; return whether the goal holds, and whether the episode is over.

        Called by `apply`; for callers that advance the world by other means, such as the simulated controllers.
        """
        self._steps += 1
        self._progress = self._task.progress(self._world, self.scene, self._progress)
        success = self._task.success(self._world, self.scene, self._progress)
        return success, success or self._progress < 0

    def snapshot(self) -> Float64[np.ndarray, " N"]:
        """Steps, progress, commanded tips, chunk anchor, and MuJoCo's integration state."""
        numbers = [
            float(self._steps),
            float(self._progress),
            *self._commands.tips.ravel(),
            *self._commands.anchor.ravel(),
        ]
        return np.concatenate([numbers, self._world.snapshot()])

    def restore(self, state: Float64[np.ndarray, " N"]) -> None:
        """Return to a snapshot of the same episode."""
        self._steps, self._progress = int(state[0]), int(state[1])
        self._commands.tips = state[2:10].reshape(2, 4).copy()
        self._commands.anchor = state[10:18].reshape(2, 4).copy()
        self._world.restore(state[18:])
        self._task.progress(self._world, self.scene, self._progress)  # lights pressed buttons again

    def render(self, camera: str, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return a picture from ``head``, ``left_wrist``, ``right_wrist`` or ``front``."""
        return self._world.render(camera, height, width)

    def stop(self) -> None:
        """Do nothing: a simulator moves only in `apply`."""

    def close(self) -> None:
        """Free the renderers."""
        self._world.close()


@dataclasses.dataclass(frozen=True)
class DualArmSuite:
    """The six tasks, in two settings and two action modes."""

    name: str = "dual_arm"
    tasks: tuple[str, ...] = tuple(TASKS)
    settings: tuple[str, ...] = ("clean", "randomized")
    action_modes: tuple[str, ...] = tuple(ACTIONS)

    def make(self, task: str, options: EnvOptions) -> DualArmEnv:
        """Build one task's environment."""
        require_known(self, task, options, CAMERAS)
        return DualArmEnv(TASKS[task], options)


suite: Final = DualArmSuite()
