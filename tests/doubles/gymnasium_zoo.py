"""Whole gymnasium environments as data, and an oracle that tells from the data what a run of one must end in.

The oracle knows the rules of `robotest.success` and of `robotest.envs.from_gymnasium` from their documentation, not
from their code: it walks through a description step by step.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
import time
from collections.abc import Callable
from typing import Any, Final, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from hypothesis import strategies as st

from robotest.types import Outcome

IDS: Final = ("zoo/Beast-v0", "Unversioned", "zoo/odd_Name.x", "a:b-c/D.e-v12")
WORDS: Final = ("success", "is_success")
BAD: Final = "bad"
"""Stands for the truth of a value that is neither yes nor no."""
DEFAULT_MAX_STEPS: Final = 1000

Value = tuple[Any, Any]
"""What an environment says, and what it means: a bool or a number, or `BAD`."""
_YES: tuple[Any, ...] = (True, np.True_, 1, 1.0, np.array([True]), np.array(1))
YES: tuple[Value, ...] = tuple((v, True) for v in _YES)
_NO: tuple[Any, ...] = (False, np.False_, 0, 0.0, np.array([0.0]), np.array([[False]]))
NO: tuple[Value, ...] = tuple((v, False) for v in _NO)
_NEITHER: tuple[Any, ...] = ("yes", None, {}, [], [True], 2, float("nan"), np.array([1, 0]), np.array([]))
NEITHER: tuple[Value, ...] = tuple((v, BAD) for v in _NEITHER)
_PAID: tuple[Any, ...] = (0, 1.0, -2.5, np.float32(0.5), np.array([3.0]), True, 1e300)
_UNPAID: tuple[Any, ...] = (None, float("nan"), np.inf, "1", {"r": 1}, np.array([1.0, 2.0]), [1.0])
REWARDS: tuple[Value, ...] = (*((v, float(np.ravel(v)[0])) for v in _PAID), *((v, BAD) for v in _UNPAID))
Spoilt = Literal["nan", "inf", "missing", "shape", "none", "info"]
Seeding = Literal["obeys", "fixed", "numpy", "random", "own", "counter", "time"]
UNSEEDED: Final = ("own", "counter", "time")
"""Ways of starting that a seed does not decide. Global generators are lent, and so obey."""


@dataclasses.dataclass(frozen=True)
class Word:
    """One key of `info`.

    Attributes:
        key: of the dictionary.
        since: step from which it is there; 0 is the reset.
        flip: step from which `late` is its value in the place of `early`.
        early: its value at first.
        late: its value later.
    """

    key: str
    since: int
    flip: int
    early: Value
    late: Value

    def at(self, step: int) -> Value | None:
        """Return its value at a step; None if it is not there."""
        return None if step < self.since else self.late if step >= self.flip else self.early


@dataclasses.dataclass(frozen=True)
class Beast:
    """An environment.

    Attributes:
        id: as registered.
        observation: its space.
        action: its space.
        words: what its info holds.
        rewards: of its steps, again from the first after the last.
        threshold: the registered one.
        length: the step that ends an episode by itself; None: none does.
        terminates: whether that is to terminate or to truncate.
        flag: what it says then.
        max_steps: the registered limit.
        spoilt: what is wrong with an observation or an info.
        spoilt_at: the step of it, 0 is the reset; None: nothing is.
        raises_at: the step that raises; None: none does.
        raises: where else it raises; ``episode`` is any reset but that with seed 0.
        frame: what it renders; ``raise`` raises, ``unable`` has no such mode.
        seeding: what decides a start.
        strays: whether numbers leave their bounds.
    """

    id: str
    observation: spaces.Space[Any]
    action: spaces.Space[Any]
    words: tuple[Word, ...]
    rewards: tuple[Value, ...]
    threshold: float | None
    length: int | None
    terminates: bool
    flag: Value
    max_steps: int | None
    spoilt: Spoilt
    spoilt_at: int | None
    raises_at: int | None
    raises: Literal["", "construct", "reset", "episode", "close"]
    frame: Literal["unable", "none", "rgb", "rgba", "list", "float", "raise"]
    seeding: Seeding
    strays: bool

    def register(self) -> None:
        """Make its id stand for it."""
        gymnasium.registry[self.id] = EnvSpec(
            self.id,
            entry_point=self._maker(),
            reward_threshold=self.threshold,
            max_episode_steps=self.max_steps,
        )

    def _maker(self) -> Any:
        """Return a function that says nothing of rendering, or a class that does."""
        made = functools.partial(Living, self)
        return (
            made
            if self.strays
            else type("Made", (), {"metadata": Living.metadata, "__new__": lambda _, **k: made(**k)})
        )


class Living(gymnasium.Env[Any, Any]):
    """A described environment at work."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - gymnasium declares no ClassVar
    starts = itertools.count()

    def __init__(self, beast: Beast, render_mode: str | None = None) -> None:
        if beast.raises == "construct":
            raise RuntimeError("cannot be built:\nnot here")
        self.render_mode = None if beast.frame == "unable" else render_mode
        self.observation_space, self.action_space = beast.observation, beast.action
        self._beast = beast
        self._steps, self._rng = 0, np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if self._beast.raises == "reset" or (self._beast.raises == "episode" and seed != 0):
            raise KeyError("start")
        self._steps, self._rng = 0, np.random.default_rng(self._source())
        return self._observed(), self._info()

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        beast = self._beast
        self._steps += 1
        if self._steps == beast.raises_at:
            raise ZeroDivisionError("step")
        ended = beast.flag[0] if self._steps == beast.length else NO[self._steps % 3][0]
        flags = (ended, False) if beast.terminates else (False, ended)
        reward = beast.rewards[(self._steps - 1) % len(beast.rewards)][0]
        return self._observed(), reward, *flags, self._info()

    def render(self) -> Any:
        picture = np.full((3, 4, 4 if self._beast.frame == "rgba" else 3), 7, np.uint8)
        match self._beast.frame:
            case "raise":
                raise OSError("no display")
            case "none":
                return None
            case "list":
                return [picture, picture]
            case "float":
                return picture / 255
        return picture

    def close(self) -> None:
        if self._beast.raises == "close":
            raise OSError("gone already")

    def _source(self) -> int | None:
        """Return the seed of what is random; None is another one each time."""
        match self._beast.seeding:
            case "fixed":
                return 1
            case "numpy":
                return int(np.random.randint(2**31))  # noqa: NPY002 - as environments do
            case "random":
                return random.randrange(2**31)
            case "counter":
                return next(self.starts)
            case "time":
                return time.perf_counter_ns()
            case "own":
                return None
        return int(self.np_random.integers(2**31))

    def _info(self) -> Any:
        found = {word.key: given[0] for word in self._beast.words if (given := word.at(self._steps)) is not None}
        spoilt = self._beast.spoilt == "info" and self._beast.spoilt_at == self._steps
        return ["no", "dict"] if spoilt else {"step": self._steps, **found}

    def _observed(self) -> Any:
        value = fill(self._beast.observation, self._rng, 50.0 if self._beast.strays else 0.0)
        if self._steps != self._beast.spoilt_at or self._beast.spoilt == "info":
            return value
        return SPOIL[self._beast.spoilt](self._beast.observation, value)


