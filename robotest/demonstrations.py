"""Demonstration files: what the experts did, and the chunk labels that a policy learns from.

Layout (HDF5): ``data/demo_N/{obs/images/<camera> uint8[T,h,w,3], obs/state f32[T,S], actions f32[T,A], anchors
f32[T,A], points f32[T,K,2], states f64[T,N], rewards, dones}``, with the attributes of `DemonstrationInfo` on each
demonstration and those of `DatasetSpec` on the file. robomimic's loader reads it too: its observation keys are
``<camera>_image`` and ``state``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import h5py
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from robotest.errors import ArtifactError, SpecMismatchError
from robotest.specs import VectorSpec

FORMAT = "robotest-demonstrations-2"
_GYM_TYPE = 2  # robomimic's EnvType for environments that are not robosuite's own


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """What every demonstration of a file has in common.

    Attributes:
        env: registered name of the suite.
        action: layout of `actions` and `anchors`.
        state: layout of `state`.
        cameras: camera -> (height, width) [px].
        control_dt: seconds between two actions [s].
        mixture: style -> share of the demonstrations that was asked for; shares sum to 1.
        n_points: K, 0 where nobody marked the pictures.
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
    """What is known of a demonstration without reading its arrays.

    Attributes:
        task: task name.
        setting: setting of the environment.
        style: style of the expert, e.g. ``clean``.
        seed: seed that `Env.reset` was given.
        instruction: the words given.
        success: whether the task's predicate held at the end.
    """

    task: str
    setting: str
    style: str
    seed: int
    instruction: str
    success: bool


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """One demonstration of T steps. Row t is what was seen at step t and the action given there.

    Attributes:
        info: task, style, instruction.
        images: camera -> RGB.
        state: laid out by `DatasetSpec.state`.
        actions: absolute set-points, laid out by `DatasetSpec.action`.
        anchors: the value that a ``chunk_start`` component is measured from when a chunk starts at step t; 0 for
            absolute components.
        points: where the first camera sees what the instruction speaks of and is to be acted on next: x right, y down,
            in [-1, 1] inside the picture; NaN where there is less to point at.
        states: the simulator's, before each action; None if nobody kept them.
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
    """A sequence of demonstrations on disk; arrays are read when asked for. Use it in a ``with`` statement."""

    @property
    def path(self) -> Path:
        """File or folder."""
        ...

    @property
    def spec(self) -> DatasetSpec:
        """What they have in common."""
        ...

    def __enter__(self) -> Demonstrations: ...

    def __exit__(self, *_: object) -> None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Demonstration: ...

    def __iter__(self) -> Iterator[Demonstration]: ...

    def info(self, index: int) -> DemonstrationInfo:
        """What is known of one without reading its arrays."""
        ...

    def steps(self, index: int) -> int:
        """Its number of steps."""
        ...


def read(path: Path, image_size: int | None = None) -> Demonstrations:
    """Open demonstrations: a file of `robotest collect`, or LIBERO's official files.

    Args:
        path: a file, or LIBERO's folder of a suite.
        image_size: LIBERO's pictures are resized to this height and width [px]; ours are as they were collected.

    Raises:
        ArtifactError: it is neither.
    """
    from robotest.envs import libero_dataset

    if libero_dataset.is_libero(path):
        return libero_dataset.LiberoDataset(path, image_size)
    return DemonstrationFile(path)


class DemonstrationWriter:
    """Appends demonstrations to a file that appears, complete, when the ``with`` block ends without an error."""

    def __init__(self, path: Path, spec: DatasetSpec) -> None:
        self.path = path
        self.spec = spec
        self._partial = path.with_name(path.name + ".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = h5py.File(self._partial, "w")
        except OSError as error:
            raise ArtifactError(f"cannot write {path}: {error}; choose another path") from error
        self._file.attrs["format"] = FORMAT
        self._file.attrs["spec"] = json.dumps(spec.to_json())
        self._data = self._file.create_group("data")

    def __len__(self) -> int:
        return len(self._data)

    def __enter__(self) -> DemonstrationWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._file.close()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink()

    def append(self, demonstration: Demonstration) -> None:
        """Write one demonstration.

        Raises:
            SpecMismatchError: its arrays do not have the shapes of the file's spec.
        """
        _require_shapes(self.spec, demonstration)
        group = self._data.create_group(f"demo_{len(self._data)}")
        group.attrs.update(dataclasses.asdict(demonstration.info))
        for camera, images in demonstration.images.items():
            # One chunk a second of pictures: lzf halves to tenths simulated pictures and reads at memory speed.
            chunks = (min(len(images), 16), *images.shape[1:])
            group.create_dataset(f"obs/images/{camera}", data=images, compression="lzf", chunks=chunks)
            group[f"obs/{camera}_image"] = group[f"obs/images/{camera}"]  # a second name for the same bytes
        group["obs/state"] = demonstration.state
        group["actions"] = demonstration.actions
        group["anchors"] = demonstration.anchors
        group["points"] = demonstration.points
        self._write_as_robomimic(group, demonstration)

    def _write_as_robomimic(self, group: Any, demonstration: Demonstration) -> None:
        """Write what robomimic's loader needs beside observations and actions."""
        last = np.zeros(len(demonstration), np.int64)
        last[-1] = 1
        group["rewards"], group["dones"] = last.astype(np.float64), last
        if demonstration.states is not None:
            group.create_dataset("states", data=demonstration.states, compression="lzf", shuffle=True)
        group.attrs["num_samples"] = len(demonstration)
        self._data.attrs["total"] = self._data.attrs.get("total", 0) + len(demonstration)
        env = {"env_name": self.spec.env, "type": _GYM_TYPE, "env_kwargs": {}}
        self._data.attrs["env_args"] = json.dumps(env)


