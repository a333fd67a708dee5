"""Observations and actions of every kind of space: no number gets lost, doubled or changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from robotest.envs.gymnasium_spaces import Actions, Observations, picture_layout, rgb
from robotest.errors import InvalidActionError, InvalidObservationError, RobotestError

Box = spaces.Box


BOOLS: Any = Box(0, 1, (1,), dtype=bool)


def line(n: int = 1) -> Any:
    return Box(-1.0, 1.0, (n,))


def picture(*shape: int) -> Any:
    return Box(0, 255, shape, np.uint8)


def names(space: Any) -> list[str]:
    observations = Observations(space)
    return [*(c.name for c in observations.state.components), *observations.cameras]


def test_names_that_end_alike_become_paths_and_others_stay() -> None:
    arms = spaces.Dict({"arm": spaces.Dict(position=line()), "base": spaces.Dict(position=line()), "time": line()})
    assert names(arms) == ["arm/position", "base/position", "time"]
    eyes = spaces.Dict({"left": spaces.Dict(eye=picture(4, 5, 3)), "right": spaces.Dict(eye=picture(6, 5, 3))})
    assert Observations(eyes).cameras == {"left/eye": (4, 5), "right/eye": (6, 5)}
    assert names(spaces.Tuple([line(), spaces.Dict(a=line())])) == ["observation_0", "a"]
    assert names(spaces.Dict({"x": spaces.Tuple([line()]), "x_0": line()})) == ["x/0", "x_0"]
    assert names(line()) == ["observation"]
    tricky = {"a": spaces.Dict(p=line()), "b": spaces.Dict(p=line()), "a/p": line()}
    assert names(spaces.Dict(tricky)) == ["a/p#2", "a/p", "b/p"]


keys = st.text("ab/_0#. é\n", max_size=3)
nested = st.recursive(
    st.builds(line, st.integers(1, 2)),
    lambda inner: (
        st.dictionaries(keys, inner, min_size=1, max_size=3).map(spaces.Dict)
        | st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple)
    ),
    max_leaves=6,
)


def flat(space: Any, value: Any) -> list[float]:
    if isinstance(space, spaces.Dict):
        return [x for key in space.spaces for x in flat(space[key], value[key])]
    if isinstance(space, spaces.Tuple):
        return [x for inner, own in zip(space, value, strict=True) for x in flat(inner, own)]
    return [float(x) for x in np.ravel(value)]


@given(nested, st.integers(0, 100))
@settings(max_examples=80, deadline=None)
def test_every_number_has_its_own_name_and_place(space: Any, seed: int) -> None:
    space.seed(seed)
    observations, value = Observations(space), space.sample()
    found = [c.name for c in observations.state.components]
    assert len(set(found)) == len(found)
    assert observations.read(value, "now").state().tolist() == flat(space, value)
    actions = Actions(space)
    sent = np.array(flat(space, value), np.float32)
    assert len({c.name for c in actions.spec.components}) == actions.spec.size == len(sent)
    native, recorded = actions.native(sent)
    assert space.contains(native)
    assert flat(space, native) == flat(space, value) == recorded.tolist()


def test_choices_are_one_hot_and_start_where_they_start() -> None:
    space = spaces.Dict(a=spaces.Discrete(3, start=-1), b=spaces.MultiDiscrete([2, 3], start=[5, 0]))
    read = Observations(space).read({"a": np.array([1]), "b": np.array([6, 0])}, "now")
    assert read.state().tolist() == [0, 0, 1, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("space", "value", "says"),
    [
        (line(2), np.array([0, np.nan]), "'observation' holds nan after step 3"),
        (line(2), np.array([0, -np.inf]), "holds -inf"),
        (Box(-np.inf, np.inf, (1,), np.float64), np.array([1e300]), "holds 1e\\+300 .* float32"),
        (line(2), np.zeros(3), r"has shape \(3,\) after step 3; its space says \(2,\)"),
        (line(1), 0.0, r"has shape \(\)"),
        (line(2), None, "is None after step 3; it must hold numbers"),
        (line(2), [[1], [1, 2]], "is not an array"),
        (line(1), np.array(["x"]), "it must hold numbers"),
        (
            spaces.Dict(arm=spaces.Dict(p=line())),
            {"arm": {"q": np.zeros(1)}},
            "'arm/p' is missing .* the observation has 'q'",
        ),
        (spaces.Dict(p=line()), np.zeros(1), "'p' is missing after step 3; the observation has a ndarray"),
        (spaces.Dict(arm=spaces.Dict(p=line())), {"arm": {"p": np.array([np.inf])}}, "'p' holds inf"),
        (spaces.Tuple([line(), line()]), (np.zeros(1),), "it must be a tuple of 2"),
        (spaces.Tuple([line()]), (np.zeros(1), np.zeros(1)), "it must be a tuple of 1"),
        (spaces.Discrete(3), 3, "is 3 after step 3; its choices are 0 to 2"),
        (spaces.Discrete(3), -1, "is -1 after step 3; its choices are 0 to 2"),
        (spaces.Discrete(3), 0.5, "is 0.5"),
        (spaces.Discrete(3), None, "it must hold numbers"),
        (spaces.MultiDiscrete([2, 2]), np.array([0, 2]), "its choices are 0 to 1"),
        (picture(2, 2, 3), np.zeros((2, 2, 3)), "is float64 after step 3, but its space uint8"),
        (Box(0, 1, (2, 2, 3)), np.zeros((2, 2, 3), np.uint8), "is uint8 after step 3, but its space float32"),
        (picture(2, 2, 3), np.zeros((2, 3, 3), np.uint8), "has shape"),
        (Box(0, 1, (2, 2, 3)), np.full((2, 2, 3), np.nan), "holds nan"),
        (spaces.Dict(instruction=spaces.Text(5)), {"instruction": 3}, "it must be a string"),
    ],
)
def test_what_is_not_laid_out_as_the_space_says_is_an_error(space: Any, value: Any, says: str) -> None:
    with pytest.raises(InvalidObservationError, match=says):
        Observations(space).read(value, "after step 3")


def test_numbers_beyond_the_bounds_are_taken_as_they_are() -> None:
    assert Observations(line(2)).read(np.array([7, -7]), "now").state().tolist() == [7, -7]
    assert Observations(Box(0, 9, (1,), np.int8)).read(np.array([300]), "now").state().tolist() == [300]
    assert Observations(Box(0, 9, (1,), np.int8)).read(np.array([0.5]), "now").state().tolist() == [0.5]


@pytest.mark.parametrize(
    ("space", "layout"),
    [
        (picture(4, 5, 3), "hwc"),
        (picture(4, 5, 1), "hwc"),
        (picture(4, 5, 4), "hwc"),
        (picture(3, 4, 5), "chw"),
        (picture(1, 4, 5), "chw"),
        (picture(3, 3, 3), "hwc"),
        (picture(84, 84), "hw"),
        (Box(0, 1, (4, 5, 3)), "hwc"),
        (Box(0.0, 1.0, (3, 4, 5), np.float64), "chw"),
        (picture(4, 84, 84), None),
        (picture(2, 4, 84, 3), None),
        (picture(128), None),
        (Box(0, 1, (4, 5)), None),
        (Box(-1, 1, (3, 3, 3)), None),
        (Box(-np.inf, np.inf, (3, 3, 3)), None),
        (Box(0, 10, (7, 7, 3), np.uint8), None),
        (Box(0, 255, (7, 7, 3), np.int16), None),
        (Box(0, 255, (7, 7, 3)), None),
        (spaces.MultiBinary([4, 5, 3]), None),
    ],
)
def test_the_space_alone_says_what_is_a_picture(space: Any, layout: str | None) -> None:
    assert picture_layout(space) == layout
    observations = Observations(space)
    assert len(observations.cameras) == (layout is not None)
    read = observations.read(space.sample(), "now")
    assert len(read.state()) == observations.state.size
    for camera, size in observations.cameras.items():
        assert read.picture(camera).shape == (*size, 3)
        assert read.picture(camera).dtype == np.uint8


def test_pictures_keep_their_colours() -> None:
    colours = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    channels_first = np.moveaxis(colours, -1, 0)
    for space, value in (
        (picture(2, 3, 3), colours),
        (Box(0, 1, (2, 3, 3)), (colours / 255).astype(np.float32)),
        (picture(3, 2, 3), colours),
        (picture(2, 3, 4), np.concatenate([colours, np.full((2, 3, 1), 9, np.uint8)], axis=2)),
    ):
        given_value = value if value.shape == space.shape else None
        if given_value is not None:
            np.testing.assert_array_equal(Observations(space).read(value, "now").picture("observation"), colours)
    tall = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(4, 5, 3)
    read = Observations(picture(3, 4, 5)).read(np.moveaxis(tall, -1, 0), "now")
    np.testing.assert_array_equal(read.picture("observation"), tall)
    assert channels_first.shape == (3, 2, 3)
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    np.testing.assert_array_equal(rgb(grey), np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(rgb(np.full((1, 1, 3), 1.5)), np.full((1, 1, 3), 255))


def test_a_picture_seen_is_not_the_environments_buffer() -> None:
    buffer = np.zeros((2, 2, 3), np.uint8)
    seen = Observations(picture(2, 2, 3)).read(buffer, "now").picture("observation")
    buffer[:] = 9
    assert not seen.any()


@pytest.mark.parametrize("kind", ["Sequence", "Graph", "OneOf"])
def test_other_spaces_are_refused_by_name(kind: str) -> None:
    made: dict[str, Any] = {
        "Sequence": spaces.Sequence(line()),
        "Graph": spaces.Graph(line(), None),
        "OneOf": spaces.OneOf([line(), line()]),
    }
    space = made[kind]
    with pytest.raises(RobotestError, match=f"observation 'x' is a {kind}; supported are Box, "):
        Observations(spaces.Dict(x=space))
    with pytest.raises(RobotestError, match=f"action 'x' is a {kind}; supported are Box, "):
        Actions(spaces.Dict(x=space))


def test_other_limits_are_one_line() -> None:
    with pytest.raises(RobotestError, match="action 'action' is a Text"):
        Actions(spaces.Text(3))
    with pytest.raises(RobotestError, match="at least one number"):
        Actions(spaces.Dict({}))
    with pytest.raises(RobotestError, match="choices must be from -1048576 to 1048576"):
        Actions(spaces.Discrete(10**9))
    with pytest.raises(RobotestError, match="has 1000000000 choices; a one-hot state holds at most 1048576"):
        Observations(spaces.Discrete(10**9))


def test_texts_are_the_instruction_or_nothing() -> None:
    observations = Observations(spaces.Dict(instruction=spaces.Text(9), note=spaces.Text(9), x=line()))
    read = observations.read({"instruction": "go", "note": "n", "x": np.zeros(1), "more": 1}, "now")
    assert read.instruction == "go"
    assert observations.state.size == 1


@pytest.mark.parametrize(
    ("space", "action", "native", "sent"),
    [
        (Box(-2, 3, (3,), np.int64), [0.6, -9, 2.5], [1, -2, 2], [1, -2, 2]),
        (Box(0, 255, (1,), np.uint8), [254.7], [255], [255]),
        (BOOLS, [0.7], [True], [1]),
        (spaces.MultiDiscrete([3, 3], start=[0, 4]), [1.4, 9], [1, 6], [1, 6]),
        (spaces.MultiBinary(2), [0.4, 0.9], [0, 1], [0, 1]),
        (Box(-1e7, 1e7, (1,)), [2e6], [1e6], [1e6]),
        (Box(2e6, np.inf, (1,)), [0.0], [2e6], [2e6]),
        (Box(-np.inf, -2e6, (1,)), [0.0], [-2e6], [-2e6]),
    ],
)
def test_what_is_sent_is_what_is_recorded(space: Any, action: Any, native: Any, sent: Any) -> None:
    found, recorded = Actions(space).native(np.array(action, np.float32))
    assert space.contains(found)
    assert found.dtype == space.dtype
    np.testing.assert_array_equal(found, native)
    assert recorded.tolist() == sent


def test_a_choice_is_recorded_as_it_was_made() -> None:
    for given_choice, made in ((0.4, 0), (-0.4, 0), (-7, -1), (0.6, 1)):
        native, sent = Actions(spaces.Discrete(3, start=-1)).native(np.array([given_choice], np.float32))
        assert native == made
        assert type(native) is int
        assert sent.tolist() == [made]
        assert not np.signbit(sent[0]) or made < 0


kinds = st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.uint8, np.int32, np.int64])


@given(kinds, st.floats(-300, 300), st.floats(0, 300), st.floats(-1e3, 1e3, width=32))
@settings(max_examples=200, deadline=None)
def test_no_box_is_left_and_no_rounding_goes_unrecorded(kind: Any, low: float, width: float, requested: float) -> None:
    info: Any = np.iinfo(kind) if np.issubdtype(kind, np.integer) else np.finfo(kind)
    ends = np.clip([low, low + width], float(info.min), float(info.max)).astype(kind)
    space = Box(ends[:1], ends[1:], dtype=kind)
    native, sent = Actions(space).native(np.array([requested], np.float32))
    assert space.contains(native)
    nearest = np.float32(ends[0])
    first = np.nextafter(nearest, np.float32(np.inf)) if float(nearest) < float(ends[0]) else nearest
    if float(first) <= float(ends[1]):  # else there is no float32 in the box
        assert float(native[0]) == float(sent[0])


def test_bad_actions_are_refused() -> None:
    for bad in (np.zeros(3, np.float32), np.array([np.nan], np.float32), np.zeros((1, 1), np.float32)):
        with pytest.raises(InvalidActionError):
            Actions(spaces.Discrete(2)).native(bad)
