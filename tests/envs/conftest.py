"""Scenes are compiled once for all tests of a process: most compile the same few, a second or more each."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from robotest.envs.robosuite.compilation import compile_scene


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Keep the last models. A world copies what it is given before it changes anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robotest.envs.robosuite.world.compile_scene", functools.lru_cache(maxsize=4)(compile_scene))
        yield
