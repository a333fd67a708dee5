"""What gymnasium's spaces are in our terms: an observation as a state and pictures, an action vector as an action."""

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
"""Where something lies in a nested space: keys of dictionaries, numbers in tuples."""
Numbers = np.ndarray[Any, np.dtype[Any]]
UNBOUNDED: Final = 1e6
"""Stands for a missing bound: `VectorSpec` holds numbers that JSON can hold."""
_CHOICES: Final = 2**20
"""The most choices of one `Discrete`: float32 tells all of them apart, and a one-hot state holds them."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What is not nested any further.

    Attributes:
        name: its key, or the whole path where keys end alike; unique in its space.
        path: where it lies.
        space: its own.
    """

    name: str
    path: Path
    space: spaces.Space[Any]


def leaves(space: spaces.Space[Any], root: str) -> tuple[Leaf, ...]:
    """Return everything in a nested space, in its order.

    Args:
        space: of an observation or an action.
        root: name of what lies in no dictionary.
    """
    found = list(_walk(space, ()))
    names = _names([path for path, _ in found], root)
    return tuple(Leaf(name, path, inner) for name, (path, inner) in zip(names, found, strict=True))


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
    """Name by the last key; by the whole path what would be called like something else."""
    plain = [_plain(path, root) for path in paths]
    alone = {name for name in plain if name.strip() and plain.count(name) == 1}
    taken = set(alone)
    return [
        name if name in alone else _free("/".join(map(str, path)) or root, taken)
        for name, path in zip(plain, paths, strict=True)
    ]


def _plain(path: Path, root: str) -> str:
    keys = [i for i, part in enumerate(path) if isinstance(part, str)]
    last = keys[-1] if keys else -1
    return "".join([str(path[last]) if keys else root, *(f"_{part}" for part in path[last + 1 :])])


def _free(name: str, taken: set[str]) -> str:
    """Return a name with ``#2``, ``#3`` behind it if it is taken already, and take it."""
    numbered = itertools.chain([name], (f"{name}#{k}" for k in itertools.count(2)))
    free = next(own for own in numbered if own not in taken)
    taken.add(free)
    return free


class Observations:
    """Reads observations of a space.

    Boxes are numbers, choices (`Discrete`, `MultiDiscrete`) one-hot, pictures cameras; a text called ``instruction`` is
    the instruction, other texts are not looked at, and neither is a key that the space does not have.

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
        """Look at all of an observation, pictures too, and keep what it says.

        Args:
            value: from the environment.
            when: for the error, e.g. ``after step 3``.

        Raises:
            InvalidObservationError: a part is missing, has another shape, is no number, or is not finite. Numbers
                beyond the bounds of a `Box` are taken as they are.
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
    """One observation, found to be whole.

    Attributes:
        numbers: of the state's components, in their order.
        pictures: as the environment gave them.
        instruction: empty if there is none.
        layouts: of the pictures.
    """

    numbers: list[Float32[np.ndarray, " n"]]
    pictures: Mapping[str, Numbers]
    instruction: str
    layouts: Mapping[str, PictureLayout]

    def state(self) -> Float32[np.ndarray, " S"]:
        """All numbers, in the order of the space."""
        return np.concatenate([np.zeros(0, np.float32), *self.numbers])

    def picture(self, camera: str) -> UInt8[np.ndarray, "height width 3"]:
        """One picture, as a copy."""
        picture = self.pictures[camera]
        return rgb(np.moveaxis(picture, 0, -1) if self.layouts[camera] == "chw" else picture)


