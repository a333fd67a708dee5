"""A pool of worker processes: environments in the workers, the policy and the verifiers in this process.

A worker (`robotest.runtime.worker`) runs the same `rollout` as `InProcessRunner` and asks for the next chunk when it
has executed one. Selector threads answer all waiting requests as one batch, so no episode waits for a slower one. A
worker that dies or hangs is replaced and its episode run again; after `ATTEMPTS` attempts the episode is an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, NoReturn, TypeVar

import robotest
from robotest import interrupt
from robotest.errors import RobotestError, describe
from robotest.runtime.messages import (
    Chunk,
    ChunkRequest,
    EpisodeEnded,
    Failed,
    FromPool,
    FromWorker,
    Hello,
    Refused,
    RunRequest,
    SpecReply,
    SpecRequest,
    SuiteReply,
    SuiteRequest,
    from_worker,
    to_wire,
)
from robotest.runtime.rollout import Attempt, Trace, result
from robotest.runtime.runner import EpisodeJob, EpisodeResult, SuiteInfo
from robotest.runtime.selector import DecisionRequest, Selector
from robotest.runtime.wire import Channel, DisconnectedError, WireError
from robotest.runtime.worker import DUMP_SIGNAL, PROTOCOL
from robotest.specs import EnvSpec
from robotest.threads import one_thread
from robotest.types import Decision, EnvOptions

ATTEMPTS = 3
"""How often an episode is begun if its worker dies or hangs."""
START_S = 120.0
"""How long a worker may take to start, to import its simulator and to build a scene [s]."""
_LAST_WORDS_BYTES = 16_000
_DUMP_S = 0.3
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")
"""Workers compute on one core each: more threads would only fight over them. LP is Mesa's software renderer."""


_Reply = TypeVar("_Reply", SuiteReply, SpecReply)


class WorkerPool:
    """An `EpisodeRunner` of `n_workers` processes.

    Args:
        env: name of the suite.
        n_workers: at least 1. They start at once and load while this process goes on.
        python: interpreter of the workers; None is this one.
        window_s: how long a selector thread waits for more requests before it samples a batch [s].

    Raises:
        RobotestError: `n_workers` is below 1, or there is no such interpreter.
    """

    def __init__(self, env: str, n_workers: int, python: Path | None = None, window_s: float = 0.0) -> None:
        if n_workers < 1:
            raise RobotestError(f"{n_workers} workers given; at least 1 is needed")
        self._env, self._python, self._window_s = env, str(python or sys.executable), window_s
        self._workers: list[_Worker] = []
        try:
            for _ in range(n_workers):
                self._workers.append(_Worker(env, self._python))
        except BaseException:
            self.close()
            raise

    def suite(self) -> SuiteInfo:
        """See `EpisodeRunner.suite`."""
        return self._workers[0].suite()

    def spec(self, task: str, options: EnvOptions) -> EnvSpec:
        """See `EpisodeRunner.spec`."""
        return self._workers[0].spec(task, options)

    def run(self, selector: Selector, jobs: Iterable[EpisodeJob]) -> Generator[EpisodeResult, None, None]:
        """See `EpisodeRunner.run`."""
        todo, finished = _Queue(iter(jobs)), list[EpisodeResult]()
        with _SelectorThreads(selector, len(self._workers), self._window_s) as threads:
            while True:
                interrupt.check()
                for worker in self._workers:
                    if worker.idle and (job := todo.take()) is not None:
                        worker.begin(job)
                yield from finished  # the workers are busy while the caller writes these
                finished.clear()
                busy = [worker for worker in self._workers if not worker.idle]
                if not busy:
                    return
                speaking, _, _ = select.select(busy, [], [], _until_next(busy))
                for worker in busy:
                    if worker in speaking or worker.overdue:
                        finished += self._attend(worker, worker in speaking, threads, todo)

    def close(self) -> None:
        """See `EpisodeRunner.close`."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def _attend(self, worker: _Worker, speaks: bool, threads: _SelectorThreads, todo: _Queue) -> list[EpisodeResult]:
        try:
            return worker.advance(threads) if speaks else worker.give_up()
        except _LostError as lost:
            self._replace(worker)
            return todo.again(worker, lost)

    def _replace(self, worker: _Worker) -> None:
        worker.end()
        self._workers[self._workers.index(worker)] = _Worker(self._env, self._python)


def usable_cores() -> int:
    """Return how many cores this process may use, 8 at most: more workers would only wait for the selector.

    Only Linux says which cores a process may use; elsewhere all of the machine's count.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    return min(8, len(affinity(0)) if affinity else os.cpu_count() or 1)


