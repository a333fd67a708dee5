"""Reader of robomimic's files of robosuite tasks, with pictures.

Layout (robomimic 0.3, `scripts/dataset_states_to_obs.py`): ``data/demo_N/{actions f64[T,A], states f64[T,N], obs/
{<camera>_image u8[T,h,w,3], robotK_eef_pos f64[T,3], robotK_eef_quat f64[T,4], robotK_gripper_qpos f64[T,2]}}``, and in
the attribute ``env_args`` of ``data`` the arguments of the environment. Pictures are upright; quaternions x, y, z, w.

Only ``env_args`` defines the meaning of an action. A file is read if its conventions are those of
`robotest.envs.robosuite.suite`: Panda arms, OSC_POSE with offsets of 0.05 m and 0.5 rad, 20 Hz. Everything else is
refused: actions of the same size would be misinterpreted.
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
        image_size: pictures are resized to this height and width [px]; None: they keep their size.

    Raises:
        ArtifactError: its conventions are unknown or unsupported, it holds no pictures, or a demonstration in it is
            damaged or incomplete.
    """

    def __init__(self, path: Path, image_size: int | None = None) -> None:
        self._image_size = image_size
        with hdf5.damaged(path), contextlib.ExitStack() as stack:
            file = stack.enter_context(hdf5.opened(path))
            self._task = _task(path, hdf5.group_of(path, file).attrs)
            task = TASKS[self._task]
            demos = hdf5.demos_of(path, file)
            if not demos:
                raise ArtifactError(f"{path} contains no demonstrations; {hdf5.READS}")
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

    def _info(self, demo: hdf5.Demo, index: int) -> DemonstrationInfo:  # noqa: ARG002 - the same for all
        words = TASKS[self._task].seen  # robosuite has no wordings: cycle through robotest's
        return DemonstrationInfo(self._task, "official", "human", 0, words[index % len(words)], success=True)


def _arm(number: int, *, grippers: bool) -> tuple[hdf5.Numbers, ...]:
    """Return the datasets of an arm: position, quaternion, fingers."""
    robot = f"obs/robot{number}"
    parts = (hdf5.Numbers(f"{robot}_eef_pos", (3,)), hdf5.Numbers(f"{robot}_eef_quat", (4,)))
    return (*parts, hdf5.Numbers(f"{robot}_gripper_qpos", (2,))) if grippers else parts


def _arm_state(demo: hdf5.Demo, arm: tuple[hdf5.Numbers, ...]) -> Iterator[Any]:
    """Yield an arm's parts of `state_layout`."""
    position, quaternion, *fingers = (demo.numbers(n) for n in arm)
    yield position
    yield np.stack([axis_angle(q) for q in quaternion[:, [3, 0, 1, 2]].astype(np.float64)]).astype(np.float32)
    yield from fingers


def _films(first: hdf5.Demo, cameras: tuple[str, ...]) -> dict[str, str]:
    """Return camera -> key of pictures, for the environment's cameras that the first demonstration has."""
    keys = {camera: f"obs/{camera}_image" for camera in cameras}
    available = {camera: key for camera, key in keys.items() if first.has(key)}
    if not available:
        raise ArtifactError(
            f"{first.file}: {first.name} has none of the pictures {', '.join(keys.values())}, which training needs:"
            f" render them with robomimic's dataset_states_to_obs.py --camera_names {' '.join(cameras)}"
            " --camera_height 84 --camera_width 84"
        )
    return available


def _task(path: Path, attributes: Any) -> str:
    """Return the task after checking the file's conventions for actions and states."""
    try:
        env_args = json.loads(attributes["env_args"])
        name, kwargs = str(env_args["env_name"]), dict(env_args["env_kwargs"])
        kind = env_args["type"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: its attribute 'env_args' is damaged or lacks parts ({error!r})") from error
    if kind != _ROBOSUITE or name not in TASKS:
        raise ArtifactError(
            f"{path} is a robomimic file of {name!r} (type {kind}); only robosuite tasks are read, of these:"
            f" {', '.join(TASKS)}"
        )
    for what, expected, actual in _conventions(TASKS[name].n_arms, kwargs):
        if actual != expected:
            raise ArtifactError(
                f"{path}: {what} in 'env_args' is {actual!r}; it must be {expected!r}: the actions would have another"
                f" meaning in robosuite/{name}"
            )
    return name


def _conventions(n_arms: int, kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, expected value, actual value) of every convention."""
    robots = kwargs.get("robots")
    yield "robots", ["Panda"] * n_arms, [robots] if isinstance(robots, str) else robots
    yield "control_freq", CONTROL_HZ, kwargs.get("control_freq")
    controllers = kwargs.get("controller_configs")
    for controller in controllers if isinstance(controllers, list) and controllers else [controllers]:
        settings: Mapping[str, Any] = controller if isinstance(controller, Mapping) else {}
        yield "controller", "OSC_POSE", settings.get("type")
        yield "control_delta", True, settings.get("control_delta", True)
        yield "impedance_mode", "fixed", settings.get("impedance_mode", "fixed")
        for end, sign in (("max", 1), ("min", -1)):
            yield f"input_{end}", [float(sign)] * 6, _six(settings.get(f"input_{end}"))
            yield f"output_{end}", [sign * limit for limit in _OUTPUT], _six(settings.get(f"output_{end}"))


def _six(limits: Any) -> Any:
    """Return one limit per component; robosuite allows a single number for all."""
    return [float(limits)] * 6 if isinstance(limits, int | float) else limits
