"""The robosuite simulation shared by robosuite-based suites.

An import without side effects, states that restore bit for bit, pictures on demand, and one layout of actions and
states.

robosuite 1.4 renders, and updates some fifty sensors, on every step; here it does neither. Physics and controllers are
unchanged: states agree bit for bit with robosuite's own loop (`tests/envs/test_libero.py`).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import os
import random
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from robotest import cache
from robotest.errors import InvalidActionError, RobotestError
from robotest.gl import use_headless_gl
from robotest.specs import Component, VectorSpec
from robotest.success import truth

use_headless_gl()

import mujoco  # noqa: E402 - after the choice of its renderer

from robotest.envs.physics import require_sound  # noqa: E402
from robotest.envs.robosuite.compilation import compile_scene  # noqa: E402
from robotest.envs.robosuite.rendering import Pictures  # noqa: E402

CONTROL_HZ: Final = 20
POSITION_SCALE_M: Final = 0.05
"""Offset for an action of 1: robosuite's `output_max` of OSC_POSE."""
ROTATION_SCALE_RAD: Final = 0.5
ARMS: Final = {1: ("",), 2: ("right_", "left_")}
"""Prefixes of components by the number of arms, in robosuite's order of robots: robot0 is the right one."""
NO_ACTION: Final = np.array([0.0] * 6 + [-1.0])
"""One arm with a gripper: no motion, gripper open."""
_VISUAL_GROUP = (1,)
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


def import_robosuite() -> Any:
    """Import robosuite 1.4 without its log file in /tmp, its warnings, and numba's cache in its own folder.

    Raises:
        RobotestError: it is not installed, or is another version.
    """
    if "robosuite" not in sys.modules:
        os.environ.setdefault("NUMBA_CACHE_DIR", str(cache.folder("numba")))
        os.environ.setdefault("MPLCONFIGDIR", str(cache.folder("matplotlib")))
        macros = types.ModuleType("robosuite.macros_private")
        vars(macros)["FILE_LOGGING_LEVEL"] = None
        sys.modules["robosuite.macros_private"] = macros
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes and names deprecated in newer Pythons
            import robosuite
    except ImportError as error:
        raise RobotestError(
            f"robosuite cannot be imported ({error}); install it with `robotest install libero`"
        ) from error
    if not robosuite.__version__.startswith("1.4."):
        raise RobotestError(
            f"robosuite {robosuite.__version__} is installed; 1.4 is required, as for LIBERO: `robotest install libero`"
        )
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    _guard_contexts()
    return robosuite


def _guard_contexts() -> None:
    """Patch robosuite's render contexts, which nothing here uses, to become current before every use.

    Otherwise a third party's environment in this process would render into, and free, the contexts of `Pictures`.
    """
    from robosuite.utils.binding_utils import MjRenderContext

    for name in ("render", "read_pixels", "update_offscreen_size", "__del__"):
        method = getattr(MjRenderContext, name)
        if not hasattr(method, "__wrapped__"):
            setattr(MjRenderContext, name, _made_current(method))


