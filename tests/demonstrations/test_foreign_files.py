"""Files in LIBERO's and robomimic's layouts: each is read, or refused with a one-line reason."""

from __future__ import annotations

import io
import json
import os
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robotest import cache
from robotest.demonstrations import files as demonstrations
from robotest.demonstrations import hdf5
from robotest.demonstrations.files import DemonstrationFile
from robotest.errors import ArtifactError
from tests.demonstrations.test_files import demonstration
from tests.demonstrations.test_files import write as write_ours

PX = 16
OSC_POSE = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "control_delta": True,
    "impedance_mode": "fixed",
}


def pictures(n: int, seed: int, px: int = PX) -> np.ndarray:
    """Return smooth pictures, so that JPEG changes them little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(p).resize((px, px), Image.Resampling.BILINEAR)) for p in coarse])


def encoded(images: np.ndarray, form: str) -> list[bytes]:
    files = []
    for image in images:
        kept = io.BytesIO()
        Image.fromarray(image).save(kept, form, **({"quality": 95, "subsampling": 0} if form == "JPEG" else {}))
        files.append(kept.getvalue())
    return files


def write_libero(path: Path, lengths: tuple[int, ...] = (4, 3), px: int = PX) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps({"language_instruction": "pick the milk"})
        for i, n in enumerate(lengths):
            rng = np.random.default_rng(i)
            demo = data.create_group(f"demo_{i}")
            demo["actions"] = rng.uniform(-1, 1, (n, 7))
            demo["states"] = rng.standard_normal((n, 11))
            demo["obs/ee_states"] = rng.standard_normal((n, 6))
            demo["obs/gripper_states"] = rng.standard_normal((n, 2))
            for name in ("agentview_rgb", "eye_in_hand_rgb"):
                demo.create_dataset(f"obs/{name}", data=pictures(n, i, px), compression="gzip", chunks=(1, px, px, 3))
    return path


def write_robomimic(
    path: Path, lengths: tuple[int, ...] = (4, 3), name: str = "Lift", px: int = PX, **kwargs: Any
) -> Path:
    given = {"robots": ["Panda"], "control_freq": 20, "controller_configs": OSC_POSE, **kwargs}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": name, "env_version": "1.4.1", "type": 1, "env_kwargs": given})
        for i, n in enumerate(lengths):
            rng = np.random.default_rng(i)
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = n
            demo["actions"] = rng.uniform(-1, 1, (n, 7))
            demo["states"] = rng.standard_normal((n, 32))
            demo["obs/robot0_eef_pos"] = rng.standard_normal((n, 3))
            demo["obs/robot0_eef_quat"] = np.tile([1.0, 0.0, 0.0, 0.0], (n, 1))  # half a turn about x
            demo["obs/robot0_gripper_qpos"] = rng.uniform(-0.04, 0.04, (n, 2))
            demo["obs/object"] = rng.standard_normal((n, 10))
            for camera in ("agentview", "robot0_eye_in_hand"):
                demo[f"obs/{camera}_image"] = pictures(n, i, px)
    return path


@pytest.fixture(params=["libero", "robomimic"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "x_demo.hdf5"
    return write_libero(path) if request.param == "libero" else write_robomimic(path)


@contextmanager
def changed(path: Path, demo: str = "demo_1") -> Iterator[Any]:
    with h5py.File(path, "a") as file:
        yield file[f"data/{demo}"]


def replace(group: Any, key: str, value: Any, **how: Any) -> None:
    del group[key]
    group.create_dataset(key, data=value, **how)


def camera_key(path: Path) -> str:
    with h5py.File(path) as file:
        return "obs/agentview_rgb" if "agentview_rgb" in file["data/demo_0/obs"] else "obs/agentview_image"


def refused(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        demonstrations.read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def first_picture(path: Path) -> np.ndarray:
    with demonstrations.read(path) as data:
        first: np.ndarray = data[1].images["agentview"][0]
    return first


# What is wrong with a later demonstration is found when the file is opened.


def test_a_key_that_a_later_demonstration_lacks(foreign: Path) -> None:
    with changed(foreign) as demo:
        del demo["actions"]
    assert "x_demo.hdf5: demo_1 lacks actions; robotest reads files of" in refused(foreign)


def drop_a_frame(demo: Any, key: str) -> None:
    replace(demo, key, demo[key][:-1])


def of_another_size(demo: Any, key: str) -> None:
    replace(demo, key, pictures(len(demo["actions"]), 0, 2 * PX))


def as_floats(demo: Any, key: str) -> None:
    replace(demo, key, demo[key][:] / 255.0)


def as_a_group(demo: Any, key: str) -> None:
    del demo[key]
    demo.create_group(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_a_frame, "has 2 steps; actions has 3"),
        (of_another_size, r"is \(32, 32\) px; the others are \(16, 16\)"),
        (as_floats, "of float64; pictures are uint8"),
        (as_a_group, "is not an array"),
    ],
)
def test_pictures_that_do_not_belong_to_the_rest(
    foreign: Path, change: Callable[[Any, str], None], message: str
) -> None:
    key = camera_key(foreign)
    with changed(foreign) as demo:
        change(demo, key)
    with pytest.raises(ArtifactError, match=f"x_demo.hdf5: demo_1: {key} {message}" if "has" in message else message):
        demonstrations.read(foreign)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones((3, 6)), r"actions has shape \(3, 6\); each step is of shape \(7,\)"),
        (np.ones(3), r"actions has shape \(3,\)"),
        (np.ones((0, 7)), "it must have at least one step"),
        (np.full((3, 7), b"left"), r"has type \|S4; it must hold numbers"),
        (np.float64(1), "it must have at least one step"),
    ],
)
def test_actions_that_are_none(foreign: Path, value: Any, message: str) -> None:
    with changed(foreign) as demo:
        replace(demo, "actions", value)
    with pytest.raises(ArtifactError, match=message):
        demonstrations.read(foreign)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("name", ["actions", "states", "arm"])
def test_numbers_that_are_not_finite(foreign: Path, name: str, value: float) -> None:
    with changed(foreign) as demo:
        key = name if name != "arm" else "obs/ee_states" if "obs/ee_states" in demo else "obs/robot0_eef_pos"
        demo[key][2, 1] = value
    if name == "states" and np.isfinite(value):
        demonstrations.read(foreign).__exit__()  # they are kept as float64
    else:
        assert f"x_demo.hdf5: demo_1: {key} is NaN, infinite or too large at step 2" in refused(foreign)


def test_names_without_a_number_come_last(foreign: Path) -> None:
    with h5py.File(foreign, "a") as file:
        for name in ("demo_final", "demo_10"):
            file.copy("data/demo_1", f"data/{name}")
    with demonstrations.read(foreign) as data:
        assert [data.steps(i) for i in range(4)] == [4, 3, 3, 3]
        assert isinstance(data, hdf5.HdfDemonstrations)
        assert [demo.name for demo in data._demos] == ["demo_0", "demo_1", "demo_10", "demo_final"]


def damage_a_chunk(path: Path, key: str) -> None:
    with h5py.File(path) as file:
        chunk = file[key].id.get_chunk_info(1)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)


def test_a_damaged_chunk_is_one_line_when_it_is_read(tmp_path: Path) -> None:
    path = write_libero(tmp_path / "x_demo.hdf5")
    damage_a_chunk(path, "data/demo_1/obs/eye_in_hand_rgb")
    with demonstrations.read(path) as data:
        data[0]
        with pytest.raises(
            ArtifactError, match=r"x_demo.hdf5: demo_1: obs/eye_in_hand_rgb is damaged .*copy"
        ) as caught:
            data[1]
    assert "\n" not in str(caught.value)


def test_a_damaged_chunk_of_numbers_is_found_when_the_file_is_opened(tmp_path: Path) -> None:
    path = write_libero(tmp_path / "x_demo.hdf5")
    with changed(path) as demo:
        replace(demo, "actions", np.ones((3, 7)), compression="gzip", chunks=(1, 7))
    damage_a_chunk(path, "data/demo_1/actions")
    assert "demo_1: actions is damaged" in refused(path)


# Pictures as others store them.


def test_pictures_with_colours_first_are_turned(foreign: Path) -> None:
    before, key = first_picture(foreign), camera_key(foreign)
    with h5py.File(foreign, "a") as file:
        for demo in file["data"].values():
            replace(demo, key, demo[key][:].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(first_picture(foreign), before)


def as_vlen(demo: Any, key: str, files: list[bytes]) -> None:
    del demo[key]
    stored = demo.create_dataset(key, (len(files),), h5py.vlen_dtype(np.uint8))
    for i, each in enumerate(files):
        stored[i] = np.frombuffer(each, np.uint8)


def as_void(demo: Any, key: str, files: list[bytes]) -> None:
    longest = max(map(len, files))
    replace(demo, key, np.array([f.ljust(longest, b"\0") for f in files], f"V{longest}"))


def as_strings(demo: Any, key: str, files: list[bytes]) -> None:
    replace(demo, key, np.array(files))


def as_padded_rows(demo: Any, key: str, files: list[bytes]) -> None:
    longest = max(map(len, files))
    replace(demo, key, np.stack([np.frombuffer(f.ljust(longest, b"\0"), np.uint8) for f in files]))


@pytest.mark.parametrize("store", [as_vlen, as_void, as_strings, as_padded_rows])
@pytest.mark.parametrize(("form", "off"), [("JPEG", 5), ("PNG", 0)])
def test_encoded_pictures_are_decoded(
    foreign: Path, store: Callable[[Any, str, list[bytes]], None], form: str, off: int
) -> None:
    before, key = first_picture(foreign).astype(int), camera_key(foreign)
    with h5py.File(foreign, "a") as file:
        for demo in file["data"].values():
            store(demo, key, encoded(demo[key][:], form))
    assert np.abs(first_picture(foreign).astype(int) - before).mean() <= off


def test_encoded_pictures_of_two_sizes_and_what_is_no_picture_are_refused(foreign: Path) -> None:
    key = camera_key(foreign)
    small, large = encoded(pictures(2, 0), "JPEG"), encoded(pictures(1, 0, 2 * PX), "JPEG")
    for files, message in (
        ([*small, *large], r"is \(32, 32\) px at step 2; the others are \(16, 16\)"),
        ([*small, b"GIF89a"], "at step 2 is not a valid JPEG or PNG picture"),
        ([*small, small[0][:20]], "at step 2 is not a valid JPEG or PNG picture"),
    ):
        with changed(foreign) as demo:
            as_vlen(demo, key, files)
        with pytest.raises(ArtifactError, match=f"demo_1: {key} {message}"):
            demonstrations.read(foreign)


def test_an_encoded_picture_that_is_cut_short_is_one_line_when_it_is_read(foreign: Path) -> None:
    key = camera_key(foreign)
    files = encoded(pictures(3, 0), "JPEG")
    with changed(foreign) as demo:
        as_vlen(demo, key, [*files[:2], files[2][:-10]])
    with (
        demonstrations.read(foreign) as data,
        pytest.raises(ArtifactError, match=f"demo_1: {key} at step 2 is not a valid"),
    ):
        data[1]


def test_pictures_of_any_size_are_resized_where_a_size_is_asked_for(tmp_path: Path) -> None:
    path = write_libero(tmp_path / "x_demo.hdf5")
    with changed(path) as demo:
        of_another_size(demo, "obs/agentview_rgb")
    with demonstrations.read(path, 8) as data:
        assert all(each.images["agentview"].shape[1:] == (8, 8, 3) for each in data)


# What the path is, if it is no such file.


def test_what_is_no_hdf5_file_is_called_by_its_name(tmp_path: Path) -> None:
    archive, text, empty, pointer = (tmp_path / n for n in ("a.zip", "a.txt", "a.h5", "lfs.hdf5"))
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("demo.hdf5", "x")
    text.write_text("demonstrations")
    empty.write_bytes(b"")
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "a zip archive: unpack it first" in refused(archive)
    assert "not a readable HDF5 file; robotest reads files of" in refused(text)
    assert "the file is empty" in refused(empty)
    assert "a Git LFS pointer" in refused(pointer)
    assert "does not exist; make it with `robotest collect --out" in refused(tmp_path / "none.h5")


def test_a_file_cut_short_is_damaged(foreign: Path) -> None:
    foreign.write_bytes(foreign.read_bytes()[:5000])
    assert "it is cut short or damaged" in refused(foreign)


def test_a_folder_of_something_else_is_no_missing_file(tmp_path: Path) -> None:
    assert "holds no *_demo.hdf5 file; robotest reads" in refused(tmp_path)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text("{}")
    assert "is a LeRobot data set, which is not read" in refused(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a file" in refused(tmp_path / "pipe")


@contextmanager
def as_nobody() -> Iterator[None]:
    """An account without read permission here; the superuser has it everywhere."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(mine)


