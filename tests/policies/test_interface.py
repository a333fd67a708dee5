"""What foreign weights' numbers mean is read from a file, and a file that cannot be meant is refused in one line."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import robotest.policies
from robotest import interface, toml
from robotest.envs.robosuite.world import CONTROL_HZ, action_layout, state_layout
from robotest.errors import RobotestError, SpecMismatchError
from robotest.interface import CameraSlot, Interface, Normalisation
from robotest.specs import Component, EnvSpec, VectorSpec

PI0_LIBERO = Path(robotest.policies.__file__).parent / "interfaces" / "pi0-libero.toml"
ACTION = VectorSpec(
    "tip",
    (
        Component("tip", 2, "m", "position_xy_world", -0.5, 0.5, "chunk_start"),
        Component("gripper", 1, "fraction", "opening", 0.0, 1.0),
    ),
)
STATE = VectorSpec(
    "point", (Component("tip", 2, "m", "tip_xy", -np.inf, np.inf), Component("gripper", 1, "", "", 0, 1))
)
EXAMPLE = Interface(
    kind="pi0",
    name='a "name"\nin two lines, \\ and é\x7f',
    horizon=6,
    control_hz=10.0,
    prompt="do {instruction}\n",
    cameras=(CameraSlot("top", "base", 16, 24),),
    action=ACTION,
    state=STATE,
    action_normalisation=Normalisation("mean_std", mean=(0.1, -2.0, 1e-12), std=(0.5, 2.0, 1.0), epsilon=1e-6),
    state_normalisation=Normalisation("quantiles", low=(-1.0, 0.0, 0.0), high=(1.0, 4.0, 1.0)),
    added_state={"tip": "tip"},
    padding="end",
    precision="float32",
)


def tables() -> dict[str, Any]:
    return copy.deepcopy(EXAMPLE._tables())


def test_a_written_interface_is_read_as_it_was(tmp_path: Path) -> None:
    EXAMPLE.write(tmp_path / interface.FILE)
    assert interface.read(tmp_path) == interface.read(tmp_path / interface.FILE) == EXAMPLE
    plain = dataclasses.replace(
        EXAMPLE, added_state={}, cameras=(), action_normalisation=Normalisation("none"), precision="auto"
    )
    plain.write(tmp_path / interface.FILE)
    assert interface.read(tmp_path) == plain
    assert plain.card() != EXAMPLE.card()


@settings(max_examples=40)
@given(
    st.recursive(
        st.text(st.characters(exclude_categories=["Cs"])) | st.integers() | st.booleans() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"\A[a-z_]+\Z"), inner, max_size=3),
    ).filter(lambda value: isinstance(value, dict))
)
def test_toml_is_read_as_it_was_written(table: dict[str, Any]) -> None:
    tomllib = pytest.importorskip("tomllib")
    try:
        text = toml.to_text(table)
    except TypeError:  # a list of tables and of something else, which no interface has
        return
    assert tomllib.loads(text) == table


@pytest.mark.parametrize("kind", ["mean_std", "quantiles", "none"])
def test_normalised_actions_come_back(kind: Any) -> None:
    n = {
        "mean_std": Normalisation("mean_std", mean=(0.1, -2.0, 3.0), std=(0.5, 2.0, 1e-3), epsilon=1e-6),
        "quantiles": Normalisation("quantiles", low=(-1.0, 0.0, -3.0), high=(1.0, 4.0, -2.0)),
        "none": Normalisation("none"),
    }[kind]
    part = dataclasses.replace(EXAMPLE, action_normalisation=n, state_normalisation=n, added_state={})
    numbers = np.array([0.3, -1.0, 7.0], np.float32)
    assert np.allclose(part.unnormalise(part.normalise(numbers)[None]), numbers[None], atol=1e-5)
    assert part.normalise(numbers).dtype == part.unnormalise(numbers[None]).dtype == np.float32


def test_units_of_the_model() -> None:
    # openpi, src/openpi/transforms.py: (x - mean) / (std + 1e-6); (x - q01) / (q99 - q01 + 1e-6) * 2 - 1.
    x = np.array([0.3, -1.0, 0.7])
    mean, std = np.array([0.1, -2.0, 3.0]), np.array([0.5, 2.0, 1e-3])
    z = Normalisation("mean_std", mean=tuple(mean), std=tuple(std), epsilon=1e-6)
    q = Normalisation("quantiles", low=tuple(mean), high=tuple(mean + std), epsilon=1e-6)
    scaled = [dataclasses.replace(EXAMPLE, state_normalisation=n).normalise(x) for n in (z, q)]
    assert np.allclose(scaled[0], (x - mean) / (std + 1e-6))
    assert np.allclose(scaled[1], (x - mean) / (std + 1e-6) * 2 - 1)
    alone = Normalisation("quantiles", low=(-1.0,) * 3, high=(1.0,) * 3)
    assert np.array_equal(dataclasses.replace(EXAMPLE, state_normalisation=alone).normalise(x), x.astype(np.float32))


def test_actions_that_are_differences_to_the_state_get_it_back() -> None:
    state = np.array([10.0, 20.0, 0.5])
    actions = np.zeros((4, 6, 3), np.float32)
    added = EXAMPLE.unnormalise(actions, state)
    assert np.allclose(added - dataclasses.replace(EXAMPLE, added_state={}).unnormalise(actions), [10.0, 20.0, 0.0])
    with pytest.raises(RobotestError, match="adds the state's 'tip' to its actions; give the state"):
        EXAMPLE.unnormalise(actions)


def test_the_spec_of_a_policy() -> None:
    spec = EXAMPLE.spec("weights", {"hidden": (6, 4)}, "float32")
    assert spec.cameras == {"top": (16, 24)}
    assert np.allclose(spec.action_scale, [[0.5, 2.0, 1.0]] * 6, atol=1e-5)
    env = EnvSpec("fake", "t", "clean", ACTION, STATE, {"top": (16, 24)}, control_dt=0.1, max_steps=9)
    spec.require_fits(env)
    with pytest.raises(SpecMismatchError, match=r"acts every 0\.1 s; fake takes an action every 0\.05 s"):
        spec.require_fits(dataclasses.replace(env, control_dt=0.05))


def test_the_shipped_interface_of_pi0_fits_libero() -> None:
    data = toml.read(PI0_LIBERO)
    with pytest.raises(RobotestError, match=r"action\.normalisation\.mean has 0 numbers; 7 are needed \(position 3, "):
        interface.parse(data, "interface.toml")  # the statistics are the checkpoint's
    for name, size in (("action", 7), ("state", 8)):
        data[name]["normalisation"] |= {"mean": [0.0] * size, "std": [1.0] * size}
    pi0 = interface.parse(data, "interface.toml")
    assert (pi0.action, pi0.state, pi0.control_hz) == (action_layout(1), state_layout(1), CONTROL_HZ)


def change(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda t: t.update(values)


def statistic(part: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda t: t[part]["normalisation"].update(values)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(camera=[]), r"unknown table in FILE 'camera'\. Did you mean 'cameras'\? Known: action, cameras, "),
        (lambda t: t.pop("prompt"), r"FILE lacks prompt; add it$"),
        (change(horizon=2.5), r"horizon = 2\.5 in FILE; an integer is needed"),
        (change(horizon=0), r"FILE: horizon = 0; a number above 0"),
        (change(control_hz=float("nan")), r"FILE: control_hz = nan; a number above 0"),
        (change(prompt="pick it up"), r"FILE: prompt = 'pick it up'; it must say once where the task goes: \{instruct"),
        (change(precision="half"), r"precision = 'half' in FILE; 'auto' or 'float32' or 'bfloat16' is needed"),
        (
            lambda t: t["cameras"][0].update(hight=3),
            r"unknown key of \[cameras\.0\] in FILE 'hight'\. Did you mean 'he",
        ),
        (lambda t: t["cameras"][0].update(height=0), r"FILE: camera 'top' is 0 x 24 px"),
        (lambda t: t["cameras"].append(t["cameras"][0]), r"FILE: camera 'top' given 2 times"),
        (change(action=[]), r"action = \[\] in FILE; a table is needed"),
        (lambda t: t["action"].update(layout=1), r"unknown key of \[action\] in FILE 'layout'"),
        (lambda t: t["action"]["components"][0].pop("unit"), r"\[action\.components\.0\] in FILE lacks unit; add it$"),
        (lambda t: t["action"]["components"][0].update(low=9), r"FILE: action: 'tip' lies between 9\.0 and 0\.5; low"),
        (lambda t: t["action"]["components"][0].update(size=0), r"FILE: action: size of 'tip' is 0"),
        (
            lambda t: t["action"]["components"][0].update(reference="start"),
            r"action\.components\.0\.reference = 'start' in FILE; 'absolute'",
        ),
        (lambda t: t["action"]["components"][1].update(name="tip"), r"FILE: component of the action 'tip' given 2"),
        (statistic("action", kind="meanstd"), r"action\.normalisation\.kind = 'meanstd' in FILE; 'mean_std' or 'quant"),
        (statistic("action", std=[1.0]), r"FILE: action\.normalisation\.std has 1 numbers; 3 are needed \(tip 2, grip"),
        (
            statistic("action", std=[1, 0, 1]),
            r"FILE: action\.normalisation\.std is 0\.0 for number 1 \(tip\); more than",
        ),
        (statistic("action", mean=[1, float("nan"), 1]), r"FILE: action\.normalisation\.mean is not finite: nan"),
        (statistic("action", low=[1, 2, 3]), r"FILE: action\.normalisation\.low given, but kind 'mean_std' takes mean"),
        (statistic("action", epsilon=-1), r"FILE: action\.normalisation\.epsilon = -1"),
        (
            statistic("state", high=[1, 4, 0]),
            r"FILE: state\.normalisation\.high is 0\.0 for number 2 \(gripper\); more",
        ),
        (
            lambda t: t["action"].update(added_state={"tip": "grip"}),
            r"FILE: action\.added_state adds the state's 'grip'",
        ),
        (lambda t: t["action"].update(added_state={"tip": "gripper"}), r"FILE: action\.added_state .* of equal size"),
        (lambda t: t["state"].update(added_state={"tip": "tip"}), r"state\.added_state in FILE; only actions"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(spoil: Callable[[dict[str, Any]], None], message: str) -> None:
    spoiled = tables()
    spoil(spoiled)
    with pytest.raises(RobotestError, match=f"^{message}") as caught:
        interface.parse(spoiled, "FILE")
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_or_not_toml(tmp_path: Path) -> None:
    with pytest.raises(RobotestError, match=r"no interface\.toml at .*interface\.toml; write one"):
        interface.read(tmp_path)
    (tmp_path / interface.FILE).write_text("kind = pi0", encoding="utf-8")
    with pytest.raises(RobotestError, match=r"interface\.toml is not TOML: "):
        interface.read(tmp_path)
