"""Conversions from gymnasium's spaces: observations to state and pictures, and action vectors to actions."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from gymnasium import spaces
from jaxtyping import Float32, UInt8

from robotest.errors import InvalidActionError, InvalidObservationError, RobotestError, describe, shown
from robotest.specs import Component, VectorSpec

Path = tuple[str | int, ...]
"""Path into a nested space: keys of dictionaries, indices of tuples."""
Numbers = np.ndarray[Any, np.dtype[Any]]
UNBOUNDED: Final = 1e6
"""Replaces a missing bound: `VectorSpec` holds finite numbers, for JSON."""
_CHOICES: Final = 2**20
"""Largest `Discrete`: float32 represents all its choices exactly, and a one-hot state fits in memory."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A leaf of a nested space.

    Attributes:
        name: its last key, or the whole path if that is not unique; unique in the space.
        path: in the space.
        space: of the leaf.
    """

    name: str
    path: Path
    space: spaces.Space[Any]


def leaves(space: spaces.Space[Any], root: str) -> tuple[Leaf, ...]:
    """Return the leaves of a nested space, in its order.

    Args:
        space: of an observation or an action.
        root: name of a leaf outside any dictionary.
    """
    walked = list(_walk(space, ()))
    names = _names([path for path, _ in walked], root)
    return tuple(Leaf(name, path, inner) for name, (path, inner) in zip(names, walked, strict=True))


def _walk(space: spaces.Space[Any], path: Path) -> Iterator[tuple[Path, spaces.Space[Any]]]:
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _walk(inner, (*path, str(key)))
    elif isinstance(space, spaces.Tuple):
        for i, inner in enumerate(space.spaces):
            yield from _walk(inner, (*path, i))
    else:
        yield path, space


def _names(paths: Sequence[Path], root: str) -> list[str]:
    """Return unique names: the last key, or the whole path if that is not unique."""
    plain = [_plain(path, root) for path in paths]
    unique = {name for name in plain if name.strip() and plain.count(name) == 1}
    taken = set(unique)
    return [
        name if name in unique else _free("/".join(map(str, path)) or root, taken)
        for name, path in zip(plain, paths, strict=True)
    ]


def _plain(path: Path, root: str) -> str:
    keys = [i for i, part in enumerate(path) if isinstance(part, str)]
    last = keys[-1] if keys else -1
    return "".join([str(path[last]) if keys else root, *(f"_{part}" for part in path[last + 1 :])])


def _free(name: str, taken: set[str]) -> str:
    """Return a name, with suffix ``#2``, ``#3`` if it is taken, and add it to `taken`."""
    numbered = itertools.chain([name], (f"{name}#{k}" for k in itertools.count(2)))
    free = next(candidate for candidate in numbered if candidate not in taken)
    taken.add(free)
    return free


