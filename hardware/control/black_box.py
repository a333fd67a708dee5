"""A log of every tick, with set-points and measurements, in a file that survives a crash of its process.

The file is a ring of fixed-size records and has its full size from the start: a full disk is found before anything
moves, and a killed process loses nothing that it wrote.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import os
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np

from robotest.errors import RobotestError
from robotest.hardware.robot import RobotState, Setpoint

RECORD: Final = np.dtype(
    [
        ("index", "<u8"),  # counts from 1; 0: never written
        ("time", "<f8"),
        ("mode", "S10"),
        ("fault", "S16"),
        ("chunk", "<i8"),
        ("step", "<i4"),
        ("sent", "<f8", (2, 7)),
        ("sent_openings", "<f4", (2,)),
        ("measured", "<f8", (2, 7)),
        ("openings", "<f4", (2,)),
        ("currents", "<f4", (2, 7)),
        ("stamps", "<f8", (2,)),
        ("crc", "<u4"),
    ]
)
"""Angles in [rad], NaN where nothing was sent or measured; openings from 0 to 1; currents in [A]; times in [s]."""
_MAGIC: Final = b"robotest black box 1\n"
_HEADER_BYTES = 4096
_TICKS = 360_000  # an hour at 100 Hz


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tick.

    Attributes:
        time: [s].
        mode: of the executor.
        chunk: number of the chunk admitted last.
        step: of that chunk.
        sent: set-point; None if none was sent.
        state: measurements; None if the driver could not be read.
        fault: name of the latched fault, if any.
    """

    time: float
    mode: str
    chunk: int
    step: int
    sent: Setpoint | None
    state: RobotState | None
    fault: str | None


class BlackBox:
    """Writes a black box.

    Args:
        path: of the file; replaced.
        ticks: capacity of the ring.

    Raises:
        RobotestError: the file cannot be created at its full size.
    """

    def __init__(self, path: Path, ticks: int = _TICKS) -> None:
        size = _HEADER_BYTES + ticks * RECORD.itemsize
        try:
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
            with path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), size)
        except OSError as error:
            with contextlib.suppress(OSError):
                if path.is_file():
                    path.unlink()  # frees the space it took
            raise RobotestError(f"the black box {path} needs {size >> 20} MiB: {error.strerror or error}") from error
        header = _MAGIC + json.dumps({"ticks": ticks, "record": RECORD.itemsize}).encode()
        self._map[: len(header)] = header
        self._records: np.ndarray[Any, np.dtype[Any]] = np.frombuffer(self._map, RECORD, ticks, _HEADER_BYTES)
        self._index = 0

    def write(self, entry: Entry) -> None:
        """Append a tick; the oldest one is overwritten if the ring is full."""
        record = np.zeros((), RECORD)
        sent, state = entry.sent, entry.state
        record["index"], record["time"] = self._index + 1, entry.time
        record["mode"], record["fault"] = entry.mode, entry.fault or ""
        record["chunk"], record["step"] = entry.chunk, entry.step
        record["sent"], record["sent_openings"] = (sent.joints, sent.openings) if sent else (np.nan, np.nan)
        record["measured"], record["openings"] = (state.joints, state.openings) if state else (np.nan, np.nan)
        record["currents"], record["stamps"] = (state.currents, state.stamps) if state else (np.nan, np.nan)
        record["crc"] = _checksum(record)
        self._records[self._index % len(self._records)] = record
        self._index += 1

    def close(self) -> None:
        """Close the file."""
        del self._records
        self._map.close()


def read(path: Path) -> np.ndarray[tuple[int], np.dtype[Any]]:
    """Return the ticks of a black box in order, without those torn by a crash.

    Raises:
        RobotestError: the file cannot be read or is not a black box.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RobotestError(f"{path}: {error.strerror or error}") from error
    if not data.startswith(_MAGIC) or len(data) < _HEADER_BYTES:
        raise RobotestError(f"{path} is not a black box")
    records = np.frombuffer(data, RECORD, (len(data) - _HEADER_BYTES) // RECORD.itemsize, _HEADER_BYTES)
    written = records[records["index"] > 0]
    whole = written[[bool(r["crc"] == _checksum(r)) for r in written]] if len(written) else written
    ordered: np.ndarray[tuple[int], np.dtype[Any]] = whole[np.argsort(whole["index"], kind="stable")]
    return ordered


def _checksum(record: np.ndarray[Any, np.dtype[Any]] | np.void) -> int:
    return zlib.crc32(record.tobytes()[:-4])
