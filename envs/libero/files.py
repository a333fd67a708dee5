"""LIBERO's files: the package, its configuration, its assets, and the lists of tasks and initial states.

LIBERO (Liu et al. 2023, arXiv 2306.03310; packaged as `hf-libero`) asks on standard input for a folder when it finds no
configuration, downloads assets when it finds none, and unpickles its initial states. Here nothing prompts or downloads,
a missing file is an error that says what to do, and only numpy arrays are unpickled.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import io
import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float64

from robotest import cache
from robotest.errors import RobotestError

ASSETS_VARIABLE: Final = "LIBERO_ASSETS"
"""Environment variable with the folder of the assets."""
_MANIFEST: Final = Path(__file__).parents[1] / "assets" / "libero.txt"
_NAMED = 3
_INSTALL = "install it with `robotest install libero`"


@dataclasses.dataclass(frozen=True)
class Assets:
    """A folder of assets.

    Attributes:
        folder: path of the folder.
        missing: missing files.
        standins: files whose contents are known stand-ins for the original.
    """

    folder: Path
    missing: tuple[str, ...]
    standins: tuple[str, ...]

    def require(self) -> None:
        """Raise `RobotestError` if files are missing."""
        if self.missing:
            named = ", ".join(self.missing[:_NAMED])
            raise RobotestError(
                f"{len(self.missing)} of LIBERO's assets are missing in {self.folder}, e.g. {named}; install them with"
                f" `robotest install libero`, or set {ASSETS_VARIABLE} to their folder"
            )

    def describe(self) -> str:
        """Return one line: complete, with stand-ins, or missing."""
        state = f"{len(self.missing)} files missing" if self.missing else "complete"
        return f"{state}{f', {len(self.standins)} stand-ins' if self.standins else ''} in {self.folder}"


@functools.cache
def package() -> Path:
    """Return the folder of the installed package, without importing it.

    Raises:
        RobotestError: it is not installed.
    """
    spec = importlib.util.find_spec("libero")
    for parent in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(parent) / "libero" / "bddl_files").is_dir():
            return Path(parent) / "libero"
    raise RobotestError(f"LIBERO is not installed; {_INSTALL}")


def assets() -> Assets:
    """Examine the assets in the folder of `ASSETS_VARIABLE`, else in the package, else in LIBERO's own cache.

    If none of these folders exists, report the last one, to which LIBERO would download them.
    """
    named = os.environ.get(ASSETS_VARIABLE)
    folders = [Path(named)] if named else [package() / "assets", Path.home() / ".cache" / "libero" / "assets"]
    folder = next((f for f in folders if f.is_dir()), folders[-1])
    return examine(folder)


@functools.cache
def examine(folder: Path) -> Assets:
    """Compare a folder with the list of files that LIBERO's scenes need."""
    missing, standins = [], []
    for line in _MANIFEST.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        name, _, digest = line.partition(" ")
        file = folder / name
        if not file.is_file():
            missing.append(name)
        elif digest and hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest() == digest:
            standins.append(name)
    return Assets(folder, tuple(missing), tuple(standins))


def import_libero() -> Mapping[str, Any]:
    """Import LIBERO and return its problem classes by name.

    The user's configuration is left alone; without one, LIBERO gets one in the cache folder.

    Raises:
        RobotestError: it, robosuite or an asset is missing.
    """
    from robotest.envs.robosuite.world import (
        import_robosuite,
    )  # imported here, so that files can be examined without MuJoCo

    import_robosuite()
    installed = assets()
    installed.require()
    _configure(installed.folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import libero.libero
            from libero.libero.envs.bddl_base_domain import TASK_MAPPING
    except ImportError as error:
        raise RobotestError(f"LIBERO cannot be imported ({error}); {_INSTALL}") from error
    libero.libero._assets_path_cache = str(installed.folder)  # else it would search and download
    mapping: Mapping[str, Any] = TASK_MAPPING
    return mapping


def _configure(assets_folder: Path) -> None:
    """Make sure that LIBERO finds a configuration; else it prompts for one on standard input."""
    existing = Path(os.environ.get("LIBERO_CONFIG_PATH") or Path.home() / ".libero")
    if (existing / "config.yaml").is_file():
        return
    folder = cache.folder("libero")
    paths = {
        "benchmark_root": str(package()),
        "bddl_files": str(package() / "bddl_files"),
        "init_states": str(package() / "init_files"),
        "datasets": str(package().parent / "datasets"),
        "assets": str(assets_folder),
    }
    partial = folder / f".config.{os.getpid()}"
    partial.write_text(json.dumps(paths), encoding="utf-8")  # JSON is YAML
    partial.replace(folder / "config.yaml")
    os.environ["LIBERO_CONFIG_PATH"] = str(folder)


@functools.cache
def tasks() -> Mapping[str, tuple[str, ...]]:
    """Return suite -> names of its tasks, in the order of their numbers.

    Loads this file alone: the package around it imports torch, which workers must not.
    """
    file = package() / "benchmark" / "libero_suite_task_map.py"
    spec = importlib.util.spec_from_file_location("libero_suite_task_map", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {suite: tuple(names) for suite, names in module.libero_task_map.items()}


def instruction(task: str) -> str:
    """Return a task's instruction: its name without the scene prefix of LIBERO-100."""
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", task).replace("_", " ")


def bddl_file(suite: str, task: str) -> Path:
    """Return the file that describes a task."""
    return package() / "bddl_files" / suite / f"{task}.bddl"


def initial_states(suite: str, task: str) -> Float64[np.ndarray, "50 N"]:
    """Return the fixed initial states of a task: time, positions and velocities, flattened as in robosuite.

    Raises:
        RobotestError: the file is damaged, or does not hold an array.
    """
    file = package() / "init_files" / suite / f"{task}.pruned_init"
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            states = _ArrayUnpickler(io.BytesIO(archive.read(name))).load()
    except (OSError, StopIteration, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise RobotestError(f"initial states {file} cannot be read ({error}); reinstall hf-libero") from error
    return np.asarray(states, np.float64)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and refuses everything else."""

    _allowed: Final = {
        ("numpy.core.multiarray", "_reconstruct"): np.ndarray.__reduce__(np.zeros(0))[0],
        ("numpy._core.multiarray", "_reconstruct"): np.ndarray.__reduce__(np.zeros(0))[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
    }

    def find_class(self, module: str, name: str) -> Any:
        """Allow only the parts of arrays."""
        try:
            return self._allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it holds a {module}.{name}, which is not an array") from None