def _made_current(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def guarded(self: Any, *arguments: Any, **named: Any) -> Any:
        self.gl_ctx.make_current()
        return method(self, *arguments, **named)

    return guarded


def action_layout(n_arms: int, *, grippers: bool = True) -> VectorSpec:
    """Return the layout of OSC_POSE actions, arm after arm."""
    return VectorSpec(
        "osc_pose",
        tuple(
            component
            for arm in ARMS[n_arms]
            for component in (
                Component(f"{arm}position", 3, "fraction", "delta_xyz_world_of_0.05_m", -1.0, 1.0),
                Component(f"{arm}rotation", 3, "fraction", "delta_axis_angle_world_of_0.5_rad", -1.0, 1.0),
                Component(f"{arm}gripper", 1, "fraction", "closing_-1_open_1_closed", -1.0, 1.0),
            )[: 3 if grippers else 2]
        ),
    )


def state_layout(n_arms: int, *, grippers: bool = True) -> VectorSpec:
    """Return the layout of `RobosuiteWorld.arm_state`."""
    return VectorSpec(
        "eef_pose",
        tuple(
            component
            for arm in ARMS[n_arms]
            for component in (
                Component(f"{arm}position", 3, "m", "position_xyz_world", -3.0, 3.0),
                Component(f"{arm}rotation", 3, "rad", "axis_angle_world", -6.2832, 6.2832),
                Component(f"{arm}gripper", 2, "m", "finger_positions", -0.1, 0.1),
            )[: 3 if grippers else 2]
        ),
    )


class RobosuiteWorld:
    """A robosuite environment: reset, step, snapshot, restore, render.

    Args:
        make: builds the robosuite environment when called with the keyword arguments that turn off all rendering.
    """

    def __init__(self, make: Callable[..., Any]) -> None:
        self._xml = ""
        self._compiled: mujoco.MjModel | None = None
        self._pictures: Pictures | None = None
        with _seeded(0), _built_by(self._initialize_sim):
            self.env: Any = make(
                has_renderer=False,
                has_offscreen_renderer=False,
                use_camera_obs=False,
                ignore_done=True,
                hard_reset=True,
                control_freq=CONTROL_HZ,
            )
        self.env._initialize_sim = lambda xml_string=None: self._initialize_sim(self.env, xml_string)
        self.env._destroy_sim = self._drop_sim
        self.env._setup_observables = OrderedDict
        self.env._observables = OrderedDict()

    @property
    def model(self) -> mujoco.MjModel:
        """MuJoCo's model; another object after every reset."""
        return self.env.sim.model._model

    @property
    def data(self) -> mujoco.MjData:
        """MuJoCo's data; another object after every reset."""
        return self.env.sim.data._data

    def reset(self, seed: int) -> None:
        """Start an episode, drawn by robosuite from `seed` alone."""
        with _seeded(seed):
            self.env.reset()

    def set_positions(self, state: Float64[np.ndarray, " N"]) -> None:
        """Set time, positions and velocities from a flattened robosuite state; `RobotestError` if its size differs."""
        expected = 1 + self.model.nq + self.model.nv
        if state.shape != (expected,):
            raise RobotestError(
                f"the state has shape {state.shape}; the scene needs ({expected},): check that the assets are LIBERO's"
            )
        self.env.sim.set_state_from_flattened(state)
        self.env.sim.forward()
        self._post_process()

    def step(self, action: Float64[np.ndarray, " A"]) -> bool:
        """Execute one action and return whether the task's predicate holds; `RobotestError` if it diverges."""
        self.env.step(action)
        require_sound(self.data)
        return truth(self.env._check_success(), "_check_success()")

    def holds(self, predicate: Sequence[str]) -> bool:
        """Return whether one predicate of a LIBERO goal holds."""
        return truth(self.env._eval_predicate(predicate), f"predicate {' '.join(predicate)}")

    def snapshot(self) -> Float64[np.ndarray, " N"]:
        """Return MuJoCo's integration state and the state of robosuite's controllers."""
        state = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, state, _STATE)
        return np.concatenate([state, *(memory.ravel() for memory in self._memories())])

    def restore(self, state: Float64[np.ndarray, " N"]) -> None:
        """Inverse of `snapshot`, within an episode."""
        size = mujoco.mj_stateSize(self.model, _STATE)
        self._set(state[:size])
        for memory in self._memories():
            memory[...] = state[size : size + memory.size].reshape(memory.shape)
            size += memory.size
        for robot in self.env.robots:
            robot.controller.new_update = True  # drop the arm's state that it cached at the reset
        self.env.timestep, self.env.done = round(self.data.time * CONTROL_HZ), False

    def arm_state(self) -> Float32[np.ndarray, " S"]:
        """Return per arm: position [m] and axis-angle [rad] of the gripper, finger positions [m] if it has fingers."""
        parts = []
        for robot in self.env.robots:
            position = self.data.site_xpos[robot.eef_site_id]
            quaternion = self.data.xquat[self.env.sim.model.body_name2id(robot.robot_model.eef_name)]
            parts += [position, axis_angle(quaternion)]
            if robot.has_gripper:
                parts.append(self.data.qpos[robot._ref_gripper_joint_pos_indexes])
        return np.concatenate(parts, dtype=np.float32)

    @contextlib.contextmanager
    def looked_at(self) -> Iterator[None]:
        """Update derived positions within the context; robosuite leaves those of the previous substep.

        Afterwards the state, including the solver's warm start, is restored.
        """
        state = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, state, _STATE)
        try:
            mujoco.mj_forward(self.model, self.data)
            self._post_process()
            yield
        finally:
            mujoco.mj_setState(self.model, self.data, state, _STATE)

    def picture(self, camera: str, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return a camera's picture, upright; call it within `looked_at`."""
        if self._pictures is None:
            self._pictures = Pictures(self.model, _VISUAL_GROUP)
        try:
            number = self.env.sim.model.camera_name2id(camera)
        except ValueError as error:
            names = [mujoco.mj_id2name(self.model, mujoco.mjtObj.mjOBJ_CAMERA, i) for i in range(self.model.ncam)]
            raise RobotestError(f"unknown camera {camera!r}; the scene has {', '.join(names)}") from error
        return self._pictures.render(self.model, self.data, number, height, width)

    def close(self) -> None:
        """Free renderer and simulation."""
        if self._pictures is not None:
            self._pictures.close()
            self._pictures = None
        self.env.close()

    def _initialize_sim(self, env: Any, xml_string: str | None = None) -> None:
        """Replace `MujocoEnv._initialize_sim`; compile only if the XML has changed since the last reset."""
        from robosuite.utils.binding_utils import MjSim

        xml = xml_string or env.model.get_xml()
        if self._compiled is None or xml != self._xml:
            self._compiled, self._xml = compile_scene(xml), xml
            if self._pictures is not None and not self._pictures.fits(self._compiled):
                self._pictures.close()
                self._pictures = None
        env.sim = MjSim(copy.copy(self._compiled))
        env.sim.forward()
        env.initialize_time(env.control_freq)

    def _drop_sim(self) -> None:
        """Replace `MujocoEnv._destroy_sim` without its garbage collection, a third of the time of a reset.

        The simulation is not part of a reference cycle: it is freed with its last reference.
        """
        self.env.sim = None

    def _set(self, state: Float64[np.ndarray, " N"]) -> None:
        state = np.array(state, np.float64)  # a copy: MuJoCo 3.3 refuses read-only arrays
        mujoco.mj_setState(self.model, self.data, state, _STATE)
        mujoco.mj_forward(self.model, self.data)
        self._post_process()
        mujoco.mj_setState(self.model, self.data, state, _STATE)  # `mj_forward` changed the solver's warm start

    def _memories(self) -> list[Float64[np.ndarray, " n"]]:
        """Return the controllers' internal arrays, which `restore` overwrites in place."""
        memories = []
        for robot in self.env.robots:
            controller, gripper = robot.controller, robot.gripper
            controller.goal_ori = np.array(controller.goal_ori, np.float64)
            memories.append(controller.goal_ori)
            if robot.has_gripper:
                # One number until the gripper first moves, then one for each finger.
                now = np.broadcast_to(gripper.current_action, len(gripper.actuators))
                gripper.current_action = np.array(now, np.float64)
                memories.append(gripper.current_action)
        return memories

    def _post_process(self) -> None:
        """Update LIBERO's lights and burners from the positions."""
        if hasattr(self.env, "_post_process"):
            self.env._post_process()


def checked(action: Float32[np.ndarray, " A"], layout: VectorSpec) -> Float32[np.ndarray, " A"]:
    """Return an action clipped to its bounds.

    Raises:
        InvalidActionError: it is not finite or has another shape.
    """
    if np.shape(action) != (layout.size,):
        raise InvalidActionError(f"action has shape {np.shape(action)}; {layout.mode} takes ({layout.size},)")
    if not np.all(np.isfinite(action)):
        raise InvalidActionError(f"action is not finite: {np.asarray(action).tolist()}")
    return np.clip(np.asarray(action, np.float32), layout.low, layout.high)


def axis_angle(quaternion: Float64[np.ndarray, " 4"]) -> Float64[np.ndarray, " 3"]:
    """Return the rotation vector [rad] of a unit quaternion w, x, y, z, with angles in [0, 2 pi] as openpi has them.

    Pointing down is near pi, where the quaternion's sign decides between two vectors; like openpi, this keeps the sign.
    """
    w, xyz = float(np.clip(quaternion[0], -1.0, 1.0)), quaternion[1:]
    sine = np.sqrt(1.0 - w * w)
    return np.zeros(3) if np.isclose(sine, 0.0) else xyz * (2.0 * np.arccos(w) / sine)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, which robosuite draws from, for the context; restore them afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - robosuite draws from it
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


@contextlib.contextmanager
def _built_by(initialize: Callable[..., None]) -> Iterator[None]:
    """Make robosuite environments create their simulation with `initialize`; their own method compiles it twice."""
    from robosuite.environments.base import MujocoEnv

    original = MujocoEnv._initialize_sim
    MujocoEnv._initialize_sim = lambda env, xml_string=None: initialize(env, xml_string)
    try:
        yield
    finally:
        MujocoEnv._initialize_sim = original
