"""A disk that is full at any byte ends a command in one line; after room is made the same command goes on.

``ROBOTEST_THOROUGH=1`` tries more sizes than a check of every change needs.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from robotest.errors import VideoError
from robotest.files import append_line, replacing
from robotest.report.video import Film
from robotest.runs import directory
from tests.doubles.forks import Forks, forks
from tests.doubles.thorough import THOROUGH

FAKES = ("--env", "tests.doubles.fakes:suite", "--policy", "tests.doubles.fakes:policy", "--verifiers", "random,medoid")
EVAL = ("eval", *FAKES, "--episodes", "2")
SIZES = 30 if THOROUGH else 5


@dataclasses.dataclass(frozen=True)
class Disk:
    """A small one, and who runs commands on it."""

    path: Path
    forks: Forks

    def resize(self, kib: int) -> None:
        _mount("-o", f"remount,size={kib}k", str(self.path))

    def run(self, *arguments: str) -> tuple[int, str]:
        """Return the exit code, negative for a signal, and what was said, errors last."""
        code, out, err = self.forks.run(*arguments)
        return code, (out + err).decode()


def _mount(*arguments: str) -> None:
    program = shutil.which("mount")
    if program is None or sys.platform != "linux":
        pytest.skip("a small disk is needed: there is no mount")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)  # noqa: S603 - constants
    if done.returncode:
        pytest.skip(f"a small disk is needed: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with forks(tmp_path_factory.mktemp("said")) as made:
        yield made


@pytest.fixture
def disk(tmp_path: Path, forked: Forks) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    _mount("-t", "tmpfs", "-o", "size=64m", "none", str(path))
    try:
        yield Disk(path, forked)
    finally:
        subprocess.run(["umount", str(path)], check=True)  # noqa: S603, S607 - constants


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _require_one_line(code: int, said: str) -> None:
    """Bars may stand above it."""
    assert code == 2, said
    lines = [line for line in said.splitlines() if line.startswith("robotest: ")]
    assert len(lines) == 1, said
    assert said.endswith(f"{lines[0]}\n")
    assert "No space left on device" in lines[0]
    assert "Traceback" not in said


def _fill_and_go_on(disk: Disk, kib: int, *more: str) -> None:
    """Run on a disk of a size, then with room; what was finished stays."""
    run = disk.path / "run"
    disk.resize(kib)
    code, said = disk.run(*EVAL, "--out", str(run), *more)
    _require_one_line(code, said)
    assert not list(run.rglob("*.partial"))
    finished = directory.read_episodes(run)
    kept = {directory.episode_path(run, key): directory.episode_path(run, key).read_bytes() for key in finished}
    assert len(kept) >= len(list(run.rglob("*.h5"))) - 1
    disk.resize(64 * 1024)
    code, said = disk.run(*EVAL, "--out", str(run), *more)
    assert code == 0, said
    assert directory.read_episodes(run).items() >= finished.items()
    assert kept.items() <= _files(run).items()
    assert len(directory.read_episodes(run)) == 8


def _sweep(disk: Disk, n: int, *more: str) -> None:
    """Fill and go on at `n` sizes between nothing and what the whole run takes."""
    code, said = disk.run(*EVAL, "--out", str(disk.path / "run"), *more)
    assert code == 0, said
    pages = shutil.disk_usage(disk.path).used // 4096
    sizes = {max(1, round(pages * k / n)) for k in range(n)}
    assert len(sizes) == n
    for size in sorted(sizes):
        shutil.rmtree(disk.path / "run")
        _fill_and_go_on(disk, 4 * size, *more)


@pytest.mark.slow
def test_a_run_on_a_disk_of_any_size_ends_in_one_line_and_goes_on(disk: Disk) -> None:
    _sweep(disk, SIZES, "--workers", "0", "--videos", "none")


@pytest.mark.slow
def test_a_run_with_workers_does_too(disk: Disk) -> None:
    _sweep(disk, 3, "--workers", "2", "--videos", "none")


@pytest.mark.slow
def test_so_does_one_whose_videos_do_not_fit(disk: Disk) -> None:
    run = disk.path / "run"
    code, said = disk.run(*EVAL, "--out", str(run), "--workers", "0", "--videos", "none")
    assert code == 0, said
    full = shutil.disk_usage(disk.path).used // 1024
    for more in (0, 12, 28):
        disk.resize(full + more)
        code, said = disk.run(*EVAL, "--out", str(run), "--workers", "0", "--videos", "all")
        _require_one_line(code, said)
        assert not [path for path in run.rglob("*") if path.suffix not in (".h5", ".mp4", ".json", ".jsonl", "")]
        whole = {path: path.read_bytes() for path in run.rglob("*.mp4")}
        disk.resize(64 * 1024)
        assert disk.run("video", str(run), "--episodes", "all")[0] == 0
        assert whole.items() <= _files(run).items()
        assert len(list(run.rglob("*.mp4"))) == 8
        for path in run.rglob("*.mp4"):
            path.unlink()


@pytest.mark.slow
def test_branches_on_a_full_disk_end_in_one_line_and_go_on(disk: Disk) -> None:
    run, wide = disk.path / "run", disk.path.parent / "branches"
    code, said = disk.run(*EVAL, "--out", str(run), "--workers", "0", "--videos", "none")
    assert code == 0, said
    branch = ["branch", str(run), "--verifiers", "medoid", "--episodes", "1", "--workers", "0", "--policy", FAKES[3]]
    code, said = disk.run(*branch, "--out", str(wide))
    assert code == 0, said
    full = shutil.disk_usage(disk.path).used // 1024
    for more in (0, 4, 8):
        disk.resize(full + more)
        _require_one_line(*disk.run(*branch))
        disk.resize(64 * 1024)
        assert disk.run(*branch)[0] == 0
        assert (run / "branches-random" / "branches.jsonl").read_bytes() == (wide / "branches.jsonl").read_bytes()
        shutil.rmtree(run / "branches-random")


@pytest.mark.slow
def test_a_line_is_appended_whole_or_not_at_all(disk: Disk) -> None:
    disk.resize(8)
    log = disk.path / "log"
    for _ in range(8):
        append_line(log, "x" * 999)
    with pytest.raises(OSError, match="No space left"):
        append_line(log, "x" * 999)
    assert log.read_text(encoding="utf-8") == ("x" * 999 + "\n") * 8


def test_what_could_not_be_written_is_gone_and_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(UnicodeEncodeError), replacing(path) as partial:
        partial.write_text("half" * 10_000 + "\udcff", encoding="utf-8")
    assert _files(tmp_path) == {path: b"before"}
    with replacing(path) as partial:
        partial.write_text("after", encoding="utf-8")
    assert _files(tmp_path) == {path: b"after"}


def _film(path: Path, frames: Sequence[np.ndarray]) -> None:
    with replacing(path) as partial, Film(partial, 20) as film:
        for frame in frames:
            film.append(frame)


@pytest.mark.slow
def test_half_a_film_is_not_taken_for_a_whole_one(disk: Disk) -> None:
    disk.resize(16)
    noise = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), np.uint8)
    with pytest.raises(VideoError, match="No space left"):
        _film(disk.path / "film.mp4", list(noise))
    assert _files(disk.path) == {}
