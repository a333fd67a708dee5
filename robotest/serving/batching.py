"""The one thread that a served policy runs in, and the batches that it is given."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Final

from robotest.errors import RobotestError, describe
from robotest.runtime.selector import in_numpy
from robotest.serving.dialect import Question, Sampled
from robotest.threads import one_thread
from robotest.types import Policy

_JOIN_S: Final = 5.0
"""How long a batch that nobody waits for any more may hold up the end [s]."""


@dataclasses.dataclass(frozen=True)
class _Waiting:
    question: Question
    future: Future[Sampled]


class PolicyThread:
    """Samples for all questions that wait, of all clients, in one batch. Use it in a ``with`` statement.

    One thread with single-threaded numerics, as in `robotest eval`, so that candidates are bit for bit the same.

    Args:
        policy: samples.
        max_batch: the most observations in a batch, unless one question has more.
        window_s: how long to wait for more questions after the first [s].
    """

    def __init__(self, policy: Policy, max_batch: int = 16, window_s: float = 0.0) -> None:
        self._policy, self._max_batch, self._window_s = policy, max_batch, window_s
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._left: _Waiting | None = None
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)

    def __enter__(self) -> PolicyThread:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._waiting.put(None)
        self._thread.join(_JOIN_S)

    def submit(self, question: Question) -> Future[Sampled]:
        """Queue a question. Its future raises what the policy raises, as a `RobotestError` of one line."""
        waiting = _Waiting(question, Future())
        self._waiting.put(waiting)
        return waiting.future

    def _run(self) -> None:
        with one_thread():
            while batch := self._batch():
                self._answer([each for each in batch if each.future.set_running_or_notify_cancel()])

    def _batch(self) -> list[_Waiting]:
        """Wait for a question; return it with those that wait by then and want as many candidates. Empty: the end."""
        first = self._left or self._waiting.get()
        self._left = None
        if first is None:
            return []
        batch, n_observations, until = [first], len(first.question.observations), time.monotonic() + self._window_s
        while n_observations < self._max_batch:
            try:
                another = self._waiting.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if another is None:
                self._waiting.put(None)  # the end, for the next call
                break
            n_observations += len(another.question.observations)
            if n_observations > self._max_batch or another.question.n_candidates != first.question.n_candidates:
                self._left = another  # begins the next batch
                break
            batch.append(another)
        return batch

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        """Sample for all together, or one by one if that fails, so that an error stays with its question."""
        if not batch:
            return
        try:
            answers = self._sample([each.question for each in batch])
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it becomes the answer to that question
            if len(batch) > 1:
                for each in batch:
                    self._answer([each])
                return
            batch[0].future.set_exception(error if isinstance(error, RobotestError) else RobotestError(describe(error)))
        else:
            for each, answer in zip(batch, answers, strict=True):
                each.future.set_result(answer)

    def _sample(self, questions: Sequence[Question]) -> list[Sampled]:
        began = time.perf_counter()
        observations = [observation for question in questions for observation in question.observations]
        seeds = [seed for question in questions for seed in question.noise_seeds]
        sampled = self._policy.sample(observations, seeds, questions[0].n_candidates)
        if len(sampled) != len(observations):
            raise RobotestError(f"the policy gave {len(sampled)} results for {len(observations)} observations")
        candidates = [in_numpy(each, self._policy.spec.name) for each in sampled]
        seconds, answers = time.perf_counter() - began, []
        for question in questions:
            n = len(question.observations)
            answers.append(Sampled(tuple(candidates[:n]), seconds))
            del candidates[:n]
        return answers
