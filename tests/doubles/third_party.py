"""Somebody else's gymnasium environment, registered under its own id, and a policy for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from robotest.randomness import derive, generator
from robotest.specs import PolicySpec
from robotest.types import Candidates, Observation

ID = "tests.doubles.third_party:Lamp-v3"
HORIZON = 4


class Lamp(gymnasium.Env[dict[str, Any], np.ndarray]):
    """Turn two knobs to where the picture is white."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium declares no ClassVar

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.action_space = gymnasium.spaces.Box(np.array([-0.2, -0.1]), np.array([0.2, 0.1]), dtype=np.float64)
        self.observation_space = gymnasium.spaces.Dict(
            {
                "knobs": gymnasium.spaces.Box(-2, 2, (2,), np.float64),
                "mode": gymnasium.spaces.Discrete(3),
                "instruction": gymnasium.spaces.Text(30, charset="abcdefghijklmnopqrstuvwxyz "),
                "eye": gymnasium.spaces.Box(0, 255, (4, 5, 3), np.uint8),
            }
        )
        self._offset = np.zeros(2)

    def _observed(self) -> dict[str, Any]:
        eye = np.full((4, 5, 3), int(255 * max(0.0, 1 - np.abs(self._offset).max())), np.uint8)
        return {"knobs": self._offset.copy(), "mode": 2, "instruction": "make it bright", "eye": eye}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._offset = self.np_random.uniform(-0.8, 0.8, 2)
        return self._observed(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self._offset = self._offset + action
        bright = bool(np.abs(self._offset).max() < 0.1)
        return self._observed(), 0.0, bright, False, {"is_success": bright}

    def render(self) -> Any:
        return np.full((8, 10, 3), 200, np.uint8)


gymnasium.register("Lamp-v3", entry_point="tests.doubles.third_party:Lamp", max_episode_steps=25)


class Dimmer:
    """Turns towards the light, seldom the wrong way."""

    def __init__(self) -> None:
        from robotest.envs.from_gymnasium import suite
        from robotest.types import EnvOptions

        env = suite(ID).make(ID, EnvOptions(action_mode="native"))
        self.spec = PolicySpec(
            name="dimmer",
            fingerprint="none",
            action=env.spec.action,
            state=env.spec.state,
            cameras=env.spec.cameras,
            horizon=HORIZON,
            feature_shapes={},
            action_scale=np.ones((HORIZON, 2), np.float32),
        )
        env.close()

    def sample(
        self, observations: Sequence[Observation], noise_seeds: Sequence[int], n_candidates: int
    ) -> list[Candidates]:
        return [self._one(o, s, n_candidates) for o, s in zip(observations, noise_seeds, strict=True)]

    def _one(self, observation: Observation, seed: int, n: int) -> Candidates:
        assert observation.instruction == "make it bright"
        assert observation.images["render"].shape == (8, 10, 3)
        noise = np.stack([generator(derive(seed, m)).normal(size=(HORIZON, 2)) for m in range(n)])
        way = -observation.state[:2] / HORIZON
        return Candidates((way + 0.05 * noise).astype(np.float32))


def policy(path: Path | None = None) -> Dimmer:
    return Dimmer()
