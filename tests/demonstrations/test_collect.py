"""Collecting: environments are stopped and closed, and a worker's failure is a one-line error."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from robotest import registry
from robotest.cli.main import main
from robotest.config import CollectConfig
from robotest.demonstrations.collect import collect, demonstrate
from robotest.demonstrations.files import DemonstrationFile
from robotest.errors import ArtifactError, RobotestError
from robotest.experts import experts_of
from robotest.randomness import derive, generator
from robotest.types import Command, Env, EnvOptions, Experts, SimulatedEnv
from tests.doubles.fakes import PointEnv

SOURCE = """
import dataclasses, os
from pathlib import Path
import numpy as np
from robotest.types import Command, EnvOptions
from tests.doubles.fakes import PointEnv, PointSuite

NOTES = Path(os.environ["NOTES"])

class Noting(PointEnv):
    def __init__(self, task, options):
        super().__init__(task, options)
        if os.environ.get("FAULT") == "build":
            raise ValueError("no such scene\\nsecond line")

    def reset(self, seed, episode=0):
        if os.environ.get("FAULT") == "die":
            os._exit(9)
        if os.environ.get("FAULT") == "reset":
            raise RuntimeError("the scene fell over")
        super().reset(seed, episode)

    def stop(self):
        with NOTES.open("a") as notes:
            notes.write("stop\\n")

    def close(self):
        with NOTES.open("a") as notes:
            notes.write("close\\n")

class Suite(PointSuite):
    name = "noting"
    def make(self, task, options):
        super().make(task, options)
        return Noting(task, options)

class PointExperts:
    tasks = ("near", "far")
    mixture = {"clean": 1.0}
    options = EnvOptions(image_size=8)
    noise = np.zeros(3)
    n_points = 0
    def commands(self, env, style, rng):
        while True:
            state = env.observe().state.astype(float)
            yield Command(np.array([*state[2:], 0.5]), np.array([*state[:2], 0.0]))
    def points(self, env):
        return np.zeros((0, 2), np.float32)

suite, experts = Suite(), PointExperts()
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite with experts, installed for this process and its children; yields its environments' notes."""
    site = tmp_path / "site"
    (site / "noting-1.dist-info").mkdir(parents=True)
    (site / "noting.py").write_text(SOURCE)
    (site / "noting-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: noting\nVersion: 1\n")
    (site / "noting-1.dist-info" / "entry_points.txt").write_text(
        textwrap.dedent("""
        [robotest.envs]
        noting = noting:suite
        [robotest.experts]
        noting = noting:experts
        """)
    )
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    return tmp_path / "notes"


def config(tmp_path: Path, **changes: object) -> CollectConfig:
    base = CollectConfig(tmp_path / "demos.h5", env="noting", tasks=("near",), episodes=3, workers=1)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def ignore(*_: object) -> None:
    pass


