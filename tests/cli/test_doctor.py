import ctypes
import importlib.metadata
import json
import sys

import pytest

from robotest.cli import doctor
from robotest.cli.main import main


def test_every_requirement_is_looked_at() -> None:
    found = {f.what: f for f in doctor.examine()}
    assert found["torch"].ok
    assert found["mujoco"].detail.startswith("3.")
    assert "pytest" not in found  # extras are no requirement
    assert found["python"].ok


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.setattr(doctor, "_drawing", lambda: "works")  # loads libraries itself
    found = {f.what: f for f in doctor.examine()}
    assert not found["libEGL.so.1"].ok
    assert "apt-get install libegl1" in found["libEGL.so.1"].detail


def test_a_broken_look_is_a_finding(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> str:
        raise ValueError("no\nlight")

    monkeypatch.setattr(doctor, "_drawing", broken)
    assert main(["doctor", "--json"]) == 1
    found = {f["what"]: f for f in json.loads(capsys.readouterr().out)}
    assert found["drawing"] == {"what": "drawing", "ok": False, "detail": "ValueError: no light"}


def test_drawing_works_here() -> None:
    assert doctor._drawing().startswith("works")


@pytest.mark.parametrize(("name", "module"), [("packaging", "packaging"), ("pillow", "PIL"), ("scipy", "scipy")])
def test_what_is_installed_and_cannot_be_imported_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: [f"{name}>=1", "numpy>=1"])
    monkeypatch.setitem(sys.modules, module, None)
    found = {f.what: f for f in doctor._packages()}
    assert not found[name].ok
    assert module in found[name].detail
    assert found["numpy"].ok


def test_what_gymnasium_s_robots_need_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gymnasium.envs.mujoco.mujoco_rendering", raising=False)
    monkeypatch.delitem(sys.modules, "packaging.version", raising=False)
    monkeypatch.setitem(sys.modules, "packaging", None)
    found = {f.what: f for f in doctor.examine()}
    assert not found["gymnasium's robots"].ok
    assert "packaging" in found["gymnasium's robots"].detail


def test_nothing_that_a_wheel_does_not_bring_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    for finding in doctor.examine():
        assert "make " not in finding.detail, finding
