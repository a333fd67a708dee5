"""The seed tree: everything random is a pure function of (run seed, task, episode, decision).

A seed is 64 bits of BLAKE2b over the length-prefixed parts of its name, so no two names share a seed by arithmetic
accident, and the result does not depend on the order of evaluation, the machine, or how many workers there are.
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
    """All seeds of one episode; conditions are not part of them, which is what makes comparisons paired."""

    run: int
    task: str
    episode: int
    continuation: int = 0
    """Another future of the same start: other noises, same reset. 0 is the episode itself."""

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
    """The generators that belong to the whole process (`random`, `numpy.random`, torch's), lent to one user.

    Simulators draw from them: starts would then depend on what ran before, and on the number of workers. Within `lent`
    they continue a stream that begins at the seed; afterwards they are as they were, as if nothing had been drawn.

    Args:
        seed: where the stream begins.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._states: dict[str, Any] = {}
        self._lent: set[str] = set()

    def begin_again(self) -> bool:
        """Within `lent`: if a generator has come since it began, seed all of them again, and say so.

        A library that an environment imports only at its first reset comes with a generator of its own making.
        """
        if all(source.name in self._lent for source in _sources()):
            return False
        for source in _sources():
            source.seed(self._seed)
        self._lent = {source.name for source in _sources()}
        return True

    @classmethod
    def present(cls) -> GlobalGenerators:
        """Return a stream that goes on from where the generators are now."""
        found = cls(0)
        found._states = {source.name: source.get() for source in _sources()}
        return found

    def resume(self) -> None:
        """Leave the generators where this stream is."""
        for source in _sources():
            if source.name in self._states:
                source.set(self._states[source.name])

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Within it the global generators are this stream's."""
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
                if source.name in others:  # not, if it was imported meanwhile
                    source.set(others[source.name])


@dataclasses.dataclass(frozen=True)
class _Source:
    """A global generator."""

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], None]
    seed: Callable[[int], object]


def _sources() -> list[_Source]:
    """Return the global generators there are; torch is not imported for its own."""
    numpys = np.random.mtrand._rand  # noqa: SLF001 - what `np.random.seed` and its kin act on; their names are banned here
    found = [
        _Source("random", random.getstate, random.setstate, random.seed),
        _Source(
            "numpy",
            lambda: numpys.get_state(legacy=False),
            numpys.set_state,
            lambda seed: numpys.seed(seed % 2**32),
        ),
    ]
    torch = sys.modules.get("torch")
    generator = getattr(torch, "default_generator", None)  # None while torch is being imported
    if generator is not None:
        found.append(
            _Source("torch", generator.get_state, generator.set_state, lambda seed: generator.manual_seed(seed % 2**63))
        )
    return found
