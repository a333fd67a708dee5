"""The file of a feature search: written frame by frame as the search goes on, and read in blocks by the fits.

It is a safetensors file whose size is known before the search, so rows are written to their final places and memory
holds one batch. Until it is complete it is called ``NAME.partial``. A row counts once its distance is written, which
is NaN before and comes after its features have reached the disk; so whatever ends the search, it goes on from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float16, Float32, Int32
from safetensors import SafetensorError, safe_open

from robotest.demonstrations.hdf5 import first_not_finite
from robotest.errors import ArtifactError
from robotest.specs import PolicySpec
from robotest.verifiers.pooling import Pooling, pool
from robotest.verifiers.rows import Rows, StoredRows

_TYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "I32": np.dtype(np.int32),
}
_FEATURE: Final = "features."
_CHECKED_BYTES: Final = 2**26


@dataclasses.dataclass(frozen=True)
class SearchedFeatures:
    """Result of a search, one row for each frame.

    Attributes:
        features: name -> token features of the candidate nearest to the demonstration.
        demonstration: number of the frame's demonstration.
        distance: between that candidate and the demonstration: root mean square over the chunk, in units of
            `PolicySpec.action_scale`.
        policy_fingerprint: the policy searched with.
        feature_shapes: name -> (T, F) of the policy, for features that the search pooled to one token; for others their
            rows say it.
    """

    features: Mapping[str, Rows]
    demonstration: Int32[np.ndarray, " N"]
    distance: Float32[np.ndarray, " N"]
    policy_fingerprint: str
    feature_shapes: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Target:
    """Where the features of a search go, and what is kept of them.

    Attributes:
        path: the file.
        key: digest of all that the search depends on.
        pooled: feature and pooling of the one fit that the file is for; None: all features, all tokens.
    """

    path: Path
    key: str
    pooled: tuple[str, Pooling] | None = None

    def columns(self, policy: PolicySpec) -> dict[str, tuple[np.dtype[Any], tuple[int, int]]]:
        """Return feature -> type and shape of a row."""
        if self.pooled is None:
            return {name: (_TYPES["F16"], shape) for name, shape in policy.feature_shapes.items()}
        name, pooling = self.pooled
        n_tokens, width = policy.feature_shapes[name]
        # The mean of numbers of half precision is not one of them.
        dtype = _TYPES["F32" if pooling == "mean" else "F16"]
        return {name: (dtype, (1, n_tokens * width if pooling == "concat" else width))}

    def row(self, features: Mapping[str, Float32[np.ndarray, "M T F"]], candidate: int) -> dict[str, np.ndarray]:
        """Return what is kept of one candidate. Half precision first, so that pooling now or later is the same."""
        with np.errstate(over="ignore"):
            if self.pooled is None:
                return {name: f[candidate].astype(np.float16) for name, f in features.items()}
            name, pooling = self.pooled
            tokens: Float16[np.ndarray, "1 T F"] = features[name][candidate : candidate + 1].astype(np.float16)
        return {name: pool(tokens.astype(np.float32), pooling)}

    def refusal(self, error: object) -> ArtifactError:
        """Return the error that features cannot be kept here."""
        return ArtifactError(f"cannot keep features in {self.path}: {error}; give a writable file as --features")


class SearchFile:
    """The file of a search in progress. Use it in a ``with`` statement; it stays where it is until `finish`.

    Args:
        target: where it goes.
        policy: searched with.
        demonstration: number of the demonstration of every frame to be searched.

    Attributes:
        done: rows that are there already.

    Raises:
        ArtifactError: it cannot be written, there is too little space for all of it, another process is writing it, or
            what is there is of another search.
    """

    def __init__(self, target: Target, policy: PolicySpec, demonstration: Int32[np.ndarray, " N"]) -> None:
        self.done = 0
        self._target = target
        self._columns = target.columns(policy)
        self._partial = target.path.with_name(f"{target.path.name}.partial")
        n = len(demonstration)
        arrays: dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
        arrays = {f"{_FEATURE}{name}": (dtype, (n, *shape)) for name, (dtype, shape) in self._columns.items()}
        arrays |= {"demonstration": (_TYPES["I32"], (n,)), "distance": (_TYPES["F32"], (n,))}
        self._header, self._offsets, self._size = _layout(arrays, target.key)
        try:
            target.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise target.refusal(error) from error
        try:
            self._open(demonstration)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> SearchFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def append(self, rows: Mapping[str, np.ndarray], distances: Float32[np.ndarray, " n"]) -> None:
        """Write the next rows.

        Args:
            rows: feature -> [n, ...].
            distances: finite.

        Raises:
            ArtifactError: they cannot be written; those before them are kept.
        """
        try:
            for name, (dtype, shape) in self._columns.items():
                row_bytes = dtype.itemsize * math.prod(shape)
                self._write(np.ascontiguousarray(rows[name], dtype), f"{_FEATURE}{name}", row_bytes)
            os.fdatasync(self._descriptor)
            self._write(distances.astype(np.float32), "distance", 4)
        except OSError as error:
            raise self._target.refusal(
                f"{error.strerror}, after {self.done} frames, which the next try uses"
            ) from error
        self.done += len(distances)

    def finish(self) -> None:
        """Give the complete file its name."""
        try:
            os.fsync(self._descriptor)
            self._partial.replace(self._target.path)
        except OSError as error:
            raise self._target.refusal(error) from error

    def _open(self, demonstration: Int32[np.ndarray, " N"]) -> None:
        """Go on with what is there, or begin."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArtifactError(
                f"another process is searching for {self._target.path}; wait until it has ended, or give another"
                " --features"
            ) from error
        except OSError:
            pass  # a file system without locks
        try:
            there = os.pread(self._descriptor, len(self._header), 0)
            if not there.strip(b"\0"):  # new, or a beginning that never got as far as its header, which comes last
                self._begin(demonstration)
            elif there == self._header and os.fstat(self._descriptor).st_size == self._size:
                stored = os.pread(self._descriptor, 4 * len(demonstration), self._offsets["distance"])
                missing = np.flatnonzero(~np.isfinite(np.frombuffer(stored, np.float32)))
                self.done = int(missing[0]) if len(missing) else len(demonstration)
            else:
                raise ArtifactError(
                    f"the unfinished features in {self._partial} are from another policy, other demonstrations or other"
                    " search settings; delete the file or give another --features"
                )
        except OSError as error:
            raise self._target.refusal(error) from error

    def _begin(self, demonstration: Int32[np.ndarray, " N"]) -> None:
        """Reserve all of the space, so that a full disk is known before the long search."""
        try:
            os.posix_fallocate(self._descriptor, 0, self._size)
            self._write(demonstration.astype(np.int32), "demonstration", 4)
            self._write(np.full(len(demonstration), np.nan, np.float32), "distance", 4)
            os.fsync(self._descriptor)
            os.pwrite(self._descriptor, self._header, 0)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._partial.unlink()
            if error.errno == errno.ENOSPC:
                raise self._target.refusal(f"{error.strerror}, {self._size / 1e6:,.1f} MB are needed") from error
            raise

    def _write(self, array: np.ndarray, name: str, row_bytes: int) -> None:
        data = memoryview(array.data).cast("B")
        at = self._offsets[name] + self.done * row_bytes
        while len(data):
            written = os.pwrite(self._descriptor, data, at)
            data, at = data[written:], at + written


