"""What `robotest install` does: bring into the running environment what a benchmark needs, at the versions that fit it.

LIBERO needs more than an extra can say: its package declares what its training needs, its rates were published on
MuJoCo before 3.4, and its assets come from elsewhere.
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
"""Installed without the dependencies it declares: they are its training's."""
SHOWN: Final = ("mujoco", "robosuite", "hf-libero", "bddl", "numpy")
DATA_SET: Final = "lerobot/libero-assets"
"""Where `hf-libero` itself downloads its assets from."""
_MARK = "scenes"
"""A folder that lies in LIBERO's assets and nowhere above them."""
_DEPTH = 4


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing that was done.

    Attributes:
        what: e.g. ``packages``.
        detail: versions, sizes, where.
        seconds: it took [s].
    """

    what: str
    detail: str
    seconds: float


def libero(assets: Path | None = None, constraint: Path | None = None, *, with_assets: bool = True) -> Iterator[Step]:
    """Install LIBERO, robosuite and a MuJoCo that fits them, then the assets; yields each step when it is done.

    Args:
        assets: a folder or an archive of the assets; None: those that are there, or a download from where LIBERO's are.
        constraint: versions for pip, e.g. ``constraints.txt``.
        with_assets: whether to see to the assets at all.

    Raises:
        RobotestError: no installer, no network, the wrong archive, a full disk.
    """
    if assets is not None:
        _require_readable(assets)
    if constraint is not None and not constraint.is_file():
        raise RobotestError(f"--constraint {constraint}: there is no such file")
    yield _timed("packages", functools.partial(_packages, constraint))
    if with_assets:
        yield _timed("assets", functools.partial(_assets, assets))


def _timed(what: str, work: Callable[[], str]) -> Step:
    start = time.monotonic()
    detail = work()
    return Step(what, detail, time.monotonic() - start)


# -- packages ----------------------------------------------------------------------------------------------------------


def requirements(extra: str) -> list[str]:
    """Return what an extra of this package requires, without the markers."""
    declared = importlib.metadata.requires("robotest") or ()
    return [r.split(";")[0].strip() for r in declared if re.search(rf"extra == ['\"]{extra}['\"]", r)]


def _packages(constraint: Path | None) -> str:
    limits = [] if constraint is None else ["--constraint", str(constraint)]
    pip_install([*limits, *requirements("libero")])
    pip_install([*limits, "--no-deps", PACKAGE])
    importlib.invalidate_caches()
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in SHOWN)


def pip_install(arguments: Sequence[str]) -> None:
    """Install into the running environment, with uv where it is and pip otherwise, or where uv cannot.

    Raises:
        RobotestError: there is neither, or neither could; with the last thing that was said.
    """
    said = ""
    for installer in _installers():
        # MuJoCo from its sources would be a compiler's work, which fails late and says little.
        done = _run([*installer, "--quiet", "--only-binary", "mujoco", *arguments])
        if done.returncode == 0:
            return
        said = _complaint(done.stderr or done.stdout)
    if not said:
        raise RobotestError(
            f"neither pip nor uv is in {sys.prefix}; `{sys.executable} -m ensurepip` brings pip, if Python has it"
        )
    wanted = " ".join(a for a in arguments if not a.startswith("--"))
    raise RobotestError(
        f"could not install {wanted} ({said}); is there a network, and a Python from 3.10 to 3.13? MuJoCo before 3.4 is"
        " built for no others"
    )


def _installers() -> Iterator[list[str]]:
    uv = Path(sys.executable).with_name("uv")
    found = str(uv) if uv.is_file() else shutil.which("uv")
    if found:
        yield [found, "pip", "install", "--python", sys.executable]
    if importlib.util.find_spec("pip"):
        yield [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own


def _complaint(said: str) -> str:
    """Return the line that says what is wrong: an installer's first error, or the last line."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"error|.*(No space left|because)", line, re.IGNORECASE)]
    return (errors or lines or ["it said nothing"])[0 if errors else -1][:300]


