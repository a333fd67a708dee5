"""Instructions as numbers: words in order, each as the hashes of its character n-grams.

A word is represented by the bag of itself and its n-grams (Bojanowski et al. 2017, "Enriching Word Vectors with
Subword Information", section 3.2), so that unseen words share n-grams with words of the training data: "stacking" has
most of its n-grams in common with "stack".
"""

from __future__ import annotations

import dataclasses
import functools
import re
import zlib

import numpy as np
from jaxtyping import Int64

_WORD = re.compile(r"[a-z0-9]+|[,;.]")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Splits instructions into words and words into n-gram buckets.

    Attributes:
        buckets: number of hash buckets; bucket 0 is reserved for padding.
        max_words: words past this number are cut off.
        max_grams: n-grams of a word past this number are cut off; the whole word always comes first.
        sizes: lengths of the n-grams, in characters, of the word between its boundary marks.
    """

    buckets: int = 2048
    max_words: int = 24
    max_grams: int = 24
    sizes: tuple[int, ...] = (2, 3, 4)

    def __call__(self, instruction: str) -> Int64[np.ndarray, "W G"]:
        """Return the buckets of each word's n-grams, 0 where a word has fewer; W is 1 for an empty instruction."""
        return _encode(self, instruction)

    def grams(self, word: str) -> list[int]:
        """Return the buckets of a word: itself, then its n-grams in order."""
        marked = f"<{word}>"
        pieces = [marked, *(marked[i : i + n] for n in self.sizes for i in range(len(marked) - n + 1))]
        return [1 + zlib.crc32(piece.encode()) % (self.buckets - 1) for piece in pieces[: self.max_grams]]


@functools.lru_cache(maxsize=4096)
def _encode(tokenizer: Tokenizer, instruction: str) -> Int64[np.ndarray, "W G"]:
    words = _WORD.findall(instruction.lower())[: tokenizer.max_words]
    ids = np.zeros((max(1, len(words)), tokenizer.max_grams), np.int64)
    for row, word in zip(ids, words, strict=False):
        grams = tokenizer.grams(word)
        row[: len(grams)] = grams
    ids.setflags(write=False)  # cached, and shared between callers
    return ids


def pad(encoded: list[Int64[np.ndarray, "W G"]]) -> Int64[np.ndarray, "B W G"]:
    """Stack instructions of different lengths; missing words are all 0."""
    ids = np.zeros((len(encoded), max(len(e) for e in encoded), encoded[0].shape[1]), np.int64)
    for row, each in zip(ids, encoded, strict=True):
        row[: len(each)] = each
    return ids
