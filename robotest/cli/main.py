"""The command line: parse, run, and turn errors into one line and an exit code.

Exit codes: 0 done; 1 done, but episodes ended in errors (or `doctor` found a problem); 2 bad usage or input, one line
on standard error; 3 `compare --fail-if-worse` found a loss; 130 interrupted; 141 the reader closed the output
(`robotest list | head -1`), without a message.
"""

from __future__ import annotations

import contextlib
import errno
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import tyro

from robotest.cli import terminal
from robotest.cli.adoption import Adopt
from robotest.cli.arguments import once_each
from robotest.cli.branching import Branch
from robotest.cli.evaluation import Compare, Eval, Plan, Video
from robotest.cli.inspection import Check, Doctor, List
from robotest.cli.installation import Install
from robotest.cli.learning import Collect, Fit, Train
from robotest.cli.robots import Deploy, SimulateRobot
from robotest.cli.serving import Serve
from robotest.errors import InterruptedRunError, RobotestError

_RULE = re.compile(r"[\s│╰]*[─-]{4,}[\s│╯]*")
_FULL = {errno.EDQUOT, errno.EFBIG, errno.ENOSPC}
_REFUSALS = {
    getattr(errno, name)
    for name in (
        "EACCES",
        "EDQUOT",
        "EFBIG",
        "EIO",
        "EISDIR",
        "ELOOP",
        "EMFILE",
        "ENAMETOOLONG",
        "ENFILE",
        "ENOENT",
        "ENOSPC",
        "ENOTDIR",
        "EPERM",
        "EROFS",
    )
}
"""Errors of the file system or the operating system, not of the program."""
COMMANDS: dict[str, type[Command]] = {
    "list": List,
    "check": Check,
    "adopt": Adopt,
    "collect": Collect,
    "train": Train,
    "fit": Fit,
    "eval": Eval,
    "compare": Compare,
    "plan": Plan,
    "branch": Branch,
    "video": Video,
    "serve": Serve,
    "deploy": Deploy,
    "simulate-robot": SimulateRobot,
    "install": Install,
    "doctor": Doctor,
}


class Command(Protocol):
    """A parsed subcommand."""

    def run(self) -> int:
        """Do it and return the exit code."""
        ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code, also for ``--help``.

    Args:
        arguments: what follows the program's name; None: `sys.argv`.
    """
    terminal.prepare()
    return terminal.finish(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        sys.path.append(str(Path.cwd()))  # module:attribute also finds modules here, after the installed ones
        return parse(arguments).run()
    except InterruptedRunError as error:
        terminal.say(error)
        return 130
    except RobotestError as error:
        terminal.say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        terminal.say("interrupted")
        return 130
    except SystemExit as exit_:  # --help; `finish` flushes the buffer
        return int(exit_.code or 0)
    except BrokenPipeError:
        if not terminal.nobody_reads():
            raise
        return terminal.BROKEN_PIPE
    except (OSError, UnicodeEncodeError) as error:
        if not (refusal := _refusal(error)):
            raise
        terminal.say(f"error: {refusal}")
        return 2


def _refusal(error: OSError | UnicodeEncodeError) -> str | None:
    """Describe what the operating system refused; None if the error is a bug of the program."""
    if isinstance(error, UnicodeEncodeError):
        if error.encoding != sys.getfilesystemencoding():
            return None
        return (
            f"this locale ({error.encoding}) cannot encode the file name {error.object[error.start : error.end]!a};"
            " set the environment variable PYTHONUTF8=1"
        )
    if error.errno not in _REFUSALS:
        return None
    where = f"{error.filename}: " if error.filename else "cannot write: " if error.errno in _FULL else ""
    return f"{where}{error.strerror}"


def parse(arguments: Sequence[str] | None = None) -> Command:
    """Parse a command line. ``--help`` prints and exits with 0.

    Raises:
        RobotestError: it cannot be parsed; the message is one line.
    """
    captured = io.StringIO()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with contextlib.redirect_stderr(captured):
            if words and words[0] in COMMANDS:  # the command's own parser: its errors name this command's options alone
                kind = COMMANDS[words[0]]
                return tyro.cli(kind, prog=f"robotest {words[0]}", args=once_each(kind, words[1:]))
            command: Command = tyro.extras.subcommand_cli_from_dict({**COMMANDS}, prog="robotest", args=words)
    except SystemExit as exit_:
        if not exit_.code:
            raise
        raise RobotestError(_one_line(captured.getvalue())) from None
    return command


def _one_line(boxed: str) -> str:
    """Strip title and frame (Unicode or ASCII) from tyro's message and join its parts into one line."""
    title, *lines = re.sub(r"\x1b\[[0-9;]*m", "", boxed).strip().splitlines()
    text = " ".join("\n" if _RULE.fullmatch(line) else line.strip(" │") for line in lines)
    return "; ".join(" ".join(part.split()) for part in text.split("\n") if part.strip()) or title
