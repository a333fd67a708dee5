"""A film of every episode on a robot."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from robotest.errors import VideoError
from robotest.files import replacing
from robotest.hardware.deployment.env import RobotEnv
from robotest.report.video import Film


@contextlib.contextmanager
def filming(
    env: RobotEnv, path: Path, picture: Callable[[], Any], failed: Callable[[Exception], None]
) -> Iterator[None]:
    """Film within the context, one frame after every action.

    Args:
        env: to film.
        path: of the film.
        picture: returns the next frame.
        failed: gets the error if there is no film, which must not cost the episode.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, Film(partial, 1 / env.spec.control_dt) as film:
            env.filmed = lambda: film.append(picture())
            try:
                yield
            finally:
                env.filmed = None
    except (VideoError, OSError) as error:
        failed(error)