def fill(space: spaces.Space[Any], rng: np.random.Generator, beyond: float = 0.0) -> Any:
    """Draw an observation; quicker than `sample`, which needs a seed for every part of the space."""
    match space:
        case spaces.Dict():
            return {key: fill(inner, rng, beyond) for key, inner in space.items()}
        case spaces.Tuple():
            return tuple(fill(inner, rng, beyond) for inner in space.spaces)
        case spaces.Discrete():
            return int(space.start + rng.integers(space.n))
        case spaces.MultiDiscrete():
            return space.start + rng.integers(space.nvec)
        case spaces.MultiBinary():
            return rng.integers(2, size=space.shape)
        case spaces.Text():
            return "some words"
        case spaces.Box():
            if space.dtype.kind != "f":
                return rng.integers(space.low.clip(-99), space.high.clip(max=255), space.shape, endpoint=True).astype(
                    space.dtype
                )
            low, high = space.low.clip(-9), space.high.clip(max=9)
            return (rng.uniform(low, high, space.shape) + beyond).astype(space.dtype)
    return None


def _line(space: Any, value: Any, change: Callable[[np.ndarray[Any, Any]], Any]) -> Any:
    """Change the part called ``line``, which every description has at the top."""
    return {**value, "line": change(np.array(value["line"]))}


SPOIL: dict[str, Callable[[Any, Any], Any]] = {
    "nan": lambda space, value: _line(space, value, lambda line: line * np.nan),
    "inf": lambda space, value: _line(space, value, lambda line: line + np.inf),
    "shape": lambda space, value: _line(space, value, lambda line: line[None]),
    "missing": lambda _, value: {key: own for key, own in value.items() if key != "line"},
    "none": lambda *_: None,
}

