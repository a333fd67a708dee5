"""Token features of many frames, read in blocks: those of a large policy do not fit into memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64


@runtime_checkable
class Rows(Protocol):
    """Token features [N, T, F], one row a frame: an array in memory, or part of a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N, T, F."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Return a range of rows, as an array in memory."""
        ...


@dataclasses.dataclass(frozen=True)
class StoredRows:
    """Rows in a file. Read and not mapped into memory, where the pages of a mapped file would count as the process's.

    Attributes:
        path: the file.
        offset: where the first row starts [bytes].
        dtype: of its numbers.
        shape: N, and the shape of a row.
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Return a range of rows; `OSError` or `ValueError` if the file has become unreadable or shorter."""
        first, last, _ = rows.indices(len(self))
        shape = (max(last - first, 0), *self.shape[1:])
        width = int(np.prod(self.shape[1:]))
        offset = self.offset + first * width * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, shape[0] * width, offset=offset).reshape(shape)


@dataclasses.dataclass(frozen=True)
class SelectedRows:
    """Some of the rows of another.

    Attributes:
        rows: all of them.
        indices: those selected, ascending.
    """

    rows: Rows
    indices: Int64[np.ndarray, " n"]

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Rows.shape`."""
        return (len(self.indices), *self.rows.shape[1:])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """See `Rows.__getitem__`."""
        chosen = self.indices[rows]
        if not len(chosen):
            return self.rows[0:0]
        runs = np.split(chosen, np.flatnonzero(np.diff(chosen) != 1) + 1)  # whole demonstrations, mostly
        return np.concatenate([self.rows[int(run[0]) : int(run[-1]) + 1] for run in runs])
