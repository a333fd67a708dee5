"""Install a benchmark into the running environment: its packages at compatible versions, and its assets.

An extra cannot express what LIBERO needs: its package declares the dependencies of its training code, its rates were
published on MuJoCo before 3.4, and its assets are a separate download.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import importlib.metadata
import importlib.util
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from robotest.errors import RobotestError

PACKAGE: Final = "hf-libero==0.1.4"
"""Installed without its declared dependencies, which only its training code needs."""
SHOWN: Final = ("mujoco", "robosuite", "hf-libero", "bddl", "numpy")
DATA_SET: Final = "lerobot/libero-assets"
"""The data set from which `hf-libero` itself downloads its assets."""
_MARK = "scenes"
"""A folder at the top of LIBERO's assets, and nowhere above them."""
_DEPTH = 4


@dataclasses.dataclass(frozen=True)
class Step:
    """A completed step of an installation.

    Attributes:
        what: e.g. ``packages``.
        detail: versions, sizes, folder.
        seconds: duration [s].
    """

    what: str
    detail: str
    seconds: float


def libero(assets: Path | None = None, constraint: Path | None = None, *, with_assets: bool = True) -> Iterator[Step]:
    """Install LIBERO, robosuite and a compatible MuJoCo, then the assets; yield each step once it is done.

    Args:
        assets: a folder or an archive of the assets; None: keep installed ones, else download them as LIBERO does.
        constraint: constraints file for pip, e.g. ``constraints.txt``.
        with_assets: whether to install the assets.

    Raises:
        RobotestError: no installer, no network, the wrong archive, a full disk.
    """
    if assets is not None:
        _require_readable(assets)
    if constraint is not None and not constraint.is_file():
        raise RobotestError(f"--constraint {constraint}: no such file")
    yield _timed("packages", functools.partial(_packages, constraint))
    if with_assets:
        yield _timed("assets", functools.partial(_assets, assets))


def _timed(what: str, work: Callable[[], str]) -> Step:
    start = time.monotonic()
    detail = work()
    return Step(what, detail, time.monotonic() - start)


# -- packages ----------------------------------------------------------------------------------------------------------


def requirements(extra: str) -> list[str]:
    """Return the requirements of an extra of this package, without their markers."""
    declared = importlib.metadata.requires("robotest") or ()
    return [r.split(";")[0].strip() for r in declared if re.search(rf"extra == ['\"]{extra}['\"]", r)]


def _packages(constraint: Path | None) -> str:
    limits = [] if constraint is None else ["--constraint", str(constraint)]
    pip_install([*limits, *requirements("libero")])
    pip_install([*limits, "--no-deps", PACKAGE])
    importlib.invalidate_caches()
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in SHOWN)


def pip_install(arguments: Sequence[str]) -> None:
    """Install into the running environment with uv; with pip if uv is missing or fails.

    Raises:
        RobotestError: neither is installed, or neither succeeded; the message quotes the last error.
    """
    complaint = ""
    for installer in _installers():
        # Building MuJoCo from source would fail late with an unhelpful error.
        done = _run([*installer, "--quiet", "--only-binary", "mujoco", *arguments])
        if done.returncode == 0:
            return
        complaint = _complaint(done.stderr or done.stdout)
    if not complaint:
        raise RobotestError(f"{sys.prefix} has neither pip nor uv; install pip with `{sys.executable} -m ensurepip`")
    packages = " ".join(a for a in arguments if not a.startswith("--"))
    raise RobotestError(
        f"could not install {packages} ({complaint}); check the network, and that Python is 3.10 to 3.13: MuJoCo before"
        " 3.4 has no wheels for others"
    )


def _installers() -> Iterator[list[str]]:
    beside_python = Path(sys.executable).with_name("uv")
    uv = str(beside_python) if beside_python.is_file() else shutil.which("uv")
    if uv:
        yield [uv, "pip", "install", "--python", sys.executable]
    if importlib.util.find_spec("pip"):
        yield [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed command


def _complaint(output: str) -> str:
    """Return the line of an installer's output that names the problem: its first error, else its last line."""
    lines = [" ".join(line.split()) for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"error|.*(No space left|because)", line, re.IGNORECASE)]
    return (errors or lines or ["no output"])[0 if errors else -1][:300]