@pytest.mark.slow
def test_every_episode_ends_with_a_stop_and_every_environment_is_closed(notes: Path, tmp_path: Path) -> None:
    collect(config(tmp_path, tasks=("near", "far"), workers=2), ignore)
    lines = notes.read_text().split()
    assert lines.count("stop") >= 6
    assert lines.count("close") in (2, 3, 4)  # each worker had one environment of each task that it worked on
    assert lines[-1] == "close"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("build", "noting:near failed in a worker process: ValueError: no such scene"),
        ("reset", "noting:near failed in a worker process: RuntimeError: the scene fell over"),
        ("die", "noting:near: a worker process died or was killed"),
    ],
)
def test_what_goes_wrong_in_a_worker_is_one_line(
    notes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    message: str,
) -> None:
    monkeypatch.setenv("FAULT", fault)
    out = tmp_path / "demos.h5"
    assert main(["collect", "--env", "noting", "--out", str(out), "--episodes", "2", "--workers", "1"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert not [line for line in said if "Traceback" in line]
    assert not list(tmp_path.glob("demos*"))


@pytest.mark.slow
def test_an_unknown_setting_is_named_though_a_worker_found_it(notes: Path, tmp_path: Path) -> None:
    with pytest.raises(RobotestError, match="unknown setting 'odd'"):
        collect(config(tmp_path, setting="odd"), ignore)


def test_what_is_there_is_not_overwritten_unless_asked(notes: Path, tmp_path: Path) -> None:
    out = tmp_path / "demos.h5"
    out.write_text("something valuable")
    with pytest.raises(ArtifactError, match=r"demos.h5 is there already; .*--overwrite"):
        collect(config(tmp_path), ignore)
    with pytest.raises(ArtifactError, match="is a folder"):
        collect(config(tmp_path, out=tmp_path, overwrite=True), ignore)
    assert out.read_text() == "something valuable"


@pytest.mark.slow
def test_what_is_there_is_overwritten_if_asked(notes: Path, tmp_path: Path) -> None:
    (tmp_path / "demos.h5").write_text("old")
    collect(config(tmp_path, overwrite=True), ignore)
    with DemonstrationFile(tmp_path / "demos.h5") as file:
        assert len(file) == 3


class Stubborn:
    """An expert that stops, or yields a NaN."""

    tasks, mixture, options = ("near",), {"clean": 1.0}, EnvOptions()
    noise, n_points = np.zeros(3), 0

    def __init__(self, value: float | None) -> None:
        self._value = value

    def commands(self, env: Env, style: str, rng: np.random.Generator) -> Iterator[Command]:
        if self._value is None:
            raise RuntimeError("no way")
        yield Command(np.full(3, self._value), np.zeros(3))

    def points(self, env: Env) -> np.ndarray:
        return np.zeros((0, 2), np.float32)


@pytest.mark.parametrize("value", [None, np.nan, 0.0])
def test_the_world_is_left_safe_however_an_episode_ends(value: float | None) -> None:
    env = PointEnv("near", EnvOptions(image_size=8))
    expert: Experts = Stubborn(value)
    with pytest.raises((RuntimeError, RobotestError, StopIteration)):
        demonstrate(env, expert, 0)
    assert env.stops == 1


def as_ever(env: SimulatedEnv, experts: Experts, seed: int) -> list[tuple[np.ndarray, ...]]:
    """An independent implementation of `demonstrate`: every number of a row."""
    env.reset(seed, 0)
    rng = generator(derive(seed, "expert"))
    commands = experts.commands(env, "clean", rng)
    disturbed = np.flatnonzero(experts.noise)
    wandering = np.zeros(len(disturbed))
    rows = []
    for _ in range(env.spec.max_steps):
        seen, points, snapshot = env.observe(), experts.points(env), env.snapshot()
        command = next(commands)
        noise = np.sqrt(1 - 0.8**2) * experts.noise[disturbed] * rng.standard_normal(len(disturbed))
        wandering = 0.8 * wandering + noise
        sent = command.action - command.anchor
        sent[disturbed] += wandering
        env.begin_chunk(sent.astype(np.float32)[None])
        status = env.apply(sent.astype(np.float32))
        rows.append((*seen.images.values(), seen.state, command.action, command.anchor, points, snapshot))
        if status.done:
            break
    return rows


@pytest.mark.slow
def test_demonstrations_of_dual_arm_are_what_they_were() -> None:
    experts = experts_of("dual_arm")
    with closing(registry.resolve("env", "dual_arm").make("lift_tray", experts.options)) as env:
        expected = as_ever(env, experts, 7)
        found = demonstrate(env, experts, 7)
    columns = [*found.images.values(), found.state, found.actions, found.anchors, found.points, found.states]
    assert len(found) == len(expected)
    for column, wanted in zip(columns, zip(*expected, strict=True), strict=True):
        assert column is not None
        np.testing.assert_array_equal(column, np.stack(wanted).astype(column.dtype))
