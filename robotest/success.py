"""When has an episode succeeded? Named rules, for environments that do not say.

A rule is written as

    info:KEY          ``info[KEY]`` of any step is true
    return>=X         the finished episode's return is at least X
    terminated        the environment ends the episode by itself: right for reaching a goal, wrong for falling over
    module:function   your function, which takes a `Judged` and returns a bool
    none              no rule: returns are recorded and compared as numbers

Tasks that compute success themselves, as in the simulated suites, have the rule ``predicate``.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from robotest.errors import RobotestError, SuccessError, shown

PREDICATE: Final = "predicate"
"""The rule of tasks that compute success themselves."""
NONE: Final = "none"
CHOICES: Final = "info:KEY, return>=X, terminated, module:function, or none for returns alone"
_INFO: Final = "info:"
_RETURN: Final = "return>="


@dataclasses.dataclass(frozen=True)
class Judged:
    """One step as a rule sees it.

    Attributes:
        info: the environment's ``info`` of the step.
        terminated: the environment ended the episode by itself.
        truncated: the environment or the step limit cut the episode off.
        finished: this is the last step: `terminated`, `truncated`, or the step limit.
        episode_return: rewards so far, this step's included.
        steps: taken so far, this one included.
    """

    info: Mapping[str, Any]
    terminated: bool
    truncated: bool
    finished: bool
    episode_return: float
    steps: int


class Rule:
    """A rule and its memory of one episode; call `begin` at each start.

    Args:
        text: of ``--success``.

    Raises:
        RobotestError: it is no rule, or names a function that does not exist.
    """

    def __init__(self, text: str) -> None:
        self.text: Final = text
        self._judge: Final = _judge(text)
        self._key: Final = text.removeprefix(_INFO) if text.startswith(_INFO) else None
        self._answered = False

    def begin(self) -> None:
        """Forget the last episode."""
        self._answered = False

    def __call__(self, judged: Judged) -> bool:
        """Judge a step.

        Raises:
            SuccessError: the answer is neither yes nor no, or the episode ended without one.
        """
        if self._key is not None:
            self._answered |= self._key in judged.info
            if judged.finished and not self._answered:
                raise SuccessError(
                    f"success is {self.text!r}, and the episode ended without {self._key!r} in any info; its last has"
                    f" {', '.join(map(repr, judged.info)) or 'nothing'}. Choose another --success: {CHOICES}"
                )
        return truth(self._judge(judged), f"success by {self.text!r}")


def truth(value: object, what: str = "success") -> bool:
    """Return the truth of a bool, of 0 or 1, or of an array that holds one of them and nothing else.

    Args:
        value: from an environment or a rule.
        what: its name in the error.

    Raises:
        SuccessError: it is anything else: a dict, a text or NaN is neither success nor failure.
    """
    if value is True or value is False:
        return value
    if not isinstance(value, (str, bytes, Mapping)) and value is not None:
        try:
            array = np.asarray(value)
        except Exception:  # noqa: BLE001 - any object may come from an environment
            array = np.asarray(None)
        if array.dtype.kind in "biuf" and array.size == 1 and not isinstance(value, (list, tuple, set)):
            number = array.item()
            if number in (0, 1):
                return bool(number)
    raise SuccessError(f"{what} is {shown(value)}; a bool is needed, 0 or 1, or an array of one of them")


def module_of(text: str) -> str:
    """Return the module of a rule ``module:function``; empty for any other rule."""
    known = text in (NONE, PREDICATE, "terminated") or text.startswith((_INFO, _RETURN))
    return "" if known else text.partition(":")[0]


def _judge(text: str) -> Callable[[Judged], object]:
    if text == NONE:
        return lambda _: False
    if text == "terminated":
        return lambda judged: judged.terminated
    if text.startswith(_INFO):
        key = text.removeprefix(_INFO)
        if not key:
            raise RobotestError(f"--success {text!r} names no key of info, e.g. info:is_success")
        return lambda judged: judged.info.get(key, False)
    if text.startswith(_RETURN):
        least = _number(text)
        return lambda judged: judged.finished and judged.episode_return >= least
    return _function(text)


def _number(text: str) -> float:
    try:
        least = float(text.removeprefix(_RETURN))
    except ValueError:
        least = math.nan
    if not math.isfinite(least):
        raise RobotestError(f"--success {text!r} names no finite number, e.g. return>=195")
    return least


def _function(text: str) -> Callable[[Judged], object]:
    module, _, attribute = text.partition(":")
    if not module or not attribute:
        raise RobotestError(f"--success {text!r} is no rule; give {CHOICES}")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise RobotestError(f"--success {text!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise RobotestError(
            f"--success {text!r} is a {type(function).__name__}; a function of robotest.success.Judged is needed"
        )
    judge: Callable[[Judged], object] = function
    return judge
