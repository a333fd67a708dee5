"""Demonstration files, and the chunk labels for training.

Layout (HDF5): ``data/demo_N/{obs/images/<camera> uint8[T,h,w,3], obs/state f32[T,S], actions f32[T,A], anchors
f32[T,A], points f32[T,K,2], states f64[T,N], rewards, dones}``, with the attributes of `DemonstrationInfo` on each
demonstration and those of `DatasetSpec` on the file. robomimic's loader reads it too: its observation keys are
``<camera>_image`` and ``state``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Protocol, runtime_checkable

import h5py
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from robotest.demonstrations import hdf5
from robotest.errors import ArtifactError, InvalidActionError, SpecMismatchError
from robotest.files import ForgivingFile
from robotest.registry import resolve
from robotest.specs import VectorSpec

FORMAT = "robotest-demonstrations-2"
_BLOCK = 2**22
_GYM_TYPE = 2  # robomimic's EnvType for environments that are not robosuite's own


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """Properties shared by all demonstrations of a file.

    Attributes:
        env: registered name of the suite.
        action: layout of `actions` and `anchors`.
        state: layout of `state`.
        cameras: camera -> (height, width) [px].
        control_dt: seconds between two actions [s].
        mixture: style -> requested share of the demonstrations; shares sum to 1.
        n_points: K of `Demonstration.points`; 0 without marked points.
    """

    env: str
    action: VectorSpec
    state: VectorSpec
    cameras: Mapping[str, tuple[int, int]]
    control_dt: float
    mixture: Mapping[str, float]
    n_points: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form, read back by `from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DatasetSpec:
        """Inverse of `to_json`."""
        layouts = {name: VectorSpec.from_json(data[name]) for name in ("action", "state")}
        cameras = {name: (int(size[0]), int(size[1])) for name, size in data["cameras"].items()}
        return cls(**{**data, **layouts, "cameras": cameras})


@dataclasses.dataclass(frozen=True)
class DemonstrationInfo:
    """Metadata of a demonstration, read without its arrays.

    Attributes:
        task: task name.
        setting: setting of the environment.
        style: style of the expert, e.g. ``clean``.
        seed: argument of `Env.reset`.
        instruction: the task in words.
        success: whether the task's predicate held at the end.
    """

    task: str
    setting: str
    style: str
    seed: int
    instruction: str
    success: bool


_INFO: Final = tuple(field.name for field in dataclasses.fields(DemonstrationInfo))


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """One demonstration of T steps. Row t holds the observation at step t and the action executed there.

    Attributes:
        info: task, style, instruction.
        images: camera -> RGB.
        state: laid out by `DatasetSpec.state`.
        actions: absolute set-points, laid out by `DatasetSpec.action`.
        anchors: reference values of ``chunk_start`` components for a chunk that starts at step t; 0 for
            absolute components.
        points: positions, in the first camera's picture, of the objects that the instruction names and that are acted
            on next: x right, y down, in [-1, 1] inside the picture; NaN for unused rows.
        states: the simulator's states before each action; None if not recorded.
    """

    info: DemonstrationInfo
    images: Mapping[str, UInt8[np.ndarray, "T height width 3"]]
    state: Float32[np.ndarray, "T S"]
    actions: Float32[np.ndarray, "T A"]
    anchors: Float32[np.ndarray, "T A"]
    points: Float32[np.ndarray, "T K 2"]
    states: Float64[np.ndarray, "T N"] | None = None

    def __len__(self) -> int:
        return len(self.actions)


def chunk_labels(
    actions: Float32[np.ndarray, "T A"], anchors: Float32[np.ndarray, "T A"], horizon: int
) -> Float32[np.ndarray, "T H A"]:
    """Return the chunk that starts at each t: ``actions[t:t+H] - anchors[t]``; past the end the last action repeats."""
    steps = np.arange(len(actions))
    rows = np.minimum(steps[:, None] + np.arange(horizon), len(actions) - 1)
    labels: Float32[np.ndarray, "T H A"] = (actions[rows] - anchors[:, None]).astype(np.float32)
    return labels


@runtime_checkable
class Demonstrations(Protocol):
    """A sequence of demonstrations on disk; arrays are read on access. Use it in a ``with`` statement."""

    @property
    def path(self) -> Path:
        """File or folder."""
        ...

    @property
    def spec(self) -> DatasetSpec:
        """Their shared properties."""
        ...

    def __enter__(self) -> Demonstrations: ...

    def __exit__(self, *_: object) -> None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Demonstration: ...

    def __iter__(self) -> Iterator[Demonstration]: ...

    def info(self, index: int) -> DemonstrationInfo:
        """Return the metadata of one demonstration without reading its arrays."""
        ...

    def steps(self, index: int) -> int:
        """Return its number of steps."""
        ...


def read(path: Path, image_size: int | None = None) -> Demonstrations:
    """Open demonstrations: a file of `robotest collect`, LIBERO's official files, or a robomimic file of robosuite.

    Every demonstration is checked; see `robotest.demonstrations.hdf5`.

    Args:
        path: a file, or LIBERO's folder of a suite.
        image_size: LIBERO's and robomimic's pictures are resized to this height and width [px]; None, and files of
            `robotest collect`: pictures keep their size.

    Raises:
        ArtifactError: it is none of these, or part of it is missing, damaged or not finite.
    """
    reader = resolve("dataset", "libero" if hdf5.is_folder(path) else _kind(path))
    demonstrations: Demonstrations = reader(path, image_size)
    return demonstrations


def _kind(path: Path) -> Literal["robotest", "libero", "robomimic"]:
    """Return the format of a file by its attributes; files of unknown format go to robotest's reader, which raises."""
    with hdf5.damaged(path), hdf5.opened(path) as file:
        if "format" in file.attrs or "data" not in file:
            return "robotest"
        attributes = hdf5.group_of(path, file).attrs
        if "problem_info" in attributes:
            return "libero"
        return "robomimic" if "env_args" in attributes else "robotest"


