"""The six tasks of the dual-arm suite: objects, starts, words, success. Named after RoboTwin 2.0 where it has them.

A task is stateless: `start` draws an episode into a `World` and returns its `Scene`; `success` is a predicate on the
world's state. Objects are placed within reach of the arm that acts on them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from robotest.embodiment.workcell import SIDES
from robotest.envs.dual_arm.world import COLOURS, World, block, pad

N_POINTS: Final = 2
CUBE_M: Final = 0.02  # half size of a cube
BAR_HALF_M: Final = (0.09, 0.015, 0.015)
PAD_RADIUS_M: Final = 0.045
BOTTLE_M: Final = (0.021, 0.055)  # radius, half height
HANDLE_X_M: Final = 0.15  # of the tray's two handles from its centre
BUTTON_TOP_M: Final = 0.035
_PRESSED_M = 0.0045  # travel that counts as pressed
_RELEASED_M = 0.045  # an object is released if the tips are this far from its centre
_STILL_M_S = 0.05
_HEIGHT_TOLERANCE_M = 0.008


@dataclasses.dataclass(frozen=True)
class Scene:
    """The random choices of an episode.

    Attributes:
        words: values for the instruction templates.
        arm: the arm that acts (first): 0 left, 1 right.
        roles: role -> body name, e.g. ``{"object": "block_a", "target": "pad_b"}``.
        order: bodies in the order in which to act on them, if the task has one.
    """

    words: Mapping[str, str]
    arm: int
    roles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    order: tuple[str, ...] = ()


@runtime_checkable
class Task(Protocol):
    """One task."""

    @property
    def name(self) -> str:
        """Name on the command line."""
        ...

    @property
    def max_steps(self) -> int:
        """Limit of an episode [control steps]: about twice what the clean expert needs."""
        ...

    @property
    def objects(self) -> str:
        """MJCF of the task's bodies."""
        ...

    @property
    def seen(self) -> Sequence[str]:
        """Instruction templates of the demonstrations."""
        ...

    @property
    def unseen(self) -> Sequence[str]:
        """Instruction templates not used in training."""
        ...

    def start(self, world: World, rng: np.random.Generator) -> Scene:
        """Place and paint the objects of a new episode."""
        ...

    def progress(self, world: World, scene: Scene, progress: int) -> int:
        """Return the updated count of sub-goals reached in order; -1 after a wrong one, which fails the episode."""
        ...

    def points(self, world: World, scene: Scene, progress: int) -> Sequence[Float64[np.ndarray, " 3"]]:
        """Return the positions [m] of the objects to act on next, in the instruction's order: at most `N_POINTS`."""
        ...

    def success(self, world: World, scene: Scene, progress: int) -> bool:
        """Return whether the goal holds now."""
        ...


class _Unordered:
    """Tasks whose success is a predicate on the present state alone."""

    def progress(self, world: World, scene: Scene, progress: int) -> int:
        del world, scene
        return progress

    def points(self, world: World, scene: Scene, progress: int) -> list[Float64[np.ndarray, " 3"]]:
        del progress
        return [world.position(body) for body in (*scene.roles.values(), *scene.order)]


def _spread(
    rng: np.random.Generator, n: int, low: tuple[float, float], high: tuple[float, float], distance: float
) -> Float64[np.ndarray, "n 2"]:
    """Draw n points in a box, each pair at least `distance` apart [m], by rejection."""
    while True:
        points = rng.uniform(low, high, (n, 2))
        gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)[np.triu_indices(n, 1)]
        if np.all(gaps >= distance):
            return points


def _colours(rng: np.random.Generator, n: int) -> list[str]:
    return [str(c) for c in rng.permutation(list(COLOURS))[:n]]


def _rests(world: World, scene: Scene, within: float, height: float) -> bool:
    """Return whether the object rests `height` above its target's origin and `within` of it horizontally [m]."""
    name = scene.roles["object"]
    offset = world.position(name) - world.position(scene.roles["target"])
    return bool(
        np.hypot(offset[0], offset[1]) < within
        and abs(offset[2] - height) < _HEIGHT_TOLERANCE_M
        and world.speed(name) < _STILL_M_S
    )


def _released(world: World, body: str) -> bool:
    position = world.position(body)
    return all(float(np.linalg.norm(world.tip(arm) - position)) > _RELEASED_M for arm in (0, 1))


