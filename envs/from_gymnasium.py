"""Any registered gymnasium environment as a suite of one task: ``--env gymnasium:ID`` or ``gymnasium:module:ID``.

The second form imports the module that registers the id, as in `gymnasium.make`; ``--env-arg KEY=VALUE`` passes
arguments to `gymnasium.make`. Conventions where gymnasium has none:

- The state is the observation's numbers in the order of its space, with discrete choices one-hot. A text called
  ``instruction`` is the instruction, by default the id; other texts are ignored; graphs, sequences and the like are
  errors.
- Pictures in the observation are cameras, in RGB: uint8 from 0 to 255 or floats from 0 to 1, with one, three or (last
  axis) four channels, the channels last or first, or uint8 without channels. A stack of four frames,
  (4, height, width), is not a picture and becomes part of the state.
- The picture of `render` is the camera ``render`` (``render_frame`` if the observation has a ``render``), rendered on
  demand; an environment that cannot render has no such camera.
- Nested parts are named by their last key, or by the whole path, ``arm/position``, if that is not unique.
- Every observation is checked, also those that no policy sees. Errors are: a non-finite observation or one that does
  not match its space, a reward that is not one finite number, and a `terminated` or `truncated` that is not a bool.
  Numbers beyond the bounds of a `Box` are allowed.
- Actions are `Box`, `Discrete`, `MultiDiscrete`, `MultiBinary`, and `Dict` and `Tuple` of them, in their order. They
  are clipped, and rounded in integer spaces; the action sent is recorded.
- The seed is passed to `reset`, reduced to 31 bits, which every environment accepts.
- ``--success`` defines success (`robotest.success`). The default is found by one reset and one step:
  ``info["success"]``, else ``info["is_success"]``, else a return of the finished episode of at least the id's
  ``reward_threshold``; without these a rule is required, because an episode may terminate in success or failure.
- The step limit is the id's ``max_episode_steps``, or 1,000.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec as Registered
from gymnasium.envs.registration import load_env_creator
from jaxtyping import Float32, UInt8

from robotest.envs.gymnasium_spaces import Actions, Observations, rgb
from robotest.errors import InvalidObservationError, RobotestError, SuccessError, UnknownNameError, describe, shown
from robotest.gl import use_headless_gl
from robotest.randomness import generator
from robotest.specs import EnvSpec
from robotest.success import CHOICES, Judged, Rule, truth
from robotest.types import EnvOptions, Observation, StepStatus

use_headless_gl()
RENDER: Final = "render"
_SEEDS = 2**31
_MAX_STEPS = 1000
_DEFAULT_FPS = 20.0
_WORDS: Final = ("success", "is_success")
"""Keys of `info` that conventionally hold success, by precedence."""
_API = "gymnasium >= 1.0: reset(seed=) returns (observation, info), step returns five values"


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
        """Build the environment; it determines the picture size."""
        if task not in self.tasks:
            raise UnknownNameError("task", task, self.tasks)
        for kind, name, known in (
            ("setting", options.setting, (*self.settings, EnvOptions.setting)),
            ("action mode", options.action_mode, self.action_modes),
        ):
            if name not in known:
                raise UnknownNameError(kind, name, known)
        return GymnasiumTask(task, options)


def suite(id_: str) -> GymnasiumSuite:
    """Return the suite of an id.

    Raises:
        RobotestError: gymnasium does not know the id.
    """
    if not id_:
        raise RobotestError("env 'gymnasium:' given without an id, e.g. gymnasium:CartPole-v1")
    _registered(id_)
    return GymnasiumSuite(id_)


class GymnasiumTask:
    """Implements `robotest.types.Env`; without snapshots, which gymnasium does not have.

    Args:
        id_: as `gymnasium.make` takes it.
        options: its `cameras`, `success` and `env_args` count.

    Raises:
        RobotestError: an unknown id, argument or camera, an unsupported space, or no rule for success.
    """

    def __init__(self, id_: str, options: EnvOptions) -> None:
        self._id = id_
        self._env = _make(id_, _arguments(options.env_args))
        self._steps, self._return = 0, 0.0
        self._contradicting: tuple[str, ...] = ()
        self._frame: UInt8[np.ndarray, "height width 3"] | None = None
        try:
            self._observations = Observations(self._env.observation_space)
            self._actions = Actions(self._env.action_space)
            self._registered = self._env.spec
            info = self._reset(0)
            self._render_name = self._name_of_frames()
            self._cameras = self._choose_cameras(options.cameras)
            self._rule = Rule(self._default_rule(info) if options.success is None else options.success)
            self._spec = self._describe()
        except BaseException:
            self.close()
            raise

    @property
    def spec(self) -> EnvSpec:
        """See `robotest.types.Env.spec`."""
        return self._spec

    def reset(self, seed: int, episode: int = 0) -> None:  # noqa: ARG002 - starts are drawn, not numbered
        """See `robotest.types.Env.reset`."""
        self._refuse_contradiction(self._reset(seed))
        self._rule.begin()

    def observe(self) -> Observation:
        """See `robotest.types.Env.observe`."""
        images = {name: self._picture(name) for name in self._cameras}
        words, time = self._seen.instruction or self._id, self._steps * self._spec.control_dt
        return Observation(images, self._seen.state(), words, time)

    def begin_chunk(self, actions: Float32[np.ndarray, "h A"]) -> None:
        """Do nothing: no component has the reference ``chunk_start``."""

    def apply(self, action: Float32[np.ndarray, " A"]) -> StepStatus:
        """See `robotest.types.Env.apply`.

        Raises:
            InvalidObservationError: an observation or reward is not finite or does not match its space.
            SuccessError: `terminated`, `truncated` or the rule's result is not a bool.
        """
        native, sent = self._actions.native(action)
        reward, terminated, truncated, info = self._step(native)
        self._refuse_contradiction(info)
        self._return += reward
        cut = truncated or self._steps == self._spec.max_steps
        judged = Judged(info, terminated, cut, terminated or cut, self._return, self._steps)
        success = self._rule(judged)
        return StepStatus(success, success or terminated or truncated, sent, reward)

    def frame(self) -> UInt8[np.ndarray, "height width 3"]:
        """See `robotest.types.FilmedEnv.frame`."""
        return self._drawn()

    def stop(self) -> None:
        """Do nothing: the environment moves only in `apply`."""

    def close(self) -> None:
        """See `robotest.types.Env.close`; exceptions are suppressed, since all results are in."""
        _close(self._env)

    def _reset(self, seed: int) -> Mapping[str, Any]:
        """Reset and read the observation; return the info."""
        self._frame = None
        with _quiet(), _current_api(self._id):
            result = self._env.reset(seed=seed % _SEEDS)
        if not isinstance(result, Sequence) or len(result) != 2 or not isinstance(result[1], Mapping):
            raise RobotestError(f"reset of {self._id} returns {shown(result)}; {_API}")
        self._steps, self._return = 0, 0.0
        self._seen = self._observations.read(result[0], "after the reset")
        return result[1]

    def _step(self, native: Any) -> tuple[float, bool, bool, Mapping[str, Any]]:
        """Step and read the observation; return (reward, terminated, truncated, info)."""
        self._frame = None
        with _quiet(), _current_api(self._id):
            result: Any = self._env.step(native)
        if not isinstance(result, Sequence) or len(result) != 5:
            raise RobotestError(f"step of {self._id} returns {shown(result)}; {_API}")
        observed, reward, terminated, truncated, info = result
        self._steps += 1
        when = f"after step {self._steps}"
        if not isinstance(info, Mapping):
            raise RobotestError(f"info of {self._id} is {shown(info)} {when}; it must be a dict")
        self._seen = self._observations.read(observed, when)
        ended = truth(terminated, f"terminated {when}"), truth(truncated, f"truncated {when}")
        return _reward(reward, when), *ended, info

    def _default_rule(self, info: Mapping[str, Any]) -> str:
        """Return the default rule for success by the keys of `info`; takes one step and resets again."""
        low, high = self._actions.spec.low.clip(-1, 1), self._actions.spec.high.clip(-1, 1)
        # Not `action_space.sample`: the environment may share its generator.
        native, _ = self._actions.native(generator(0).uniform(low, high).astype(np.float32))
        keys = {*info, *self._step(native)[3]}
        self._reset(0)
        for i, key in enumerate(_WORDS):
            if key in keys:
                self._contradicting = _WORDS[:i]
                return f"info:{key}"
        threshold = self._registered.reward_threshold if self._registered else None
        if threshold is not None and math.isfinite(threshold):
            self._contradicting = _WORDS
            return f"return>={float(threshold)!r}".removesuffix(".0")
        raise RobotestError(
            f"{self._id} does not define success: info has neither 'success' nor 'is_success', the id has no"
            f" reward_threshold, and an episode may terminate because it failed. Choose a rule with --success:"
            f" {CHOICES}"
        )

    def _refuse_contradiction(self, info: Mapping[str, Any]) -> None:
        """Raise `SuccessError` if `info` has a key that takes precedence over the default rule."""
        for key in self._contradicting:
            if key in info:
                raise SuccessError(
                    f"the default rule was {self._rule.text!r}, but info now has {key!r}; choose a rule with"
                    f" --success, e.g. info:{key}"
                )

    def _describe(self) -> EnvSpec:
        metadata = self._env.metadata if isinstance(self._env.metadata, Mapping) else {}
        return EnvSpec(
            name=f"gymnasium:{self._id}",
            task=self._id,
            setting="default",
            action=self._actions.spec,
            state=self._observations.state,
            cameras=self._cameras,
            control_dt=1.0 / _fps(metadata.get("render_fps")),
            max_steps=(self._registered.max_episode_steps if self._registered else None) or _MAX_STEPS,
            success=self._rule.text,
            simulator=_simulator(self._env),
        )

    def _name_of_frames(self) -> str:
        names = itertools.chain([RENDER, f"{RENDER}_frame"], (f"{RENDER}_frame_{k}" for k in itertools.count(2)))
        return next(name for name in names if name not in self._observations.cameras)

    def _choose_cameras(self, requested: Sequence[str] | None) -> dict[str, tuple[int, int]]:
        """Return the sizes of the requested cameras; renders a frame only if it is among them."""
        sizes = dict(self._observations.cameras)
        if requested is None or self._render_name in requested:
            try:
                height, width, _ = self._drawn().shape
                sizes[self._render_name] = height, width
            except Exception as error:
                if requested is not None:
                    raise RobotestError(f"{self._id} cannot render: {describe(error)}") from error
        for camera in requested or ():
            if camera not in sizes:
                raise UnknownNameError(f"camera of {self._id}", camera, sizes)
        return {name: size for name, size in sizes.items() if requested is None or name in requested}

    def _picture(self, camera: str) -> UInt8[np.ndarray, "height width 3"]:
        if camera in self._observations.cameras:
            return self._seen.picture(camera)
        frame: UInt8[np.ndarray, "height width 3"] = self._drawn().copy()
        if frame.shape[:2] != self._cameras[camera]:
            raise InvalidObservationError(
                f"camera {camera!r} of {self._id} is {frame.shape[:2]} px; it was {self._cameras[camera]} px at first"
            )
        return frame

    def _drawn(self) -> UInt8[np.ndarray, "height width 3"]:
        """Render the current frame, once per step; of a list of frames take the last."""
        if self._frame is None:
            if self._env.render_mode not in ("rgb_array", "rgb_array_list"):
                raise RobotestError(f"{self._id} has render_mode {self._env.render_mode!r}; it must be 'rgb_array'")
            with _quiet():
                drawn: Any = self._env.render()
            drawn = drawn[-1] if isinstance(drawn, list) and drawn else drawn
            frame = np.asarray(drawn)
            channels = frame.shape[2] if frame.ndim == 3 else 1
            if frame.dtype != np.uint8 or frame.ndim not in (2, 3) or channels not in (1, 3, 4) or not frame.size:
                raise RobotestError(
                    f"{self._id} renders {'None' if drawn is None else f'{frame.dtype} {frame.shape}'};"
                    " it must be uint8 (height, width, 3)"
                )
            self._frame = rgb(frame)
        return self._frame


def _registered(id_: str) -> Registered:
    """Find an id, importing the module that registers it."""
    module, _, name = id_.rpartition(":")
    with _refusal(id_), _quiet():
        if id_ in gymnasium.registry:
            return gymnasium.registry[id_]
        if module:
            importlib.import_module(module)
        return gymnasium.spec(name)


def _arguments(texts: Sequence[str]) -> dict[str, Any]:
    """Parse ``key=value`` texts; a value that is not a Python literal is a string."""
    arguments: dict[str, Any] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key.isidentifier():
            raise RobotestError(f"--env-arg {text!r} given; it must be KEY=VALUE, e.g. max_episode_steps=100")
        if key in arguments:
            raise RobotestError(f"--env-arg {key!r} given twice; give it once")
        try:
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            arguments[key] = value
    return arguments


def _make(id_: str, arguments: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """Make an environment that renders to arrays if it can."""
    registered = _registered(id_)

    def make(**rendering: str) -> gymnasium.Env[Any, Any]:
        # gymnasium's checker would check only the first step, with other messages.
        return gymnasium.make(registered, **{"disable_env_checker": True, **rendering, **arguments})

    with _refusal(id_), _quiet():
        modes = _render_modes(registered)
        if "render_mode" in arguments or (modes is not None and "rgb_array" not in modes):
            return make()
        if modes is None:
            plain = make()
            if "rgb_array" not in (plain.metadata or {}).get("render_modes", ()):
                return plain
            _close(plain)
        try:
            return make(render_mode="rgb_array")
        except TypeError as error:
            if "argument 'render_mode'" not in str(error):
                raise
            return make()


def _close(env: gymnasium.Env[Any, Any]) -> None:
    with contextlib.suppress(Exception):
        env.close()


def _render_modes(registered: Registered) -> Sequence[str] | None:
    """Return the render modes in the metadata of an environment's class; None for a factory without metadata."""
    entry = registered.entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    metadata = getattr(creator, "metadata", None)
    if not isinstance(metadata, Mapping):
        return None
    modes: Sequence[str] = metadata.get("render_modes") or ()
    return modes