# -- assets ------------------------------------------------------------------------------------------------------------


def _assets(given: Path | None) -> str:
    from robotest.envs.libero import files

    folder = files.assets().folder
    files.examine.cache_clear()
    with _disk(folder):
        if given is not None:
            _put(given, folder)
        elif files.examine(folder).missing:
            _download(folder)
    files.examine.cache_clear()
    found = files.examine(folder)
    found.require()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return f"{found.describe()}, {size / 1e6:.0f} MB"


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Say in one line what the file system refuses."""
    try:
        yield
    except OSError as error:
        hint = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "name another with LIBERO_ASSETS"
        raise RobotestError(f"assets cannot be written to {folder}: {error.strerror or error}; {hint}") from error
    except shutil.Error as error:  # many files, each with its own reason
        _, _, reason = error.args[0][0]
        raise RobotestError(f"assets cannot be written to {folder}: {reason}; make room, or name another") from error


def _put(given: Path, folder: Path) -> None:
    """Copy or unpack assets into a folder, once they are known to be LIBERO's and complete."""
    if given.is_dir():
        source = _complete(given, given)
        if source.resolve() != folder.resolve():
            shutil.copytree(source, folder, dirs_exist_ok=True)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".libero-assets-", dir=folder.parent) as temporary:
        _unpack(given, Path(temporary))
        source = _complete(Path(temporary), given)
        if folder.exists():
            shutil.copytree(source, folder, dirs_exist_ok=True)
        else:
            source.rename(folder)
            folder.chmod(0o755)


def _require_readable(assets: Path) -> None:
    if not assets.exists():
        raise RobotestError(f"--assets {assets}: there is no such file or folder")
    if not (assets.is_dir() or tarfile.is_tarfile(assets) or zipfile.is_zipfile(assets)):
        raise RobotestError(f"--assets {assets} is neither a tar nor a zip archive, nor a folder")


def _unpack(archive: Path, to: Path) -> None:
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened:
                filtered: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                members = [m for m in opened.getmembers() if _stays_inside(m.name) and (m.isfile() or m.isdir())]
                opened.extractall(to, members, **filtered)  # noqa: S202 - files and folders that stay inside
        else:
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(to)  # noqa: S202 - zipfile takes what leads outside away
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, ValueError) as error:
        raise RobotestError(f"{archive} is damaged ({error}); get it again") from error
    except OSError as error:
        if error.errno is None:  # the decoders' way of saying that it is damaged
            raise RobotestError(f"{archive} is damaged ({error}); get it again") from error
        raise


def _stays_inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _complete(folder: Path, given: Path) -> Path:
    """Return where in a folder the assets begin; `RobotestError` if they are not there, or not all."""
    from robotest.envs.libero import files

    for depth in range(_DEPTH):
        for mark in sorted(folder.glob("/".join(["*"] * depth + [_MARK]))):
            missing = files.examine(mark.parent).missing
            if missing:
                raise RobotestError(
                    f"{given} lacks {len(missing)} of LIBERO's assets, e.g. {missing[0]}; is it another version's?"
                )
            return mark.parent
    raise RobotestError(f"{given} holds no assets of LIBERO: no folder {_MARK!r} in it")


def _download(folder: Path) -> None:
    if importlib.util.find_spec("huggingface_hub") is None:
        pip_install(["huggingface_hub"])
    program = (
        "import sys; from huggingface_hub import snapshot_download;"
        " snapshot_download(sys.argv[1], repo_type='dataset', local_dir=sys.argv[2])"
    )
    environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(  # noqa: S603 - our own
        [sys.executable, "-c", program, DATA_SET, str(folder)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
        raise RobotestError(
            f"LIBERO's assets cannot be downloaded ({said}); where there is no network, give --assets FILE-OR-FOLDER"
        )
