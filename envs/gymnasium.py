"""Any registered gymnasium environment as a suite of one task: ``--env gymnasium:ID`` or ``gymnasium:module:ID``.

The second form imports the module that registers the id, as `gymnasium.make` has it.

What gymnasium leaves open is settled so:

- numbers of the observation, in the order of its space, are the state; pictures in it (uint8, height x width x 3) are
  cameras of that name, and `render` frames are the camera ``render``, made only when somebody looks; a text called
  ``instruction`` is the instruction, else the id is;
- the seed goes to `reset`, reduced to 31 bits, which every environment takes;
- success is ``info["success"]`` or ``info["is_success"]``; without them, that the return reaches the id's
  ``reward_threshold``; without that, that the environment terminates;
- the step limit is the id's ``max_episode_steps``, or 1,000.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float32, UInt8

from robotest.errors import InvalidActionError, RobotestError, UnknownNameError
from robotest.gl import use_headless_gl
from robotest.specs import Component, EnvSpec, VectorSpec
from robotest.types import EnvOptions, Observation, StepStatus

use_headless_gl()
RENDER = "render"
_SEEDS = 2**31
_MAX_STEPS = 1000
_DEFAULT_FPS = 20.0
_UNBOUNDED = 1e6
"""Stands for a missing bound: `VectorSpec` holds numbers that JSON can hold."""


class GymnasiumSuite:
    """One id as a suite. Implements `robotest.types.Suite`.

    Args:
        id_: as `gymnasium.make` takes it.
    """

    settings: tuple[str, ...] = ("default",)
    action_modes: tuple[str, ...] = ("native",)

    def __init__(self, id_: str) -> None:
        self.name = f"gymnasium:{id_}"
        self.tasks: tuple[str, ...] = (id_,)

    def make(self, task: str, options: EnvOptions) -> GymnasiumTask:
        """Build the environment; the picture size is its own."""
        if task not in self.tasks:
            raise UnknownNameError("task", task, self.tasks)
        for kind, given, known in (
            ("setting", options.setting, (*self.settings, EnvOptions.setting)),
            ("action mode", options.action_mode, self.action_modes),
        ):
            if given not in known:
                raise UnknownNameError(kind, given, known)
        return GymnasiumTask(task)


def suite(id_: str) -> GymnasiumSuite:
    """Return the suite of an id.

    Raises:
        RobotestError: gymnasium has no such id.
    """
    if not id_:
        raise RobotestError("env 'gymnasium:' given without an id, e.g. gymnasium:CartPole-v1")
    module, _, registered = id_.rpartition(":")
    with _refusal(id_):
        if module:
            importlib.import_module(module)
        gymnasium.spec(registered)
    return GymnasiumSuite(id_)


class GymnasiumTask:
    """Implements `robotest.types.Env`; without snapshots, which gymnasium does not have."""

    def __init__(self, id_: str) -> None:
        self._env = _make(id_)
        self._id = id_
        self._observed, _ = self._env.reset(seed=0)
        self._reward, self._steps = 0.0, 0
        registered = self._env.spec
        threshold = registered.reward_threshold if registered else None
        self._threshold = math.inf if threshold is None else float(threshold)
        space = self._env.observation_space
        cameras = {name: value.shape[:2] for name, inner, value in _leaves(space, self._observed) if _is_picture(inner)}
        self._renders = self._env.render_mode == "rgb_array"
        if self._renders:
            # Without its drawing library an environment still runs, for policies that do not look.
            with contextlib.suppress(gymnasium.error.DependencyNotInstalled):
                cameras[RENDER] = self._frame().shape[:2]
        self._renders = RENDER in cameras
        fps = float(self._env.metadata.get("render_fps") or _DEFAULT_FPS)
        self._spec = EnvSpec(
            name=f"gymnasium:{id_}",
            task=id_,
            setting="default",
            action=_action_layout(self._env.action_space),
            state=_state_layout(space, self._observed),
            cameras=cameras,
            control_dt=1.0 / fps,
            max_steps=(registered.max_episode_steps if registered else None) or _MAX_STEPS,
        )

    @property
    def spec(self) -> EnvSpec:
        """See `robotest.types.Env.spec`."""
        return self._spec

    def reset(self, seed: int, episode: int = 0) -> None:  # noqa: ARG002 - starts are drawn, not numbered
        """See `robotest.types.Env.reset`."""
        self._observed, _ = self._env.reset(seed=seed % _SEEDS)
        self._reward, self._steps = 0.0, 0

    def observe(self) -> Observation:
        """See `robotest.types.Env.observe`."""
        leaves = list(_leaves(self._env.observation_space, self._observed))
        images = {name: np.asarray(value) for name, space, value in leaves if _is_picture(space)}
        if self._renders:
            images[RENDER] = self._frame()
        words = [
            str(value) for name, space, value in leaves if isinstance(space, spaces.Text) and name == "instruction"
        ]
        state = _numbers(self._env.observation_space, self._observed)
        return Observation(images, state, words[0] if words else self._id, self._steps * self._spec.control_dt)

    def begin_chunk(self, actions: Float32[np.ndarray, "h A"]) -> None:
        """Nothing: actions are the environment's own."""

    def apply(self, action: Float32[np.ndarray, " A"]) -> StepStatus:
        """See `robotest.types.Env.apply`."""
        if action.shape != (self._spec.action.size,) or not np.isfinite(action).all():
            raise InvalidActionError(f"action {action} given; {self._spec.action.size} finite numbers are needed")
        sent = action.clip(self._spec.action.low, self._spec.action.high).astype(np.float32)
        self._observed, reward, terminated, truncated, info = self._env.step(_native(self._env.action_space, sent))
        self._reward += float(reward)
        self._steps += 1
        success = self._succeeded(bool(terminated), info)
        return StepStatus(success, success or bool(terminated) or bool(truncated), sent)

    def stop(self) -> None:
        """Nothing moves by itself."""

    def close(self) -> None:
        """See `robotest.types.Env.close`."""
        self._env.close()

    def _succeeded(self, terminated: bool, info: dict[str, Any]) -> bool:
        for key in ("success", "is_success"):
            if key in info:
                return bool(info[key])
        return self._reward >= self._threshold if math.isfinite(self._threshold) else terminated

    def _frame(self) -> UInt8[np.ndarray, "height width 3"]:
        frame = np.asarray(self._env.render())
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise RobotestError(f"{self._id} renders {frame.dtype} {frame.shape}; uint8 (height, width, 3) is needed")
        return frame


