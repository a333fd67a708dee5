"""An environment process of a pool: ``python -m robotest.runtime.worker SOCKET PARENT [PATH ...]``.

`robotest.runtime.pool` starts it.

It needs numpy, msgpack, jaxtyping, the simulator and this package, not torch. `robotest.runtime.messages` has the
protocol.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import platform
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Float32

import robotest
from robotest import experts
from robotest.clock import SimClock, WallClock
from robotest.errors import RobotestError, describe
from robotest.registry import resolve
from robotest.runtime.messages import (
    Chunk,
    ChunkRequest,
    EpisodeEnded,
    Failed,
    FromPool,
    FromWorker,
    Hello,
    RunRequest,
    SpecReply,
    SpecRequest,
    SuiteReply,
    SuiteRequest,
    from_pool,
    to_wire,
)
from robotest.runtime.rollout import Trace, attempt
from robotest.runtime.runner import SuiteInfo
from robotest.runtime.wire import Channel, DisconnectedError
from robotest.types import Env, EnvOptions, Observation, Suite

PROTOCOL = 3
DUMP_SIGNAL = signal.SIGUSR1
"""Makes a worker write its stack, for the parent to read before it ends it."""


class RefusedError(Exception):
    """The parent has no chunk; it knows why."""


class Worker:
    """One suite's environments behind a channel.

    Args:
        channel: to the parent.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._suite: Suite | None = None
        self._env: Env | None = None
        self._made: tuple[str, EnvOptions] | None = None

    def serve(self) -> NoReturn:
        """Serve requests until the parent closes the channel, which raises `DisconnectedError`."""
        self._send(Hello(PROTOCOL, robotest.__version__, os.getpid()))
        while True:
            data = self._channel.receive()
            try:
                self._send(self._answer(from_pool(data)))
            except DisconnectedError:
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the parent decides what follows
                traceback.print_exc()
                self._send(Failed(str(error) if isinstance(error, RobotestError) else describe(error)))

    def _answer(self, request: FromPool) -> FromWorker:
        match request:
            case SuiteRequest(env):
                return SuiteReply(SuiteInfo.of(self._suite_of(env)))
            case SpecRequest(env, task, options):
                return SpecReply(self._make(env, task, options).spec)
            case RunRequest():
                return self._run(request)
        raise RobotestError(f"a worker cannot answer {request!r:.100}")

    def _run(self, request: RunRequest) -> EpisodeEnded:
        seeds, options = request.seeds, request.options
        new = self._made != (seeds.task, options)
        env = self._make(request.env, seeds.task, options)
        if new:
            self._send(SpecReply(env.spec))
        trace, clock = Trace(film=request.film), SimClock()
        ended = attempt(env, self._decide, seeds, trace, clock, WallClock(), request.execute, request.origin)
        return EpisodeEnded(ended, trace)

    def _decide(self, observation: Observation, number: int) -> Float32[np.ndarray, "H A"]:
        """Ask the parent for the chunk to execute; the decision stays there."""
        self._send(ChunkRequest(observation, number))
        match from_pool(self._channel.receive()):
            case Chunk(actions):
                return actions
        raise RefusedError("the selector has no decision")

    def _send(self, message: FromWorker) -> None:
        self._channel.send(to_wire(message))

    def _suite_of(self, env: str) -> Suite:
        """Return the suite of that name; a worker serves one."""
        if self._suite is None:
            self._suite = resolve("env", env)
        return self._suite

    def _make(self, name: str, task: str, options: EnvOptions) -> Env:
        """Return the environment of a task, built again only when task or options change."""
        suite = self._suite_of(name)
        if self._env is None or self._made != (task, options):
            if self._env is not None:
                self._env.close()
            self._env = self._made = None
            self._env, self._made = experts.make(name, suite, task, options), (task, options)
        return self._env


def main() -> None:
    """Serve the parent at the other end of the socket."""
    descriptor, parent, *path = sys.argv[1:]
    _end_with(int(parent))
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL)
    # Like the command line: module:attribute may name a module in the current folder.
    sys.path += [folder for folder in (*path, str(Path.cwd())) if folder not in sys.path]
    with _quiet_exit(), contextlib.closing(Channel(socket.socket(fileno=int(descriptor)))) as channel:
        Worker(channel).serve()


def _end_with(parent: int) -> None:
    """Have this process killed when the parent dies, even within a simulation that never returns (Linux)."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # the parent died before the line above
            os._exit(0)


@contextlib.contextmanager
def _quiet_exit() -> Iterator[None]:
    """Exit silently when the parent is gone."""
    try:
        yield
    except DisconnectedError:
        # Without interpreter shutdown: exit handlers of simulators are slow, and some of them crash.
        os._exit(0)


if __name__ == "__main__":
    main()