# Spaces ------------------------------------------------------------------------------------------------------------

KEYS: Final = ("line", "p", "a/p", "render", "é \n.:", "", "observation", "instruction_")
_WHOLE: Any = spaces.Box(-3, 9, (2,), np.int16)
BOXES: tuple[Any, ...] = (
    spaces.Box(-1, 1, (2,)),
    spaces.Box(-np.inf, np.inf, (1,), np.float64),
    spaces.Box(np.array([0.1, -5]), np.array([0.3, 2e6]), dtype=np.float64),
    spaces.Box(-1, 1, (), np.float16),
    spaces.Box(0, 1, (2, 2)),
    _WHOLE,
    spaces.Box(0, 255, (3,), np.uint8),
    spaces.Box(-(2**62), 2**62, (1,), np.int64),
)
CHOICES: tuple[Any, ...] = (
    spaces.Discrete(1),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([3, 2]),
    spaces.MultiDiscrete(np.array([[2, 3]]), start=np.array([[5, -1]])),
    spaces.MultiBinary(3),
    spaces.MultiBinary([2, 2]),
)
PICTURES: tuple[Any, ...] = (
    spaces.Box(0, 255, (5, 4, 3), np.uint8),
    spaces.Box(0, 255, (3, 5, 4), np.uint8),
    spaces.Box(0, 1, (5, 4, 1)),
    spaces.Box(0, 255, (5, 4, 4), np.uint8),
    spaces.Box(0, 255, (4, 9, 9), np.uint8),
    spaces.Box(0, 255, (9, 9), np.uint8),
    spaces.Box(-1, 1, (3, 3, 3)),
)
UNREADABLE: tuple[Any, ...] = (
    spaces.Sequence(spaces.Discrete(2)),
    spaces.Graph(spaces.Box(-1, 1, (1,)), None),
    spaces.OneOf([spaces.Discrete(2), spaces.Box(-1, 1, (1,))]),
)
_TEXT: Any = spaces.Text(20)


