"""`robotest install`: arguments of pip, recognition of LIBERO's assets, and one-line errors."""

import errno
import importlib.metadata
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from robotest.cli import install
from robotest.cli.main import main
from robotest.envs.libero import files as libero_files
from robotest.errors import RobotestError

FILES = ("scenes/floor.xml", "textures/wood.png", "articulated_objects/stove/stove.xml")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the assets; the manifest has three files, and installing and downloading are disabled."""
    manifest = tmp_path / "manifest.txt"
    manifest.write_text("# files\n" + "\n".join(FILES), encoding="utf-8")
    monkeypatch.setattr(libero_files, "_MANIFEST", manifest)
    monkeypatch.setenv(libero_files.ASSETS_VARIABLE, str(tmp_path / "there" / "assets"))
    monkeypatch.setattr(install, "_packages", lambda constraint: "nothing")
    monkeypatch.setattr(install, "_download", lambda folder: pytest.fail("it downloads"))
    libero_files.examine.cache_clear()
    yield tmp_path / "there" / "assets"
    libero_files.examine.cache_clear()


def tree(root: Path, files: tuple[str, ...] = FILES) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name, encoding="utf-8")
    return root


def tarball(path: Path, top: str, root: Path) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        archive.add(root, top)
    return path


def zipped(path: Path, top: str, root: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in root.rglob("*"):
            archive.write(file, f"{top}/{file.relative_to(root)}")
    return path


@pytest.mark.parametrize("pack", [tarball, zipped])
@pytest.mark.parametrize("top", [".", "assets", "libero/libero/assets"])
def test_an_archive_is_unpacked_wherever_the_assets_are_in_it(
    folder: Path, tmp_path: Path, pack: Callable[[Path, str, Path], Path], top: str
) -> None:
    archive = pack(tmp_path / "archive", top, tree(tmp_path / "original"))
    steps = list(install.libero(archive))
    assert [s.what for s in steps] == ["packages", "assets"]
    assert steps[1].detail.startswith(f"complete in {folder}")
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == set(FILES)
    assert [p.name for p in folder.parent.iterdir()] == ["assets"]  # nothing left over


def test_a_folder_is_copied_and_what_is_there_is_replaced(folder: Path, tmp_path: Path) -> None:
    tree(folder)
    (folder / FILES[0]).write_text("old", encoding="utf-8")
    list(install.libero(tree(tmp_path / "mine")))
    assert (folder / FILES[0]).read_text(encoding="utf-8") == FILES[0]
    assert (tmp_path / "mine" / FILES[0]).is_file()


def test_assets_that_are_there_are_left_alone(folder: Path) -> None:
    tree(folder)
    assert list(install.libero())[1].detail.startswith("complete")
    assert list(install.libero(folder))[1].detail.startswith("complete")  # the same folder


def test_assets_that_are_nowhere_are_downloaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_download", tree)
    assert list(install.libero())[1].detail.startswith("complete")


def test_packages_alone(folder: Path) -> None:
    assert [s.what for s in install.libero(with_assets=False)] == ["packages"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (("other/file",), "does not contain LIBERO's assets: no folder 'scenes' in it"),
        (FILES[:1], "lacks 2 of LIBERO's assets, e.g. textures/wood.png"),
    ],
)
def test_the_wrong_archive_is_refused_and_nothing_is_left(
    folder: Path, tmp_path: Path, files: tuple[str, ...], reason: str
) -> None:
    archive = tarball(tmp_path / "archive", "assets", tree(tmp_path / "original", files))
    with pytest.raises(RobotestError, match=reason):
        list(install.libero(archive))
    assert not folder.exists()
    assert not list(folder.parent.iterdir())


def test_a_damaged_archive_is_refused(folder: Path, tmp_path: Path) -> None:
    original = tree(tmp_path / "original")
    (original / FILES[-1]).write_bytes(random.Random(0).randbytes(200_000))
    archive = tarball(tmp_path / "archive", "assets", original)
    archive.write_bytes(archive.read_bytes()[:100_000])
    with pytest.raises(RobotestError, match="is damaged"):
        list(install.libero(archive))
    assert not folder.exists()


def test_nothing_leaves_the_folder(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with tarfile.open(archive, "w") as opened:
        opened.add(tree(tmp_path / "original"), "assets")
        opened.add(tmp_path / "original" / FILES[0], "../../outside")
    list(install.libero(archive))
    assert not (tmp_path / "outside").exists()
    assert not (folder.parent / "outside").exists()


def test_what_cannot_be_assets_is_refused_before_anything_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "_packages", lambda constraint: pytest.fail("it installs"))
    note = tmp_path / "note.txt"
    note.write_text("no archive", encoding="utf-8")
    for given, reason in ((note, "is neither a tar nor a zip archive"), (tmp_path / "none", "no such file")):
        assert main(["install", "libero", "--assets", str(given)]) == 2
        said = capsys.readouterr().err
        assert reason in said
        assert said.count("\n") == 1
    assert main(["install", "libero", "--constraint", str(tmp_path / "none")]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "No space left on device; free some space"), (errno.EACCES, "Permission denied")],
)
def test_a_disk_that_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    def full(source: Path, destination: Path, **options: bool) -> None:
        raise shutil.Error([(str(source), str(destination), str(OSError(number, "x")))])

    def refuse(source: Path, destination: Path, **options: bool) -> None:
        raise OSError(number, os.strerror(number))

    for copy, expected in ((refuse, reason), (full, "cannot write assets to")):
        monkeypatch.setattr(shutil, "copytree", copy)
        with pytest.raises(RobotestError, match=expected) as refused:
            list(install.libero(tree(tmp_path / "mine")))
        assert "\n" not in str(refused.value)


def test_without_an_installer_it_says_where_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_installers", lambda: iter(()))
    with pytest.raises(RobotestError, match=r"neither pip nor uv; .* -m ensurepip"):
        install.pip_install(["bddl"])


def test_an_installer_that_fails_is_one_line_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; sys.exit('WARNING: retrying\\nERROR: no matching distribution\\nsome advice')"
    monkeypatch.setattr(install, "_installers", lambda: iter([[sys.executable, "-c", program]]))
    with pytest.raises(
        RobotestError, match=r"could not install bddl==1 \(ERROR: no matching distribution\)"
    ) as refused:
        install.pip_install(["bddl==1"])
    assert "\n" not in str(refused.value)


def test_the_second_installer_is_asked_where_the_first_cannot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fails = [sys.executable, "-c", "import sys; sys.exit('error: no')"]
    works = [
        sys.executable,
        "-c",
        f"import sys, json; open({str(tmp_path / 'said')!r}, 'w').write(json.dumps(sys.argv))",
    ]
    monkeypatch.setattr(install, "_installers", lambda: iter([fails, works]))
    install.pip_install(["bddl==1"])
    assert "bddl==1" in json.loads((tmp_path / "said").read_text(encoding="utf-8"))


def test_a_download_that_fails_says_what_else_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nConnectionError: no route")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: failed)
    with pytest.raises(RobotestError, match=r"ConnectionError: no route\); .*give --assets FILE-OR-FOLDER"):
        install._download(folder)


def test_the_extra_asks_for_the_physics_of_the_published_rates() -> None:
    requirements = install.requirements("libero")
    assert "robosuite==1.4.0" in requirements
    assert [r for r in requirements if r.startswith("mujoco")] in (["mujoco<3.4,>=3.3"], ["mujoco>=3.3,<3.4"])
    assert not any(r.startswith("pytest") for r in requirements)
    assert importlib.metadata.requires("robotest")
