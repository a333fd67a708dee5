"""The command line: parse, run, and turn what went wrong into one line and an exit code.

Exit codes: 0 done; 1 done, but episodes ended in errors (or `doctor` found a problem); 2 bad usage or input, one line
on standard error; 3 `compare --fail-if-worse` found it worse; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import tyro

from robotest.commands.branching import Branch
from robotest.commands.evaluation import Compare, Eval, Plan, Video
from robotest.commands.hardware import Deploy, SimulateRobot
from robotest.commands.inspection import Check, Doctor, List
from robotest.commands.learning import Collect, Fit, Train
from robotest.errors import InterruptedRunError, RobotestError

_RULE = re.compile(r"[\s│╰]*[─-]{4,}[\s│╯]*")
COMMANDS: dict[str, Callable[..., Command]] = {
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
    "doctor": Doctor,
}


class Command(Protocol):
    """A parsed subcommand."""

    def run(self) -> int:
        """Do it and return the exit code."""
        ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: what follows the program's name; None is this process's own.
    """
    sys.path.append(str(Path.cwd()))  # module:attribute also finds modules that lie here; installed ones come first
    try:
        return parse(arguments).run()
    except InterruptedRunError as error:
        _say(error)
        return 130
    except RobotestError as error:
        _say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        _say("interrupted")
        return 130


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
                return tyro.cli(COMMANDS[words[0]], prog=f"robotest {words[0]}", args=words[1:])
            command: Command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="robotest", args=words)
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


def _say(message: object) -> None:
    sys.stderr.write(f"robotest: {' '.join(str(message).split())}\n")


if __name__ == "__main__":
    sys.exit(main())
