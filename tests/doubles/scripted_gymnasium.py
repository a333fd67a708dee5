"""A gymnasium environment that plays back what a test gives it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from robotest.envs.from_gymnasium import GymnasiumTask, suite
from robotest.types import EnvOptions

ID = "tests/Scripted-v0"
LINE = spaces.Box(-1.0, 1.0, (2,))
GO = spaces.Discrete(2)


class Scripted(gymnasium.Env[Any, Any]):
    """Observes, pays and says what it is given."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - gymnasium declares no ClassVar

    def __init__(
        self,
        space: spaces.Space[Any] = LINE,
        actions: spaces.Space[Any] = GO,
        observed: Callable[[int], Any] | None = None,
        info: Callable[[int], Any] = lambda _: {"success": False},
        reward: Callable[[int], Any] = lambda _: 0.0,
        ended: Callable[[int], Any] = lambda _: (False, False),
        frame: Callable[[], Any] = lambda: None,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space, self.action_space, self.render_mode = space, actions, render_mode
        self._given = observed or (lambda _: space.sample())
        self._info, self._reward, self._ended, self._frame = info, reward, ended, frame
        self.sent: list[Any] = []
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        self.sent.clear()
        return self._given(0), self._info(0)

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.sent.append(action)
        self.steps += 1
        return self._given(self.steps), self._reward(self.steps), *self._ended(self.steps), self._info(self.steps)

    def render(self) -> Any:
        return self._frame()


def register(entry: Callable[..., Any], id_: str = ID, **spec: Any) -> None:
    """Make an id stand for what a function makes, also if it stood for something else."""
    gymnasium.registry[id_] = EnvSpec(id_, entry_point=entry, **spec)


@contextlib.contextmanager
def playing(
    *,
    success: str | None = None,
    cameras: tuple[str, ...] | None = None,
    env_args: tuple[str, ...] = (),
    threshold: float | None = None,
    max_steps: int | None = 50,
    entry: Callable[..., Any] = Scripted,
    **script: Any,
) -> Iterator[GymnasiumTask]:
    """Build the task of a script and close it again."""
    register(entry, reward_threshold=threshold, max_episode_steps=max_steps, kwargs=script)
    options = EnvOptions(action_mode="native", success=success, cameras=cameras, env_args=env_args)
    with contextlib.closing(suite(ID).make(ID, options)) as task:
        yield task


def scripted(task: GymnasiumTask) -> Scripted:
    """Return the environment behind a task."""
    found = task._env.unwrapped
    assert isinstance(found, Scripted)
    return found
