"""LIBERO's official demonstration files, one HDF5 file for each task, read as ours are.

Layout (LIBERO, `scripts/create_dataset.py`): ``data/demo_N/{actions f64[T,7], states f64[T,N], obs/{agentview_rgb,
eye_in_hand_rgb u8[T,128,128,3], ee_states f64[T,6], gripper_states f64[T,2]}}``. Pictures are upside down, as robosuite
renders them; they are turned by 180 degrees here, as for the policies that are trained on them.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from robotest.demonstrations import hdf5
from robotest.demonstrations.files import DatasetSpec, Demonstration, DemonstrationInfo
from robotest.envs.libero.files import instruction
from robotest.envs.robosuite.world import CONTROL_HZ, action_layout, state_layout
from robotest.errors import ArtifactError

_CAMERAS: Final = {"agentview": "obs/agentview_rgb", "robot0_eye_in_hand": "obs/eye_in_hand_rgb"}
_ACTIONS: Final = hdf5.Numbers("actions", (7,))
_ARM: Final = hdf5.Numbers("obs/ee_states", (6,))
_GRIPPER: Final = hdf5.Numbers("obs/gripper_states", (2,))
_STATES: Final = hdf5.Numbers("states", None, required=False, dtype="float64")


class LiberoDataset(hdf5.HdfDemonstrations):
    """Files of a folder, or one file, as one sequence of demonstrations. Implements `Demonstrations`.

    Args:
        path: a ``*_demo.hdf5`` file, or a folder of them.
        image_size: pictures are resized to this height and width [px]; None: as they are.

    Raises:
        ArtifactError: there is no such file, it is none of LIBERO's, or a demonstration in it is not as they are.
    """

    def __init__(self, path: Path, image_size: int | None = None) -> None:
        self._image_size = image_size
        files = hdf5.files_of(path, hdf5.LIBERO_SUFFIX) if hdf5.is_folder(path) else [path]
        demos: list[hdf5.Demo] = []
        sizes: dict[str, tuple[int, int]] = {}
        with hdf5.damaged(path), contextlib.ExitStack() as stack:
            for file in files:
                found = hdf5.demos_of(file, stack.enter_context(_open(file)))
                if found and not sizes:
                    hdf5.check_demo(found[0], _layout({}))
                    sizes = {camera: found[0].size(key) for camera, key in _CAMERAS.items()}
                hdf5.check(file, found, _layout({} if image_size else sizes))
                demos += found
            if not demos:
                raise ArtifactError(f"{path} holds no demonstration; {hdf5.READS}")
            super().__init__(path, stack.pop_all(), demos, _layout({}))
        self.spec = DatasetSpec(
            env="libero",
            action=action_layout(1),
            state=state_layout(1),
            cameras=dict.fromkeys(_CAMERAS, (image_size, image_size)) if image_size else sizes,
            control_dt=1 / CONTROL_HZ,
            mixture={"human": 1.0},
        )

    def _read(self, demo: hdf5.Demo, info: DemonstrationInfo) -> Demonstration:
        actions = demo.numbers(_ACTIONS)
        return Demonstration(
            info=info,
            images={
                camera: hdf5.resized(np.ascontiguousarray(demo.pictures(key)[:, ::-1, ::-1]), self._image_size)
                for camera, key in _CAMERAS.items()
            },
            state=np.concatenate([demo.numbers(_ARM), demo.numbers(_GRIPPER)], axis=1),
            actions=actions,
            anchors=np.zeros_like(actions),
            points=np.zeros((len(actions), 0, 2), np.float32),
            states=demo.numbers(_STATES) if demo.has(_STATES.key) else None,
        )

    def _info(self, demo: hdf5.Demo, index: int) -> DemonstrationInfo:  # noqa: ARG002 - all are of one kind
        task = demo.file.name.removesuffix(hdf5.LIBERO_SUFFIX)
        return DemonstrationInfo(task, "official", "human", 0, instruction(task), success=True)


def _layout(sizes: dict[str, tuple[int, int]]) -> hdf5.Layout:
    """What every demonstration has; pictures of any size where none is given."""
    films = {key: sizes.get(camera) for camera, key in _CAMERAS.items()}
    return hdf5.Layout((_ACTIONS, _ARM, _GRIPPER, _STATES), films)


def _open(file: Path) -> Any:
    opened = hdf5.opened(file)
    try:
        json.loads(opened["data"].attrs["problem_info"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        opened.close()
        raise ArtifactError(f"{file} is not one of LIBERO's demonstration files ({error}); {hdf5.READS}") from error
    return opened
