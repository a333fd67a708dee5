"""Two scenes at once: each renders itself, whatever the other does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from robotest.gl import use_headless_gl

use_headless_gl()

import mujoco  # noqa: E402 - after the choice of what it draws with

from robotest.envs.robosuite.rendering import Pictures  # noqa: E402

SCENE = """
<mujoco>
  <visual><global offwidth="64" offheight="48"/></visual>
  <asset>
    <texture name="t" type="2d" builtin="flat" rgb1="{rgb}" width="8" height="8"/>
    <material name="m" texture="t"/>
  </asset>
  <worldbody>
    <light pos="0 0 3"/>
    <camera name="above" pos="0 0 2"/>
    <geom type="{shape}" size="0.4 0.4 0.4" material="m" group="1"/>
    <geom type="sphere" size="0.9" rgba="1 1 1 1" group="0"/>
  </worldbody>
</mujoco>
"""


class Shown:
    def __init__(self, shape: str, rgb: str) -> None:
        self.model = mujoco.MjModel.from_xml_string(SCENE.format(shape=shape, rgb=rgb))
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)
        self.pictures = Pictures(self.model, (1,))

    def look(self, height: int = 48, width: int = 64) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return self.pictures.render(self.model, self.data, 0, height, width)


def alone(shape: str, rgb: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    shown = Shown(shape, rgb)
    picture = shown.look()
    shown.pictures.close()
    return picture


def each_shows_itself() -> bool:
    """Two dissimilar scenes alive at once, in turns, one of them closed while the other goes on."""
    red, blue = alone("box", "1 0 0"), alone("sphere", "0 0 1")
    assert not np.array_equal(red, blue)
    first, second = Shown("box", "1 0 0"), Shown("sphere", "0 0 1")
    right = [np.array_equal(first.look(), red), np.array_equal(second.look(), blue), np.array_equal(first.look(), red)]
    second.pictures.close()
    right.append(np.array_equal(first.look(), red))
    first.pictures.close()
    return all(right)


def test_each_scene_shows_itself() -> None:
    assert each_shows_itself()


def test_without_the_guard_they_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in robosuite: current once, after building, and never again."""
    built: set[int] = set()

    @contextlib.contextmanager
    def once(self: Pictures) -> Iterator[None]:
        if id(self) not in built:
            built.add(id(self))
            self._gl.make_current()
        yield

    monkeypatch.setattr(Pictures, "_current", once)
    assert not each_shows_itself()


def test_hidden_groups_are_hidden_and_row_0_is_the_top() -> None:
    picture = alone("box", "1 0 0")
    assert picture[24, 32, 0] > picture[24, 32, 2]  # the red box, not the white sphere around it


def test_a_picture_may_be_larger_than_the_model_s_buffer() -> None:
    shown = Shown("box", "1 0 0")
    small = shown.look()
    large = shown.look(200, 300)
    assert large.shape == (200, 300, 3)
    assert large[100, 150, 0] > 50
    assert np.array_equal(shown.look(), small)
    shown.pictures.close()
    shown.pictures.close()  # twice is no error
