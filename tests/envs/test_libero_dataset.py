"""Reading LIBERO's official files, written here in the same layout: the originals are downloads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robotest.demonstrations import files
from robotest.demonstrations.files import Demonstrations
from robotest.envs.libero.dataset import LiberoDataset
from robotest.errors import ArtifactError

TASK = "pick_up_the_milk_and_place_it_in_the_basket"


def write(path: Path, lengths: tuple[int, ...] = (4, 6)) -> dict[str, Any]:
    """As `scripts/create_dataset.py` of LIBERO does; demo_10 comes after demo_9, not after demo_1."""
    rng = np.random.default_rng(0)
    kept: dict[str, Any] = {}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps({"language_instruction": "pick the milk"})
        data.attrs["env_args"] = json.dumps({"type": 1, "env_name": "Libero_Floor_Manipulation", "env_kwargs": {}})
        data.attrs["macros_image_convention"] = "opengl"
        for i, n in enumerate(lengths):
            demo = data.create_group(f"demo_{i if i < 2 else 9 + i}")
            demo["actions"] = rng.uniform(-1, 1, (n, 7))
            demo["states"] = rng.standard_normal((n, 110))
            demo["obs/ee_states"] = rng.standard_normal((n, 6))
            demo["obs/gripper_states"] = rng.standard_normal((n, 2))
            for name in ("agentview_rgb", "eye_in_hand_rgb"):
                demo[f"obs/{name}"] = rng.integers(0, 256, (n, 128, 128, 3), np.uint8)
            kept[demo.name] = {k: demo[k][:] for k in ("actions", "obs/agentview_rgb", "obs/ee_states")}
    return kept


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / f"{TASK}_demo.hdf5"
    kept = write(path)
    with files.read(path) as data:
        assert isinstance(data, Demonstrations)
        assert (len(data), data.steps(0), data.steps(1)) == (2, 4, 6)
        first = data[0]
        assert first.info.instruction == "pick up the milk and place it in the basket"
        assert data.spec.cameras == {"agentview": (128, 128), "robot0_eye_in_hand": (128, 128)}
        upside_down = kept["/data/demo_0"]["obs/agentview_rgb"]
        np.testing.assert_array_equal(first.images["agentview"], upside_down[:, ::-1, ::-1])
        np.testing.assert_allclose(first.actions, kept["/data/demo_0"]["actions"], rtol=1e-6)
        np.testing.assert_allclose(first.state[:, :6], kept["/data/demo_0"]["obs/ee_states"], rtol=1e-6)
        assert first.state.shape == (4, 8)
        assert data.spec.action.size == 7
        with pytest.raises(IndexError):
            data[2]


def test_a_folder_is_a_suite_and_pictures_are_resized(tmp_path: Path) -> None:
    for task in (TASK, TASK.replace("milk", "butter")):
        write(tmp_path / f"{task}_demo.hdf5", (2,))
    with files.read(tmp_path, 64) as data:
        assert [data.info(i).task for i in range(len(data))] == [TASK.replace("milk", "butter"), TASK]
        assert all(each.images["agentview"].shape == (2, 64, 64, 3) for each in data)
        assert data.spec.cameras["agentview"] == (64, 64)


def test_demonstrations_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / f"{TASK}_demo.hdf5"
    write(path, (2, 3, 4))
    with h5py.File(path, "a") as file:
        file.copy("data/demo_11", "data/demo_2")
    with LiberoDataset(path) as data:
        assert [data.steps(i) for i in range(4)] == [2, 3, 4, 4]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        files.read(tmp_path / "none.h5")
    other = tmp_path / "x_demo.hdf5"
    with h5py.File(other, "w") as file:
        file.create_group("data/demo_0")
    with pytest.raises(ArtifactError, match="not a robotest-demonstrations"):
        files.read(other)
    with pytest.raises(ArtifactError, match="not one of LIBERO's"):
        LiberoDataset(other)
    with h5py.File(other, "a") as file:
        file["data"].attrs["problem_info"] = "{}"
    with pytest.raises(ArtifactError, match="lacks actions"):
        files.read(other)
    with pytest.raises(ArtifactError, match="holds no"):
        LiberoDataset(tmp_path / "..")