def _make(id_: str) -> gymnasium.Env[Any, Any]:
    """Make an environment that renders arrays, or one that does not render if it cannot."""
    with _refusal(id_):
        plain: gymnasium.Env[Any, Any] = gymnasium.make(id_)
        if "rgb_array" not in plain.metadata.get("render_modes", []):
            return plain
        plain.close()
        return gymnasium.make(id_, render_mode="rgb_array")


@contextlib.contextmanager
def _refusal(id_: str) -> Iterator[None]:
    """Turn what gymnasium says about an id into one error."""
    try:
        yield
    except (gymnasium.error.Error, ImportError) as error:
        raise RobotestError(
            f"gymnasium cannot make {id_!r}: {error}; an id that a package registers is given as gymnasium:PACKAGE:ID"
        ) from error


def _leaves(
    space: spaces.Space[Any], value: Any, name: str = "observation"
) -> Iterator[tuple[str, spaces.Space[Any], Any]]:
    """Yield (name, space, value) of everything in a nested observation, in the order of the space."""
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _leaves(inner, value[key], key)
    elif isinstance(space, spaces.Tuple):
        for i, inner in enumerate(space.spaces):
            yield from _leaves(inner, value[i], f"{name}_{i}")
    else:
        yield name, space, value


def _is_picture(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] == 3


def _numbers(space: spaces.Space[Any], value: Any) -> Float32[np.ndarray, " S"]:
    """Return all numbers of an observation, one-hot where they are choices."""
    parts = [
        np.asarray(spaces.flatten(inner, own), np.float32)
        for _, inner, own in _leaves(space, value)
        if not _is_picture(inner) and not isinstance(inner, spaces.Text)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _state_layout(space: spaces.Space[Any], value: Any) -> VectorSpec:
    components = tuple(
        Component(name, spaces.flatdim(inner), "native", "gymnasium", -_UNBOUNDED, _UNBOUNDED)
        for name, inner, _ in _leaves(space, value)
        if not _is_picture(inner) and not isinstance(inner, spaces.Text)
    )
    return VectorSpec("native", components)


def _action_layout(space: spaces.Space[Any]) -> VectorSpec:
    """Return one component for each number, as each has its own bounds."""
    match space:
        case spaces.Discrete():
            low, high = int(space.start), int(space.start + space.n - 1)
            return VectorSpec("native", (Component("choice", 1, "index", "discrete", low, high),))
        case spaces.Box():
            bounds = zip(
                space.low.ravel().clip(-_UNBOUNDED, _UNBOUNDED),
                space.high.ravel().clip(-_UNBOUNDED, _UNBOUNDED),
                strict=True,
            )
            return VectorSpec(
                "native",
                tuple(
                    Component(f"action_{i}", 1, "native", "gymnasium", float(low), float(high))
                    for i, (low, high) in enumerate(bounds)
                ),
            )
    raise RobotestError(f"actions of {space} given; a Box or a Discrete space is needed")


def _native(space: spaces.Space[Any], action: Float32[np.ndarray, " A"]) -> Any:
    if isinstance(space, spaces.Discrete):
        return int(np.rint(action[0]))
    assert isinstance(space, spaces.Box)
    # The bounds again: as float32 they may lie a little outside.
    return action.reshape(space.shape).astype(space.dtype).clip(space.low, space.high)
