"""What a benchmark measures must have happened: a run with errors, or with less work than asked for, has no figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import numpy as np

from robotest.errors import RobotestError
from robotest.types import Episode, Observation

SHORT = "SHORT RUN, to see that it works: its figures say nothing"


def run(main: Callable[[], None]) -> None:
    """Run a benchmark; what is wrong with its input is one line."""
    try:
        main()
    except RobotestError as error:
        refuse(str(error))


def refuse(reason: str) -> NoReturn:
    """End the benchmark without a figure; exit code 1, the reason on standard error."""
    raise SystemExit(f"{Path(sys.argv[0]).name}: no figures: {reason}")


def require(what: str, found: float, wanted: float) -> None:
    """Refuse unless what was counted is what was asked for."""
    if found != wanted:
        refuse(f"{what}: {found:,} of {wanted:,}")


def require_some(what: str, found: float) -> None:
    """Refuse unless there is any."""
    if not found > 0:
        refuse(f"{what}: none")


def require_finite(what: str, values: object) -> None:
    """Refuse what is empty, or holds a number that is none."""
    array = np.asarray(values, np.float64)
    if not array.size or not np.all(np.isfinite(array)):
        refuse(f"{what} is empty or not finite")


def require_episodes(episodes: Iterable[Episode], n: int, steps: int | None = None) -> None:
    """Refuse episodes that are too few, ended in errors, or decided or did nothing.

    Args:
        episodes: what was run.
        n: how many there should be.
        steps: actions that each must have executed; None: at least one.
    """
    found = list(episodes)
    require("episodes", len(found), n)
    broken = [e for e in found if e.outcome == "error"]
    if broken:
        refuse(f"{len(broken)} of {n} episodes ended in errors, the first in: {broken[0].error}")
    for episode in found:
        require_some(f"decisions of {episode.task} {episode.index}", episode.decisions)
        require_some(f"steps of {episode.task} {episode.index}", episode.steps)
        if steps is not None:
            require(f"steps of {episode.task} {episode.index}", episode.steps, steps)


def require_pictures(observation: Observation, cameras: Iterable[str]) -> None:
    """Refuse an observation that lacks a camera, or shows one colour and nothing else."""
    for camera in cameras:
        picture = observation.images.get(camera)
        if picture is None:
            refuse(f"no picture of camera {camera}")
        if picture.min() == picture.max():
            refuse(f"the picture of camera {camera} is empty")


def add_short(parser: argparse.ArgumentParser) -> None:
    """Give a benchmark its short mode."""
    parser.add_argument("--short", action="store_true", help="a little of everything, to see that it works")
