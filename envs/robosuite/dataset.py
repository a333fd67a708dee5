"""robomimic's files of robosuite tasks, with pictures, read as ours are.

Layout (robomimic 0.3, `scripts/dataset_states_to_obs.py`): ``data/demo_N/{actions f64[T,A], states f64[T,N], obs/
{<camera>_image u8[T,h,w,3], robotK_eef_pos f64[T,3], robotK_eef_quat f64[T,4], robotK_gripper_qpos f64[T,2]}}``, and in
the attribute ``env_args`` of ``data`` how the environment was built. Pictures are upright. A quaternion is x, y, z, w.

What an action means stands in ``env_args`` alone. A file is read if that is what `robotest.envs.robosuite.suite` does:
Panda arms, OSC_POSE with offsets of 0.05 m and 0.5 rad, 20 Hz. Everything else is refused: numbers of the same size
would be taken for something they are not.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from robotest.demonstrations import hdf5
from robotest.demonstrations.files import DatasetSpec, Demonstration, DemonstrationInfo
from robotest.envs.robosuite.suite import CAMERAS, TASKS
from robotest.envs.robosuite.world import (
    CONTROL_HZ,
    POSITION_SCALE_M,
    ROTATION_SCALE_RAD,
    action_layout,
    axis_angle,
    state_layout,
)
from robotest.errors import ArtifactError

_ROBOSUITE: Final = 1  # robomimic's EnvType
_OUTPUT: Final = [POSITION_SCALE_M] * 3 + [ROTATION_SCALE_RAD] * 3
_ACTIONS: Final = "actions"
_STATES: Final = hdf5.Numbers("states", None, required=False, dtype="float64")


class RobomimicDataset(hdf5.HdfDemonstrations):
    """One file as a sequence of demonstrations. Implements `Demonstrations`.

    Args:
        path: an HDF5 file with pictures.
        image_size: pictures are resized to this height and width [px]; None: as they are.

    Raises:
        ArtifactError: what its actions mean is not known or not what is done here, it holds no pictures, or a
            demonstration in it is damaged or lacks something.
    """

    def __init__(self, path: Path, image_size: int | None = None) -> None:
        self._image_size = image_size
        with hdf5.damaged(path), contextlib.ExitStack() as stack:
            file = stack.enter_context(hdf5.opened(path))
            self._task = _task(path, hdf5.group_of(path, file).attrs)
            task = TASKS[self._task]
            demos = hdf5.demos_of(path, file)
            if not demos:
                raise ArtifactError(f"{path} holds no demonstration; {hdf5.READS}")
            self._films = _films(demos[0], CAMERAS[task.n_arms])
            self._arms = tuple(_arm(i, grippers=task.grippers) for i in range(task.n_arms))
            action = action_layout(task.n_arms, grippers=task.grippers)
            numbers = (hdf5.Numbers(_ACTIONS, (action.size,)), *(n for arm in self._arms for n in arm), _STATES)
            free = hdf5.Layout(numbers, dict.fromkeys(self._films.values()))
            hdf5.check_demo(demos[0], free)
            sizes = {camera: demos[0].size(key) for camera, key in self._films.items()}
            films = {key: None if image_size else sizes[camera] for camera, key in self._films.items()}
            layout = hdf5.Layout(numbers, films)
            hdf5.check(path, demos, layout)
            super().__init__(path, stack.pop_all(), demos, layout)
        self.spec = DatasetSpec(
            env=f"robosuite/{self._task}",
            action=action,
            state=state_layout(task.n_arms, grippers=task.grippers),
            cameras=dict.fromkeys(self._films, (image_size, image_size)) if image_size else sizes,
            control_dt=1 / CONTROL_HZ,
            mixture={"human": 1.0},
        )

    def _read(self, demo: hdf5.Demo, info: DemonstrationInfo) -> Demonstration:
        actions = demo.numbers(self._layout.numbers[0])
        return Demonstration(
            info=info,
            images={camera: hdf5.resized(demo.pictures(key), self._image_size) for camera, key in self._films.items()},
            state=np.concatenate([part for arm in self._arms for part in _arm_state(demo, arm)], axis=1),
            actions=actions,
            anchors=np.zeros_like(actions),
            points=np.zeros((len(actions), 0, 2), np.float32),
            states=demo.numbers(_STATES) if demo.has(_STATES.key) else None,
        )

    def _info(self, demo: hdf5.Demo, index: int) -> DemonstrationInfo:  # noqa: ARG002 - all are of one kind
        words = TASKS[self._task].seen  # the words are ours, each in its turn
        return DemonstrationInfo(self._task, "official", "human", 0, words[index % len(words)], success=True)


def _arm(number: int, *, grippers: bool) -> tuple[hdf5.Numbers, ...]:
    """Position, quaternion and fingers of an arm."""
    robot = f"obs/robot{number}"
    parts = (hdf5.Numbers(f"{robot}_eef_pos", (3,)), hdf5.Numbers(f"{robot}_eef_quat", (4,)))
    return (*parts, hdf5.Numbers(f"{robot}_gripper_qpos", (2,))) if grippers else parts


def _arm_state(demo: hdf5.Demo, arm: tuple[hdf5.Numbers, ...]) -> Iterator[Any]:
    """What `state_layout` has of an arm."""
    position, quaternion, *fingers = (demo.numbers(n) for n in arm)
    yield position
    yield np.stack([axis_angle(q) for q in quaternion[:, [3, 0, 1, 2]].astype(np.float64)]).astype(np.float32)
    yield from fingers


def _films(first: hdf5.Demo, cameras: tuple[str, ...]) -> dict[str, str]:
    """Return camera -> key of the pictures that the first demonstration has of those that the environment has."""
    keys = {camera: f"obs/{camera}_image" for camera in cameras}
    found = {camera: key for camera, key in keys.items() if first.has(key)}
    if not found:
        raise ArtifactError(
            f"{first.file}: {first.name} holds none of the pictures {', '.join(keys.values())}; a policy is trained on"
            f" pictures: make them with robomimic's dataset_states_to_obs.py --camera_names {' '.join(cameras)}"
            " --camera_height 84 --camera_width 84"
        )
    return found


def _task(path: Path, attributes: Any) -> str:
    """Return the task, if actions and states mean here what they mean in the file."""
    try:
        told = json.loads(attributes["env_args"])
        name, kwargs = str(told["env_name"]), dict(told["env_kwargs"])
        kind = told["type"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: its attribute 'env_args' is damaged or lacks parts ({error!r})") from error
    if kind != _ROBOSUITE or name not in TASKS:
        raise ArtifactError(
            f"{path} is a robomimic file of {name!r} (type {kind}); only robosuite tasks are read, of these:"
            f" {', '.join(TASKS)}"
        )
    for what, needed, given in _conventions(TASKS[name].n_arms, kwargs):
        if given != needed:
            raise ArtifactError(
                f"{path}: 'env_args' says {what} {given!r}, {needed!r} is needed: its actions would mean something else"
                f" in robosuite/{name}"
            )
    return name


def _conventions(n_arms: int, kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield what, what is needed and what is given."""
    robots = kwargs.get("robots")
    yield "robots", ["Panda"] * n_arms, [robots] if isinstance(robots, str) else robots
    yield "control_freq", CONTROL_HZ, kwargs.get("control_freq")
    controllers = kwargs.get("controller_configs")
    for controller in controllers if isinstance(controllers, list) and controllers else [controllers]:
        told: Mapping[str, Any] = controller if isinstance(controller, Mapping) else {}
        yield "controller", "OSC_POSE", told.get("type")
        yield "control_delta", True, told.get("control_delta", True)
        yield "impedance_mode", "fixed", told.get("impedance_mode", "fixed")
        for end, sign in (("max", 1), ("min", -1)):
            yield f"input_{end}", [float(sign)] * 6, _six(told.get(f"input_{end}"))
            yield f"output_{end}", [sign * limit for limit in _OUTPUT], _six(told.get(f"output_{end}"))


def _six(given: Any) -> Any:
    """Return one limit for each number; robosuite allows one for all of them."""
    return [float(given)] * 6 if isinstance(given, int | float) else given
