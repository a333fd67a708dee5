"""Starting must be fast: a command imports only what it needs."""

import json
import resource
import subprocess
import sys

import pytest

HEAVY = ("torch", "mujoco", "scipy", "h5py", "imageio", "gymnasium")
_PROGRAM = """
import json, sys
from robotest.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as exit_:
    code = exit_.code
print("\\n" + json.dumps([code, sorted(sys.modules)]))
"""


def _modules(*arguments: str) -> tuple[int, set[str]]:
    """Run a command line in a fresh interpreter; return its exit code and imported modules."""
    command = [sys.executable, "-c", _PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code or 0, set(modules)


@pytest.mark.parametrize(
    "arguments", [["list"], ["list", "--json"], ["--help"], ["eval", "--help"], ["train", "--help"], ["nonsense"]]
)
def test_looking_imports_nothing_heavy(arguments: list[str]) -> None:
    code, modules = _modules(*arguments)
    assert code == (2 if arguments == ["nonsense"] else 0)
    assert not modules & set(HEAVY)


def test_reading_a_run_imports_neither_torch_nor_mujoco(tmp_path: object) -> None:
    _, modules = _modules("compare", str(tmp_path))
    assert not modules & {"torch", "mujoco"}


def test_the_probe_sees_imports() -> None:
    _, modules = _modules("check", "env", "tests.doubles.fakes:suite")
    assert "robotest.testing" in modules


def test_list_is_fast() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _modules("list")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time, not the clock's: machines that run tests are busy. A quarter of a second where this was written.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
