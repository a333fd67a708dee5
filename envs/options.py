"""What every suite does with the options it is given: it refuses, by name, what it does not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from robotest.errors import RobotestError, UnknownNameError
from robotest.types import EnvOptions, Suite

WORDINGS: Final = ("seen", "unseen")


def require_known(
    suite: Suite,
    task: str,
    options: EnvOptions,
    cameras: Sequence[str],
    env_args: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, str]:
    """Check a task and options against what a suite, and its task's cameras, have, and return the arguments given.

    Args:
        suite: whose names they are.
        task: what is to be built.
        options: how.
        cameras: of the task.
        env_args: key -> values that `EnvOptions.env_args` may have; None: there are none.

    Raises:
        UnknownNameError: the first name that is not among them.
        RobotestError: an argument that is not ``key=value``, or is given twice.
    """
    for kind, given, known in (
        ("task", task, suite.tasks),
        ("setting", options.setting, suite.settings),
        ("action mode", options.action_mode, suite.action_modes),
        ("wording", options.wording, WORDINGS),
        *(("camera", camera, cameras) for camera in options.cameras or ()),
    ):
        if given not in known:
            raise UnknownNameError(f"{kind} of {suite.name}", given, known)
    return _arguments(suite.name, options.env_args, env_args or {})


def _arguments(suite: str, given: Sequence[str], known: Mapping[str, Sequence[str]]) -> dict[str, str]:
    if given and not known:
        raise RobotestError(f"--env-arg {given[0]} given; {suite} takes no arguments: leave it out")
    found: dict[str, str] = {}
    for text in given:
        key, separator, value = text.partition("=")
        if not separator:
            raise RobotestError(f"--env-arg {text} given; it is key=value, and {suite} knows {', '.join(known)}")
        if key not in known:
            raise UnknownNameError(f"argument of {suite}", key, known)
        if key in found:
            raise RobotestError(f"--env-arg {key} given twice, {found[key]} and {value}: leave one out")
        if value not in known[key]:
            raise UnknownNameError(f"value of {suite}'s argument {key}", value, known[key])
        found[key] = value
    return found