def _require_readable(leaf: Leaf) -> None:
    space = leaf.space
    if not isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Text)):
        raise RobotestError(
            f"observation {leaf.name!r} is a {type(space).__name__}; Box, Discrete, MultiDiscrete, MultiBinary and Text"
            " can be read, in Dict and Tuple: wrap the environment, e.g. with gymnasium.wrappers.TransformObservation"
        )
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and _state_size(space) > _CHOICES:
        raise RobotestError(
            f"observation {leaf.name!r} is one of {_state_size(space)} choices; up to {_CHOICES} can be a one-hot state"
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
        given = value if isinstance(value, Mapping) else {}
        for key, inner in space.spaces.items():
            if key not in given:
                has = f"a {type(value).__name__}" if given is not value else ", ".join(map(repr, given)) or "no keys"
                raise InvalidObservationError(
                    f"observation {_where((*path, str(key)))} is missing {when}; there is {has}"
                )
            yield from _values(inner, given[key], when, (*path, str(key)))
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, (tuple, list, np.ndarray)) or len(value) != len(space.spaces):
            raise InvalidObservationError(
                f"observation {_where(path)} is {shown(value)} {when}; a tuple of {len(space.spaces)} is needed"
            )
        for i, inner in enumerate(space.spaces):
            yield from _values(inner, value[i], when, (*path, i))
    else:
        yield value


def _where(path: Path) -> str:
    return repr("/".join(map(str, path)) or "observation")


def _array(leaf: Leaf, value: Any, when: str, shape: tuple[int, ...]) -> Numbers:
    """Return finite numbers of a shape; a choice may lie in an array of one."""
    try:
        found = np.asarray(value)
    except Exception as error:
        raise InvalidObservationError(f"observation {leaf.name!r} is no array {when}: {describe(error)}") from error
    if found.dtype.kind not in "biuf":
        raise InvalidObservationError(f"observation {leaf.name!r} is {shown(value)} {when}; numbers are needed")
    if isinstance(leaf.space, spaces.Discrete) and found.size == 1:
        found = found.reshape(())
    if found.shape != shape:
        raise InvalidObservationError(
            f"observation {leaf.name!r} has shape {found.shape} {when}; its space says {shape}"
        )
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        bad = found[~np.isfinite(found)][0]
        raise InvalidObservationError(f"observation {leaf.name!r} holds {bad} {when}; every number must be finite")
    return found


def _state(leaf: Leaf, value: Any, when: str) -> Float32[np.ndarray, " n"]:
    """Return the numbers of a component, one-hot where they are choices."""
    space = leaf.space
    if isinstance(space, spaces.Discrete):
        return _one_hot(
            leaf, _array(leaf, value, when, ()).reshape(1), np.array([space.n]), np.array([space.start]), when
        )
    if isinstance(space, spaces.MultiDiscrete):
        choices = _array(leaf, value, when, space.nvec.shape)
        return _one_hot(leaf, choices.ravel(), space.nvec.ravel(), space.start.ravel(), when)
    found = _array(leaf, value, when, tuple(space.shape or ())).ravel()
    with np.errstate(over="ignore"):
        numbers = found.astype(np.float32)
    if not np.isfinite(numbers).all():
        bad = found[~np.isfinite(numbers)][0]
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
    hot = np.zeros(offsets[-1], np.float32)
    hot[offsets[:-1] + choices.astype(np.int64) - first] = 1
    return hot


def _instruction(leaf: Leaf, value: Any, when: str) -> str:
    if not leaf.path or leaf.path[-1] != "instruction":
        return ""
    if not isinstance(value, str):
        raise InvalidObservationError(f"observation {leaf.name!r} is {shown(value)} {when}; a text is needed")
    return str(value) if value.strip() else ""


PictureLayout = Literal["hwc", "chw", "hw"]


