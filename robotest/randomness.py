"""The seed tree: everything random is a pure function of (run seed, task, episode, decision).

A seed is 64 bits of BLAKE2b over the length-prefixed parts of its name, so no two names share a seed by arithmetic
accident, and the result does not depend on the order of evaluation, the machine, or the number of workers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def derive(*parts: int | str) -> int:
    """Return the 64-bit seed of a name such as ``derive(run_seed, "stack_blocks_two", 3, "reset")``."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(4, "little") + text)
    return int.from_bytes(digest.digest(), "little")


def generator(seed: int) -> np.random.Generator:
    """Return a Philox generator: counter-based, and the same stream on every platform."""
    return np.random.Generator(np.random.Philox(seed))


@dataclasses.dataclass(frozen=True)
class EpisodeSeeds:
    """All seeds of one episode. They do not depend on the condition, which makes comparisons paired."""

    run: int
    task: str
    episode: int
    continuation: int = 0
    """Number of an alternative future of the same start: same reset, other noises. 0 is the episode itself."""

    @property
    def reset(self) -> int:
        """Seed of the initial state."""
        return derive(self.run, self.task, self.episode, "reset")

    def noise(self, decision: int) -> int:
        """Seed of the M candidates' noises at a decision; candidate m uses draw m, so 8 are the first 8 of 32."""
        return derive(self.run, self.task, self.episode, "noise", decision, *self._future)

    def verifier(self, decision: int) -> int:
        """Seed for verifiers that draw at random."""
        return derive(self.run, self.task, self.episode, "verifier", decision, *self._future)

    @property
    def _future(self) -> tuple[int, ...]:
        return (self.continuation,) if self.continuation else ()


class GlobalGenerators:
    """A private stream of the process-wide generators (`random`, `numpy.random`, torch's).

    Simulators draw from these generators, so starts would depend on what ran before and on the number of workers.
    Within `lent` they continue this stream, which begins at the seed; afterwards their former states are restored.

    Args:
        seed: of the stream.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._states: dict[str, Any] = {}
        self._lent: set[str] = set()

    def begin_again(self) -> bool:
        """Within `lent`: reseed all generators if one has appeared since it began; return whether they were reseeded.

        An environment may import torch only at its first reset, with a generator that is seeded arbitrarily.
        """
        if all(source.name in self._lent for source in _sources()):
            return False
        for source in _sources():
            source.seed(self._seed)
        self._lent = {source.name for source in _sources()}
        return True

    @classmethod
    def present(cls) -> GlobalGenerators:
        """Return a stream that continues from the generators' current states."""
        stream = cls(0)
        stream._states = {source.name: source.get() for source in _sources()}
        return stream

    def resume(self) -> None:
        """Set the generators to this stream's states."""
        for source in _sources():
            if source.name in self._states:
                source.set(self._states[source.name])

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Switch the global generators to this stream for the duration of the context."""
        others = {source.name: source.get() for source in _sources()}
        self._lent = set(others)
        for source in _sources():
            if source.name in self._states:
                source.set(self._states[source.name])
            else:
                source.seed(self._seed)
        try:
            yield
        finally:
            for source in _sources():
                self._states[source.name] = source.get()
                if source.name in others:  # absent if imported within the context
                    source.set(others[source.name])


@dataclasses.dataclass(frozen=True)
class _Source:
    """A global generator."""

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], None]
    seed: Callable[[int], object]


def _sources() -> list[_Source]:
    """Return the existing global generators, torch's only if torch has been imported."""
    numpy_state = np.random.mtrand._rand  # noqa: SLF001 - the state behind `np.random.seed`; lint bans the public functions
    sources = [
        _Source("random", random.getstate, random.setstate, random.seed),
        _Source(
            "numpy",
            lambda: numpy_state.get_state(legacy=False),
            numpy_state.set_state,
            lambda seed: numpy_state.seed(seed % 2**32),
        ),
    ]
    torch = sys.modules.get("torch")
    generator = getattr(torch, "default_generator", None)  # None while torch is being imported
    if generator is not None:
        sources.append(
            _Source("torch", generator.get_state, generator.set_state, lambda seed: generator.manual_seed(seed % 2**63))
        )
    return sources
