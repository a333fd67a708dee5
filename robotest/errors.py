"""The errors that users see.

Every message says what was given, what is allowed and what to do. The command line prints a `RobotestError` as one
line and exits with 2; inside an episode it becomes that episode's `error`, which is neither success nor failure.
"""

from __future__ import annotations

import contextlib
import difflib
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


class RobotestError(Exception):
    """Base of every error caused by the input, not by a bug."""


class UnknownNameError(RobotestError):
    """A name that no table, entry point or module resolves.

    Args:
        kind: what the name should name, e.g. ``env``.
        given: the name.
        known: known names.
        members: names that families among `known` resolve, e.g. ``libero/libero_goal`` for ``libero/ID``.
    """

    def __init__(self, kind: str, given: str, known: Iterable[str], members: Iterable[str] = ()) -> None:
        names, members = sorted(known), sorted(members)
        start = (f"{given}/", f"{given}:")
        variants = [m for m in members if m.startswith(start)] or [n for n in names if n.startswith(start)]
        close = difflib.get_close_matches(given, [*names, *members], n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        if given and variants:
            hint = f" Say which one: {', '.join(variants)}."
        other = "; or give 'module:attribute'" if kind in ("env", "policy", "verifier", "robot") else ""
        super().__init__(f"unknown {kind} {given!r}.{hint} Known: {', '.join(names)}{other}")
        self._arguments = (kind, given, names, members)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments: a worker process sends its errors to the parent."""
        return type(self), self._arguments


class SpecMismatchError(RobotestError):
    """Two parts do not fit each other; raised before the first episode."""


class InvalidActionError(RobotestError):
    """An action, feature or score is not finite or has the wrong shape."""


class InvalidObservationError(RobotestError):
    """An observation is not finite, or does not match its environment's spec."""


class SuccessError(RobotestError):
    """Success is neither yes nor no, or undefined."""


class UnpairedStartsError(RobotestError):
    """Paired episodes started from different states, so their outcomes cannot be paired."""


class PolicyUnavailableError(RobotestError):
    """A policy on another machine cannot be reached at present; the same call may succeed later."""


class ArtifactError(RobotestError):
    """A file is missing, damaged, of another kind, or made for another policy."""


class VideoError(RobotestError):
    """A video cannot be written, or only in part."""


class DivergedError(RobotestError):
    """Training or fitting diverged."""


class RunDirectoryError(RobotestError):
    """A run directory cannot be written, or belongs to other arguments."""


class BrokenRunError(RobotestError):
    """All first episodes of a run failed before they began; recorded episodes are kept."""


class InterruptedRunError(RobotestError):
    """The user stopped a run; finished episodes are kept, and the message says how to continue."""


class ConformanceError(RobotestError):
    """A part breaks its contract; raised by `robotest.testing`."""


def describe(exception: BaseException) -> str:
    """Return an exception as one line."""
    return " ".join(f"{type(exception).__name__}: {exception}".split())


def shown(value: object) -> str:
    """Return a value as one line for an error message, cut to 80 characters."""
    try:
        text = " ".join(repr(value).split())
    except Exception as error:  # noqa: BLE001 - the repr of a third party's object
        text = f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
    return text if len(text) <= 80 else f"{text[:79]}…"


def place(exception: BaseException) -> str:
    """Return an exception as one line, with file and line where it was raised."""
    frames = traceback.extract_tb(exception.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return describe(exception) + where


@contextlib.contextmanager
def building(what: str) -> Iterator[None]:
    """Turn any exception of a third party's constructor, factory or module into a one-line `RobotestError`.

    Args:
        what: the part being built, e.g. ``env 'my_env:suite'``.
    """
    try:
        yield
    except RobotestError:
        raise
    except (Exception, SystemExit) as error:
        raise RobotestError(f"{what} cannot be built: {place(error)}") from error