@contextlib.contextmanager
def _refusal(id_: str) -> Iterator[None]:
    """Turn gymnasium's errors about an id or its arguments into a one-line error."""
    try:
        yield
    except (gymnasium.error.Error, ImportError) as error:
        raise RobotestError(
            f"gymnasium cannot make {id_!r}: {' '.join(str(error).split())}; for an id that a package registers, write"
            " gymnasium:PACKAGE:ID"
        ) from error
    except TypeError as error:
        if "keyword argument" not in str(error) and "multiple values" not in str(error):
            raise
        what, _, _ = str(error).partition(" was raised from the environment creator")
        raise RobotestError(f"gymnasium cannot make {id_!r}: {what}; see --env-arg") from error


@contextlib.contextmanager
def _current_api(id_: str) -> Iterator[None]:
    """Explain the errors of environments written for the old gym API."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if "unpack" in str(error) or "argument 'seed'" in str(error) or "argument 'options'" in str(error):
            raise RobotestError(f"{id_} fails with {describe(error)}; {_API}") from error
        raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress gymnasium's warnings; errors are exceptions."""
    level = gymnasium.logger.min_level
    gymnasium.logger.min_level = gymnasium.logger.ERROR
    try:
        yield
    finally:
        gymnasium.logger.min_level = level


def _reward(value: Any, when: str) -> float:
    if not isinstance(value, (str, bytes, Mapping, list, tuple, set)) and value is not None:
        with contextlib.suppress(Exception):
            array = np.asarray(value)
            if array.dtype.kind in "biuf" and array.size == 1 and math.isfinite(number := float(array.item())):
                return number
    raise InvalidObservationError(f"reward is {shown(value)} {when}; it must be one finite number")


def _fps(value: Any) -> float:
    try:
        fps = float(value)
    except (TypeError, ValueError):
        return _DEFAULT_FPS
    return fps if math.isfinite(fps) and fps > 0 else _DEFAULT_FPS


def _simulator(env: gymnasium.Env[Any, Any]) -> str:
    """Return MuJoCo's name and version if an environment uses it; it has been imported then."""
    module = type(getattr(env.unwrapped, "model", None)).__module__.partition(".")[0]
    return f"mujoco {sys.modules['mujoco'].__version__}" if module == "mujoco" and "mujoco" in sys.modules else ""