class Observations:
    """Reads observations of a space.

    Boxes are numbers, choices (`Discrete`, `MultiDiscrete`) one-hot, pictures cameras; a text called ``instruction`` is
    the instruction; other texts, and keys that the space does not have, are ignored.

    Args:
        space: of the environment.

    Raises:
        RobotestError: a part of it is none of these.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self._space: Final = space
        self._leaves: Final = leaves(space, "observation")
        for leaf in self._leaves:
            _require_readable(leaf)
        self._pictures: Final = {
            leaf.name: layout for leaf in self._leaves if (layout := picture_layout(leaf.space)) is not None
        }
        self.cameras: Final[Mapping[str, tuple[int, int]]] = {
            leaf.name: _picture_size(leaf.space, self._pictures[leaf.name])
            for leaf in self._leaves
            if leaf.name in self._pictures
        }
        components = tuple(
            Component(leaf.name, _state_size(leaf.space), "native", "gymnasium", -UNBOUNDED, UNBOUNDED)
            for leaf in self._leaves
            if leaf.name not in self._pictures and not isinstance(leaf.space, spaces.Text)
        )
        self.state: Final = VectorSpec("native", components)

    def read(self, value: Any, when: str) -> Seen:
        """Read and validate all of an observation, including pictures.

        Args:
            value: from the environment.
            when: for the error message, e.g. ``after step 3``.

        Raises:
            InvalidObservationError: a part is missing, has another shape, is not a number, or is not finite. Numbers
                beyond the bounds of a `Box` are allowed.
        """
        numbers: list[Float32[np.ndarray, " n"]] = []
        pictures: dict[str, Numbers] = {}
        instruction = ""
        for leaf, inner in zip(self._leaves, _values(self._space, value, when), strict=True):
            if isinstance(leaf.space, spaces.Text):
                instruction = instruction or _instruction(leaf, inner, when)
            elif leaf.name in self._pictures:
                pictures[leaf.name] = _picture(leaf, inner, when)
            else:
                numbers.append(_state(leaf, inner, when))
        return Seen(numbers, pictures, instruction, self._pictures)


@dataclasses.dataclass(frozen=True)
class Seen:
    """One valid observation.

    Attributes:
        numbers: of the state's components, in their order.
        pictures: in the environment's format.
        instruction: empty if there is none.
        layouts: of the pictures.
    """

    numbers: list[Float32[np.ndarray, " n"]]
    pictures: Mapping[str, Numbers]
    instruction: str
    layouts: Mapping[str, PictureLayout]

    def state(self) -> Float32[np.ndarray, " S"]:
        """Return all numbers, in the order of the space."""
        return np.concatenate([np.zeros(0, np.float32), *self.numbers])

    def picture(self, camera: str) -> UInt8[np.ndarray, "height width 3"]:
        """Return a copy of one picture."""
        picture = self.pictures[camera]
        return rgb(np.moveaxis(picture, 0, -1) if self.layouts[camera] == "chw" else picture)


def _require_readable(leaf: Leaf) -> None:
    space = leaf.space
    if not isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Text)):
        raise RobotestError(
            f"observation {leaf.name!r} is a {type(space).__name__}; supported are Box, Discrete, MultiDiscrete,"
            " MultiBinary and Text, in Dict and Tuple: wrap the environment, e.g. with"
            " gymnasium.wrappers.TransformObservation"
        )
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and _state_size(space) > _CHOICES:
        raise RobotestError(
            f"observation {leaf.name!r} has {_state_size(space)} choices; a one-hot state holds at most {_CHOICES}"
        )


def _state_size(space: spaces.Space[Any]) -> int:
    match space:
        case spaces.Discrete():
            return int(space.n)
        case spaces.MultiDiscrete():
            return sum(map(int, space.nvec.ravel()))
    return math.prod(space.shape or ())


def _values(space: spaces.Space[Any], value: Any, when: str, path: Path = ()) -> Iterator[Any]:
    """Yield the values of the leaves, in the order of the space."""
    if isinstance(space, spaces.Dict):
        entries = value if isinstance(value, Mapping) else {}
        for key, inner in space.spaces.items():
            if key not in entries:
                has = (
                    f"a {type(value).__name__}" if entries is not value else ", ".join(map(repr, entries)) or "no keys"
                )
                raise InvalidObservationError(
                    f"observation {_where((*path, str(key)))} is missing {when}; the observation has {has}"
                )
            yield from _values(inner, entries[key], when, (*path, str(key)))
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, (tuple, list, np.ndarray)) or len(value) != len(space.spaces):
            raise InvalidObservationError(
                f"observation {_where(path)} is {shown(value)} {when}; it must be a tuple of {len(space.spaces)}"
            )
        for i, inner in enumerate(space.spaces):
            yield from _values(inner, value[i], when, (*path, i))
    else:
        yield value


def _where(path: Path) -> str:
    return repr("/".join(map(str, path)) or "observation")


def _array(leaf: Leaf, value: Any, when: str, shape: tuple[int, ...]) -> Numbers:
    """Return an array of finite numbers of the expected shape; a `Discrete` choice may be an array of size 1."""
    try:
        array = np.asarray(value)
    except Exception as error:
        raise InvalidObservationError(f"observation {leaf.name!r} is not an array {when}: {describe(error)}") from error
    if array.dtype.kind not in "biuf":
        raise InvalidObservationError(f"observation {leaf.name!r} is {shown(value)} {when}; it must hold numbers")
    if isinstance(leaf.space, spaces.Discrete) and array.size == 1:
        array = array.reshape(())
    if array.shape != shape:
        raise InvalidObservationError(
            f"observation {leaf.name!r} has shape {array.shape} {when}; its space says {shape}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = array[~np.isfinite(array)][0]
        raise InvalidObservationError(f"observation {leaf.name!r} holds {bad} {when}; every number must be finite")
    return array


def _state(leaf: Leaf, value: Any, when: str) -> Float32[np.ndarray, " n"]:
    """Return the numbers of a component, with discrete choices one-hot."""
    space = leaf.space
    if isinstance(space, spaces.Discrete):
        return _one_hot(
            leaf, _array(leaf, value, when, ()).reshape(1), np.array([space.n]), np.array([space.start]), when
        )
    if isinstance(space, spaces.MultiDiscrete):
        choices = _array(leaf, value, when, space.nvec.shape)
        return _one_hot(leaf, choices.ravel(), space.nvec.ravel(), space.start.ravel(), when)
    array = _array(leaf, value, when, tuple(space.shape or ())).ravel()
    with np.errstate(over="ignore"):
        numbers = array.astype(np.float32)
    if not np.isfinite(numbers).all():
        bad = array[~np.isfinite(numbers)][0]
        raise InvalidObservationError(f"observation {leaf.name!r} holds {bad} {when}; float32 cannot hold it")
    return numbers


def _one_hot(leaf: Leaf, choices: Numbers, n: Numbers, start: Numbers, when: str) -> Float32[np.ndarray, " n"]:
    first = start.astype(np.int64)
    for choice, low, count in zip(choices.tolist(), first.tolist(), n.tolist(), strict=True):
        if choice != int(choice) or not low <= choice < low + count:
            raise InvalidObservationError(
                f"observation {leaf.name!r} is {choice} {when}; its choices are {low} to {low + count - 1}"
            )
    offsets = np.concatenate([[0], np.cumsum(n.astype(np.int64))])
    encoded = np.zeros(offsets[-1], np.float32)
    encoded[offsets[:-1] + choices.astype(np.int64) - first] = 1
    return encoded


def _instruction(leaf: Leaf, value: Any, when: str) -> str:
    if not leaf.path or leaf.path[-1] != "instruction":
        return ""
    if not isinstance(value, str):
        raise InvalidObservationError(f"observation {leaf.name!r} is {shown(value)} {when}; it must be a string")
    return str(value) if value.strip() else ""


PictureLayout = Literal["hwc", "chw", "hw"]


def picture_layout(space: spaces.Space[Any]) -> PictureLayout | None:
    """Return the order of a picture's axes; None if a space is not a picture.

    Pictures are uint8 from 0 to 255, or floats from 0 to 1, with 1 or 3 channels, last or first, or 4 (RGBA), last; and
    uint8 without channels. (4, height, width) is a stack of four grey frames: a single frame would lose information, so
    it becomes part of the state.
    """
    if not isinstance(space, spaces.Box) or not space.shape or min(space.shape) == 0:
        return None
    kind = space.dtype.kind
    top = 255 if space.dtype == np.uint8 else 1 if kind == "f" else None
    if top is None or (space.low != 0).any() or (space.high != top).any():
        return None
    if len(space.shape) == 2:
        return "hw" if top == 255 and min(space.shape) > 1 else None
    if len(space.shape) != 3:
        return None
    return "hwc" if space.shape[2] in (1, 3, 4) else "chw" if space.shape[0] in (1, 3) else None


def _picture_size(space: spaces.Space[Any], layout: PictureLayout) -> tuple[int, int]:
    shape = tuple(space.shape or ())
    return shape[1:] if layout == "chw" else shape[:2]  # type: ignore[return-value]


def _picture(leaf: Leaf, value: Any, when: str) -> Numbers:
    array = _array(leaf, value, when, tuple(leaf.space.shape or ()))
    needed = "f" if leaf.space.dtype is not None and leaf.space.dtype.kind == "f" else "iu"
    if array.dtype.kind not in needed:
        raise InvalidObservationError(
            f"picture {leaf.name!r} is {array.dtype} {when}, but its space {leaf.space.dtype}: its range is ambiguous"
        )
    return array


def rgb(picture: Numbers) -> UInt8[np.ndarray, "height width 3"]:
    """Return a picture as a copy in RGB: grey repeated, alpha dropped, floats from 0 to 1 as 0 to 255."""
    if picture.dtype.kind == "f":
        picture = np.rint(picture.astype(np.float64).clip(0, 1) * 255)
    picture = picture.clip(0, 255).astype(np.uint8)
    if picture.ndim == 2:
        picture = picture[:, :, None]
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture[:, :, :3].copy()


class Actions:
    """Converts action vectors to actions of a space.

    Args:
        space: of the environment: Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of them.

    Raises:
        RobotestError: a part of it is none of these, or it is empty.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self._space: Final = space
        numbers = [_numbers(leaf) for leaf in leaves(space, "action")]
        taken: set[str] = set()
        names = [_free(name, taken) for part in numbers for name in part.names]
        if not names:
            raise RobotestError(f"the action space is {space}; it must have at least one number")
        self._parts: Final = numbers
        self._low, self._high = (np.concatenate([getattr(n, bound) for n in numbers]) for bound in ("low32", "high32"))
        self._whole: Final = np.concatenate([np.full(len(n.names), n.whole) for n in numbers])
        conventions = [n.convention for n in numbers for _ in n.names]
        bounds = [pair for n in numbers for pair in zip(n.low.tolist(), n.high.tolist(), strict=True)]
        self.spec: Final = VectorSpec(
            "native",
            tuple(
                Component(name, 1, "index" if convention == "discrete" else "native", convention, low, high)
                for name, convention, (low, high) in zip(names, conventions, bounds, strict=True)
            ),
        )

    def native(self, action: Float32[np.ndarray, " A"]) -> tuple[Any, Float32[np.ndarray, " A"]]:
        """Return an action in the environment's format, and the same as a vector.

        Both are clipped to the bounds, and rounded where the space is of integers or a narrower type. They are equal,
        except where no float32 lies within the bounds.

        Raises:
            InvalidActionError: it is not finite or has another shape.
        """
        if np.shape(action) != (self.spec.size,) or not np.isfinite(action).all():
            raise InvalidActionError(f"action {shown(action)} given; it must be {self.spec.size} finite numbers")
        sent = np.asarray(action, np.float32).clip(self._low, self._high)
        sent[self._whole] = np.rint(sent[self._whole])
        sent += np.float32(0)  # no -0.0
        start = 0
        values = []
        for part in self._parts:
            columns = slice(start, start + len(part.names))
            start = columns.stop
            value = part.native(sent[columns])
            sent[columns] = np.ravel(value)
            values.append(value)
        return _nested(self._space, iter(values)), sent