@pytest.mark.parametrize("locked", ["file", "folder"])
def test_what_may_not_be_read_exists_all_the_same(tmp_path: Path, locked: str) -> None:
    folder = tmp_path / "suite"
    folder.mkdir()
    file = write_libero(folder / "x_demo.hdf5")
    (file if locked == "file" else folder).chmod(0)
    for open_to_all in (tmp_path, *tmp_path.parents[:2]):
        open_to_all.chmod(0o755)
    try:
        with as_nobody():
            for path in (file, folder):
                assert "cannot be read (Permission denied)" in refused(path)
    finally:
        (file if locked == "file" else folder).chmod(0o755)


def test_attributes_that_are_missing(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "x.hdf5")
    with h5py.File(path, "a") as file:
        del file["data"].attrs["env_args"]
    assert "it has no attribute 'format'" in refused(path)
    with h5py.File(path, "a") as file:
        file["data"].attrs["env_args"] = "{"
    assert "'env_args' is damaged" in refused(path)
    with h5py.File(path, "w") as file:
        file["data"] = 1
    assert "has no group 'data'" in refused(path)


# robomimic's meaning.


def test_a_robomimic_file_is_read_as_the_task_it_says(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "x.hdf5")
    with demonstrations.read(path) as data, h5py.File(path) as file:
        assert isinstance(data, demonstrations.Demonstrations)
        assert data.spec.env == "robosuite/Lift"
        assert data.spec.cameras == {"agentview": (PX, PX), "robot0_eye_in_hand": (PX, PX)}
        assert (data.spec.action.mode, data.spec.action.size, data.spec.state.size) == ("osc_pose", 7, 8)
        assert [data.info(i).instruction for i in range(2)] == ["lift the red cube", "pick up the red cube"]
        first = data[0]
        np.testing.assert_allclose(first.actions, file["data/demo_0/actions"][:], rtol=1e-6)
        np.testing.assert_allclose(first.state[:, :3], file["data/demo_0/obs/robot0_eef_pos"][:], rtol=1e-6)
        np.testing.assert_allclose(first.state[:, 3:6], np.tile([np.pi, 0, 0], (4, 1)), rtol=1e-6)
        np.testing.assert_array_equal(first.images["agentview"], file["data/demo_0/obs/agentview_image"][:])


