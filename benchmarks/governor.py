"""Does the governor keep its limits for any input? `python benchmarks/governor.py [--chunks 100000] [--json]`.

Adversarial chunks through admit, follow and brake; every set-point that comes out is checked by a checker that shares
no arithmetic with the governor: whole thousandths of a degree from the data sheet's degrees, forward kinematics from
the DH values, and a second twin, which also looks for contacts a quarter, a half and three quarters of the way
from one set-point to the next. Times are processor time of the thread, so that a busy machine changes them little.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from checked import SHORT, add_short, require, require_some, run
from rich.console import Console
from rich.table import Table

from robotest.embodiment import rm75, workcell
from robotest.embodiment.collision import Twin
from robotest.hardware.control.governor import Governor, JointTrajectory, RejectedChunkError, Shaped, Tolerances
from robotest.hardware.limits import DEFAULT_LIMITS

TICK_S = 0.01
UNIT_RAD = float(np.deg2rad(0.001))
# In thousandths of a degree: positions, and their changes per tick (180 deg/s) and per tick squared (600 deg/s^2).
LIMIT = np.array([178, 130, 178, 135, 178, 128, 360]) * 1000 - np.rad2deg(0.01) * 1000
SPEED, ACCELERATION = 1800, 60
CORNERS_M = (np.array([-0.47, -0.22, 0.0]), np.array([0.47, 0.30, 0.45]))
OPENING_PER_TICK = 0.04
FIGURES = (
    "off the wire's grid", "beyond a joint limit", "too fast", "acceleration", "tip outside the workspace",
    "contact or less than the clearance", "touching between set-points", "opening outside 0 to 1", "opening too fast",
    "changed by a rejected chunk", "not at rest after braking", "nonsense admitted", "other exceptions",
)  # fmt: skip
SIZES = (0.002, 0.01, 0.05, 0.2)  # of a random walk's steps [rad]
COURSE = 40  # chunks from one start


@dataclasses.dataclass
class Tally:
    """Results of one process.

    Attributes:
        violations: by kind.
        kinds: of chunks: admitted and rejected.
        setpoints: checked.
        held: ticks in which a chunk was abandoned.
        ticks: processor time of each `follow` [s].
        fastest: largest speed seen, in parts of the limit.
    """

    violations: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    kinds: collections.Counter[tuple[str, bool]] = dataclasses.field(default_factory=collections.Counter)
    setpoints: int = 0
    held: int = 0
    ticks: list[float] = dataclasses.field(default_factory=list)
    fastest: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.violations + other.violations,
            self.kinds + other.kinds,
            self.setpoints + other.setpoints,
            self.held + other.held,
            self.ticks + other.ticks,
            max(self.fastest, other.fastest),
        )


def tips(joints: np.ndarray) -> np.ndarray:
    """Return both grasp points in the world from the DH values [m]."""
    positions = np.empty((2, 3))
    for arm in range(2):
        rotation = _about_z(workcell.BASE_YAW_RAD)
        position = np.array(workcell.BASE_POSITION_M[arm])
        for q, d, alpha in zip(joints[arm], rm75.DH_D_M, np.deg2rad(rm75.DH_ALPHA_DEG), strict=True):
            rotation = rotation @ _about_z(q)
            position = position + d * rotation[:, 2]
            rotation = rotation @ _about_x(alpha)
        positions[arm] = position + rm75.TIP_FROM_FLANGE_M * rotation[:, 2]
    return positions


def _about_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _about_x(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


class Checker:
    """Looks at one set-point after the other."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._twin, self._bare = Twin(), Twin()
        self._bare._model.pair_margin[:] = 0  # noqa: SLF001 - touching itself, without any clearance
        self._units = self._velocity = np.zeros((2, 7), np.int64)
        self._openings = np.zeros(2)

    def start(self, joints: np.ndarray, openings: np.ndarray) -> None:
        """Begin at rest."""
        self._units = np.rint(np.rad2deg(joints) * 1000).astype(np.int64)
        self._velocity, self._openings = np.zeros((2, 7), np.int64), openings

    def look(self, joints: np.ndarray, openings: np.ndarray) -> None:
        """Count what is wrong with the next set-point."""
        units = np.rint(np.rad2deg(joints) * 1000).astype(np.int64)
        velocity = units - self._units
        wrong = {
            "off the wire's grid": np.any(np.abs(np.rad2deg(joints) * 1000 - units) > 1e-6),
            "beyond a joint limit": np.any(np.abs(units) > LIMIT),
            "too fast": np.abs(velocity).max() > SPEED,
            "acceleration": np.abs(velocity - self._velocity).max() > ACCELERATION,
            "tip outside the workspace": self._outside(joints),
            "contact or less than the clearance": self._twin.contact(joints) is not None,
            "touching between set-points": self._touching(velocity),
            "opening outside 0 to 1": not np.all((openings >= 0) & (openings <= 1)),
            "opening too fast": np.abs(openings - self._openings).max() > OPENING_PER_TICK + 1e-12,
        }
        self._tally.violations.update(name for name, is_wrong in wrong.items() if is_wrong)
        self._tally.setpoints += 1
        self._tally.fastest = max(self._tally.fastest, float(np.abs(velocity).max()) / SPEED)
        self._units, self._velocity, self._openings = units, velocity, openings

    def _outside(self, joints: np.ndarray) -> bool:
        positions = tips(joints)  # the twin's base is turned by a right angle to six digits: a micrometre
        return bool(np.any(positions < CORNERS_M[0] - 1e-6) or np.any(positions > CORNERS_M[1] + 1e-6))

    def _touching(self, velocity: np.ndarray) -> bool:
        if np.abs(velocity).max() < SPEED // 10:
            return False
        between = (self._units + velocity * part for part in (0.25, 0.5, 0.75))
        return any(self._bare.contact(q * UNIT_RAD) is not None for q in between)


