"""MessagePack frames of peers that are not trusted, in the forms that arrays take in every dialect.

Nothing is unpickled. A frame holds what `robotest.runtime.wire` allows; its arrays may also be maps as in openpi and
vla-eval. How much memory a frame of few bytes can ask for is limited too.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack
import numpy as np

from robotest.runtime.wire import WireError, read_array, unpack_extension

MAX_FRAME_BYTES: Final = 64 * 2**20
"""About ten observations of two pictures of 1080p."""
MAX_ITEMS: Final = 2**16
"""Items in all lists and maps of a frame: each takes a byte on the wire, and up to a hundred in memory."""


def unpack(frame: bytes) -> dict[str, Any]:
    """Return the map that a frame holds, with its arrays read-only.

    Raises:
        WireError: the frame is no such map, or holds what no message may hold.
    """
    items = 0

    def count(part: Any) -> Any:
        nonlocal items
        items += len(part)
        if items > MAX_ITEMS:
            raise WireError(f"a frame of more than {MAX_ITEMS} items")
        return part

    def read_map(part: dict[Any, Any]) -> Any:
        count(part)
        for key in ("__ndarray__", b"__ndarray__"):
            if key in part:
                return _read_array(part, key)
        if "__image__" in part:
            return _read_array(part, "__image__") if equal(part.get("format"), "raw") else _read_file(part)
        if b"__npgeneric__" in part and isinstance(part.get(b"data"), bool | int | float):
            return part[b"data"]
        if not all(type(key) is str for key in part):
            raise WireError("a map with keys that are no text")
        return part

    try:
        message = msgpack.unpackb(
            frame,
            ext_hook=unpack_extension,
            object_hook=read_map,
            list_hook=count,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            strict_map_key=True,
        )
    except WireError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise WireError(f"{len(frame)} bytes that are no message: {error or type(error).__name__}") from error
    if not isinstance(message, dict):
        raise WireError(f"a frame with a {type(message).__name__}; a map is needed")
    return message


def equal(value: Any, wanted: int | str) -> bool:
    """Return whether what a peer sent is this number or text; `==` of an array is neither true nor false."""
    return type(value) is type(wanted) and bool(value == wanted)


def _read_file(part: dict[Any, Any]) -> bytes:
    """Return the file of a picture ``{"__image__": True, format, data}``, to be decoded where its size is known."""
    file = part.get("data")
    if not isinstance(file, bytes):
        raise WireError(f"a picture whose file is a {type(file).__name__}, not bytes")
    return file


def _read_array(part: dict[Any, Any], marker: str | bytes) -> np.ndarray:
    """Return the array of a map ``{marker: True, data, dtype, shape}`` whose keys are text or bytes like the marker."""
    names = ("dtype", "shape", "data")
    dtype, shape, data = (part.get(name.encode() if isinstance(marker, bytes) else name) for name in names)
    return read_array(dtype, shape, data)