def nest(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Parts alone and in dictionaries and tuples."""
    within = st.dictionaries(st.sampled_from(KEYS), part, min_size=1, max_size=2).map(spaces.Dict)
    return st.one_of(part, part, within, st.tuples(part, part | within).map(spaces.Tuple))


PARTS = st.sampled_from((*BOXES, *CHOICES, *PICTURES, _TEXT))
OBSERVATIONS = st.dictionaries(st.sampled_from(KEYS), nest(PARTS), max_size=3).map(
    lambda parts: spaces.Dict({**parts, "line": spaces.Box(-1, 1, (2,))})
)
ACTIONS = nest(st.sampled_from((*BOXES, *CHOICES)))


def rarely(usual: Any, others: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What is usual in five of six."""
    return st.integers(0, 5).flatmap(lambda k: others if k == 5 else st.just(usual))


WORDS_ = st.builds(
    Word,
    st.sampled_from((*WORDS, *WORDS, "won", "other")),
    st.sampled_from((0, 0, 1, 2, 3, 9)),
    st.integers(1, 6),
    st.sampled_from((*NO, *NO, *YES, *NEITHER[:2])),
    st.sampled_from((*YES, *YES, *NO, *NEITHER)),
)
BEASTS = st.builds(
    Beast,
    id=st.sampled_from(IDS),
    observation=OBSERVATIONS
    | rarely(
        spaces.Dict(line=BOXES[0]), st.sampled_from(UNREADABLE).map(lambda part: spaces.Dict(line=BOXES[0], part=part))
    ),
    action=ACTIONS | rarely(CHOICES[1], st.sampled_from((*UNREADABLE, _TEXT))),
    words=st.lists(WORDS_, max_size=2, unique_by=lambda w: w.key).map(tuple),
    rewards=st.lists(
        st.sampled_from(REWARDS[:6]) | rarely(REWARDS[0], st.sampled_from(REWARDS[6:])), min_size=1, max_size=4
    ).map(tuple),
    threshold=st.sampled_from((None, -2.0, 0.0, 1.0, 3.0, 7.5, float("inf"))),
    length=st.none() | st.integers(1, 6),
    terminates=st.booleans(),
    flag=rarely(YES[0], st.sampled_from((*YES, *NEITHER))),
    max_steps=st.integers(1, 9),
    spoilt=st.sampled_from(("nan", "inf", "missing", "shape", "none", "info")),
    spoilt_at=rarely(None, st.integers(0, 5)),
    raises_at=rarely(None, st.integers(1, 5)),
    raises=rarely("", st.sampled_from(("construct", "reset", "episode", "close"))),
    frame=st.sampled_from(("unable", "none", "rgb", "rgba", "list", "float", "raise")),
    seeding=rarely("obeys", st.sampled_from(("fixed", "numpy", "random", *UNSEEDED))),
    strays=st.booleans(),
).map(lambda b: dataclasses.replace(b, max_steps=None) if b.length in (2, 4) else b)
RULES = st.sampled_from((None, None, None, "none", "terminated", "info:success", "info:won", "return>=2"))

# The oracle --------------------------------------------------------------------------------------------------------

Fate = Literal["refused", "unpaired", "complete"]


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a run must end in.

    Attributes:
        fate: of the run.
        rule: in force; empty where there is none.
        outcome: of every episode.
        steps: of every episode that is no error.
        total: return of every episode that is no error.
    """

    fate: Fate
    rule: str = ""
    outcome: Outcome = "error"
    steps: int = 0
    total: float = 0.0


def foretell(beast: Beast, success: str | None) -> Expected:
    """Say what an evaluation of two conditions must end in."""
    rule = _rule(beast, success)
    unreadable = (spaces.Sequence, spaces.Graph, spaces.OneOf)
    cannot_start = beast.raises in ("construct", "reset") or beast.spoilt_at == 0
    unfit = any(isinstance(part, unreadable) for part in (beast.action, *beast.observation.values()))  # type: ignore[attr-defined]
    if cannot_start or unfit or isinstance(beast.action, spaces.Text) or rule is None:
        return Expected("refused")
    if beast.raises == "episode":
        return Expected("complete", rule)
    fate: Fate = "unpaired" if beast.seeding in UNSEEDED else "complete"
    contradicting: tuple[str, ...] = ()
    if success is None:
        contradicting = WORDS if rule.startswith("return") else WORDS[: WORDS.index(rule.removeprefix("info:"))]
    outcome, steps, total = _walk(beast, rule, contradicting)
    return Expected(fate, rule, outcome, steps, total)


def _rule(beast: Beast, success: str | None) -> str | None:
    """Return the rule in force; None if there is none, or if looking for it fails."""
    if success is not None:
        return success
    if _fails(beast, 1):
        return None
    said = {word.key for word in beast.words for step in (0, 1) if word.at(step) is not None}
    for key in WORDS:
        if key in said:
            return f"info:{key}"
    if beast.threshold is None or not np.isfinite(beast.threshold):
        return None
    return f"return>={beast.threshold:g}"


def _fails(beast: Beast, step: int) -> bool:
    """Whether a step breaks, whatever the rule is."""
    reward = beast.rewards[(step - 1) % len(beast.rewards)][1]
    # gymnasium's own time limit overwrites what the environment says of truncation.
    cut = step == beast.max_steps and not beast.terminates
    flag = step == beast.length and beast.flag[1] is BAD and not cut
    return step in (beast.raises_at, beast.spoilt_at) or reward is BAD or flag


def _walk(beast: Beast, rule: str, contradicting: tuple[str, ...]) -> tuple[Outcome, int, float]:
    """Go through an episode."""
    total, answered = 0.0, False
    key = rule.removeprefix("info:") if rule.startswith("info:") else None
    for step in range(1, DEFAULT_MAX_STEPS + 1):
        said = {word.key: given[1] for word in beast.words if (given := word.at(step)) is not None}
        if _fails(beast, step) or any(word in said for word in contradicting):
            return "error", step, total
        total += beast.rewards[(step - 1) % len(beast.rewards)][1]
        finished = step in (beast.length, beast.max_steps, DEFAULT_MAX_STEPS)
        terminated = step == beast.length and beast.terminates
        answered = answered or key in said
        if key and (said.get(key) is BAD or (finished and not answered)):
            return "error", step, total
        succeeded = {
            "none": False,
            "terminated": terminated,
            "return": finished and rule.startswith("return") and total >= float(rule.partition(">=")[2] or 0),
            "info": key is not None and said.get(key) is True,
        }[rule.partition(":")[0].partition(">")[0]]
        if succeeded or finished:
            outcome: Outcome = "unjudged" if rule == "none" else "success" if succeeded else "failure"
            return outcome, step, total
    raise AssertionError("an episode ends")
