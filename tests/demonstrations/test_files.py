from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robotest.demonstrations.files import (
    DatasetSpec,
    Demonstration,
    DemonstrationFile,
    DemonstrationInfo,
    DemonstrationWriter,
    chunk_labels,
)
from robotest.errors import ArtifactError, InvalidActionError, SpecMismatchError
from robotest.specs import Component, VectorSpec

SPEC = DatasetSpec(
    env="dual_arm",
    action=VectorSpec("tip", (Component("left_tip", 3, "m", "position_xyz_world", -1, 1, "chunk_start"),)),
    state=VectorSpec("tip", (Component("left_joint", 2, "rad", "joint_position", -3, 3),)),
    cameras={"head": (4, 6)},
    control_dt=0.1,
    mixture={"clean": 1.0},
    n_points=2,
)


def demonstration(seed: int, n_steps: int = 5) -> Demonstration:
    rng = np.random.default_rng(seed)
    return Demonstration(
        info=DemonstrationInfo("press", "clean", "detour", seed, "press red, then green", True),
        images={"head": rng.integers(0, 256, (n_steps, 4, 6, 3), np.uint8)},
        state=rng.standard_normal((n_steps, 2), np.float32),
        actions=rng.standard_normal((n_steps, 3), np.float32),
        anchors=rng.standard_normal((n_steps, 3), np.float32),
        points=np.where(rng.random((n_steps, 2, 1)) < 0.2, np.nan, rng.random((n_steps, 2, 2), np.float32)),
    )


def write(path: Path, *demonstrations: Demonstration) -> None:
    with DemonstrationWriter(path, SPEC) as writer:
        for each in demonstrations:
            writer.append(each)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "demos.h5"
    written = [demonstration(0), demonstration(2**64 - 1, n_steps=40)]
    write(path, *written)
    with DemonstrationFile(path) as file:
        assert file.spec == SPEC
        assert [file.steps(i) for i in range(len(file))] == [5, 40]
        for mine, theirs in zip(written, file, strict=True):
            assert mine.info == theirs.info
            for name in ("state", "actions", "anchors", "points"):
                np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
            np.testing.assert_array_equal(mine.images["head"], theirs.images["head"])
        with pytest.raises(IndexError):
            file[2]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "demos.h5"
    write(path, demonstration(0))
    bad = dataclasses.replace(demonstration(2), images={})
    with pytest.raises(SpecMismatchError):
        write(path, demonstration(1), bad)
    with DemonstrationFile(path) as file:
        assert len(file) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    good = demonstration(0)
    bad = [
        dataclasses.replace(good, state=good.state[:, :1]),
        dataclasses.replace(good, anchors=good.anchors[:-1]),
        dataclasses.replace(good, points=good.points[:, :1]),
        dataclasses.replace(good, images={}),
        dataclasses.replace(good, images={"head": good.images["head"][:, :2]}),
        demonstration(0, n_steps=0),
    ]
    with DemonstrationWriter(tmp_path / "demos.h5", SPEC) as writer:
        for each in bad:
            with pytest.raises(SpecMismatchError):
                writer.append(each)


def test_missing_foreign_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        DemonstrationFile(tmp_path / "none.h5")
    text = tmp_path / "text.h5"
    text.write_text("no HDF5")
    with pytest.raises(ArtifactError, match="not a readable"):
        DemonstrationFile(text)
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["data"] = 1
    with pytest.raises(ArtifactError, match="robotest collect"):
        DemonstrationFile(foreign)
    with pytest.raises(ArtifactError, match="cannot write"):
        DemonstrationWriter(text / "demos.h5", SPEC)


@given(n_steps=st.integers(1, 12), horizon=st.integers(1, 8), seed=st.integers(0, 99))
def test_chunk_labels(n_steps: int, horizon: int, seed: int) -> None:
    each = demonstration(seed, n_steps)
    labels = chunk_labels(each.actions, each.anchors, horizon)
    assert labels.shape == (n_steps, horizon, 3)
    assert labels.dtype == np.float32
    for t in range(n_steps):
        for k in range(horizon):
            np.testing.assert_array_equal(labels[t, k], each.actions[min(t + k, n_steps - 1)] - each.anchors[t])


def test_robomimic_s_own_loader_reads_it(tmp_path: Path) -> None:
    """Version 0.3.0, which reads `data/demo_k/{obs,actions,rewards,dones}` and `num_samples`."""
    pytest.importorskip("robomimic")
    import robomimic.utils.obs_utils as observations
    from robomimic.utils.dataset import SequenceDataset

    written = [demonstration(seed, n_steps) for seed, n_steps in ((0, 5), (1, 3))]
    write(tmp_path / "d.h5", *written)
    observations.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["state"], "rgb": ["head_image"]}})
    read = SequenceDataset(
        hdf5_path=str(tmp_path / "d.h5"),
        obs_keys=("state", "head_image"),
        dataset_keys=("actions", "rewards", "dones"),
        seq_length=4,
        pad_seq_length=True,
        hdf5_cache_mode=None,
        load_next_obs=False,
    )
    assert len(read) == 8
    first, last = read[0], read[7]
    np.testing.assert_array_equal(first["actions"], written[0].actions[:4])
    np.testing.assert_array_equal(first["obs"]["head_image"], written[0].images["head"][:4])
    np.testing.assert_array_equal(first["obs"]["state"], written[0].state[:4])
    np.testing.assert_array_equal(last["actions"][0], written[1].actions[2])
    assert list(last["dones"]) == [1, 1, 1, 1]  # the last step, repeated
    read.close_and_delete_hdf5_handle()


def test_the_file_says_what_robomimic_asks_of_it(tmp_path: Path) -> None:
    write(tmp_path / "d.h5", demonstration(0), demonstration(1, 3))
    with h5py.File(tmp_path / "d.h5") as file:
        assert json.loads(file["data"].attrs["env_args"])["env_name"] == SPEC.env
        assert file["data"].attrs["total"] == 8
        assert [file[f"data/demo_{i}"].attrs["num_samples"] for i in range(2)] == [5, 3]


def test_states_come_back(tmp_path: Path) -> None:
    states = np.random.default_rng(0).standard_normal((5, 11))
    write(tmp_path / "d.h5", dataclasses.replace(demonstration(0), states=states), demonstration(1))
    with DemonstrationFile(tmp_path / "d.h5") as file:
        np.testing.assert_array_equal(file[0].states, states)
        assert file[1].states is None


@pytest.mark.parametrize("name", ["actions", "anchors", "state", "points", "states"])
def test_an_infinite_number_is_not_written(tmp_path: Path, name: str) -> None:
    good = dataclasses.replace(demonstration(0), states=np.zeros((5, 3)))
    rows = getattr(good, name).copy()
    rows[2, 1] = np.inf
    with DemonstrationWriter(tmp_path / "d.h5", SPEC) as writer:
        writer.append(good)
        with pytest.raises(InvalidActionError, match=rf"d.h5: demonstration 1 \(press\): {name} is NaN or inf.*step 2"):
            writer.append(dataclasses.replace(good, **{name: rows}))
    with DemonstrationFile(tmp_path / "d.h5") as file:
        assert len(file) == 1


def test_a_layout_without_bounds_is_no_json(tmp_path: Path) -> None:
    endless = VectorSpec("tip", (Component("tip", 2, "m", "position_xy", -np.inf, np.inf),))
    with pytest.raises(SpecMismatchError, match="must be finite"):
        DemonstrationWriter(tmp_path / "d.h5", dataclasses.replace(SPEC, state=endless))
    assert not list(tmp_path.iterdir())
