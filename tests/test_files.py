"""Files on a full disk: a one-line error, the old file unchanged, and no crash."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robotest.demonstrations.files import DemonstrationFile, DemonstrationWriter
from robotest.errors import ArtifactError
from robotest.files import ForgivingFile, write_whole
from robotest.policies import mini_vla
from robotest.verifiers.fitted import Artifact
from robotest.verifiers.searched import SearchFile, Target
from tests.demonstrations.test_files import SPEC, demonstration
from tests.doubles.fakes import PointPolicy
from tests.policies.test_mini_vla import make_bundle
from tests.policies.test_training import demos as demos
from tests.verifiers.test_fitted import artifact as artifact


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the system's own
    if made.returncode:
        pytest.skip(f"no file system may be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607 - as above


def fill(path: Path, n: int) -> None:
    with DemonstrationWriter(path, SPEC) as writer:
        for seed in range(n):
            writer.append(demonstration(seed, 40))


def test_demonstrations_on_a_full_disk_are_one_line(small_disk: Path) -> None:
    path = small_disk / "demos.h5"
    with pytest.raises(ArtifactError, match=r"cannot write .*No space left on device; free some space"):
        fill(path, 400)
    assert not list(small_disk.iterdir())
    fill(path, 3)
    with DemonstrationFile(path) as file:
        assert len(file) == 3


def test_a_disk_that_fills_up_before_the_file_is_closed(small_disk: Path) -> None:
    writer = DemonstrationWriter(small_disk / "demos.h5", SPEC)
    writer.append(demonstration(0))
    room = os.statvfs(small_disk)
    (small_disk / "other").write_bytes(bytes(room.f_bavail * room.f_frsize))
    with pytest.raises(ArtifactError, match="No space left on device"):
        writer.__exit__(None, None, None)
    assert [p.name for p in small_disk.iterdir()] == ["other"]


def test_what_was_there_survives_a_full_disk(small_disk: Path, artifact: Artifact, tmp_path: Path) -> None:
    """Verifiers, policies and features, each in place of an older file."""
    old = small_disk / "old"
    old.write_bytes(b"old")
    big = dataclasses.replace(artifact, tensors={"rows": np.zeros((400, 400))})
    wide = dataclasses.replace(PointPolicy().spec, feature_shapes={"hidden": (60, 60)})
    writes: tuple[Callable[[], None], ...] = (
        lambda: big.save(old),
        lambda: mini_vla.save(old, make_bundle()),
        lambda: SearchFile(Target(old, "key"), wide, np.zeros(100, np.int32)).finish(),
    )
    for write in writes:
        with pytest.raises(ArtifactError, match="No space left on device"):
            write()
        assert [p.name for p in small_disk.iterdir()] == ["old"]
        assert old.read_bytes() == b"old"


@pytest.mark.slow
def test_training_on_a_full_disk_is_one_line(small_disk: Path, demos: Path) -> None:
    from robotest.policies.training import train
    from tests.policies.test_training import ignore, tiny

    with pytest.raises(ArtifactError, match=r"cannot write .*No space left on device"):
        train(tiny(demos, small_disk / "policy", threads=1), ignore)
    assert not list((small_disk / "policy").glob("*.safetensors*"))


def test_two_that_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "demos.h5"
    with DemonstrationWriter(path, SPEC) as first:
        first.append(demonstration(0))
        with pytest.raises(ArtifactError, match="another process is writing it"):
            DemonstrationWriter(path, SPEC)
        first.append(demonstration(1))
    with DemonstrationFile(path) as file:
        assert len(file) == 2


def test_a_failure_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        write_whole(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


@settings(max_examples=25, deadline=None)
@given(fails_after=st.integers(0, 30_000), seed=st.integers(0, 99))
def test_hdf5_finds_again_what_the_disk_did_not_take(
    fails_after: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    room = fails_after

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal room
        if room < len(data):
            raise OSError(28, "No space left on device")
        room -= len(data)
        return os_pwrite(descriptor, data, offset)

    os_pwrite = os.pwrite
    arrays = [np.random.default_rng(seed + i).integers(0, 9, (20, 30), np.uint8) for i in range(20)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        disk = ForgivingFile(tmp_path_factory.mktemp("full") / "x.h5")
        with h5py.File(disk, "w") as file:
            for i, array in enumerate(arrays):
                file.create_dataset(f"group/{i}", data=array, compression="lzf")
            for i, array in enumerate(arrays):
                np.testing.assert_array_equal(file[f"group/{i}"][:], array)
        assert disk.error is not None or room > 0
        disk.close()
