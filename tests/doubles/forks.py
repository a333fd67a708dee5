"""Commands run in processes of their own that do not import everything each time: forks of one that has."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

GONE = "gone"
"""A standard output that nobody reads any more."""
_DRIVER = """
import io, json, os, sys
from robotest import evaluation
from robotest.branching import report, run
from robotest.report import progress, tables, video
from robotest.runs import directory, provenance, up_to_date
from robotest.runtime import pool
from robotest.cli.main import main
import tests.doubles.fakes
provenance.commit()

def lead(stream, to, encoding):
    if to == "gone":
        reading, file = os.pipe()
        os.close(reading)
    else:
        file = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, stream)
    return io.TextIOWrapper(open(stream, "wb", closefd=False), encoding=encoding, line_buffering=stream == 2)

for asked in sys.stdin:
    arguments, out, err, encoding = json.loads(asked)
    child = os.fork()
    if not child:
        sys.stdout, sys.stderr = lead(1, out, encoding), lead(2, err, encoding)
        code = 99  # a traceback
        try:
            code = main(arguments)
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forks:
    """Runs commands; made by `forks`."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder

    def run(self, *arguments: str, stdout: str | None = None, encoding: str = "utf-8") -> tuple[int, bytes, bytes]:
        """Return the exit code, negative for a signal, and what was said on both streams.

        Args:
            arguments: of the command line.
            stdout: a path, or `GONE`; None: it is returned.
            encoding: of both streams.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        out, err = self._folder / "out", self._folder / "err"
        out.write_bytes(b"")
        self._process.stdin.write(json.dumps([arguments, stdout or str(out), str(err), encoding]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline()), out.read_bytes(), err.read_bytes()


@contextlib.contextmanager
def forks(folder: Path) -> Iterator[Forks]:
    """Start one process that has imported everything.

    Args:
        folder: for what commands say.
    """
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", _DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Forks(process, folder)
        assert process.stdin is not None
        process.stdin.close()
