"""Open, check and read HDF5 files of demonstrations; every defect becomes a one-line error.

Demonstrations come from many sources, so all of a file's are checked when it is opened: keys, shapes, lengths, finite
numbers, valid pictures. That a large file passed is cached under its path, size and modification time.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import errno
import hashlib
import io
import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import h5py
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from robotest import cache
from robotest.errors import ArtifactError, RobotestError

if TYPE_CHECKING:
    from robotest.demonstrations.files import DatasetSpec, Demonstration, DemonstrationInfo

READS: Final = (
    "robotest reads files of `robotest collect`, LIBERO's *_demo.hdf5 (or a folder of them), and robomimic's HDF5 files"
    " with pictures of robosuite tasks"
)
LIBERO_SUFFIX: Final = "_demo.hdf5"
REMEMBERED_BYTES: Final = 4_000_000
"""Smaller files are checked every time: it is fast, and the cache stays small."""
_CHECKS: Final = 1  # increment when checks become stricter
_MAGIC: Final = {
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"PAR1": "a Parquet file",
    b"version https://git-lfs": "a Git LFS pointer: the data were not downloaded",
}
_HDF5: Final = b"\x89HDF\r\n\x1a\n"
_ENCODED: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


@dataclasses.dataclass(frozen=True)
class Numbers:
    """An array of numbers in every demonstration, with one row a step.

    Attributes:
        key: within the demonstration's group.
        row: shape of a row; None: a vector of any length.
        nan: whether NaN is allowed, as a missing value; infinity never is.
        required: whether it must exist.
        dtype: type it is read as.
    """

    key: str
    row: tuple[int, ...] | None
    nan: bool = False
    required: bool = True
    dtype: Literal["float32", "float64"] = "float32"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Contents of every demonstration of a file.

    Attributes:
        numbers: the first of them defines the number of steps.
        films: key of a camera's pictures -> (height, width) [px], or None for any size.
        attributes: names of the group's attributes.
    """

    numbers: tuple[Numbers, ...]
    films: Mapping[str, tuple[int, int] | None]
    attributes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Demo:
    """A demonstration's group in an open file. Every error names the file, the demonstration and the key."""

    file: Path
    name: str
    group: Any

    def wrong(self, key: str, what: str) -> ArtifactError:
        """Return an error about `key`."""
        return ArtifactError(f"{self.file}: {self.name}: {key} {what}")

    def has(self, key: str) -> bool:
        """Return whether a key exists, damaged or not."""
        try:
            return key in self.group
        except (RuntimeError, OSError):
            return True

    def dataset(self, key: str) -> Any:
        """Return the dataset of a key, unread."""
        if not self.has(key):
            raise self.wrong(key, "is missing")
        with self._damaged(key):
            item = self.group[key]
        if not isinstance(item, h5py.Dataset) or item.shape is None:
            raise self.wrong(key, "is not an array")
        return item

    def steps(self, key: str) -> int:
        """Return the number of rows under a key."""
        shape = self.dataset(key).shape
        if not shape or shape[0] == 0:
            raise self.wrong(key, f"has shape {shape}; it must have at least one step")
        return int(shape[0])

    def numbers(self, numbers: Numbers) -> Any:
        """Read an array as float32 or float64; its numbers must be finite."""
        stored = self.dataset(numbers.key)
        if stored.dtype.kind not in "fiu":
            raise self.wrong(numbers.key, f"has type {stored.dtype}; it must hold numbers")
        with np.errstate(over="ignore"):
            values = np.asarray(self._load(stored, numbers.key)).astype(numbers.dtype, copy=False)
        step = first_not_finite(values, nan=numbers.nan)
        if step is not None:
            raise self.wrong(numbers.key, f"is NaN, infinite or too large at step {step}; numbers must be finite")
        return values

    def pictures(self, key: str) -> UInt8[np.ndarray, "T height width 3"]:
        """Read a camera's pictures as [T, h, w, 3], transposed or decoded as needed."""
        stored = self.dataset(key)
        kind, _ = self._kind(key, stored)
        pictures = self._load(stored, key)
        if kind == "encoded":
            return np.stack([self._decoded(key, step, row) for step, row in enumerate(pictures)])
        upright: UInt8[np.ndarray, "T height width 3"] = pictures.transpose(0, 2, 3, 1) if kind == "chw" else pictures
        return np.ascontiguousarray(upright)

    def size(self, key: str) -> tuple[int, int]:
        """Return height and width [px] of the first picture."""
        stored = self.dataset(key)
        _, size = self._kind(key, stored)
        return size or self._encoded_size(key, 0, self._load(stored, key, slice(0, 1))[0])

    def require_size(self, key: str, size: tuple[int, int] | None) -> None:
        """Require all pictures to have the same size; that of `size` unless None."""
        stored = self.dataset(key)
        kind, actual = self._kind(key, stored)
        if kind != "encoded":
            if size not in (None, actual):
                raise self.wrong(key, f"is {actual} px; the others are {size}")
            return
        for step, row in enumerate(self._load(stored, key)):
            actual = self._encoded_size(key, step, row)
            size = size or actual
            if actual != size:
                raise self.wrong(key, f"is {actual} px at step {step}; the others are {size}")

    def _kind(self, key: str, stored: Any) -> tuple[Literal["hwc", "chw", "encoded"], tuple[int, int] | None]:
        """Return how pictures are stored, and their height and width unless encoded."""
        shape, dtype = stored.shape, stored.dtype
        if dtype == np.uint8 and len(shape) == 4 and shape[3] == 3:
            return "hwc", (shape[1], shape[2])
        if dtype == np.uint8 and len(shape) == 4 and shape[1] == 3:
            return "chw", (shape[2], shape[3])
        files_padded = dtype == np.uint8 and len(shape) == 2
        if files_padded or (len(shape) == 1 and (dtype.kind in "SV" or _holds_files(dtype))):
            return "encoded", None
        raise self.wrong(
            key,
            f"has shape {shape} of {dtype}; pictures are uint8 [T, h, w, 3] or [T, 3, h, w], or one JPEG or PNG a step",
        )

    def _encoded_size(self, key: str, step: int, row: Any) -> tuple[int, int]:
        with self._image(key, step, row) as image:
            return image.height, image.width

    def _decoded(self, key: str, step: int, row: Any) -> UInt8[np.ndarray, "height width 3"]:
        with self._image(key, step, row) as image:
            return np.asarray(image, np.uint8)

    @contextlib.contextmanager
    def _image(self, key: str, step: int, row: Any) -> Iterator[Image.Image]:
        try:
            with _open_image(row.tobytes() if isinstance(row, np.ndarray | np.void) else bytes(row)) as image:
                yield image
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise self.wrong(key, f"at step {step} is not a valid JPEG or PNG picture ({_reason(error)})") from error

    def _load(self, stored: Any, key: str, rows: slice = slice(None)) -> Any:
        with self._damaged(key):
            return stored[rows]

    def _damaged(self, key: str) -> contextlib.AbstractContextManager[None]:
        return damaged(f"{self.file}: {self.name}: {key}")