class PlaceBlockPad(_Unordered):
    """Put one of two blocks on one of two pads, as instructed."""

    name = "place_block_pad"
    max_steps = 110
    movable = ("block_a", "block_b")
    objects = (
        block("block_a", (CUBE_M,) * 3, 0.08)
        + block("block_b", (CUBE_M,) * 3, 0.08)
        + pad("pad_a", PAD_RADIUS_M)
        + pad("pad_b", PAD_RADIUS_M)
    )
    seen = (
        "put the {object} block on the {target} pad",
        "place the {object} block onto the {target} pad",
        "move the {object} block to the {target} pad",
        "pick up the {object} block and put it on the {target} pad",
    )
    unseen = (
        "set the {object} block down on the {target} pad",
        "take the {object} cube and place it on the {target} disc",
        "the {object} block belongs on the {target} pad",
    )

    def start(self, world: World, rng: np.random.Generator) -> Scene:
        """One block on each side, the pads in the middle where both arms reach."""
        blocks, pads = _colours(rng, 2), _colours(rng, 2)
        for name, colour, sign in zip(self.movable, blocks, (-1, 1), strict=True):
            xy = rng.uniform((0.14, -0.06), (0.28, 0.10))
            world.place(name, (sign * xy[0], xy[1], CUBE_M), rng.uniform(-0.3, 0.3))
            world.paint(name, COLOURS[colour])
        near, far = rng.uniform((-0.03, -0.09), (0.03, -0.07)), rng.uniform((-0.03, 0.025), (0.03, 0.045))
        for name, colour, xy in zip(("pad_a", "pad_b"), pads, rng.permutation([near, far]), strict=True):
            world.place(name, (xy[0], xy[1], 0.0))
            world.paint(name, COLOURS[colour])
        which, where = rng.integers(2), rng.integers(2)
        return Scene(
            words={"object": blocks[which], "target": pads[where]},
            arm=int(which),
            roles={"object": self.movable[which], "target": ("pad_a", "pad_b")[where]},
        )

    def success(self, world: World, scene: Scene, progress: int) -> bool:
        """The block rests on the pad, its centre within the pad, and is released."""
        del progress
        return _rests(world, scene, PAD_RADIUS_M - 0.005, CUBE_M) and _released(world, scene.roles["object"])


class StackBlocksTwo(_Unordered):
    """Stack two blocks; the instruction, not the picture, determines which goes on top."""

    name = "stack_blocks_two"
    max_steps = 110
    movable = ("block_a", "block_b")
    objects = block("block_a", (CUBE_M,) * 3, 0.08) + block("block_b", (CUBE_M,) * 3, 0.08)
    seen = (
        "stack the {top} block on the {base} block",
        "put the {top} block on top of the {base} block",
        "place the {top} block on the {base} block",
        "pick up the {top} block and stack it on the {base} one",
    )
    unseen = (
        "set the {top} cube on top of the {base} cube",
        "the {top} block goes on the {base} block",
        "build a stack with the {top} block on the {base} block",
    )

    def start(self, world: World, rng: np.random.Generator) -> Scene:
        """Both blocks on one side, so that its arm can do either order."""
        arm = int(rng.integers(2))
        sign = (-1, 1)[arm]
        colours = _colours(rng, 2)
        points = _spread(rng, 2, (0.04, -0.07), (0.30, 0.08), 0.11)
        for name, colour, xy in zip(self.movable, colours, points, strict=True):
            world.place(name, (sign * xy[0], xy[1], CUBE_M), rng.uniform(-0.3, 0.3))
            world.paint(name, COLOURS[colour])
        top = int(rng.integers(2))
        return Scene(
            words={"top": colours[top], "base": colours[1 - top]},
            arm=arm,
            roles={"object": self.movable[top], "target": self.movable[1 - top]},
        )

    def success(self, world: World, scene: Scene, progress: int) -> bool:
        """The top block rests on the base block and is released."""
        del progress
        return _rests(world, scene, CUBE_M, 2 * CUBE_M) and _released(world, scene.roles["object"])


