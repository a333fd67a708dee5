"""The seed tree: everything random is a pure function of (run seed, task, episode, decision).

A seed is 64 bits of BLAKE2b over the length-prefixed parts of its name, so no two names share a seed by arithmetic
accident, and the result does not depend on the order of evaluation, the machine, or how many workers there are.
"""

from __future__ import annotations

import dataclasses
import hashlib

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