class Adversary:
    """Makes chunks for arms that are at some set-point, sound ones and others."""

    def __init__(self, rng: np.random.Generator, starts: list[np.ndarray]) -> None:
        self._rng, self._twin, self._starts = rng, Twin(), starts
        self._kinds: Mapping[str, tuple[int, Callable[[np.ndarray, float], Any]]] = {
            "random walk": (8, self._walk),
            "to and fro": (4, self._zigzag),
            "at a random pose": (6, lambda here, dt: self._line(here, self._anywhere(), dt)),
            "at the table, an arm, a column, the ceiling": (8, lambda here, dt: self._line(here, self._bad(here), dt)),
            "back to the middle": (4, lambda here, dt: self._line(here, workcell.DOWN_REST_RAD, dt)),
            "at the limits": (4, lambda here, dt: self._line(here, self._limits(here), dt)),
            "one large step": (3, lambda here, dt: here + rng.uniform(-1, 1, (1, 2, 7)) * np.pi * dt),
            "stay": (1, lambda here, _: np.repeat(here[None], 3, 0)),
            "jump": (1, lambda here, _: here + rng.uniform(-2, 2, (3, 2, 7))),
        }
        total = sum(weight for weight, _ in self._kinds.values())
        self._weights = [weight / total for weight, _ in self._kinds.values()]

    def chunk(self, here: np.ndarray, number: int, now: float) -> tuple[str, dict[str, Any], bool]:
        """Return a kind, a chunk's fields, and whether admitting it would be wrong whatever the state."""
        rng = self._rng
        dt = float(rng.choice([0.02, 0.033, 0.05, 0.1, 0.1, 0.2, 0.5]))
        kind = str(rng.choice(list(self._kinds), p=self._weights))
        joints = np.asarray(self._kinds[kind][1](here, dt))
        openings = rng.uniform(-0.25, 1.25, (len(joints), 2))
        fields = {
            "number": number,
            "joints": joints,
            "openings": openings,
            "dt": dt,
            "observed": now - rng.uniform(0, 2),
        }
        if rng.random() > 0.25:
            return kind, fields, False
        name, spoiled = self._spoilt(fields, now)
        return name, fields | spoiled, True

    def _walk(self, here: np.ndarray, dt: float) -> np.ndarray:
        steps = int(self._rng.choice([1, 4, 8, 16, 50]))
        walked: np.ndarray = here + np.cumsum(self._rng.normal(0, self._rng.choice(SIZES) * 10 * dt, (steps, 2, 7)), 0)
        return walked

    def _zigzag(self, here: np.ndarray, dt: float) -> np.ndarray:
        turn = self._rng.uniform(-1.1, 1.1, (2, 7)) * np.pi * dt * (self._rng.random((2, 7)) < 0.4)
        zigzag: np.ndarray = here + turn * (np.arange(int(self._rng.integers(2, 9))) % 2 == 0)[:, None, None]
        return zigzag

    def _line(self, here: np.ndarray, end: np.ndarray, dt: float) -> np.ndarray:
        speed = self._rng.choice([0.3, 0.7, 1.0, 1.09]) * np.pi
        steps = int(np.ceil(max(np.abs(end - here).max() / (speed * dt), 1)))
        line: np.ndarray = here + (end - here) * (np.arange(1, steps + 1) / steps)[:, None, None]
        if self._rng.random() < 0.3:
            line = line[: int(self._rng.integers(1, min(steps, 60) + 1))]
        if self._rng.random() < 0.2:
            return line
        # What would be admitted: what is in the way is then met at full speed and not at admission.
        admitted = [pose for pose in line if self._allowed(pose)]
        return np.array(admitted) if admitted else line

    def _allowed(self, joints: np.ndarray) -> bool:
        if self._twin.contact(joints) is not None:
            return False
        positions = self._twin.tips()
        return bool(np.all(positions >= CORNERS_M[0]) and np.all(positions <= CORNERS_M[1]))

    def _anywhere(self) -> np.ndarray:
        if self._rng.random() < 0.3:
            anywhere: np.ndarray = self._rng.uniform(-1, 1, (2, 7)) * rm75.JOINT_LIMIT_RAD
            return anywhere
        return self._starts[int(self._rng.integers(len(self._starts)))]

    def _bad(self, here: np.ndarray) -> np.ndarray:
        moves = ([0, 0.6], [-1.4, 0], [1.4, 0], [0, -0.5, 0, 0.6], [0, -0.7, 0, -1.5], [0, 0, 0, 0.5, 0, 1.2])
        end: np.ndarray = here.copy()
        for arm in range(2):
            move = moves[int(self._rng.integers(len(moves)))]
            end[arm, : len(move)] += move
        return end.clip(-rm75.JOINT_LIMIT_RAD, rm75.JOINT_LIMIT_RAD)

    def _limits(self, here: np.ndarray) -> np.ndarray:
        chosen = self._rng.random((2, 7)) < self._rng.choice([0.0, 0.0, 0.3])  # joint 7 gets there from anywhere
        chosen[:, 6] |= self._rng.random(2) < 0.7
        ends = np.sign(self._rng.normal(size=(2, 7))) * (rm75.JOINT_LIMIT_RAD + self._rng.choice([-0.01, 0.0, 0.009]))
        return np.where(chosen, ends, here)

    def _spoilt(self, fields: Mapping[str, Any], now: float) -> tuple[str, dict[str, Any]]:
        """Return a name, and what to put in the place of sound fields."""
        rng, joints = self._rng, fields["joints"]
        one = rng.random(joints.shape) < max(0.05, 1 / joints.size)
        one.flat[int(rng.integers(one.size))] = True
        spoils: dict[str, Callable[[], dict[str, Any]]] = {
            "NaN": lambda: {"joints": np.where(one, np.nan, joints)},
            "infinity": lambda: {"joints": np.where(one, rng.choice([np.inf, -np.inf]), joints)},
            "huge": lambda: {"joints": np.where(one, rng.choice([1e9, -1e300, 2.0**62]), joints)},
            "huge integers": lambda: {"joints": np.full(joints.shape, np.iinfo(np.int64).min)},
            "degrees": lambda: {"joints": np.rad2deg(np.where(np.abs(joints) < 0.2, 0.2, joints))},
            "another type": lambda: {"joints": joints.astype(rng.choice(np.array(["c16", "?", "U8", "O", "S4"])))},
            "another shape": lambda: {"joints": joints[..., : int(rng.integers(7))]},
            "one arm": lambda: {"joints": joints[:, :1]},
            "ragged": lambda: {"joints": [*joints.tolist(), [[0.0]]]},
            "no array": lambda: {"joints": rng.choice(np.array([None, {}, "", b"", 0], object))},
            "no step": lambda: {"joints": joints[:0], "openings": np.zeros((0, 2))},
            "257 steps": lambda: {"joints": np.repeat(joints[:1], 257, 0), "openings": np.ones((257, 2))},
            "openings": lambda: {"openings": np.full((len(joints), 2), rng.choice([np.nan, np.inf, -1.0, 2.0, 255.0]))},
            "fewer openings": lambda: {"openings": np.ones((len(joints) - 1, 2))},
            "dt": lambda: {
                "dt": rng.choice(np.array([0, 0.0, -0.1, np.nan, np.inf, 1e9, 0.019, 50, None, "0.1"], object))
            },
            "age": lambda: {"observed": now + rng.choice([1e-3, -2.01, np.nan, np.inf, -np.inf, -1e9])},
            "number": lambda: {
                "number": rng.choice(np.array([-1, -(2**70), 2**64, np.nan, 0.5, None, "1", True], object))
            },
        }
        name = str(rng.choice(list(spoils)))
        return name, spoils[name]()