class HandoverBlock(_Unordered):
    """One arm takes a bar, hands it to the other, which puts it on a pad that the first cannot reach."""

    name = "handover_block"
    max_steps = 190
    movable = ("bar",)
    objects = block("bar", BAR_HALF_M, 0.1) + pad("pad_a", PAD_RADIUS_M)
    seen = (
        "hand the {colour} bar over to the {side} arm and put it on the pad",
        "pass the {colour} bar to the {side} arm and place it on the pad",
        "give the {colour} bar to the {side} arm then put it on the pad",
    )
    unseen = (
        "transfer the {colour} bar to the {side} hand and set it on the pad",
        "let the {side} arm take the {colour} bar over and lay it on the pad",
    )

    def start(self, world: World, rng: np.random.Generator) -> Scene:
        """The bar lies along x on the giver's side, the pad on the receiver's."""
        giver = int(rng.integers(2))
        sign = (-1, 1)[giver]
        bar_xy, pad_xy = rng.uniform((0.17, -0.05), (0.25, 0.08)), rng.uniform((0.18, -0.05), (0.26, 0.08))
        bar_colour, pad_colour = _colours(rng, 2)
        world.place("bar", (sign * bar_xy[0], bar_xy[1], BAR_HALF_M[2]), rng.uniform(-0.25, 0.25))
        world.paint("bar", COLOURS[bar_colour])
        world.place("pad_a", (-sign * pad_xy[0], pad_xy[1], 0.0))
        world.paint("pad_a", COLOURS[pad_colour])
        return Scene(
            words={"colour": bar_colour, "side": SIDES[1 - giver]},
            arm=giver,
            roles={"object": "bar", "target": "pad_a"},
        )

    def success(self, world: World, scene: Scene, progress: int) -> bool:
        """The bar lies on the pad, its centre within it, and both arms have released it."""
        del progress
        return bool(
            _rests(world, scene, PAD_RADIUS_M, BAR_HALF_M[2])
            and float(world.openings()[1 - scene.arm]) > 0.6
            and world.tip(1 - scene.arm)[2] - world.table_z > 0.05
        )


class LiftTray(_Unordered):
    """Both arms lift a tray by its two handles and keep it level."""

    name = "lift_tray"
    max_steps = 90
    movable = ("tray",)
    objects = (
        '<body name="tray"><freejoint name="tray"/>'
        '<geom name="tray" type="box" size="0.12 0.07 0.006" mass="0.15" contype="1" conaffinity="3"'
        ' friction="1 0.01 0.0001"/>'
        + "".join(
            f'<geom name="handle_{n}" type="box" pos="{x} 0 0.018" size="0.012 0.012 0.024" mass="0.03" contype="1"'
            f' conaffinity="3" condim="4"/>'
            f'<geom type="box" pos="{0.9 * x} 0 0" size="0.03 0.012 0.006" mass="0.01" contype="1" conaffinity="3"/>'
            for n, x in (("a", -HANDLE_X_M), ("b", HANDLE_X_M))
        )
        + "</body>"
    )
    seen = (
        "lift the {colour} tray with both arms",
        "raise the {colour} tray with both arms",
        "pick up the {colour} tray with two hands and keep it level",
    )
    unseen = (
        "use both arms to hoist the {colour} tray",
        "with both hands lift up the {colour} tray",
    )

    def start(self, world: World, rng: np.random.Generator) -> Scene:
        """The tray lies across the middle, turned a little."""
        (colour,) = _colours(rng, 1)
        xy = rng.uniform((-0.05, -0.05), (0.05, 0.08))
        world.place("tray", (xy[0], xy[1], 0.006), rng.uniform(-0.25, 0.25))
        world.paint("tray", COLOURS[colour])
        for handle in ("handle_a", "handle_b"):
            world.paint(handle, (0.25, 0.25, 0.28))
        return Scene(words={"colour": colour}, arm=0, roles={"object": "tray"})

    def points(self, world: World, scene: Scene, progress: int) -> list[Float64[np.ndarray, " 3"]]:
        """Its handles."""
        del progress
        tray, along = world.position(scene.roles["object"]), HANDLE_X_M * world.rotation(scene.roles["object"])[:, 0]
        return [tray - along, tray + along]

    def success(self, world: World, scene: Scene, progress: int) -> bool:
        """The tray is at least 8 cm above the table and tilted by less than 12 degrees."""
        del scene, progress
        level = world.rotation("tray")[2, 2] > np.cos(np.deg2rad(12))
        return bool(level and world.position("tray")[2] - world.table_z > 0.08)