def picture_layout(space: spaces.Space[Any]) -> PictureLayout | None:
    """Say how the axes of a picture lie; None if a space is no picture.

    Pictures are uint8 from 0 to 255, or floats from 0 to 1, with 1 or 3 channels, last or first, or 4 (RGBA), last; and
    uint8 without channels. (4, height, width) is a stack of four grey frames: the newest alone would hide what the
    others tell, so it stays numbers.
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
    found = _array(leaf, value, when, tuple(leaf.space.shape or ()))
    needed = "f" if leaf.space.dtype is not None and leaf.space.dtype.kind == "f" else "iu"
    if found.dtype.kind not in needed:
        raise InvalidObservationError(
            f"picture {leaf.name!r} is {found.dtype} {when}, its space {leaf.space.dtype}: is 1 white, or 255?"
        )
    return found


def rgb(picture: Numbers) -> UInt8[np.ndarray, "height width 3"]:
    """Return a picture as a copy in RGB: grey repeated, alpha dropped, floats from 0 to 1 as 0 to 255."""
    if picture.dtype.kind == "f":
        picture = np.rint(picture.astype(np.float64).clip(0, 1) * 255)
    picture = picture.clip(0, 255).astype(np.uint8)
    if picture.ndim == 2:
        picture = picture[:, :, None]
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture[:, :, :3].copy()


class Actions:
    """Turns action vectors into actions of a space.

    Args:
        space: of the environment: Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of them.

    Raises:
        RobotestError: a part of it is none of these, or there is nothing to choose.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self._space: Final = space
        numbers = [_numbers(leaf) for leaf in leaves(space, "action")]
        taken: set[str] = set()
        names = [_free(name, taken) for given in numbers for name in given.names]
        if not names:
            raise RobotestError(f"actions of {space} given; at least one number is needed")
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
        """Return an action as the environment takes it, and the same as a vector.

        Clipped to the bounds, rounded where the space has whole numbers or a narrower type. Nothing is lost between the
        two, except where not even one float32 lies between the bounds.

        Raises:
            InvalidActionError: it is not finite or has another shape.
        """
        if np.shape(action) != (self.spec.size,) or not np.isfinite(action).all():
            raise InvalidActionError(f"action {shown(action)} given; {self.spec.size} finite numbers are needed")
        sent = np.asarray(action, np.float32).clip(self._low, self._high)
        sent[self._whole] = np.rint(sent[self._whole])
        sent += np.float32(0)  # no -0.0
        start = 0
        found = []
        for part in self._parts:
            own = slice(start, start + len(part.names))
            start = own.stop
            value = part.native(sent[own])
            sent[own] = np.ravel(value)
            found.append(value)
        return _nested(self._space, iter(found)), sent


@dataclasses.dataclass(frozen=True)
class _Numbers:
    """The numbers of one leaf of an action.

    Attributes:
        names: one for each.
        space: of the leaf.
        convention: ``discrete`` for choices, ``integer`` for whole numbers, ``gymnasium`` for others.
        low: bounds, missing ones replaced.
        high: as `low`.
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
        """Return what the space has in place of these numbers."""
        if isinstance(self.space, spaces.Discrete):
            return int(sent[0])
        value = sent.astype(self.space.dtype).reshape(self.space.shape)
        return value.clip(self.space.low, self.space.high) if isinstance(self.space, spaces.Box) else value


def _inward(low: Numbers, high: Numbers) -> tuple[Numbers, Numbers]:
    """Round bounds to float32 so that they lie within; where there is no float32 between them, to the nearest."""
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
            # A bound beyond UNBOUNDED counts as missing, unless the other one lies there too.
            lower = np.maximum(low, np.minimum(-UNBOUNDED, high - UNBOUNDED))
            upper = np.minimum(high, np.maximum(UNBOUNDED, low + UNBOUNDED))
            return _Numbers(names, space, convention, lower, upper)
    raise RobotestError(
        f"action {leaf.name!r} is a {type(space).__name__}; Box, Discrete, MultiDiscrete and MultiBinary can be sent,"
        " in Dict and Tuple: wrap the environment, e.g. with gymnasium.wrappers.TransformAction"
    )


def _choices(leaf: Leaf, names: list[str], n: Numbers, start: Numbers) -> _Numbers:
    low = start.astype(np.float64)
    high = low + n.astype(np.float64) - 1
    if max(np.abs(low).max(initial=0), np.abs(high).max(initial=0)) > _CHOICES:
        raise RobotestError(f"action {leaf.name!r} is {leaf.space}; choices from {-_CHOICES} to {_CHOICES} can be sent")
    return _Numbers(names, leaf.space, "discrete", low, high)


def _nested(space: spaces.Space[Any], values: Iterator[Any]) -> Any:
    """Put the values of the leaves back into their nest."""
    if isinstance(space, spaces.Dict):
        return {key: _nested(inner, values) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_nested(inner, values) for inner in space.spaces)
    return next(values)
