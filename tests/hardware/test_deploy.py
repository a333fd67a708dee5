"""``robotest deploy``: a policy, an operator and a run directory, with simulated controllers in place of the arms."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest

from robotest.cli.main import main
from robotest.hardware.cameras.watch import CameraError
from robotest.hardware.control import black_box
from robotest.hardware.deployment.config import Rig
from robotest.hardware.deployment.console import Unattended
from robotest.hardware.deployment.runner import RobotRunner
from robotest.runs.directory import read_episodes
from robotest.types import EnvOptions, Episode
from tests.doubles.robots import (
    PATIENCE_S,
    ROOT,
    Place,
    Simulator,
    assert_braked,
    assert_switched_off,
    require_sdk,
    simulated,
    start_deploy,
    until,
)

require_sdk()
pytestmark = [pytest.mark.slow, pytest.mark.realtime]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated() as simulator:
        yield simulator


# -- simulated controllers, nobody to ask ------------------------------------------------------------------------------

SHIPPED: dict[str, Any] = {
    "policy": "mini_vla",
    "verifiers": ["random", "leverage"],
    "tasks": ["place_block_pad"],
    "candidates": 4,
    "steps": 16,
    "film": True,
}


@pytest.fixture(scope="module")
def run(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An episode under two conditions, cut short."""
    out = tmp_path_factory.mktemp("deploy") / "run"
    process = start_deploy(simulator, out, **SHIPPED)
    said, errors = process.communicate(timeout=8 * PATIENCE_S)
    assert process.returncode == 0, said + errors
    return out


def episodes(out: Path) -> list[Episode]:
    return list(read_episodes(out).values())


def test_the_shipped_policy_moves_the_arms(run: Path) -> None:
    found = episodes(run)
    assert {e.condition for e in found} == {"random", "leverage"}
    assert [e.error for e in found] == [None] * 2
    assert all(e.steps == 16 or e.outcome == "success" for e in found)


def test_its_run_directory_is_read_like_any_other(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(run)]) == 0
    assert "leverage" in capsys.readouterr().out
    assert json.loads((run / "run.json").read_text())["identity"]["env"] == "rm75-dual-simulated"


def test_every_episode_is_filmed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    films = sorted((run / "episodes").rglob("*.mp4"))
    assert len(films) == 2
    for film in films:
        with imageio.get_reader(film) as reader:
            frames: Any = reader
            assert frames.count_frames() >= 10
    assert main(["video", str(run), "--episodes", "all"]) == 0
    assert sorted(capsys.readouterr().out.split()) == [str(film) for film in films]


def test_the_black_box_tells_all_of_it(run: Path) -> None:
    (box,) = run.glob("black-box-*.bin")
    ticks = black_box.read(box)
    assert {b"disabled", b"holding", b"following"} <= set(ticks["mode"])
    assert set(ticks["fault"]) <= {b"", b"ended"}
    assert (np.diff(ticks["index"]) == 1).all()


STEADY: dict[str, Any] = {
    "verifiers": ["first"],
    "tasks": ["stack_blocks_two"],
    "candidates": 1,
    "steps": 16,
    "film": False,
}


