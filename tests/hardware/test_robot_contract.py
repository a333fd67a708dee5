"""Every registered robot keeps the contract of `robotest.hardware.robot`, before simulated controllers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from robotest import registry
from robotest.cli import main
from robotest.hardware.deployment import shadow
from tests.doubles.robots import ROOT

pytestmark = pytest.mark.realtime
pytest.importorskip("Robotic_Arm", reason="the vendor's SDK is not installed: pip install 'robotest[realman]'")


@pytest.mark.slow
@pytest.mark.parametrize("robot", sorted(registry.table("robot")))
def test_it_keeps_its_contract(robot: str) -> None:
    """In a process of its own: the SDK keeps its connections in globals, and prints from C."""
    checking = [sys.executable, "-m", "robotest", "check", "robot", robot]
    done = subprocess.run(checking, capture_output=True, text=True, cwd=ROOT, timeout=60)  # noqa: S603 - our own
    assert done.returncode == 0, done.stderr
    assert "keeps its contract" in done.stdout


def test_a_robot_needs_its_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["deploy"]) == 2
    assert "no --config given" in capsys.readouterr().err


def test_a_shadow_s_log_is_summed_up(tmp_path: Path) -> None:
    log = tmp_path / "shadow.jsonl"
    lines = [
        {"chunk": 1, "steps": 2, "notes": []},
        {"chunk": 1, "step": 0, "difference_rad": [0.1, 0.3]},
        {"chunk": 1, "step": 1, "difference_rad": [0.2, 0.1]},
        {"chunk": 2, "steps": 2, "rejected": "step 0: into the table"},
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert shadow.summary(log) == {
        "chunks": 2,
        "rejected": 1,
        "difference_p50_rad": 0.25,
        "difference_p99_rad": 0.299,
    }
