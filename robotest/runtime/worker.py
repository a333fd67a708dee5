"""An environment process of a pool: ``python -m robotest.runtime.worker SOCKET PARENT [PATH ...]``.

`robotest.runtime.pool` starts it.

It needs numpy, msgpack, jaxtyping, the simulator and this package, not torch. It answers three requests, each a map
with the keys ``do`` and ``env``, the suite's name:

    suite                                   -> suite {tasks, settings, action_modes}
    spec {task, options}                    -> spec {spec}
    run {seeds, options, execute, origin, film}
                                            -> spec {spec} if the environment had to be made, then per decision
        ask {observation, number}           <- chunk {actions}, or refused {}
                                            -> ended {attempt, instruction, start, steps, actions, success, rewards,
                                                      snapshots, frames}

or with error {text} where a request cannot be met. Between two decisions nothing is sent.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import os
import platform
import signal
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float32

import robotest
from robotest import experts
from robotest.clock import SimClock, WallClock
from robotest.errors import RobotestError, describe
from robotest.randomness import EpisodeSeeds
from robotest.registry import resolve
from robotest.runtime.rollout import Origin, Trace, attempt
from robotest.runtime.wire import Channel, DisconnectedError
from robotest.types import Env, EnvOptions, Observation, Suite

PROTOCOL = 2
DUMP_SIGNAL = signal.SIGUSR1
"""What makes a worker write down where it is, for the parent to read before it ends it."""


class RefusedError(Exception):
    """The parent has no decision; it knows why."""


class Worker:
    """One suite's environments behind a channel.

    Args:
        channel: to the parent.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._suite: Suite | None = None
        self._name = ""
        self._env: Env | None = None
        self._made: tuple[str, EnvOptions] | None = None

    def serve(self) -> NoReturn:
        """Answer until the parent goes away, which raises `DisconnectedError`."""
        self._channel.send({"do": "hello", "protocol": PROTOCOL, "version": robotest.__version__, "pid": os.getpid()})
        while True:
            request = self._channel.receive()
            try:
                self._channel.send(self._answer(request))
            except DisconnectedError:
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, the parent decides what follows
                traceback.print_exc()
                text = str(error) if isinstance(error, RobotestError) else describe(error)
                self._channel.send({"do": "error", "text": text})

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self._suite is None:
            self._name, self._suite = request["env"], resolve("env", request["env"])
        match request:
            case {"do": "suite"}:
                names = {name: list(getattr(self._suite, name)) for name in ("tasks", "settings", "action_modes")}
                return {"do": "suite", **names}
            case {"do": "spec", "task": task, "options": options}:
                return {"do": "spec", "spec": self._make(task, EnvOptions.from_json(options)).spec.to_json()}
            case {"do": "run", "seeds": seeds, "options": options, "execute": execute, "origin": origin, "film": film}:
                where = Origin(**origin) if origin else None
                return self._run(EpisodeSeeds(**seeds), EnvOptions.from_json(options), execute, where, Trace(film=film))
        raise RobotestError(f"a worker was asked {request!r}")

    def _run(
        self, seeds: EpisodeSeeds, options: EnvOptions, execute: int, origin: Origin | None, trace: Trace
    ) -> dict[str, Any]:
        if self._made != (seeds.task, options):
            self._channel.send({"do": "spec", "spec": self._make(seeds.task, options).spec.to_json()})
        env = self._make(seeds.task, options)
        ended = attempt(env, self._decide, seeds, trace, SimClock(), WallClock(), execute, origin)
        return {
            "do": "ended",
            "attempt": dataclasses.asdict(ended),
            "instruction": trace.instruction,
            "steps": trace.decision_steps,
            "actions": list(trace.actions),
            "success": trace.success,
            "rewards": trace.rewards,
            "start": trace.start,
            "frames": trace.frames,
            "snapshots": np.stack(trace.snapshots) if trace.snapshots else None,
        }

    def _decide(self, observation: Observation, number: int) -> Float32[np.ndarray, "H A"]:
        """Ask the parent for the chunk to execute; the decision stays there."""
        images = {camera: np.asarray(image) for camera, image in observation.images.items()}
        seen = {**vars(observation), "images": images}
        self._channel.send({"do": "ask", "observation": seen, "number": number})
        match self._channel.receive():
            case {"do": "chunk", "actions": actions}:
                chunk: Float32[np.ndarray, "H A"] = actions
                return chunk
        raise RefusedError("the selector has no decision")

    def _make(self, task: str, options: EnvOptions) -> Env:
        """Return the environment of a task, made again only when task or options change."""
        assert self._suite is not None
        if self._env is None or self._made != (task, options):
            if self._env is not None:
                self._env.close()
            self._env = self._made = None
            self._env, self._made = experts.make(self._name, self._suite, task, options), (task, options)
        return self._env


def main() -> None:
    """Serve the parent at the other end of the socket, and end with it."""
    descriptor, parent, *path = sys.argv[1:]
    _end_with(int(parent))
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL)
    # As the command line does: module:attribute also finds modules that lie here.
    sys.path += [folder for folder in (*path, str(Path.cwd())) if folder not in sys.path]
    with _quiet_exit(), contextlib.closing(Channel(socket.socket(fileno=int(descriptor)))) as channel:
        Worker(channel).serve()


def _end_with(parent: int) -> None:
    """Be killed when the parent dies, also in the middle of a simulation that never returns (Linux)."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before the line above
            os._exit(0)


@contextlib.contextmanager
def _quiet_exit() -> Iterator[None]:
    """Go without a word when the parent goes."""
    try:
        yield
    except DisconnectedError:
        # Not through interpreter shutdown: simulators' own exit handlers are slow, and some of them crash.
        os._exit(0)


if __name__ == "__main__":
    main()