class PickDualBottles(_Unordered):
    """Each arm lifts the bottle on its side."""

    name = "pick_dual_bottles"
    max_steps = 90
    movable = ("bottle_a", "bottle_b")
    objects = "".join(
        f'<body name="{n}"><freejoint name="{n}"/>'
        f'<geom name="{n}" type="cylinder" size="{BOTTLE_M[0]} {BOTTLE_M[1]}" mass="0.12" contype="1" conaffinity="3"'
        f' condim="4" friction="1 0.01 0.0001"/></body>'
        for n in ("bottle_a", "bottle_b")
    )
    seen = (
        "pick up the {left} bottle with the left arm and the {right} bottle with the right arm",
        "lift both bottles",
        "pick up the two bottles, {left} and {right}",
    )
    unseen = (
        "grab the {left} bottle and the {right} bottle and raise them",
        "hold up both bottles at once",
    )

    def start(self, world: World, rng: np.random.Generator) -> Scene:
        """One bottle stands on each side."""
        left, right = _colours(rng, 2)
        for name, colour, sign in zip(self.movable, (left, right), (-1, 1), strict=True):
            xy = rng.uniform((0.12, -0.06), (0.29, 0.09))
            world.place(name, (sign * xy[0], xy[1], BOTTLE_M[1]))
            world.paint(name, COLOURS[colour])
        return Scene(words={"left": left, "right": right}, arm=0, order=self.movable)

    def success(self, world: World, scene: Scene, progress: int) -> bool:
        """Both bottles are at least 8 cm above where they stood."""
        del scene, progress
        return all(world.position(b)[2] - world.table_z - BOTTLE_M[1] > 0.08 for b in self.movable)


class PushButtonsInOrder:
    """Press three coloured buttons in the order named; a pressed button lights up, a wrong one ends the episode."""

    name = "push_buttons_in_order"
    max_steps = 150
    objects = "".join(
        f'<body name="button_{n}"><geom type="box" size="0.03 0.03 0.006" pos="0 0 0.006" rgba="0.3 0.3 0.32 1"'
        f' contype="0" conaffinity="2"/><body name="cap_{n}" pos="0 0 0.0235">'
        f'<joint name="cap_{n}" type="slide" axis="0 0 -1" range="0 0.012" stiffness="200" damping="6"'
        ' armature="0.02"/>'
        f'<geom name="cap_{n}" type="cylinder" size="0.022 0.0115" mass="0.02" contype="1"'
        ' conaffinity="2"/></body></body>'
        for n in "abc"
    )
    seen = (
        "press the {first} button, then the {second} one, then the {third} one",
        "push the buttons in this order: {first}, {second}, {third}",
        "first press {first}, then {second}, then {third}",
    )
    unseen = (
        "hit {first}, {second} and {third}, one after the other",
        "begin with the {first} button, go on with {second}, end with {third}",
    )

    def start(self, world: World, rng: np.random.Generator) -> Scene:
        """Three buttons apart from each other, away from the arms' border."""
        colours = _colours(rng, 3)
        while True:
            points = _spread(rng, 3, (-0.28, -0.06), (0.28, 0.09), 0.13)
            if np.all(np.abs(points[:, 0]) > 0.03):
                break
        order = [int(i) for i in rng.permutation(3)]
        for n, colour, xy in zip("abc", colours, points, strict=True):
            world.place(f"button_{n}", (xy[0], xy[1], 0.0))
            world.paint(f"cap_{n}", COLOURS[colour])
        words = {place: colours[i] for place, i in zip(("first", "second", "third"), order, strict=True)}
        bodies = tuple(f"cap_{'abc'[i]}" for i in order)
        return Scene(words=words, arm=int(points[order[0], 0] > 0), order=bodies)

    def progress(self, world: World, scene: Scene, progress: int) -> int:
        """Count buttons pressed in order and light them; -1 at a wrong one."""
        for i, cap in enumerate(scene.order):
            if progress >= 0 and i >= progress and world.slide(cap) > _PRESSED_M:
                progress = progress + 1 if i == progress else -1
        for cap in scene.order[: max(progress, 0)]:
            world.paint(cap, (0.97, 0.97, 0.97))
        return progress

    def points(self, world: World, scene: Scene, progress: int) -> list[Float64[np.ndarray, " 3"]]:
        """The button to press now, and the one after it."""
        return [world.position(cap) for cap in scene.order[max(progress, 0) :][:N_POINTS]]

    def success(self, world: World, scene: Scene, progress: int) -> bool:
        """All three were pressed, in order."""
        del world
        return progress == len(scene.order)


TASKS: Final[Mapping[str, Task]] = {
    t.name: t
    for t in (
        HandoverBlock(),
        StackBlocksTwo(),
        PlaceBlockPad(),
        LiftTray(),
        PickDualBottles(),
        PushButtonsInOrder(),
    )
}
