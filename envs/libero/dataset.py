"""Reader of LIBERO's official demonstration files, one HDF5 file per task.

Layout (LIBERO, `scripts/create_dataset.py`): ``data/demo_N/{actions f64[T,7], states f64[T,N], obs/{agentview_rgb,
eye_in_hand_rgb u8[T,128,128,3], ee_states f64[T,6], gripper_states f64[T,2]}}``. Pictures are upside down, as robosuite
renders them; they are rotated by 180 degrees here, as in openpi's training data.
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
    """One file, or all files of a folder, as one sequence of demonstrations. Implements `Demonstrations`.

    Args:
        path: a ``*_demo.hdf5`` file, or a folder of them.
        image_size: pictures are resized to this height and width [px]; None: they keep their size.

    Raises:
        ArtifactError: a file is missing, is not LIBERO's, or a demonstration in it does not match the layout.
    """

    def __init__(self, path: Path, image_size: int | None = None) -> None:
        self._image_size = image_size
        files = hdf5.files_of(path, hdf5.LIBERO_SUFFIX) if hdf5.is_folder(path) else [path]
        demos: list[hdf5.Demo] = []
        sizes: dict[str, tuple[int, int]] = {}
        with hdf5.damaged(path), contextlib.ExitStack() as stack:
            for file in files:
                file_demos = hdf5.demos_of(file, stack.enter_context(_open(file)))
                if file_demos and not sizes:
                    hdf5.check_demo(file_demos[0], _layout({}))
                    sizes = {camera: file_demos[0].size(key) for camera, key in _CAMERAS.items()}
                hdf5.check(file, file_demos, _layout({} if image_size else sizes))
                demos += file_demos
            if not demos:
                raise ArtifactError(f"{path} contains no demonstrations; {hdf5.READS}")
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

    def _info(self, demo: hdf5.Demo, index: int) -> DemonstrationInfo:  # noqa: ARG002 - the same for all
        task = demo.file.name.removesuffix(hdf5.LIBERO_SUFFIX)
        return DemonstrationInfo(task, "official", "human", 0, instruction(task), success=True)


def _layout(sizes: dict[str, tuple[int, int]]) -> hdf5.Layout:
    """Return the layout of every demonstration; pictures of cameras without a size may have any."""
    films = {key: sizes.get(camera) for camera, key in _CAMERAS.items()}
    return hdf5.Layout((_ACTIONS, _ARM, _GRIPPER, _STATES), films)


def _open(file: Path) -> Any:
    handle = hdf5.opened(file)
    try:
        json.loads(handle["data"].attrs["problem_info"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        handle.close()
        raise ArtifactError(f"{file} is not one of LIBERO's demonstration files ({error}); {hdf5.READS}") from error
    return handle
