"""robosuite's tasks (Zhu et al. 2020, arXiv 2009.12293), each a suite of one task: ``robosuite/Lift``.

Starts, physics and success are robosuite 1.4's. The instructions are robotest's: robosuite has none.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from robotest.envs.options import require_known
from robotest.envs.physics import SIMULATOR
from robotest.envs.robosuite.env import PATIENCE_S, RobosuiteEnv, worded
from robotest.envs.robosuite.world import CONTROL_HZ, RobosuiteWorld, action_layout, import_robosuite, state_layout
from robotest.errors import UnknownNameError
from robotest.specs import EnvSpec
from robotest.types import EnvOptions

CAMERAS: Final = {
    1: ("agentview", "robot0_eye_in_hand"),
    2: ("agentview", "robot0_eye_in_hand", "robot1_eye_in_hand"),
}
"""Number of arms -> cameras of the policy."""
MAX_STEPS: Final = 500
"""The horizon of robosuite's published benchmark: 500 steps an episode at 20 Hz, for every task."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of robosuite.

    Attributes:
        seen: wordings in training.
        unseen: wordings not used in training.
        n_arms: one Panda, or two facing each other.
        grippers: whether the arms have grippers, or fixed tools.
    """

    seen: tuple[str, ...]
    unseen: tuple[str, ...]
    n_arms: int = 1
    grippers: bool = True


def _into_bin(thing: str) -> Task:
    return Task(
        (f"put the {thing} in its bin", f"place the {thing} into the bin it belongs to"),
        (f"sort the {thing} into the right compartment", f"move the {thing} over to where it is stored"),
    )


TASKS: Final = {
    "Lift": Task(
        ("lift the red cube", "pick up the red cube"),
        ("raise the cube off the table", "take the red block and hold it up"),
    ),
    "Stack": Task(
        ("stack the red cube on the green cube", "put the red cube on top of the green cube"),
        ("pile the red block onto the green one", "set the small red cube down on the green cube"),
    ),
    "Door": Task(
        ("open the door", "turn the handle and open the door"),
        ("pull the door open by its handle", "unlatch the door and swing it open"),
    ),
    "NutAssembly": Task(
        ("put both nuts on their pegs", "fit the square nut on the square peg and the round nut on the round peg"),
        ("slide each nut over the peg of its shape", "assemble the nuts with the matching pegs"),
    ),
    "NutAssemblySquare": Task(
        ("put the square nut on the square peg", "fit the square nut over its peg"),
        ("slide the square nut down the peg of its shape", "hang the square nut on the matching peg"),
    ),
    "NutAssemblyRound": Task(
        ("put the round nut on the round peg", "fit the round nut over its peg"),
        ("slide the round nut down the peg of its shape", "hang the round nut on the matching peg"),
    ),
    "PickPlace": Task(
        ("put every object in its bin", "place the milk, the bread, the cereal and the can into their bins"),
        ("sort the groceries into their compartments", "clear the left bin, each thing to where it belongs"),
    ),
    "PickPlaceCan": _into_bin("can"),
    "PickPlaceMilk": _into_bin("milk"),
    "PickPlaceBread": _into_bin("bread"),
    "PickPlaceCereal": _into_bin("cereal"),
    "TwoArmLift": Task(
        ("lift the pot with both arms", "pick up the pot by its two handles"),
        ("raise the pot off the table, one hand at each handle", "hold the pot up and keep it level"),
        n_arms=2,
    ),
    "TwoArmPegInHole": Task(
        ("put the peg in the hole", "insert the peg into the hole of the plate"),
        ("push the peg through the plate's opening", "bring plate and peg together until the peg is inside"),
        n_arms=2,
        grippers=False,
    ),
    "TwoArmHandover": Task(
        ("hand the hammer over to the other arm", "pick up the hammer and pass it to the other arm"),
        ("give the hammer from one gripper to the other", "let the second arm take the hammer by its handle"),
        n_arms=2,
    ),
}
"""All but three of robosuite's tasks. ``Wipe`` keeps the wiped markers and its force sensor's bias outside MuJoCo's
state; ``PickPlaceSingle`` and ``NutAssemblySingle`` choose an object in an order that differs between processes."""


class RobosuiteTaskEnv(RobosuiteEnv):
    """One of robosuite's tasks with Panda arms under OSC_POSE control.

    Args:
        task: a key of `TASKS`.
        options: see `EnvOptions`.
    """

    def __init__(self, task: str, options: EnvOptions) -> None:
        self._task, self._wording = TASKS[task], options.wording
        n_arms, grippers = self._task.n_arms, self._task.grippers
        cameras = CAMERAS[n_arms] if options.cameras is None else options.cameras
        spec = EnvSpec(
            name=f"robosuite/{task}",
            task=task,
            setting=options.setting,
            action=action_layout(n_arms, grippers=grippers),
            state=state_layout(n_arms, grippers=grippers),
            cameras=dict.fromkeys(cameras, (options.image_size, options.image_size)),
            control_dt=1 / CONTROL_HZ,
            max_steps=MAX_STEPS,
            patience_s=PATIENCE_S,
            simulator=SIMULATOR,
        )
        super().__init__(RobosuiteWorld(lambda **others: _build(task, **others)), spec)

    def reset(self, seed: int, episode: int = 0) -> None:  # noqa: ARG002 - starts are drawn, not numbered
        """Start an episode, drawn by robosuite from `seed`."""
        self.world.reset(seed)
        for robot in self.world.env.robots:
            # Otherwise the first action would use a mass matrix computed before the fingers were in place (an error of
            # about 1e-7 rad), and restoring a start from its snapshot would not be exact.
            robot.controller.new_update = True
        self._begin(worded(self._task.seen, self._task.unseen, self._wording, seed))


def _build(task: str, **others: Any) -> Any:
    robosuite = import_robosuite()
    return robosuite.make(
        task,
        robots=["Panda"] * TASKS[task].n_arms,
        gripper_types="default" if TASKS[task].grippers else None,
        controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
        use_object_obs=False,  # these sensors are not read, and two tasks expect to find them at every reset
        **others,
    )


@dataclasses.dataclass(frozen=True)
class RobosuiteSuite:
    """A suite of one robosuite task."""

    name: str
    tasks: tuple[str, ...]
    settings: tuple[str, ...] = ("default",)
    action_modes: tuple[str, ...] = (action_layout(1).mode,)

    def make(self, task: str, options: EnvOptions) -> RobosuiteTaskEnv:
        """Build the task's environment."""
        require_known(self, task, options, CAMERAS[TASKS[self.tasks[0]].n_arms])
        return RobosuiteTaskEnv(task, options)


def suite(member: str) -> RobosuiteSuite:
    """Return the suite of one task.

    Raises:
        RobotestError: robosuite 1.4 is not installed.
        UnknownNameError: robosuite has no such task, or it is not supported here.
    """
    if member not in TASKS:
        raise UnknownNameError("task of robosuite", member, TASKS)
    import_robosuite()
    return RobosuiteSuite(f"robosuite/{member}", (member,))