def read(target: Target, policy: PolicySpec) -> SearchedFeatures:
    """Open the file of a complete search; features stay on disk until they are read in blocks.

    Raises:
        ArtifactError: it is damaged, not finite, or of another search.
    """
    path = target.path
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("search") != target.key:
                raise ArtifactError(
                    f"features in {path} are from another policy, other demonstrations or other search settings;"
                    " delete the file or give another --features"
                )
            demonstration, distance = file.get_tensor("demonstration"), file.get_tensor("distance")
        stored = dict(_stored(path))
        # In the policy's order: a safetensors file sorts its tensors.
        features = {name: stored[f"{_FEATURE}{name}"] for name in target.columns(policy)}
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ArtifactError(f"features in {path} are damaged ({error}); delete the file") from error
    wanted = {name: (dtype, (len(demonstration), *shape)) for name, (dtype, shape) in target.columns(policy).items()}
    if {name: (rows.dtype, rows.shape) for name, rows in features.items()} != wanted or (
        distance.shape != demonstration.shape
    ):
        raise ArtifactError(f"features in {path} are damaged (shapes that do not belong together); delete the file")
    if not (np.isfinite(distance).all() and all(map(_finite, features.values()))):
        raise ArtifactError(f"features in {path} are NaN or infinite; delete the file")
    shapes = {} if target.pooled is None else dict(policy.feature_shapes)
    return SearchedFeatures(features, demonstration, distance, policy.fingerprint, shapes)


def _layout(arrays: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], key: str) -> tuple[bytes, dict[str, int], int]:
    """Return header, offsets of the arrays and size of a safetensors file [bytes]."""
    names = {dtype: name for name, dtype in _TYPES.items()}
    entries: dict[str, object] = {"__metadata__": {"search": key}}
    offsets, end = {}, 0
    for name, (dtype, shape) in sorted(arrays.items(), key=lambda item: -item[1][0].itemsize):  # aligned
        offsets[name], end = end, end + dtype.itemsize * math.prod(shape)
        entries[name] = {"dtype": names[dtype], "shape": shape, "data_offsets": [offsets[name], end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + offset for name, offset in offsets.items()}, len(header) + end


def _stored(path: Path) -> Iterator[tuple[str, StoredRows]]:
    """Yield the arrays of a valid safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, entry in header.items():
        if name.startswith(_FEATURE):
            offset = 8 + length + entry["data_offsets"][0]
            yield name, StoredRows(path, offset, _TYPES[entry["dtype"]], tuple(entry["shape"]))


def _finite(rows: StoredRows) -> bool:
    step = max(1, _CHECKED_BYTES // max(1, 4 * math.prod(rows.shape[1:])))
    return all(first_not_finite(rows[start : start + step]) is None for start in range(0, len(rows), step))
