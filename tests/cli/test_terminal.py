"""With any state of standard output and error, a command ends with an exit code and without a traceback."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import pytest

from robotest.cli import terminal
from robotest.cli.main import main
from robotest.errors import UnknownNameError
from robotest.report import progress
from robotest.types import EnvOptions, Observation
from tests.doubles.fakes import PointEnv, PointSuite
from tests.doubles.forks import GONE, Forks, forks

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
FAKES = ("--policy", "tests.doubles.fakes:policy", "--verifiers", "random,medoid", "--workers", "0", "--episodes", "2")
TASKS = {"stapeln-für-später": "near", "把红色方块放好": "far"}


class Worded(PointEnv):
    def observe(self) -> Observation:
        seen = super().observe()
        return Observation(seen.images, seen.state, "наведи порядок [/на] столе", seen.time)


class WordedSuite(PointSuite):
    """Has task names in other languages."""

    tasks = tuple(TASKS)

    def make(self, task: str, options: EnvOptions) -> PointEnv:
        if task not in TASKS:
            raise UnknownNameError("task", task, self.tasks)
        env = Worded(TASKS[task], options)
        env._spec = type(env._spec)(**{**vars(env._spec), "task": task})
        return env


suite = WordedSuite()
EVAL = ("eval", "--env", "tests.cli.test_terminal:suite", *FAKES)


def _robotest(
    *arguments: str, stdout: int | IO[bytes] = subprocess.PIPE, environment: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a separate interpreter, up to its exit."""
    return subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "robotest", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with forks(tmp_path_factory.mktemp("said")) as made:
        yield made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of tasks with such names, made under an encoding that has them."""
    run = tmp_path_factory.mktemp("runs") / "run"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main([*EVAL, "--out", str(run), "--videos", "none"]) == 0
    return run


COMMANDS = [
    ["list"],
    ["list", "--json"],
    ["--help"],
    ["compare", "--help"],
    ["compare", "RUN"],
    ["compare", "RUN", "--json"],
    ["compare", "RUN", "--markdown"],
    ["plan"],
    ["plan", "--json"],
    ["video", "RUN"],
    [
        "branch",
        "RUN",
        "--policy",
        "tests.doubles.fakes:policy",
        "--verifiers",
        "medoid",
        "--episodes",
        "1",
        "--workers",
        "0",
    ],
    ["check", "env", "tests.cli.test_terminal:suite"],
    [*EVAL, "--out", "RUN", "--videos", "none"],
]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_terminal_without_the_letters_gets_others(forked: Forks, run: Path, arguments: list[str]) -> None:
    words = [str(run) if word == "RUN" else word for word in arguments]
    code, out, err = forked.run(*words, encoding="ascii")
    assert code == 0, err.decode()
    assert b"Traceback" not in err
    assert (out + err).isascii()
    if "RUN" in arguments and "--json" not in arguments and arguments[0] in ("compare", "video"):
        assert b"f?r" in out


@pytest.mark.slow
def test_a_locale_without_the_letters_is_told_in_one_line(tmp_path: Path) -> None:
    done = _robotest(*EVAL, "--out", str(tmp_path / "run"), environment=ASCII)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.decode("ascii").splitlines() if line.startswith("robotest: ")]
    assert "PYTHONUTF8=1" in line
    assert b"Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_reader_that_has_gone_ends_it_quietly(forked: Forks, run: Path, arguments: list[str]) -> None:
    words = [str(run) if word == "RUN" else word for word in arguments]
    code, _, err = forked.run(*words, stdout=GONE)
    assert code == 141, err.decode()
    assert b"robotest: " not in err
    assert b"Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_that_is_full_is_one_line(forked: Forks, run: Path, arguments: list[str]) -> None:
    words = [str(run) if word == "RUN" else word for word in arguments]
    code, _, err = forked.run(*words, stdout="/dev/full")
    assert code == 2
    (line,) = [line for line in err.decode().splitlines() if line.startswith("robotest: ")]
    assert line.startswith("robotest: error: cannot write")
    assert line.endswith("No space left on device")
    assert "Traceback" not in err.decode()


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_the_interpreter_has_nothing_to_add_when_it_ends(unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = _robotest("list", stdout=writing, environment={"PYTHONUNBUFFERED": unbuffered})
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
    with Path("/dev/full").open("wb") as full:
        done = _robotest("list", stdout=full, environment={"PYTHONUNBUFFERED": unbuffered})
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"cannot write" in done.stderr


@pytest.mark.slow
def test_streams_that_are_closed_are_no_reason_to_fail() -> None:
    program = "import os; os.close(1); os.close(2); os.execv({0!r}, [{0!r}, '-m', 'robotest', {1!r}])"
    for command, code in (("list", 0), ("lst", 2)):
        words = [sys.executable, "-c", program.format(sys.executable, command)]
        assert subprocess.run(words, check=False).returncode == code  # noqa: S603 - our own interpreter


@pytest.mark.slow
def test_bars_are_shown_in_letters_that_any_terminal_has(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "robotest", *EVAL, "--out", str(tmp_path / "run"), "--videos", "all", "--json"]
    environment = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "ascii"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment)  # noqa: S603 - ours
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while piece := os.read(ours, 4096):
            shown += piece
    out, _ = process.communicate()
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    assert b"Traceback" not in shown
    assert shown.isascii()
    assert re.search(rb"random \d/\d", shown)  # whichever moment was drawn
    assert set(json.loads(out)["conditions"]["random"]["tasks"]) == set(TASKS)


def test_names_with_brackets_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("reach [/the] [bold]target", 1) as advance:
        advance()
    assert "reach [/the] [bold]target" in capsys.readouterr().err


def test_bytes_that_are_no_text_keep_being_those_bytes() -> None:
    terminal.prepare()
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors=terminal._ERRORS)
    stream.write("a\udcffü\udc80")
    stream.flush()
    assert raw.getvalue() == b"a\xff?\x80"


def test_what_the_system_refuses_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(_: object) -> int:
        raise PermissionError(13, "Permission denied", str(tmp_path / "file"))

    monkeypatch.setattr("robotest.cli.inspection.List.run", refused)
    assert main(["list"]) == 2
    assert capsys.readouterr().err == f"robotest: error: {tmp_path / 'file'}: Permission denied\n"


def test_a_pipe_of_the_program_s_own_that_breaks_is_no_end_of_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("robotest.cli.inspection.List.run", broken)
    with pytest.raises(BrokenPipeError):
        main(["list"])