class _LostError(Exception):
    """A worker died or hung; the message says how, `last_words` is the end of its output."""

    def __init__(self, message: str, last_words: str) -> None:
        super().__init__(message)
        self.last_words = last_words


class _Queue:
    """Jobs in their order; those whose worker was lost come first."""

    def __init__(self, jobs: Iterator[EpisodeJob]) -> None:
        self._jobs = jobs
        self._again: deque[EpisodeJob] = deque()
        self._attempts = Counter[Hashable]()

    def take(self) -> EpisodeJob | None:
        return self._again.popleft() if self._again else next(self._jobs, None)

    def again(self, worker: _Worker, lost: _LostError) -> list[EpisodeResult]:
        """Queue the job of a lost worker again, or return its result as an error."""
        job = worker.job
        assert job is not None
        self._attempts[job.key] += 1
        if self._attempts[job.key] < ATTEMPTS:
            self._again.append(job)
            return []
        error = f"WorkerError: {lost}, the last of {ATTEMPTS} attempts"
        return [worker.finished(Attempt("error", error, lost.last_words, worker.elapsed_s), Trace(), {})]


class _SelectorThreads:
    """Threads that answer requests. Use it in a ``with`` statement.

    If the selector is `concurrent`, every request has a thread to itself; if not, one thread takes all waiting requests
    as one batch.

    Args:
        selector: decides.
        n_workers: the most requests that can wait at a time.
        window_s: how long to wait for more requests after the first [s].
    """

    def __init__(self, selector: Selector, n_workers: int, window_s: float) -> None:
        self.selector = selector
        self._window_s = window_s
        self._waiting: queue.SimpleQueue[tuple[_Worker, DecisionRequest] | None] = queue.SimpleQueue()
        n_threads = n_workers if selector.concurrent else 1
        self._threads = [threading.Thread(target=self._serve, name=f"selector-{i}") for i in range(n_threads)]

    def __enter__(self) -> _SelectorThreads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, worker: _Worker, request: DecisionRequest) -> None:
        """Queue a request; a selector thread will answer the worker."""
        self._waiting.put((worker, request))

    def _serve(self) -> None:
        # OpenMP's limit belongs to a thread, so every thread sets it.
        with one_thread():
            while (batch := self._batch()) is not None:
                for (worker, _), decision in zip(batch, self._decide([r for _, r in batch]), strict=True):
                    self._answer(worker, decision)

    def _answer(self, worker: _Worker, decision: Decision | Exception) -> None:
        """Answer, whatever happens: without an answer a worker would wait forever."""
        try:
            worker.answer(decision)
        except Exception as error:  # noqa: BLE001 - it becomes the result of that episode
            worker.answer(error)

    def _batch(self) -> list[tuple[_Worker, DecisionRequest]] | None:
        """Wait for a request; return all that wait by then. None: the threads are to end."""
        first = self._waiting.get()
        if first is None:
            return None
        batch = [first]
        if self.selector.concurrent:
            return batch
        until = time.monotonic() + self._window_s
        with contextlib.suppress(queue.Empty):
            while (another := self._waiting.get(timeout=max(0.0, until - time.monotonic()))) is not None:
                batch.append(another)
            self._waiting.put(None)  # the end, for the next call
        return batch

    def _decide(self, requests: list[DecisionRequest]) -> list[Decision | Exception]:
        """Decide together, or one by one if that fails, so that an error stays with its request."""
        try:
            return [*self.selector.decide(requests)]
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it becomes the result of that episode
            if len(requests) == 1:
                return [error if isinstance(error, Exception) else RobotestError(describe(error))]
            return [decision for request in requests for decision in self._decide([request])]


