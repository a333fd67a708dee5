"""Another package's environment, policy and verifier: installed, found by entry point, checked, evaluated."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[1] / "examples" / "plugin"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the plugin was installed as pip installs packages."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(PLUGIN, source, dirs_exist_ok=True)
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True)  # noqa: S603 - our own interpreter
    return target


def _robotest(site: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "robotest", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - as above
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_names_are_listed(site: Path) -> None:
    found = json.loads(_robotest(site, "list", "--json"))
    assert found["env"]["slider"] == "slider:suite"
    assert found["policy"]["slider"] == "slider:load_policy"
    assert found["verifier"]["calm"] == "slider:make_calm"


@pytest.mark.parametrize(
    "arguments",
    [
        ["env", "slider"],
        ["policy", "slider", "--env", "slider"],
        ["verifier", "calm", "--policy", "slider", "--env", "slider"],
    ],
)
def test_it_keeps_the_contracts(site: Path, arguments: list[str]) -> None:
    assert "keeps its contract" in _robotest(site, "check", *arguments)


def test_it_is_evaluated(site: Path, tmp_path: Path) -> None:
    arguments = ["--env", "slider", "--policy", "slider", "--verifiers", "random,calm", "--out", str(tmp_path / "run")]
    summary = json.loads(_robotest(site, "eval", *arguments, "--episodes", "5", "--json"))
    assert summary["conditions"]["calm"]["episodes"] == 10
    assert summary["conditions"]["calm"]["errors"] == 0
    assert list((tmp_path / "run").rglob("*.mp4"))