# -- assets ------------------------------------------------------------------------------------------------------------


def _assets(source: Path | None) -> str:
    from robotest.envs.libero import files

    folder = files.assets().folder
    files.examine.cache_clear()
    with _disk(folder):
        if source is not None:
            _put(source, folder)
        elif files.examine(folder).missing:
            _download(folder)
    files.examine.cache_clear()
    installed = files.examine(folder)
    installed.require()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return f"{installed.describe()}, {size / 1e6:.0f} MB"


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into one line."""
    try:
        yield
    except OSError as error:
        hint = (
            "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "set LIBERO_ASSETS to another folder"
        )
        raise RobotestError(f"cannot write assets to {folder}: {error.strerror or error}; {hint}") from error
    except shutil.Error as error:  # many files, each with its own reason
        _, _, reason = error.args[0][0]
        raise RobotestError(
            f"cannot write assets to {folder}: {reason}; free some space, or set LIBERO_ASSETS to another folder"
        ) from error


def _put(source: Path, folder: Path) -> None:
    """Copy or unpack assets into a folder after checking that they are LIBERO's and complete."""
    if source.is_dir():
        complete = _complete(source, source)
        if complete.resolve() != folder.resolve():
            shutil.copytree(complete, folder, dirs_exist_ok=True)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".libero-assets-", dir=folder.parent) as temporary:
        _unpack(source, Path(temporary))
        complete = _complete(Path(temporary), source)
        if folder.exists():
            shutil.copytree(complete, folder, dirs_exist_ok=True)
        else:
            complete.rename(folder)
            folder.chmod(0o755)


def _require_readable(assets: Path) -> None:
    if not assets.exists():
        raise RobotestError(f"--assets {assets}: no such file or folder")
    if not (assets.is_dir() or tarfile.is_tarfile(assets) or zipfile.is_zipfile(assets)):
        raise RobotestError(f"--assets {assets} is neither a tar nor a zip archive, nor a folder")


def _unpack(archive: Path, to: Path) -> None:
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                filtered: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                members = [m for m in tar.getmembers() if _stays_inside(m.name) and (m.isfile() or m.isdir())]
                tar.extractall(to, members, **filtered)  # noqa: S202 - files and folders that stay inside
        else:
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(to)  # noqa: S202 - zipfile sanitises member names
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, ValueError) as error:
        raise RobotestError(f"{archive} is damaged ({error}); download it again") from error
    except OSError as error:
        if error.errno is None:  # raised by a decoder, not by the file system
            raise RobotestError(f"{archive} is damaged ({error}); download it again") from error
        raise


def _stays_inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _complete(folder: Path, source: Path) -> Path:
    """Return the assets' top folder within `folder`; `RobotestError` if there is none or it is incomplete."""
    from robotest.envs.libero import files

    for depth in range(_DEPTH):
        for mark in sorted(folder.glob("/".join(["*"] * depth + [_MARK]))):
            missing = files.examine(mark.parent).missing
            if missing:
                raise RobotestError(
                    f"{source} lacks {len(missing)} of LIBERO's assets, e.g. {missing[0]}; is it of another version?"
                )
            return mark.parent
    raise RobotestError(f"{source} does not contain LIBERO's assets: no folder {_MARK!r} in it")


def _download(folder: Path) -> None:
    if importlib.util.find_spec("huggingface_hub") is None:
        pip_install(["huggingface_hub"])
    program = (
        "import sys; from huggingface_hub import snapshot_download;"
        " snapshot_download(sys.argv[1], repo_type='dataset', local_dir=sys.argv[2])"
    )
    environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(  # noqa: S603 - fixed command
        [sys.executable, "-c", program, DATA_SET, str(folder)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        complaint = (done.stderr.strip().splitlines() or ["no output"])[-1][:300]
        raise RobotestError(
            f"cannot download LIBERO's assets ({complaint}); without a network, give --assets FILE-OR-FOLDER"
        )