def fuzz(seed: int, chunks: int) -> Tally:
    """Put chunks through governors, one after the other, and count what goes wrong."""
    rng = np.random.default_rng(seed)
    tally = Tally()
    checker, twin = Checker(tally), Twin()
    starts = _starts(rng, twin)
    adversary = Adversary(rng, starts)
    for course in range(-(-chunks // COURSE)):
        lag = 9.0 if course % 2 else Tolerances().lag  # without giving up, more of the full speed is seen
        governor = Governor(DEFAULT_LIMITS, twin, TICK_S, UNIT_RAD, Tolerances(lag=lag))
        governor.start_at(starts[int(rng.integers(len(starts)))], rng.random(2))
        checker.start(governor.commanded.joints, governor.commanded.openings)
        for number in range(min(COURSE, chunks - course * COURSE)):
            _put_through(governor, adversary, checker, tally, number, rng)
    return tally


def _put_through(
    governor: Governor, adversary: Adversary, checker: Checker, tally: Tally, number: int, rng: np.random.Generator
) -> None:
    now = float(rng.uniform(10, 1e6))
    before = governor.commanded
    kind, fields, is_nonsense = adversary.chunk(before.joints, number, now)
    try:
        governor.admit(JointTrajectory(**fields), now)
        admitted = True
    except (RejectedChunkError, ValueError, TypeError) as error:  # the executor stops for each of them
        admitted = False
        after = governor.commanded
        same = np.array_equal(before.joints, after.joints) and np.array_equal(before.openings, after.openings)
        tally.violations["changed by a rejected chunk"] += not same or governor.busy
        tally.kinds["(not a RejectedChunkError)", False] += not isinstance(error, RejectedChunkError)
    except Exception as error:  # noqa: BLE001 - counting them is what this is for
        print(f"{kind}: {type(error).__name__}: {error}", file=sys.stderr)
        admitted = False
        tally.violations["other exceptions"] += 1
    tally.kinds[kind, admitted] += 1
    tally.violations["nonsense admitted"] += is_nonsense and admitted
    for _ in range(int(rng.choice([2, 10, 25, 60] if admitted else [1, 4, 10]))):
        start = time.thread_time()
        shaped = governor.follow()
        tally.ticks.append(time.thread_time() - start)
        _look(checker, shaped, tally)
    if rng.random() < 0.1:
        for _ in range(SPEED // ACCELERATION + 2):
            _look(checker, governor.brake(), tally)
        tally.violations["not at rest after braking"] += not governor.at_rest


def _look(checker: Checker, shaped: Shaped, tally: Tally) -> None:
    checker.look(shaped.setpoint.joints, shaped.setpoint.openings)
    tally.held += shaped.held is not None


def _starts(rng: np.random.Generator, twin: Twin) -> list[np.ndarray]:
    """Return poses all over the workspace, most of them near to something."""
    starts = [workcell.DOWN_REST_RAD]
    while len(starts) < 300:
        pose = workcell.DOWN_REST_RAD + rng.normal(0, rng.choice([0.2, 0.5, 1.0]), (2, 7))
        pose = np.clip(pose, DEFAULT_LIMITS.joint_low, DEFAULT_LIMITS.joint_high)
        pose[:, 6] = rng.choice([-1, 1], 2) * (6.27 - rng.exponential(rng.choice([0.1, 2.0]), 2).clip(0, 6.27))
        positions = tips(pose)
        inside = np.all(positions > CORNERS_M[0] + 0.001) and np.all(positions < CORNERS_M[1] - 0.001)
        if inside and twin.contact(pose) is None and twin.contact(np.rint(pose / UNIT_RAD) * UNIT_RAD) is None:
            starts.append(pose)
    return starts


def timing(rounds: int) -> dict[str, np.ndarray]:
    """Return processor times of sound work: 50-step chunks that move both arms all the time [s]."""
    rng = np.random.default_rng(0)
    twin = Twin()
    governor = Governor(DEFAULT_LIMITS, twin, TICK_S, UNIT_RAD)
    governor.start_at(workcell.DOWN_REST_RAD, np.ones(2))
    times: dict[str, list[float]] = {"admit, 50 steps": [], "its poses in the twin": [], "follow": []}

    def timed(name: str, work: Callable[[], object]) -> None:
        start = time.thread_time()
        work()
        times[name].append(time.thread_time() - start)

    for number in range(rounds):
        waves = np.sin(np.linspace(0, np.pi, 51)[1:, None, None] * rng.integers(1, 3, (2, 7))) * rng.uniform(
            -0.1, 0.1, (2, 7)
        )
        joints = workcell.DOWN_REST_RAD + waves
        chunk = JointTrajectory(number, joints, np.ones((50, 2)), 0.05, 0.0)
        timed("admit, 50 steps", lambda chunk=chunk: governor.admit(chunk, 0.0))  # type: ignore[misc]
        timed("its poses in the twin", lambda joints=joints: [twin.contact(q) for q in joints])  # type: ignore[misc]
        for _ in range(250):
            timed("follow", governor.follow)
    return {name: np.array(samples) for name, samples in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=200, help="chunks that are timed")
    parser.add_argument("--json", action="store_true")
    add_short(parser)
    args = parser.parse_args()
    if args.short:
        args.chunks, args.rounds, args.processes = 80, 2, 2
    times = timing(args.rounds)
    for name, samples in times.items():
        require(name, len(samples), args.rounds * (250 if name == "follow" else 1))
    parts = [args.chunks // args.processes + (i < args.chunks % args.processes) for i in range(args.processes)]
    start = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        seeds = [1000 * args.seed + i for i in range(args.processes)]
        tally = sum(pool.starmap(fuzz, list(zip(seeds, parts, strict=True))), Tally())
    times["follow, while fuzzed"] = np.array(tally.ticks)
    figures: dict[str, Any] = {
        "chunks": sum(n for (kind, _), n in tally.kinds.items() if not kind.startswith("(")),
        "admitted": sum(n for (_, admitted), n in tally.kinds.items() if admitted),
        "set-points": tally.setpoints,
        "stopped on the way": tally.held,
        "largest speed, of the limit": tally.fastest,
        "violations": {name: tally.violations[name] for name in FIGURES},
        "ms": {
            name: (1e3 * np.percentile(samples, [50, 99, 100])).round(3).tolist() for name, samples in times.items()
        },
        "seconds": round(time.perf_counter() - start),
    }
    require("chunks", figures["chunks"], args.chunks)
    for what in ("admitted", "set-points", "largest speed, of the limit"):
        require_some(what, figures[what])
    require_some("rejected chunks", figures["chunks"] - figures["admitted"])
    if args.json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    else:
        _show(figures, tally, short=args.short)
    if violations := sum(figures["violations"].values()):
        raise SystemExit(f"governor.py: {violations} violations")


def _show(figures: Mapping[str, Any], tally: Tally, *, short: bool) -> None:
    console = Console(width=120)
    kinds = Table("chunks", "admitted", "rejected")
    for kind in sorted({kind for kind, _ in tally.kinds}):
        kinds.add_row(kind, *(str(tally.kinds[kind, admitted]) for admitted in (True, False)))
    console.print(kinds)
    table = Table("violations", "", title=f"{figures['chunks']:,} chunks, {figures['set-points']:,} set-points")
    for name, n in figures["violations"].items():
        table.add_row(name, str(n))
    for name in ("admitted", "stopped on the way", "largest speed, of the limit", "seconds"):
        table.add_row(f"({name})", f"{figures[name]:.4g}" if isinstance(figures[name], float) else str(figures[name]))
    console.print(table)
    spent = Table("processor time", "p50", "p99", "max", title=SHORT if short else "[ms]")
    for name, percentiles in figures["ms"].items():
        spent.add_row(name, *(f"{x:.3f}" for x in percentiles))
    console.print(spent)


if __name__ == "__main__":
    run(main)