@dataclasses.dataclass(frozen=True)
class _Numbers:
    """The numbers of one leaf of an action.

    Attributes:
        names: one for each.
        space: of the leaf.
        convention: ``discrete`` for choices, ``integer`` for integers, ``gymnasium`` for others.
        low: lower bounds, with missing ones replaced.
        high: upper bounds, likewise.
    """

    names: list[str]
    space: spaces.Space[Any]
    convention: str
    low: Numbers
    high: Numbers

    @property
    def whole(self) -> bool:
        return self.convention != "gymnasium"

    @property
    def low32(self) -> Float32[np.ndarray, " n"]:
        """The smallest float32 within the bounds."""
        return _inward(self.low, self.high)[0]

    @property
    def high32(self) -> Float32[np.ndarray, " n"]:
        """The largest float32 within the bounds."""
        return _inward(self.low, self.high)[1]

    def native(self, sent: Float32[np.ndarray, " n"]) -> Any:
        """Return these numbers as a value of the space."""
        if isinstance(self.space, spaces.Discrete):
            return int(sent[0])
        value = sent.astype(self.space.dtype).reshape(self.space.shape)
        return value.clip(self.space.low, self.space.high) if isinstance(self.space, spaces.Box) else value


def _inward(low: Numbers, high: Numbers) -> tuple[Numbers, Numbers]:
    """Round bounds to float32 inwards; to the nearest if no float32 lies between them."""
    first, last = low.astype(np.float32), high.astype(np.float32)
    inner = np.where(first.astype(np.float64) < low, np.nextafter(first, np.float32(np.inf)), first)
    outer = np.where(last.astype(np.float64) > high, np.nextafter(last, np.float32(-np.inf)), last)
    empty = inner > outer
    return np.where(empty, first, inner), np.where(empty, first, outer)