class _Worker:
    """A worker process and its current job.

    Args:
        env: name of its suite.
        python: its interpreter.
    """

    def __init__(self, env: str, python: str) -> None:
        self._env, self._python = env, python
        here, there = socket.socketpair()
        self._output: IO[bytes] = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed by `end`
        single = dict.fromkeys(_ONE_THREAD, "1")
        path = list(dict.fromkeys(sys.path)) if python == sys.executable else []  # both import the same modules
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the interpreter the user runs, or named
                [python, "-m", "robotest.runtime.worker", str(there.fileno()), str(os.getpid()), *path],
                pass_fds=[there.fileno()],
                # PYTHONSAFEPATH: `-m` would put the present folder first, where a types.py of the user's could lie.
                env={**os.environ, **single, "PYTHONSAFEPATH": "1"},
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                start_new_session=True,  # Ctrl-C is for the parent
            )
        except OSError as error:
            here.close()
            self._output.close()
            raise RobotestError(f"cannot start a worker with {python}: {error.strerror or error}") from error
        finally:
            there.close()
        self._channel = Channel(here)
        self._greeted = False
        self._allowed_s, self._deadline = START_S, math.inf
        self._made: tuple[str, EnvOptions] | None = None
        self._spec: EnvSpec | None = None
        self.job: EpisodeJob | None = None
        self._began = 0.0
        self._number = 0
        self._decisions: dict[int, Decision] = {}
        self._refusal: Exception | None = None

    def fileno(self) -> int:
        """For `select`."""
        return self._channel.fileno()

    @property
    def idle(self) -> bool:
        """Whether it waits for a job."""
        return self.job is None

    @property
    def deadline(self) -> float:
        """When it will be overdue; infinite while it waits for this process."""
        return self._deadline

    @property
    def overdue(self) -> bool:
        """Whether it has sent nothing for longer than allowed."""
        return time.monotonic() > self._deadline

    @property
    def elapsed_s(self) -> float:
        """Time since its episode began [s]."""
        return time.monotonic() - self._began

    def suite(self) -> SuiteInfo:
        """Return the choices of its suite."""
        return self._ask(SuiteRequest(self._env), SuiteReply).suite

    def spec(self, task: str, options: EnvOptions) -> EnvSpec:
        """Have an environment built and return its spec."""
        self._spec = self._ask(SpecRequest(self._env, task, options), SpecReply).spec
        self._made = (task, options)
        return self._spec

    def begin(self, job: EpisodeJob) -> None:
        """Start an episode; `advance` continues it."""
        self.job, self._began = job, time.monotonic()
        self._decisions, self._refusal = {}, None
        wanted = (job.seeds.task, job.options)
        self._expect(self._spec.patience_s if self._spec and self._made == wanted else START_S)
        self._made = wanted
        self._send(RunRequest(self._env, job.seeds, job.options, job.execute, job.origin, job.film))

    def advance(self, threads: _SelectorThreads) -> list[EpisodeResult]:
        """Handle its message; return the episode if that ended it.

        Raises:
            _LostError: it is gone, or sent something unexpected.
            RobotestError: it cannot meet the request, nor could another worker.
        """
        match self._receive():
            case Hello() as hello:
                self._greet(hello)
            case SpecReply(spec):
                self._spec = spec
                self._expect(spec.patience_s)
                threads.selector.require_fits(spec)
            case ChunkRequest(observation, number) if self.job is not None:
                self._deadline, self._number = math.inf, number
                threads.submit(self, self.job.request(number, observation))
            case EpisodeEnded(ended, trace) if len(trace.decision_steps) == len(self._decisions):
                return [self.finished(self._explained(ended), trace, self._decisions)]
            case Failed(text):
                raise RobotestError(text)
            case message:
                raise self._confused(message)
        return []

    def give_up(self) -> NoReturn:
        """Raise `_LostError` with the stack of a silent worker, which it writes at a signal."""
        self._process.send_signal(DUMP_SIGNAL)
        time.sleep(_DUMP_S)
        raise _LostError(f"the worker was silent for {self._allowed_s:g} s and was ended", self._last_words())

    def answer(self, decision: Decision | Exception) -> None:
        """Send it the chunk. Called by a selector thread while the worker waits."""
        assert self._spec is not None
        self._expect(self._spec.patience_s)
        if isinstance(decision, Exception):
            self._refusal = decision
            self._send(Refused())
        else:
            self._decisions[self._number] = decision  # before sending: the episode may end before this thread continues
            try:
                self._send(Chunk(decision.chunk))
            except WireError:
                del self._decisions[self._number]
                raise

    def finished(self, ended: Attempt, trace: Trace, decisions: Mapping[int, Decision]) -> EpisodeResult:
        """Return the result of its job, and be idle again."""
        assert self.job is not None
        max_steps, control_dt = (self._spec.max_steps, self._spec.control_dt) if self._spec else (0, 0.0)
        job, self.job, self._deadline = self.job, None, math.inf
        episode = result(job.condition, job.seeds, max_steps, ended, trace, decisions)
        began = bool(trace.actions or self._decisions)  # a lost worker takes its trace with it
        return EpisodeResult(job, episode, trace, decisions, control_dt, ended.traceback, began)

    def end(self) -> None:
        """Kill the process."""
        self._channel.close()
        self._process.kill()
        self._process.wait()
        self._output.close()

    def _expect(self, allowed_s: float) -> None:
        """Allow it that long until its next message."""
        self._allowed_s, self._deadline = allowed_s, time.monotonic() + allowed_s

    def _ask(self, request: FromPool, kind: type[_Reply]) -> _Reply:
        """Ask before any episode, and wait for the reply; every failure is the input's."""
        self._expect(START_S)
        self._send(request)
        try:
            reply = self._receive()
            if isinstance(reply, Hello):
                self._greet(reply)
                reply = self._receive()
            if not isinstance(reply, kind | Failed):
                raise self._confused(reply)
        except _LostError as lost:
            raise _failed(lost) from lost
        self._deadline = math.inf
        if isinstance(reply, Failed):
            raise RobotestError(reply.text)
        return reply

    def _greet(self, hello: Hello) -> None:
        if (hello.protocol, hello.version) != (PROTOCOL, robotest.__version__):
            raise RobotestError(
                f"{self._python} has robotest {hello.version}, this is {robotest.__version__}; install the same"
            )
        self._greeted = True

    def _explained(self, ended: Attempt) -> Attempt:
        """Put in the reason, which the worker does not know, if there was no chunk."""
        return dataclasses.replace(ended, error=describe(self._refusal)) if self._refusal else ended

    def _send(self, message: FromPool) -> None:
        with contextlib.suppress(DisconnectedError):  # the next `_receive` finds out why
            self._channel.send(to_wire(message))

    def _receive(self) -> FromWorker:
        try:
            return from_worker(self._channel.receive(self._allowed_s))
        except (DisconnectedError, WireError) as error:
            lost = _LostError(self._death(error), self._last_words())
            raise lost if self._greeted else _failed(lost) from error
        except TimeoutError:
            self.give_up()

    def _confused(self, message: FromWorker) -> _LostError:
        return _LostError(f"the worker sent {message!r:.100}, out of turn", self._last_words())

    def _death(self, error: Exception) -> str:
        """Return how the process ended."""
        try:
            code = self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            return f"the worker failed ({error})"
        return f"the worker died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"

    def _last_words(self) -> str:
        """Return the end of its output."""
        self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, self._output.tell() - _LAST_WORDS_BYTES))
        return self._output.read().decode(errors="replace")


def _failed(lost: _LostError) -> RobotestError:
    """Return the error for a worker that did not start; another would not either."""
    words = lost.last_words.strip().splitlines()
    return RobotestError(f"{lost} before it began{': ' if words else ''}{words[-1] if words else ''}")


def _until_next(workers: Iterable[_Worker]) -> float:
    """Return the time until a worker may be overdue [s], at most a second because other threads set deadlines."""
    return max(0.0, min(1.0, min(worker.deadline for worker in workers) - time.monotonic()))
