"""A record of everything that arrived at the sockets of simulated controllers, for tests and benchmarks."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
from jaxtyping import Int32

from robotest.embodiment import rm75

_MAX_JOURNAL_REPLY = 20_000  # frames; a larger reply would delay the loop


class Journal:
    """Following frames as numbers, all other lines as text. The oldest are dropped first.

    Args:
        limit: number of frames kept at least; of other lines a tenth of that is kept.
        chunk: frames dropped at once.
    """

    def __init__(self, limit: int = 2_000_000, chunk: int = 65_536) -> None:
        self._chunk = chunk
        self._chunks: collections.deque[tuple[Any, Any, Any]] = collections.deque(maxlen=-(-limit // chunk) + 1)
        self._commands: collections.deque[list[Any]] = collections.deque(maxlen=max(1, limit // 10))
        self._dropped = 0  # whole chunks
        self.n_frames = 0
        self.n_commands = 0

    def frame(self, arm: int, stamp: float, joints: list[int]) -> None:
        """Record a frame: joint positions [0.001 deg] as they were sent, clipped to 32 bits."""
        row = self.n_frames % self._chunk
        if row == 0:
            self._dropped += len(self._chunks) == self._chunks.maxlen
            arms, stamps = np.empty(self._chunk, np.uint8), np.empty(self._chunk)
            self._chunks.append((arms, stamps, np.empty((self._chunk, rm75.N_JOINTS), np.int32)))
        arms, stamps, values = self._chunks[-1]
        arms[row], stamps[row] = arm, stamp
        values[row] = [min(max(q, -(2**31)), 2**31 - 1) for q in joints]
        self.n_frames += 1

    def command(self, arm: int, stamp: float, line: bytes) -> None:
        """Record any other line."""
        self._commands.append([arm, stamp, line.decode(errors="replace")])
        self.n_commands += 1

    def read(self, since: int, commands_since: int) -> dict[str, Any]:
        """Return records from these numbers on, at most 20,000 frames and 1,000 other lines at once."""
        first = max(since, self._dropped * self._chunk)
        index = first // self._chunk - self._dropped
        stop = min(self.n_frames, first + _MAX_JOURNAL_REPLY, (first // self._chunk + 1) * self._chunk)
        rows = slice(first % self._chunk, first % self._chunk + max(0, stop - first))
        arms, stamps, joints = self._chunks[index] if first < self.n_frames else _no_frames()
        oldest = self.n_commands - len(self._commands)
        begin = max(commands_since, oldest)
        commands = [self._commands[i - oldest] for i in range(begin, min(self.n_commands, begin + 1000))]
        return {
            "first": first,
            "next": max(first, stop),
            "total": self.n_frames,
            "arm": arms[rows],
            "stamp": stamps[rows],
            "joints": joints[rows],
            "commands": commands,
            "commands_next": begin + len(commands),
        }


def _no_frames() -> tuple[Any, Any, Int32[np.ndarray, "n 7"]]:
    return np.empty(0, np.uint8), np.empty(0), np.empty((0, rm75.N_JOINTS), np.int32)
