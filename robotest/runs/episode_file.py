"""Episode files: states, actions, candidates, scores. Videos are rendered from the states afterwards.

Every array of a `Recording` is a dataset of its name. Readers of the first robotest accept no other datasets, so what
was added later is an attribute of the dataset it belongs to: ``levels`` of ``scores``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from robotest import files
from robotest.errors import ArtifactError
from robotest.runtime.rollout import Trace
from robotest.types import Context, Decision, EnvOptions, Episode

FORMAT = "robotest-episode-1"
_LEVELS: Final = "levels"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to rebuild an environment whose recorded states can be restored: ``suite.make(task, options)``, then a reset.

    Attributes:
        env: name of the suite, as registered or ``module:attribute``.
        task: task name.
        options: how the environment was built.
        reset_seed: seed of `Env.reset`.
        control_dt: seconds between two actions [s].
    """

    env: str
    task: str
    options: EnvOptions
    reset_seed: int
    control_dt: float


@dataclasses.dataclass(frozen=True)
class Recording:
    """One recorded episode of T actions and D decisions.

    Attributes:
        episode: its result.
        scene: how to rebuild its environment.
        actions: the actions really sent.
        success: the task's predicate after each action.
        rewards: of each action; None if the environment gives none.
        snapshots: the complete state after the reset and after each action; None if not a simulator.
        frames: JPEG pictures made during the run; empty if there are states.
        frame_steps: actions executed before each frame.
        decision_steps: number of the first action of each decision.
        candidates: what was sampled.
        scores: of the candidates, higher is better.
        chosen: the candidate executed.
        levels: fraction of demonstrated chunks that score below each candidate; None if the verifier does not know.
    """

    episode: Episode
    scene: Recipe
    actions: Float32[np.ndarray, "T A"]
    success: Bool[np.ndarray, " T"]
    rewards: Float64[np.ndarray, " T"] | None
    snapshots: Float64[np.ndarray, "T+1 N"] | None
    frames: tuple[bytes, ...]
    frame_steps: Int64[np.ndarray, " F"]
    decision_steps: Int64[np.ndarray, " D"]
    candidates: Float32[np.ndarray, "D M H A"]
    scores: Float64[np.ndarray, "D M"]
    chosen: Int64[np.ndarray, " D"]
    levels: Float64[np.ndarray, "D M"] | None = None

    def context(self, decision: int) -> Context:
        """Return what was executed before a decision."""
        step = int(self.decision_steps[decision])
        if decision == 0:
            return Context(step)
        previous = self.candidates[decision - 1, self.chosen[decision - 1]]
        return Context(step, previous, step - int(self.decision_steps[decision - 1]))


def from_trace(episode: Episode, scene: Recipe, trace: Trace, numbered: Mapping[int, Decision]) -> Recording:
    """Stack a `Trace` and its decisions, by their number, into arrays; what an episode never reached has length 0."""
    decisions = list(numbered.values())
    levels = [d.levels for d in decisions if d.levels is not None]
    n_actions = decisions[0].chunk.shape[1] if decisions else 0
    return Recording(
        episode=episode,
        scene=scene,
        snapshots=np.stack(trace.snapshots) if trace.snapshots else None,
        actions=np.stack(trace.actions) if trace.actions else np.zeros((0, n_actions), np.float32),
        success=np.array(trace.success, bool),
        rewards=np.array(trace.rewards, np.float64) if trace.rewards else None,
        frames=tuple(jpeg for _, jpeg in trace.frames),
        frame_steps=np.array([step for step, _ in trace.frames], np.int64),
        decision_steps=np.array(trace.decision_steps, np.int64),
        candidates=np.stack([d.candidates.actions for d in decisions])
        if decisions
        else np.zeros((0, 0, 0, 0), np.float32),
        scores=np.stack([d.scores for d in decisions]) if decisions else np.zeros((0, 0)),
        chosen=np.array([d.chosen for d in decisions], np.int64),
        levels=np.stack(levels) if levels and len(levels) == len(decisions) else None,
    )


def write(path: Path, recording: Recording) -> None:
    """Write an episode file; a reader sees all of it or none, and a write that fails leaves nothing.

    Raises:
        OSError: it cannot be written.
    """
    image = _image(recording)  # HDF5 writing to a full disk itself ends in a segmentation fault
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as partial:
        partial.write_bytes(image)


def _image(recording: Recording) -> bytes:
    """Return the bytes of the file; HDF5 writes none of them to a disk."""
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        file.attrs["format"] = FORMAT
        file.attrs["episode"] = json.dumps(dataclasses.asdict(recording.episode), allow_nan=False)
        file.attrs["scene"] = json.dumps(dataclasses.asdict(recording.scene), allow_nan=False)
        for name, array in _arrays(recording):
            file.create_dataset(name, data=array, **({"compression": "lzf", "shuffle": True} if array.size else {}))
        if recording.levels is not None:
            whole = np.empty(1, object)  # one entry of any length: an attribute of fixed length is limited to 64 kB
            whole[0] = recording.levels.ravel()
            file["scores"].attrs.create(_LEVELS, whole, dtype=h5py.vlen_dtype(np.float64))
        if recording.frames:
            stored = file.create_dataset("frames", len(recording.frames), h5py.vlen_dtype(np.uint8))
            for i, jpeg in enumerate(recording.frames):
                stored[i] = np.frombuffer(jpeg, np.uint8)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def read(path: Path) -> Recording:
    """Read an episode file.

    Raises:
        ArtifactError: it is missing, damaged, or something else.
    """
    if not path.is_file():
        raise ArtifactError(f"no episode file {path}; `robotest eval` writes them under RUN/episodes")
    with _damage(path), h5py.File(path) as file:
        if file.attrs.get("format") != FORMAT:
            raise ArtifactError(f"{path} is not an episode file of this version ({FORMAT})")
        episode: dict[str, Any] = json.loads(file.attrs["episode"])
        scene: dict[str, Any] = json.loads(file.attrs["scene"])
        frames = tuple(jpeg.tobytes() for jpeg in file["frames"]) if "frames" in file else ()
        absent = {"snapshots": None, "rewards": None, "frame_steps": np.zeros(0, np.int64)}
        levels = file["scores"].attrs.get(_LEVELS)
        return Recording(
            episode=Episode(**{**episode, "chosen": tuple(episode["chosen"])}),
            scene=Recipe(**{**scene, "options": EnvOptions.from_json(scene["options"])}),
            **{**absent, **{name: file[name][()] for name in file}, "frames": frames},
            levels=None if levels is None else levels[0].reshape(file["scores"].shape),
        )


def _arrays(recording: Recording) -> Iterator[tuple[str, np.ndarray]]:
    for field in dataclasses.fields(recording):
        value = getattr(recording, field.name)
        if isinstance(value, np.ndarray) and field.name != _LEVELS:
            yield field.name, value


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn errors of h5py and of the decoders about a damaged file into one `ArtifactError`."""
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"episode file {path} is damaged ({error}); delete it and run the episode again") from error