@pytest.fixture(scope="module")
def interrupted(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was ended by Ctrl-C while the policy was deciding."""
    out = tmp_path_factory.mktemp("deploy") / "run"
    process = start_deploy(simulator, out, policy="tests.doubles.robots:slow", **STEADY)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "deciding\n", process.stderr and process.stderr.read()
        time.sleep(0.5)  # they come to rest
        simulator.forget()
        os.kill(process.pid, signal.SIGINT)
        said, errors = process.communicate(timeout=2 * PATIENCE_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, said + errors
    assert said.endswith("the same command goes on from there\n")
    return out


def test_after_control_c_nothing_new_begins(simulator: Simulator, interrupted: Path) -> None:
    sent = simulator.wire()
    for arm in (0, 1):
        assert len(sent.frames(arm)) > 0
        assert not np.diff(sent.frames(arm), axis=0).any(), "the arms moved after Ctrl-C"
        assert_switched_off(sent.said(arm))
    assert episodes(interrupted) == []


def test_the_same_command_goes_on_and_runs_nothing_twice(
    simulator: Simulator, interrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a policy whose very first decision takes seconds: the preflight's, with the arms at rest."""
    out = shutil.copytree(interrupted, tmp_path / "run")
    for moved in (True, False):
        simulator.forget()
        process = start_deploy(simulator, out, policy="tests.doubles.robots:warming", **STEADY)
        said, errors = process.communicate(timeout=4 * PATIENCE_S)
        assert process.returncode == 0, said + errors
        assert bool(len(simulator.wire().arm)) is ("deciding\n" in said) is moved
        found = episodes(out)
        assert [(e.task, e.error, e.steps) for e in found] == [("stack_blocks_two", None, 16)]
    assert len((out / "episodes.jsonl").read_text().splitlines()) == 1
    assert main(["video", str(out), "--episodes", "all"]) == 2
    assert "no states and no frames to make a video of" in capsys.readouterr().err


# -- robot.toml --------------------------------------------------------------------------------------------------------

TASK = '[tasks.wave]\ninstruction = "wave"\n'
NOBODY = '[robot]\nhosts = ["127.0.1.1", "127.0.1.2"]\n'
"""Whatever a test overlooks must not reach the arms that a laboratory has at the default addresses."""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ("robot.toml", "No such file")),
        ("[robot\n", ("robot.toml is not TOML",)),
        ("\x00", ("robot.toml is not TOML",)),
        (f"[robots]\n{TASK}{NOBODY}", ("'robots'", "Did you mean 'robot'?")),
        (NOBODY, ("names no task", "[tasks.")),
        (f"tasks = 3\n{NOBODY}", ("tasks",)),
        (f"[tasks]\nwave = 3\n{NOBODY}", ("wave", "table is needed")),
        (f"[tasks.wave]\n{NOBODY}", ("tasks.wave", "instruction")),
        (f"[tasks.wave]\ninstruction = 3\n{NOBODY}", ("instruction",)),
        (f"{TASK}max_step = 9\n{NOBODY}", ("'max_step'", "Did you mean 'max_steps'?")),
        (f"{TASK}max_steps = 0\n{NOBODY}", ("max_steps",)),
        (f'{TASK}setup = "put {{it}} there"\n{NOBODY}', ("setup", "episode")),
        (f"robot = 5\n{TASK}", ("robot",)),
        (f'[table]\nz = "high"\n{TASK}{NOBODY}', ("table", "z")),
        (f"[table]\nzz = 0.1\n{TASK}{NOBODY}", ("'zz'", "z")),
        (f"table = 1\n{TASK}{NOBODY}", ("table",)),
        (f"cameras = 1\n{TASK}{NOBODY}", ("cameras",)),
        (f"[cameras]\nhead = 1\n{TASK}{NOBODY}", ("head", "table is needed")),
        (f"{NOBODY}hots = ['127.0.1.1', '127.0.1.2']\n{TASK}", ("'hots'", "Did you mean 'hosts'?")),
        (f"[robot]\nhosts = '127.0.1.1'\n{TASK}", ("hosts",)),
        (f"{NOBODY}[robot.limits]\nsped = 1.0\n{TASK}", ("'sped'", "Did you mean 'speed'?")),
        (f"{NOBODY}[robot.limits]\nspeed = 99.0\n{TASK}", ("limit speed = 99.0", "narrow it")),
        (f"{NOBODY}[robot.limits]\nspeed = [1.0, 2.0]\n{TASK}", ("limit speed = [1.0, 2.0]", "numbers are needed")),
    ],
    ids=range(23),
)
def test_an_invalid_robot_toml_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, words: tuple[str, ...]
) -> None:
    path = tmp_path / "robot.toml"
    if text is not None:
        path.write_text(text)
    arguments = ["--policy", "tests.doubles.robots:steady", "--verifier", "first", "--out", str(tmp_path / "run")]
    assert main(["deploy", "--shadow", "--config", str(path), *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("robotest: error: ")
    assert said.count("\n") == 0
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("camera", "words"),
    [
        ("", ("unknown camera in robot.toml 'head'",)),
        (
            "[cameras.hed]\nkind = 'v4l2'\ndevice = '/dev/video99'\nwidth = 640\nheight = 480\nfps = 30\n",
            ("'head'", "Did you mean 'hed'?"),
        ),
        ("[cameras.head]\nkind = 'webcam'\n", ("unknown kind of camera 'webcam'", "v4l2")),
        ("[cameras.head]\nkind = 'replay'\n", ("camera 'head' lacks path",)),
    ],
    ids=range(4),
)
def test_a_missing_camera_is_an_error_before_anything_moves(
    simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], camera: str, words: tuple[str, ...]
) -> None:
    simulator.clear()
    simulator.forget()
    path = tmp_path / "robot.toml"
    path.write_text(f"{robot_table(simulator.place)}{camera}{TASK}")
    arguments = ["--policy", "tests.doubles.robots:steady", "--verifier", "first", "--out", str(tmp_path / "run")]
    assert main(["deploy", "--shadow", "--config", str(path), *arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("robotest: error: ")
    for word in words:
        assert word in said
    assert len(simulator.wire().arm) == 0


def robot_table(place: Place) -> str:
    return f"[robot]\nhosts = {list(place.hosts)}\ntcp_port = {place.tcp_port}\nudp_port = {place.udp_port}\n"


@pytest.mark.parametrize("kind", ["v4l2", "realsense"])
def test_an_unplugged_camera_is_an_error_soon(simulator: Simulator, tmp_path: Path, kind: str) -> None:
    simulator.clear()
    mode = {"kind": kind, "width": 640, "height": 480, "fps": 30}
    device = {"device": "/dev/video99"} if kind == "v4l2" else {"serial": "000000000000"}
    tasks = Rig.read("rm75-dual", written(tmp_path, TASK)).tasks
    rig = Rig("rm75-dual", simulator.place.config, {"head": {**mode, **device}}, tasks)
    with closing(RobotRunner(rig, tmp_path / "run", Unattended())) as runner:
        start = time.monotonic()
        with pytest.raises(CameraError, match=r"head|pip install"):
            runner.spec("wave", EnvOptions(image_size=48, cameras=("head",)))
        assert time.monotonic() - start < 3.0


def written(folder: Path, text: str) -> Path:
    path = folder / "robot.toml"
    path.write_text(text)
    return path


# -- an operator -------------------------------------------------------------------------------------------------------


class Operator:
    """A person at the terminal of a process."""

    def __init__(self, *arguments: str) -> None:
        self._terminal, theirs = os.openpty()
        self.process = subprocess.Popen(  # noqa: S603 - this interpreter
            [sys.executable, "-m", "robotest", "deploy", *arguments],
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""
        self._read = 0

    def expect(self, words: str) -> None:
        """Wait until something is said that was not expected before."""
        end = time.monotonic() + 2 * PATIENCE_S
        while words not in self.seen[self._read :]:
            assert time.monotonic() < end, f"{words!r} is not said: {self.seen[self._read :]}"
            assert self._look(), f"{words!r} is not said: {self.seen[self._read :]}"
        self._read = self.seen.index(words, self._read) + len(words)

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def end(self) -> int:
        while self._look():
            """Until it says no more."""
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)

    def _look(self) -> bool:
        if not select.select([self._terminal], [], [], 0.5)[0]:
            return True
        try:
            self.seen += os.read(self._terminal, 4096).decode(errors="replace")
        except OSError:  # the process is gone
            return False
        return True


@pytest.fixture(scope="module")
def config(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A robot.toml of arms that are there, with a film for a camera."""
    folder = tmp_path_factory.mktemp("config")
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 96, 3), dtype=np.uint8) for _ in range(50)]
    imageio.mimwrite(folder / "film.mp4", 60 * noise, fps=20, macro_block_size=1)
    camera = f"[cameras.head]\nkind = 'replay'\npath = '{folder / 'film.mp4'}'\n"
    task = f"{TASK}setup = 'lay out number {{episode}}'\nmax_steps = 16\n"
    return written(folder, f"{robot_table(simulator.place)}{camera}{task}")


def operator(config: Path, out: Path, *more: str) -> Operator:
    policy = ("--policy", "tests.doubles.robots:steady", "--candidates", "2", "--episodes", "1")
    return Operator("--config", str(config), *policy, "--out", str(out), *more)


def begin(person: Operator) -> None:
    person.expect("the arms will be powered and move home slowly; keep clear. Enter to go on")
    person.type("\n")
    person.expect("wave, episode 0: lay out number 0. Enter when ready")
    person.type("\n")
    person.expect("preflight: 1 cameras live")


def set_off(person: Operator, simulator: Simulator) -> None:
    person.expect("any key stops the arms")
    person.expect("Enter when ready")
    simulator.forget()
    person.type("\n")
    until(lambda: simulator.wire().moves(), "motion")


def test_the_operator_labels_repeats_and_stops(simulator: Simulator, config: Path, tmp_path: Path) -> None:
    simulator.clear()
    person = operator(config, tmp_path / "run", "--verifiers", "first,random")
    try:
        begin(person)
        for answer in ("what", "r", "y"):
            if answer != "r":
                person.expect("any key stops the arms")
                person.expect("Enter when ready")
                person.type("\n")
            person.expect("the episode is over. Did it succeed? [y = yes, n = no, r = redo]")
            person.type(f"{answer}\n")
        set_off(person, simulator)
        person.type("x")
        person.expect("the operator pressed a key. Did it succeed?")
        until(lambda: not np.diff(simulator.wire().frames(0)[-5:], axis=0).any(), "arms at rest")
        for arm in (0, 1):
            assert_braked(simulator.wire().frames(arm))
            assert simulator.wire().said(arm) == []
        person.type("n\n")
        person.expect("stopped: the operator pressed a key. When that is mended, Enter resets it")
        person.type("\n")
        assert person.end() == 0, person.seen
    finally:
        person.close()
    found = episodes(tmp_path / "run")
    assert sorted((e.outcome, e.error is None, e.steps == 16) for e in found) == [
        ("failure", True, False),
        ("success", True, True),
    ]
    assert {f"[{e.condition}]" in person.seen for e in found} == {True}


def test_a_blind_operator_does_not_see_the_condition_and_may_leave(
    simulator: Simulator, config: Path, tmp_path: Path
) -> None:
    simulator.clear()
    person = operator(config, tmp_path / "run", "--verifiers", "first,random", "--blind")
    try:
        begin(person)
        set_off(person, simulator)
        person.type("\x03")
        assert person.end() == 130, person.seen
    finally:
        person.close()
    assert "first" not in person.seen
    assert "random" not in person.seen
    assert "Traceback" not in person.seen
    assert "the same command goes on" in " ".join(person.seen.split())
    assert episodes(tmp_path / "run") == []
    for arm in (0, 1):
        assert_switched_off(simulator.wire().said(arm))


def test_a_shadow_sends_nothing_and_logs_its_chunks(
    simulator: Simulator, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulator.clear()
    simulator.forget()
    arguments = [
        "--policy",
        "tests.doubles.robots:steady",
        "--verifier",
        "first",
        "--candidates",
        "2",
        "--episodes",
        "1",
    ]
    assert main(["deploy", "--shadow", "--config", str(config), *arguments, "--out", str(tmp_path / "run")]) == 0
    sent = simulator.wire()
    assert len(sent.arm) == 0
    assert {command["command"] for _, command in sent.commands} <= {"set_realtime_push"}
    lines = [json.loads(line) for line in (tmp_path / "run" / "shadow.jsonl").read_text().splitlines()]
    chunks = [line for line in lines if "steps" in line]
    steps = [line for line in lines if "difference_rad" in line]
    assert sum(line["steps"] for line in chunks) == len(steps) == 16
    assert not any("rejected" in line for line in chunks)
    assert all(max(line["difference_rad"]) > 0.04 for line in steps), "the arms followed, or nothing was asked of them"
    counts = json.loads(capsys.readouterr().out)
    assert (counts["chunks"], counts["rejected"]) == (len(chunks), 0)


def test_the_operator_is_warned_of_an_arm_that_keeps_its_power(
    simulator: Simulator, config: Path, tmp_path: Path
) -> None:
    simulator.clear()
    person = operator(config, tmp_path / "run", "--verifier", "first")
    try:
        begin(person)
        set_off(person, simulator)
        simulator.fault("udp_stop", arm=0)
        person.expect("KEEP AWAY: the left arm was not seen to lose its power. When that is mended, Enter resets it")
    finally:
        person.close()
        simulator.clear()


def test_without_a_terminal_nobody_could_stop_the_arms(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", "--config", str(config), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == (
        "robotest: error: a robot needs an operator: standard input is not a terminal. Try --simulate or --shadow\n"
    )


def test_without_a_config_the_error_names_the_option(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["deploy", "--out", str(tmp_path / "run")]) == 2
    assert "no --config given; a robot needs its robot.toml, or try --simulate" in capsys.readouterr().err
