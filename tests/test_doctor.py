import ctypes
import json
import sys

import pytest

from robotest import doctor
from robotest.cli import main


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
