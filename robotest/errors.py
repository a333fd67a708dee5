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
    """Base of every error that is the input's fault and not the program's."""


class UnknownNameError(RobotestError):
    """A name that no table, entry point or module resolves.

    Args:
        kind: of thing.
        given: the name.
        known: names that there are.
        members: of families among these: what may be given, beside the name with which it is listed.
    """

    def __init__(self, kind: str, given: str, known: Iterable[str], members: Iterable[str] = ()) -> None:
        names, members = sorted(known), sorted(members)
        start = (f"{given}/", f"{given}:")
        own = [m for m in members if m.startswith(start)] or [n for n in names if n.startswith(start)]
        close = difflib.get_close_matches(given, [*names, *members], n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        if given and own:
            hint = f" Say which one: {', '.join(own)}."
        other = "; or give 'module:attribute'" if kind in ("env", "policy", "verifier", "robot") else ""
        super().__init__(f"unknown {kind} {given!r}.{hint} Known: {', '.join(names)}{other}")
        self._arguments = (kind, given, names, members)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments, so that it survives the way out of a worker process."""
        return type(self), self._arguments


class SpecMismatchError(RobotestError):
    """Two parts that do not fit each other, found before the first episode."""


class InvalidActionError(RobotestError):
    """An action or a score that is not finite or has the wrong shape."""


class InvalidObservationError(RobotestError):
    """An observation that is not finite, or not laid out as its environment says."""


class SuccessError(RobotestError):
    """Success that is neither yes nor no, or that nothing defines."""


class UnpairedStartsError(RobotestError):
    """Conditions that should start alike and did not: what they end in are no pairs."""


class ArtifactError(RobotestError):
    """A file that is missing, damaged, of another kind, or made for another policy."""


class VideoError(RobotestError):
    """A video cannot be written, or only a part of it."""


class DivergedError(RobotestError):
    """Numbers grew beyond all bounds while something was trained or fitted."""


class RunDirectoryError(RobotestError):
    """A run directory that cannot be written, or that belongs to other arguments."""


class BrokenRunError(RobotestError):
    """A run whose first episodes all failed before they began; what is filed is kept."""


class InterruptedRunError(RobotestError):
    """The user stopped a run; everything finished is kept, and the message says how to go on."""


class ConformanceError(RobotestError):
    """A part breaks its contract; found by `robotest.testing`."""


def describe(exception: BaseException) -> str:
    """Return an exception as one line."""
    return " ".join(f"{type(exception).__name__}: {exception}".split())


def shown(value: object) -> str:
    """Return a value for an error: in one line, and not all of it if it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception as error:  # noqa: BLE001 - somebody else's object
        text = f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
    return text if len(text) <= 80 else f"{text[:79]}…"


def place(exception: BaseException) -> str:
    """Return an exception as one line, with where it was raised."""
    frames = traceback.extract_tb(exception.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return describe(exception) + where


@contextlib.contextmanager
def building(what: str) -> Iterator[None]:
    """Turn whatever somebody's constructor, factory or module raises into one line that says where.

    Args:
        what: is being built, e.g. ``env 'my_env:suite'``.
    """
    try:
        yield
    except RobotestError:
        raise
    except (Exception, SystemExit) as error:
        raise RobotestError(f"{what} cannot be built: {place(error)}") from error