def test_one_camera_is_enough_and_none_is_not(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "low_dim.hdf5", (3,))
    with changed(path, "demo_0") as demo:
        del demo["obs/robot0_eye_in_hand_image"]
    with demonstrations.read(path) as data:
        assert list(data.spec.cameras) == ["agentview"]
    with changed(path, "demo_0") as demo:
        del demo["obs/agentview_image"]
    assert "render them with robomimic's dataset_states_to_obs.py --camera_names agentview" in refused(path)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "ToolHang"}, "only robosuite tasks are read, of these: Lift, "),
        ({"robots": ["Sawyer"]}, r"robots in 'env_args' is \['Sawyer'\]; it must be \['Panda'\]"),
        ({"robots": None}, "robots in 'env_args' is None"),
        ({"control_freq": 10}, "control_freq in 'env_args' is 10; it must be 20"),
        (
            {"controller_configs": {**OSC_POSE, "type": "JOINT_VELOCITY"}},
            "controller in 'env_args' is 'JOINT_VELOCITY'",
        ),
        ({"controller_configs": {**OSC_POSE, "control_delta": False}}, "control_delta in 'env_args' is False"),
        ({"controller_configs": {**OSC_POSE, "output_max": 0.1}}, "output_max in 'env_args' is "),
        ({"controller_configs": "default"}, "controller in 'env_args' is None"),
        ({"controller_configs": []}, "controller in 'env_args' is None"),
    ],
)
def test_actions_that_mean_something_else_are_refused(tmp_path: Path, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        demonstrations.read(write_robomimic(tmp_path / "x.hdf5", **kwargs))


# Ours.


def test_ours_is_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "demos.h5"
    for change, message in (
        (lambda demo: demo["anchors"].__setitem__((3, 1), np.nan), "demo_1: anchors is NaN, infinite .* at step 3"),
        (lambda demo: demo["points"].__setitem__((3, 1), np.inf), "demo_1: points is NaN, infinite .* at step 3"),
        (lambda demo: demo.__delitem__("obs/state"), "demo_1 lacks obs/state"),
        (lambda demo: drop_a_frame(demo, "points"), "demo_1: points has 4 steps; actions has 5"),
        (lambda demo: demo.attrs.__delitem__("style"), "demo_1 lacks the attributes style"),
    ):
        write_ours(path, demonstration(0), demonstration(1))
        with changed(path) as demo:
            change(demo)
        with pytest.raises(ArtifactError, match=f"demos.h5: {message}"):
            DemonstrationFile(path)
    write_ours(path, demonstration(0))
    with h5py.File(path, "a") as file:
        file.attrs["spec"] = "{"
    assert "its attribute 'spec' is missing or damaged" in refused(path)


# What is remembered.


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    checked: list[str] = []
    check = hdf5.check_demo

    def counting(demo: hdf5.Demo, layout: hdf5.Layout) -> None:
        checked.append(demo.name)
        check(demo, layout)

    monkeypatch.setattr(hdf5, "check_demo", counting)
    monkeypatch.setattr(hdf5, "REMEMBERED_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return checked


def test_a_file_that_passed_is_not_checked_again_until_it_changes(tmp_path: Path, counted: list[str]) -> None:
    path = tmp_path / "demos.h5"
    write_ours(path, demonstration(0), demonstration(1))
    for expected in (["demo_0", "demo_1"], []):
        DemonstrationFile(path).__exit__()
        assert counted == expected
        counted.clear()
    os.utime(path, ns=(0, 1))
    DemonstrationFile(path).__exit__()
    assert counted == ["demo_0", "demo_1"]


def test_a_cache_that_cannot_be_written_stops_nothing(
    tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "demos.h5"
    write_ours(path, demonstration(0))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    DemonstrationFile(path).__exit__()
    monkeypatch.setattr(cache, "folder", lambda name: tmp_path / "missing" / name)
    DemonstrationFile(path).__exit__()
    assert counted == ["demo_0", "demo_0"]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_byte_is_damaged_there_is_no_traceback(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A damaged file is read, or refused in one line."""
    path = tmp_path_factory.mktemp("damaged") / "x_demo.hdf5"
    content = bytearray(write_libero(path, (2,), 4).read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    content[start : start + data.draw(st.integers(1, 64))] = data.draw(st.binary(min_size=1, max_size=64))
    path.write_bytes(content)
    try:
        with demonstrations.read(path) as read:
            for each in read:
                assert np.isfinite(each.actions).all()
    except ArtifactError as error:
        assert "\n" not in str(error)  # noqa: PT017 - it may also be read


@pytest.mark.parametrize(("write", "image_size"), [(write_libero, 96), (write_robomimic, None)])
def test_one_demonstration_is_in_memory_at_a_time(
    write: Callable[..., Path], image_size: int | None, tmp_path: Path
) -> None:
    path = write(tmp_path / "x_demo.hdf5", (8,) * 12, px=64)
    with demonstrations.read(path, image_size) as data:
        size = sum(images.nbytes for images in data[0].images.values())  # and all imports are done
    tracemalloc.start()
    try:
        with demonstrations.read(path, image_size) as data:
            for each in data:
                assert len(each) == 8
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * size  # the one before, this one as it is stored, upright, and in its size
