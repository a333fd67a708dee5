"""The tasks of `tabletop`: layouts, goals and instructions, independent of the simulator.

Positions are in metres from the middle of the table top: x away from the robot and towards the camera, y to the right
of the picture. So "behind" an object, as seen in the picture, is at a smaller x.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final, Literal

import numpy as np
from jaxtyping import Float64

Relation = Literal["in", "on"]
Place = tuple[float, float, float]
"""x [m], y [m], turn about the vertical [rad]."""
Jitter = Callable[[float], float]

FIXTURES: Final = ("tray", "basket", "plate")
"""Objects that do not move."""
_ONE_STEP, _TWO_STEPS = 220, 400  # LIBERO has 220 and 520


@dataclasses.dataclass(frozen=True)
class Goal:
    """An object in or on another."""

    relation: Relation
    thing: str
    target: str


@dataclasses.dataclass(frozen=True)
class Scene:
    """Objects on the table, and the distribution of starts.

    Attributes:
        things: names of the objects, in the order of `start`.
        draw: draws the place of each object.
    """

    things: tuple[str, ...]
    draw: Callable[[np.random.Generator], dict[str, Place]]

    def start(self, rng: np.random.Generator) -> Float64[np.ndarray, "things 3"]:
        """Draw the start of an episode: x [m], y [m] and yaw [rad] of every object."""
        places = self.draw(rng)
        return np.array([places[thing] for thing in self.things])


@dataclasses.dataclass(frozen=True)
class Task:
    """A task in a scene.

    Attributes:
        name: of the task.
        scene: its objects and starts.
        goals: all must hold, in any order.
        seen: wordings in training.
        unseen: wordings that no policy was trained on.
    """

    name: str
    scene: Scene
    goals: tuple[Goal, ...]
    seen: tuple[str, ...]
    unseen: tuple[str, ...]

    @property
    def max_steps(self) -> int:
        """Step limit of an episode."""
        return _ONE_STEP if len(self.goals) == 1 else _TWO_STEPS


def _jitter(rng: np.random.Generator) -> Jitter:
    return lambda width: float(rng.uniform(-width, width))


def _spatial(rng: np.random.Generator) -> dict[str, Place]:
    """Draw two cubes that differ only in position: one beside the can, one behind the tray."""
    near, side = _jitter(rng), float(rng.choice((-1.0, 1.0)))
    tray = (0.09 + near(0.02), side * 0.17 + near(0.02), np.pi / 2)
    plate = (0.12 + near(0.02), -side * 0.20 + near(0.015), 0.0)
    can = (-0.03 + near(0.03), -side * 0.05 + near(0.03), near(np.pi))
    while True:  # in front of the can or behind it, so that the hand grasps the cube without touching the can
        angle = near(0.6) + float(rng.choice((0.0, np.pi)))
        beside = (can[0] + 0.105 * np.cos(angle), can[1] + 0.105 * np.sin(angle), near(0.35))
        if np.hypot(beside[0] - plate[0], beside[1] - plate[1]) > 0.13 and beside[0] > -0.16:
            break
    behind = (tray[0] - 0.13 + near(0.008), tray[1] + near(0.02), near(np.pi / 4))
    return {"tray": tray, "plate": plate, "can": can, "cube_beside": beside, "cube_behind": behind}


def _object(rng: np.random.Generator) -> dict[str, Place]:
    """Draw groceries in random order, and a basket."""
    near, side = _jitter(rng), float(rng.choice((-1.0, 1.0)))
    places: dict[str, Place] = {"basket": (0.03 + near(0.02), side * 0.19 + near(0.015), 0.0)}
    slots = [(x, side * y) for x in (-0.09, 0.08) for y in (-0.20, -0.03)]
    for thing, slot in zip(("can", "milk", "bread", "cube"), rng.permutation(slots), strict=True):
        places[thing] = (slot[0] + near(0.015), slot[1] + near(0.012), near(np.pi / 4))
    return places


def _goal(rng: np.random.Generator) -> dict[str, Place]:
    """Draw nearly the same layout every time, so that the task cannot be inferred from it."""
    near = _jitter(rng)
    middles = {
        "tray": (0.03, 0.20),
        "plate": (0.11, -0.19),
        "can": (-0.10, -0.15),
        "bread": (-0.10, 0.03),
        "blue_cube": (0.03, -0.05),
        "yellow_block": (0.14, 0.04),
    }
    fixed = ("tray", "plate")
    return {
        thing: (x + near(0.02), y + near(0.02), 0.0 if thing in fixed else near(np.pi / 4))
        for thing, (x, y) in middles.items()
    }


SPATIAL: Final = Scene(("tray", "plate", "can", "cube_beside", "cube_behind"), _spatial)
OBJECT: Final = Scene(("basket", "can", "milk", "bread", "cube"), _object)
GOAL: Final = Scene(("tray", "plate", "can", "bread", "blue_cube", "yellow_block"), _goal)

_ALL = (
    Task(
        "cube_beside_can",
        SPATIAL,
        (Goal("on", "cube_beside", "plate"),),
        ("put the cube next to the can on the plate", "pick up the cube beside the can and place it on the plate"),
        ("move the cube that is close to the can onto the plate", "the plate should hold the cube standing by the can"),
    ),
    Task(
        "cube_behind_tray",
        SPATIAL,
        (Goal("on", "cube_behind", "plate"),),
        (
            "put the cube behind the tray on the plate",
            "pick up the cube at the back of the tray and place it on the plate",
        ),
        (
            "move the cube on the far side of the tray onto the plate",
            "the plate should hold the cube from behind the tray",
        ),
    ),
    *(
        Task(
            f"{thing}_in_basket",
            OBJECT,
            (Goal("in", thing, "basket"),),
            (f"put the {words} in the basket", f"pick up the {words} and place it in the basket"),
            (f"the {words} belongs in the basket", f"drop the {words} into the basket"),
        )
        for thing, words in (("can", "can"), ("milk", "milk"), ("bread", "bread"))
    ),
    Task(
        "can_on_plate",
        GOAL,
        (Goal("on", "can", "plate"),),
        ("put the can on the plate", "pick up the can and place it on the plate"),
        ("set the can down on the plate", "the plate should carry the can"),
    ),
    Task(
        "bread_in_tray",
        GOAL,
        (Goal("in", "bread", "tray"),),
        ("put the bread in the tray", "pick up the bread and place it in the tray"),
        ("lay the bread into the tray", "the bread belongs in the tray"),
    ),
    Task(
        "cube_on_block",
        GOAL,
        (Goal("on", "blue_cube", "yellow_block"),),
        ("stack the blue cube on the yellow block", "pick up the blue cube and place it on the yellow block"),
        ("put the blue cube on top of the yellow one", "build a tower with the blue cube on the yellow block"),
    ),
    Task(
        "can_and_bread_in_tray",
        GOAL,
        (Goal("in", "can", "tray"), Goal("in", "bread", "tray")),
        ("put both the can and the bread in the tray", "place the can in the tray and the bread beside it"),
        ("the tray should hold the can and the bread", "collect can and bread in the tray"),
    ),
    Task(
        "stack_cube_and_can_on_plate",
        GOAL,
        (Goal("on", "blue_cube", "yellow_block"), Goal("on", "can", "plate")),
        (
            "stack the blue cube on the yellow block and put the can on the plate",
            "place the blue cube on the yellow block, then the can on the plate",
        ),
        (
            "the blue cube goes on top of the yellow one and the can on the plate",
            "build a tower of blue on yellow and set the can down on the plate",
        ),
    ),
)
TASKS: Final = {task.name: task for task in _ALL}
"""As in LIBERO's suites: two tasks vary the position, three the object, three the goal, and two have two steps."""