def content(path: Path, progress: Callable[[int, int], None]) -> str:
    """Return a digest (32 hexadecimal digits) of names and contents of a file, or of LIBERO's files in a folder.

    Args:
        path: as for `read`.
        progress: called with megabytes read and in total.

    Raises:
        ArtifactError: it cannot be read.
    """
    files = hdf5.files_of(path, hdf5.LIBERO_SUFFIX) if hdf5.is_folder(path) else [path]
    digest = hashlib.blake2b(digest_size=16)
    done = 0
    try:
        sizes = [file.stat().st_size for file in files]
        for file, size in zip(files, sizes, strict=True):
            digest.update(f"{file.name}\0{size}\0".encode())
            with file.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    done += len(block)
                    progress(done // 10**6, sum(sizes) // 10**6)
    except OSError as error:
        raise ArtifactError(f"demonstrations {path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


class DemonstrationWriter:
    """Appends demonstrations to a file that appears, complete, when the ``with`` block ends without an error."""

    def __init__(self, path: Path, spec: DatasetSpec) -> None:
        self.path = path
        self.spec = spec
        self._partial = path.with_name(path.name + ".partial")
        try:
            text = json.dumps(spec.to_json(), allow_nan=False)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._disk = ForgivingFile(self._partial)
        except BlockingIOError as error:
            raise ArtifactError(f"cannot write {path}: another process is writing it; choose another path") from error
        except OSError as error:
            raise ArtifactError(f"cannot write {path}: {error}; choose another path") from error
        except ValueError as error:
            raise SpecMismatchError(f"{path}: bounds and times of the layout must be finite ({error})") from error
        self._file = h5py.File(self._disk, "w")
        self._file.attrs["format"] = FORMAT
        self._file.attrs["spec"] = text
        self._data = self._file.create_group("data")

    def __len__(self) -> int:
        return len(self._data)

    def __enter__(self) -> DemonstrationWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._file.close()
        self._disk.sync()
        self._disk.close()
        try:
            if kind is None and self._disk.error is None:
                self._partial.replace(self.path)
            else:
                self._partial.unlink(missing_ok=True)
        except OSError as error:
            raise ArtifactError(f"cannot write {self.path}: {error}; choose another path") from error
        if kind is None:
            self._require_written()

    def append(self, demonstration: Demonstration) -> None:
        """Write one demonstration.

        Raises:
            SpecMismatchError: its arrays do not have the shapes of the file's spec.
            InvalidActionError: a number in it is not finite.
            ArtifactError: the disk is full, or fails; the file will not appear.
        """
        _require_shapes(self.spec, demonstration)
        _require_finite(self.path, len(self), demonstration)
        group = self._data.create_group(f"demo_{len(self._data)}")
        group.attrs.update(dataclasses.asdict(demonstration.info))
        for camera, images in demonstration.images.items():
            # lzf shrinks simulated pictures to between a half and a tenth, and decompresses at memory speed.
            chunks = (min(len(images), 16), *images.shape[1:])
            group.create_dataset(f"obs/images/{camera}", data=images, compression="lzf", chunks=chunks)
            group[f"obs/{camera}_image"] = group[f"obs/images/{camera}"]  # a hard link
        group["obs/state"] = demonstration.state
        group["actions"] = demonstration.actions
        group["anchors"] = demonstration.anchors
        group["points"] = demonstration.points
        self._write_as_robomimic(group, demonstration)
        self._require_written()

    def _require_written(self) -> None:
        error = self._disk.error
        if error is not None:
            raise ArtifactError(
                f"cannot write {self.path}: {error.strerror}; free some space or choose another path"
                " (nothing was written)"
            ) from error

    def _write_as_robomimic(self, group: Any, demonstration: Demonstration) -> None:
        """Write what robomimic's loader needs besides observations and actions."""
        last = np.zeros(len(demonstration), np.int64)
        last[-1] = 1
        group["rewards"], group["dones"] = last.astype(np.float64), last
        if demonstration.states is not None:
            group.create_dataset("states", data=demonstration.states, compression="lzf", shuffle=True)
        group.attrs["num_samples"] = len(demonstration)
        self._data.attrs["total"] = self._data.attrs.get("total", 0) + len(demonstration)
        env = {"env_name": self.spec.env, "type": _GYM_TYPE, "env_kwargs": {}}
        self._data.attrs["env_args"] = json.dumps(env)


class DemonstrationFile(hdf5.HdfDemonstrations):
    """A complete demonstration file. Arrays are read on access; iterate, or index by number.

    Raises:
        ArtifactError: it is missing, damaged or of another kind, or a demonstration does not match its spec.
    """

    def __init__(self, path: Path, image_size: int | None = None) -> None:  # noqa: ARG002 - pictures keep their size
        with hdf5.damaged(path), contextlib.ExitStack() as stack:
            file = stack.enter_context(hdf5.opened(path))
            self.spec = _spec(path, file)
            demos, layout = hdf5.demos_of(path, file), _layout(self.spec)
            hdf5.check(path, demos, layout)
            super().__init__(path, stack.pop_all(), demos, layout)

    def _read(self, demo: hdf5.Demo, info: DemonstrationInfo) -> Demonstration:
        arrays = {n.key: demo.numbers(n) for n in self._layout.numbers if n.required or demo.has(n.key)}
        return Demonstration(
            info=info,
            images={camera: demo.pictures(f"obs/images/{camera}") for camera in self.spec.cameras},
            state=arrays["obs/state"],
            actions=arrays["actions"],
            anchors=arrays["anchors"],
            points=arrays["points"],
            states=arrays.get("states"),
        )

    def _info(self, demo: hdf5.Demo, index: int) -> DemonstrationInfo:  # noqa: ARG002 - all of it is in the file
        types = {"seed": int, "success": bool}
        return DemonstrationInfo(**{name: types.get(name, str)(demo.group.attrs[name]) for name in _INFO})


def _spec(path: Path, file: Any) -> DatasetSpec:
    format_ = file.attrs.get("format")
    if format_ != FORMAT:
        what = f"its format is {format_!r}" if format_ is not None else "it has no attribute 'format'"
        raise ArtifactError(f"{path} is not a {FORMAT} file ({what}); {hdf5.READS}")
    try:
        return DatasetSpec.from_json(json.loads(file.attrs["spec"]))
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path}: its attribute 'spec' is missing or damaged ({error!r}); copy it again") from error


def _layout(spec: DatasetSpec) -> hdf5.Layout:
    """Return the layout of each demonstration of a file."""
    return hdf5.Layout(
        numbers=(
            hdf5.Numbers("actions", (spec.action.size,)),
            hdf5.Numbers("anchors", (spec.action.size,)),
            hdf5.Numbers("obs/state", (spec.state.size,)),
            hdf5.Numbers("points", (spec.n_points, 2), nan=True),
            hdf5.Numbers("states", None, required=False, dtype="float64"),
        ),
        films={f"obs/images/{camera}": size for camera, size in spec.cameras.items()},
        attributes=_INFO,
    )


def _require_finite(path: Path, number: int, demonstration: Demonstration) -> None:
    for name in ("state", "actions", "anchors", "points", "states"):
        rows = getattr(demonstration, name)
        step = None if rows is None else hdf5.first_not_finite(rows, nan=name == "points")
        if step is not None:
            task = demonstration.info.task
            raise InvalidActionError(
                f"{path}: demonstration {number} ({task}): {name} is NaN or infinite at step {step}; not written"
            )


def _require_shapes(spec: DatasetSpec, demonstration: Demonstration) -> None:
    n_steps = len(demonstration)
    expected: dict[str, tuple[int, ...]] = {
        "actions": (n_steps, spec.action.size),
        "anchors": (n_steps, spec.action.size),
        "state": (n_steps, spec.state.size),
        "points": (n_steps, spec.n_points, 2),
        **{f"images of {camera}": (n_steps, *size, 3) for camera, size in spec.cameras.items()},
    }
    actual: dict[str, tuple[int, ...]] = {
        "actions": demonstration.actions.shape,
        "anchors": demonstration.anchors.shape,
        "state": demonstration.state.shape,
        "points": demonstration.points.shape,
        **{f"images of {camera}": images.shape for camera, images in demonstration.images.items()},
    }
    if n_steps == 0 or actual != expected:
        raise SpecMismatchError(f"demonstration has {actual}; the file needs {expected}, and at least one step")
