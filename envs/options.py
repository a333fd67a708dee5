"""Validation of `EnvOptions`, shared by the suites."""

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
    """Validate a task and options of a suite; return `EnvOptions.env_args` as a mapping.

    Args:
        suite: defines tasks, settings and action modes.
        task: to be built.
        options: to validate.
        cameras: of the task.
        env_args: key -> allowed values of `EnvOptions.env_args`; None: the suite takes no arguments.

    Raises:
        UnknownNameError: the first name or value that the suite does not have.
        RobotestError: an argument that is not ``key=value``, is given twice, or to a suite without arguments.
    """
    for kind, name, known in (
        ("task", task, suite.tasks),
        ("setting", options.setting, suite.settings),
        ("action mode", options.action_mode, suite.action_modes),
        ("wording", options.wording, WORDINGS),
        *(("camera", camera, cameras) for camera in options.cameras or ()),
    ):
        if name not in known:
            raise UnknownNameError(f"{kind} of {suite.name}", name, known)
    return _arguments(suite.name, options.env_args, env_args or {})


def _arguments(suite: str, texts: Sequence[str], known: Mapping[str, Sequence[str]]) -> dict[str, str]:
    if texts and not known:
        raise RobotestError(f"--env-arg {texts[0]} given; {suite} takes no arguments: omit it")
    arguments: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise RobotestError(f"--env-arg {text} given; it must be key=value, with a key of {', '.join(known)}")
        if key not in known:
            raise UnknownNameError(f"argument of {suite}", key, known)
        if key in arguments:
            raise RobotestError(f"--env-arg {key} given twice, {arguments[key]} and {value}: omit one")
        if value not in known[key]:
            raise UnknownNameError(f"value of {suite}'s argument {key}", value, known[key])
        arguments[key] = value
    return arguments
