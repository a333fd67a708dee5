"""Starting simulated controllers."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

from robotest.hardware.robot import RobotError

_READY_S: Final = 20.0


@contextlib.contextmanager
def simulated_robot(robot: str) -> Iterator[None]:
    """Run the simulated controllers of a robot in another process.

    Raises:
        RobotError: they do not start, e.g. because the ports are taken.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "robotest", "simulate-robot"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        if "ready" not in line:
            errors = process.stderr.read().strip().splitlines()
            raise RobotError(
                f"the simulated controllers of {robot} did not start: {errors[-1] if errors else line.strip()}"
            )
        yield
    finally:
        process.terminate()
        process.wait(_READY_S)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
