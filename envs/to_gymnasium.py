"""The built-in tasks as gymnasium environments: ``gymnasium.make("robotest/handover_block-v0")``.

Importing this module registers them, which is gymnasium's own convention (it has had no plugin entry points since 1.0):
``gymnasium.register_envs(robotest.envs.to_gymnasium)``, or ``"robotest.envs.to_gymnasium:robotest/..."`` as the id,
which a configuration file can hold. One step is one control step; in ``tip`` mode every step is a chunk, so that an
action is an offset from the current command.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float32, UInt8

from robotest import registry
from robotest.types import EnvOptions, Observation, SimulatedEnv, Suite

_SEED_RANGE = 2**63
_EPISODES = 2**31


class GymnasiumEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """Any simulated robotest environment behind gymnasium's interface.

    Observations hold ``images`` (camera -> RGB), ``state`` and ``instruction``; the reward is 1 on success, else 0;
    ``info`` holds ``success``.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium declares no ClassVar

    def __init__(
        self,
        suite: str,
        task: str,
        setting: str = "clean",
        action_mode: str = "joint",
        render_mode: str | None = None,
        image_size: int = 48,
    ) -> None:
        suite_: Suite = registry.resolve("env", suite)
        env = suite_.make(task, EnvOptions(setting=setting, action_mode=action_mode, image_size=image_size))
        if not isinstance(env, SimulatedEnv):
            raise TypeError(f"{suite}:{task} is not a simulation")
        self._env: SimulatedEnv = env
        self._steps = 0
        self.render_mode = render_mode
        spec = env.spec
        self.action_space = gymnasium.spaces.Box(spec.action.low, spec.action.high, dtype=np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            {
                "images": gymnasium.spaces.Dict(
                    {c: gymnasium.spaces.Box(0, 255, (*size, 3), np.uint8) for c, size in spec.cameras.items()}
                ),
                "state": gymnasium.spaces.Box(-np.inf, np.inf, (spec.state.size,), np.float32),
                "instruction": gymnasium.spaces.Text(200, charset=_CHARACTERS),
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode: that of `seed` if given, else the next of this environment's random stream."""
        super().reset(seed=seed, options=options)
        self._env.reset(int(self.np_random.integers(_SEED_RANGE)), int(self.np_random.integers(_EPISODES)))
        self._steps = 0
        return _as_dict(self._env.observe()), {"success": False}

    def step(self, action: Float32[np.ndarray, " A"]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Execute one action."""
        self._env.begin_chunk(action[None])
        status = self._env.apply(action)
        self._steps += 1
        truncated = self._steps >= self._env.spec.max_steps and not status.done
        observation = _as_dict(self._env.observe())
        return observation, float(status.success), status.done, truncated, {"success": status.success}

    def render(self) -> UInt8[np.ndarray, "h w 3"] | None:
        """Return the head camera's view."""
        return self._env.render(next(iter(self._env.spec.cameras)), 256, 256)

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()


_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ,.:;'-_"


def _as_dict(observation: Observation) -> dict[str, Any]:
    return {
        "images": dict(observation.images),
        "state": observation.state,
        "instruction": observation.instruction,
    }


def register() -> None:
    """Register every built-in dual-arm task as ``robotest/TASK-v0``."""
    for task in TASKS:
        gymnasium.register(
            f"robotest/{task}-v0",
            entry_point="robotest.envs.to_gymnasium:GymnasiumEnv",
            kwargs={"suite": "dual_arm", "task": task},
        )


TASKS = (
    "handover_block",
    "stack_blocks_two",
    "place_block_pad",
    "lift_tray",
    "pick_dual_bottles",
    "push_buttons_in_order",
)
"""A literal list, so that registering imports no simulator; a test compares it with the suite's."""

register()
