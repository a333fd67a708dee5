"""What is built is what is in the tree, under its import names, and nothing else."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import robotest

ROOT = Path(robotest.__file__).resolve().parent.parent
IMPORT_NAMES = {
    "robotest": "robotest",
    "envs": "robotest/envs",
    "policies": "robotest/policies",
    "hardware": "robotest/hardware",
}
LINKS = ("envs", "policies", "hardware")
DATA = {"assets", "interfaces", "weights"}
"""Folders whose files are no code."""


def _sources() -> dict[str, Path]:
    """Archive name -> file of everything that belongs into a wheel; links are not followed."""
    found = {}
    for folder, name in IMPORT_NAMES.items():
        for directory, folders, files in os.walk(ROOT / folder):
            folders[:] = [f for f in folders if f != "__pycache__"]
            for file in files:
                path = Path(directory, file)
                if path.suffix == ".py" or file == "py.typed" or DATA & set(path.parts):
                    found[f"{name}/{path.relative_to(ROOT / folder).as_posix()}"] = path
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that nothing left over from other builds gets in."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in IMPORT_NAMES:
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own interpreter
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


@pytest.mark.parametrize("name", LINKS)
def test_links_are_relative_and_point_at_the_folders(name: str) -> None:
    link = ROOT / "robotest" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"  # noqa: PTH115 - Path.readlink would do as well, this shows the text


DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "imageio_ffmpeg": "imageio",  # its extra "ffmpeg"
    "libero": None,  # installed apart, without the dependencies that it declares
    "yaml": "pyyaml",
}
"""Import name -> distribution, where they differ."""
UNUSED = {"packaging"}
"""Required although nothing of ours imports it: pyproject.toml says why."""


def _imported() -> dict[str, set[str]]:
    """Import name -> files of everything of others that the package imports at run time."""
    found: dict[str, set[str]] = {}
    for name, path in _sources().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path.suffix == ".py" else ():
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            for module in modules:
                found.setdefault(module.partition(".")[0], set()).add(name)
    return {m: files for m, files in found.items() if m not in {*sys.stdlib_module_names, "robotest"}}


def _declared() -> tuple[set[str], set[str]]:
    """Distributions that are required, and those of extras that users install."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [text for extra, texts in project["optional-dependencies"].items() if extra != "dev" for text in texts]
    required, optional = (
        {re.split(r"[^\w.-]", text)[0].lower() for text in texts} for texts in (project["dependencies"], extras)
    )
    return required, optional


def test_everything_that_is_imported_is_declared_and_everything_declared_is_imported() -> None:
    required, optional = _declared()
    imported = _imported()
    assert len(imported) > 10
    assert len(required) > 10
    distributions = {module: DISTRIBUTIONS.get(module, module) for module in imported}
    missing = {m: imported[m] for m, d in distributions.items() if d and d.lower() not in required | optional}
    assert not missing
    assert required - {d for d in distributions.values() if d} == UNUSED


@pytest.mark.slow
def test_the_wheel_holds_the_tree_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if ".dist-info/" not in n]
    assert len(names) == len(set(names))
    assert set(names) == set(_sources())


@pytest.mark.slow
def test_the_wheel_holds_the_files_as_they_are(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert all(archive.read(name) == path.read_bytes() for name, path in _sources().items())
        licence = next(n for n in archive.namelist() if n.endswith("licenses/LICENSE"))
        assert b"Apache License" in archive.read(licence)


@pytest.mark.slow
def test_the_wheel_works_without_the_tree(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = "import robotest, robotest.envs, robotest.policies, robotest.hardware as h; print(h.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(tmp_path / "site" / "robotest" / "hardware" / "__init__.py")