def _numbers(leaf: Leaf) -> _Numbers:
    space, choice = leaf.space, leaf.name if leaf.path else "choice"
    match space:
        case spaces.Discrete():
            return _choices(leaf, [choice], np.array([space.n]), np.array([space.start]))
        case spaces.MultiDiscrete():
            names = [f"{choice}_{i}" for i in range(space.nvec.size)]
            return _choices(leaf, names, space.nvec.ravel(), space.start.ravel())
        case spaces.MultiBinary():
            n = math.prod(space.shape)
            return _choices(leaf, [f"{choice}_{i}" for i in range(n)], np.full(n, 2), np.zeros(n, np.int64))
        case spaces.Box():
            names = [f"{leaf.name}_{i}" for i in range(math.prod(space.shape))]
            convention = "gymnasium" if space.dtype.kind == "f" else "integer"
            low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
            # A bound beyond UNBOUNDED counts as missing, unless the other bound is beyond it too.
            lower = np.maximum(low, np.minimum(-UNBOUNDED, high - UNBOUNDED))
            upper = np.minimum(high, np.maximum(UNBOUNDED, low + UNBOUNDED))
            return _Numbers(names, space, convention, lower, upper)
    raise RobotestError(
        f"action {leaf.name!r} is a {type(space).__name__}; supported are Box, Discrete, MultiDiscrete and MultiBinary,"
        " in Dict and Tuple: wrap the environment, e.g. with gymnasium.wrappers.TransformAction"
    )


def _choices(leaf: Leaf, names: list[str], n: Numbers, start: Numbers) -> _Numbers:
    low = start.astype(np.float64)
    high = low + n.astype(np.float64) - 1
    if max(np.abs(low).max(initial=0), np.abs(high).max(initial=0)) > _CHOICES:
        raise RobotestError(f"action {leaf.name!r} is {leaf.space}; choices must be from {-_CHOICES} to {_CHOICES}")
    return _Numbers(names, leaf.space, "discrete", low, high)


def _nested(space: spaces.Space[Any], values: Iterator[Any]) -> Any:
    """Assemble the leaves' values into a value of the nested space."""
    if isinstance(space, spaces.Dict):
        return {key: _nested(inner, values) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_nested(inner, values) for inner in space.spaces)
    return next(values)
