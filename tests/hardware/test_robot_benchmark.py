"""The benchmark of the robot bridge, in its short mode. It judges real time, so it runs with nothing beside it."""

from __future__ import annotations

import pytest

from tests.test_benchmarks import run


@pytest.mark.realtime
def test_the_short_mode_does_its_work() -> None:
    done = run("robot.py", "--short", "--normal-priority")
    assert done.returncode == 0, done.stderr
    assert "violations" in done.stdout
