"""The command line: parse, run, and turn what went wrong into one line and an exit code.

Exit codes: 0 done; 1 done, but episodes ended in errors (or `doctor` found a problem); 2 bad usage or input, one line
on standard error; 3 `compare --fail-if-worse` found it worse; 130 interrupted; 141 nobody reads the output any more
(`robotest list | head -1`), which is not worth a word.
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
from robotest.cli.arguments import once_each
from robotest.cli.branching import Branch
from robotest.cli.evaluation import Compare, Eval, Plan, Video
from robotest.cli.inspection import Check, Doctor, List
from robotest.cli.installation import Install
from robotest.cli.learning import Collect, Fit, Train
from robotest.cli.robots import Deploy, SimulateRobot
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
"""What a disk, its owner or the system refuses, wherever it comes up."""
COMMANDS: dict[str, type[Command]] = {
    "list": List,
    "check": Check,
    "collect": Collect,
    "train": Train,
    "fit": Fit,
    "eval": Eval,
    "compare": Compare,
    "plan": Plan,
    "branch": Branch,
    "video": Video,
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
    """Run one command and return its exit code, that of ``--help`` too.

    Args:
        arguments: what follows the program's name; None is this process's own.
    """
    terminal.prepare()
    return terminal.finish(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        sys.path.append(str(Path.cwd()))  # module:attribute also finds modules that lie here; installed ones come first
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
    except SystemExit as exit_:  # --help; what is left in the buffer is still to be written
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
    """Say what the system refused; None if that is rather a fault of the program."""
    if isinstance(error, UnicodeEncodeError):
        if error.encoding != sys.getfilesystemencoding():
            return None
        return (
            f"this locale ({error.encoding}) has no file names with {error.object[error.start : error.end]!a};"
            " set the environment variable PYTHONUTF8=1"
        )
    if error.errno not in _REFUSALS:
        return None
    where = f"{error.filename}: " if error.filename else "cannot write: " if error.errno in _FULL else ""
    return f"{where}{error.strerror}"


def parse(arguments: Sequence[str] | None = None) -> Command:
    """Parse a command line. ``--help`` prints and exits with 0.

    Raises:
        RobotestError: it is not understood; one line.
    """
    captured = io.StringIO()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with contextlib.redirect_stderr(captured):
            if words and words[0] in COMMANDS:  # its own parser: what it says of a mistake is about this command alone
                kind = COMMANDS[words[0]]
                return tyro.cli(kind, prog=f"robotest {words[0]}", args=once_each(kind, words[1:]))
            command: Command = tyro.extras.subcommand_cli_from_dict({**COMMANDS}, prog="robotest", args=words)
    except SystemExit as exit_:
        if not exit_.code:
            raise
        raise RobotestError(_one_line(captured.getvalue())) from None
    return command


def _one_line(boxed: str) -> str:
    """Take title and frame, of either alphabet, off tyro's message and put its parts on one line."""
    title, *lines = re.sub(r"\x1b\[[0-9;]*m", "", boxed).strip().splitlines()
    text = " ".join("\n" if _RULE.fullmatch(line) else line.strip(" │") for line in lines)
    return "; ".join(" ".join(part.split()) for part in text.split("\n") if part.strip()) or title