class DemonstrationFile:
    """A finished demonstration file. Arrays are read when asked for; iterate, or index by number."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            reason = "is not a readable HDF5 file" if path.is_file() else "does not exist"
            raise ArtifactError(f"demonstrations {path}: {reason}; make one with `robotest collect`") from error
        if self._file.attrs.get("format") != FORMAT:
            self._file.close()
            raise ArtifactError(f"{path} is not a {FORMAT} file; make one with `robotest collect`")
        self.spec = DatasetSpec.from_json(json.loads(self._file.attrs["spec"]))

    def __enter__(self) -> DemonstrationFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._file["data"])

    def __getitem__(self, index: int) -> Demonstration:
        """Read demonstration `index`; `IndexError` past the last one."""
        group = self._group(index)
        return Demonstration(
            info=self.info(index),
            images={camera: group[f"obs/images/{camera}"][:] for camera in self.spec.cameras},
            state=group["obs/state"][:],
            actions=group["actions"][:],
            anchors=group["anchors"][:],
            points=group["points"][:],
            states=group["states"][:] if "states" in group else None,
        )

    def __iter__(self) -> Iterator[Demonstration]:
        for index in range(len(self)):
            yield self[index]

    def info(self, index: int) -> DemonstrationInfo:
        """Return what is known of demonstration `index` without reading its arrays."""
        attributes = self._group(index).attrs
        types = {"seed": int, "success": bool}
        names = [field.name for field in dataclasses.fields(DemonstrationInfo)]
        return DemonstrationInfo(**{name: types.get(name, str)(attributes[name]) for name in names})

    def steps(self, index: int) -> int:
        """Return the number of steps of demonstration `index` without reading its arrays."""
        return int(self._group(index)["actions"].shape[0])

    def _group(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"demonstration {index} of {len(self)}")
        return self._file[f"data/demo_{index}"]


def _require_shapes(spec: DatasetSpec, demonstration: Demonstration) -> None:
    n_steps = len(demonstration)
    wanted: dict[str, tuple[int, ...]] = {
        "actions": (n_steps, spec.action.size),
        "anchors": (n_steps, spec.action.size),
        "state": (n_steps, spec.state.size),
        "points": (n_steps, spec.n_points, 2),
        **{f"images of {camera}": (n_steps, *size, 3) for camera, size in spec.cameras.items()},
    }
    given: dict[str, tuple[int, ...]] = {
        "actions": demonstration.actions.shape,
        "anchors": demonstration.anchors.shape,
        "state": demonstration.state.shape,
        "points": demonstration.points.shape,
        **{f"images of {camera}": images.shape for camera, images in demonstration.images.items()},
    }
    if n_steps == 0 or given != wanted:
        raise SpecMismatchError(f"demonstration has {given}; the file holds {wanted}, at least one step")
