"""Base of the environments on a `RobosuiteWorld`: everything but the reset."""

from __future__ import annotations

import abc
from typing import Final, Literal

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from robotest.envs.robosuite.world import CONTROL_HZ, RobosuiteWorld, checked
from robotest.randomness import derive, generator
from robotest.specs import EnvSpec
from robotest.types import Observation, StepStatus

PATIENCE_S: Final = 120.0
"""Building a scene with its textures takes seconds, on a busy machine tens of seconds."""


class RobosuiteEnv(abc.ABC):
    """One task. Implements `robotest.types.SimulatedEnv`, with pictures upright and as the camera sees them.

    Args:
        world: the simulation.
        spec: of the environment.
    """

    def __init__(self, world: RobosuiteWorld, spec: EnvSpec) -> None:
        self.world: Final = world
        self.spec: Final = spec
        self.instruction = ""
        self._steps = 0

    @abc.abstractmethod
    def reset(self, seed: int, episode: int = 0) -> None:
        """See `Env.reset`; ends with `_begin`."""

    def observe(self) -> Observation:
        """Render the policy's cameras and read the arms."""
        with self.world.looked_at():
            images = {camera: self._picture(camera, size) for camera, size in self.spec.cameras.items()}
            state = self.world.arm_state()
        return Observation(images, state, self.instruction, self._steps / CONTROL_HZ)

    def begin_chunk(self, actions: Float32[np.ndarray, "h A"]) -> None:  # noqa: B027 - not abstract
        """Do nothing: every action is an offset from the gripper's current pose."""

    def apply(self, action: Float32[np.ndarray, " A"]) -> StepStatus:
        """Execute one action for 0.05 s; the episode ends at the first success."""
        sent = checked(action, self.spec.action)
        success = self._step(sent.astype(np.float64))
        self._steps += 1
        return StepStatus(success=success, done=success, sent=sent)

    def snapshot(self) -> Float64[np.ndarray, " N"]:
        """Steps taken, then `RobosuiteWorld.snapshot`."""
        return np.concatenate([[float(self._steps)], self.world.snapshot()])

    def restore(self, state: Float64[np.ndarray, " N"]) -> None:
        """Return to a snapshot of the same episode."""
        self._steps = int(state[0])
        self.world.restore(state[1:])

    def render(self, camera: str, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return a picture from any camera of the scene."""
        with self.world.looked_at():
            return self.world.picture(camera, height, width)

    def stop(self) -> None:  # noqa: B027 - not abstract
        """Do nothing: a simulator moves only in `apply`."""

    def close(self) -> None:
        """Free renderer and simulation."""
        self.world.close()

    def _picture(self, camera: str, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
        """Return a camera's picture for the policy."""
        return self.world.picture(camera, *size)

    def _step(self, action: Float64[np.ndarray, " A"]) -> bool:
        """Execute one action and return whether the task's predicate holds."""
        return self.world.step(action)

    def _begin(self, instruction: str) -> None:
        """Reset the step count; set the instruction."""
        self._steps, self.instruction = 0, instruction


def worded(seen: tuple[str, ...], unseen: tuple[str, ...], wording: Literal["seen", "unseen"], seed: int) -> str:
    """Return an episode's instruction: one of the seen or unseen wordings, drawn by the seed of its reset."""
    wordings = seen if wording == "seen" else unseen
    return wordings[int(generator(derive(seed, "wording")).integers(len(wordings)))]
