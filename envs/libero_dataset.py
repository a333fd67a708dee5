"""LIBERO's official demonstration files, one HDF5 file for each task, read as ours are.

Layout (LIBERO, `scripts/create_dataset.py`): ``data/demo_N/{actions f64[T,7], states f64[T,N], obs/{agentview_rgb,
eye_in_hand_rgb u8[T,128,128,3], ee_states f64[T,6], gripper_states f64[T,2]}}``. Pictures are upside down, as robosuite
renders them; they are turned by 180 degrees here, as for the policies that are trained on them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from robotest.demonstrations import DatasetSpec, Demonstration, DemonstrationInfo
from robotest.envs.libero_files import instruction
from robotest.envs.robosuite_world import CONTROL_HZ, action_layout, state_layout
from robotest.errors import ArtifactError

SUFFIX: Final = "_demo.hdf5"
_CAMERAS: Final = {"agentview": "agentview_rgb", "robot0_eye_in_hand": "eye_in_hand_rgb"}
_NEEDED: Final = ("actions", "states", "obs/ee_states", "obs/gripper_states", *(f"obs/{n}" for n in _CAMERAS.values()))


class LiberoDataset:
    """Files of a folder, or one file, as one sequence of demonstrations. Implements `Demonstrations`.

    Args:
        path: a ``*_demo.hdf5`` file, or a folder of them.
        image_size: pictures are resized to this height and width [px]; None: as they are.

    Raises:
        ArtifactError: there is no such file, or it is none of LIBERO's.
    """

    def __init__(self, path: Path, image_size: int | None = None) -> None:
        self.path = path
        self._size = image_size
        self._stack = contextlib.ExitStack()
        files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not files:
            raise ArtifactError(f"{path} holds no *{SUFFIX} file; give LIBERO's folder of a suite, or one of its files")
        self._groups: list[tuple[str, Any]] = []
        for file in files:
            opened = self._stack.enter_context(_open(file))
            names = sorted(opened["data"], key=lambda name: int(name.rpartition("_")[2]))
            self._groups += [(file.name.removesuffix(SUFFIX), opened["data"][name]) for name in names]
        for task, group in self._groups[:1]:
            missing = [name for name in _NEEDED if name not in group]
            if missing:
                raise ArtifactError(f"{path} is none of LIBERO's files: {task} lacks {', '.join(missing)}")
        height = image_size or (self._groups[0][1]["obs/agentview_rgb"].shape[1] if self._groups else 0)
        self.spec: Final = DatasetSpec(
            env="libero",
            action=action_layout(1),
            state=state_layout(1),
            cameras=dict.fromkeys(_CAMERAS, (height, height)),
            control_dt=1 / CONTROL_HZ,
            mixture={"human": 1.0},
        )

    def __enter__(self) -> LiberoDataset:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> Demonstration:
        """Read demonstration `index`; `IndexError` past the last one."""
        _, group = self._group(index)
        actions = group["actions"][:].astype(np.float32)
        state = np.concatenate([group["obs/ee_states"][:], group["obs/gripper_states"][:]], axis=1)
        return Demonstration(
            info=self.info(index),
            images={camera: self._pictures(group[f"obs/{name}"]) for camera, name in _CAMERAS.items()},
            state=state.astype(np.float32),
            actions=actions,
            anchors=np.zeros_like(actions),
            points=np.zeros((len(actions), 0, 2), np.float32),
            states=group["states"][:],
        )

    def __iter__(self) -> Iterator[Demonstration]:
        for index in range(len(self)):
            yield self[index]

    def info(self, index: int) -> DemonstrationInfo:
        """Return what is known of demonstration `index` without reading its arrays; people gave them all."""
        task, _ = self._group(index)
        return DemonstrationInfo(task, "official", "human", 0, instruction(task), success=True)

    def steps(self, index: int) -> int:
        """Return the number of steps of demonstration `index` without reading its arrays."""
        return int(self._group(index)[1]["actions"].shape[0])

    def _group(self, index: int) -> tuple[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"demonstration {index} of {len(self)}")
        return self._groups[index]

    def _pictures(self, stored: Any) -> UInt8[np.ndarray, "T h w 3"]:
        turned: UInt8[np.ndarray, "T h w 3"] = np.ascontiguousarray(stored[:][:, ::-1, ::-1])
        if self._size is None or self._size == turned.shape[1]:
            return turned
        size = (self._size, self._size)
        return np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BILINEAR)) for p in turned])


def is_libero(path: Path) -> bool:
    """Return whether a path is one of LIBERO's files or folders, and not one of ours."""
    if path.is_dir():
        return any(path.glob(f"*{SUFFIX}"))
    try:
        with h5py.File(path, "r") as file:
            return "data" in file and "problem_info" in file["data"].attrs
    except OSError:
        return False


def _open(file: Path) -> Any:
    try:
        opened = h5py.File(file, "r")
        json.loads(opened["data"].attrs["problem_info"])
    except (OSError, KeyError, ValueError) as error:
        raise ArtifactError(f"{file} is not one of LIBERO's demonstration files ({error})") from error
    return opened