class HdfDemonstrations(abc.ABC):
    """Base of the readers of HDF5 layouts; see `robotest.demonstrations.files.Demonstrations`.

    Args:
        path: file or folder.
        stack: owns the open files.
        demos: in order.
        layout: of every demonstration.
    """

    spec: DatasetSpec

    def __init__(self, path: Path, stack: contextlib.ExitStack, demos: list[Demo], layout: Layout) -> None:
        self.path = path
        self._stack = stack
        self._demos = demos
        self._layout = layout

    def __enter__(self) -> HdfDemonstrations:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return len(self._demos)

    def __getitem__(self, index: int) -> Demonstration:
        """Read demonstration `index`; `IndexError` past the last one, `ArtifactError` if it is damaged."""
        demo = self._demo(index)
        with damaged(f"{demo.file}: {demo.name}"):
            return self._read(demo, self._info(demo, index))

    def __iter__(self) -> Iterator[Demonstration]:
        for index in range(len(self)):
            yield self[index]

    def info(self, index: int) -> DemonstrationInfo:
        """Return the metadata of demonstration `index` without reading its arrays."""
        demo = self._demo(index)
        with damaged(f"{demo.file}: {demo.name}"):
            return self._info(demo, index)

    def steps(self, index: int) -> int:
        """Return the number of steps of demonstration `index` without reading its arrays."""
        return self._demo(index).steps(self._layout.numbers[0].key)

    @abc.abstractmethod
    def _read(self, demo: Demo, info: DemonstrationInfo) -> Demonstration:
        """Read its arrays."""

    @abc.abstractmethod
    def _info(self, demo: Demo, index: int) -> DemonstrationInfo:
        """Read its attributes."""

    def _demo(self, index: int) -> Demo:
        if not 0 <= index < len(self):
            raise IndexError(f"demonstration {index} of {len(self)}")
        return self._demos[index]


