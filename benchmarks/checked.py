"""Checks that a benchmark did its work: a run with errors, or with less work than requested, reports no figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import numpy as np

from robotest.errors import RobotestError
from robotest.types import Episode, Observation

SHORT = "SHORT RUN, a smoke test: its figures are meaningless"


def run(main: Callable[[], None]) -> None:
    """Run a benchmark; print input errors as one line."""
    try:
        main()
    except RobotestError as error:
        refuse(str(error))


def refuse(reason: str) -> NoReturn:
    """Exit with code 1 and the reason on standard error, without figures."""
    raise SystemExit(f"{Path(sys.argv[0]).name}: no figures: {reason}")


def require(what: str, actual: float, expected: float) -> None:
    """Refuse unless a count is as expected."""
    if actual != expected:
        refuse(f"{what}: {actual:,} of {expected:,}")


def require_some(what: str, amount: float) -> None:
    """Refuse unless the amount is positive."""
    if not amount > 0:
        refuse(f"{what}: none")


def require_finite(what: str, values: object) -> None:
    """Refuse values that are empty or not finite."""
    array = np.asarray(values, np.float64)
    if not array.size or not np.all(np.isfinite(array)):
        refuse(f"{what} is empty or not finite")


def require_episodes(episodes: Iterable[Episode], n: int, steps: int | None = None) -> None:
    """Refuse episodes that are too few, ended in errors, or have no decisions or steps.

    Args:
        episodes: of the run.
        n: expected number.
        steps: expected number of actions of each; None: at least one.
    """
    episodes = list(episodes)
    require("episodes", len(episodes), n)
    errors = [e for e in episodes if e.outcome == "error"]
    if errors:
        refuse(f"{len(errors)} of {n} episodes ended in errors, the first in: {errors[0].error}")
    for episode in episodes:
        require_some(f"decisions of {episode.task} {episode.index}", episode.decisions)
        require_some(f"steps of {episode.task} {episode.index}", episode.steps)
        if steps is not None:
            require(f"steps of {episode.task} {episode.index}", episode.steps, steps)


def require_pictures(observation: Observation, cameras: Iterable[str]) -> None:
    """Refuse an observation without a camera, or with a picture of a single colour."""
    for camera in cameras:
        picture = observation.images.get(camera)
        if picture is None:
            refuse(f"no picture of camera {camera}")
        if picture.min() == picture.max():
            refuse(f"the picture of camera {camera} is empty")


def add_short(parser: argparse.ArgumentParser) -> None:
    """Add the option --short to a benchmark."""
    parser.add_argument("--short", action="store_true", help="run a little of everything, as a smoke test")
