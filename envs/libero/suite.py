"""LIBERO's suites (Liu et al. 2023, 2306.03310): ``libero/libero_object``, or one task ``libero/libero_object:3``.

A setting is a protocol by name, with its step limits, starts and pictures; `docs/protocols.md` has the sources.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from robotest.envs.libero import files
from robotest.envs.options import require_known
from robotest.envs.physics import ENV_ARGS, SIMULATOR, published_caveats
from robotest.envs.robosuite.env import PATIENCE_S, RobosuiteEnv
from robotest.envs.robosuite.world import (
    CONTROL_HZ,
    NO_ACTION,
    RobosuiteWorld,
    action_layout,
    state_layout,
)
from robotest.errors import RobotestError, UnknownNameError
from robotest.specs import EnvSpec
from robotest.types import EnvOptions

CAMERAS: Final = ("agentview", "robot0_eye_in_hand")

_RENDER_PX = 256

_PLACEMENT_ATTEMPTS = 100
"""robosuite tries 5,000 positions per object before it fails; LIBERO would then retry forever."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A published evaluation protocol.

    Attributes:
        max_steps: suite -> step limit, without settling steps.
        seed: of LIBERO's random choices at each reset, which move fixtures: (first, increment per episode).
        fixed_starts: whether episode k starts from initial state k modulo 50; else LIBERO's sampler draws it.
        settle_steps: steps without action after a reset, while objects come to rest.
    """

    max_steps: Mapping[str, int]
    seed: tuple[int, int]
    fixed_starts: bool = True
    settle_steps: int = 10


_STEPS: Final = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
PROTOCOLS: Final = {
    "openpi": Protocol(_STEPS, seed=(7, 0)),
    "lerobot": Protocol({**_STEPS, "libero_spatial": 280}, seed=(1000, 1)),
    "sampled": Protocol(_STEPS, seed=(7, 0), fixed_starts=False),
}
"""``sampled`` is robotest's own: openpi's protocol with starts drawn by LIBERO's sampler, for demonstrations."""


class LiberoEnv(RobosuiteEnv):
    """One task; an episode ends at the first success, as in LIBERO.

    Args:
        suite: e.g. ``libero_object``.
        task: its name within the suite.
        options: ``setting`` is a protocol.
        caveats: see `EnvSpec`.
    """

    def __init__(self, suite: str, task: str, options: EnvOptions, caveats: tuple[str, ...] = ()) -> None:
        problems = files.import_libero()
        self._protocol = PROTOCOLS[options.setting]
        self._starts = files.initial_states(suite, task)
        cameras = CAMERAS if options.cameras is None else options.cameras
        spec = EnvSpec(
            name=f"libero/{suite}",
            task=task,
            setting=options.setting,
            action=action_layout(1),
            state=state_layout(1),
            cameras=dict.fromkeys(cameras, (options.image_size, options.image_size)),
            control_dt=1 / CONTROL_HZ,
            max_steps=self._protocol.max_steps[suite],
            standin_assets=bool(files.assets().standins),
            patience_s=PATIENCE_S,
            simulator=SIMULATOR,
            caveats=caveats,
        )
        bddl = str(files.bddl_file(suite, task))
        super().__init__(RobosuiteWorld(lambda **others: _build(problems, bddl, others)), spec)
        self._n_initializers = len(self.world.env.object_property_initializers)

    def reset(self, seed: int, episode: int = 0) -> None:
        """Start an episode: from a fixed initial state, or one drawn from `seed`; see `Protocol`."""
        first, each = self._protocol.seed
        fixed = self._protocol.fixed_starts
        self._reset_world(first + each * episode if fixed else seed)
        if fixed:
            self.world.set_positions(self._starts[episode % len(self._starts)])
        for _ in range(self._protocol.settle_steps):
            self.world.step(NO_ACTION)
        self._begin(files.instruction(self.spec.task))

    def _picture(self, camera: str, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
        """Return a picture as in openpi: 256 px, robosuite's upside-down picture rotated by 180 degrees, then resized.

        It is therefore upright and mirrored left to right, like the training data of policies for LIBERO.
        """
        picture = np.ascontiguousarray(self.world.picture(camera, _RENDER_PX, _RENDER_PX)[:, ::-1])
        if size == picture.shape[:2]:
            return picture
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))

    def _reset_world(self, seed: int) -> None:
        """Reset until objects can be placed, for a bounded number of attempts."""
        from robosuite.utils.errors import RandomizationError

        for attempt in range(_PLACEMENT_ATTEMPTS):
            # LIBERO appends the scene's initializers at every reset, and each of them draws random numbers, so starts
            # would depend on the number of earlier resets.
            del self.world.env.object_property_initializers[self._n_initializers :]
            with contextlib.suppress(RandomizationError):
                return self.world.reset(seed + attempt * 2**16)
        raise RobotestError(f"LIBERO could not place its objects in {_PLACEMENT_ATTEMPTS} attempts; try another seed")


def _build(problems: Mapping[str, Any], bddl: str, others: Mapping[str, Any]) -> Any:
    """Build LIBERO's environment as its `ControlEnv` does."""
    import libero.libero.envs.bddl_utils as parser
    import robosuite

    problem = parser.get_problem_info(bddl)["problem_name"]
    return problems[problem](
        bddl,
        robots=["Panda"],
        controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
        initialization_noise=None,
        **others,
    )


@dataclasses.dataclass(frozen=True)
class LiberoSuite:
    """A suite of LIBERO, or one of its tasks."""

    name: str
    tasks: tuple[str, ...]
    settings: tuple[str, ...] = tuple(PROTOCOLS)
    action_modes: tuple[str, ...] = (action_layout(1).mode,)

    def make(self, task: str, options: EnvOptions) -> LiberoEnv:
        """Build one task's environment."""
        arguments = require_known(self, task, options, CAMERAS, ENV_ARGS)
        caveats = published_caveats("LIBERO", arguments)
        if options.wording != "seen":
            raise RobotestError("LIBERO has only one wording of each task; use --wording seen")
        return LiberoEnv(self.name.removeprefix("libero/"), task, options, caveats)


def suite(member: str) -> LiberoSuite:
    """Return the suite of ``SUITE``, ``SUITE:NUMBER`` or ``SUITE:TASK``.

    Raises:
        RobotestError: LIBERO is not installed.
        UnknownNameError: it has no such suite or task.
    """
    name, _, task = member.partition(":")
    known = files.tasks()
    if name not in known:
        raise UnknownNameError("LIBERO suite", name, known)
    tasks = known[name]
    if task.isdecimal() and int(task) < len(tasks):
        tasks = (tasks[int(task)],)
    elif task:
        if task not in tasks:
            raise UnknownNameError(f"task of {name}", task, [f"0 to {len(tasks) - 1}", *tasks])
        tasks = (task,)
    return LiberoSuite(f"libero/{name}", tasks)