@contextlib.contextmanager
def damaged(what: object) -> Iterator[None]:
    """Turn any error of h5py into an `ArtifactError` about `what`."""
    try:
        yield
    except (
        OSError,
        RuntimeError,
        LookupError,
        ValueError,
        TypeError,
        ArithmeticError,
        MemoryError,
    ) as e:
        raise ArtifactError(f"{what} is damaged ({_reason(e)}); copy the file again") from e


def opened(path: Path) -> Any:
    """Open a file to read.

    Raises:
        ArtifactError: it is missing, not readable, not an HDF5 file, or damaged; the message says which.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block
            raise ArtifactError(f"demonstrations {path}: not a file; {READS}")
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"demonstrations {path}: does not exist; make it with `robotest collect --out {shlex.quote(str(path))}`, or"
            f" choose another: {READS}"
        ) from error
    except OSError as error:
        raise ArtifactError(f"demonstrations {path}: cannot be read ({_reason(error)})") from error
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
    if not start:
        raise ArtifactError(f"demonstrations {path}: the file is empty; {READS}")
    if kind or not (start.startswith(_HDF5) or h5py.is_hdf5(path)):
        is_what = f"is {kind}; it is " if kind else "is "
        raise ArtifactError(f"demonstrations {path}: {is_what}not a readable HDF5 file; {READS}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        busy = error.errno in (errno.EAGAIN, errno.EACCES)
        what = "another program is writing it" if busy else "it is cut short or damaged: copy it again"
        raise ArtifactError(f"demonstrations {path}: not a readable HDF5 file ({_reason(error)}); {what}") from error


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; `ArtifactError` if that cannot be read."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ArtifactError(f"demonstrations {path}: cannot be read ({_reason(error)})") from error


def files_of(folder: Path, suffix: str) -> list[Path]:
    """Return the files of a folder whose names end in `suffix`, sorted.

    Raises:
        ArtifactError: there are none, or the folder cannot be read; the message names LeRobot data sets as unsupported.
    """
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - `Path.iterdir` is lazy
    except OSError as error:
        raise ArtifactError(f"demonstrations {folder}: cannot be read ({_reason(error)})") from error
    files = [folder / name for name in names if name.endswith(suffix)]
    if not files:
        lerobot = (folder / "meta" / "info.json").is_file()
        what = "is a LeRobot data set, which is not read (it holds no" if lerobot else "holds no"
        raise ArtifactError(f"{folder} {what} *{suffix} file{')' if lerobot else ''}; {READS}")
    return files


def resized(pictures: UInt8[np.ndarray, "T a b 3"], size: int | None) -> UInt8[np.ndarray, "T h w 3"]:
    """Return pictures of a height and width [px]; None: as they are."""
    if size is None or pictures.shape[1:3] == (size, size):
        return pictures
    smooth = Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(p).resize((size, size), smooth)) for p in pictures])


def group_of(path: Path, file: Any, name: str = "data") -> Any:
    """Return a group of an open file; `ArtifactError` if it is missing or damaged."""
    with damaged(f"{path}: group {name!r}"):
        item = file.get(name)
    if not isinstance(item, h5py.Group):
        raise ArtifactError(f"{path} has no group {name!r}; {READS}")
    return item


def demos_of(path: Path, file: Any) -> list[Demo]:
    """Return the demonstrations under ``data``, sorted by number, then those without a number by name."""

    def order(name: str) -> tuple[bool, int, str]:
        number = re.search(r"(\d+)$", name)
        return number is None, int(number[1]) if number else 0, name

    data = group_of(path, file)
    demos = []
    for name in sorted(data, key=order):
        with damaged(f"{path}: {name}"):
            group = data[name]
        if not isinstance(group, h5py.Group):
            raise ArtifactError(f"{path}: {name} is not a group of arrays; {READS}")
        demos.append(Demo(path, name, group))
    return demos


def check(path: Path, demos: list[Demo], layout: Layout) -> None:
    """Require all demonstrations of a file to match a layout; skips a file that is known to match.

    Raises:
        ArtifactError: one does not match; the message names the file, the demonstration and the key.
    """
    mark = _mark(path, layout)
    if mark is not None and mark.exists():
        return
    for demo in demos:
        with damaged(f"{path}: {demo.name}"):
            check_demo(demo, layout)
    if mark is not None:
        with contextlib.suppress(OSError):  # the file is then checked again next time
            mark.write_text(f"{path}\n", encoding="utf-8")


def check_demo(demo: Demo, layout: Layout) -> None:
    """Require one demonstration to match a layout; `ArtifactError` if it does not."""
    required = [n.key for n in layout.numbers if n.required]
    missing = [key for key in (*required, *layout.films) if not demo.has(key)]
    if missing:
        raise ArtifactError(f"{demo.file}: {demo.name} lacks {', '.join(missing)}; {READS}")
    missing_attributes = [name for name in layout.attributes if name not in demo.group.attrs]
    if missing_attributes:
        raise ArtifactError(f"{demo.file}: {demo.name} lacks the attributes {', '.join(missing_attributes)}")
    first = layout.numbers[0].key
    n_steps = demo.steps(first)
    for numbers in layout.numbers:
        if not demo.has(numbers.key):
            continue
        shape = demo.dataset(numbers.key).shape
        fits = len(shape) == 2 if numbers.row is None else shape[1:] == numbers.row
        if not fits:
            row = "a vector" if numbers.row is None else f"of shape {numbers.row}"
            raise demo.wrong(numbers.key, f"has shape {shape}; each step is {row}")
        _require_steps(demo, numbers.key, n_steps, first)
    for key in layout.films:
        _require_steps(demo, key, n_steps, first)
    for numbers in layout.numbers:  # read only after all shapes are checked
        if demo.has(numbers.key):
            demo.numbers(numbers)
    for key, size in layout.films.items():
        demo.require_size(key, size)


def first_not_finite(rows: Any, *, nan: bool = False) -> int | None:
    """Return the first row with a non-finite number, None if there is none; NaN counts as finite if `nan` is set."""
    good = np.isfinite(rows) | np.isnan(rows) if nan else np.isfinite(rows)
    if good.all():
        return None
    return int(np.flatnonzero(~good.reshape(len(good), -1).all(axis=1))[0])


def _require_steps(demo: Demo, key: str, n_steps: int, first: str) -> None:
    steps = demo.steps(key)
    if steps != n_steps:
        raise demo.wrong(key, f"has {steps} steps; {first} has {n_steps}")


def _mark(path: Path, layout: Layout) -> Path | None:
    """Return the cache entry of a file that passed the checks; None if the file is not cached."""
    try:
        status = path.stat()
        if status.st_size < REMEMBERED_BYTES:
            return None
        folder = cache.folder("demonstrations")
    except (OSError, RobotestError):
        return None
    identity = f"{_CHECKS} {path.resolve()} {status.st_size} {status.st_mtime_ns} {layout!r}"
    return folder / hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()


def _open_image(content: bytes) -> Image.Image:
    """Open an encoded picture; `ValueError` if it is of another kind."""
    if not content.startswith(_ENCODED):
        raise ValueError(f"it starts with {content[:4]!r}")
    image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
    if image.mode != "RGB":
        raise ValueError(f"its mode is {image.mode}; it must be RGB")
    return image


def _holds_files(dtype: Any) -> bool:
    """Return whether each entry is a byte string of any length."""
    return h5py.check_vlen_dtype(dtype) == np.uint8 or h5py.check_string_dtype(dtype) is not None


def _reason(error: BaseException) -> str:
    """Return the first line of an error's message, without the path."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error.args[0] if error.args else error)
    return (text.splitlines() or [type(error).__name__])[0]
