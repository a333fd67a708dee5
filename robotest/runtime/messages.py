"""What a pool and its workers send each other. Dataclasses here; maps, named by their key ``do``, only on the wire.

    pool                    worker
                            Hello, once
    SuiteRequest            SuiteReply
    SpecRequest             SpecReply
    RunRequest              SpecReply if the environment had to be built
                            for every decision: ChunkRequest
    Chunk or Refused
                            EpisodeEnded

A worker sends `Failed` where it cannot meet a request. Between two decisions nothing is sent.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float32

from robotest.randomness import EpisodeSeeds
from robotest.runtime.rollout import Attempt, Origin, Trace
from robotest.runtime.runner import SuiteInfo
from robotest.runtime.wire import WireError
from robotest.specs import EnvSpec
from robotest.types import Context, EnvOptions, Observation


@dataclasses.dataclass(frozen=True)
class SuiteRequest:
    """Asks what there is to choose from in suite `env`."""

    env: str


@dataclasses.dataclass(frozen=True)
class SpecRequest:
    """Asks for the spec of a task's environment."""

    env: str
    task: str
    options: EnvOptions


@dataclasses.dataclass(frozen=True)
class RunRequest:
    """Asks for an episode; the fields are those of `EpisodeJob` that a worker needs."""

    env: str
    seeds: EpisodeSeeds
    options: EnvOptions
    execute: int
    origin: Origin | None
    film: bool


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The actions to execute."""

    actions: Float32[np.ndarray, "H A"]


@dataclasses.dataclass(frozen=True)
class Refused:
    """There is no chunk, for a reason that the pool knows."""


@dataclasses.dataclass(frozen=True)
class Hello:
    """Greets. None for what the greeting of another version does not have."""

    protocol: int | None
    version: str | None
    pid: int | None


@dataclasses.dataclass(frozen=True)
class SuiteReply:
    """Answers a `SuiteRequest`."""

    suite: SuiteInfo


@dataclasses.dataclass(frozen=True)
class SpecReply:
    """The spec of the environment that was built."""

    spec: EnvSpec


@dataclasses.dataclass(frozen=True)
class ChunkRequest:
    """Asks for the chunk of decision `number`."""

    observation: Observation
    number: int


@dataclasses.dataclass(frozen=True)
class EpisodeEnded:
    """How an episode ended, and what happened in it."""

    attempt: Attempt
    trace: Trace


@dataclasses.dataclass(frozen=True)
class Failed:
    """Why a request cannot be met, in one line."""

    text: str


FromPool = SuiteRequest | SpecRequest | RunRequest | Chunk | Refused
FromWorker = Hello | SuiteReply | SpecReply | ChunkRequest | EpisodeEnded | Failed


def to_wire(message: FromPool | FromWorker) -> dict[str, Any]:
    """Return a message as `robotest.runtime.wire` packs it."""
    match message:
        case SuiteRequest(env):
            return {"do": "suite", "env": env}
        case SpecRequest(env, task, options):
            return {"do": "spec", "env": env, "task": task, "options": dataclasses.asdict(options)}
        case RunRequest():
            nested = {part: _map(getattr(message, part)) for part in ("seeds", "options", "origin")}
            return {"do": "run", **vars(message), **nested}
        case Chunk(actions):
            return {"do": "chunk", "actions": actions}
        case Refused():
            return {"do": "refused"}
        case Hello():
            return {"do": "hello", **vars(message)}
        case SuiteReply(suite):
            return {"do": "suite", **vars(suite)}
        case SpecReply(spec):
            return {"do": "spec", "spec": spec.to_json()}
        case ChunkRequest(observation, number):
            images = {camera: np.asarray(image) for camera, image in observation.images.items()}
            seen = {**vars(observation), "images": images, "context": vars(observation.context)}
            return {"do": "ask", "observation": seen, "number": number}
        case EpisodeEnded(attempt, trace):
            return {"do": "ended", "attempt": dataclasses.asdict(attempt), **_trace_to_wire(trace)}
        case Failed(text):
            return {"do": "error", "text": text}


def from_pool(data: Any) -> FromPool:
    """Return the message of a pool; `WireError` if it is none."""
    match data:
        case {"do": "suite", "env": env}:
            return SuiteRequest(env)
        case {"do": "spec", "env": env, "task": task, "options": options}:
            return SpecRequest(env, task, EnvOptions.from_json(options))
        case {"do": "run", "seeds": seeds, "options": options, "origin": origin}:
            where = Origin(**{**origin, "context": Context(**origin["context"])}) if origin else None
            settings = EnvOptions.from_json(options)
            return RunRequest(data["env"], EpisodeSeeds(**seeds), settings, data["execute"], where, data["film"])
        case {"do": "chunk", "actions": actions}:
            return Chunk(actions)
        case {"do": "refused"}:
            return Refused()
    raise WireError(f"{data!r:.100} is no message of a pool")


def from_worker(data: Any) -> FromWorker:
    """Return the message of a worker; `WireError` if it is none."""
    match data:
        case {"do": "hello"}:
            return Hello(data.get("protocol"), data.get("version"), data.get("pid"))
        case {"do": "suite", "tasks": tasks, "settings": settings, "action_modes": modes}:
            return SuiteReply(SuiteInfo(tuple(tasks), tuple(settings), tuple(modes)))
        case {"do": "spec", "spec": spec}:
            return SpecReply(EnvSpec.from_json(spec))
        case {"do": "ask", "observation": observation, "number": number}:
            return ChunkRequest(Observation(**{**observation, "context": Context(**observation["context"])}), number)
        case {"do": "ended", "attempt": attempt}:
            return EpisodeEnded(Attempt(**attempt), _trace_from_wire(data))
        case {"do": "error", "text": text}:
            return Failed(text)
    raise WireError(f"{data!r:.100} is no message of a worker")


def _map(part: EpisodeSeeds | EnvOptions | Origin | None) -> dict[str, Any] | None:
    return dataclasses.asdict(part) if part else None


def _trace_to_wire(trace: Trace) -> dict[str, Any]:
    return {
        "instruction": trace.instruction,
        "steps": trace.decision_steps,
        "actions": trace.actions,
        "success": trace.success,
        "rewards": trace.rewards,
        "start": trace.start,
        "frames": trace.frames,
        "snapshots": np.stack(trace.snapshots) if trace.snapshots else None,
    }


def _trace_from_wire(data: dict[str, Any]) -> Trace:
    return Trace(
        instruction=data["instruction"],
        snapshots=[] if data["snapshots"] is None else list(data["snapshots"]),
        actions=data["actions"],
        success=data["success"],
        rewards=data["rewards"],
        decision_steps=data["steps"],
        start=data["start"],
        frames=[(step, jpeg) for step, jpeg in data["frames"]],
    )
